
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * One claim runs at a time, only its owner may say how it ended, and a claim
 * whose owner is gone is never taken for one that did not happen.
 *
 * The table is the one on top of ngx_idem_lease.h, cell by cell.
 */


#include "core/ngx_idem_lease.h"
#include "tap.h"


#define NOW        UINT64_C(5000000)
#define LEASE_MS   60000
#define UNKNOWN_S  7200
#define DONE_S     3600
#define LEFT_MS    1000

#define NSTATES    5

#define A          NGX_IDEM_STATE_ABSENT
#define R          NGX_IDEM_STATE_RUNNING
#define D          NGX_IDEM_STATE_DONE
#define S          NGX_IDEM_STATE_UNSTORED
#define U          NGX_IDEM_STATE_UNKNOWN

#define OWNED      NGX_IDEM_OWNED
#define CHECK      NGX_IDEM_CHECK
#define BUSY       NGX_IDEM_BUSY
#define DONE       NGX_IDEM_DONE
#define UNSTORED   NGX_IDEM_UNSTORED
#define UNKNOWN    NGX_IDEM_UNKNOWN
#define MISMATCH   NGX_IDEM_MISMATCH
#define LOST       NGX_IDEM_LOST
#define ABSENT     NGX_IDEM_ABSENT

/* an event that is not answered */
#define NONE       99


typedef enum {
    CLAIM = 0,
    CLAIM_OTHER,
    CLAIM_RETRY,
    CLAIM_RETRY_OTHER,
    CLAIM_CHECK,
    CLAIM_CHECK_OTHER,
    CLAIM_KNOWN,
    CLAIM_KNOWN_OTHER,
    CLAIM_KNOWN_RETRY,
    RENEW,
    RENEW_OTHER,
    RENEW_ZERO,
    COMPLETE_DONE,
    COMPLETE_UNSTORED,
    COMPLETE_UNKNOWN,
    COMPLETE_OTHER,
    RELEASE,
    RELEASE_OTHER,
    ORPHAN,
    EARLY,
    PASSES
} test_event_e;


typedef struct {
    ngx_idem_state_e    state;
    int                 verdict;
} test_cell_t;


typedef struct {
    test_event_e        event;
    const char         *why;
    test_cell_t         cells[NSTATES];
} test_row_t;


static void test_table(void);
static void test_cell(const test_row_t *row, ngx_idem_state_e from);
static int test_play(test_event_e event, ngx_idem_entry_t *en);
static int test_claim(test_event_e event, ngx_idem_entry_t *en);
static void test_grant(void);
static void test_outcome(void);
static void test_check(void);
static void test_lease_end(void);
static void test_late(void);
static void test_orphan(void);
static void test_lives(void);
static void test_clock_end(void);
static void test_age(void);
static void test_damaged(void);
static ngx_idem_entry_t test_entry(ngx_idem_state_e state);
static int test_zero(const void *p, size_t len);


static const uint8_t  fp1[NGX_IDEM_DIGEST_LEN] = { 1, 2, 3 };
static const uint8_t  fp2[NGX_IDEM_DIGEST_LEN] = { 1, 2, 3, [31] = 1 };
static const uint8_t  own1[NGX_IDEM_OWNER_LEN] = { 7, 7 };
static const uint8_t  own2[NGX_IDEM_OWNER_LEN] = { 7, 7, [15] = 1 };
static const uint8_t  own0[NGX_IDEM_OWNER_LEN];


static const ngx_idem_claimant_t  claimant = {
    fp1, own2, 42, LEASE_MS, UNKNOWN_S, NGX_IDEM_UNKNOWN_REFUSE, 0
};


static const char  *names[NSTATES] = {
    "absent", "running", "done", "unstored", "unknown"
};


