
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

    ngx_queue_init(&wt->woken);

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


/* A bucket is taken as a whole: how many are in it does not matter. */

void
ngx_idem_waiter_wake(ngx_idem_waiters_t *wt, uint64_t mask)
{
    ngx_uint_t    i;
    ngx_queue_t  *bucket;

    for (i = 0; mask; i++, mask >>= 1) {

        bucket = &wt->buckets[i];

        if ((mask & 1) && !ngx_queue_empty(bucket)) {
            ngx_queue_add(&wt->woken, bucket);
            ngx_queue_init(bucket);
        }
    }
}


/*
 * What is put back was seen running: when its claim ends, its bucket is told
 * of once more.
 */

ngx_int_t
ngx_idem_waiter_call(ngx_idem_waiters_t *wt, ngx_idem_waiter_cost_pt cost,
    void *data)
{
    ngx_uint_t      calls, looks, n;
    ngx_queue_t    *q;
    ngx_idem_op_t  *op;

    calls = 0;

    for (looks = 0; !ngx_queue_empty(&wt->woken); looks++) {

        if (calls >= NGX_IDEM_WAITER_CALLS || looks == NGX_IDEM_WAITER_LOOKS) {
            return NGX_AGAIN;
        }

        q = ngx_queue_head(&wt->woken);
        op = ngx_queue_data(q, ngx_idem_op_t, queue);

        ngx_idem_waiter_leave(wt, op);

        n = cost(op, data);

        if (n == 0) {
            ngx_idem_waiter_park(wt, op);
            continue;
        }

        calls += n;
        op->handler(op);
    }

    return NGX_OK;
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
