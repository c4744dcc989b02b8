
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * What a client of Redis sees of nginx and of the net, played by a test
 * program: a clock and timers, posted events, connections whose other end the
 * test is, and a log that can be read.
 *
 * A turn of the event loop happens when the test calls turn(), time passes
 * when it calls later().
 */


#ifndef _NGX_IDEM_REDIS_WORLD_H_INCLUDED_
#define _NGX_IDEM_REDIS_WORLD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>

#include <stdarg.h>
#include <stdlib.h>

#include "store/ngx_idem_redis_tls.h"
#include "tap.h"


#define WORLD_PEERS   64
#define WORLD_TIMERS  64
#define WORLD_BYTES   (4 * 1024 * 1024)


/* A connection, and its other end: bytes that came, bytes that are to go. */

typedef struct {
    ngx_connection_t       c;
    ngx_event_t            read;
    ngx_event_t            write;
    char                   to[64];

    u_char                *in;
    size_t                 nin;
    size_t                 seen;
    u_char                *out;
    size_t                 nout;
    size_t                 gone;

    size_t                 chunk;           /* of one read, at most */
    size_t                 room;            /* for writes */
    ngx_uint_t             writes;
    unsigned               connecting:1;
    unsigned               eof:1;
    unsigned               deaf:1;          /* a write is an error */
    unsigned               closed:1;
} peer_t;


volatile ngx_msec_t        ngx_current_msec;
volatile ngx_time_t       *ngx_cached_time;
volatile ngx_cycle_t      *ngx_cycle;
ngx_queue_t                ngx_posted_events;
ngx_rbtree_t               ngx_event_timer_rbtree;
ngx_uint_t                 ngx_event_flags;
ngx_event_actions_t        ngx_event_actions;

static ngx_log_t           world_log;
static ngx_time_t          world_time;
static ngx_cycle_t         world_cycle;
static int                 world_fd;

static peer_t             *world_peers[WORLD_PEERS];
static ngx_uint_t          world_npeers;
static ngx_event_t        *world_timers[WORLD_TIMERS];
static ngx_uint_t          world_ntimers;
static char                world_said[65536];   /* the log */

/* what becomes of the next connections */

static ngx_int_t           world_connect;       /* NGX_OK, _AGAIN, _DECLINED */
static ngx_uint_t          world_dead;          /* so many fail before */
static ngx_uint_t          world_broken;        /* or all fail later */
static size_t              world_chunk;
static size_t              world_room;

static ngx_uint_t          world_memory;        /* the n-th is not there */


static inline void
world_start(void)
{
    world_log.log_level = NGX_LOG_DEBUG;
    world_cycle.log = &world_log;
    ngx_cycle = &world_cycle;

    world_time.sec = 1000;
    ngx_cached_time = &world_time;
    ngx_current_msec = 1000000;

    ngx_queue_init(&ngx_posted_events);

    world_fd = socket(AF_UNIX, SOCK_STREAM, 0);
}


/* All is quiet, and nothing is left of the test before. */

static inline void
world_begin(void)
{
    ngx_uint_t  i;

    for (i = 0; i < world_npeers; i++) {
        free(world_peers[i]->in);
        free(world_peers[i]->out);
        free(world_peers[i]);
    }

    world_npeers = 0;
    world_said[0] = '\0';

    world_connect = NGX_OK;
    world_dead = 0;
    world_broken = 0;
    world_chunk = WORLD_BYTES;
    world_room = WORLD_BYTES;
}


static inline ngx_event_t *
world_timer(void)
{
    ngx_uint_t    i;
    ngx_event_t  *ev;

    ev = NULL;

    for (i = 0; i < world_ntimers; i++) {
        if (ev == NULL || world_timers[i]->timer.key < ev->timer.key) {
            ev = world_timers[i];
        }
    }

    return ev;
}


/* How long until the next timer. */

static inline ngx_msec_t
world_next(void)
{
    ngx_event_t  *ev;

    ev = world_timer();

    return ev ? ev->timer.key - ngx_current_msec : 0;
}


/* Whether a worker that shuts down would stay. */

static inline ngx_uint_t
world_busy(void)
{
    ngx_uint_t  i, n;

    for (i = 0, n = 0; i < world_ntimers; i++) {
        n += !world_timers[i]->cancelable;
    }

    return n;
}


