
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_record.h"


#define NGX_IDEM_RECORD_VARINT_LEN  5
#define NGX_IDEM_RECORD_STATUS_MAX  999


static int ngx_idem_record_named(ngx_idem_field_e kind);
static size_t ngx_idem_record_varint_size(size_t n);
static uint8_t *ngx_idem_record_put_varint(uint8_t *p, size_t n);
static uint8_t *ngx_idem_record_put_bytes(uint8_t *p, ngx_idem_span_t bytes);
static int ngx_idem_record_get_kind(ngx_idem_span_t *in,
    ngx_idem_field_e *kind);
static int ngx_idem_record_get_varint(ngx_idem_span_t *in, uint32_t *n);
static int ngx_idem_record_get_bytes(ngx_idem_span_t *in, size_t len,
    ngx_idem_span_t *out);


size_t
ngx_idem_record_field_size(const ngx_idem_field_t *f)
{
    return 1 + ngx_idem_record_varint_size(f->name.len)
           + ngx_idem_record_varint_size(f->value.len)
           + f->name.len + f->value.len;
}


size_t
ngx_idem_record_start_size(unsigned status, size_t fields)
{
    return 1 + ngx_idem_record_varint_size(status)
           + ngx_idem_record_varint_size(fields);
}


uint8_t *
ngx_idem_record_start(uint8_t *p, unsigned status, size_t fields)
{
    *p++ = NGX_IDEM_RECORD_VERSION;

    p = ngx_idem_record_put_varint(p, status);

    return ngx_idem_record_put_varint(p, fields);
}


uint8_t *
ngx_idem_record_field(uint8_t *p, const ngx_idem_field_t *f)
{
    *p++ = (uint8_t) f->kind;

    p = ngx_idem_record_put_varint(p, f->name.len);
    p = ngx_idem_record_put_varint(p, f->value.len);
    p = ngx_idem_record_put_bytes(p, f->name);

    return ngx_idem_record_put_bytes(p, f->value);
}


ngx_idem_record_answer_e
ngx_idem_record_open(ngx_idem_record_t *rec, ngx_idem_span_t bytes)
{
    uint32_t         status, len;
    ngx_idem_span_t  version;

    if (!ngx_idem_record_get_bytes(&bytes, 1, &version)
        || version.data[0] != NGX_IDEM_RECORD_VERSION
        || !ngx_idem_record_get_varint(&bytes, &status)
        || status == 0
        || status > NGX_IDEM_RECORD_STATUS_MAX
        || !ngx_idem_record_get_varint(&bytes, &len)
        || !ngx_idem_record_get_bytes(&bytes, len, &rec->fields))
    {
        return NGX_IDEM_RECORD_CORRUPT;
    }

    rec->status = status;
    rec->body = bytes;

    return NGX_IDEM_RECORD_OK;
}


ngx_idem_record_answer_e
ngx_idem_record_next(ngx_idem_record_t *rec, ngx_idem_field_t *f)
{
    uint32_t         name, value;
    ngx_idem_span_t  in;

    in = rec->fields;

    if (in.len == 0) {
        return NGX_IDEM_RECORD_END;
    }

    if (!ngx_idem_record_get_kind(&in, &f->kind)
        || !ngx_idem_record_get_varint(&in, &name)
        || !ngx_idem_record_get_varint(&in, &value)
        || (name != 0) != ngx_idem_record_named(f->kind)
        || !ngx_idem_record_get_bytes(&in, name, &f->name)
        || !ngx_idem_record_get_bytes(&in, value, &f->value))
    {
        return NGX_IDEM_RECORD_CORRUPT;
    }

    rec->fields = in;

    return NGX_IDEM_RECORD_OK;
}


static int
ngx_idem_record_named(ngx_idem_field_e kind)
{
    return kind == NGX_IDEM_FIELD_HEADER || kind == NGX_IDEM_FIELD_TRAILER;
}


static size_t
ngx_idem_record_varint_size(size_t n)
{
    size_t  size;

    for (size = 1; n > 0x7f; size++) {
        n >>= 7;
    }

    return size;
}


static uint8_t *
ngx_idem_record_put_varint(uint8_t *p, size_t n)
{
    while (n > 0x7f) {
        *p++ = (uint8_t) ((n & 0x7f) | 0x80);
        n >>= 7;
    }

    *p++ = (uint8_t) n;

    return p;
}


static uint8_t *
ngx_idem_record_put_bytes(uint8_t *p, ngx_idem_span_t bytes)
{
    if (bytes.len == 0) {
        return p;
    }

    memcpy(p, bytes.data, bytes.len);

    return p + bytes.len;
}


/* The functions below take from the front of in, or return 0. */

static int
ngx_idem_record_get_kind(ngx_idem_span_t *in, ngx_idem_field_e *kind)
{
    ngx_idem_span_t  byte;

    if (!ngx_idem_record_get_bytes(in, 1, &byte)
        || byte.data[0] < NGX_IDEM_FIELD_HEADER
        || byte.data[0] > NGX_IDEM_FIELD_MODIFIED)
    {
        return 0;
    }

    *kind = (ngx_idem_field_e) byte.data[0];

    return 1;
}


static int
ngx_idem_record_get_varint(ngx_idem_span_t *in, uint32_t *n)
{
    size_t           i;
    uint64_t         sum;
    ngx_idem_span_t  byte;

    sum = 0;

    for (i = 0; i < NGX_IDEM_RECORD_VARINT_LEN; i++) {

        if (!ngx_idem_record_get_bytes(in, 1, &byte)) {
            return 0;
        }

        sum |= (uint64_t) (byte.data[0] & 0x7f) << (7 * i);

        if (byte.data[0] & 0x80) {
            continue;
        }

        /* a last byte of zero adds nothing: a shorter spelling exists */

        if ((byte.data[0] == 0 && i != 0) || sum > UINT32_MAX) {
            return 0;
        }

        *n = (uint32_t) sum;

        return 1;
    }

    return 0;
}


static int
ngx_idem_record_get_bytes(ngx_idem_span_t *in, size_t len,
    ngx_idem_span_t *out)
{
    if (len > in->len) {
        return 0;
    }

    out->data = in->data;
    out->len = len;

    in->data += len;
    in->len -= len;

    return 1;
}
