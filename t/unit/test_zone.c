
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A zone keeps its promises: one owner, the first answer for all, nothing
 * early, nothing lost in silence; when it is full, when workers wait, when
 * they die in the middle of anything, and over a reload.
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
#define MEGABYTE    ((size_t) 1 << 20)

#define ROUNDS      30000                       /* of two processes */
#define KEYS        40                          /* that they fight for */
#define BYSTANDERS  20
#define OCCASIONS   1000                        /* of one point, at most */
#define EVICTING    3000                        /* records for a small zone */
#define MANY        10000                       /* waiters */


typedef struct {
    size_t                  payload;
    const char             *why;
} test_payload_t;


static void test_states(void);
static void test_known(ngx_idem_zone_t *zn);
static void test_looked_into(ngx_idem_zone_t *zn);
static void test_owner(void);
static void test_time(void);
static void test_queues(void);
static void test_collisions(void);
static void test_sizes(void);
static void test_no_memory(void);

static void test_full_refuse(void);
static void test_full_evict(void);
static void test_few_blocks(void);
static void test_too_large(void);
static void test_in_use(void);
static void test_goals(void);

static void test_wait(void);
static void test_wait_workers(void);
static void test_wait_reentrant(void);
static void test_wait_many(void);
static void test_wait_line(void);
static void test_wait_bucket(void);
static void test_wait_large(void);
static void test_wait_time(void);

static void test_dead_owner(void);
static void test_sweep(void);
static void test_slotless(void);

static void test_attach(void);
static void test_two_processes(void);
static void test_killed(void);
static void test_killed_repairing(void);
static void test_killed_waited_for(void);

static ngx_uint_t test_fill(ngx_idem_zone_t *zn, size_t size);
static void test_leave_free(ngx_idem_zone_t *zn, uint32_t n);
static void test_goal(size_t payload, const char *why);
static void test_park(ngx_idem_zone_t *zn, ngx_idem_op_t *op, uint32_t n,
    uint32_t key);
static ngx_uint_t test_turns(ngx_idem_zone_t *zn);
static void test_called(ngx_idem_op_t *op);
static void test_again(ngx_idem_op_t *op);
static void test_cancel_other(ngx_idem_op_t *op);
static void test_replace(void);
static ngx_uint_t test_sorted(ngx_idem_zone_t *zn);
static ngx_uint_t test_fight(ngx_idem_zone_t *zn, uint32_t n);
static ngx_int_t test_die_at(ngx_idem_zone_t *zn, const char *point,
    int nth, void (*act)(ngx_idem_zone_t *zn));
static void test_live(ngx_idem_zone_t *zn);
static void test_live_full(ngx_idem_zone_t *zn);
static void test_look(ngx_idem_zone_t *zn);
static void test_end_done(ngx_idem_zone_t *zn);
static void test_end_released(ngx_idem_zone_t *zn);
static ngx_uint_t test_survived(ngx_idem_zone_t *zn, const char *point);
static ngx_uint_t test_touched(ngx_idem_zone_t *zn, uint32_t key);


static int               test_passes;
static ngx_uint_t        test_calls;
static const char       *test_deadly;
static ngx_idem_zone_t  *test_zone;
static ngx_idem_op_t    *test_other;


static const test_payload_t  payloads[] = {
    { 200 + 30, "bytes beyond the payload of 200 bytes" },
    { 2048 + 30, "of 2 KiB" },
    { 32768 + 30, "of 32 KiB" },
    { 1048576 + 30, "of 1 MiB" },
};


static const char  *points[] = {
    "extend", "give", "enter", "leave", "enqueue", "dequeue", "set",
    "set-all", "set-true", "drop", "drop-true", "tell", "fetch", "claim",
    "claim-true", "renew", "complete", "complete-between",
};


int
main(void)
{
    (void) alarm(TIMEOUT_S);

    stub_start();

    test_states();
    test_owner();
    test_time();
    test_queues();
    test_collisions();
    test_sizes();
    test_no_memory();

    test_full_refuse();
    test_full_evict();
    test_few_blocks();
    test_too_large();
    test_in_use();
    test_goals();

    test_wait();
    test_wait_workers();
    test_wait_reentrant();
    test_wait_many();
    test_wait_line();
    test_wait_bucket();
    test_wait_large();
    test_wait_time();

    test_dead_owner();
    test_sweep();
    test_slotless();

    test_attach();
    test_two_processes();
    test_killed();
    test_killed_repairing();
    test_killed_waited_for();

    return tap_done();
}


static void
test_states(void)
{
    uint64_t              fence;
    ngx_idem_op_t         op, other;
    ngx_idem_zone_t      *zn;
    ngx_idem_snapshot_t   sn;

    zn = actor_open(MEGABYTE, NGX_IDEM_FULL_REFUSE);

    actor_op(&op, 1);
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "the first claim is owned");
    fence = op.fence;
    tap_ok(fence > (uint64_t) 1000 << 20, "its fence grows over restarts");

    actor_op(&other, 1);
    tap_is(actor_claim(zn, &other), NGX_IDEM_BUSY, "the second is busy");
    tap_ok(!other.parked, "and not parked unless it wants to wait");

    other.fingerprint[31] = 1;
    tap_is(actor_claim(zn, &other), NGX_IDEM_MISMATCH, "another request");

    tap_is(actor_done(zn, &op, 3, 500), NGX_IDEM_DONE, "it is done");
    tap_is(actor_claim(zn, &other), NGX_IDEM_MISMATCH, "as before");

    ngx_current_msec += 1234;
    actor_op(&other, 1);
    tap_is(actor_claim(zn, &other), NGX_IDEM_DONE, "the next one is replayed");
    tap_ok(actor_replayed(&other, 3, 500), "byte by byte");
    tap_is(other.status, 201, "with its status");
    tap_is(other.age_ms, 1234, "and its age");

    actor_op(&op, 2);
    (void) actor_claim(zn, &op);
    tap_is(op.fence, fence + 1, "the fence grows");
    op.outcome.dry = 1;
    tap_is(actor_end(zn, &op, NGX_IDEM_STATE_UNSTORED), NGX_IDEM_UNSTORED,
           "without a response: unstored");
    actor_op(&other, 2);
    tap_is(actor_claim(zn, &other), NGX_IDEM_UNSTORED, "for all that follow");
    tap_ok(other.status == 201 && other.dry, "with status and dry run");

    actor_op(&op, 3);
    (void) actor_claim(zn, &op);
    tap_is(actor_end(zn, &op, NGX_IDEM_STATE_UNKNOWN), NGX_IDEM_UNKNOWN,
           "nobody knows");
    actor_op(&other, 3);
    tap_is(actor_claim(zn, &other), NGX_IDEM_UNKNOWN, "nor later");

    actor_op(&op, 4);
    (void) actor_claim(zn, &op);
    tap_is(actor_release(zn, &op), NGX_IDEM_ABSENT, "released");
    actor_op(&op, 4);
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "and free again");

    sn = actor_snapshot(zn);
    tap_ok(sn.running == 1 && sn.done == 1 && sn.unstored == 1
           && sn.unknown == 1 && sn.waiting == 0 && sn.size == MEGABYTE
           && sn.block == 128 && sn.blocks - sn.free == 4 + 4,
           "all of it is in a snapshot");

    actor_op(&other, 3);
    other.on_unknown = NGX_IDEM_UNKNOWN_RETRY;
    tap_is(actor_claim(zn, &other), NGX_IDEM_OWNED, "an unknown is retried");
    tap_ok(other.fence > op.fence, "with a new fence");
    tap_is(actor_done(zn, &other, 9, 10), NGX_IDEM_DONE, "and done then");

    test_looked_into(zn);

    actor_op(&op, 5);
    (void) actor_claim(zn, &op);
    tap_is(actor_done(zn, &op, 0, 0), NGX_IDEM_DONE, "a response of no byte");
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "is one");
    tap_ok(actor_replayed(&op, 0, 0), "of no byte");

    test_known(zn);

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* One who is not to be the first finds what there is, and leaves no trace. */

