
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_redis_stat.h"


static ngx_idem_redis_server_t *ngx_idem_redis_stat_find(
    ngx_idem_redis_stat_t *st, const ngx_str_t *name);
static ngx_idem_redis_server_t *ngx_idem_redis_stat_take(
    ngx_idem_redis_stat_t *st, const ngx_str_t *name);


const ngx_str_t  ngx_idem_redis_count_names[NGX_IDEM_REDIS_COUNTS] = {
    ngx_string("sent"),
    ngx_string("replied"),
    ngx_string("failed"),
    ngx_string("refused"),
    ngx_string("lost"),
    ngx_string("too_few_replicas"),
    ngx_string("delivered_late"),
    ngx_string("abandoned")
};


const ngx_str_t  ngx_idem_redis_error_names[NGX_IDEM_REDIS_ERRORS] = {
    ngx_string("connect"),
    ngx_string("broken"),
    ngx_string("timeout"),
    ngx_string("auth"),
    ngx_string("oom"),
    ngx_string("readonly"),
    ngx_string("loading"),
    ngx_string("busy"),
    ngx_string("noreplicas"),
    ngx_string("masterdown"),
    ngx_string("clusterdown"),
    ngx_string("other")
};


const uint32_t  ngx_idem_redis_bounds[NGX_IDEM_REDIS_BOUNDS] = {
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000,
    500000, 1000000
};


static const struct {
    const char              *word;
    ngx_idem_redis_error_e   kind;
} ngx_idem_redis_words[] = {
    { "NOAUTH", NGX_IDEM_REDIS_ERROR_AUTH },
    { "WRONGPASS", NGX_IDEM_REDIS_ERROR_AUTH },
    { "NOPERM", NGX_IDEM_REDIS_ERROR_AUTH },
    { "OOM", NGX_IDEM_REDIS_ERROR_OOM },
    { "READONLY", NGX_IDEM_REDIS_ERROR_READONLY },
    { "LOADING", NGX_IDEM_REDIS_ERROR_LOADING },
    { "BUSY", NGX_IDEM_REDIS_ERROR_BUSY },
    { "NOREPLICAS", NGX_IDEM_REDIS_ERROR_REPLICAS },
    { "MASTERDOWN", NGX_IDEM_REDIS_ERROR_MASTERDOWN },
    { "CLUSTERDOWN", NGX_IDEM_REDIS_ERROR_CLUSTERDOWN }
};


void
ngx_idem_redis_stat_init(ngx_idem_redis_stat_t *st,
    ngx_idem_redis_board_t *board)
{
    ngx_memzero(st, sizeof(ngx_idem_redis_stat_t));

    st->board = board;
    st->place = NGX_IDEM_NO_WORKER;
}


void
ngx_idem_redis_stat_pending(ngx_idem_redis_stat_t *st, ngx_uint_t n)
{
    st->board->workers[st->place].pending = n;
}


void
ngx_idem_redis_stat_undelivered(ngx_idem_redis_stat_t *st, ngx_int_t n,
    off_t bytes)
{
    st->board->workers[st->place].undelivered += n;
    st->board->workers[st->place].bytes += bytes;
}


ngx_idem_redis_error_e
ngx_idem_redis_stat_kind(const ngx_str_t *words)
{
    size_t  i;

    for (i = 0; i < sizeof(ngx_idem_redis_words)
                    / sizeof(ngx_idem_redis_words[0]); i++)
    {
        if (ngx_idem_redis_says(words, ngx_idem_redis_words[i].word)) {
            return ngx_idem_redis_words[i].kind;
        }
    }

    return NGX_IDEM_REDIS_ERROR_OTHER;
}


ngx_uint_t
ngx_idem_redis_says(const ngx_str_t *words, const char *word)
{
    size_t  n;

    n = ngx_strlen(word);

    return words->len >= n && ngx_strncmp(words->data, word, n) == 0
           && (words->len == n || words->data[n] == ' ');
}


ngx_idem_redis_server_t *
ngx_idem_redis_stat_server(ngx_idem_redis_stat_t *st, const ngx_str_t *name)
{
    ngx_idem_redis_server_t  *sv;

    sv = ngx_idem_redis_stat_find(st, name);

    if (sv) {
        return sv;
    }

    if (st->shpool) {
        ngx_shmtx_lock(&st->shpool->mutex);
    }

    sv = ngx_idem_redis_stat_find(st, name);

    if (sv == NULL) {
        sv = ngx_idem_redis_stat_take(st, name);
    }

    if (st->shpool) {
        ngx_shmtx_unlock(&st->shpool->mutex);
    }

    return sv;
}


static ngx_idem_redis_server_t *
ngx_idem_redis_stat_find(ngx_idem_redis_stat_t *st, const ngx_str_t *name)
{
    ngx_uint_t                i, n;
    ngx_idem_redis_server_t  *sv;

    n = st->board->nservers;

    for (i = 0; i < n; i++) {
        sv = &st->board->servers[i];

        if (sv->len == name->len
            && ngx_memcmp(sv->name, name->data, name->len) == 0)
        {
            return sv;
        }
    }

    return NULL;
}


/* Caller holds the mutex. */

static ngx_idem_redis_server_t *
ngx_idem_redis_stat_take(ngx_idem_redis_stat_t *st, const ngx_str_t *name)
{
    ngx_str_t                 others = ngx_string("others");
    ngx_uint_t                n;
    ngx_idem_redis_server_t  *sv;

    n = st->board->nservers;

    if (n == NGX_IDEM_REDIS_SERVERS) {
        return &st->board->servers[n - 1];
    }

    if (n == NGX_IDEM_REDIS_SERVERS - 1) {
        name = &others;
    }

    sv = &st->board->servers[n];

    sv->len = (uint32_t) ngx_min(name->len, NGX_SOCKADDR_STRLEN);
    ngx_memcpy(sv->name, name->data, sv->len);

    ngx_memory_barrier();

    st->board->nservers = n + 1;

    return sv;
}


void
ngx_idem_redis_stat_presence(ngx_idem_redis_stat_t *st,
    ngx_idem_redis_server_t *sv, ngx_idem_redis_presence_e presence)
{
    sv->presence[st->place] = (u_char) presence;
}


uint64_t
ngx_idem_redis_stat_clock(void)
{
#if (NGX_HAVE_CLOCK_MONOTONIC)

    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;

#else

    return (uint64_t) ngx_current_msec * 1000;

#endif
}


void
ngx_idem_redis_stat_trip(ngx_idem_redis_server_t *sv, uint64_t began_us)
{
    uint64_t    us;
    ngx_uint_t  i;

    us = ngx_idem_redis_stat_clock() - began_us;

    for (i = 0; i < NGX_IDEM_REDIS_BOUNDS; i++) {
        if (us <= ngx_idem_redis_bounds[i]) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&sv->trips[i], 1);
    (void) ngx_atomic_fetch_add(&sv->trip_us, (ngx_atomic_int_t) us);
}
