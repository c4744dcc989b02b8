
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_point.h"
#include "store/ngx_idem_zone_layout.h"


#define NGX_IDEM_ZONE_PAGE  4096

/* So many bytes of a response cost as much as all else about a replay. */

#define NGX_IDEM_ZONE_CALL  16384


static ngx_int_t ngx_idem_zone_claim(ngx_idem_store_t *st, ngx_idem_op_t *op);
static void ngx_idem_zone_claim_locked(ngx_idem_zone_t *zn,
    ngx_idem_op_t *op, ngx_idem_zone_doubt_t *db);
static ngx_idem_verdict_e ngx_idem_zone_decide_locked(ngx_idem_zone_t *zn,
    ngx_idem_op_t *op, ngx_idem_entry_t *en);
static void ngx_idem_zone_new_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op);
static void ngx_idem_zone_park_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    uint32_t i);
static void ngx_idem_zone_pin_locked(ngx_idem_zone_t *zn, uint32_t i);
static ngx_int_t ngx_idem_zone_fetch(ngx_idem_zone_t *zn, ngx_idem_op_t *op);
static ngx_int_t ngx_idem_zone_fetch_unpinned(ngx_idem_zone_t *zn,
    ngx_idem_op_t *op);

static ngx_int_t ngx_idem_zone_renew(ngx_idem_store_t *st, ngx_idem_op_t *op);
static ngx_int_t ngx_idem_zone_complete(ngx_idem_store_t *st,
    ngx_idem_op_t *op);
static ngx_int_t ngx_idem_zone_keep_locked(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_arena_source_t *src, size_t n);
static ngx_uint_t ngx_idem_zone_fits_locked(ngx_idem_zone_t *zn, size_t size);
static void ngx_idem_zone_end_locked(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_op_t *op, const ngx_idem_outcome_t *oc);
static ngx_int_t ngx_idem_zone_release(ngx_idem_store_t *st,
    ngx_idem_op_t *op);

static ngx_int_t ngx_idem_zone_look(ngx_idem_store_t *st, ngx_idem_op_t *op);
static void ngx_idem_zone_seen_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_zone_doubt_t *db);
static ngx_idem_verdict_e ngx_idem_zone_verdict(ngx_uint_t state);

static void ngx_idem_zone_cancel(ngx_idem_store_t *st, ngx_idem_op_t *op);
static ngx_uint_t ngx_idem_zone_ended(ngx_idem_zone_t *zn, ngx_idem_op_t *op);
static ngx_uint_t ngx_idem_zone_cost(ngx_idem_op_t *op, void *data);
static void ngx_idem_zone_snapshot(ngx_idem_store_t *st,
    ngx_idem_snapshot_t *sn);
static ngx_int_t ngx_idem_zone_begin(ngx_idem_store_t *st,
    ngx_cycle_t *cycle);
static void ngx_idem_zone_end(ngx_idem_store_t *st);


const ngx_idem_verbs_t  ngx_idem_zone_verbs = {
    ngx_idem_zone_claim,
    ngx_idem_zone_renew,
    ngx_idem_zone_complete,
    ngx_idem_zone_release,
    ngx_idem_zone_cancel,
    ngx_idem_zone_snapshot,
    ngx_idem_zone_begin,
    ngx_idem_zone_end,
    ngx_idem_zone_tick,
    ngx_idem_zone_hold,
    ngx_idem_zone_mark,
    ngx_idem_zone_leave,
    ngx_idem_zone_look
};


