
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * A guard is on Redis alone, and so is its queue.  Who stands there hears of
 * the guard's channel, where the owner is said whose turn it is, and asks again
 * then, or after a second, so that Redis sees that its node is alive.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "core/ngx_idem_guard.h"
#include "store/ngx_idem_redis_task.h"


#define NGX_IDEM_REDIS_SEEN  1000       /* of a waiter, ms; it counts as dead
                                           after three times that */


static ngx_int_t ngx_idem_redis_ask_guard(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_held(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_granted(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict);
static ngx_int_t ngx_idem_redis_found(ngx_idem_redis_task_t *task,
    ngx_uint_t i, ngx_str_t *to);
static void ngx_idem_redis_queued(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_refused(ngx_idem_redis_task_t *task, ngx_int_t rc,
    ngx_idem_verdict_e verdict);
static void ngx_idem_redis_unnote(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_marked(ngx_idem_redis_task_t *task);
static ngx_int_t ngx_idem_redis_keep(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_left(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_looked(ngx_idem_redis_task_t *task);


/* One who was parked goes on with its task, which hears meanwhile. */

ngx_int_t
ngx_idem_redis_hold(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;
    op->guard = 1;

    if (op->local) {
        return rs->near->verbs->hold(rs->near, op);
    }

    task = op->task;

    if (task == NULL) {
        task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_HOLD,
                                   ngx_idem_redis_held);
        if (task == NULL) {
            return NGX_ERROR;
        }

        op->task = task;
    }

    if (op->pending.len <= NGX_IDEM_GUARD_PENDING
        && ngx_idem_redis_ask_guard(task) == NGX_OK)
    {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);
    ngx_idem_redis_unnote(task);

    return NGX_ERROR;
}


static ngx_int_t
ngx_idem_redis_ask_guard(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;

    ngx_idem_redis_wait_no_more(task);

    task->cmd.nargs = 5;
    task->cmd.wait = 1;

    ngx_idem_redis_set(task, 0, op->owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set_number(task, 1, op->lease_ms);
    ngx_idem_redis_set_number(task, 2, (uint64_t) op->unknown_s * 1000);
    ngx_idem_redis_set(task, 3, op->pending.data, op->pending.len);
    ngx_idem_redis_set_number(task, 4, ngx_min(op->max_waiters,
                                               NGX_IDEM_GUARD_QUEUE));

    return ngx_idem_redis_send_task(task);
}


/* Replicas have to acknowledge what is granted, as with a claim. */

static void
ngx_idem_redis_held(ngx_idem_redis_task_t *task)
{
    u_char                 letter;
    ngx_idem_redis_end_e   end;

    end = task->cmd.end;
    letter = ngx_idem_redis_letter(task);

    if (letter == 'B') {
        task->noted = (ngx_idem_redis_integer(task, 2) != 0);

    } else if (end != NGX_IDEM_REDIS_REFUSED && end != NGX_IDEM_REDIS_FAILED) {
        task->noted = 1;
    }

    if (task->op == NULL) {
        ngx_idem_redis_unnote(task);
        return;
    }

    if (letter == 'B') {
        ngx_idem_redis_queued(task);
        return;
    }

    if (end == NGX_IDEM_REDIS_REPLIED && letter == 'O') {
        ngx_idem_redis_granted(task, NGX_IDEM_OWNED);
        return;
    }

    if (end == NGX_IDEM_REDIS_REPLIED && letter == 'C') {
        ngx_idem_redis_granted(task, NGX_IDEM_CHECK);
        return;
    }

    if (end == NGX_IDEM_REDIS_FAILED) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "idempotency zone \"%V\": Redis cannot give a guard: "
                      "\"%V\"", &task->rs->store.name, &task->cmd.error);
    }

    ngx_idem_redis_refused(task, NGX_ERROR, NGX_IDEM_ABSENT);
}


/* O or C, fence value pending */

static void
ngx_idem_redis_granted(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict)
{
    ngx_idem_op_t  *op;

    op = task->op;

    if (ngx_idem_redis_found(task, 2, &op->value) != NGX_OK
        || (verdict == NGX_IDEM_CHECK
            && ngx_idem_redis_found(task, 3, &op->pending) != NGX_OK))
    {
        ngx_idem_redis_refused(task, NGX_ERROR, NGX_IDEM_ABSENT);
        return;
    }

    op->fence = (uint64_t) ngx_idem_redis_integer(task, 1);

    ngx_idem_redis_answer(task, NGX_OK, verdict);
}


static ngx_int_t
ngx_idem_redis_found(ngx_idem_redis_task_t *task, ngx_uint_t i, ngx_str_t *to)
{
    ngx_str_t  *str;

    if (i >= task->cmd.nvalues) {
        return NGX_ERROR;
    }

    str = &task->cmd.values[i].str;

    if (str->len == 0) {
        ngx_str_null(to);
        return NGX_OK;
    }

    to->len = str->len;
    to->data = ngx_pstrdup(task->op->pool, str);

    return to->data ? NGX_OK : NGX_ERROR;
}


/* B left place: when the lease ends it may be free, and nobody says so. */

static void
ngx_idem_redis_queued(ngx_idem_redis_task_t *task)
{
    int64_t  left_ms;

    if (!task->noted || task->op->max_waiters == 0) {
        ngx_idem_redis_refused(task, NGX_OK, NGX_IDEM_BUSY);
        return;
    }

    left_ms = ngx_idem_redis_integer(task, 1);

    ngx_idem_redis_wait(task, (left_ms > 0 && left_ms < NGX_IDEM_REDIS_SEEN)
                                  ? (ngx_msec_t) left_ms + 1
                                  : NGX_IDEM_REDIS_SEEN);
}


static void
ngx_idem_redis_refused(ngx_idem_redis_task_t *task, ngx_int_t rc,
    ngx_idem_verdict_e verdict)
{
    ngx_idem_op_t  *op;

    op = ngx_idem_redis_detach(task);

    ngx_idem_redis_unnote(task);
    ngx_idem_redis_call(op, rc, verdict);
}


void
ngx_idem_redis_unhold(ngx_idem_redis_task_t *task)
{
    (void) ngx_idem_redis_detach(task);

    if (!task->sent) {
        ngx_idem_redis_unnote(task);
    }
}


/* What Redis may have noted is as if nobody had asked: on Redis it ends. */

static void
ngx_idem_redis_unnote(ngx_idem_redis_task_t *task)
{
    if (!task->noted) {
        ngx_idem_redis_free(task);
        return;
    }

    task->verb = NGX_IDEM_REDIS_LEAVE;
    task->handler = ngx_idem_redis_left;
    task->until_ms = ngx_current_msec + task->own.lease_ms;
    task->lease_ms = task->until_ms;

    task->cmd.nargs = 6;
    task->cmd.wait = 0;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, NULL, 0);
    ngx_idem_redis_set(task, 2, NULL, 0);
    ngx_idem_redis_set_number(task, 3, 0);
    ngx_idem_redis_set(task, 4, task->channel.data, task->channel.len);
    ngx_idem_redis_set_number(task, 5, 1);

    if (ngx_idem_redis_send_task(task) != NGX_OK) {
        ngx_idem_redis_later(task);
    }
}


/* What it is about to do must be known to all before it does it. */

ngx_int_t
ngx_idem_redis_mark(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->mark(rs->near, op);
    }

    if (op->value.len > NGX_IDEM_GUARD_VALUE
        || op->pending.len > NGX_IDEM_GUARD_PENDING)
    {
        return NGX_ERROR;
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_MARK,
                               ngx_idem_redis_marked);
    if (task == NULL) {
        return NGX_ERROR;
    }

    task->cmd.nargs = 3;
    task->cmd.wait = 1;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, op->value.data, op->value.len);
    ngx_idem_redis_set(task, 2, op->pending.data, op->pending.len);

    if (ngx_idem_redis_send_task(task) != NGX_OK) {
        ngx_idem_redis_free(task);
        return NGX_ERROR;
    }

    op->task = task;

    return NGX_AGAIN;
}


static void
ngx_idem_redis_marked(ngx_idem_redis_task_t *task)
{
    u_char  letter;

    letter = ngx_idem_redis_letter(task);

    if (letter == 'L') {
        ngx_idem_redis_answer(task, NGX_OK, NGX_IDEM_LOST);
        return;
    }

    ngx_idem_redis_answer(task, (task->cmd.end == NGX_IDEM_REDIS_REPLIED
                                 && letter == 'O') ? NGX_OK : NGX_ERROR,
                          NGX_IDEM_OWNED);
}


/* What Redis does not take is told again, as long as the lease may stand. */

ngx_int_t
ngx_idem_redis_leave(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->leave(rs->near, op);
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_LEAVE,
                               ngx_idem_redis_left);
    if (task == NULL) {
        return NGX_ERROR;
    }

    if (ngx_idem_redis_keep(task) != NGX_OK) {
        ngx_idem_redis_free(task);
        return NGX_ERROR;
    }

    op->task = task;

    if (ngx_idem_redis_send_task(task) == NGX_OK) {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);
    op->verdict = NGX_IDEM_ABSENT;

    ngx_idem_redis_later(task);

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_keep(ngx_idem_redis_task_t *task)
{
    ngx_uint_t   i;
    ngx_str_t   *str[2];

    str[0] = &task->own.value;
    str[1] = &task->own.pending;

    if (str[0]->len > NGX_IDEM_GUARD_VALUE
        || str[1]->len > NGX_IDEM_GUARD_PENDING)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < 2; i++) {

        if (str[i]->len) {
            str[i]->data = ngx_pstrdup(task->pool, str[i]);

            if (str[i]->data == NULL) {
                return NGX_ERROR;
            }
        }

        ngx_idem_redis_set(task, i + 1, str[i]->data, str[i]->len);
    }

    task->cmd.nargs = 6;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set_number(task, 3,
                              (uint64_t) task->own.outcome.ttl_s * 1000);
    ngx_idem_redis_set(task, 4, task->channel.data, task->channel.len);
    ngx_idem_redis_set_number(task, 5, 0);

    return NGX_OK;
}


