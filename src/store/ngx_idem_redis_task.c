
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_task.h"


#define NGX_IDEM_REDIS_POOL  2048


static void ngx_idem_redis_answered(ngx_idem_redis_cmd_t *cmd);
static void ngx_idem_redis_message(ngx_idem_redis_sub_t *sub);
static void ngx_idem_redis_poll(ngx_event_t *ev);
static void ngx_idem_redis_woken(ngx_idem_redis_task_t *task);


ngx_idem_redis_task_t *
ngx_idem_redis_task(ngx_idem_redis_t *rs, ngx_idem_op_t *op,
    ngx_idem_redis_verb_e verb, ngx_idem_redis_task_pt handler)
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
    task->handler = handler;

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


void
ngx_idem_redis_set(ngx_idem_redis_task_t *task, ngx_uint_t i, u_char *data,
    size_t len)
{
    task->cmd.args[i].data = data;
    task->cmd.args[i].len = len;
}


void
ngx_idem_redis_set_number(ngx_idem_redis_task_t *task, ngx_uint_t i,
    uint64_t n)
{
    u_char  *p;

    p = task->numbers[i];

    ngx_idem_redis_set(task, i, p, ngx_sprintf(p, "%uL", n) - p);
}


ngx_int_t
ngx_idem_redis_send_task(ngx_idem_redis_task_t *task)
{
    task->cmd.script = &ngx_idem_redis_scripts[task->verb];

    if (ngx_idem_redis_send(task->rs->client, &task->cmd) != NGX_AGAIN) {
        return NGX_ERROR;
    }

    task->sent = 1;
    task->said_ms = ngx_current_msec;

    return NGX_OK;
}


/* It may free the task. */

static void
ngx_idem_redis_answered(ngx_idem_redis_cmd_t *cmd)
{
    ngx_idem_redis_task_t  *task;

    task = cmd->data;
    task->sent = 0;

    task->handler(task);
}


u_char
ngx_idem_redis_letter(ngx_idem_redis_task_t *task)
{
    ngx_idem_redis_cmd_t  *cmd;

    cmd = &task->cmd;

    if ((cmd->end != NGX_IDEM_REDIS_REPLIED
         && cmd->end != NGX_IDEM_REDIS_TOO_FEW)
        || cmd->nvalues == 0
        || cmd->values[0].str.len != 1)
    {
        return 0;
    }

    return cmd->values[0].str.data[0];
}


int64_t
ngx_idem_redis_integer(ngx_idem_redis_task_t *task, ngx_uint_t i)
{
    return (i < task->cmd.nvalues) ? task->cmd.values[i].integer : 0;
}


/* The end of a task. */

void
ngx_idem_redis_answer(ngx_idem_redis_task_t *task, ngx_int_t rc,
    ngx_idem_verdict_e verdict)
{
    ngx_idem_op_t  *op;

    op = ngx_idem_redis_detach(task);

    ngx_idem_redis_free(task);
    ngx_idem_redis_call(op, rc, verdict);
}


/* The task goes on without op, if that is there still. */

ngx_idem_op_t *
ngx_idem_redis_detach(ngx_idem_redis_task_t *task)
{
    ngx_idem_op_t  *op;

    op = task->op;
    task->op = NULL;

    if (task->hears) {
        ngx_idem_redis_unsubscribe(task->rs->client, &task->sub);
        task->hears = 0;
    }

    if (op) {
        op->task = NULL;
    }

    return op;
}


/* Whoever is called may do anything, also free it. */

void
ngx_idem_redis_call(ngx_idem_op_t *op, ngx_int_t rc,
    ngx_idem_verdict_e verdict)
{
    if (op) {
        op->rc = rc;
        op->verdict = verdict;
        op->handler(op);
    }
}


/*
 * It hears until the end: one who began anew each time would be told each time
 * that he is sure to hear from now on.
 */

void
ngx_idem_redis_wait(ngx_idem_redis_task_t *task, ngx_msec_t most)
{
    ngx_idem_op_t  *op;

    op = task->op;

    task->waits = 1;
    op->parked = 1;
    op->verdict = NGX_IDEM_BUSY;
    op->rc = NGX_OK;

    if (!task->hears) {
        task->hears = 1;
        task->sub.channel.data = task->channel.data
                                 + task->rs->conf->prefix.len;
        task->sub.channel.len = task->channel.len - task->rs->conf->prefix.len;
        task->sub.handler = ngx_idem_redis_message;
        task->sub.data = task;

        ngx_idem_redis_subscribe(task->rs->client, &task->sub);
    }

    task->event.handler = ngx_idem_redis_poll;
    ngx_add_timer(&task->event, task->again ? 1 : most);

    task->again = 0;

    op->handler(op);
}


/* An owner is told that it is its turn, nobody else is. */

static void
ngx_idem_redis_message(ngx_idem_redis_sub_t *sub)
{
    ngx_idem_redis_task_t  *task;

    task = sub->data;

    if (sub->message.len == NGX_IDEM_OWNER_LEN
        && ngx_memcmp(sub->message.data, task->own.owner, NGX_IDEM_OWNER_LEN)
           != 0)
    {
        return;
    }

    if (task->waits) {
        ngx_idem_redis_woken(task);
        return;
    }

    task->again = task->sent;
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


void
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
}


void
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


void
ngx_idem_redis_free(ngx_idem_redis_task_t *task)
{
    if (task->pause) {
        task->rs->arrears -= task->record.len;
        ngx_idem_redis_stat_undelivered(task->rs->stat, -1,
                                        - (off_t) task->record.len);
    }

    if (task->event.timer_set) {
        ngx_del_timer(&task->event);
    }

    ngx_destroy_pool(task->pool);
}
