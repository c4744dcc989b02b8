
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What lies in the memory of a zone, and what the files of the zone tell each
 * other.  Nobody else includes this.
 *
 *   superblock | counters | buckets | links | blocks
 *
 * Links and blocks are an arena.  A record is a head, one block, and a chain
 * of data blocks for the bytes of a response.
 *
 * Truth is what stands in heads, the links of heads and of their chains, the
 * fence, the lives of queues and the pins.  The rest is derived from it by
 * ngx_idem_zone_rebuild_locked(): buckets, queues, counts, the free list.
 *
 * A worker may die at any instruction.  A record comes to be by the one store
 * that makes its block a head, and ceases by the one that makes it none.  A
 * head that changes is saved before; the one store that drops the saved copy
 * is what makes the change true.  A guard is saved with its bytes, as these
 * change in their place.
 *
 * Records stand in queues, those of equal life in one, so that each queue is
 * in order of end.  There are queues for running, for unknown and for the
 * others: only these may be evicted.  A guard that is held stands with what is
 * running, one that is free with what is unknown.
 *
 * A guard is a record in one of two more states.  The bytes of
 * core/ngx_idem_guard.h are in its chain; of its entry
 *
 *   fingerprint  begins with its turn, which changes if one in the queue may
 *                have lost its place without leaving it
 *   owner        who holds it
 *   until_ms     end of the lease, or of the guard
 *   ttl_s        its life when it is free
 *   status       how many bytes they are
 *   dry          what is pending is an earlier holder's
 *
 * and nwaiters is the length of its queue.  While it is held, its chain has
 * room for whatever the holder may leave in it.
 *
 * Who reads a response pins its record; what is pinned is not given back.
 */


#ifndef _NGX_IDEM_ZONE_LAYOUT_H_INCLUDED_
#define _NGX_IDEM_ZONE_LAYOUT_H_INCLUDED_


#include <pthread.h>

#include "core/ngx_idem_guard.h"
#include "store/ngx_idem_arena.h"
#include "store/ngx_idem_waiter.h"
#include "store/ngx_idem_zone.h"


#define NGX_IDEM_ZONE_VERSION    2

#define NGX_IDEM_ZONE_RUNNING    8              /* queues of each kind */
#define NGX_IDEM_ZONE_UNKNOWN    8
#define NGX_IDEM_ZONE_EVICTABLE  16
#define NGX_IDEM_ZONE_QUEUES     32

/* States of an entry that the lease machine does not know, so leaves alone. */

#define NGX_IDEM_ZONE_HELD       5
#define NGX_IDEM_ZONE_FREE       6

#define NGX_IDEM_ZONE_STATES     7

#define NGX_IDEM_ZONE_FEW        16             /* records for a claim */
#define NGX_IDEM_ZONE_MANY       64             /* records for a tick */


/* A block; first what a look-up compares. */

typedef struct {
    uint8_t                 identity[NGX_IDEM_DIGEST_LEN];
    ngx_idem_entry_t        entry;
    uint32_t                bucket_next;
    uint32_t                prev;               /* in the queue */
    uint32_t                next;
    uint32_t                tail;               /* last data block, or nil */

    union {
        ngx_idem_worker_id_t  worker;           /* running, held */
        uint32_t              size;             /* else: bytes */
    } u;

    uint16_t                nwaiters;
    uint8_t                 queue;
    uint8_t                 reserved;
} ngx_idem_head_t;

typedef char  ngx_idem_head_is_a_block
                  [(sizeof(ngx_idem_head_t) == NGX_IDEM_BLOCK) ? 1 : -1];


typedef struct {
    uint64_t                life_ms;
    uint32_t                first;
    uint32_t                last;
} ngx_idem_zone_queue_t;


/* place is a block and 1, or 0 for none: written last, and cleared first. */

typedef struct {
    uint32_t                place;
    uint32_t                epoch;
} ngx_idem_pin_t;

typedef struct {
    uint32_t                place;
    uint32_t                size;               /* bytes, of a guard */
    ngx_idem_head_t         head;
    uint8_t                 guard[NGX_IDEM_GUARD_BYTES];
} ngx_idem_saved_t;


/* Arrays for each worker are by its slot. */

