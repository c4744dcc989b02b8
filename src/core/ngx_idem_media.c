
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_media.h"


static const uint8_t *ngx_idem_media_blanks(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_media_token(const uint8_t *p,
    const uint8_t *last);
static const uint8_t *ngx_idem_media_quoted(const uint8_t *p,
    const uint8_t *last);
static int ngx_idem_media_is_boundary(const uint8_t *p, size_t len);
static uint8_t ngx_idem_media_lower(uint8_t c);
static ngx_idem_span_t ngx_idem_media_between(const uint8_t *p,
    const uint8_t *last);


ngx_idem_span_t
ngx_idem_media_word(ngx_idem_span_t field, ngx_idem_span_t *rest)
{
    size_t           n;
    ngx_idem_span_t  word;

    for (n = 0; n < field.len; n++) {
        if (field.data[n] == ';') {
            break;
        }
    }

    word.data = field.data;
    word.len = n;

    rest->data = field.data + n;
    rest->len = field.len - n;

    while (word.len
           && (word.data[word.len - 1] == ' '
               || word.data[word.len - 1] == '\t'))
    {
        word.len--;
    }

    return word;
}


/* A semicolon without anything behind it is none. */

ngx_idem_param_answer_e
ngx_idem_media_param(ngx_idem_span_t *rest, ngx_idem_param_t *pm)
{
    const uint8_t  *p, *start, *name, *last, *end;

    p = rest->data;
    last = rest->data + rest->len;

    do {
        p = ngx_idem_media_blanks(p, last);

        if (p == last) {
            return NGX_IDEM_PARAM_NONE;
        }

        if (*p != ';') {
            return NGX_IDEM_PARAM_BROKEN;
        }

        start = p;
        p = ngx_idem_media_blanks(p + 1, last);

    } while (p == last || *p == ';');

    name = p;
    p = ngx_idem_media_token(p, last);

    if (p == name || p == last || *p != '=') {
        return NGX_IDEM_PARAM_BROKEN;
    }

    pm->name = ngx_idem_media_between(name, p);
    p++;

    pm->quoted = (p < last && *p == '"');

    if (pm->quoted) {
        p++;
        end = ngx_idem_media_quoted(p, last);

        if (end == NULL) {
            return NGX_IDEM_PARAM_BROKEN;
        }

        pm->value = ngx_idem_media_between(p, end);
        p = end + 1;

    } else {
        end = ngx_idem_media_token(p, last);

        while (end < last && *end != ';' && *end > ' ' && *end != '"') {
            end++;
        }

        pm->value = ngx_idem_media_between(p, end);
        p = end;
    }

    pm->whole = ngx_idem_media_between(start, p);
    *rest = ngx_idem_media_between(p, last);

    return NGX_IDEM_PARAM_OK;
}


size_t
ngx_idem_media_value(const ngx_idem_param_t *pm, uint8_t *out)
{
    size_t          n;
    const uint8_t  *p, *last;

    n = 0;
    last = pm->value.data + pm->value.len;

    for (p = pm->value.data; p < last; p++) {

        if (pm->quoted && *p == '\\' && p + 1 < last
            && (p[1] == '"' || p[1] == '\\'))
        {
            p++;
        }

        out[n++] = *p;
    }

    return n;
}


int
ngx_idem_media_same(ngx_idem_span_t span, const char *word)
{
    size_t  i;

    for (i = 0; i < span.len; i++) {

        if (word[i] == '\0'
            || ngx_idem_media_lower(span.data[i]) != (uint8_t) word[i])
        {
            return 0;
        }
    }

    return word[span.len] == '\0';
}


int
ngx_idem_media_is_json(ngx_idem_span_t type)
{
    ngx_idem_span_t  word, rest;

    word = ngx_idem_media_word(type, &rest);

    if (ngx_idem_media_same(word, "application/json")) {
        return 1;
    }

    if (word.len <= sizeof("+json") - 1) {
        return 0;
    }

    word.data += word.len - (sizeof("+json") - 1);
    word.len = sizeof("+json") - 1;

    return ngx_idem_media_same(word, "+json");
}


int
ngx_idem_media_boundary(ngx_idem_span_t field, ngx_idem_boundary_t *b)
{
    int                      found;
    const uint8_t           *last;
    ngx_idem_span_t          word, rest;
    ngx_idem_param_t         pm;
    ngx_idem_param_answer_e  answer;

    last = field.data + field.len;
    word = ngx_idem_media_word(field, &rest);
    word.len = (word.len < sizeof("multipart/") - 1)
                   ? 0 : sizeof("multipart/") - 1;

    if (!ngx_idem_media_same(word, "multipart/")) {
        return 0;
    }

    found = 0;

    for ( ;; ) {
        answer = ngx_idem_media_param(&rest, &pm);

        if (answer != NGX_IDEM_PARAM_OK) {
            return answer == NGX_IDEM_PARAM_NONE && found;
        }

        if (!ngx_idem_media_same(pm.name, "boundary")) {
            continue;
        }

        if (found++ || pm.value.len > NGX_IDEM_BOUNDARY_LEN) {
            return 0;
        }

        b->len = ngx_idem_media_value(&pm, b->data);
        b->before = ngx_idem_media_between(field.data, pm.whole.data);
        b->behind = ngx_idem_media_between(pm.whole.data + pm.whole.len,
                                           last);

        if (!ngx_idem_media_is_boundary(b->data, b->len)) {
            return 0;
        }
    }
}


static const uint8_t *
ngx_idem_media_blanks(const uint8_t *p, const uint8_t *last)
{
    while (p < last && (*p == ' ' || *p == '\t')) {
        p++;
    }

    return p;
}


static const uint8_t *
ngx_idem_media_token(const uint8_t *p, const uint8_t *last)
{
    while (p < last && *p > ' ' && *p < 0x7f
           && memchr("()<>@,;:\\\"/[]?={}", *p, 17) == NULL)
    {
        p++;
    }

    return p;
}


/* From behind the first quote to the last one, or NULL. */

static const uint8_t *
ngx_idem_media_quoted(const uint8_t *p, const uint8_t *last)
{
    for ( /* void */ ; p < last; p++) {

        if (*p == '"') {
            return p;
        }

        if (*p == '\\' && p + 1 < last && (p[1] == '"' || p[1] == '\\')) {
            p++;
            continue;
        }

        if ((*p < ' ' && *p != '\t') || *p == 0x7f) {
            return NULL;
        }
    }

    return NULL;
}


static int
ngx_idem_media_is_boundary(const uint8_t *p, size_t len)
{
    size_t   i;
    uint8_t  c;

    for (i = 0; i < len; i++) {
        c = ngx_idem_media_lower(p[i]);

        if ((c < 'a' || c > 'z') && (c < '0' || c > '9')
            && (c == '\0' || strchr("'()+_,-./:=? ", c) == NULL))
        {
            return 0;
        }
    }

    return len != 0 && p[len - 1] != ' ';
}


static uint8_t
ngx_idem_media_lower(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') ? (uint8_t) (c | 0x20) : c;
}


static ngx_idem_span_t
ngx_idem_media_between(const uint8_t *p, const uint8_t *last)
{
    ngx_idem_span_t  span;

    span.data = p;
    span.len = (size_t) (last - p);

    return span;
}
