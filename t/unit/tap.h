
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * The Test Anything Protocol, as much as a unit test needs: one line a check,
 * what was got and expected if it failed, and a plan at the end.
 */


#ifndef _NGX_IDEM_TAP_H_INCLUDED_
#define _NGX_IDEM_TAP_H_INCLUDED_


#include <stddef.h>
#include <stdio.h>
#include <string.h>


#define tap_count(table)  (sizeof(table) / sizeof((table)[0]))


static int  tap_run;
static int  tap_failed;


static inline int
tap_ok(int passed, const char *why)
{
    tap_run++;
    tap_failed += !passed;

    printf("%sok %d - %s\n", passed ? "" : "not ", tap_run, why);

    return passed;
}


static inline int
tap_is(unsigned long long got, unsigned long long expected, const char *why)
{
    if (!tap_ok(got == expected, why)) {
        printf("#      got: %llu\n# expected: %llu\n", got, expected);
        return 0;
    }

    return 1;
}


static inline int
tap_is_bytes(const void *got, size_t got_len, const void *expected, size_t len,
    const char *why)
{
    return tap_ok(got_len == len
                  && (len == 0 || memcmp(got, expected, len) == 0), why);
}


/* What main returns: 0 only if all passed, and there was something to pass. */

static inline int
tap_done(void)
{
    printf("1..%d\n", tap_run);

    return tap_failed != 0 || tap_run == 0;
}


#endif /* _NGX_IDEM_TAP_H_INCLUDED_ */