static ngx_int_t
ngx_idem_zone_claim(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_zone_t        *zn;
    ngx_idem_zone_doubt_t   db;

    zn = (ngx_idem_zone_t *) st;
    op->by = st->kind;

    ngx_memzero(&db, sizeof(ngx_idem_zone_doubt_t));

    for ( ;; ) {

        if (ngx_idem_zone_lock(zn) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_idem_zone_claim_locked(zn, op, &db);

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

    if (op->verdict == NGX_IDEM_DONE) {
        return ngx_idem_zone_fetch(zn, op);
    }

    return NGX_OK;
}


/* op->verdict, unless db->ask is set. */

static void
ngx_idem_zone_claim_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_zone_doubt_t *db)
{
    uint32_t           i;
    ngx_idem_head_t   *h;
    ngx_idem_entry_t   en;

    ngx_idem_zone_expire_locked(zn, NGX_IDEM_ZONE_FEW);

    i = ngx_idem_zone_record_locked(zn, op);

    if (i == NGX_IDEM_NIL) {
        ngx_idem_zone_new_locked(zn, op);
        return;
    }

    h = ngx_idem_zone_head(zn, i);
    en = h->entry;
    op->verdict = ngx_idem_zone_decide_locked(zn, op, &en);

    if (op->verdict == NGX_IDEM_BUSY) {

        if (ngx_idem_zone_doubtful_locked(zn, i, db) == NGX_AGAIN) {
            return;
        }

        en = h->entry;
        op->verdict = ngx_idem_zone_decide_locked(zn, op, &en);
    }

    op->fence = en.fence;
    op->status = en.status;
    op->dry = en.dry;
    op->age_ms = ngx_idem_lease_age_ms(&h->entry, zn->now_ms);

    if (op->verdict == NGX_IDEM_OWNED || op->verdict == NGX_IDEM_CHECK) {
        op->outcome = ngx_idem_lease_outcome(&h->entry);
        ngx_idem_zone_set_locked(zn, i, &en, op->lease_ms, 0);

    } else if (op->verdict == NGX_IDEM_BUSY) {
        ngx_idem_zone_park_locked(zn, op, i);

    } else if (op->verdict == NGX_IDEM_DONE) {
        op->place = i;
        op->stored.len = h->u.size;
        ngx_idem_zone_pin_locked(zn, i);

    } else if (op->verdict == NGX_IDEM_MISMATCH) {
        op->outcome.state = h->entry.state;
    }
}


uint32_t
ngx_idem_zone_record_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    uint32_t  i;

    i = ngx_idem_zone_find_locked(zn, op->identity);

    if (i != NGX_IDEM_NIL && ngx_idem_zone_pass_locked(zn, i) != NGX_OK) {
        return NGX_IDEM_NIL;
    }

    return i;
}


/*
 * A record whose time is over is still there if somebody reads it.  Then we
 * come at the last moment of its time too.
 */

static ngx_idem_verdict_e
ngx_idem_zone_decide_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_entry_t *en)
{
    uint64_t             now_ms;
    ngx_idem_verdict_e   verdict;
    ngx_idem_claimant_t  cl;

    cl.fingerprint = op->fingerprint;
    cl.owner = op->owner;
    cl.fence = zn->sb->fence + 1;
    cl.lease_ms = op->lease_ms;
    cl.unknown_s = op->unknown_s;
    cl.on_unknown = op->on_unknown;
    cl.known = (op->known != 0);

    now_ms = zn->now_ms;

    if (en->until_ms && en->until_ms <= now_ms) {
        now_ms = en->until_ms - 1;
    }

    verdict = ngx_idem_lease_claim(en, &cl, now_ms);

    if (verdict == NGX_IDEM_OWNED || verdict == NGX_IDEM_CHECK) {
        zn->sb->fence++;
    }

    return verdict;
}


static void
ngx_idem_zone_new_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    uint32_t          i;
    ngx_idem_head_t  *h;

    if (op->known) {
        op->verdict = NGX_IDEM_ABSENT;
        return;
    }

    if (ngx_idem_zone_reclaim_locked(zn, 1) != NGX_OK) {
        op->verdict = NGX_IDEM_FULL;
        zn->news.refused++;
        zn->news.any = 1;
        return;
    }

    i = ngx_idem_arena_pop(&zn->arena);
    h = ngx_idem_zone_head(zn, i);

    ngx_memzero(h, sizeof(ngx_idem_head_t));
    ngx_memcpy(h->identity, op->identity, NGX_IDEM_DIGEST_LEN);

    op->verdict = ngx_idem_zone_decide_locked(zn, op, &h->entry);
    op->fence = h->entry.fence;
    op->outcome.state = NGX_IDEM_STATE_ABSENT;

    h->tail = NGX_IDEM_NIL;
    h->u.worker = ngx_idem_worker_self(zn->worker);
    h->queue = (uint8_t) ngx_idem_zone_queue_locked(zn, h->entry.state,
                                                    op->lease_ms);

    NGX_IDEM_POINT("claim");

    ngx_idem_arena_set_head(&zn->arena, i);

    NGX_IDEM_POINT("claim-true");

    ngx_idem_zone_enter_locked(zn, i);
}


