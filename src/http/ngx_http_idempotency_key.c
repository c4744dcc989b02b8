
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_key_part(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_part_t *part,
    ngx_str_t *key);
static ngx_int_t ngx_http_idempotency_parse(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value, ngx_str_t *key);
static ngx_int_t ngx_http_idempotency_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_uint_t ngx_http_idempotency_header_is(ngx_table_elt_t *h,
    ngx_str_t *name);


ngx_int_t
ngx_http_idempotency_key(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *keys, ngx_idem_stat_e *why,
    ngx_uint_t early)
{
    ngx_int_t                         rc;
    ngx_str_t                        *key;
    ngx_uint_t                        i, missing;
    ngx_http_idempotency_part_t      *part;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    ilcf = ctx->ilcf;
    part = ilcf->key->elts;
    missing = 0;

    if (ngx_array_init(keys, r->pool, ilcf->key->nelts, sizeof(ngx_str_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < ilcf->key->nelts; i++) {

        if (early && part[i].header.len == 0) {
            continue;
        }

        key = ngx_array_push(keys);
        if (key == NULL) {
            return NGX_ERROR;
        }

        rc = ngx_http_idempotency_key_part(r, ctx, &part[i], key);

        if (rc == NGX_DECLINED) {
            missing = 1;
            continue;
        }

        if (rc != NGX_OK) {
            *why = NGX_IDEM_STAT_KEY_INVALID;
            return rc;
        }
    }

    if (!missing) {
        return NGX_OK;
    }

    *why = NGX_IDEM_STAT_KEY_MISSING;

    return ilcf->required ? NGX_HTTP_BAD_REQUEST : NGX_DECLINED;
}


/* NGX_DECLINED: missing.  NGX_HTTP_BAD_REQUEST: malformed. */

static ngx_int_t
ngx_http_idempotency_key_part(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_http_idempotency_part_t *part,
    ngx_str_t *key)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    if (part->header.len) {
        rc = ngx_http_idempotency_header(r, &part->header, &value);

    } else {
        rc = ngx_http_complex_value(r, &part->value, &value);
    }

    if (rc != NGX_OK) {
        return rc;
    }

    if (value.len == 0) {
        return NGX_DECLINED;
    }

    /* the access phase has parsed it, unless somebody changed it since */

    if (value.data == ctx->field.data && value.len == ctx->field.len) {
        *key = ctx->parsed;
        return NGX_OK;
    }

    return ngx_http_idempotency_parse(r, ctx, &value, key);
}


static ngx_int_t
ngx_http_idempotency_parse(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value, ngx_str_t *key)
{
    ngx_idem_key_answer_e  answer;

    key->data = ngx_pnalloc(r->pool, value->len);
    if (key->data == NULL) {
        return NGX_ERROR;
    }

    answer = ngx_idem_key_parse(&ctx->ilcf->rule,
                                ngx_http_idempotency_span(value),
                                key->data, &key->len);

    if (answer != NGX_IDEM_KEY_OK) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "idempotency key of %uz bytes is malformed: %d",
                      value->len, answer);
        return NGX_HTTP_BAD_REQUEST;
    }

    ctx->field = *value;
    ctx->parsed = *key;

    return NGX_OK;
}


/*
 * A field that stands twice is refused: which of the two is the key?  The
 * list is searched here and not by variable, as $http_... shows the first
 * line only, or, since 1.23.0, all of them joined.
 */

static ngx_int_t
ngx_http_idempotency_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_uint_t        i, found;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    found = 0;
    ngx_str_null(value);

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0
                || !ngx_http_idempotency_header_is(&h[i], name))
            {
                continue;
            }

            if (found++) {
                ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                              "idempotency key stands in two \"%V\" fields",
                              &h[i].key);
                return NGX_HTTP_BAD_REQUEST;
            }

            *value = h[i].value;
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_idempotency_header_is(ngx_table_elt_t *h, ngx_str_t *name)
{
    u_char  ch;
    size_t  i;

    if (h->key.len != name->len) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        ch = ngx_tolower(h->key.data[i]);

        if (name->data[i] != (ch == '-' ? '_' : ch)) {
            return 0;
        }
    }

    return 1;
}


ngx_int_t
ngx_http_idempotency_scope(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_array_t *scope)
{
    ngx_str_t                 *part;
    ngx_uint_t                 i;
    ngx_http_complex_value_t  *cv;

    cv = ilcf->scope->elts;

    if (ngx_array_init(scope, r->pool, ilcf->scope->nelts, sizeof(ngx_str_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < ilcf->scope->nelts; i++) {

        part = ngx_array_push(scope);
        if (part == NULL) {
            return NGX_ERROR;
        }

        if (ngx_http_complex_value(r, &cv[i], part) != NGX_OK) {
            return NGX_ERROR;
        }

        if (part->len == 0 && ilcf->scope_set) {
            return NGX_HTTP_BAD_REQUEST;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_idempotency_identity(ngx_http_request_t *r, ngx_array_t *scope,
    ngx_array_t *keys, u_char *identity)
{
    ngx_str_t                         *part;
    ngx_uint_t                         i;
    ngx_idem_digest_t                  dg;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    ngx_idem_digest_start(&dg, imcf->digest, imcf->sha256);

    ngx_idem_digest_list(&dg, (uint32_t) scope->nelts);

    part = scope->elts;

    for (i = 0; i < scope->nelts; i++) {
        ngx_idem_digest_part(&dg, ngx_http_idempotency_span(&part[i]));
    }

    ngx_idem_digest_list(&dg, (uint32_t) keys->nelts);

    part = keys->elts;

    for (i = 0; i < keys->nelts; i++) {
        ngx_idem_digest_part(&dg, ngx_http_idempotency_span(&part[i]));
    }

    return (ngx_idem_digest_final(&dg, identity) == 0) ? NGX_OK : NGX_ERROR;
}


ngx_uint_t
ngx_http_idempotency_method(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf)
{
    ngx_str_t   *method;
    ngx_uint_t   i;

    method = ilcf->methods->elts;

    for (i = 0; i < ilcf->methods->nelts; i++) {

        if (r->method_name.len == method[i].len
            && ngx_memcmp(r->method_name.data, method[i].data, method[i].len)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_idempotency_bypass(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf)
{
    if (ilcf->bypass == NULL) {
        return NGX_DECLINED;
    }

    switch (ngx_http_test_predicates(r, ilcf->bypass)) {

    case NGX_OK:
        return NGX_DECLINED;

    case NGX_DECLINED:
        return NGX_OK;

    default:
        return NGX_ERROR;
    }
}