static void
test_known(ngx_idem_zone_t *zn)
{
    ngx_idem_op_t        op, other;
    ngx_idem_snapshot_t  before, sn;

    before = actor_snapshot(zn);

    actor_op(&op, 7);
    op.known = 1;
    op.max_waiters = 1;
    tap_is(actor_claim(zn, &op), NGX_IDEM_ABSENT, "not the first");
    sn = actor_snapshot(zn);
    tap_ok(sn.free == before.free && sn.running == before.running,
           "nothing is claimed");

    actor_op(&other, 7);
    (void) actor_claim(zn, &other);
    tap_is(actor_claim(zn, &op), NGX_IDEM_BUSY, "but one may wait");
    tap_ok(op.parked, "for the first");
    zn->store.verbs->cancel(&zn->store, &op);

    (void) actor_release(zn, &other);
    tap_is(actor_claim(zn, &op), NGX_IDEM_ABSENT, "who is gone");

    actor_op(&other, 7);
    (void) actor_claim(zn, &other);
    (void) actor_done(zn, &other, 7, 10);
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "or done");
    tap_ok(actor_replayed(&op, 7, 10), "and is replayed");
}


/* One looks into an unknown, and puts it back; another one waits for that. */

static void
test_looked_into(ngx_idem_zone_t *zn)
{
    ngx_uint_t           running;
    ngx_idem_op_t        op, other;
    ngx_idem_snapshot_t  sn;

    running = actor_snapshot(zn).running;

    actor_op(&op, 6);
    (void) actor_claim(zn, &op);
    (void) actor_end(zn, &op, NGX_IDEM_STATE_UNKNOWN);

    ngx_current_msec += 1500;

    actor_op(&op, 6);
    op.on_unknown = NGX_IDEM_UNKNOWN_CHECK;
    tap_is(actor_claim(zn, &op), NGX_IDEM_CHECK, "an unknown is looked into");
    tap_is(op.age_ms, 1500, "which has an age");

    other = op;
    other.max_waiters = 1;
    tap_is(actor_claim(zn, &other), NGX_IDEM_BUSY, "by one at a time");
    tap_ok(other.parked, "for whom others wait");
    zn->store.verbs->cancel(&zn->store, &other);

    ngx_current_msec += 700;

    tap_ok(zn->store.verbs->complete(&zn->store, &op) == NGX_OK
           && op.verdict == NGX_IDEM_UNKNOWN, "it is put back");
    sn = actor_snapshot(zn);
    tap_ok(sn.running == running && sn.unknown == 1, "as what it was");

    other.max_waiters = 0;
    tap_is(actor_claim(zn, &other), NGX_IDEM_CHECK, "another one looks");
    tap_is(other.age_ms, 2200, "it is older by now");
    tap_ok(other.fence > op.fence, "each has its own fence");
    tap_is(actor_done(zn, &other, 6, 10), NGX_IDEM_DONE, "and knows more");
}


static void
test_owner(void)
{
    ngx_idem_op_t     op, late;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    actor_op(&op, 1);
    (void) actor_claim(zn, &op);

    actor_op(&late, 1);
    late.owner[15] = 2;
    tap_is(actor_renew(zn, &late), NGX_IDEM_LOST, "another owner renews not");
    tap_is(actor_done(zn, &late, 1, 5000), NGX_IDEM_LOST, "completes not");
    tap_is(actor_release(zn, &late), NGX_IDEM_LOST, "releases not");
    tap_is(zn->sb->list.nblocks - zn->sb->list.nfree, 1,
           "and leaves no block behind");

    actor_op(&late, 9);
    tap_is(actor_renew(zn, &late), NGX_IDEM_LOST, "nothing there: lost");
    tap_is(actor_done(zn, &late, 1, 5000), NGX_IDEM_LOST, "lost");
    tap_is(actor_release(zn, &late), NGX_IDEM_LOST, "lost");

    ngx_current_msec += ACTOR_LEASE_MS - 1;
    tap_is(actor_renew(zn, &op), NGX_IDEM_OWNED, "the owner renews");
    ngx_current_msec += ACTOR_LEASE_MS - 1;
    tap_is(actor_renew(zn, &op), NGX_IDEM_OWNED, "and again");
    ngx_current_msec += ACTOR_LEASE_MS;
    tap_is(actor_done(zn, &op, 1, 5000), NGX_IDEM_LOST, "too late: lost");
    tap_is(actor_claim(zn, &op), NGX_IDEM_UNKNOWN, "nobody knows");
    tap_is(actor_counted(zn, NGX_IDEM_STAT_LEASE_ENDED), 1, "it is counted");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_time(void)
{
    uint32_t              i;
    ngx_idem_op_t         op;
    ngx_idem_zone_t      *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    for (i = 0; i < 100; i++) {
        actor_op(&op, i);
        (void) actor_claim(zn, &op);
        (void) actor_done(zn, &op, i, 100);
    }

    ngx_current_msec += ACTOR_TTL_S * 1000 - 1;
    actor_op(&op, 50);
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "a moment before its end");
    (void) actor_replayed(&op, 50, 100);

    ngx_current_msec++;
    tap_is(zn->sb->count[NGX_IDEM_STATE_DONE], 100, "nobody has come yet");

    actor_op(&op, 99);
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "expired is absent");
    tap_is(zn->sb->count[NGX_IDEM_STATE_DONE], 100 - NGX_IDEM_ZONE_FEW - 1,
           "a claim takes a few others with it");

    (void) actor_snapshot(zn);
    tap_is(zn->sb->count[NGX_IDEM_STATE_DONE],
           100 - NGX_IDEM_ZONE_FEW - 1 - NGX_IDEM_ZONE_MANY,
           "a snapshot takes more");

    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->count[NGX_IDEM_STATE_DONE], 0, "a tick takes the rest");
    tap_is(actor_counted(zn, NGX_IDEM_STAT_EXPIRED), 100, "all are counted");

    ngx_current_msec += ACTOR_LEASE_MS;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->count[NGX_IDEM_STATE_UNKNOWN], 1, "a lease ended");

    ngx_current_msec += ACTOR_UNKNOWN_S * 1000 - 1;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->count[NGX_IDEM_STATE_UNKNOWN], 1, "unknown still");

    ngx_current_msec++;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->list.nfree, zn->sb->list.nblocks, "the zone is empty");
    tap_is(zn->sb->due_ms, (uint64_t) -1, "and nothing is due");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* More lives than queues: swept late perhaps, but absent in time. */