static inline void
world_post(void)
{
    ngx_event_t  *ev;

    while (!ngx_queue_empty(&ngx_posted_events)) {
        ev = ngx_queue_data(ngx_queue_head(&ngx_posted_events), ngx_event_t,
                            queue);
        ngx_delete_posted_event(ev);
        ev->handler(ev);
    }
}


/* The net says what it has to say, then what was posted is done. */

static inline void
turn(void)
{
    peer_t      *pr;
    ngx_uint_t   i;

    world_post();

    for (i = 0; i < world_npeers; i++) {
        pr = world_peers[i];

        if (!pr->closed && pr->connecting) {
            pr->connecting = 0;
            pr->write.ready = 1;
            pr->write.handler(&pr->write);
        }

        if (!pr->closed && pr->room && !pr->write.ready) {
            pr->write.ready = 1;
            pr->write.handler(&pr->write);
        }

        while (!pr->closed && (pr->gone < pr->nout || pr->eof)) {
            pr->read.ready = 1;
            pr->read.handler(&pr->read);
        }

        world_post();
    }
}


/* Time passes, and timers come when they are due. */

static inline void
later(ngx_msec_t ms)
{
    ngx_msec_t    end;
    ngx_event_t  *ev;

    end = ngx_current_msec + ms;

    for ( ;; ) {
        ev = world_timer();

        if (ev == NULL || ev->timer.key > end) {
            break;
        }

        ngx_current_msec = ngx_max(ngx_current_msec, ev->timer.key);
        world_time.sec = ngx_current_msec / 1000;

        ngx_event_del_timer(ev);
        ev->timedout = 1;
        ev->handler(ev);

        turn();
    }

    ngx_current_msec = end;
    world_time.sec = ngx_current_msec / 1000;
}


/* The connection that was made last. */

static inline peer_t *
peer(void)
{
    return world_peers[world_npeers - 1];
}


static inline void
say_bytes(peer_t *pr, const void *p, size_t n)
{
    memcpy(pr->out + pr->nout, p, n);
    pr->nout += n;
}


static inline void
say(peer_t *pr, const char *text)
{
    say_bytes(pr, text, strlen(text));
}


/* Blanks are ends of lines: "*1 :7" is a list with one number. */

static inline void
say_list(peer_t *pr, const char *text)
{
    for ( /* void */ ; *text; text++) {
        if (*text == ' ') {
            say(pr, "\r\n");

        } else {
            say_bytes(pr, text, 1);
        }
    }

    say(pr, "\r\n");
}


/* The next command that came, its words with blanks between; "" if none. */

static inline const char *
heard(peer_t *pr)
{
    char         *p, *end;
    long          i, n, len;
    static char   words[WORLD_BYTES + 1];

    words[0] = '\0';

    p = (char *) pr->in + pr->seen;
    end = (char *) pr->in + pr->nin;

    if (p == end || *p != '*') {
        return words;
    }

    n = strtol(p + 1, &p, 10);
    p += 2;

    for (i = 0; i < n && p < end; i++) {
        len = strtol(p + 1, &p, 10);
        p += 2;

        if (p + len + 2 > end) {
            words[0] = '\0';
            return words;
        }

        if (i) {
            strcat(words, " ");
        }

        strncat(words, p, (size_t) len);
        p += len + 2;
    }

    pr->seen = (size_t) (p - (char *) pr->in);

    return words;
}


static inline void
hears(peer_t *pr, const char *words, const char *why)
{
    const char  *got;

    got = heard(pr);

    if (!tap_ok(strcmp(got, words) == 0, why)) {
        printf("#      got: %s\n# expected: %s\n", got, words);
    }
}


/* nginx: memory */

static inline void *
world_alloc(size_t size)
{
    if (world_memory && --world_memory == 0) {
        return NULL;
    }

    return calloc(1, size);
}


void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    return world_alloc(size);
}


void *
ngx_calloc(size_t size, ngx_log_t *log)
{
    return world_alloc(size);
}


ngx_pool_t *
ngx_create_pool(size_t size, ngx_log_t *log)
{
    return world_alloc(sizeof(ngx_pool_t));
}


/* One block a pool is all that is asked for here. */

void *
ngx_palloc(ngx_pool_t *pool, size_t size)
{
    pool->current = world_alloc(size);

    return pool->current;
}


void
ngx_destroy_pool(ngx_pool_t *pool)
{
    free(pool->current);
    free(pool);
}


void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    return world_alloc(size);
}


