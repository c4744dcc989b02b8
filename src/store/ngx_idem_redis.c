
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis.h"
#include "store/ngx_idem_redis_scripts.h"


#define NGX_IDEM_REDIS_KEY       (2 * NGX_IDEM_DIGEST_LEN)
#define NGX_IDEM_REDIS_POOL      2048
#define NGX_IDEM_REDIS_POLL      1000           /* of a waiter, ms */
#define NGX_IDEM_REDIS_AGAIN     100            /* the first pause, ms */
#define NGX_IDEM_REDIS_SELDOM    2000           /* the longest one */
#define NGX_IDEM_REDIS_ARREARS   (64 * 1024 * 1024)


typedef struct {
    ngx_idem_store_t            store;          /* first: the same address */
    ngx_idem_store_t           *near;
    ngx_idem_redis_conf_t      *conf;
    ngx_idem_redis_client_t    *client;         /* of this process */
    size_t                      arrears;        /* bytes of outcomes that
                                                   Redis has not taken yet */
} ngx_idem_redis_t;


/*
 * A verb under way, in a pool of its own: it goes on whatever becomes of op.
 *
 *   op      whose it is; NULL: nobody waits for its answer
 *   own     the same for the near store, when op may be gone
 *   sent    the command is under way
 *   near    the identity is ours in the zone
 *   kept    the zone has the outcome, Redis has not
 *   doubt   the zone did not know what became of the last claim
 */

typedef struct {
    ngx_idem_redis_cmd_t        cmd;
    ngx_idem_redis_sub_t        sub;
    ngx_event_t                 event;          /* poll, or once more */
    ngx_connection_t            dummy;          /* of the event, for logs */
    ngx_idem_redis_t           *rs;
    ngx_pool_t                 *pool;
    ngx_idem_op_t              *op;
    ngx_idem_op_t               own;
    ngx_idem_redis_verb_e       verb;
    ngx_msec_t                  pause;
    uint64_t                    until_ms;       /* of use */
    uint64_t                    lease_ms;       /* end of the lease */
    ngx_str_t                   record;         /* framed */

    u_char                      key[NGX_IDEM_REDIS_KEY];
    ngx_str_t                   channel;        /* with the prefix */
    u_char                      numbers[8][NGX_INT64_LEN];

    unsigned                    sent:1;
    unsigned                    near:1;
    unsigned                    kept:1;
    unsigned                    doubt:1;
    unsigned                    waits:1;
} ngx_idem_redis_task_t;


static ngx_int_t ngx_idem_redis_claim(ngx_idem_store_t *st,
    ngx_idem_op_t *op);
static ngx_int_t ngx_idem_redis_claim_near(ngx_idem_redis_t *rs,
    ngx_idem_op_t *op, ngx_idem_verdict_e *verdict);
