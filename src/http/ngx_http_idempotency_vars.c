
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


typedef ngx_int_t (*ngx_http_idempotency_value_pt)(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);


static ngx_int_t ngx_http_idempotency_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_idempotency_status_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_key_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_id_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_fence_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_age_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_wait_time_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_seconds(ngx_http_request_t *r,
    uint64_t ms, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_store_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_client_gone_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_instance_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value);


static const struct {
    ngx_str_t                      name;
    ngx_http_idempotency_value_pt  value;
} ngx_http_idempotency_vars[] = {

    { ngx_string("idempotency_status"), ngx_http_idempotency_status_value },

    { ngx_string("idempotency_key"), ngx_http_idempotency_key_value },

    { ngx_string("idempotency_id"), ngx_http_idempotency_id_value },

    { ngx_string("idempotency_fence"), ngx_http_idempotency_fence_value },

    { ngx_string("idempotency_age"), ngx_http_idempotency_age_value },

    { ngx_string("idempotency_wait_time"),
      ngx_http_idempotency_wait_time_value },

    { ngx_string("idempotency_store"), ngx_http_idempotency_store_value },

    { ngx_string("idempotency_client_gone"),
      ngx_http_idempotency_client_gone_value },

    { ngx_string("idempotency_instance"),
      ngx_http_idempotency_instance_value }
};


/* The words of $idempotency_status and the kinds of problems. */

static const ngx_str_t  ngx_http_idempotency_words[] = {
    [NGX_IDEM_STAT_FIRST] = ngx_string("first"),
    [NGX_IDEM_STAT_REPLAYED] = ngx_string("replayed"),
    [NGX_IDEM_STAT_WAITED] = ngx_string("waited"),
    [NGX_IDEM_STAT_IN_FLIGHT] = ngx_string("in-flight"),
    [NGX_IDEM_STAT_KEY_MISSING] = ngx_string("key-missing"),
    [NGX_IDEM_STAT_KEY_INVALID] = ngx_string("key-invalid"),
    [NGX_IDEM_STAT_SCOPE_MISSING] = ngx_string("scope-missing"),
    [NGX_IDEM_STAT_TOKEN_INVALID] = ngx_string("token-invalid"),
    [NGX_IDEM_STAT_KEY_REUSED] = ngx_string("key-reused"),
    [NGX_IDEM_STAT_OUTCOME_UNKNOWN] = ngx_string("outcome-unknown"),
    [NGX_IDEM_STAT_RESPONSE_NOT_STORED] = ngx_string("response-not-stored"),
    [NGX_IDEM_STAT_STORE_FULL] = ngx_string("store-full"),
    [NGX_IDEM_STAT_STORE_UNAVAILABLE] = ngx_string("store-unavailable"),
    [NGX_IDEM_STAT_RESOURCE_BUSY] = ngx_string("resource-busy"),
    [NGX_IDEM_STAT_OUT_OF_ORDER] = ngx_string("out-of-order"),
    [NGX_IDEM_STAT_STALE_VERSION] = ngx_string("stale-version"),
    [NGX_IDEM_STAT_VERSION_REQUIRED] = ngx_string("version-required"),
    [NGX_IDEM_STAT_ACKNOWLEDGED] = ngx_string("acknowledged"),
    [NGX_IDEM_STAT_BYPASS] = ngx_string("bypass"),
    [NGX_IDEM_STAT_UNPROTECTED] = ngx_string("unprotected"),
    [NGX_IDEM_STAT_N] = ngx_string("-")
};


const ngx_str_t *
ngx_http_idempotency_word(ngx_idem_stat_e told)
{
    return &ngx_http_idempotency_words[told];
}


ngx_int_t
ngx_http_idempotency_add_variables(ngx_conf_t *cf)
{
    ngx_str_t             name;
    ngx_uint_t            i, n;
    ngx_http_variable_t  *var;

    n = sizeof(ngx_http_idempotency_vars)
        / sizeof(ngx_http_idempotency_vars[0]);

    for (i = 0; i < n; i++) {

        name = ngx_http_idempotency_vars[i].name;

        var = ngx_http_add_variable(cf, &name, NGX_HTTP_VAR_NOCACHEABLE);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = ngx_http_idempotency_variable;
        var->data = i;
    }

    return NGX_OK;
}


/* In a subrequest they speak of the client's request. */

static ngx_int_t
ngx_http_idempotency_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                    value;
    ngx_http_idempotency_ctx_t  *ctx;

    ngx_str_null(&value);

    ctx = ngx_http_idempotency_ctx(r->main);

    if (ctx) {
        if (ngx_http_idempotency_vars[data].value(r, ctx, &value) != NGX_OK) {
            return NGX_ERROR;
        }

    } else if (data == 0) {
        value = *ngx_http_idempotency_word(NGX_IDEM_STAT_N);
    }

    if (value.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = value.data;
    v->len = value.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_status_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    *value = *ngx_http_idempotency_word(ctx->told);

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_key_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    *value = ctx->key;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_id_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    if (ctx->key.len == 0) {
        return NGX_OK;
    }

    value->len = 2 * NGX_IDEM_DIGEST_LEN;

    value->data = ngx_pnalloc(r->pool, value->len);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_hex_dump(value->data, ctx->op.identity, NGX_IDEM_DIGEST_LEN);

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_fence_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    if (ctx->told != NGX_IDEM_STAT_FIRST) {
        return NGX_OK;
    }

    value->data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    value->len = ngx_sprintf(value->data, "%uL", ctx->op.fence) - value->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_age_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    if (ctx->told != NGX_IDEM_STAT_REPLAYED
        && ctx->told != NGX_IDEM_STAT_WAITED
        && ctx->told != NGX_IDEM_STAT_RESPONSE_NOT_STORED
        && ctx->told != NGX_IDEM_STAT_OUTCOME_UNKNOWN)
    {
        return NGX_OK;
    }

    return ngx_http_idempotency_seconds(r, ctx->op.age_ms, value);
}


static ngx_int_t
ngx_http_idempotency_wait_time_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    ngx_msec_t  ms;

    if (!ctx->waited && !(ctx->guards && ctx->guards->waits)) {
        return NGX_OK;
    }

    ms = ctx->wait_time;

    if (ctx->guards) {
        ms += ctx->guards->wait_time;
    }

    return ngx_http_idempotency_seconds(r, ms, value);
}


static ngx_int_t
ngx_http_idempotency_seconds(ngx_http_request_t *r, uint64_t ms,
    ngx_str_t *value)
{
    value->data = ngx_pnalloc(r->pool, NGX_INT64_LEN + 4);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    value->len = ngx_sprintf(value->data, "%uL.%03uL", ms / 1000, ms % 1000)
                 - value->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_store_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    if (ctx->told != NGX_IDEM_STAT_N && ctx->ilcf->store) {
        *value = ctx->op.by.len ? ctx->op.by : ctx->ilcf->store->kind;
    }

    return NGX_OK;
}


/* The access log comes after the cleanup that has looked for the last time. */

static ngx_int_t
ngx_http_idempotency_client_gone_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    if (ctx->gone) {
        ngx_str_set(value, "1");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_instance_value(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *value)
{
    *value = ctx->instance;

    return NGX_OK;
}
