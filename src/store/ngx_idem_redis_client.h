
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * What the files of the client share: the commands on their way (jobs), the
 * servers they go to (nodes), and how it is known which.
 */


#ifndef _NGX_IDEM_REDIS_CLIENT_H_INCLUDED_
#define _NGX_IDEM_REDIS_CLIENT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_conn.h"
#include "store/ngx_idem_redis_link.h"


#define NGX_IDEM_REDIS_SLOTS      16384
#define NGX_IDEM_REDIS_NODES      1000      /* of a cluster */
#define NGX_IDEM_REDIS_REDIRECTS  5         /* of one command */
#define NGX_IDEM_REDIS_PENDING    4096      /* of a node, or parked */
#define NGX_IDEM_REDIS_UNSAID     (8 * 1024 * 1024)
#define NGX_IDEM_REDIS_TICK       100       /* ms; for those that are parked */
#define NGX_IDEM_REDIS_ASK        200       /* ms; for the slots, at most */
#define NGX_IDEM_REDIS_BUCKETS    64        /* of subscribers */


typedef struct ngx_idem_redis_node_s  ngx_idem_redis_node_t;
typedef struct ngx_idem_redis_job_s   ngx_idem_redis_job_t;


/* An address that a server has told, and room for it. */

typedef struct {
    ngx_idem_redis_addr_t      addr;
    ngx_sockaddr_t             sockaddr;
    u_char                     name[NGX_SOCKADDR_STRLEN];
    u_char                     host[NGX_SOCKADDR_STRLEN];
} ngx_idem_redis_place_t;


/* A server that gets scripts. */

struct ngx_idem_redis_node_s {
    ngx_idem_redis_link_t      link;
    ngx_idem_redis_client_t   *rc;
    ngx_idem_redis_place_t     place;       /* if it was told */
    ngx_queue_t                queue;       /* of rc->nodes */

    /*
     * Jobs whose scripts were said and that replicas have to acknowledge.
     * There is one WAIT at a time: it speaks for all scripts before it, and
     * the server does nothing else meanwhile.
     */

    ngx_queue_t                acks;
    ngx_idem_redis_item_t      wait;
    unsigned                   waiting:1;
    unsigned                   used:1;      /* a slot is there */
};


/* A command from send to its end. */

struct ngx_idem_redis_job_s {
    ngx_idem_redis_item_t      item;
    ngx_idem_redis_item_t      asking;
    ngx_idem_redis_client_t   *rc;
    ngx_idem_redis_node_t     *node;        /* where it was said last */
    ngx_idem_redis_cmd_t      *cmd;         /* NULL: forgotten */
    ngx_idem_redis_script_t   *script;
    ngx_idem_redis_reply_t    *reply;
    ngx_queue_t                queue;       /* of node->acks or rc->parked */
    ngx_msec_t                 deadline;
    ngx_uint_t                 nargs;
    ngx_uint_t                 slot;
    ngx_uint_t                 redirects;
    ngx_str_t                  bytes;       /* EVALSHA */
    ngx_str_t                  eval;        /* EVAL, once it was needed */
    unsigned                   wait:1;
};


/* Who hears of channels; a connection of its own. */

typedef struct {
    ngx_idem_redis_link_t      link;
    ngx_idem_redis_client_t   *rc;
    ngx_queue_t                buckets[NGX_IDEM_REDIS_BUCKETS];
    ngx_queue_t                told;        /* those about to be called */
    ngx_uint_t                 n;
    uint64_t                   serial;
} ngx_idem_redis_subs_t;


struct ngx_idem_redis_client_s {
    ngx_idem_redis_conf_t     *conf;
    ngx_idem_redis_stat_t     *stat;
    ngx_log_t                 *log;
    ngx_pool_t                *pool;        /* of the cycle */
    ngx_idem_redis_addr_t     *addrs;       /* of conf->servers */
    ngx_uint_t                 naddrs;
    ngx_msec_t                 timeout;     /* of an item: with the WAIT that
                                               may be in front of it */
    ngx_str_t                  wait;        /* the commands */
    ngx_str_t                  asking;

    ngx_uint_t                 pending;
    ngx_queue_t                parked;      /* jobs that cannot be said now */
    ngx_uint_t                 nparked;
    ngx_event_t                tick;
    ngx_connection_t           dummy;       /* of the tick */

