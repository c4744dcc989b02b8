
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_point.h"
#include "store/ngx_idem_zone_layout.h"


/* A worker that owns or reads something, by its slot. */

typedef struct {
    uint32_t      epoch;
    unsigned      seen:1;
    unsigned      dead:1;
} ngx_idem_zone_suspect_t;


static void ngx_idem_zone_tell_locked(ngx_idem_zone_t *zn, uint32_t i);
static void ngx_idem_zone_sweep_part(ngx_idem_zone_t *zn);
static ngx_uint_t ngx_idem_zone_pinned(ngx_idem_zone_t *zn, uint32_t i);
static ngx_int_t ngx_idem_zone_evict_locked(ngx_idem_zone_t *zn);
static uint32_t ngx_idem_zone_oldest_locked(ngx_idem_zone_t *zn);
static uint64_t ngx_idem_zone_born_ms(const ngx_idem_entry_t *en);

static uint32_t ngx_idem_zone_look_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_suspect_t *suspects);
static uint32_t ngx_idem_zone_running_locked(ngx_idem_zone_t *zn,
    ngx_uint_t queue);
static ngx_uint_t ngx_idem_zone_convict(ngx_idem_zone_t *zn,
    ngx_idem_zone_suspect_t *suspects, ngx_uint_t slot, uint32_t epoch);


void
ngx_idem_zone_set_locked(ngx_idem_zone_t *zn, uint32_t i,
    const ngx_idem_entry_t *en, uint64_t life_ms, uint32_t size)
{
    uint32_t           n, tail;
    ngx_idem_head_t   *h;
    ngx_idem_saved_t  *sv;

    h = ngx_idem_zone_head(zn, i);
    sv = &zn->sb->saved;

    ngx_idem_zone_dequeue_locked(zn, i);

    n = (size == 0) ? ngx_idem_zone_data_blocks(zn, i) : 0;
    tail = h->tail;

    sv->head = *h;
    ngx_memory_barrier();
    sv->place = i + 1;
    ngx_memory_barrier();

    h->entry = *en;
    h->queue = (uint8_t) ngx_idem_zone_queue_locked(zn, en->state, life_ms);

    NGX_IDEM_POINT("set");

    if (en->state == NGX_IDEM_STATE_RUNNING) {
        h->u.worker = ngx_idem_worker_self(zn->worker);

    } else {
        h->u.size = size;
    }

    if (size == 0) {
        h->tail = NGX_IDEM_NIL;
    }

    NGX_IDEM_POINT("set-all");

    ngx_memory_barrier();
    sv->place = 0;
    ngx_memory_barrier();

    NGX_IDEM_POINT("set-true");

    ngx_idem_zone_tell_locked(zn, i);

    if (size == 0) {
        ngx_idem_arena_give(&zn->arena, tail, n);
    }

    ngx_idem_zone_enqueue_locked(zn, i);
}


ngx_int_t
ngx_idem_zone_drop_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    uint32_t          n;
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);

    if (ngx_idem_zone_pinned(zn, i)) {
        return NGX_DECLINED;
    }

    ngx_idem_zone_leave_locked(zn, i);

    n = ngx_idem_zone_data_blocks(zn, i);

    NGX_IDEM_POINT("drop");

    ngx_idem_arena_unset_head(&zn->arena, i);

    NGX_IDEM_POINT("drop-true");

    ngx_idem_zone_tell_locked(zn, i);

    ngx_idem_arena_give(&zn->arena, h->tail, n);
    ngx_idem_arena_push(&zn->arena, i);

    return NGX_OK;
}


ngx_int_t
ngx_idem_zone_pass_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_head_t   *h;
    ngx_idem_entry_t   en;

    h = ngx_idem_zone_head(zn, i);

    if (h->entry.until_ms > zn->now_ms) {
        return NGX_OK;
    }

    if (ngx_idem_zone_is_guard(h)) {
        return ngx_idem_zone_guard_pass_locked(zn, i);
    }

    en = h->entry;

    if (ngx_idem_lease_expire(&en, zn->now_ms) == NGX_IDEM_STATE_ABSENT) {

        if (ngx_idem_zone_drop_locked(zn, i) != NGX_OK) {
            return NGX_OK;
        }

        ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_EXPIRED);

        return NGX_DECLINED;
    }

    ngx_idem_zone_set_locked(zn, i, &en, (uint64_t) en.ttl_s * 1000, 0);
    ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_LEASE_ENDED);

    return NGX_OK;
}


/*
 * What is being read ends a queue's turn, and its time comes again.  A lease
 * that ends leads to a queue that has not had its turn yet; but a guard that is
 * given on, to any queue: who enters one says when it is due.
 */

