
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_json.h"


/*
 * The functions that read a piece take its first byte and the byte behind the
 * last one of the text, and return the byte behind the piece or NULL.
 */

static const uint8_t *ngx_idem_json_string(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_json_number(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_json_digits(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_json_blanks(const uint8_t *p,
    const uint8_t *last);
static int ngx_idem_json_is_digit(uint8_t c);


int
ngx_idem_json_quote(ngx_idem_span_t text, uint8_t *out, size_t *len)
{
    size_t          n;
    uint8_t        *to;
    const uint8_t  *p, *last, *end;

    to = out;
    p = text.data;
    last = text.data + text.len;

    if (memchr(p, '\0', text.len) != NULL) {
        return 0;
    }

    while (p < last) {

        if (*p != '-' && *p != '"' && !ngx_idem_json_is_digit(*p)) {
            *to++ = *p++;
            continue;
        }

        end = (*p == '"') ? ngx_idem_json_string(p, last)
                          : ngx_idem_json_number(p, last);

        if (end == NULL) {
            return 0;
        }

        n = (size_t) (end - p);

        if (*p == '"') {
            memcpy(to, p, n);
            to += n;

        } else {
            *to++ = '"';
            memcpy(to, p, n);
            to += n;
            *to++ = '"';
        }

        p = end;
    }

    *len = (size_t) (to - out);

    return 1;
}


static const uint8_t *
ngx_idem_json_string(const uint8_t *p, const uint8_t *last)
{
    for (p++; p < last; p++) {

        if (*p == '"') {
            return p + 1;
        }

        if (*p == '\\') {
            p++;
        }
    }

    return NULL;
}


/* It is over where it is, and no name: the latter would have a colon behind. */

static const uint8_t *
ngx_idem_json_number(const uint8_t *p, const uint8_t *last)
{
    const uint8_t  *end;

    if (*p == '-') {
        p++;
    }

    end = ngx_idem_json_digits(p, last);

    if (end == NULL || (*p == '0' && end != p + 1)) {
        return NULL;
    }

    if (end < last && *end == '.') {
        end = ngx_idem_json_digits(end + 1, last);

        if (end == NULL) {
            return NULL;
        }
    }

    if (end < last && (*end == 'e' || *end == 'E')) {
        end++;

        if (end < last && (*end == '+' || *end == '-')) {
            end++;
        }

        end = ngx_idem_json_digits(end, last);

        if (end == NULL) {
            return NULL;
        }
    }

    p = ngx_idem_json_blanks(end, last);

    if (p == last || *p == ',' || *p == ']' || *p == '}') {
        return end;
    }

    return NULL;
}


/* At least one. */

static const uint8_t *
ngx_idem_json_digits(const uint8_t *p, const uint8_t *last)
{
    const uint8_t  *end;

    for (end = p; end < last && ngx_idem_json_is_digit(*end); end++) {
        /* void */
    }

    return (end == p) ? NULL : end;
}


static const uint8_t *
ngx_idem_json_blanks(const uint8_t *p, const uint8_t *last)
{
    while (p < last
           && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
    {
        p++;
    }

    return p;
}


static int
ngx_idem_json_is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}


int
ngx_idem_json_is_pointer(ngx_idem_span_t pointer)
{
    size_t  i;

    if (pointer.len && pointer.data[0] != '/') {
        return 0;
    }

    for (i = 0; i < pointer.len; i++) {

        if (pointer.data[i] != '~') {
            continue;
        }

        if (i + 1 == pointer.len
            || (pointer.data[i + 1] != '0' && pointer.data[i + 1] != '1'))
        {
            return 0;
        }
    }

    return 1;
}


size_t
ngx_idem_json_token(ngx_idem_span_t *pointer, uint8_t *out)
{
    size_t          n;
    const uint8_t  *p, *last;

    n = 0;
    last = pointer->data + pointer->len;

    for (p = pointer->data + 1; p < last && *p != '/'; p++) {

        if (*p == '~') {
            p++;
            out[n++] = (*p == '0') ? '~' : '/';
            continue;
        }

        out[n++] = *p;
    }

    pointer->data = p;
    pointer->len = (size_t) (last - p);

    return n;
}


/* RFC 6901, section 4: digits without a leading zero. */

int
ngx_idem_json_index(ngx_idem_span_t token, size_t *index)
{
    size_t  i, n;

    n = 0;

    if (token.len == 0 || token.len > 9
        || (token.data[0] == '0' && token.len > 1))
    {
        return 0;
    }

    for (i = 0; i < token.len; i++) {

        if (!ngx_idem_json_is_digit(token.data[i])) {
            return 0;
        }

        n = 10 * n + (size_t) (token.data[i] - '0');
    }

    *index = n;

    return 1;
}
