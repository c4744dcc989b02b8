
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A worker that is dead is seen as dead, whoever has its slot or its pid now,
 * and a worker that waits is woken, whichever configuration it came with.
 *
 * What nginx gives is played here: a shared zone, connections, timers.  The
 * source is included, as a pid that was reused can be made only inside the
 * table.
 */


#include "store/ngx_idem_worker.c"

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include "tap.h"


#define ZONE_SIZE  65536
#define TIMEOUT_S  30


typedef struct {
    const char                *stat;
    const char                *why;
    uint64_t                   start;
} test_stat_t;


/* A worker in a process of its own. */

typedef struct {
    ngx_pid_t                  pid;
    ngx_idem_worker_id_t       id;
    int                        told;            /* what it says, a byte each */
} test_child_t;


static void test_parse(void);
static void test_life(void);
static void test_reuse(void);
static void test_full(void);
static void test_wake(void);
static void test_self(void);
static void test_tick(void);
static void test_reload(void);
static void test_few_files(void);
static void test_helper(void);

static ngx_idem_worker_t *test_add(void *old);
static ngx_idem_worker_t *test_new(void);
static void test_child(ngx_idem_worker_t *wk, test_child_t *ch);
static void test_child_run(ngx_idem_worker_t *wk, int out);
static void test_reap(test_child_t *ch, int signo);
static ngx_uint_t test_open(ngx_idem_worker_t *wk);
static void test_close(ngx_idem_worker_t *wk);
static ngx_int_t test_begin(ngx_idem_worker_t *wk);
static void test_called(void *data);
static void test_timed_out(void *data);
static void test_tell(void *data);
static void test_turn(void);
static ngx_int_t test_add_event(ngx_event_t *ev, ngx_int_t event,
    ngx_uint_t flags);


/* nginx, as far as a worker sees it */

volatile ngx_cycle_t      *ngx_cycle;
ngx_pid_t                  ngx_pid;
ngx_uint_t                 ngx_process = NGX_PROCESS_WORKER;
ngx_uint_t                 ngx_pagesize = 4096;
ngx_uint_t                 ngx_test_config;
ngx_queue_t                ngx_posted_events;
ngx_queue_t                ngx_posted_next_events;
ngx_event_actions_t        ngx_event_actions;
ngx_rbtree_t               ngx_event_timer_rbtree;
volatile ngx_msec_t        ngx_current_msec;

static ngx_log_t           test_log;
static ngx_cycle_t         test_cycle;
static ngx_conf_t          test_conf;
static ngx_shm_zone_t      test_zone;
static ngx_pool_cleanup_t  test_cleanup;
static ngx_connection_t    test_connection;
static ngx_event_t         test_events[2];

static ngx_uint_t          test_warnings;
static ngx_uint_t          test_calls;
static ngx_uint_t          test_timeouts;


static const test_stat_t  stats[] = {
    { "7 (nginx) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 99 21 23",
      "field 22", 99 },
    { "7 (a ) b (c) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 98 21 "
      "23", "a name with spaces and parentheses", 98 },
    { "7 (nginx) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 97 21\n",
      "nothing after it", 97 },
    { "7 (nginx) Z 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 96 21\n",
      "a zombie", NGX_IDEM_WORKER_DEAD },
    { "7 (nginx) S 2 3 4", "too short", 0 },
    { "7 nginx", "no name", 0 },
    { "", "empty", 0 },
};


int
main(void)
{
    (void) alarm(TIMEOUT_S);

    ngx_pid = getpid();
    ngx_cycle = &test_cycle;
    test_cycle.log = &test_log;
    test_log.log_level = NGX_LOG_WARN;
    ngx_event_actions.add = test_add_event;
    ngx_queue_init(&ngx_posted_events);
    ngx_queue_init(&ngx_posted_next_events);

    test_parse();
    test_life();
    test_reuse();
    test_full();
    test_wake();
    test_self();
    test_tick();
    test_reload();
    test_few_files();
    test_helper();

    return tap_done();
}


