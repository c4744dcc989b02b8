
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * From the value of a header field to the bytes of a key.
 *
 * Source: draft-ietf-httpapi-idempotency-key-header-07, "Syntax"; RFC 8941,
 * sections 3.3.3 and 4.2 (Item, String, parameters); RFC 9562, section 4 for
 * the shape of a UUID.
 */


#ifndef _NGX_IDEM_KEY_H_INCLUDED_
#define _NGX_IDEM_KEY_H_INCLUDED_


#include "core/ngx_idem_core.h"


typedef enum {
    NGX_IDEM_KEY_ANY = 0,
    NGX_IDEM_KEY_STRUCTURED,
    NGX_IDEM_KEY_UUID
} ngx_idem_key_format_e;


/* Why a field value is no key. */

typedef enum {
    NGX_IDEM_KEY_OK = 0,
    NGX_IDEM_KEY_MISSING,       /* the field value has no byte */
    NGX_IDEM_KEY_SYNTAX,        /* not of the format */
    NGX_IDEM_KEY_SHORT,         /* fewer bytes than min, unquoted */
    NGX_IDEM_KEY_LONG           /* more bytes than max, unquoted */
} ngx_idem_key_answer_e;


typedef struct {
    ngx_idem_key_format_e  format;
    size_t                 min;         /* bytes, after unquoting */
    size_t                 max;
} ngx_idem_key_rule_t;


/*
 * Checks one field value and writes the canonical key: a quoted string
 * without quotes and escapes, a UUID in lower case, else the bytes as sent.
 *
 *   field  the value, leading and trailing blanks already removed
 *   key    at least field.len bytes; not written beyond that
 *   len    length of the key; set only if the answer is NGX_IDEM_KEY_OK
 *
 * ANY         a value that begins with a quote must be an RFC 8941 Item that
 *             is a String, its parameters are checked and ignored; any other
 *             value is visible ASCII (0x21-0x7e) without '"' and ','
 * STRUCTURED  an Item that is a String, nothing else
 * UUID        8-4-4-4-12 hex digits, as an Item or bare, in either case
 *
 * An empty String ("") is SHORT if min is 1 or more: it was sent, so it is
 * malformed, not missing.
 */
ngx_idem_key_answer_e ngx_idem_key_parse(const ngx_idem_key_rule_t *rule,
    ngx_idem_span_t field, uint8_t *key, size_t *len);


#endif /* _NGX_IDEM_KEY_H_INCLUDED_ */
