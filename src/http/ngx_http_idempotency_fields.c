
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"

#include "core/ngx_idem_form.h"
#include "core/ngx_idem_json.h"

#if (NGX_HAVE_JANSSON)
#include <jansson.h>
#endif


/*
 * What was found in the body of a request.  It is parsed when somebody asks
 * for the first time, and hangs on the pool, where it is found again after an
 * internal redirect, and in locations that have nothing to do with us.
 *
 *   values  of the form fields, in the order of their directives; no data: it
 *           is not there
 *   seen    how often
 */

typedef struct {
    ngx_http_idempotency_main_conf_t  *imcf;
    ngx_str_t                         *values;
    ngx_uint_t                        *seen;
#if (NGX_HAVE_JANSSON)
    json_t                            *json;
#endif
    unsigned                           json_parsed:1;
    unsigned                           form_parsed:1;
} ngx_http_idempotency_fields_t;


typedef ngx_int_t (*ngx_http_idempotency_field_pt)(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, uintptr_t data, ngx_str_t *value);


static char *ngx_http_idempotency_add_field_variable(ngx_conf_t *cf,
    ngx_str_t *name, ngx_http_get_variable_pt handler, ngx_uint_t n);
static ngx_int_t ngx_http_idempotency_field_value(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_http_idempotency_field_pt find,
    uintptr_t data);
static ngx_uint_t ngx_http_idempotency_body_known(ngx_http_request_t *r);
static ngx_http_idempotency_fields_t *ngx_http_idempotency_get_fields(
    ngx_http_request_t *r);
static void ngx_http_idempotency_free_fields(void *data);
static ngx_int_t ngx_http_idempotency_whole_body(ngx_http_request_t *r,
    ngx_idem_span_t *body);
static ngx_int_t ngx_http_idempotency_form_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_idempotency_form_value(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, uintptr_t data, ngx_str_t *value);
static ngx_int_t ngx_http_idempotency_form_parse(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields);
static ngx_int_t ngx_http_idempotency_form_take(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, ngx_idem_boundary_t *boundary);
static void ngx_http_idempotency_form_field(void *data,
    const ngx_idem_form_field_t *field);

#if (NGX_HAVE_JANSSON)

static ngx_int_t ngx_http_idempotency_json_tokens(ngx_conf_t *cf,
    ngx_str_t *pointer, ngx_array_t *tokens);
static ngx_int_t ngx_http_idempotency_json_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_idempotency_json_value(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, uintptr_t data, ngx_str_t *value);
static json_t *ngx_http_idempotency_json_find(json_t *json,
    ngx_array_t *tokens);
static ngx_int_t ngx_http_idempotency_json_parse(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields);
static ngx_int_t ngx_http_idempotency_json_load(ngx_http_request_t *r,
    ngx_idem_span_t body, json_t **json);

#endif


/*
 * Evaluates v for a request whose body may not be there yet.  Such a value is
 * neither valid nor "not found", and so not kept by anybody.
 */

static ngx_int_t
ngx_http_idempotency_field_value(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_http_idempotency_field_pt find,
    uintptr_t data)
{
    ngx_str_t                          value;
    ngx_http_idempotency_fields_t     *fields;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    ngx_str_set(&value, "");

    v->valid = 0;
    v->not_found = 0;
    v->no_cacheable = 1;

    if (!ngx_http_idempotency_body_known(r->main)) {
        v->data = value.data;
        v->len = 0;
        imcf->missed = 1;
        return NGX_OK;
    }

    fields = ngx_http_idempotency_get_fields(r->main);

    if (fields == NULL || find(r->main, fields, data, &value) != NGX_OK) {
        imcf->failed = 1;
        return NGX_ERROR;
    }

    v->data = value.data;
    v->len = value.len;
    v->valid = (value.len != 0);
    v->not_found = !v->valid;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_idempotency_body_known(ngx_http_request_t *r)
{
    return r->request_body
           && r->request_body->rest == 0
           && !r->reading_body
           && !r->request_body_no_buffering;
}


static ngx_http_idempotency_fields_t *
ngx_http_idempotency_get_fields(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t             *cln;
    ngx_http_idempotency_fields_t  *fields;

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_idempotency_free_fields) {
            return cln->data;
        }
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_idempotency_fields_t));
    if (cln == NULL) {
        return NULL;
    }

    fields = cln->data;
    ngx_memzero(fields, sizeof(ngx_http_idempotency_fields_t));
    cln->handler = ngx_http_idempotency_free_fields;

    fields->imcf = ngx_http_get_module_main_conf(r,
                                                 ngx_http_idempotency_module);

    return fields;
}


