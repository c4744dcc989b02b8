
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * One holds a guard at a time, the others follow in order of arrival, whatever
 * becomes of them and of their workers; what the last one knew is there for the
 * next one, and so is what nobody knows the end of.
 *
 * The sources are included, as only here a process can be killed half-way.
 */


#define NGX_IDEM_POINT(name)  test_point(name)

static void test_point(const char *name);

#include "store/ngx_idem_arena.c"
#include "store/ngx_idem_waiter.c"
#include "store/ngx_idem_zone.c"
#include "store/ngx_idem_zone_guard.c"
#include "store/ngx_idem_zone_index.c"
#include "store/ngx_idem_zone_life.c"
#include "store/ngx_idem_zone_init.c"
#include "store/ngx_idem_zone_check.c"

#include <sys/wait.h>

#include "zone_actor.h"


#define TIMEOUT_S   120
#define SMALL       65536

#define LEASE_MS    10000
#define TTL_S       60
#define LIFE_S      100                         /* when the holder vanished */

#define STEPS       40                          /* in the life of a guard */
#define WAITERS     12
#define OCCASIONS   200                         /* of one point, at most */


typedef enum {
    ABSENT = 0,
    FREE,
    DOUBT,                                      /* free, something pending */
    MINE,
    MINE_DOUBT,
    OTHERS
} test_state_e;

typedef enum {
    HOLD = 0,
    MARK,
    LEAVE,
    RENEW,
    LEASE_ENDS,
    WORKER_ENDS,
    LIFE_ENDS
} test_event_e;

typedef struct {
    test_state_e        state;
    test_event_e        event;
    ngx_idem_verdict_e  verdict;
    test_state_e        after;
    const char         *why;
} test_row_t;


/* A guard as it was after a step: its bytes, and who held it. */

typedef struct {
    ngx_uint_t          state;
    u_char              owner;
    size_t              len;
    u_char              bytes[NGX_IDEM_GUARD_BYTES];
} test_seen_t;

typedef struct {
    ngx_uint_t          step;                   /* in work */
    test_seen_t         seen[STEPS];            /* before the step */
} test_diary_t;


static void test_table(void);
static test_state_e test_state(ngx_idem_zone_t *zn, ngx_idem_zone_t *far);
static void test_value(void);
static void test_order(void);
static void test_leaves(void);
static void test_waiter_dies(void);
static void test_holder_dies(void);
static void test_lease_ends(void);
static void test_two_leases(void);
static void test_lost_turn(void);
static void test_limit(void);
static void test_full(void);
static void test_looked_at(void);
static void test_foreign(void);
static void test_killed(void);
static void test_killed_repairing(void);
static void test_woken_by_repair(void);

static void test_op(ngx_idem_op_t *op, u_char owner, const char *pending);
static void test_set(ngx_str_t *s, const char *text);
static ngx_idem_verdict_e test_hold(ngx_idem_zone_t *zn, ngx_idem_op_t *op);
static ngx_idem_verdict_e test_mark(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    const char *value, const char *pending);
static ngx_idem_verdict_e test_leave(ngx_idem_zone_t *zn, ngx_idem_op_t *op,
    const char *value, const char *pending);
static void test_cancel(ngx_idem_zone_t *zn, ngx_idem_op_t *op);
static void test_worker(ngx_idem_zone_t *far, ngx_idem_zone_t *zn,
    ngx_idem_worker_t *wk, ngx_uint_t slot);
static ngx_uint_t test_is(ngx_str_t *s, const char *text);
static void test_called(ngx_idem_op_t *op);
static void test_live(ngx_idem_zone_t *zn);
static void test_live_on(ngx_idem_zone_t *zn, ngx_idem_zone_t *far,
    ngx_idem_op_t *op);
static void test_step(ngx_idem_zone_t *zn);
static test_seen_t test_see(ngx_idem_zone_t *zn);
static ngx_uint_t test_same(const test_seen_t *a, const test_seen_t *b);
static ngx_int_t test_die_at(ngx_idem_zone_t *zn, const char *point, int nth,
    void (*act)(ngx_idem_zone_t *zn));
static ngx_uint_t test_old_or_new(ngx_idem_zone_t *zn);
static void test_glance(ngx_idem_zone_t *zn);


static int            test_passes;
static char           test_line[64];
static u_char         test_long[NGX_IDEM_GUARD_PENDING];
static ngx_uint_t     test_writing;
static const char    *test_deadly;
static test_diary_t  *test_diary;


