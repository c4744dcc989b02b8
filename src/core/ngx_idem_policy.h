
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Rules: what becomes of a claim, for how long a response is kept, and which
 * of its header fields are.
 */


#ifndef _NGX_IDEM_POLICY_H_INCLUDED_
#define _NGX_IDEM_POLICY_H_INCLUDED_


#include "core/ngx_idem_core.h"


/*
 * Times to live by status.  The most exact rule wins: own code, own class,
 * own "any", then the built-in rules.
 */

#define NGX_IDEM_TTL_UNSET    0xffffffffu
#define NGX_IDEM_TTL_DEFAULT  86400u
#define NGX_IDEM_TTL_MAX      0x7fffffffu

typedef struct {
    uint16_t  first;            /* 409..409, 400..499, 100..599 for any */
    uint16_t  last;
    uint32_t  ttl_s;            /* 0: release */
} ngx_idem_valid_t;

typedef struct {
    const ngx_idem_valid_t  *rules;
    size_t                   n;
    uint32_t                 ttl_s;     /* of all that the built-in rules
                                           store: default, or the rule
                                           without a status */
    int                      success;   /* they store 2xx only */
} ngx_idem_valid_conf_t;


typedef enum {
    NGX_IDEM_FATE_RELEASE = 0,
    NGX_IDEM_FATE_STORE,
    NGX_IDEM_FATE_UNKNOWN
} ngx_idem_fate_e;


/* What an upstream itself says about the record, in X-Accel-Idempotency. */

typedef struct {
    ngx_idem_fate_e  fate;
    int              given;     /* fate was said */
    int              timed;     /* ttl_s was said */
    uint32_t         ttl_s;     /* 0: release */
} ngx_idem_override_t;

/*
 * Adds what a field value says to ov, which is zeroed before the first one:
 *
 *   #( "store" / "release" / "unknown" / "ttl=" seconds )
 *
 * a list with commas, in any case; a time above 68 years is that.  Returns how
 * many elements it does not know, a second fate or time among them; these
 * change nothing.
 */
unsigned ngx_idem_policy_override(ngx_idem_span_t value,
    ngx_idem_override_t *ov);


/* What was seen of the upstreams and of the answer. */

typedef struct {
    unsigned             upstream_status;   /* of the last upstream asked;
                                               0: none asked */
    unsigned             final_status;      /* of the answer made for the
                                               client */
    int                  asked;             /* an upstream was to be asked */
    int                  sent;              /* a byte went to an upstream, or
                                               a content handler ran that is
                                               none */
    int                  answered;          /* the last one asked gave a
                                               complete answer */
    int                  complete;          /* the answer for the client has
                                               come whole */
    int                  doubt;             /* one asked before the last, or in
                                               an earlier run, got a byte, and
                                               did not say that it refuses */
    ngx_idem_override_t  override;          /* of whoever gave the status */
} ngx_idem_evidence_t;


/*
 * What becomes of a claim.  Rows in order, the first that fits:
 *
 *   asked, not answered, not sent, not in doubt  RELEASE
 *   asked, not answered                  UNKNOWN
 *   not complete, not sent, not in doubt  RELEASE
 *   not complete                         UNKNOWN
 *   override: release or time 0, in doubt    UNKNOWN
 *   the same, not in doubt               RELEASE
 *   override: store, unknown             as told
 *   own rule for the status              STORE, or RELEASE if its time is 0
 *   502, 504 of an upstream              UNKNOWN
 *   401 403 407 408 409 413 421 423 425
 *   426 428 429 431 503 511, in doubt    UNKNOWN
 *   the same, not in doubt               RELEASE
 *   success: not 2xx, in doubt           UNKNOWN
 *   the same, not in doubt               RELEASE
 *   else                                 STORE
 *
 * In doubt: the last one says that it did not carry the request out, but it
 * does not speak for another that was asked before.
 *
 * The status is the upstream's, or the final one if none was asked.
 *
 *   ttl_s  the life of the record: that of the override, else of the rules.
 *          NGX_IDEM_TTL_UNSET for UNKNOWN without one; never 0
 */
ngx_idem_fate_e ngx_idem_policy_fate(const ngx_idem_evidence_t *ev,
    const ngx_idem_valid_conf_t *valid, uint32_t *ttl_s);


/* Whether a status says by the built-in rules: not carried out. */
int ngx_idem_policy_refuses(unsigned status);


/* What whoever was asked about an unknown says of the first request. */

typedef enum {
    NGX_IDEM_CHECK_UNKNOWN = 0,
    NGX_IDEM_CHECK_DONE,                /* its answer is the first one */
    NGX_IDEM_CHECK_ABSENT               /* it did not happen */
} ngx_idem_check_e;

/*
 * Reads a check-back by the same evidence: a complete 2xx is DONE, a complete
 * 404 ABSENT if something was sent (a page of nginx's own, or one out of a
 * cache, does not let a request run again).
 */
ngx_idem_check_e ngx_idem_policy_check(const ngx_idem_evidence_t *ev);


/* Names of fields that are hidden or passed against the built-in list. */

typedef struct {
    const ngx_idem_span_t  *hide;
    size_t                  nhide;
    const ngx_idem_span_t  *pass;
    size_t                  npass;
} ngx_idem_fields_conf_t;

/*
 * Whether a response field is stored and replayed.  Names compare without
 * case.  hide wins over pass, pass over the built-in list: hop-by-hop fields
 * (RFC 9110, section 7.6.1), Content-Length, Set-Cookie, Date, Server, Age,
 * X-Accel-*, X-Request-Id, RateLimit-*, X-RateLimit-*, Authentication-Info,
 * Proxy-*.  Hop-by-hop fields and Content-Length cannot be passed: they
 * describe one message on one connection.
 *
 *   connection  value(s) of the Connection field, which name more hop-by-hop
 *               fields; may be empty
 */
int ngx_idem_policy_keeps(ngx_idem_span_t name,
    const ngx_idem_fields_conf_t *conf, ngx_idem_span_t connection);


#endif /* _NGX_IDEM_POLICY_H_INCLUDED_ */
