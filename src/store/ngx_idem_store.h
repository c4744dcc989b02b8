
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What every store can do.  A store owns claims and records; the HTTP floor
 * asks it by verbs and knows nothing of what is behind them.
 *
 * Rules of the contract:
 *
 *   A verb returns NGX_OK (the verdict is in op), NGX_ERROR (the store cannot
 *   be asked, nothing was changed as far as it knows) or NGX_AGAIN: op->handler
 *   comes once, from the event loop, never from inside the verb, and op->rc is
 *   one of the other two then.
 *
 *   op lives in the caller's memory.  It is the caller's again when the verb
 *   has returned something else, when op->handler was called, or when the op
 *   was cancelled, whichever comes first; a parked op (op->parked) is the
 *   store's in the same way.
 *
 *   complete, renew and release by a foreign owner change nothing and say
 *   LOST.
 *
 *   What was begun goes on when its op is cancelled: a claim that is granted
 *   then is given back, a completion or a release takes place.
 *
 *   No verb blocks, none is called with a lock held, none touches a request.
 */


#ifndef _NGX_IDEM_STORE_H_INCLUDED_
#define _NGX_IDEM_STORE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "core/ngx_idem_core.h"
#include "core/ngx_idem_lease.h"
#include "store/ngx_idem_stat.h"


typedef struct ngx_idem_store_s  ngx_idem_store_t;
typedef struct ngx_idem_op_s     ngx_idem_op_t;

typedef void (*ngx_idem_op_handler_pt)(ngx_idem_op_t *op);


struct ngx_idem_op_s {

    /* who asks, set once by the caller */

    u_char                   identity[NGX_IDEM_DIGEST_LEN];
    u_char                   fingerprint[NGX_IDEM_DIGEST_LEN];
    u_char                   owner[NGX_IDEM_OWNER_LEN];
    ngx_pool_t              *pool;
    ngx_log_t               *log;

    /* terms of a claim, set by the caller */

    ngx_msec_t               lease_ms;
    uint32_t                 unknown_s;
    ngx_uint_t               max_waiters;   /* 0: do not wait if BUSY */
    ngx_idem_unknown_e       on_unknown;
    ngx_flag_t               known;         /* not to be the first */

    /* how the claim ended, set by the caller before complete */

    ngx_idem_outcome_t       outcome;
    ngx_chain_t             *record;        /* DONE: the bytes, in memory */
    size_t                   size;          /* their sum */

    /* of a guard: what is found, and what is to become of it */

    ngx_str_t                value;         /* in op->pool when found */
    ngx_str_t                pending;
    u_char                  *room;          /* the store's, for both */

    /* answers of the store */

    ngx_int_t                rc;            /* after NGX_AGAIN */
    ngx_str_t                by;            /* kind of who answered a claim */
    ngx_idem_verdict_e       verdict;
    uint64_t                 fence;         /* OWNED, CHECK */
    uint64_t                 age_ms;        /* of what is not running */
    ngx_uint_t               status;        /* DONE, UNSTORED */
    ngx_flag_t               dry;           /* UNSTORED by a dry run; BUSY
                                               with an unknown, perhaps */
    ngx_str_t                stored;        /* DONE: the bytes, in op->pool */

    /* when a verb is answered later, or claiming again makes sense */

    ngx_idem_op_handler_pt   handler;
    void                    *data;          /* the handler's */
    ngx_queue_t              queue;         /* the store's */
    uint32_t                 place;         /* the store's */
    void                    *task;          /* the store's */
    unsigned                 parked:1;
    unsigned                 local:1;       /* the zone alone decides */
    unsigned                 cached:1;      /* it is only a copy */
    unsigned                 guard:1;       /* parked for a guard */
    unsigned                 sure:1;        /* renew: wait for the answer */
};


