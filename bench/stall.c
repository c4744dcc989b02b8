
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * How long an event loop does not come round.  One connection asks a trivial
 * location every millisecond and waits for the answer; a second one, if -w is
 * given, asks that location with a new key each time, and nobody waits for
 * it: it only gives the server an occasion to work.
 *
 *   stall -p port -P pid of the worker [-u uri] [-w uri] [-t ms]
 *
 * Prints "probes N worst MS p999 MS cpu MS".  worst is by the clock, and has
 * in it whatever else the machine did; cpu is the most processor time that the
 * worker used inside of one probe, which is what a stall of its own making
 * would be.
 */


#include <fcntl.h>

#include "loopback.h"


#define STALL_STEP    1000000           /* ns */
#define STALL_PROBES  600000


typedef struct {
    int          port;
    int          pid;
    int          sched;                 /* /proc/pid/schedstat */
    uint64_t     time;                  /* ns */
    const char  *uri;
    const char  *work;

    int          n;
    uint64_t     cpu;
    uint64_t     took[STALL_PROBES];
} stall_t;


static void stall_options(stall_t *sl, int argc, char **argv);
static void stall_run(stall_t *sl);
static void stall_work(stall_t *sl, int fd, uint64_t key);
static void stall_probe(stall_t *sl, int fd);
static uint64_t stall_cpu(stall_t *sl);
static int stall_order(const void *a, const void *b);


int
main(int argc, char **argv)
{
    static stall_t  sl;

    stall_options(&sl, argc, argv);
    stall_run(&sl);

    qsort(sl.took, (size_t) sl.n, sizeof(uint64_t), stall_order);

    printf("probes %d worst %.2f p999 %.2f cpu %.2f\n", sl.n,
           (double) sl.took[sl.n - 1] / 1e6,
           (double) sl.took[(size_t) sl.n * 999 / 1000] / 1e6,
           (double) sl.cpu / 1e6);

    return 0;
}


static void
stall_options(stall_t *sl, int argc, char **argv)
{
    int   opt;
    char  path[64];

    sl->time = 5000 * 1000000ull;
    sl->uri = "/trivial";

    while ((opt = getopt(argc, argv, "p:P:u:w:t:")) != -1) {

        switch (opt) {

        case 'p':
            sl->port = atoi(optarg);
            break;

        case 'P':
            sl->pid = atoi(optarg);
            break;

        case 'u':
            sl->uri = optarg;
            break;

        case 'w':
            sl->work = optarg;
            break;

        case 't':
            sl->time = strtoull(optarg, NULL, 10) * 1000000;
            break;

        default:
            exit(2);
        }
    }

    snprintf(path, sizeof(path), "/proc/%d/schedstat", sl->pid);
    sl->sched = open(path, O_RDONLY);

    if (sl->sched == -1) {
        err(1, "%s", path);
    }
}


static void
stall_run(stall_t *sl)
{
    int              fd, work;
    uint64_t         end, now, next;
    struct timespec  ts;

    fd = bench_connect(sl->port);
    work = sl->work ? bench_connect(sl->port) : -1;

    next = bench_now();
    end = next + sl->time;

    for ( ;; ) {
        now = bench_now();

        if (now >= end || sl->n == STALL_PROBES) {
            return;
        }

        if (now < next) {
            ts.tv_sec = 0;
            ts.tv_nsec = (long) (next - now);
            nanosleep(&ts, NULL);
        }

        next += STALL_STEP;
        next = next < now ? now : next;

        if (work != -1) {
            stall_work(sl, work, now);
        }

        stall_probe(sl, fd);
    }
}


static void
stall_work(stall_t *sl, int fd, uint64_t key)
{
    char  buf[BENCH_REQUEST];

    while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0) { /* void */ }

    bench_send(fd, buf, bench_request(buf, sl->work, 10, key));
}


static void
stall_probe(stall_t *sl, int fd)
{
    int       n;
    char      buf[BENCH_REQUEST];
    uint64_t  cpu, start;

    n = snprintf(buf, sizeof(buf), "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n",
                 sl->uri);

    cpu = stall_cpu(sl);
    start = bench_now();

    bench_send(fd, buf, (size_t) n);

    if (recv(fd, buf, sizeof(buf), 0) <= 0) {
        errx(1, "connection closed");
    }

    sl->took[sl->n++] = bench_now() - start;
    cpu = stall_cpu(sl) - cpu;

    if (cpu > sl->cpu) {
        sl->cpu = cpu;
    }
}


/* Nanoseconds the worker has been on a processor. */

static uint64_t
stall_cpu(stall_t *sl)
{
    char     buf[128];
    ssize_t  n;

    n = pread(sl->sched, buf, sizeof(buf) - 1, 0);

    if (n <= 0) {
        err(1, "schedstat");
    }

    buf[n] = '\0';

    return strtoull(buf, NULL, 10);
}


static int
stall_order(const void *a, const void *b)
{
    uint64_t  x, y;

    x = *(const uint64_t *) a;
    y = *(const uint64_t *) b;

    return (x > y) - (x < y);
}
