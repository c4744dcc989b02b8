
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "store/ngx_idem_point.h"
#include "http/ngx_http_idempotency.h"


static ngx_http_upstream_state_t *ngx_http_idempotency_last_asked(
    ngx_http_request_t *r, ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_evidence_t *ev);
static void ngx_http_idempotency_outcome(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_fate_e fate, uint32_t ttl_s);
static void ngx_http_idempotency_settled(ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_unclaim(ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_renew_handler(ngx_event_t *ev);
static void ngx_http_idempotency_renew_again(ngx_http_idempotency_ctx_t *ctx);


ngx_str_t  ngx_http_idempotency_override_name =
    ngx_string("X-Accel-Idempotency");


void
ngx_http_idempotency_read_override(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_table_elt_t               *h;
    ngx_http_idempotency_place_t   pl;

    ngx_memzero(&ctx->override, sizeof(ngx_idem_override_t));

    pl.part = r->upstream ? &r->upstream->headers_in.headers.part
                          : &r->headers_out.headers.part;
    pl.i = 0;

    for ( ;; ) {

        h = ngx_http_idempotency_next_field(&pl,
                                         &ngx_http_idempotency_override_name);
        if (h == NULL) {
            return;
        }

        if (ngx_idem_policy_override(ngx_http_idempotency_span(&h->value),
                                     &ctx->override))
        {
            ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                          "idempotency: \"%V: %V\" says something that is "
                          "not known, which is ignored", &h->key, &h->value);
        }
    }
}


ngx_idem_fate_e
ngx_http_idempotency_fate(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_uint_t complete, uint32_t *ttl_s)
{
    ngx_idem_evidence_t  ev;

    ngx_http_idempotency_evidence(r, ctx, complete, &ev);

    return ngx_idem_policy_fate(&ev, &ctx->ilcf->lifetimes, ttl_s);
}


/*
 * What is known of the upstreams.  u->header_sent says that the answer at
 * hand is theirs; without it the page was made by nginx or by somebody else,
 * and header_time tells whether the last one asked had answered before that.
 */

void
ngx_http_idempotency_evidence(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_uint_t complete,
    ngx_idem_evidence_t *ev)
{
    ngx_http_upstream_t        *u;
    ngx_http_upstream_state_t  *last, *state;

    ngx_memzero(ev, sizeof(ngx_idem_evidence_t));

    ev->doubt = ctx->again;
    ev->final_status = (unsigned) ctx->response.status;
    ev->complete = complete;
    ev->override = ctx->override;

    u = r->upstream;

    if (u == NULL) {
        ev->asked = ctx->unasked;
        ev->sent = ctx->handled && !ctx->unasked;
        return;
    }

    last = ngx_http_idempotency_last_asked(r, ctx, ev);

#if (NGX_HTTP_CACHE)

    if (r->cached && last == NULL && !ctx->changed) {
        return;
    }

#endif

    ev->asked = 1;

    if (!ctx->changed && u->peer.connection && u->peer.connection->sent) {
        ev->sent = 1;
    }

    if (u == ctx->cut || (ctx->cut && ctx->changed)) {
        return;
    }

    if (ctx->cut) {
        ev->doubt = 1;
    }

    if (u->header_sent && !ctx->changed) {
        ev->answered = complete;
        ev->upstream_status = (unsigned) u->headers_in.status_n;
        return;
    }

    if (last == NULL || last->header_time == (ngx_msec_t) -1) {
        return;
    }

    state = r->upstream_states->elts;

    if (ctx->cut == NULL || last >= state + ctx->ncut) {
        ev->answered = 1;
        ev->upstream_status = (unsigned) last->status;
    }
}


/*
 * A state without a peer only separates the upstreams of two locations.  Who
 * is asked for an error page or a file, by GET, says nothing of the request.
 */

static ngx_http_upstream_state_t *
ngx_http_idempotency_last_asked(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_evidence_t *ev)
{
    ngx_uint_t                  i, n;
    ngx_http_upstream_state_t  *state, *last;

    last = NULL;

    if (r->upstream_states == NULL) {
        return NULL;
    }

    state = r->upstream_states->elts;
    n = ctx->changed ? ctx->counted : r->upstream_states->nelts;

    for (i = 0; i < n; i++) {

        if (state[i].peer == NULL) {
            continue;
        }

        if (last && last->bytes_sent
            && (last->header_time == (ngx_msec_t) -1
                || !ngx_idem_policy_refuses((unsigned) last->status)))
        {
            ev->doubt = 1;
        }

        if (state[i].bytes_sent) {
            ev->sent = 1;
        }

        last = &state[i];
    }

    return last;
}


ngx_int_t
ngx_http_idempotency_settle(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_fate_e fate, uint32_t ttl_s)
{
    ngx_idem_op_t     *op;
    ngx_idem_store_t  *st;

    op = &ctx->op;
    st = ctx->ilcf->store;

    if (ctx->event.timer_set) {
        ngx_del_timer(&ctx->event);
    }

    if (ctx->guards && !ctx->guards->settled) {
        ctx->guards->fate = fate;
        ctx->guards->settled = 1;
    }

    if (fate == NGX_IDEM_FATE_RELEASE || ctx->anonymous) {
        op->rc = st->verbs->release(st, op);

    } else {
        ngx_http_idempotency_outcome(ctx, fate, ttl_s);
        op->rc = st->verbs->complete(st, op);
    }

    if (op->rc == NGX_AGAIN) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_COMMITTING);
        return NGX_AGAIN;
    }

    NGX_IDEM_POINT("settled");

    if (ctx->guards && !ctx->guards->passing
        && ngx_http_idempotency_guards_leave(ctx) == NGX_AGAIN)
    {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_COMMITTING);
        return NGX_AGAIN;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_SETTLED);
    ngx_http_idempotency_settled(ctx);

    return NGX_OK;
}


