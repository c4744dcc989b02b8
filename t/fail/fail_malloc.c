
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Memory that runs out on command: a library that is loaded into nginx by
 * LD_PRELOAD and fails the n-th allocation.  The file that FAIL_MALLOC names
 * is mapped, so that a test commands it from outside, and one nginx serves
 * all n.
 *
 * The functions behind are those of the library that comes next: libc, or the
 * sanitizer's.  To ask for them may take memory itself, which comes from a
 * small piece of our own then.
 */


#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>


#define FAIL_ALIGN  16
#define FAIL_EARLY  65536


/*
 * The file.
 *
 *   countdown  the call that fails, counted from now; 0: none
 *   lasting    not 0: all that follow it fail as well
 *   calls      how many there were; the test sets it back
 *   failed     how many failed; likewise
 *   living     what was given out and did not come back
 */

typedef struct {
    uint32_t   countdown;
    uint32_t   lasting;
    uint32_t   calls;
    uint32_t   failed;
    uint32_t   living;
} fail_command_t;


typedef struct {
    void    *(*malloc)(size_t size);
    void    *(*calloc)(size_t n, size_t size);
    void    *(*realloc)(void *p, size_t size);
    void    *(*memalign)(size_t alignment, size_t size);
    void    *(*aligned_alloc)(size_t alignment, size_t size);
    int      (*posix_memalign)(void **p, size_t alignment, size_t size);
    void     (*free)(void *p);
} fail_next_t;


static void fail_init(void) __attribute__((constructor));
static void fail_ask(void);
static int fail_now(void);
static void *fail_given(void *p);
static void *fail_early(size_t size);
static int fail_is_early(const void *p);


static volatile fail_command_t  *fail_command;
static fail_next_t               fail_next;
static int                       fail_asking;

static char                      fail_piece[FAIL_EARLY]
                                     __attribute__((aligned(FAIL_ALIGN)));
static size_t                    fail_used;


void *
malloc(size_t size)
{
    fail_ask();

    if (fail_next.malloc == NULL) {
        return fail_early(size);
    }

    return fail_now() ? NULL : fail_given(fail_next.malloc(size));
}


void *
calloc(size_t n, size_t size)
{
    fail_ask();

    if (fail_next.calloc == NULL) {
        return fail_early(n * size);
    }

    return fail_now() ? NULL : fail_given(fail_next.calloc(n, size));
}


void *
realloc(void *p, size_t size)
{
    void    *new;
    size_t   most;

    if (p == NULL) {
        return malloc(size);
    }

    if (fail_is_early(p)) {

        new = malloc(size);
        most = (size_t) (fail_piece + sizeof(fail_piece) - (char *) p);

        if (new) {
            memcpy(new, p, size < most ? size : most);
        }

        return new;
    }

    return fail_now() ? NULL : fail_next.realloc(p, size);
}


void *
memalign(size_t alignment, size_t size)
{
    fail_ask();

    return fail_now() ? NULL
                      : fail_given(fail_next.memalign(alignment, size));
}


void *
aligned_alloc(size_t alignment, size_t size)
{
    fail_ask();

    return fail_now() ? NULL
                      : fail_given(fail_next.aligned_alloc(alignment, size));
}


int
posix_memalign(void **p, size_t alignment, size_t size)
{
    int  err;

    fail_ask();

    if (fail_now()) {
        return ENOMEM;
    }

    err = fail_next.posix_memalign(p, alignment, size);

    if (err == 0) {
        (void) fail_given(*p);
    }

    return err;
}


void
free(void *p)
{
    fail_ask();

    if (p == NULL || fail_is_early(p) || fail_next.free == NULL) {
        return;
    }

    if (fail_command) {
        fail_command->living--;
    }

    fail_next.free(p);
}


static void
fail_init(void)
{
    int          fd;
    void        *p;
    const char  *name;

    fail_ask();

    name = getenv("FAIL_MALLOC");
    fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;

    if (fd == -1) {
        return;
    }

    p = mmap(NULL, sizeof(fail_command_t), PROT_READ | PROT_WRITE, MAP_SHARED,
             fd, 0);

    if (p != MAP_FAILED) {
        fail_command = p;
    }

    (void) close(fd);
}


/* What dlsym() wants for itself meanwhile comes from our piece. */

static void
fail_ask(void)
{
    if (fail_asking) {
        return;
    }

    fail_asking = 1;

    *(void **) &fail_next.malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **) &fail_next.calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **) &fail_next.realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **) &fail_next.memalign = dlsym(RTLD_NEXT, "memalign");
    *(void **) &fail_next.aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **) &fail_next.posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **) &fail_next.free = dlsym(RTLD_NEXT, "free");
}


/* Counts a call and says whether it is one that fails. */

static int
fail_now(void)
{
    volatile fail_command_t  *fc;

    fc = fail_command;

    if (fc == NULL) {
        return 0;
    }

    fc->calls++;

    if (fc->countdown == 0) {
        return 0;
    }

    if (fc->countdown > 1) {
        fc->countdown--;
        return 0;
    }

    if (!fc->lasting) {
        fc->countdown = 0;
    }

    fc->failed++;
    errno = ENOMEM;

    return 1;
}


static void *
fail_given(void *p)
{
    if (p && fail_command) {
        fail_command->living++;
    }

    return p;
}


/* Zeroed, and never given back. */

static void *
fail_early(size_t size)
{
    char  *p;

    size = (size + FAIL_ALIGN - 1) & ~(size_t) (FAIL_ALIGN - 1);

    if (size > sizeof(fail_piece) - fail_used) {
        return NULL;
    }

    p = fail_piece + fail_used;
    fail_used += size;

    return p;
}


static int
fail_is_early(const void *p)
{
    return (const char *) p >= fail_piece
           && (const char *) p < fail_piece + sizeof(fail_piece);
}
