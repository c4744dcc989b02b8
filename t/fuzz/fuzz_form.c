
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_form.h"
#define FUZZ_ALPHABET  "&&==%%25+-x\r\n\r\n\r\n--x;;:\"name"
#include "replay.h"


static void fuzz_field(void *data, const ngx_idem_form_field_t *field);


/* No body, no type and no header of a part leads out of its bytes. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t              out[8192], part[8192] =
                         "--x\r\nContent-Disposition:form-data;name=a";
    size_t               n = strlen((char *) part), given = 0;
    ngx_idem_span_t      body = { data, size }, whole = { part, n + size };
    ngx_idem_boundary_t  x = { "x", 1, { NULL, 0 }, { NULL, 0 } }, found;

    for ( /* void */ ; size <= 4096; size = 4097) {
        (void) ngx_idem_form_urlencoded(body, out, fuzz_field, &given);
        fuzz_check(given <= size);
        memcpy(part + n, data, size);
        (void) ngx_idem_form_multipart(whole, &x, out, fuzz_field, &given);
        fuzz_check(given <= 2 * size + n);
        (void) ngx_idem_media_boundary(body, &found);
    }

    return 0;
}


static void
fuzz_field(void *data, const ngx_idem_form_field_t *field)
{
    *(size_t *) data += field->name.len + field->value.len;
}
