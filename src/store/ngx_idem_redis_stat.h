
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What the workers of this nginx know about a Redis, for people to look at.
 *
 * It lies in a small shared zone of its own, one for each store on Redis, kept
 * over reloads.  Counters only grow and are added to without a lock.  What goes
 * up and down is written by each worker in a place of its own, and counts for
 * as long as that worker lives, so that one that was killed leaves nothing.
 *
 * A server has its place for good.  If there are more than fit, the last place
 * is that of all others.
 */


#ifndef _NGX_IDEM_REDIS_STAT_H_INCLUDED_
#define _NGX_IDEM_REDIS_STAT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_stat.h"
#include "store/ngx_idem_worker.h"


#define NGX_IDEM_REDIS_SERVERS  32
#define NGX_IDEM_REDIS_BOUNDS   13
#define NGX_IDEM_REDIS_PLACES   (NGX_IDEM_WORKERS + 1)


/* The order is the order of output; ngx_idem_redis_count_names[] follows it. */

typedef enum {
    NGX_IDEM_REDIS_COUNT_SENT = 0,
    NGX_IDEM_REDIS_COUNT_REPLIED,       /* how commands ended */
    NGX_IDEM_REDIS_COUNT_FAILED,
    NGX_IDEM_REDIS_COUNT_REFUSED,
    NGX_IDEM_REDIS_COUNT_LOST,
    NGX_IDEM_REDIS_COUNT_TOO_FEW,
    NGX_IDEM_REDIS_COUNT_DELIVERED,     /* outcomes, at a later try */
    NGX_IDEM_REDIS_COUNT_ABANDONED,     /* outcomes that never were */

    NGX_IDEM_REDIS_COUNTS
} ngx_idem_redis_count_e;


/* Errors by kind; ngx_idem_redis_error_names[] follows it. */

typedef enum {
    NGX_IDEM_REDIS_ERROR_CONNECT = 0,   /* refused, no answer, TLS, greeting */
    NGX_IDEM_REDIS_ERROR_BROKEN,        /* a connection */
    NGX_IDEM_REDIS_ERROR_TIMEOUT,       /* a reply is overdue */
    NGX_IDEM_REDIS_ERROR_AUTH,          /* NOAUTH, WRONGPASS, NOPERM */
    NGX_IDEM_REDIS_ERROR_OOM,
    NGX_IDEM_REDIS_ERROR_READONLY,
    NGX_IDEM_REDIS_ERROR_LOADING,
    NGX_IDEM_REDIS_ERROR_BUSY,
    NGX_IDEM_REDIS_ERROR_REPLICAS,      /* NOREPLICAS */
    NGX_IDEM_REDIS_ERROR_MASTERDOWN,
    NGX_IDEM_REDIS_ERROR_CLUSTERDOWN,
    NGX_IDEM_REDIS_ERROR_OTHER,

    NGX_IDEM_REDIS_ERRORS
} ngx_idem_redis_error_e;


/* What a worker's connection to a server is. */

typedef enum {
    NGX_IDEM_REDIS_UNUSED = 0,
    NGX_IDEM_REDIS_AWAY,                /* it failed, and is tried again */
    NGX_IDEM_REDIS_OPENING,
    NGX_IDEM_REDIS_THERE
} ngx_idem_redis_presence_e;


typedef struct {
    u_char                    name[NGX_SOCKADDR_STRLEN];
    uint32_t                  len;
    uint32_t                  sentinel;
    ngx_atomic_t              connects;
    ngx_atomic_t              failures;     /* to connect, and afterwards */
    ngx_atomic_t              trips[NGX_IDEM_REDIS_BOUNDS + 1];
    ngx_atomic_t              trip_us;      /* the sum */
    u_char                    presence[NGX_IDEM_REDIS_PLACES];
} ngx_idem_redis_server_t;


typedef struct {
    ngx_idem_worker_id_t      id;
    ngx_atomic_t              pending;      /* commands without an end */
    ngx_atomic_t              undelivered;  /* outcomes */
    ngx_atomic_t              bytes;        /* of these */
} ngx_idem_redis_gauges_t;