static const test_row_t  table[] = {
    { CLAIM, "claim",
      { { R, OWNED }, { R, BUSY }, { D, DONE }, { S, UNSTORED },
        { U, UNKNOWN } } },
    { CLAIM_OTHER, "claim with another fingerprint",
      { { R, OWNED }, { R, MISMATCH }, { D, MISMATCH }, { S, MISMATCH },
        { U, MISMATCH } } },
    { CLAIM_RETRY, "claim that may retry",
      { { R, OWNED }, { R, BUSY }, { D, DONE }, { S, UNSTORED },
        { R, OWNED } } },
    { CLAIM_RETRY_OTHER, "claim that may retry, another fingerprint",
      { { R, OWNED }, { R, MISMATCH }, { D, MISMATCH }, { S, MISMATCH },
        { U, MISMATCH } } },
    { CLAIM_CHECK, "claim that looks into an unknown",
      { { R, OWNED }, { R, BUSY }, { D, DONE }, { S, UNSTORED },
        { R, CHECK } } },
    { CLAIM_CHECK_OTHER, "claim that would, another fingerprint",
      { { R, OWNED }, { R, MISMATCH }, { D, MISMATCH }, { S, MISMATCH },
        { U, MISMATCH } } },
    { CLAIM_KNOWN, "claim that may not be the first",
      { { A, ABSENT }, { R, BUSY }, { D, DONE }, { S, UNSTORED },
        { U, UNKNOWN } } },
    { CLAIM_KNOWN_OTHER, "claim that may not be, another fingerprint",
      { { A, ABSENT }, { R, MISMATCH }, { D, MISMATCH }, { S, MISMATCH },
        { U, MISMATCH } } },
    { CLAIM_KNOWN_RETRY, "claim that may not be, but may retry",
      { { A, ABSENT }, { R, BUSY }, { D, DONE }, { S, UNSTORED },
        { R, OWNED } } },
    { RENEW, "renew",
      { { A, LOST }, { R, OWNED }, { D, LOST }, { S, LOST }, { U, LOST } } },
    { RENEW_OTHER, "renew by another owner",
      { { A, LOST }, { R, LOST }, { D, LOST }, { S, LOST }, { U, LOST } } },
    { RENEW_ZERO, "renew by an owner of zeros",
      { { A, LOST }, { R, LOST }, { D, LOST }, { S, LOST }, { U, LOST } } },
    { COMPLETE_DONE, "complete as done",
      { { A, LOST }, { D, DONE }, { D, LOST }, { S, LOST }, { U, LOST } } },
    { COMPLETE_UNSTORED, "complete as unstored",
      { { A, LOST }, { S, UNSTORED }, { D, LOST }, { S, LOST },
        { U, LOST } } },
    { COMPLETE_UNKNOWN, "complete as unknown",
      { { A, LOST }, { U, UNKNOWN }, { D, LOST }, { S, LOST },
        { U, LOST } } },
    { COMPLETE_OTHER, "complete by another owner",
      { { A, LOST }, { R, LOST }, { D, LOST }, { S, LOST }, { U, LOST } } },
    { RELEASE, "release",
      { { A, LOST }, { A, ABSENT }, { D, LOST }, { S, LOST },
        { U, LOST } } },
    { RELEASE_OTHER, "release by another owner",
      { { A, LOST }, { R, LOST }, { D, LOST }, { S, LOST }, { U, LOST } } },
    { ORPHAN, "orphan",
      { { A, NONE }, { U, NONE }, { D, NONE }, { S, NONE }, { U, NONE } } },
    { EARLY, "the millisecond before until",
      { { A, NONE }, { R, NONE }, { D, NONE }, { S, NONE }, { U, NONE } } },
    { PASSES, "until passes",
      { { A, NONE }, { U, NONE }, { A, NONE }, { A, NONE }, { A, NONE } } }
};


int
main(void)
{
    tap_is(sizeof(ngx_idem_entry_t), 72, "an entry takes 72 bytes");

    test_table();
    test_grant();
    test_outcome();
    test_check();
    test_lease_end();
    test_late();
    test_orphan();
    test_lives();
    test_clock_end();
    test_age();
    test_damaged();

    return tap_done();
}


static void
test_table(void)
{
    int     from;
    size_t  i;

    for (i = 0; i < tap_count(table); i++) {

        for (from = 0; from < NSTATES; from++) {
            test_cell(&table[i], (ngx_idem_state_e) from);
        }
    }
}


