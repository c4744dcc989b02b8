
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The words that every floor shares: a byte span, the states of a record, the
 * verdicts of a store, and the lengths of what identifies a request.
 *
 * The core floor is pure C99 and libcrypto.  It knows no nginx, allocates
 * nothing, has no clock and keeps no state: time, randomness and memory come
 * as arguments.
 */


#ifndef _NGX_IDEM_CORE_H_INCLUDED_
#define _NGX_IDEM_CORE_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


#define NGX_IDEM_DIGEST_LEN  32
#define NGX_IDEM_OWNER_LEN   16


/* Bytes that somebody else owns; data may be NULL if len is 0. */

typedef struct {
    const uint8_t  *data;
    size_t          len;
} ngx_idem_span_t;


/* What a record is.  Stored in one byte; absent is a free or zeroed entry. */

typedef enum {
    NGX_IDEM_STATE_ABSENT = 0,
    NGX_IDEM_STATE_RUNNING,
    NGX_IDEM_STATE_DONE,
    NGX_IDEM_STATE_UNSTORED,
    NGX_IDEM_STATE_UNKNOWN
} ngx_idem_state_e;


/* What a claim does about an unknown. */

typedef enum {
    NGX_IDEM_UNKNOWN_REFUSE = 0,
    NGX_IDEM_UNKNOWN_RETRY,         /* runs it again */
    NGX_IDEM_UNKNOWN_CHECK          /* takes it, to find out */
} ngx_idem_unknown_e;


/*
 * What a store answers to a verb.
 *
 *   OWNED     the claim is yours: send the request to the upstream
 *   CHECK     the claim is yours, but an earlier one came to an unknown end:
 *             find out first what became of it
 *   BUSY      somebody else's claim is running
 *   DONE      carried out, the response is here
 *   UNSTORED  carried out, the response was not kept
 *   UNKNOWN   nobody knows whether it was carried out
 *   MISMATCH  the identity is in use by another request, in whatever state
 *   FULL      no room for a new record
 *   LOST      complete, renew, release: the claim is not yours (any more),
 *             nothing was changed
 *   ABSENT    release: the record is gone; claim: there is none, and whoever
 *             asks may not be the first
 */

typedef enum {
    NGX_IDEM_OWNED = 0,
    NGX_IDEM_CHECK,
    NGX_IDEM_BUSY,
    NGX_IDEM_DONE,
    NGX_IDEM_UNSTORED,
    NGX_IDEM_UNKNOWN,
    NGX_IDEM_MISMATCH,
    NGX_IDEM_FULL,
    NGX_IDEM_LOST,
    NGX_IDEM_ABSENT
} ngx_idem_verdict_e;


#endif /* _NGX_IDEM_CORE_H_INCLUDED_ */
