
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What the load programs have in common: sockets on the loopback interface,
 * the clock, and the one request that all of them send.
 */


#ifndef _BENCH_LOOPBACK_H_INCLUDED_
#define _BENCH_LOOPBACK_H_INCLUDED_


#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>


#define BENCH_BODY     "{\"amount\":1250}"
#define BENCH_REQUEST  2048


/* Monotonic nanoseconds. */

static inline uint64_t
bench_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}


static inline struct sockaddr_in
bench_address(int port)
{
    struct sockaddr_in  sin;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((uint16_t) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    return sin;
}


/* A connected blocking socket without Nagle's delay; ends the program. */

static inline int
bench_connect(int port)
{
    int                 fd, on;
    struct sockaddr_in  sin;

    on = 1;
    sin = bench_address(port);

    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd == -1
        || connect(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == -1)
    {
        err(1, "cannot connect to port %d", port);
    }

    return fd;
}


/* Writes the POST with key number n of a family; returns its length. */

static inline size_t
bench_request(char *buf, const char *uri, uint32_t family, uint64_t n)
{
    return (size_t) snprintf(buf, BENCH_REQUEST,
                             "POST %s HTTP/1.1\r\n"
                             "Host: bench\r\n"
                             "Content-Type: application/json\r\n"
                             "Content-Length: %zu\r\n"
                             "Idempotency-Key: %08x-40d5-43dd-bc93-%012llx\r\n"
                             "\r\n" BENCH_BODY,
                             uri, sizeof(BENCH_BODY) - 1, (unsigned) family,
                             (unsigned long long) n);
}


static inline void
bench_send(int fd, const char *buf, size_t len)
{
    if (send(fd, buf, len, MSG_NOSIGNAL) != (ssize_t) len) {
        err(1, "cannot send");
    }
}


#endif /* _BENCH_LOOPBACK_H_INCLUDED_ */
