
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


/* Classes of bytes: where they may stand; a byte may be of several. */

#define NGX_IDEM_KEY_PLAIN            0x10  /* in a key that is no String */
#define NGX_IDEM_KEY_STRING           0x20  /* in a String, unescaped */
#define NGX_IDEM_KEY_HEX              0x40
#define NGX_IDEM_KEY_DIGIT            0x80
#define NGX_IDEM_KEY_NAME             0x01
#define NGX_IDEM_KEY_TOKEN            0x02
#define NGX_IDEM_KEY_BASE64           0x04
#define NGX_IDEM_KEY_FIRST            0x08  /* a token's; with NAME, a name's */


/*
 * The functions that read a piece of an Item take its first byte and the byte
 * behind the last one, and return the byte behind the piece or NULL.
 */

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
static const uint8_t *ngx_idem_key_bytes(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_key_boolean(const uint8_t *p,
    const uint8_t *last);
static int ngx_idem_key_uuid(uint8_t *key, size_t len);
static int ngx_idem_key_is(uint8_t c, int class);
static const uint8_t *ngx_idem_key_skip(const uint8_t *p,
    const uint8_t *last, int class);


static const uint8_t  ngx_idem_key_class[256] = {
    [' '] =
    0x20, 0x32, 0x00, 0x32, 0x32, 0x32, 0x32, 0x32,    /* sp ! " # $ % & ' */
    0x30, 0x30, 0x3b, 0x36, 0x20, 0x33, 0x33, 0x36,    /* ( ) * + , - . / */
    0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0xf7,    /* 0 1 2 3 4 5 6 7 */
    0xf7, 0xf7, 0x32, 0x30, 0x30, 0x34, 0x30, 0x30,    /* 8 9 : ; < = > ? */
    0x30, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x3e,    /* @ A B C D E F G */
    0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e,    /* H I J K L M N O */
    0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e,    /* P Q R S T U V W */
    0x3e, 0x3e, 0x3e, 0x30, 0x10, 0x30, 0x32, 0x33,    /* X Y Z [ \ ] ^ _ */
    0x32, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x3f,    /* ` a b c d e f g */
    0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,    /* h i j k l m n o */
    0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,    /* p q r s t u v w */
    0x3f, 0x3f, 0x3f, 0x30, 0x32, 0x30, 0x32, 0x00     /* x y z { | } ~ del */
};


ngx_idem_key_answer_e
ngx_idem_key_parse(const ngx_idem_key_rule_t *rule, ngx_idem_span_t field,
    uint8_t *key, size_t *len)
{
    size_t          n;
    const uint8_t  *last;

    if (field.len == 0) {
        return NGX_IDEM_KEY_MISSING;
    }

    last = field.data + field.len;

    if (field.data[0] == '"') {
        if (!ngx_idem_key_item(field, key, &n)) {
            return NGX_IDEM_KEY_SYNTAX;
        }

    } else {
        if (rule->format == NGX_IDEM_KEY_STRUCTURED
            || ngx_idem_key_skip(field.data, last, NGX_IDEM_KEY_PLAIN) != last)
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
    size_t  n;

    n = 0;

    for (p++; p < last; p++) {

        if (!ngx_idem_key_is(*p, NGX_IDEM_KEY_STRING)) {

            if (*p == '"') {
                *len = n;
                return p + 1;
            }

            if (*p != '\\') {
                return NULL;
            }

            p++;

            if (p == last || (*p != '"' && *p != '\\')) {
                return NULL;
            }
        }

        if (key != NULL) {
            key[n] = *p;
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

    if (p == last
        || !ngx_idem_key_is(*p, NGX_IDEM_KEY_NAME)
        || !ngx_idem_key_is(*p, NGX_IDEM_KEY_FIRST))
    {
        return NULL;
    }

    p = ngx_idem_key_skip(p, last, NGX_IDEM_KEY_NAME);

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

        if (ngx_idem_key_is(*p, NGX_IDEM_KEY_FIRST)) {
            return ngx_idem_key_skip(p, last, NGX_IDEM_KEY_TOKEN);
        }

        return ngx_idem_key_number(p, last);
    }
}


static const uint8_t *
ngx_idem_key_number(const uint8_t *p, const uint8_t *last)
{
    const uint8_t  *end;

    if (*p == '-') {
        p++;
    }

    end = ngx_idem_key_skip(p, last, NGX_IDEM_KEY_DIGIT);

    if (end == p || end - p > NGX_IDEM_KEY_INTEGER_DIGITS) {
        return NULL;
    }

    if (end == last || *end != '.') {
        return end;
    }

    if (end - p > NGX_IDEM_KEY_DECIMAL_DIGITS) {
        return NULL;
    }

    p = end + 1;
    end = ngx_idem_key_skip(p, last, NGX_IDEM_KEY_DIGIT);

    if (end == p || end - p > NGX_IDEM_KEY_FRACTION_DIGITS) {
        return NULL;
    }

    return end;
}


static const uint8_t *
ngx_idem_key_bytes(const uint8_t *p, const uint8_t *last)
{
    p = ngx_idem_key_skip(p + 1, last, NGX_IDEM_KEY_BASE64);

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
    size_t  i;

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

        if (!ngx_idem_key_is(key[i], NGX_IDEM_KEY_HEX)) {
            return 0;
        }

        /* a digit has this bit anyway */

        key[i] |= 0x20;
    }

    return 1;
}


static int
ngx_idem_key_is(uint8_t c, int class)
{
    return ngx_idem_key_class[c] & class;
}


/* Returns the first byte that is not of the class, or last. */

static const uint8_t *
ngx_idem_key_skip(const uint8_t *p, const uint8_t *last, int class)
{
    while (p < last && ngx_idem_key_is(*p, class)) {
        p++;
    }

    return p;
}