static void
test_cell(const test_row_t *row, ngx_idem_state_e from)
{
    int                 same, verdict;
    char                why[128];
    ngx_idem_entry_t    before, en;
    const test_cell_t  *cell;

    cell = &row->cells[from];
    before = test_entry(from);
    en = before;

    verdict = test_play(row->event, &en);
    same = memcmp(&en, &before, sizeof(en)) == 0;

    snprintf(why, sizeof(why), "%s: %s", names[from], row->why);

    if (tap_ok(verdict == cell->verdict && en.state == cell->state, why)) {
        snprintf(why, sizeof(why), "%s: %s %s", names[from], row->why,
                 "changes no more than it should");

        tap_ok(same == (en.state == from && verdict != OWNED)
               && (en.state != A || test_zero(&en, sizeof(en)))
               && (en.state == R) != test_zero(en.owner, sizeof(en.owner)),
               why);
        return;
    }

    printf("# state %d, verdict %d\n", en.state, verdict);
}


static int
test_play(test_event_e event, ngx_idem_entry_t *en)
{
    ngx_idem_outcome_t  oc = { D, DONE_S, 201, 0, 0 };

    switch (event) {

    case CLAIM:
    case CLAIM_OTHER:
    case CLAIM_RETRY:
    case CLAIM_RETRY_OTHER:
    case CLAIM_CHECK:
    case CLAIM_CHECK_OTHER:
    case CLAIM_KNOWN:
    case CLAIM_KNOWN_OTHER:
    case CLAIM_KNOWN_RETRY:
        return test_claim(event, en);

    case RENEW:
        return (int) ngx_idem_lease_renew(en, own1, LEASE_MS, NOW);

    case RENEW_OTHER:
        return (int) ngx_idem_lease_renew(en, own2, LEASE_MS, NOW);

    case RENEW_ZERO:
        return (int) ngx_idem_lease_renew(en, own0, LEASE_MS, NOW);

    case COMPLETE_DONE:
        return (int) ngx_idem_lease_complete(en, own1, &oc, NOW);

    case COMPLETE_UNSTORED:
        oc.state = S;
        return (int) ngx_idem_lease_complete(en, own1, &oc, NOW);

    case COMPLETE_UNKNOWN:
        oc.state = U;
        return (int) ngx_idem_lease_complete(en, own1, &oc, NOW);

    case COMPLETE_OTHER:
        return (int) ngx_idem_lease_complete(en, own2, &oc, NOW);

    case RELEASE:
        return (int) ngx_idem_lease_release(en, own1, NOW);

    case RELEASE_OTHER:
        return (int) ngx_idem_lease_release(en, own2, NOW);

    case ORPHAN:
        ngx_idem_lease_orphan(en, NOW);
        return NONE;

    case EARLY:
        ngx_idem_lease_expire(en, NOW + LEFT_MS - 1);
        return NONE;

    case PASSES:
        ngx_idem_lease_expire(en, NOW + LEFT_MS);
        return NONE;
    }

    return -1;
}


static int
test_claim(test_event_e event, ngx_idem_entry_t *en)
{
    ngx_idem_claimant_t  cl = claimant;

    if (event == CLAIM_OTHER || event == CLAIM_RETRY_OTHER
        || event == CLAIM_CHECK_OTHER || event == CLAIM_KNOWN_OTHER)
    {
        cl.fingerprint = fp2;
    }

    if (event == CLAIM_RETRY || event == CLAIM_RETRY_OTHER
        || event == CLAIM_KNOWN_RETRY)
    {
        cl.on_unknown = NGX_IDEM_UNKNOWN_RETRY;
    }

    if (event == CLAIM_CHECK || event == CLAIM_CHECK_OTHER) {
        cl.on_unknown = NGX_IDEM_UNKNOWN_CHECK;
    }

    cl.known = (event >= CLAIM_KNOWN && event <= CLAIM_KNOWN_RETRY);

    return (int) ngx_idem_lease_claim(en, &cl, NOW);
}


