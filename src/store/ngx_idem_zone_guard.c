
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Guards in a zone:
 *
 *             hold          leave        cancel     lease, worker ends
 *   ---------------------------------------------------------------------
 *   absent    HELD owned    lost         -          -
 *   free      HELD *        lost         -          -
 *   held
 *     by me   - *           FREE, NEXT   NEXT       FREE, NEXT
 *     others  - busy, join  lost         it leaves  FREE, NEXT
 *
 *   *     CHECK if something of an earlier holder is pending, else OWNED
 *   NEXT  if somebody is in the queue: HELD by the first, with all that is
 *         pending; FREE only if nobody is
 *
 * A guard that is free and in which nothing is left is dropped.
 *
 * A change takes no block but for who joins the queue and who holds what was
 * free or absent: so it cannot fail.  That is why bytes change in their place,
 * with the old ones saved, and are not written anew beside them.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_point.h"
#include "store/ngx_idem_zone_layout.h"


/* A guard in work: gd points into bytes, or to what op brings. */

typedef struct {
    uint32_t               place;
    ngx_idem_entry_t       entry;
    ngx_idem_worker_id_t   worker;
    ngx_idem_guard_t       gd;
    u_char                 bytes[NGX_IDEM_GUARD_BYTES];
} ngx_idem_zone_guard_t;


/* What a waiter brings, in its 8 bytes. */

typedef struct {
    ngx_idem_worker_id_t   worker;
    uint32_t               lease_ms;
} ngx_idem_zone_about_t;

typedef char  ngx_idem_about_is_8_bytes
                  [(sizeof(ngx_idem_zone_about_t) == 8) ? 1 : -1];


static void ngx_idem_zone_hold_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_zone_doubt_t *db, u_char *found);
static uint32_t ngx_idem_zone_living_locked(ngx_idem_zone_t *zn,
    ngx_idem_op_t *op, ngx_idem_zone_doubt_t *db);
static void ngx_idem_zone_new_guard_locked(ngx_idem_zone_t *zn,
    ngx_idem_op_t *op);
static void ngx_idem_zone_take_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, ngx_idem_op_t *op, u_char *found);
static void ngx_idem_zone_found(ngx_idem_zone_guard_t *g, ngx_idem_op_t *op,
    u_char *p);
static void ngx_idem_zone_join_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, ngx_idem_op_t *op);
static ngx_int_t ngx_idem_zone_room_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g);

static ngx_uint_t ngx_idem_zone_told(ngx_idem_guard_t *gd, ngx_idem_op_t *op);

static void ngx_idem_zone_grant_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, const u_char *owner, ngx_msec_t lease_ms);
static ngx_int_t ngx_idem_zone_next_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, uint64_t from_ms);

static void ngx_idem_zone_open_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, uint32_t i);
static void ngx_idem_zone_shut_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, uint64_t life_ms);
static void ngx_idem_zone_shrink_locked(ngx_idem_zone_t *zn,
    ngx_idem_zone_guard_t *g, uint32_t has, uint32_t n);
static void ngx_idem_zone_save_locked(ngx_idem_zone_t *zn, uint32_t i,
    uint32_t tail, const u_char *bytes);
static void ngx_idem_zone_fill(ngx_idem_zone_t *zn, uint32_t tail,
    u_char *bytes, size_t len);

static uint64_t ngx_idem_zone_turn_of(const ngx_idem_entry_t *en);
static void ngx_idem_zone_new_turn_locked(ngx_idem_zone_t *zn,
    ngx_idem_entry_t *en);