static ngx_int_t ngx_idem_redis_ask(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_claimed(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_owned(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_busy(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_finished(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict);
static ngx_int_t ngx_idem_redis_fetch(ngx_idem_redis_task_t *task);
static ngx_int_t ngx_idem_redis_unframe(ngx_str_t *s);
static void ngx_idem_redis_unclaimed(ngx_idem_redis_task_t *task);
static ngx_uint_t ngx_idem_redis_is_foreign(ngx_idem_redis_cmd_t *cmd);

static ngx_int_t ngx_idem_redis_renew(ngx_idem_store_t *st,
    ngx_idem_op_t *op);
static ngx_int_t ngx_idem_redis_complete(ngx_idem_store_t *st,
    ngx_idem_op_t *op);
static ngx_int_t ngx_idem_redis_tell(ngx_idem_redis_task_t *task);
static ngx_int_t ngx_idem_redis_frame(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_keep(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_near_complete(ngx_idem_redis_task_t *task,
    ngx_uint_t cached);
static void ngx_idem_redis_completed(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_taken(ngx_idem_redis_task_t *task,
    ngx_idem_verdict_e verdict);
static ngx_int_t ngx_idem_redis_release(ngx_idem_store_t *st,
    ngx_idem_op_t *op);
static ngx_int_t ngx_idem_redis_untell(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_released(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_renewed(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_give_back(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_later(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_later_handler(ngx_event_t *ev);

static void ngx_idem_redis_wait(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_message(ngx_idem_redis_sub_t *sub);
static void ngx_idem_redis_poll(ngx_event_t *ev);
static void ngx_idem_redis_woken(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_wait_no_more(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_cancel(ngx_idem_store_t *st, ngx_idem_op_t *op);

static ngx_idem_redis_task_t *ngx_idem_redis_task(ngx_idem_redis_t *rs,
    ngx_idem_op_t *op, ngx_idem_redis_verb_e verb);
static void ngx_idem_redis_set(ngx_idem_redis_task_t *task, ngx_uint_t i,
    u_char *data, size_t len);
static void ngx_idem_redis_set_number(ngx_idem_redis_task_t *task,
    ngx_uint_t i, uint64_t n);
static ngx_int_t ngx_idem_redis_send_task(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_answered(ngx_idem_redis_cmd_t *cmd);
static int64_t ngx_idem_redis_integer(ngx_idem_redis_task_t *task,
    ngx_uint_t i);
static void ngx_idem_redis_answer(ngx_idem_redis_task_t *task, ngx_int_t rc,
    ngx_idem_verdict_e verdict);
static ngx_idem_op_t *ngx_idem_redis_detach(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_call(ngx_idem_op_t *op, ngx_int_t rc,
    ngx_idem_verdict_e verdict);
static void ngx_idem_redis_free(ngx_idem_redis_task_t *task);
static void ngx_idem_redis_near_release(ngx_idem_redis_task_t *task);

static void ngx_idem_redis_snapshot(ngx_idem_store_t *st,
    ngx_idem_snapshot_t *sn);
static ngx_int_t ngx_idem_redis_begin(ngx_idem_store_t *st,
    ngx_cycle_t *cycle);
static void ngx_idem_redis_end(ngx_idem_store_t *st);
static void ngx_idem_redis_tick(ngx_idem_store_t *st);


static const ngx_idem_verbs_t  ngx_idem_redis_verbs = {
    ngx_idem_redis_claim,
    ngx_idem_redis_renew,
    ngx_idem_redis_complete,
    ngx_idem_redis_release,
    ngx_idem_redis_cancel,
    ngx_idem_redis_snapshot,
    ngx_idem_redis_begin,
    ngx_idem_redis_end,
    ngx_idem_redis_tick
};


/*
 * One who has waited for another node still has the identity in the zone, and
 * asks again.
 */

static ngx_int_t
ngx_idem_redis_claim(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_int_t               rc;
    ngx_idem_redis_t       *rs;
    ngx_idem_verdict_e      before;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->claim(rs->near, op);
    }

    if (op->task) {
        return ngx_idem_redis_ask(op->task);
    }

    rc = ngx_idem_redis_claim_near(rs, op, &before);

    if (rc != NGX_OK || op->verdict != NGX_IDEM_OWNED) {
        return rc;
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_CLAIM);

    if (task == NULL) {
        (void) rs->near->verbs->release(rs->near, op);
        return NGX_ERROR;
    }

    op->by = st->kind;
    op->task = task;
    task->near = 1;
    task->doubt = (before == NGX_IDEM_UNKNOWN);

    return ngx_idem_redis_ask(task);
}


/* Redis knows better what the zone does not know. */

static ngx_int_t
ngx_idem_redis_claim_near(ngx_idem_redis_t *rs, ngx_idem_op_t *op,
    ngx_idem_verdict_e *before)
{
    ngx_int_t           rc;
    ngx_idem_unknown_e  on_unknown;

    on_unknown = op->on_unknown;

    op->on_unknown = NGX_IDEM_UNKNOWN_RETRY;
    op->outcome.state = NGX_IDEM_STATE_ABSENT;

    rc = rs->near->verbs->claim(rs->near, op);

    op->on_unknown = on_unknown;

    *before = (op->outcome.state == NGX_IDEM_STATE_UNKNOWN)
                  ? NGX_IDEM_UNKNOWN : NGX_IDEM_ABSENT;

    return rc;
}


static ngx_int_t
ngx_idem_redis_ask(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;

    ngx_idem_redis_wait_no_more(task);

    task->cmd.nargs = 6;
    task->cmd.wait = 1;

    ngx_idem_redis_set(task, 0, op->owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, op->fingerprint, NGX_IDEM_DIGEST_LEN);
    ngx_idem_redis_set_number(task, 2, op->lease_ms);
    ngx_idem_redis_set_number(task, 3, (uint64_t) op->unknown_s * 1000);
    ngx_idem_redis_set_number(task, 4, op->on_unknown);
    ngx_idem_redis_set_number(task, 5, op->max_waiters != 0);

    if (ngx_idem_redis_send_task(task) == NGX_OK) {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);
    ngx_idem_redis_near_release(task);
    ngx_idem_redis_free(task);

    return NGX_ERROR;
}


/* Redis has answered a claim. */

static void
ngx_idem_redis_claimed(ngx_idem_redis_task_t *task)
{
    u_char                  letter;
    ngx_idem_redis_cmd_t   *cmd;

    cmd = &task->cmd;

    if (cmd->end != NGX_IDEM_REDIS_REPLIED
        || cmd->nvalues == 0
        || cmd->values[0].str.len != 1)
    {
        ngx_idem_redis_unclaimed(task);
        return;
    }

    letter = cmd->values[0].str.data[0];

    switch (letter) {

    case 'O':
    case 'C':
        ngx_idem_redis_owned(task);
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
    }

    ngx_idem_redis_unclaimed(task);
}


/* If nobody wants it any more, it is given back. */

static void
ngx_idem_redis_owned(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t       *op;
    ngx_idem_verdict_e   verdict;

    op = task->op;

    if (op == NULL) {
        ngx_idem_redis_give_back(task);
        return;
    }

    verdict = (task->cmd.values[0].str.data[0] == 'O') ? NGX_IDEM_OWNED
                                                       : NGX_IDEM_CHECK;

    op->fence = (uint64_t) ngx_idem_redis_integer(task, 1);

    if (verdict == NGX_IDEM_CHECK) {
        op->age_ms = (uint64_t) ngx_idem_redis_integer(task, 2);

        op->outcome.state = NGX_IDEM_STATE_UNKNOWN;
        op->outcome.status = (uint16_t) ngx_idem_redis_integer(task, 3);
        op->outcome.dry = 0;
        op->outcome.ttl_s = (uint32_t) (ngx_idem_redis_integer(task, 5)
                                        / 1000);
        op->outcome.until_ms = (uint64_t) (ngx_idem_redis_integer(task, 4)
                                           + ngx_idem_redis_integer(task, 5));
    }

    ngx_idem_redis_answer(task, NGX_OK, verdict);
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
        ngx_idem_redis_wait(task);
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
    own->outcome.state = NGX_IDEM_STATE_DONE;
    own->outcome.status = (uint16_t) ngx_idem_redis_integer(task, 1);
    own->outcome.dry = 0;
    own->outcome.ttl_s = (uint32_t)
                         ((left_ms + ngx_idem_redis_integer(task, 2)) / 1000);
    own->outcome.until_ms = ngx_current_msec + (uint64_t) left_ms;

    if (left_ms > 0 && near->verbs->complete(near, own) == NGX_OK) {
        task->near = 0;
    }

    own->record = NULL;

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_unframe(ngx_str_t *s)
{
    u_char    *p;
    uint32_t   crc;

    p = s->data;

    if (s->len < NGX_IDEM_REDIS_FRAME || p[0] != NGX_IDEM_REDIS_VERSION) {
        return NGX_ERROR;
    }

    crc = (uint32_t) p[1] | (uint32_t) p[2] << 8 | (uint32_t) p[3] << 16
          | (uint32_t) p[4] << 24;

    s->data += NGX_IDEM_REDIS_FRAME;
    s->len -= NGX_IDEM_REDIS_FRAME;

    return (ngx_crc32_long(s->data, s->len) == crc) ? NGX_OK : NGX_ERROR;
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
        || (ngx_strncmp(error->data, "ERR ", ngx_min(error->len, 4)) != 0
            && ngx_strncmp(error->data, "WRONGTYPE", ngx_min(error->len, 9))
               != 0))
    {
        return 0;
    }

    ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                  "idempotency: a record of Redis is damaged or foreign: "
                  "\"%V\"", error);

    return 1;
}


/* The zone's lease and Redis' are renewed together. */

static ngx_int_t
ngx_idem_redis_renew(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_int_t               rc;
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;
    rc = rs->near->verbs->renew(rs->near, op);

    if (op->local) {
        return rc;
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_RENEW);
    if (task == NULL) {
        return NGX_ERROR;
    }

    task->op = NULL;
    task->cmd.nargs = 2;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set_number(task, 1, op->lease_ms);

    if (ngx_idem_redis_send_task(task) != NGX_OK) {
        ngx_idem_redis_free(task);
    }

    return rc;
}


static void
ngx_idem_redis_renewed(ngx_idem_redis_task_t *task)
{
    ngx_idem_redis_cmd_t  *cmd;

    cmd = &task->cmd;

    if (cmd->end == NGX_IDEM_REDIS_REPLIED
        && cmd->nvalues
        && cmd->values[0].str.len == 1
        && cmd->values[0].str.data[0] == 'L')
    {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency: a lease had ended on Redis while its "
                      "request runs");
    }

    ngx_idem_redis_free(task);
}


static ngx_int_t
ngx_idem_redis_complete(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->complete(rs->near, op);
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_COMPLETE);
    if (task == NULL) {
        return NGX_ERROR;
    }

    task->near = 1;
    task->until_ms = ngx_current_msec + (uint64_t) op->outcome.ttl_s * 1000;

    if (ngx_idem_redis_frame(task) != NGX_OK) {
        ngx_idem_redis_free(task);
        return NGX_ERROR;
    }

    op->task = task;

    if (ngx_idem_redis_tell(task) == NGX_OK) {
        return NGX_AGAIN;
    }

    (void) ngx_idem_redis_detach(task);

    ngx_idem_redis_keep(task);
    op->verdict = task->own.verdict;

    ngx_idem_redis_later(task);

    return NGX_OK;
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


static ngx_int_t
ngx_idem_redis_frame(ngx_idem_redis_task_t *task)
{
    u_char         *p;
    size_t          size;
    uint32_t        crc;
    ngx_chain_t    *cl;
    ngx_idem_op_t  *op;

    op = task->op;

    if (op->outcome.state != NGX_IDEM_STATE_DONE) {
        return NGX_OK;
    }

    size = NGX_IDEM_REDIS_FRAME + op->size;

    p = ngx_palloc(task->pool, size);
    if (p == NULL) {
        return NGX_ERROR;
    }

    task->record.data = p;
    task->record.len = size;

    p += NGX_IDEM_REDIS_FRAME;

    for (cl = op->record; cl; cl = cl->next) {
        p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
    }

    p = task->record.data;
    crc = ngx_crc32_long(p + NGX_IDEM_REDIS_FRAME, op->size);

    p[0] = NGX_IDEM_REDIS_VERSION;
    p[1] = (u_char) crc;
    p[2] = (u_char) (crc >> 8);
    p[3] = (u_char) (crc >> 16);
    p[4] = (u_char) (crc >> 24);

    return NGX_OK;
}


static void
ngx_idem_redis_completed(ngx_idem_redis_task_t *task)
{
    u_char                 letter;
    ngx_idem_op_t         *op;
    ngx_idem_verdict_e     verdict;
    ngx_idem_redis_cmd_t  *cmd;

    cmd = &task->cmd;

    if (cmd->end != NGX_IDEM_REDIS_REPLIED
        || cmd->nvalues == 0
        || cmd->values[0].str.len != 1)
    {
        ngx_idem_redis_keep(task);

        op = ngx_idem_redis_detach(task);
        verdict = task->own.verdict;

        ngx_idem_redis_later(task);
        ngx_idem_redis_call(op, NGX_OK, verdict);
        return;
    }

    letter = cmd->values[0].str.data[0];

    if (letter == 'L') {
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_taken(task, NGX_IDEM_LOST);
        return;
    }

    if (letter == 'U') {
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_taken(task, NGX_IDEM_UNKNOWN);
        return;
    }

    ngx_idem_redis_near_complete(task, 1);
    ngx_idem_redis_taken(task, (letter == 'D') ? NGX_IDEM_DONE
                                               : NGX_IDEM_UNSTORED);
}


/* Who does not wait for the answer does not count it either. */

static void
ngx_idem_redis_taken(ngx_idem_redis_task_t *task, ngx_idem_verdict_e verdict)
{
    ngx_idem_stat_e   stat;
    ngx_idem_store_t  *st;

    st = &task->rs->store;

    if (task->op == NULL && (!task->kept || verdict == NGX_IDEM_LOST)) {
        stat = (verdict == NGX_IDEM_DONE) ? NGX_IDEM_STAT_DONE
               : (verdict == NGX_IDEM_UNSTORED) ? NGX_IDEM_STAT_UNSTORED
               : (verdict == NGX_IDEM_UNKNOWN) ? NGX_IDEM_STAT_UNKNOWN
               : (verdict == NGX_IDEM_ABSENT) ? NGX_IDEM_STAT_RELEASED
               : NGX_IDEM_STAT_LOST;

        ngx_idem_stat_add(st, stat);
    }

    ngx_idem_redis_answer(task, NGX_OK, verdict);
}


/* Redis has not taken the outcome: the zone keeps it meanwhile. */

static void
ngx_idem_redis_keep(ngx_idem_redis_task_t *task)
{
    if (!task->kept) {
        ngx_idem_redis_near_complete(task, 0);
        task->kept = 1;
    }
}


/* The end of an unknown's life is told by the clock of Redis. */

static void
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

    (void) near->verbs->complete(near, own);

    own->outcome.until_ms = until_ms;
    own->record = NULL;
    task->near = 0;
}


static ngx_int_t
ngx_idem_redis_release(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;

    if (op->local) {
        return rs->near->verbs->release(rs->near, op);
    }

    task = ngx_idem_redis_task(rs, op, NGX_IDEM_REDIS_RELEASE);
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

    ngx_idem_redis_near_release(task);
    ngx_idem_redis_later(task);

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_untell(ngx_idem_redis_task_t *task)
{
    task->cmd.nargs = 2;

    ngx_idem_redis_set(task, 0, task->own.owner, NGX_IDEM_OWNER_LEN);
    ngx_idem_redis_set(task, 1, task->channel.data, task->channel.len);

    return ngx_idem_redis_send_task(task);
}


static void
ngx_idem_redis_released(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t         *op;
    ngx_idem_redis_cmd_t  *cmd;

    cmd = &task->cmd;

    ngx_idem_redis_near_release(task);

    if (cmd->end == NGX_IDEM_REDIS_REPLIED
        && cmd->nvalues
        && cmd->values[0].str.len == 1)
    {
        if (task->kept) {
            ngx_idem_redis_free(task);
            return;
        }

        ngx_idem_redis_taken(task, (cmd->values[0].str.data[0] == 'A')
                                       ? NGX_IDEM_ABSENT : NGX_IDEM_LOST);
        return;
    }

    op = ngx_idem_redis_detach(task);

    ngx_idem_redis_later(task);
    ngx_idem_redis_call(op, NGX_OK, NGX_IDEM_ABSENT);
}


/* A claim that nobody will use: on Redis it lasts no longer than its lease. */

static void
ngx_idem_redis_give_back(ngx_idem_redis_task_t *task)
{
    task->verb = NGX_IDEM_REDIS_RELEASE;
    task->kept = 1;
    task->until_ms = ngx_current_msec + task->own.lease_ms;

    ngx_idem_redis_near_release(task);

    if (ngx_idem_redis_untell(task) != NGX_OK) {
        ngx_idem_redis_later(task);
    }
}


/*
 * Once more, when Redis may be there again.  A worker that shuts down waits
 * for that as long as the lease may stand; then Redis would not take it.
 */

static void
ngx_idem_redis_later(ngx_idem_redis_task_t *task)
{
    if (task->pause == 0) {
        task->rs->arrears += task->record.len;
        task->pause = NGX_IDEM_REDIS_AGAIN / 2;
    }

    if (task->until_ms <= ngx_current_msec
        || task->rs->arrears > NGX_IDEM_REDIS_ARREARS)
    {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "idempotency zone \"%V\": Redis has not taken an "
                      "outcome, and will not be told any more",
                      &task->rs->store.name);
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
    ngx_int_t               rc;
    ngx_connection_t       *c;
    ngx_idem_redis_task_t  *task;

    c = ev->data;
    task = c->data;

    rc = (task->verb == NGX_IDEM_REDIS_COMPLETE)
             ? ngx_idem_redis_tell(task) : ngx_idem_redis_untell(task);

    if (rc != NGX_OK) {
        ngx_idem_redis_later(task);
    }
}


/* For a claim that another node has: to hear of its end, or to look. */

static void
ngx_idem_redis_wait(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;

    task->waits = 1;
    op->parked = 1;
    op->verdict = NGX_IDEM_BUSY;
    op->rc = NGX_OK;

    task->sub.channel.data = task->channel.data + task->rs->conf->prefix.len;
    task->sub.channel.len = task->channel.len - task->rs->conf->prefix.len;
    task->sub.handler = ngx_idem_redis_message;
    task->sub.data = task;

    ngx_idem_redis_subscribe(task->rs->client, &task->sub);

    task->event.handler = ngx_idem_redis_poll;
    ngx_add_timer(&task->event, NGX_IDEM_REDIS_POLL);

    op->handler(op);
}


static void
ngx_idem_redis_message(ngx_idem_redis_sub_t *sub)
{
    ngx_idem_redis_woken(sub->data);
}


static void
ngx_idem_redis_poll(ngx_event_t *ev)
{
    ngx_connection_t  *c;

    c = ev->data;

    ngx_idem_redis_woken(c->data);
}


static void
ngx_idem_redis_woken(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    ngx_idem_redis_wait_no_more(task);

    op = task->op;
    op->handler(op);
}


static void
ngx_idem_redis_wait_no_more(ngx_idem_redis_task_t *task)
{
    if (!task->waits) {
        return;
    }

    task->waits = 0;
    task->op->parked = 0;

    if (task->event.timer_set) {
        ngx_del_timer(&task->event);
    }

    ngx_idem_redis_unsubscribe(task->rs->client, &task->sub);
}


/* What has been sent goes on. */

static void
ngx_idem_redis_cancel(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_uint_t              pending;
    ngx_idem_redis_t       *rs;
    ngx_idem_redis_task_t  *task;

    rs = (ngx_idem_redis_t *) st;
    task = op->task;

    if (task == NULL) {
        rs->near->verbs->cancel(rs->near, op);
        return;
    }

    pending = task->sent;

    ngx_idem_redis_wait_no_more(task);

    (void) ngx_idem_redis_detach(task);

    if (!pending) {
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_free(task);
    }
}


static ngx_idem_redis_task_t *
ngx_idem_redis_task(ngx_idem_redis_t *rs, ngx_idem_op_t *op,
    ngx_idem_redis_verb_e verb)
{
    u_char                 *channel;
    ngx_pool_t             *pool;
    ngx_idem_redis_task_t  *task;

    pool = ngx_create_pool(NGX_IDEM_REDIS_POOL, ngx_cycle->log);
    if (pool == NULL) {
        return NULL;
    }

    task = ngx_pcalloc(pool, sizeof(ngx_idem_redis_task_t));
    channel = ngx_pnalloc(pool, rs->conf->prefix.len + 2 + NGX_IDEM_REDIS_KEY);

    if (task == NULL || channel == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    task->rs = rs;
    task->pool = pool;
    task->op = op;
    task->verb = verb;

    task->own = *op;
    task->own.pool = pool;
    task->own.log = ngx_cycle->log;
    task->own.record = NULL;
    task->own.handler = NULL;
    task->own.max_waiters = 0;
    task->own.parked = 0;
    task->own.task = NULL;

    task->until_ms = ngx_current_msec + op->lease_ms;
    task->lease_ms = task->until_ms;

    (void) ngx_hex_dump(task->key, op->identity, NGX_IDEM_DIGEST_LEN);

    task->channel.data = channel;
    task->channel.len = ngx_sprintf(channel, "%Vw:%*s", &rs->conf->prefix,
                                    (size_t) NGX_IDEM_REDIS_KEY, task->key)
                        - channel;

    task->dummy.data = task;
    task->dummy.fd = (ngx_socket_t) -1;
    task->event.data = &task->dummy;
    task->event.log = ngx_cycle->log;

    task->cmd.key.data = task->key;
    task->cmd.key.len = NGX_IDEM_REDIS_KEY;
    task->cmd.handler = ngx_idem_redis_answered;
    task->cmd.data = task;

    return task;
}


static void
ngx_idem_redis_set(ngx_idem_redis_task_t *task, ngx_uint_t i, u_char *data,
    size_t len)
{
    task->cmd.args[i].data = data;
    task->cmd.args[i].len = len;
}


static void
ngx_idem_redis_set_number(ngx_idem_redis_task_t *task, ngx_uint_t i,
    uint64_t n)
{
    u_char  *p;

    p = task->numbers[i];

    ngx_idem_redis_set(task, i, p, ngx_sprintf(p, "%uL", n) - p);
}


static ngx_int_t
ngx_idem_redis_send_task(ngx_idem_redis_task_t *task)
{
    task->cmd.script = &ngx_idem_redis_scripts[task->verb];

    if (ngx_idem_redis_send(task->rs->client, &task->cmd) != NGX_AGAIN) {
        return NGX_ERROR;
    }

    task->sent = 1;

    return NGX_OK;
}


static void
ngx_idem_redis_answered(ngx_idem_redis_cmd_t *cmd)
{
    ngx_idem_redis_task_t  *task;

    task = cmd->data;
    task->sent = 0;

    switch (task->verb) {

    case NGX_IDEM_REDIS_CLAIM:
        ngx_idem_redis_claimed(task);
        break;

    case NGX_IDEM_REDIS_RENEW:
        ngx_idem_redis_renewed(task);
        break;

    case NGX_IDEM_REDIS_COMPLETE:
        ngx_idem_redis_completed(task);
        break;

    case NGX_IDEM_REDIS_RELEASE:
        ngx_idem_redis_released(task);
        break;

    case NGX_IDEM_REDIS_LOAD:
    case NGX_IDEM_REDIS_SCRIPTS:
        break;
    }
}


static int64_t
ngx_idem_redis_integer(ngx_idem_redis_task_t *task, ngx_uint_t i)
{
    return (i < task->cmd.nvalues) ? task->cmd.values[i].integer : 0;
}


/* The end of a task. */

static void
ngx_idem_redis_answer(ngx_idem_redis_task_t *task, ngx_int_t rc,
    ngx_idem_verdict_e verdict)
{
    ngx_idem_op_t  *op;

    op = ngx_idem_redis_detach(task);

    ngx_idem_redis_free(task);
    ngx_idem_redis_call(op, rc, verdict);
}


/* The task goes on without op, if that is there still. */

static ngx_idem_op_t *
ngx_idem_redis_detach(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;
    task->op = NULL;

    if (op) {
        op->task = NULL;
    }

    return op;
}


/* Whoever is called may do anything, also free it. */

static void
ngx_idem_redis_call(ngx_idem_op_t *op, ngx_int_t rc,
    ngx_idem_verdict_e verdict)
{
    if (op) {
        op->rc = rc;
        op->verdict = verdict;
        op->handler(op);
    }
}


static void
ngx_idem_redis_free(ngx_idem_redis_task_t *task)
{
    if (task->pause) {
        task->rs->arrears -= task->record.len;
    }

    if (task->event.timer_set) {
        ngx_del_timer(&task->event);
    }

    ngx_destroy_pool(task->pool);
}


static void
ngx_idem_redis_near_release(ngx_idem_redis_task_t *task)
{
    ngx_idem_store_t  *near;

    if (!task->near) {
        return;
    }

    near = task->rs->near;
    task->near = 0;

    (void) near->verbs->release(near, &task->own);
}


static void
ngx_idem_redis_snapshot(ngx_idem_store_t *st, ngx_idem_snapshot_t *sn)
{
    ngx_idem_redis_t  *rs;

    rs = (ngx_idem_redis_t *) st;

    rs->near->verbs->snapshot(rs->near, sn);
}


static ngx_int_t
ngx_idem_redis_begin(ngx_idem_store_t *st, ngx_cycle_t *cycle)
{
    ngx_idem_redis_t  *rs;

    rs = (ngx_idem_redis_t *) st;

    rs->store.stat = rs->near->stat;

    rs->client = ngx_idem_redis_client(cycle, rs->conf, NULL);
    if (rs->client == NULL) {
        return NGX_ERROR;
    }

    return rs->near->verbs->begin(rs->near, cycle);
}


static void
ngx_idem_redis_end(ngx_idem_store_t *st)
{
    ngx_idem_redis_t  *rs;

    rs = (ngx_idem_redis_t *) st;

    if (rs->client) {
        ngx_idem_redis_close(rs->client);
        rs->client = NULL;
    }

    rs->near->verbs->end(rs->near);
}


static void
ngx_idem_redis_tick(ngx_idem_store_t *st)
{
    ngx_idem_redis_t  *rs;

    rs = (ngx_idem_redis_t *) st;

    rs->near->verbs->tick(rs->near);
}


ngx_idem_store_t *
ngx_idem_redis_add(ngx_conf_t *cf, ngx_idem_store_t *near,
    ngx_idem_redis_conf_t *conf)
{
    ngx_idem_redis_t  *rs;

    rs = ngx_pcalloc(cf->pool, sizeof(ngx_idem_redis_t));
    if (rs == NULL) {
        return NULL;
    }

    rs->store.verbs = &ngx_idem_redis_verbs;
    rs->store.name = near->name;
    ngx_str_set(&rs->store.kind, "redis");

    rs->near = near;
    rs->conf = conf;

    return &rs->store;
}
