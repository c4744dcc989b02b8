
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_point.h"
#include "store/ngx_idem_zone_layout.h"


#define NGX_IDEM_ZONE_DIGITS  256


typedef struct {
    ngx_uint_t    first;
    ngx_uint_t    n;
} ngx_idem_zone_kind_t;


static uint32_t *ngx_idem_zone_bucket(ngx_idem_zone_t *zn,
    const uint8_t *identity);
static ngx_uint_t ngx_idem_zone_evictable(ngx_uint_t state);
static void ngx_idem_zone_sort_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_queue_t *q);
static void ngx_idem_zone_deal_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_queue_t *q, uint64_t min, ngx_uint_t shift);


/* The queues of a state. */

static const ngx_idem_zone_kind_t  ngx_idem_zone_kinds[] = {
    { 0, 0 },                                           /* absent */
    { 0, NGX_IDEM_ZONE_RUNNING },
    { NGX_IDEM_ZONE_RUNNING + NGX_IDEM_ZONE_UNKNOWN,    /* done */
      NGX_IDEM_ZONE_EVICTABLE },
    { NGX_IDEM_ZONE_RUNNING + NGX_IDEM_ZONE_UNKNOWN,    /* unstored */
      NGX_IDEM_ZONE_EVICTABLE },
    { NGX_IDEM_ZONE_RUNNING, NGX_IDEM_ZONE_UNKNOWN },
    { 0, NGX_IDEM_ZONE_RUNNING },                       /* held */
    { NGX_IDEM_ZONE_RUNNING, NGX_IDEM_ZONE_UNKNOWN }    /* free */
};


uint32_t
ngx_idem_zone_find_locked(ngx_idem_zone_t *zn, const u_char *identity)
{
    uint32_t          i;
    ngx_idem_head_t  *h;

    i = *ngx_idem_zone_bucket(zn, identity);

    while (i != NGX_IDEM_NIL) {
        h = ngx_idem_zone_head(zn, i);

        if (ngx_memcmp(h->identity, identity, NGX_IDEM_DIGEST_LEN) == 0) {
            break;
        }

        i = h->bucket_next;
    }

    return i;
}


/*
 * The one of that life; else an empty one, which takes that life; else the
 * one with the nearest life.
 */

ngx_uint_t
ngx_idem_zone_queue_locked(ngx_idem_zone_t *zn, ngx_uint_t state,
    uint64_t life_ms)
{
    uint64_t                     far, nearest;
    ngx_uint_t                   i, best, last;
    ngx_idem_zone_queue_t       *q;
    const ngx_idem_zone_kind_t  *kind;

    kind = &ngx_idem_zone_kinds[state];
    last = kind->first + kind->n;
    best = kind->first;
    nearest = (uint64_t) -1;

    for (i = kind->first; i < last; i++) {
        q = &zn->sb->queues[i];

        if (q->life_ms == life_ms) {
            return i;
        }

        far = (q->life_ms < life_ms) ? life_ms - q->life_ms
                                     : q->life_ms - life_ms;

        if (q->first == NGX_IDEM_NIL) {
            far = 0;
        }

        if (far < nearest) {
            nearest = far;
            best = i;
        }
    }

    q = &zn->sb->queues[best];

    if (q->first == NGX_IDEM_NIL) {
        q->life_ms = life_ms;
    }

    return best;
}


void
ngx_idem_zone_enter_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    uint32_t         *bucket;
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);
    bucket = ngx_idem_zone_bucket(zn, h->identity);

    h->bucket_next = *bucket;
    *bucket = i;

    NGX_IDEM_POINT("enter");

    ngx_idem_zone_enqueue_locked(zn, i);
}