ngx_int_t
ngx_idem_zone_hold(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_zone_t        *zn;
    ngx_idem_zone_doubt_t   db;

    zn = (ngx_idem_zone_t *) st;
    op->by = st->kind;

    if (op->pending.len > NGX_IDEM_GUARD_PENDING) {
        return NGX_ERROR;
    }

    /* who asks again may have been given the guard: that must not fail */

    if (op->room == NULL) {
        op->room = ngx_pnalloc(op->pool,
                               NGX_IDEM_GUARD_VALUE + NGX_IDEM_GUARD_PENDING);
        if (op->room == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_memzero(&db, sizeof(ngx_idem_zone_doubt_t));

    for ( ;; ) {

        if (ngx_idem_zone_lock(zn) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_idem_zone_hold_locked(zn, op, &db, op->room);

        ngx_idem_zone_unlock(zn);

        if (!db.ask) {
            break;
        }

        db.ask = 0;
        db.dead = !ngx_idem_worker_alive(zn->worker, db.owner);
    }

    if (op->parked) {
        ngx_idem_worker_tick(zn->worker, 1);
    }

    return NGX_OK;
}


/* op->verdict, unless db->ask is set. */

static void
ngx_idem_zone_hold_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_zone_doubt_t *db, u_char *found)
{
    uint32_t                i;
    ngx_idem_head_t        *h;
    ngx_idem_zone_guard_t   g;

    ngx_idem_zone_expire_locked(zn, NGX_IDEM_ZONE_FEW);

    i = ngx_idem_zone_living_locked(zn, op, db);

    if (db->ask) {
        return;
    }

    if (i == NGX_IDEM_NIL) {
        ngx_idem_zone_new_guard_locked(zn, op);
        return;
    }

    h = ngx_idem_zone_head(zn, i);

    if (!ngx_idem_zone_is_guard(h)) {
        op->verdict = NGX_IDEM_MISMATCH;
        return;
    }

    ngx_idem_zone_open_locked(zn, &g, i);

    if (h->entry.state == NGX_IDEM_ZONE_FREE
        || ngx_memcmp(h->entry.owner, op->owner, NGX_IDEM_OWNER_LEN) == 0)
    {
        ngx_idem_zone_take_locked(zn, &g, op, found);
        return;
    }

    ngx_idem_zone_join_locked(zn, &g, op);
}


/* The guard, after all holders that are known as dead have lost it. */

static uint32_t
ngx_idem_zone_living_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_zone_doubt_t *db)
{
    uint32_t           i;
    ngx_idem_entry_t  *en;

    do {
        i = ngx_idem_zone_record_locked(zn, op);

        if (i == NGX_IDEM_NIL) {
            return NGX_IDEM_NIL;
        }

        en = &ngx_idem_zone_head(zn, i)->entry;

        if (en->state != NGX_IDEM_ZONE_HELD
            || ngx_memcmp(en->owner, op->owner, NGX_IDEM_OWNER_LEN) == 0)
        {
            return i;
        }

    } while (ngx_idem_zone_doubtful_locked(zn, i, db) == NGX_DONE);

    return i;
}


static void
ngx_idem_zone_new_guard_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    uint32_t                n;
    ngx_idem_head_t        *h;
    ngx_idem_zone_guard_t   g;

    ngx_memzero(&g.entry, sizeof(ngx_idem_entry_t));
    ngx_memzero(&g.gd, sizeof(ngx_idem_guard_t));

    n = ngx_idem_zone_guard_blocks(NGX_IDEM_ZONE_HELD, &g.gd);

    if (ngx_idem_zone_reclaim_locked(zn, 1 + n) != NGX_OK) {
        op->verdict = NGX_IDEM_FULL;
        zn->news.refused++;
        zn->news.any = 1;
        return;
    }

    g.entry.ttl_s = op->unknown_s;

    ngx_idem_zone_new_turn_locked(zn, &g.entry);
    ngx_idem_zone_grant_locked(zn, &g, op->owner, op->lease_ms);

    g.gd.pending.data = op->pending.data;
    g.gd.pending.len = op->pending.len;

    g.entry.status = (uint16_t) ngx_idem_guard_size(&g.gd);

    g.place = ngx_idem_arena_pop(&zn->arena);
    h = ngx_idem_zone_head(zn, g.place);

    ngx_memzero(h, sizeof(ngx_idem_head_t));
    ngx_memcpy(h->identity, op->identity, NGX_IDEM_DIGEST_LEN);

    h->entry = g.entry;
    h->u.worker = ngx_idem_worker_self(zn->worker);
    h->queue = (uint8_t) ngx_idem_zone_queue_locked(zn, NGX_IDEM_ZONE_HELD,
                                                    op->lease_ms);
    h->tail = NGX_IDEM_NIL;

    (void) ngx_idem_arena_extend(&zn->arena, &h->tail, n);
    (void) ngx_idem_guard_write(&g.gd, g.bytes);
    ngx_idem_zone_fill(zn, h->tail, g.bytes, g.entry.status);

    NGX_IDEM_POINT("hold");

    ngx_idem_arena_set_head(&zn->arena, g.place);

    NGX_IDEM_POINT("hold-true");

    ngx_idem_zone_enter_locked(zn, g.place);

    op->verdict = NGX_IDEM_OWNED;
    op->fence = g.entry.fence;
    op->value.len = 0;
}