static void
test_parse(void)
{
    size_t              i;
    const test_stat_t  *t;

    for (i = 0; i < tap_count(stats); i++) {
        t = &stats[i];
        tap_is(ngx_idem_worker_parse_stat((const u_char *) t->stat,
                                          strlen(t->stat)),
               t->start, t->why);
    }

    tap_ok(ngx_idem_worker_start(ngx_pid) != 0, "our own start is known");
}


static void
test_life(void)
{
    siginfo_t           info;
    test_child_t        first, second, third, heir;
    ngx_idem_worker_t  *wk;

    wk = test_new();

    test_child(wk, &first);
    test_child(wk, &second);

    tap_is(first.id.slot, 0, "the first worker takes the first slot");
    tap_is(second.id.slot, 1, "the second takes the next one");
    tap_ok(ngx_idem_worker_alive(wk, first.id), "the first is alive");
    tap_ok(ngx_idem_worker_alive(wk, second.id), "the second is alive");

    (void) kill(first.pid, SIGKILL);
    (void) waitid(P_PID, (id_t) first.pid, &info, WEXITED|WNOWAIT);

    tap_ok(!ngx_idem_worker_alive(wk, first.id),
           "killed, it is dead before its master knows");

    test_reap(&first, SIGKILL);

    tap_ok(!ngx_idem_worker_alive(wk, first.id), "and then too");
    tap_ok(ngx_idem_worker_alive(wk, second.id), "the other one is not");

    test_child(wk, &heir);

    tap_is(heir.id.slot, first.id.slot, "a new worker takes a dead one's slot");
    tap_is(heir.id.epoch, first.id.epoch + 1, "its epoch grows");
    tap_ok(ngx_idem_worker_alive(wk, heir.id), "the heir is alive");
    tap_ok(!ngx_idem_worker_alive(wk, first.id), "the dead one stays dead");

    test_reap(&second, SIGTERM);

    tap_ok(!ngx_idem_worker_alive(wk, second.id), "one that left is dead");

    test_child(wk, &third);

    tap_is(third.id.slot, second.id.slot, "the slot it gave back is taken");

    test_reap(&third, SIGKILL);
    test_reap(&heir, SIGKILL);
    test_close(wk);
}


static void
test_reuse(void)
{
    test_child_t             ch, heir;
    ngx_idem_worker_t       *wk;
    ngx_idem_worker_slot_t  *sl;

    wk = test_new();

    test_child(wk, &ch);
    sl = &wk->table->slots[ch.id.slot];

    sl->start--;
    tap_ok(!ngx_idem_worker_alive(wk, ch.id),
           "a process that bears its pid but started at another time");

    test_child(wk, &heir);
    tap_is(heir.id.slot, ch.id.slot, "does not keep the slot");

    sl->start = 0;
    tap_ok(ngx_idem_worker_alive(wk, heir.id),
           "a start that is not known tells nothing");

    test_reap(&ch, SIGKILL);
    test_reap(&heir, SIGKILL);
    test_close(wk);
}


static void
test_full(void)
{
    ngx_uint_t             i;
    ngx_idem_worker_t     *wk, *one[NGX_IDEM_WORKERS];
    ngx_idem_worker_id_t   id;

    wk = test_new();

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {
        one[i] = test_add(wk);
        (void) test_begin(one[i]);
    }

    tap_is(ngx_idem_worker_self(one[63]).slot, 63, "the last slot is taken");

    test_warnings = 0;
    tap_is(test_begin(wk), NGX_OK, "one worker more works");

    id = ngx_idem_worker_self(wk);

    tap_is(test_warnings, 1, "and warns");
    tap_is(id.slot, NGX_IDEM_NO_WORKER, "and has no slot");
    tap_ok(ngx_idem_worker_alive(wk, id), "and counts as alive");

    one[17]->connection = NULL;
    ngx_idem_worker_exit(one[17]);

    (void) test_begin(wk);
    tap_is(ngx_idem_worker_self(wk).slot, 17, "a slot that is free again");

    for (i = 0; i < NGX_IDEM_WORKERS; i++) {
        free(one[i]);
    }

    test_close(wk);
}


