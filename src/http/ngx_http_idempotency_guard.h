
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Guards of a request: what it holds, besides its claim, of resources that
 * requests change one at a time.
 *
 *   kind       what is known of the resource  what a request wants
 *   ---------------------------------------------------------------------
 *   serialize  nothing                        to be alone, after those before
 *   sequence   the last number that           a greater one
 *              succeeded
 *   state      where it is                    a move that its machine lists
 *   version    its entity tag                 to have seen that, in If-Match
 *
 * They are taken in this order after the claim and before the upstream is
 * asked; only a serialize waits.  They end in the opposite order, after the
 * record is completed, which is the commit, and when the upstream is through: a
 * value moves if it answered 2xx.
 *
 * Whoever holds a value says in it which request it is and what it is about to
 * do.  If it vanishes, the next one looks at the record of that request:
 *
 *   the record is                   sequence    state          version
 *   ---------------------------------------------------------------------
 *   done or unstored, 2xx           moved       moved          forgotten
 *   done or unstored, else          as it was   as it was      as it was
 *   absent                          as it was   as it was      forgotten
 *   unknown                         as it was   409, it stays  forgotten
 *                                               in doubt
 *   running                         409, busy   409, busy      409, busy
 *
 * A request without a key has no record; it leaves the end of its doubt in the
 * place of its identity.  Until then it is unknown, and absent after that.
 */


#ifndef _NGX_HTTP_IDEMPOTENCY_GUARD_H_INCLUDED_
#define _NGX_HTTP_IDEMPOTENCY_GUARD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "core/ngx_idem_policy.h"
#include "store/ngx_idem_store.h"


typedef enum {
    NGX_HTTP_IDEMPOTENCY_SERIALIZE = 0,
    NGX_HTTP_IDEMPOTENCY_SEQUENCE,
    NGX_HTTP_IDEMPOTENCY_STATE,
    NGX_HTTP_IDEMPOTENCY_VERSION,

    NGX_HTTP_IDEMPOTENCY_GUARDS
} ngx_http_idempotency_kind_e;


/* A state and where it leads. */

typedef struct {
    ngx_str_t                            name;
    ngx_array_t                          targets;   /* ngx_str_t */
} ngx_http_idempotency_place_of_t;


/* idempotency_states name { ... }: the first one is where all begin. */

typedef struct {
    ngx_str_t                            name;
    ngx_array_t                          states;    /* ..._place_of_t */
    ngx_array_t                          uses;      /* ..._use_t */
    ngx_str_t                            file;      /* of the first use */
    ngx_uint_t                           line;
    unsigned                             declared:1;
} ngx_http_idempotency_machine_t;


/* Where a move to a state is written that is known at start. */

typedef struct {
    ngx_str_t                            target;
    ngx_str_t                            file;
    ngx_uint_t                           line;
} ngx_http_idempotency_use_t;


/* A directive of a location. */

typedef struct {
    ngx_http_idempotency_kind_e          kind;
    ngx_http_complex_value_t             resource;
    ngx_http_complex_value_t             target;    /* number, state */
    ngx_http_idempotency_machine_t      *machine;
    ngx_msec_t                           wait;      /* 0: does not */
    ngx_uint_t                           queue;
    unsigned                             acknowledge:1;  /* late ones */
    unsigned                             required:1;
} ngx_http_idempotency_guard_conf_t;


/* One guard of one request. */

typedef enum {
    NGX_HTTP_IDEMPOTENCY_GUARD_NEW = 0,
    NGX_HTTP_IDEMPOTENCY_GUARD_ASKED,       /* the store */
    NGX_HTTP_IDEMPOTENCY_GUARD_QUEUED,
    NGX_HTTP_IDEMPOTENCY_GUARD_LOOKING,     /* at somebody's record */
    NGX_HTTP_IDEMPOTENCY_GUARD_MARKING,     /* as ours, after that */
    NGX_HTTP_IDEMPOTENCY_GUARD_HELD,
    NGX_HTTP_IDEMPOTENCY_GUARD_LEAVING,
    NGX_HTTP_IDEMPOTENCY_GUARD_LEFT
} ngx_http_idempotency_guard_step_e;

typedef struct {
    ngx_http_idempotency_guard_conf_t   *conf;
    ngx_http_idempotency_guard_step_e    step;
    ngx_idem_op_t                        op;
    ngx_str_t                            target;    /* what it wants */
    ngx_str_t                            value;     /* what is known */
    ngx_str_t                            mine;      /* pending, if held */
    ngx_str_t                            found;     /* somebody's pending */
    unsigned                             again:1;   /* ours, of a run before */
} ngx_http_idempotency_guard_t;


/* All guards of one request; made with the first of them. */

typedef struct {
    ngx_http_idempotency_guard_t         guards[NGX_HTTP_IDEMPOTENCY_GUARDS];
    ngx_uint_t                           n;
    ngx_uint_t                           at;        /* the next one */
    ngx_uint_t                           leaving;   /* not answered yet */
    ngx_idem_op_t                        look;      /* or is the claim ours? */
    ngx_msec_t                           since;     /* it has a guard in mind */
    ngx_msec_t                           began;     /* to wait */
    ngx_msec_t                           wait_time;
    ngx_event_t                          event;     /* end of the wait */
    ngx_idem_fate_e                      fate;
    unsigned                             settled:1; /* that is known */
    unsigned                             local:1;
    unsigned                             waits:1;
    unsigned                             last_try:1;
    unsigned                             asking:1;  /* if the claim is ours */
    unsigned                             sure:1;    /* it is */
    unsigned                             passing:1; /* held to the end of an
                                                       answer that is on its
                                                       way, and recorded */
} ngx_http_idempotency_guards_t;


#endif /* _NGX_HTTP_IDEMPOTENCY_GUARD_H_INCLUDED_ */
