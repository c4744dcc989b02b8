
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What becomes of a claim: Redis is told first, then the zone.  What Redis does
 * not take is kept, and told until it is taken.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_task.h"
#include "store/ngx_idem_redis_frame.h"


#define NGX_IDEM_REDIS_AGAIN    100            /* the first pause, ms */
#define NGX_IDEM_REDIS_SELDOM   2000           /* the longest one */
#define NGX_IDEM_REDIS_ARREARS  (64 * 1024 * 1024)


static void ngx_idem_redis_renewed(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_copy(ngx_idem_redis_task_t *task);
static ngx_int_t ngx_idem_redis_tell(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_completed(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_taken(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict);
static ngx_int_t ngx_idem_redis_untell(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_released(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_later_handler(ngx_event_t *ev);


/* The zone's lease and Redis' are renewed together. */

ngx_int_t
ngx_idem_redis_renew(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_int_t               rc;
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->guard && !op->local) {          /* the zone has none */
        rc = NGX_OK;
        op->verdict = NGX_IDEM_OWNED;

    } else {
        rc = rs->near->verbs->renew(rs->near, op);
    }

    if (op->local) {
        return rc;
    }

    /* the zone may have been another one's: Redis tells whether it is lost */

    op->verdict = NGX_IDEM_OWNED;

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_RENEW,
                               ngx_idem_redis_renewed);
    if (task == NULL) {
        return NGX_ERROR;
    }

    if (!op->sure) {
        task->op = NULL;
    }

    task->cmd.nargs = 2;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set_number(task, 1, op->lease_ms);

    if (ngx_idem_redis_send_task(task) != NGX_OK) {
        ngx_idem_redis_free(task);
        return op->sure ? NGX_ERROR : rc;
    }

    if (op->sure) {
        op->task = task;
        return NGX_AGAIN;
    }

    return rc;
}


static void
ngx_idem_redis_renewed(ngx_idem_redis_task_t *task)
{
    u_char  letter;

    letter = ngx_idem_redis_letter(task);

    if (letter == 'L') {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency: a lease had ended on Redis while its "
                      "request runs");
    }

    ngx_idem_redis_answer(task, letter ? NGX_OK : NGX_ERROR,
                          (letter == 'L') ? NGX_IDEM_LOST : NGX_IDEM_OWNED);
}


ngx_int_t
ngx_idem_redis_complete(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->complete(rs->near, op);
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_COMPLETE,
                               ngx_idem_redis_completed);
    if (task == NULL) {
        return NGX_ERROR;
    }

    task->near = 1;
    task->until_ms = ngx_current_msec + (uint64_t) op->outcome.ttl_s * 1000;

    ngx_idem_redis_copy(task);

    op->task = task;

    if (ngx_idem_redis_tell(task) == NGX_OK) {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);

    ngx_idem_redis_near_complete(task, 0);
    op->verdict = task->own.verdict;
    task->counted = 1;

    ngx_idem_redis_later(task);

    return NGX_OK;
}


/*
 * The record in one piece: it is sent again if need be.  One that is too large
 * for a command, or for the memory there is, is not kept.
 */

static void
ngx_idem_redis_copy(ngx_idem_redis_task_t *task)
{
    u_char         *p;
    ngx_chain_t    *cl;
    ngx_idem_op_t  *op;

    op = task->op;

    if (op->outcome.state != NGX_IDEM_STATE_DONE) {
        return;
    }

    p = NULL;

    if (op->size <= NGX_IDEM_REDIS_RECORD) {
        p = ngx_palloc(task->pool, NGX_IDEM_REDIS_FRAME + op->size);
    }

    if (p == NULL) {
        task->own.outcome.state = NGX_IDEM_STATE_UNSTORED;
        return;
    }

    task->record.data = p;
    task->record.len = NGX_IDEM_REDIS_FRAME + op->size;

    p += NGX_IDEM_REDIS_FRAME;

    for (cl = op->record; cl; cl = cl->next) {
        p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
    }

    ngx_idem_redis_frame(&task->record);
}


/* Sends an outcome. */

static ngx_int_t
ngx_idem_redis_tell(ngx_idem_redis_task_t *task)
{
    u_char              *state;
    ngx_idem_outcome_t  *oc;

    oc = &task->own.outcome;

    state = (oc->state == NGX_IDEM_STATE_DONE) ? (u_char *) "d"
            : (oc->state == NGX_IDEM_STATE_UNSTORED) ? (u_char *) "u"
            : (u_char *) "k";

    task->cmd.nargs = 8;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, state, 1);
    ngx_idem_redis_set_number(task, 2, (uint64_t) oc->ttl_s * 1000);
    ngx_idem_redis_set_number(task, 3, oc->status);
    ngx_idem_redis_set_number(task, 4, oc->dry);
    ngx_idem_redis_set(task, 5, task->record.data, task->record.len);
    ngx_idem_redis_set(task, 6, NULL, 0);
    ngx_idem_redis_set(task, 7, task->channel.data, task->channel.len);

    if (oc->until_ms) {
        ngx_idem_redis_set_number(task, 6, oc->until_ms);
    }

    return ngx_idem_redis_send_task(task);
}