static void
test_wake(void)
{
    char                told;
    test_child_t        ch, quiet;
    struct pollfd       pfd;
    ngx_idem_worker_t  *wk;

    wk = test_new();

    test_child(wk, &quiet);
    test_child(wk, &ch);

    ngx_idem_worker_wake(wk, (uint64_t) 1 << ch.id.slot);

    told = 0;
    tap_is(read(ch.told, &told, 1), 1, "the worker in the mask is woken");

    ngx_idem_worker_wake(wk, (uint64_t) 1 << ch.id.slot);
    tap_is(read(ch.told, &told, 1), 1, "and woken again");

    pfd.fd = quiet.told;
    pfd.events = POLLIN;
    tap_is(poll(&pfd, 1, 0), 0, "no other one is");

    ngx_idem_worker_wake(wk, (uint64_t) 1 << 63);
    tap_ok(1, "a slot that nobody has may be woken too");

    test_reap(&ch, SIGKILL);
    test_reap(&quiet, SIGKILL);
    test_close(wk);
}


static void
test_self(void)
{
    ngx_idem_worker_t  *wk;

    wk = test_new();

    (void) test_begin(wk);

    test_calls = 0;
    test_events[0].handler(&test_events[0]);
    test_turn();
    tap_is(test_calls, 0, "an event with nothing to read is no wake-up");

    test_timeouts = 0;
    wk->connection->close = 1;
    wk->connection->error = 1;
    test_events[0].handler(&test_events[0]);
    tap_is(test_timeouts, 1, "it is the end of the time to shut down");
    tap_is(test_calls, 0, "if the connection is to be closed");
    tap_ok(!wk->connection->close && !wk->connection->error,
           "which it is not");

    ngx_idem_worker_wake(wk, 1);
    tap_is(test_calls, 0, "our own handler is not called at once");
    tap_ok(!ngx_queue_empty(&ngx_posted_events), "but posted");

    test_turn();
    tap_is(test_calls, 1, "and called from the event loop");

    ngx_idem_worker_again(wk);
    ngx_idem_worker_again(wk);
    tap_ok(ngx_queue_empty(&ngx_posted_events), "once more, not in this turn");
    test_turn();
    tap_is(test_calls, 2, "but in the next one, once");

    ngx_idem_worker_wake(wk, 1);
    ngx_idem_worker_exit(wk);
    tap_ok(ngx_queue_empty(&ngx_posted_events), "but not after the exit");

    (void) test_begin(wk);
    ngx_idem_worker_again(wk);
    ngx_idem_worker_exit(wk);
    tap_ok(ngx_queue_empty(&ngx_posted_next_events), "nor in its next turn");

    test_close(wk);
}


static void
test_tick(void)
{
    ngx_idem_worker_t  *wk;

    wk = test_new();

    ngx_idem_worker_tick(wk, 1);
    tap_ok(!wk->tick.timer_set, "no tick before there is a worker");

    (void) test_begin(wk);

    ngx_idem_worker_tick(wk, 1);
    ngx_idem_worker_tick(wk, 1);
    tap_is(wk->tick.timer.key - ngx_current_msec, 1000, "in a second");
    tap_ok(wk->tick.cancelable, "which keeps no worker alive");

    test_calls = 0;
    wk->tick.timer_set = 0;
    wk->tick.handler(&wk->tick);
    test_turn();
    tap_is(test_calls, 1, "the handler is called");
    tap_ok(wk->tick.timer_set, "and will be again");

    ngx_idem_worker_tick(wk, 0);
    tap_ok(!wk->tick.timer_set, "until it is told to stop");

    ngx_idem_worker_tick(wk, 1);
    ngx_idem_worker_exit(wk);
    tap_ok(!wk->tick.timer_set, "or the worker leaves");

    test_close(wk);
}