ngx_int_t
ngx_idem_zone_doubtful_locked(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_zone_doubt_t *db)
{
    ngx_idem_head_t       *h;
    ngx_idem_worker_id_t   owner, self;

    h = ngx_idem_zone_head(zn, i);
    owner = h->u.worker;
    self = ngx_idem_worker_self(zn->worker);

    if (owner.slot == self.slot && owner.epoch == self.epoch) {
        return NGX_OK;
    }

    if (db->fence != h->entry.fence) {
        db->fence = h->entry.fence;
        db->owner = owner;
        db->ask = 1;
        return NGX_AGAIN;
    }

    if (db->dead) {
        ngx_idem_zone_orphan_locked(zn, i);
        return NGX_DONE;
    }

    return NGX_OK;
}


static void
ngx_idem_zone_park_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op, uint32_t i)
{
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);

    if (h->nwaiters >= op->max_waiters || h->nwaiters == 0xffff) {
        return;
    }

    ngx_idem_zone_listen_locked(zn);

    h->nwaiters++;
    zn->sb->waiting++;

    /* op->fence is that of the claim already */

    op->place = i;
    op->guard = 0;

    ngx_idem_waiter_park(&zn->waiters, op);
}


void
ngx_idem_zone_listen_locked(ngx_idem_zone_t *zn)
{
    ngx_idem_worker_id_t  self;

    self = ngx_idem_worker_self(zn->worker);

    if (self.slot < NGX_IDEM_WORKERS) {
        zn->sb->waiting_workers |= (uint64_t) 1 << self.slot;
    }
}


/* One word each worker is enough: it reads between two events. */

static void
ngx_idem_zone_pin_locked(ngx_idem_zone_t *zn, uint32_t i)
{
    ngx_idem_pin_t        *pin;
    ngx_idem_worker_id_t   self;

    self = ngx_idem_worker_self(zn->worker);

    if (self.slot >= NGX_IDEM_WORKERS) {
        return;
    }

    pin = &zn->sb->pins[self.slot];

    pin->epoch = self.epoch;
    ngx_memory_barrier();
    pin->place = i + 1;
}


static ngx_int_t
ngx_idem_zone_fetch(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    ngx_idem_worker_id_t  self;

    self = ngx_idem_worker_self(zn->worker);

    if (self.slot >= NGX_IDEM_WORKERS) {
        return ngx_idem_zone_fetch_unpinned(zn, op);
    }

    op->stored.data = ngx_pnalloc(op->pool, op->stored.len);

    if (op->stored.data) {
        ngx_idem_arena_read(&zn->arena, ngx_idem_zone_head(zn, op->place)->tail,
                            op->stored.data, op->stored.len);
    }

    NGX_IDEM_POINT("fetch");

    ngx_memory_barrier();

    zn->sb->pins[self.slot].place = 0;

    return op->stored.data ? NGX_OK : NGX_ERROR;
}


/*
 * A worker without a slot cannot pin: it copies under the lock, what the
 * record was found to need, if that is still there.
 */

static ngx_int_t
ngx_idem_zone_fetch_unpinned(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    uint32_t          i;
    ngx_uint_t        same;
    ngx_idem_head_t  *h;

    op->stored.data = ngx_pnalloc(op->pool, op->stored.len);

    if (op->stored.data == NULL || ngx_idem_zone_lock(zn) != NGX_OK) {
        return NGX_ERROR;
    }

    i = ngx_idem_zone_find_locked(zn, op->identity);
    h = ngx_idem_zone_head(zn, op->place);

    same = (i == op->place && h->entry.fence == op->fence
            && h->entry.state == NGX_IDEM_STATE_DONE);

    if (same) {
        ngx_idem_arena_read(&zn->arena, h->tail, op->stored.data,
                            op->stored.len);
    }

    ngx_idem_zone_unlock(zn);

    return same ? NGX_OK : ngx_idem_zone_claim(&zn->store, op);
}


/*
 * The end of a lease is one store, and thereby true.  That of a guard is
 * nothing else.
 */

static ngx_int_t
ngx_idem_zone_renew(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    uint32_t           i;
    ngx_idem_head_t   *h;
    ngx_idem_zone_t   *zn;
    ngx_idem_entry_t   en;

    zn = (ngx_idem_zone_t *) st;
    op->verdict = NGX_IDEM_LOST;

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return NGX_ERROR;
    }

    i = ngx_idem_zone_own_locked(zn, op, NGX_IDEM_STATE_RUNNING);

    if (i == NGX_IDEM_NIL) {
        i = ngx_idem_zone_own_locked(zn, op, NGX_IDEM_ZONE_HELD);
    }

    if (i != NGX_IDEM_NIL) {
        h = ngx_idem_zone_head(zn, i);
        en = h->entry;
        en.state = NGX_IDEM_STATE_RUNNING;

        op->verdict = ngx_idem_lease_renew(&en, op->owner, op->lease_ms,
                                           zn->now_ms);

        ngx_idem_zone_dequeue_locked(zn, i);

        h->entry.until_ms = en.until_ms;
        h->queue = (uint8_t) ngx_idem_zone_queue_locked(zn, en.state,
                                                        op->lease_ms);

        NGX_IDEM_POINT("renew");

        ngx_idem_zone_enqueue_locked(zn, i);
    }

    ngx_idem_zone_unlock(zn);

    return NGX_OK;
}


