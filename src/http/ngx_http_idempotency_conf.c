
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static void *ngx_http_idempotency_unset_loc_conf(
    ngx_http_idempotency_loc_conf_t *conf);
static ngx_int_t ngx_http_idempotency_defaults(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf);
static ngx_int_t ngx_http_idempotency_default_methods(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf);
static ngx_int_t ngx_http_idempotency_default_key(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf);
static ngx_int_t ngx_http_idempotency_merge_store(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);
static ngx_int_t ngx_http_idempotency_find_store(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *conf);
static void ngx_http_idempotency_merge_request(
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf,
    ngx_http_idempotency_main_conf_t *imcf);
static void ngx_http_idempotency_merge_claim(
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);
static void ngx_http_idempotency_merge_response(
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);
static void ngx_http_idempotency_merge_lifetimes(
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);
static void ngx_http_idempotency_merge_fields(
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);
static void ngx_http_idempotency_check_upstream(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf);
static char *ngx_http_idempotency_check_local(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *conf);
static ngx_http_upstream_conf_t *ngx_http_idempotency_careless(
    ngx_conf_t *cf);
static ngx_uint_t ngx_http_idempotency_asks_upstream(ngx_module_t *module);


void *
ngx_http_idempotency_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_main_conf_t));
    if (imcf == NULL) {
        return NULL;
    }

    ngx_queue_init(&imcf->requests);

    if (ngx_array_init(&imcf->stores, cf->pool, 1, sizeof(ngx_idem_store_t *))
        != NGX_OK
        || ngx_array_init(&imcf->machines, cf->pool, 1, sizeof(void *))
           != NGX_OK
        || ngx_array_init(&imcf->redis, cf->pool, 1, sizeof(void *))
           != NGX_OK
        || ngx_array_init(&imcf->json, cf->pool, 1, sizeof(ngx_array_t))
           != NGX_OK
        || ngx_array_init(&imcf->form, cf->pool, 1, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NULL;
    }

    return imcf;
}