static void
test_reload(void)
{
    test_child_t        ch;
    ngx_idem_worker_t  *wk, *next, *refused;

    wk = test_new();
    test_child(wk, &ch);

    refused = test_add(wk);
    ngx_idem_worker_cleanup(refused);
    tap_is(test_open(wk), NGX_IDEM_WORKERS,
           "a refused configuration closes no eventfd");

    next = test_add(wk);
    ngx_idem_worker_cleanup(wk);
    tap_is(test_open(next), NGX_IDEM_WORKERS, "nor does the old one");
    tap_ok(ngx_idem_worker_alive(next, ch.id), "whose workers are known");

    test_reap(&ch, SIGKILL);

    ngx_idem_worker_cleanup(next);
    tap_is(test_open(next), 0, "the last one closes them all");

    free(wk);
    free(refused);
    free(next);
}


static void
test_few_files(void)
{
    struct rlimit       few, rlmt;
    ngx_idem_worker_t  *wk;

    (void) getrlimit(RLIMIT_NOFILE, &rlmt);
    few = rlmt;
    few.rlim_cur = 20;
    (void) setrlimit(RLIMIT_NOFILE, &few);

    test_warnings = 0;
    wk = test_new();

    (void) setrlimit(RLIMIT_NOFILE, &rlmt);

    tap_is(test_warnings, 1, "too few open files: a warning");
    tap_ok(wk->fds[0] != -1, "some slots can be woken");
    tap_is(wk->fds[63], (unsigned long long) -1, "others cannot");

    ngx_idem_worker_wake(wk, (uint64_t) 1 << 63);
    tap_is(test_warnings, 1, "which is no error then");

    test_close(wk);

    ngx_test_config = 1;
    wk = test_new();
    ngx_test_config = 0;

    tap_is(test_open(wk), 0, "a test of the configuration opens none");

    test_close(wk);
}


static void
test_helper(void)
{
    ngx_idem_worker_t  *wk;

    wk = test_new();

    ngx_process = NGX_PROCESS_HELPER;
    tap_is(test_begin(wk), NGX_OK, "a cache manager starts");
    ngx_process = NGX_PROCESS_WORKER;

    tap_is(ngx_idem_worker_self(wk).slot, NGX_IDEM_NO_WORKER,
           "and takes no slot");

    ngx_idem_worker_exit(wk);
    test_close(wk);
}


/* A configuration after old, or the first one. */

static ngx_idem_worker_t *
test_add(void *old)
{
    ngx_idem_worker_t  *wk;

    wk = ngx_idem_worker_add(&test_conf, NULL);
    (void) test_zone.init(&test_zone, old);

    return wk;
}


static ngx_idem_worker_t *
test_new(void)
{
    test_zone.shm.size = ZONE_SIZE;
    test_zone.shm.log = &test_log;
    test_zone.shm.addr = mmap(NULL, ZONE_SIZE, PROT_READ|PROT_WRITE,
                              MAP_ANON|MAP_SHARED, -1, 0);

    return test_add(NULL);
}


static void
test_child(ngx_idem_worker_t *wk, test_child_t *ch)
{
    int  fds[2];

    (void) fflush(stdout);

    if (pipe(fds) == -1) {
        exit(2);
    }

    ch->pid = fork();
    if (ch->pid == 0) {
        test_child_run(wk, fds[1]);
    }

    (void) close(fds[1]);
    ch->told = fds[0];

    if (read(ch->told, &ch->id, sizeof(ch->id)) != sizeof(ch->id)) {
        exit(2);
    }
}


/* An event loop: an eventfd, and a signal that says quit. */

static void
test_child_run(ngx_idem_worker_t *wk, int out)
{
    sigset_t              quit;
    struct pollfd         pfd[2];
    ngx_idem_worker_id_t  id;

    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void) prctl(PR_SET_NAME, "w) 1 (2 3");

    (void) sigemptyset(&quit);
    (void) sigaddset(&quit, SIGTERM);
    (void) sigprocmask(SIG_BLOCK, &quit, NULL);

    ngx_pid = getpid();
    (void) ngx_idem_worker_init(wk, &test_cycle, test_tell, test_timed_out,
                                &out);

    id = ngx_idem_worker_self(wk);
    if (write(out, &id, sizeof(id)) != sizeof(id)) {
        exit(2);
    }

    pfd[0].fd = test_connection.fd;
    pfd[0].events = POLLIN;
    pfd[1].fd = signalfd(-1, &quit, 0);
    pfd[1].events = POLLIN;

    while (poll(pfd, 2, -1) > 0 && pfd[1].revents == 0) {
        test_events[0].handler(&test_events[0]);
        test_turn();
    }

    ngx_idem_worker_exit(wk);
    exit(0);
}


