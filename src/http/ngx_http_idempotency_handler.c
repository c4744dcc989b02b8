
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "store/ngx_idem_point.h"
#include "http/ngx_http_idempotency.h"


static void ngx_http_idempotency_again(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_admitted(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_free_ctx(void *data);
static void ngx_http_idempotency_enter(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_loc_conf_t *ilcf);
static ngx_int_t ngx_http_idempotency_begin(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_identify(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_stat_e *why);
static ngx_int_t ngx_http_idempotency_identified(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_int_t rc, ngx_idem_stat_e why);
static ngx_int_t ngx_http_idempotency_anonymous(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_join(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *keys);
static ngx_int_t ngx_http_idempotency_claim(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_claimed(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_claim_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_answer(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_store_failed(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_wrap(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_content_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_unstored(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_wait(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_called(ngx_idem_op_t *op);
static void ngx_http_idempotency_wait_handler(ngx_event_t *ev);
static void ngx_http_idempotency_resume(ngx_http_idempotency_ctx_t *ctx);


/*
 * Before anybody may refuse the request: takes note of it, so that a later
 * pass through the phases knows whether access was granted in the first one.
 * What is sent to an error_page from here on was refused, and is left alone.
 */

ngx_int_t
ngx_http_idempotency_preaccess_handler(ngx_http_request_t *r)
{
    ngx_http_idempotency_ctx_t       *ctx;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    if (r != r->main || r->post_action) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_idempotency_ctx(r);

    if (ctx) {
        ngx_http_idempotency_again(r, ctx);
        return NGX_DECLINED;
    }

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);

    if (ilcf->store == NULL || !ngx_http_idempotency_method(r, ilcf)) {
        return NGX_DECLINED;
    }

    if (ngx_http_idempotency_create_ctx(r, ilcf) == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


/*
 * The phases run once more.  A request that was not admitted, or whose body
 * could not be read, is on its way to an error page; the upstreams that are
 * asked with another method are not asked to carry out what was claimed.
 */

static void
ngx_http_idempotency_again(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if ((ctx->state == NGX_HTTP_IDEMPOTENCY_SEEN
         && (r->error_page || ctx->recursive))
        || ctx->state == NGX_HTTP_IDEMPOTENCY_READING)
    {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
    }

    if (ctx->method && r->method != ctx->method
        && !ctx->changed && (r->upstream || ctx->unasked))
    {
        ctx->changed = 1;
        ctx->counted = r->upstream_states ? r->upstream_states->nelts : 0;
        ngx_http_idempotency_read_override(r, ctx);
    }
}


/*
 * Access phase: is the key well formed?  Nothing is claimed.  If only the body
 * will tell whether it is for us, nothing is refused yet.
 */

ngx_int_t
ngx_http_idempotency_access_handler(ngx_http_request_t *r)
{
    ngx_int_t                         rc, missed;
    ngx_array_t                       keys;
    ngx_idem_stat_e                   why;
    ngx_http_idempotency_ctx_t       *ctx;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_idempotency_ctx(r);

    if (ctx == NULL || ctx->state != NGX_HTTP_IDEMPOTENCY_SEEN) {
        return NGX_DECLINED;
    }

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);

    if (ilcf->store == NULL || !ngx_http_idempotency_method(r, ilcf)) {
        return NGX_DECLINED;
    }

    ngx_http_idempotency_watch(r);

    rc = ngx_http_idempotency_bypass(r, ilcf);
    missed = ngx_http_idempotency_missed(r);

    if (rc == NGX_ERROR || missed == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc == NGX_OK || missed == NGX_AGAIN) {
        return NGX_DECLINED;
    }

    ngx_http_idempotency_enter(ctx, ilcf);

    rc = ngx_http_idempotency_key(r, ctx, &keys, &why, 1);

    if (rc > NGX_OK) {
        return ngx_http_idempotency_refuse(r, ctx, why);
    }

    return (rc == NGX_ERROR) ? NGX_HTTP_INTERNAL_SERVER_ERROR : NGX_DECLINED;
}


/*
 * After the whole access phase has granted access.  Entered again when the
 * body is there, when a wait is over, and after every internal redirect.  Of
 * a subrequest that asks about an earlier claim it is noted that somebody is
 * there to answer: a missing file says nothing.
 */

ngx_int_t
ngx_http_idempotency_precontent_handler(ngx_http_request_t *r)
{
    ngx_int_t                    rc;
    ngx_http_idempotency_ctx_t  *ctx;

    if (r != r->main) {

        ctx = ngx_http_idempotency_checker(r);

        if (ctx) {
            ctx->handled = (r->content_handler != NULL);
        }

        return NGX_DECLINED;
    }

    ctx = ngx_http_idempotency_ctx(r);

    if (ctx == NULL) {
        return NGX_DECLINED;
    }

    rc = ngx_http_idempotency_admitted(r, ctx);

    return (rc == NGX_ERROR) ? NGX_HTTP_INTERNAL_SERVER_ERROR : rc;
}


static ngx_int_t
ngx_http_idempotency_admitted(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    switch (ctx->state) {

    case NGX_HTTP_IDEMPOTENCY_SEEN:
        return ngx_http_idempotency_begin(r, ctx);

    case NGX_HTTP_IDEMPOTENCY_READING:
    case NGX_HTTP_IDEMPOTENCY_CLAIMING:
    case NGX_HTTP_IDEMPOTENCY_WAITING:
    case NGX_HTTP_IDEMPOTENCY_GUARDING:
        return NGX_DONE;

    case NGX_HTTP_IDEMPOTENCY_READY:
        return ngx_http_idempotency_claim(r, ctx);

    case NGX_HTTP_IDEMPOTENCY_CLAIMED:
        return ngx_http_idempotency_claimed(r, ctx);

    case NGX_HTTP_IDEMPOTENCY_CHECKING:
        return ngx_http_idempotency_check_again(r, ctx);

    case NGX_HTTP_IDEMPOTENCY_GUARDED:
        return ngx_http_idempotency_guard(r, ctx);

    case NGX_HTTP_IDEMPOTENCY_OWNED:
    case NGX_HTTP_IDEMPOTENCY_CAPTURING:
    case NGX_HTTP_IDEMPOTENCY_PASSING:
        ngx_http_idempotency_wrap(r, ctx);
        return NGX_DECLINED;

    case NGX_HTTP_IDEMPOTENCY_COMMITTING:
    case NGX_HTTP_IDEMPOTENCY_COMMITTED:
    case NGX_HTTP_IDEMPOTENCY_SETTLED:
    case NGX_HTTP_IDEMPOTENCY_REPLAYING:
    case NGX_HTTP_IDEMPOTENCY_REJECTED:
    case NGX_HTTP_IDEMPOTENCY_ALOOF:
        break;
    }

    return NGX_DECLINED;
}


ngx_http_idempotency_ctx_t *
ngx_http_idempotency_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t          *cln;
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_idempotency_module);

    if (ctx || (!r->internal && !r->filter_finalize)) {
        return ctx;
    }

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_idempotency_free_ctx) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_http_idempotency_module);
            break;
        }
    }

    return ctx;
}


ngx_http_idempotency_ctx_t *
ngx_http_idempotency_create_ctx(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf)
{
    ngx_pool_cleanup_t          *cln;
    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_idempotency_ctx_t  *ctx;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_idempotency_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_idempotency_ctx_t));
    cln->handler = ngx_http_idempotency_free_ctx;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    ctx->request = r;
    ctx->ilcf = ilcf;
    ctx->told = NGX_IDEM_STAT_N;
    ctx->recursive = clcf->recursive_error_pages;

    ngx_http_set_ctx(r, ctx, ngx_http_idempotency_module);

    return ctx;
}


static void
ngx_http_idempotency_free_ctx(void *data)
{
    ngx_http_idempotency_ctx_t  *ctx = data;

    ngx_http_idempotency_digest_free(ctx);
}


void
ngx_http_idempotency_move(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_state_e state)
{
    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "idempotency state: %d -> %d", ctx->state, state);

    ctx->state = state;
}


void
ngx_http_idempotency_tell(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_stat_e told)
{
    if (ctx->told != NGX_IDEM_STAT_N) {
        return;
    }

    ctx->told = told;

    ngx_idem_stat_add(ctx->ilcf->store, told);
}


/* Another location may have another idea of a key. */

static void
ngx_http_idempotency_enter(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_loc_conf_t *ilcf)
{
    if (ctx->ilcf != ilcf) {
        ctx->ilcf = ilcf;
        ngx_str_null(&ctx->field);
    }
}


/*
 * The request was admitted: who asks, and is it for us after all?  If that
 * depends on the body, it is read first and we are entered once more.
 */

static ngx_int_t
ngx_http_idempotency_begin(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t                         rc, bypass, missed;
    ngx_idem_stat_e                   why;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);

    if (ilcf->store == NULL || !ngx_http_idempotency_method(r, ilcf)) {
        return NGX_DECLINED;
    }

    ngx_http_idempotency_enter(ctx, ilcf);

    ngx_http_idempotency_watch(r);

    rc = NGX_OK;
    bypass = ngx_http_idempotency_bypass(r, ilcf);

    if (bypass == NGX_DECLINED) {
        rc = ngx_http_idempotency_identify(r, ctx, &why);
    }

    missed = ngx_http_idempotency_missed(r);

    if (bypass == NGX_ERROR || rc == NGX_ERROR || missed == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (bypass == NGX_OK) {
        ngx_http_idempotency_tell(ctx, NGX_IDEM_STAT_BYPASS);
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
        return NGX_DECLINED;
    }

    if (missed == NGX_AGAIN && !ctx->body_first) {
        ctx->body_first = 1;
        ngx_str_null(&ctx->key);
        ngx_http_idempotency_digest_free(ctx);
        return ngx_http_idempotency_read_body(r, ctx);
    }

    ctx->body_first = 0;

    return ngx_http_idempotency_identified(r, ctx, rc, why);
}


/* As ngx_http_idempotency_key(), and with the fingerprint begun. */

static ngx_int_t
ngx_http_idempotency_identify(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_stat_e *why)
{
    ngx_int_t    rc;
    ngx_array_t  keys, scope;

    rc = ngx_http_idempotency_key(r, ctx, &keys, why, 0);

    if (rc != NGX_OK) {
        return rc;
    }

    *why = NGX_IDEM_STAT_SCOPE_MISSING;
    rc = ngx_http_idempotency_scope(r, ctx->ilcf, &scope);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ctx->ilcf->required == NGX_HTTP_IDEMPOTENCY_REQUIRED_TOKEN) {
        *why = NGX_IDEM_STAT_TOKEN_INVALID;
        rc = ngx_http_idempotency_token_check(r, ctx, &keys, &scope);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    if (ngx_http_idempotency_join(r, ctx, &keys) != NGX_OK
        || ngx_http_idempotency_identity(r, &scope, &keys, ctx->op.identity)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_fingerprint_start(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_identified(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_int_t rc, ngx_idem_stat_e why)
{
    if (rc == NGX_DECLINED && ctx->ilcf->guarded) {
        rc = ngx_http_idempotency_anonymous(r, ctx);
    }

    if (rc == NGX_OK) {
        return ngx_http_idempotency_read_body(r, ctx);
    }

    if (rc == NGX_DECLINED) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
        return NGX_DECLINED;
    }

    return ngx_http_idempotency_refuse(r, ctx, why);
}


/*
 * Without a key there is no duplicate, but there may be others who change the
 * same resource.  The claim is for an identity that nobody will ask for again.
 */

static ngx_int_t
ngx_http_idempotency_anonymous(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    ctx->anonymous = 1;
    ctx->op.local = 1;

    if (ngx_http_idempotency_random(imcf, ctx->op.identity,
                                    NGX_IDEM_DIGEST_LEN)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_fingerprint_start(r, ctx);
}


/* $idempotency_key: the parts, with commas between them. */

static ngx_int_t
ngx_http_idempotency_join(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *keys)
{
    u_char      *p;
    size_t       len;
    ngx_str_t   *key;
    ngx_uint_t   i;

    key = keys->elts;

    if (keys->nelts == 1) {
        ctx->key = key[0];
        return NGX_OK;
    }

    len = 0;

    for (i = 0; i < keys->nelts; i++) {
        len += key[i].len + 1;
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->key.data = p;
    ctx->key.len = len - 1;

    for (i = 0; i < keys->nelts; i++) {
        p = ngx_cpymem(p, key[i].data, key[i].len);
        *p++ = ',';
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_idempotency_refuse(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_stat_e why)
{
    ngx_http_idempotency_tell(ctx, why);

    if (ctx->ilcf->dry_run) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
        return NGX_DECLINED;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_REJECTED);

    return ngx_http_idempotency_reject(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_claim(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_op_t                    *op;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    op = &ctx->op;
    ilcf = ctx->ilcf;

    if (op->pool == NULL
        && ngx_http_idempotency_claim_init(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    op->max_waiters = (ilcf->wait && !ctx->last_try && !ilcf->dry_run)
                          ? ilcf->waiters : 0;

    op->verdict = NGX_IDEM_ABSENT;
    op->rc = ilcf->store->verbs->claim(ilcf->store, op);

    if (op->rc == NGX_AGAIN) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_CLAIMING);
        return ngx_http_idempotency_attend(r);
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_CLAIMED);

    return ngx_http_idempotency_claimed(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_claimed(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ctx->op.rc != NGX_OK) {
        return ngx_http_idempotency_store_failed(r, ctx);
    }

    return ngx_http_idempotency_answer(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_claim_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_idem_op_t                     *op;
    ngx_http_cleanup_t                *cln;
    ngx_http_idempotency_loc_conf_t   *ilcf;
    ngx_http_idempotency_main_conf_t  *imcf;

    op = &ctx->op;
    ilcf = ctx->ilcf;
    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    if (ngx_http_idempotency_random(imcf, op->owner, NGX_IDEM_OWNER_LEN)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_idempotency_cleanup;
    cln->data = ctx;

    ngx_queue_insert_tail(&imcf->requests, &ctx->queue);

    op->pool = r->pool;
    op->log = r->connection->log;
    op->lease_ms = ilcf->lease;
    op->unknown_s = ngx_max((uint32_t) ilcf->unknown,
                            ngx_http_idempotency_token_left_s(ctx));
    op->on_unknown = ilcf->on_unknown;
    op->handler = ngx_http_idempotency_called;
    op->data = ctx;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_answer(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    switch (ctx->op.verdict) {

    case NGX_IDEM_OWNED:
        ctx->again = (ctx->op.outcome.state == NGX_IDEM_STATE_UNKNOWN);
        return ngx_http_idempotency_own(r, ctx);

    case NGX_IDEM_CHECK:
        return ngx_http_idempotency_check(r, ctx);

    case NGX_IDEM_BUSY:

        if (ctx->op.parked) {
            return ngx_http_idempotency_wait(r, ctx);
        }

        return ngx_http_idempotency_refuse(r, ctx, NGX_IDEM_STAT_IN_FLIGHT);

    case NGX_IDEM_DONE:
        return ngx_http_idempotency_replay(r, ctx);

    case NGX_IDEM_UNSTORED:
        return ngx_http_idempotency_unstored(r, ctx);

    case NGX_IDEM_UNKNOWN:
        return ngx_http_idempotency_refuse(r, ctx,
                                           NGX_IDEM_STAT_OUTCOME_UNKNOWN);

    case NGX_IDEM_MISMATCH:
        return ngx_http_idempotency_refuse(r, ctx, NGX_IDEM_STAT_KEY_REUSED);

    case NGX_IDEM_FULL:
        return ngx_http_idempotency_refuse(r, ctx, NGX_IDEM_STAT_STORE_FULL);

    case NGX_IDEM_ABSENT:
        return ngx_http_idempotency_refuse(r, ctx,
                                           NGX_IDEM_STAT_TOKEN_INVALID);

    case NGX_IDEM_LOST:
        break;
    }

    ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                  "idempotency claim got verdict %d", ctx->op.verdict);

    return NGX_ERROR;
}


/*
 * What is known to be done is not passed on, even if it cannot be replayed; nor
 * is what may not be the first, with nobody to say whether it is.
 */

static ngx_int_t
ngx_http_idempotency_store_failed(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ctx->op.verdict == NGX_IDEM_DONE) {
        return NGX_ERROR;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "idempotency zone \"%V\" cannot be asked",
                  &ctx->ilcf->store->name);

    if (ctx->ilcf->on_error == NGX_HTTP_IDEMPOTENCY_ON_ERROR_LOCAL
        && !ctx->op.local)
    {
        ctx->op.local = 1;
        return ngx_http_idempotency_claim(r, ctx);
    }

    if (ctx->ilcf->on_error == NGX_HTTP_IDEMPOTENCY_ON_ERROR_PASS
        && !ctx->op.known)
    {
        ngx_http_idempotency_tell(ctx, NGX_IDEM_STAT_UNPROTECTED);
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
        return NGX_DECLINED;
    }

    return ngx_http_idempotency_refuse(r, ctx,
                                       NGX_IDEM_STAT_STORE_UNAVAILABLE);
}


ngx_int_t
ngx_http_idempotency_own(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ctx->ilcf->guarded
        && (ctx->guards == NULL || ctx->guards->at < ctx->guards->n))
    {
        return ngx_http_idempotency_guard(r, ctx);
    }

    ctx->method = r->method;
    ctx->http_version = r->http_version;
    ctx->ahead = ngx_http_idempotency_count_fields(&r->headers_out.headers);

    ngx_http_idempotency_tell(ctx, NGX_IDEM_STAT_FIRST);
    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_OWNED);
    ngx_http_idempotency_renew_start(ctx);
    ngx_http_idempotency_wrap(r, ctx);

    NGX_IDEM_POINT("owned");

    return NGX_DECLINED;
}


/* Every redirect may bring another content handler: stand before that too. */

static void
ngx_http_idempotency_wrap(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (r->content_handler
        && r->content_handler != ngx_http_idempotency_content_handler)
    {
        ctx->handler = r->content_handler;
        r->content_handler = ngx_http_idempotency_content_handler;
    }
}


static ngx_int_t
ngx_http_idempotency_content_handler(ngx_http_request_t *r)
{
    ngx_int_t                         rc;
    ngx_http_upstream_t              *old;
    ngx_http_idempotency_ctx_t       *ctx;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    ctx = ngx_http_idempotency_ctx(r);
    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);
    old = r->upstream;

    r->content_handler = ctx->handler;
    ctx->handled = 1;

    rc = r->content_handler(r);

    if (r->upstream == old) {
        ctx->unasked = ilcf->proxies
                       && (rc == NGX_ERROR
                           || rc == NGX_HTTP_INTERNAL_SERVER_ERROR);
        return rc;
    }

    ilcf->proxies = 1;

    if (rc == NGX_DONE) {
        ngx_http_idempotency_shield(r, ctx);
    }

    return rc;
}


ngx_int_t
ngx_http_idempotency_replay(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_tell(ctx, ctx->waited ? NGX_IDEM_STAT_WAITED
                                               : NGX_IDEM_STAT_REPLAYED);

    if (ctx->ilcf->dry_run) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_ALOOF);
        return NGX_DECLINED;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_REPLAYING);

    /* NGX_OK skips what else is in the phase: try_files and mirror */

    r->content_handler = ngx_http_idempotency_replay_handler;

    return NGX_OK;
}


/*
 * What a dry run has seen done, it did not keep: a dry run may go on.  Who only
 * acknowledges needs nothing that was kept.
 */

static ngx_int_t
ngx_http_idempotency_unstored(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if ((ctx->ilcf->dry_run && ctx->op.dry) || ctx->ilcf->acknowledge) {
        return ngx_http_idempotency_replay(r, ctx);
    }

    return ngx_http_idempotency_refuse(r, ctx,
                                       NGX_IDEM_STAT_RESPONSE_NOT_STORED);
}


static ngx_int_t
ngx_http_idempotency_wait(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_msec_t  left;

    if (!ctx->waited) {
        ctx->waited = 1;
        ctx->wait_began = ngx_current_msec;
    }

    ctx->parked = ngx_current_msec;
    ctx->behind = (ctx->op.dry != 0);
    left = ctx->wait_began + ctx->ilcf->wait - ngx_current_msec;

    if ((ngx_msec_int_t) left < 0) {
        left = 0;
    }

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_WAITING);

    /* not cancelable: a worker that shuts down answers its waiters first */

    ctx->event.handler = ngx_http_idempotency_wait_handler;
    ctx->event.data = ctx;
    ctx->event.log = r->connection->log;

    ngx_add_timer(&ctx->event, left);

    NGX_IDEM_POINT("parked");

    return ngx_http_idempotency_attend(r);
}


/* Parked in the phases: only the client's leaving is of interest. */

ngx_int_t
ngx_http_idempotency_attend(ngx_http_request_t *r)
{
    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    /* it may have left already, and that event is not told twice */

    if (r->connection->read->ready) {
        ngx_post_event(r->connection->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_AGAIN;
}


/* The store has answered, or the claim that was waited for has ended. */

static void
ngx_http_idempotency_called(ngx_idem_op_t *op)
{
    ngx_http_idempotency_ctx_t *ctx = op->data;

    if (ctx->state == NGX_HTTP_IDEMPOTENCY_COMMITTING) {
        ngx_http_idempotency_committed(ctx);
        return;
    }

    ngx_http_idempotency_resume(ctx);
}


/* It has not, and the client's patience is at its end. */

static void
ngx_http_idempotency_wait_handler(ngx_event_t *ev)
{
    ngx_idem_store_t            *st;
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ev->data;
    st = ctx->ilcf->store;

    st->verbs->cancel(st, &ctx->op);
    ctx->last_try = 1;

    ngx_http_idempotency_resume(ctx);
}


static void
ngx_http_idempotency_resume(ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    if (ctx->event.timer_set) {
        ngx_del_timer(&ctx->event);
    }

    if (ctx->waited) {
        ctx->wait_time = ngx_current_msec - ctx->wait_began;
    }

    ngx_http_idempotency_move(ctx,
                              (ctx->state == NGX_HTTP_IDEMPOTENCY_CLAIMING)
                                  ? NGX_HTTP_IDEMPOTENCY_CLAIMED
                                  : NGX_HTTP_IDEMPOTENCY_READY);

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_post_event(r->connection->write, &ngx_posted_events);
}
