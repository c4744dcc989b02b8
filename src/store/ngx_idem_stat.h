
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Counters of a store.  They live in shared memory, are added to without a
 * lock, and only grow; what goes up and down (records, waiters, blocks) is
 * counted by the store itself and comes with a snapshot.
 */


#ifndef _NGX_IDEM_STAT_H_INCLUDED_
#define _NGX_IDEM_STAT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* The order is the order of output; ngx_idem_stat_names[] follows it. */

typedef enum {

    /* what requests got: the words of $idempotency_status */

    NGX_IDEM_STAT_FIRST = 0,
    NGX_IDEM_STAT_REPLAYED,
    NGX_IDEM_STAT_WAITED,           /* replayed after waiting */
    NGX_IDEM_STAT_IN_FLIGHT,
    NGX_IDEM_STAT_KEY_MISSING,
    NGX_IDEM_STAT_KEY_INVALID,
    NGX_IDEM_STAT_SCOPE_MISSING,
    NGX_IDEM_STAT_TOKEN_INVALID,
    NGX_IDEM_STAT_KEY_REUSED,
    NGX_IDEM_STAT_OUTCOME_UNKNOWN,
    NGX_IDEM_STAT_RESPONSE_NOT_STORED,
    NGX_IDEM_STAT_STORE_FULL,
    NGX_IDEM_STAT_STORE_UNAVAILABLE,
    NGX_IDEM_STAT_RESOURCE_BUSY,
    NGX_IDEM_STAT_OUT_OF_ORDER,
    NGX_IDEM_STAT_STALE_VERSION,
    NGX_IDEM_STAT_VERSION_REQUIRED,
    NGX_IDEM_STAT_ACKNOWLEDGED,     /* late, or there already */
    NGX_IDEM_STAT_BYPASS,
    NGX_IDEM_STAT_UNPROTECTED,

    /* what became of claims */

    NGX_IDEM_STAT_DONE,
    NGX_IDEM_STAT_UNSTORED,
    NGX_IDEM_STAT_RELEASED,
    NGX_IDEM_STAT_UNKNOWN,          /* by their owners */
    NGX_IDEM_STAT_LEASE_ENDED,      /* unknown, as nobody renewed it */
    NGX_IDEM_STAT_ORPHANED,         /* unknown, as the worker died */
    NGX_IDEM_STAT_LOST,             /* late owners refused */

    /* what was learned about an unknown */

    NGX_IDEM_STAT_CHECK_DONE,
    NGX_IDEM_STAT_CHECK_ABSENT,     /* it did not happen */
    NGX_IDEM_STAT_CHECK_UNKNOWN,

    /* what left the store, and why */

    NGX_IDEM_STAT_EXPIRED,
    NGX_IDEM_STAT_EVICTED_DONE,
    NGX_IDEM_STAT_EVICTED_UNSTORED,
    NGX_IDEM_STAT_NO_ROOM,          /* responses not kept as it was full */
    NGX_IDEM_STAT_REPAIRED,         /* index rebuilt after a worker died */

    NGX_IDEM_STAT_N
} ngx_idem_stat_e;


typedef struct {
    ngx_atomic_t  count[NGX_IDEM_STAT_N];
} ngx_idem_stat_t;


typedef struct ngx_idem_redis_stat_s  ngx_idem_redis_stat_t;


/* What a store holds right now. */

typedef struct {
    size_t                  size;       /* bytes of the zone as configured */
    size_t                  block;      /* bytes of a block */
    ngx_uint_t              blocks;
    ngx_uint_t              free;       /* blocks */
    ngx_uint_t              running;    /* records by state */
    ngx_uint_t              done;
    ngx_uint_t              unstored;
    ngx_uint_t              unknown;
    ngx_uint_t              held;       /* guards that somebody holds */
    ngx_uint_t              known;      /* others: something is known */
    ngx_uint_t              waiting;    /* waiters on all keys and guards */
    ngx_idem_redis_stat_t  *redis;      /* NULL: there is none behind it */
} ngx_idem_snapshot_t;


extern const ngx_str_t  ngx_idem_stat_names[NGX_IDEM_STAT_N];


#define ngx_idem_stat_add(st, i)                                              \
    (void) ngx_atomic_fetch_add(&(st)->stat->count[i], 1)


#endif /* _NGX_IDEM_STAT_H_INCLUDED_ */