/* nginx: text */

static inline u_char *
world_number(u_char *p, u_char *last, unsigned long long n)
{
    char    text[32];
    size_t  len;

    len = (size_t) sprintf(text, "%llu", n);
    len = ngx_min(len, (size_t) (last - p));

    return ngx_cpymem(p, text, len);
}


/* As much of it as is used here. */

static inline u_char *
world_format(u_char *p, u_char *last, const char *fmt, va_list args)
{
    ngx_str_t   *v;
    const char  *s;

    for ( /* void */ ; *fmt && p < last; fmt++) {

        if (*fmt != '%') {
            *p++ = (u_char) *fmt;
            continue;
        }

        switch (*++fmt) {

        case 'V':
            v = va_arg(args, ngx_str_t *);
            p = ngx_cpymem(p, v->data, ngx_min(v->len, (size_t) (last - p)));
            break;

        case 's':
            s = va_arg(args, const char *);
            p = ngx_cpymem(p, s, ngx_min(strlen(s), (size_t) (last - p)));
            break;

        case 'd':
            p = world_number(p, last, (unsigned) va_arg(args, int));
            break;

        case 'M':
            p = world_number(p, last, va_arg(args, ngx_msec_t));
            break;

        case 'u':
            fmt++;
            p = world_number(p, last, va_arg(args, size_t));
            break;
        }
    }

    return p;
}


u_char *
ngx_sprintf(u_char *buf, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    buf = world_format(buf, buf + 4096, fmt, args);
    va_end(args);

    return buf;
}


u_char *
ngx_snprintf(u_char *buf, size_t max, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    buf = world_format(buf, buf + max, fmt, args);
    va_end(args);

    return buf;
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    u_char   *p, *last;
    va_list   args;

    if (level == NGX_LOG_DEBUG) {
        return;
    }

    p = (u_char *) world_said + strlen(world_said);
    last = (u_char *) world_said + sizeof(world_said) - 2;

    va_start(args, fmt);
    p = world_format(p, last, fmt, args);
    va_end(args);

    if (log->handler) {
        p = log->handler(log, p, (size_t) (last - p));
    }

    *p++ = '\n';
    *p = '\0';
}


ngx_int_t
ngx_atoi(u_char *line, size_t n)
{
    ngx_int_t  value;

    for (value = 0; n--; line++) {

        if (*line < '0' || *line > '9') {
            return NGX_ERROR;
        }

        value = value * 10 + (*line - '0');
    }

    return value;
}


in_addr_t
ngx_inet_addr(u_char *text, size_t len)
{
    char            name[64];
    struct in_addr  addr;

    (void) snprintf(name, sizeof(name), "%.*s", (int) len, text);

    return inet_pton(AF_INET, name, &addr) == 1 ? addr.s_addr : INADDR_NONE;
}


ngx_int_t
ngx_inet6_addr(u_char *p, size_t len, u_char *addr)
{
    char  name[64];

    (void) snprintf(name, sizeof(name), "%.*s", (int) len, p);

    return inet_pton(AF_INET6, name, addr) == 1 ? NGX_OK : NGX_ERROR;
}


void
ngx_inet_set_port(struct sockaddr *sa, in_port_t port)
{
    ngx_sockaddr_t  *any;

    any = (ngx_sockaddr_t *) sa;

    if (sa->sa_family == AF_INET6) {
        any->sockaddr_in6.sin6_port = htons(port);

    } else {
        any->sockaddr_in.sin_port = htons(port);
    }
}


size_t
ngx_sock_ntop(struct sockaddr *sa, socklen_t socklen, u_char *text, size_t len,
    ngx_uint_t port)
{
    int              n;
    char             name[64];
    ngx_sockaddr_t  *any;

    any = (ngx_sockaddr_t *) sa;

    if (sa->sa_family == AF_INET6) {
        (void) inet_ntop(AF_INET6, &any->sockaddr_in6.sin6_addr, name, 64);
        n = snprintf((char *) text, len, port ? "[%s]:%d" : "%s", name,
                     (int) ntohs(any->sockaddr_in6.sin6_port));
        return (size_t) n;
    }

    (void) inet_ntop(AF_INET, &any->sockaddr_in.sin_addr, name, 64);
    n = snprintf((char *) text, len, port ? "%s:%d" : "%s", name,
                 (int) ntohs(any->sockaddr_in.sin_port));

    return (size_t) n;
}


