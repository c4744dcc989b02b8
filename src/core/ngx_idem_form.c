
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_form.h"
#include "core/ngx_idem_multipart.h"


/*
 * The items of a multipart form, put together again in out.
 *
 *   header  of the part whose content is on its way
 *   start   of the item, in out
 *   count   of items that have ended
 */

typedef struct {
    uint8_t           *out;
    size_t             start;
    size_t             used;
    size_t             count;
    ngx_idem_form_pt   handler;
    void              *data;
    uint8_t           *header;
    size_t             header_len;
    int                broken;
} ngx_idem_form_parts_t;


static uint8_t *ngx_idem_form_decode(const uint8_t *p, const uint8_t *last,
    uint8_t *to);
static int ngx_idem_form_hex(uint8_t c);
static void ngx_idem_form_bytes(void *data, ngx_idem_span_t piece);
static void ngx_idem_form_item(void *data);
static int ngx_idem_form_header(uint8_t *p, size_t len,
    ngx_idem_form_field_t *field);
static int ngx_idem_form_line(uint8_t *p, size_t len,
    ngx_idem_form_field_t *field);
static int ngx_idem_form_disposition(ngx_idem_span_t value, uint8_t *out,
    ngx_idem_form_field_t *field);
static size_t ngx_idem_form_unescape(uint8_t *name, size_t len);


int
ngx_idem_form_urlencoded(ngx_idem_span_t body, uint8_t *out,
    ngx_idem_form_pt handler, void *data)
{
    uint8_t                *to;
    const uint8_t          *p, *end, *last, *equals;
    ngx_idem_form_field_t   field;

    last = body.data + body.len;
    field.plain = 1;

    for (p = body.data; p < last; p = end + 1) {

        end = memchr(p, '&', (size_t) (last - p));

        if (end == NULL) {
            end = last;
        }

        if (p == end) {
            continue;
        }

        equals = memchr(p, '=', (size_t) (end - p));

        if (equals == NULL) {
            equals = end;
        }

        field.name.data = out;
        to = ngx_idem_form_decode(p, equals, out);

        if (to == NULL) {
            return 0;
        }

        field.name.len = (size_t) (to - out);
        field.value.data = to;
        out = to;

        if (equals < end) {
            to = ngx_idem_form_decode(equals + 1, end, out);

            if (to == NULL) {
                return 0;
            }
        }

        field.value.len = (size_t) (to - out);
        out = to;

        handler(data, &field);
    }

    return 1;
}


/* Returns the byte behind the last one that was written, or NULL. */

static uint8_t *
ngx_idem_form_decode(const uint8_t *p, const uint8_t *last, uint8_t *to)
{
    int  high, low;

    for ( /* void */ ; p < last; p++) {

        if (*p == '+') {
            *to++ = ' ';
            continue;
        }

        if (*p != '%') {
            if (*p == '\0') {
                return NULL;
            }

            *to++ = *p;
            continue;
        }

        if (last - p < 3) {
            return NULL;
        }

        high = ngx_idem_form_hex(p[1]);
        low = ngx_idem_form_hex(p[2]);

        if (high < 0 || low < 0 || high + low == 0) {
            return NULL;
        }

        *to++ = (uint8_t) (16 * high + low);
        p += 2;
    }

    return to;
}


/* -1: no hex digit. */

static int
ngx_idem_form_hex(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c |= 0x20;

    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}


int
ngx_idem_form_multipart(ngx_idem_span_t body,
    const ngx_idem_boundary_t *boundary, uint8_t *out,
    ngx_idem_form_pt handler, void *data)
{
    ngx_idem_multipart_t       mp;
    ngx_idem_form_parts_t      parts;
    ngx_idem_multipart_sink_t  sink;

    memset(&parts, 0, sizeof(ngx_idem_form_parts_t));

    parts.out = out;
    parts.handler = handler;
    parts.data = data;

    sink.bytes = ngx_idem_form_bytes;
    sink.end = ngx_idem_form_item;
    sink.data = &parts;

    ngx_idem_multipart_start(&mp, boundary, &sink);
    ngx_idem_multipart_feed(&mp, body);

    return ngx_idem_multipart_end(&mp) && !parts.broken;
}


static void
ngx_idem_form_bytes(void *data, ngx_idem_span_t piece)
{
    ngx_idem_form_parts_t *parts = data;

    memcpy(parts->out + parts->used, piece.data, piece.len);
    parts->used += piece.len;
}


/* The first item is the preamble; then headers and contents take turns. */

