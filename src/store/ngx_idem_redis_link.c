
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>

#include "store/ngx_idem_redis_link.h"
#include "store/ngx_idem_redis_tls.h"


#define NGX_IDEM_REDIS_IN    16384
#define NGX_IDEM_REDIS_POOL  1024       /* of a connection: TLS mostly */


static void ngx_idem_redis_link_move(ngx_idem_redis_link_t *link,
    ngx_idem_redis_state_e state);
static void ngx_idem_redis_link_show(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_busy(ngx_idem_redis_link_t *link);

static ngx_int_t ngx_idem_redis_link_next(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_link_connect(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_meet(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_link_test(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_link_connected(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_tls_handler(ngx_connection_t *c);
static const ngx_str_t *ngx_idem_redis_link_name(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_link_talk(ngx_idem_redis_link_t *link);

static void ngx_idem_redis_link_read_handler(ngx_event_t *rev);
static ngx_int_t ngx_idem_redis_link_read(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_link_replies(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_write_handler(ngx_event_t *wev);
static ngx_int_t ngx_idem_redis_link_flush(ngx_idem_redis_link_t *link);
static size_t ngx_idem_redis_link_fill(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_timer_handler(ngx_event_t *ev);
static void ngx_idem_redis_link_overdue(ngx_idem_redis_link_t *link);
static ngx_uint_t ngx_idem_redis_link_wait(ngx_idem_redis_link_t *link);

static void ngx_idem_redis_link_break(ngx_idem_redis_link_t *link,
    const char *why);
static void ngx_idem_redis_link_count(ngx_idem_redis_link_t *link,
    const char *why);
static void ngx_idem_redis_link_pause(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_drop(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_reset(ngx_connection_t *c);
static void ngx_idem_redis_link_end_all(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_link_end(ngx_queue_t *items);
static ngx_uint_t ngx_idem_redis_link_may_log(ngx_idem_redis_link_t *link);
static u_char *ngx_idem_redis_link_log_handler(ngx_log_t *log, u_char *buf,
    size_t len);


static const char  ngx_idem_redis_link_late[] = "a reply is overdue";


void
ngx_idem_redis_link_init(ngx_idem_redis_link_t *link, ngx_log_t *log)
{
    ngx_queue_init(&link->items);
    ngx_queue_init(&link->waiting);
    link->next = &link->items;

    /* what nginx logs tells of whom */

    link->log = *log;
    link->log.handler = ngx_idem_redis_link_log_handler;
    link->log.data = link;
    link->log.action = NULL;

    /* a debug log of a timer prints the fd of its connection */

    link->dummy.data = link;
    link->dummy.fd = (ngx_socket_t) -1;

    link->timer.handler = ngx_idem_redis_link_timer_handler;
    link->timer.data = &link->dummy;
    link->timer.log = &link->log;
}


ngx_int_t
ngx_idem_redis_link_open(ngx_idem_redis_link_t *link, ngx_uint_t welcome)
{
    link->welcome = welcome;
    link->tries = link->naddrs;

    return ngx_idem_redis_link_next(link);
}


ngx_int_t
ngx_idem_redis_link_add(ngx_idem_redis_link_t *link,
    ngx_idem_redis_item_t *it)
{
    if (link->state == NGX_IDEM_REDIS_CLOSED
        && ngx_idem_redis_link_open(link, 1) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (link->state == NGX_IDEM_REDIS_PAUSED
        || (link->state != NGX_IDEM_REDIS_READY && !link->welcome))
    {
        return NGX_ERROR;
    }

    it->begun = 0;
    it->sent = 0;

    link->nitems++;
    link->unsaid += it->bytes.len;

    if (link->state == NGX_IDEM_REDIS_READY) {
        ngx_idem_redis_link_queue(link, it);

    } else {
        ngx_queue_insert_tail(&link->waiting, &it->queue);
    }

    ngx_idem_redis_link_busy(link);

    return NGX_OK;
}


void
ngx_idem_redis_link_queue(ngx_idem_redis_link_t *link,
    ngx_idem_redis_item_t *it)
{
    ngx_queue_insert_tail(&link->items, &it->queue);

    if (link->next == &link->items) {
        link->next = &it->queue;
    }

    it->deadline = ngx_current_msec + it->timeout;

    if (it->timed) {
        it->said_us = ngx_idem_redis_stat_clock();
    }

    if (!link->timer.timer_set) {
        ngx_add_timer(&link->timer, it->timeout);
    }

    ngx_post_event(link->peer.connection->write, &ngx_posted_events);
}


ngx_int_t
ngx_idem_redis_link_last(ngx_idem_redis_link_t *link,
    ngx_idem_redis_item_t *it)
{
    if (it->begun) {
        return NGX_DECLINED;
    }

    if (link->next == &it->queue) {
        link->next = ngx_queue_next(&it->queue);
    }

    ngx_queue_remove(&it->queue);

    if (link->state == NGX_IDEM_REDIS_READY) {
        ngx_idem_redis_link_queue(link, it);

    } else {
        ngx_queue_insert_tail(&link->waiting, &it->queue);
    }

    return NGX_OK;
}


void
ngx_idem_redis_link_leave(ngx_idem_redis_link_t *link, const char *why,
    ngx_uint_t renew)
{
    if (link->state != NGX_IDEM_REDIS_READY) {
        return;
    }

    if (renew) {
        link->renew = 1;
    }

    if (link->leaving) {
        return;
    }

    link->leaving = why ? why : "";

    ngx_post_event(link->peer.connection->read, &ngx_posted_events);
}


void
ngx_idem_redis_link_close(ngx_idem_redis_link_t *link)
{
    ngx_idem_redis_link_drop(link);

    /* whoever hears of it cannot open it meanwhile */

    ngx_idem_redis_link_move(link, NGX_IDEM_REDIS_PAUSED);
    ngx_idem_redis_link_end_all(link);
    ngx_idem_redis_link_move(link, NGX_IDEM_REDIS_CLOSED);
}


static void
ngx_idem_redis_link_move(ngx_idem_redis_link_t *link,
    ngx_idem_redis_state_e state)
{
    ngx_log_debug2(NGX_LOG_DEBUG_EVENT, &link->log, 0,
                   "idempotency redis link: %d -> %d", link->state, state);

    /* from one address to the next the time goes on */

    if (link->timer.timer_set
        && (state == NGX_IDEM_REDIS_CLOSED || state == NGX_IDEM_REDIS_PAUSED
            || state == NGX_IDEM_REDIS_READY
            || link->state == NGX_IDEM_REDIS_PAUSED))
    {
        ngx_del_timer(&link->timer);
    }

    link->state = state;

    ngx_idem_redis_link_show(link);
    ngx_idem_redis_link_busy(link);
}


/* What people are told of it. */

static void
ngx_idem_redis_link_show(ngx_idem_redis_link_t *link)
{
    static const ngx_idem_redis_presence_e  presences[] = {
        NGX_IDEM_REDIS_UNUSED,                  /* CLOSED */
        NGX_IDEM_REDIS_AWAY,                    /* PAUSED */
        NGX_IDEM_REDIS_OPENING,                 /* CONNECTING */
        NGX_IDEM_REDIS_OPENING,                 /* GREETING */
        NGX_IDEM_REDIS_THERE                    /* READY */
    };

    if (link->server) {
        ngx_idem_redis_stat_presence(link->stat, link->server,
                                     presences[link->state]);
    }
}


/* Whether a worker that shuts down has to wait for it. */

static void
ngx_idem_redis_link_busy(ngx_idem_redis_link_t *link)
{
    link->timer.cancelable = (link->nitems == 0);

    if (link->state == NGX_IDEM_REDIS_READY) {
        link->peer.connection->idle = (link->nitems == 0 && !link->keep);
    }
}


/* The next address that does not fail at once. */

static ngx_int_t
ngx_idem_redis_link_next(ngx_idem_redis_link_t *link)
{
    while (link->tries) {
        link->tries--;
        link->addr = &link->addrs[link->at++ % link->naddrs];

        if (ngx_idem_redis_link_connect(link) == NGX_OK) {
            return NGX_OK;
        }

        ngx_idem_redis_link_count(link, "cannot connect");
        ngx_idem_redis_link_drop(link);
    }

    ngx_idem_redis_link_pause(link);

    return NGX_ERROR;
}


static ngx_int_t
ngx_idem_redis_link_connect(ngx_idem_redis_link_t *link)
{
    ngx_int_t               rc;
    ngx_connection_t       *c;
    ngx_peer_connection_t  *pc;

    ngx_idem_redis_link_meet(link);
    ngx_idem_redis_link_move(link, NGX_IDEM_REDIS_CONNECTING);

    if (!link->timer.timer_set) {
        ngx_add_timer(&link->timer, link->conf->connect_timeout);
    }

    link->pool = ngx_create_pool(NGX_IDEM_REDIS_POOL, &link->log);
    if (link->pool == NULL) {
        return NGX_ERROR;
    }

    link->out = ngx_palloc(link->pool, NGX_IDEM_REDIS_OUT);
    if (link->out == NULL) {
        return NGX_ERROR;
    }

    pc = &link->peer;

    ngx_memzero(pc, sizeof(ngx_peer_connection_t));

    pc->sockaddr = link->addr->sockaddr;
    pc->socklen = link->addr->socklen;
    pc->name = &link->addr->name;
    pc->get = ngx_event_get_peer;
    pc->log = &link->log;
    pc->log_error = NGX_ERROR_ERR;
    pc->so_keepalive = 1;

    rc = ngx_event_connect_peer(pc);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return NGX_ERROR;
    }

    c = pc->connection;

    c->data = link;
    c->pool = link->pool;
    c->read->handler = ngx_idem_redis_link_read_handler;
    c->write->handler = ngx_idem_redis_link_write_handler;

    return (rc == NGX_OK) ? ngx_idem_redis_link_connected(link) : NGX_OK;
}


/* The server whose turn it is, in the counters. */

static void
ngx_idem_redis_link_meet(ngx_idem_redis_link_t *link)
{
    if (!link->shown) {
        return;
    }

    if (link->server) {
        ngx_idem_redis_stat_presence(link->stat, link->server,
                                     NGX_IDEM_REDIS_UNUSED);
    }

    link->server = ngx_idem_redis_stat_server(link->stat, &link->addr->name);
    link->server->sentinel = link->sentinel;
}


static ngx_int_t
ngx_idem_redis_link_test(ngx_idem_redis_link_t *link)
{
    int                err;
    socklen_t          len;
    ngx_connection_t  *c;

    c = link->peer.connection;
    err = 0;
    len = sizeof(int);

#if (NGX_HAVE_KQUEUE)

    if (ngx_event_flags & NGX_USE_KQUEUE_EVENT) {

        if (c->write->pending_eof) {
            err = c->write->kq_errno;

        } else if (c->read->pending_eof) {
            err = c->read->kq_errno;
        }

    } else

#endif

    /* Solaris returns -1 and sets errno */

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err) {
        (void) ngx_connection_error(c, err, "connect() failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_link_connected(ngx_idem_redis_link_t *link)
{
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = link->peer.connection;

    if (ngx_tcp_nodelay(c) != NGX_OK) {
        return NGX_ERROR;
    }

    if (!link->conf->tls) {
        return ngx_idem_redis_link_talk(link);
    }

    rc = ngx_idem_redis_tls_start(c, link->conf->ssl,
                                  ngx_idem_redis_link_name(link),
                                  ngx_idem_redis_link_tls_handler);

    if (rc == NGX_OK) {
        rc = ngx_idem_redis_tls_verify(c, ngx_idem_redis_link_name(link));

        return (rc == NGX_OK) ? ngx_idem_redis_link_talk(link) : NGX_ERROR;
    }

    return (rc == NGX_AGAIN) ? NGX_OK : NGX_ERROR;
}


static void
ngx_idem_redis_link_tls_handler(ngx_connection_t *c)
{
    ngx_idem_redis_link_t  *link;

    link = c->data;

    if (ngx_idem_redis_tls_verify(c, ngx_idem_redis_link_name(link))
        != NGX_OK
        || ngx_idem_redis_link_talk(link) != NGX_OK)
    {
        ngx_idem_redis_link_break(link, "the TLS handshake failed");
    }
}


static const ngx_str_t *
ngx_idem_redis_link_name(ngx_idem_redis_link_t *link)
{
    return link->conf->tls_name.len ? &link->conf->tls_name
                                    : &link->addr->host;
}


static ngx_int_t
ngx_idem_redis_link_talk(ngx_idem_redis_link_t *link)
{
    ngx_connection_t  *c;

    c = link->peer.connection;

    c->read->handler = ngx_idem_redis_link_read_handler;
    c->write->handler = ngx_idem_redis_link_write_handler;

    link->reader = ngx_idem_redis_reader();
    if (link->reader == NULL) {
        return NGX_ERROR;
    }

    ngx_idem_redis_link_move(link, NGX_IDEM_REDIS_GREETING);

    return ngx_idem_redis_greet(link);
}


void
ngx_idem_redis_link_ready(ngx_idem_redis_link_t *link)
{
    ngx_queue_t            *q;
    ngx_idem_redis_item_t  *it;

    if (link->failed) {
        ngx_log_error(NGX_LOG_NOTICE, &link->log, 0,
                      "idempotency: redis \"%V\" is there again",
                      &link->conf->name);
    }

    if (link->server) {
        (void) ngx_atomic_fetch_add(&link->server->connects, 1);
    }

    link->failed = 0;

    ngx_idem_redis_link_move(link, NGX_IDEM_REDIS_READY);

    while (!ngx_queue_empty(&link->waiting)) {
        q = ngx_queue_head(&link->waiting);
        ngx_queue_remove(q);

        it = ngx_queue_data(q, ngx_idem_redis_item_t, queue);
        ngx_idem_redis_link_queue(link, it);
    }

    link->changed(link);
}


/* Also called with nothing to read: when nginx closes what is idle. */

static void
ngx_idem_redis_link_read_handler(ngx_event_t *rev)
{
    ngx_connection_t       *c;
    ngx_idem_redis_link_t  *link;

    c = rev->data;
    link = c->data;

    if (link->state == NGX_IDEM_REDIS_CONNECTING) {
        ngx_idem_redis_link_write_handler(c->write);
        return;
    }

    if (c->close && c->idle && !link->leaving) {
        link->leaving = "";
    }

    if (link->leaving == NULL && ngx_idem_redis_link_read(link) == NGX_OK) {
        ngx_idem_redis_link_busy(link);
        return;
    }

    ngx_idem_redis_link_break(link, link->leaving);
}


static ngx_int_t
ngx_idem_redis_link_read(ngx_idem_redis_link_t *link)
{
    u_char             buf[NGX_IDEM_REDIS_IN];
    ssize_t            n;
    ngx_connection_t  *c;

    c = link->peer.connection;

    do {
        n = c->recv(c, buf, NGX_IDEM_REDIS_IN);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == 0 || n == NGX_ERROR) {

            /* a server may close what has been idle for long */

            link->leaving = (n == 0 && c->idle) ? "" : "the connection broke";
            return NGX_ERROR;
        }

        if (ngx_idem_redis_reader_feed(link->reader, buf, n) != NGX_OK) {
            link->leaving = "a reply is too long";
            return NGX_ERROR;
        }

        if (ngx_idem_redis_link_replies(link) != NGX_OK) {
            return NGX_ERROR;
        }

    } while (c->read->ready);

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        link->leaving = "no read event";
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_link_replies(ngx_idem_redis_link_t *link)
{
    ngx_int_t                rc;
    ngx_uint_t               ready;
    ngx_queue_t             *q;
    ngx_idem_redis_item_t   *it;
    ngx_idem_redis_reply_t  *reply;

    for ( ;; ) {
        rc = ngx_idem_redis_reader_next(link->reader, &reply);

        if (rc == NGX_AGAIN) {
            return NGX_OK;
        }

        if (rc == NGX_ERROR) {
            link->leaving = "this is not what Redis speaks";
            return NGX_ERROR;
        }

        q = ngx_queue_head(&link->items);

        if (link->push && link->push(link, reply) == NGX_OK) {
            /* void */

        } else if (q == &link->items || q == link->next) {
            link->leaving = "a reply to nothing";

        } else {
            it = ngx_queue_data(q, ngx_idem_redis_item_t, queue);
            ngx_queue_remove(q);

            ready = (link->state == NGX_IDEM_REDIS_READY);
            link->nitems -= ready;

            if (it->timed && link->server) {
                ngx_idem_redis_stat_trip(link->server, it->said_us);
            }

            it->handler(it, &reply);

            /* only one that is of use is not waited for longer and longer */

            if (ready && link->leaving == NULL) {
                link->pause = 0;
            }
        }

        if (reply) {
            ngx_idem_redis_reply_free(reply);
        }

        if (link->leaving) {
            return NGX_ERROR;
        }
    }
}


static void
ngx_idem_redis_link_write_handler(ngx_event_t *wev)
{
    ngx_connection_t       *c;
    ngx_idem_redis_link_t  *link;

    c = wev->data;
    link = c->data;

    if (link->state == NGX_IDEM_REDIS_CONNECTING) {

        if (ngx_idem_redis_link_test(link) != NGX_OK
            || ngx_idem_redis_link_connected(link) != NGX_OK)
        {
            ngx_idem_redis_link_break(link, "cannot connect");
        }

        return;
    }

    if (ngx_idem_redis_link_flush(link) != NGX_OK) {
        ngx_idem_redis_link_break(link, "the connection broke");
    }
}


static ngx_int_t
ngx_idem_redis_link_flush(ngx_idem_redis_link_t *link)
{
    ssize_t            n;
    ngx_connection_t  *c;

    c = link->peer.connection;

    while (c->write->ready) {

        if (link->pos == link->last && ngx_idem_redis_link_fill(link) == 0) {
            break;
        }

        /* TLS may have sent a part of it without saying so */

        if (link->conf->tls) {
            link->exposed = link->filled;
        }

        n = c->send(c, link->pos, link->last - link->pos);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n == NGX_AGAIN) {
            break;
        }

        link->pos += n;
        link->exposed = link->filled - (link->last - link->pos);
    }

    return ngx_handle_write_event(c->write, 0);
}


/*
 * TLS wants the same bytes at the same place again: so what is in the buffer
 * is sent before more comes in.
 */

static size_t
ngx_idem_redis_link_fill(ngx_idem_redis_link_t *link)
{
    u_char                 *p, *end;
    size_t                  n;
    ngx_idem_redis_item_t  *it;

    p = link->out;
    end = link->out + NGX_IDEM_REDIS_OUT;

    while (link->next != &link->items && p < end) {
        it = ngx_queue_data(link->next, ngx_idem_redis_item_t, queue);

        if (!it->begun) {
            it->begun = 1;
            it->start = link->filled;
        }

        n = ngx_min(it->bytes.len - link->offset, (size_t) (end - p));
        p = ngx_cpymem(p, it->bytes.data + link->offset, n);

        link->offset += n;
        link->filled += n;

        if (link->state == NGX_IDEM_REDIS_READY) {
            link->unsaid -= n;
        }

        if (link->offset == it->bytes.len) {
            link->offset = 0;
            link->next = ngx_queue_next(link->next);
        }
    }

    link->pos = link->out;
    link->last = p;

    return p - link->out;
}


static void
ngx_idem_redis_link_timer_handler(ngx_event_t *ev)
{
    ngx_connection_t       *c;
    ngx_idem_redis_link_t  *link;

    c = ev->data;
    link = c->data;

    switch (link->state) {

    case NGX_IDEM_REDIS_PAUSED:

        if (link->resume) {
            link->resume(link);
            break;
        }

        (void) ngx_idem_redis_link_open(link, 0);
        break;

    case NGX_IDEM_REDIS_CONNECTING:
    case NGX_IDEM_REDIS_GREETING:

        link->tries = 0;
        ngx_idem_redis_link_break(link, "it does not answer");
        break;

    case NGX_IDEM_REDIS_READY:

        ngx_idem_redis_link_overdue(link);
        break;

    case NGX_IDEM_REDIS_CLOSED:
        break;
    }
}


/*
 * It is not set anew with each item, so it may come too early.  And a worker
 * with much to do comes here before it comes to a reply that is there: nginx
 * does not know of it yet, so recv() is told to ask.
 */

static void
ngx_idem_redis_link_overdue(ngx_idem_redis_link_t *link)
{
    ngx_event_t  *rev;

    if (ngx_idem_redis_link_wait(link)) {
        return;
    }

    rev = link->peer.connection->read;
    rev->available = -1;

    if (ngx_idem_redis_link_read(link) != NGX_OK) {
        ngx_idem_redis_link_break(link, link->leaving);
        return;
    }

    ngx_idem_redis_link_busy(link);

    if (!ngx_idem_redis_link_wait(link)) {
        ngx_idem_redis_link_break(link, ngx_idem_redis_link_late);
    }
}


/* Sets the timer for the oldest item; 0: that one is overdue. */

static ngx_uint_t
ngx_idem_redis_link_wait(ngx_idem_redis_link_t *link)
{
    ngx_queue_t            *q;
    ngx_msec_int_t          left;
    ngx_idem_redis_item_t  *it;

    if (link->timer.timer_set || ngx_queue_empty(&link->items)) {
        return 1;
    }

    q = ngx_queue_head(&link->items);
    it = ngx_queue_data(q, ngx_idem_redis_item_t, queue);

    left = (ngx_msec_int_t) (it->deadline - ngx_current_msec);

    if (left > 0) {
        ngx_add_timer(&link->timer, (ngx_msec_t) left);
    }

    return left > 0;
}


/* why "": it has done what it was to do. */

static void
ngx_idem_redis_link_break(ngx_idem_redis_link_t *link, const char *why)
{
    ngx_uint_t  renew;

    ngx_idem_redis_link_count(link, why);

    if (*why && ngx_idem_redis_link_may_log(link)) {
        ngx_log_error(NGX_LOG_ERR, &link->log, 0,
                      "idempotency: redis \"%V\": %s, %ui pending",
                      &link->conf->name, why, link->nitems);
        link->failed = 1;
    }

    if (link->state != NGX_IDEM_REDIS_READY) {
        ngx_idem_redis_link_drop(link);
        (void) ngx_idem_redis_link_next(link);
        return;
    }

    renew = link->renew;

    if (link->nitems == 0 && !link->keep) {
        ngx_idem_redis_link_close(link);
        link->changed(link);

    } else {
        ngx_idem_redis_link_pause(link);
    }

    if (renew && (link->state == NGX_IDEM_REDIS_CLOSED
                  || link->state == NGX_IDEM_REDIS_PAUSED))
    {
        (void) ngx_idem_redis_link_open(link, 1);
    }
}


static void
ngx_idem_redis_link_count(ngx_idem_redis_link_t *link, const char *why)
{
    ngx_idem_redis_error_e  kind;

    if (*why == '\0') {
        return;
    }

    if (link->state != NGX_IDEM_REDIS_READY) {
        kind = NGX_IDEM_REDIS_ERROR_CONNECT;

    } else if (why == ngx_idem_redis_link_late) {
        kind = NGX_IDEM_REDIS_ERROR_TIMEOUT;

    } else {
        kind = NGX_IDEM_REDIS_ERROR_BROKEN;
    }

    ngx_idem_redis_stat_error(link->stat, kind);

    if (link->server) {
        (void) ngx_atomic_fetch_add(&link->server->failures, 1);
    }
}


static void
ngx_idem_redis_link_pause(ngx_idem_redis_link_t *link)
{
    ngx_msec_t  pause;

    pause = ngx_max(link->pause * 2, 2 * NGX_IDEM_REDIS_PAUSE_MIN);
    pause = ngx_min(pause, NGX_IDEM_REDIS_PAUSE_MAX);

    link->pause = pause;

    ngx_idem_redis_link_drop(link);
    ngx_idem_redis_link_move(link, NGX_IDEM_REDIS_PAUSED);

    ngx_add_timer(&link->timer, pause - ngx_random() % (pause / 2));

    ngx_idem_redis_link_end_all(link);

    link->changed(link);
}


/* Closes the socket.  Items stay, those of the greeting do not. */

static void
ngx_idem_redis_link_drop(ngx_idem_redis_link_t *link)
{
    ngx_queue_t            *q;
    ngx_connection_t       *c;
    ngx_idem_redis_item_t  *it;

    c = link->peer.connection;

    if (c) {
        if (!ngx_queue_empty(&link->items)) {
            ngx_idem_redis_link_reset(c);
        }

        ngx_idem_redis_tls_free(c);
        ngx_close_connection(c);
        link->peer.connection = NULL;
    }

    if (link->reader) {
        ngx_idem_redis_reader_free(link->reader);
        link->reader = NULL;
    }

    if (link->pool) {
        ngx_destroy_pool(link->pool);
        link->pool = NULL;
    }

    for (q = ngx_queue_head(&link->items);
         q != &link->items;
         q = ngx_queue_next(q))
    {
        it = ngx_queue_data(q, ngx_idem_redis_item_t, queue);
        it->sent = it->begun && it->start < link->exposed;
    }

    if (link->state == NGX_IDEM_REDIS_GREETING) {
        ngx_idem_redis_link_end(&link->items);
    }

    link->next = &link->items;
    link->offset = 0;
    link->pos = NULL;
    link->last = NULL;
    link->filled = 0;
    link->exposed = 0;

    link->leaving = NULL;
    link->renew = 0;
}


/*
 * What has left and was not answered must not be heard later, when its end was
 * told: so nothing of it is sent again.
 */

static void
ngx_idem_redis_link_reset(ngx_connection_t *c)
{
    struct linger  linger;

    linger.l_onoff = 1;
    linger.l_linger = 0;

    if (setsockopt(c->fd, SOL_SOCKET, SO_LINGER,
                   (const void *) &linger, sizeof(struct linger)) == -1)
    {
        ngx_log_error(NGX_LOG_ALERT, c->log, ngx_socket_errno,
                      "setsockopt(SO_LINGER) failed");
    }
}


/* All that wait for a reply or to be said, in the order in which they came. */

static void
ngx_idem_redis_link_end_all(ngx_idem_redis_link_t *link)
{
    ngx_queue_t  ended;

    ngx_queue_init(&ended);

    if (!ngx_queue_empty(&link->items)) {
        ngx_queue_add(&ended, &link->items);
        ngx_queue_init(&link->items);
    }

    if (!ngx_queue_empty(&link->waiting)) {
        ngx_queue_add(&ended, &link->waiting);
        ngx_queue_init(&link->waiting);
    }

    link->next = &link->items;
    link->nitems = 0;
    link->unsaid = 0;

    ngx_idem_redis_link_busy(link);

    ngx_idem_redis_link_end(&ended);
}


static void
ngx_idem_redis_link_end(ngx_queue_t *items)
{
    ngx_queue_t             *q;
    ngx_idem_redis_item_t   *it;
    ngx_idem_redis_reply_t  *none;

    while (!ngx_queue_empty(items)) {
        q = ngx_queue_head(items);
        ngx_queue_remove(q);

        it = ngx_queue_data(q, ngx_idem_redis_item_t, queue);
        none = NULL;
        it->handler(it, &none);
    }
}


void
ngx_idem_redis_link_log(ngx_idem_redis_link_t *link, ngx_str_t *words)
{
    if (ngx_idem_redis_link_may_log(link)) {
        ngx_log_error(NGX_LOG_ERR, &link->log, 0,
                      "idempotency: redis \"%V\" says \"%V\"",
                      &link->conf->name, words);
    }
}


static ngx_uint_t
ngx_idem_redis_link_may_log(ngx_idem_redis_link_t *link)
{
    if (link->logged == ngx_time()) {
        return 0;
    }

    link->logged = ngx_time();

    return 1;
}


static u_char *
ngx_idem_redis_link_log_handler(ngx_log_t *log, u_char *buf, size_t len)
{
    ngx_idem_redis_link_t  *link;

    link = log->data;

    if (link->addr == NULL) {
        return buf;
    }

    return ngx_snprintf(buf, len, ", redis: %V", &link->addr->name);
}
