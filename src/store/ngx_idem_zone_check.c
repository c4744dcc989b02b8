
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_zone_layout.h"


/* What is found, to compare it with what the superblock says. */

typedef struct {
    uint32_t     heads;
    uint32_t     queued;
    uint32_t     waiting;
    uint32_t     evictable;
    uint32_t     count[NGX_IDEM_ZONE_STATES];
} ngx_idem_zone_sums_t;


static const char *ngx_idem_zone_check_locked(ngx_idem_zone_t *zn);
static const char *ngx_idem_zone_check_head(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_zone_sums_t *sum);
static const char *ngx_idem_zone_check_guard(ngx_idem_zone_t *zn, uint32_t i,
    uint32_t blocks);
static ngx_uint_t ngx_idem_zone_check_kind(ngx_uint_t k, ngx_uint_t state);
static const char *ngx_idem_zone_check_queue(ngx_idem_zone_t *zn,
    ngx_uint_t k, ngx_idem_zone_sums_t *sum);
static const char *ngx_idem_zone_check_free(ngx_idem_zone_t *zn,
    uint32_t used);


const char *
ngx_idem_zone_check(ngx_idem_zone_t *zn)
{
    const char  *wrong;

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return "the lock cannot be had";
    }

    ngx_idem_arena_unmark(&zn->arena);

    wrong = ngx_idem_zone_check_locked(zn);

    ngx_idem_arena_unmark(&zn->arena);

    ngx_idem_zone_unlock(zn);

    return wrong;
}


static const char *
ngx_idem_zone_check_locked(ngx_idem_zone_t *zn)
{
    uint32_t                i, used;
    const char             *wrong;
    ngx_idem_zone_sums_t    sum;
    ngx_idem_superblock_t  *sb;

    sb = zn->sb;
    used = 0;

    ngx_memzero(&sum, sizeof(ngx_idem_zone_sums_t));

    if (sb->saved.place) {
        return "a change is half done";
    }

    for (i = 0; i < sb->list.nblocks; i++) {

        if (!ngx_idem_arena_is_head(&zn->arena, i)) {
            continue;
        }

        wrong = ngx_idem_zone_check_head(zn, i, &sum);
        if (wrong) {
            return wrong;
        }

        used += 1 + ngx_idem_zone_data_blocks(zn, i);
    }

    for (i = 0; i < NGX_IDEM_ZONE_QUEUES; i++) {
        wrong = ngx_idem_zone_check_queue(zn, i, &sum);
        if (wrong) {
            return wrong;
        }
    }

    if (sum.queued != sum.heads) {
        return "a head is in no queue";
    }

    if (ngx_memcmp(sum.count, sb->count, sizeof(sum.count)) != 0) {
        return "the counts by state are wrong";
    }

    if (sum.heads && sb->due_ms == (uint64_t) -1) {
        return "records are there and none is ever due";
    }

    if (sum.waiting != sb->waiting) {
        return "the count of waiters is wrong";
    }

    if (sum.evictable != sb->evictable) {
        return "the count of evictable blocks is wrong";
    }

    return ngx_idem_zone_check_free(zn, used);
}


static const char *
ngx_idem_zone_check_head(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_zone_sums_t *sum)
{
    uint32_t          blocks;
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);

    if (h->entry.state == NGX_IDEM_STATE_ABSENT
        || h->entry.state >= NGX_IDEM_ZONE_STATES)
    {
        return "a head has no state";
    }

    if (ngx_idem_zone_find_locked(zn, h->identity) != i) {
        return "a record is not found, or is there twice";
    }

    if (ngx_idem_arena_mark(&zn->arena, i) != NGX_OK
        || ngx_idem_arena_mark_chain(&zn->arena, h->tail) != NGX_OK)
    {
        return "a block is in two records";
    }

    blocks = ngx_idem_zone_data_blocks(zn, i);

    if (ngx_idem_arena_count(&zn->arena, h->tail) != blocks) {
        return "a chain has not the length of its response";
    }

    if (h->nwaiters && h->entry.state != NGX_IDEM_STATE_RUNNING
        && h->entry.state != NGX_IDEM_ZONE_HELD)
    {
        return "waiters wait for a claim that has ended";
    }

    sum->heads++;
    sum->waiting += h->nwaiters;
    sum->count[h->entry.state]++;

    if (h->entry.state == NGX_IDEM_STATE_DONE
        || h->entry.state == NGX_IDEM_STATE_UNSTORED)
    {
        sum->evictable += 1 + blocks;
    }

    return ngx_idem_zone_is_guard(h)
               ? ngx_idem_zone_check_guard(zn, i, blocks) : NULL;
}