/*
 * A response goes into blocks page by page, each under a lock of its own: the
 * blocks belong to the running record at once, so they are never lost, and
 * nothing is written that meanwhile belongs to another.
 */

static ngx_int_t
ngx_idem_zone_complete(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    size_t                    left, n;
    uint32_t                  i;
    ngx_idem_zone_t          *zn;
    ngx_idem_outcome_t        oc;
    ngx_idem_arena_source_t   src;

    zn = (ngx_idem_zone_t *) st;
    oc = op->outcome;
    left = (oc.state == NGX_IDEM_STATE_DONE) ? op->size : 0;

    src.chain = op->record;
    src.pos = NULL;

    do {
        if (ngx_idem_zone_lock(zn) != NGX_OK) {
            return NGX_ERROR;
        }

        i = ngx_idem_zone_own_locked(zn, op, NGX_IDEM_STATE_RUNNING);
        n = (i == NGX_IDEM_NIL) ? left : ngx_min(left, NGX_IDEM_ZONE_PAGE);

        if (i != NGX_IDEM_NIL && n
            && ((left == op->size && !ngx_idem_zone_fits_locked(zn, left))
                || ngx_idem_zone_keep_locked(zn, i, &src, n) != NGX_OK))
        {
            oc.state = NGX_IDEM_STATE_UNSTORED;
            n = left;
        }

        left -= n;

        if (left == 0) {
            ngx_idem_zone_end_locked(zn, i, op, &oc);
        }

        ngx_idem_zone_unlock(zn);

        NGX_IDEM_POINT("complete-between");

    } while (left);

    return NGX_OK;
}


/* NGX_DECLINED: there is no room, or the source ends too early. */

static ngx_int_t
ngx_idem_zone_keep_locked(ngx_idem_zone_t *zn, uint32_t i,
    ngx_idem_arena_source_t *src, size_t n)
{
    uint32_t          blocks, first;
    ngx_idem_head_t  *h;

    h = ngx_idem_zone_head(zn, i);
    blocks = (uint32_t) ngx_idem_arena_blocks(n);

    if (ngx_idem_zone_reclaim_locked(zn, blocks) != NGX_OK) {
        return NGX_DECLINED;
    }

    first = ngx_idem_arena_extend(&zn->arena, &h->tail, blocks);

    NGX_IDEM_POINT("complete");

    if (ngx_idem_arena_fill(&zn->arena, first, n, src) != n) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


/* Nothing is evicted for a response that does not fit anyway. */

static ngx_uint_t
ngx_idem_zone_fits_locked(ngx_idem_zone_t *zn, size_t size)
{
    size_t                  room;
    ngx_idem_superblock_t  *sb;

    sb = zn->sb;
    room = sb->list.nfree;

    if (zn->full == NGX_IDEM_FULL_EVICT || sb->due_ms <= zn->now_ms) {
        room += sb->evictable;
    }

    return size <= (uint32_t) -1 && ngx_idem_arena_blocks(size) <= room;
}


static void
ngx_idem_zone_end_locked(ngx_idem_zone_t *zn, uint32_t i, ngx_idem_op_t *op,
    const ngx_idem_outcome_t *oc)
{
    uint32_t          size;
    uint64_t          life_ms;
    ngx_idem_entry_t  en;

    op->verdict = NGX_IDEM_LOST;

    if (i == NGX_IDEM_NIL) {
        return;
    }

    en = ngx_idem_zone_head(zn, i)->entry;
    op->verdict = ngx_idem_lease_complete(&en, op->owner, oc, zn->now_ms);

    if (op->cached && oc->state != op->outcome.state) {
        op->verdict = NGX_IDEM_ABSENT;
        (void) ngx_idem_zone_drop_locked(zn, i);
        return;
    }

    size = (oc->state == NGX_IDEM_STATE_DONE) ? (uint32_t) op->size : 0;

    life_ms = (en.until_ms > zn->now_ms) ? en.until_ms - zn->now_ms : 0;

    ngx_idem_zone_set_locked(zn, i, &en, life_ms, size);

    if (oc->state != op->outcome.state) {
        ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_NO_ROOM);
        zn->news.not_kept++;
        zn->news.any = 1;
    }
}


