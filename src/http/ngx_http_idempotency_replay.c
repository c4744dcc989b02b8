
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


/* Header fields that nginx wants to find without searching. */

typedef struct {
    ngx_str_t   name;
    ngx_uint_t  offset;             /* in ngx_http_headers_out_t */
} ngx_http_idempotency_known_t;


static ngx_int_t ngx_http_idempotency_restore(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_record_t *rec);
static ngx_int_t ngx_http_idempotency_restore_field(ngx_http_request_t *r,
    ngx_idem_field_t *f);
static void ngx_http_idempotency_restore_type(ngx_http_request_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_restore_length(ngx_http_request_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_restore_location(ngx_http_request_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_restore_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_restore_trailer(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_buf_t *ngx_http_idempotency_body_buf(ngx_http_request_t *r,
    ngx_idem_span_t *body);


static ngx_http_idempotency_known_t  ngx_http_idempotency_known[] = {

    { ngx_string("Server"),
      offsetof(ngx_http_headers_out_t, server) },

    { ngx_string("Date"),
      offsetof(ngx_http_headers_out_t, date) },

    { ngx_string("Content-Encoding"),
      offsetof(ngx_http_headers_out_t, content_encoding) },

    { ngx_string("Refresh"),
      offsetof(ngx_http_headers_out_t, refresh) },

    { ngx_string("Last-Modified"),
      offsetof(ngx_http_headers_out_t, last_modified) },

    { ngx_string("Content-Range"),
      offsetof(ngx_http_headers_out_t, content_range) },

    { ngx_string("Accept-Ranges"),
      offsetof(ngx_http_headers_out_t, accept_ranges) },

    { ngx_string("WWW-Authenticate"),
      offsetof(ngx_http_headers_out_t, www_authenticate) },

    { ngx_string("Expires"),
      offsetof(ngx_http_headers_out_t, expires) },

    { ngx_string("ETag"),
      offsetof(ngx_http_headers_out_t, etag) },

    { ngx_null_string, 0 }
};


/*
 * Sends the stored response through the same filters as the first answer.
 * It stays what it was: no range, no condition of this request applies.
 */

ngx_int_t
ngx_http_idempotency_replay_handler(ngx_http_request_t *r)
{
    ngx_int_t                    rc;
    ngx_buf_t                   *b;
    ngx_chain_t                  out;
    ngx_idem_span_t              bytes;
    ngx_idem_record_t            rec;
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_idempotency_ctx(r);

    if (ctx->ilcf->acknowledge) {
        return ngx_http_idempotency_acknowledge(r, ctx);
    }

    bytes = ngx_http_idempotency_span(&ctx->op.stored);

    rc = (ngx_idem_record_open(&rec, bytes) == NGX_IDEM_RECORD_OK)
             ? ngx_http_idempotency_restore(r, ctx, &rec) : NGX_DECLINED;

    if (rc == NGX_DECLINED) {
        ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                      "idempotency record of %uz bytes cannot be replayed",
                      ctx->op.stored.len);
    }

    /* once the header is sent, there cannot be another answer */

    b = (rc == NGX_OK) ? ngx_http_idempotency_body_buf(r, &rec.body) : NULL;

    if (b == NULL) {
        ngx_http_clean_header(r);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->err_status = 0;
    r->disable_not_modified = 1;
    r->allow_ranges = 0;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* NGX_DECLINED: these bytes are not a record.  NGX_ERROR: no memory. */

static ngx_int_t
ngx_http_idempotency_restore(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_idem_record_t *rec)
{
    ngx_int_t                 rc;
    ngx_idem_field_t          f;
    ngx_idem_record_answer_e  answer;

    r->headers_out.status = rec->status;

    for ( ;; ) {

        answer = ngx_idem_record_next(rec, &f);

        if (answer == NGX_IDEM_RECORD_END) {
            break;
        }

        rc = (answer == NGX_IDEM_RECORD_CORRUPT)
                 ? NGX_DECLINED : ngx_http_idempotency_restore_field(r, &f);

        if (rc != NGX_OK) {
            return rc;
        }
    }

    ngx_http_idempotency_set_length(r, rec->body.len);

    return ngx_http_idempotency_mark(r, ctx);
}


static ngx_int_t
ngx_http_idempotency_restore_field(ngx_http_request_t *r, ngx_idem_field_t *f)
{
    ngx_str_t  name, value;

    name = ngx_http_idempotency_str(&f->name);
    value = ngx_http_idempotency_str(&f->value);

    switch (f->kind) {

    case NGX_IDEM_FIELD_HEADER:
        return ngx_http_idempotency_restore_header(r, &name, &value);

    case NGX_IDEM_FIELD_TRAILER:
        return ngx_http_idempotency_restore_trailer(r, &name, &value);

    case NGX_IDEM_FIELD_TYPE:
        ngx_http_idempotency_restore_type(r, &value);
        return NGX_OK;

    case NGX_IDEM_FIELD_CHARSET:
        r->headers_out.charset = value;
        return NGX_OK;

    case NGX_IDEM_FIELD_REASON:
        r->headers_out.status_line = value;
        return NGX_OK;

    case NGX_IDEM_FIELD_LENGTH:
        return ngx_http_idempotency_restore_length(r, &value);

    case NGX_IDEM_FIELD_LOCATION:
        return ngx_http_idempotency_restore_location(r, &value);

    case NGX_IDEM_FIELD_MODIFIED:
        r->headers_out.last_modified_time = ngx_parse_http_time(value.data,
                                                                value.len);
        return NGX_OK;
    }

    return NGX_DECLINED;
}


/* A charset in the type is set apart, as nginx does for an upstream's. */

static void
ngx_http_idempotency_restore_type(ngx_http_request_t *r, ngx_str_t *value)
{
    u_char     *p, *end, *last;
    ngx_str_t  *charset;

    charset = &r->headers_out.charset;

    r->headers_out.content_type = *value;
    r->headers_out.content_type_len = value->len;
    r->headers_out.content_type_lowcase = NULL;

    end = value->data + value->len;

    for (last = value->data; last < end; last++) {

        if (*last != ';') {
            continue;
        }

        p = last + 1;

        while (p < end && *p == ' ') {
            p++;
        }

        if ((size_t) (end - p) < sizeof("charset=") - 1
            || ngx_strncasecmp(p, (u_char *) "charset=",
                               sizeof("charset=") - 1)
               != 0)
        {
            continue;
        }

        p += sizeof("charset=") - 1;

        if (p < end && *p == '"') {
            p++;
            end -= (end > p && end[-1] == '"');
        }

        r->headers_out.content_type_len = last - value->data;

        charset->data = p;
        charset->len = end - p;

        return;
    }
}


static ngx_int_t
ngx_http_idempotency_restore_length(ngx_http_request_t *r, ngx_str_t *value)
{
    r->headers_out.content_length_n = ngx_atoof(value->data, value->len);

    return (r->headers_out.content_length_n == NGX_ERROR) ? NGX_DECLINED
                                                          : NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_restore_location(ngx_http_request_t *r, ngx_str_t *value)
{
    ngx_str_t  name = ngx_string("Location");

    r->headers_out.location = ngx_http_idempotency_add_field(
                                        &r->headers_out.headers, &name, value);

    return r->headers_out.location ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_idempotency_restore_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    static ngx_str_t  cache_control = ngx_string("Cache-Control");
    static ngx_str_t  link = ngx_string("Link");

    ngx_table_elt_t               *h, **ph;
    ngx_http_idempotency_known_t  *known;

    h = ngx_http_idempotency_add_field(&r->headers_out.headers, name,
                                       value);
    if (h == NULL) {
        return NGX_ERROR;
    }

    for (known = ngx_http_idempotency_known; known->name.len; known++) {

        if (ngx_http_idempotency_same_name(&known->name, name)) {
            ph = (ngx_table_elt_t **) ((char *) &r->headers_out
                                       + known->offset);
            *ph = h;
            break;
        }
    }

    if (h == r->headers_out.last_modified) {
        r->headers_out.last_modified_time = ngx_parse_http_time(value->data,
                                                                value->len);
    }

    if (ngx_http_idempotency_same_name(name, &cache_control)) {
        return ngx_http_idempotency_note(r, cache_control, h);
    }

    if (ngx_http_idempotency_same_name(name, &link)) {
        return ngx_http_idempotency_note(r, link, h);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_restore_trailer(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    r->expect_trailers = 1;

    return ngx_http_idempotency_add_field(&r->headers_out.trailers, name,
                                          value)
               ? NGX_OK : NGX_ERROR;
}


/* Idempotent-Replayed: true */

ngx_int_t
ngx_http_idempotency_mark(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_http_idempotency_marker_t  *marker;

    marker = ctx->ilcf->replay_header;

    if (marker->name.len == 0) {
        return NGX_OK;
    }

    return ngx_http_idempotency_add_field(&r->headers_out.headers,
                                          &marker->name, &marker->value)
               ? NGX_OK : NGX_ERROR;
}


static ngx_buf_t *
ngx_http_idempotency_body_buf(ngx_http_request_t *r, ngx_idem_span_t *body)
{
    ngx_buf_t  *b;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NULL;
    }

    if (body->len) {
        b->pos = ngx_http_idempotency_str(body).data;
        b->last = b->pos + body->len;
        b->memory = 1;
    }

    b->last_buf = 1;
    b->last_in_chain = 1;

    return b;
}