static void
ngx_http_idempotency_free_fields(void *data)
{
#if (NGX_HAVE_JANSSON)

    ngx_http_idempotency_fields_t *fields = data;

    json_decref(fields->json);

#endif
}


/* NGX_DECLINED: nginx has put it into a file. */

static ngx_int_t
ngx_http_idempotency_whole_body(ngx_http_request_t *r, ngx_idem_span_t *body)
{
    u_char       *p;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    body->data = (u_char *) "";
    body->len = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (b->in_file || b->temp_file) {
            return NGX_DECLINED;
        }

        if (ngx_buf_in_memory(b)) {
            body->len += b->last - b->pos;
        }
    }

    if (body->len == 0) {
        return NGX_OK;
    }

    cl = r->request_body->bufs;

    if ((size_t) (cl->buf->last - cl->buf->pos) == body->len) {
        body->data = cl->buf->pos;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, body->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    for ( /* void */ ; cl; cl = cl->next) {
        if (ngx_buf_in_memory(cl->buf)) {
            p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_form_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    return ngx_http_idempotency_field_value(r, v,
                                            ngx_http_idempotency_form_value,
                                            data);
}


static ngx_int_t
ngx_http_idempotency_form_value(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, uintptr_t data, ngx_str_t *value)
{
    if (!fields->form_parsed) {

        if (ngx_http_idempotency_form_parse(r, fields) != NGX_OK) {
            return NGX_ERROR;
        }

        fields->form_parsed = 1;
    }

    if (fields->values && fields->seen[data] == 1) {
        *value = fields->values[data];
    }

    return NGX_OK;
}


/* A form that is not well formed has no fields. */

static ngx_int_t
ngx_http_idempotency_form_parse(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields)
{
    ngx_int_t             rc;
    ngx_uint_t            n;
    ngx_idem_span_t       type, word, rest;
    ngx_idem_boundary_t   boundary, *b;

    if (r->headers_in.content_type == NULL) {
        return NGX_OK;
    }

    b = NULL;
    type = ngx_http_idempotency_span(&r->headers_in.content_type->value);
    word = ngx_idem_media_word(type, &rest);

    if (ngx_idem_media_same(word, "multipart/form-data")) {

        if (!ngx_idem_media_boundary(type, &boundary)) {
            return NGX_OK;
        }

        b = &boundary;

    } else if (!ngx_idem_media_same(word, "application/x-www-form-urlencoded"))
    {
        return NGX_OK;
    }

    n = fields->imcf->form.nelts;

    fields->seen = ngx_pcalloc(r->pool, n * sizeof(ngx_uint_t));
    fields->values = ngx_pcalloc(r->pool, n * sizeof(ngx_str_t));

    if (fields->seen == NULL || fields->values == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_http_idempotency_form_take(r, fields, b);

    if (rc == NGX_DECLINED) {
        ngx_memzero(fields->seen, n * sizeof(ngx_uint_t));
        return NGX_OK;
    }

    return rc;
}


static ngx_int_t
ngx_http_idempotency_form_take(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, ngx_idem_boundary_t *boundary)
{
    int               well_formed;
    u_char           *out;
    ngx_int_t         rc;
    ngx_idem_span_t   body;

    rc = ngx_http_idempotency_whole_body(r, &body);

    if (rc != NGX_OK) {
        return rc;
    }

    out = ngx_pnalloc(r->pool, body.len);
    if (out == NULL) {
        return NGX_ERROR;
    }

    well_formed = boundary
                      ? ngx_idem_form_multipart(body, boundary, out,
                                                ngx_http_idempotency_form_field,
                                                fields)
                      : ngx_idem_form_urlencoded(body, out,
                                                ngx_http_idempotency_form_field,
                                                fields);

    return well_formed ? NGX_OK : NGX_DECLINED;
}


static void
ngx_http_idempotency_form_field(void *data, const ngx_idem_form_field_t *field)
{
    ngx_http_idempotency_fields_t *fields = data;

    ngx_str_t   *name;
    ngx_uint_t   i;

    name = fields->imcf->form.elts;

    for (i = 0; i < fields->imcf->form.nelts; i++) {

        if (name[i].len != field->name.len
            || ngx_memcmp(name[i].data, field->name.data, name[i].len) != 0)
        {
            continue;
        }

        fields->seen[i]++;

        if (field->plain) {
            fields->values[i].data = (u_char *) (uintptr_t) field->value.data;
            fields->values[i].len = field->value.len;
        }
    }
}


#if (NGX_HAVE_JANSSON)


static ngx_int_t
ngx_http_idempotency_json_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    return ngx_http_idempotency_field_value(r, v,
                                            ngx_http_idempotency_json_value,
                                            data);
}


/* Numbers are strings by then.  The bytes live as long as the tree. */

static ngx_int_t
ngx_http_idempotency_json_value(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields, uintptr_t data, ngx_str_t *value)
{
    json_t       *json;
    ngx_array_t  *tokens;

    if (!fields->json_parsed) {

        if (ngx_http_idempotency_json_parse(r, fields) != NGX_OK) {
            return NGX_ERROR;
        }

        fields->json_parsed = 1;
    }

    tokens = fields->imcf->json.elts;
    json = ngx_http_idempotency_json_find(fields->json, &tokens[data]);

    if (json_is_string(json)) {
        value->data = (u_char *) (uintptr_t) json_string_value(json);
        value->len = json_string_length(json);

    } else if (json_is_true(json)) {
        ngx_str_set(value, "true");

    } else if (json_is_false(json)) {
        ngx_str_set(value, "false");
    }

    return NGX_OK;
}


static json_t *
ngx_http_idempotency_json_find(json_t *json, ngx_array_t *tokens)
{
    size_t           index;
    ngx_str_t       *token;
    ngx_uint_t       i;

    token = tokens->elts;

    for (i = 0; i < tokens->nelts && json; i++) {

        if (json_is_object(json)) {
            json = json_object_get(json, (char *) token[i].data);
            continue;
        }

        if (!json_is_array(json)
            || !ngx_idem_json_index(ngx_http_idempotency_span(&token[i]),
                                    &index))
        {
            return NULL;
        }

        json = json_array_get(json, index);
    }

    return json;
}


static ngx_int_t
ngx_http_idempotency_json_parse(ngx_http_request_t *r,
    ngx_http_idempotency_fields_t *fields)
{
    ngx_int_t         rc;
    ngx_idem_span_t   body;
    ngx_table_elt_t  *type;

    type = r->headers_in.content_type;

    if (type == NULL
        || !ngx_idem_media_is_json(ngx_http_idempotency_span(&type->value)))
    {
        return NGX_OK;
    }

    rc = ngx_http_idempotency_whole_body(r, &body);

    if (rc == NGX_OK && body.len) {
        return ngx_http_idempotency_json_load(r, body, &fields->json);
    }

    return (rc == NGX_ERROR) ? NGX_ERROR : NGX_OK;
}


/*
 * The parser does not say whether it was out of memory, its allocator does.
 * That must not be taken for a body that is no JSON: a request without a key
 * may pass.
 */

static ngx_int_t
ngx_http_idempotency_json_load(ngx_http_request_t *r, ngx_idem_span_t body,
    json_t **json)
{
    size_t        len;
    u_char       *text;
    json_error_t  error;

    text = ngx_pnalloc(r->pool, ngx_idem_json_quoted_size(body.len));
    if (text == NULL) {
        return NGX_ERROR;
    }

    if (ngx_idem_json_quote(body, text, &len)) {

        ngx_set_errno(0);

        *json = json_loadb((char *) text, len,
                           JSON_REJECT_DUPLICATES|JSON_DECODE_ANY, &error);

        if (*json == NULL && ngx_errno == NGX_ENOMEM) {
            return NGX_ERROR;
        }
    }

    (void) ngx_pfree(r->pool, text);

    return NGX_OK;
}


#endif


/*
 * A variable that depends on the body, perhaps by way of a "map", may be asked
 * for before the body is there.  What was computed of it meanwhile, and kept by
 * nginx, is forgotten.
 */

void
ngx_http_idempotency_watch(ngx_http_request_t *r)
{
    ngx_http_core_main_conf_t         *cmcf;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);
    cmcf = ngx_http_get_module_main_conf(r, ngx_http_core_module);

    imcf->missed = 0;
    imcf->failed = 0;

    if (imcf->kept && !ngx_http_idempotency_body_known(r)) {
        ngx_memcpy(imcf->kept, r->variables, cmcf->variables.nelts
                                          * sizeof(ngx_http_variable_value_t));
    }
}


ngx_int_t
ngx_http_idempotency_missed(ngx_http_request_t *r)
{
    ngx_http_core_main_conf_t         *cmcf;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);
    cmcf = ngx_http_get_module_main_conf(r, ngx_http_core_module);

    if (imcf->failed) {
        return NGX_ERROR;
    }

    if (!imcf->missed) {
        return NGX_OK;
    }

    ngx_memcpy(r->variables, imcf->kept, cmcf->variables.nelts
                                         * sizeof(ngx_http_variable_value_t));

    return NGX_AGAIN;
}