/* It is free, or op's own. */

static void
ngx_idem_zone_take_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    ngx_idem_op_t *op, u_char *found)
{
    uint64_t  left_s;

    if (g->entry.state == NGX_IDEM_ZONE_FREE) {

        if (ngx_idem_zone_room_locked(zn, g) != NGX_OK) {
            op->verdict = NGX_IDEM_FULL;
            return;
        }

        /* what is known does not live shorter for being held */

        left_s = (g->entry.until_ms - zn->now_ms + 999) / 1000;
        g->entry.ttl_s = (uint32_t) ngx_min(left_s, (uint32_t) -1);

        ngx_idem_zone_grant_locked(zn, g, op->owner, op->lease_ms);
    }

    g->entry.until_ms = zn->now_ms + op->lease_ms;
    g->entry.ttl_s = ngx_max(g->entry.ttl_s, op->unknown_s);
    g->worker = ngx_idem_worker_self(zn->worker);

    ngx_idem_zone_found(g, op, found);

    op->fence = g->entry.fence;

    ngx_idem_zone_shut_locked(zn, g, op->lease_ms);
}


/* What is in it comes to op, or what op brings into it. */

static void
ngx_idem_zone_found(ngx_idem_zone_guard_t *g, ngx_idem_op_t *op, u_char *p)
{
    ngx_idem_guard_t  *gd;

    gd = &g->gd;

    op->value.data = p;
    op->value.len = gd->value.len;

    p = ngx_cpymem(p, gd->value.data, gd->value.len);

    if (!g->entry.dry) {
        gd->pending.data = op->pending.data;
        gd->pending.len = op->pending.len;

        op->verdict = NGX_IDEM_OWNED;
        return;
    }

    op->pending.data = p;
    op->pending.len = gd->pending.len;

    ngx_memcpy(p, gd->pending.data, gd->pending.len);

    op->verdict = NGX_IDEM_CHECK;
}


/* Somebody else holds it. */

static void
ngx_idem_zone_join_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    ngx_idem_op_t *op)
{
    uint8_t                 bytes[sizeof(ngx_idem_zone_about_t)];
    ngx_idem_guard_t       *gd;
    ngx_idem_zone_about_t   about;

    gd = &g->gd;
    op->verdict = NGX_IDEM_BUSY;

    if (op->max_waiters == 0) {
        return;
    }

    if (ngx_idem_guard_find(gd, op->owner) == gd->nqueue) {

        about.worker = ngx_idem_worker_self(zn->worker);
        about.lease_ms = (uint32_t) ngx_min(op->lease_ms, (uint32_t) -1);

        ngx_memcpy(bytes, &about, sizeof(ngx_idem_zone_about_t));

        if (ngx_idem_guard_join(gd, op->owner, bytes, op->max_waiters) != 0
            || ngx_idem_zone_room_locked(zn, g) != NGX_OK)
        {
            return;
        }

        ngx_idem_zone_shut_locked(zn, g, 0);
    }

    ngx_idem_zone_listen_locked(zn);

    op->guard = 1;
    op->place = g->place;
    op->fence = ngx_idem_zone_turn_of(&g->entry);

    ngx_idem_waiter_park(&zn->waiters, op);
}