static void
test_grant(void)
{
    ngx_idem_entry_t     en;
    ngx_idem_claimant_t  cl = claimant;

    en = test_entry(A);
    ngx_idem_lease_claim(&en, &cl, NOW);

    tap_is_bytes(en.fingerprint, sizeof(en.fingerprint), fp1, sizeof(fp1),
                 "a granted claim holds its fingerprint");
    tap_is_bytes(en.owner, sizeof(en.owner), own2, sizeof(own2),
                 "its owner");
    tap_is(en.fence, 42, "its fence");
    tap_is(en.until_ms, NOW + LEASE_MS, "the end of its lease");
    tap_is(en.ttl_s, UNKNOWN_S, "its life as unknown");
    tap_ok(en.status == 0 && en.dry == 0, "and no answer");

    en = test_entry(U);
    en.status = 502;
    en.dry = 1;
    cl.on_unknown = NGX_IDEM_UNKNOWN_RETRY;
    ngx_idem_lease_claim(&en, &cl, NOW);

    tap_ok(en.fence == 42 && memcmp(en.owner, own2, sizeof(own2)) == 0,
           "a retry has its own fence and owner");
    tap_ok(en.until_ms == NOW + LEASE_MS && en.ttl_s == UNKNOWN_S,
           "and its own times");
    tap_ok(en.status == 0 && en.dry == 0,
           "and nothing of the answer before it");

    en = test_entry(R);
    tap_is(ngx_idem_lease_renew(&en, own1, LEASE_MS, NOW), OWNED,
           "a renewal is granted");
    tap_is(en.until_ms, NOW + LEASE_MS, "the lease ends a lease from now");
    tap_ok(en.fence == 41 && en.ttl_s == UNKNOWN_S,
           "fence and life as unknown stay");
}


static void
test_outcome(void)
{
    ngx_idem_entry_t    en;
    ngx_idem_outcome_t  oc = { S, DONE_S, 201, 1, 0 };

    en = test_entry(R);
    ngx_idem_lease_complete(&en, own1, &oc, NOW);

    tap_is(en.status, 201, "a completed record has the status");
    tap_is(en.dry, 1, "the mark of a dry run");
    tap_is(en.ttl_s, DONE_S, "the life given");
    tap_is(en.until_ms, NOW + DONE_S * 1000, "which counts from now");
    tap_is(en.fence, 41, "and the fence it had");
    tap_is_bytes(en.fingerprint, sizeof(en.fingerprint), fp1, sizeof(fp1),
                 "and the fingerprint");

    en = test_entry(D);
    ngx_idem_lease_claim(&en, &claimant, NOW);
    tap_is(en.until_ms, NOW + LEFT_MS, "a replay does not make it live on");
}


/* Looking into an unknown takes nothing from its life and adds nothing. */

static void
test_check(void)
{
    uint64_t             end, later;
    ngx_idem_entry_t     en, unknown;
    ngx_idem_outcome_t   oc;
    ngx_idem_claimant_t  cl = claimant;

    cl.on_unknown = NGX_IDEM_UNKNOWN_CHECK;
    later = NOW + 5000;

    unknown = test_entry(U);
    unknown.until_ms = NOW + 90001;
    unknown.status = 502;
    oc = ngx_idem_lease_outcome(&unknown);

    en = unknown;
    ngx_idem_lease_claim(&en, &cl, NOW);

    tap_ok(en.fence == 42 && memcmp(en.owner, own2, sizeof(own2)) == 0,
           "who looks has a fence and an owner's proof");
    tap_is(en.until_ms, NOW + LEASE_MS, "and a lease");
    tap_is(en.dry, 1, "and the mark of one who looks");
    tap_is(en.ttl_s, 91, "whose life as unknown is what was left");

    tap_is(ngx_idem_lease_complete(&en, own2, &oc, later), UNKNOWN,
           "it may be put back");
    tap_ok(en.state == U && en.until_ms == unknown.until_ms,
           "with the end that it had");
    tap_ok(en.ttl_s == unknown.ttl_s && en.status == 502,
           "and the life, and the status");
    tap_is(ngx_idem_lease_age_ms(&en, later),
           ngx_idem_lease_age_ms(&unknown, later), "so it has its age");

    en = unknown;
    ngx_idem_lease_claim(&en, &cl, NOW);
    ngx_idem_lease_orphan(&en, later);
    tap_ok(en.state == U && en.dry == 0, "a dead one looks no more");

    en = unknown;
    ngx_idem_lease_claim(&en, &cl, NOW);
    ngx_idem_lease_expire(&en, NOW + LEASE_MS);
    tap_ok(en.state == U && en.dry == 0, "nor one whose lease is over");

    en = unknown;
    ngx_idem_lease_claim(&en, &cl, NOW);
    tap_is(ngx_idem_lease_complete(&en, own2, &oc, NOW + LEASE_MS - 1),
           UNKNOWN, "at the end of its time, too");

    en = unknown;
    en.until_ms = NOW + 1000;
    oc = ngx_idem_lease_outcome(&en);
    ngx_idem_lease_claim(&en, &cl, NOW);
    tap_is(ngx_idem_lease_complete(&en, own2, &oc, later), UNKNOWN,
           "or when that is over");
    tap_is(ngx_idem_lease_expire(&en, later), A, "it is absent then");

    en = unknown;
    ngx_idem_lease_claim(&en, &cl, NOW);
    end = NOW + LEASE_MS;
    tap_is(ngx_idem_lease_expire(&en, end), U, "a lease that ends is unknown");
    tap_is(en.until_ms, end + 91000, "for what was left");
    tap_is(ngx_idem_lease_complete(&en, own2, &oc, end), LOST,
           "and then is not to be put back");

    en = unknown;
    ngx_idem_lease_claim(&en, &cl, NOW);
    ngx_idem_lease_orphan(&en, later);
    tap_is(en.until_ms, later + 91000, "so is an orphan");
}


