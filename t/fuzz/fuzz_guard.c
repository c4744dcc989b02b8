
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_guard.h"
#define FUZZ_ALPHABET  "\0\0\0\1\2\1\2"
#include "replay.h"


/* What is read is written as the same bytes; who joins and leaves was not. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t            n;
    uint8_t           bytes[NGX_IDEM_GUARD_BYTES];
    ngx_idem_span_t   span = { data, size };
    ngx_idem_guard_t  gd;
    static uint8_t    id[NGX_IDEM_OWNER_LEN] = { 9, 9, 9 };

    if (ngx_idem_guard_read(&gd, span) != 0) {
        return 0;
    }

    fuzz_check(ngx_idem_guard_size(&gd) == size);

    n = gd.nqueue;
    if (ngx_idem_guard_join(&gd, id, id, n + 1) == 0) {
        fuzz_check(gd.nqueue == n + 1 && ngx_idem_guard_find(&gd, id) <= n);
        ngx_idem_guard_leave(&gd, n);
    }

    fuzz_check(ngx_idem_guard_write(&gd, bytes) == bytes + size);
    fuzz_check(memcmp(bytes, data, size) == 0);

    return 0;
}