void
ngx_http_idempotency_settle_now(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_fate_e fate, uint32_t ttl_s)
{
    ngx_idem_store_t  *st;

    if (ngx_http_idempotency_settle(ctx, fate, ttl_s) == NGX_AGAIN) {
        st = ctx->ilcf->store;
        st->verbs->cancel(st, &ctx->op);

        if (ctx->guards && !ctx->guards->passing) {
            ngx_http_idempotency_guards_let_go(ctx);
        }

        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_SETTLED);
    }
}


void
ngx_http_idempotency_give_up(ngx_http_idempotency_ctx_t *ctx)
{
    if (ctx->guards) {
        ctx->guards->fate = NGX_IDEM_FATE_RELEASE;
        ctx->guards->settled = 1;
    }

    ngx_http_idempotency_settle_now(ctx, ctx->again ? NGX_IDEM_FATE_UNKNOWN
                                                    : NGX_IDEM_FATE_RELEASE,
                                    NGX_IDEM_TTL_UNSET);
}


/* The writer waits for the bit to go, and takes up the response then. */

void
ngx_http_idempotency_committed(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    NGX_IDEM_POINT("settled");

    if (ctx->guards && ngx_http_idempotency_guards_leave(ctx) == NGX_AGAIN) {
        return;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_COMMITTED);
    ngx_http_idempotency_settled(ctx);

    r->buffered &= ~NGX_HTTP_IDEMPOTENCY_BUFFERED;

    ngx_post_event(r->connection->write, &ngx_posted_events);
}


/*
 * A response that was not collected is unstored; one that a dry run did not
 * collect on purpose, and would have kept, is marked so.  Whoever forgot that a
 * token was used while it is valid would let it be used again.
 */

static void
ngx_http_idempotency_outcome(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_fate_e fate, uint32_t ttl_s)
{
    ngx_idem_outcome_t  *oc;

    oc = &ctx->op.outcome;

    ngx_memzero(oc, sizeof(ngx_idem_outcome_t));

    oc->status = (uint16_t) ctx->response.status;
    oc->ttl_s = ngx_max(ttl_s, ngx_http_idempotency_token_left_s(ctx));

    if (fate == NGX_IDEM_FATE_UNKNOWN) {
        oc->state = NGX_IDEM_STATE_UNKNOWN;

        if (ttl_s == NGX_IDEM_TTL_UNSET) {
            oc->ttl_s = ctx->op.unknown_s;
        }

        return;
    }

    if (ctx->ilcf->acknowledge && !ctx->ilcf->dry_run) {
        ngx_http_idempotency_acknowledge_record(ctx);
    }

    if (ctx->op.record) {
        oc->state = NGX_IDEM_STATE_DONE;
        return;
    }

    oc->state = NGX_IDEM_STATE_UNSTORED;
    oc->dry = ctx->ilcf->dry_run
              && ctx->response.size <= ctx->ilcf->max_response;
}


static void
ngx_http_idempotency_settled(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_log_t         *log;
    ngx_idem_store_t  *st;

    st = ctx->ilcf->store;
    log = ctx->request->connection->log;

    if (ctx->op.rc != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "idempotency zone \"%V\" did not take an outcome",
                      &st->name);
        return;
    }

    switch (ctx->op.verdict) {

    case NGX_IDEM_DONE:
        ngx_idem_stat_add(st, NGX_IDEM_STAT_DONE);
        return;

    case NGX_IDEM_UNSTORED:
        ngx_idem_stat_add(st, NGX_IDEM_STAT_UNSTORED);
        ngx_log_error(NGX_LOG_INFO, log, 0,
                      "idempotency: the response was not stored");
        return;

    case NGX_IDEM_ABSENT:
        ngx_idem_stat_add(st, NGX_IDEM_STAT_RELEASED);
        return;

    case NGX_IDEM_UNKNOWN:
        ngx_idem_stat_add(st, NGX_IDEM_STAT_UNKNOWN);
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "idempotency: the outcome of the request is unknown");
        return;

    case NGX_IDEM_LOST:
        ngx_idem_stat_add(st, NGX_IDEM_STAT_LOST);
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "idempotency: the lease had ended, "
                      "the outcome was not recorded");
        return;

    case NGX_IDEM_OWNED:
    case NGX_IDEM_CHECK:
    case NGX_IDEM_BUSY:
    case NGX_IDEM_MISMATCH:
    case NGX_IDEM_FULL:
        break;
    }

    ngx_log_error(NGX_LOG_ALERT, log, 0,
                  "idempotency outcome got verdict %d", ctx->op.verdict);
}