/* nginx: events */

void
ngx_rbtree_insert(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    world_timers[world_ntimers++] = (ngx_event_t *)
                         ((u_char *) node - offsetof(ngx_event_t, timer));
}


void
ngx_rbtree_delete(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    ngx_uint_t  i;

    for (i = 0; i < world_ntimers; i++) {
        if (&world_timers[i]->timer == node) {
            world_timers[i] = world_timers[--world_ntimers];
            return;
        }
    }
}


ngx_int_t
ngx_handle_read_event(ngx_event_t *rev, ngx_uint_t flags)
{
    return NGX_OK;
}


ngx_int_t
ngx_handle_write_event(ngx_event_t *wev, size_t lowat)
{
    return NGX_OK;
}


/* nginx: connections */

static inline ssize_t
world_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t   n;
    peer_t  *pr;

    pr = (peer_t *) c;
    n = ngx_min(ngx_min(size, pr->chunk), pr->nout - pr->gone);

    memcpy(buf, pr->out + pr->gone, n);
    pr->gone += n;

    if (n == 0) {
        c->read->ready = 0;
        return pr->eof ? 0 : NGX_AGAIN;
    }

    return (ssize_t) n;
}


static inline ssize_t
world_send(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t   n;
    peer_t  *pr;

    pr = (peer_t *) c;
    n = ngx_min(size, pr->room);

    if (pr->deaf) {
        return NGX_ERROR;
    }

    if (n < size) {
        c->write->ready = 0;
    }

    if (n == 0) {
        return NGX_AGAIN;
    }

    memcpy(pr->in + pr->nin, buf, n);
    pr->nin += n;
    pr->room -= n;
    pr->writes++;

    return (ssize_t) n;
}


ngx_int_t
ngx_event_get_peer(ngx_peer_connection_t *pc, void *data)
{
    return NGX_OK;
}


ngx_int_t
ngx_event_connect_peer(ngx_peer_connection_t *pc)
{
    peer_t  *pr;

    if (world_dead || world_connect == NGX_DECLINED) {
        world_dead -= (world_dead > 0);
        return NGX_DECLINED;
    }

    pr = calloc(1, sizeof(peer_t));
    pr->in = malloc(WORLD_BYTES);
    pr->out = malloc(WORLD_BYTES);

    (void) snprintf(pr->to, sizeof(pr->to), "%.*s", (int) pc->name->len,
                    pc->name->data);

    pr->chunk = world_chunk;
    pr->room = world_room;
    pr->connecting = (world_connect == NGX_AGAIN);

    pr->c.fd = world_broken ? -1 : world_fd;
    pr->c.read = &pr->read;
    pr->c.write = &pr->write;
    pr->c.recv = world_recv;
    pr->c.send = world_send;
    pr->c.log = pc->log;
    pr->read.data = pr;
    pr->read.log = pc->log;
    pr->write.data = pr;
    pr->write.log = pc->log;
    pr->write.ready = !pr->connecting;

    pc->connection = &pr->c;
    world_peers[world_npeers++] = pr;

    return world_connect;
}


void
ngx_close_connection(ngx_connection_t *c)
{
    peer_t  *pr;

    pr = (peer_t *) c;
    pr->closed = 1;

    if (c->read->posted) {
        ngx_delete_posted_event(c->read);
    }

    if (c->write->posted) {
        ngx_delete_posted_event(c->write);
    }
}


ngx_int_t
ngx_tcp_nodelay(ngx_connection_t *c)
{
    return NGX_OK;
}


ngx_int_t
ngx_connection_error(ngx_connection_t *c, ngx_err_t err, char *text)
{
    return NGX_ERROR;
}


/* TLS is nginx's, and tried with a real server */

ngx_int_t
ngx_idem_redis_tls_start(ngx_connection_t *c, void *ssl,
    const ngx_str_t *name, ngx_connection_handler_pt handler)
{
    return NGX_ERROR;
}


ngx_int_t
ngx_idem_redis_tls_verify(ngx_connection_t *c, const ngx_str_t *name)
{
    return NGX_ERROR;
}


void
ngx_idem_redis_tls_free(ngx_connection_t *c)
{
    /* void */
}


/* There is one process. */

void
ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    (void) mtx;
}


void
ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    (void) mtx;
}


#endif /* _NGX_IDEM_REDIS_WORLD_H_INCLUDED_ */
