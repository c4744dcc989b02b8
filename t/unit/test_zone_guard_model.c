
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Random requests on a few resources, over three workers that die now and
 * then: the zone and a dictionary agree on who holds what, who is next, who is
 * called and what is known.  Then the same in a zone that is nearly full.
 */


#include "zone_actor.h"


#define TIMEOUT_S  120
#define EVENTS     100000
#define KEYS       8
#define WORKERS    3
#define REQUESTS   90
#define QUEUE      REQUESTS
#define CHECK      500                          /* events between checks */


/* A request: its op, and what it believes. */

typedef enum {
    IDLE = 0,
    WAITS,
    HOLDS
} request_state_e;

typedef struct {
    ngx_idem_op_t      op;
    request_state_e    state;
    uint32_t           key;
    ngx_uint_t         worker;
    uint32_t           id;
    u_char             mine[8];                 /* what it is about to do */
    ngx_uint_t         calls;
} request_t;


/* In the queue; its request may be dead. */

typedef struct {
    uint32_t           id;
    ngx_uint_t         worker;
    ngx_uint_t         epoch;
    uint64_t           lease_ms;
} seat_t;


/* A guard by the book; texts of 8 bytes, or none. */

typedef struct {
    uint32_t           holder;                  /* 0: nobody */
    ngx_uint_t         worker;
    ngx_uint_t         epoch;
    uint64_t           until_ms;
    uint64_t           ttl_s;
    ngx_uint_t         there;
    ngx_uint_t         foreign;
    ngx_str_t          value;
    ngx_str_t          pending;
    u_char             texts[2][8];
    seat_t             queue[QUEUE];
    ngx_uint_t         n;
} model_t;


static ngx_uint_t test_play(size_t size);
static void test_event(request_t *rq);
static void test_hold(request_t *rq);
static void test_held(request_t *rq, model_t *m);
static void test_mark(request_t *rq);
static void test_leave(request_t *rq);
static void test_cancel(request_t *rq);
static void test_renew(request_t *rq);
static void test_called(ngx_idem_op_t *op);
static void test_ticks(void);
static void test_die(void);
static void model_pass(void);
static void model_end(model_t *m, uint64_t from_ms);
static void model_orphan(model_t *m);
static void model_set(model_t *m, ngx_uint_t i, const ngx_str_t *s);
static ngx_uint_t model_place(model_t *m, uint32_t id);
static request_t *request_of(uint32_t id);
static void text(ngx_str_t *s, u_char *bytes);
static void test_wrong(const char *why);
static uint32_t random_below(uint32_t n);


static model_t            models[KEYS];
static request_t          requests[REQUESTS];
static ngx_idem_zone_t   *zone, views[WORKERS];
static ngx_idem_worker_t  workers[WORKERS];
static uint32_t           ids;
static ngx_uint_t         exact;                /* room for all */
static ngx_uint_t         given, checks, calls, wrong;
static uint64_t           state = 88172645463325252u;


int
main(void)
{
    (void) alarm(TIMEOUT_S);

    stub_start();

    tap_is(test_play((size_t) 1 << 20), 0, "a guard is as good as a book");
    tap_ok(given > EVENTS / 50, "which was given on often");
    tap_ok(checks > EVENTS / 200, "sometimes with a doubt");
    tap_is(test_play(NGX_IDEM_ZONE_MIN_SIZE), 0, "also without room");

    return tap_done();
}


static ngx_uint_t
test_play(size_t size)
{
    uint32_t       i, n;
    const char    *why;
    ngx_idem_op_t  op;

    zone = actor_open(size, NGX_IDEM_FULL_REFUSE);
    exact = (size > NGX_IDEM_ZONE_MIN_SIZE);
    why = NULL;
    given = checks = calls = wrong = 0;

    ngx_memzero(models, sizeof(models));
    ngx_memzero(requests, sizeof(requests));

    for (i = 0; i < WORKERS; i++) {
        views[i] = actor_view(zone, &workers[i], i);
        ngx_idem_waiter_init(&views[i].waiters);
    }

    while (!exact && zone->sb->list.nfree > 30) {
        actor_spread(&op, zone->sb->list.nfree);
        op.lease_ms = (ngx_msec_t) 1 << 40;
        op.owner[0] = 255;
        (void) actor_claim(zone, &op);
    }

    for (n = 0; n < EVENTS && why == NULL && wrong == 0; n++) {
        ngx_current_msec += random_below(8);

        model_pass();
        test_ticks();
        test_event(&requests[random_below(REQUESTS)]);

        if (random_below(2000) == 0) {
            test_die();
        }

        if (n % CHECK == 0) {
            why = ngx_idem_zone_check(zone);
        }
    }

    if (why) {
        printf("# %s\n", why);
    }

    printf("# %lu given on, %lu with a doubt, %lu called\n",
           (unsigned long) given, (unsigned long) checks,
           (unsigned long) calls);

    actor_close(zone);

    return wrong + (why != NULL);
}