/*
 * However the request ends, this runs: after the upstream's own cleanup,
 * which has counted what it sent, and before the access log is written; or
 * when the process ends before the request.
 */

void
ngx_http_idempotency_cleanup(void *data)
{
    uint32_t                     ttl_s;
    ngx_idem_fate_e              fate;
    ngx_idem_store_t            *st;
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = data;
    st = ctx->ilcf->store;

    ngx_queue_remove(&ctx->queue);

    if (ctx->request->connection->error
        || ctx->request->connection->timedout)
    {
        ctx->gone = 1;
    }

    switch (ctx->state) {

    case NGX_HTTP_IDEMPOTENCY_READY:
    case NGX_HTTP_IDEMPOTENCY_CLAIMING:
    case NGX_HTTP_IDEMPOTENCY_WAITING:
    case NGX_HTTP_IDEMPOTENCY_COMMITTING:
        st->verbs->cancel(st, &ctx->op);
        break;

    case NGX_HTTP_IDEMPOTENCY_CLAIMED:
        ngx_http_idempotency_unclaim(ctx);
        break;

    case NGX_HTTP_IDEMPOTENCY_CHECKING:
        ngx_http_idempotency_put_back(ctx);
        break;

    case NGX_HTTP_IDEMPOTENCY_GUARDED:
    case NGX_HTTP_IDEMPOTENCY_GUARDING:
        ngx_http_idempotency_give_up(ctx);
        break;

    case NGX_HTTP_IDEMPOTENCY_OWNED:
    case NGX_HTTP_IDEMPOTENCY_CAPTURING:
    case NGX_HTTP_IDEMPOTENCY_PASSING:
        fate = ngx_http_idempotency_fate(ctx->request, ctx, 0, &ttl_s);
        ngx_http_idempotency_settle_now(ctx, fate, ttl_s);
        break;

    case NGX_HTTP_IDEMPOTENCY_SEEN:
    case NGX_HTTP_IDEMPOTENCY_READING:
    case NGX_HTTP_IDEMPOTENCY_COMMITTED:
    case NGX_HTTP_IDEMPOTENCY_SETTLED:
    case NGX_HTTP_IDEMPOTENCY_REPLAYING:
    case NGX_HTTP_IDEMPOTENCY_REJECTED:
    case NGX_HTTP_IDEMPOTENCY_ALOOF:
        break;
    }

    if (ctx->guards) {
        ngx_http_idempotency_guards_let_go(ctx);
    }

    if (ctx->event.timer_set) {
        ngx_del_timer(&ctx->event);
    }
}


/* The request has not gone on with what the store has answered. */

static void
ngx_http_idempotency_unclaim(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_store_t  *st;

    st = ctx->ilcf->store;
    st->verbs->cancel(st, &ctx->op);

    if (ctx->op.rc != NGX_OK) {
        return;
    }

    if (ctx->op.verdict == NGX_IDEM_OWNED) {
        ctx->again = (ctx->op.outcome.state == NGX_IDEM_STATE_UNKNOWN);
        ngx_http_idempotency_give_up(ctx);

    } else if (ctx->op.verdict == NGX_IDEM_CHECK) {
        ngx_http_idempotency_put_back(ctx);
    }
}


/* Cancelable: the timer alone must not keep a worker that shuts down. */

void
ngx_http_idempotency_renew_start(ngx_http_idempotency_ctx_t *ctx)
{
    ctx->event.handler = ngx_http_idempotency_renew_handler;
    ctx->event.data = ctx;
    ctx->event.log = ctx->request->connection->log;
    ctx->event.cancelable = 1;

    ngx_http_idempotency_renew_again(ctx);
}


static void
ngx_http_idempotency_renew_handler(ngx_event_t *ev)
{
    ngx_idem_store_t            *st;
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ev->data;
    st = ctx->ilcf->store;

    if (ctx->guards) {
        ngx_http_idempotency_guards_renew(ctx);
    }

    /* the claim may have ended before the guards */

    if (ctx->state != NGX_HTTP_IDEMPOTENCY_SETTLED
        && st->verbs->renew(st, &ctx->op) == NGX_OK
        && ctx->op.verdict == NGX_IDEM_LOST)
    {
        ngx_log_error(NGX_LOG_WARN, ev->log, 0,
                      "idempotency: the lease ended while the request runs");
        return;
    }

    ngx_http_idempotency_renew_again(ctx);
}


static void
ngx_http_idempotency_renew_again(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_msec_t  third;

    third = ctx->ilcf->lease / 3;

    ngx_add_timer(&ctx->event, ngx_max(third, 1));
}
