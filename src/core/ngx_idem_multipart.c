
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_multipart.h"


static const uint8_t *ngx_idem_multipart_step(ngx_idem_multipart_t *mp,
    const uint8_t *p, const uint8_t *last);
static const uint8_t *ngx_idem_multipart_preamble(ngx_idem_multipart_t *mp,
    const uint8_t *p, const uint8_t *last);
static const uint8_t *ngx_idem_multipart_until(ngx_idem_multipart_t *mp,
    const uint8_t *p, const uint8_t *last, const uint8_t *what, size_t len);
static void ngx_idem_multipart_expect(ngx_idem_multipart_t *mp,
    ngx_idem_multipart_state_e state, size_t matched);
static void ngx_idem_multipart_emit(ngx_idem_multipart_t *mp,
    const uint8_t *p, const uint8_t *last);


static const uint8_t  ngx_idem_multipart_lines[4] = {
    '\r', '\n', '\r', '\n'
};


void
ngx_idem_multipart_start(ngx_idem_multipart_t *mp,
    const ngx_idem_boundary_t *boundary, const ngx_idem_multipart_sink_t *sink)
{
    mp->sink = *sink;
    mp->len = boundary->len + 4;

    memcpy(mp->delimiter, "\r\n--", 4);
    memcpy(mp->delimiter + 4, boundary->data, boundary->len);

    ngx_idem_multipart_expect(mp, NGX_IDEM_MULTIPART_PREAMBLE, 2);
}


void
ngx_idem_multipart_feed(ngx_idem_multipart_t *mp, ngx_idem_span_t piece)
{
    const uint8_t  *p, *last;

    p = piece.data;
    last = piece.data + piece.len;

    while (p < last) {
        p = ngx_idem_multipart_step(mp, p, last);
    }
}


int
ngx_idem_multipart_end(ngx_idem_multipart_t *mp)
{
    if (mp->state != NGX_IDEM_MULTIPART_CLOSED
        && mp->state != NGX_IDEM_MULTIPART_EPILOGUE)
    {
        return 0;
    }

    mp->sink.end(mp->sink.data);

    return 1;
}


/* Returns the first byte that was not looked at. */

static const uint8_t *
ngx_idem_multipart_step(ngx_idem_multipart_t *mp, const uint8_t *p,
    const uint8_t *last)
{
    switch (mp->state) {

    case NGX_IDEM_MULTIPART_PREAMBLE:
        return ngx_idem_multipart_preamble(mp, p, last);

    case NGX_IDEM_MULTIPART_BEHIND:
        mp->state = (*p == '\r') ? NGX_IDEM_MULTIPART_BEHIND_CR
                  : (*p == '-') ? NGX_IDEM_MULTIPART_BEHIND_DASH
                                : NGX_IDEM_MULTIPART_BROKEN;
        return p + 1;

    case NGX_IDEM_MULTIPART_BEHIND_CR:
        ngx_idem_multipart_expect(mp,
                                  (*p == '\n') ? NGX_IDEM_MULTIPART_HEADER
                                               : NGX_IDEM_MULTIPART_BROKEN, 2);
        return p + 1;

    case NGX_IDEM_MULTIPART_BEHIND_DASH:
        mp->state = (*p == '-') ? NGX_IDEM_MULTIPART_CLOSED
                                : NGX_IDEM_MULTIPART_BROKEN;
        return p + 1;

    case NGX_IDEM_MULTIPART_HEADER:
        p = ngx_idem_multipart_until(mp, p, last, ngx_idem_multipart_lines, 4);

        if (mp->matched == 4) {
            mp->sink.end(mp->sink.data);
            ngx_idem_multipart_expect(mp, NGX_IDEM_MULTIPART_CONTENT, 0);
        }

        return p;

    case NGX_IDEM_MULTIPART_CONTENT:
        p = ngx_idem_multipart_until(mp, p, last, mp->delimiter, mp->len);

        if (mp->matched == mp->len) {
            mp->sink.end(mp->sink.data);
            mp->state = NGX_IDEM_MULTIPART_BEHIND;
        }

        return p;

    case NGX_IDEM_MULTIPART_CLOSED:
        mp->state = (*p == '\r') ? NGX_IDEM_MULTIPART_EPILOGUE
                                 : NGX_IDEM_MULTIPART_BROKEN;
        return p;

    case NGX_IDEM_MULTIPART_EPILOGUE:
        ngx_idem_multipart_emit(mp, p, last);
        return last;

    case NGX_IDEM_MULTIPART_BROKEN:
        break;
    }

    return last;
}


/* A line end before the first boundary need not be there: it is kept. */

static const uint8_t *
ngx_idem_multipart_preamble(ngx_idem_multipart_t *mp, const uint8_t *p,
    const uint8_t *last)
{
    p = ngx_idem_multipart_until(mp, p, last, mp->delimiter, mp->len);

    if (mp->matched == mp->len) {

        if (mp->held == mp->len) {
            ngx_idem_multipart_emit(mp, mp->delimiter, mp->delimiter + 2);
        }

        mp->sink.end(mp->sink.data);
        mp->state = NGX_IDEM_MULTIPART_BEHIND;
    }

    return p;
}


/*
 * Hands out bytes until all of *what has been seen.  It begins with a CR; if
 * there is another one in it, no beginning of it ends with what a byte that
 * does not fit leaves over.  So it begins anew with that byte at the earliest.
 */

static const uint8_t *
ngx_idem_multipart_until(ngx_idem_multipart_t *mp, const uint8_t *p,
    const uint8_t *last, const uint8_t *what, size_t len)
{
    const uint8_t  *start;

    while (p < last && mp->matched < len) {

        if (mp->matched == 0) {
            start = p;
            p = memchr(p, '\r', (size_t) (last - p));

            if (p == NULL) {
                ngx_idem_multipart_emit(mp, start, last);
                return last;
            }

            ngx_idem_multipart_emit(mp, start, p);
        }

        if (*p == what[mp->matched]) {
            mp->matched++;
            mp->held++;
            p++;
            continue;
        }

        ngx_idem_multipart_emit(mp, what + mp->matched - mp->held,
                                what + mp->matched);
        mp->matched = 0;
        mp->held = 0;
    }

    return p;
}


static void
ngx_idem_multipart_expect(ngx_idem_multipart_t *mp,
    ngx_idem_multipart_state_e state, size_t matched)
{
    mp->state = state;
    mp->matched = matched;
    mp->held = 0;
}


static void
ngx_idem_multipart_emit(ngx_idem_multipart_t *mp, const uint8_t *p,
    const uint8_t *last)
{
    ngx_idem_span_t  piece;

    if (p == last) {
        return;
    }

    piece.data = p;
    piece.len = (size_t) (last - p);

    mp->sink.bytes(mp->sink.data, piece);
}
