
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_token.h"

#define FUZZ_ALPHABET  "AAAAZaz09-_\1"
#include "replay.h"


/*
 * What is cut out of the input is issued and verified; nothing that comes from
 * outside is ever valid, and what was issued is not, once it is changed.
 */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t                nonce[NGX_IDEM_TOKEN_RANDOM_LEN] = { 0 };
    uint8_t                scope[NGX_IDEM_DIGEST_LEN] = { 0 };
    uint8_t                token[NGX_IDEM_TOKEN_LEN];
    size_t                 at;
    const ngx_idem_span_t  secret = { (const uint8_t *) "secret", 6 };
    const ngx_idem_span_t  given = { data, size };
    const ngx_idem_span_t  own = { token, sizeof(token) };

    fuzz_check(ngx_idem_token_verify(given, scope, &secret, 1, 0)
               == NGX_IDEM_TOKEN_INVALID);

    if (size < 2) {
        return 0;
    }

    memcpy(nonce, data, size < sizeof(nonce) ? size : sizeof(nonce));
    memcpy(scope, data, size < sizeof(scope) ? size : sizeof(scope));

    fuzz_check(ngx_idem_token_issue(token, size, nonce, scope, secret) == 0);
    fuzz_check(ngx_idem_token_verify(own, scope, &secret, 1, size - 1) == 0);

    at = data[0] % sizeof(token);

    if (token[at] != data[1]) {
        token[at] = data[1];
        fuzz_check(ngx_idem_token_verify(own, scope, &secret, 1, 0)
                   == NGX_IDEM_TOKEN_INVALID);
    }

    return 0;
}