typedef struct {
    uint32_t                version;
    uint32_t                nbuckets;
    uint64_t                size;               /* of all, in bytes */
    ngx_idem_arena_list_t   list;

    uint64_t                fence;              /* the last one given */
    uint64_t                due_ms;             /* nothing to sweep before */
    uint64_t                waiting_workers;    /* bit by slot */
    uint32_t                waiting;            /* ops, in all workers */
    uint32_t                evictable;          /* blocks, with heads */
    uint32_t                count[NGX_IDEM_ZONE_STATES];
    uint32_t                secret;             /* odd; spreads the buckets */

    ngx_idem_saved_t        saved;
    ngx_idem_zone_queue_t   queues[NGX_IDEM_ZONE_QUEUES];
    ngx_idem_pin_t          pins[NGX_IDEM_WORKERS];
    uint64_t                ended[NGX_IDEM_WORKERS];    /* waiter buckets */

    pthread_mutex_t         mutex;
} ngx_idem_superblock_t;


/* What is to be told when the lock is no longer held. */

typedef struct {
    uint64_t                wake;               /* workers */
    ngx_uint_t              evicted_done;
    ngx_uint_t              evicted_unstored;
    ngx_uint_t              refused;            /* claims */
    ngx_uint_t              not_kept;           /* responses */
    unsigned                any:1;
    unsigned                repaired:1;
} ngx_idem_zone_news_t;


/* A zone as this process sees it. */

typedef struct {
    ngx_idem_store_t        store;              /* first: the same address */
    ngx_idem_worker_t      *worker;
    ngx_idem_full_e         full;
    size_t                  size;               /* as configured */

    ngx_idem_superblock_t  *sb;
    uint32_t               *buckets;
    ngx_idem_arena_t        arena;

    uint64_t                now_ms;             /* since the lock was taken */
    ngx_idem_zone_news_t    news;
    ngx_msec_t              logged;             /* when it was last full */
    ngx_idem_waiters_t      waiters;

    ngx_msec_t              swept;              /* last look at owners */
    uint32_t                cursor;             /* where it goes on */
} ngx_idem_zone_t;


/* Whether the owner of a claim that is in the way lives. */

typedef struct {
    uint64_t                fence;
    ngx_idem_worker_id_t    owner;
    unsigned                ask:1;
    unsigned                dead:1;
} ngx_idem_zone_doubt_t;


extern const ngx_idem_verbs_t  ngx_idem_zone_verbs;


#define ngx_idem_zone_head(zn, i)                                             \
    ((ngx_idem_head_t *) ngx_idem_arena_block(&(zn)->arena, i))

#define ngx_idem_zone_is_guard(h)                                             \
    ((h)->entry.state == NGX_IDEM_ZONE_HELD                                   \
     || (h)->entry.state == NGX_IDEM_ZONE_FREE)


/* ngx_idem_zone.c: the verbs of claims */

/* The record of op's identity, after time has passed for it, or nil. */
uint32_t ngx_idem_zone_record_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op);

/* The same if it is in that state, and op owns it. */
uint32_t ngx_idem_zone_own_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_uint_t state);

/*
 * Whether the owner of a running record lives.  NGX_OK: as far as we know.
 * NGX_AGAIN: db->owner is to be asked about first, without the lock; db->dead
 * is what it said.  NGX_DONE: it does not, and has lost it.
 */
ngx_int_t ngx_idem_zone_doubtful_locked(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_zone_doubt_t *db);

/* This worker is told from now on what ends. */
void ngx_idem_zone_listen_locked(ngx_idem_zone_t *zn);


/* ngx_idem_zone_init.c: the memory and its lock */

/*
 * Makes an empty zone of a piece of memory, aligned to NGX_IDEM_BLOCK.
 * NGX_ERROR: it is too small, or there are no robust mutexes.
 */
ngx_int_t ngx_idem_zone_format(ngx_idem_zone_t *zn, void *addr, size_t size);

/* Finds the parts of a zone that is formatted. */
void ngx_idem_zone_view(ngx_idem_zone_t *zn, void *addr);

/*
 * Takes the lock; repairs the zone first if the last one who held it died.
 * NGX_ERROR: it cannot be had.
 */
ngx_int_t ngx_idem_zone_lock(ngx_idem_zone_t *zn);

/* Gives it back, then wakes and logs what came up meanwhile. */
void ngx_idem_zone_unlock(ngx_idem_zone_t *zn);


/* ngx_idem_zone_index.c: buckets, queues and counts */

/* The record of an identity, or nil. */
uint32_t ngx_idem_zone_find_locked(ngx_idem_zone_t *zn,
    const u_char *identity);

/* The queue for a state and a life. */
ngx_uint_t ngx_idem_zone_queue_locked(ngx_idem_zone_t *zn, ngx_uint_t state,
    uint64_t life_ms);