static void
test_event(request_t *rq)
{
    switch (rq->state) {

    case IDLE:
        ngx_memzero(rq, sizeof(request_t));
        rq->id = ++ids;
        rq->key = random_below(KEYS);
        rq->worker = random_below(WORKERS);

        actor_op(&rq->op, rq->key);
        ngx_memcpy(rq->op.owner, &rq->id, 4);
        rq->op.lease_ms = 300 + 200 * random_below(3);
        rq->op.unknown_s = 1 + random_below(2);
        rq->op.max_waiters = 3 * random_below(5);
        rq->op.handler = test_called;
        rq->op.data = rq;

        text(&rq->op.pending, rq->mine);
        test_hold(rq);
        break;

    case WAITS:

        if (random_below(8) == 0) {
            test_cancel(rq);
        }

        break;

    case HOLDS:

        switch (random_below(5)) {

        case 0:
            test_mark(rq);
            break;

        case 1:
            test_renew(rq);
            break;

        case 2:
            test_hold(rq);
            break;

        default:
            test_leave(rq);
        }
    }
}


static void
test_hold(request_t *rq)
{
    model_t             *m;
    ngx_uint_t           place;
    ngx_idem_zone_t     *zn;
    ngx_idem_verdict_e   v;

    zn = &views[rq->worker];
    m = &models[rq->key];
    place = model_place(m, rq->id);

    if (rq->state != HOLDS || !m->foreign) {
        rq->op.pending.data = rq->mine;
    }

    if (zn->store.verbs->hold(&zn->store, &rq->op) != NGX_OK) {
        test_wrong("hold failed");
        return;
    }

    v = rq->op.verdict;

    if (v == NGX_IDEM_FULL && !exact && m->holder == 0) {
        rq->state = IDLE;
        return;
    }

    if (m->holder && m->holder != rq->id) {

        if (v != NGX_IDEM_BUSY) {
            test_wrong("held by another");
        }

        if (place == m->n && m->n < rq->op.max_waiters
            && (exact || rq->op.parked))
        {
            place = m->n++;
            m->queue[place].id = rq->id;
            m->queue[place].worker = rq->worker;
            m->queue[place].epoch = workers[rq->worker].id.epoch;
            m->queue[place].lease_ms = rq->op.lease_ms;
        }

        if (rq->op.parked != (rq->op.max_waiters && place < m->n)) {
            test_wrong("parked or not");
        }

        rq->state = rq->op.parked ? WAITS : IDLE;
        return;
    }

    test_held(rq, m);
}


static void
test_held(request_t *rq, model_t *m)
{
    uint64_t        left_s;
    ngx_str_t       mine;
    ngx_idem_op_t  *op;

    op = &rq->op;

    if (m->holder == 0) {
        left_s = m->there ? (m->until_ms - ngx_current_msec + 999) / 1000 : 0;

        m->holder = rq->id;
        m->foreign = (m->pending.len != 0);
        m->ttl_s = left_s;
        m->there = 1;
    }

    m->worker = rq->worker;
    m->epoch = workers[rq->worker].id.epoch;
    m->until_ms = ngx_current_msec + op->lease_ms;
    m->ttl_s = ngx_max(m->ttl_s, op->unknown_s);

    if (op->verdict != (m->foreign ? NGX_IDEM_CHECK : NGX_IDEM_OWNED)) {
        test_wrong("mine, but not as it should be");
    }

    if (op->value.len != m->value.len
        || (m->value.len
            && ngx_memcmp(op->value.data, m->texts[0], m->value.len) != 0))
    {
        test_wrong("another value");
    }

    if (!m->foreign) {
        mine.data = rq->mine;
        mine.len = op->pending.len;
        model_set(m, 1, &mine);

    } else if (op->pending.len != m->pending.len
               || ngx_memcmp(op->pending.data, m->texts[1], m->pending.len)
                  != 0)
    {
        test_wrong("another one is pending");
    }

    checks += m->foreign;
    rq->state = HOLDS;
}


