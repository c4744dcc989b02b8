
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
    const ngx_idem_span_t  given = { data, size };
    const ngx_idem_span_t  own = { token, sizeof(token) };
    static EVP_MD_CTX     *md;

    static const ngx_idem_token_secret_t  secret = { "secret" };
    ngx_idem_token_keys_t                 keys = { NULL, NULL, &secret, 1 };

    md = (md == NULL) ? EVP_MD_CTX_new() : md;
    keys.md = md;
    keys.type = EVP_sha256();

    fuzz_check(ngx_idem_token_verify(given, scope, &keys, 0)
               == NGX_IDEM_TOKEN_INVALID);

    if (size < 2) {
        return 0;
    }

    memcpy(nonce, data, size < sizeof(nonce) ? size : sizeof(nonce));
    memcpy(scope, data, size < sizeof(scope) ? size : sizeof(scope));

    fuzz_check(ngx_idem_token_issue(token, size, nonce, scope, &keys) == 0);
    fuzz_check(ngx_idem_token_verify(own, scope, &keys, size - 1) == 0);

    at = data[0] % sizeof(token);

    if (token[at] != data[1]) {
        token[at] = data[1];
        fuzz_check(ngx_idem_token_verify(own, scope, &keys, 0)
                   == NGX_IDEM_TOKEN_INVALID);
    }

    return 0;
}
