
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "store/ngx_idem_point.h"
#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_idempotency_next_header(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_hide_override(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_capture(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_uint_t ngx_http_idempotency_streams(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_collect(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in);
static ngx_buf_t *ngx_http_idempotency_room(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, size_t need);
static ngx_int_t ngx_http_idempotency_overflow(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *rest);
static void ngx_http_idempotency_let_pass(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_end(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_uint_t ngx_http_idempotency_is_ended(ngx_http_upstream_t *u);
static ngx_int_t ngx_http_idempotency_finish(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_send(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_pass_header(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static void ngx_http_idempotency_pass_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in);
static void ngx_http_idempotency_pass_end(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_uint_t complete);
static ngx_int_t ngx_http_idempotency_stream(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in);
static ngx_int_t ngx_http_idempotency_lend(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in);
static void ngx_http_idempotency_returned(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_uint_t ngx_http_idempotency_queued(ngx_http_request_t *r);
static void ngx_http_idempotency_drop(ngx_chain_t *cl);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


void
ngx_http_idempotency_filter_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_idempotency_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_idempotency_body_filter;
}


/*
 * A header may come a second time while we capture: what was withheld so far
 * has been dropped for an error page.
 */

static ngx_int_t
ngx_http_idempotency_header_filter(ngx_http_request_t *r)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_idempotency_checker(r);

    if (ctx) {
        return ngx_http_idempotency_check_header(r, ctx);
    }

    ctx = (r == r->main) ? ngx_http_idempotency_ctx(r) : NULL;

    if (ctx == NULL
        || (ctx->state != NGX_HTTP_IDEMPOTENCY_OWNED
            && ctx->state != NGX_HTTP_IDEMPOTENCY_CAPTURING))
    {
        ngx_http_idempotency_hide_override(r, ctx);
        return ngx_http_idempotency_next_header(r, ctx);
    }

    if (!ctx->changed) {
        ngx_http_idempotency_read_override(r, ctx);
    }

    ngx_http_idempotency_hide_override(r, ctx);

    ngx_http_idempotency_response_init(r, ctx);

    if (ctx->ilcf->dry_run || ctx->anonymous) {
        return ngx_http_idempotency_pass_header(r, ctx);
    }

    /* nginx takes for HTTP/0.9 what has no status line; we know better */

    if (r->http_version < ctx->http_version) {
        r->http_version = ctx->http_version;
        return ngx_http_idempotency_cut(r, ctx);
    }

    if (ngx_http_idempotency_is_broken(r)) {
        return ngx_http_idempotency_cut(r, ctx);
    }

    return ngx_http_idempotency_capture(r, ctx);
}


void
ngx_http_idempotency_response_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_memzero(&ctx->response, sizeof(ngx_http_idempotency_response_t));

    ctx->response.last = &ctx->response.body;
    ctx->response.status = r->headers_out.status;
    ctx->response.announced = ngx_http_idempotency_bodiless(r)
                                  ? -1 : r->headers_out.content_length_n;

    if (r->headers_out.etag && r->headers_out.etag->hash) {
        ctx->response.etag = r->headers_out.etag->value;
    }
}


static ngx_int_t
ngx_http_idempotency_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_idempotency_checker(r);

    if (ctx) {
        return ngx_http_idempotency_check_body(r, ctx, in);
    }

    ctx = (r == r->main) ? ngx_http_idempotency_ctx(r) : NULL;

    if (ctx && ctx->state == NGX_HTTP_IDEMPOTENCY_CAPTURING) {
        return ngx_http_idempotency_collect(r, ctx, in);
    }

    if (ctx && ctx->state == NGX_HTTP_IDEMPOTENCY_COMMITTING) {
        return NGX_AGAIN;
    }

    if (ctx && ctx->state == NGX_HTTP_IDEMPOTENCY_COMMITTED) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_SETTLED);
        return ngx_http_idempotency_send(r, ctx);
    }

    if (ctx && ngx_http_idempotency_is_passing(ctx)) {
        ngx_http_idempotency_pass_body(r, ctx, in);
    }

    if (ctx && ctx->streaming) {
        return ngx_http_idempotency_stream(r, ctx, in);
    }

    return ngx_http_next_body_filter(r, in);
}


