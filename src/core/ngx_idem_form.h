
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The fields of a form, as a browser or a program sends it.
 *
 * Source: WHATWG URL, section 5.1 (application/x-www-form-urlencoded), which
 * is lax where this is strict; RFC 7578 (multipart/form-data).
 */


#ifndef _NGX_IDEM_FORM_H_INCLUDED_
#define _NGX_IDEM_FORM_H_INCLUDED_


#include "core/ngx_idem_media.h"


/*
 *   plain  0: it has no value that counts, as it is a file, is encoded once
 *          more by a Content-Transfer-Encoding, or has a NUL in it
 */

typedef struct {
    ngx_idem_span_t  name;
    ngx_idem_span_t  value;
    int              plain;
} ngx_idem_form_field_t;


typedef void (*ngx_idem_form_pt)(void *data,
    const ngx_idem_form_field_t *field);


/*
 * Both hand out the fields in their order, and return 0 if the form is not
 * well formed: what was handed out is to be forgotten then.  Names and values
 * lie in out, which has room for as many bytes as the body has.
 */

/* A "%" without two hex digits, or before 00, is not well formed. */
int ngx_idem_form_urlencoded(ngx_idem_span_t body, uint8_t *out,
    ngx_idem_form_pt handler, void *data);

/*
 * Each part must be a "form-data" with one name.  In it \" and \\ are escapes,
 * and %22, %0D and %0A, which is how browsers send what would end the name.
 */
int ngx_idem_form_multipart(ngx_idem_span_t body,
    const ngx_idem_boundary_t *boundary, uint8_t *out,
    ngx_idem_form_pt handler, void *data);


#endif /* _NGX_IDEM_FORM_H_INCLUDED_ */