static void
test_reap(test_child_t *ch, int signo)
{
    (void) kill(ch->pid, signo);
    (void) waitpid(ch->pid, NULL, 0);
    (void) close(ch->told);
}


static ngx_uint_t
test_open(ngx_idem_worker_t *wk)
{
    ngx_uint_t  i, n;

    for (i = 0, n = 0; i < NGX_IDEM_WORKERS; i++) {
        n += (wk->fds[i] != -1 && fcntl(wk->fds[i], F_GETFD) != -1);
    }

    return n;
}


/* The last of a family, by force: its relatives are forgotten. */

static void
test_close(ngx_idem_worker_t *wk)
{
    ngx_queue_init(&wk->sharers);
    ngx_idem_worker_cleanup(wk);
    (void) munmap(test_zone.shm.addr, ZONE_SIZE);
    free(wk);
}


static ngx_int_t
test_begin(ngx_idem_worker_t *wk)
{
    return ngx_idem_worker_init(wk, &test_cycle, test_called, test_timed_out,
                                NULL);
}


static void
test_called(void *data)
{
    test_calls++;
}


static void
test_timed_out(void *data)
{
    test_timeouts++;
}


static void
test_tell(void *data)
{
    int  *out = data;

    if (write(*out, "w", 1) != 1) {
        exit(2);
    }
}


/* What nginx does after it has waited for events. */

static void
test_turn(void)
{
    ngx_queue_t  *q;
    ngx_event_t  *ev;

    ngx_queue_add(&ngx_posted_events, &ngx_posted_next_events);
    ngx_queue_init(&ngx_posted_next_events);

    while (!ngx_queue_empty(&ngx_posted_events)) {
        q = ngx_queue_head(&ngx_posted_events);
        ev = ngx_queue_data(q, ngx_event_t, queue);

        ngx_delete_posted_event(ev);
        ev->handler(ev);
    }
}


static ngx_int_t
test_add_event(ngx_event_t *ev, ngx_int_t event, ngx_uint_t flags)
{
    return NGX_OK;
}


void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    return calloc(1, size);
}


ngx_pool_cleanup_t *
ngx_pool_cleanup_add(ngx_pool_t *p, size_t size)
{
    return &test_cleanup;
}


ngx_shm_zone_t *
ngx_shared_memory_add(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag)
{
    return &test_zone;
}


void *
ngx_slab_calloc(ngx_slab_pool_t *pool, size_t size)
{
    return pool + 1;
}


ngx_connection_t *
ngx_get_connection(ngx_socket_t s, ngx_log_t *log)
{
    ngx_memzero(&test_connection, sizeof(ngx_connection_t));
    test_connection.fd = s;
    test_connection.read = &test_events[0];
    test_connection.write = &test_events[1];
    test_connection.read->data = &test_connection;

    return &test_connection;
}


void
ngx_close_connection(ngx_connection_t *c)
{
    (void) close(c->fd);
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    test_warnings++;
}


/* Knows one format: the name of a file in /proc. */

u_char *
ngx_sprintf(u_char *buf, const char *fmt, ...)
{
    int      pid;
    va_list  args;

    va_start(args, fmt);
    pid = va_arg(args, int);
    va_end(args);

    return buf + sprintf((char *) buf, "/proc/%d/stat", pid) + 1;
}


void
ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    /* void */
}


void
ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    /* void */
}


void
ngx_rbtree_insert(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    /* void */
}


void
ngx_rbtree_delete(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    /* void */
}
