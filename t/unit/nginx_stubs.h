
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * What a zone needs of nginx and of the table of workers, played by a test
 * program: memory, logs, the clock, and workers that live and die on command.
 */


#ifndef _NGX_IDEM_NGINX_STUBS_H_INCLUDED_
#define _NGX_IDEM_NGINX_STUBS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include <stdlib.h>

#include "store/ngx_idem_worker.h"


/* This process, and those that are dead; slots above 63 have no eventfd. */

struct ngx_idem_worker_s {
    ngx_idem_worker_id_t   id;
    uint64_t               dead;            /* by slot, any epoch */
    uint64_t               woken;
    ngx_uint_t             asked;
    ngx_uint_t             tick;
    ngx_uint_t             again;
};


volatile ngx_cycle_t      *ngx_cycle;
volatile ngx_msec_t        ngx_current_msec;
volatile ngx_time_t       *ngx_cached_time;
ngx_uint_t                 ngx_pagesize = 4096;

static ngx_log_t           stub_log;
static ngx_time_t          stub_time;
static ngx_cycle_t         stub_cycle;
static ngx_shm_zone_t      stub_zone;
static ngx_idem_worker_t   stub_worker;

static ngx_uint_t          stub_warnings;
static ngx_uint_t          stub_emergencies;
static ngx_uint_t          stub_no_memory;
static void              (*stub_allocating)(void);  /* called meanwhile */


static inline void
stub_start(void)
{
    stub_log.log_level = NGX_LOG_WARN;
    stub_cycle.log = &stub_log;
    ngx_cycle = &stub_cycle;

    stub_time.sec = 1000;
    ngx_cached_time = &stub_time;
    ngx_current_msec = 1000000;
}


ngx_idem_worker_id_t
ngx_idem_worker_self(ngx_idem_worker_t *wk)
{
    return wk->id;
}


ngx_uint_t
ngx_idem_worker_alive(ngx_idem_worker_t *wk, ngx_idem_worker_id_t id)
{
    wk->asked++;

    return id.slot >= NGX_IDEM_WORKERS || !((wk->dead >> id.slot) & 1);
}


void
ngx_idem_worker_wake(ngx_idem_worker_t *wk, uint64_t mask)
{
    wk->woken |= mask;
}


void
ngx_idem_worker_again(ngx_idem_worker_t *wk)
{
    wk->again++;
}


void
ngx_idem_worker_tick(ngx_idem_worker_t *wk, ngx_uint_t on)
{
    wk->tick = on;
}


void *
ngx_pnalloc(ngx_pool_t *pool, size_t size)
{
    void  (*act)(void);

    act = stub_allocating;
    stub_allocating = NULL;

    if (act) {
        act();
    }

    return stub_no_memory ? NULL : malloc(size);
}


void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    return calloc(1, size);
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    if (level == NGX_LOG_WARN) {
        stub_warnings++;
    }

    if (level == NGX_LOG_EMERG) {
        stub_emergencies++;
    }
}


void ngx_cdecl
ngx_conf_log_error(ngx_uint_t level, ngx_conf_t *cf, ngx_err_t err,
    const char *fmt, ...)
{
    stub_emergencies++;
}


ngx_shm_zone_t *
ngx_shared_memory_add(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag)
{
    stub_zone.shm.name = *name;
    stub_zone.shm.size = size;
    stub_zone.shm.log = &stub_log;
    stub_zone.tag = tag;

    return &stub_zone;
}


void *
ngx_slab_alloc(ngx_slab_pool_t *pool, size_t size)
{
    return stub_no_memory ? NULL : pool->start;
}


#endif /* _NGX_IDEM_NGINX_STUBS_H_INCLUDED_ */
