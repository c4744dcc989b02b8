
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What guards compare: numbers of a sequence, and versions as entity tags.
 */


#ifndef _NGX_IDEM_ORDER_H_INCLUDED_
#define _NGX_IDEM_ORDER_H_INCLUDED_


#include "core/ngx_idem_core.h"


#define NGX_IDEM_NUMBER_LEN  39     /* digits of 128 bits */


/*
 * A number: decimal digits and nothing else.  *n is it without leading zeros,
 * but for one if it is 0.  Not 0: it is none, or longer than
 * NGX_IDEM_NUMBER_LEN.
 */
int ngx_idem_order_number(ngx_idem_span_t text, ngx_idem_span_t *n);

/* Less than, equal to or greater than 0, as a is to b. */
int ngx_idem_order_compare(ngx_idem_span_t a, ngx_idem_span_t b);

/* Whether it is a strong entity tag: "..." without W/ in front. */
int ngx_idem_order_is_tag(ngx_idem_span_t tag);

/*
 * Whether a value of If-Match lets a version pass, which is a strong tag:
 * "*", or a list with it.  What is no list does not.
 * Source: RFC 9110, 13.1.1 and 8.8.3.2, the strong comparison.
 */
int ngx_idem_order_matches(ngx_idem_span_t if_match, ngx_idem_span_t tag);


#endif /* _NGX_IDEM_ORDER_H_INCLUDED_ */