    ngx_idem_redis_node_t     *home;        /* the server, or the master */
    ngx_idem_redis_node_t    **slots;       /* of a cluster */
    ngx_queue_t                nodes;       /* of a cluster */
    ngx_uint_t                 nnodes;

    ngx_idem_redis_link_t      scout;       /* asks sentinels or seeds */
    ngx_idem_redis_item_t      question;
    ngx_idem_redis_item_t      listening;   /* SUBSCRIBE +switch-master */
    ngx_msec_t                 asked;
    ngx_uint_t                 unanswered;  /* in a row */

    ngx_idem_redis_subs_t      subs;

    unsigned                   known:1;     /* the master, or the slots */
    unsigned                   inquiring:1; /* the question is out */
    unsigned                   closed:1;
};


/* A link of a client: what all of them have. */
void ngx_idem_redis_link_of(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_link_t *link);

/* A node without an address.  NULL: no memory. */
ngx_idem_redis_node_t *ngx_idem_redis_node(ngx_idem_redis_client_t *rc);
void ngx_idem_redis_node_free(ngx_idem_redis_node_t *node);

/*
 * Says a job on a node.  NGX_ERROR: refused, the job is the caller's still.
 * asking: it was sent there for this once.
 */
ngx_int_t ngx_idem_redis_job_say(ngx_idem_redis_job_t *job,
    ngx_idem_redis_node_t *node, ngx_uint_t asking);

/* Keeps a job until its deadline; it is tried again from time to time. */
void ngx_idem_redis_job_park(ngx_idem_redis_job_t *job);

/* From the event loop: tries those that are parked now. */
void ngx_idem_redis_unpark(ngx_idem_redis_client_t *rc);


/* NGX_ERROR: no memory. */
ngx_int_t ngx_idem_redis_route_init(ngx_idem_redis_client_t *rc);
void ngx_idem_redis_route_close(ngx_idem_redis_client_t *rc);

/*
 * NGX_OK: *node is where commands for the slot go; NGX_AGAIN: somebody was
 * asked, park it; NGX_ERROR: nobody can be asked now.  Calls no handler of
 * commands.
 */
ngx_int_t ngx_idem_redis_route(ngx_idem_redis_client_t *rc, ngx_uint_t slot,
    ngx_idem_redis_node_t **node);

/*
 * What an error reply means for where commands go.  NGX_OK: the job goes on;
 * NGX_DECLINED: it has failed; NGX_ERROR: it was not done, and nobody else can
 * be asked.
 */
ngx_int_t ngx_idem_redis_redirect(ngx_idem_redis_job_t *job,
    const ngx_str_t *words);

/* Asks the next sentinel or seed, unless that is under way. */
void ngx_idem_redis_ask(ngx_idem_redis_client_t *rc);

/* The scout's answer is of no use: the next one is asked, or all later. */
void ngx_idem_redis_ask_next(ngx_idem_redis_client_t *rc, const char *why);

/*
 * A server as others tell of it.  No host: the one that told it.  NGX_ERROR:
 * no IP address, or no port.
 */
ngx_int_t ngx_idem_redis_place(ngx_idem_redis_place_t *pl,
    const ngx_str_t *host, ngx_int_t port, const ngx_idem_redis_addr_t *who);

/* They point into themselves: they are not assigned. */
ngx_uint_t ngx_idem_redis_place_same(const ngx_idem_redis_place_t *one,
    const ngx_idem_redis_place_t *two);
void ngx_idem_redis_place_copy(ngx_idem_redis_place_t *to,
    const ngx_idem_redis_place_t *from);


/* NGX_ERROR: no memory. */
ngx_int_t ngx_idem_redis_cluster_init(ngx_idem_redis_client_t *rc);
void ngx_idem_redis_cluster_close(ngx_idem_redis_client_t *rc);

/* The reply to CLUSTER SLOTS. */
void ngx_idem_redis_cluster_answer(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *reply);

/* As ngx_idem_redis_redirect(). */
ngx_int_t ngx_idem_redis_cluster_redirect(ngx_idem_redis_job_t *job,
    const ngx_str_t *words);

/* Which slot of a cluster a key belongs to. */
ngx_uint_t ngx_idem_redis_cluster_slot(const u_char *p, size_t len);


void ngx_idem_redis_subs_init(ngx_idem_redis_client_t *rc);

/* Another server is to be asked now. */
void ngx_idem_redis_subs_move(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_addr_t *addr);


#endif /* _NGX_IDEM_REDIS_CLIENT_H_INCLUDED_ */
