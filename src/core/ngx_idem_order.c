
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_order.h"


static const uint8_t *ngx_idem_order_skip(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_order_tag_end(const uint8_t *p,
    const uint8_t *last);
static int ngx_idem_order_same(const uint8_t *p, const uint8_t *last,
    ngx_idem_span_t tag);


int
ngx_idem_order_number(ngx_idem_span_t text, ngx_idem_span_t *n)
{
    size_t  i;

    for (i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return -1;
        }
    }

    while (text.len > 1 && text.data[0] == '0') {
        text.data++;
        text.len--;
    }

    *n = text;

    return text.len == 0 || text.len > NGX_IDEM_NUMBER_LEN;
}


int
ngx_idem_order_compare(ngx_idem_span_t a, ngx_idem_span_t b)
{
    if (a.len != b.len) {
        return (a.len < b.len) ? -1 : 1;
    }

    return memcmp(a.data, b.data, a.len);
}


int
ngx_idem_order_is_tag(ngx_idem_span_t tag)
{
    return tag.len >= 2
           && tag.data[0] == '"'
           && ngx_idem_order_tag_end(tag.data, tag.data + tag.len)
              == tag.data + tag.len;
}


int
ngx_idem_order_matches(ngx_idem_span_t if_match, ngx_idem_span_t tag)
{
    int             found;
    const uint8_t  *p, *last, *end;

    p = if_match.data;
    last = p + if_match.len;
    found = 0;

    if (if_match.len == 1 && *p == '*') {
        return 1;
    }

    for ( ;; ) {
        p = ngx_idem_order_skip(p, last);

        if (p == last) {
            return found;
        }

        end = ngx_idem_order_tag_end(p, last);

        if (end == NULL) {
            return 0;
        }

        found |= ngx_idem_order_same(p, end, tag);

        p = end;

        while (p < last && (*p == ' ' || *p == '\t')) {
            p++;
        }

        if (p < last && *p != ',') {
            return 0;
        }
    }
}


/* Spaces, and commas with nothing between them. */

static const uint8_t *
ngx_idem_order_skip(const uint8_t *p, const uint8_t *last)
{
    while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
        p++;
    }

    return p;
}


/* The end of a tag, weak or strong.  NULL: it is none. */

static const uint8_t *
ngx_idem_order_tag_end(const uint8_t *p, const uint8_t *last)
{
    if (last - p >= 2 && p[0] == 'W' && p[1] == '/') {
        p += 2;
    }

    if (p == last || *p != '"') {
        return NULL;
    }

    for (p++; p < last; p++) {

        if (*p == '"') {
            return p + 1;
        }

        if (*p <= 0x20 || *p == 0x7f) {
            return NULL;
        }
    }

    return NULL;
}


static int
ngx_idem_order_same(const uint8_t *p, const uint8_t *last,
    ngx_idem_span_t tag)
{
    return (size_t) (last - p) == tag.len
           && memcmp(p, tag.data, tag.len) == 0;
}
