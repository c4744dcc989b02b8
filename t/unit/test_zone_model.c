
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A million random events on a zone, and on a dictionary that knows nothing
 * of blocks, queues and time that passes in steps: they agree on every answer
 * and every byte.  Then the same in a zone that is too small, which may evict
 * or refuse, but says and counts it.
 */


#include "zone_actor.h"


#define TIMEOUT_S  120
#define EVENTS     700000                       /* with room for all */
#define NARROW     150000                       /* of each kind without */
#define KEYS       300
#define WORKERS    3
#define CHECK      20000                        /* events between checks */


typedef struct {
    ngx_idem_state_e   state;
    uint64_t           until_ms;
    uint64_t           life_ms;                 /* as unknown */
    uint64_t           fence;
    u_char             fingerprint;
    u_char             owner;
    ngx_uint_t         worker;
    ngx_uint_t         seed;
    size_t             size;
} model_t;


static ngx_uint_t test_play(size_t size, ngx_idem_full_e full, uint32_t n);
static ngx_uint_t test_claim(ngx_idem_op_t *op, model_t *m);
static ngx_uint_t test_check(ngx_idem_op_t *op, model_t *m);
static void test_granted(ngx_idem_op_t *op, model_t *m, uint64_t life_ms);
static ngx_uint_t test_content(ngx_idem_op_t *op, model_t *m);
static ngx_uint_t test_complete(ngx_idem_op_t *op, model_t *m);
static ngx_uint_t test_release(ngx_idem_op_t *op, model_t *m);
static ngx_uint_t test_renew(ngx_idem_op_t *op, model_t *m);
static void test_die(void);
static void test_act(ngx_idem_op_t *op, model_t *m);
static void model_pass(model_t *m);
static uint32_t random_below(uint32_t n);


static model_t            models[KEYS];
static ngx_idem_worker_t  workers[WORKERS];
static ngx_idem_zone_t   *zone;
static ngx_uint_t         worker;
static ngx_uint_t         exact;                /* room for all */
static ngx_uint_t         replays;
static uint64_t           fence;
static uint64_t           state = 88172645463325252u;


int
main(void)
{
    (void) alarm(TIMEOUT_S);

    stub_start();

    tap_is(test_play((size_t) 16 << 20, NGX_IDEM_FULL_REFUSE, EVENTS), 0,
           "a zone with room for all is as good as a dictionary");
    tap_ok(replays > EVENTS / 100, "which has been asked for much");
    tap_is(test_play(NGX_IDEM_ZONE_MIN_SIZE, NGX_IDEM_FULL_REFUSE, NARROW), 0,
           "a small one may refuse");
    tap_is(test_play(NGX_IDEM_ZONE_MIN_SIZE, NGX_IDEM_FULL_EVICT, NARROW), 0,
           "or evict");

    return tap_done();
}


static ngx_uint_t
test_play(size_t size, ngx_idem_full_e full, uint32_t n)
{
    uint32_t       key;
    model_t       *m;
    ngx_uint_t     wrong;
    const char    *why;
    ngx_idem_op_t  op;

    zone = actor_open(size, full);
    exact = (size > (size_t) 1 << 20);
    wrong = 0;
    why = NULL;
    fence = 0;

    ngx_memzero(models, sizeof(models));
    ngx_memzero(workers, sizeof(workers));

    for ( /* void */ ; n && why == NULL && wrong == 0; n--) {
        key = random_below(KEYS);
        m = &models[key];
        model_pass(m);

        actor_op(&op, key);
        test_act(&op, m);

        switch (random_below(10)) {

        case 0:
            wrong += test_renew(&op, m);
            break;

        case 1:
            wrong += test_release(&op, m);
            break;

        case 2:
        case 3:
        case 4:
            wrong += test_complete(&op, m);
            break;

        case 5:
            ngx_current_msec += random_below(60);

            if (random_below(100) == 0) {
                test_die();
            }

            break;

        default:
            wrong += test_claim(&op, m);
        }

        if (n % CHECK == 0) {
            why = ngx_idem_zone_check(zone);
        }
    }

    if (why) {
        printf("# %s\n", why);
    }

    printf("# evicted %lu, no room for %lu, expired %lu, leases ended %lu, "
           "orphaned %lu\n",
           (unsigned long) actor_counted(zone, NGX_IDEM_STAT_EVICTED_DONE),
           (unsigned long) actor_counted(zone, NGX_IDEM_STAT_NO_ROOM),
           (unsigned long) actor_counted(zone, NGX_IDEM_STAT_EXPIRED),
           (unsigned long) actor_counted(zone, NGX_IDEM_STAT_LEASE_ENDED),
           (unsigned long) actor_counted(zone, NGX_IDEM_STAT_ORPHANED));

    actor_close(zone);

    return wrong + (why != NULL);
}