/* What is added here is in no record, as that has been made. */

static ngx_int_t
ngx_http_idempotency_next_header(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ctx) {
        ngx_http_idempotency_token_renew(r, ctx);
    }

    return ngx_http_next_header_filter(r);
}


/* What an upstream says to us in the header is not for the client. */

static void
ngx_http_idempotency_hide_override(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_table_elt_t                  *h;
    ngx_http_idempotency_place_t      pl;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);

    if (ctx == NULL && (ilcf->store == NULL || r != r->main)) {
        return;
    }

    pl.part = &r->headers_out.headers.part;
    pl.i = 0;

    for ( ;; ) {

        h = ngx_http_idempotency_next_field(&pl,
                                         &ngx_http_idempotency_override_name);
        if (h == NULL) {
            return;
        }

        h->hash = 0;
    }
}


/*
 * What nginx, some versions of it, passes on although nobody can tell what it
 * answers: an interim response for the final one, with that as its body, or a
 * length that is no number, or two of them.  Without a cleanup the upstream is
 * through, and the header at hand is somebody else's.
 */

ngx_uint_t
ngx_http_idempotency_is_broken(ngx_http_request_t *r)
{
    ngx_table_elt_t               *h, *length;
    ngx_http_upstream_t           *u;
    ngx_http_idempotency_place_t   pl;

    u = r->upstream;

    if (u == NULL || u->cleanup == NULL) {
        return 0;
    }

    if (r->headers_out.status < NGX_HTTP_OK) {
        return r->headers_out.status != NGX_HTTP_SWITCHING_PROTOCOLS;
    }

    length = u->headers_in.content_length;

    if (length == NULL || u->headers_in.chunked) {
        return 0;
    }

    pl.part = &u->headers_in.headers.part;
    pl.i = 0;

    do {
        h = ngx_http_idempotency_next_field(&pl, &length->key);
    } while (h && ngx_http_idempotency_same_name(&h->value, &length->value));

    return h || u->headers_in.content_length_n == -1;
}


/* The header: taken and withheld, or let through if it cannot be kept. */

static ngx_int_t
ngx_http_idempotency_capture(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    /* a range of it would be kept as the whole */

    r->allow_ranges = 0;

    if (ngx_http_idempotency_streams(r)
        || ctx->response.announced > (off_t) ctx->ilcf->max_response
        || ngx_http_idempotency_encode_fields(r, ctx) != NGX_OK)
    {
        ngx_http_idempotency_let_pass(r, ctx);
        return ngx_http_idempotency_pass_header(r, ctx);
    }

    r->filter_need_in_memory = 1;

    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_CAPTURING);

    return NGX_OK;
}


/* Answers that are to reach the client piece by piece, or have no end. */

static ngx_uint_t
ngx_http_idempotency_streams(ngx_http_request_t *r)
{
    static ngx_str_t  buffering = ngx_string("X-Accel-Buffering");
    static ngx_str_t  no = ngx_string("no");

    ngx_str_t                     *type;
    ngx_table_elt_t               *h;
    ngx_http_upstream_t           *u;
    ngx_http_idempotency_place_t   pl;

    u = r->upstream;
    type = &r->headers_out.content_type;

    if (r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS
        || (u && u->upgrade)
        || (type->len >= sizeof("text/event-stream") - 1
            && ngx_strncasecmp(type->data, (u_char *) "text/event-stream",
                               sizeof("text/event-stream") - 1)
               == 0))
    {
        return 1;
    }

    if (u == NULL) {
        return 0;
    }

    pl.part = &u->headers_in.headers.part;
    pl.i = 0;

    do {
        h = ngx_http_idempotency_next_field(&pl, &buffering);
    } while (h && !ngx_http_idempotency_same_name(&h->value, &no));

    return h != NULL;
}


/*
 * The body: always consumed, so that the client's pace is not the upstream's.
 */

