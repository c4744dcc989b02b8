
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_identity.h"


static void ngx_idem_digest_bytes(ngx_idem_digest_t *dg, const void *data,
    size_t len);
static void ngx_idem_digest_number(ngx_idem_digest_t *dg, uint64_t n,
    size_t width);


/* libcrypto looks an algorithm up anew unless type is a fetched one. */

void
ngx_idem_digest_start(ngx_idem_digest_t *dg, EVP_MD_CTX *md,
    const EVP_MD *type)
{
    dg->md = md;
    dg->body = 0;
    dg->failed = EVP_DigestInit_ex(md, type, NULL) != 1;
}


void
ngx_idem_digest_list(ngx_idem_digest_t *dg, uint32_t n)
{
    ngx_idem_digest_number(dg, n, 4);
}


void
ngx_idem_digest_part(ngx_idem_digest_t *dg, ngx_idem_span_t part)
{
    ngx_idem_digest_number(dg, part.len, 8);
    ngx_idem_digest_bytes(dg, part.data, part.len);
}


void
ngx_idem_digest_body(ngx_idem_digest_t *dg, ngx_idem_span_t piece)
{
    dg->body += piece.len;
    ngx_idem_digest_bytes(dg, piece.data, piece.len);
}


void
ngx_idem_digest_body_end(ngx_idem_digest_t *dg)
{
    ngx_idem_digest_number(dg, dg->body, 8);
}


int
ngx_idem_digest_final(ngx_idem_digest_t *dg, uint8_t *out)
{
    if (dg->failed || EVP_DigestFinal_ex(dg->md, out, NULL) != 1) {
        return -1;
    }

    return 0;
}


static void
ngx_idem_digest_bytes(ngx_idem_digest_t *dg, const void *data, size_t len)
{
    if (dg->failed || len == 0) {
        return;
    }

    dg->failed = EVP_DigestUpdate(dg->md, data, len) != 1;
}


/* The low width bytes of n, big endian. */

static void
ngx_idem_digest_number(ngx_idem_digest_t *dg, uint64_t n, size_t width)
{
    size_t   i;
    uint8_t  buf[8];

    for (i = width; i > 0; i--) {
        buf[i - 1] = (uint8_t) (n & 0xff);
        n >>= 8;
    }

    ngx_idem_digest_bytes(dg, buf, width);
}
