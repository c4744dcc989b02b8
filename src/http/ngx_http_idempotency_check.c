
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_ask(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_asked(ngx_http_request_t *r,
    void *data, ngx_int_t rc);
static ngx_int_t ngx_http_idempotency_found(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_idem_evidence_t *ev);
static ngx_int_t ngx_http_idempotency_keep_found(
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_absent(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_still_unknown(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);


/*
 * What was unknown when this request was parked, and is so still: whoever it
 * has waited for was asking, and has not learned more.  It may have become
 * unknown in the millisecond in which the request was parked.
 */

ngx_int_t
ngx_http_idempotency_check(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_CHECKING);

    if (ctx->ilcf->dry_run
        || (ctx->waited
            && ctx->op.age_ms + ctx->behind
               > ngx_current_msec - ctx->parked))
    {
        return ngx_http_idempotency_still_unknown(r, ctx);
    }

    ngx_http_idempotency_renew_start(ctx);

    return ngx_http_idempotency_ask(r, ctx);
}


/*
 * The subrequest is a GET without a body: one of its own that is empty, so
 * that nobody reads or closes the client's.
 */

static ngx_int_t
ngx_http_idempotency_ask(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_request_t          *sr;
    ngx_http_request_body_t     *body;
    ngx_http_post_subrequest_t  *ps;

    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));
    body = ngx_pcalloc(r->pool, sizeof(ngx_http_request_body_t));

    if (ps == NULL || body == NULL) {
        return NGX_ERROR;
    }

    ps->handler = ngx_http_idempotency_asked;
    ps->data = ctx;

    if (ngx_http_subrequest(r, &ctx->ilcf->check->uri,
                            &ctx->ilcf->check->args, &sr, ps,
                            NGX_HTTP_SUBREQUEST_WAITED)
        != NGX_OK)
    {
        /* it may stand before us in the connection, and no answer passes it */

        ngx_http_finalize_request(r, NGX_ERROR);
        return NGX_DONE;
    }

    sr->request_body = body;
    sr->headers_in.content_length = NULL;
    sr->headers_in.content_length_n = -1;
    sr->headers_in.chunked = 0;

    ctx->checker = sr;

    return NGX_AGAIN;
}


/*
 * The subrequest ends, or an error page follows.  An answer that breaks off in
 * the middle must not take the client's request with it.
 */

static ngx_int_t
ngx_http_idempotency_asked(ngx_http_request_t *r, void *data, ngx_int_t rc)
{
    ngx_http_idempotency_ctx_t *ctx = data;

    if (rc == NGX_ERROR) {
        ctx->cut = r->upstream;
        ctx->response.status = 0;
        return NGX_OK;
    }

    return rc;
}


ngx_http_idempotency_ctx_t *
ngx_http_idempotency_checker(ngx_http_request_t *r)
{
    ngx_http_idempotency_ctx_t  *ctx;

    if (r == r->main) {
        return NULL;
    }

    ctx = ngx_http_get_module_ctx(r->main, ngx_http_idempotency_module);

    if (ctx == NULL
        || ctx->checker != r
        || ctx->state != NGX_HTTP_IDEMPOTENCY_CHECKING)
    {
        return NULL;
    }

    return ctx;
}


/* What cannot be kept has no fields either. */

ngx_int_t
ngx_http_idempotency_check_header(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_read_override(r, ctx);
    ngx_http_idempotency_response_init(r, ctx);

    if (r->http_version < r->main->http_version
        || ngx_http_idempotency_is_broken(r))
    {
        ctx->cut = r->upstream;
        return NGX_OK;
    }

    r->allow_ranges = 0;
    r->filter_need_in_memory = 1;

    if (ngx_http_idempotency_encode_fields(r, ctx) != NGX_OK) {
        ctx->response.fields.data = NULL;
    }

    return NGX_OK;
}


/* All of it is counted, and kept as far as it may be. */

