
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Keeps a number of connections busy with one POST after the other, by count
 * or by time, and tells how many were answered and how.
 *
 *   load -p port [-c connections] [-u uri] [-f family] [-k keys] [-r requests]
 *        [-t ms] [-s]
 *
 *   -k N     keys 0 .. N - 1 at random; 1 is one hot key (default)
 *   -k +N    a new key each time, from number N on
 *   -f N     another family of keys: same numbers, other keys
 *   -r, -t   ends after so many requests, or after so many milliseconds
 *   -s       stop at the first answer that is not 200
 *
 * Prints "requests N ok N other N bytes N next N": bytes are of bodies, next
 * is the number of the first new key that was not used.
 */


#define _GNU_SOURCE

#include <sys/epoll.h>

#include "loopback.h"


#define LOAD_CONNECTIONS  1024
#define LOAD_HEAD         4096
#define LOAD_CHUNK        (1024 * 1024)
#define LOAD_CHUNK_END    "\r\n0\r\n\r\n"


typedef struct {
    int                 fd;
    int                 in_body;
    int                 chunked;
    size_t              head_len;
    size_t              left;           /* bytes of the body to come */
    char                head[LOAD_HEAD];
    char                tail[8];        /* what came last, if chunked */
} load_connection_t;


typedef struct {
    int                 port;
    int                 connections;
    int                 stop;
    uint32_t            family;
    uint64_t            first;
    uint64_t            keys;           /* 0: a new one each time */
    uint64_t            requests;
    uint64_t            deadline;
    const char         *uri;

    uint64_t            sent;
    uint64_t            done;
    uint64_t            ok;
    uint64_t            bytes;
    uint64_t            random;
} load_t;


static void load_options(load_t *ld, int argc, char **argv);
static void load_keys(load_t *ld, const char *arg);
static void load_run(load_t *ld);
static int load_next(load_t *ld, load_connection_t *c);
static uint64_t load_key(load_t *ld);
static int load_read(load_t *ld, load_connection_t *c);
static int load_head(load_t *ld, load_connection_t *c, size_t *n);
static int load_body(load_t *ld, load_connection_t *c, const char *p,
    size_t n);


static char               load_buf[LOAD_CHUNK];
static load_connection_t  load_connections[LOAD_CONNECTIONS];


int
main(int argc, char **argv)
{
    load_t  ld;

    load_options(&ld, argc, argv);
    load_run(&ld);

    printf("requests %llu ok %llu other %llu bytes %llu next %llu\n",
           (unsigned long long) ld.done, (unsigned long long) ld.ok,
           (unsigned long long) (ld.done - ld.ok),
           (unsigned long long) ld.bytes,
           (unsigned long long) (ld.first + ld.sent));

    return 0;
}


static void
load_options(load_t *ld, int argc, char **argv)
{
    int  opt;

    memset(ld, 0, sizeof(load_t));
    ld->connections = 32;
    ld->keys = 1;
    ld->requests = UINT64_MAX;
    ld->deadline = UINT64_MAX;
    ld->uri = "/";
    ld->random = bench_now() | 1;

    while ((opt = getopt(argc, argv, "p:c:u:f:k:r:t:s")) != -1) {

        switch (opt) {

        case 'p':
            ld->port = atoi(optarg);
            break;

        case 'c':
            ld->connections = atoi(optarg);
            break;

        case 'u':
            ld->uri = optarg;
            break;

        case 'f':
            ld->family = (uint32_t) strtoul(optarg, NULL, 10);
            break;

        case 'k':
            load_keys(ld, optarg);
            break;

        case 'r':
            ld->requests = strtoull(optarg, NULL, 10);
            break;

        case 't':
            ld->deadline = bench_now() + strtoull(optarg, NULL, 10) * 1000000;
            break;

        case 's':
            ld->stop = 1;
            break;

        default:
            exit(2);
        }
    }

    if (ld->port == 0 || ld->connections < 1
        || ld->connections > LOAD_CONNECTIONS)
    {
        errx(2, "wrong port or number of connections");
    }
}


static void
load_keys(load_t *ld, const char *arg)
{
    if (arg[0] == '+') {
        ld->keys = 0;
        ld->first = strtoull(arg + 1, NULL, 10);
        return;
    }

    ld->keys = strtoull(arg, NULL, 10);
}


