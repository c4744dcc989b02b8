
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_record.h"

#define FUZZ_ALPHABET  "\0\1\1\1\1\2\3\4\5\6\x08\x10\x7f\x80"
#include "replay.h"


/* One response has one spelling: what was read is written as it was. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t                   head[4096], *p;
    ngx_idem_span_t           bytes = { data, size };
    ngx_idem_field_t          f;
    ngx_idem_record_t         rec;
    ngx_idem_record_answer_e  answer;

    if (size > sizeof(head) || ngx_idem_record_open(&rec, bytes) != 0) {
        return 0;
    }

    fuzz_check(rec.body.data + rec.body.len == data + size);

    p = ngx_idem_record_start(head, rec.status, rec.fields.len);

    while ((answer = ngx_idem_record_next(&rec, &f)) == NGX_IDEM_RECORD_OK) {
        p = ngx_idem_record_field(p, &f);
    }

    fuzz_check((size_t) (p - head) + rec.fields.len + rec.body.len == size);
    fuzz_check(memcmp(head, data, (size_t) (p - head)) == 0);
    fuzz_check((answer == NGX_IDEM_RECORD_END) == (rec.fields.len == 0));
    return 0;
}
