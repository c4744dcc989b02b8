
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * A claim, from the zone to Redis and back.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_task.h"
#include "store/ngx_idem_redis_frame.h"


#define NGX_IDEM_REDIS_POLL  1000       /* of a waiter, ms, at most */


static ngx_int_t ngx_idem_redis_claim_near(ngx_idem_redis_t *rs,
    ngx_idem_op_t *op, ngx_idem_verdict_e *verdict);
static ngx_uint_t ngx_idem_redis_disputed(ngx_idem_op_t *op);
static ngx_int_t ngx_idem_redis_ask(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_claimed(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_owned(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict);
static void ngx_idem_redis_checks(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_busy(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_finished(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict);
static ngx_int_t ngx_idem_redis_fetch(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_unclaimed(ngx_idem_redis_task_t *task);
static ngx_uint_t ngx_idem_redis_is_foreign(ngx_idem_redis_cmd_t *cmd);


/*
 * One who waits for another node has the identity in the zone, keeps it, and
 * asks again.
 */

ngx_int_t
ngx_idem_redis_claim(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_int_t               rc;
    ngx_uint_t              near;
    ngx_idem_redis_t       *rs;
    ngx_idem_verdict_e      before;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->claim(rs->near, op);
    }

    if (op->task) {
        (void) rs->near->verbs->renew(rs->near, op);
        return ngx_idem_redis_ask(op->task);
    }

    rc = ngx_idem_redis_claim_near(rs, op, &before);

    if (rc != NGX_OK
        || (op->verdict != NGX_IDEM_OWNED && !ngx_idem_redis_disputed(op)))
    {
        return rc;
    }

    near = (op->verdict == NGX_IDEM_OWNED);

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_CLAIM,
                               ngx_idem_redis_claimed);

    if (task == NULL) {
        (void) rs->near->verbs->release(rs->near, op);
        return NGX_ERROR;
    }

    op->by = st->kind;
    op->task = task;
    task->near = near;
    task->doubt = (before == NGX_IDEM_UNKNOWN);

    return ngx_idem_redis_ask(task);
}


/* Redis knows better what the zone does not know. */

static ngx_int_t
ngx_idem_redis_claim_near(ngx_idem_redis_t *rs, ngx_idem_op_t *op,
    ngx_idem_verdict_e *before)
{
    ngx_int_t           rc;
    ngx_flag_t          known;
    ngx_idem_unknown_e  on_unknown;

    known = op->known;
    on_unknown = op->on_unknown;

    op->known = 0;
    op->on_unknown = NGX_IDEM_UNKNOWN_RETRY;
    op->outcome.state = NGX_IDEM_STATE_ABSENT;

    rc = rs->near->verbs->claim(rs->near, op);

    op->known = known;
    op->on_unknown = on_unknown;

    *before = (op->outcome.state == NGX_IDEM_STATE_UNKNOWN)
                  ? NGX_IDEM_UNKNOWN : NGX_IDEM_ABSENT;

    return rc;
}


/*
 * Another request has the identity in the zone.  Unless it has ended, Redis may
 * not have granted it that: perhaps it is the one that is wrong.  Whoever asks
 * then does not have the identity in the zone.
 */

static ngx_uint_t
ngx_idem_redis_disputed(ngx_idem_op_t *op)
{
    return op->verdict == NGX_IDEM_MISMATCH
           && op->outcome.state != NGX_IDEM_STATE_DONE
           && op->outcome.state != NGX_IDEM_STATE_UNSTORED;
}


static ngx_int_t
ngx_idem_redis_ask(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;

    ngx_idem_redis_wait_no_more(task);

    task->cmd.nargs = 7;
    task->cmd.wait = 1;

    ngx_idem_redis_set(task, 0, op->owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, op->fingerprint, NGX_IDEM_DIGEST_LEN);
    ngx_idem_redis_set_number(task, 2, op->lease_ms);
    ngx_idem_redis_set_number(task, 3, (uint64_t) op->unknown_s * 1000);
    ngx_idem_redis_set_number(task, 4, op->on_unknown);
    ngx_idem_redis_set_number(task, 5, op->max_waiters != 0);
    ngx_idem_redis_set_number(task, 6, op->known != 0);

    if (ngx_idem_redis_send_task(task) == NGX_OK) {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);
    ngx_idem_redis_near_release(task);
    ngx_idem_redis_free(task);

    return NGX_ERROR;
}


/*
 * Redis has answered a claim.  Replicas have to acknowledge what is granted;
 * what there was before needs none.
 */

static void
ngx_idem_redis_claimed(ngx_idem_redis_task_t *task)
{
    u_char  letter;

    letter = ngx_idem_redis_letter(task);

    if (task->cmd.end == NGX_IDEM_REDIS_TOO_FEW
        && (letter == 'O' || letter == 'C'))
    {
        ngx_idem_redis_unclaimed(task);
        return;
    }

    switch (letter) {

    case 'O':
        ngx_idem_redis_owned(task, NGX_IDEM_OWNED);
        return;

    case 'C':
        ngx_idem_redis_owned(task, NGX_IDEM_CHECK);
        return;

    case 'B':
        ngx_idem_redis_busy(task);
        return;

    case 'D':
        ngx_idem_redis_finished(task, NGX_IDEM_DONE);
        return;

    case 'S':
        ngx_idem_redis_finished(task, NGX_IDEM_UNSTORED);
        return;

    case 'U':
        ngx_idem_redis_finished(task, NGX_IDEM_UNKNOWN);
        return;

    case 'M':
        ngx_idem_redis_finished(task, NGX_IDEM_MISMATCH);
        return;

    case 'A':
        ngx_idem_redis_finished(task, NGX_IDEM_ABSENT);
        return;

    default:
        ngx_idem_redis_unclaimed(task);
        return;
    }
}


/* If nobody wants it any more, it is given back. */

static void
ngx_idem_redis_owned(ngx_idem_redis_task_t *task, ngx_idem_verdict_e verdict)
{
    ngx_idem_op_t  *op;

    op = task->op;

    if (op == NULL) {
        ngx_idem_redis_give_back(task);
        return;
    }

    op->fence = (uint64_t) ngx_idem_redis_integer(task, 1);

    if (verdict == NGX_IDEM_CHECK) {
        ngx_idem_redis_checks(task);

    } else {
        op->outcome.state = ngx_idem_redis_integer(task, 2)
                                ? NGX_IDEM_STATE_UNKNOWN
                                : NGX_IDEM_STATE_ABSENT;
    }

    ngx_idem_redis_answer(task, NGX_OK, verdict);
}


/*
 * C fence age status born life: what it was goes back as it was, unless it is
 * found out.  A record lives whole seconds, and its end is told apart from it.
 */

static void
ngx_idem_redis_checks(ngx_idem_redis_task_t *task)
{
    int64_t              born_ms, life_ms;
    ngx_idem_op_t       *op;
    ngx_idem_outcome_t  *oc;

    op = task->op;
    oc = &op->outcome;

    born_ms = ngx_idem_redis_integer(task, 4);
    life_ms = ngx_idem_redis_integer(task, 5);

    op->age_ms = (uint64_t) ngx_idem_redis_integer(task, 2);

    oc->state = NGX_IDEM_STATE_UNKNOWN;
    oc->status = (uint16_t) ngx_idem_redis_integer(task, 3);
    oc->dry = 0;
    oc->ttl_s = (uint32_t) ((life_ms + 999) / 1000);
    oc->until_ms = (uint64_t) (born_ms + life_ms);
}


/*
 * Another node has it.  One who may wait keeps the identity in the zone, so
 * that the others of this node wait for him.
 */

static void
ngx_idem_redis_busy(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;

    if (op && op->max_waiters && !task->doubt) {
        ngx_idem_redis_wait(task, ngx_min(op->lease_ms / 3,
                                          NGX_IDEM_REDIS_POLL));
        return;
    }

    /* the zone has seen that its owner is dead, Redis waits for the lease */

    ngx_idem_redis_finished(task, (task->doubt
                                   && task->own.on_unknown
                                      == NGX_IDEM_UNKNOWN_REFUSE)
                                      ? NGX_IDEM_UNKNOWN : NGX_IDEM_BUSY);
}


/* It has a record, which the zone gets, too, if that is an answer. */

static void
ngx_idem_redis_finished(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict)
{
    ngx_idem_op_t  *op;

    op = task->op;

    if (verdict == NGX_IDEM_DONE && ngx_idem_redis_fetch(task) != NGX_OK) {
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_answer(task, NGX_ERROR, NGX_IDEM_DONE);
        return;
    }

    ngx_idem_redis_near_release(task);

    if (op && (verdict == NGX_IDEM_DONE || verdict == NGX_IDEM_UNSTORED)) {
        op->status = (ngx_uint_t) ngx_idem_redis_integer(task, 1);
        op->age_ms = (uint64_t) ngx_idem_redis_integer(task, 2);
        op->fence = (uint64_t) ngx_idem_redis_integer(task, 4);
        op->dry = ngx_idem_redis_integer(task, 5) != 0;
    }

    if (op && verdict == NGX_IDEM_UNKNOWN && !task->doubt) {
        op->age_ms = (uint64_t) ngx_idem_redis_integer(task, 1);
    }

    ngx_idem_redis_answer(task, NGX_OK, verdict);
}


/* D status age left fence dry record */

static ngx_int_t
ngx_idem_redis_fetch(ngx_idem_redis_task_t *task)
{
    int64_t           left_ms;
    ngx_str_t         record;
    ngx_buf_t         b;
    ngx_chain_t       cl;
    ngx_idem_op_t    *op, *own;
    ngx_idem_store_t *near;

    op = task->op;
    own = &task->own;
    near = task->rs->near;

    if (task->cmd.nvalues < 7) {
        return NGX_ERROR;
    }

    record = task->cmd.values[6].str;

    if (ngx_idem_redis_unframe(&record) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "idempotency: a record of Redis is damaged or foreign");
        return NGX_ERROR;
    }

    if (op) {
        op->stored.len = record.len;
        op->stored.data = ngx_pstrdup(op->pool, &record);

        if (op->stored.data == NULL) {
            return NGX_ERROR;
        }
    }

    left_ms = ngx_idem_redis_integer(task, 3);

    ngx_memzero(&b, sizeof(ngx_buf_t));
    b.pos = record.data;
    b.last = record.data + record.len;

    cl.buf = &b;
    cl.next = NULL;

    own->record = &cl;
    own->size = record.len;
    own->cached = 1;
    own->outcome.state = NGX_IDEM_STATE_DONE;
    own->outcome.status = (uint16_t) ngx_idem_redis_integer(task, 1);
    own->outcome.dry = 0;
    own->outcome.ttl_s = (uint32_t)
                         ((left_ms + ngx_idem_redis_integer(task, 2)) / 1000);
    own->outcome.until_ms = task->said_ms + (uint64_t) left_ms;

    /* Redis has told what was left some time ago */

    if (own->outcome.until_ms > ngx_current_msec
        && near->verbs->complete(near, own) == NGX_OK)
    {
        task->near = 0;
    }

    own->record = NULL;

    return NGX_OK;
}


/*
 * No answer, or none that says who has it.  Perhaps we do, or do with fewer
 * replicas than the operator wants: then it is given back.
 */

static void
ngx_idem_redis_unclaimed(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t         *op;
    ngx_idem_verdict_e     verdict;
    ngx_idem_redis_end_e   end;

    end = task->cmd.end;

    if (end == NGX_IDEM_REDIS_REFUSED || end == NGX_IDEM_REDIS_FAILED) {

        verdict = ngx_idem_redis_is_foreign(&task->cmd) ? NGX_IDEM_DONE
                                                        : NGX_IDEM_ABSENT;

        ngx_idem_redis_near_release(task);
        ngx_idem_redis_answer(task, NGX_ERROR, verdict);
        return;
    }

    op = ngx_idem_redis_detach(task);

    ngx_idem_redis_give_back(task);
    ngx_idem_redis_call(op, NGX_ERROR, NGX_IDEM_ABSENT);
}


/*
 * A script that fails has found something that is no record: perhaps there
 * was one in its place.
 */

static ngx_uint_t
ngx_idem_redis_is_foreign(ngx_idem_redis_cmd_t *cmd)
{
    ngx_str_t  *error;

    error = &cmd->error;

    if (cmd->end != NGX_IDEM_REDIS_FAILED
        || (!ngx_idem_redis_says(error, "ERR")
            && !ngx_idem_redis_says(error, "WRONGTYPE")))
    {
        return 0;
    }

    ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                  "idempotency: a record of Redis is damaged or foreign: "
                  "\"%V\"", error);

    return 1;
}