static void
load_run(load_t *ld)
{
    int                 ep, i, n, open;
    load_connection_t  *c;
    struct epoll_event  ee, events[LOAD_CONNECTIONS];

    ep = epoll_create1(0);
    open = 0;

    for (i = 0; i < ld->connections; i++) {
        c = &load_connections[i];
        c->fd = bench_connect(ld->port);

        ee.events = EPOLLIN;
        ee.data.ptr = c;

        if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ee) == -1) {
            err(1, "epoll_ctl");
        }

        open += load_next(ld, c);
    }

    while (open > 0) {
        n = epoll_wait(ep, events, LOAD_CONNECTIONS, 20000);

        if (n < 1) {
            errx(1, "no answer for 20 seconds, %d requests open", open);
        }

        for (i = 0; i < n; i++) {
            c = events[i].data.ptr;

            if (load_read(ld, c) && !load_next(ld, c)) {
                open--;
            }
        }
    }
}


/* Sends the next request, if there is one. */

static int
load_next(load_t *ld, load_connection_t *c)
{
    char    buf[BENCH_REQUEST];
    size_t  len;

    if (ld->sent >= ld->requests || bench_now() >= ld->deadline) {
        return 0;
    }

    len = bench_request(buf, ld->uri, ld->family, load_key(ld));
    bench_send(c->fd, buf, len);
    ld->sent++;

    return 1;
}


static uint64_t
load_key(load_t *ld)
{
    if (ld->keys == 0) {
        return ld->first + ld->sent;
    }

    /* xorshift64 */

    ld->random ^= ld->random << 13;
    ld->random ^= ld->random >> 7;
    ld->random ^= ld->random << 17;

    return ld->random % ld->keys;
}


/* Takes what has come; whether the answer is complete. */

static int
load_read(load_t *ld, load_connection_t *c)
{
    char    *p;
    size_t   head, size;
    ssize_t  n;

    p = load_buf;
    n = recv(c->fd, p, LOAD_CHUNK, 0);

    if (n <= 0) {
        errx(1, "connection closed after %llu answers",
             (unsigned long long) ld->done);
    }

    size = (size_t) n;

    if (!c->in_body) {
        head = size;

        if (!load_head(ld, c, &head)) {
            return 0;
        }

        p += head;
        size -= head;
    }

    if (!load_body(ld, c, p, size)) {
        return 0;
    }

    c->in_body = 0;
    c->head_len = 0;
    ld->done++;

    return 1;
}


/*
 * Takes the header out of the first *n bytes read, leaves in *n how many of
 * them it was; 0 while it is not complete.
 */

static int
load_head(load_t *ld, load_connection_t *c, size_t *n)
{
    char    *end, *field;
    size_t   before, size;

    before = c->head_len;
    size = LOAD_HEAD - 1 - before;
    size = *n < size ? *n : size;

    memcpy(c->head + before, load_buf, size);
    c->head_len += size;
    c->head[c->head_len] = '\0';

    end = strstr(c->head, "\r\n\r\n");

    if (end == NULL) {

        if (c->head_len == LOAD_HEAD - 1) {
            errx(1, "header too long");
        }

        return 0;
    }

    end += 4;
    *n = (size_t) (end - c->head) - before;
    *end = '\0';

    if (memcmp(c->head, "HTTP/1.1 200 ", 13) == 0) {
        ld->ok++;

    } else if (ld->stop) {
        ld->requests = 0;
    }

    field = strcasestr(c->head, "\r\nContent-Length:");
    c->chunked = field == NULL;
    c->left = field ? strtoull(field + 17, NULL, 10) : 0;
    c->in_body = 1;

    return 1;
}


static int
load_body(load_t *ld, load_connection_t *c, const char *p, size_t n)
{
    size_t  keep;

    ld->bytes += n;

    if (!c->chunked) {

        if (n > c->left) {
            errx(1, "more than was announced");
        }

        c->left -= n;
        return c->left == 0;
    }

    /* the end may be cut in two; eight bytes of memory, seven looked at */

    keep = n < 8 ? n : 8;
    memmove(c->tail, c->tail + keep, 8 - keep);
    memcpy(c->tail + 8 - keep, p + n - keep, keep);

    return memcmp(c->tail + 1, LOAD_CHUNK_END, 7) == 0;
}
