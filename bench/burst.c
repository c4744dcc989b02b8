
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Duplicates that come at once: the clients and the slow upstream in one
 * program, so that one clock sees both ends.
 *
 *   burst -p port -l listen [-w port] [-n clients] [-d delay ms] [-a abort ms]
 *         [-k keep ms] [-u uri]
 *
 * The first client sends its request; when it has arrived at the upstream,
 * all others send the same, to the port -w if there is one: that of another
 * node.  The upstream answers -d milliseconds after it
 * was first asked, and whatever comes later at once.  With -a the first client
 * hangs up that long after it was sent.  With -k all others hang up only that
 * long after the last answer.
 *
 * Prints "executions N unanswered N p50 MS p99 MS max MS": milliseconds from
 * the moment the upstream began to answer to the last byte of an answer.  A
 * client that hung up by -a does not count, one that got an error does.
 */


#define _GNU_SOURCE

#include <sys/epoll.h>

#include "loopback.h"


#define BURST_CLIENTS  20000
#define BURST_LIMIT    20000        /* ms until we give up */
#define BURST_ANSWER   200          /* bytes of the upstream's body */


typedef struct {
    int                 fd;
    int                 upstream;       /* a connection of the front server */
    int                 asked;
    uint64_t            done;           /* when the answer was complete */
    size_t              len;
    char                buf[4096];
} burst_peer_t;


typedef struct {
    int                 ep;
    int                 listener;
    int                 port;
    int                 others;         /* the port of all but the first */
    int                 listen;
    int                 clients;
    int                 sent;
    int                 answered;
    int                 failed;
    int                 gone;           /* the first client hung up */
    int                 executions;
    uint64_t            delay;          /* ns */
    uint64_t            abort;          /* ns; 0: never */
    useconds_t          keep;
    uint64_t            key;
    uint64_t            start;
    uint64_t            due;            /* when the upstream answers */
    uint64_t            finished;       /* when it began to */
    const char         *uri;

    burst_peer_t       *peer[BURST_CLIENTS];
    burst_peer_t       *waiting[BURST_CLIENTS * 2];
    int                 nwaiting;
} burst_t;


static void burst_options(burst_t *bu, int argc, char **argv);
static void burst_listen(burst_t *bu);
static burst_peer_t *burst_add(burst_t *bu, int fd, int upstream);
static void burst_run(burst_t *bu);
static int burst_timeout(burst_t *bu, uint64_t now);
static void burst_timers(burst_t *bu, uint64_t now);
static void burst_send(burst_t *bu, int i);
static void burst_event(burst_t *bu, burst_peer_t *pe);
static void burst_asked(burst_t *bu, burst_peer_t *pe);
static void burst_answer(burst_peer_t *pe);
static int burst_complete(burst_peer_t *pe);
static void burst_report(burst_t *bu);
static int burst_order(const void *a, const void *b);


int
main(int argc, char **argv)
{
    static burst_t  bu;

    burst_options(&bu, argc, argv);
    burst_listen(&bu);
    burst_run(&bu);
    burst_report(&bu);
    fflush(stdout);
    usleep(bu.keep);

    return 0;
}


static void
burst_options(burst_t *bu, int argc, char **argv)
{
    int  opt;

    bu->clients = 200;
    bu->delay = 300 * 1000000ull;
    bu->uri = "/";
    bu->key = bench_now();

    while ((opt = getopt(argc, argv, "p:w:l:n:d:a:k:u:")) != -1) {

        switch (opt) {

        case 'p':
            bu->port = atoi(optarg);
            break;

        case 'w':
            bu->others = atoi(optarg);
            break;

        case 'l':
            bu->listen = atoi(optarg);
            break;

        case 'n':
            bu->clients = atoi(optarg);
            break;

        case 'd':
            bu->delay = strtoull(optarg, NULL, 10) * 1000000;
            break;

        case 'a':
            bu->abort = strtoull(optarg, NULL, 10) * 1000000;
            break;

        case 'k':
            bu->keep = (useconds_t) atoi(optarg) * 1000;
            break;

        case 'u':
            bu->uri = optarg;
            break;

        default:
            exit(2);
        }
    }

    if (bu->others == 0) {
        bu->others = bu->port;
    }

    if (bu->clients < 2 || bu->clients > BURST_CLIENTS) {
        errx(2, "wrong number of clients");
    }
}


static void
burst_listen(burst_t *bu)
{
    int                 on;
    struct epoll_event  ee;
    struct sockaddr_in  sin;

    on = 1;
    sin = bench_address(bu->listen);

    bu->ep = epoll_create1(0);
    bu->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (setsockopt(bu->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on))
        || bind(bu->listener, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || listen(bu->listener, 1024) == -1)
    {
        err(1, "cannot listen on port %d", bu->listen);
    }

    ee.events = EPOLLIN;
    ee.data.ptr = NULL;
    epoll_ctl(bu->ep, EPOLL_CTL_ADD, bu->listener, &ee);
}


static burst_peer_t *
burst_add(burst_t *bu, int fd, int upstream)
{
    burst_peer_t       *pe;
    struct epoll_event  ee;

    pe = calloc(1, sizeof(burst_peer_t));

    if (pe == NULL) {
        err(1, "calloc");
    }

    pe->fd = fd;
    pe->upstream = upstream;

    ee.events = EPOLLIN;
    ee.data.ptr = pe;
    epoll_ctl(bu->ep, EPOLL_CTL_ADD, fd, &ee);

    return pe;
}


