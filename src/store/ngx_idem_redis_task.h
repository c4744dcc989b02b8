
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * A verb under way: what the files of the store on Redis share.
 *
 * A task lies in a pool of its own and goes on whatever becomes of the op it
 * began for.  It ends with its answer, or, if Redis has to be told something,
 * when that is told.
 */


#ifndef _NGX_IDEM_REDIS_TASK_H_INCLUDED_
#define _NGX_IDEM_REDIS_TASK_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_conn.h"
#include "store/ngx_idem_redis_scripts.h"
#include "store/ngx_idem_store.h"


#define NGX_IDEM_REDIS_KEY  (2 * NGX_IDEM_DIGEST_LEN)


typedef struct ngx_idem_redis_task_s  ngx_idem_redis_task_t;

typedef void (*ngx_idem_redis_task_pt)(ngx_idem_redis_task_t *task);


typedef struct {
    ngx_idem_store_t          store;        /* first: the same address */
    ngx_idem_store_t         *near;
    ngx_idem_redis_conf_t    *conf;
    ngx_idem_redis_client_t  *client;       /* of this process */
    ngx_idem_redis_stat_t    *stat;
    size_t                    arrears;      /* bytes of outcomes that Redis
                                               has not taken yet */
} ngx_idem_redis_t;


/*
 *   op       whose it is; NULL: nobody waits for its answer
 *   own      the same for the near store, when op may be gone
 *   handler  Redis has answered, or will not
 *   sent     the command is under way
 *   near     the identity is ours in the zone
 *   counted  whoever asked has got a verdict, or nobody ever will
 *   doubt    the zone did not know what became of the last claim
 *   unused   the claim is given back, nobody has seen it
 *   waits    op is parked
 *   hears    of its channel, from the first time it waits until its op leaves
 *   noted    Redis may have noted it: as who holds a guard, or waits for it
 *   again    it heard something while the command was under way
 */

struct ngx_idem_redis_task_s {
    ngx_idem_redis_cmd_t      cmd;
    ngx_idem_redis_sub_t      sub;
    ngx_event_t               event;        /* poll, or once more */
    ngx_connection_t          dummy;        /* of the event, for logs */
    ngx_idem_redis_t         *rs;
    ngx_pool_t               *pool;
    ngx_idem_op_t            *op;
    ngx_idem_op_t             own;
    ngx_idem_redis_verb_e     verb;
    ngx_idem_redis_task_pt    handler;
    ngx_msec_t                pause;
    uint64_t                  until_ms;     /* of use */
    uint64_t                  lease_ms;     /* end of the lease */
    uint64_t                  said_ms;      /* when it was sent; 0: never */
    ngx_str_t                 record;       /* framed */

    u_char                    key[NGX_IDEM_REDIS_KEY];
    ngx_str_t                 channel;      /* with the prefix */
    u_char                    numbers[NGX_IDEM_REDIS_ARGS][NGX_INT64_LEN];

    unsigned                  sent:1;
    unsigned                  near:1;
    unsigned                  counted:1;
    unsigned                  doubt:1;
    unsigned                  unused:1;
    unsigned                  waits:1;
    unsigned                  hears:1;
    unsigned                  again:1;
    unsigned                  noted:1;
};


/* The verbs: see store/ngx_idem_store.h. */
ngx_int_t ngx_idem_redis_claim(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_redis_renew(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_redis_complete(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_redis_release(ngx_idem_store_t *st, ngx_idem_op_t *op);

ngx_int_t ngx_idem_redis_hold(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_redis_mark(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_redis_leave(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_redis_look(ngx_idem_store_t *st, ngx_idem_op_t *op);

/*
 * Its op asks for a guard no more: what was or will be granted, and the place
 * in the queue, is given back.
 */
void ngx_idem_redis_unhold(ngx_idem_redis_task_t *task);

/*
 * A claim that nobody will use: on Redis it lasts no longer than its lease.  An
 * unknown that was to be looked into is unknown again.
 */
void ngx_idem_redis_give_back(ngx_idem_redis_task_t *task);

/*
 * The zone gets the outcome, if the identity is ours there.  cached: Redis has
 * it.  The end of an unknown's life is by the clock of Redis, not told here.
 */
void ngx_idem_redis_near_complete(ngx_idem_redis_task_t *task,
    ngx_uint_t cached);

/* NULL: no memory. */
ngx_idem_redis_task_t *ngx_idem_redis_task(ngx_idem_redis_t *rs,
    ngx_idem_op_t *op, ngx_idem_redis_verb_e verb,
    ngx_idem_redis_task_pt handler);

/* The arguments of its script, by their places; data stays the caller's. */
void ngx_idem_redis_set(ngx_idem_redis_task_t *task, ngx_uint_t i,
    u_char *data, size_t len);
void ngx_idem_redis_set_number(ngx_idem_redis_task_t *task, ngx_uint_t i,
    uint64_t n);

/* NGX_OK: its handler will come; NGX_ERROR: it will not. */
ngx_int_t ngx_idem_redis_send_task(ngx_idem_redis_task_t *task);

/*
 * Sends the command, as it is, once more when Redis may be there again: until
 * task->until_ms, then never.  delivered: it was taken, at last.
 */
void ngx_idem_redis_later(ngx_idem_redis_task_t *task);
void ngx_idem_redis_delivered(ngx_idem_redis_task_t *task);

/* The verdict of the answer; 0: there is none. */
u_char ngx_idem_redis_letter(ngx_idem_redis_task_t *task);

/* A number of the answer; 0 if it has none there. */
int64_t ngx_idem_redis_integer(ngx_idem_redis_task_t *task, ngx_uint_t i);

/* The end of a task: frees it, then calls whoever waits. */
void ngx_idem_redis_answer(ngx_idem_redis_task_t *task, ngx_int_t rc,
    ngx_idem_verdict_e verdict);

/* The task goes on without its op, which is returned if it is there still. */
ngx_idem_op_t *ngx_idem_redis_detach(ngx_idem_redis_task_t *task);

/* Calls whoever waits, who may do anything then; op may be NULL. */
void ngx_idem_redis_call(ngx_idem_op_t *op, ngx_int_t rc,
    ngx_idem_verdict_e verdict);

/*
 * Parks its op and calls it.  It is called again when something is heard, or
 * the time is over, unless it waits no more.
 */
void ngx_idem_redis_wait(ngx_idem_redis_task_t *task, ngx_msec_t most);
void ngx_idem_redis_wait_no_more(ngx_idem_redis_task_t *task);

/* The identity in the zone is given back, if it is ours. */
void ngx_idem_redis_near_release(ngx_idem_redis_task_t *task);

void ngx_idem_redis_free(ngx_idem_redis_task_t *task);


#endif /* _NGX_IDEM_REDIS_TASK_H_INCLUDED_ */