static void
ngx_idem_redis_left(ngx_idem_redis_task_t *task)
{
    u_char          letter;
    ngx_idem_op_t  *op;

    letter = ngx_idem_redis_letter(task);

    if (letter == 0) {
        op = ngx_idem_redis_detach(task);

        ngx_idem_redis_later(task);
        ngx_idem_redis_call(op, NGX_OK, NGX_IDEM_ABSENT);
        return;
    }

    ngx_idem_redis_delivered(task);
    ngx_idem_redis_answer(task, NGX_OK, (letter == 'A') ? NGX_IDEM_ABSENT
                                                        : NGX_IDEM_LOST);
}


/* What the zone has for certain is the same on Redis. */

ngx_int_t
ngx_idem_redis_look(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_int_t               rc;
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    rc = rs->near->verbs->look(rs->near, op);

    if (op->local
        || (rc == NGX_OK && (op->verdict == NGX_IDEM_DONE
                             || op->verdict == NGX_IDEM_UNSTORED)))
    {
        return rc;
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_LOAD,
                               ngx_idem_redis_looked);
    if (task == NULL) {
        return NGX_ERROR;
    }

    task->cmd.nargs = 1;

    ngx_idem_redis_set_number(task, 0, 0);

    if (ngx_idem_redis_send_task(task) != NGX_OK) {
        ngx_idem_redis_free(task);
        return NGX_ERROR;
    }

    op->task = task;

    return NGX_AGAIN;
}


/* B, D, S or U, then status age; or A */

static void
ngx_idem_redis_looked(ngx_idem_redis_task_t *task)
{
    u_char               letter;
    ngx_idem_op_t       *op;
    ngx_idem_verdict_e   verdict;

    op = task->op;
    letter = ngx_idem_redis_letter(task);

    verdict = (letter == 'B') ? NGX_IDEM_BUSY
              : (letter == 'D') ? NGX_IDEM_DONE
              : (letter == 'S') ? NGX_IDEM_UNSTORED
              : (letter == 'U') ? NGX_IDEM_UNKNOWN
              : NGX_IDEM_ABSENT;

    if (op) {
        op->status = (ngx_uint_t) ngx_idem_redis_integer(task, 1);
        op->age_ms = (uint64_t) ngx_idem_redis_integer(task, 2);
    }

    ngx_idem_redis_answer(task, letter ? NGX_OK : NGX_ERROR, verdict);
}