static ngx_int_t
ngx_http_idempotency_collect(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in)
{
    size_t        size;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {

        b = cl->buf;
        size = ngx_buf_in_memory(b) ? (size_t) (b->last - b->pos) : 0;

        if (size > ctx->ilcf->max_response - ctx->response.size
            || ngx_http_idempotency_append(r, ctx, b) != NGX_OK)
        {
            return ngx_http_idempotency_overflow(r, ctx, cl);
        }

        if (b->last_buf) {
            return ngx_http_idempotency_end(r, ctx);
        }
    }

    if (ngx_http_idempotency_is_cut(r, ctx, in)) {
        return ngx_http_idempotency_cut(r, ctx);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_idempotency_append(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_buf_t *b)
{
    size_t      n;
    ngx_buf_t  *room;

    if (!ngx_buf_in_memory(b)) {
        return NGX_OK;
    }

    while (b->pos < b->last) {

        room = ngx_http_idempotency_room(r, ctx, b->last - b->pos);
        if (room == NULL) {
            return NGX_ERROR;
        }

        n = ngx_min(b->last - b->pos, room->end - room->last);

        room->last = ngx_cpymem(room->last, b->pos, n);
        b->pos += n;
        ctx->response.size += n;
    }

    return NGX_OK;
}


/*
 * A buffer with room left.  The first has the length the upstream announced;
 * without one they double from a page up to sixteen.
 */

static ngx_buf_t *
ngx_http_idempotency_room(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, size_t need)
{
    size_t                            size, left;
    ngx_chain_t                      *cl;
    ngx_http_idempotency_response_t  *rs;

    rs = &ctx->response;

    if (rs->room && rs->room->last < rs->room->end) {
        return rs->room;
    }

    left = ctx->ilcf->max_response - rs->size;

    if (rs->room == NULL && rs->announced > 0) {
        size = (size_t) rs->announced;

    } else {
        size = ngx_max(need, ngx_min(ngx_max(rs->size, ngx_pagesize),
                                     16 * ngx_pagesize));
    }

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NULL;
    }

    cl->buf = ngx_create_temp_buf(r->pool, ngx_min(size, left));
    if (cl->buf == NULL) {
        return NULL;
    }

    cl->next = NULL;

    *rs->last = cl;
    rs->last = &cl->next;
    rs->room = cl->buf;

    return rs->room;
}


/* More than can be kept: the claim ends or goes on without it. */

static ngx_int_t
ngx_http_idempotency_overflow(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *rest)
{
    ngx_int_t  rc;

    ngx_http_idempotency_let_pass(r, ctx);

    rc = ngx_http_idempotency_pass_header(r, ctx);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    *ctx->response.last = rest;

    return ngx_http_idempotency_body_filter(r, ctx->response.body);
}


/*
 * What is certain already is recorded before the client sees anything of it.
 * An answer after which the request may be run again, as its claim is released
 * or unknown, holds that until it has come whole.  The upstream is at work
 * until then, whatever was recorded: so guards are held.
 */

static void
ngx_http_idempotency_let_pass(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    uint32_t         ttl_s;
    ngx_idem_fate_e  fate;

    fate = ngx_http_idempotency_fate(r, ctx, 1, &ttl_s);

    if (fate != NGX_IDEM_FATE_STORE) {
        return;
    }

    if (ctx->guards) {
        ctx->guards->passing = 1;
    }

    ngx_http_idempotency_settle_now(ctx, fate, ttl_s);

    if (ctx->guards) {
        ngx_http_idempotency_renew_start(ctx);
    }
}


ngx_uint_t
ngx_http_idempotency_is_passing(ngx_http_idempotency_ctx_t *ctx)
{
    return ctx->state == NGX_HTTP_IDEMPOTENCY_PASSING
           || (ctx->state == NGX_HTTP_IDEMPOTENCY_SETTLED
               && ctx->guards && ctx->guards->passing);
}


/*
 * An upstream module ends an answer that broke off with a flush instead of a
 * last buffer, after it has let go of the upstream.
 */

ngx_uint_t
ngx_http_idempotency_is_cut(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in)
{
    ngx_uint_t            flush;
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (u == NULL || u == ctx->cut || !u->header_sent || u->cleanup) {
        return 0;
    }

    for (flush = 0; in; in = in->next) {

        if (in->buf->last_buf) {
            return 0;
        }

        flush |= in->buf->flush;
    }

    return flush;
}


/*
 * Nothing of it was sent, so a clean error can be.  The claim stays ours: an
 * error_page may still lead to an upstream that carries the request out.
 */

ngx_int_t
ngx_http_idempotency_cut(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                  "idempotency: the response broke off after %uz bytes",
                  ctx->response.size);

    ctx->cut = r->upstream;
    ctx->ncut = r->upstream_states ? r->upstream_states->nelts : 0;
    ctx->ahead = 0;

    ngx_http_clean_header(r);
    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_OWNED);

    return NGX_HTTP_BAD_GATEWAY;
}