static void
test_queues(void)
{
    uint32_t          i;
    ngx_uint_t        early, late;
    ngx_msec_t        start;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    start = ngx_current_msec;
    early = 0;
    late = 0;

    for (i = 0; i < 60; i++) {
        actor_op(&op, i);
        op.lease_ms = 100000 + i;
        (void) actor_claim(zn, &op);
        op.outcome.ttl_s = 100 - i;

        if (i % 3 == 0) {
            (void) actor_done(zn, &op, i, 10);

        } else if (i % 3 == 1) {
            (void) actor_end(zn, &op, NGX_IDEM_STATE_UNKNOWN);
        }
    }

    actor_whole(zn, "more lives than queues");

    for (i = 59; i < 60; i--) {

        if (i % 3 == 2) {
            continue;
        }

        ngx_current_msec = start + (100 - i) * 1000 - 1;
        actor_op(&op, i);
        early += (actor_claim(zn, &op) == NGX_IDEM_OWNED);
        free(op.stored.data);
        ngx_current_msec++;
        actor_op(&op, i);
        late += (actor_claim(zn, &op) != NGX_IDEM_OWNED);
        (void) actor_release(zn, &op);
    }

    tap_is(early, 0, "no record ends early");
    tap_is(late, 0, "none is there late");

    ngx_current_msec = start + 200000;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->count[NGX_IDEM_STATE_RUNNING], 0, "all leases end");
    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_collisions(void)
{
    uint32_t          i;
    ngx_uint_t        wrong;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(MEGABYTE, NGX_IDEM_FULL_REFUSE);
    wrong = 0;

    for (i = 0; i < 256; i++) {
        actor_op(&op, 0);
        op.identity[31] = (u_char) i;
        wrong += (actor_claim(zn, &op) != NGX_IDEM_OWNED);
        wrong += (actor_done(zn, &op, i, 300) != NGX_IDEM_DONE);
    }

    for (i = 0; i < 256; i++) {
        actor_op(&op, 0);
        op.identity[31] = (u_char) i;
        wrong += (actor_claim(zn, &op) != NGX_IDEM_DONE);
        wrong += !actor_replayed(&op, i, 300);
    }

    tap_is(wrong, 0, "keys that differ in their last byte are different keys");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_sizes(void)
{
    size_t            size;
    uint32_t          key;
    ngx_uint_t        wrong;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(8 * MEGABYTE, NGX_IDEM_FULL_REFUSE);
    key = 0;
    wrong = 0;

    for (size = 1; size < 3 * MEGABYTE / 2; size += 1 + size / 7) {
        actor_op(&op, ++key);
        (void) actor_claim(zn, &op);
        wrong += (actor_done(zn, &op, key, size) != NGX_IDEM_DONE);
        wrong += (actor_claim(zn, &op) != NGX_IDEM_DONE);
        wrong += !actor_replayed(&op, key, size);

        if (size > 100000) {
            ngx_current_msec += ACTOR_TTL_S * 1000;
        }
    }

    tap_is(wrong, 0, "responses of any size");
    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_no_memory(void)
{
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    actor_op(&op, 1);
    (void) actor_claim(zn, &op);
    (void) actor_done(zn, &op, 1, 300);

    stub_no_memory = 1;
    tap_is(zn->store.verbs->claim(&zn->store, &op), (uint64_t) NGX_ERROR,
           "no memory for a replay is an error");
    stub_no_memory = 0;

    tap_is(zn->sb->pins[0].place, 0, "which pins nothing");
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "and changes nothing");
    tap_ok(actor_replayed(&op, 1, 300), "nothing at all");

    actor_close(zn);
}


static void
test_full_refuse(void)
{
    ngx_uint_t        n;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    stub_warnings = 0;

    n = test_fill(zn, 100);
    tap_ok(n > 200, "a zone of 64k holds some records");

    actor_spread(&op, 1000000);
    tap_is(actor_claim(zn, &op), NGX_IDEM_FULL, "then it is full");
    tap_is(stub_warnings, 1, "and says so, once a second");

    ngx_current_msec += 1000;
    (void) actor_claim(zn, &op);
    tap_is(stub_warnings, 2, "again");

    actor_spread(&op, 0);
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "what it has, it has");
    tap_ok(actor_replayed(&op, 0, 100), "all of it");
    tap_is(actor_counted(zn, NGX_IDEM_STAT_EVICTED_DONE), 0, "none evicted");

    ngx_current_msec += ACTOR_TTL_S * 1000;
    actor_spread(&op, 1000000);
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "room, as time passes");
    tap_is(actor_done(zn, &op, 1, 40000), NGX_IDEM_DONE, "for a response too");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_full_evict(void)
{
    uint32_t          i;
    ngx_uint_t        gone, n, wrong;
    ngx_idem_op_t     op, running, unknown;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_EVICT);

    actor_spread(&running, 900001);
    (void) actor_claim(zn, &running);
    actor_spread(&unknown, 900002);
    (void) actor_claim(zn, &unknown);
    (void) actor_end(zn, &unknown, NGX_IDEM_STATE_UNKNOWN);

    for (n = 0; actor_counted(zn, NGX_IDEM_STAT_EVICTED_DONE) == 0; n++) {
        actor_spread(&op, n);
        (void) actor_claim(zn, &op);
        op.outcome.ttl_s = 1000 - (n & 1);
        (void) actor_done(zn, &op, n, 100);
        ngx_current_msec++;
    }

    for (i = 0; i < 50; i++) {
        actor_spread(&op, 500000 + i);
        (void) actor_claim(zn, &op);
        (void) actor_end(zn, &op, NGX_IDEM_STATE_UNSTORED);
        ngx_current_msec++;
    }

    gone = actor_counted(zn, NGX_IDEM_STAT_EVICTED_DONE);
    wrong = 0;

    for (i = 0; i < n; i++) {
        actor_spread(&op, i);
        wrong += ((ngx_idem_zone_find_locked(zn, op.identity)
                   == NGX_IDEM_NIL) != (i < gone));
    }

    tap_ok(gone >= 25, "records make room");
    tap_is(wrong, 0, "all that are gone are older than all that are left");

    n = test_fill(zn, 0);
    tap_is(n, EVICTING, "an evicting zone is never full");
    tap_ok(actor_counted(zn, NGX_IDEM_STAT_EVICTED_UNSTORED) >= 50,
           "unstored ones go too");

    actor_spread(&op, 900001);
    tap_is(actor_claim(zn, &op), NGX_IDEM_BUSY, "a running claim stays");
    actor_spread(&op, 900002);
    tap_is(actor_claim(zn, &op), NGX_IDEM_UNKNOWN, "an unknown stays");

    tap_is(actor_done(zn, &running, 5, 20000), NGX_IDEM_DONE,
           "others go for a response");
    actor_spread(&op, 900001);
    (void) actor_claim(zn, &op);
    tap_ok(actor_replayed(&op, 5, 20000), "which is whole");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* With n blocks left, whatever is asked for: the n-th that is missing. */

static void
test_few_blocks(void)
{
    uint32_t             n;
    ngx_uint_t           wrong;
    ngx_idem_op_t        op;
    ngx_idem_zone_t     *zn;
    ngx_idem_verdict_e   claim, end;

    wrong = 0;

    for (n = 0; n < 45; n++) {
        zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
        test_leave_free(zn, n);

        actor_spread(&op, 1);
        claim = actor_claim(zn, &op);
        wrong += (claim != (n ? NGX_IDEM_OWNED : NGX_IDEM_FULL));

        if (n) {
            end = actor_done(zn, &op, 1, 40 * NGX_IDEM_BLOCK);
            wrong += (end != (n > 40 ? NGX_IDEM_DONE : NGX_IDEM_UNSTORED));
            wrong += (zn->sb->list.nfree != (n > 40 ? n - 41 : n - 1));
            wrong += (actor_counted(zn, NGX_IDEM_STAT_NO_ROOM) != (n <= 40));
        }

        wrong += (ngx_idem_zone_check(zn) != NULL);
        actor_close(zn);
    }

    tap_is(wrong, 0, "any number of blocks may be all that is left");
}


static void
test_too_large(void)
{
    ngx_idem_op_t     op, other;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_EVICT);

    actor_op(&other, 1);
    (void) actor_claim(zn, &other);
    (void) actor_done(zn, &other, 1, 100);

    actor_op(&op, 2);
    (void) actor_claim(zn, &op);
    tap_is(actor_done(zn, &op, 2, 100000), NGX_IDEM_UNSTORED,
           "a response larger than the zone is not stored");
    tap_is(actor_claim(zn, &other), NGX_IDEM_DONE, "and evicts nothing");
    free(other.stored.data);

    actor_op(&op, 3);
    (void) actor_claim(zn, &op);
    op.outcome.state = NGX_IDEM_STATE_DONE;
    op.record = NULL;
    op.size = 5000;
    (void) zn->store.verbs->complete(&zn->store, &op);
    tap_is(op.verdict, NGX_IDEM_UNSTORED, "nor one that is not there");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* What another worker reads at this moment stays until it has. */

