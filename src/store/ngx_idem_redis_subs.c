
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_client.h"


/* A subscription that was asked for, until it is confirmed. */

typedef struct {
    ngx_idem_redis_item_t   item;
    ngx_idem_redis_subs_t  *subs;
    uint64_t                serial;
} ngx_idem_redis_topic_t;


static void ngx_idem_redis_subs_changed(ngx_idem_redis_link_t *link);
static void ngx_idem_redis_subs_resume(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_subs_push(ngx_idem_redis_link_t *link,
    const ngx_idem_redis_reply_t *reply);
static void ngx_idem_redis_subs_say(ngx_idem_redis_subs_t *subs, ngx_uint_t on,
    ngx_str_t *channel);
static void ngx_idem_redis_subs_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_subs_tell(ngx_idem_redis_subs_t *subs,
    const ngx_idem_redis_reply_t *channel, const ngx_str_t *message,
    uint64_t serial);
static ngx_queue_t *ngx_idem_redis_subs_bucket(ngx_idem_redis_subs_t *subs,
    const u_char *p, size_t len);
static ngx_uint_t ngx_idem_redis_subs_has(ngx_queue_t *queue,
    const ngx_str_t *channel);
static ngx_uint_t ngx_idem_redis_subs_same(const ngx_idem_redis_sub_t *sub,
    const ngx_str_t *channel);


void
ngx_idem_redis_subs_init(ngx_idem_redis_client_t *rc)
{
    ngx_uint_t              i;
    ngx_idem_redis_subs_t  *subs;

    subs = &rc->subs;

    ngx_idem_redis_link_of(rc, &subs->link);

    subs->rc = rc;
    subs->link.data = subs;
    subs->link.changed = ngx_idem_redis_subs_changed;
    subs->link.resume = ngx_idem_redis_subs_resume;
    subs->link.push = ngx_idem_redis_subs_push;

    for (i = 0; i < NGX_IDEM_REDIS_BUCKETS; i++) {
        ngx_queue_init(&subs->buckets[i]);
    }

    ngx_queue_init(&subs->told);
}


void
ngx_idem_redis_subscribe(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_sub_t *sub)
{
    ngx_idem_redis_subs_t  *subs;

    subs = &rc->subs;

    sub->serial = ++subs->serial;
    sub->sure = 0;

    ngx_queue_insert_tail(ngx_idem_redis_subs_bucket(subs, sub->channel.data,
                                                     sub->channel.len),
                          &sub->queue);
    subs->n++;
    subs->link.keep = 1;

    if (rc->closed) {
        return;
    }

    if (subs->link.state == NGX_IDEM_REDIS_CLOSED) {
        (void) ngx_idem_redis_link_open(&subs->link, 0);
        return;
    }

    /* one for each subscriber: its confirmation is younger than the wish */

    if (subs->link.state == NGX_IDEM_REDIS_READY) {
        ngx_idem_redis_subs_say(subs, 1, &sub->channel);
    }
}


void
ngx_idem_redis_unsubscribe(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_sub_t *sub)
{
    ngx_queue_t            *bucket;
    ngx_idem_redis_subs_t  *subs;

    subs = &rc->subs;

    ngx_queue_remove(&sub->queue);

    subs->n--;
    subs->link.keep = (subs->n > 0);

    if (rc->closed || subs->link.state != NGX_IDEM_REDIS_READY) {
        return;
    }

    bucket = ngx_idem_redis_subs_bucket(subs, sub->channel.data,
                                        sub->channel.len);

    if (!ngx_idem_redis_subs_has(bucket, &sub->channel)
        && !ngx_idem_redis_subs_has(&subs->told, &sub->channel))
    {
        ngx_idem_redis_subs_say(subs, 0, &sub->channel);
    }
}


void
ngx_idem_redis_subs_move(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_addr_t *addr)
{
    ngx_idem_redis_link_t  *link;

    link = &rc->subs.link;

    ngx_idem_redis_link_close(link);

    link->addrs = addr;
    link->naddrs = 1;

    if (link->keep) {
        (void) ngx_idem_redis_link_open(link, 0);
    }
}


/* READY: all subscriptions are made anew.  Else nobody is sure any more. */

static void
ngx_idem_redis_subs_changed(ngx_idem_redis_link_t *link)
{
    ngx_uint_t              i;
    ngx_queue_t            *q, *bucket;
    ngx_idem_redis_sub_t   *sub;
    ngx_idem_redis_subs_t  *subs;

    if (link->state != NGX_IDEM_REDIS_READY) {
        return;
    }

    subs = link->data;

    for (i = 0; i < NGX_IDEM_REDIS_BUCKETS; i++) {
        bucket = &subs->buckets[i];

        for (q = ngx_queue_head(bucket); q != bucket; q = ngx_queue_next(q)) {
            sub = ngx_queue_data(q, ngx_idem_redis_sub_t, queue);

            sub->serial = ++subs->serial;
            sub->sure = 0;

            ngx_idem_redis_subs_say(subs, 1, &sub->channel);
        }
    }
}


static void
ngx_idem_redis_subs_resume(ngx_idem_redis_link_t *link)
{
    if (!link->keep) {
        ngx_idem_redis_link_close(link);
        return;
    }

    (void) ngx_idem_redis_link_open(link, 0);
}


static ngx_int_t
ngx_idem_redis_subs_push(ngx_idem_redis_link_t *link,
    const ngx_idem_redis_reply_t *reply)
{
    ngx_idem_redis_value_t         v;
    const ngx_idem_redis_reply_t  *message;

    if (!ngx_idem_redis_reply_is(ngx_idem_redis_reply_at(reply, 0),
                                 "message"))
    {
        return NGX_DECLINED;
    }

    message = ngx_idem_redis_reply_at(reply, 2);

    if (message == NULL
        || ngx_idem_redis_reply(message, &v) != NGX_IDEM_REDIS_STRING)
    {
        ngx_str_null(&v.str);
    }

    ngx_idem_redis_subs_tell(link->data, ngx_idem_redis_reply_at(reply, 1),
                             &v.str, 0);

    return NGX_OK;
}


/* If there is no memory for it, the connection is made anew and tries again. */

static void
ngx_idem_redis_subs_say(ngx_idem_redis_subs_t *subs, ngx_uint_t on,
    ngx_str_t *channel)
{
    u_char                  *p;
    ngx_int_t                rv;
    ngx_str_t                words[2], *prefix;
    ngx_idem_redis_topic_t  *topic;

    prefix = &subs->rc->conf->prefix;

    if (on) {
        ngx_str_set(&words[0], "SUBSCRIBE");

    } else {
        ngx_str_set(&words[0], "UNSUBSCRIBE");
    }

    words[1].len = prefix->len + channel->len;

    topic = ngx_alloc(sizeof(ngx_idem_redis_topic_t) + words[1].len,
                      subs->rc->log);
    if (topic == NULL) {
        ngx_idem_redis_link_leave(&subs->link, "no memory", 0);
        return;
    }

    words[1].data = (u_char *) (topic + 1);

    p = ngx_cpymem(words[1].data, prefix->data, prefix->len);
    ngx_memcpy(p, channel->data, channel->len);

    topic->subs = subs;
    topic->serial = subs->serial;
    topic->item.timeout = subs->rc->conf->timeout;
    topic->item.handler = ngx_idem_redis_subs_handler;
    topic->item.data = topic;

    rv = ngx_idem_redis_format(&topic->item.bytes, words, 2);

    if (rv == NGX_OK) {
        rv = ngx_idem_redis_link_add(&subs->link, &topic->item);
    }

    if (rv != NGX_OK) {
        ngx_idem_redis_format_free(&topic->item.bytes);
        ngx_free(topic);
        ngx_idem_redis_link_leave(&subs->link, "no memory", 0);
    }
}


static void
ngx_idem_redis_subs_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    uint64_t                       serial;
    ngx_idem_redis_subs_t         *subs;
    ngx_idem_redis_topic_t        *topic;
    ngx_idem_redis_value_t         v;
    const ngx_idem_redis_reply_t  *word;

    topic = it->data;
    subs = topic->subs;
    serial = topic->serial;

    ngx_idem_redis_format_free(&it->bytes);
    ngx_free(topic);

    if (*reply == NULL) {
        return;
    }

    if (ngx_idem_redis_reply(*reply, &v) == NGX_IDEM_REDIS_ERROR) {
        ngx_idem_redis_link_log(&subs->link, &v.str);
        ngx_idem_redis_link_leave(&subs->link, "it refuses us", 0);
        return;
    }

    word = ngx_idem_redis_reply_at(*reply, 0);

    if (ngx_idem_redis_reply_is(word, "subscribe")) {
        ngx_str_null(&v.str);
        ngx_idem_redis_subs_tell(subs, ngx_idem_redis_reply_at(*reply, 1),
                                 &v.str, serial);
    }
}


