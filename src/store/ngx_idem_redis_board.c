
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_redis_stat.h"


static ngx_int_t ngx_idem_redis_stat_attach(ngx_shm_zone_t *zone, void *data);
static ngx_uint_t ngx_idem_redis_stat_lives(ngx_idem_redis_stat_t *st,
    ngx_uint_t place);


ngx_idem_redis_stat_t *
ngx_idem_redis_stat_zone(ngx_conf_t *cf, ngx_str_t *name,
    ngx_idem_worker_t *worker, void *tag)
{
    size_t                  size;
    ngx_shm_zone_t         *zone;
    ngx_idem_redis_stat_t  *st;

    st = ngx_pcalloc(cf->pool, sizeof(ngx_idem_redis_stat_t));
    if (st == NULL) {
        return NULL;
    }

    st->worker = worker;
    st->place = NGX_IDEM_NO_WORKER;

    /* the slab takes whole pages, and some for itself */

    size = ngx_align(sizeof(ngx_idem_redis_board_t), ngx_pagesize)
           + 8 * ngx_pagesize;

    zone = ngx_shared_memory_add(cf, name, size, tag);
    if (zone == NULL) {
        return NULL;
    }

    zone->init = ngx_idem_redis_stat_attach;
    zone->data = st;

    return st;
}


static ngx_int_t
ngx_idem_redis_stat_attach(ngx_shm_zone_t *zone, void *data)
{
    ngx_idem_redis_stat_t *old = data;

    ngx_idem_redis_stat_t  *st;

    st = zone->data;
    st->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (old) {
        st->board = old->board;
        return NGX_OK;
    }

    if (zone->shm.exists) {
        st->board = st->shpool->data;
        return NGX_OK;
    }

    st->board = ngx_slab_calloc(st->shpool, sizeof(ngx_idem_redis_board_t));
    if (st->board == NULL) {
        return NGX_ERROR;
    }

    st->shpool->data = st->board;

    return NGX_OK;
}


void
ngx_idem_redis_stat_begin(ngx_idem_redis_stat_t *st)
{
    ngx_uint_t                i;
    ngx_idem_redis_gauges_t  *own;

    st->place = ngx_idem_worker_self(st->worker).slot;

    own = &st->board->workers[st->place];

    own->pending = 0;
    own->undelivered = 0;
    own->bytes = 0;

    for (i = 0; i < NGX_IDEM_REDIS_SERVERS; i++) {
        st->board->servers[i].presence[st->place] = NGX_IDEM_REDIS_UNUSED;
    }

    ngx_memory_barrier();

    own->id = ngx_idem_worker_self(st->worker);
}


ngx_idem_redis_gauges_t
ngx_idem_redis_stat_gauges(ngx_idem_redis_stat_t *st)
{
    ngx_uint_t               i;
    ngx_idem_redis_gauges_t  sum;

    ngx_memzero(&sum, sizeof(ngx_idem_redis_gauges_t));

    for (i = 0; i < NGX_IDEM_REDIS_PLACES; i++) {

        if (ngx_idem_redis_stat_lives(st, i)) {
            sum.pending += st->board->workers[i].pending;
            sum.undelivered += st->board->workers[i].undelivered;
            sum.bytes += st->board->workers[i].bytes;
        }
    }

    return sum;
}


void
ngx_idem_redis_stat_presences(ngx_idem_redis_stat_t *st,
    const ngx_idem_redis_server_t *sv, ngx_uint_t *n)
{
    ngx_uint_t  i;

    ngx_memzero(n, (NGX_IDEM_REDIS_THERE + 1) * sizeof(ngx_uint_t));

    for (i = 0; i < NGX_IDEM_REDIS_PLACES; i++) {

        if (sv->presence[i] != NGX_IDEM_REDIS_UNUSED
            && sv->presence[i] <= NGX_IDEM_REDIS_THERE
            && ngx_idem_redis_stat_lives(st, i))
        {
            n[sv->presence[i]]++;
        }
    }
}


/* A place that nobody has taken yet has nothing in it. */

static ngx_uint_t
ngx_idem_redis_stat_lives(ngx_idem_redis_stat_t *st, ngx_uint_t place)
{
    ngx_idem_worker_id_t  id;

    if (st->worker == NULL) {
        return 1;
    }

    id = st->board->workers[place].id;

    return id.slot == place && ngx_idem_worker_alive(st->worker, id);
}
