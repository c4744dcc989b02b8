
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_link.h"


static ngx_int_t ngx_idem_redis_greet_auth(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_greet_select(ngx_idem_redis_link_t *link);
static ngx_int_t ngx_idem_redis_greet_say(ngx_idem_redis_link_t *link,
    ngx_str_t *words, ngx_uint_t n, ngx_idem_redis_item_pt handler);
static void ngx_idem_redis_greet_auth_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_greet_select_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_greet_ping_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_greet_refused(ngx_idem_redis_link_t *link,
    ngx_str_t *words);


/*
 * There is always something to be said: that a socket could be connected does
 * not mean that anybody reads from it.
 */

ngx_int_t
ngx_idem_redis_greet(ngx_idem_redis_link_t *link)
{
    ngx_str_t  word;

    link->ngreetings = 0;

    if (ngx_idem_redis_greet_auth(link) != NGX_OK
        || ngx_idem_redis_greet_select(link) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (link->master) {
        ngx_str_set(&word, "ROLE");

    } else {
        ngx_str_set(&word, "PING");
    }

    return ngx_idem_redis_greet_say(link, &word, 1,
                                    ngx_idem_redis_greet_ping_handler);
}


static ngx_int_t
ngx_idem_redis_greet_auth(ngx_idem_redis_link_t *link)
{
    ngx_str_t   words[3];
    ngx_uint_t  n;

    if (link->conf->password.len == 0) {
        return NGX_OK;
    }

    ngx_str_set(&words[0], "AUTH");
    n = 1;

    if (link->conf->user.len) {
        words[n++] = link->conf->user;
    }

    words[n++] = link->conf->password;

    return ngx_idem_redis_greet_say(link, words, n,
                                    ngx_idem_redis_greet_auth_handler);
}


static ngx_int_t
ngx_idem_redis_greet_select(ngx_idem_redis_link_t *link)
{
    u_char     text[NGX_INT_T_LEN];
    ngx_str_t  words[2];

    if (link->conf->database == 0 || link->sentinel) {
        return NGX_OK;
    }

    ngx_str_set(&words[0], "SELECT");
    words[1].data = text;
    words[1].len = ngx_sprintf(text, "%ui", link->conf->database) - text;

    return ngx_idem_redis_greet_say(link, words, 2,
                                    ngx_idem_redis_greet_select_handler);
}


static ngx_int_t
ngx_idem_redis_greet_say(ngx_idem_redis_link_t *link, ngx_str_t *words,
    ngx_uint_t n, ngx_idem_redis_item_pt handler)
{
    ngx_idem_redis_item_t  *it;

    it = &link->greetings[link->ngreetings];

    if (ngx_idem_redis_format(&it->bytes, words, n) != NGX_OK) {
        return NGX_ERROR;
    }

    it->timeout = link->conf->connect_timeout;
    it->handler = handler;
    it->data = link;
    it->begun = 0;

    link->ngreetings++;

    ngx_idem_redis_link_queue(link, it);

    return NGX_OK;
}


/*
 * A sentinel may want a password or not, whatever its servers want.  A server
 * that knows no AUTH repeats its arguments.
 */

static void
ngx_idem_redis_greet_auth_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    u_char                  *p, *last;
    ngx_idem_redis_link_t   *link;
    ngx_idem_redis_value_t   v;

    link = it->data;

    ngx_idem_redis_format_free(&it->bytes);

    if (*reply == NULL || link->sentinel
        || ngx_idem_redis_reply(*reply, &v) != NGX_IDEM_REDIS_ERROR)
    {
        return;
    }

    last = v.str.data + v.str.len;

    for (p = v.str.data; p < last; p++) {
        if (*p == '`' || *p == '\'' || *p == '"') {
            break;
        }
    }

    v.str.len = p - v.str.data;

    ngx_idem_redis_greet_refused(link, &v.str);
}


static void
ngx_idem_redis_greet_select_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    ngx_idem_redis_value_t  v;

    ngx_idem_redis_format_free(&it->bytes);

    if (*reply && ngx_idem_redis_reply(*reply, &v) == NGX_IDEM_REDIS_ERROR) {
        ngx_idem_redis_greet_refused(it->data, &v.str);
    }
}


/* The last of the greetings.  A user may be forbidden to PING, not to ask. */

static void
ngx_idem_redis_greet_ping_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    ngx_idem_redis_link_t   *link;
    ngx_idem_redis_value_t   v;

    link = it->data;

    ngx_idem_redis_format_free(&it->bytes);

    if (*reply == NULL || link->leaving) {
        return;
    }

    if (ngx_idem_redis_reply(*reply, &v) == NGX_IDEM_REDIS_ERROR
        && (link->master || v.str.len < 6
            || ngx_strncmp(v.str.data, "NOPERM", 6) != 0))
    {
        ngx_idem_redis_greet_refused(link, &v.str);
        return;
    }

    if (link->master
        && !ngx_idem_redis_reply_is(ngx_idem_redis_reply_at(*reply, 0),
                                    "master"))
    {
        link->leaving = "this is not the master";
        return;
    }

    ngx_idem_redis_link_ready(link);
}


static void
ngx_idem_redis_greet_refused(ngx_idem_redis_link_t *link, ngx_str_t *words)
{
    ngx_idem_redis_link_log(link, words);
    ngx_idem_redis_stat_error(link->stat, ngx_idem_redis_stat_kind(words));

    link->leaving = "it refuses us";
}
