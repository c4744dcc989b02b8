
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_SLICE  65536


static ngx_int_t ngx_http_idempotency_digest_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_feed_parts(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_request_body_filter(
    ngx_http_request_t *r, ngx_chain_t *in);
static void ngx_http_idempotency_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_fingerprint(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_feed_chain(ngx_http_idempotency_ctx_t *ctx,
    ngx_chain_t *in);
static ngx_int_t ngx_http_idempotency_feed_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_feed_file(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_buf_t *b);


static ngx_http_request_body_filter_pt   ngx_http_next_request_body_filter;


/*
 * The body is hashed as it arrives, so that a temporary file need not be read
 * again.  Only if another module has read the body before us it is taken from
 * where that module left it.
 */

ngx_int_t
ngx_http_idempotency_read_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (ngx_http_idempotency_digest_init(r, ctx) != NGX_OK
        || ngx_http_idempotency_feed_parts(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ctx->fed = (r->request_body == NULL);

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_READING);

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_idempotency_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    /* gives back the reference that the reading has taken */

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


/* One context is kept for the next request: most bodies come in one piece. */

static ngx_int_t
ngx_http_idempotency_digest_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    EVP_MD_CTX                        *md;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    md = imcf->spare;
    imcf->spare = NULL;

    if (md == NULL) {
        md = EVP_MD_CTX_new();
        if (md == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_idem_digest_start(&ctx->digest, md, imcf->sha256);

    return NGX_OK;
}


void
ngx_http_idempotency_digest_free(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_main_conf_t  *imcf;

    if (ctx->digest.md == NULL) {
        return;
    }

    imcf = ngx_http_get_module_main_conf(ctx->request,
                                         ngx_http_idempotency_module);

    if (imcf->spare == NULL) {
        imcf->spare = ctx->digest.md;

    } else {
        EVP_MD_CTX_free(ctx->digest.md);
    }

    ctx->digest.md = NULL;
}


/*
 * Without a scope of the operator's, the credentials belong to "the same
 * request": another principal with the same key is told so, and never gets
 * what was answered to the first one.
 */

static ngx_int_t
ngx_http_idempotency_feed_parts(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_str_t                  value;
    ngx_uint_t                 i, n;
    ngx_table_elt_t           *authorization;
    ngx_http_complex_value_t  *cv;

    n = ctx->ilcf->fingerprint->parts->nelts;
    cv = ctx->ilcf->fingerprint->parts->elts;

    ngx_idem_digest_list(&ctx->digest,
                         (uint32_t) (n + !ctx->ilcf->scope_set));

    for (i = 0; i < n; i++) {

        if (ngx_http_complex_value(r, &cv[i], &value) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_idem_digest_part(&ctx->digest, ngx_http_idempotency_span(&value));
    }

    if (!ctx->ilcf->scope_set) {

        authorization = r->headers_in.authorization;
        ngx_str_null(&value);

        if (authorization) {
            value = authorization->value;
        }

        ngx_idem_digest_part(&ctx->digest, ngx_http_idempotency_span(&value));
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_request_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_idempotency_module);

    if (ctx && ctx->state == NGX_HTTP_IDEMPOTENCY_READING && r == r->main) {
        ngx_http_idempotency_feed_chain(ctx, in);
    }

    return ngx_http_next_request_body_filter(r, in);
}


static void
ngx_http_idempotency_feed_chain(ngx_http_idempotency_ctx_t *ctx,
    ngx_chain_t *in)
{
    ngx_buf_t        *b;
    ngx_idem_span_t   piece;

    if (!ctx->ilcf->fingerprint->body) {
        return;
    }

    for ( /* void */ ; in; in = in->next) {

        b = in->buf;

        if (!ngx_buf_in_memory(b)) {
            continue;
        }

        piece.data = b->pos;
        piece.len = b->last - b->pos;

        ngx_idem_digest_body(&ctx->digest, piece);
    }
}


/* The body is there: back into the phases, where the claim is made. */

static void
ngx_http_idempotency_body_handler(ngx_http_request_t *r)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_idempotency_module);

    if (ngx_http_idempotency_fingerprint(r, ctx) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_READY);

    /* an upstream after an error_page or a retry reads it once more */

    r->preserve_body = 1;

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}


static ngx_int_t
ngx_http_idempotency_fingerprint(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (ctx->ilcf->fingerprint->body) {

        if (!ctx->fed && ngx_http_idempotency_feed_body(r, ctx) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_idem_digest_body_end(&ctx->digest);
    }

    rc = ngx_idem_digest_final(&ctx->digest, ctx->op.fingerprint);

    ngx_http_idempotency_digest_free(ctx);

    return rc == 0 ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_idempotency_feed_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_chain_t  *cl;

    if (r->request_body == NULL) {
        return NGX_OK;
    }

    for (cl = r->request_body->bufs; cl; cl = cl->next) {

        if (cl->buf->in_file
            && ngx_http_idempotency_feed_file(r, ctx, cl->buf) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_http_idempotency_feed_chain(ctx, r->request_body->bufs);

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_feed_file(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_buf_t *b)
{
    off_t             offset;
    size_t            size;
    u_char           *slice;
    ssize_t           n;
    ngx_idem_span_t   piece;

    slice = ngx_palloc(r->pool, NGX_HTTP_IDEMPOTENCY_SLICE);
    if (slice == NULL) {
        return NGX_ERROR;
    }

    for (offset = b->file_pos; offset < b->file_last; offset += n) {

        size = (size_t) ngx_min(b->file_last - offset,
                                NGX_HTTP_IDEMPOTENCY_SLICE);

        n = ngx_read_file(b->file, slice, size, offset);

        if (n <= 0) {
            return NGX_ERROR;
        }

        piece.data = slice;
        piece.len = (size_t) n;

        ngx_idem_digest_body(&ctx->digest, piece);
    }

    return NGX_OK;
}


void
ngx_http_idempotency_request_body_filter_init(void)
{
    ngx_http_next_request_body_filter = ngx_http_top_request_body_filter;
    ngx_http_top_request_body_filter = ngx_http_idempotency_request_body_filter;
}
