
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "store/ngx_idem_redis_stat.h"
#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_MEMBER  40         /* a name and a number */


static u_char *ngx_http_idempotency_write_server(u_char *p,
    ngx_idem_redis_stat_t *st, ngx_uint_t i);
static u_char *ngx_http_idempotency_write_trips(u_char *p,
    const ngx_idem_redis_server_t *sv);


size_t
ngx_http_idempotency_status_redis_size(void)
{
    return (10 + NGX_IDEM_REDIS_COUNTS + NGX_IDEM_REDIS_ERRORS)
           * NGX_HTTP_IDEMPOTENCY_MEMBER
           + NGX_IDEM_REDIS_SERVERS
             * (6 * NGX_SOCKADDR_STRLEN
                + (12 + NGX_IDEM_REDIS_BOUNDS) * NGX_HTTP_IDEMPOTENCY_MEMBER);
}


/* ,"redis":{"pending":n,...,"errors":{...},"servers":[...]} */

u_char *
ngx_http_idempotency_status_redis(u_char *p, ngx_idem_redis_stat_t *st)
{
    ngx_uint_t               i, n;
    ngx_idem_redis_gauges_t  now;

    now = ngx_idem_redis_stat_gauges(st);

    p = ngx_sprintf(p, ",\"redis\":{\"pending\":%uA,\"undelivered\":%uA,"
                    "\"undelivered_bytes\":%uA,\"commands\":{",
                    now.pending, now.undelivered, now.bytes);

    for (i = 0; i < NGX_IDEM_REDIS_COUNTS; i++) {
        p = ngx_sprintf(p, "%s\"%V\":%uA", i ? "," : "",
                        &ngx_idem_redis_count_names[i], st->board->counts[i]);
    }

    p = ngx_sprintf(p, "},\"errors\":{");

    for (i = 0; i < NGX_IDEM_REDIS_ERRORS; i++) {
        p = ngx_sprintf(p, "%s\"%V\":%uA", i ? "," : "",
                        &ngx_idem_redis_error_names[i], st->board->errors[i]);
    }

    p = ngx_sprintf(p, "},\"servers\":[");

    n = st->board->nservers;

    for (i = 0; i < n; i++) {

        if (i) {
            *p++ = ',';
        }

        p = ngx_http_idempotency_write_server(p, st, i);
    }

    return ngx_sprintf(p, "]}");
}


/* The numbers of workers that have it, open it, and have lost it. */

static u_char *
ngx_http_idempotency_write_server(u_char *p, ngx_idem_redis_stat_t *st,
    ngx_uint_t i)
{
    ngx_uint_t                n[NGX_IDEM_REDIS_THERE + 1];
    const char               *state;
    ngx_idem_redis_server_t  *sv;

    sv = &st->board->servers[i];

    ngx_idem_redis_stat_presences(st, sv, n);

    state = n[NGX_IDEM_REDIS_AWAY] ? "away"
            : n[NGX_IDEM_REDIS_THERE] ? "there"
            : n[NGX_IDEM_REDIS_OPENING] ? "opening" : "unused";

    p = ngx_sprintf(p, "{\"server\":\"");
    p = (u_char *) ngx_escape_json(p, sv->name, sv->len);

    p = ngx_sprintf(p, "\",\"sentinel\":%s,\"state\":\"%s\",\"workers\":{"
                    "\"there\":%ui,\"opening\":%ui,\"away\":%ui},"
                    "\"connects\":%uA,\"failures\":%uA,",
                    sv->sentinel ? "true" : "false", state,
                    n[NGX_IDEM_REDIS_THERE], n[NGX_IDEM_REDIS_OPENING],
                    n[NGX_IDEM_REDIS_AWAY], sv->connects, sv->failures);

    p = ngx_http_idempotency_write_trips(p, sv);

    *p++ = '}';

    return p;
}


/* How many took no longer than that, as in a histogram of Prometheus. */

static u_char *
ngx_http_idempotency_write_trips(u_char *p, const ngx_idem_redis_server_t *sv)
{
    ngx_uint_t         i;
    ngx_atomic_uint_t  n, us;

    us = sv->trip_us;

    p = ngx_sprintf(p, "\"round_trip\":{\"sum\":%uA.%06uA,\"buckets\":{",
                    us / 1000000, us % 1000000);

    for (i = 0, n = 0; i < NGX_IDEM_REDIS_BOUNDS; i++) {
        n += sv->trips[i];

        p = ngx_sprintf(p, "\"%uD.%06uD\":%uA,",
                        ngx_idem_redis_bounds[i] / 1000000,
                        ngx_idem_redis_bounds[i] % 1000000, n);
    }

    n += sv->trips[i];

    return ngx_sprintf(p, "\"+Inf\":%uA},\"count\":%uA}", n, n);
}
