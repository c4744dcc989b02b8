
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_worker.h"


#define NGX_IDEM_WORKER_ZONE  "ngx_http_idempotency_workers"
#define NGX_IDEM_WORKER_TICK  1000
#define NGX_IDEM_WORKER_DEAD  ((uint64_t) -1)


/*
 * Written by the worker that takes the slot, under the mutex of the shared
 * zone, and read by all without it: what a reader can see half written
 * belongs to a worker that is dead, and "dead" is what it makes of it.
 */

typedef struct {
    volatile uint32_t            pid;           /* 0: free */
    volatile uint32_t            epoch;
    volatile uint64_t            start;         /* 0: not known */
} ngx_idem_worker_slot_t;


typedef struct {
    ngx_idem_worker_slot_t       slots[NGX_IDEM_WORKERS];
} ngx_idem_worker_table_t;


struct ngx_idem_worker_s {
    ngx_idem_worker_id_t         id;
    ngx_idem_worker_table_t     *table;
    ngx_slab_pool_t             *shpool;
    int                          fds[NGX_IDEM_WORKERS];     /* -1: none */
    ngx_queue_t                  sharers;       /* of fds, in this process */

    ngx_connection_t            *connection;    /* of our own eventfd */
    ngx_connection_t             dummy;         /* of the events below */
    ngx_event_t                  posted;
    ngx_event_t                  tick;

    ngx_idem_worker_handler_pt   handler;
    ngx_idem_worker_handler_pt   timeout;
    void                        *data;
};


static ngx_int_t ngx_idem_worker_attach(ngx_shm_zone_t *zone, void *data);
#if (NGX_HAVE_EVENTFD)
static void ngx_idem_worker_open(ngx_idem_worker_t *wk, ngx_log_t *log);
#endif
static void ngx_idem_worker_cleanup(void *data);

static ngx_int_t ngx_idem_worker_take(ngx_idem_worker_t *wk);
static ngx_int_t ngx_idem_worker_listen(ngx_idem_worker_t *wk,
    ngx_log_t *log);

static void ngx_idem_worker_read_handler(ngx_event_t *rev);
static void ngx_idem_worker_posted_handler(ngx_event_t *ev);
static void ngx_idem_worker_tick_handler(ngx_event_t *ev);

static ngx_uint_t ngx_idem_worker_runs(const ngx_idem_worker_slot_t *sl);
static uint64_t ngx_idem_worker_start(ngx_pid_t pid);
#if (NGX_LINUX)
static uint64_t ngx_idem_worker_parse_stat(const u_char *p, size_t len);
#endif


ngx_idem_worker_t *
ngx_idem_worker_add(ngx_conf_t *cf, void *tag)
{
    ngx_str_t            name;
    ngx_uint_t           i;
    ngx_shm_zone_t      *zone;
    ngx_idem_worker_t   *wk;
    ngx_pool_cleanup_t  *cln;

    wk = ngx_pcalloc(cf->pool, sizeof(ngx_idem_worker_t));
    if (wk == NULL) {
        return NULL;
    }

    wk->id.slot = NGX_IDEM_NO_WORKER;
    ngx_queue_init(&wk->sharers);

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {
        wk->fds[i] = -1;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_idem_worker_cleanup;
    cln->data = wk;

    ngx_str_set(&name, NGX_IDEM_WORKER_ZONE);

    zone = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize, tag);
    if (zone == NULL) {
        return NULL;
    }

    zone->init = ngx_idem_worker_attach;
    zone->data = wk;

    return wk;
}


static ngx_int_t
ngx_idem_worker_attach(ngx_shm_zone_t *zone, void *data)
{
    ngx_idem_worker_t  *old = data;

    ngx_idem_worker_t  *wk;

    wk = zone->data;
    wk->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (old) {
        wk->table = old->table;
        ngx_memcpy(wk->fds, old->fds, sizeof(wk->fds));
        ngx_queue_insert_after(&old->sharers, &wk->sharers);
        return NGX_OK;
    }

    if (zone->shm.exists) {
        wk->table = wk->shpool->data;
        return NGX_OK;
    }

    wk->table = ngx_slab_calloc(wk->shpool, sizeof(ngx_idem_worker_table_t));
    if (wk->table == NULL) {
        return NGX_ERROR;
    }

    wk->shpool->data = wk->table;

#if (NGX_HAVE_EVENTFD)

    if (!ngx_test_config) {
        ngx_idem_worker_open(wk, zone->shm.log);
    }

#endif

    return NGX_OK;
}


#if (NGX_HAVE_EVENTFD)

static void
ngx_idem_worker_open(ngx_idem_worker_t *wk, ngx_log_t *log)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {
        wk->fds[i] = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

        if (wk->fds[i] == -1) {
            ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                          "idempotency: eventfd() failed, waiters in all but "
                          "%ui workers are looked after once a second only",
                          i);
            return;
        }
    }
}