void
ngx_idem_zone_leave_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    uint32_t         *p;
    ngx_idem_head_t  *h;

    ngx_idem_zone_dequeue_locked(zn, i);

    NGX_IDEM_POINT("leave");

    h = ngx_idem_zone_head(zn, i);
    p = ngx_idem_zone_bucket(zn, h->identity);

    while (*p != i) {
        p = &ngx_idem_zone_head(zn, *p)->bucket_next;
    }

    *p = h->bucket_next;
}


void
ngx_idem_zone_enqueue_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_head_t        *h;
    ngx_idem_superblock_t  *sb;
    ngx_idem_zone_queue_t  *q;

    sb = zn->sb;
    h = ngx_idem_zone_head(zn, i);
    q = &sb->queues[h->queue];

    h->prev = q->last;
    h->next = NGX_IDEM_NIL;

    if (q->last == NGX_IDEM_NIL) {
        q->first = i;

    } else {
        ngx_idem_zone_head(zn, q->last)->next = i;
    }

    NGX_IDEM_POINT("enqueue");

    q->last = i;

    sb->due_ms = ngx_min(sb->due_ms, h->entry.until_ms);
    sb->count[h->entry.state]++;

    if (ngx_idem_zone_evictable(h->entry.state)) {
        sb->evictable += 1 + ngx_idem_zone_data_blocks(zn, i);
    }
}


void
ngx_idem_zone_dequeue_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_head_t        *h;
    ngx_idem_superblock_t  *sb;
    ngx_idem_zone_queue_t  *q;

    sb = zn->sb;
    h = ngx_idem_zone_head(zn, i);
    q = &sb->queues[h->queue];

    if (h->prev == NGX_IDEM_NIL) {
        q->first = h->next;

    } else {
        ngx_idem_zone_head(zn, h->prev)->next = h->next;
    }

    NGX_IDEM_POINT("dequeue");

    if (h->next == NGX_IDEM_NIL) {
        q->last = h->prev;

    } else {
        ngx_idem_zone_head(zn, h->next)->prev = h->prev;
    }

    sb->count[h->entry.state]--;

    if (ngx_idem_zone_evictable(h->entry.state)) {
        sb->evictable -= 1 + ngx_idem_zone_data_blocks(zn, i);
    }
}


/* A running record has blocks only while its owner brings a response. */

uint32_t
ngx_idem_zone_data_blocks(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);

    if (h->entry.state == NGX_IDEM_STATE_RUNNING
        || ngx_idem_zone_is_guard(h))
    {
        return ngx_idem_arena_count(&zn->arena, h->tail);
    }

    return (uint32_t) ngx_idem_arena_blocks((size_t) h->u.size);
}


void
ngx_idem_zone_rebuild_locked(ngx_idem_zone_t *zn)
{
    uint32_t                i;
    ngx_idem_head_t        *h;
    ngx_idem_superblock_t  *sb;

    sb = zn->sb;

    if (sb->saved.place) {
        *ngx_idem_zone_head(zn, sb->saved.place - 1) = sb->saved.head;

        ngx_idem_zone_guard_restore_locked(zn);

        ngx_memory_barrier();

        sb->saved.place = 0;
    }

    for (i = 0; i < sb->nbuckets; i++) {
        zn->buckets[i] = NGX_IDEM_NIL;
    }

    for (i = 0; i < NGX_IDEM_ZONE_QUEUES; i++) {
        sb->queues[i].first = NGX_IDEM_NIL;
        sb->queues[i].last = NGX_IDEM_NIL;
    }

    ngx_memzero(sb->count, sizeof(sb->count));

    /* whoever died may not have told what it ended */

    ngx_memset(sb->ended, 0xff, sizeof(sb->ended));

    sb->due_ms = (uint64_t) -1;
    sb->evictable = 0;
    sb->waiting = 0;

    ngx_idem_arena_unmark(&zn->arena);

    for (i = 0; i < sb->list.nblocks; i++) {

        if (!ngx_idem_arena_is_head(&zn->arena, i)) {
            continue;
        }

        h = ngx_idem_zone_head(zn, i);

        (void) ngx_idem_arena_mark(&zn->arena, i);
        (void) ngx_idem_arena_mark_chain(&zn->arena, h->tail);

        ngx_idem_zone_enter_locked(zn, i);

        if (ngx_idem_zone_is_guard(h)) {
            ngx_idem_zone_guard_stir_locked(zn, i);

        } else if (h->entry.state != NGX_IDEM_STATE_RUNNING) {
            h->nwaiters = 0;
        }

        sb->waiting += h->nwaiters;
    }

    NGX_IDEM_POINT("rebuild");

    for (i = 0; i < NGX_IDEM_ZONE_QUEUES; i++) {
        ngx_idem_zone_sort_locked(zn, &sb->queues[i]);
    }

    ngx_idem_arena_rebuild(&zn->arena);
}


