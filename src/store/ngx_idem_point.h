
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Places where a test kills the process: half-way through a change, in a
 * build with NGX_IDEM_POINTS.  In any other build they are nothing.
 *
 * NGX_IDEM_POINTS_DIR in the environment is a directory.  Whoever comes to a
 * place and can remove the file of its name there dies: one process, once.
 * So a place is armed in an nginx that runs, by making that file.  A process
 * whose pid is the name of a file there lives on.
 *
 * A unit test that includes the sources may bring an NGX_IDEM_POINT of its own.
 */


#ifndef _NGX_IDEM_POINT_H_INCLUDED_
#define _NGX_IDEM_POINT_H_INCLUDED_


#if !defined(NGX_IDEM_POINT) && (NGX_IDEM_POINTS)

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>


static inline void
ngx_idem_point(const char *name)
{
    char         file[PATH_MAX];
    const char  *dir;

    dir = getenv("NGX_IDEM_POINTS_DIR");

    if (dir == NULL) {
        return;
    }

    (void) snprintf(file, PATH_MAX, "%s/%ld", dir, (long) getpid());

    if (access(file, F_OK) == 0) {
        return;
    }

    (void) snprintf(file, PATH_MAX, "%s/%s", dir, name);

    if (unlink(file) == 0) {
        (void) raise(SIGKILL);
    }
}


#define NGX_IDEM_POINT(name)  ngx_idem_point(name)

#elif !defined(NGX_IDEM_POINT)

#define NGX_IDEM_POINT(name)

#endif


#endif /* _NGX_IDEM_POINT_H_INCLUDED_ */