/* What it lacks is free.  NGX_DECLINED: it is not. */

static ngx_int_t
ngx_idem_zone_room_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g)
{
    uint32_t  has, n;

    has = ngx_idem_zone_data_blocks(zn, g->place);
    n = ngx_idem_zone_guard_blocks(NGX_IDEM_ZONE_HELD, &g->gd);

    if (n <= has || ngx_idem_zone_reclaim_locked(zn, n - has) == NGX_OK) {
        return NGX_OK;
    }

    zn->news.refused++;
    zn->news.any = 1;

    return NGX_DECLINED;
}


ngx_int_t
ngx_idem_zone_mark(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    uint32_t                i;
    ngx_idem_zone_t        *zn;
    ngx_idem_zone_guard_t   g;

    zn = (ngx_idem_zone_t *) st;
    op->verdict = NGX_IDEM_LOST;

    if (!ngx_idem_zone_told(&g.gd, op) || ngx_idem_zone_lock(zn) != NGX_OK) {
        return NGX_ERROR;
    }

    i = ngx_idem_zone_own_locked(zn, op, NGX_IDEM_ZONE_HELD);

    if (i != NGX_IDEM_NIL) {
        ngx_idem_zone_open_locked(zn, &g, i);

        g.entry.dry = 0;

        (void) ngx_idem_zone_told(&g.gd, op);
        ngx_idem_zone_shut_locked(zn, &g, 0);

        op->verdict = NGX_IDEM_OWNED;
    }

    ngx_idem_zone_unlock(zn);

    return NGX_OK;
}


ngx_int_t
ngx_idem_zone_leave(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    uint32_t                i;
    ngx_idem_zone_t        *zn;
    ngx_idem_zone_guard_t   g;

    zn = (ngx_idem_zone_t *) st;
    op->verdict = NGX_IDEM_LOST;

    if (!ngx_idem_zone_told(&g.gd, op) || ngx_idem_zone_lock(zn) != NGX_OK) {
        return NGX_ERROR;
    }

    i = ngx_idem_zone_own_locked(zn, op, NGX_IDEM_ZONE_HELD);

    if (i != NGX_IDEM_NIL) {
        ngx_idem_zone_open_locked(zn, &g, i);

        g.entry.ttl_s = op->outcome.ttl_s;

        (void) ngx_idem_zone_told(&g.gd, op);
        (void) ngx_idem_zone_next_locked(zn, &g, zn->now_ms);

        op->verdict = NGX_IDEM_ABSENT;
    }

    ngx_idem_zone_unlock(zn);

    return NGX_OK;
}


/* What op says is in it, if it is not too long. */

static ngx_uint_t
ngx_idem_zone_told(ngx_idem_guard_t *gd, ngx_idem_op_t *op)
{
    gd->value.data = op->value.data;
    gd->value.len = op->value.len;
    gd->pending.data = op->pending.data;
    gd->pending.len = op->pending.len;

    return op->value.len <= NGX_IDEM_GUARD_VALUE
           && op->pending.len <= NGX_IDEM_GUARD_PENDING;
}


void
ngx_idem_zone_unqueue_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    size_t                  n;
    uint32_t                i;
    ngx_idem_zone_guard_t   g;

    i = ngx_idem_zone_record_locked(zn, op);

    if (i == NGX_IDEM_NIL
        || ngx_idem_zone_head(zn, i)->entry.state != NGX_IDEM_ZONE_HELD)
    {
        return;
    }

    ngx_idem_zone_open_locked(zn, &g, i);

    if (ngx_memcmp(g.entry.owner, op->owner, NGX_IDEM_OWNER_LEN) == 0) {
        (void) ngx_idem_zone_next_locked(zn, &g, zn->now_ms);
        return;
    }

    n = ngx_idem_guard_find(&g.gd, op->owner);

    if (n < g.gd.nqueue) {
        ngx_idem_guard_leave(&g.gd, n);
        ngx_idem_zone_shut_locked(zn, &g, 0);
    }
}


/*
 * Who is told of a guard reads what was written before it was told; what is
 * written meanwhile is told of once more.
 */