static ngx_int_t
ngx_idem_zone_release(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    uint32_t           i;
    ngx_idem_zone_t   *zn;
    ngx_idem_entry_t   en;

    zn = (ngx_idem_zone_t *) st;
    op->verdict = NGX_IDEM_LOST;

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return NGX_ERROR;
    }

    i = ngx_idem_zone_own_locked(zn, op, NGX_IDEM_STATE_RUNNING);

    if (i != NGX_IDEM_NIL) {
        en = ngx_idem_zone_head(zn, i)->entry;

        op->verdict = ngx_idem_lease_release(&en, op->owner, zn->now_ms);

        (void) ngx_idem_zone_drop_locked(zn, i);
    }

    ngx_idem_zone_unlock(zn);

    return NGX_OK;
}


uint32_t
ngx_idem_zone_own_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_uint_t state)
{
    uint32_t           i;
    ngx_idem_entry_t  *en;

    i = ngx_idem_zone_record_locked(zn, op);

    if (i == NGX_IDEM_NIL) {
        return NGX_IDEM_NIL;
    }

    en = &ngx_idem_zone_head(zn, i)->entry;

    if (en->state != state
        || ngx_memcmp(en->owner, op->owner, NGX_IDEM_OWNER_LEN) != 0)
    {
        return NGX_IDEM_NIL;
    }

    return i;
}


static ngx_int_t
ngx_idem_zone_look(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_zone_t        *zn;
    ngx_idem_zone_doubt_t   db;

    zn = (ngx_idem_zone_t *) st;
    op->by = st->kind;

    ngx_memzero(&db, sizeof(ngx_idem_zone_doubt_t));

    for ( ;; ) {

        if (ngx_idem_zone_lock(zn) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_idem_zone_seen_locked(zn, op, &db);

        ngx_idem_zone_unlock(zn);

        if (!db.ask) {
            return NGX_OK;
        }

        db.ask = 0;
        db.dead = !ngx_idem_worker_alive(zn->worker, db.owner);
    }
}


static void
ngx_idem_zone_seen_locked(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    ngx_idem_zone_doubt_t *db)
{
    uint32_t           i;
    ngx_idem_entry_t  *en;

    op->verdict = NGX_IDEM_ABSENT;
    op->status = 0;
    op->age_ms = 0;
    op->dry = 0;

    i = ngx_idem_zone_record_locked(zn, op);

    if (i == NGX_IDEM_NIL) {
        return;
    }

    en = &ngx_idem_zone_head(zn, i)->entry;

    if (en->state == NGX_IDEM_STATE_RUNNING
        && ngx_idem_zone_doubtful_locked(zn, i, db) == NGX_AGAIN)
    {
        return;
    }

    op->verdict = ngx_idem_zone_verdict(en->state);

    if (op->verdict != NGX_IDEM_ABSENT) {
        op->status = en->status;
        op->dry = en->dry;
        op->age_ms = ngx_idem_lease_age_ms(en, zn->now_ms);
    }
}


static ngx_idem_verdict_e
ngx_idem_zone_verdict(ngx_uint_t state)
{
    if (state == NGX_IDEM_STATE_RUNNING) {
        return NGX_IDEM_BUSY;
    }

    if (state == NGX_IDEM_STATE_DONE) {
        return NGX_IDEM_DONE;
    }

    if (state == NGX_IDEM_STATE_UNSTORED) {
        return NGX_IDEM_UNSTORED;
    }

    if (state == NGX_IDEM_STATE_UNKNOWN) {
        return NGX_IDEM_UNKNOWN;
    }

    /* a guard is no record */

    return NGX_IDEM_ABSENT;
}


static void
ngx_idem_zone_cancel(ngx_idem_store_t *st, ngx_idem_op_t *op)
{
    ngx_idem_head_t  *h;
    ngx_idem_zone_t  *zn;

    zn = (ngx_idem_zone_t *) st;

    if (!op->parked) {
        return;
    }

    ngx_idem_waiter_leave(&zn->waiters, op);

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return;
    }

    h = ngx_idem_zone_head(zn, op->place);

    if (op->guard) {
        ngx_idem_zone_unqueue_locked(zn, op);

    } else if (!ngx_idem_zone_ended(zn, op) && h->nwaiters) {
        h->nwaiters--;
        zn->sb->waiting--;
    }

    ngx_idem_zone_unlock(zn);
}