static ngx_int_t
ngx_http_idempotency_end(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (!ngx_http_idempotency_is_whole(r, ctx)) {
        return ngx_http_idempotency_cut(r, ctx);
    }

    return ngx_http_idempotency_finish(r, ctx);
}


/*
 * A last buffer is not proof enough: nginx passes on what a FastCGI server
 * had said when it closed the connection, without a record that ends it.
 */

ngx_uint_t
ngx_http_idempotency_is_whole(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (ctx->response.announced > (off_t) ctx->response.size) {
        return 0;
    }

    if (u == NULL || u == ctx->cut || !u->header_sent) {
        return 1;
    }

    return ngx_http_idempotency_is_ended(u);
}


static ngx_uint_t
ngx_http_idempotency_is_ended(ngx_http_upstream_t *u)
{
    ngx_str_t  *module;

    module = &u->conf->module;

    if (module->len != sizeof("fastcgi") - 1
        || ngx_strncmp(module->data, "fastcgi", module->len) != 0)
    {
        return 1;
    }

    return u->buffering ? u->pipe->upstream_done : (u->length == 0);
}


/* The answer is whole: first the record, then the client. */

static ngx_int_t
ngx_http_idempotency_finish(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    uint32_t         ttl_s;
    ngx_idem_fate_e  fate;

    fate = ngx_http_idempotency_fate(r, ctx, 1, &ttl_s);

    if (fate == NGX_IDEM_FATE_STORE && !ctx->ilcf->acknowledge) {
        (void) ngx_http_idempotency_encode(r, ctx);
    }

    NGX_IDEM_POINT("whole");

    if (ctx->ending) {
        ngx_http_idempotency_settle_now(ctx, fate, ttl_s);

    } else if (ngx_http_idempotency_settle(ctx, fate, ttl_s) == NGX_AGAIN) {
        r->buffered |= NGX_HTTP_IDEMPOTENCY_BUFFERED;
        return NGX_AGAIN;
    }

    return ngx_http_idempotency_send(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_send(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    ngx_http_idempotency_set_length(r, ctx->response.size);
    ngx_http_idempotency_unshield(r, ctx);

    rc = ngx_http_idempotency_next_header(r, ctx);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    cl = ngx_alloc_chain_link(r->pool);

    if (b == NULL || cl == NULL) {
        return NGX_ERROR;
    }

    b->last_buf = 1;
    b->last_in_chain = 1;

    cl->buf = b;
    cl->next = NULL;

    *ctx->response.last = cl;

    return ngx_http_next_body_filter(r, ctx->response.body);
}


/* An answer that is only watched: a dry run, or nothing to be kept. */

static ngx_int_t
ngx_http_idempotency_pass_header(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (ctx->state != NGX_HTTP_IDEMPOTENCY_SETTLED) {
        ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_PASSING);
    }

    ctx->streaming = (r->upstream && !r->upstream->upgrade);

    ngx_http_idempotency_unshield(r, ctx);

    rc = ngx_http_idempotency_next_header(r, ctx);

    if (r->header_only) {
        ngx_http_idempotency_pass_end(r, ctx, 1);
    }

    if (rc == NGX_ERROR && ctx->streaming) {
        ngx_http_idempotency_drop_rest(ctx);
        return NGX_OK;
    }

    return rc;
}


static void
ngx_http_idempotency_pass_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in)
{
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {

        ctx->response.size += ngx_buf_size(cl->buf);

        if (cl->buf->last_buf) {
            ngx_http_idempotency_pass_end(r, ctx,
                                       ngx_http_idempotency_is_whole(r, ctx));
            break;
        }
    }

    if (ngx_http_idempotency_is_cut(r, ctx, in)) {
        ngx_http_idempotency_pass_end(r, ctx, 0);
    }
}