#endif


/*
 * Configurations that follow each other share the eventfds; the last one
 * closes them.  It need not be the newest: that one may have been refused.
 */

static void
ngx_idem_worker_cleanup(void *data)
{
    ngx_idem_worker_t  *wk = data;

    ngx_uint_t  i;

    if (!ngx_queue_empty(&wk->sharers)) {
        ngx_queue_remove(&wk->sharers);
        return;
    }

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {
        if (wk->fds[i] != -1) {
            (void) close(wk->fds[i]);
        }
    }
}


ngx_int_t
ngx_idem_worker_init(ngx_idem_worker_t *wk, ngx_cycle_t *cycle,
    ngx_idem_worker_handler_pt handler, ngx_idem_worker_handler_pt timeout,
    void *data)
{
    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    wk->handler = handler;
    wk->timeout = timeout;
    wk->data = data;

    /* a debug log of a timer prints the fd of its connection */

    wk->dummy.data = wk;
    wk->dummy.fd = (ngx_socket_t) -1;

    wk->posted.handler = ngx_idem_worker_posted_handler;
    wk->posted.data = &wk->dummy;
    wk->posted.log = cycle->log;

    wk->tick.handler = ngx_idem_worker_tick_handler;
    wk->tick.data = &wk->dummy;
    wk->tick.log = cycle->log;
    wk->tick.cancelable = 1;

    if (ngx_idem_worker_take(wk) != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "idempotency: more than %d workers, waiters in this one "
                      "are looked after once a second only",
                      NGX_IDEM_WORKERS);
        return NGX_OK;
    }

    if (wk->fds[wk->id.slot] == -1) {
        return NGX_OK;
    }

    return ngx_idem_worker_listen(wk, cycle->log);
}


/* Under the mutex that the master unlocks if its holder dies. */

static ngx_int_t
ngx_idem_worker_take(ngx_idem_worker_t *wk)
{
    uint64_t                 start;
    ngx_uint_t               i;
    ngx_idem_worker_slot_t  *sl;

    start = ngx_idem_worker_start(ngx_pid);

    ngx_shmtx_lock(&wk->shpool->mutex);

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {
        sl = &wk->table->slots[i];

        if (ngx_idem_worker_runs(sl)) {
            continue;
        }

        sl->pid = 0;
        sl->epoch++;
        sl->start = start;
        sl->pid = ngx_pid;

        wk->id.slot = i;
        wk->id.epoch = sl->epoch;

        break;
    }

    ngx_shmtx_unlock(&wk->shpool->mutex);

    return (i < NGX_IDEM_WORKERS) ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_idem_worker_listen(ngx_idem_worker_t *wk, ngx_log_t *log)
{
    ngx_connection_t  *c;

    c = ngx_get_connection(wk->fds[wk->id.slot], log);
    if (c == NULL) {
        return NGX_ERROR;
    }

    c->data = wk;
    c->log = log;
    c->read->handler = ngx_idem_worker_read_handler;
    c->read->log = log;
    c->write->log = log;

    wk->connection = c;

    return ngx_add_event(c->read, NGX_READ_EVENT, NGX_LEVEL_EVENT);
}


void
ngx_idem_worker_exit(ngx_idem_worker_t *wk)
{
    if (wk->posted.posted) {
        ngx_delete_posted_event(&wk->posted);
    }

    if (wk->tick.timer_set) {
        ngx_del_timer(&wk->tick);
    }

    if (wk->connection) {

        /* the number is closed in this process, its cleanup need not */

        wk->fds[wk->id.slot] = -1;

        ngx_close_connection(wk->connection);
        wk->connection = NULL;
    }

    if (wk->id.slot != NGX_IDEM_NO_WORKER) {
        wk->table->slots[wk->id.slot].pid = 0;
        wk->id.slot = NGX_IDEM_NO_WORKER;
    }
}


ngx_idem_worker_id_t
ngx_idem_worker_self(ngx_idem_worker_t *wk)
{
    return wk->id;
}


ngx_uint_t
ngx_idem_worker_alive(ngx_idem_worker_t *wk, ngx_idem_worker_id_t id)
{
    const ngx_idem_worker_slot_t  *sl;

    if (id.slot >= NGX_IDEM_WORKERS) {
        return 1;
    }

    sl = &wk->table->slots[id.slot];

    if ((uint16_t) sl->epoch != id.epoch) {
        return 0;
    }

    return id.slot == wk->id.slot || ngx_idem_worker_runs(sl);
}


void
ngx_idem_worker_wake(ngx_idem_worker_t *wk, uint64_t mask)
{
    uint64_t    one;
    ngx_uint_t  i;

    one = 1;

    for (i = 0; mask; i++, mask >>= 1) {

        if (!(mask & 1)) {
            continue;
        }

        if (i == wk->id.slot) {
            ngx_post_event(&wk->posted, &ngx_posted_events);
            continue;
        }

        if (wk->fds[i] == -1) {
            continue;
        }

        /* NGX_EAGAIN: it was told often enough */

        if (write(wk->fds[i], &one, sizeof(uint64_t)) == -1
            && ngx_errno != NGX_EAGAIN)
        {
            ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                          "idempotency: write() to an eventfd failed");
        }
    }
}


