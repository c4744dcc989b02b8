
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_UUID_LEN  36


typedef struct {
    ngx_uint_t  status;
    ngx_str_t   title;
    ngx_str_t   detail;
    unsigned    retryable:1;        /* the same request may succeed later */
    unsigned    retry_after:1;      /* and a Retry-After says so */
} ngx_http_idempotency_problem_t;


static const ngx_http_idempotency_problem_t *ngx_http_idempotency_problem(
    ngx_http_idempotency_ctx_t *ctx);
static ngx_uint_t ngx_http_idempotency_has_error_page(ngx_http_request_t *r,
    ngx_uint_t status);
static ngx_int_t ngx_http_idempotency_add_header(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_common_headers(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx,
    const ngx_http_idempotency_problem_t *pr);
static ngx_int_t ngx_http_idempotency_document_headers(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_set_instance(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx);
static ngx_int_t ngx_http_idempotency_type(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *type);
static ngx_int_t ngx_http_idempotency_document(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_http_idempotency_problem_t *pr,
    ngx_str_t *body);
static ngx_int_t ngx_http_idempotency_send_problem(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_http_idempotency_problem_t *pr);


/*
 * Titles of the key's three errors are those of
 * draft-ietf-httpapi-idempotency-key-header-07, to the letter.
 */

static const ngx_http_idempotency_problem_t  ngx_http_idempotency_in_flight = {
    NGX_HTTP_CONFLICT,
    ngx_string("A request is outstanding for this Idempotency-Key"),
    ngx_string("The first request with this key is still being processed. "
               "Send it again later to get its response."),
    1, 1
};

static const ngx_http_idempotency_problem_t
                                          ngx_http_idempotency_key_missing = {
    NGX_HTTP_BAD_REQUEST,
    ngx_string("Idempotency-Key is missing"),
    ngx_string("This operation needs the header field Idempotency-Key, "
               "with a value that is unique to the operation."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                          ngx_http_idempotency_key_invalid = {
    NGX_HTTP_BAD_REQUEST,
    ngx_string("Idempotency-Key is invalid"),
    ngx_string("The key must be sent once, in the format and the length "
               "that this operation expects."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                        ngx_http_idempotency_scope_missing = {
    NGX_HTTP_BAD_REQUEST,
    ngx_string("The request carries nothing that tells whose key this is"),
    ngx_string("A key is only valid together with the identity of its "
               "sender, and this request has none."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                        ngx_http_idempotency_token_invalid = {
    NGX_HTTP_FORBIDDEN,
    ngx_string("The token is unknown, expired or not yours"),
    ngx_string("This operation needs a token that was issued to its sender, "
               "and that has not expired."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                           ngx_http_idempotency_key_reused = {
    422,
    ngx_string("Idempotency-Key is already used"),
    ngx_string("This key was used for another request. A new operation "
               "needs a new key."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                      ngx_http_idempotency_outcome_unknown = {
    NGX_HTTP_CONFLICT,
    ngx_string("The outcome of the first request is unknown"),
    ngx_string("The first request with this key was sent on, but no complete "
               "answer came back. It may have been carried out; find out "
               "before you use a new key."),
    0, 0
};

/* The same where the next duplicate asks again. */

static const ngx_http_idempotency_problem_t
                                        ngx_http_idempotency_not_known_yet = {
    NGX_HTTP_CONFLICT,
    ngx_string("The outcome of the first request is unknown"),
    ngx_string("The first request with this key was sent on, but no complete "
               "answer came back, and nobody could tell what became of it. "
               "Send it again later, when that may be known."),
    1, 1
};

static const ngx_http_idempotency_problem_t
                                       ngx_http_idempotency_not_stored = {
    NGX_HTTP_CONFLICT,
    ngx_string("The first request was carried out, "
               "its response was not kept"),
    ngx_string("The first request with this key was answered, and is not "
               "carried out again. Its response is not available any more."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                           ngx_http_idempotency_store_full = {
    NGX_HTTP_SERVICE_UNAVAILABLE,
    ngx_string("The idempotency store is full"),
    ngx_string("The request was not carried out, as it could not be "
               "protected against being carried out twice."),
    1, 1
};

static const ngx_http_idempotency_problem_t
                                    ngx_http_idempotency_store_unavailable = {
    NGX_HTTP_SERVICE_UNAVAILABLE,
    ngx_string("The idempotency store is unavailable"),
    ngx_string("The request was not carried out, as it could not be "
               "protected against being carried out twice."),
    1, 1
};


static const ngx_http_idempotency_problem_t
                                        ngx_http_idempotency_resource_busy = {
    NGX_HTTP_CONFLICT,
    ngx_string("The resource is busy"),
    ngx_string("Another request changes the same resource. Nothing was "
               "carried out; send the request again later."),
    1, 1
};

static const ngx_http_idempotency_problem_t
                                         ngx_http_idempotency_out_of_order = {
    NGX_HTTP_CONFLICT,
    ngx_string("The request comes out of order"),
    ngx_string("The resource has gone on, or is not yet where this request "
               "could follow. Nothing was carried out."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                        ngx_http_idempotency_stale_version = {
    NGX_HTTP_PRECONDITION_FAILED,
    ngx_string("The resource has another version"),
    ngx_string("The field If-Match names a version that the resource does "
               "not have any more. Nothing was carried out."),
    0, 0
};

static const ngx_http_idempotency_problem_t
                                     ngx_http_idempotency_version_required = {
    428,
    ngx_string("A version is required"),
    ngx_string("This operation needs the field If-Match, with the entity tag "
               "of the version that is to be changed."),
    0, 0
};


ngx_int_t
ngx_http_idempotency_reject(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    ngx_int_t                              rc;
    const ngx_http_idempotency_problem_t  *pr;

    pr = ngx_http_idempotency_problem(ctx);

    if (pr == NULL
        || ngx_http_idempotency_set_instance(r, ctx) != NGX_OK
        || ngx_http_idempotency_common_headers(r, ctx, pr) != NGX_OK)
    {
        ngx_http_clean_header(r);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "idempotency: %V, answered %ui, instance %V",
                  ngx_http_idempotency_word(ctx->told), pr->status,
                  &ctx->instance);

    if (ngx_http_idempotency_has_error_page(r, pr->status)) {
        return pr->status;
    }

    rc = ngx_http_idempotency_send_problem(r, ctx, pr);

    if (rc == NGX_HTTP_INTERNAL_SERVER_ERROR) {

        /* another answer than that of which the header speaks */

        ngx_http_clean_header(r);
    }

    ngx_http_finalize_request(r, rc);

    return NGX_DONE;
}


static const ngx_http_idempotency_problem_t *
ngx_http_idempotency_problem(ngx_http_idempotency_ctx_t *ctx)
{
    static const ngx_http_idempotency_problem_t *const
        problems[NGX_IDEM_STAT_N] =
    {
        [NGX_IDEM_STAT_IN_FLIGHT] = &ngx_http_idempotency_in_flight,
        [NGX_IDEM_STAT_KEY_MISSING] = &ngx_http_idempotency_key_missing,
        [NGX_IDEM_STAT_KEY_INVALID] = &ngx_http_idempotency_key_invalid,
        [NGX_IDEM_STAT_SCOPE_MISSING] = &ngx_http_idempotency_scope_missing,
        [NGX_IDEM_STAT_TOKEN_INVALID] = &ngx_http_idempotency_token_invalid,
        [NGX_IDEM_STAT_KEY_REUSED] = &ngx_http_idempotency_key_reused,
        [NGX_IDEM_STAT_OUTCOME_UNKNOWN] =
                                        &ngx_http_idempotency_outcome_unknown,
        [NGX_IDEM_STAT_RESPONSE_NOT_STORED] =
                                             &ngx_http_idempotency_not_stored,
        [NGX_IDEM_STAT_STORE_FULL] = &ngx_http_idempotency_store_full,
        [NGX_IDEM_STAT_STORE_UNAVAILABLE] =
                                      &ngx_http_idempotency_store_unavailable,
        [NGX_IDEM_STAT_RESOURCE_BUSY] = &ngx_http_idempotency_resource_busy,
        [NGX_IDEM_STAT_OUT_OF_ORDER] = &ngx_http_idempotency_out_of_order,
        [NGX_IDEM_STAT_STALE_VERSION] = &ngx_http_idempotency_stale_version,
        [NGX_IDEM_STAT_VERSION_REQUIRED] =
                                       &ngx_http_idempotency_version_required
    };

    if (ctx->told == NGX_IDEM_STAT_OUTCOME_UNKNOWN && ctx->ilcf->check) {
        return &ngx_http_idempotency_not_known_yet;
    }

    return problems[ctx->told];
}


/* As nginx looks for it: there, the answer is the operator's. */

static ngx_uint_t
ngx_http_idempotency_has_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (r->error_page || clcf->error_pages == NULL || r->uri_changes == 0) {
        return 0;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if (page[i].status == (ngx_int_t) status) {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_idempotency_add_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_str_t  field;

    field.data = (u_char *) (uintptr_t) name;
    field.len = ngx_strlen(name);

    return ngx_http_idempotency_add_field(&r->headers_out.headers, &field,
                                          value)
               ? NGX_OK : NGX_ERROR;
}


/* Those that an error_page keeps. */

static ngx_int_t
ngx_http_idempotency_common_headers(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_http_idempotency_problem_t *pr)
{
    ngx_str_t  *uri, value, second = ngx_string("1");

    uri = &ctx->ilcf->documentation;

    if (pr->retry_after
        && ngx_http_idempotency_add_header(r, "Retry-After", &second)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (uri->len == 0) {
        return NGX_OK;
    }

    value.len = uri->len + sizeof("<>; rel=\"describedby\"") - 1;

    value.data = ngx_pnalloc(r->pool, value.len);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_sprintf(value.data, "<%V>; rel=\"describedby\"", uri);

    return ngx_http_idempotency_add_header(r, "Link", &value);
}


static ngx_int_t
ngx_http_idempotency_document_headers(ngx_http_request_t *r)
{
    ngx_str_t  language = ngx_string("en");
    ngx_str_t  no_store = ngx_string("no-store");

    if (ngx_http_idempotency_add_header(r, "Content-Language", &language)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_add_header(r, "Cache-Control", &no_store);
}


/* A random UUID, RFC 9562, section 5.4. */

static ngx_int_t
ngx_http_idempotency_set_instance(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    u_char                             b[16], hex[32], *p;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    if (ngx_http_idempotency_random(imcf, b, sizeof(b)) != NGX_OK) {
        return NGX_ERROR;
    }

    b[6] = (u_char) ((b[6] & 0x0f) | 0x40);
    b[8] = (u_char) ((b[8] & 0x3f) | 0x80);

    (void) ngx_hex_dump(hex, b, sizeof(b));

    p = ngx_pnalloc(r->pool, NGX_HTTP_IDEMPOTENCY_UUID_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->instance.data = p;
    ctx->instance.len = NGX_HTTP_IDEMPOTENCY_UUID_LEN;

    (void) ngx_sprintf(p, "%*s-%*s-%*s-%*s-%*s", (size_t) 8, hex,
                       (size_t) 4, hex + 8, (size_t) 4, hex + 12,
                       (size_t) 4, hex + 16, (size_t) 12, hex + 20);

    return NGX_OK;
}


/* "uri#kind" with what JSON wants escaped, else "about:blank". */

static ngx_int_t
ngx_http_idempotency_type(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_str_t *type)
{
    u_char           *p;
    size_t            escape;
    ngx_str_t        *uri;
    const ngx_str_t  *kind;

    uri = &ctx->ilcf->documentation;

    if (uri->len == 0) {
        ngx_str_set(type, "about:blank");
        return NGX_OK;
    }

    kind = ngx_http_idempotency_word(ctx->told);
    escape = ngx_escape_json(NULL, uri->data, uri->len);

    p = ngx_pnalloc(r->pool, uri->len + escape + 1 + kind->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    type->data = p;

    p = (u_char *) ngx_escape_json(p, uri->data, uri->len);
    *p++ = '#';
    p = ngx_cpymem(p, kind->data, kind->len);

    type->len = p - type->data;

    return NGX_OK;
}


/* Titles and details have nothing in them that JSON wants escaped. */

static ngx_int_t
ngx_http_idempotency_document(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_http_idempotency_problem_t *pr,
    ngx_str_t *body)
{
    u_char     *p;
    size_t      len;
    ngx_str_t   type;

    if (ngx_http_idempotency_type(r, ctx, &type) != NGX_OK) {
        return NGX_ERROR;
    }

    len = sizeof("{\"type\":\"\",\"title\":\"\",\"status\":,\"detail\":\"\","
                 "\"instance\":\"urn:uuid:\",\"retryable\":false,"
                 "\"original_status\":}\n") - 1
          + type.len + pr->title.len + pr->detail.len + ctx->instance.len
          + 2 * NGX_INT_T_LEN;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    p = ngx_sprintf(p, "{\"type\":\"%V\",\"title\":\"%V\",\"status\":%ui,"
                    "\"detail\":\"%V\",\"instance\":\"urn:uuid:%V\","
                    "\"retryable\":%s",
                    &type, &pr->title, pr->status, &pr->detail,
                    &ctx->instance, pr->retryable ? "true" : "false");

    if (ctx->told == NGX_IDEM_STAT_RESPONSE_NOT_STORED) {
        p = ngx_sprintf(p, ",\"original_status\":%ui", ctx->op.status);
    }

    *p++ = '}';
    *p++ = LF;

    body->len = p - body->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_send_problem(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, const ngx_http_idempotency_problem_t *pr)
{
    ngx_str_t                 type = ngx_string("application/problem+json");
    ngx_http_complex_value_t  cv;

    ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));

    if (ngx_http_idempotency_document(r, ctx, pr, &cv.value) != NGX_OK
        || ngx_http_idempotency_document_headers(r) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->err_status = 0;

    if (pr->status == 422) {

        /* nginx has no reason phrase for it */

        ngx_str_set(&r->headers_out.status_line, "422 Unprocessable Content");
    }

    return ngx_http_send_response(r, pr->status, &type, &cv);
}