static void
test_mark(request_t *rq)
{
    u_char            value[8];
    model_t          *m;
    ngx_uint_t        mine;
    ngx_idem_zone_t  *zn;

    zn = &views[rq->worker];
    m = &models[rq->key];
    mine = (m->holder == rq->id);

    text(&rq->op.value, value);
    text(&rq->op.pending, rq->mine);
    (void) zn->store.verbs->mark(&zn->store, &rq->op);

    if (rq->op.verdict != (mine ? NGX_IDEM_OWNED : NGX_IDEM_LOST)) {
        test_wrong("marked or not");
    }

    if (mine) {
        m->foreign = 0;
        model_set(m, 0, &rq->op.value);
        model_set(m, 1, &rq->op.pending);

    } else {
        rq->state = IDLE;
    }
}


static void
test_leave(request_t *rq)
{
    u_char            value[8];
    model_t          *m;
    ngx_uint_t        mine;
    ngx_idem_zone_t  *zn;

    zn = &views[rq->worker];
    m = &models[rq->key];
    mine = (m->holder == rq->id);

    text(&rq->op.value, value);
    text(&rq->op.pending, rq->mine);

    if (random_below(2)) {
        rq->op.pending.len = 0;
    }

    rq->op.outcome.ttl_s = random_below(4);
    (void) zn->store.verbs->leave(&zn->store, &rq->op);

    if (rq->op.verdict != (mine ? NGX_IDEM_ABSENT : NGX_IDEM_LOST)) {
        test_wrong("left or not");
    }

    if (mine) {
        model_set(m, 0, &rq->op.value);
        model_set(m, 1, &rq->op.pending);
        m->ttl_s = rq->op.outcome.ttl_s;
        model_end(m, ngx_current_msec);
    }

    rq->state = IDLE;
}


static void
test_cancel(request_t *rq)
{
    model_t          *m;
    ngx_uint_t        place;
    ngx_idem_zone_t  *zn;

    zn = &views[rq->worker];
    m = &models[rq->key];

    zn->store.verbs->cancel(&zn->store, &rq->op);

    place = model_place(m, rq->id);

    if (place < m->n) {
        m->n--;
        ngx_memmove(&m->queue[place], &m->queue[place + 1],
                    (m->n - place) * sizeof(seat_t));

    } else if (m->holder == rq->id) {
        model_end(m, ngx_current_msec);
    }

    rq->state = IDLE;
}


static void
test_renew(request_t *rq)
{
    model_t     *m;
    ngx_uint_t   mine;

    m = &models[rq->key];
    mine = (m->holder == rq->id);

    if (actor_renew(&views[rq->worker], &rq->op)
        != (mine ? NGX_IDEM_OWNED : NGX_IDEM_LOST))
    {
        test_wrong("renewed or not");
    }

    if (mine) {
        m->until_ms = ngx_current_msec + rq->op.lease_ms;

    } else {
        rq->state = IDLE;
    }
}


/* Who is called holds it by the book, or has lost its place. */

static void
test_called(ngx_idem_op_t *op)
{
    model_t    *m;
    request_t  *rq;

    rq = op->data;
    m = &models[rq->key];
    calls++;

    if (rq->state != WAITS) {
        test_wrong("called for nothing");
        return;
    }

    /* once in vain may be, after somebody else has lost its turn */

    if (m->holder != rq->id && model_place(m, rq->id) < m->n
        && rq->calls++ > 20)
    {
        test_wrong("called in vain");
    }

    test_hold(rq);
}