/* Who acts, and with what: the one who owns the claim, mostly. */

static void
test_act(ngx_idem_op_t *op, model_t *m)
{
    worker = random_below(WORKERS);
    op->owner[0] = (u_char) random_below(256);

    if (m->state == NGX_IDEM_STATE_RUNNING && random_below(8)) {
        op->owner[0] = m->owner;
        worker = m->worker;
    }

    op->fingerprint[0] = (u_char) (random_below(20) == 0);
    op->lease_ms = 500 + 300 * random_below(3);
    op->unknown_s = 1 + random_below(3);
    op->on_unknown = random_below(3);
    op->known = (random_below(4) == 0);

    op->outcome.ttl_s = random_below(exact ? 6 : 20);

    zone->worker = &workers[worker];
    workers[worker].id.slot = (uint16_t) worker;
}


static ngx_uint_t
test_claim(ngx_idem_op_t *op, model_t *m)
{
    ngx_uint_t  evicted;

    switch (actor_claim(zone, op)) {

    case NGX_IDEM_OWNED:

        if (op->fence <= fence) {
            return 1;
        }

        evicted = !exact && zone->full == NGX_IDEM_FULL_EVICT
                  && (m->state == NGX_IDEM_STATE_DONE
                      || m->state == NGX_IDEM_STATE_UNSTORED);

        if (op->known && m->state != NGX_IDEM_STATE_UNKNOWN) {
            return 1;
        }

        if (m->state != NGX_IDEM_STATE_ABSENT && !evicted
            && (m->state != NGX_IDEM_STATE_UNKNOWN
                || op->on_unknown != NGX_IDEM_UNKNOWN_RETRY))
        {
            return 1;
        }

        test_granted(op, m, (uint64_t) op->unknown_s * 1000);
        return 0;

    case NGX_IDEM_CHECK:
        return test_check(op, m);

    case NGX_IDEM_BUSY:
        return m->state != NGX_IDEM_STATE_RUNNING
               || m->fingerprint != op->fingerprint[0];

    case NGX_IDEM_DONE:
        return test_content(op, m);

    case NGX_IDEM_UNSTORED:
        return m->state != NGX_IDEM_STATE_UNSTORED
               || m->fingerprint != op->fingerprint[0];

    case NGX_IDEM_UNKNOWN:
        return m->state != NGX_IDEM_STATE_UNKNOWN
               || op->on_unknown != NGX_IDEM_UNKNOWN_REFUSE
               || m->fingerprint != op->fingerprint[0];

    case NGX_IDEM_MISMATCH:
        return m->state == NGX_IDEM_STATE_ABSENT
               || m->fingerprint == op->fingerprint[0];

    case NGX_IDEM_FULL:
        return exact;

    case NGX_IDEM_ABSENT:
        evicted = !exact && zone->full == NGX_IDEM_FULL_EVICT
                  && (m->state == NGX_IDEM_STATE_DONE
                      || m->state == NGX_IDEM_STATE_UNSTORED);

        return !op->known
               || (m->state != NGX_IDEM_STATE_ABSENT && !evicted);

    case NGX_IDEM_LOST:
        break;
    }

    return 1;
}


/* Half of those who look into an unknown put it back, others run. */

static ngx_uint_t
test_check(ngx_idem_op_t *op, model_t *m)
{
    uint64_t  left_ms;

    if (op->fence <= fence
        || m->state != NGX_IDEM_STATE_UNKNOWN
        || m->fingerprint != op->fingerprint[0]
        || op->on_unknown != NGX_IDEM_UNKNOWN_CHECK)
    {
        return 1;
    }

    if (random_below(2)) {
        fence = op->fence;
        return zone->store.verbs->complete(&zone->store, op) != NGX_OK
               || op->verdict != NGX_IDEM_UNKNOWN;
    }

    left_ms = m->until_ms - ngx_current_msec;

    test_granted(op, m, (left_ms + 999) / 1000 * 1000);

    return 0;
}