static void
ngx_idem_form_item(void *data)
{
    ngx_idem_form_parts_t *parts = data;

    uint8_t                *item;
    size_t                  len;
    ngx_idem_form_field_t   field;

    item = parts->out + parts->start;
    len = parts->used - parts->start;

    parts->start = parts->used;

    if (parts->count++ % 2) {
        parts->header = item;
        parts->header_len = len;
        return;
    }

    if (parts->count == 1 || parts->broken) {
        return;
    }

    memset(&field, 0, sizeof(ngx_idem_form_field_t));

    field.value.data = item;
    field.value.len = len;
    field.plain = (memchr(item, '\0', len) == NULL);

    if (!ngx_idem_form_header(parts->header, parts->header_len, &field)
        || field.name.data == NULL)
    {
        parts->broken = 1;
        return;
    }

    parts->handler(parts->data, &field);
}


static int
ngx_idem_form_header(uint8_t *p, size_t len, ngx_idem_form_field_t *field)
{
    uint8_t  *end, *last;

    for (last = p + len; p < last; p = end + 2) {

        end = memchr(p, '\r', (size_t) (last - p));

        if (end == NULL) {
            return ngx_idem_form_line(p, (size_t) (last - p), field);
        }

        if (end + 1 == last || end[1] != '\n'
            || !ngx_idem_form_line(p, (size_t) (end - p), field))
        {
            return 0;
        }
    }

    return 1;
}


/* A name that begins with a blank would go on with the line before. */

static int
ngx_idem_form_line(uint8_t *p, size_t len, ngx_idem_form_field_t *field)
{
    uint8_t          *colon;
    ngx_idem_span_t   name, value, rest;

    colon = memchr(p, ':', len);

    if (colon == NULL || colon == p || *p == ' ' || *p == '\t'
        || memchr(p, '\n', len) != NULL || memchr(p, '\0', len) != NULL)
    {
        return 0;
    }

    name.data = p;
    name.len = (size_t) (colon - p);

    value.data = colon + 1;
    value.len = len - name.len - 1;

    while (value.len && (*value.data == ' ' || *value.data == '\t')) {
        value.data++;
        value.len--;
    }

    if (ngx_idem_media_same(name, "content-disposition")) {
        return field->name.data == NULL
               && ngx_idem_form_disposition(value, p, field);
    }

    if (ngx_idem_media_same(name, "content-transfer-encoding")) {

        value = ngx_idem_media_word(value, &rest);

        if (!ngx_idem_media_same(value, "7bit")
            && !ngx_idem_media_same(value, "8bit")
            && !ngx_idem_media_same(value, "binary"))
        {
            field->plain = 0;
        }
    }

    return 1;
}


/* out is in front of the value: what is written was read before. */

static int
ngx_idem_form_disposition(ngx_idem_span_t value, uint8_t *out,
    ngx_idem_form_field_t *field)
{
    ngx_idem_span_t          word, rest;
    ngx_idem_param_t         pm, name;
    ngx_idem_param_answer_e  answer;

    word = ngx_idem_media_word(value, &rest);

    if (!ngx_idem_media_same(word, "form-data")) {
        return 0;
    }

    name.name.data = NULL;

    for ( ;; ) {
        answer = ngx_idem_media_param(&rest, &pm);

        if (answer == NGX_IDEM_PARAM_BROKEN) {
            return 0;
        }

        if (answer == NGX_IDEM_PARAM_NONE) {
            break;
        }

        if (ngx_idem_media_same(pm.name, "name")) {

            if (name.name.data != NULL) {
                return 0;
            }

            name = pm;
        }

        if (ngx_idem_media_same(pm.name, "filename")
            || ngx_idem_media_same(pm.name, "filename*"))
        {
            field->plain = 0;
        }
    }

    if (name.name.data == NULL) {
        return 0;
    }

    field->name.data = out;
    field->name.len = ngx_idem_form_unescape(out,
                                            ngx_idem_media_value(&name, out));

    return 1;
}


static size_t
ngx_idem_form_unescape(uint8_t *name, size_t len)
{
    int              high, low;
    size_t           i, n;
    ngx_idem_span_t  digits;

    n = 0;

    for (i = 0; i < len; i++) {

        if (name[i] == '%' && len - i >= 3) {

            digits.data = name + i + 1;
            digits.len = 2;

            if (ngx_idem_media_same(digits, "22")
                || ngx_idem_media_same(digits, "0d")
                || ngx_idem_media_same(digits, "0a"))
            {
                high = ngx_idem_form_hex(name[i + 1]);
                low = ngx_idem_form_hex(name[i + 2]);

                name[n++] = (uint8_t) (16 * high + low);
                i += 2;
                continue;
            }
        }

        name[n++] = name[i];
    }

    return n;
}
