
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Where commands go.  A single server is known from the start.  The master of
 * sentinels and the slots of a cluster are asked for, by a connection that
 * does nothing else: the scout.  It asks one after the other of those that are
 * configured; sentinels tell it, too, when the master changes.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_client.h"


static ngx_int_t ngx_idem_redis_home_init(ngx_idem_redis_client_t *rc);
static ngx_int_t ngx_idem_redis_scout_init(ngx_idem_redis_client_t *rc);

static void ngx_idem_redis_scout_changed(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_scout_push(ngx_idem_redis_link_t *link,
    const ngx_idem_redis_reply_t *reply);
static void ngx_idem_redis_question_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_listening_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);

static void ngx_idem_redis_master_answer(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *reply);
static void ngx_idem_redis_master(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_place_t *pl);
static void ngx_idem_redis_home_changed(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_home_resume(ngx_idem_redis_link_t *link);

static void ngx_idem_redis_place_text(ngx_idem_redis_place_t *pl);


ngx_int_t
ngx_idem_redis_route_init(ngx_idem_redis_client_t *rc)
{
    switch (rc->conf->mode) {

    case NGX_IDEM_REDIS_STANDALONE:
        rc->known = 1;
        return ngx_idem_redis_home_init(rc);

    case NGX_IDEM_REDIS_SENTINEL:

        if (ngx_idem_redis_home_init(rc) != NGX_OK) {
            return NGX_ERROR;
        }

        rc->home->link.naddrs = 0;
        rc->home->link.resume = ngx_idem_redis_home_resume;
        rc->home->link.master = 1;
        rc->home->link.keep = 1;

        rc->subs.link.naddrs = 0;

        rc->scout.push = ngx_idem_redis_scout_push;
        rc->scout.sentinel = 1;
        rc->scout.shown = 1;
        rc->scout.keep = 1;

        return ngx_idem_redis_scout_init(rc);

    case NGX_IDEM_REDIS_CLUSTER:

        if (ngx_idem_redis_cluster_init(rc) != NGX_OK) {
            return NGX_ERROR;
        }

        return ngx_idem_redis_scout_init(rc);
    }

    return NGX_ERROR;
}


static ngx_int_t
ngx_idem_redis_home_init(ngx_idem_redis_client_t *rc)
{
    rc->home = ngx_idem_redis_node(rc);
    if (rc->home == NULL) {
        return NGX_ERROR;
    }

    rc->home->link.changed = ngx_idem_redis_home_changed;

    return NGX_OK;
}


static ngx_int_t
ngx_idem_redis_scout_init(ngx_idem_redis_client_t *rc)
{
    ngx_str_t   words[3];
    ngx_uint_t  n;

    ngx_idem_redis_link_of(rc, &rc->scout);

    rc->scout.data = rc;
    rc->scout.changed = ngx_idem_redis_scout_changed;

    rc->question.timeout = rc->conf->timeout;
    rc->question.handler = ngx_idem_redis_question_handler;
    rc->question.data = rc;

    rc->listening.timeout = rc->conf->timeout;
    rc->listening.handler = ngx_idem_redis_listening_handler;
    rc->listening.data = rc;

    if (rc->conf->mode == NGX_IDEM_REDIS_SENTINEL) {
        ngx_str_set(&words[0], "SENTINEL");
        ngx_str_set(&words[1], "get-master-addr-by-name");
        words[2] = rc->conf->master;
        n = 3;

    } else {
        ngx_str_set(&words[0], "CLUSTER");
        ngx_str_set(&words[1], "SLOTS");
        n = 2;
    }

    if (ngx_idem_redis_format(&rc->question.bytes, words, n) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&words[0], "SUBSCRIBE");
    ngx_str_set(&words[1], "+switch-master");

    return ngx_idem_redis_format(&rc->listening.bytes, words, 2);
}


void
ngx_idem_redis_route_close(ngx_idem_redis_client_t *rc)
{
    if (rc->conf->mode != NGX_IDEM_REDIS_STANDALONE) {
        ngx_idem_redis_link_close(&rc->scout);
        ngx_idem_redis_format_free(&rc->question.bytes);
        ngx_idem_redis_format_free(&rc->listening.bytes);
    }

    if (rc->home) {
        ngx_idem_redis_node_free(rc->home);
        rc->home = NULL;
    }

    ngx_idem_redis_cluster_close(rc);
}


ngx_int_t
ngx_idem_redis_route(ngx_idem_redis_client_t *rc, ngx_uint_t slot,
    ngx_idem_redis_node_t **node)
{
    ngx_idem_redis_link_t  *scout;

    if (rc->known) {
        *node = rc->slots ? rc->slots[slot] : rc->home;

        if (*node) {
            return NGX_OK;
        }
    }

    ngx_idem_redis_ask(rc);

    scout = &rc->scout;

    if (scout->state == NGX_IDEM_REDIS_PAUSED
        || (scout->state == NGX_IDEM_REDIS_CONNECTING && !scout->welcome)
        || (scout->state == NGX_IDEM_REDIS_GREETING && !scout->welcome))
    {
        return NGX_ERROR;
    }

    return NGX_AGAIN;
}


ngx_int_t
ngx_idem_redis_redirect(ngx_idem_redis_job_t *job, const ngx_str_t *words)
{
    switch (job->rc->conf->mode) {

    case NGX_IDEM_REDIS_STANDALONE:
        return NGX_DECLINED;

    case NGX_IDEM_REDIS_SENTINEL:

        if (ngx_idem_redis_says(words, "READONLY")
            || ngx_idem_redis_says(words, "MASTERDOWN"))
        {
            ngx_idem_redis_link_leave(&job->node->link,
                                      "this is not the master any more", 0);
        }

        return NGX_DECLINED;

    case NGX_IDEM_REDIS_CLUSTER:
        return ngx_idem_redis_cluster_redirect(job, words);
    }

    return NGX_DECLINED;
}


void
ngx_idem_redis_ask(ngx_idem_redis_client_t *rc)
{
    if (rc->conf->mode == NGX_IDEM_REDIS_CLUSTER
        && ngx_current_msec - rc->asked < NGX_IDEM_REDIS_ASK)
    {
        return;
    }

    switch (rc->scout.state) {

    case NGX_IDEM_REDIS_CLOSED:
        rc->asked = ngx_current_msec;
        (void) ngx_idem_redis_link_open(&rc->scout, 1);
        break;

    case NGX_IDEM_REDIS_READY:

        if (!rc->inquiring) {
            rc->asked = ngx_current_msec;
            ngx_idem_redis_link_leave(&rc->scout, NULL, 1);
        }

        break;

    case NGX_IDEM_REDIS_PAUSED:
    case NGX_IDEM_REDIS_CONNECTING:
    case NGX_IDEM_REDIS_GREETING:
        break;
    }
}


void
ngx_idem_redis_ask_next(ngx_idem_redis_client_t *rc, const char *why)
{
    ngx_uint_t  renew;

    renew = (++rc->unanswered < rc->naddrs);

    if (!renew) {
        rc->unanswered = 0;
    }

    ngx_idem_redis_link_leave(&rc->scout, why, renew);
}


static void
ngx_idem_redis_scout_changed(ngx_idem_redis_link_t *link)
{
    ngx_idem_redis_client_t  *rc;

    if (link->state != NGX_IDEM_REDIS_READY) {
        return;
    }

    rc = link->data;

    if (ngx_idem_redis_link_add(link, &rc->question) == NGX_OK) {
        rc->inquiring = 1;
    }
}


/* Sentinels say what it is about, but not all say the same: one is asked. */

static ngx_int_t
ngx_idem_redis_scout_push(ngx_idem_redis_link_t *link,
    const ngx_idem_redis_reply_t *reply)
{
    if (!ngx_idem_redis_reply_is(ngx_idem_redis_reply_at(reply, 0),
                                 "message"))
    {
        return NGX_DECLINED;
    }

    ngx_idem_redis_link_leave(link, NULL, 1);

    return NGX_OK;
}


static void
ngx_idem_redis_question_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    ngx_idem_redis_value_t    v;
    ngx_idem_redis_client_t  *rc;

    rc = it->data;
    rc->inquiring = 0;

    if (*reply == NULL) {
        return;
    }

    if (ngx_idem_redis_reply(*reply, &v) == NGX_IDEM_REDIS_ERROR) {
        ngx_idem_redis_link_log(&rc->scout, &v.str);
        ngx_idem_redis_ask_next(rc, "it does not tell where commands go");
        return;
    }

    if (rc->slots) {
        ngx_idem_redis_cluster_answer(rc, *reply);
        return;
    }

    ngx_idem_redis_master_answer(rc, *reply);
}