static const test_row_t  rows[] = {
    { ABSENT, HOLD, NGX_IDEM_OWNED, MINE, "nobody had it" },
    { ABSENT, MARK, NGX_IDEM_LOST, ABSENT, "nothing to mark" },
    { ABSENT, LEAVE, NGX_IDEM_LOST, ABSENT, "nothing to leave" },
    { ABSENT, RENEW, NGX_IDEM_LOST, ABSENT, "nothing to renew" },
    { FREE, HOLD, NGX_IDEM_OWNED, MINE, "free, and something is known" },
    { FREE, MARK, NGX_IDEM_LOST, FREE, "who has left cannot mark" },
    { FREE, LEAVE, NGX_IDEM_LOST, FREE, "nor leave again" },
    { FREE, RENEW, NGX_IDEM_LOST, FREE, "nor renew" },
    { FREE, LIFE_ENDS, NGX_IDEM_ABSENT, ABSENT, "it has its time" },
    { DOUBT, HOLD, NGX_IDEM_CHECK, MINE_DOUBT, "free, and in doubt" },
    { DOUBT, LIFE_ENDS, NGX_IDEM_ABSENT, ABSENT, "a doubt has its time" },
    { MINE, HOLD, NGX_IDEM_OWNED, MINE, "asked again" },
    { MINE, MARK, NGX_IDEM_OWNED, MINE, "marked" },
    { MINE, LEAVE, NGX_IDEM_ABSENT, FREE, "left" },
    { MINE, RENEW, NGX_IDEM_OWNED, MINE, "renewed" },
    { MINE, LEASE_ENDS, NGX_IDEM_ABSENT, DOUBT, "the lease ends" },
    { MINE_DOUBT, HOLD, NGX_IDEM_CHECK, MINE_DOUBT, "in doubt as before" },
    { MINE_DOUBT, MARK, NGX_IDEM_OWNED, MINE, "marked: no doubt any more" },
    { MINE_DOUBT, LEAVE, NGX_IDEM_ABSENT, FREE, "left: nor then" },
    { MINE_DOUBT, RENEW, NGX_IDEM_OWNED, MINE_DOUBT, "in doubt, renewed" },
    { MINE_DOUBT, LEASE_ENDS, NGX_IDEM_ABSENT, DOUBT, "in doubt still" },
    { OTHERS, HOLD, NGX_IDEM_BUSY, OTHERS, "somebody else holds it" },
    { OTHERS, MARK, NGX_IDEM_LOST, OTHERS, "and marks it" },
    { OTHERS, LEAVE, NGX_IDEM_LOST, OTHERS, "and leaves it" },
    { OTHERS, RENEW, NGX_IDEM_LOST, OTHERS, "and renews it" },
    { OTHERS, LEASE_ENDS, NGX_IDEM_ABSENT, DOUBT, "another's lease ends" },
    { OTHERS, WORKER_ENDS, NGX_IDEM_CHECK, MINE_DOUBT, "its worker died" },
};


static const char  *points[] = {
    "hold", "hold-true", "guard", "guard-bytes", "guard-all", "guard-true",
    "cut", "shrink", "extend", "give", "enter", "leave", "enqueue", "dequeue",
    "drop", "drop-true", "tell", "renew",
};


int
main(void)
{
    (void) alarm(TIMEOUT_S);

    stub_start();

    test_table();
    test_value();
    test_order();
    test_leaves();
    test_waiter_dies();
    test_holder_dies();
    test_lease_ends();
    test_two_leases();
    test_lost_turn();
    test_limit();
    test_full();
    test_looked_at();
    test_foreign();
    test_killed();
    test_killed_repairing();
    test_woken_by_repair();

    return tap_done();
}


static void
test_table(void)
{
    size_t              i;
    ngx_uint_t          got;
    ngx_idem_op_t       first, op;
    ngx_idem_zone_t    *zn, far;
    ngx_idem_worker_t   wk;

    for (i = 0; i < tap_count(rows); i++) {
        zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
        test_worker(&far, zn, &wk, 5);

        test_op(&first, 1, "old");
        test_op(&op, 2, "new");
        op.max_waiters = 0;

        if (rows[i].state == FREE || rows[i].state == DOUBT
            || rows[i].state == MINE_DOUBT)
        {
            (void) test_hold(&far, &first);
            (void) test_leave(&far, &first, "v",
                              rows[i].state == FREE ? "" : "old");
        }

        if (rows[i].state == OTHERS) {
            (void) test_hold(&far, &first);
        }

        if (rows[i].state == MINE || rows[i].state == MINE_DOUBT) {
            (void) test_hold(zn, &op);
        }

        got = rows[i].verdict;

        switch (rows[i].event) {

        case HOLD:
            got = test_hold(zn, &op);
            break;

        case MARK:
            got = test_mark(zn, &op, "w", "new");
            break;

        case LEAVE:
            got = test_leave(zn, &op, "w", "");
            break;

        case RENEW:
            got = actor_renew(zn, &op);
            break;

        case LEASE_ENDS:
            ngx_current_msec += LEASE_MS;
            break;

        case WORKER_ENDS:
            stub_worker.dead = 1 << 5;
            got = test_hold(zn, &op);
            stub_worker.dead = 0;
            break;

        case LIFE_ENDS:
            ngx_current_msec += TTL_S * 1000;
            break;
        }

        ngx_idem_zone_tick(&zn->store);

        tap_is(got, rows[i].verdict, rows[i].why);
        tap_is(test_state(zn, &far), rows[i].after, "and what it is then");
        actor_whole(zn, "whole");
        actor_close(zn);
    }
}


/* zn is op's worker, far that of others. */

static test_state_e
test_state(ngx_idem_zone_t *zn, ngx_idem_zone_t *far)
{
    uint32_t           i;
    u_char             bytes[NGX_IDEM_GUARD_BYTES];
    ngx_idem_op_t      op;
    ngx_idem_head_t   *h;
    ngx_idem_guard_t   gd;

    test_op(&op, 2, "");
    i = ngx_idem_zone_find_locked(zn, op.identity);

    if (i == NGX_IDEM_NIL) {
        return ABSENT;
    }

    h = ngx_idem_zone_head(zn, i);
    (void) ngx_idem_zone_guard_read(zn, i, &gd, bytes);

    if (h->entry.state == NGX_IDEM_ZONE_FREE) {
        return gd.pending.len ? DOUBT : FREE;
    }

    if (h->entry.owner[0] != 2 || h->u.worker.slot == far->worker->id.slot) {
        return OTHERS;
    }

    return h->entry.dry ? MINE_DOUBT : MINE;
}