static void
test_lease_end(void)
{
    uint64_t            end;
    ngx_idem_entry_t    en;

    end = NOW + LEFT_MS;

    en = test_entry(R);
    tap_is(ngx_idem_lease_expire(&en, end), U, "a lease that ends is unknown");
    tap_is(en.until_ms, end + UNKNOWN_S * 1000,
           "for its life from the end of the lease");

    en = test_entry(R);
    ngx_idem_lease_expire(&en, end + 5000);
    tap_is(en.until_ms, end + UNKNOWN_S * 1000,
           "also if it was noticed later");

    en = test_entry(R);
    tap_is(ngx_idem_lease_expire(&en, end + UNKNOWN_S * 1000 - 1), U,
           "still unknown in the last millisecond");

    en = test_entry(R);
    tap_is(ngx_idem_lease_expire(&en, end + UNKNOWN_S * 1000), A,
           "absent if nobody looked until its life was over");
    tap_ok(test_zero(&en, sizeof(en)), "and zeroed");

    en = test_entry(R);
    tap_is(ngx_idem_lease_claim(&en, &claimant, end + UNKNOWN_S * 1000),
           OWNED, "and free for the next claim");
}


static void
test_late(void)
{
    uint64_t            end;
    ngx_idem_entry_t    en;
    ngx_idem_outcome_t  oc = { D, DONE_S, 201, 0, 0 };

    end = NOW + LEFT_MS;

    en = test_entry(R);
    tap_is(ngx_idem_lease_renew(&en, own1, LEASE_MS, end), LOST,
           "an owner whose lease ran out cannot renew");
    tap_is(en.state, U, "the record is unknown");

    en = test_entry(R);
    tap_is(ngx_idem_lease_complete(&en, own1, &oc, end), LOST,
           "nor complete");
    tap_ok(en.state == U && en.status == 0, "the record is unknown");

    en = test_entry(R);
    tap_is(ngx_idem_lease_release(&en, own1, end), LOST, "nor release");
    tap_is(en.state, U, "the record is unknown");

    en = test_entry(R);
    tap_is(ngx_idem_lease_complete(&en, own1, &oc, end - 1), DONE,
           "it can in the last millisecond");

    en = test_entry(R);
    tap_is(ngx_idem_lease_claim(&en, &claimant, end), UNKNOWN,
           "a duplicate then meets an unknown");

    en = test_entry(D);
    tap_is(ngx_idem_lease_claim(&en, &claimant, end), OWNED,
           "an expired record is absent to a claim");
}


static void
test_orphan(void)
{
    ngx_idem_entry_t  en;

    en = test_entry(R);
    ngx_idem_lease_orphan(&en, NOW);
    tap_is(en.until_ms, NOW + UNKNOWN_S * 1000,
           "an orphan lives as unknown from now");

    ngx_idem_lease_orphan(&en, NOW + 9);
    tap_is(en.until_ms, NOW + UNKNOWN_S * 1000,
           "a second death adds nothing");

    en = test_entry(R);
    ngx_idem_lease_orphan(&en, NOW + LEFT_MS + 9);
    tap_is(en.until_ms, NOW + LEFT_MS + UNKNOWN_S * 1000,
           "from the end of the lease, if that was first");

    en = test_entry(D);
    ngx_idem_lease_orphan(&en, NOW + LEFT_MS);
    tap_is(en.state, A, "time passes for an orphan, too");
}


