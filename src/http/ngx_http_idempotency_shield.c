
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static void ngx_http_idempotency_stay(ngx_http_request_t *r);
static void ngx_http_idempotency_read_event(ngx_http_request_t *r);
static void ngx_http_idempotency_finalize(ngx_http_request_t *r, ngx_int_t rc);


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
        || u->cleanup == NULL
        || u->finalize_request == ngx_http_idempotency_finalize)
    {
        return;
    }

    ctx->finalize = u->finalize_request;
    u->finalize_request = ngx_http_idempotency_finalize;

    if (u->conf && !u->conf->ignore_client_abort) {
        ngx_http_idempotency_stay(r);
    }
}


static void
ngx_http_idempotency_stay(ngx_http_request_t *r)
{
    ngx_http_upstream_t       *u;
    ngx_http_upstream_conf_t  *conf;

    conf = ngx_palloc(r->pool, sizeof(ngx_http_upstream_conf_t));
    if (conf == NULL) {
        return;
    }

    u = r->upstream;

    *conf = *u->conf;
    conf->ignore_client_abort = 1;
    u->conf = conf;

    if (!u->header_sent) {
        r->read_event_handler = ngx_http_idempotency_read_event;
        r->write_event_handler = ngx_http_request_empty_handler;
    }
}


/* The client says more, or leaves: neither ends the request. */

static void
ngx_http_idempotency_read_event(ngx_http_request_t *r)
{
    ngx_connection_t            *c;
    ngx_http_idempotency_ctx_t  *ctx;

    c = r->connection;
    ctx = ngx_http_idempotency_ctx(r);

    if (c->error || c->read->pending_eof || c->read->error) {

        if (ctx && !ctx->gone) {
            ctx->gone = 1;
            ngx_log_error(NGX_LOG_INFO, c->log, 0,
                          "idempotency: client is gone, "
                          "the request goes on");
        }

        r->keepalive = 0;
    }

    ngx_http_block_reading(r);
}


/*
 * An upstream module that gives up in the middle of a body, as on a broken
 * chunk, has the request terminated without a word.  Nothing of the answer
 * was sent yet, so the client can be told before that.
 */

static void
ngx_http_idempotency_finalize(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_idempotency_ctx(r);

    ctx->finalize(r, rc);

    if (rc == NGX_ERROR
        && r->upstream->header_sent
        && ctx->state == NGX_HTTP_IDEMPOTENCY_CAPTURING
        && !r->connection->error)
    {
        r->keepalive = 0;

        (void) ngx_http_special_response_handler(r,
                                            ngx_http_idempotency_cut(r, ctx));
    }
}