static void
burst_run(burst_t *bu)
{
    int                 i, n;
    uint64_t            now;
    struct epoll_event  events[64];

    for (i = 0; i < bu->clients; i++) {
        bu->peer[i] = burst_add(bu, bench_connect(i ? bu->others : bu->port),
                                0);
    }

    bu->start = bench_now();
    burst_send(bu, 0);

    for ( ;; ) {
        now = bench_now();
        burst_timers(bu, now);

        if (bu->answered + bu->gone == bu->clients
            || now > bu->start + BURST_LIMIT * 1000000ull)
        {
            return;
        }

        n = epoll_wait(bu->ep, events, 64, burst_timeout(bu, now));

        for (i = 0; i < n; i++) {

            if (events[i].data.ptr == NULL) {
                burst_add(bu, accept(bu->listener, NULL, NULL), 1);
                continue;
            }

            burst_event(bu, events[i].data.ptr);
        }
    }
}


/* Milliseconds until the next of the things that come by time. */

static int
burst_timeout(burst_t *bu, uint64_t now)
{
    uint64_t  next;

    next = now + 100 * 1000000ull;

    if (bu->due > now && bu->due < next) {
        next = bu->due;
    }

    if (bu->abort && !bu->gone && bu->start + bu->abort < next) {
        next = bu->start + bu->abort;
    }

    return next > now ? (int) ((next - now) / 1000000 + 1) : 0;
}


static void
burst_timers(burst_t *bu, uint64_t now)
{
    int  i;

    if (bu->abort && !bu->gone && now >= bu->start + bu->abort) {
        close(bu->peer[0]->fd);
        bu->gone = 1;
    }

    if (bu->due == 0 || now < bu->due || bu->nwaiting == 0) {
        return;
    }

    if (bu->finished == 0) {
        bu->finished = now;
    }

    for (i = 0; i < bu->nwaiting; i++) {
        burst_answer(bu->waiting[i]);
    }

    bu->nwaiting = 0;
}


static void
burst_send(burst_t *bu, int i)
{
    char  buf[BENCH_REQUEST];

    bench_send(bu->peer[i]->fd, buf, bench_request(buf, bu->uri, 9, bu->key));
    bu->sent++;
}


static void
burst_event(burst_t *bu, burst_peer_t *pe)
{
    ssize_t  n;

    n = recv(pe->fd, pe->buf + pe->len, sizeof(pe->buf) - 1 - pe->len, 0);

    if (n <= 0) {

        /* the front server may hang up on us as upstream, not as client */

        if (!pe->upstream) {
            errx(1, "a client was left without an answer");
        }

        close(pe->fd);
        pe->fd = -1;
        return;
    }

    pe->len += (size_t) n;
    pe->buf[pe->len] = '\0';

    if (!burst_complete(pe)) {
        return;
    }

    if (pe->upstream) {
        pe->len = 0;
        burst_asked(bu, pe);
        return;
    }

    pe->done = bench_now();
    bu->answered++;
    bu->failed += memcmp(pe->buf, "HTTP/1.1 200 ", 13) != 0;
}


static void
burst_asked(burst_t *bu, burst_peer_t *pe)
{
    bu->executions++;
    bu->waiting[bu->nwaiting++] = pe;

    if (bu->due == 0) {
        bu->due = bench_now() + bu->delay;
    }

    while (bu->sent < bu->clients) {
        burst_send(bu, bu->sent);
    }
}


static void
burst_answer(burst_peer_t *pe)
{
    int   n;
    char  buf[1024];

    if (pe->fd == -1) {
        return;
    }

    n = snprintf(buf, sizeof(buf), "HTTP/1.1 200 OK\r\n"
                 "Content-Type: application/json\r\n"
                 "Content-Length: %d\r\n\r\n%0*d",
                 BURST_ANSWER, BURST_ANSWER, 7);

    bench_send(pe->fd, buf, (size_t) n);
}


/* Requests and answers are small; both end with a body of known length. */

static int
burst_complete(burst_peer_t *pe)
{
    char    *end, *field;
    size_t   head;

    end = strstr(pe->buf, "\r\n\r\n");

    if (end == NULL) {
        return 0;
    }

    head = (size_t) (end - pe->buf) + 4;
    field = strcasestr(pe->buf, "\r\nContent-Length:");

    if (field == NULL || field > end) {
        return strstr(end, "\r\n0\r\n\r\n") != NULL;
    }

    return pe->len >= head + strtoull(field + 17, NULL, 10);
}


static void
burst_report(burst_t *bu)
{
    int     i, n;
    double  ms[BURST_CLIENTS];

    n = 0;

    for (i = 0; i < bu->clients; i++) {

        if (bu->peer[i]->done) {
            ms[n++] = (double) (int64_t) (bu->peer[i]->done - bu->finished)
                      / 1e6;
        }
    }

    qsort(ms, (size_t) n, sizeof(double), burst_order);

    printf("executions %d unanswered %d p50 %.2f p99 %.2f max %.2f\n",
           bu->executions,
           bu->clients - bu->gone - bu->answered + bu->failed,
           n ? ms[n / 2] : 0, n ? ms[n * 99 / 100] : 0, n ? ms[n - 1] : 0);
}


static int
burst_order(const void *a, const void *b)
{
    double  x, y;

    x = *(const double *) a;
    y = *(const double *) b;

    return (x > y) - (x < y);
}