/*
 * claim     asks for the identity.  DONE comes with op->stored.  BUSY with
 *           op->max_waiters > 0 parks the op if the key has fewer waiters
 *           than that, and says so by op->parked: registered under the same
 *           lock that saw the running claim, so that no completion is
 *           missed.  op->handler then comes at most once, from the event
 *           loop, never from inside claim().  CHECK comes with op->outcome:
 *           completing with it as it is puts the unknown back.  OWNED comes
 *           with op->outcome.state, which is UNKNOWN if it was.  MISMATCH of a
 *           zone comes with op->outcome.state, that of the other one.  ABSENT:
 *           there is no record and op->known is set, so nothing was claimed.
 * renew     the lease ends op->lease_ms from now.  OWNED or LOST; unless
 *           op->sure, OWNED is only what this node believes.
 * complete  the claim ends as op->outcome.  The verdict is what the record
 *           is now: DONE, UNSTORED (also if there was no room for a DONE;
 *           ABSENT in its place if op->cached, as the record is elsewhere
 *           too), UNKNOWN; or LOST.
 * release   the record is forgotten.  ABSENT or LOST.
 * cancel    op->handler will not be called.  May be called for an op that
 *           waits for nothing.
 * snapshot  what the store holds.
 * begin     a worker begins.
 * end       it ends; nobody's handler is called any more.
 * tick      something happened, or a second has passed while anybody waits:
 *           lets time pass, looks for claims of dead workers, calls waiters.
 *
 * A guard is what requests hold that change one resource (see
 * core/ngx_idem_guard.h).  Its identity is the resource's; nothing but these
 * verbs, renew and cancel is called with it.  It is not cached: with a Redis
 * it is there alone, unless op->local is set.
 *
 * hold      asks for the guard, for op->lease_ms, with op->pending for what
 *           the caller is about to do.
 *             OWNED  held: op->value is what is known
 *             CHECK  held, but the one before has vanished: op->value, and
 *                    op->pending is what that one was about to do; it stays
 *                    in the guard until mark or leave
 *             BUSY   somebody else holds it.  With op->max_waiters > 0, op
 *                    joins the queue if that is shorter, and is parked.  When
 *                    the handler comes it may be op's turn: hold is called
 *                    again, and answers OWNED or CHECK, or parks it in its
 *                    old place
 *             FULL   no room
 *           Whoever holds it and asks again is answered as before.  The guard
 *           goes from one in the queue to the next, in order of arrival; one
 *           whose worker, or node, vanished loses its turn.
 * mark      held: op->value and op->pending are what is in it from now on.
 *           OWNED or LOST.
 * leave     held no more: op->value is what is known from now on (empty:
 *           nothing), op->pending stays in it (empty: nothing is in doubt),
 *           both for op->outcome.ttl_s.  The next in the queue has it.  ABSENT
 *           or LOST.
 * cancel    of an op that is parked for a guard: leaves the queue, and gives
 *           the guard on if it had been given to op meanwhile.
 * look      what a record is, without a claim: ABSENT, BUSY, DONE, UNSTORED or
 *           UNKNOWN, and op->status, op->age_ms.  The bytes of a DONE do not
 *           come.
 */

typedef struct {
    ngx_int_t  (*claim)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    ngx_int_t  (*renew)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    ngx_int_t  (*complete)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    ngx_int_t  (*release)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    void       (*cancel)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    void       (*snapshot)(ngx_idem_store_t *st, ngx_idem_snapshot_t *sn);
    ngx_int_t  (*begin)(ngx_idem_store_t *st, ngx_cycle_t *cycle);
    void       (*end)(ngx_idem_store_t *st);
    void       (*tick)(ngx_idem_store_t *st);
    ngx_int_t  (*hold)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    ngx_int_t  (*mark)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    ngx_int_t  (*leave)(ngx_idem_store_t *st, ngx_idem_op_t *op);
    ngx_int_t  (*look)(ngx_idem_store_t *st, ngx_idem_op_t *op);
} ngx_idem_verbs_t;


/* The common head of every store. */

struct ngx_idem_store_s {
    const ngx_idem_verbs_t  *verbs;
    ngx_str_t                name;          /* of the zone */
    ngx_str_t                kind;          /* "zone" */
    ngx_idem_stat_t         *stat;          /* shared; NULL until attached */
};


#endif /* _NGX_IDEM_STORE_H_INCLUDED_ */