static void
test_value(void)
{
    uint64_t              fence;
    ngx_idem_op_t         op;
    ngx_idem_zone_t      *zn;
    ngx_idem_snapshot_t   sn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    test_op(&op, 1, "to v1");
    (void) test_hold(zn, &op);
    fence = op.fence;
    tap_ok(fence && op.value.len == 0, "nothing is known at first");
    tap_ok(test_is(&op.pending, "to v1"), "what I am about to do stays mine");
    sn = actor_snapshot(zn);
    tap_ok(sn.held == 1 && sn.known == 0 && sn.running == 0, "it is held");

    (void) test_leave(zn, &op, "v1", "");
    sn = actor_snapshot(zn);
    tap_ok(sn.held == 0 && sn.known == 1 && sn.done == 0 && sn.unknown == 0,
           "it is known");
    tap_is(sn.blocks - sn.free, 2, "by a head and a block");

    test_op(&op, 2, "to v2");
    (void) test_hold(zn, &op);
    tap_ok(test_is(&op.value, "v1"), "the next one gets the value");
    tap_ok(op.fence > fence, "and a greater fence");
    (void) test_leave(zn, &op, "v1", "to v2");

    test_op(&op, 3, "to v3");
    tap_is(test_hold(zn, &op), NGX_IDEM_CHECK, "it left a doubt");
    tap_ok(test_is(&op.value, "v1") && test_is(&op.pending, "to v2"),
           "the next one gets both");
    (void) test_hold(zn, &op);
    tap_ok(test_is(&op.pending, "to v2"), "also if it asks again");
    tap_is(test_mark(zn, &op, "v2", "to v3"), NGX_IDEM_OWNED, "and finds out");
    op.value.len = 0;
    tap_is(test_hold(zn, &op), NGX_IDEM_OWNED, "then nothing is in doubt");
    tap_ok(test_is(&op.value, "v2"), "but known");
    tap_is(test_leave(zn, &op, "", ""), NGX_IDEM_ABSENT, "nothing is known");
    tap_is(zn->sb->list.nfree, zn->sb->list.nblocks, "and nothing is left");

    op.pending.len = NGX_IDEM_GUARD_PENDING + 1;
    tap_is(zn->store.verbs->hold(&zn->store, &op), (uint64_t) NGX_ERROR,
           "what is too long is not held");
    op.pending.len = NGX_IDEM_GUARD_PENDING;
    op.pending.data = test_long;
    (void) test_hold(zn, &op);
    op.value.len = NGX_IDEM_GUARD_VALUE + 1;
    op.value.data = test_long;
    tap_is(zn->store.verbs->mark(&zn->store, &op), (uint64_t) NGX_ERROR,
           "nor marked");
    tap_is(zn->store.verbs->leave(&zn->store, &op), (uint64_t) NGX_ERROR,
           "nor left");

    stub_no_memory = 1;
    tap_is(zn->store.verbs->hold(&zn->store, &op), NGX_OK,
           "who asks again needs no memory");
    test_op(&op, 4, "");
    tap_is(zn->store.verbs->hold(&zn->store, &op), (uint64_t) NGX_ERROR,
           "no memory is an error");
    stub_no_memory = 0;

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* Nine of three workers come one after another. */

static void
test_order(void)
{
    uint32_t            i;
    ngx_uint_t          calls, k, wrong;
    ngx_idem_op_t       ops[10];
    ngx_idem_zone_t    *zn, views[3];
    ngx_idem_worker_t   wks[3];

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    wrong = 0;
    calls = 0;

    for (k = 0; k < 3; k++) {
        test_worker(&views[k], zn, &wks[k], k + 1);
    }

    for (i = 0; i < 10; i++) {
        test_op(&ops[i], (u_char) (i + 1), "p");
        wrong += (test_hold(&views[i % 3], &ops[i])
                  != (i ? NGX_IDEM_BUSY : NGX_IDEM_OWNED));
        wrong += (ops[i].parked != (i > 0));
    }

    tap_is(wrong, 0, "the first holds it, the others wait");
    tap_is(actor_snapshot(zn).waiting, 9, "which is seen");

    for (i = 0; i < 10; i++) {
        ops[i].value.data = &ops[i].owner[0];
        ops[i].value.len = 1;
        ops[i].pending.len = 0;
        wrong += (zn->store.verbs->leave(&views[i % 3].store, &ops[i])
                  != NGX_OK || ops[i].verdict != NGX_IDEM_ABSENT);

        for (k = 0; k < 3; k++) {
            wrong += (wks[k].woken != (i < 9 && k == i % 3
                                       ? (uint64_t) 1 << ((i + 1) % 3 + 1)
                                       : 0));
            wks[k].woken = 0;
            ngx_idem_zone_tick(&views[k].store);
        }

        for (k = 1; k < 10; k++) {
            if (ops[k].data == NULL && !ops[k].parked) {
                ops[k].data = &ops[k];
                calls++;
                wrong += (k != i + 1);
                wrong += (test_hold(&views[k % 3], &ops[k])
                          != NGX_IDEM_OWNED);
                wrong += (ops[k].value.len != 1
                          || ops[k].value.data[0] != i + 1);
            }
        }
    }

    tap_is(calls, 9, "each is called once, and nobody in vain");
    tap_is(wrong, 0, "in order of arrival");
    tap_is(actor_snapshot(zn).waiting, 0, "nobody waits");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_leaves(void)
{
    uint32_t          i;
    ngx_idem_op_t     ops[5];
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    for (i = 0; i < 5; i++) {
        test_op(&ops[i], (u_char) (i + 1), "p");
        (void) test_hold(zn, &ops[i]);
    }

    test_line[0] = '\0';
    test_cancel(zn, &ops[1]);
    test_cancel(zn, &ops[3]);
    tap_is(actor_snapshot(zn).waiting, 2, "two have left");

    (void) test_leave(zn, &ops[0], "v", "");
    test_cancel(zn, &ops[2]);
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strcmp(test_line, "5") == 0,
           "one leaves that was given it: the next one has it");
    tap_is(test_hold(zn, &ops[4]), NGX_IDEM_OWNED, "as it finds");
    tap_ok(test_is(&ops[4].value, "v"), "with what was known");
    (void) test_leave(zn, &ops[4], "", "");

    test_op(&ops[0], 1, "p");
    (void) test_hold(zn, &ops[0]);
    test_op(&ops[1], 2, "p");
    (void) test_hold(zn, &ops[1]);
    (void) test_leave(zn, &ops[0], "", "");
    test_cancel(zn, &ops[1]);
    tap_is(zn->sb->list.nfree, zn->sb->list.nblocks, "the last one drops it");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_waiter_dies(void)
{
    uint32_t            i;
    ngx_idem_op_t       first, dead[3], op;
    ngx_idem_zone_t    *zn, far;
    ngx_idem_worker_t   wk;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_worker(&far, zn, &wk, 5);
    test_line[0] = '\0';

    test_op(&first, 1, "p");
    (void) test_hold(zn, &first);

    for (i = 0; i < 3; i++) {
        test_op(&dead[i], (u_char) (10 + i), "p");
        (void) test_hold(&far, &dead[i]);
    }

    test_op(&op, 2, "p");
    (void) test_hold(zn, &op);

    (void) test_leave(zn, &first, "v", "");
    ngx_idem_zone_tick(&zn->store);
    tap_ok(test_line[0] == '\0', "it is the turn of another worker");

    zn->swept = 0;
    stub_worker.dead = 1 << 5;
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strcmp(test_line, "2") == 0, "which is dead, with all its waiters");
    tap_is(test_hold(zn, &op), NGX_IDEM_OWNED, "who has not done anything");
    stub_worker.dead = 0;

    test_worker(&far, zn, &wk, 5);
    test_op(&dead[0], 10, "p");
    (void) test_hold(&far, &dead[0]);
    (void) test_leave(zn, &op, "v", "");
    stub_worker.dead = 1 << 5;
    test_op(&first, 3, "p");
    tap_is(test_hold(zn, &first), NGX_IDEM_OWNED, "who comes finds it dead");
    stub_worker.dead = 0;
    tap_is(actor_snapshot(zn).waiting, 0, "nobody waits");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_holder_dies(void)
{
    ngx_uint_t          doubt;
    ngx_idem_op_t       first, op;
    ngx_idem_zone_t    *zn, far;
    ngx_idem_worker_t   wk;

    for (doubt = 0; doubt < 2; doubt++) {
        zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
        test_worker(&far, zn, &wk, 5);
        test_line[0] = '\0';

        test_op(&first, 1, doubt ? "to v2" : "");
        (void) test_hold(&far, &first);
        (void) test_mark(&far, &first, "v1", doubt ? "to v2" : "");

        test_op(&op, 2, "to v3");
        (void) test_hold(zn, &op);
        tap_ok(op.parked, "one waits");

        zn->swept = 0;
        stub_worker.dead = 1 << 5;
        ngx_idem_zone_tick(&zn->store);
        stub_worker.dead = 0;

        tap_ok(strcmp(test_line, "2") == 0, "the holder dies: it is called");
        tap_is(test_hold(zn, &op), doubt ? NGX_IDEM_CHECK : NGX_IDEM_OWNED,
               doubt ? "something was pending" : "nothing was");
        tap_ok(test_is(&op.value, "v1"), "it knows what was known");
        tap_ok(test_is(&op.pending, doubt ? "to v2" : "to v3"),
               "and what is not");
        tap_is(test_leave(&far, &first, "v9", ""), NGX_IDEM_LOST,
               "who was not dead has lost it");
        tap_is(actor_counted(zn, NGX_IDEM_STAT_ORPHANED), 0,
               "no claim was orphaned");

        actor_whole(zn, "the zone is whole");
        actor_close(zn);
    }
}


static void
test_lease_ends(void)
{
    ngx_idem_op_t     first, op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_line[0] = '\0';

    /* leases of the next one stand in a queue before that of the first one */

    test_op(&op, 2, "to v3");
    op.lease_ms = 2 * LEASE_MS;
    (void) test_hold(zn, &op);
    (void) test_leave(zn, &op, "", "");

    test_op(&first, 1, "to v2");
    (void) test_hold(zn, &first);
    ngx_current_msec += LEASE_MS - 1;
    (void) actor_renew(zn, &first);

    test_op(&op, 2, "to v3");
    op.lease_ms = 2 * LEASE_MS;
    (void) test_hold(zn, &op);

    ngx_current_msec += LEASE_MS - 1;
    ngx_idem_zone_tick(&zn->store);
    tap_ok(test_line[0] == '\0', "a lease has its time");

    ngx_current_msec++;
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strcmp(test_line, "2") == 0, "the next one is called");
    tap_is(zn->sb->due_ms, ngx_current_msec + 2 * LEASE_MS, "its lease is due");
    tap_is(test_leave(zn, &first, "v2", ""), NGX_IDEM_LOST, "too late: lost");

    ngx_current_msec += 2 * LEASE_MS - 1;
    tap_is(test_hold(zn, &op), NGX_IDEM_CHECK, "it has a lease of its own");
    tap_ok(test_is(&op.pending, "to v2"), "and what is in doubt");

    ngx_current_msec += 2 * LEASE_MS + LIFE_S * 1000 - 1;
    ngx_idem_zone_tick(&zn->store);
    tap_is(actor_snapshot(zn).known, 1, "what is in doubt lives");
    ngx_current_msec++;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->list.nfree, zn->sb->list.nblocks, "its time");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* Of two guards, one ends first, also if somebody joins its queue meanwhile. */

static void
test_two_leases(void)
{
    ngx_idem_op_t     first, second, op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_line[0] = '\0';

    test_op(&first, 1, "");
    (void) test_hold(zn, &first);
    (void) test_leave(zn, &first, "v", "");
    first.unknown_s = 1;
    (void) test_hold(zn, &first);

    ngx_current_msec++;
    test_op(&second, 2, "");
    second.identity[0] = 1;
    (void) test_hold(zn, &second);

    test_op(&op, 3, "");
    op.unknown_s = 1;
    (void) test_hold(zn, &op);

    ngx_current_msec += LEASE_MS - 1;
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strcmp(test_line, "3") == 0, "the one that is due ends");
    (void) test_hold(zn, &op);

    ngx_current_msec += LEASE_MS + (TTL_S - 1) * 1000;
    ngx_idem_zone_tick(&zn->store);
    tap_is(actor_snapshot(zn).known, 1,
           "what is known lives no shorter for being held");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* One is given the guard and does not come before its lease is over. */

static void
test_lost_turn(void)
{
    ngx_idem_op_t       first, late, op;
    ngx_idem_zone_t    *zn, far;
    ngx_idem_worker_t   wk;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_worker(&far, zn, &wk, 5);
    test_line[0] = '\0';

    test_op(&first, 1, "p");
    (void) test_hold(zn, &first);
    test_op(&late, 2, "p");
    (void) test_hold(&far, &late);
    test_op(&op, 3, "p");
    (void) test_hold(zn, &op);

    (void) test_leave(zn, &first, "v", "");
    ngx_current_msec += LEASE_MS;
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strcmp(test_line, "3") == 0, "the next one has it");
    tap_is(test_hold(zn, &op), NGX_IDEM_OWNED, "nothing was pending");

    ngx_idem_zone_tick(&far.store);
    tap_ok(strcmp(test_line, "32") == 0, "who has lost its turn is called");
    tap_is(test_hold(&far, &late), NGX_IDEM_BUSY, "and waits anew");
    tap_ok(late.parked, "at the end of the queue");

    (void) test_leave(zn, &op, "", "");
    ngx_current_msec += LEASE_MS;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->list.nfree, zn->sb->list.nblocks, "it is gone");
    ngx_idem_zone_tick(&far.store);
    tap_ok(strcmp(test_line, "322") == 0, "who waited for it is called");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_limit(void)
{
    uint32_t          i;
    ngx_idem_op_t     first, ops[3];
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    test_op(&first, 1, "p");
    (void) test_hold(zn, &first);

    for (i = 0; i < 3; i++) {
        test_op(&ops[i], (u_char) (i + 2), "p");
        ops[i].max_waiters = 2;
        (void) test_hold(zn, &ops[i]);
    }

    tap_ok(ops[1].parked && !ops[2].parked, "a queue of two is full");
    tap_is(ops[2].verdict, NGX_IDEM_BUSY, "the third is told so");

    ngx_idem_waiter_leave(&zn->waiters, &ops[0]);
    tap_is(test_hold(zn, &ops[0]), NGX_IDEM_BUSY, "who asks again waits again");
    tap_is(actor_snapshot(zn).waiting, 2, "and is not in it twice");

    test_line[0] = '\0';
    (void) test_leave(zn, &first, "", "");
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strcmp(test_line, "2") == 0, "its place is the old one");

    ops[2].max_waiters = 0;
    (void) test_hold(zn, &ops[2]);
    tap_ok(!ops[2].parked, "who does not want to wait does not");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* No block is free, whatever happens. */