ngx_uint_t
ngx_idem_zone_turn(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    ngx_idem_head_t  *h;

    ngx_memory_barrier();

    h = ngx_idem_zone_head(zn, op->place);

    return !ngx_idem_arena_is_head(&zn->arena, op->place)
           || h->entry.state != NGX_IDEM_ZONE_HELD
           || ngx_memcmp(h->identity, op->identity, NGX_IDEM_DIGEST_LEN) != 0
           || ngx_idem_zone_turn_of(&h->entry) != op->fence
           || ngx_memcmp(h->entry.owner, op->owner, NGX_IDEM_OWNER_LEN) == 0;
}


/*
 * A guard that nobody holds any more lives from the end of the lease on.  Who
 * is next has it from now on, as it has just been told.
 */

ngx_int_t
ngx_idem_zone_guard_pass_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_int_t               rc;
    ngx_idem_zone_guard_t   g;

    if (ngx_idem_zone_head(zn, i)->entry.state == NGX_IDEM_ZONE_HELD) {
        ngx_idem_zone_open_locked(zn, &g, i);
        ngx_idem_zone_new_turn_locked(zn, &g.entry);

        return ngx_idem_zone_next_locked(zn, &g, g.entry.until_ms);
    }

    rc = ngx_idem_zone_drop_locked(zn, i);

    if (rc != NGX_OK) {
        return NGX_OK;
    }

    ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_EXPIRED);

    return NGX_DECLINED;
}


/* Whoever else of that worker is in the queue is dead as well. */

void
ngx_idem_zone_guard_orphan_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    size_t                  n;
    ngx_idem_zone_about_t   about;
    ngx_idem_zone_guard_t   g;

    ngx_idem_zone_open_locked(zn, &g, i);
    ngx_idem_zone_new_turn_locked(zn, &g.entry);

    for (n = g.gd.nqueue; n; n--) {
        ngx_memcpy(&about, g.gd.queue[n - 1].about,
                   sizeof(ngx_idem_zone_about_t));

        if (about.worker.slot == g.worker.slot
            && about.worker.epoch == g.worker.epoch)
        {
            ngx_idem_guard_leave(&g.gd, n - 1);
        }
    }

    (void) ngx_idem_zone_next_locked(zn, &g, zn->now_ms);
}


static void
ngx_idem_zone_grant_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    const u_char *owner, ngx_msec_t lease_ms)
{
    ngx_idem_entry_t  *en;

    en = &g->entry;

    ngx_memcpy(en->owner, owner, NGX_IDEM_OWNER_LEN);

    en->state = NGX_IDEM_ZONE_HELD;
    en->fence = ++zn->sb->fence;
    en->until_ms = zn->now_ms + lease_ms;
    en->dry = (g->gd.pending.len != 0);
}


/*
 * Nobody holds it any more: the first in the queue does, and is told; or it is
 * free, and lives its time from from_ms on.  NGX_DECLINED: it is dropped.
 */

static ngx_int_t
ngx_idem_zone_next_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    uint64_t from_ms)
{
    uint64_t                 life_ms;
    ngx_uint_t               slot;
    ngx_idem_entry_t        *en;
    ngx_idem_zone_about_t    about;
    ngx_idem_guard_waiter_t  first;

    en = &g->entry;

    if (g->gd.nqueue) {
        first = g->gd.queue[0];
        ngx_idem_guard_leave(&g->gd, 0);

        ngx_memcpy(&about, first.about, sizeof(ngx_idem_zone_about_t));
        slot = about.worker.slot;

        ngx_idem_zone_grant_locked(zn, g, first.owner, about.lease_ms);
        g->worker = about.worker;

        ngx_idem_zone_shut_locked(zn, g, about.lease_ms);

        if (slot < NGX_IDEM_WORKERS) {
            zn->sb->ended[slot] |= ngx_idem_waiter_bit(g->place);

            NGX_IDEM_POINT("tell");

            zn->news.wake |= (uint64_t) 1 << slot;
            zn->news.any = 1;
        }

        return NGX_OK;
    }

    life_ms = (uint64_t) en->ttl_s * 1000;

    ngx_memzero(en->owner, NGX_IDEM_OWNER_LEN);
    ngx_memzero(&g->worker, sizeof(ngx_idem_worker_id_t));

    en->state = NGX_IDEM_ZONE_FREE;
    en->until_ms = from_ms + life_ms;
    en->dry = 0;

    if (en->until_ms > zn->now_ms && !ngx_idem_guard_is_empty(&g->gd)) {
        ngx_idem_zone_shut_locked(zn, g, life_ms);
        return NGX_OK;
    }

    return (ngx_idem_zone_drop_locked(zn, g->place) == NGX_OK) ? NGX_DECLINED
                                                               : NGX_OK;
}


