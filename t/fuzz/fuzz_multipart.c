
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_multipart.h"
#define FUZZ_ALPHABET  "\r\r\n\n\r\n\r\n----xxa"
#include "replay.h"
static void fuzz_bytes(void *hash, ngx_idem_span_t piece);
static void fuzz_end(void *hash);


/* The same bytes are the same items, whole or one by one. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t                   h[2] = { 0, 0 };
    ngx_idem_span_t            all = { data, size }, p = { data, 1 };
    ngx_idem_boundary_t        x = { "x", 1, { NULL, 0 }, { NULL, 0 } };
    ngx_idem_multipart_t       mp, mp1;
    ngx_idem_multipart_sink_t  sink = { fuzz_bytes, fuzz_end, &h[0] };

    ngx_idem_multipart_start(&mp, &x, &sink);
    ngx_idem_multipart_feed(&mp, all);
    sink.data = &h[1];
    ngx_idem_multipart_start(&mp1, &x, &sink);
    for ( /* void */ ; p.data < data + size; p.data++) {
        ngx_idem_multipart_feed(&mp1, p);
    }

    fuzz_check(ngx_idem_multipart_end(&mp) == ngx_idem_multipart_end(&mp1));
    fuzz_check(h[0] == h[1] && mp.state == mp1.state);
    return 0;
}


static void
fuzz_bytes(void *hash, ngx_idem_span_t piece)
{
    while (piece.len--) {
        *(uint32_t *) hash = 31 * *(uint32_t *) hash + *piece.data++;
    }
}


static void
fuzz_end(void *hash)
{
    *(uint32_t *) hash += 1u << 30;
}
