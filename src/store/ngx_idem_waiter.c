
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_waiter.h"


static ngx_uint_t ngx_idem_waiter_bucket(uint32_t place);


/* Of all zones: a process has one tick for them, however many there are. */

static ngx_uint_t  ngx_idem_waiter_parked;


void
ngx_idem_waiter_init(ngx_idem_waiters_t *wt)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_IDEM_WAITER_BUCKETS; i++) {
        ngx_queue_init(&wt->buckets[i]);
    }

    wt->parked = 0;
}


uint64_t
ngx_idem_waiter_bit(uint32_t place)
{
    return (uint64_t) 1 << ngx_idem_waiter_bucket(place);
}


void
ngx_idem_waiter_park(ngx_idem_waiters_t *wt, ngx_idem_op_t *op)
{
    ngx_queue_insert_tail(&wt->buckets[ngx_idem_waiter_bucket(op->place)],
                          &op->queue);

    op->parked = 1;
    wt->parked++;
    ngx_idem_waiter_parked++;
}


void
ngx_idem_waiter_leave(ngx_idem_waiters_t *wt, ngx_idem_op_t *op)
{
    ngx_queue_remove(&op->queue);

    op->parked = 0;
    wt->parked--;
    ngx_idem_waiter_parked--;
}


/*
 * First all are collected, then called: what is on the list of the woken
 * is parked still, and leaves it like any other queue.
 */

void
ngx_idem_waiter_call(ngx_idem_waiters_t *wt, uint64_t mask,
    ngx_idem_waiter_ended_pt ended, void *data)
{
    ngx_uint_t      i;
    ngx_queue_t    *q, *next, woken;
    ngx_idem_op_t  *op;

    ngx_queue_init(&woken);

    for (i = 0; mask; i++, mask >>= 1) {

        if (!(mask & 1)) {
            continue;
        }

        for (q = ngx_queue_head(&wt->buckets[i]);
             q != ngx_queue_sentinel(&wt->buckets[i]);
             q = next)
        {
            next = ngx_queue_next(q);
            op = ngx_queue_data(q, ngx_idem_op_t, queue);

            if (ended(op, data)) {
                ngx_queue_remove(q);
                ngx_queue_insert_tail(&woken, q);
            }
        }
    }

    while (!ngx_queue_empty(&woken)) {
        q = ngx_queue_head(&woken);
        op = ngx_queue_data(q, ngx_idem_op_t, queue);

        ngx_idem_waiter_leave(wt, op);
        op->handler(op);
    }
}


ngx_uint_t
ngx_idem_waiter_any(void)
{
    return ngx_idem_waiter_parked != 0;
}


/* Multiplied by the golden ratio, as neighbors are what is parked together. */

static ngx_uint_t
ngx_idem_waiter_bucket(uint32_t place)
{
    return (uint32_t) (place * 2654435769u) >> 26;
}