void
ngx_idem_zone_expire_locked(ngx_idem_zone_t *zn, ngx_uint_t n)
{
    uint32_t                i;
    ngx_uint_t              k;
    ngx_idem_head_t        *h;
    ngx_idem_superblock_t  *sb;
    ngx_idem_zone_queue_t  *q;

    sb = zn->sb;

    if (zn->now_ms < sb->due_ms) {
        return;
    }

    sb->due_ms = (uint64_t) -1;

    for (k = 0; k < NGX_IDEM_ZONE_QUEUES; k++) {
        q = &sb->queues[k];

        for (i = q->first; i != NGX_IDEM_NIL; i = q->first) {
            h = ngx_idem_zone_head(zn, i);

            if (h->entry.until_ms > zn->now_ms || n == 0) {
                sb->due_ms = ngx_min(sb->due_ms, h->entry.until_ms);
                break;
            }

            n--;

            if (ngx_idem_zone_pass_locked(zn, i) == NGX_OK && q->first == i) {
                sb->due_ms = ngx_min(sb->due_ms, h->entry.until_ms);
                break;
            }
        }
    }
}


void
ngx_idem_zone_orphan_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_entry_t  en;

    if (ngx_idem_zone_is_guard(ngx_idem_zone_head(zn, i))) {
        ngx_idem_zone_guard_orphan_locked(zn, i);
        return;
    }

    en = ngx_idem_zone_head(zn, i)->entry;

    ngx_idem_lease_orphan(&en, zn->now_ms);
    ngx_idem_zone_set_locked(zn, i, &en, (uint64_t) en.ttl_s * 1000, 0);
    ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_ORPHANED);
}


ngx_int_t
ngx_idem_zone_reclaim_locked(ngx_idem_zone_t *zn, uint32_t n)
{
    const ngx_idem_arena_list_t  *list;

    list = &zn->sb->list;

    if (list->nfree >= n) {
        return NGX_OK;
    }

    ngx_idem_zone_expire_locked(zn, NGX_IDEM_ZONE_MANY);

    while (list->nfree < n) {
        if (zn->full == NGX_IDEM_FULL_REFUSE
            || ngx_idem_zone_evict_locked(zn) != NGX_OK)
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


/* All running records, part by part: a dead worker may have left many. */

void
ngx_idem_zone_sweep(ngx_idem_zone_t *zn)
{
    ngx_uint_t  n;

    if (zn->swept && ngx_current_msec - zn->swept < 1000) {
        return;
    }

    zn->swept = ngx_current_msec;

    for (n = 0; n < NGX_IDEM_ZONE_MANY; n++) {
        ngx_idem_zone_sweep_part(zn);

        if (zn->cursor == NGX_IDEM_NIL) {
            break;
        }
    }
}


/*
 * In two walks of the same records, as workers are not asked about under the
 * lock: the first says whose they are, the second acts on it.
 */

static void
ngx_idem_zone_sweep_part(ngx_idem_zone_t *zn)
{
    uint32_t                  next;
    ngx_uint_t                dead, i;
    ngx_idem_worker_id_t      id;
    ngx_idem_zone_suspect_t   suspects[NGX_IDEM_WORKERS];

    ngx_memzero(suspects, sizeof(suspects));

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return;
    }

    next = ngx_idem_zone_look_locked(zn, suspects);

    ngx_idem_zone_unlock(zn);

    dead = 0;

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {

        if (suspects[i].seen) {
            id.slot = (uint16_t) i;
            id.epoch = (uint16_t) suspects[i].epoch;
            suspects[i].dead = !ngx_idem_worker_alive(zn->worker, id);
            dead |= suspects[i].dead;
        }
    }

    if (dead && ngx_idem_zone_lock(zn) == NGX_OK) {
        next = ngx_idem_zone_look_locked(zn, suspects);
        ngx_idem_zone_unlock(zn);
    }

    zn->cursor = next;
}


/*
 * After the claim has truly ended: whoever dies before leaves a repair behind,
 * which tells all workers.
 */

static void
ngx_idem_zone_tell_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    uint64_t                bit, left;
    ngx_uint_t              slot;
    ngx_idem_head_t        *h;
    ngx_idem_superblock_t  *sb;

    sb = zn->sb;
    h = ngx_idem_zone_head(zn, i);

    if (h->nwaiters == 0) {
        return;
    }

    sb->waiting -= h->nwaiters;
    h->nwaiters = 0;

    bit = ngx_idem_waiter_bit(i);
    left = sb->waiting_workers;

    for (slot = 0; left; slot++, left >>= 1) {
        if (left & 1) {
            sb->ended[slot] |= bit;
        }
    }

    NGX_IDEM_POINT("tell");

    zn->news.wake |= sb->waiting_workers;
    zn->news.any = 1;
}


