
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * A request's way, as one state that ngx_http_idempotency_move() assigns:
 *
 *   state      means                                    next
 *   -----------------------------------------------------------------------
 *   SEEN       idempotency applies to the location      READING ALOOF REJECTED
 *   READING    the request body is on its way           READY ALOOF SEEN
 *   READY      body and fingerprint are there           CLAIMING CLAIMED
 *   CLAIMING   the store has been asked                 CLAIMED
 *   CLAIMED    it has answered                          OWNED GUARDED
 *                                                       WAITING CHECKING
 *                                                       REPLAYING REJECTED
 *                                                       ALOOF
 *   WAITING    parked behind a running claim            READY
 *   CHECKING   the claim is ours, and somebody is asked OWNED GUARDED
 *              what became of an earlier one            SETTLED
 *   GUARDED    the claim is ours, guards are taken      GUARDING OWNED
 *                                                       SETTLED
 *   GUARDING   the store was asked about a guard, or    GUARDED
 *              this one waits for its turn
 *   OWNED      the claim is ours, no answer has begun   CAPTURING PASSING
 *                                                       SETTLED
 *   CAPTURING  an answer is taken and withheld          OWNED PASSING SETTLED
 *                                                       COMMITTING
 *   COMMITTING it is whole, the store is told           COMMITTED
 *   COMMITTED  the store has answered                   SETTLED
 *   PASSING    the claim is ours, the answer passes     SETTLED
 *   SETTLED    the claim has ended, the answer passes,  REPLAYING REJECTED
 *              with guards to the end of it; or it was
 *              for a check, which has ended
 *   REPLAYING  a stored answer goes out                 -
 *   REJECTED   an answer of our own goes out            -
 *   ALOOF      hands off                                -
 *
 * READY, if it has waited, CLAIMING, CLAIMED, WAITING, CHECKING, GUARDED,
 * GUARDING, OWNED, CAPTURING, COMMITTING and PASSING hold something of the
 * store's; the request's cleanup gives it back, however the request ends.
 */


#ifndef _NGX_HTTP_IDEMPOTENCY_H_INCLUDED_
#define _NGX_HTTP_IDEMPOTENCY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "core/ngx_idem_core.h"
#include "core/ngx_idem_key.h"
#include "core/ngx_idem_identity.h"
#include "core/ngx_idem_multipart.h"
#include "core/ngx_idem_policy.h"
#include "core/ngx_idem_record.h"
#include "core/ngx_idem_token.h"
#include "store/ngx_idem_store.h"
#include "store/ngx_idem_worker.h"
#include "http/ngx_http_idempotency_compat.h"
#include "http/ngx_http_idempotency_guard.h"


typedef enum {
    NGX_HTTP_IDEMPOTENCY_SEEN = 0,
    NGX_HTTP_IDEMPOTENCY_READING,
    NGX_HTTP_IDEMPOTENCY_READY,
    NGX_HTTP_IDEMPOTENCY_CLAIMING,
    NGX_HTTP_IDEMPOTENCY_CLAIMED,
    NGX_HTTP_IDEMPOTENCY_WAITING,
    NGX_HTTP_IDEMPOTENCY_CHECKING,
    NGX_HTTP_IDEMPOTENCY_GUARDED,
    NGX_HTTP_IDEMPOTENCY_GUARDING,
    NGX_HTTP_IDEMPOTENCY_OWNED,
    NGX_HTTP_IDEMPOTENCY_CAPTURING,
    NGX_HTTP_IDEMPOTENCY_COMMITTING,
    NGX_HTTP_IDEMPOTENCY_COMMITTED,
    NGX_HTTP_IDEMPOTENCY_PASSING,
    NGX_HTTP_IDEMPOTENCY_SETTLED,
    NGX_HTTP_IDEMPOTENCY_REPLAYING,
    NGX_HTTP_IDEMPOTENCY_REJECTED,
    NGX_HTTP_IDEMPOTENCY_ALOOF
} ngx_http_idempotency_state_e;


typedef enum {
    NGX_HTTP_IDEMPOTENCY_ON_ERROR_REFUSE = 0,
    NGX_HTTP_IDEMPOTENCY_ON_ERROR_LOCAL,
    NGX_HTTP_IDEMPOTENCY_ON_ERROR_PASS
} ngx_http_idempotency_on_error_e;