/* What was not passed on yet lies in a file, before a client that is slow. */

void
ngx_http_idempotency_all_said(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    size_t                size;
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (r->buffered && u->state) {
        size = (size_t) u->state->response_length;
        ctx->response.size = ngx_max(ctx->response.size, size);
    }

    ngx_http_idempotency_pass_end(r, ctx, ngx_http_idempotency_is_ended(u));
}


static void
ngx_http_idempotency_pass_end(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_uint_t complete)
{
    uint32_t         ttl_s;
    ngx_idem_fate_e  fate;

    if (!ngx_http_idempotency_is_passing(ctx)) {
        return;
    }

    if (ctx->state == NGX_HTTP_IDEMPOTENCY_SETTLED) {
        ctx->guards->passing = 0;
        ngx_http_idempotency_guards_let_go(ctx);

        if (ctx->event.timer_set) {
            ngx_del_timer(&ctx->event);
        }

        return;
    }

    fate = ngx_http_idempotency_fate(r, ctx, complete, &ttl_s);

    ngx_http_idempotency_settle_now(ctx, fate, ttl_s);
}


/*
 * A response on its way to a client that may leave: the upstream is not to
 * feel it.  Nobody reads what is left then; when the upstream is through, the
 * request ends as nginx would end it.
 */

static ngx_int_t
ngx_http_idempotency_stream(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in)
{
    ngx_int_t  rc;

    ngx_http_idempotency_guard_writer(r, ctx);

    if (!ctx->dropped) {

        rc = ngx_http_idempotency_lend(r, ctx, in);

        if (rc != NGX_ERROR) {
            return rc;
        }

        ngx_http_idempotency_drop_rest(ctx);
    }

    ngx_http_idempotency_drop(in);

    if (!ngx_http_idempotency_queued(r)) {
        ngx_http_idempotency_drop(ctx->lent);
    }

    ngx_http_idempotency_returned(r, ctx);

    if (ctx->state == NGX_HTTP_IDEMPOTENCY_SETTLED
        && r->upstream->cleanup == NULL)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* Passes buffers on and remembers those that do not come back at once. */

static ngx_int_t
ngx_http_idempotency_lend(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in)
{
    ngx_int_t  rc;

    if (ngx_chain_add_copy(r->pool, &ctx->lent, in) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_http_next_body_filter(r, in);

    ngx_http_idempotency_returned(r, ctx);

    return rc;
}


/* What was taken is no longer ours: behind us its owner fills it anew. */

static void
ngx_http_idempotency_returned(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_chain_t  *cl;

    while (ctx->lent && ngx_buf_size(ctx->lent->buf) == 0) {
        cl = ctx->lent;
        ctx->lent = cl->next;
        ngx_free_chain(r->pool, cl);
    }
}


/*
 * Whether buffers are in frames of HTTP/2 that are on their way.  Other streams
 * stand behind them, so what a frame has announced must come.  It comes, or
 * the connection ends: in both cases nginx calls the writer again.
 */

static ngx_uint_t
ngx_http_idempotency_queued(ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)

    return r->stream && r->stream->queued;

#else

    return 0;

#endif
}


/* The upstream waits for its buffers. */

static void
ngx_http_idempotency_drop(ngx_chain_t *cl)
{
    for ( /* void */ ; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }
}