static void
ngx_idem_redis_completed(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t       *op;
    ngx_idem_verdict_e   verdict;

    switch (ngx_idem_redis_letter(task)) {

    case 'D':
        ngx_idem_redis_near_complete(task, 1);
        ngx_idem_redis_taken(task, NGX_IDEM_DONE);
        return;

    case 'S':
        ngx_idem_redis_near_complete(task, 1);
        ngx_idem_redis_taken(task, NGX_IDEM_UNSTORED);
        return;

    case 'U':
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_taken(task, NGX_IDEM_UNKNOWN);
        return;

    case 'L':
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_taken(task, NGX_IDEM_LOST);
        return;

    default:
        break;
    }

    /* Redis has not taken it: the zone keeps it meanwhile */

    ngx_idem_redis_near_complete(task, 0);

    op = ngx_idem_redis_detach(task);
    verdict = task->own.verdict;

    task->counted |= (op != NULL);

    ngx_idem_redis_later(task);
    ngx_idem_redis_call(op, NGX_OK, verdict);
}


void
ngx_idem_redis_delivered(ngx_idem_redis_task_t *task)
{
    if (task->pause) {
        ngx_idem_redis_stat_add(task->rs->stat,
                                NGX_IDEM_REDIS_COUNT_DELIVERED);
    }
}


/* Who does not wait for the answer does not count it either. */

static void
ngx_idem_redis_taken(ngx_idem_redis_task_t *task, ngx_idem_verdict_e verdict)
{
    ngx_idem_stat_e   stat;
    ngx_idem_store_t  *st;

    st = &task->rs->store;

    ngx_idem_redis_delivered(task);

    if (task->op == NULL && (!task->counted || verdict == NGX_IDEM_LOST)) {
        stat = (verdict == NGX_IDEM_DONE) ? NGX_IDEM_STAT_DONE
               : (verdict == NGX_IDEM_UNSTORED) ? NGX_IDEM_STAT_UNSTORED
               : (verdict == NGX_IDEM_UNKNOWN) ? NGX_IDEM_STAT_UNKNOWN
               : (verdict == NGX_IDEM_ABSENT) ? NGX_IDEM_STAT_RELEASED
               : NGX_IDEM_STAT_LOST;

        ngx_idem_stat_add(st, stat);
    }

    ngx_idem_redis_answer(task, NGX_OK, verdict);
}


void
ngx_idem_redis_near_complete(ngx_idem_redis_task_t *task, ngx_uint_t cached)
{
    uint64_t           until_ms;
    ngx_buf_t          b;
    ngx_chain_t        cl;
    ngx_idem_op_t     *own;
    ngx_idem_store_t  *near;

    if (!task->near) {
        return;
    }

    own = &task->own;
    near = task->rs->near;

    if (task->record.len) {
        ngx_memzero(&b, sizeof(ngx_buf_t));
        b.pos = task->record.data + NGX_IDEM_REDIS_FRAME;
        b.last = task->record.data + task->record.len;

        cl.buf = &b;
        cl.next = NULL;

        own->record = &cl;
        own->size = b.last - b.pos;
    }

    until_ms = own->outcome.until_ms;

    own->cached = cached;
    own->outcome.until_ms = 0;

    /* no longer than on Redis: its life there may have begun then */

    if (task->said_ms && own->outcome.state != NGX_IDEM_STATE_UNKNOWN) {
        own->outcome.until_ms = task->said_ms
                                + (uint64_t) own->outcome.ttl_s * 1000;
    }

    (void) near->verbs->complete(near, own);

    own->outcome.until_ms = until_ms;
    own->record = NULL;
    task->near = 0;
}