/*
 * One part of a key.  header is its field name if it is a plain $http_...:
 * such a part is known in the access phase already.
 */

typedef struct {
    ngx_http_complex_value_t  value;
    ngx_str_t                 header;  /* lower case, "_" for "-" */
} ngx_http_idempotency_part_t;


typedef struct {
    ngx_array_t  *parts;  /* complex values */
    unsigned      body:1;
} ngx_http_idempotency_fingerprint_t;


typedef struct {
    ngx_array_t  rules;  /* ngx_idem_valid_t */
    uint32_t     ttl_s;
} ngx_http_idempotency_lifetimes_t;


/* A header field that marks a replay; no name: off. */

typedef struct {
    ngx_str_t  name;
    ngx_str_t  value;
} ngx_http_idempotency_marker_t;


/* Whom to ask what became of a request: a location of the same server. */

typedef struct {
    ngx_str_t  uri;
    ngx_str_t  args;
} ngx_http_idempotency_check_t;


/* "idempotency_required" off, on, token */

#define NGX_HTTP_IDEMPOTENCY_REQUIRED_TOKEN  2


/* A name in the configuration and where it stands there. */

typedef struct {
    ngx_str_t   name;
    ngx_str_t   file;
    ngx_uint_t  line;
} ngx_http_idempotency_ref_t;


/* One-time tokens, and where in the configuration what needs a secret is. */

typedef struct {
    ngx_array_t                 *secrets;   /* ..._secret_t; NULL: none */
    time_t                       ttl;
    ngx_flag_t                   rotate;
    ngx_http_idempotency_ref_t  *required;  /* NULL: no token is */
    ngx_http_idempotency_ref_t  *issue;     /* NULL: this location does not */
} ngx_http_idempotency_token_conf_t;


typedef struct {
    ngx_array_t                         stores;   /* ngx_idem_store_t * */
    ngx_array_t                         redis;    /* blocks, by name */
    ngx_array_t                         json;     /* tokens of pointers */
    ngx_array_t                         form;     /* names of fields */
    ngx_array_t                         machines; /* ..._machine_t * */
    ngx_idem_worker_t                  *worker;
    ngx_queue_t                         requests; /* that asked for a claim */

    /* defaults that are made once and shared by all locations */

    ngx_array_t                        *key;
    ngx_array_t                        *methods;
    ngx_array_t                        *scope;
    ngx_http_idempotency_fingerprint_t  fingerprint;

    /* of this process */

    const EVP_MD                       *sha256;
    EVP_MD_CTX                         *spare;    /* for the next request */
    EVP_MD_CTX                         *digest;   /* for what ends at once */
    u_char                             *entropy;  /* random, not used yet */
    size_t                              nentropy;
    ngx_http_variable_value_t          *kept;     /* while we are asking */

    unsigned                            missed:1; /* a field of the body */
    unsigned                            failed:1; /* no memory for one */
} ngx_http_idempotency_main_conf_t;


typedef struct {
    ngx_idem_store_t                    *store;    /* NULL: off */
    ngx_http_idempotency_ref_t          *ref;      /* name empty: off */

    ngx_array_t                         *key;      /* ..._part_t */
    ngx_uint_t                           format;
    size_t                               length_min;
    size_t                               length_max;
    ngx_idem_key_rule_t                  rule;
    ngx_flag_t                           required;
    ngx_http_idempotency_token_conf_t    token;

    ngx_array_t                         *methods;  /* ngx_str_t */
    ngx_array_t                         *scope;    /* complex values */
    ngx_flag_t                           scope_set;
    ngx_http_idempotency_fingerprint_t  *fingerprint;
    ngx_array_t                         *bypass;   /* complex values */

    ngx_http_idempotency_lifetimes_t    *valid;
    ngx_idem_valid_conf_t                lifetimes;
    ngx_msec_t                           lease;
    ngx_msec_t                           wait;     /* 0: reject */
    ngx_uint_t                           waiters;
    ngx_uint_t                           on_unknown;
    ngx_http_idempotency_check_t        *check;    /* if that is to check */
    time_t                               unknown;  /* life of an unknown */

    size_t                               max_response;
    ngx_array_t                         *hide;     /* ngx_idem_span_t */
    ngx_array_t                         *pass;     /* ngx_idem_span_t */
    ngx_idem_fields_conf_t               fields;
    ngx_http_idempotency_marker_t       *replay_header;
    ngx_uint_t                           acknowledge;  /* status, 0: off */
    ngx_str_t                            documentation;
    ngx_flag_t                           dry_run;
    ngx_uint_t                           on_error;

    /* by kind; NULL: none */

    ngx_http_idempotency_guard_conf_t   *guards[NGX_HTTP_IDEMPOTENCY_GUARDS];

    unsigned                             guarded:1;  /* by any */

    /* of this process: a request was seen to have an upstream here */

    unsigned                             proxies:1;

    unsigned                             careless:1;  /* it was said */
} ngx_http_idempotency_loc_conf_t;


