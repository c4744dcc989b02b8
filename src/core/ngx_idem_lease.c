
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_lease.h"


static ngx_idem_verdict_e ngx_idem_lease_claim_unknown(ngx_idem_entry_t *en,
    const ngx_idem_claimant_t *cl, uint64_t now_ms);
static ngx_idem_verdict_e ngx_idem_lease_grant(ngx_idem_entry_t *en,
    const ngx_idem_claimant_t *cl, uint64_t now_ms);
static int ngx_idem_lease_owned(ngx_idem_entry_t *en, const uint8_t *owner,
    uint64_t now_ms);
static void ngx_idem_lease_enter(ngx_idem_entry_t *en, ngx_idem_state_e state,
    uint64_t from_ms, uint64_t life_ms);
static uint64_t ngx_idem_lease_ms(uint32_t s);


ngx_idem_state_e
ngx_idem_lease_expire(ngx_idem_entry_t *en, uint64_t now_ms)
{
    if (en->state == NGX_IDEM_STATE_RUNNING && en->until_ms <= now_ms) {
        en->dry = 0;
        ngx_idem_lease_enter(en, NGX_IDEM_STATE_UNKNOWN, en->until_ms,
                             ngx_idem_lease_ms(en->ttl_s));
    }

    if (en->state != NGX_IDEM_STATE_RUNNING && en->until_ms <= now_ms) {
        ngx_idem_lease_enter(en, NGX_IDEM_STATE_ABSENT, 0, 0);
    }

    return (ngx_idem_state_e) en->state;
}


ngx_idem_verdict_e
ngx_idem_lease_claim(ngx_idem_entry_t *en, const ngx_idem_claimant_t *cl,
    uint64_t now_ms)
{
    ngx_idem_state_e  state;

    state = ngx_idem_lease_expire(en, now_ms);

    if (state != NGX_IDEM_STATE_ABSENT
        && memcmp(en->fingerprint, cl->fingerprint, NGX_IDEM_DIGEST_LEN) != 0)
    {
        return NGX_IDEM_MISMATCH;
    }

    switch (state) {

    case NGX_IDEM_STATE_ABSENT:
        return cl->known ? NGX_IDEM_ABSENT
                         : ngx_idem_lease_grant(en, cl, now_ms);

    case NGX_IDEM_STATE_RUNNING:
        return NGX_IDEM_BUSY;

    case NGX_IDEM_STATE_DONE:
        return NGX_IDEM_DONE;

    case NGX_IDEM_STATE_UNSTORED:
        return NGX_IDEM_UNSTORED;

    case NGX_IDEM_STATE_UNKNOWN:

        return ngx_idem_lease_claim_unknown(en, cl, now_ms);
    }

    /* no state at all: damaged memory, which must not run a request twice */

    return NGX_IDEM_UNKNOWN;
}


static ngx_idem_verdict_e
ngx_idem_lease_claim_unknown(ngx_idem_entry_t *en,
    const ngx_idem_claimant_t *cl, uint64_t now_ms)
{
    uint32_t  left_s;

    switch (cl->on_unknown) {

    case NGX_IDEM_UNKNOWN_RETRY:
        return ngx_idem_lease_grant(en, cl, now_ms);

    case NGX_IDEM_UNKNOWN_CHECK:
        left_s = (uint32_t) ((en->until_ms - now_ms + 999) / 1000);

        (void) ngx_idem_lease_grant(en, cl, now_ms);
        en->ttl_s = left_s;
        en->dry = 1;

        return NGX_IDEM_CHECK;

    case NGX_IDEM_UNKNOWN_REFUSE:
        break;
    }

    return NGX_IDEM_UNKNOWN;
}


ngx_idem_verdict_e
ngx_idem_lease_renew(ngx_idem_entry_t *en, const uint8_t *owner,
    uint64_t lease_ms, uint64_t now_ms)
{
    if (!ngx_idem_lease_owned(en, owner, now_ms)) {
        return NGX_IDEM_LOST;
    }

    ngx_idem_lease_enter(en, NGX_IDEM_STATE_RUNNING, now_ms, lease_ms);

    return NGX_IDEM_OWNED;
}