/* A head and its link are set: it enters bucket, queue and counts. */
void ngx_idem_zone_enter_locked(ngx_idem_zone_t *zn, uint32_t i);

/* It leaves all of them. */
void ngx_idem_zone_leave_locked(ngx_idem_zone_t *zn, uint32_t i);

/* The same for its queue and the counts, as its state is to change. */
void ngx_idem_zone_enqueue_locked(ngx_idem_zone_t *zn, uint32_t i);
void ngx_idem_zone_dequeue_locked(ngx_idem_zone_t *zn, uint32_t i);

/* Data blocks of a record; those of a guard are counted. */
uint32_t ngx_idem_zone_data_blocks(ngx_idem_zone_t *zn, uint32_t i);

/* Makes all that is derived. */
void ngx_idem_zone_rebuild_locked(ngx_idem_zone_t *zn);


/* ngx_idem_zone_life.c: how records change and end */

/*
 * Sets the entry of a record, which stays one.  If the claim ends so, waiters
 * are told; data blocks are given back unless there is a response.
 *
 *   life_ms  decides about the queue
 *   size     bytes of the response, if there is one: its chain is there
 */
void ngx_idem_zone_set_locked(ngx_idem_zone_t *zn, uint32_t i,
    const ngx_idem_entry_t *en, uint64_t life_ms, uint32_t size);

/* Gives a record back.  NGX_DECLINED: it is being read. */
ngx_int_t ngx_idem_zone_drop_locked(ngx_idem_zone_t *zn, uint32_t i);

/* Lets time pass for a record.  NGX_DECLINED: it is no more. */
ngx_int_t ngx_idem_zone_pass_locked(ngx_idem_zone_t *zn, uint32_t i);

/* Lets time pass for at most n records. */
void ngx_idem_zone_expire_locked(ngx_idem_zone_t *zn, ngx_uint_t n);

/* Its worker is dead. */
void ngx_idem_zone_orphan_locked(ngx_idem_zone_t *zn, uint32_t i);

/*
 * Sees to it that n blocks are free, n <= NGX_IDEM_ZONE_MANY, by what has
 * expired and, with full=evict, by what is oldest.  NGX_DECLINED: no room.
 */
ngx_int_t ngx_idem_zone_reclaim_locked(ngx_idem_zone_t *zn, uint32_t n);

/* Looks at some of the running records for dead owners; takes the lock. */
void ngx_idem_zone_sweep(ngx_idem_zone_t *zn);


/* ngx_idem_zone_guard.c: guards, and their verbs */

ngx_int_t ngx_idem_zone_hold(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_zone_mark(ngx_idem_store_t *st, ngx_idem_op_t *op);
ngx_int_t ngx_idem_zone_leave(ngx_idem_store_t *st, ngx_idem_op_t *op);

/* op, which was parked, leaves the queue, or gives the guard on. */
void ngx_idem_zone_unqueue_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op);

/*
 * Whether a parked op is to ask again: the guard is its own, or it may have
 * lost its place.  Also without the lock.
 */
ngx_uint_t ngx_idem_zone_turn(ngx_idem_zone_t *zn, ngx_idem_op_t *op);

/* The same as for any record.  vanish: the holder did, its lease ended so. */
ngx_int_t ngx_idem_zone_guard_pass_locked(ngx_idem_zone_t *zn, uint32_t i);
void ngx_idem_zone_guard_orphan_locked(ngx_idem_zone_t *zn, uint32_t i);

/* Reads a guard; gd points into bytes.  NGX_ERROR: these are no guard. */
ngx_int_t ngx_idem_zone_guard_read(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_guard_t *gd, u_char bytes[NGX_IDEM_GUARD_BYTES]);

/* Blocks that it is to have. */
uint32_t ngx_idem_zone_guard_blocks(ngx_uint_t state,
    const ngx_idem_guard_t *gd);

/* Repair: a saved guard is as it was; whoever waits for one is to look. */
void ngx_idem_zone_guard_restore_locked(ngx_idem_zone_t *zn);
void ngx_idem_zone_guard_stir_locked(ngx_idem_zone_t *zn, uint32_t i);


/* ngx_idem_zone_check.c, in tests only */

/*
 * Walks everything: says what is wrong, or NULL.  Takes the lock and changes
 * nothing.
 */
const char *ngx_idem_zone_check(ngx_idem_zone_t *zn);


#endif /* _NGX_IDEM_ZONE_LAYOUT_H_INCLUDED_ */
