
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <jansson.h>
#include "core/ngx_idem_json.h"
#define FUZZ_ALPHABET  "{}[],,::\"\"\\0123-+.eE tnu"
#include "replay.h"


/* JSON stays JSON, and nothing becomes JSON, when numbers get quotes. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char             text[8193], again[16387];
    size_t           len, n;
    json_t          *plain, *quoted = NULL;
    json_error_t     error;
    ngx_idem_span_t  body = { data, size }, next;

    if (size > 4096 || memchr(data, 0, size) != NULL) {
        return size < 4096 && ngx_idem_json_quote(body, (void *) text, &len);
    }

    plain = json_loadb((const char *) data, size, JSON_DECODE_ANY, &error);

    if (ngx_idem_json_quote(body, (void *) text, &len)) {
        fuzz_check(len <= ngx_idem_json_quoted_size(size));
        quoted = json_loadb(text, len, JSON_DECODE_ANY, NULL);
        next = (ngx_idem_span_t) { (void *) text, len };
        fuzz_check(ngx_idem_json_quote(next, (void *) again, &n));
        fuzz_check(n == len && memcmp(text, again, n) == 0);
    }

    fuzz_check(!plain == !quoted || json_error_code(&error) == 15);
    json_decref(plain), json_decref(quoted);
    return 0;
}
