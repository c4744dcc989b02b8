
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Takes a multipart body apart while it arrives, into items:
 *
 *   preamble  what stands before the first boundary
 *   header    of a part, without the empty line
 *   content   of a part, without the CRLF that belongs to the boundary
 *   ...       header and content of the other parts
 *   epilogue  what stands behind the last boundary
 *
 * Preamble and epilogue are nearly always empty.  Whoever has the items and
 * the boundary can write the body again, byte by byte: items that are the
 * same are the same body, but for the boundary.  So what is lax in the
 * grammar is refused, such as blanks behind a boundary, a line end without
 * CR, or a line that begins like a boundary and goes on.
 *
 * Source: RFC 2046, section 5.1.1.
 */


#ifndef _NGX_IDEM_MULTIPART_H_INCLUDED_
#define _NGX_IDEM_MULTIPART_H_INCLUDED_


#include "core/ngx_idem_media.h"


/*
 * Where the items go: each in pieces, then its end.  A piece may lie in the
 * memory of the parser, and is gone after the call.
 */

typedef struct {
    void  (*bytes)(void *data, ngx_idem_span_t piece);
    void  (*end)(void *data);
    void   *data;
} ngx_idem_multipart_sink_t;


typedef enum {
    NGX_IDEM_MULTIPART_PREAMBLE = 0,
    NGX_IDEM_MULTIPART_BEHIND,  /* a boundary: two bytes say what comes */
    NGX_IDEM_MULTIPART_BEHIND_CR,
    NGX_IDEM_MULTIPART_BEHIND_DASH,
    NGX_IDEM_MULTIPART_HEADER,
    NGX_IDEM_MULTIPART_CONTENT,
    NGX_IDEM_MULTIPART_CLOSED,
    NGX_IDEM_MULTIPART_EPILOGUE,
    NGX_IDEM_MULTIPART_BROKEN
} ngx_idem_multipart_state_e;


/*
 *   matched  bytes that the end of an item has in common with what ends it
 *   held     those of them that were there: in front of the first boundary
 *            and of a header without fields there need not be a line end
 */

typedef struct {
    ngx_idem_multipart_sink_t   sink;
    ngx_idem_multipart_state_e  state;
    size_t                      matched;
    size_t                      held;
    size_t                      len;
    uint8_t                     delimiter[NGX_IDEM_BOUNDARY_LEN + 4];
} ngx_idem_multipart_t;


void ngx_idem_multipart_start(ngx_idem_multipart_t *mp,
    const ngx_idem_boundary_t *boundary,
    const ngx_idem_multipart_sink_t *sink);

/* Takes a piece of the body; any split of the same bytes is the same. */
void ngx_idem_multipart_feed(ngx_idem_multipart_t *mp, ngx_idem_span_t piece);

/*
 * The body is at its end.  Returns 0 if it was not well formed, and what the
 * sink has got is to be forgotten.
 */
int ngx_idem_multipart_end(ngx_idem_multipart_t *mp);


#endif /* _NGX_IDEM_MULTIPART_H_INCLUDED_ */