static void
test_lives(void)
{
    ngx_idem_entry_t    en;
    ngx_idem_outcome_t  oc = { D, UINT32_MAX, 200, 0, 0 };

    en = test_entry(R);
    ngx_idem_lease_complete(&en, own1, &oc, NOW);
    tap_is(en.until_ms, NOW + UINT64_C(4294967295000),
           "the longest life in seconds fits into milliseconds");

    en = test_entry(R);
    oc.ttl_s = 0;
    tap_is(ngx_idem_lease_complete(&en, own1, &oc, NOW), DONE,
           "a life of 0 is accepted");
    tap_is(ngx_idem_lease_expire(&en, NOW), A, "and over at once");
}


static void
test_clock_end(void)
{
    ngx_idem_entry_t     en;
    ngx_idem_claimant_t  cl = claimant;

    en = test_entry(A);
    cl.lease_ms = UINT64_MAX;
    ngx_idem_lease_claim(&en, &cl, NOW);
    tap_is(en.until_ms, UINT64_MAX, "a lease stops at the end of the clock");

    ngx_idem_lease_renew(&en, own2, UINT64_MAX - NOW, NOW);
    tap_is(en.until_ms, UINT64_MAX, "a lease up to the end of the clock");

    ngx_idem_lease_orphan(&en, UINT64_MAX - 1);
    tap_is(en.until_ms, UINT64_MAX, "a life stops there");
    tap_is(en.state, U, "and has not passed");
    tap_is(ngx_idem_lease_age_ms(&en, UINT64_MAX - 1), UNKNOWN_S * 1000 - 1,
           "its age is bounded by its life");
}


static void
test_age(void)
{
    ngx_idem_entry_t    en;
    ngx_idem_outcome_t  oc = { D, DONE_S, 201, 0, 0 };

    en = test_entry(A);
    tap_is(ngx_idem_lease_age_ms(&en, NOW), 0, "absent has no age");

    en = test_entry(R);
    tap_is(ngx_idem_lease_age_ms(&en, NOW), 0, "running has no age");

    ngx_idem_lease_complete(&en, own1, &oc, NOW);
    tap_is(ngx_idem_lease_age_ms(&en, NOW), 0, "a record is born at age 0");
    tap_is(ngx_idem_lease_age_ms(&en, NOW + 1234), 1234,
           "its age is in milliseconds");
    tap_is(ngx_idem_lease_age_ms(&en, NOW - 1), 0,
           "a clock that went back makes no age");

    en = test_entry(R);
    ngx_idem_lease_expire(&en, NOW + LEFT_MS + 10);
    tap_is(ngx_idem_lease_age_ms(&en, NOW + LEFT_MS + 10), 10,
           "an unknown is as old as the end of its lease");
}


static void
test_damaged(void)
{
    ngx_idem_entry_t  en;

    en = test_entry(D);
    en.state = 0xee;

    tap_is(ngx_idem_lease_claim(&en, &claimant, NOW), UNKNOWN,
           "a state that is none is never run again");
    tap_is(ngx_idem_lease_renew(&en, own1, LEASE_MS, NOW), LOST,
           "and nobody's");
    tap_is(ngx_idem_lease_expire(&en, NOW + LEFT_MS), A,
           "and ends with its time");
}


/* An entry with fence 41 that has LEFT_MS from NOW on. */

static ngx_idem_entry_t
test_entry(ngx_idem_state_e state)
{
    ngx_idem_entry_t  en;

    memset(&en, 0, sizeof(en));

    if (state == A) {
        return en;
    }

    memcpy(en.fingerprint, fp1, sizeof(fp1));

    if (state == R) {
        memcpy(en.owner, own1, sizeof(own1));
    }

    en.fence = 41;
    en.until_ms = NOW + LEFT_MS;
    en.ttl_s = (state == R || state == U) ? UNKNOWN_S : DONE_S;
    en.status = (state == D || state == S) ? 200 : 0;
    en.state = (uint8_t) state;

    return en;
}


static int
test_zero(const void *p, size_t len)
{
    size_t                i;
    const unsigned char  *byte;

    byte = p;

    for (i = 0; i < len; i++) {

        if (byte[i] != 0) {
            return 0;
        }
    }

    return 1;
}
