
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * The slots of a cluster, and the nodes that have them.  The whole map is
 * asked for when nothing is known yet, when a node tells that a slot has
 * moved, and when one cannot be reached.  A node that moved away is told by
 * one reply at once, for its slot alone.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_client.h"


static ngx_int_t ngx_idem_redis_cluster_range(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *range);
static ngx_idem_redis_node_t *ngx_idem_redis_cluster_server(
    ngx_idem_redis_client_t *rc, const ngx_idem_redis_reply_t *server);
static ngx_idem_redis_node_t *ngx_idem_redis_cluster_told(
    ngx_idem_redis_job_t *job, const ngx_str_t *words);
static ngx_idem_redis_node_t *ngx_idem_redis_cluster_node(
    ngx_idem_redis_client_t *rc, const ngx_idem_redis_place_t *pl);
static void ngx_idem_redis_cluster_prune(ngx_idem_redis_client_t *rc);
static void ngx_idem_redis_cluster_changed(ngx_idem_redis_link_t *link);
static uint16_t ngx_idem_redis_crc16(const u_char *p, size_t len);


ngx_int_t
ngx_idem_redis_cluster_init(ngx_idem_redis_client_t *rc)
{
    ngx_queue_init(&rc->nodes);

    rc->asked = ngx_current_msec - NGX_IDEM_REDIS_ASK;

    rc->slots = ngx_pcalloc(rc->pool, NGX_IDEM_REDIS_SLOTS
                                      * sizeof(ngx_idem_redis_node_t *));

    return rc->slots ? NGX_OK : NGX_ERROR;
}


void
ngx_idem_redis_cluster_close(ngx_idem_redis_client_t *rc)
{
    ngx_queue_t            *q;
    ngx_idem_redis_node_t  *node;

    if (rc->slots == NULL) {
        return;
    }

    while (!ngx_queue_empty(&rc->nodes)) {
        q = ngx_queue_head(&rc->nodes);
        ngx_queue_remove(q);

        node = ngx_queue_data(q, ngx_idem_redis_node_t, queue);
        ngx_idem_redis_node_free(node);
    }
}


/* Each element: first slot, last slot, its master, replicas. */

void
ngx_idem_redis_cluster_answer(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *reply)
{
    ngx_uint_t                     i, n;
    const ngx_idem_redis_reply_t  *range;

    i = 0;
    n = 0;

    while ((range = ngx_idem_redis_reply_at(reply, i++)) != NULL) {

        if (ngx_idem_redis_cluster_range(rc, range) == NGX_OK) {
            n++;
        }
    }

    if (n == 0) {
        ngx_idem_redis_ask_next(rc, "it knows no slots");
        return;
    }

    rc->unanswered = 0;
    rc->known = 1;

    ngx_idem_redis_cluster_prune(rc);

    ngx_idem_redis_link_leave(&rc->scout, NULL, 0);

    ngx_idem_redis_unpark(rc);
}


static ngx_int_t
ngx_idem_redis_cluster_range(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *range)
{
    int64_t                        slot;
    ngx_idem_redis_node_t         *node;
    ngx_idem_redis_value_t         from, to;
    const ngx_idem_redis_reply_t  *first, *last, *server;

    first = ngx_idem_redis_reply_at(range, 0);
    last = ngx_idem_redis_reply_at(range, 1);
    server = ngx_idem_redis_reply_at(range, 2);

    if (first == NULL || last == NULL || server == NULL
        || ngx_idem_redis_reply(first, &from) != NGX_IDEM_REDIS_INTEGER
        || ngx_idem_redis_reply(last, &to) != NGX_IDEM_REDIS_INTEGER
        || from.integer < 0 || to.integer >= NGX_IDEM_REDIS_SLOTS)
    {
        return NGX_DECLINED;
    }

    node = ngx_idem_redis_cluster_server(rc, server);
    if (node == NULL) {
        return NGX_DECLINED;
    }

    for (slot = from.integer; slot <= to.integer; slot++) {
        rc->slots[slot] = node;
    }

    return NGX_OK;
}


/* Each server: host, port, and more.  The host may be nil. */

static ngx_idem_redis_node_t *
ngx_idem_redis_cluster_server(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_reply_t *server)
{
    ngx_idem_redis_kind_e          kind;
    ngx_idem_redis_value_t         host, port;
    ngx_idem_redis_place_t         pl;
    const ngx_idem_redis_reply_t  *first, *second;

    first = ngx_idem_redis_reply_at(server, 0);
    second = ngx_idem_redis_reply_at(server, 1);

    if (first == NULL || second == NULL
        || ngx_idem_redis_reply(second, &port) != NGX_IDEM_REDIS_INTEGER
        || port.integer < 1 || port.integer > 65535)
    {
        return NULL;
    }

    kind = ngx_idem_redis_reply(first, &host);

    if (kind != NGX_IDEM_REDIS_STRING && kind != NGX_IDEM_REDIS_NIL) {
        return NULL;
    }

    if (ngx_idem_redis_place(&pl, &host.str, (ngx_int_t) port.integer,
                             rc->scout.addr)
        != NGX_OK)
    {
        return NULL;
    }

    return ngx_idem_redis_cluster_node(rc, &pl);
}