ngx_int_t
ngx_http_idempotency_fields_init(ngx_cycle_t *cycle,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_core_module);

    if (cmcf == NULL || imcf->json.nelts + imcf->form.nelts == 0) {
        return NGX_OK;
    }

    imcf->kept = ngx_palloc(cycle->pool, cmcf->variables.nelts
                                         * sizeof(ngx_http_variable_value_t));

    return (imcf->kept == NULL) ? NGX_ERROR : NGX_OK;
}


/* idempotency_form $variable name; */

char *
ngx_http_idempotency_form(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_main_conf_t *imcf = conf;

    ngx_str_t  *name, *value;

    value = cf->args->elts;

    if (value[2].len == 0) {
        return "needs the name of a field";
    }

    name = ngx_array_push(&imcf->form);
    if (name == NULL) {
        return NGX_CONF_ERROR;
    }

    *name = value[2];

    return ngx_http_idempotency_add_field_variable(cf, &value[1],
                                           ngx_http_idempotency_form_variable,
                                           imcf->form.nelts - 1);
}


/* idempotency_json $variable pointer; */

char *
ngx_http_idempotency_json(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
#if (NGX_HAVE_JANSSON)

    ngx_http_idempotency_main_conf_t *imcf = conf;

    ngx_str_t    *value;
    ngx_array_t  *tokens;

    value = cf->args->elts;

    if (!ngx_idem_json_is_pointer(ngx_http_idempotency_span(&value[2]))) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid pointer \"%V\", "
                           "it must be empty or begin with \"/\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    tokens = ngx_array_push(&imcf->json);

    if (tokens == NULL
        || ngx_http_idempotency_json_tokens(cf, &value[2], tokens) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    /* it would read random bytes when it is needed first, in a worker */

    json_object_seed(0);

    return ngx_http_idempotency_add_field_variable(cf, &value[1],
                                           ngx_http_idempotency_json_variable,
                                           imcf->json.nelts - 1);

#else

    return "works in a module that was built with jansson";

#endif
}


#if (NGX_HAVE_JANSSON)


static ngx_int_t
ngx_http_idempotency_json_tokens(ngx_conf_t *cf, ngx_str_t *pointer,
    ngx_array_t *tokens)
{
    ngx_str_t        *token;
    ngx_idem_span_t   rest;

    if (ngx_array_init(tokens, cf->pool, 4, sizeof(ngx_str_t)) != NGX_OK) {
        return NGX_ERROR;
    }

    rest = ngx_http_idempotency_span(pointer);

    while (rest.len) {

        token = ngx_array_push(tokens);
        if (token == NULL) {
            return NGX_ERROR;
        }

        token->data = ngx_pnalloc(cf->pool, rest.len + 1);
        if (token->data == NULL) {
            return NGX_ERROR;
        }

        token->len = ngx_idem_json_token(&rest, token->data);
        token->data[token->len] = '\0';
    }

    return NGX_OK;
}


#endif


static char *
ngx_http_idempotency_add_field_variable(ngx_conf_t *cf, ngx_str_t *name,
    ngx_http_get_variable_pt handler, ngx_uint_t n)
{
    ngx_http_variable_t  *var;

    if (name->len < 2 || name->data[0] != '$') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid variable name \"%V\"", name);
        return NGX_CONF_ERROR;
    }

    name->data++;
    name->len--;

    var = ngx_http_add_variable(cf, name, NGX_HTTP_VAR_NOCACHEABLE);
    if (var == NULL) {
        return NGX_CONF_ERROR;
    }

    if (var->get_handler) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the duplicate \"%V\" variable", name);
        return NGX_CONF_ERROR;
    }

    var->get_handler = handler;
    var->data = n;

    return NGX_CONF_OK;
}