static uint32_t *
ngx_idem_zone_bucket(ngx_idem_zone_t *zn, const uint8_t *identity)
{
    uint32_t  hash;

    ngx_memcpy(&hash, identity, sizeof(uint32_t));

    /* who knows the scope could choose keys that all fall into one bucket */

    hash *= zn->sb->secret;

    return &zn->buckets[((uint64_t) hash * zn->sb->nbuckets) >> 32];
}


static ngx_uint_t
ngx_idem_zone_evictable(ngx_uint_t state)
{
    return state == NGX_IDEM_STATE_DONE || state == NGX_IDEM_STATE_UNSTORED;
}


/* By end, digit by digit from the lowest, as far as the ends differ. */

static void
ngx_idem_zone_sort_locked(ngx_idem_zone_t *zn, ngx_idem_zone_queue_t *q)
{
    uint32_t          i, prev;
    uint64_t          max, min;
    ngx_uint_t        shift;
    ngx_idem_head_t  *h;

    max = 0;
    min = (uint64_t) -1;

    for (i = q->first; i != NGX_IDEM_NIL; i = h->next) {
        h = ngx_idem_zone_head(zn, i);
        max = ngx_max(max, h->entry.until_ms);
        min = ngx_min(min, h->entry.until_ms);
    }

    for (shift = 0; shift < 64 && max > min && (max - min) >> shift;
         shift += 8)
    {
        ngx_idem_zone_deal_locked(zn, q, min, shift);
    }

    prev = NGX_IDEM_NIL;

    for (i = q->first; i != NGX_IDEM_NIL; i = h->next) {
        h = ngx_idem_zone_head(zn, i);
        h->prev = prev;
        prev = i;
    }

    q->last = prev;
}


/* Deals a queue onto heaps by one digit, and puts these one after another. */

static void
ngx_idem_zone_deal_locked(ngx_idem_zone_t *zn, ngx_idem_zone_queue_t *q,
    uint64_t min, ngx_uint_t shift)
{
    uint32_t          i, next, *link, *ends[NGX_IDEM_ZONE_DIGITS],
                      firsts[NGX_IDEM_ZONE_DIGITS];
    ngx_uint_t        n;
    ngx_idem_head_t  *h;

    for (n = 0; n < NGX_IDEM_ZONE_DIGITS; n++) {
        firsts[n] = NGX_IDEM_NIL;
        ends[n] = &firsts[n];
    }

    for (i = q->first; i != NGX_IDEM_NIL; i = next) {
        h = ngx_idem_zone_head(zn, i);
        next = h->next;

        n = ((h->entry.until_ms - min) >> shift) & (NGX_IDEM_ZONE_DIGITS - 1);

        h->next = NGX_IDEM_NIL;
        *ends[n] = i;
        ends[n] = &h->next;
    }

    link = &q->first;
    *link = NGX_IDEM_NIL;

    for (n = 0; n < NGX_IDEM_ZONE_DIGITS; n++) {

        if (firsts[n] != NGX_IDEM_NIL) {
            *link = firsts[n];
            link = ends[n];
        }
    }
}
