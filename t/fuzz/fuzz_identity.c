
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_identity.h"
#include "replay.h"


/* A body is the same however it is split, a list of parts never is. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                 i, k;
    uint8_t             out[4][NGX_IDEM_DIGEST_LEN];
    ngx_idem_span_t     a, b;
    ngx_idem_digest_t   dg;
    static EVP_MD_CTX  *md;

    md = (md == NULL) ? EVP_MD_CTX_new() : md;

    for (i = 0; size >= 2 && i < 4; i++) {
        a = (ngx_idem_span_t) { data, data[i % 2] % size };
        b = (ngx_idem_span_t) { data + a.len, size - a.len };
        ngx_idem_digest_start(&dg, md, EVP_sha256());
        for (k = 0; k < 8; k++) {
            (i < 2 ? ngx_idem_digest_part : ngx_idem_digest_body)(&dg, a);
            (i < 2 ? ngx_idem_digest_part : ngx_idem_digest_body)(&dg, b);
        }

        fuzz_check(ngx_idem_digest_final(&dg, out[i]) == 0);
    }

    fuzz_check(size < 2 || memcmp(out[2], out[3], sizeof(out[2])) == 0);
    fuzz_check(size < 2 || (data[0] % size == data[1] % size)
                           == (memcmp(out[0], out[1], sizeof(out[0])) == 0));
    return 0;
}