/*
 * In r->buffered, whose other bits are those of SSI, sub_filter, the copy
 * filter and the image filter, which has its own only when ours is gone.
 */

#define NGX_HTTP_IDEMPOTENCY_BUFFERED  0x08


/* As u->finalize_request. */

typedef void (*ngx_http_idempotency_finalize_pt)(ngx_http_request_t *r,
    ngx_int_t rc);


/* The response being taken: what a record is made of. */

typedef struct {
    ngx_str_t      fields;     /* header fields, encoded */
    ngx_chain_t   *body;
    ngx_chain_t  **last;       /* end of body */
    ngx_buf_t     *room;       /* with bytes left in body */
    size_t         size;       /* of body */
    off_t          announced;  /* size, -1: not told */
    ngx_uint_t     status;
    ngx_str_t      etag;       /* before gzip and others weaken it */
} ngx_http_idempotency_response_t;


/* A fingerprint of parts instead of a body; type is without the boundary. */

typedef struct {
    ngx_idem_multipart_t  parser;
    ngx_str_t             type;
} ngx_http_idempotency_multipart_t;


/*
 * A request of ours.
 *
 *   queue     among the requests of this process that asked for a claim
 *   ilcf      of the location that asked, also after a redirect
 *   field     the value of a key's field that was parsed last, and what came
 *             of it: it is looked at in two phases
 *   token_scope
 *             digest of the scope for which a fresh token goes with the answer;
 *             NULL: none does
 *   token_expires_s
 *             0: the key is no token
 *   event     end of a wait, or the next renewal
 *   parked    when it began to wait for the claim it has waited for last
 *   method, http_version
 *             of the claim: redirects and upstreams change the request's
 *   counted   states of upstreams before a redirect changed the method: who
 *             was asked later was not asked to carry anything out
 *   ahead     header fields that stood there before the claim
 *   guards    of resources; NULL: it has none yet
 *   handler   the content handler that stands behind ours
 *   finalize, write_handler
 *             of the upstream, likewise
 *   checker   the subrequest that asks what became of an earlier claim
 *   cut       the upstream whose answer broke off
 *   ncut      states of upstreams until then: who had answered before, had not
 *             answered whole
 *   override  what whoever gave the status says in X-Accel-Idempotency
 *   lent      buffers of a streaming response that the client has not taken
 *   multipart the body is taken apart, to be hashed by its parts
 *
 *   changed   a redirect has changed the method
 *   anonymous it has no key: the claim is one that nobody finds, for guards
 *   recursive where it was seen first, error pages are followed by others
 *   body_first  what the claim is made of depends on the body
 *   fed       the body is hashed as it comes
 *   behind    who has it while this one waits looks into an unknown
 *   last_try  the wait is over
 *   handled   a content handler ran
 *   unasked   it is one that asks upstreams, and had no memory to begin
 *   ending    the request is terminated when this answer has been given
 *   streaming the response goes on to its end without the client
 *   dropped   what is left of it is read and thrown away
 */

