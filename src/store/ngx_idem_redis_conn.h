
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * A client of Redis in one worker: commands go out, answers come in, nothing
 * ever blocks.
 *
 * hiredis formats commands and parses replies; sockets, timers, TLS, names
 * and events are nginx's.  There is one connection for each server, opened
 * when it is needed first, and commands are pipelined on it: those of one turn
 * of the event loop leave in one write.
 *
 * A command belongs to the client from send to its end, whatever becomes of
 * whoever asked: forget() only says that nobody wants to hear the end.
 *
 * When a connection breaks, or a reply is overdue (which makes the connection
 * useless, as replies come in order), each command that was sent on it ends as
 * LOST, once, and each that was not as REFUSED.  Then it is opened again after
 * a pause that grows from 50 ms to 2 s, with jitter; meanwhile commands are
 * REFUSED at once, so that nobody waits for a server that is not there.
 */


#ifndef _NGX_IDEM_REDIS_CONN_H_INCLUDED_
#define _NGX_IDEM_REDIS_CONN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_stat.h"


#define NGX_IDEM_REDIS_ARGS    8        /* of a script, at most */
#define NGX_IDEM_REDIS_VALUES  64       /* of a reply, at most */
#define NGX_IDEM_REDIS_BYTES   (64 * 1024 * 1024)
                                        /* of a command or a reply, at most */
#define NGX_IDEM_REDIS_RECORD  (NGX_IDEM_REDIS_BYTES - 64 * 1024)
                                        /* of a record in it, at most */


typedef enum {
    NGX_IDEM_REDIS_STANDALONE = 0,
    NGX_IDEM_REDIS_SENTINEL,
    NGX_IDEM_REDIS_CLUSTER
} ngx_idem_redis_mode_e;


/* What stands in the block "idempotency_redis name { ... }". */

typedef struct {
    ngx_str_t               name;
    ngx_array_t             servers;    /* ngx_url_t, parsed; sentinels or
                                           seeds if the mode says so */
    ngx_idem_redis_mode_e   mode;
    ngx_str_t               master;     /* sentinel: its name */
    ngx_str_t               user;
    ngx_str_t               password;
    ngx_uint_t              database;
    ngx_str_t               prefix;     /* of keys and channels */
    ngx_msec_t              connect_timeout;
    ngx_msec_t              timeout;    /* of a command */
    ngx_uint_t              wait_replicas;      /* 0: do not wait */
    ngx_msec_t              wait_timeout;
    ngx_flag_t              tls;
    void                   *ssl;        /* ngx_ssl_t *, if tls */
    ngx_str_t               tls_name;   /* empty: the name of the server */
} ngx_idem_redis_conf_t;


typedef struct ngx_idem_redis_client_s  ngx_idem_redis_client_t;
typedef struct ngx_idem_redis_cmd_s     ngx_idem_redis_cmd_t;
typedef struct ngx_idem_redis_sub_s     ngx_idem_redis_sub_t;


/* A script, embedded when the module is built; sha1 is made at start. */

typedef struct {
    const char  *name;
    const char  *text;
    size_t       len;
    u_char       sha1[40];              /* in hexadecimal digits */
} ngx_idem_redis_script_t;


/* How a command ended.  The counters are in the same order. */

typedef enum {
    NGX_IDEM_REDIS_REPLIED = 0,
    NGX_IDEM_REDIS_FAILED,              /* by an error reply: not done */
    NGX_IDEM_REDIS_REFUSED,             /* never sent: not done */
    NGX_IDEM_REDIS_LOST,                /* sent, no answer: perhaps done */
    NGX_IDEM_REDIS_TOO_FEW              /* done, but fewer replicas than
                                           asked for have acknowledged it */
} ngx_idem_redis_end_e;


/*
 * A reply: a list of values, as every script answers.  A value is a string of
 * bytes or an integer (then str.data is NULL).  Valid in the handler only.
 */

typedef struct {
    ngx_str_t    str;
    int64_t      integer;
} ngx_idem_redis_value_t;


typedef void (*ngx_idem_redis_handler_pt)(ngx_idem_redis_cmd_t *cmd);

struct ngx_idem_redis_cmd_s {

    /* set by the caller; script, key and args are copied by send() */

    ngx_idem_redis_script_t    *script;
    ngx_str_t                   key;        /* without the prefix */
    ngx_str_t                   args[NGX_IDEM_REDIS_ARGS];
    ngx_uint_t                  nargs;
    ngx_idem_redis_handler_pt   handler;
    void                       *data;
    unsigned                    wait:1;     /* for replicas, as configured */

    /* set when the handler is called */

    ngx_idem_redis_end_e        end;
    ngx_str_t                   error;      /* FAILED: its words */
    ngx_idem_redis_value_t     *values;     /* REPLIED, TOO_FEW */
    ngx_uint_t                  nvalues;

    void                       *slot;       /* the client's */
};


/* Somebody who wants to hear of a channel. */

struct ngx_idem_redis_sub_s {
    ngx_str_t                   channel;    /* without the prefix; stays the
                                               caller's, in place */
    void                      (*handler)(ngx_idem_redis_sub_t *sub);
    void                       *data;
    ngx_str_t                   message;    /* in the handler; empty: sure */

    ngx_queue_t                 queue;      /* the client's */
    uint64_t                    serial;
    unsigned                    sure:1;
};


/*
 * init_process: makes a client.  Connects to nobody yet.  NULL: out of
 * memory, was logged.
 */
ngx_idem_redis_client_t *ngx_idem_redis_client(ngx_cycle_t *cycle,
    ngx_idem_redis_conf_t *conf, ngx_idem_redis_stat_t *stat);

/* exit_process: closes everything; no handler is called any more. */
void ngx_idem_redis_close(ngx_idem_redis_client_t *rc);

/*
 * NGX_AGAIN: the handler comes exactly once, from the event loop, never from
 * inside send(), unless the command is forgotten before.  NGX_ERROR: refused
 * at once; the handler does not come.
 */
ngx_int_t ngx_idem_redis_send(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_cmd_t *cmd);

/* The command goes on; its handler will not be called, cmd may be freed. */
void ngx_idem_redis_forget(ngx_idem_redis_cmd_t *cmd);

/*
 * The handler is called after each message on the channel, and once when it
 * can be sure that no message is missed from now on (subscribed, or after the
 * connection was made anew): so it must look for itself each time.
 */
void ngx_idem_redis_subscribe(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_sub_t *sub);
void ngx_idem_redis_unsubscribe(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_sub_t *sub);

/* Commands without an end yet. */
ngx_uint_t ngx_idem_redis_pending(ngx_idem_redis_client_t *rc);


#endif /* _NGX_IDEM_REDIS_CONN_H_INCLUDED_ */
