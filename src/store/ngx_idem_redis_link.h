
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * One connection to Redis: its socket, its greeting, what was said on it and
 * who waits for the reply.
 *
 *   state       what it means                  what ends it
 *   CLOSED      nobody needs it                an item: CONNECTING
 *   PAUSED      it failed                      the timer, or its owner who
 *                                              knows better: CONNECTING
 *   CONNECTING  TCP or TLS are at work         both done: GREETING; failed:
 *                                              the next address, or PAUSED
 *   GREETING    who we are was said            all answered: READY; refused or
 *                                              overdue: as above
 *   READY       items come and go              broken or overdue: PAUSED; left
 *                                              with nothing to do: CLOSED
 *
 * One timer, by state: the pause, the time to connect, the oldest item.  It
 * keeps a worker that shuts down alive only while there are items.
 */


#ifndef _NGX_IDEM_REDIS_LINK_H_INCLUDED_
#define _NGX_IDEM_REDIS_LINK_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>

#include "store/ngx_idem_redis_conn.h"
#include "store/ngx_idem_redis_wire.h"


#define NGX_IDEM_REDIS_PAUSE_MIN  50        /* ms; jitter included */
#define NGX_IDEM_REDIS_PAUSE_MAX  2000
#define NGX_IDEM_REDIS_OUT        32768
#define NGX_IDEM_REDIS_GREETINGS  3         /* AUTH, SELECT, ROLE or PING */


typedef enum {
    NGX_IDEM_REDIS_CLOSED = 0,
    NGX_IDEM_REDIS_PAUSED,
    NGX_IDEM_REDIS_CONNECTING,
    NGX_IDEM_REDIS_GREETING,
    NGX_IDEM_REDIS_READY
} ngx_idem_redis_state_e;


typedef struct ngx_idem_redis_link_s  ngx_idem_redis_link_t;
typedef struct ngx_idem_redis_item_s  ngx_idem_redis_item_t;


/* A server.  Bytes of a sockaddr that have no meaning are zero. */

typedef struct {
    struct sockaddr                *sockaddr;
    socklen_t                       socklen;
    ngx_str_t                       name;       /* with the port, for logs */
    ngx_str_t                       host;       /* for its certificate */
} ngx_idem_redis_addr_t;


/*
 * Something that is said and has one reply.  reply NULL: there will be none.
 * The handler may keep the reply, if it puts NULL into its place.
 */

typedef void (*ngx_idem_redis_item_pt)(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);

struct ngx_idem_redis_item_s {

    /* set by its owner, who keeps all of it in place until the end */

    ngx_str_t                       bytes;
    ngx_msec_t                      timeout;
    ngx_idem_redis_item_pt          handler;
    void                           *data;

    /* the link's */

    ngx_queue_t                     queue;
    uint64_t                        start;      /* in all that was said */
    uint64_t                        said_us;    /* when, if timed */
    ngx_msec_t                      deadline;
    unsigned                        timed:1;    /* owner: a round trip */
    unsigned                        begun:1;
    unsigned                        sent:1;     /* at its end: perhaps seen */
};


struct ngx_idem_redis_link_s {

    /* set by its owner, before anything is called */

    const ngx_idem_redis_conf_t    *conf;
    ngx_idem_redis_stat_t          *stat;
    ngx_idem_redis_addr_t          *addrs;      /* tried in turn */
    ngx_uint_t                      naddrs;
    void                           *data;

    void                          (*changed)(ngx_idem_redis_link_t *link);
                                                /* READY, or broken; no NULL */
    void                          (*resume)(ngx_idem_redis_link_t *link);
                                                /* instead of the end of a
                                                   pause; NULL: open again */
    ngx_int_t                     (*push)(ngx_idem_redis_link_t *link,
                                       const ngx_idem_redis_reply_t *reply);
                                                /* NGX_OK: it was a message */

    /* the link's */

    ngx_idem_redis_state_e          state;
    ngx_idem_redis_addr_t          *addr;
    ngx_idem_redis_server_t        *server;     /* the same, if shown */
    ngx_uint_t                      at;         /* the next of addrs */
    ngx_uint_t                      tries;
    ngx_msec_t                      pause;

    ngx_peer_connection_t           peer;
    ngx_pool_t                     *pool;
    ngx_idem_redis_reader_t        *reader;
    ngx_event_t                     timer;
    ngx_connection_t                dummy;      /* of the timer */
    ngx_log_t                       log;
    time_t                          logged;
    const char                     *leaving;    /* why */

    ngx_queue_t                     items;      /* said in this order */
    ngx_queue_t                     waiting;    /* for READY */
    ngx_queue_t                    *next;       /* of items, to be said */
    ngx_uint_t                      nitems;     /* of both */
    size_t                          unsaid;     /* bytes of both */
    size_t                          offset;     /* into the next one */

    u_char                         *out;
    u_char                         *pos;
    u_char                         *last;
    uint64_t                        filled;     /* bytes that went into out */
    uint64_t                        exposed;    /* that may have left */

    ngx_idem_redis_item_t           greetings[NGX_IDEM_REDIS_GREETINGS];
    ngx_uint_t                      ngreetings;

    unsigned                        master:1;   /* owner: others are wrong */
    unsigned                        sentinel:1; /* owner: no data here */
    unsigned                        shown:1;    /* owner: in the counters */
    unsigned                        keep:1;     /* owner: not while idle only */
    unsigned                        welcome:1;  /* items while it opens */
    unsigned                        renew:1;
    unsigned                        failed:1;   /* and it was said */
};


/* What it was given is there. */
void ngx_idem_redis_link_init(ngx_idem_redis_link_t *link, ngx_log_t *log);

/*
 * Opens it if it is CLOSED or PAUSED.  welcome: items may come meanwhile.
 * NGX_ERROR: PAUSED.  Calls no handler but changed.
 */
ngx_int_t ngx_idem_redis_link_open(ngx_idem_redis_link_t *link,
    ngx_uint_t welcome);

/*
 * Says an item, after those of before; opens the link if need be.  NGX_OK: its
 * handler will come, later.  NGX_ERROR: not now, it will not.
 */
ngx_int_t ngx_idem_redis_link_add(ngx_idem_redis_link_t *link,
    ngx_idem_redis_item_t *it);

/* Puts an item behind all others.  NGX_DECLINED: it is on its way. */
ngx_int_t ngx_idem_redis_link_last(ngx_idem_redis_link_t *link,
    ngx_idem_redis_item_t *it);

/*
 * Breaks it, soon, from the event loop.  why NULL: it is no failure.  renew:
 * it opens at the next address at once.
 */
void ngx_idem_redis_link_leave(ngx_idem_redis_link_t *link, const char *why,
    ngx_uint_t renew);

/*
 * CLOSED, now.  All items end.  Not to be called by a handler of its own
 * items.
 */
void ngx_idem_redis_link_close(ngx_idem_redis_link_t *link);

/*
 * What the greeting is made of: says an item whether the link is READY or not;
 * all is answered; the greeting itself, NGX_ERROR: no memory.
 */
void ngx_idem_redis_link_queue(ngx_idem_redis_link_t *link,
    ngx_idem_redis_item_t *it);
void ngx_idem_redis_link_ready(ngx_idem_redis_link_t *link);
ngx_int_t ngx_idem_redis_greet(ngx_idem_redis_link_t *link);

/* Logs what a server has said, but no more than one such line a second. */
void ngx_idem_redis_link_log(ngx_idem_redis_link_t *link, ngx_str_t *words);


#endif /* _NGX_IDEM_REDIS_LINK_H_INCLUDED_ */