typedef struct {
    ngx_http_idempotency_state_e      state;
    ngx_http_request_t               *request;
    ngx_queue_t                       queue;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    ngx_idem_stat_e                   told;
    ngx_str_t                         field;
    ngx_str_t                         parsed;
    ngx_str_t                         key;
    ngx_str_t                         instance;
    u_char                           *token_scope;
    uint64_t                          token_expires_s;

    ngx_idem_op_t                     op;
    ngx_idem_digest_t                 digest;
    ngx_event_t                       event;
    ngx_msec_t                        wait_began;
    ngx_msec_t                        parked;
    ngx_msec_t                        wait_time;

    ngx_uint_t                        method;
    ngx_uint_t                        counted;
    ngx_uint_t                        http_version;
    ngx_uint_t                        ahead;
    ngx_http_idempotency_guards_t    *guards;
    ngx_http_handler_pt               handler;
    ngx_http_idempotency_finalize_pt  finalize;
    ngx_http_event_handler_pt         write_handler;
    ngx_http_request_t               *checker;
    ngx_http_upstream_t              *cut;
    ngx_uint_t                        ncut;
    ngx_idem_override_t               override;
    ngx_chain_t                      *lent;
    ngx_http_idempotency_multipart_t *multipart;
    ngx_http_idempotency_response_t   response;

    unsigned                          anonymous:1;
    unsigned                          again:1;  /* it was unknown, and is run
                                                   once more */
    unsigned                          changed:1;
    unsigned                          recursive:1;
    unsigned                          body_first:1;
    unsigned                          fed:1;
    unsigned                          waited:1;
    unsigned                          behind:1;
    unsigned                          last_try:1;
    unsigned                          handled:1;
    unsigned                          unasked:1;
    unsigned                          ending:1;
    unsigned                          streaming:1;
    unsigned                          dropped:1;
    unsigned                          gone:1;
} ngx_http_idempotency_ctx_t;


/* ngx_http_idempotency_handler.c: the phases and the claim */

ngx_int_t ngx_http_idempotency_preaccess_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_idempotency_access_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_idempotency_precontent_handler(ngx_http_request_t *r);

/*
 * The context of a request, also after an internal redirect, which forgets
 * the contexts of all modules.  NULL if idempotency does not apply.
 */
ngx_http_idempotency_ctx_t *ngx_http_idempotency_ctx(ngx_http_request_t *r);

/* NULL: no memory. */
ngx_http_idempotency_ctx_t *ngx_http_idempotency_create_ctx(
    ngx_http_request_t *r, ngx_http_idempotency_loc_conf_t *ilcf);

/* The one function that assigns ctx->state. */
void ngx_http_idempotency_move(ngx_http_idempotency_ctx_t *ctx,
    ngx_http_idempotency_state_e state);

/* Says once what the request got: counter and $idempotency_status. */
void ngx_http_idempotency_tell(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_stat_e told);


/* Parks the request in its phase: only the client's leaving ends it. */
ngx_int_t ngx_http_idempotency_attend(ngx_http_request_t *r);

/* Answers with a problem; a dry run only says what it would have been. */
ngx_int_t ngx_http_idempotency_refuse(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_stat_e why);