/* If it is refused, a change is noticed when the master is. */

static void
ngx_idem_redis_listening_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    /* void */
}


static void
ngx_idem_redis_master_answer(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *reply)
{
    ngx_idem_redis_value_t         host, port;
    ngx_idem_redis_place_t         pl;
    const ngx_idem_redis_reply_t  *first, *second;

    first = ngx_idem_redis_reply_at(reply, 0);
    second = ngx_idem_redis_reply_at(reply, 1);

    if (first == NULL || second == NULL
        || ngx_idem_redis_reply(first, &host) != NGX_IDEM_REDIS_STRING
        || ngx_idem_redis_reply(second, &port) != NGX_IDEM_REDIS_STRING)
    {
        ngx_idem_redis_ask_next(rc, "it knows no such master");
        return;
    }

    if (ngx_idem_redis_place(&pl, &host.str,
                             ngx_atoi(port.str.data, port.str.len),
                             rc->scout.addr)
        != NGX_OK)
    {
        ngx_idem_redis_ask_next(rc, "what it says of the master is no address");
        return;
    }

    rc->unanswered = 0;

    (void) ngx_idem_redis_link_add(&rc->scout, &rc->listening);

    ngx_idem_redis_master(rc, &pl);
    ngx_idem_redis_unpark(rc);
}