void
ngx_idem_worker_again(ngx_idem_worker_t *wk)
{
    ngx_post_event(&wk->posted, &ngx_posted_next_events);
}


void
ngx_idem_worker_tick(ngx_idem_worker_t *wk, ngx_uint_t on)
{
    /* not a worker, or nginx skipped init_process: a single one's reload */

    if (wk->handler == NULL) {
        return;
    }

    if (on && !wk->tick.timer_set) {
        ngx_add_timer(&wk->tick, NGX_IDEM_WORKER_TICK);
    }

    if (!on && wk->tick.timer_set) {
        ngx_del_timer(&wk->tick);
    }
}


/*
 * The shutdown timer closes all connections of the process; this one is closed
 * by ngx_idem_worker_exit().
 */

static void
ngx_idem_worker_read_handler(ngx_event_t *rev)
{
    uint64_t            n;
    ngx_connection_t   *c;
    ngx_idem_worker_t  *wk;

    c = rev->data;
    wk = c->data;

    if (c->close) {
        c->close = 0;
        c->error = 0;
        wk->timeout(wk->data);
        return;
    }

    if (read(c->fd, &n, sizeof(uint64_t)) != sizeof(uint64_t)) {
        return;
    }

    ngx_post_event(&wk->posted, &ngx_posted_events);
}


static void
ngx_idem_worker_posted_handler(ngx_event_t *ev)
{
    ngx_connection_t   *c;
    ngx_idem_worker_t  *wk;

    c = ev->data;
    wk = c->data;

    wk->handler(wk->data);
}


static void
ngx_idem_worker_tick_handler(ngx_event_t *ev)
{
    ngx_connection_t   *c;
    ngx_idem_worker_t  *wk;

    c = ev->data;
    wk = c->data;

    /* the handler may say that it was the last time */

    ngx_add_timer(ev, NGX_IDEM_WORKER_TICK);

    ngx_post_event(&wk->posted, &ngx_posted_events);
}


static ngx_uint_t
ngx_idem_worker_runs(const ngx_idem_worker_slot_t *sl)
{
    uint64_t   start;
    ngx_pid_t  pid;

    pid = sl->pid;

    if (pid == 0) {
        return 0;
    }

    if (kill(pid, 0) == -1 && ngx_errno == ESRCH) {
        return 0;
    }

    if (sl->start == 0) {
        return 1;
    }

    start = ngx_idem_worker_start(pid);

    return start == 0 || start == sl->start;
}


/* In ticks since boot; 0 if it cannot be known, else that it is dead. */

static uint64_t
ngx_idem_worker_start(ngx_pid_t pid)
{
#if (NGX_LINUX)

    u_char    buf[512], name[sizeof("/proc//stat") + NGX_INT64_LEN];
    ssize_t   n;
    ngx_fd_t  fd;

    ngx_sprintf(name, "/proc/%P/stat%Z", pid);

    fd = ngx_open_file(name, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);
    if (fd == NGX_INVALID_FILE) {
        return 0;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    (void) ngx_close_file(fd);

    return (n > 0) ? ngx_idem_worker_parse_stat(buf, n) : 0;

#else

    return 0;

#endif
}


#if (NGX_LINUX)

/*
 * Source: proc(5), /proc/pid/stat.  Field 2, a name in parentheses, may hold
 * anything; all after its last parenthesis are numbers and one letter, and
 * the 20th space there stands before field 22, the start time.
 */

static uint64_t
ngx_idem_worker_parse_stat(const u_char *p, size_t len)
{
    uint64_t       start;
    ngx_uint_t     spaces;
    const u_char  *last;

    last = p + len;

    for (p = last; len && p[-1] != ')'; len--) {
        p--;
    }

    /* a zombie has a start time, but no life */

    if (last - p > 1 && (p[1] == 'Z' || p[1] == 'X')) {
        return NGX_IDEM_WORKER_DEAD;
    }

    for (spaces = 20; p < last && spaces; p++) {
        if (*p == ' ') {
            spaces--;
        }
    }

    for (start = 0; p < last && *p >= '0' && *p <= '9'; p++) {
        start = start * 10 + (*p - '0');
    }

    return start;
}

#endif
