
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The waiters of one zone in this process: parked operations, each waiting
 * for the end of the claim that had op->fence in the block op->place.
 *
 * They are kept in buckets by place, so that a worker that is told in which
 * buckets claims have ended looks only there.  Nothing is allocated: an op
 * brings its link.
 */


#ifndef _NGX_IDEM_WAITER_H_INCLUDED_
#define _NGX_IDEM_WAITER_H_INCLUDED_


#include "store/ngx_idem_store.h"


#define NGX_IDEM_WAITER_BUCKETS  64

/*
 * What one turn of the event loop does at most: waiters whose handlers are
 * called, each of which is a request to be answered, and waiters that are
 * looked at.  It leaves a turn at about 1 ms.
 */

#define NGX_IDEM_WAITER_CALLS    32
#define NGX_IDEM_WAITER_LOOKS    1024


typedef struct {
    ngx_queue_t    buckets[NGX_IDEM_WAITER_BUCKETS];
    ngx_queue_t    woken;           /* parked still, and to be looked at */
    ngx_uint_t     parked;
} ngx_idem_waiters_t;


/*
 * 0: the claim that op waits for has not ended.  Else for how many usual calls
 * that of its handler counts, 1 or more.
 */

typedef ngx_uint_t (*ngx_idem_waiter_cost_pt)(ngx_idem_op_t *op, void *data);


void ngx_idem_waiter_init(ngx_idem_waiters_t *wt);

/* The bucket of a place, as a bit. */
uint64_t ngx_idem_waiter_bit(uint32_t place);

/* Parks an op; its place, fence and handler are set. */
void ngx_idem_waiter_park(ngx_idem_waiters_t *wt, ngx_idem_op_t *op);

/* An op that is parked leaves; its handler will not be called. */
void ngx_idem_waiter_leave(ngx_idem_waiters_t *wt, ngx_idem_op_t *op);

/* All in the buckets of the mask are to be looked at, after those before. */
void ngx_idem_waiter_wake(ngx_idem_waiters_t *wt, uint64_t mask);

/*
 * Looks at those first in line, calls the handlers of those whose claims have
 * ended, and parks the others as before.  A handler may do anything with any
 * op: also free it, park it again, or cancel another one.
 *
 * NGX_AGAIN: some are left for the next turn.
 */
ngx_int_t ngx_idem_waiter_call(ngx_idem_waiters_t *wt,
    ngx_idem_waiter_cost_pt cost, void *data);

/* Whether anything is parked in this process, in whatever zone. */
ngx_uint_t ngx_idem_waiter_any(void);


#endif /* _NGX_IDEM_WAITER_H_INCLUDED_ */
