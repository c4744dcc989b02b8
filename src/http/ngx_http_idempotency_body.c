
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_SLICE  65536


static ngx_int_t ngx_http_idempotency_digest_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_multipart_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_feed_parts(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_part(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_complex_value_t *cv,
    ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_request_body_filter(
    ngx_http_request_t *r, ngx_chain_t *in);
static void ngx_http_idempotency_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_fingerprint(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_body_end(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_feed_chain(ngx_http_idempotency_ctx_t *ctx,
    ngx_chain_t *in);
static void ngx_http_idempotency_feed(ngx_http_idempotency_ctx_t *ctx,
    u_char *data, size_t len);
static void ngx_http_idempotency_item_bytes(void *data, ngx_idem_span_t piece);
static void ngx_http_idempotency_item_end(void *data);
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

    ctx->fed = (r->request_body == NULL && !ctx->body_first);

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


ngx_int_t
ngx_http_idempotency_fingerprint_start(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ngx_http_idempotency_digest_init(r, ctx) != NGX_OK
        || ngx_http_idempotency_multipart_init(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_feed_parts(r, ctx);
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
 * A client may make a new boundary for each try: it is left out of the type,
 * and the body is hashed by its parts.
 */

static ngx_int_t
ngx_http_idempotency_multipart_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    u_char                            *p;
    ngx_table_elt_t                   *type;
    ngx_idem_boundary_t                boundary;
    ngx_idem_multipart_sink_t          sink;
    ngx_http_idempotency_multipart_t  *mp;

    type = r->headers_in.content_type;
    ctx->multipart = NULL;

    if (!ctx->ilcf->fingerprint->body
        || type == NULL
        || !ngx_idem_media_boundary(ngx_http_idempotency_span(&type->value),
                                    &boundary))
    {
        return NGX_OK;
    }

    mp = ngx_palloc(r->pool, sizeof(ngx_http_idempotency_multipart_t));
    p = ngx_pnalloc(r->pool, boundary.before.len + boundary.behind.len);

    if (mp == NULL || p == NULL) {
        return NGX_ERROR;
    }

    mp->type.data = p;
    mp->type.len = boundary.before.len + boundary.behind.len;

    p = ngx_cpymem(p, boundary.before.data, boundary.before.len);
    ngx_memcpy(p, boundary.behind.data, boundary.behind.len);

    sink.bytes = ngx_http_idempotency_item_bytes;
    sink.end = ngx_http_idempotency_item_end;
    sink.data = &ctx->digest;

    ngx_idem_multipart_start(&mp->parser, &boundary, &sink);

    ctx->multipart = mp;

    return NGX_OK;
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
                         (uint32_t) (n + !ctx->ilcf->scope_set
                                     + (ctx->multipart != NULL)));

    for (i = 0; i < n; i++) {

        if (ngx_http_idempotency_part(r, ctx, &cv[i], &value) != NGX_OK) {
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

    if (ctx->multipart) {
        ngx_str_set(&value, "multipart");
        ngx_idem_digest_part(&ctx->digest, ngx_http_idempotency_span(&value));
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_part(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_complex_value_t *cv,
    ngx_str_t *value)
{
    ngx_uint_t  i;

    static ngx_str_t  types[] = {
        ngx_string("$content_type"),
        ngx_string("${content_type}"),
        ngx_string("$http_content_type"),
        ngx_string("${http_content_type}"),
        ngx_null_string
    };

    for (i = 0; ctx->multipart && types[i].len; i++) {

        if (cv->value.len == types[i].len
            && ngx_strncmp(cv->value.data, types[i].data, types[i].len) == 0)
        {
            *value = ctx->multipart->type;
            return NGX_OK;
        }
    }

    return ngx_http_complex_value(r, cv, value);
}


static ngx_int_t
ngx_http_idempotency_request_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_idempotency_module);

    if (ctx && ctx->fed && ctx->state == NGX_HTTP_IDEMPOTENCY_READING
        && r == r->main)
    {
        ngx_http_idempotency_feed_chain(ctx, in);
    }

    return ngx_http_next_request_body_filter(r, in);
}


static void
ngx_http_idempotency_feed_chain(ngx_http_idempotency_ctx_t *ctx,
    ngx_chain_t *in)
{
    ngx_buf_t  *b;

    if (!ctx->ilcf->fingerprint->body) {
        return;
    }

    for ( /* void */ ; in; in = in->next) {

        b = in->buf;

        if (ngx_buf_in_memory(b)) {
            ngx_http_idempotency_feed(ctx, b->pos, b->last - b->pos);
        }
    }
}


static void
ngx_http_idempotency_feed(ngx_http_idempotency_ctx_t *ctx, u_char *data,
    size_t len)
{
    ngx_idem_span_t  piece;

    piece.data = data;
    piece.len = len;

    if (ctx->multipart) {
        ngx_idem_multipart_feed(&ctx->multipart->parser, piece);
        return;
    }

    ngx_idem_digest_body(&ctx->digest, piece);
}


static void
ngx_http_idempotency_item_bytes(void *data, ngx_idem_span_t piece)
{
    ngx_idem_digest_body(data, piece);
}


static void
ngx_http_idempotency_item_end(void *data)
{
    ngx_idem_digest_item_end(data);
}


/* The body is there: back into the phases, where the claim is made. */

static void
ngx_http_idempotency_body_handler(ngx_http_request_t *r)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_idempotency_module);

    if (ctx->body_first) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_SEEN);

    } else {

        if (ngx_http_idempotency_fingerprint(r, ctx) != NGX_OK) {
            ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
            return;
        }

        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_READY);

        /* an upstream after an error_page or a retry reads it once more */

        r->preserve_body = 1;
    }

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

        if ((!ctx->fed && ngx_http_idempotency_feed_body(r, ctx) != NGX_OK)
            || ngx_http_idempotency_body_end(r, ctx) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    rc = ngx_idem_digest_final(&ctx->digest, ctx->op.fingerprint);

    ngx_http_idempotency_digest_free(ctx);

    return rc == 0 ? NGX_OK : NGX_ERROR;
}


/* What is not the multipart that it says to be is hashed byte by byte. */

static ngx_int_t
ngx_http_idempotency_body_end(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    EVP_MD_CTX                        *md;
    ngx_http_idempotency_main_conf_t  *imcf;

    if (ctx->multipart) {

        if (ngx_idem_multipart_end(&ctx->multipart->parser)) {
            ngx_idem_digest_items_end(&ctx->digest);
            return NGX_OK;
        }

        imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);
        md = ctx->digest.md;

        ngx_idem_digest_start(&ctx->digest, md, imcf->sha256);
        ctx->multipart = NULL;

        if (ngx_http_idempotency_feed_parts(r, ctx) != NGX_OK
            || ngx_http_idempotency_feed_body(r, ctx) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_idem_digest_body_end(&ctx->digest);

    return NGX_OK;
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
    off_t     offset;
    size_t    size;
    u_char   *slice;
    ssize_t   n;

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

        ngx_http_idempotency_feed(ctx, slice, (size_t) n);
    }

    return NGX_OK;
}


void
ngx_http_idempotency_request_body_filter_init(void)
{
    ngx_http_next_request_body_filter = ngx_http_top_request_body_filter;
    ngx_http_top_request_body_filter = ngx_http_idempotency_request_body_filter;
}