static const char *
ngx_idem_zone_check_guard(ngx_idem_zone_t *zn, uint32_t i, uint32_t blocks)
{
    u_char             bytes[NGX_IDEM_GUARD_BYTES];
    ngx_idem_head_t   *h;
    ngx_idem_guard_t   gd;

    h = ngx_idem_zone_head(zn, i);

    if (ngx_idem_arena_blocks((size_t) h->entry.status) > blocks
        || ngx_idem_zone_guard_read(zn, i, &gd, bytes) != NGX_OK)
    {
        return "a guard cannot be read";
    }

    if (h->nwaiters != gd.nqueue) {
        return "the queue of a guard has another length";
    }

    if (h->entry.state == NGX_IDEM_ZONE_FREE && ngx_idem_guard_is_empty(&gd)) {
        return "a free guard is empty";
    }

    /* more, if one died before it gave back what it needs no more */

    return (blocks >= ngx_idem_zone_guard_blocks(h->entry.state, &gd))
               ? NULL : "a guard has not the room that it needs";
}


static const char *
ngx_idem_zone_check_queue(ngx_idem_zone_t *zn, ngx_uint_t k,
    ngx_idem_zone_sums_t *sum)
{
    uint32_t          i, prev;
    ngx_idem_head_t  *h;

    prev = NGX_IDEM_NIL;

    for (i = zn->sb->queues[k].first; i != NGX_IDEM_NIL; i = h->next) {

        if (i >= zn->sb->list.nblocks
            || !ngx_idem_arena_is_head(&zn->arena, i))
        {
            return "a block in a queue is no head";
        }

        h = ngx_idem_zone_head(zn, i);

        if (h->queue != k || h->prev != prev) {
            return "a queue is broken";
        }

        if (!ngx_idem_zone_check_kind(k, h->entry.state)) {
            return "a record is in a queue of another kind";
        }

        if (sum->queued++ > sum->heads) {
            return "a queue is a circle";
        }

        prev = i;
    }

    return (zn->sb->queues[k].last == prev) ? NULL
                                            : "the end of a queue is wrong";
}


/* Whether a record of that state may be in that queue. */

static ngx_uint_t
ngx_idem_zone_check_kind(ngx_uint_t k, ngx_uint_t state)
{
    if (k < NGX_IDEM_ZONE_RUNNING) {
        return state == NGX_IDEM_STATE_RUNNING || state == NGX_IDEM_ZONE_HELD;
    }

    if (k < NGX_IDEM_ZONE_RUNNING + NGX_IDEM_ZONE_UNKNOWN) {
        return state == NGX_IDEM_STATE_UNKNOWN || state == NGX_IDEM_ZONE_FREE;
    }

    return state == NGX_IDEM_STATE_DONE || state == NGX_IDEM_STATE_UNSTORED;
}


static const char *
ngx_idem_zone_check_free(ngx_idem_zone_t *zn, uint32_t used)
{
    uint32_t                      i, n;
    const ngx_idem_arena_list_t  *list;

    n = 0;
    list = &zn->sb->list;

    for (i = list->free;
         i != NGX_IDEM_NIL;
         i = ngx_idem_arena_next(&zn->arena, i))
    {
        if (ngx_idem_arena_mark(&zn->arena, i) != NGX_OK
            || ngx_idem_arena_is_head(&zn->arena, i))
        {
            return "a free block is in use, or free twice";
        }

        n++;
    }

    if (n != list->nfree) {
        return "the count of free blocks is wrong";
    }

    return (n + used == list->nblocks) ? NULL : "a block is lost";
}