ngx_int_t
ngx_idem_redis_cluster_redirect(ngx_idem_redis_job_t *job,
    const ngx_str_t *words)
{
    ngx_uint_t                asking, down;
    ngx_idem_redis_node_t    *node;
    ngx_idem_redis_client_t  *rc;

    rc = job->rc;

    down = ngx_idem_redis_says(words, "CLUSTERDOWN");

    if (down || ngx_idem_redis_says(words, "TRYAGAIN")) {

        if (down) {
            ngx_idem_redis_ask(rc);
        }

        if ((ngx_msec_int_t) (job->item.deadline - job->deadline) < 0) {
            job->deadline = job->item.deadline;
        }

        ngx_idem_redis_job_park(job);
        return NGX_OK;
    }

    asking = ngx_idem_redis_says(words, "ASK");

    if (!asking && !ngx_idem_redis_says(words, "MOVED")) {
        return NGX_DECLINED;
    }

    node = ngx_idem_redis_cluster_told(job, words);

    if (node == NULL || job->redirects++ == NGX_IDEM_REDIS_REDIRECTS) {
        return NGX_DECLINED;
    }

    if (!asking) {
        rc->slots[job->slot] = node;
        ngx_idem_redis_ask(rc);
    }

    return ngx_idem_redis_job_say(job, node, asking);
}


/* "MOVED slot host:port", an address of version 6 without brackets. */

static ngx_idem_redis_node_t *
ngx_idem_redis_cluster_told(ngx_idem_redis_job_t *job, const ngx_str_t *words)
{
    u_char                  *p, *last, *colon;
    ngx_str_t                host;
    ngx_idem_redis_place_t   pl;

    last = words->data + words->len;

    for (p = last; p > words->data && p[-1] != ' '; p--) {
        /* void */
    }

    for (colon = last; colon > p && colon[-1] != ':'; colon--) {
        /* void */
    }

    if (colon == p) {
        return NULL;
    }

    host.data = p;
    host.len = colon - 1 - p;

    if (ngx_idem_redis_place(&pl, &host, ngx_atoi(colon, last - colon),
                             job->node->link.addr)
        != NGX_OK)
    {
        return NULL;
    }

    return ngx_idem_redis_cluster_node(job->rc, &pl);
}


/* NULL: no memory for one more, or there are too many. */

static ngx_idem_redis_node_t *
ngx_idem_redis_cluster_node(ngx_idem_redis_client_t *rc,
    const ngx_idem_redis_place_t *pl)
{
    ngx_queue_t            *q;
    ngx_idem_redis_node_t  *node;

    for (q = ngx_queue_head(&rc->nodes);
         q != &rc->nodes;
         q = ngx_queue_next(q))
    {
        node = ngx_queue_data(q, ngx_idem_redis_node_t, queue);

        if (ngx_idem_redis_place_same(&node->place, pl)) {
            return node;
        }
    }

    if (rc->nnodes == NGX_IDEM_REDIS_NODES) {
        return NULL;
    }

    node = ngx_idem_redis_node(rc);
    if (node == NULL) {
        return NULL;
    }

    ngx_idem_redis_place_copy(&node->place, pl);

    node->link.addrs = &node->place.addr;
    node->link.naddrs = 1;
    node->link.changed = ngx_idem_redis_cluster_changed;

    ngx_queue_insert_tail(&rc->nodes, &node->queue);
    rc->nnodes++;

    return node;
}


/* Nodes without a slot and without work leave; called by the scout only. */

static void
ngx_idem_redis_cluster_prune(ngx_idem_redis_client_t *rc)
{
    ngx_uint_t              i;
    ngx_queue_t            *q, *next;
    ngx_idem_redis_node_t  *node;

    for (q = ngx_queue_head(&rc->nodes);
         q != &rc->nodes;
         q = ngx_queue_next(q))
    {
        node = ngx_queue_data(q, ngx_idem_redis_node_t, queue);
        node->used = 0;
    }

    for (i = 0; i < NGX_IDEM_REDIS_SLOTS; i++) {
        if (rc->slots[i]) {
            rc->slots[i]->used = 1;
        }
    }

    for (q = ngx_queue_head(&rc->nodes); q != &rc->nodes; q = next) {
        next = ngx_queue_next(q);
        node = ngx_queue_data(q, ngx_idem_redis_node_t, queue);

        if (!node->used && node->link.nitems == 0) {
            ngx_queue_remove(q);
            rc->nnodes--;
            ngx_idem_redis_node_free(node);
        }
    }
}


/* When a node cannot be reached, a replica of it may have its slots. */

static void
ngx_idem_redis_cluster_changed(ngx_idem_redis_link_t *link)
{
    ngx_idem_redis_node_t  *node;

    if (link->state == NGX_IDEM_REDIS_PAUSED) {
        node = link->data;
        ngx_idem_redis_ask(node->rc);
    }
}


/* What stands in the first braces, if it is not empty, else all of the key. */

ngx_uint_t
ngx_idem_redis_cluster_slot(const u_char *p, size_t len)
{
    const u_char  *end, *last, *open;

    last = p + len;

    for (open = p; open < last && *open != '{'; open++) {
        /* void */
    }

    for (end = open; end < last && *end != '}'; end++) {
        /* void */
    }

    if (end < last && end > open + 1) {
        p = open + 1;
        len = end - p;
    }

    return ngx_idem_redis_crc16(p, len) % NGX_IDEM_REDIS_SLOTS;
}


/* CRC-16/XMODEM.  Source: Redis cluster specification, appendix A. */

static uint16_t
ngx_idem_redis_crc16(const u_char *p, size_t len)
{
    size_t    i;
    uint16_t  crc;

    static const uint16_t  table[] = {
        0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
        0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef
    };

    crc = 0;

    for (i = 0; i < len; i++) {
        crc = (uint16_t) (crc << 4) ^ table[(crc >> 12) ^ (p[i] >> 4)];
        crc = (uint16_t) (crc << 4) ^ table[(crc >> 12) ^ (p[i] & 0x0f)];
    }

    return crc;
}