ngx_idem_verdict_e
ngx_idem_lease_complete(ngx_idem_entry_t *en, const uint8_t *owner,
    const ngx_idem_outcome_t *oc, uint64_t now_ms)
{
    if (!ngx_idem_lease_owned(en, owner, now_ms)) {
        return NGX_IDEM_LOST;
    }

    en->ttl_s = oc->ttl_s;
    en->status = oc->status;
    en->dry = oc->dry;

    ngx_idem_lease_enter(en, oc->state, now_ms, ngx_idem_lease_ms(oc->ttl_s));

    if (oc->until_ms) {
        en->until_ms = oc->until_ms;
    }

    if (oc->state == NGX_IDEM_STATE_DONE) {
        return NGX_IDEM_DONE;
    }

    if (oc->state == NGX_IDEM_STATE_UNSTORED) {
        return NGX_IDEM_UNSTORED;
    }

    return NGX_IDEM_UNKNOWN;
}


ngx_idem_verdict_e
ngx_idem_lease_release(ngx_idem_entry_t *en, const uint8_t *owner,
    uint64_t now_ms)
{
    if (!ngx_idem_lease_owned(en, owner, now_ms)) {
        return NGX_IDEM_LOST;
    }

    ngx_idem_lease_enter(en, NGX_IDEM_STATE_ABSENT, 0, 0);

    return NGX_IDEM_ABSENT;
}


void
ngx_idem_lease_orphan(ngx_idem_entry_t *en, uint64_t now_ms)
{
    if (ngx_idem_lease_expire(en, now_ms) != NGX_IDEM_STATE_RUNNING) {
        return;
    }

    en->dry = 0;

    ngx_idem_lease_enter(en, NGX_IDEM_STATE_UNKNOWN, now_ms,
                         ngx_idem_lease_ms(en->ttl_s));
}


ngx_idem_outcome_t
ngx_idem_lease_outcome(const ngx_idem_entry_t *en)
{
    ngx_idem_outcome_t  oc;

    oc.state = (ngx_idem_state_e) en->state;
    oc.ttl_s = en->ttl_s;
    oc.status = en->status;
    oc.dry = en->dry;
    oc.until_ms = en->until_ms;

    return oc;
}


uint64_t
ngx_idem_lease_age_ms(const ngx_idem_entry_t *en, uint64_t now_ms)
{
    uint64_t  born_ms;

    if (en->state == NGX_IDEM_STATE_ABSENT
        || en->state == NGX_IDEM_STATE_RUNNING)
    {
        return 0;
    }

    born_ms = en->until_ms - ngx_idem_lease_ms(en->ttl_s);

    return (born_ms < now_ms) ? now_ms - born_ms : 0;
}


static ngx_idem_verdict_e
ngx_idem_lease_grant(ngx_idem_entry_t *en, const ngx_idem_claimant_t *cl,
    uint64_t now_ms)
{
    ngx_idem_lease_enter(en, NGX_IDEM_STATE_ABSENT, 0, 0);
    ngx_idem_lease_enter(en, NGX_IDEM_STATE_RUNNING, now_ms, cl->lease_ms);

    memcpy(en->fingerprint, cl->fingerprint, NGX_IDEM_DIGEST_LEN);
    memcpy(en->owner, cl->owner, NGX_IDEM_OWNER_LEN);

    en->fence = cl->fence;
    en->ttl_s = cl->unknown_s;

    return NGX_IDEM_OWNED;
}


static int
ngx_idem_lease_owned(ngx_idem_entry_t *en, const uint8_t *owner,
    uint64_t now_ms)
{
    return ngx_idem_lease_expire(en, now_ms) == NGX_IDEM_STATE_RUNNING
           && memcmp(en->owner, owner, NGX_IDEM_OWNER_LEN) == 0;
}


/* A life beyond the end of the clock ends there. */

static void
ngx_idem_lease_enter(ngx_idem_entry_t *en, ngx_idem_state_e state,
    uint64_t from_ms, uint64_t life_ms)
{
    if (state == NGX_IDEM_STATE_ABSENT) {
        memset(en, 0, sizeof(ngx_idem_entry_t));
        return;
    }

    if (state != NGX_IDEM_STATE_RUNNING) {
        memset(en->owner, 0, NGX_IDEM_OWNER_LEN);
    }

    if (life_ms > UINT64_MAX - from_ms) {
        life_ms = UINT64_MAX - from_ms;
    }

    en->state = (uint8_t) state;
    en->until_ms = from_ms + life_ms;
}


static uint64_t
ngx_idem_lease_ms(uint32_t s)
{
    return (uint64_t) s * 1000;
}