ngx_int_t
ngx_http_idempotency_check_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in)
{
    size_t        size;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {

        b = cl->buf;
        size = ngx_buf_in_memory(b) ? (size_t) (b->last - b->pos) : 0;

        if (ctx->response.fields.data
            && (size > ctx->ilcf->max_response - ctx->response.size
                || ngx_http_idempotency_append(r, ctx, b) != NGX_OK))
        {
            ctx->response.fields.data = NULL;
        }

        if (ngx_buf_in_memory(b)) {
            ctx->response.size += b->last - b->pos;
            b->pos = b->last;
        }

        b->file_pos = b->file_last;
    }

    if (ngx_http_idempotency_is_cut(r, ctx, in)) {
        ctx->cut = r->upstream;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_idempotency_check_again(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_uint_t            complete;
    ngx_idem_evidence_t   ev;
    ngx_http_request_t   *sr;

    sr = ctx->checker;

    if (!sr->done) {
        return NGX_AGAIN;
    }

    complete = ctx->response.status
               && ngx_http_idempotency_is_whole(sr, ctx);

    ngx_http_idempotency_evidence(sr, ctx, complete, &ev);

    switch (ngx_idem_policy_check(&ev)) {

    case NGX_IDEM_CHECK_DONE:
        return ngx_http_idempotency_found(r, ctx, &ev);

    case NGX_IDEM_CHECK_ABSENT:
        return ngx_http_idempotency_absent(r, ctx);

    case NGX_IDEM_CHECK_UNKNOWN:
        break;
    }

    return ngx_http_idempotency_still_unknown(r, ctx);
}


/*
 * The answer becomes the record, and goes to the client whether there was
 * room for it or not.  A life of 0 does not count: what is known to be done
 * is not to run again because somebody asked.
 */

static ngx_int_t
ngx_http_idempotency_found(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_idem_evidence_t *ev)
{
    uint32_t  ttl_s;

    if (ngx_idem_policy_fate(ev, &ctx->ilcf->lifetimes, &ttl_s)
        != NGX_IDEM_FATE_STORE)
    {
        ttl_s = NGX_IDEM_TTL_DEFAULT;
    }

    ctx->op.status = ctx->response.status;

    if (ctx->response.fields.data) {
        (void) ngx_http_idempotency_encode(ctx->checker, ctx);
    }

    ngx_idem_stat_add(ctx->ilcf->store, NGX_IDEM_STAT_CHECK_DONE);
    ngx_http_idempotency_settle_now(ctx, NGX_IDEM_FATE_STORE, ttl_s);

    if (ctx->op.record == NULL) {
        return ngx_http_idempotency_refuse(r, ctx,
                                           NGX_IDEM_STAT_RESPONSE_NOT_STORED);
    }

    if (ngx_http_idempotency_keep_found(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_replay(r, ctx);
}


/* As if it had been found in the store. */

static ngx_int_t
ngx_http_idempotency_keep_found(ngx_http_idempotency_ctx_t *ctx)
{
    u_char       *p;
    ngx_chain_t  *cl;

    p = ngx_pnalloc(ctx->request->pool, ctx->op.size);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->op.stored.data = p;
    ctx->op.stored.len = ctx->op.size;

    for (cl = ctx->op.record; cl; cl = cl->next) {
        p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
    }

    return NGX_OK;
}


/* It did not happen, so it may: with the claim that we have. */

static ngx_int_t
ngx_http_idempotency_absent(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_stat_add(ctx->ilcf->store, NGX_IDEM_STAT_CHECK_ABSENT);

    ctx->cut = NULL;
    ctx->handled = 0;
    ngx_memzero(&ctx->override, sizeof(ngx_idem_override_t));
    ngx_memzero(&ctx->response, sizeof(ngx_http_idempotency_response_t));

    return ngx_http_idempotency_own(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_still_unknown(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ctx->checker) {
        ngx_idem_stat_add(ctx->ilcf->store, NGX_IDEM_STAT_CHECK_UNKNOWN);
    }

    ngx_http_idempotency_put_back(ctx);

    return ngx_http_idempotency_refuse(r, ctx, NGX_IDEM_STAT_OUTCOME_UNKNOWN);
}


void
ngx_http_idempotency_put_back(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_store_t  *st;

    st = ctx->ilcf->store;

    if (ctx->event.timer_set) {
        ngx_del_timer(&ctx->event);
    }

    ctx->op.rc = st->verbs->complete(st, &ctx->op);

    if (ctx->op.rc == NGX_AGAIN) {
        st->verbs->cancel(st, &ctx->op);

    } else if (ctx->op.rc != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                      "idempotency zone \"%V\" did not take an outcome",
                      &st->name);
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_SETTLED);
}