/* A worker in whose place this one begins may have left claims. */

static ngx_int_t
ngx_idem_zone_begin(ngx_idem_store_t *st, ngx_cycle_t *cycle)
{
    ngx_idem_zone_tick(st);

    return NGX_OK;
}


static void
ngx_idem_zone_end(ngx_idem_store_t *st)
{
    /* void: its claims have ended, its slot says that it is gone */
}


void
ngx_idem_zone_tick(ngx_idem_store_t *st)
{
    uint64_t               bit, ended;
    ngx_idem_zone_t       *zn;
    ngx_idem_worker_id_t   self;

    zn = (ngx_idem_zone_t *) st;
    self = ngx_idem_worker_self(zn->worker);
    ended = (uint64_t) -1;

    ngx_idem_zone_sweep(zn);

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return;
    }

    ngx_idem_zone_expire_locked(zn, NGX_IDEM_ZONE_MANY);

    if (self.slot < NGX_IDEM_WORKERS) {
        bit = (uint64_t) 1 << self.slot;
        ended = zn->sb->ended[self.slot];

        zn->sb->ended[self.slot] = 0;
        zn->news.wake &= ~bit;

        if (zn->waiters.parked == 0) {
            zn->sb->waiting_workers &= ~bit;
        }
    }

    ngx_idem_zone_unlock(zn);

    ngx_idem_waiter_wake(&zn->waiters, ended);

    if (ngx_idem_waiter_call(&zn->waiters, ngx_idem_zone_cost, zn)
        == NGX_AGAIN)
    {
        ngx_idem_worker_again(zn->worker);
    }

    if (!ngx_idem_waiter_any()) {
        ngx_idem_worker_tick(zn->worker, 0);
    }
}


/*
 * Also without the lock: a fence is given once, so whatever else is seen here
 * is a claim that has ended.
 */

static ngx_uint_t
ngx_idem_zone_ended(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    const volatile uint32_t         *link;
    const volatile ngx_idem_head_t  *h;

    if (op->guard) {
        return ngx_idem_zone_turn(zn, op);
    }

    h = ngx_idem_zone_head(zn, op->place);
    link = &zn->arena.links[op->place];

    return !(*link & NGX_IDEM_LINK_HEAD)
           || h->entry.state != NGX_IDEM_STATE_RUNNING
           || h->entry.fence != op->fence;
}


/* The size may be that of another record by now; then it is a guess. */

static ngx_uint_t
ngx_idem_zone_cost(ngx_idem_op_t *op, void *data)
{
    ngx_idem_zone_t *zn = data;

    const volatile ngx_idem_head_t  *h;

    if (!ngx_idem_zone_ended(zn, op)) {
        return 0;
    }

    h = ngx_idem_zone_head(zn, op->place);

    return (h->entry.state == NGX_IDEM_STATE_DONE)
               ? 1 + h->u.size / NGX_IDEM_ZONE_CALL : 1;
}


static void
ngx_idem_zone_snapshot(ngx_idem_store_t *st, ngx_idem_snapshot_t *sn)
{
    ngx_idem_zone_t        *zn;
    ngx_idem_superblock_t  *sb;

    zn = (ngx_idem_zone_t *) st;
    sb = zn->sb;

    ngx_memzero(sn, sizeof(ngx_idem_snapshot_t));

    sn->size = zn->size;
    sn->block = NGX_IDEM_BLOCK;
    sn->blocks = sb->list.nblocks;

    if (ngx_idem_zone_lock(zn) != NGX_OK) {
        return;
    }

    ngx_idem_zone_expire_locked(zn, NGX_IDEM_ZONE_MANY);

    sn->free = sb->list.nfree;
    sn->running = sb->count[NGX_IDEM_STATE_RUNNING];
    sn->done = sb->count[NGX_IDEM_STATE_DONE];
    sn->unstored = sb->count[NGX_IDEM_STATE_UNSTORED];
    sn->unknown = sb->count[NGX_IDEM_STATE_UNKNOWN];
    sn->held = sb->count[NGX_IDEM_ZONE_HELD];
    sn->known = sb->count[NGX_IDEM_ZONE_FREE];
    sn->waiting = sb->waiting;

    ngx_idem_zone_unlock(zn);
}