static void
test_granted(ngx_idem_op_t *op, model_t *m, uint64_t life_ms)
{
    fence = op->fence;

    m->state = NGX_IDEM_STATE_RUNNING;
    m->fence = fence;
    m->until_ms = ngx_current_msec + op->lease_ms;
    m->life_ms = life_ms;
    m->fingerprint = op->fingerprint[0];
    m->owner = op->owner[0];
    m->worker = worker;
}


static ngx_uint_t
test_content(ngx_idem_op_t *op, model_t *m)
{
    replays++;

    return m->state != NGX_IDEM_STATE_DONE
           || m->fingerprint != op->fingerprint[0]
           || !actor_replayed(op, m->seed, m->size);
}


static ngx_uint_t
test_complete(ngx_idem_op_t *op, model_t *m)
{
    size_t              size;
    ngx_uint_t          mine, seed;
    ngx_idem_state_e    end;
    ngx_idem_verdict_e  verdict;

    mine = (m->state == NGX_IDEM_STATE_RUNNING && m->owner == op->owner[0]);
    seed = random_below(256);
    size = random_below(random_below(10) ? 600 : 30000);
    end = NGX_IDEM_STATE_DONE;

    switch (random_below(8)) {

    case 0:
        end = NGX_IDEM_STATE_UNSTORED;
        verdict = actor_end(zone, op, end);
        break;

    case 1:
        end = NGX_IDEM_STATE_UNKNOWN;
        verdict = actor_end(zone, op, end);
        break;

    default:
        verdict = actor_done(zone, op, seed, size);

        if (verdict == NGX_IDEM_UNSTORED && !exact) {
            end = NGX_IDEM_STATE_UNSTORED;
        }
    }

    if (!mine) {
        return verdict != NGX_IDEM_LOST;
    }

    m->state = end;
    m->until_ms = ngx_current_msec + (uint64_t) op->outcome.ttl_s * 1000;
    m->seed = seed;
    m->size = size;

    return verdict != (end == NGX_IDEM_STATE_DONE ? NGX_IDEM_DONE
                       : end == NGX_IDEM_STATE_UNSTORED ? NGX_IDEM_UNSTORED
                       : NGX_IDEM_UNKNOWN);
}


static ngx_uint_t
test_release(ngx_idem_op_t *op, model_t *m)
{
    ngx_uint_t  mine;

    mine = (m->state == NGX_IDEM_STATE_RUNNING && m->owner == op->owner[0]);

    if (mine) {
        m->state = NGX_IDEM_STATE_ABSENT;
    }

    return actor_release(zone, op) != (mine ? NGX_IDEM_ABSENT : NGX_IDEM_LOST);
}


static ngx_uint_t
test_renew(ngx_idem_op_t *op, model_t *m)
{
    ngx_uint_t  mine;

    mine = (m->state == NGX_IDEM_STATE_RUNNING && m->owner == op->owner[0]);

    if (mine) {
        m->until_ms = ngx_current_msec + op->lease_ms;
    }

    return actor_renew(zone, op) != (mine ? NGX_IDEM_OWNED : NGX_IDEM_LOST);
}


/* A worker dies, and another one takes its slot and looks at all there is. */

static void
test_die(void)
{
    ngx_uint_t  i, slot;

    slot = random_below(WORKERS);

    for (i = 0; i < KEYS; i++) {
        model_pass(&models[i]);

        if (models[i].state == NGX_IDEM_STATE_RUNNING
            && models[i].worker == slot)
        {
            models[i].state = NGX_IDEM_STATE_UNKNOWN;
            models[i].until_ms = ngx_current_msec + models[i].life_ms;
        }
    }

    worker = (slot + 1) % WORKERS;
    zone->worker = &workers[worker];
    workers[worker].dead = (uint64_t) 1 << slot;

    for (i = 0; i < 2 * KEYS / NGX_IDEM_ZONE_MANY + 2; i++) {
        zone->swept = 0;
        ngx_idem_zone_tick(&zone->store);
    }

    workers[worker].dead = 0;
    workers[slot].id.epoch++;
}


static void
model_pass(model_t *m)
{
    if (m->state == NGX_IDEM_STATE_RUNNING
        && m->until_ms <= ngx_current_msec)
    {
        m->state = NGX_IDEM_STATE_UNKNOWN;
        m->until_ms += m->life_ms;
    }

    if (m->until_ms <= ngx_current_msec) {
        m->state = NGX_IDEM_STATE_ABSENT;
    }
}


static uint32_t
random_below(uint32_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;

    return (uint32_t) (state >> 32) % n;
}
