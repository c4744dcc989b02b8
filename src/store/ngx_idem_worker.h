
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The workers of this nginx, old and new generation alike: who is alive, and
 * how to wake another one.
 *
 * A table of NGX_IDEM_WORKERS slots lies in a small shared zone of its own,
 * kept over reloads.  A worker takes a free slot in init_process, or that of
 * a dead worker, and gives it back in exit_process.  A slot has an eventfd,
 * made once by the master before it forks, so that all generations know it by
 * the same number; slots for which the master got none (too few open files
 * allowed, a platform without eventfd) are woken by their tick only.
 *
 * A slot whose worker died is seen as dead at once: by its pid and the start
 * time of that process, so that a pid that was reused is not mistaken for
 * life.  Each time a slot is taken its epoch grows: (slot, epoch) names one
 * worker for ever, as far as 16 bits go.
 */


#ifndef _NGX_IDEM_WORKER_H_INCLUDED_
#define _NGX_IDEM_WORKER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


#define NGX_IDEM_WORKERS    64
#define NGX_IDEM_NO_WORKER  NGX_IDEM_WORKERS


/* Names one worker; part of the zone's layout. */

typedef struct {
    uint16_t  slot;
    uint16_t  epoch;
} ngx_idem_worker_id_t;


typedef struct ngx_idem_worker_s  ngx_idem_worker_t;

typedef void (*ngx_idem_worker_handler_pt)(void *data);


/*
 * Adds the table to the configuration; once per configuration, before any
 * zone.  Returns NULL after an error was logged.
 */
ngx_idem_worker_t *ngx_idem_worker_add(ngx_conf_t *cf, void *tag);

/*
 * init_process: takes a slot and registers its eventfd.  handler is called
 * from the event loop when a worker woke this one, and about once a second
 * while it asked for that by ngx_idem_worker_tick(); always by one posted
 * event, so that much news in a turn make it one call.  timeout is called when
 * the time of worker_shutdown_timeout is over, if there is an eventfd.  Also in
 * a single process; does nothing in helper processes.  Without a free slot the
 * worker works, but is woken by the tick only, and its claims count as alive
 * until their leases end; logged as a warning.  NGX_ERROR: no connection left.
 */
ngx_int_t ngx_idem_worker_init(ngx_idem_worker_t *wk, ngx_cycle_t *cycle,
    ngx_idem_worker_handler_pt handler, ngx_idem_worker_handler_pt timeout,
    void *data);

/* exit_process: gives the slot back. */
void ngx_idem_worker_exit(ngx_idem_worker_t *wk);

/* This process. */
ngx_idem_worker_id_t ngx_idem_worker_self(ngx_idem_worker_t *wk);

/*
 * Whether the worker of that name lives; NGX_IDEM_NO_WORKER always does.  A
 * worker that took the slot later has another epoch.  Costs nothing for this
 * process, else one kill(2) and, if the process exists, a read of
 * /proc/pid/stat (Linux): so ask only about a claim that is in the way.  What
 * cannot be read counts as alive.
 */
ngx_uint_t ngx_idem_worker_alive(ngx_idem_worker_t *wk,
    ngx_idem_worker_id_t id);

/* Wakes the workers in the mask, bit by slot; this one by a posted event. */
void ngx_idem_worker_wake(ngx_idem_worker_t *wk, uint64_t mask);

/* Asks for one more call of the handler, in the next turn of the event loop. */
void ngx_idem_worker_again(ngx_idem_worker_t *wk);

/* Asks for the tick, or no more.  The tick alone keeps no worker alive. */
void ngx_idem_worker_tick(ngx_idem_worker_t *wk, ngx_uint_t on);


#endif /* _NGX_IDEM_WORKER_H_INCLUDED_ */
