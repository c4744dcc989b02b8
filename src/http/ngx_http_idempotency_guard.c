
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_guard.h"
#include "core/ngx_idem_order.h"
#include "store/ngx_idem_point.h"
#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_guard_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_uint_t ngx_http_idempotency_guard_is_late(
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_guard_ask(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_guard_answered(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_guard_each(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_begin(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_target(ngx_http_request_t *r,
    ngx_http_idempotency_guard_t *gd, ngx_idem_stat_e *why);
static ngx_int_t ngx_http_idempotency_guard_number(
    ngx_http_idempotency_guard_t *gd, ngx_idem_stat_e *why);
static ngx_int_t ngx_http_idempotency_guard_identity(ngx_http_request_t *r,
    ngx_http_idempotency_guard_t *gd, ngx_str_t *resource);
static ngx_int_t ngx_http_idempotency_guard_pending(
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static void ngx_http_idempotency_guard_nobody(u_char *p, uint64_t until_s);
static ngx_uint_t ngx_http_idempotency_guard_is_nobody(u_char *p,
    uint64_t *until_s);

static ngx_int_t ngx_http_idempotency_guard_hold(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_held(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static void ngx_http_idempotency_guard_take(ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_queue(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_look(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_looked(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_moved(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_doubt(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_forgotten(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_mark(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_marked(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);

static ngx_int_t ngx_http_idempotency_guard_decide(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_state(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_version(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_late(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd,
    ngx_uint_t acknowledge);
static ngx_int_t ngx_http_idempotency_guard_failed(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static void ngx_http_idempotency_guard_put_back(
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_int_t ngx_http_idempotency_guard_refuse(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_stat_e why);
static ngx_int_t ngx_http_idempotency_guard_done(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_guard_done_handler(
    ngx_http_request_t *r);

static ngx_int_t ngx_http_idempotency_guard_wait(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_guard_called(ngx_idem_op_t *op);
static void ngx_http_idempotency_guards_left(
    ngx_http_idempotency_guards_t *gs);
static void ngx_http_idempotency_guard_wait_handler(ngx_event_t *ev);
static void ngx_http_idempotency_guard_resume(
    ngx_http_idempotency_ctx_t *ctx);

static void ngx_http_idempotency_guard_ask_no_more(
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static void ngx_http_idempotency_guard_leave(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd);
static void ngx_http_idempotency_guard_outcome(
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd);
static ngx_uint_t ngx_http_idempotency_guard_succeeded(
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_guard_learn(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd);


/* Takes the guards of the location, one after the other. */

ngx_int_t
ngx_http_idempotency_guard(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t                       rc;
    ngx_http_idempotency_guards_t  *gs;

    if (ctx->guards == NULL
        && ngx_http_idempotency_guard_init(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_GUARDED);

    gs = ctx->guards;

    while (gs->at < gs->n) {
        rc = ngx_http_idempotency_guard_each(r, ctx, &gs->guards[gs->at]);

        if (rc != NGX_OK || ctx->state != NGX_HTTP_IDEMPOTENCY_GUARDED) {
            return rc;
        }

        gs->at++;
    }

    if (gs->asking) {
        return ngx_http_idempotency_guard_answered(r, ctx);
    }

    if (!gs->sure && ngx_http_idempotency_guard_is_late(ctx)) {
        return ngx_http_idempotency_guard_ask(r, ctx);
    }

    return ngx_http_idempotency_own(r, ctx);
}


/* Whether the lease of the claim may have ended while guards were taken. */

static ngx_uint_t
ngx_http_idempotency_guard_is_late(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_guards_t  *gs;

    gs = ctx->guards;

    return !ctx->anonymous
           && (gs->waits
               || ngx_current_msec - gs->since >= ctx->ilcf->lease / 3);
}


/* A worker that stood still has perhaps not renewed it in time. */

static ngx_int_t
ngx_http_idempotency_guard_ask(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_op_t                  *op;
    ngx_idem_store_t               *st;
    ngx_http_idempotency_guards_t  *gs;

    gs = ctx->guards;
    st = ctx->ilcf->store;
    op = &gs->look;

    ngx_memzero(op, sizeof(ngx_idem_op_t));
    ngx_memcpy(op->identity, ctx->op.identity, NGX_IDEM_DIGEST_LEN);
    ngx_memcpy(op->owner, ctx->op.owner, NGX_IDEM_OWNER_LEN);

    op->pool = r->pool;
    op->log = r->connection->log;
    op->lease_ms = ctx->op.lease_ms;
    op->local = ctx->op.local || gs->local;
    op->sure = 1;
    op->handler = ngx_http_idempotency_guard_called;
    op->data = ctx;

    gs->asking = 1;

    op->rc = st->verbs->renew(st, op);

    if (op->rc == NGX_AGAIN) {
        return ngx_http_idempotency_guard_wait(r, ctx);
    }

    return ngx_http_idempotency_guard_answered(r, ctx);
}


/* If it is not, somebody else may have it; if nobody knows, as for a claim. */

static ngx_int_t
ngx_http_idempotency_guard_answered(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_op_t                  *op;
    ngx_http_idempotency_guards_t  *gs;

    gs = ctx->guards;
    op = &gs->look;

    gs->asking = 0;

    if (op->rc != NGX_OK) {

        if (ctx->ilcf->on_error == NGX_HTTP_IDEMPOTENCY_ON_ERROR_LOCAL
            && !op->local)
        {
            gs->local = 1;
            return ngx_http_idempotency_guard_ask(r, ctx);
        }

        if (ctx->ilcf->on_error != NGX_HTTP_IDEMPOTENCY_ON_ERROR_PASS) {
            return ngx_http_idempotency_guard_refuse(r, ctx,
                                             NGX_IDEM_STAT_STORE_UNAVAILABLE);
        }

        ngx_http_idempotency_tell(ctx, NGX_IDEM_STAT_UNPROTECTED);

    } else if (op->verdict != NGX_IDEM_OWNED) {
        return ngx_http_idempotency_guard_refuse(r, ctx,
                                                 NGX_IDEM_STAT_IN_FLIGHT);
    }

    gs->sure = 1;

    return ngx_http_idempotency_own(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_guard_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_uint_t                          i;
    ngx_http_idempotency_guards_t      *gs;
    ngx_http_idempotency_guard_conf_t  *gc;

    gs = ngx_pcalloc(r->pool, sizeof(ngx_http_idempotency_guards_t));
    if (gs == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_HTTP_IDEMPOTENCY_GUARDS; i++) {
        gc = ctx->ilcf->guards[i];

        if (gc) {
            gs->guards[gs->n++].conf = gc;
        }
    }

    gs->since = ngx_current_msec;
    gs->event.handler = ngx_http_idempotency_guard_wait_handler;
    gs->event.data = ctx;
    gs->event.log = r->connection->log;

    ctx->guards = gs;

    /* the claim must stand while it waits for others */

    ngx_http_idempotency_renew_start(ctx);

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_guard_each(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    switch (gd->step) {

    case NGX_HTTP_IDEMPOTENCY_GUARD_NEW:
        return ngx_http_idempotency_guard_begin(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_GUARD_ASKED:
        return ngx_http_idempotency_guard_held(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_GUARD_QUEUED:
        return ngx_http_idempotency_guard_hold(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_GUARD_LOOKING:
        return ngx_http_idempotency_guard_looked(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_GUARD_MARKING:
        return ngx_http_idempotency_guard_marked(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_GUARD_HELD:
    case NGX_HTTP_IDEMPOTENCY_GUARD_LEAVING:
    case NGX_HTTP_IDEMPOTENCY_GUARD_LEFT:
        break;
    }

    return NGX_OK;
}


/* Without a resource there is nothing to guard. */

static ngx_int_t
ngx_http_idempotency_guard_begin(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    ngx_int_t        rc;
    ngx_str_t        resource;
    ngx_idem_stat_e  why;

    if (ngx_http_complex_value(r, &gd->conf->resource, &resource) != NGX_OK) {
        return NGX_ERROR;
    }

    if (resource.len == 0) {
        gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LEFT;
        return NGX_OK;
    }

    rc = ngx_http_idempotency_guard_target(r, gd, &why);

    if (rc == NGX_DECLINED) {
        return ngx_http_idempotency_guard_refuse(r, ctx, why);
    }

    if (rc != NGX_OK
        || ngx_http_idempotency_guard_identity(r, gd, &resource) != NGX_OK
        || ngx_http_idempotency_guard_pending(ctx, gd) != NGX_OK)
    {
        return NGX_ERROR;
    }

    gd->op.guard = 1;
    gd->op.local = ctx->guards->local;
    gd->op.pool = r->pool;
    gd->op.log = r->connection->log;
    gd->op.lease_ms = ctx->ilcf->lease;
    gd->op.unknown_s = (uint32_t) ctx->ilcf->unknown;
    gd->op.outcome.ttl_s = ctx->ilcf->lifetimes.ttl_s;
    gd->op.handler = ngx_http_idempotency_guard_called;
    gd->op.data = ctx;

    ngx_memcpy(gd->op.owner, ctx->op.owner, NGX_IDEM_OWNER_LEN);

    return ngx_http_idempotency_guard_hold(r, ctx, gd);
}


/* What it wants of the resource.  NGX_DECLINED: that is nothing to want. */

static ngx_int_t
ngx_http_idempotency_guard_target(ngx_http_request_t *r,
    ngx_http_idempotency_guard_t *gd, ngx_idem_stat_e *why)
{
    switch (gd->conf->kind) {

    case NGX_HTTP_IDEMPOTENCY_SEQUENCE:

        if (ngx_http_complex_value(r, &gd->conf->target, &gd->target)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        return ngx_http_idempotency_guard_number(gd, why);

    case NGX_HTTP_IDEMPOTENCY_STATE:

        if (ngx_http_complex_value(r, &gd->conf->target, &gd->target)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        *why = NGX_IDEM_STAT_OUT_OF_ORDER;

        return (gd->target.len == 0
                || gd->target.len > NGX_IDEM_GUARD_VALUE)
                   ? NGX_DECLINED : NGX_OK;

    case NGX_HTTP_IDEMPOTENCY_VERSION:

        *why = NGX_IDEM_STAT_VERSION_REQUIRED;

        /* nginx takes no second field line */

        if (r->headers_in.if_match) {
            gd->target = r->headers_in.if_match->value;
            return NGX_OK;
        }

        return gd->conf->required ? NGX_DECLINED : NGX_OK;

    case NGX_HTTP_IDEMPOTENCY_SERIALIZE:
    case NGX_HTTP_IDEMPOTENCY_GUARDS:
        break;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_guard_number(ngx_http_idempotency_guard_t *gd,
    ngx_idem_stat_e *why)
{
    ngx_idem_span_t  n;

    *why = NGX_IDEM_STAT_KEY_INVALID;

    if (ngx_idem_order_number(ngx_http_idempotency_span(&gd->target), &n)) {
        return NGX_DECLINED;
    }

    /* leading zeros are at its beginning */

    gd->target.data += gd->target.len - n.len;
    gd->target.len = n.len;

    return NGX_OK;
}


/*
 * No scope is in it: a resource is there for all who may change it.  A record
 * has a scope of one part at least, so no guard is ever one.
 */

static ngx_int_t
ngx_http_idempotency_guard_identity(ngx_http_request_t *r,
    ngx_http_idempotency_guard_t *gd, ngx_str_t *resource)
{
    static ngx_str_t  kinds[] = {
        ngx_string("serialize"),
        ngx_string("sequence"),
        ngx_string("state"),
        ngx_string("version")
    };

    ngx_str_t    *part;
    ngx_array_t   scope, keys;

    if (ngx_array_init(&scope, r->pool, 1, sizeof(ngx_str_t)) != NGX_OK
        || ngx_array_init(&keys, r->pool, 3, sizeof(ngx_str_t)) != NGX_OK)
    {
        return NGX_ERROR;
    }

    part = ngx_array_push_n(&keys, 3);
    if (part == NULL) {
        return NGX_ERROR;
    }

    part[0] = kinds[gd->conf->kind];
    part[1] = *resource;

    if (gd->conf->machine) {
        part[2] = gd->conf->machine->name;

    } else {
        ngx_str_null(&part[2]);
    }

    return ngx_http_idempotency_identity(r, &scope, &keys, gd->op.identity);
}


/* Whose record tells what became of it, and what it would be then. */

static ngx_int_t
ngx_http_idempotency_guard_pending(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd)
{
    u_char     *p;
    ngx_str_t   target;

    if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_SERIALIZE) {
        return NGX_OK;
    }

    target = gd->target;

    if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_VERSION) {
        ngx_str_set(&target, "");
    }

    p = ngx_pnalloc(ctx->request->pool, NGX_IDEM_DIGEST_LEN + target.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    gd->mine.data = p;
    gd->mine.len = NGX_IDEM_DIGEST_LEN + target.len;

    if (ctx->anonymous) {
        ngx_http_idempotency_guard_nobody(p, (uint64_t) ngx_time()
                                             + ctx->ilcf->unknown);

    } else {
        ngx_memcpy(p, ctx->op.identity, NGX_IDEM_DIGEST_LEN);
    }

    ngx_memcpy(p + NGX_IDEM_DIGEST_LEN, target.data, target.len);

    return NGX_OK;
}


/*
 * In place of the identity of a record that there is not: when nobody need
 * remember it any more, as all nodes tell the time.  No digest begins so.
 */

static void
ngx_http_idempotency_guard_nobody(u_char *p, uint64_t until_s)
{
    ngx_uint_t  i;

    ngx_memzero(p, NGX_IDEM_DIGEST_LEN);

    for (i = NGX_IDEM_DIGEST_LEN; until_s; until_s >>= 8) {
        p[--i] = (u_char) (until_s & 0xff);
    }
}


static ngx_uint_t
ngx_http_idempotency_guard_is_nobody(u_char *p, uint64_t *until_s)
{
    ngx_uint_t  i;

    *until_s = 0;

    for (i = 0; i < NGX_IDEM_DIGEST_LEN; i++) {

        if (i < NGX_IDEM_DIGEST_LEN - sizeof(uint64_t)) {

            if (p[i] != 0) {
                return 0;
            }

            continue;
        }

        *until_s = (*until_s << 8) | p[i];
    }

    return 1;
}


static ngx_int_t
ngx_http_idempotency_guard_hold(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_op_t     *op;
    ngx_idem_store_t  *st;

    op = &gd->op;
    st = ctx->ilcf->store;

    op->max_waiters = (gd->conf->wait && !ctx->guards->last_try
                       && !ctx->ilcf->dry_run)
                          ? gd->conf->queue : 0;

    op->pending = gd->mine;
    op->verdict = NGX_IDEM_ABSENT;

    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_ASKED;

    op->rc = st->verbs->hold(st, op);

    if (op->rc == NGX_AGAIN) {
        return ngx_http_idempotency_guard_wait(r, ctx);
    }

    return ngx_http_idempotency_guard_held(r, ctx, gd);
}


static ngx_int_t
ngx_http_idempotency_guard_held(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    if (gd->op.rc != NGX_OK) {
        return ngx_http_idempotency_guard_failed(r, ctx, gd);
    }

    switch (gd->op.verdict) {

    case NGX_IDEM_OWNED:
        ngx_http_idempotency_guard_take(gd);
        return ngx_http_idempotency_guard_decide(r, ctx, gd);

    case NGX_IDEM_CHECK:
        ngx_http_idempotency_guard_take(gd);
        return ngx_http_idempotency_guard_look(r, ctx, gd);

    case NGX_IDEM_BUSY:

        if (gd->op.parked && !ctx->guards->last_try) {
            return ngx_http_idempotency_guard_queue(r, ctx, gd);
        }

        ngx_http_idempotency_guard_ask_no_more(ctx, gd);

        return ngx_http_idempotency_guard_refuse(r, ctx,
                                                 NGX_IDEM_STAT_RESOURCE_BUSY);

    case NGX_IDEM_FULL:
        return ngx_http_idempotency_guard_refuse(r, ctx,
                                                 NGX_IDEM_STAT_STORE_FULL);

    case NGX_IDEM_DONE:
    case NGX_IDEM_UNSTORED:
    case NGX_IDEM_UNKNOWN:
    case NGX_IDEM_MISMATCH:
    case NGX_IDEM_LOST:
    case NGX_IDEM_ABSENT:
        break;
    }

    ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                  "idempotency guard got verdict %d", gd->op.verdict);

    return NGX_ERROR;
}


static void
ngx_http_idempotency_guard_take(ngx_http_idempotency_guard_t *gd)
{
    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_HELD;
    gd->value = gd->op.value;

    if (gd->op.verdict == NGX_IDEM_CHECK) {
        gd->found = gd->op.pending;
    }
}


static ngx_int_t
ngx_http_idempotency_guard_queue(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_QUEUED;

    /* not cancelable: a worker that shuts down answers its waiters first */

    if (!ctx->guards->waits) {
        ctx->guards->waits = 1;
        ctx->guards->began = ngx_current_msec;
        ngx_add_timer(&ctx->guards->event, gd->conf->wait);
    }

    return ngx_http_idempotency_guard_wait(r, ctx);
}


/* Whoever had it has vanished.  What became of that request? */

static ngx_int_t
ngx_http_idempotency_guard_look(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    uint64_t           until_s;
    ngx_idem_op_t     *look;
    ngx_idem_store_t  *st;

    if (gd->found.len < NGX_IDEM_DIGEST_LEN) {
        return ngx_http_idempotency_guard_mark(r, ctx, gd);
    }

    if (ngx_http_idempotency_guard_is_nobody(gd->found.data, &until_s)) {
        return (until_s > (uint64_t) ngx_time())
                   ? ngx_http_idempotency_guard_doubt(r, ctx, gd)
                   : ngx_http_idempotency_guard_forgotten(r, ctx, gd);
    }

    /* what is run again, or was looked into, is ours */

    if (ngx_memcmp(gd->found.data, ctx->op.identity, NGX_IDEM_DIGEST_LEN)
        == 0)
    {
        gd->again = ctx->again;
        return ngx_http_idempotency_guard_mark(r, ctx, gd);
    }

    st = ctx->ilcf->store;
    look = &ctx->guards->look;

    ngx_memzero(look, sizeof(ngx_idem_op_t));
    ngx_memcpy(look->identity, gd->found.data, NGX_IDEM_DIGEST_LEN);

    look->pool = r->pool;
    look->log = r->connection->log;
    look->local = gd->op.local;
    look->handler = ngx_http_idempotency_guard_called;
    look->data = ctx;

    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LOOKING;

    look->rc = st->verbs->look(st, look);

    if (look->rc == NGX_AGAIN) {
        return ngx_http_idempotency_guard_wait(r, ctx);
    }

    return ngx_http_idempotency_guard_looked(r, ctx, gd);
}


static ngx_int_t
ngx_http_idempotency_guard_looked(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_op_t  *look;

    look = &ctx->guards->look;
    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_HELD;

    if (look->rc != NGX_OK) {
        return ngx_http_idempotency_guard_failed(r, ctx, gd);
    }

    switch (look->verdict) {

    case NGX_IDEM_DONE:
    case NGX_IDEM_UNSTORED:

        if (look->status / 100 == 2) {
            return ngx_http_idempotency_guard_moved(r, ctx, gd);
        }

        break;

    case NGX_IDEM_BUSY:
        return ngx_http_idempotency_guard_refuse(r, ctx,
                                                 NGX_IDEM_STAT_RESOURCE_BUSY);

    case NGX_IDEM_UNKNOWN:
        return ngx_http_idempotency_guard_doubt(r, ctx, gd);

    case NGX_IDEM_ABSENT:
        return ngx_http_idempotency_guard_forgotten(r, ctx, gd);

    case NGX_IDEM_OWNED:
    case NGX_IDEM_CHECK:
    case NGX_IDEM_MISMATCH:
    case NGX_IDEM_FULL:
    case NGX_IDEM_LOST:
        break;
    }

    return ngx_http_idempotency_guard_mark(r, ctx, gd);
}


/* It was carried out: the value is what it was to become. */

static ngx_int_t
ngx_http_idempotency_guard_moved(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    gd->value.data = gd->found.data + NGX_IDEM_DIGEST_LEN;
    gd->value.len = gd->found.len - NGX_IDEM_DIGEST_LEN;

    return ngx_http_idempotency_guard_mark(r, ctx, gd);
}


/* Nobody knows: a state stays in doubt, until that request is settled. */

static ngx_int_t
ngx_http_idempotency_guard_doubt(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_STATE) {
        return ngx_http_idempotency_guard_refuse(r, ctx,
                                               NGX_IDEM_STAT_OUTCOME_UNKNOWN);
    }

    if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_VERSION) {
        ngx_str_null(&gd->value);
    }

    return ngx_http_idempotency_guard_mark(r, ctx, gd);
}


/* It was released, or its time is over: as it was before it, as far as known */

static ngx_int_t
ngx_http_idempotency_guard_forgotten(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_VERSION) {
        ngx_str_null(&gd->value);
    }

    return ngx_http_idempotency_guard_mark(r, ctx, gd);
}


/* From now on it says what we are about to do. */

static ngx_int_t
ngx_http_idempotency_guard_mark(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_store_t  *st;

    st = ctx->ilcf->store;

    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_MARKING;
    gd->op.value = gd->value;
    gd->op.pending = gd->mine;

    gd->op.rc = st->verbs->mark(st, &gd->op);

    if (gd->op.rc == NGX_AGAIN) {
        return ngx_http_idempotency_guard_wait(r, ctx);
    }

    return ngx_http_idempotency_guard_marked(r, ctx, gd);
}


static ngx_int_t
ngx_http_idempotency_guard_marked(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_HELD;

    if (gd->op.rc != NGX_OK) {
        return ngx_http_idempotency_guard_failed(r, ctx, gd);
    }

    if (gd->op.verdict != NGX_IDEM_OWNED) {
        gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LEFT;
        return ngx_http_idempotency_guard_refuse(r, ctx,
                                                 NGX_IDEM_STAT_RESOURCE_BUSY);
    }

    ngx_str_null(&gd->found);

    return ngx_http_idempotency_guard_decide(r, ctx, gd);
}


static ngx_int_t
ngx_http_idempotency_guard_decide(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    NGX_IDEM_POINT("guarded");

    switch (gd->conf->kind) {

    case NGX_HTTP_IDEMPOTENCY_SEQUENCE:

        if (gd->value.len
            && ngx_idem_order_compare(ngx_http_idempotency_span(&gd->target),
                                      ngx_http_idempotency_span(&gd->value))
               <= 0)
        {
            return ngx_http_idempotency_guard_late(r, ctx, gd,
                                                   gd->conf->acknowledge);
        }

        break;

    case NGX_HTTP_IDEMPOTENCY_STATE:
        return ngx_http_idempotency_guard_state(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_VERSION:
        return ngx_http_idempotency_guard_version(r, ctx, gd);

    case NGX_HTTP_IDEMPOTENCY_SERIALIZE:
    case NGX_HTTP_IDEMPOTENCY_GUARDS:
        break;
    }

    return NGX_OK;
}


/* Where it is already it need not go. */

static ngx_int_t
ngx_http_idempotency_guard_state(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    if (gd->value.len == gd->target.len
        && ngx_memcmp(gd->value.data, gd->target.data, gd->value.len) == 0)
    {
        return ngx_http_idempotency_guard_late(r, ctx, gd, 1);
    }

    if (ngx_http_idempotency_machine_moves(gd->conf->machine, &gd->value,
                                           &gd->target))
    {
        return NGX_OK;
    }

    return ngx_http_idempotency_guard_late(r, ctx, gd, gd->conf->acknowledge);
}


/* What is not known to be stale is for the upstream to say. */

static ngx_int_t
ngx_http_idempotency_guard_version(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    if (gd->value.len == 0
        || gd->target.data == NULL
        || ngx_idem_order_matches(ngx_http_idempotency_span(&gd->target),
                                  ngx_http_idempotency_span(&gd->value)))
    {
        return NGX_OK;
    }

    return ngx_http_idempotency_guard_refuse(r, ctx,
                                             NGX_IDEM_STAT_STALE_VERSION);
}


static ngx_int_t
ngx_http_idempotency_guard_late(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd,
    ngx_uint_t acknowledge)
{
    if (!acknowledge) {
        return ngx_http_idempotency_guard_refuse(r, ctx,
                                                 NGX_IDEM_STAT_OUT_OF_ORDER);
    }

    ngx_http_idempotency_give_up(ctx);

    return ngx_http_idempotency_guard_done(r, ctx);
}


/* As for a claim. */

static ngx_int_t
ngx_http_idempotency_guard_failed(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_guard_t *gd)
{
    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "idempotency zone \"%V\" cannot be asked about a guard",
                  &ctx->ilcf->store->name);

    if (ctx->ilcf->on_error == NGX_HTTP_IDEMPOTENCY_ON_ERROR_LOCAL
        && !gd->op.local)
    {
        ngx_http_idempotency_guard_put_back(ctx, gd);

        ctx->guards->local = 1;
        gd->op.local = 1;
        return ngx_http_idempotency_guard_hold(r, ctx, gd);
    }

    if (ctx->ilcf->on_error == NGX_HTTP_IDEMPOTENCY_ON_ERROR_PASS) {

        if (gd->step != NGX_HTTP_IDEMPOTENCY_GUARD_HELD) {
            gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LEFT;
        }

        ngx_http_idempotency_tell(ctx, NGX_IDEM_STAT_UNPROTECTED);

        return NGX_OK;
    }

    return ngx_http_idempotency_guard_refuse(r, ctx,
                                             NGX_IDEM_STAT_STORE_UNAVAILABLE);
}


/* It was given, and nobody can find out about the one before: it stays so. */

static void
ngx_http_idempotency_guard_put_back(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_store_t  *st;

    if (gd->step != NGX_HTTP_IDEMPOTENCY_GUARD_HELD) {
        return;
    }

    st = ctx->ilcf->store;

    gd->op.value = gd->value;
    gd->op.pending = gd->found;

    if (st->verbs->leave(st, &gd->op) == NGX_AGAIN) {
        st->verbs->cancel(st, &gd->op);
    }

    ngx_str_null(&gd->value);
    ngx_str_null(&gd->found);
}


/* Nothing was sent: all is as it was before, the claim too. */

static ngx_int_t
ngx_http_idempotency_guard_refuse(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_stat_e why)
{
    ngx_http_idempotency_give_up(ctx);

    return ngx_http_idempotency_refuse(r, ctx, why);
}


/* An empty answer: there is nothing left to be done. */

static ngx_int_t
ngx_http_idempotency_guard_done(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_tell(ctx, NGX_IDEM_STAT_ACKNOWLEDGED);

    if (ctx->ilcf->dry_run) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
        return NGX_DECLINED;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_REPLAYING);

    r->content_handler = ngx_http_idempotency_guard_done_handler;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_guard_done_handler(ngx_http_request_t *r)
{
    ngx_int_t                         rc;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);

    r->err_status = 0;
    r->disable_not_modified = 1;
    r->header_only = 1;

    r->headers_out.status = ilcf->acknowledge ? ilcf->acknowledge
                                              : NGX_HTTP_NO_CONTENT;
    r->headers_out.content_length_n = 0;

    return ngx_http_send_header(r);
}


static ngx_int_t
ngx_http_idempotency_guard_wait(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_GUARDING);

    return ngx_http_idempotency_attend(r);
}


/*
 * The store has answered, or says that it is worth asking again: perhaps to one
 * who was told to wait in the same turn, and has not gone on yet.
 */

static void
ngx_http_idempotency_guard_called(ngx_idem_op_t *op)
{
    ngx_http_idempotency_ctx_t *ctx = op->data;

    ngx_http_idempotency_guards_t  *gs;

    gs = ctx->guards;

    if (ctx->state == NGX_HTTP_IDEMPOTENCY_GUARDING) {
        ngx_http_idempotency_guard_resume(ctx);
        return;
    }

    if (ctx->state == NGX_HTTP_IDEMPOTENCY_GUARDED) {

        if (gs->at < gs->n) {
            gs->guards[gs->at].step = NGX_HTTP_IDEMPOTENCY_GUARD_QUEUED;
        }

        return;
    }

    if (--gs->leaving == 0) {
        ngx_http_idempotency_guards_left(ctx->guards);
        ngx_http_idempotency_committed(ctx);
    }
}


static void
ngx_http_idempotency_guards_left(ngx_http_idempotency_guards_t *gs)
{
    ngx_uint_t  i;

    for (i = 0; i < gs->n; i++) {
        if (gs->guards[i].step == NGX_HTTP_IDEMPOTENCY_GUARD_LEAVING) {
            gs->guards[i].step = NGX_HTTP_IDEMPOTENCY_GUARD_LEFT;
        }
    }
}


/* It has not been its turn, and the client's patience is at its end. */

static void
ngx_http_idempotency_guard_wait_handler(ngx_event_t *ev)
{
    ngx_idem_store_t               *st;
    ngx_http_idempotency_ctx_t     *ctx;
    ngx_http_idempotency_guards_t  *gs;

    ctx = ev->data;
    gs = ctx->guards;
    st = ctx->ilcf->store;

    gs->last_try = 1;

    if (gs->at < gs->n
        && gs->guards[gs->at].step == NGX_HTTP_IDEMPOTENCY_GUARD_QUEUED)
    {
        st->verbs->cancel(st, &gs->guards[gs->at].op);
        ngx_http_idempotency_guard_resume(ctx);
    }
}


static void
ngx_http_idempotency_guard_resume(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    if (ctx->guards->waits) {
        ctx->guards->wait_time = ngx_current_msec - ctx->guards->began;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_GUARDED);

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_post_event(r->connection->write, &ngx_posted_events);
}


ngx_int_t
ngx_http_idempotency_guards_leave(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_uint_t                      i;
    ngx_http_idempotency_guards_t  *gs;

    gs = ctx->guards;

    if (gs->event.timer_set) {
        ngx_del_timer(&gs->event);
    }

    /* who waits for the first one is to find the others free */

    for (i = gs->n; i; i--) {
        ngx_http_idempotency_guard_leave(ctx, &gs->guards[i - 1]);
    }

    return gs->leaving ? NGX_AGAIN : NGX_OK;
}


/* What is under way goes on. */

void
ngx_http_idempotency_guards_let_go(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_uint_t                      i;
    ngx_idem_store_t               *st;
    ngx_http_idempotency_guards_t  *gs;

    gs = ctx->guards;
    st = ctx->ilcf->store;

    if (gs->asking) {
        st->verbs->cancel(st, &gs->look);
        gs->asking = 0;
    }

    for (i = 0; i < gs->n; i++) {
        ngx_http_idempotency_guard_ask_no_more(ctx, &gs->guards[i]);
    }

    (void) ngx_http_idempotency_guards_leave(ctx);

    for (i = 0; i < gs->n; i++) {
        if (gs->guards[i].step == NGX_HTTP_IDEMPOTENCY_GUARD_LEAVING) {
            st->verbs->cancel(st, &gs->guards[i].op);
        }
    }

    gs->leaving = 0;
}


/* The request has perhaps not gone on with what the store has answered. */

static void
ngx_http_idempotency_guard_ask_no_more(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_store_t  *st;

    st = ctx->ilcf->store;

    switch (gd->step) {

    case NGX_HTTP_IDEMPOTENCY_GUARD_LOOKING:
        st->verbs->cancel(st, &ctx->guards->look);
        gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_HELD;
        return;

    case NGX_HTTP_IDEMPOTENCY_GUARD_MARKING:
        st->verbs->cancel(st, &gd->op);
        gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_HELD;
        return;

    case NGX_HTTP_IDEMPOTENCY_GUARD_ASKED:
    case NGX_HTTP_IDEMPOTENCY_GUARD_QUEUED:
        st->verbs->cancel(st, &gd->op);
        gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LEFT;

        if (gd->op.rc == NGX_OK
            && (gd->op.verdict == NGX_IDEM_OWNED
                || gd->op.verdict == NGX_IDEM_CHECK))
        {
            ngx_http_idempotency_guard_take(gd);
        }

        return;

    case NGX_HTTP_IDEMPOTENCY_GUARD_NEW:
    case NGX_HTTP_IDEMPOTENCY_GUARD_HELD:
    case NGX_HTTP_IDEMPOTENCY_GUARD_LEAVING:
    case NGX_HTTP_IDEMPOTENCY_GUARD_LEFT:
        return;
    }
}


static void
ngx_http_idempotency_guard_leave(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_store_t  *st;

    if (gd->step != NGX_HTTP_IDEMPOTENCY_GUARD_HELD) {
        return;
    }

    st = ctx->ilcf->store;

    ngx_http_idempotency_guard_outcome(ctx, gd);

    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LEAVING;

    gd->op.rc = st->verbs->leave(st, &gd->op);

    if (gd->op.rc == NGX_AGAIN) {
        ctx->guards->leaving++;
        return;
    }

    gd->step = NGX_HTTP_IDEMPOTENCY_GUARD_LEFT;
}


/* What is known of the resource, now that the request has ended so. */

static void
ngx_http_idempotency_guard_outcome(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd)
{
    ngx_idem_op_t                  *op;
    ngx_http_idempotency_guards_t  *gs;

    op = &gd->op;
    gs = ctx->guards;

    op->value = gd->value;
    ngx_str_null(&op->pending);

    /* what somebody else has left in doubt stays so */

    if (gd->found.len) {
        op->pending = gd->found;
        return;
    }

    if (!gd->again
        && (!gs->settled || gs->fate == NGX_IDEM_FATE_RELEASE))
    {
        return;
    }

    if (gs->settled && gs->fate == NGX_IDEM_FATE_STORE
        && ctx->op.verdict != NGX_IDEM_LOST)
    {
        if (ngx_http_idempotency_guard_succeeded(ctx)) {
            ngx_http_idempotency_guard_learn(ctx, gd);
        }

        return;
    }

    if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_STATE) {
        op->pending = gd->mine;

    } else if (gd->conf->kind == NGX_HTTP_IDEMPOTENCY_VERSION) {
        ngx_str_null(&op->value);
    }
}


static ngx_uint_t
ngx_http_idempotency_guard_succeeded(ngx_http_idempotency_ctx_t *ctx)
{
    unsigned             status;
    ngx_idem_evidence_t  ev;

    ngx_http_idempotency_evidence(ctx->request, ctx, 1, &ev);

    status = ev.answered ? ev.upstream_status : ev.final_status;

    return status / 100 == 2;
}


static void
ngx_http_idempotency_guard_learn(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_guard_t *gd)
{
    ngx_str_t  *etag;

    switch (gd->conf->kind) {

    case NGX_HTTP_IDEMPOTENCY_SEQUENCE:
    case NGX_HTTP_IDEMPOTENCY_STATE:
        gd->op.value = gd->target;
        break;

    case NGX_HTTP_IDEMPOTENCY_VERSION:
        etag = &ctx->response.etag;

        ngx_str_null(&gd->op.value);

        if (etag->len <= NGX_IDEM_GUARD_VALUE
            && ngx_idem_order_is_tag(ngx_http_idempotency_span(etag)))
        {
            gd->op.value = *etag;
        }

        break;

    case NGX_HTTP_IDEMPOTENCY_SERIALIZE:
    case NGX_HTTP_IDEMPOTENCY_GUARDS:
        break;
    }
}


void
ngx_http_idempotency_guards_renew(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_uint_t                     i;
    ngx_idem_store_t              *st;
    ngx_http_idempotency_guard_t  *gd;

    st = ctx->ilcf->store;

    for (i = 0; i < ctx->guards->n; i++) {
        gd = &ctx->guards->guards[i];

        if (gd->step == NGX_HTTP_IDEMPOTENCY_GUARD_HELD) {
            (void) st->verbs->renew(st, &gd->op);
        }
    }
}