/* Bytes that are no guard are one that is empty. */

static void
ngx_idem_zone_open_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    uint32_t i)
{
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);

    g->place = i;
    g->entry = h->entry;

    ngx_memzero(&g->worker, sizeof(ngx_idem_worker_id_t));

    if (h->entry.state == NGX_IDEM_ZONE_HELD) {
        g->worker = h->u.worker;
    }

    if (ngx_idem_zone_guard_read(zn, i, &g->gd, g->bytes) != NGX_OK) {
        ngx_memzero(&g->gd, sizeof(ngx_idem_guard_t));
    }
}


ngx_int_t
ngx_idem_zone_guard_read(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_guard_t *gd, u_char bytes[NGX_IDEM_GUARD_BYTES])
{
    ngx_idem_head_t  *h;
    ngx_idem_span_t   span;

    h = ngx_idem_zone_head(zn, i);

    span.data = bytes;
    span.len = h->entry.status;

    if (span.len > NGX_IDEM_GUARD_BYTES) {
        return NGX_ERROR;
    }

    ngx_idem_arena_read(&zn->arena, h->tail, bytes, span.len);

    return (ngx_idem_guard_read(gd, span) == 0) ? NGX_OK : NGX_ERROR;
}


uint32_t
ngx_idem_zone_guard_blocks(ngx_uint_t state, const ngx_idem_guard_t *gd)
{
    size_t  size;

    size = ngx_idem_guard_size(gd);

    if (state == NGX_IDEM_ZONE_HELD) {
        size = NGX_IDEM_GUARD_HEAD + NGX_IDEM_GUARD_VALUE
               + NGX_IDEM_GUARD_PENDING + gd->nqueue * NGX_IDEM_GUARD_WAITER;
    }

    return (uint32_t) ngx_idem_arena_blocks(size);
}


/*
 * Makes a change true.  Blocks that it needs are free; those that it needs no
 * more are given back when nobody holds it.
 *
 *   life_ms  decides about the queue, if state or end have changed
 */

static void
ngx_idem_zone_shut_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    uint64_t life_ms)
{
    u_char             bytes[NGX_IDEM_GUARD_BYTES];
    uint32_t           has, n;
    ngx_uint_t         moves;
    ngx_idem_head_t   *h;
    ngx_idem_entry_t  *en;

    en = &g->entry;
    h = ngx_idem_zone_head(zn, g->place);

    has = ngx_idem_zone_data_blocks(zn, g->place);
    n = ngx_idem_zone_guard_blocks(en->state, &g->gd);

    moves = (en->state != h->entry.state || en->until_ms != h->entry.until_ms);

    if (moves) {
        ngx_idem_zone_dequeue_locked(zn, g->place);
    }

    en->status = (uint16_t) ngx_idem_guard_size(&g->gd);
    (void) ngx_idem_guard_write(&g->gd, bytes);

    ngx_idem_zone_save_locked(zn, g->place, h->tail, g->bytes);

    if (has < n) {
        (void) ngx_idem_arena_extend(&zn->arena, &h->tail, n - has);
    }

    NGX_IDEM_POINT("guard");

    ngx_idem_zone_fill(zn, h->tail, bytes, en->status);

    NGX_IDEM_POINT("guard-bytes");

    h->entry = *en;
    h->u.worker = g->worker;

    if (moves) {
        h->queue = (uint8_t) ngx_idem_zone_queue_locked(zn, en->state,
                                                        life_ms);
    }

    zn->sb->waiting += g->gd.nqueue;
    zn->sb->waiting -= h->nwaiters;
    h->nwaiters = (uint16_t) g->gd.nqueue;

    NGX_IDEM_POINT("guard-all");

    ngx_memory_barrier();
    zn->sb->saved.place = 0;
    ngx_memory_barrier();

    NGX_IDEM_POINT("guard-true");

    ngx_memcpy(g->bytes, bytes, en->status);

    if (n < has && en->state == NGX_IDEM_ZONE_FREE) {
        ngx_idem_zone_shrink_locked(zn, g, has, n);
    }

    if (moves) {
        ngx_idem_zone_enqueue_locked(zn, g->place);
    }
}


