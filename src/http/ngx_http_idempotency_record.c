
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_list_fields(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *fields);
static ngx_int_t ngx_http_idempotency_list_length(ngx_http_request_t *r,
    ngx_array_t *fields);
static ngx_int_t ngx_http_idempotency_list_modified(ngx_http_request_t *r,
    ngx_array_t *fields);
static ngx_int_t ngx_http_idempotency_list_headers(ngx_http_request_t *r,
    ngx_list_t *headers, ngx_uint_t skip, ngx_idem_field_e kind,
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_array_t *fields);
static ngx_uint_t ngx_http_idempotency_keeps(
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_str_t *name,
    ngx_str_t *connection);
static ngx_int_t ngx_http_idempotency_connection(ngx_http_request_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_push_field(ngx_array_t *fields,
    ngx_idem_field_e kind, ngx_str_t *name, ngx_str_t *value);
static size_t ngx_http_idempotency_fields_size(ngx_array_t *fields);
static u_char *ngx_http_idempotency_write_fields(u_char *p,
    ngx_array_t *fields);
static ngx_uint_t ngx_http_idempotency_has_trailers(ngx_http_request_t *r);


ngx_int_t
ngx_http_idempotency_encode_fields(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    u_char       *p;
    size_t        size;
    ngx_array_t   fields;

    if (ngx_array_init(&fields, r->pool, 8, sizeof(ngx_idem_field_t)) != NGX_OK
        || ngx_http_idempotency_list_fields(r, ctx, &fields) != NGX_OK)
    {
        return NGX_ERROR;
    }

    size = ngx_http_idempotency_fields_size(&fields);

    p = ngx_pnalloc(r->pool, size + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->response.fields.data = p;
    ctx->response.fields.len = size;

    (void) ngx_http_idempotency_write_fields(p, &fields);

    return NGX_OK;
}


/*
 * Trailers are known at the end only, and the length of all fields stands at
 * the start: both are added here.
 */

ngx_int_t
ngx_http_idempotency_encode(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    size_t                            size, start;
    ngx_buf_t                        *b;
    ngx_array_t                       trailers;
    ngx_chain_t                      *cl;
    ngx_http_idempotency_response_t  *rs;

    rs = &ctx->response;

    if (ngx_array_init(&trailers, r->pool, 1, sizeof(ngx_idem_field_t))
        != NGX_OK
        || ngx_http_idempotency_list_headers(r, &r->headers_out.trailers, 0,
                                             NGX_IDEM_FIELD_TRAILER,
                                             ctx->ilcf, &trailers)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    size = rs->fields.len + ngx_http_idempotency_fields_size(&trailers);
    start = ngx_idem_record_start_size(rs->status, size);

    b = ngx_create_temp_buf(r->pool, start + size);
    cl = ngx_alloc_chain_link(r->pool);

    if (b == NULL || cl == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_idem_record_start(b->last, rs->status, size);
    b->last = ngx_cpymem(b->last, rs->fields.data, rs->fields.len);
    b->last = ngx_http_idempotency_write_fields(b->last, &trailers);

    cl->buf = b;
    cl->next = rs->body;

    ctx->op.record = cl;
    ctx->op.size = start + size + rs->size;

    return NGX_OK;
}


void
ngx_http_idempotency_set_length(ngx_http_request_t *r, size_t size)
{
    if (ngx_http_idempotency_has_trailers(r)) {
        ngx_http_clear_content_length(r);
        return;
    }

    if (size == 0 && ngx_http_idempotency_bodiless(r)) {
        return;
    }

    ngx_http_clear_content_length(r);
    r->headers_out.content_length_n = size;
}


ngx_uint_t
ngx_http_idempotency_bodiless(ngx_http_request_t *r)
{
    return r->method == NGX_HTTP_HEAD
           || r->headers_out.status == NGX_HTTP_NO_CONTENT
           || r->headers_out.status == NGX_HTTP_NOT_MODIFIED;
}


/*
 * Fields that nginx keeps apart from the list come first.  A Location that is
 * known to nginx and begins with a slash is made absolute by it on the way
 * out; one of an upstream is not.
 */

static ngx_int_t
ngx_http_idempotency_list_fields(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *fields)
{
    ngx_http_headers_out_t  *ho;

    ho = &r->headers_out;

    if (ngx_http_idempotency_push_field(fields, NGX_IDEM_FIELD_REASON, NULL,
                                        &ho->status_line)
        != NGX_OK
        || ngx_http_idempotency_push_field(fields, NGX_IDEM_FIELD_TYPE, NULL,
                                           &ho->content_type)
           != NGX_OK
        || ngx_http_idempotency_list_length(r, fields) != NGX_OK
        || ngx_http_idempotency_list_modified(r, fields) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ho->content_type_len == ho->content_type.len
        && ngx_http_idempotency_push_field(fields, NGX_IDEM_FIELD_CHARSET,
                                           NULL, &ho->charset)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_list_headers(r, &ho->headers, ctx->ahead,
                                             NGX_IDEM_FIELD_HEADER,
                                             ctx->ilcf, fields);
}


static ngx_int_t
ngx_http_idempotency_list_length(ngx_http_request_t *r, ngx_array_t *fields)
{
    ngx_str_t  length;

    if (r->headers_out.content_length_n < 0
        || !ngx_http_idempotency_bodiless(r))
    {
        return NGX_OK;
    }

    length.data = ngx_pnalloc(r->pool, NGX_OFF_T_LEN);
    if (length.data == NULL) {
        return NGX_ERROR;
    }

    length.len = ngx_sprintf(length.data, "%O",
                             r->headers_out.content_length_n)
                 - length.data;

    return ngx_http_idempotency_push_field(fields, NGX_IDEM_FIELD_LENGTH,
                                           NULL, &length);
}


/* A file has a time, which becomes a field on the way out only. */

static ngx_int_t
ngx_http_idempotency_list_modified(ngx_http_request_t *r, ngx_array_t *fields)
{
    ngx_str_t  value;

    if (r->headers_out.last_modified
        || r->headers_out.last_modified_time == -1)
    {
        return NGX_OK;
    }

    value.data = ngx_pnalloc(r->pool,
                             sizeof("Mon, 28 Sep 1970 06:00:00 GMT") - 1);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_http_time(value.data, r->headers_out.last_modified_time)
                - value.data;

    return ngx_http_idempotency_push_field(fields, NGX_IDEM_FIELD_MODIFIED,
                                           NULL, &value);
}


/* What stood there before the claim belongs to each request, and is skipped. */

static ngx_int_t
ngx_http_idempotency_list_headers(ngx_http_request_t *r, ngx_list_t *headers,
    ngx_uint_t skip, ngx_idem_field_e kind,
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_array_t *fields)
{
    ngx_str_t         connection, *name;
    ngx_uint_t        i, local;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    if (ngx_http_idempotency_connection(r, &connection) != NGX_OK) {
        return NGX_ERROR;
    }

    for (part = &headers->part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (skip) {
                skip--;
                continue;
            }

            if (h[i].hash == 0
                || !ngx_http_idempotency_keeps(ilcf, &h[i].key, &connection))
            {
                continue;
            }

            local = (&h[i] == r->headers_out.location
                     && h[i].value.len && h[i].value.data[0] == '/');

            name = local ? NULL : &h[i].key;

            if (ngx_http_idempotency_push_field(fields,
                                  local ? NGX_IDEM_FIELD_LOCATION : kind,
                                  name, &h[i].value)
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


/* Nobody but us says what a replay is. */

static ngx_uint_t
ngx_http_idempotency_keeps(ngx_http_idempotency_loc_conf_t *ilcf,
    ngx_str_t *name, ngx_str_t *connection)
{
    if (ngx_http_idempotency_same_name(name, &ilcf->replay_header->name)) {
        return 0;
    }

    return ngx_idem_policy_keeps(ngx_http_idempotency_span(name),
                                 &ilcf->fields,
                                 ngx_http_idempotency_span(connection));
}


/* The values of all Connection fields of the upstream, joined. */

static ngx_int_t
ngx_http_idempotency_connection(ngx_http_request_t *r, ngx_str_t *value)
{
    static ngx_str_t  name = ngx_string("Connection");

    u_char                        *p;
    ngx_table_elt_t               *h;
    ngx_http_idempotency_place_t   pl;

    ngx_str_null(value);

    if (r->upstream == NULL) {
        return NGX_OK;
    }

    pl.part = &r->upstream->headers_in.headers.part;
    pl.i = 0;

    for ( ;; ) {

        h = ngx_http_idempotency_next_field(&pl, &name);

        if (h == NULL) {
            return NGX_OK;
        }

        if (value->len == 0) {
            *value = h->value;
            continue;
        }

        p = ngx_pnalloc(r->pool, value->len + 1 + h->value.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        value->len = ngx_sprintf(p, "%V,%V", value, &h->value) - p;
        value->data = p;
    }
}


/* A field without a name and a value is not there. */

static ngx_int_t
ngx_http_idempotency_push_field(ngx_array_t *fields, ngx_idem_field_e kind,
    ngx_str_t *name, ngx_str_t *value)
{
    ngx_idem_field_t  *f;

    if (name == NULL && value->len == 0) {
        return NGX_OK;
    }

    f = ngx_array_push(fields);
    if (f == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(f, sizeof(ngx_idem_field_t));

    f->kind = kind;
    f->value = ngx_http_idempotency_span(value);

    if (name) {
        f->name = ngx_http_idempotency_span(name);
    }

    return NGX_OK;
}


static size_t
ngx_http_idempotency_fields_size(ngx_array_t *fields)
{
    size_t             size;
    ngx_uint_t         i;
    ngx_idem_field_t  *f;

    size = 0;
    f = fields->elts;

    for (i = 0; i < fields->nelts; i++) {
        size += ngx_idem_record_field_size(&f[i]);
    }

    return size;
}


static u_char *
ngx_http_idempotency_write_fields(u_char *p, ngx_array_t *fields)
{
    ngx_uint_t         i;
    ngx_idem_field_t  *f;

    f = fields->elts;

    for (i = 0; i < fields->nelts; i++) {
        p = ngx_idem_record_field(p, &f[i]);
    }

    return p;
}


ngx_uint_t
ngx_http_idempotency_count_fields(ngx_list_t *list)
{
    ngx_uint_t        n;
    ngx_list_part_t  *part;

    n = 0;

    for (part = &list->part; part; part = part->next) {
        n += part->nelts;
    }

    return n;
}


ngx_table_elt_t *
ngx_http_idempotency_next_field(ngx_http_idempotency_place_t *pl,
    ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_table_elt_t  *h;

    for ( /* void */ ; pl->part; pl->part = pl->part->next, pl->i = 0) {

        h = pl->part->elts;

        while (pl->i < pl->part->nelts) {

            i = pl->i++;

            if (h[i].hash && ngx_http_idempotency_same_name(&h[i].key, name)) {
                return &h[i];
            }
        }
    }

    return NULL;
}


ngx_table_elt_t *
ngx_http_idempotency_add_field(ngx_list_t *list, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(list);
    if (h == NULL) {
        return NULL;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->hash = 1;
    h->key = *name;
    h->value = *value;

    return h;
}


static ngx_uint_t
ngx_http_idempotency_has_trailers(ngx_http_request_t *r)
{
    return r->expect_trailers || r->headers_out.trailers.part.nelts;
}