static void
test_in_use(void)
{
    uint32_t          first;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_EVICT);

    actor_spread(&op, 0);
    (void) actor_claim(zn, &op);
    (void) actor_done(zn, &op, 0, 1000);
    (void) actor_claim(zn, &op);
    (void) actor_replayed(&op, 0, 1000);
    first = op.place;

    zn->sb->pins[7].epoch = 3;
    zn->sb->pins[7].place = first + 1;

    ngx_current_msec++;
    (void) test_fill(zn, 100);
    actor_spread(&op, 0);
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "it is not evicted");
    tap_ok(op.place == first && actor_replayed(&op, 0, 1000), "and whole");

    ngx_current_msec += ACTOR_TTL_S * 1000;
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE,
           "at its end it is replayed as to the one who reads");
    (void) actor_replayed(&op, 0, 1000);
    op.fingerprint[0] = 1;
    tap_is(actor_claim(zn, &op), NGX_IDEM_MISMATCH, "or refused");
    actor_whole(zn, "the zone is whole");

    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->pins[7].place, first + 1, "as long as the reader lives");

    stub_worker.dead = 1 << 7;
    ngx_current_msec += 1000;
    ngx_idem_zone_tick(&zn->store);
    stub_worker.dead = 0;
    tap_is(zn->sb->pins[7].place, 0, "a dead one reads no more");

    actor_spread(&op, 0);
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "then it is gone");

    actor_close(zn);
}


/* As many bytes as nginx leaves of a zone of 64 MiB. */

static void
test_goals(void)
{
    size_t  i;

    for (i = 0; i < tap_count(payloads); i++) {
        test_goal(payloads[i].payload, payloads[i].why);
    }
}


static void
test_goal(size_t payload, const char *why)
{
    size_t            over, size;
    ngx_uint_t        n;
    ngx_idem_zone_t  *zn;

    size = (64 * MEGABYTE - 400) / (4096 + sizeof(ngx_slab_page_t)) * 4096;

    zn = actor_open(size, NGX_IDEM_FULL_REFUSE);

    n = test_fill(zn, payload);
    over = 64 * MEGABYTE / n - payload;

    printf("# %lu bytes: %lu records in 64 MiB, %lu beyond the payload\n",
           (unsigned long) payload, (unsigned long) n, (unsigned long) over);

    if (payload < 256) {
        tap_ok(n >= 160000, "160,000 records of 230 bytes in 64 MiB");
    }

    tap_ok(over <= 160 + payload / 10, why);
    actor_close(zn);
}


static void
test_wait(void)
{
    ngx_uint_t        i;
    ngx_idem_op_t     first, op[4];
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_calls = 0;
    stub_worker.woken = 0;

    actor_op(&first, 1);
    (void) actor_claim(zn, &first);

    for (i = 0; i < 4; i++) {
        actor_op(&op[i], 1);
        op[i].max_waiters = 3;
        op[i].handler = test_called;
        tap_is(actor_claim(zn, &op[i]), NGX_IDEM_BUSY, "a waiter is busy");
        tap_is(op[i].parked, i < 3, i < 3 ? "and parked" : "too many wait");
    }

    tap_is(actor_snapshot(zn).waiting, 3, "three wait");
    tap_is(stub_worker.tick, 1, "somebody looks after them");

    zn->store.verbs->cancel(&zn->store, &op[1]);
    zn->store.verbs->cancel(&zn->store, &op[1]);
    zn->store.verbs->cancel(&zn->store, &op[3]);
    tap_is(actor_snapshot(zn).waiting, 2, "one has left");

    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 0, "nothing has happened");
    tap_is(stub_worker.woken, 0, "nobody was woken");
    actor_whole(zn, "the zone is whole");

    (void) actor_done(zn, &first, 1, 100);
    tap_is(stub_worker.woken, 1, "the worker is woken");
    tap_is(test_calls, 0, "but not called from inside");
    tap_is(actor_snapshot(zn).waiting, 0, "nobody waits for what has ended");

    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 2, "both are called");
    tap_ok(!op[0].parked && !op[2].parked, "and are not parked");
    tap_is(stub_worker.tick, 0, "nobody is looked after any more");

    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 2, "once");
    tap_is(zn->sb->waiting_workers, 0, "no worker has waiters");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* Owner here, waiters there; a release wakes too. */

static void
test_wait_workers(void)
{
    ngx_idem_op_t       first, left, mine, next, op;
    ngx_idem_zone_t    *zn, view;
    ngx_idem_worker_t   far;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    view = actor_view(zn, &far, 63);
    ngx_idem_waiter_init(&view.waiters);

    test_calls = 0;
    stub_worker.woken = 0;

    actor_op(&first, 1);
    (void) actor_claim(zn, &first);

    actor_op(&op, 1);
    op.max_waiters = 9;
    op.handler = test_called;
    left = op;
    mine = op;
    (void) actor_claim(&view, &op);
    (void) actor_claim(&view, &left);
    (void) actor_claim(zn, &mine);
    tap_is(zn->sb->waiting_workers, ((uint64_t) 1 << 63) | 1, "two workers");

    view.store.verbs->cancel(&view.store, &left);
    (void) actor_release(zn, &first);
    tap_is(stub_worker.woken, ((uint64_t) 1 << 63) | 1, "both are woken");

    (void) actor_claim(zn, &first);
    next = first;
    next.max_waiters = 1;
    (void) actor_claim(zn, &next);
    tap_is(next.place, mine.place, "the same block, another claim");

    zn->store.verbs->cancel(&zn->store, &mine);
    tap_is(zn->sb->waiting, 1, "a late cancel concerns the old one");
    zn->store.verbs->cancel(&zn->store, &next);
    (void) actor_release(zn, &first);
    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 0, "all have left here");

    ngx_idem_zone_tick(&view.store);
    tap_is(test_calls, 1, "the far one is called");
    tap_is(actor_claim(&view, &op), NGX_IDEM_OWNED, "and claims");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_wait_reentrant(void)
{
    ngx_uint_t        i;
    ngx_idem_op_t     first, op[3], heap, *freed;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_zone = zn;
    test_calls = 0;

    actor_op(&first, 1);
    (void) actor_claim(zn, &first);

    for (i = 0; i < 3; i++) {
        actor_op(&op[i], 1);
        op[i].max_waiters = 9;
        op[i].handler = test_again;
        (void) actor_claim(zn, &op[i]);
    }

    (void) actor_release(zn, &first);
    ngx_idem_zone_tick(&zn->store);

    tap_is(test_calls, 3, "three are called and claim from inside");
    tap_is(op[0].verdict, NGX_IDEM_OWNED, "the first of them owns");
    tap_ok(op[1].parked && op[2].parked, "the others are parked again");

    op[1].handler = test_cancel_other;
    test_other = &op[2];
    (void) actor_release(zn, &op[0]);
    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 4, "one cancels another that was to be called");

    (void) actor_claim(zn, &first);
    freed = malloc(sizeof(ngx_idem_op_t));
    actor_op(&heap, 1);
    heap.max_waiters = 1;
    heap.handler = (ngx_idem_op_handler_pt) free;
    *freed = heap;
    (void) actor_claim(zn, freed);
    (void) actor_release(zn, &first);
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->waiters.parked, 0, "one is freed by its handler");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* Ten thousand, and a turn of the event loop that never takes long. */