/* The claim is granted: once all guards are held, too, the request goes on. */
ngx_int_t ngx_http_idempotency_own(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* op->stored goes out. */
ngx_int_t ngx_http_idempotency_replay(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_check.c: what became of an earlier claim */

/*
 * The verdict was CHECK: asks by a subrequest, unless somebody else has done
 * so while this request waited.  Returns what a phase handler returns.
 */
ngx_int_t ngx_http_idempotency_check(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* The same when the request is entered again meanwhile, or after that. */
ngx_int_t ngx_http_idempotency_check_again(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* The context of the request that r asks for; NULL: r is no such subrequest. */
ngx_http_idempotency_ctx_t *ngx_http_idempotency_checker(
    ngx_http_request_t *r);

/* Its answer is collected, and sent to nobody. */
ngx_int_t ngx_http_idempotency_check_header(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
ngx_int_t ngx_http_idempotency_check_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in);

/* The unknown is what it was. */
void ngx_http_idempotency_put_back(ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_key.c: from the request to identity and terms */

/*
 * What a request has for a key.
 *
 *   NGX_OK        well formed, canonical bytes in *keys, one part after the
 *                 other
 *   NGX_DECLINED  none, and none is needed
 *   NGX_ERROR     out of memory
 *   NGX_HTTP_*    refused, *why says the reason
 *
 *   early  only what is known in the access phase is looked at
 */
ngx_int_t ngx_http_idempotency_key(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *keys, ngx_idem_stat_e *why,
    ngx_uint_t early);

/* The same for the scope; NGX_DECLINED does not occur. */
ngx_int_t ngx_http_idempotency_scope(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_array_t *scope);

/* SHA-256 over scope and keys, both arrays of ngx_str_t. */
ngx_int_t ngx_http_idempotency_identity(ngx_http_request_t *r,
    ngx_array_t *scope, ngx_array_t *keys, u_char *identity);

/* Whether the method is one of the location's. */
ngx_uint_t ngx_http_idempotency_method(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf);

/* NGX_OK: hands off.  NGX_DECLINED, NGX_ERROR. */
ngx_int_t ngx_http_idempotency_bypass(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf);


/* ngx_http_idempotency_fields.c: values from the request body */

char *ngx_http_idempotency_json(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_form(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

ngx_int_t ngx_http_idempotency_fields_init(ngx_cycle_t *cycle,
    ngx_http_idempotency_main_conf_t *imcf);

/*
 * Between these two, values are evaluated.  NGX_OK: they are what they are.
 * NGX_AGAIN: some depend on the body, which is not there yet; all are as if
 * nobody had asked for them.  NGX_ERROR: out of memory.
 */
void ngx_http_idempotency_watch(ngx_http_request_t *r);
ngx_int_t ngx_http_idempotency_missed(ngx_http_request_t *r);


/* ngx_http_idempotency_body.c: the request body and the fingerprint */

/* Hashes what stands in front of the body in a fingerprint. */
ngx_int_t ngx_http_idempotency_fingerprint_start(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/*
 * Reads the body whole and moves READING -> READY, or, if ctx->body_first says
 * that there is no fingerprint yet, back to SEEN.  Returns what a phase handler
 * returns: NGX_DONE, or NGX_HTTP_* to answer.
 */
ngx_int_t ngx_http_idempotency_read_body(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

void ngx_http_idempotency_request_body_filter_init(void);
void ngx_http_idempotency_digest_free(ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_capture.c: taking the answer */

void ngx_http_idempotency_filter_init(void);

/* A header begins: what was collected before is forgotten. */
void ngx_http_idempotency_response_init(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* Copies what a buffer has and consumes it.  NGX_ERROR: out of memory. */
ngx_int_t ngx_http_idempotency_append(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_buf_t *b);

/*
 * Whether the header tells nothing; whether the answer breaks off here;
 * whether it has come whole.
 */
ngx_uint_t ngx_http_idempotency_is_broken(ngx_http_request_t *r);
ngx_uint_t ngx_http_idempotency_is_cut(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_chain_t *in);
ngx_uint_t ngx_http_idempotency_is_whole(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* Whether somebody wants to know when the answer that passes is through. */
ngx_uint_t ngx_http_idempotency_is_passing(ngx_http_idempotency_ctx_t *ctx);

/*
 * The upstream has given all of an answer that passes: its claim ends, and so
 * do its guards, though the client may not have read it yet.
 */
void ngx_http_idempotency_all_said(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/*
 * The answer of the upstream broke off: what was taken of it is dropped.
 * Returns the status to finalize the request with.
 */
ngx_int_t ngx_http_idempotency_cut(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_outcome.c: how a claim ends */

/*
 * Reads X-Accel-Idempotency of the upstream whose header is here, or of a
 * content handler that is none.
 */
void ngx_http_idempotency_read_override(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* What is known of the upstreams, with the answer having come whole or not. */
void ngx_http_idempotency_evidence(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_uint_t complete,
    ngx_idem_evidence_t *ev);

/* What a claim would become by that. */
ngx_idem_fate_e ngx_http_idempotency_fate(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_uint_t complete, uint32_t *ttl_s);

/*
 * Completes or releases.  NGX_OK: the state is SETTLED, whether the store took
 * it or not.  NGX_AGAIN: the state is COMMITTING, and COMMITTED when the store
 * has answered.
 */
ngx_int_t ngx_http_idempotency_settle(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_fate_e fate, uint32_t ttl_s);

/* The same without waiting for an answer: the state is SETTLED. */
void ngx_http_idempotency_settle_now(ngx_http_idempotency_ctx_t *ctx,
    ngx_idem_fate_e fate, uint32_t ttl_s);

/* The store has answered what settle() has begun. */
void ngx_http_idempotency_committed(ngx_http_idempotency_ctx_t *ctx);

/* Keeps the claim while the request runs. */
void ngx_http_idempotency_renew_start(ngx_http_idempotency_ctx_t *ctx);

/* A cleanup of the request: gives back what the store still lends. */
void ngx_http_idempotency_cleanup(void *data);


/* ngx_http_idempotency_shield.c: the client may leave, the request goes on */

void ngx_http_idempotency_shield(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* Something is about to be sent: who is gone does not get it. */
void ngx_http_idempotency_unshield(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* A response that passes: its client may stop to read, too. */
void ngx_http_idempotency_guard_writer(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/* A response that passes has nobody who reads the rest of it. */
void ngx_http_idempotency_drop_rest(ngx_http_idempotency_ctx_t *ctx);

void ngx_http_idempotency_client_gone(ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_record.c: response <-> record */

/* Encodes the header fields as they stand now into ctx->response.fields. */
ngx_int_t ngx_http_idempotency_encode_fields(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/*
 * The length of a body that is at hand.  Kept as the upstream said if there
 * is no body to count (HEAD, 204, 304), unknown if trailers follow.
 */
void ngx_http_idempotency_set_length(ngx_http_request_t *r, size_t size);

/* Whether the length of the answer is not that of a body to come. */
ngx_uint_t ngx_http_idempotency_bodiless(ngx_http_request_t *r);

ngx_uint_t ngx_http_idempotency_count_fields(ngx_list_t *list);

/* A place in a list of fields; it begins with { &list->part, 0 }. */

typedef struct {
    ngx_list_part_t  *part;
    ngx_uint_t        i;
} ngx_http_idempotency_place_t;

/* The next field of that name that is not deleted; NULL: no more. */
ngx_table_elt_t *ngx_http_idempotency_next_field(
    ngx_http_idempotency_place_t *pl, ngx_str_t *name);

/* Adds a field to a list of headers or trailers; NULL: out of memory. */
ngx_table_elt_t *ngx_http_idempotency_add_field(ngx_list_t *list,
    ngx_str_t *name, ngx_str_t *value);

/* Puts start, fields, trailers and body into op->record and op->size. */
ngx_int_t ngx_http_idempotency_encode(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_replay.c, ngx_http_idempotency_reject.c */

/* Content handler: sends op->stored. */
ngx_int_t ngx_http_idempotency_replay_handler(ngx_http_request_t *r);

/* Adds the field that marks a replay. */
ngx_int_t ngx_http_idempotency_mark(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/*
 * Answers with the problem that ctx->told names.  Returns NGX_DONE after the
 * request was finalized, or the status if an error_page takes it over; a
 * phase handler returns that as it is.
 */
ngx_int_t ngx_http_idempotency_reject(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_directives.c */

extern ngx_command_t  ngx_http_idempotency_commands[];

/* An array of n ngx_http_complex_value_t; NULL after an error was logged. */
ngx_array_t *ngx_http_idempotency_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_uint_t n);

/* Adds a ngx_http_idempotency_part_t to the parts of a key. */
ngx_int_t ngx_http_idempotency_add_part(ngx_conf_t *cf, ngx_array_t *parts,
    ngx_str_t *value);


/* ngx_http_idempotency_acknowledge.c: a status in place of an answer */

/* Puts what a duplicate gets into op->record, in place of the response. */
void ngx_http_idempotency_acknowledge_record(ngx_http_idempotency_ctx_t *ctx);

/* Sends it.  Returns what a content handler returns. */
ngx_int_t ngx_http_idempotency_acknowledge(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

char *ngx_http_idempotency_acknowledge_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);


/* ngx_http_idempotency_token.c: one-time tokens */

/*
 * Whether the first part of the key is a token of the scope; its end is told
 * to the store.  NGX_OK, NGX_HTTP_FORBIDDEN or NGX_ERROR.
 */
ngx_int_t ngx_http_idempotency_token_check(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *keys, ngx_array_t *scope);

/* Seconds until it expires; 0: it has, or there is none. */
uint32_t ngx_http_idempotency_token_left_s(ngx_http_idempotency_ctx_t *ctx);

/* The header goes out now: with a fresh token, if one goes with it. */
void ngx_http_idempotency_token_renew(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

char *ngx_http_idempotency_token_secret(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_token_ttl(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_token_issue(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_token_required(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *ilcf);
void ngx_http_idempotency_token_unset(ngx_http_idempotency_token_conf_t *tc);
char *ngx_http_idempotency_merge_token(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);


/* ngx_http_idempotency_guard.c: what a request holds of resources */

/*
 * Takes all guards of the location, then the request is OWNED.  Entered again
 * when the store has answered.  Returns what a phase handler returns.
 */
ngx_int_t ngx_http_idempotency_guard(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);

/*
 * Nothing came of a claim, and nothing was sent: all is as it was before.  What
 * was unknown then is it now, and guards know no more than they did.
 */
void ngx_http_idempotency_give_up(ngx_http_idempotency_ctx_t *ctx);

/*
 * The claim has ended, as ctx->guards->fate says: so do those that are held.
 * NGX_AGAIN: committed() is called when the store has answered for all.
 */
ngx_int_t ngx_http_idempotency_guards_leave(ngx_http_idempotency_ctx_t *ctx);

/* The same without waiting, also for those that are only asked for. */
void ngx_http_idempotency_guards_let_go(ngx_http_idempotency_ctx_t *ctx);

void ngx_http_idempotency_guards_renew(ngx_http_idempotency_ctx_t *ctx);


/* ngx_http_idempotency_guard_conf.c: their directives */

char *ngx_http_idempotency_serialize(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_sequence(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_states(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_state(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_idempotency_version(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* All has been read: machines that were used must be there. */
char *ngx_http_idempotency_guards_end(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf);

void ngx_http_idempotency_guards_create(ngx_http_idempotency_loc_conf_t *conf);
void ngx_http_idempotency_guards_merge(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);

/* The line of a state; NULL: it leads nowhere, or is none. */
ngx_http_idempotency_place_of_t *ngx_http_idempotency_machine_find(
    const ngx_http_idempotency_machine_t *ma, const ngx_str_t *name);

/* Whether it lists that move; from an empty state: from the first one. */
ngx_uint_t ngx_http_idempotency_machine_moves(
    const ngx_http_idempotency_machine_t *ma, const ngx_str_t *from,
    ngx_str_t *to);


/* ngx_http_idempotency_redis.c: the directive and what it declares */

char *ngx_http_idempotency_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* A store on the Redis of that name, which may be declared later. */
ngx_idem_store_t *ngx_http_idempotency_redis_store(ngx_conf_t *cf,
    ngx_idem_store_t *near, ngx_str_t *name);

/* All has been read: what was used must be there. */
char *ngx_http_idempotency_redis_end(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf);


/* ngx_http_idempotency_status_redis.c: a member of a zone's, and its length */

size_t ngx_http_idempotency_status_redis_size(void);
u_char *ngx_http_idempotency_status_redis(u_char *p,
    ngx_idem_redis_stat_t *st);


/* ngx_http_idempotency_vars.c, _status.c, _conf.c, _process.c */

ngx_int_t ngx_http_idempotency_add_variables(ngx_conf_t *cf);
const ngx_str_t *ngx_http_idempotency_word(ngx_idem_stat_e told);
char *ngx_http_idempotency_status_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);

void *ngx_http_idempotency_create_main_conf(ngx_conf_t *cf);
char *ngx_http_idempotency_init_main_conf(ngx_conf_t *cf, void *conf);
void *ngx_http_idempotency_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_idempotency_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);

ngx_int_t ngx_http_idempotency_init_crypto(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf);
ngx_int_t ngx_http_idempotency_init_process(ngx_cycle_t *cycle);
void ngx_http_idempotency_exit_process(ngx_cycle_t *cycle);

/* Fills p with n random bytes that nobody can guess. */
ngx_int_t ngx_http_idempotency_random(ngx_http_idempotency_main_conf_t *imcf,
    u_char *p, size_t n);


/* Between spans of the core and strings of nginx; the bytes stay in place. */

static ngx_inline ngx_idem_span_t
ngx_http_idempotency_span(ngx_str_t *s)
{
    ngx_idem_span_t  span;

    span.data = s->data;
    span.len = s->len;

    return span;
}


static ngx_inline ngx_str_t
ngx_http_idempotency_str(ngx_idem_span_t *span)
{
    ngx_str_t  s;

    s.data = (u_char *) (uintptr_t) span->data;
    s.len = span->len;

    return s;
}


/* Names of fields compare without case. */

static ngx_inline ngx_uint_t
ngx_http_idempotency_same_name(ngx_str_t *a, ngx_str_t *b)
{
    return a->len == b->len
           && ngx_strncasecmp(a->data, b->data, a->len) == 0;
}


extern ngx_str_t     ngx_http_idempotency_override_name;
extern ngx_module_t  ngx_http_idempotency_module;


#endif /* _NGX_HTTP_IDEMPOTENCY_H_INCLUDED_ */