static void
test_full(void)
{
    uint32_t          i;
    ngx_idem_op_t     free, held, op, ops[WAITERS], record;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_line[0] = '\0';

    test_op(&free, 1, "");
    (void) test_hold(zn, &free);
    (void) test_leave(zn, &free, "known", "");

    test_op(&held, 2, "p");
    held.identity[0] = 1;
    (void) test_hold(zn, &held);

    for (i = 0; zn->sb->list.nfree; i++) {
        actor_spread(&record, 1000 + i);
        (void) actor_claim(zn, &record);
    }

    test_op(&op, 3, "p");
    tap_is(test_hold(zn, &op), NGX_IDEM_FULL, "no room to hold what is free");
    op.identity[0] = 2;
    tap_is(test_hold(zn, &op), NGX_IDEM_FULL, "nor a new one");

    for (i = 0; i < WAITERS; i++) {
        test_op(&ops[i], (u_char) (i + 20), "p");
        ops[i].identity[0] = 1;
        ops[i].max_waiters = WAITERS;
        (void) test_hold(zn, &ops[i]);
    }

    tap_ok(ops[0].parked && !ops[WAITERS - 1].parked, "some may wait");
    tap_is(ops[WAITERS - 1].verdict, NGX_IDEM_BUSY, "the others cannot");

    held.value.data = test_long;
    held.value.len = NGX_IDEM_GUARD_VALUE;
    held.pending.data = test_long;
    held.pending.len = NGX_IDEM_GUARD_PENDING;
    (void) zn->store.verbs->mark(&zn->store, &held);
    tap_is(held.verdict, NGX_IDEM_OWNED, "what is held can be marked");
    (void) zn->store.verbs->leave(&zn->store, &held);
    tap_is(held.verdict, NGX_IDEM_ABSENT, "and left, with all there is");
    actor_whole(zn, "the zone is whole");

    for (i = 0; i < WAITERS && ops[i].parked; i++) {
        test_cancel(zn, &ops[i]);
    }

    tap_is(actor_snapshot(zn).known, 2, "all have left");
    test_op(&op, 3, "p");
    tap_is(test_hold(zn, &op), NGX_IDEM_FULL, "the last one kept its doubt");
    tap_is(actor_counted(zn, NGX_IDEM_STAT_EVICTED_DONE), 0, "none evicted");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);

    zn = actor_open(SMALL, NGX_IDEM_FULL_EVICT);
    (void) test_hold(zn, &free);
    (void) test_leave(zn, &free, "known", "");

    for (i = 0; i < 2000; i++) {
        actor_spread(&record, 1000 + i);
        (void) actor_claim(zn, &record);
        (void) actor_end(zn, &record, NGX_IDEM_STATE_UNSTORED);
    }

    tap_is(actor_snapshot(zn).known, 1, "what is known is never evicted");
    tap_is(test_hold(zn, &free), NGX_IDEM_OWNED, "records are, for it");
    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_looked_at(void)
{
    ngx_idem_op_t       op, other;
    ngx_idem_zone_t    *zn, far;
    ngx_idem_worker_t   wk;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_worker(&far, zn, &wk, 5);

    actor_op(&op, 1);
    (void) zn->store.verbs->look(&zn->store, &op);
    tap_is(op.verdict, NGX_IDEM_ABSENT, "nothing is there");
    tap_is(actor_snapshot(zn).running, 0, "and nothing is made");

    (void) actor_claim(&far, &op);
    actor_op(&other, 1);
    other.fingerprint[0] = 7;
    (void) zn->store.verbs->look(&zn->store, &other);
    tap_is(other.verdict, NGX_IDEM_BUSY, "a claim runs");

    (void) actor_done(&far, &op, 3, 500);
    ngx_current_msec += 700;
    (void) zn->store.verbs->look(&zn->store, &other);
    tap_is(other.verdict, NGX_IDEM_DONE, "it is done");
    tap_ok(other.status == 201 && other.age_ms == 700
           && other.stored.data == NULL, "with status and age alone");

    actor_op(&op, 2);
    (void) actor_claim(&far, &op);
    stub_worker.dead = 1 << 5;
    (void) zn->store.verbs->look(&zn->store, &op);
    stub_worker.dead = 0;
    tap_is(op.verdict, NGX_IDEM_UNKNOWN, "who ran it is dead");

    actor_op(&op, 3);
    (void) actor_claim(zn, &op);
    (void) actor_end(zn, &op, NGX_IDEM_STATE_UNSTORED);
    (void) zn->store.verbs->look(&zn->store, &op);
    tap_is(op.verdict, NGX_IDEM_UNSTORED, "not stored");

    ngx_current_msec += ACTOR_TTL_S * 1000;
    (void) zn->store.verbs->look(&zn->store, &op);
    tap_is(op.verdict, NGX_IDEM_ABSENT, "its time is over");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* What takes a guard for a record, or a record for a guard, changes nothing. */

static void
test_foreign(void)
{
    ngx_idem_op_t     guard, op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    test_op(&guard, 1, "p");
    (void) test_hold(zn, &guard);
    op = guard;
    tap_is(actor_claim(zn, &op), NGX_IDEM_MISMATCH, "a guard is no record");
    tap_is(actor_release(zn, &op), NGX_IDEM_LOST, "cannot be released");
    tap_is(actor_done(zn, &op, 1, 300), NGX_IDEM_LOST, "nor completed");
    (void) zn->store.verbs->look(&zn->store, &op);
    tap_is(op.verdict, NGX_IDEM_ABSENT, "nor seen");
    tap_is(test_leave(zn, &guard, "", ""), NGX_IDEM_ABSENT, "it is as it was");

    actor_op(&op, 1);
    (void) actor_claim(zn, &op);
    guard = op;
    tap_is(test_hold(zn, &guard), NGX_IDEM_MISMATCH, "a record is no guard");
    tap_is(test_mark(zn, &guard, "", ""), NGX_IDEM_LOST, "is not marked");
    tap_is(test_leave(zn, &guard, "", ""), NGX_IDEM_LOST, "is not left");
    tap_is(actor_release(zn, &op), NGX_IDEM_ABSENT, "it is as it was");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/*
 * A guard has a long life, and its worker is killed at each point of it.  It is
 * what it was before the step, or what it is after.
 */

static void
test_killed(void)
{
    int               nth;
    size_t            i;
    ngx_uint_t        deaths, wrong;
    ngx_idem_zone_t  *zn;

    test_diary = mmap(NULL, sizeof(test_diary_t), PROT_READ|PROT_WRITE,
                      MAP_ANON|MAP_SHARED, -1, 0);

    if (test_diary == MAP_FAILED) {
        exit(2);
    }

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_writing = 1;
    (void) test_die_at(zn, NULL, 0, test_live);
    test_writing = 0;
    tap_ok(test_diary->step > 25 && test_diary->step < STEPS, "a long life");
    actor_whole(zn, "which ends well");
    actor_close(zn);

    for (i = 0; i < tap_count(points); i++) {
        deaths = 0;
        wrong = 0;

        for (nth = 1; nth < OCCASIONS; nth++) {
            zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

            if (test_die_at(zn, points[i], nth, test_live) != NGX_OK) {
                actor_close(zn);
                break;
            }

            deaths++;
            wrong += !test_old_or_new(zn);
            actor_close(zn);
        }

        tap_ok(deaths && wrong == 0, points[i]);
        printf("# %lu deaths there\n", (unsigned long) deaths);
    }
}


static void
test_killed_repairing(void)
{
    int               nth;
    ngx_uint_t        deaths, wrong;
    ngx_idem_zone_t  *zn;

    deaths = 0;
    wrong = 0;

    for (nth = 1; nth < OCCASIONS; nth++) {
        zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

        if (test_die_at(zn, nth % 2 ? "guard-bytes" : "cut", (nth + 1) / 2,
                        test_live)
            == NGX_OK)
        {
            deaths++;
            wrong += (test_die_at(zn, "rebuild", 1, test_glance) != NGX_OK);
            wrong += !test_old_or_new(zn);
        }

        actor_close(zn);
    }

    tap_ok(deaths > 20 && wrong == 0, "whoever repairs may die as well");
}


static void
test_woken_by_repair(void)
{
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_line[0] = '\0';
    (void) test_die_at(zn, "guard-true", 3, test_live);

    stub_worker.woken = 0;
    test_op(&op, 99, "p");
    op.max_waiters = 100;
    (void) test_hold(zn, &op);
    tap_ok(op.parked, "one waits for a guard");

    (void) test_die_at(zn, "renew", 1, test_live);
    ngx_idem_zone_tick(&zn->store);
    tap_ok(strlen(test_line) == 1, "which was repaired: it is called");
    tap_is(test_hold(zn, &op), NGX_IDEM_BUSY, "and asks again");
    tap_ok(op.parked, "it is not forgotten");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* All of a guard's life; the second worker dies in it. */

static void
test_live(ngx_idem_zone_t *zn)
{
    uint32_t            i;
    ngx_idem_op_t       op[WAITERS];
    ngx_idem_zone_t     far;
    ngx_idem_worker_t   wk;

    test_worker(&far, zn, &wk, 2);

    if (test_diary) {
        test_diary->step = 0;
    }

    for (i = 0; i < WAITERS; i++) {
        test_op(&op[i], (u_char) (i + 1), "to do");
        op[i].max_waiters = 100;
        test_step(zn);
        (void) test_hold(i == 4 ? &far : zn, &op[i]);
    }

    test_step(zn);
    op[0].value.data = test_long;
    op[0].value.len = 250;
    op[0].pending.data = test_long + 10;
    op[0].pending.len = 310;
    (void) zn->store.verbs->mark(&zn->store, &op[0]);

    test_live_on(zn, &far, op);

    test_step(zn);
    test_op(&op[0], 1, "to do");
    (void) test_hold(zn, &op[0]);
    test_step(zn);
    (void) test_leave(zn, &op[0], "", "a doubt");
    test_step(zn);
    (void) test_hold(zn, &op[0]);
    test_step(zn);
    (void) test_leave(zn, &op[0], "known", "");
    test_step(zn);
    ngx_current_msec += TTL_S * 1000;
    test_glance(zn);
    test_step(zn);
}


static void
test_live_on(ngx_idem_zone_t *zn, ngx_idem_zone_t *far, ngx_idem_op_t *op)
{
    uint32_t  i;

    test_step(zn);
    (void) actor_renew(zn, &op[0]);
    test_step(zn);
    test_cancel(zn, &op[2]);
    test_step(zn);
    op[0].pending.len = 0;
    (void) zn->store.verbs->leave(&zn->store, &op[0]);
    test_step(zn);
    (void) test_hold(zn, &op[1]);
    test_step(zn);
    ngx_current_msec += LEASE_MS;
    test_glance(zn);
    test_step(zn);
    (void) test_leave(zn, &op[3], "short", "long enough");

    stub_worker.dead = 1 << far->worker->id.slot;
    test_step(zn);
    (void) test_hold(zn, &op[11]);
    stub_worker.dead = 0;

    for (i = 5; i < WAITERS; i++) {
        test_step(zn);
        (void) test_leave(zn, &op[i], i % 2 ? "v" : "", "");
    }
}


/* Writes the diary if that is what we are here for. */

static void
test_step(ngx_idem_zone_t *zn)
{
    if (test_diary == NULL) {
        return;
    }

    if (test_writing) {
        test_diary->seen[test_diary->step] = test_see(zn);
    }

    test_diary->step++;
}


static test_seen_t
test_see(ngx_idem_zone_t *zn)
{
    uint32_t          i;
    test_seen_t       seen;
    ngx_idem_op_t     op;
    ngx_idem_head_t  *h;

    ngx_memzero(&seen, sizeof(test_seen_t));

    test_op(&op, 1, "");
    i = ngx_idem_zone_find_locked(zn, op.identity);

    if (i != NGX_IDEM_NIL) {
        h = ngx_idem_zone_head(zn, i);

        seen.state = h->entry.state;
        seen.owner = h->entry.owner[0];
        seen.len = h->entry.status;
        ngx_idem_arena_read(&zn->arena, h->tail, seen.bytes, seen.len);
    }

    return seen;
}


static ngx_uint_t
test_same(const test_seen_t *a, const test_seen_t *b)
{
    return a->state == b->state && a->owner == b->owner && a->len == b->len
           && ngx_memcmp(a->bytes, b->bytes, a->len) == 0;
}


static ngx_uint_t
test_old_or_new(ngx_idem_zone_t *zn)
{
    ngx_uint_t    n;
    const char   *wrong;
    test_seen_t   seen;

    wrong = ngx_idem_zone_check(zn);
    n = test_diary->step;
    seen = test_see(zn);

    if (wrong == NULL && !test_same(&seen, &test_diary->seen[n - 1])
        && !test_same(&seen, &test_diary->seen[n]))
    {
        wrong = "a guard is neither the old one nor the new one";
    }

    if (wrong) {
        printf("# step %lu: %s\n", (unsigned long) n, wrong);
    }

    return wrong == NULL;
}


static void
test_glance(ngx_idem_zone_t *zn)
{
    (void) actor_snapshot(zn);
}


/* NGX_OK: the child was killed.  NGX_DECLINED: it never came there. */

static ngx_int_t
test_die_at(ngx_idem_zone_t *zn, const char *point, int nth,
    void (*act)(ngx_idem_zone_t *zn))
{
    int    status;
    pid_t  pid;

    (void) fflush(stdout);

    pid = fork();

    if (pid == 0) {
        test_deadly = point;
        test_passes = nth;

        stub_worker.id.slot = 1;
        act(zn);

        _exit(0);
    }

    (void) waitpid(pid, &status, 0);

    return (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
               ? NGX_OK : NGX_DECLINED;
}


static void
test_point(const char *name)
{
    if (test_deadly && strcmp(test_deadly, name) == 0 && --test_passes == 0) {
        (void) raise(SIGKILL);
    }
}


static void
test_op(ngx_idem_op_t *op, u_char owner, const char *pending)
{
    actor_op(op, 7);

    op->owner[0] = owner;
    op->lease_ms = LEASE_MS;
    op->unknown_s = LIFE_S;
    op->outcome.ttl_s = TTL_S;
    op->max_waiters = 20;
    op->handler = test_called;

    test_set(&op->pending, pending);
}


static void
test_set(ngx_str_t *s, const char *text)
{
    static u_char  texts[4096], *p = texts;

    s->len = strlen(text);

    if (p + s->len > texts + sizeof(texts)) {
        p = texts;
    }

    s->data = p;
    p = ngx_cpymem(p, text, s->len);
}


static ngx_idem_verdict_e
test_hold(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    if (zn->store.verbs->hold(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_DONE;
    }

    return op->verdict;
}


static ngx_idem_verdict_e
test_mark(ngx_idem_zone_t *zn, ngx_idem_op_t *op, const char *value,
    const char *pending)
{
    test_set(&op->value, value);
    test_set(&op->pending, pending);

    if (zn->store.verbs->mark(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_DONE;
    }

    return op->verdict;
}


static ngx_idem_verdict_e
test_leave(ngx_idem_zone_t *zn, ngx_idem_op_t *op, const char *value,
    const char *pending)
{
    test_set(&op->value, value);
    test_set(&op->pending, pending);

    if (zn->store.verbs->leave(&zn->store, op) != NGX_OK) {
        return NGX_IDEM_DONE;
    }

    return op->verdict;
}


static void
test_cancel(ngx_idem_zone_t *zn, ngx_idem_op_t *op)
{
    zn->store.verbs->cancel(&zn->store, op);
}


/* A worker with waiters of its own. */

static void
test_worker(ngx_idem_zone_t *far, ngx_idem_zone_t *zn, ngx_idem_worker_t *wk,
    ngx_uint_t slot)
{
    *far = actor_view(zn, wk, slot);

    ngx_idem_waiter_init(&far->waiters);
}


static ngx_uint_t
test_is(ngx_str_t *s, const char *text)
{
    return s->len == strlen(text) && ngx_memcmp(s->data, text, s->len) == 0;
}


/* Writes down who was called: the digit of its owner. */

static void
test_called(ngx_idem_op_t *op)
{
    size_t  n;

    n = strlen(test_line);

    if (n + 1 < sizeof(test_line)) {
        test_line[n] = (char) ('0' + op->owner[0] % 75);
        test_line[n + 1] = '\0';
    }
}