static void
test_wait_many(void)
{
    uint32_t          i;
    ngx_uint_t        turns;
    ngx_idem_op_t    *op, *first;
    ngx_idem_zone_t  *zn;

    zn = actor_open(8 * MEGABYTE, NGX_IDEM_FULL_REFUSE);
    first = calloc(1000, sizeof(ngx_idem_op_t));
    op = calloc(MANY, sizeof(ngx_idem_op_t));
    test_calls = 0;

    if (first == NULL || op == NULL) {
        exit(2);
    }

    for (i = 0; i < 1000; i++) {
        actor_spread(&first[i], i);
        (void) actor_claim(zn, &first[i]);
    }

    for (i = 0; i < MANY; i++) {
        actor_spread(&op[i], i % 1000);
        op[i].max_waiters = 100;
        op[i].handler = test_called;
        (void) actor_claim(zn, &op[i]);
    }

    tap_is(actor_snapshot(zn).waiting, MANY, "ten thousand wait");

    /* a zone that was just made tells of all its buckets, once */

    (void) test_turns(zn);
    tap_is(test_calls, 0, "and nothing has happened");

    (void) actor_done(zn, &first[500], 1, 10);
    tap_is(test_turns(zn), 1, "those of one key are called at once");
    tap_is(test_calls, 10, "ten of them");

    for (i = 0; i < 1000; i++) {
        (void) actor_done(zn, &first[i], 1, 10);
    }

    tap_is(actor_snapshot(zn).waiting, 0, "nobody waits for what has ended");

    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 10 + NGX_IDEM_WAITER_CALLS, "a turn calls a few");
    tap_is(stub_worker.tick, 1, "the others are looked after");

    turns = 1 + test_turns(zn);
    tap_is(test_calls, MANY, "all are called");
    tap_is(turns, (MANY - 10) / NGX_IDEM_WAITER_CALLS + 1, "turn by turn");
    tap_is(stub_worker.tick, 0, "and nobody is looked after any more");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
    free(first);
    free(op);
}


/* The first in line owns, the others park again, until nobody is left. */

static void
test_wait_line(void)
{
    uint32_t          i;
    ngx_uint_t        owners, wrong;
    ngx_idem_op_t     first, *op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    op = calloc(MANY, sizeof(ngx_idem_op_t));
    test_zone = zn;
    wrong = 0;

    if (op == NULL) {
        exit(2);
    }

    actor_op(&first, 1);
    (void) actor_claim(zn, &first);

    for (i = 0; i < MANY; i++) {
        actor_op(&op[i], 1);
        op[i].max_waiters = MANY;
        op[i].handler = test_again;
        (void) actor_claim(zn, &op[i]);
    }

    (void) actor_release(zn, &first);

    for (owners = 0; owners < 20; owners++) {
        test_calls = 0;

        wrong += (test_turns(zn) != (MANY - owners - 1)
                                    / NGX_IDEM_WAITER_CALLS + 1);
        wrong += (test_calls != MANY - owners);
        wrong += (op[owners].verdict != NGX_IDEM_OWNED);
        wrong += (zn->waiters.parked != MANY - owners - 1);
        wrong += (actor_snapshot(zn).waiting != MANY - owners - 1);
        wrong += (actor_release(zn, &op[owners]) != NGX_IDEM_ABSENT);
    }

    tap_is(wrong, 0, "they own one by one, in the order they came");

    test_calls = 0;
    ngx_idem_zone_tick(&zn->store);
    (void) actor_release(zn, &op[20]);
    (void) test_turns(zn);
    tap_is(test_calls, MANY - 20 + NGX_IDEM_WAITER_CALLS - 1,
           "who ends meanwhile calls again");
    tap_is(op[20 + NGX_IDEM_WAITER_CALLS].verdict, NGX_IDEM_OWNED,
           "one who has not parked again comes first");

    for (i = 0; i < MANY; i += 2) {
        zn->store.verbs->cancel(&zn->store, &op[i]);
    }

    (void) actor_done(zn, &op[20 + NGX_IDEM_WAITER_CALLS], 1, 100);
    ngx_idem_zone_tick(&zn->store);

    for (i = 1; i < MANY; i += 4) {
        zn->store.verbs->cancel(&zn->store, &op[i]);
    }

    test_calls = 0;
    (void) test_turns(zn);
    tap_is(zn->waiters.parked, 0, "those who left are not waited for");
    tap_ok(test_calls > MANY / 4 - 100 && test_calls <= MANY / 4,
           "nor called, woken or not");

    for (i = 0; i < MANY; i++) {
        free(op[i].stored.data);
    }

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
    free(op);
}


/*
 * Two claims in one bucket: who waits for the one is found behind all those
 * who wait for the other, which are looked at, but not too many in a turn.
 */

static void
test_wait_bucket(void)
{
    uint32_t          i;
    ngx_uint_t        key, turns;
    ngx_idem_op_t    *op, busy, ends;
    ngx_idem_zone_t  *zn;

    zn = actor_open(MEGABYTE, NGX_IDEM_FULL_REFUSE);
    op = calloc(MANY, sizeof(ngx_idem_op_t));
    test_calls = 0;

    if (op == NULL) {
        exit(2);
    }

    actor_spread(&busy, 0);
    (void) actor_claim(zn, &busy);

    for (i = 0; i < MANY - 1; i++) {
        actor_spread(&op[i], 0);
        op[i].max_waiters = MANY;
        op[i].handler = test_called;
        (void) actor_claim(zn, &op[i]);
    }

    key = 0;

    do {
        actor_spread(&ends, (uint32_t) ++key);
        (void) actor_claim(zn, &ends);
        actor_spread(&op[i], (uint32_t) key);
        op[i].max_waiters = 1;
        op[i].handler = test_called;
        (void) actor_claim(zn, &op[i]);

        if (ngx_idem_waiter_bucket(op[i].place)
            == ngx_idem_waiter_bucket(op[0].place))
        {
            break;
        }

        zn->store.verbs->cancel(&zn->store, &op[i]);

    } while (key < 2000);

    tap_ok(key < 2000, "two claims in one bucket");

    (void) actor_release(zn, &ends);
    turns = test_turns(zn);
    tap_is(test_calls, 1, "the one whose claim has ended is called");
    tap_is(turns, (MANY - 1) / NGX_IDEM_WAITER_LOOKS + 1,
           "after a look at the others");

    (void) actor_release(zn, &busy);
    turns = test_turns(zn);
    tap_is(test_calls, MANY, "whose turn comes as well");
    tap_is(turns, (MANY - 2) / NGX_IDEM_WAITER_CALLS + 1, "a few at a time");

    test_calls = 0;
    actor_spread(&busy, 0);
    (void) actor_claim(zn, &busy);
    (void) actor_claim(zn, &ends);

    for (i = 0; i < MANY; i++) {
        (void) actor_claim(zn, &op[i]);
    }

    (void) actor_release(zn, &ends);
    ngx_idem_zone_tick(&zn->store);
    (void) actor_release(zn, &busy);
    (void) test_turns(zn);
    tap_is(test_calls, MANY, "or while others are looked at");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
    free(op);
}


/* Few get a large answer in one turn, one a very large one. */

