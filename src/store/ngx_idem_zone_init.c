
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <openssl/rand.h>

#include "store/ngx_idem_zone_layout.h"


#define NGX_IDEM_ZONE_LINE      64              /* of a cache */
#define NGX_IDEM_ZONE_LOG_MS    1000

#define NGX_IDEM_ZONE_COUNTERS                                                \
    ngx_align(sizeof(ngx_idem_superblock_t), NGX_IDEM_ZONE_LINE)

/* A block with its link, and half a bucket. */

#define NGX_IDEM_ZONE_PER_BLOCK  (NGX_IDEM_BLOCK + 4 + 2)


static ngx_int_t ngx_idem_zone_attach(ngx_shm_zone_t *shm_zone, void *data);
static ngx_int_t ngx_idem_zone_keep(ngx_shm_zone_t *shm_zone,
    ngx_idem_zone_t *zn, ngx_idem_superblock_t *sb);
static ngx_shm_zone_t *ngx_idem_zone_before(ngx_shm_zone_t *shm_zone);

static ngx_int_t ngx_idem_zone_mutex(pthread_mutex_t *mutex);

static void ngx_idem_zone_report(ngx_idem_zone_t *zn);
static void ngx_idem_zone_report_full(ngx_idem_zone_t *zn);


ngx_idem_store_t *
ngx_idem_zone_add(ngx_conf_t *cf, ngx_str_t *name, size_t size,
    ngx_idem_full_e full, ngx_idem_worker_t *wk, void *tag)
{
    ngx_shm_zone_t   *shm_zone;
    ngx_idem_zone_t  *zn;

    zn = ngx_pcalloc(cf->pool, sizeof(ngx_idem_zone_t));
    if (zn == NULL) {
        return NULL;
    }

    shm_zone = ngx_shared_memory_add(cf, name, size, tag);
    if (shm_zone == NULL) {
        return NULL;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is already in use", name);
        return NULL;
    }

    shm_zone->init = ngx_idem_zone_attach;
    shm_zone->data = zn;

    zn->store.verbs = &ngx_idem_zone_verbs;
    zn->store.name = *name;
    ngx_str_set(&zn->store.kind, "zone");

    zn->worker = wk;
    zn->full = full;
    zn->size = size;

    ngx_idem_waiter_init(&zn->waiters);

    return &zn->store;
}


/* New memory under the name of an old zone: its size was changed. */

static ngx_int_t
ngx_idem_zone_attach(ngx_shm_zone_t *shm_zone, void *data)
{
    void             *addr;
    size_t            size;
    ngx_idem_zone_t  *zn;
    ngx_shm_zone_t   *before;
    ngx_slab_pool_t  *shpool;

    zn = shm_zone->data;
    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data) {
        return ngx_idem_zone_keep(shm_zone, zn, shpool->data);
    }

    before = ngx_idem_zone_before(shm_zone);

    if (before) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "idempotency zone \"%V\" cannot change its size by a "
                      "reload, from %uz to %uz bytes: its records would be "
                      "lost", &shm_zone->shm.name, before->shm.size,
                      shm_zone->shm.size);
        return NGX_ERROR;
    }

    size = shpool->pfree * ngx_pagesize;

    addr = ngx_slab_alloc(shpool, size);

    if (addr == NULL || ngx_idem_zone_format(zn, addr, size) != NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "idempotency zone \"%V\" could not be made",
                      &shm_zone->shm.name);
        return NGX_ERROR;
    }

    shpool->data = addr;

    return NGX_OK;
}


static ngx_int_t
ngx_idem_zone_keep(ngx_shm_zone_t *shm_zone, ngx_idem_zone_t *zn,
    ngx_idem_superblock_t *sb)
{
    if (sb->version != NGX_IDEM_ZONE_VERSION) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "idempotency zone \"%V\" was made by another version "
                      "of the module, which takes a restart",
                      &shm_zone->shm.name);
        return NGX_ERROR;
    }

    ngx_idem_zone_view(zn, sb);

    return NGX_OK;
}


/* While a configuration is read, ngx_cycle is the one that serves. */

static ngx_shm_zone_t *
ngx_idem_zone_before(ngx_shm_zone_t *shm_zone)
{
    ngx_uint_t                       i;
    ngx_shm_zone_t                  *zones;
    const volatile ngx_list_part_t  *part;

    if (ngx_is_init_cycle(ngx_cycle)) {
        return NULL;
    }

    for (part = &ngx_cycle->shared_memory.part; part; part = part->next) {
        zones = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (zones[i].tag == shm_zone->tag
                && zones[i].shm.name.len == shm_zone->shm.name.len
                && ngx_strncmp(zones[i].shm.name.data,
                               shm_zone->shm.name.data,
                               shm_zone->shm.name.len)
                   == 0)
            {
                return &zones[i];
            }
        }
    }

    return NULL;
}


