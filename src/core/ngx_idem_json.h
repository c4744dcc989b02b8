
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What is around the parser of JSON: numbers are kept as they were written,
 * and a pointer names a value.
 *
 * Source: RFC 8259, section 6 (numbers); RFC 6901 (pointers).
 */


#ifndef _NGX_IDEM_JSON_H_INCLUDED_
#define _NGX_IDEM_JSON_H_INCLUDED_


#include "core/ngx_idem_core.h"


/* What a text of so many bytes may take with its numbers in quotes. */

#define ngx_idem_json_quoted_size(len)  (2 * (len) + 1)


/*
 * Copies a text and puts each of its numbers into quotes, so that a parser
 * takes it for a string and does not touch it: 1.10 stays 1.10, and a number
 * that no machine can hold is no error.
 *
 *   out  at least ngx_idem_json_quoted_size(text.len) bytes
 *   len  bytes written
 *
 * Returns 0 if a number is not one by the grammar, or stands where a name
 * must stand; and if there is a NUL, which jansson takes for the end.  What
 * else is wrong the parser finds: a text that is no JSON does not become JSON,
 * and JSON stays what it is.
 */
int ngx_idem_json_quote(ngx_idem_span_t text, uint8_t *out, size_t *len);


/* Whether that is a pointer: empty, or tokens each with a slash in front. */
int ngx_idem_json_is_pointer(ngx_idem_span_t pointer);

/*
 * Takes the first token of a pointer that is one and not empty, and writes it
 * without escapes.  *pointer moves behind it.
 *
 *   out  as many bytes as the pointer has
 *
 * Returns the length.
 */
size_t ngx_idem_json_token(ngx_idem_span_t *pointer, uint8_t *out);

/* Whether a token may name an element of an array, and which one. */
int ngx_idem_json_index(ngx_idem_span_t token, size_t *index);


#endif /* _NGX_IDEM_JSON_H_INCLUDED_ */
