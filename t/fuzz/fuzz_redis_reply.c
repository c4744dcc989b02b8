
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "store/ngx_idem_redis_wire.h"

#define FUZZ_ALPHABET  "\r\n\r\n\r\n\r\n*1\r\n*2\r\n$1\r\n:1\r\n-+$:120"
#include "replay.h"


/* Replies are the same whether their bytes came at once or one by one. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t                    at, n, step, sum[2] = { 0, 0 };
    ngx_idem_redis_reply_t   *reply;
    ngx_idem_redis_value_t    v[NGX_IDEM_REDIS_VALUES];
    ngx_idem_redis_reader_t  *rd;

    for (step = 1; step <= size; step += (size > 1) ? size - 1 : 1) {
        rd = ngx_idem_redis_reader();
        for (at = 0; at < size; at += step) {
            (void) ngx_idem_redis_reader_feed(rd, data + at, step);
            while (ngx_idem_redis_reader_next(rd, &reply) == NGX_OK) {
                n = 0;
                (void) ngx_idem_redis_reply_values(reply, v, &n);
                sum[step == 1] += n ? v[n - 1].str.len + v[n - 1].integer : 1;
                ngx_idem_redis_reply_free(reply);
            }
        }

        ngx_idem_redis_reader_free(rd);
    }

    fuzz_check(size < 2 || sum[0] == sum[1]);
    return 0;
}
