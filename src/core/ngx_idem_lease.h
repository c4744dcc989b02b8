
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The lease machine: what a claim, a renewal, a completion, a release, a dead
 * worker and the passing of time do to one entry.  Every store obeys it.
 *
 *             claim          complete(s)  release  orphan      until passes
 *   ---------------------------------------------------------------------
 *   absent    RUNNING owned  lost         lost     -           -
 *     known:  - absent
 *   running   - busy         s            ABSENT   UNKNOWN     UNKNOWN
 *   done      - done         lost         lost     -           ABSENT
 *   unstored  - unstored     lost         lost     -           ABSENT
 *   unknown   - unknown      lost         lost     -           ABSENT
 *     retry:  RUNNING owned
 *     check:  RUNNING check
 *
 * upper case: the state after; lower case: the verdict; -: no change.
 * Another fingerprint is answered MISMATCH by a claim in every state but
 * absent.  Another owner is LOST.  renew keeps running.  Every function lets
 * time pass first: an owner whose lease ran out is LOST even if nobody had
 * noticed, and an expired entry is absent.  A claim that is
 * "known" is not to be the first one.
 *
 * An unknown that comes of a lease lives ttl_s from the end of that lease;
 * one that comes of an orphan, ttl_s from now.  Looking into an unknown does
 * not make it live longer: it is completed with the end it had, and if its
 * claimant dies meanwhile, it has what was left of its life.
 */


#ifndef _NGX_IDEM_LEASE_H_INCLUDED_
#define _NGX_IDEM_LEASE_H_INCLUDED_


#include "core/ngx_idem_core.h"


/* 72 bytes, part of the zone's layout: no pointer, no bitfield. */

typedef struct {
    uint8_t   fingerprint[NGX_IDEM_DIGEST_LEN];
    uint8_t   owner[NGX_IDEM_OWNER_LEN];    /* zero unless running */
    uint64_t  fence;            /* of the last execution granted */
    uint64_t  until_ms;         /* end of the lease, else of the record */
    uint32_t  ttl_s;            /* running: life as unknown; else life given */
    uint16_t  status;           /* of the first answer: done, unstored */
    uint8_t   state;            /* ngx_idem_state_e */
    uint8_t   dry;              /* unstored by a dry run, else done; while
                                   running: an unknown is looked into */
} ngx_idem_entry_t;


/* Who claims, and on which terms. */

typedef struct {
    const uint8_t      *fingerprint;    /* NGX_IDEM_DIGEST_LEN */
    const uint8_t      *owner;          /* NGX_IDEM_OWNER_LEN random bytes */
    uint64_t            fence;          /* given to the entry if granted */
    uint64_t            lease_ms;
    uint32_t            unknown_s;      /* life of an unknown */
    ngx_idem_unknown_e  on_unknown;
    int                 known;          /* there must have been a claim */
} ngx_idem_claimant_t;


/* How a claim ended. */

typedef struct {
    ngx_idem_state_e  state;        /* done, unstored or unknown */
    uint32_t          ttl_s;
    uint16_t          status;
    uint8_t           dry;
    uint64_t          until_ms;     /* 0: ttl_s from now */
} ngx_idem_outcome_t;


/*
 * All functions: en is a found or zeroed entry, now_ms the clock of
 * en->until_ms.  None can fail, none answers FULL (that is the store's to
 * say).  The caller holds whatever guards en.
 */

/* Lets time pass.  Returns the state en has now. */
ngx_idem_state_e ngx_idem_lease_expire(ngx_idem_entry_t *en, uint64_t now_ms);

/*
 * Answers a claim.  en is changed only by time and if the answer is OWNED or
 * CHECK.
 * Source: draft-ietf-httpapi-idempotency-key-header, "Idempotency
 * Enforcement Scenarios".
 */
ngx_idem_verdict_e ngx_idem_lease_claim(ngx_idem_entry_t *en,
    const ngx_idem_claimant_t *cl, uint64_t now_ms);

/* OWNED: the lease ends lease_ms from now.  Else LOST. */
ngx_idem_verdict_e ngx_idem_lease_renew(ngx_idem_entry_t *en,
    const uint8_t *owner, uint64_t lease_ms, uint64_t now_ms);

/* DONE, UNSTORED or UNKNOWN, as told by oc.  Else LOST. */
ngx_idem_verdict_e ngx_idem_lease_complete(ngx_idem_entry_t *en,
    const uint8_t *owner, const ngx_idem_outcome_t *oc, uint64_t now_ms);

/* ABSENT: the entry is zeroed.  Else LOST. */
ngx_idem_verdict_e ngx_idem_lease_release(ngx_idem_entry_t *en,
    const uint8_t *owner, uint64_t now_ms);

/* The owner is dead: a running entry becomes unknown, others stay. */
void ngx_idem_lease_orphan(ngx_idem_entry_t *en, uint64_t now_ms);

/* An unknown as it is, to complete it with that after it was looked into. */
ngx_idem_outcome_t ngx_idem_lease_outcome(const ngx_idem_entry_t *en);

/* Milliseconds since a finished record came to be; 0 while running. */
uint64_t ngx_idem_lease_age_ms(const ngx_idem_entry_t *en, uint64_t now_ms);


#endif /* _NGX_IDEM_LEASE_H_INCLUDED_ */
