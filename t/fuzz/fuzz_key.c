
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_key.h"
#define FUZZ_ALPHABET  "\"\"\\;=a*k1.-:?8 \x24"
#include "replay.h"


/* In every format: a key, spelled as a String, is the same key again. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t               i, n, len;
    uint8_t              key[4096], key2[256], quoted[256] = "\"";
    ngx_idem_span_t      field = { data, size }, spelled = { quoted, 0 };
    ngx_idem_key_rule_t  rule = { NGX_IDEM_KEY_ANY, 1, 64 };

    for ( /* void */ ; size <= sizeof(key) && rule.format < 3; rule.format++) {
        if (ngx_idem_key_parse(&rule, field, key, &len) != NGX_IDEM_KEY_OK) {
            continue;
        }

        fuzz_check(len >= rule.min && len <= rule.max && len <= size);
        for (spelled.len = 1, i = 0; i < len; i++) {
            quoted[spelled.len] = '\\';
            spelled.len += key[i] == '"' || key[i] == '\\';
            quoted[spelled.len++] = key[i];
        }

        quoted[spelled.len++] = '"';
        fuzz_check(ngx_idem_key_parse(&rule, spelled, key2, &n) == 0);
        fuzz_check(n == len && memcmp(key, key2, len) == 0);
    }

    return 0;
}
