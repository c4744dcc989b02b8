
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis.h"
#include "store/ngx_idem_redis_task.h"


static void ngx_idem_redis_cancel(ngx_idem_store_t *st, ngx_idem_op_t *op);
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
    ngx_idem_redis_tick,
    ngx_idem_redis_hold,
    ngx_idem_redis_mark,
    ngx_idem_redis_leave,
    ngx_idem_redis_look
};


/*
 * What has been sent goes on.  An answer that is not stored is on its way to
 * the client then, and the others of this node are to know at once.
 */

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

    if (task->verb == NGX_IDEM_REDIS_HOLD) {
        ngx_idem_redis_unhold(task);
        return;
    }

    (void) ngx_idem_redis_detach(task);

    if (!pending) {
        ngx_idem_redis_near_release(task);
        ngx_idem_redis_free(task);
        return;
    }

    if (task->verb == NGX_IDEM_REDIS_COMPLETE
        && task->own.outcome.state == NGX_IDEM_STATE_UNSTORED)
    {
        ngx_idem_redis_near_complete(task, 0);
    }
}


static void
ngx_idem_redis_snapshot(ngx_idem_store_t *st, ngx_idem_snapshot_t *sn)
{
    ngx_idem_redis_t  *rs;

    rs = (ngx_idem_redis_t *) st;

    rs->near->verbs->snapshot(rs->near, sn);
    sn->redis = rs->stat;
}


static ngx_int_t
ngx_idem_redis_begin(ngx_idem_store_t *st, ngx_cycle_t *cycle)
{
    ngx_idem_redis_t  *rs;

    rs = (ngx_idem_redis_t *) st;

    rs->store.stat = rs->near->stat;

    ngx_idem_redis_stat_begin(rs->stat);

    rs->client = ngx_idem_redis_client(cycle, rs->conf, rs->stat);
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
    ngx_idem_redis_conf_t *conf, ngx_idem_redis_stat_t *stat)
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
    rs->stat = stat;

    return &rs->store;
}
