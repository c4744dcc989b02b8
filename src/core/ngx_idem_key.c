
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_key.h"


/* RFC 8941, sections 3.3.1 and 3.3.2 */

#define NGX_IDEM_KEY_INTEGER_DIGITS   15
#define NGX_IDEM_KEY_DECIMAL_DIGITS   12
#define NGX_IDEM_KEY_FRACTION_DIGITS  3

#define NGX_IDEM_KEY_UUID_LEN         36


/*
 * The functions that read a piece of an Item take its first byte and the byte
 * behind the last one, and return the byte behind the piece or NULL.
 */

static int ngx_idem_key_plain(ngx_idem_span_t field);
static int ngx_idem_key_item(ngx_idem_span_t field, uint8_t *key,
    size_t *len);
static const uint8_t *ngx_idem_key_string(const uint8_t *p,
    const uint8_t *last, uint8_t *key, size_t *len);
static const uint8_t *ngx_idem_key_param(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_key_bare_item(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_key_number(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_key_token(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_key_bytes(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_key_boolean(const uint8_t *p,
    const uint8_t *last);
static int ngx_idem_key_uuid(uint8_t *key, size_t len);
static size_t ngx_idem_key_digits(const uint8_t *p, const uint8_t *last);
static int ngx_idem_key_is_digit(uint8_t c);
static int ngx_idem_key_is_lower(uint8_t c);
static int ngx_idem_key_is_alpha(uint8_t c);
static int ngx_idem_key_is_one_of(uint8_t c, const char *set);


ngx_idem_key_answer_e
ngx_idem_key_parse(const ngx_idem_key_rule_t *rule, ngx_idem_span_t field,
    uint8_t *key, size_t *len)
{
    size_t  n;

    if (field.len == 0) {
        return NGX_IDEM_KEY_MISSING;
    }

    if (field.data[0] == '"') {
        if (!ngx_idem_key_item(field, key, &n)) {
            return NGX_IDEM_KEY_SYNTAX;
        }

    } else {
        if (rule->format == NGX_IDEM_KEY_STRUCTURED
            || !ngx_idem_key_plain(field))
        {
            return NGX_IDEM_KEY_SYNTAX;
        }

        n = field.len;
        memcpy(key, field.data, n);
    }

    if (n < rule->min) {
        return NGX_IDEM_KEY_SHORT;
    }

    if (n > rule->max) {
        return NGX_IDEM_KEY_LONG;
    }

    if (rule->format == NGX_IDEM_KEY_UUID && !ngx_idem_key_uuid(key, n)) {
        return NGX_IDEM_KEY_SYNTAX;
    }

    *len = n;

    return NGX_IDEM_KEY_OK;
}


static int
ngx_idem_key_plain(ngx_idem_span_t field)
{
    size_t   i;
    uint8_t  c;

    for (i = 0; i < field.len; i++) {
        c = field.data[i];

        if (c < 0x21 || c > 0x7e || c == '"' || c == ',') {
            return 0;
        }
    }

    return 1;
}


static int
ngx_idem_key_item(ngx_idem_span_t field, uint8_t *key, size_t *len)
{
    const uint8_t  *p, *last;

    last = field.data + field.len;
    p = ngx_idem_key_string(field.data, last, key, len);

    while (p != NULL && p < last) {
        p = ngx_idem_key_param(p, last);
    }

    return p != NULL;
}


/* Writes the string to key without quotes and escapes, unless key is NULL. */

static const uint8_t *
ngx_idem_key_string(const uint8_t *p, const uint8_t *last, uint8_t *key,
    size_t *len)
{
    size_t   n;
    uint8_t  c;

    n = 0;

    for (p++; p < last; p++) {
        c = *p;

        if (c == '"') {
            *len = n;
            return p + 1;
        }

        if (c == '\\') {
            p++;

            if (p == last || (*p != '"' && *p != '\\')) {
                return NULL;
            }

            c = *p;

        } else if (c < 0x20 || c > 0x7e) {
            return NULL;
        }

        if (key != NULL) {
            key[n] = c;
        }

        n++;
    }

    return NULL;
}


static const uint8_t *
ngx_idem_key_param(const uint8_t *p, const uint8_t *last)
{
    if (*p != ';') {
        return NULL;
    }

    do {
        p++;
    } while (p < last && *p == ' ');

    if (p == last || (!ngx_idem_key_is_lower(*p) && *p != '*')) {
        return NULL;
    }

    do {
        p++;
    } while (p < last
             && (ngx_idem_key_is_lower(*p) || ngx_idem_key_is_digit(*p)
                 || ngx_idem_key_is_one_of(*p, "_-.*")));

    if (p == last || *p != '=') {
        return p;
    }

    return ngx_idem_key_bare_item(p + 1, last);
}


static const uint8_t *
ngx_idem_key_bare_item(const uint8_t *p, const uint8_t *last)
{
    size_t  len;

    if (p == last) {
        return NULL;
    }

    switch (*p) {

    case '"':
        return ngx_idem_key_string(p, last, NULL, &len);

    case ':':
        return ngx_idem_key_bytes(p, last);

    case '?':
        return ngx_idem_key_boolean(p, last);

    default:

        if (*p == '*' || ngx_idem_key_is_alpha(*p)) {
            return ngx_idem_key_token(p, last);
        }

        return ngx_idem_key_number(p, last);
    }
}


static const uint8_t *
ngx_idem_key_number(const uint8_t *p, const uint8_t *last)
{
    size_t  n;

    if (*p == '-') {
        p++;
    }

    n = ngx_idem_key_digits(p, last);

    if (n == 0 || n > NGX_IDEM_KEY_INTEGER_DIGITS) {
        return NULL;
    }

    p += n;

    if (p == last || *p != '.') {
        return p;
    }

    if (n > NGX_IDEM_KEY_DECIMAL_DIGITS) {
        return NULL;
    }

    p++;
    n = ngx_idem_key_digits(p, last);

    if (n == 0 || n > NGX_IDEM_KEY_FRACTION_DIGITS) {
        return NULL;
    }

    return p + n;
}


static const uint8_t *
ngx_idem_key_token(const uint8_t *p, const uint8_t *last)
{
    do {
        p++;
    } while (p < last
             && (ngx_idem_key_is_alpha(*p) || ngx_idem_key_is_digit(*p)
                 || ngx_idem_key_is_one_of(*p, "!#$%&'*+-.^_`|~:/")));

    return p;
}


static const uint8_t *
ngx_idem_key_bytes(const uint8_t *p, const uint8_t *last)
{
    do {
        p++;
    } while (p < last
             && (ngx_idem_key_is_alpha(*p) || ngx_idem_key_is_digit(*p)
                 || ngx_idem_key_is_one_of(*p, "+/=")));

    if (p == last || *p != ':') {
        return NULL;
    }

    return p + 1;
}


static const uint8_t *
ngx_idem_key_boolean(const uint8_t *p, const uint8_t *last)
{
    p++;

    if (p == last || (*p != '0' && *p != '1')) {
        return NULL;
    }

    return p + 1;
}


/* Checks the shape of a UUID and folds it to lower case. */

static int
ngx_idem_key_uuid(uint8_t *key, size_t len)
{
    size_t   i;
    uint8_t  c;

    if (len != NGX_IDEM_KEY_UUID_LEN) {
        return 0;
    }

    for (i = 0; i < len; i++) {

        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (key[i] != '-') {
                return 0;
            }

            continue;
        }

        if (ngx_idem_key_is_digit(key[i])) {
            continue;
        }

        c = key[i] | 0x20;

        if (c < 'a' || c > 'f') {
            return 0;
        }

        key[i] = c;
    }

    return 1;
}


static size_t
ngx_idem_key_digits(const uint8_t *p, const uint8_t *last)
{
    size_t  n;

    n = 0;

    while (p < last && ngx_idem_key_is_digit(*p)) {
        p++;
        n++;
    }

    return n;
}


static int
ngx_idem_key_is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}


static int
ngx_idem_key_is_lower(uint8_t c)
{
    return c >= 'a' && c <= 'z';
}


static int
ngx_idem_key_is_alpha(uint8_t c)
{
    return ngx_idem_key_is_lower(c | 0x20);
}


static int
ngx_idem_key_is_one_of(uint8_t c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}
