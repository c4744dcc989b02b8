
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The longest turn of an event loop: a library that is loaded into nginx by
 * LD_PRELOAD and keeps, in a file that BENCH_TURN names, the most processor
 * time that passed from one epoll_wait() to the next, in nanoseconds.  Who
 * writes a 0 there begins anew.
 */


#define _GNU_SOURCE

#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>


typedef int (*turn_wait_pt)(int ep, struct epoll_event *events, int n,
    int timeout);


static void turn_open(void) __attribute__((constructor));
static uint64_t turn_cpu(void);


static volatile uint64_t  *turn_longest;
static turn_wait_pt        turn_wait;
static uint64_t            turn_began;


int
epoll_wait(int ep, struct epoll_event *events, int n, int timeout)
{
    uint64_t  took;

    if (turn_began) {
        took = turn_cpu() - turn_began;

        if (took > *turn_longest) {
            *turn_longest = took;
        }
    }

    n = turn_wait(ep, events, n, timeout);

    turn_began = turn_longest ? turn_cpu() : 0;

    return n;
}


static void
turn_open(void)
{
    int          fd;
    void        *p;
    const char  *name;

    *(void **) &turn_wait = dlsym(RTLD_NEXT, "epoll_wait");

    name = getenv("BENCH_TURN");
    fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;

    if (fd == -1) {
        return;
    }

    p = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
             0);
    turn_longest = (p == MAP_FAILED) ? NULL : p;

    close(fd);
}


static uint64_t
turn_cpu(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);

    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}
