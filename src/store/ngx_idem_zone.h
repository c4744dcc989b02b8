
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The store in shared memory: an index and lifetimes on top of an arena.
 */


#ifndef _NGX_IDEM_ZONE_H_INCLUDED_
#define _NGX_IDEM_ZONE_H_INCLUDED_


#include "store/ngx_idem_store.h"
#include "store/ngx_idem_worker.h"


#define NGX_IDEM_ZONE_MIN_SIZE  65536


typedef enum {
    NGX_IDEM_FULL_REFUSE = 0,
    NGX_IDEM_FULL_EVICT
} ngx_idem_full_e;


/*
 * Adds a zone to the configuration.  The memory is attached when nginx makes
 * its shared zones: new, kept over a reload with the same size, or refused
 * with an error if the size was changed (the old configuration goes on).
 *
 *   name  of the zone, for nginx.conf, logs and status
 *   size  bytes, NGX_IDEM_ZONE_MIN_SIZE or more (the caller has checked)
 *   tag   the module
 *   wk    this process among the workers, see ngx_idem_worker.h
 *
 * Returns NULL after an error was logged.
 */
ngx_idem_store_t *ngx_idem_zone_add(ngx_conf_t *cf, ngx_str_t *name,
    size_t size, ngx_idem_full_e full, ngx_idem_worker_t *wk, void *tag);

/*
 * The verb tick: lets time pass, turns claims of dead workers into unknown,
 * calls the waiters that are parked in this process and whose claim ended.
 * Bounded work: asks to be called again in the next turn of the event loop if
 * waiters are left.
 */
void ngx_idem_zone_tick(ngx_idem_store_t *st);


#endif /* _NGX_IDEM_ZONE_H_INCLUDED_ */
