
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Places where a test kills the process: half-way through a change, in a
 * build with NGX_IDEM_POINTS.  In any other build they are nothing.
 *
 * NGX_IDEM_POINT in the environment is the name of a place, and
 * NGX_IDEM_POINT_NTH says at which time of passing it; 1 if it is not set.
 */


#ifndef _NGX_IDEM_POINT_H_INCLUDED_
#define _NGX_IDEM_POINT_H_INCLUDED_


#if (NGX_IDEM_POINTS)

#include <signal.h>
#include <stdlib.h>
#include <string.h>


static inline void
ngx_idem_point(const char *name)
{
    static int   passed;

    const char  *nth, *value;

    value = getenv("NGX_IDEM_POINT");

    if (value == NULL || strcmp(value, name) != 0) {
        return;
    }

    nth = getenv("NGX_IDEM_POINT_NTH");

    if (++passed >= (nth ? atoi(nth) : 1)) {
        (void) raise(SIGKILL);
    }
}


#define NGX_IDEM_POINT(name)  ngx_idem_point(name)

#else

#define NGX_IDEM_POINT(name)

#endif


#endif /* _NGX_IDEM_POINT_H_INCLUDED_ */