static void
test_wait_large(void)
{
    size_t            size;
    uint32_t          i;
    ngx_uint_t        calls[2];
    ngx_idem_op_t     first, op[20];
    ngx_idem_zone_t  *zn;

    zn = actor_open(4 * MEGABYTE, NGX_IDEM_FULL_REFUSE);
    size = 6 * NGX_IDEM_ZONE_CALL;

    for (i = 0; i < 2; i++) {
        actor_op(&first, i);
        (void) actor_claim(zn, &first);
        test_park(zn, op, 20, i);
        (void) actor_done(zn, &first, 1, size);

        test_calls = 0;
        ngx_idem_zone_tick(&zn->store);
        calls[i] = test_calls;
        (void) test_turns(zn);
        tap_is(test_calls, 20, "all are called");

        size = 2 * MEGABYTE;
    }

    tap_is(calls[0], NGX_IDEM_WAITER_CALLS / 7 + 1, "large answers: few");
    tap_is(calls[1], 1, "very large answers: one by one");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_wait_time(void)
{
    ngx_idem_op_t     first, op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    test_calls = 0;

    actor_op(&first, 1);
    (void) actor_claim(zn, &first);
    actor_op(&op, 1);
    op.max_waiters = 1;
    op.handler = test_called;
    (void) actor_claim(zn, &op);

    ngx_current_msec += ACTOR_LEASE_MS - 1;
    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 0, "the lease runs");

    ngx_current_msec++;
    stub_worker.woken = 0;
    ngx_idem_zone_tick(&zn->store);
    tap_is(test_calls, 1, "a lease that ends wakes");
    tap_is(stub_worker.woken, 0, "at once, as we are there");
    tap_is(actor_claim(zn, &op), NGX_IDEM_UNKNOWN, "to no good");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_dead_owner(void)
{
    ngx_idem_op_t       first, op;
    ngx_idem_zone_t    *zn, view;
    ngx_idem_worker_t   far;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    view = actor_view(zn, &far, 5);
    stub_worker.asked = 0;

    actor_op(&op, 9);
    (void) actor_claim(zn, &op);
    (void) actor_claim(zn, &op);
    tap_is(stub_worker.asked, 0, "we know that we live");

    actor_op(&first, 1);
    (void) actor_claim(&view, &first);
    actor_op(&op, 1);
    tap_is(actor_claim(zn, &op), NGX_IDEM_BUSY, "the owner lives");
    tap_is(stub_worker.asked, 1, "as was asked");

    stub_worker.dead = 1 << 5;
    op.fingerprint[0] = 1;
    tap_is(actor_claim(zn, &op), NGX_IDEM_MISMATCH, "another request");
    tap_is(stub_worker.asked, 1, "does not ask");

    op.fingerprint[0] = 0;
    tap_is(actor_claim(zn, &op), NGX_IDEM_UNKNOWN, "the owner is dead");
    tap_is(actor_counted(zn, NGX_IDEM_STAT_ORPHANED), 1, "it is counted");
    tap_is(actor_done(&view, &first, 1, 100), NGX_IDEM_LOST,
           "and can no longer complete");

    actor_op(&first, 2);
    (void) actor_claim(&view, &first);
    actor_op(&op, 2);
    op.on_unknown = NGX_IDEM_UNKNOWN_RETRY;
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "or it is run again");
    tap_ok(op.fence > first.fence, "with a greater fence");

    actor_op(&first, 3);
    first.unknown_s = 0;
    (void) actor_claim(&view, &first);
    actor_op(&op, 3);
    tap_is(actor_claim(zn, &op), NGX_IDEM_UNKNOWN, "for no time");
    tap_is(actor_claim(zn, &op), NGX_IDEM_OWNED, "at all");

    stub_worker.dead = 0;
    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_sweep(void)
{
    uint32_t            i;
    ngx_idem_op_t       op, waiter;
    ngx_idem_zone_t    *zn, view;
    ngx_idem_worker_t   far;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    view = actor_view(zn, &far, 5);
    test_calls = 0;

    for (i = 0; i < 150; i++) {
        actor_op(&op, i);
        op.lease_ms += i % 3;
        (void) actor_claim(i % 2 ? zn : &view, &op);
    }

    actor_op(&waiter, 148);
    waiter.max_waiters = 1;
    waiter.handler = test_called;
    (void) actor_claim(zn, &waiter);

    zn->swept = 0;
    ngx_idem_zone_tick(&zn->store);
    stub_worker.dead = 1 << 5;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->count[NGX_IDEM_STATE_UNKNOWN], 0,
           "nobody is asked about twice within a second");

    ngx_current_msec += 1000;
    ngx_idem_zone_tick(&zn->store);
    tap_is(zn->sb->count[NGX_IDEM_STATE_UNKNOWN], 75,
           "all claims of a dead worker are found");
    tap_is(zn->sb->count[NGX_IDEM_STATE_RUNNING], 75, "and no others");
    tap_is(test_calls, 1, "their waiters are called");

    stub_worker.dead = 0;
    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* A worker without a slot can do all, only slower. */

static void
test_slotless(void)
{
    ngx_idem_op_t       first, op;
    ngx_idem_zone_t    *zn, view;
    ngx_idem_worker_t   far;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    view = actor_view(zn, &far, NGX_IDEM_NO_WORKER);
    ngx_idem_waiter_init(&view.waiters);
    test_calls = 0;

    actor_op(&first, 1);
    tap_is(actor_claim(&view, &first), NGX_IDEM_OWNED, "it claims");
    actor_op(&op, 1);
    op.max_waiters = 1;
    op.handler = test_called;
    (void) actor_claim(&view, &op);
    tap_ok(op.parked && far.tick, "it waits");
    tap_is(zn->sb->waiting_workers, 0, "nobody can wake it");

    tap_is(actor_done(&view, &first, 4, 9000), NGX_IDEM_DONE, "it completes");
    ngx_idem_zone_tick(&view.store);
    tap_is(test_calls, 1, "it looks by itself");

    tap_is(actor_claim(&view, &op), NGX_IDEM_DONE, "it replays");
    tap_ok(actor_replayed(&op, 4, 9000), "all of it");

    test_zone = zn;
    stub_allocating = test_replace;
    tap_is(actor_claim(&view, &op), NGX_IDEM_DONE, "one ends meanwhile");
    tap_ok(actor_replayed(&op, 6, 300), "then it is the next one");

    stub_no_memory = 1;
    tap_is(view.store.verbs->claim(&view.store, &op), (uint64_t) NGX_ERROR,
           "it may be short of memory");
    stub_no_memory = 0;

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


static void
test_attach(void)
{
    int               tag;
    ngx_str_t         name;
    ngx_conf_t        cf;
    ngx_shm_zone_t    old;
    ngx_idem_op_t     op;
    ngx_slab_pool_t  *shpool;
    ngx_idem_zone_t  *zn, *next;
    ngx_list_part_t  *part;

    ngx_str_set(&name, "payments");
    ngx_memzero(&cf, sizeof(ngx_conf_t));

    shpool = aligned_alloc(4096, MEGABYTE);

    if (shpool == NULL) {
        exit(2);
    }

    ngx_memzero(shpool, MEGABYTE);
    shpool->start = (u_char *) shpool + 4096;
    shpool->pfree = MEGABYTE / 4096 - 1;
    stub_cycle.conf_ctx = NULL;

    ngx_memzero(&stub_zone, sizeof(ngx_shm_zone_t));
    zn = (ngx_idem_zone_t *) ngx_idem_zone_add(&cf, &name, MEGABYTE,
                                               NGX_IDEM_FULL_REFUSE,
                                               &stub_worker, &tag);
    stub_zone.shm.addr = (u_char *) shpool;
    tap_is(stub_zone.init(&stub_zone, NULL), NGX_OK, "a new zone");
    tap_is(actor_snapshot(zn).size, MEGABYTE, "of the size asked for");
    tap_ok(zn->store.stat != NULL, "with counters");

    tap_ok(ngx_idem_zone_add(&cf, &name, MEGABYTE, NGX_IDEM_FULL_REFUSE,
                             &stub_worker, &tag) == NULL,
           "a name is taken once");

    actor_op(&op, 1);
    (void) actor_claim(zn, &op);
    (void) actor_done(zn, &op, 1, 300);

    old = stub_zone;
    stub_zone.data = NULL;
    next = (ngx_idem_zone_t *) ngx_idem_zone_add(&cf, &name, MEGABYTE,
                                                 NGX_IDEM_FULL_EVICT,
                                                 &stub_worker, &tag);
    tap_is(stub_zone.init(&stub_zone, zn), NGX_OK, "a reload keeps it");
    tap_is(actor_claim(next, &op), NGX_IDEM_DONE, "with all its records");
    tap_ok(actor_replayed(&op, 1, 300), "as they were");

    ((ngx_idem_superblock_t *) shpool->data)->version++;
    stub_emergencies = 0;
    tap_is(stub_zone.init(&stub_zone, zn), (uint64_t) NGX_ERROR,
           "but not one of another version");
    ((ngx_idem_superblock_t *) shpool->data)->version--;

    stub_cycle.conf_ctx = (void ****) &tag;
    part = &stub_cycle.shared_memory.part;
    part->elts = &old;
    part->nelts = 1;
    stub_zone.shm.size = 2 * MEGABYTE;
    tap_is(stub_zone.init(&stub_zone, NULL), (uint64_t) NGX_ERROR,
           "nor with another size");
    tap_is(stub_emergencies, 2, "which is said");
    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "the old one goes on");
    (void) actor_replayed(&op, 1, 300);

    part->nelts = 0;
    stub_no_memory = 1;
    tap_is(stub_zone.init(&stub_zone, NULL), (uint64_t) NGX_ERROR,
           "no memory in the zone");
    stub_no_memory = 0;

    shpool->pfree = 0;
    tap_is(stub_zone.init(&stub_zone, NULL), (uint64_t) NGX_ERROR,
           "or too little");

    free(shpool);
    free(zn);
    free(next);
}


static void
test_two_processes(void)
{
    int               status;
    pid_t             pid;
    ngx_uint_t        wrong;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_EVICT);

    (void) fflush(stdout);

    pid = fork();

    if (pid == 0) {
        stub_worker.id.slot = 1;
        _exit(test_fight(zn, 1) != 0);
    }

    wrong = test_fight(zn, 2);
    (void) waitpid(pid, &status, 0);

    tap_is(wrong, 0, "two processes, one zone: nothing is wrong here");
    tap_is((unsigned) status, 0, "nor there");
    tap_is(actor_snapshot(zn).running, 0, "all claims have ended");
    tap_ok(actor_counted(zn, NGX_IDEM_STAT_EVICTED_DONE) > 0,
           "some records were evicted meanwhile");

    actor_whole(zn, "the zone is whole");
    actor_close(zn);
}


