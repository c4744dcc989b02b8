
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static void ngx_http_idempotency_stay(ngx_http_request_t *r);
static void ngx_http_idempotency_read_event(ngx_http_request_t *r);
static void ngx_http_idempotency_write_event(ngx_http_request_t *r);
static void ngx_http_idempotency_finalize(ngx_http_request_t *r, ngx_int_t rc);
static ngx_uint_t ngx_http_idempotency_gave_up(ngx_http_request_t *r,
    ngx_int_t rc);


/*
 * A content handler has made an upstream request.  With the body read
 * beforehand, ngx_http_upstream_init_request() has usually run by now and set
 * handlers that end the request when the client leaves; they are replaced.
 * The copy of the configuration speaks for what starts later: behind a cache
 * lock, after the resolver, on the next server.
 *
 * Once the response header has come, withholding does the rest: nothing is
 * written to the client before the response is whole.
 */

void
ngx_http_idempotency_shield(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (u == NULL
        || u->finalize_request == ngx_http_idempotency_finalize)
    {
        return;
    }

    ctx->finalize = u->finalize_request;
    u->finalize_request = ngx_http_idempotency_finalize;

    ngx_http_idempotency_stay(r);

    /* without a cleanup it waits for a lock of the cache, or is over */

    if (u->cleanup && !u->header_sent) {
        r->read_event_handler = ngx_http_idempotency_read_event;
        r->write_event_handler = ngx_http_request_empty_handler;

        /* it may have left already, and that event is not told twice */

        if (r->connection->read->ready) {
            ngx_post_event(r->connection->read, &ngx_posted_events);
        }
    }
}


static void
ngx_http_idempotency_stay(ngx_http_request_t *r)
{
    ngx_http_upstream_t       *u;
    ngx_http_upstream_conf_t  *conf;

    u = r->upstream;

    if (u->conf == NULL || u->conf->ignore_client_abort) {
        return;
    }

    conf = ngx_palloc(r->pool, sizeof(ngx_http_upstream_conf_t));
    if (conf == NULL) {
        return;
    }

    *conf = *u->conf;
    conf->ignore_client_abort = 1;
    u->conf = conf;
}


/*
 * The client says more, or leaves: neither ends the request.  nginx tries no
 * other upstream and no error page for a stream that was cancelled, as it is
 * in error then; so the error is kept back until something is to be sent.
 */

static void
ngx_http_idempotency_read_event(ngx_http_request_t *r)
{
    ngx_connection_t            *c;
    ngx_http_idempotency_ctx_t  *ctx;

    c = r->connection;
    ctx = ngx_http_idempotency_ctx(r);

    if (c->error || c->read->pending_eof || c->read->error) {

        ngx_http_idempotency_client_gone(ctx);

#if (NGX_HTTP_V2)

        if (r->stream
            && (ctx->state == NGX_HTTP_IDEMPOTENCY_OWNED
                || ctx->state == NGX_HTTP_IDEMPOTENCY_CAPTURING))
        {
            c->error = 0;
        }

#endif

        /* a client that only says no more may still read */

        if (ctx->streaming && !c->write->ready
            && (c->error || c->read->error))
        {
            ngx_http_idempotency_drop_rest(ctx);

            /* nobody else will unblock the writer any more */

            c->write->ready = 1;
            ngx_post_event(c->write, &ngx_posted_events);
        }
    }

    ngx_http_block_reading(r);
}


void
ngx_http_idempotency_client_gone(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    if (ctx->gone) {
        return;
    }

    r = ctx->request;

    ctx->gone = 1;
    r->keepalive = 0;

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "idempotency: client is gone, the request goes on");
}


void
ngx_http_idempotency_drop_rest(ngx_http_idempotency_ctx_t *ctx)
{
#if (NGX_HTTP_V2)

    ngx_http_v2_stream_t  *stream;

    stream = ctx->request->stream;

    /* a stream that waits for a window is told of nothing else */

    if (stream && stream->waiting) {
        ngx_queue_remove(&stream->queue);
        stream->waiting = 0;
    }

#endif

    ngx_http_idempotency_client_gone(ctx);

    ctx->request->connection->error = 1;
    ctx->dropped = 1;
}


void
ngx_http_idempotency_unshield(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
#if (NGX_HTTP_V2)

    if (r->stream && ctx->gone) {
        r->connection->error = 1;
    }

#endif
}


/*
 * The upstream sets its own handler after the header was sent; it would end
 * everything when the client does not read for send_timeout.
 */

void
ngx_http_idempotency_guard_writer(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (r->upstream == NULL
        || !r->upstream->header_sent
        || r->write_event_handler == ngx_http_idempotency_write_event)
    {
        return;
    }

    ctx->write_handler = r->write_event_handler;
    r->write_event_handler = ngx_http_idempotency_write_event;
}


static void
ngx_http_idempotency_write_event(ngx_http_request_t *r)
{
    ngx_event_t                 *wev;
    ngx_http_idempotency_ctx_t  *ctx;

    wev = r->connection->write;
    ctx = ngx_http_idempotency_ctx(r);

    if (wev->timedout) {
        wev->timedout = 0;
        r->connection->timedout = 1;
        ngx_http_idempotency_drop_rest(ctx);
    }

    if (ctx->dropped) {
        wev->ready = 1;
        wev->delayed = 0;
    }

    ctx->write_handler(r);
}


/*
 * The upstream is through.  A module that gives up in the middle of a body, as
 * on a broken chunk, has the request terminated without a word.  Nothing of
 * the answer was sent yet, so the client can be told before that.
 */

static void
ngx_http_idempotency_finalize(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_idempotency_ctx(r);

    ctx->finalize(r, rc);

    if (rc == NGX_OK && ngx_http_idempotency_is_passing(ctx)) {
        ngx_http_idempotency_all_said(r, ctx);
    }

    if (ctx->state == NGX_HTTP_IDEMPOTENCY_OWNED
        && ngx_http_idempotency_gave_up(r, rc))
    {
        (void) ngx_http_idempotency_cut(r, ctx);
    }

    if (rc == NGX_ERROR
        && r->upstream->header_sent
        && ctx->state == NGX_HTTP_IDEMPOTENCY_CAPTURING
        && !r->connection->error)
    {
        /* the request is terminated behind us: no other page is in time */

        ctx->ending = 1;
        r->keepalive = 0;
        r->error_page = 1;

        (void) ngx_http_special_response_handler(r,
                                            ngx_http_idempotency_cut(r, ctx));
    }
}


/*
 * The header of an answer has come, and nginx failed between that and its body.
 * A status of the upstream's own is intercepted for an error_page.
 */

static ngx_uint_t
ngx_http_idempotency_gave_up(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    return !u->header_sent
           && u->state
           && u->state->header_time != (ngx_msec_t) -1
           && (rc == NGX_ERROR || rc >= NGX_HTTP_INTERNAL_SERVER_ERROR)
           && rc != (ngx_int_t) u->headers_in.status_n;
}