ngx_int_t
ngx_idem_zone_format(ngx_idem_zone_t *zn, void *addr, size_t size)
{
    size_t                  n, start;
    ngx_idem_superblock_t  *sb;

    start = NGX_IDEM_ZONE_COUNTERS + sizeof(ngx_idem_stat_t)
            + NGX_IDEM_ZONE_LINE + NGX_IDEM_BLOCK;

    if (size < start + 4 * NGX_IDEM_ZONE_PER_BLOCK) {
        return NGX_ERROR;
    }

    n = ngx_min((size - start) / NGX_IDEM_ZONE_PER_BLOCK,
                NGX_IDEM_MAX_BLOCKS);

    ngx_memzero(addr, start);

    sb = addr;
    sb->size = size;
    sb->nbuckets = (uint32_t) n / 2;
    sb->list.nblocks = (uint32_t) n;
    sb->fence = (uint64_t) ngx_time() << 20;

    if (RAND_bytes((u_char *) &sb->secret, sizeof(sb->secret)) != 1) {
        return NGX_ERROR;
    }

    sb->secret |= 1;

    if (ngx_idem_zone_mutex(&sb->mutex) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_idem_zone_view(zn, addr);

    ngx_memzero(zn->arena.links, n * sizeof(uint32_t));
    ngx_idem_zone_rebuild_locked(zn);

    sb->version = NGX_IDEM_ZONE_VERSION;

    return NGX_OK;
}


void
ngx_idem_zone_view(ngx_idem_zone_t *zn, void *addr)
{
    u_char  *p;

    zn->sb = addr;

    p = (u_char *) addr + NGX_IDEM_ZONE_COUNTERS;
    zn->store.stat = (ngx_idem_stat_t *) p;

    p = ngx_align_ptr(p + sizeof(ngx_idem_stat_t), NGX_IDEM_ZONE_LINE);
    zn->buckets = (uint32_t *) p;

    p += zn->sb->nbuckets * sizeof(uint32_t);
    zn->arena.list = &zn->sb->list;
    zn->arena.links = (uint32_t *) p;

    p += zn->sb->list.nblocks * sizeof(uint32_t);
    zn->arena.blocks = ngx_align_ptr(p, NGX_IDEM_BLOCK);

    zn->cursor = NGX_IDEM_NIL;
}


static ngx_int_t
ngx_idem_zone_mutex(pthread_mutex_t *mutex)
{
    int                  err;
    pthread_mutexattr_t  attr;

    if (pthread_mutexattr_init(&attr) != 0) {
        return NGX_ERROR;
    }

    err = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);

    if (err == 0) {
        err = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    }

    if (err == 0) {
        err = pthread_mutex_init(mutex, &attr);
    }

    (void) pthread_mutexattr_destroy(&attr);

    return (err == 0) ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_idem_zone_lock(ngx_idem_zone_t *zn)
{
    int  err;

    err = pthread_mutex_lock(&zn->sb->mutex);

    zn->now_ms = ngx_current_msec;

    if (err == 0) {
        return NGX_OK;
    }

    if (err != EOWNERDEAD) {
        return NGX_ERROR;
    }

    /* should we die before we are through, the next one comes here again */

    ngx_idem_zone_rebuild_locked(zn);

    (void) pthread_mutex_consistent(&zn->sb->mutex);

    ngx_idem_stat_add(&zn->store, NGX_IDEM_STAT_REPAIRED);

    zn->news.wake |= zn->sb->waiting_workers;
    zn->news.repaired = 1;
    zn->news.any = 1;

    return NGX_OK;
}


void
ngx_idem_zone_unlock(ngx_idem_zone_t *zn)
{
    (void) pthread_mutex_unlock(&zn->sb->mutex);

    if (zn->news.any) {
        ngx_idem_zone_report(zn);
    }
}


static void
ngx_idem_zone_report(ngx_idem_zone_t *zn)
{
    uint64_t    wake;
    ngx_uint_t  repaired;

    wake = zn->news.wake;
    repaired = zn->news.repaired;

    zn->news.any = 0;
    zn->news.wake = 0;
    zn->news.repaired = 0;

    if (wake) {
        ngx_idem_worker_wake(zn->worker, wake);
    }

    if (repaired) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency zone \"%V\" was repaired, as a worker "
                      "died while it changed it", &zn->store.name);
    }

    ngx_idem_zone_report_full(zn);
}


/* A line a second at most; what it leaves out is in the next one. */

static void
ngx_idem_zone_report_full(ngx_idem_zone_t *zn)
{
    ngx_idem_zone_news_t  *news;

    news = &zn->news;

    if (zn->logged && ngx_current_msec - zn->logged < NGX_IDEM_ZONE_LOG_MS) {
        return;
    }

    if (news->evicted_done || news->evicted_unstored) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency zone \"%V\" is full, %ui done and "
                      "%ui unstored records were evicted", &zn->store.name,
                      news->evicted_done, news->evicted_unstored);
        zn->logged = ngx_current_msec;
    }

    if (news->refused || news->not_kept) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "idempotency zone \"%V\" is full, %ui claims were "
                      "refused and %ui responses were not kept",
                      &zn->store.name, news->refused, news->not_kept);
        zn->logged = ngx_current_msec;
    }

    ngx_memzero(news, sizeof(ngx_idem_zone_news_t));
}
