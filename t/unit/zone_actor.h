
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * What the tests of the zone do again and again: make a zone, claim, complete,
 * and look at the response that comes back.  Key and response are numbers:
 * the bytes of a response follow from its seed.
 */


#ifndef _NGX_IDEM_ZONE_ACTOR_H_INCLUDED_
#define _NGX_IDEM_ZONE_ACTOR_H_INCLUDED_


#include "nginx_stubs.h"

#include <sys/mman.h>

#include "store/ngx_idem_zone_layout.h"
#include "tap.h"


#define ACTOR_LEASE_MS   60000
#define ACTOR_UNKNOWN_S  3600
#define ACTOR_TTL_S      600
#define ACTOR_MAX_SIZE   (2 * 1024 * 1024)


static u_char       actor_bytes[ACTOR_MAX_SIZE];
static ngx_buf_t    actor_buf;
static ngx_chain_t  actor_chain;


static inline ngx_idem_zone_t *
actor_open(size_t size, ngx_idem_full_e full)
{
    void             *addr;
    ngx_idem_zone_t  *zn;

    addr = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_ANON|MAP_SHARED, -1, 0);
    zn = calloc(1, sizeof(ngx_idem_zone_t));

    if (addr == MAP_FAILED || zn == NULL) {
        exit(2);
    }

    zn->store.verbs = &ngx_idem_zone_verbs;
    ngx_str_set(&zn->store.name, "test");
    zn->worker = &stub_worker;
    zn->full = full;
    zn->size = size;
    ngx_idem_waiter_init(&zn->waiters);

    if (ngx_idem_zone_format(zn, addr, size) != NGX_OK) {
        exit(2);
    }

    return zn;
}


static inline void
actor_close(ngx_idem_zone_t *zn)
{
    (void) munmap(zn->sb, zn->size);
    free(zn);
}


/* Another process' view of the same zone: a worker of that slot. */

static inline ngx_idem_zone_t
actor_view(ngx_idem_zone_t *zn, ngx_idem_worker_t *wk, ngx_uint_t slot)
{
    ngx_idem_zone_t  view;

    view = *zn;

    ngx_memzero(wk, sizeof(ngx_idem_worker_t));
    wk->id.slot = (uint16_t) slot;
    view.worker = wk;

    return view;
}


/* Keys differ in the last bytes only, so that all are in one bucket ... */

static inline void
actor_op(ngx_idem_op_t *op, uint32_t key)
{
    ngx_memzero(op, sizeof(ngx_idem_op_t));
    ngx_memcpy(op->identity + NGX_IDEM_DIGEST_LEN - 4, &key, 4);
    ngx_memcpy(op->owner, &key, 4);

    op->owner[15] = 1;
    op->lease_ms = ACTOR_LEASE_MS;
    op->unknown_s = ACTOR_UNKNOWN_S;
    op->outcome.ttl_s = ACTOR_TTL_S;
    op->outcome.status = 201;
}


/* ... unless they are spread. */

static inline void
actor_spread(ngx_idem_op_t *op, uint32_t key)
{
    actor_op(op, key);

    key *= 2654435769u;
    ngx_memcpy(op->identity, &key, 4);
}


static inline ngx_idem_verdict_e
actor_claim(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    if (zn->store.verbs->claim(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_LOST;
    }

    return op->verdict;
}


static inline u_char
actor_byte(ngx_uint_t seed, size_t i)
{
    return (u_char) (seed + i * 7 + (i >> 8));
}


/* The response in one piece, or in two if it has two bytes or more. */

static inline ngx_idem_verdict_e
actor_done(ngx_idem_zone_t *zn, ngx_idem_op_t *op, ngx_uint_t seed,
    size_t size)
{
    size_t              i;
    static ngx_buf_t    rest;
    static ngx_chain_t  second;

    for (i = 0; i < size; i++) {
        actor_bytes[i] = actor_byte(seed, i);
    }

    actor_buf.pos = actor_bytes;
    actor_buf.last = actor_bytes + size / 2;
    rest.pos = actor_buf.last;
    rest.last = actor_bytes + size;

    actor_chain.buf = &actor_buf;
    actor_chain.next = &second;
    second.buf = &rest;
    second.next = NULL;

    op->outcome.state = NGX_IDEM_STATE_DONE;
    op->record = &actor_chain;
    op->size = size;

    if (zn->store.verbs->complete(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_FULL;
    }

    return op->verdict;
}


static inline ngx_idem_verdict_e
actor_end(ngx_idem_zone_t *zn, ngx_idem_op_t *op, ngx_idem_state_e state)
{
    op->outcome.state = state;

    if (zn->store.verbs->complete(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_FULL;
    }

    return op->verdict;
}


static inline ngx_idem_verdict_e
actor_release(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    if (zn->store.verbs->release(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_FULL;
    }

    return op->verdict;
}


static inline ngx_idem_verdict_e
actor_renew(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    if (zn->store.verbs->renew(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_FULL;
    }

    return op->verdict;
}


/* Whether what was replayed is that response; gives back its memory. */

static inline int
actor_replayed(ngx_idem_op_t *op, ngx_uint_t seed, size_t size)
{
    int     same;
    size_t  i;

    same = (op->stored.len == size);

    for (i = 0; same && i < size; i++) {
        same = (op->stored.data[i] == actor_byte(seed, i));
    }

    free(op->stored.data);
    op->stored.data = NULL;

    return same;
}


static inline ngx_idem_snapshot_t
actor_snapshot(ngx_idem_zone_t *zn)
{
    ngx_idem_snapshot_t  sn;

    zn->store.verbs->snapshot(&zn->store, &sn);

    return sn;
}


static inline ngx_uint_t
actor_counted(ngx_idem_zone_t *zn, ngx_idem_stat_e i)
{
    return zn->store.stat->count[i];
}


/* The zone is whole: the name of the test, or what is wrong. */

static inline void
actor_whole(ngx_idem_zone_t *zn, const char *why)
{
    const char  *wrong;

    wrong = ngx_idem_zone_check(zn);

    if (!tap_ok(wrong == NULL, why)) {
        printf("# %s\n", wrong);
    }
}


#endif /* _NGX_IDEM_ZONE_ACTOR_H_INCLUDED_ */
