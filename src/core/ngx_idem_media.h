
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The values of Content-Type and Content-Disposition: a word, and parameters
 * behind it.
 *
 * Source: RFC 9110, sections 5.6.6 and 8.3.1; RFC 6839, section 3.1 ("+json");
 * RFC 2046, section 5.1.1 (boundary); RFC 2183.
 */


#ifndef _NGX_IDEM_MEDIA_H_INCLUDED_
#define _NGX_IDEM_MEDIA_H_INCLUDED_


#include "core/ngx_idem_core.h"


/* RFC 2046: "no more than 70 characters" */

#define NGX_IDEM_BOUNDARY_LEN  70


typedef enum {
    NGX_IDEM_PARAM_OK = 0,
    NGX_IDEM_PARAM_NONE,        /* no more of them */
    NGX_IDEM_PARAM_BROKEN
} ngx_idem_param_answer_e;


/*
 * One parameter.  value is without quotes, but still with its escapes; whole
 * is all of it with the semicolon in front.
 */

typedef struct {
    ngx_idem_span_t  name;
    ngx_idem_span_t  value;
    ngx_idem_span_t  whole;
    int              quoted;
} ngx_idem_param_t;


/* A boundary, and what of the field is in front of and behind it. */

typedef struct {
    uint8_t          data[NGX_IDEM_BOUNDARY_LEN];
    size_t           len;
    ngx_idem_span_t  before;
    ngx_idem_span_t  behind;
} ngx_idem_boundary_t;


/*
 * The word in front of the parameters; *rest is what ngx_idem_media_param()
 * takes then.
 */
ngx_idem_span_t ngx_idem_media_word(ngx_idem_span_t field,
    ngx_idem_span_t *rest);

/* The next parameter; *rest moves behind it. */
ngx_idem_param_answer_e ngx_idem_media_param(ngx_idem_span_t *rest,
    ngx_idem_param_t *pm);

/*
 * Writes the value of a parameter without its escapes, at most value.len
 * bytes, and returns the length.  \" and \\ are escapes; a backslash before
 * anything else is one, as browsers have always sent them in file names.
 */
size_t ngx_idem_media_value(const ngx_idem_param_t *pm, uint8_t *out);

/* Whether a span is that word, whatever the case. */
int ngx_idem_media_same(ngx_idem_span_t span, const char *word);

/* Whether the type is application/json or ends with +json. */
int ngx_idem_media_is_json(ngx_idem_span_t type);

/*
 * Whether the field is a multipart/... with one well-formed boundary, which
 * is then in *b.
 */
int ngx_idem_media_boundary(ngx_idem_span_t field, ngx_idem_boundary_t *b);


#endif /* _NGX_IDEM_MEDIA_H_INCLUDED_ */
