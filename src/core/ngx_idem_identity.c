
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include <openssl/err.h>

#include "core/ngx_idem_identity.h"


/* what 64 bits take, 7 bits a byte */

#define NGX_IDEM_DIGEST_VARINT_LEN  10


static void ngx_idem_digest_varint(ngx_idem_digest_t *dg, uint64_t n);
static void ngx_idem_digest_fixed(ngx_idem_digest_t *dg, uint64_t n);
static void ngx_idem_digest_bytes(ngx_idem_digest_t *dg, ngx_idem_span_t span);
static void ngx_idem_digest_flush(ngx_idem_digest_t *dg);
static void ngx_idem_digest_update(ngx_idem_digest_t *dg, const uint8_t *data,
    size_t len);


/* libcrypto looks an algorithm up anew unless type is a fetched one. */

void
ngx_idem_digest_start(ngx_idem_digest_t *dg, EVP_MD_CTX *md,
    const EVP_MD *type)
{
    dg->md = md;
    dg->body = 0;
    dg->items = 0;
    dg->used = 0;
    dg->failed = EVP_DigestInit_ex(md, type, NULL) != 1;
}


void
ngx_idem_digest_list(ngx_idem_digest_t *dg, uint32_t n)
{
    ngx_idem_digest_varint(dg, n);
}


void
ngx_idem_digest_part(ngx_idem_digest_t *dg, ngx_idem_span_t part)
{
    ngx_idem_digest_varint(dg, part.len);
    ngx_idem_digest_bytes(dg, part);
}


void
ngx_idem_digest_body(ngx_idem_digest_t *dg, ngx_idem_span_t piece)
{
    dg->body += piece.len;
    ngx_idem_digest_bytes(dg, piece);
}


void
ngx_idem_digest_body_end(ngx_idem_digest_t *dg)
{
    ngx_idem_digest_varint(dg, dg->body);
}


void
ngx_idem_digest_item_end(ngx_idem_digest_t *dg)
{
    ngx_idem_digest_fixed(dg, dg->body);
    dg->body = 0;
    dg->items++;
}


void
ngx_idem_digest_items_end(ngx_idem_digest_t *dg)
{
    ngx_idem_digest_fixed(dg, dg->items);
}


int
ngx_idem_digest_final(ngx_idem_digest_t *dg, uint8_t *out)
{
    ngx_idem_digest_flush(dg);

    if (dg->failed || EVP_DigestFinal_ex(dg->md, out, NULL) != 1) {

        /* whoever uses libcrypto next would take them for its own */

        ERR_clear_error();
        return -1;
    }

    return 0;
}


static void
ngx_idem_digest_varint(ngx_idem_digest_t *dg, uint64_t n)
{
    if (sizeof(dg->buf) - dg->used < NGX_IDEM_DIGEST_VARINT_LEN) {
        ngx_idem_digest_flush(dg);
    }

    for ( /* void */ ; n > 0x7f; n >>= 7) {
        dg->buf[dg->used++] = (uint8_t) (0x80 | (n & 0x7f));
    }

    dg->buf[dg->used++] = (uint8_t) n;
}


static void
ngx_idem_digest_fixed(ngx_idem_digest_t *dg, uint64_t n)
{
    int              shift;
    uint8_t          bytes[8], *p;
    ngx_idem_span_t  span;

    p = bytes;

    for (shift = 56; shift >= 0; shift -= 8) {
        *p++ = (uint8_t) (n >> shift);
    }

    span.data = bytes;
    span.len = sizeof(bytes);

    ngx_idem_digest_bytes(dg, span);
}


/* What is longer than the buffer is not copied into it. */

static void
ngx_idem_digest_bytes(ngx_idem_digest_t *dg, ngx_idem_span_t span)
{
    if (span.len == 0) {
        return;
    }

    if (span.len > sizeof(dg->buf) - dg->used) {
        ngx_idem_digest_flush(dg);
    }

    if (span.len > sizeof(dg->buf)) {
        ngx_idem_digest_update(dg, span.data, span.len);
        return;
    }

    memcpy(dg->buf + dg->used, span.data, span.len);
    dg->used += span.len;
}


static void
ngx_idem_digest_flush(ngx_idem_digest_t *dg)
{
    ngx_idem_digest_update(dg, dg->buf, dg->used);
    dg->used = 0;
}


static void
ngx_idem_digest_update(ngx_idem_digest_t *dg, const uint8_t *data, size_t len)
{
    if (dg->failed) {
        return;
    }

    dg->failed = EVP_DigestUpdate(dg->md, data, len) != 1;
}