typedef struct {
    ngx_atomic_t              counts[NGX_IDEM_REDIS_COUNTS];
    ngx_atomic_t              errors[NGX_IDEM_REDIS_ERRORS];
    ngx_idem_redis_gauges_t   workers[NGX_IDEM_REDIS_PLACES];
    ngx_atomic_t              nservers;
    ngx_idem_redis_server_t   servers[NGX_IDEM_REDIS_SERVERS];
} ngx_idem_redis_board_t;


/* The same as a process has it. */

struct ngx_idem_redis_stat_s {
    ngx_idem_redis_board_t   *board;
    ngx_idem_worker_t        *worker;       /* NULL: nobody else writes */
    ngx_slab_pool_t          *shpool;       /* its mutex; or NULL */
    ngx_uint_t                place;        /* of this worker */
};


extern const ngx_str_t  ngx_idem_redis_count_names[NGX_IDEM_REDIS_COUNTS];
extern const ngx_str_t  ngx_idem_redis_error_names[NGX_IDEM_REDIS_ERRORS];

/* Upper ends of the round trips, in microseconds; the last one has none. */

extern const uint32_t  ngx_idem_redis_bounds[NGX_IDEM_REDIS_BOUNDS];


#define ngx_idem_redis_stat_add(st, i)                                        \
    (void) ngx_atomic_fetch_add(&(st)->board->counts[i], 1)

#define ngx_idem_redis_stat_error(st, i)                                      \
    (void) ngx_atomic_fetch_add(&(st)->board->errors[i], 1)


/* Adds a shared zone of that name.  NULL: an error was logged. */
ngx_idem_redis_stat_t *ngx_idem_redis_stat_zone(ngx_conf_t *cf,
    ngx_str_t *name, ngx_idem_worker_t *worker, void *tag);

/* One of this process alone. */
void ngx_idem_redis_stat_init(ngx_idem_redis_stat_t *st,
    ngx_idem_redis_board_t *board);

/* init_process: this worker begins, in the place of one that may have died. */
void ngx_idem_redis_stat_begin(ngx_idem_redis_stat_t *st);

/* What this worker has now. */
void ngx_idem_redis_stat_pending(ngx_idem_redis_stat_t *st, ngx_uint_t n);
void ngx_idem_redis_stat_undelivered(ngx_idem_redis_stat_t *st, ngx_int_t n,
    off_t bytes);

/* What an error reply is about, by its first word. */
ngx_idem_redis_error_e ngx_idem_redis_stat_kind(const ngx_str_t *words);

/* Whether the first word is that one. */
ngx_uint_t ngx_idem_redis_says(const ngx_str_t *words, const char *word);

/* Takes the mutex, for a moment, if it is not known yet. */
ngx_idem_redis_server_t *ngx_idem_redis_stat_server(ngx_idem_redis_stat_t *st,
    const ngx_str_t *name);

/* This worker's connection to it. */
void ngx_idem_redis_stat_presence(ngx_idem_redis_stat_t *st,
    ngx_idem_redis_server_t *sv, ngx_idem_redis_presence_e presence);

/* Microseconds of a clock that is never set. */
uint64_t ngx_idem_redis_stat_clock(void);

/* A round trip that began then has ended. */
void ngx_idem_redis_stat_trip(ngx_idem_redis_server_t *sv, uint64_t began_us);

/*
 * What lives now: sums over live workers.  of_server counts workers by
 * presence in n[NGX_IDEM_REDIS_THERE + 1].
 */
ngx_idem_redis_gauges_t ngx_idem_redis_stat_gauges(ngx_idem_redis_stat_t *st);
void ngx_idem_redis_stat_presences(ngx_idem_redis_stat_t *st,
    const ngx_idem_redis_server_t *sv, ngx_uint_t *n);


#endif /* _NGX_IDEM_REDIS_STAT_H_INCLUDED_ */