static ngx_uint_t
ngx_idem_zone_pinned(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_uint_t  n;

    for (n = 0; n < NGX_IDEM_WORKERS; n++) {
        if (zn->sb->pins[n].place == i + 1) {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_idem_zone_evict_locked(ngx_idem_zone_t *zn)
{
    uint32_t    i;
    ngx_uint_t  done;

    i = ngx_idem_zone_oldest_locked(zn);

    if (i == NGX_IDEM_NIL) {
        return NGX_DECLINED;
    }

    done = ngx_idem_zone_head(zn, i)->entry.state == NGX_IDEM_STATE_DONE;

    (void) ngx_idem_zone_drop_locked(zn, i);

    if (done) {
        ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_EVICTED_DONE);
        zn->news.evicted_done++;

    } else {
        ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_EVICTED_UNSTORED);
        zn->news.evicted_unstored++;
    }

    zn->news.any = 1;

    return NGX_OK;
}


/* The first of each queue that nobody reads. */

static uint32_t
ngx_idem_zone_oldest_locked(ngx_idem_zone_t *zn)
{
    uint32_t          i, oldest;
    uint64_t          born_ms, first_ms;
    ngx_uint_t        k;

    oldest = NGX_IDEM_NIL;
    first_ms = (uint64_t) -1;

    for (k = NGX_IDEM_ZONE_RUNNING + NGX_IDEM_ZONE_UNKNOWN;
         k < NGX_IDEM_ZONE_QUEUES;
         k++)
    {
        i = zn->sb->queues[k].first;

        while (i != NGX_IDEM_NIL && ngx_idem_zone_pinned(zn, i)) {
            i = ngx_idem_zone_head(zn, i)->next;
        }

        if (i == NGX_IDEM_NIL) {
            continue;
        }

        born_ms = ngx_idem_zone_born_ms(&ngx_idem_zone_head(zn, i)->entry);

        if (oldest == NGX_IDEM_NIL || born_ms < first_ms) {
            oldest = i;
            first_ms = born_ms;
        }
    }

    return oldest;
}


static uint64_t
ngx_idem_zone_born_ms(const ngx_idem_entry_t *en)
{
    return en->until_ms - (uint64_t) en->ttl_s * 1000;
}


/*
 * Notes the workers that own running records from the cursor on, or read
 * anything; those known as dead lose it.  Returns where to go on.
 */

static uint32_t
ngx_idem_zone_look_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_suspect_t *suspects)
{
    uint32_t               i, next;
    ngx_uint_t             n;
    ngx_idem_pin_t        *pin;
    ngx_idem_head_t       *h;
    ngx_idem_worker_id_t   id;

    for (n = 0; n < NGX_IDEM_WORKERS; n++) {
        pin = &zn->sb->pins[n];

        if (pin->place
            && ngx_idem_zone_convict(zn, suspects, n, pin->epoch))
        {
            pin->place = 0;
        }
    }

    i = zn->cursor;

    if (i >= zn->sb->list.nblocks
        || !ngx_idem_arena_is_head(&zn->arena, i)
        || ngx_idem_zone_head(zn, i)->queue >= NGX_IDEM_ZONE_RUNNING)
    {
        i = ngx_idem_zone_running_locked(zn, 0);
    }

    for (n = 0; n < NGX_IDEM_ZONE_MANY && i != NGX_IDEM_NIL; n++) {
        h = ngx_idem_zone_head(zn, i);
        id = h->u.worker;

        next = h->next;

        if (next == NGX_IDEM_NIL) {
            next = ngx_idem_zone_running_locked(zn, h->queue + 1);
        }

        if (ngx_idem_zone_convict(zn, suspects, id.slot, id.epoch)) {
            ngx_idem_zone_orphan_locked(zn, i);
        }

        i = next;
    }

    return i;
}


/* The first record in the queues of running ones from that queue on. */

static uint32_t
ngx_idem_zone_running_locked(ngx_idem_zone_t *zn, ngx_uint_t queue)
{
    for ( /* void */ ; queue < NGX_IDEM_ZONE_RUNNING; queue++) {
        if (zn->sb->queues[queue].first != NGX_IDEM_NIL) {
            return zn->sb->queues[queue].first;
        }
    }

    return NGX_IDEM_NIL;
}


/* One of a slot is looked at; another of that slot has its turn later. */

static ngx_uint_t
ngx_idem_zone_convict(ngx_idem_zone_t *zn, ngx_idem_zone_suspect_t *suspects,
    ngx_uint_t slot, uint32_t epoch)
{
    ngx_idem_worker_id_t      self;
    ngx_idem_zone_suspect_t  *s;

    self = ngx_idem_worker_self(zn->worker);

    if (slot >= NGX_IDEM_WORKERS
        || (slot == self.slot && epoch == self.epoch))
    {
        return 0;
    }

    s = &suspects[slot];

    if (!s->seen) {
        s->seen = 1;
        s->epoch = epoch;
    }

    return s->dead && s->epoch == epoch;
}