/* It has n blocks, and all else is as it is. */

static void
ngx_idem_zone_shrink_locked(ngx_idem_zone_t *zn, ngx_idem_zone_guard_t *g,
    uint32_t has, uint32_t n)
{
    uint32_t          end, rest;
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, g->place);

    rest = h->tail;
    end = ngx_idem_arena_nth(&zn->arena, rest, n);

    ngx_idem_zone_save_locked(zn, g->place, end, g->bytes);

    ngx_idem_arena_cut(&zn->arena, rest, end);
    h->tail = end;

    NGX_IDEM_POINT("shrink");

    ngx_memory_barrier();
    zn->sb->saved.place = 0;
    ngx_memory_barrier();

    ngx_idem_arena_give(&zn->arena, rest, has - n);
}


/*
 * Whoever repairs finds the head as it is now, its chain ended by tail, and
 * these bytes, whatever becomes of those in the chain.
 */

static void
ngx_idem_zone_save_locked(ngx_idem_zone_t *zn, uint32_t i, uint32_t tail,
    const u_char *bytes)
{
    ngx_idem_saved_t  *sv;

    sv = &zn->sb->saved;

    sv->head = *ngx_idem_zone_head(zn, i);
    sv->head.tail = tail;
    sv->size = sv->head.entry.status;

    ngx_memcpy(sv->guard, bytes, sv->size);

    ngx_memory_barrier();
    sv->place = i + 1;
    ngx_memory_barrier();
}


/* The ring of a chain may begin anywhere by now: the bytes go where it does. */

void
ngx_idem_zone_guard_restore_locked(ngx_idem_zone_t *zn)
{
    ngx_idem_saved_t  *sv;

    sv = &zn->sb->saved;

    if (ngx_idem_zone_is_guard(&sv->head)) {
        ngx_idem_zone_fill(zn, sv->head.tail, sv->guard, sv->size);
    }
}


void
ngx_idem_zone_guard_stir_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_zone_new_turn_locked(zn, &ngx_idem_zone_head(zn, i)->entry);
}


static void
ngx_idem_zone_fill(ngx_idem_zone_t *zn, uint32_t tail, u_char *bytes,
    size_t len)
{
    ngx_buf_t                b;
    ngx_chain_t              cl;
    ngx_idem_arena_source_t  src;

    b.pos = bytes;
    b.last = bytes + len;

    cl.buf = &b;
    cl.next = NULL;

    src.chain = &cl;
    src.pos = NULL;

    (void) ngx_idem_arena_fill(&zn->arena,
                               ngx_idem_arena_next(&zn->arena, tail), len,
                               &src);
}


static uint64_t
ngx_idem_zone_turn_of(const ngx_idem_entry_t *en)
{
    uint64_t  turn;

    ngx_memcpy(&turn, en->fingerprint, sizeof(uint64_t));

    return turn;
}


/* A fence, so that it was never there before. */

static void
ngx_idem_zone_new_turn_locked(ngx_idem_zone_t *zn, ngx_idem_entry_t *en)
{
    uint64_t  turn;

    turn = ++zn->sb->fence;

    ngx_memcpy(en->fingerprint, &turn, sizeof(uint64_t));
}