/* A response's first byte is its seed. */

static ngx_uint_t
test_fight(ngx_idem_zone_t *zn, uint32_t n)
{
    size_t         size;
    uint32_t       i;
    ngx_uint_t     wrong;
    ngx_idem_op_t  op;

    wrong = 0;

    for (i = 0; i < ROUNDS; i++) {
        n = n * 1103515245 + 12345;
        actor_spread(&op, (n >> 16) % KEYS);
        op.owner[0] = (u_char) stub_worker.id.slot;
        size = 1 + (n >> 8) % 6000;

        switch (actor_claim(zn, &op)) {

        case NGX_IDEM_OWNED:

            if (n % 5 == 0) {
                wrong += (actor_release(zn, &op) != NGX_IDEM_ABSENT);

            } else {
                wrong += (actor_done(zn, &op, n & 0xff, size)
                          != NGX_IDEM_DONE);
            }

            break;

        case NGX_IDEM_DONE:
            wrong += !actor_replayed(&op, op.stored.data[0], op.stored.len);
            break;

        case NGX_IDEM_BUSY:
            break;

        case NGX_IDEM_CHECK:
        case NGX_IDEM_UNSTORED:
        case NGX_IDEM_UNKNOWN:
        case NGX_IDEM_MISMATCH:
        case NGX_IDEM_FULL:
        case NGX_IDEM_LOST:
        case NGX_IDEM_ABSENT:
            wrong++;
            break;
        }
    }

    return wrong;
}


/*
 * A worker lives through all there is and is killed at each point, the first
 * time it passes there, the second, and so on until it lives to the end.
 */

static void
test_killed(void)
{
    int               nth;
    size_t            i;
    uint32_t          key;
    ngx_uint_t        deaths, wrong;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    for (i = 0; i < tap_count(points); i++) {
        deaths = 0;
        wrong = 0;

        for (nth = 1; nth < OCCASIONS; nth++) {
            zn = actor_open(SMALL, NGX_IDEM_FULL_EVICT);

            for (key = 0; key < BYSTANDERS; key++) {
                actor_spread(&op, 1000 + key);
                (void) actor_claim(zn, &op);

                if (key % 2) {
                    (void) actor_end(zn, &op, NGX_IDEM_STATE_UNKNOWN);
                }
            }

            if (test_die_at(zn, points[i], nth, test_live) != NGX_OK) {
                actor_close(zn);
                break;
            }

            deaths++;
            wrong += !test_survived(zn, points[i]);
            actor_close(zn);
        }

        tap_ok(deaths && wrong == 0, points[i]);
        printf("# %lu deaths there\n", (unsigned long) deaths);
    }
}


static void
test_killed_repairing(void)
{
    uint32_t          i;
    ngx_idem_op_t     op;
    ngx_idem_zone_t  *zn;

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);

    for (i = 100; i > 20; i--) {
        actor_spread(&op, i * 7 % 100);
        op.lease_ms += 60000 * (i & 1);
        (void) actor_claim(zn, &op);
        ngx_current_msec += 300 + i;
    }

    for (i = 99; i > 40; i -= 2) {
        actor_spread(&op, i);
        (void) actor_renew(zn, &op);
        ngx_current_msec += i;
    }

    actor_spread(&op, 2000);
    (void) actor_claim(zn, &op);
    (void) actor_done(zn, &op, 1, 1000);

    stub_warnings = 0;
    tap_is(test_die_at(zn, "set-all", 1, test_live_full), NGX_OK,
           "one dies in a change");
    tap_is(test_die_at(zn, "rebuild", 1, test_look), NGX_OK,
           "the next one in the repair of it");

    actor_whole(zn, "the third one repairs it");
    tap_is(actor_counted(zn, NGX_IDEM_STAT_REPAIRED), 1, "which is counted");
    tap_is(stub_warnings, 1, "and said");
    tap_ok(test_sorted(zn), "what ends first stands first");

    tap_is(actor_claim(zn, &op), NGX_IDEM_DONE, "what was there is there");
    tap_ok(actor_replayed(&op, 1, 1000), "as it was");

    actor_close(zn);
}


/* Wherever the owner dies at its end, who waits for it is called. */

static void
test_killed_waited_for(void)
{
    size_t              i;
    ngx_uint_t          released, wrong;
    ngx_idem_op_t       first, op;
    ngx_idem_zone_t    *zn, view;
    ngx_idem_worker_t   far;

    for (i = 0; i < 2 * tap_count(points); i++) {
        released = i % 2;
        zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
        view = actor_view(zn, &far, 1);
        test_calls = 0;

        actor_spread(&first, 1);
        (void) actor_claim(&view, &first);

        actor_spread(&op, 1);
        op.max_waiters = 1;
        op.handler = test_called;
        (void) actor_claim(zn, &op);

        stub_worker.dead = 1 << 1;
        stub_worker.woken = 0;

        (void) test_die_at(zn, points[i / 2], 1,
                           released ? test_end_released : test_end_done);

        ngx_idem_zone_tick(&zn->store);
        wrong = (test_calls != 1);
        wrong += (ngx_idem_zone_check(zn) != NULL);

        stub_worker.dead = 0;
        tap_is(wrong, 0, released ? "its waiter, at a release"
                                  : "its waiter, at an end");
        actor_close(zn);
    }

    zn = actor_open(SMALL, NGX_IDEM_FULL_REFUSE);
    actor_spread(&op, 2);
    (void) actor_claim(zn, &op);
    op.max_waiters = 1;
    (void) actor_claim(zn, &op);
    stub_worker.woken = 0;
    (void) test_die_at(zn, "set-true", 1, test_live_full);
    test_look(zn);
    tap_is(stub_worker.woken, 1, "who repairs wakes all who wait");
    zn->store.verbs->cancel(&zn->store, &op);
    actor_close(zn);
}


static void
test_end_done(ngx_idem_zone_t *zn)
{
    ngx_idem_op_t  op;

    actor_spread(&op, 1);
    (void) actor_done(zn, &op, 1, 5000);
}