static void
ngx_idem_redis_master(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_place_t *pl)
{
    ngx_uint_t              same;
    ngx_idem_redis_link_t  *link;
    ngx_idem_redis_node_t  *home;

    home = rc->home;
    link = &home->link;

    same = rc->known && ngx_idem_redis_place_same(&home->place, pl);

    if (!same) {
        ngx_log_error(NGX_LOG_NOTICE, rc->log, 0,
                      "idempotency: redis \"%V\": the master is %V",
                      &rc->conf->name, &pl->addr.name);

        ngx_idem_redis_link_close(link);

        ngx_idem_redis_place_copy(&home->place, pl);

        link->addrs = &home->place.addr;
        link->naddrs = 1;
        link->pause = 0;

        rc->known = 1;

        ngx_idem_redis_subs_move(rc, &home->place.addr);
    }

    if (link->state == NGX_IDEM_REDIS_CLOSED
        || link->state == NGX_IDEM_REDIS_PAUSED)
    {
        (void) ngx_idem_redis_link_open(link, !same);
    }
}


static void
ngx_idem_redis_home_changed(ngx_idem_redis_link_t *link)
{
    /* void */
}


/* Perhaps another one is the master now. */

static void
ngx_idem_redis_home_resume(ngx_idem_redis_link_t *link)
{
    ngx_idem_redis_node_t  *node;

    node = link->data;

    ngx_idem_redis_ask(node->rc);
}


ngx_int_t
ngx_idem_redis_place(ngx_idem_redis_place_t *pl, const ngx_str_t *host,
    ngx_int_t port, const ngx_idem_redis_addr_t *who)
{
    in_addr_t             addr;
#if (NGX_HAVE_INET6)
    struct in6_addr       addr6;
#endif

    ngx_memzero(pl, sizeof(ngx_idem_redis_place_t));

    if (port < 1 || port > 65535) {
        return NGX_ERROR;
    }

    addr = ngx_inet_addr(host->data, host->len);

    if (addr != INADDR_NONE) {
        pl->sockaddr.sockaddr_in.sin_family = AF_INET;
        pl->sockaddr.sockaddr_in.sin_addr.s_addr = addr;
        pl->addr.socklen = sizeof(struct sockaddr_in);

#if (NGX_HAVE_INET6)

    } else if (ngx_inet6_addr(host->data, host->len, addr6.s6_addr)
               == NGX_OK)
    {
        pl->sockaddr.sockaddr_in6.sin6_family = AF_INET6;
        pl->sockaddr.sockaddr_in6.sin6_addr = addr6;
        pl->addr.socklen = sizeof(struct sockaddr_in6);

#endif

    } else if (host->len == 0 && who->sockaddr->sa_family != AF_UNIX) {
        ngx_memcpy(&pl->sockaddr, who->sockaddr, who->socklen);
        pl->addr.socklen = who->socklen;

    } else {
        return NGX_ERROR;
    }

    ngx_inet_set_port(&pl->sockaddr.sockaddr, (in_port_t) port);

    ngx_idem_redis_place_text(pl);

    return NGX_OK;
}


ngx_uint_t
ngx_idem_redis_place_same(const ngx_idem_redis_place_t *one,
    const ngx_idem_redis_place_t *two)
{
    return one->addr.socklen == two->addr.socklen
           && ngx_memcmp(&one->sockaddr, &two->sockaddr, one->addr.socklen)
              == 0;
}


void
ngx_idem_redis_place_copy(ngx_idem_redis_place_t *to,
    const ngx_idem_redis_place_t *from)
{
    to->sockaddr = from->sockaddr;
    to->addr.socklen = from->addr.socklen;

    ngx_idem_redis_place_text(to);
}


static void
ngx_idem_redis_place_text(ngx_idem_redis_place_t *pl)
{
    ngx_idem_redis_addr_t  *addr;

    addr = &pl->addr;

    addr->sockaddr = &pl->sockaddr.sockaddr;

    addr->name.data = pl->name;
    addr->name.len = ngx_sock_ntop(addr->sockaddr, addr->socklen, pl->name,
                                   NGX_SOCKADDR_STRLEN, 1);

    addr->host.data = pl->host;
    addr->host.len = ngx_sock_ntop(addr->sockaddr, addr->socklen, pl->host,
                                   NGX_SOCKADDR_STRLEN, 0);
}