ngx_int_t
ngx_idem_redis_release(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->release(rs->near, op);
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_RELEASE,
                               ngx_idem_redis_released);
    if (task == NULL) {
        return NGX_ERROR;
    }

    op->task = task;
    task->near = 1;

    if (ngx_idem_redis_untell(task) == NGX_OK) {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);
    op->verdict = NGX_IDEM_ABSENT;
    task->counted = 1;

    ngx_idem_redis_near_release(task);
    ngx_idem_redis_later(task);

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_untell(ngx_idem_redis_task_t *task)
{
    task->cmd.nargs = 3;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, task->channel.data, task->channel.len);
    ngx_idem_redis_set_number(task, 2, task->unused);

    return ngx_idem_redis_send_task(task);
}


static void
ngx_idem_redis_released(ngx_idem_redis_task_t *task)
{
    u_char          letter;
    ngx_idem_op_t  *op;

    ngx_idem_redis_near_release(task);

    letter = ngx_idem_redis_letter(task);

    if (letter == 0) {
        op = ngx_idem_redis_detach(task);
        task->counted |= (op != NULL);

        ngx_idem_redis_later(task);
        ngx_idem_redis_call(op, NGX_OK, NGX_IDEM_ABSENT);
        return;
    }

    if (task->counted) {
        ngx_idem_redis_delivered(task);
        ngx_idem_redis_free(task);
        return;
    }

    ngx_idem_redis_taken(task, (letter == 'A') ? NGX_IDEM_ABSENT
                                               : NGX_IDEM_LOST);
}


void
ngx_idem_redis_give_back(ngx_idem_redis_task_t *task)
{
    task->verb = NGX_IDEM_REDIS_RELEASE;
    task->handler = ngx_idem_redis_released;
    task->counted = 1;
    task->unused = 1;
    task->cmd.wait = 0;
    task->until_ms = ngx_current_msec + task->own.lease_ms;

    ngx_idem_redis_near_release(task);

    if (ngx_idem_redis_untell(task) != NGX_OK) {
        ngx_idem_redis_later(task);
    }
}


/*
 * A worker that shuts down waits for that as long as the lease may stand; then
 * Redis would not take it.
 */

void
ngx_idem_redis_later(ngx_idem_redis_task_t *task)
{
    if (task->pause == 0) {
        task->rs->arrears += task->record.len;
        ngx_idem_redis_stat_undelivered(task->rs->stat, 1,
                                        (off_t) task->record.len);
        task->pause = NGX_IDEM_REDIS_AGAIN / 2;
    }

    if (task->until_ms <= ngx_current_msec
        || task->rs->arrears > NGX_IDEM_REDIS_ARREARS)
    {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "idempotency zone \"%V\": Redis has not taken an "
                      "outcome, and will not be told any more",
                      &task->rs->store.name);
        ngx_idem_redis_stat_add(task->rs->stat,
                                NGX_IDEM_REDIS_COUNT_ABANDONED);
        ngx_idem_redis_free(task);
        return;
    }

    task->pause = ngx_min(task->pause * 2, NGX_IDEM_REDIS_SELDOM);
    task->event.handler = ngx_idem_redis_later_handler;
    task->event.cancelable = (task->lease_ms <= ngx_current_msec);

    ngx_add_timer(&task->event, task->pause);
}


static void
ngx_idem_redis_later_handler(ngx_event_t *ev)
{
    ngx_connection_t       *c;
    ngx_idem_redis_task_t  *task;

    c = ev->data;
    task = c->data;

    if (ngx_idem_redis_send_task(task) != NGX_OK) {
        ngx_idem_redis_later(task);
    }
}