static void
test_end_released(ngx_idem_zone_t *zn)
{
    ngx_idem_op_t  op;

    actor_spread(&op, 1);
    (void) actor_release(zn, &op);
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


/* The process is to die at one of the places, the n-th time it comes there. */

static void
test_point(const char *name)
{
    if (test_deadly && strcmp(test_deadly, name) == 0 && --test_passes == 0) {
        (void) raise(SIGKILL);
    }
}


/* Everything that changes a zone; see test_touched() for the keys. */

static void
test_live(ngx_idem_zone_t *zn)
{
    uint32_t       key;
    ngx_idem_op_t  op, waiter;

    for (key = 0; key < 6; key++) {
        actor_spread(&op, key);
        (void) actor_claim(zn, &op);

        waiter = op;
        waiter.max_waiters = 9;
        (void) actor_claim(zn, &waiter);
        (void) actor_renew(zn, &op);

        if (key < 3) {
            (void) actor_done(zn, &op, key, 100 + 4000 * key);
            (void) actor_claim(zn, &op);

        } else if (key == 3) {
            (void) actor_release(zn, &op);

        } else if (key == 4) {
            (void) actor_end(zn, &op, NGX_IDEM_STATE_UNKNOWN);
            op.on_unknown = NGX_IDEM_UNKNOWN_RETRY;
            (void) actor_claim(zn, &op);
            op.outcome.ttl_s = 1;
            (void) actor_done(zn, &op, key, 1000);

        } else {
            ngx_current_msec += 2000;
            op.record = NULL;
            op.size = 300;
            op.outcome.state = NGX_IDEM_STATE_DONE;
            (void) zn->store.verbs->complete(&zn->store, &op);
        }
    }

    actor_spread(&op, 6);
    (void) actor_claim(zn, &op);
    test_live_full(zn);
}


static void
test_live_full(ngx_idem_zone_t *zn)
{
    uint32_t       key;
    ngx_idem_op_t  op;

    for (key = 10; key < 14; key++) {
        actor_spread(&op, key);
        (void) actor_claim(zn, &op);
        (void) actor_done(zn, &op, key, 10000 + 5000 * (key % 2));
    }
}


static void
test_look(ngx_idem_zone_t *zn)
{
    (void) actor_snapshot(zn);
}


/* Whole, nobody else's record touched, and those in work one or the other. */

static ngx_uint_t
test_survived(ngx_idem_zone_t *zn, const char *point)
{
    uint32_t       key;
    const char    *wrong;
    ngx_idem_op_t  op;

    stub_worker.dead = 1 << 1;
    wrong = ngx_idem_zone_check(zn);

    for (key = 0; key < BYSTANDERS && wrong == NULL; key++) {
        actor_spread(&op, 1000 + key);

        if (actor_claim(zn, &op)
            != (key % 2 ? NGX_IDEM_UNKNOWN : NGX_IDEM_BUSY))
        {
            wrong = "another record was touched";
        }
    }

    for (key = 0; key < 14 && wrong == NULL; key++) {
        if (!test_touched(zn, key)) {
            wrong = "a record is neither the old one nor the new one";
        }
    }

    if (wrong == NULL) {
        (void) test_fill(zn, 100);
        wrong = ngx_idem_zone_check(zn);
    }

    stub_worker.dead = 0;

    if (wrong) {
        printf("# killed at %s: %s\n", point, wrong);
    }

    return wrong == NULL;
}


static ngx_uint_t
test_touched(ngx_idem_zone_t *zn, uint32_t key)
{
    size_t         size;
    ngx_idem_op_t  op;

    actor_spread(&op, key);
    size = (key < 3) ? 100 + 4000 * key
           : (key == 4) ? 1000
           : 10000 + 5000 * (key % 2);

    switch (actor_claim(zn, &op)) {

    case NGX_IDEM_OWNED:
        return actor_release(zn, &op) == NGX_IDEM_ABSENT;

    case NGX_IDEM_UNKNOWN:
        return 1;

    case NGX_IDEM_UNSTORED:
        return key == 5;

    case NGX_IDEM_DONE:
        return key != 3 && key != 5 && key != 6
               && actor_replayed(&op, key, size);

    case NGX_IDEM_CHECK:
    case NGX_IDEM_BUSY:
    case NGX_IDEM_MISMATCH:
    case NGX_IDEM_FULL:
    case NGX_IDEM_LOST:
    case NGX_IDEM_ABSENT:
        break;
    }

    return 0;
}


/* Records of one size until there is no room; how many are whole. */

static ngx_uint_t
test_fill(ngx_idem_zone_t *zn, size_t size)
{
    uint32_t       i;
    ngx_idem_op_t  op;

    for (i = 0; i < 1000000; i++) {
        actor_spread(&op, i);

        if (actor_claim(zn, &op) != NGX_IDEM_OWNED) {

            if (op.verdict == NGX_IDEM_FULL) {
                break;
            }

            free(op.stored.data);
            continue;
        }

        if (actor_done(zn, &op, i, size) != NGX_IDEM_DONE) {
            break;
        }

        if (zn->full == NGX_IDEM_FULL_EVICT && i == EVICTING) {
            break;
        }
    }

    while (zn->full == NGX_IDEM_FULL_REFUSE && zn->sb->list.nfree) {
        actor_spread(&op, 2000000 + zn->sb->list.nfree);
        (void) actor_claim(zn, &op);
        (void) actor_end(zn, &op, NGX_IDEM_STATE_UNSTORED);
    }

    return i;
}


static void
test_leave_free(ngx_idem_zone_t *zn, uint32_t n)
{
    ngx_idem_op_t  op;

    while (zn->sb->list.nfree > n) {
        actor_spread(&op, 1000 + zn->sb->list.nfree);
        (void) actor_claim(zn, &op);
        (void) actor_end(zn, &op, NGX_IDEM_STATE_UNSTORED);
    }
}


/* So many wait for a key. */

static void
test_park(ngx_idem_zone_t *zn, ngx_idem_op_t *op, uint32_t n, uint32_t key)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        actor_op(&op[i], key);
        op[i].max_waiters = n;
        op[i].handler = test_called;
        (void) actor_claim(zn, &op[i]);
    }
}


/* What a worker does when it is woken: turns until nobody is left. */

static ngx_uint_t
test_turns(ngx_idem_zone_t *zn)
{
    ngx_uint_t  n;

    n = 0;

    do {
        stub_worker.again = 0;
        ngx_idem_zone_tick(&zn->store);
        n++;
    } while (stub_worker.again);

    return n;
}


static void
test_called(ngx_idem_op_t *op)
{
    test_calls++;
}


static void
test_again(ngx_idem_op_t *op)
{
    test_calls++;
    (void) actor_claim(test_zone, op);
}


static void
test_cancel_other(ngx_idem_op_t *op)
{
    test_calls++;
    test_zone->store.verbs->cancel(&test_zone->store, test_other);
}


/* The record of key 1 ends, and there is another one. */

static void
test_replace(void)
{
    ngx_idem_op_t  op;

    ngx_current_msec += ACTOR_TTL_S * 1000;

    actor_op(&op, 1);
    (void) actor_claim(test_zone, &op);
    (void) actor_done(test_zone, &op, 6, 300);
}


static ngx_uint_t
test_sorted(ngx_idem_zone_t *zn)
{
    uint32_t          i;
    uint64_t          end;
    ngx_uint_t        k, sorted;
    ngx_idem_head_t  *h;

    sorted = 1;

    for (k = 0; k < NGX_IDEM_ZONE_QUEUES; k++) {
        end = 0;

        for (i = zn->sb->queues[k].first; i != NGX_IDEM_NIL; i = h->next) {
            h = ngx_idem_zone_head(zn, i);
            sorted &= (h->entry.until_ms >= end);
            end = h->entry.until_ms;
        }
    }

    return sorted;
}