/*
 * Calls those who hear of a channel, serial 0, or those who are to become sure
 * of it and wished so until then.  They may come and go meanwhile.
 */

static void
ngx_idem_redis_subs_tell(ngx_idem_redis_subs_t *subs,
    const ngx_idem_redis_reply_t *channel, const ngx_str_t *message,
    uint64_t serial)
{
    size_t                   n;
    ngx_str_t                name;
    ngx_queue_t             *q, *next, *bucket;
    ngx_idem_redis_sub_t    *sub;
    ngx_idem_redis_value_t   v;

    n = subs->rc->conf->prefix.len;

    if (channel == NULL
        || ngx_idem_redis_reply(channel, &v) != NGX_IDEM_REDIS_STRING
        || v.str.len < n)
    {
        return;
    }

    name.data = v.str.data + n;
    name.len = v.str.len - n;

    bucket = ngx_idem_redis_subs_bucket(subs, name.data, name.len);

    for (q = ngx_queue_head(bucket); q != bucket; q = next) {
        next = ngx_queue_next(q);
        sub = ngx_queue_data(q, ngx_idem_redis_sub_t, queue);

        if (!ngx_idem_redis_subs_same(sub, &name)
            || (serial && (sub->sure || sub->serial > serial)))
        {
            continue;
        }

        ngx_queue_remove(q);
        ngx_queue_insert_tail(&subs->told, q);
    }

    while (!ngx_queue_empty(&subs->told)) {
        q = ngx_queue_head(&subs->told);
        ngx_queue_remove(q);
        ngx_queue_insert_tail(bucket, q);

        sub = ngx_queue_data(q, ngx_idem_redis_sub_t, queue);

        if (serial) {
            sub->sure = 1;
        }

        sub->message = *message;
        sub->handler(sub);
    }
}


static ngx_queue_t *
ngx_idem_redis_subs_bucket(ngx_idem_redis_subs_t *subs, const u_char *p,
    size_t len)
{
    size_t      i;
    ngx_uint_t  hash;

    for (i = 0, hash = 0; i < len; i++) {
        hash = ngx_hash(hash, p[i]);
    }

    return &subs->buckets[hash % NGX_IDEM_REDIS_BUCKETS];
}


static ngx_uint_t
ngx_idem_redis_subs_has(ngx_queue_t *queue, const ngx_str_t *channel)
{
    ngx_queue_t           *q;
    ngx_idem_redis_sub_t  *sub;

    for (q = ngx_queue_head(queue); q != queue; q = ngx_queue_next(q)) {
        sub = ngx_queue_data(q, ngx_idem_redis_sub_t, queue);

        if (ngx_idem_redis_subs_same(sub, channel)) {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_idem_redis_subs_same(const ngx_idem_redis_sub_t *sub,
    const ngx_str_t *channel)
{
    return sub->channel.len == channel->len
           && ngx_memcmp(sub->channel.data, channel->data, channel->len) == 0;
}