static void
test_ticks(void)
{
    uint32_t    i;
    ngx_uint_t  k;

    for (i = 0; i < WORKERS; i++) {
        for (k = 0; k < 2; k++) {
            ngx_idem_zone_tick(&views[i].store);
        }
    }

    /* nobody who holds it still waits to be told */

    for (i = 0; i < KEYS; i++) {
        if (models[i].holder && request_of(models[i].holder)
            && request_of(models[i].holder)->state != HOLDS)
        {
            test_wrong("who holds it was not called");
        }
    }
}


/*
 * What it held goes on to others, and another one takes its slot.  Of those
 * who died there before, some may be in a queue still.
 */

static void
test_die(void)
{
    uint32_t          i, slot;
    ngx_idem_zone_t  *zn;

    slot = random_below(WORKERS);

    for (i = 0; i < KEYS; i++) {
        while (models[i].holder && models[i].worker == slot) {
            model_orphan(&models[i]);
        }
    }

    for (i = 0; i < REQUESTS; i++) {
        if (requests[i].worker == slot) {

            if (requests[i].state == WAITS) {
                ngx_idem_waiter_leave(&views[slot].waiters, &requests[i].op);
            }

            requests[i].state = IDLE;
            requests[i].id = 0;
        }
    }

    zn = &views[(slot + 1) % WORKERS];
    zn->worker->dead = (uint64_t) 1 << slot;

    for (i = 0; i < REQUESTS; i++) {
        zn->swept = 0;
        ngx_idem_zone_sweep(zn);
    }

    zn->worker->dead = 0;

    workers[slot].id.epoch++;
}


static void
model_pass(void)
{
    uint32_t   i;
    model_t   *m;

    for (i = 0; i < KEYS; i++) {
        m = &models[i];

        if (m->holder && m->until_ms <= ngx_current_msec) {
            model_end(m, m->until_ms);
        }

        if (m->holder == 0 && m->until_ms <= ngx_current_msec) {
            m->there = 0;
            m->value.len = m->pending.len = 0;
        }
    }
}


static void
model_end(model_t *m, uint64_t from_ms)
{
    seat_t  first;

    if (m->n == 0) {
        m->holder = 0;
        m->until_ms = from_ms + m->ttl_s * 1000;

        if (m->until_ms <= ngx_current_msec
            || m->value.len + m->pending.len == 0)
        {
            m->there = 0;
            m->value.len = m->pending.len = 0;
        }

        return;
    }

    first = m->queue[0];
    m->n--;
    ngx_memmove(&m->queue[0], &m->queue[1], m->n * sizeof(seat_t));

    m->holder = first.id;
    m->foreign = (m->pending.len != 0);
    m->worker = first.worker;
    m->epoch = first.epoch;
    m->until_ms = ngx_current_msec + first.lease_ms;
    given++;
}


/* Whoever waits in the same worker is dead as well. */

static void
model_orphan(model_t *m)
{
    ngx_uint_t  k, n;

    for (k = 0, n = 0; k < m->n; k++) {
        if (m->queue[k].worker != m->worker || m->queue[k].epoch != m->epoch) {
            m->queue[n++] = m->queue[k];
        }
    }

    m->n = n;
    model_end(m, ngx_current_msec);
}


static void
model_set(model_t *m, ngx_uint_t i, const ngx_str_t *s)
{
    ngx_str_t  *dst;

    dst = i ? &m->pending : &m->value;
    dst->len = s->len;

    ngx_memcpy(m->texts[i], s->data, s->len);
}


static ngx_uint_t
model_place(model_t *m, uint32_t id)
{
    ngx_uint_t  i;

    for (i = 0; i < m->n && m->queue[i].id != id; i++) { /* void */ }

    return i;
}


static request_t *
request_of(uint32_t id)
{
    ngx_uint_t  i;

    for (i = 0; i < REQUESTS; i++) {
        if (requests[i].id == id && requests[i].state != IDLE) {
            return &requests[i];
        }
    }

    return NULL;
}


/* Eight bytes, or none. */

static void
text(ngx_str_t *s, u_char *bytes)
{
    uint32_t  i;

    for (i = 0; i < 8; i++) {
        bytes[i] = (u_char) random_below(256);
    }

    s->data = bytes;
    s->len = random_below(3) ? 8 : 0;
}


static void
test_wrong(const char *why)
{
    if (wrong++ == 0) {
        printf("# %s\n", why);
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