char *
ngx_http_idempotency_init_main_conf(ngx_conf_t *cf, void *conf)
{
    if (ngx_http_idempotency_guards_end(cf, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

#if (NGX_HAVE_HIREDIS)

    return ngx_http_idempotency_redis_end(cf, conf);

#else

    return NGX_CONF_OK;

#endif
}


void *
ngx_http_idempotency_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_idempotency_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    return ngx_http_idempotency_unset_loc_conf(conf);
}


/*
 * set by ngx_pcalloc():
 *
 *     conf->store = NULL;
 *     conf->check = NULL;
 *     conf->lifetimes = { NULL, 0, 0 };
 *     conf->fields = { NULL, 0, NULL, 0 };
 *     conf->rule = { 0, 0, 0 };
 *     conf->documentation = { 0, NULL };
 */

static void *
ngx_http_idempotency_unset_loc_conf(ngx_http_idempotency_loc_conf_t *conf)
{
    conf->ref = NGX_CONF_UNSET_PTR;

    conf->key = NGX_CONF_UNSET_PTR;
    conf->format = NGX_CONF_UNSET_UINT;
    conf->length_min = NGX_CONF_UNSET_SIZE;
    conf->length_max = NGX_CONF_UNSET_SIZE;
    conf->required = NGX_CONF_UNSET;
    ngx_http_idempotency_token_unset(&conf->token);

    conf->methods = NGX_CONF_UNSET_PTR;
    conf->scope = NGX_CONF_UNSET_PTR;
    conf->fingerprint = NGX_CONF_UNSET_PTR;
    conf->bypass = NGX_CONF_UNSET_PTR;

    conf->valid = NGX_CONF_UNSET_PTR;

    ngx_http_idempotency_guards_create(conf);

    conf->lease = NGX_CONF_UNSET_MSEC;
    conf->wait = NGX_CONF_UNSET_MSEC;
    conf->waiters = NGX_CONF_UNSET_UINT;
    conf->on_unknown = NGX_CONF_UNSET_UINT;
    conf->unknown = NGX_CONF_UNSET;

    conf->max_response = NGX_CONF_UNSET_SIZE;
    conf->hide = NGX_CONF_UNSET_PTR;
    conf->pass = NGX_CONF_UNSET_PTR;
    conf->replay_header = NGX_CONF_UNSET_PTR;
    conf->acknowledge = NGX_CONF_UNSET_UINT;
    conf->dry_run = NGX_CONF_UNSET;
    conf->on_error = NGX_CONF_UNSET_UINT;

    return conf;
}


/* Runs for every server and every location, the innermost last. */

char *
ngx_http_idempotency_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_idempotency_loc_conf_t *prev = parent;
    ngx_http_idempotency_loc_conf_t *conf = child;

    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);

    if (ngx_http_idempotency_defaults(cf, imcf) != NGX_OK
        || ngx_http_idempotency_merge_store(cf, prev, conf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    ngx_http_idempotency_merge_request(prev, conf, imcf);
    ngx_http_idempotency_merge_claim(prev, conf);
    ngx_http_idempotency_merge_response(prev, conf);
    ngx_http_idempotency_merge_lifetimes(prev, conf);
    ngx_http_idempotency_merge_fields(prev, conf);
    ngx_http_idempotency_check_upstream(cf, prev, conf);

    if (ngx_http_idempotency_merge_token(cf, prev, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    return ngx_http_idempotency_check_local(cf, conf);
}


/* Arrays that most locations share; made once. */

static ngx_int_t
ngx_http_idempotency_defaults(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    static ngx_str_t  scope[] = {
        ngx_string("$server_name")
    };

    static ngx_str_t  fingerprint[] = {
        ngx_string("$request_method"),
        ngx_string("$request_uri"),
        ngx_string("$content_type"),
        ngx_string("$http_content_encoding")
    };

    if (imcf->methods) {
        return NGX_OK;
    }

    imcf->scope = ngx_http_idempotency_compile(cf, scope, 1);
    imcf->fingerprint.parts = ngx_http_idempotency_compile(cf, fingerprint,
                                                           4);
    imcf->fingerprint.body = 1;

    if (imcf->scope == NULL || imcf->fingerprint.parts == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_idempotency_default_key(cf, imcf) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_default_methods(cf, imcf);
}


static ngx_int_t
ngx_http_idempotency_default_methods(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_str_t  *method;

    imcf->methods = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
    if (imcf->methods == NULL) {
        return NGX_ERROR;
    }

    method = ngx_array_push_n(imcf->methods, 2);
    if (method == NULL) {
        return NGX_ERROR;
    }

    ngx_str_set(&method[0], "POST");
    ngx_str_set(&method[1], "PATCH");

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_default_key(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_str_t  value = ngx_string("$http_idempotency_key");

    imcf->key = ngx_array_create(cf->pool, 1,
                                 sizeof(ngx_http_idempotency_part_t));
    if (imcf->key == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_add_part(cf, imcf->key, &value);
}


static ngx_int_t
ngx_http_idempotency_merge_store(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    /* what nobody inherits is looked up too, so that it is not in vain */

    if (ngx_http_idempotency_find_store(cf, prev) != NGX_OK) {
        return NGX_ERROR;
    }

    if (conf->ref == NGX_CONF_UNSET_PTR) {
        conf->ref = prev->ref;
    }

    return ngx_http_idempotency_find_store(cf, conf);
}


/*
 * The zone may be declared behind its use, so it is looked up in the end.  Who
 * wants a token has none yet: a location that issues them is not protected.
 */

static ngx_int_t
ngx_http_idempotency_find_store(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_str_t                         *name;
    ngx_uint_t                         i;
    ngx_idem_store_t                 **st;
    ngx_http_idempotency_main_conf_t  *imcf;

    if (conf->store
        || conf->token.issue
        || conf->ref == NGX_CONF_UNSET_PTR
        || conf->ref->name.len == 0)
    {
        return NGX_OK;
    }

    name = &conf->ref->name;
    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {

        if (st[i]->name.len == name->len
            && ngx_strncmp(st[i]->name.data, name->data, name->len) == 0)
        {
            conf->store = st[i];
            return NGX_OK;
        }
    }

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "idempotency zone \"%V\" is not declared in %V:%ui",
                  name, &conf->ref->file, conf->ref->line);

    return NGX_ERROR;
}


static void
ngx_http_idempotency_merge_request(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_conf_merge_ptr_value(conf->key, prev->key, imcf->key);
    ngx_conf_merge_uint_value(conf->format, prev->format, NGX_IDEM_KEY_ANY);
    ngx_conf_merge_size_value(conf->length_min, prev->length_min, 1);
    ngx_conf_merge_size_value(conf->length_max, prev->length_max, 255);
    ngx_conf_merge_value(conf->required, prev->required, 0);

    conf->rule.format = conf->format;
    conf->rule.min = conf->length_min;
    conf->rule.max = conf->length_max;

    ngx_conf_merge_ptr_value(conf->methods, prev->methods, imcf->methods);
    ngx_conf_merge_ptr_value(conf->scope, prev->scope, imcf->scope);
    ngx_conf_merge_ptr_value(conf->fingerprint, prev->fingerprint,
                             &imcf->fingerprint);
    ngx_conf_merge_ptr_value(conf->bypass, prev->bypass, NULL);

    conf->scope_set = (conf->scope != imcf->scope);
}


static void
ngx_http_idempotency_merge_claim(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_conf_merge_msec_value(conf->lease, prev->lease, 60000);
    ngx_conf_merge_msec_value(conf->wait, prev->wait, 0);
    ngx_conf_merge_uint_value(conf->waiters, prev->waiters, 64);

    if (conf->on_unknown == NGX_CONF_UNSET_UINT) {
        conf->check = prev->check;
    }

    ngx_conf_merge_uint_value(conf->on_unknown, prev->on_unknown,
                              NGX_IDEM_UNKNOWN_REFUSE);
    ngx_conf_merge_value(conf->unknown, prev->unknown, NGX_IDEM_TTL_DEFAULT);
    ngx_conf_merge_uint_value(conf->on_error, prev->on_error,
                              NGX_HTTP_IDEMPOTENCY_ON_ERROR_REFUSE);
    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);
}


static void
ngx_http_idempotency_merge_response(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    static ngx_http_idempotency_marker_t  marker = {
        ngx_string("Idempotent-Replayed"),
        ngx_string("true")
    };

    ngx_conf_merge_size_value(conf->max_response, prev->max_response,
                              1024 * 1024);
    ngx_conf_merge_ptr_value(conf->replay_header, prev->replay_header,
                             &marker);
    ngx_conf_merge_uint_value(conf->acknowledge, prev->acknowledge, 0);
    ngx_conf_merge_str_value(conf->documentation, prev->documentation, "");
}


static void
ngx_http_idempotency_merge_lifetimes(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_http_idempotency_guards_merge(prev, conf);

    ngx_conf_merge_ptr_value(conf->valid, prev->valid, NULL);

    conf->lifetimes.ttl_s = NGX_IDEM_TTL_DEFAULT;
    conf->lifetimes.success = (conf->acknowledge != 0);

    if (conf->valid == NULL) {
        return;
    }

    conf->lifetimes.rules = conf->valid->rules.elts;
    conf->lifetimes.n = conf->valid->rules.nelts;

    if (conf->valid->ttl_s != NGX_IDEM_TTL_UNSET) {
        conf->lifetimes.ttl_s = conf->valid->ttl_s;
    }
}


static void
ngx_http_idempotency_merge_fields(ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_conf_merge_ptr_value(conf->hide, prev->hide, NULL);
    ngx_conf_merge_ptr_value(conf->pass, prev->pass, NULL);

    if (conf->hide) {
        conf->fields.hide = conf->hide->elts;
        conf->fields.nhide = conf->hide->nelts;
    }

    if (conf->pass) {
        conf->fields.pass = conf->pass->elts;
        conf->fields.npass = conf->pass->nelts;
    }
}


/* A zone that is all there is has nobody to fail it. */

static char *
ngx_http_idempotency_check_local(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *conf)
{
    if (conf->store == NULL
        || conf->on_error != NGX_HTTP_IDEMPOTENCY_ON_ERROR_LOCAL
        || ngx_strcmp(conf->store->kind.data, "zone") != 0)
    {
        return NGX_CONF_OK;
    }

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "\"idempotency_on_error local\" needs \"redis=\" at the "
                  "zone \"%V\", used in %V:%ui",
                  &conf->ref->name, &conf->ref->file, conf->ref->line);

    return NGX_CONF_ERROR;
}


/*
 * What was sent to one server may be sent to another, if the operator said so.
 * A block of "limit_except" or "if" is part of a location, which has been
 * looked at.
 */

static void
ngx_http_idempotency_check_upstream(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_upstream_conf_t  *ucf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->store == NULL || clcf->handler == NULL) {
        return;
    }

    if (clcf->noname && prev->careless) {
        return;
    }

    ucf = ngx_http_idempotency_careless(cf);

    if (ucf == NULL) {
        return;
    }

    conf->careless = 1;

    ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                  "idempotency: requests to location \"%V\" may be carried "
                  "out twice, by \"non_idempotent\" in \"%V_next_upstream\", "
                  "although they are protected in %V:%ui",
                  &clcf->name, &ucf->module, &conf->ref->file,
                  conf->ref->line);
}


/*
 * The upstream of the location, if it is careless.  It is not known whose an
 * address is that a variable has, so any may be; all modules that ask one have
 * merged before us, and their configurations begin with what nginx needs.
 */

static ngx_http_upstream_conf_t *
ngx_http_idempotency_careless(ngx_conf_t *cf)
{
    ngx_uint_t                 i, careless;
    ngx_module_t             **modules;
    ngx_http_conf_ctx_t       *ctx;
    ngx_http_upstream_conf_t  *ucf, *found;

    ctx = cf->ctx;
    modules = cf->cycle->modules;
    found = NULL;

    for (i = 0; modules[i]; i++) {

        if (!ngx_http_idempotency_asks_upstream(modules[i])) {
            continue;
        }

        ucf = ctx->loc_conf[modules[i]->ctx_index];
        careless = ucf->next_upstream & NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT;

        if (ucf->upstream) {
            return careless ? ucf : NULL;
        }

        if (careless) {
            found = ucf;
        }
    }

    return found;
}


static ngx_uint_t
ngx_http_idempotency_asks_upstream(ngx_module_t *module)
{
    static const char  *names[] = {
        "ngx_http_proxy_module",
        "ngx_http_fastcgi_module",
        "ngx_http_uwsgi_module",
        "ngx_http_scgi_module",
        "ngx_http_grpc_module"
    };

    ngx_uint_t  i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {

        if (ngx_strcmp(module->name, names[i]) == 0) {
            return 1;
        }
    }

    return 0;
}
