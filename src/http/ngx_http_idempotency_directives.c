
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"

#include "store/ngx_idem_zone.h"


#define NGX_HTTP_IDEMPOTENCY_ALL_CONF                                         \
    NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF


typedef struct {
    ngx_str_t        name;
    ssize_t          size;
    ngx_str_t        redis;
    ngx_idem_full_e  full;
    unsigned         full_set:1;
} ngx_http_idempotency_zone_t;


static char *ngx_http_idempotency_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_idempotency_zone_size(ngx_conf_t *cf, ngx_str_t *value,
    ngx_str_t *name, ssize_t *size);
static char *ngx_http_idempotency_zone_parameter(ngx_conf_t *cf,
    ngx_http_idempotency_zone_t *zone, ngx_str_t *value);
static char *ngx_http_idempotency_add_zone(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf, ngx_http_idempotency_zone_t *zone);
static char *ngx_http_idempotency_use(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_idempotency_key_parts(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_http_idempotency_plain_header(ngx_conf_t *cf,
    ngx_str_t *value, ngx_str_t *header);
static char *ngx_http_idempotency_key_length(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_required(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_idempotency_methods(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_idempotency_scope_parts(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_fingerprint_parts(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_http_idempotency_compile_one(ngx_conf_t *cf,
    ngx_str_t *value, ngx_http_complex_value_t *cv);
static char *ngx_http_idempotency_valid(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_idempotency_valid_status(ngx_str_t *value,
    ngx_idem_valid_t *rule);
static char *ngx_http_idempotency_valid_add(ngx_conf_t *cf,
    ngx_http_idempotency_lifetimes_t *valid, ngx_str_t *value, uint32_t ttl_s);
static char *ngx_http_idempotency_concurrent(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_unknown(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_http_idempotency_check_t *ngx_http_idempotency_check_uri(
    ngx_conf_t *cf, ngx_str_t *value);
static char *ngx_http_idempotency_fields(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_uint_t ngx_http_idempotency_contains(ngx_array_t *names,
    ngx_str_t *name);
static ngx_uint_t ngx_http_idempotency_passable(ngx_str_t *name);
static char *ngx_http_idempotency_replay_header(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_documentation(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_on_error(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_check_msec(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_idempotency_check_number(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_idempotency_check_size(ngx_conf_t *cf, void *post,
    void *data);
static ngx_uint_t ngx_http_idempotency_is_token(ngx_str_t *value);
static uint32_t ngx_http_idempotency_parse_ttl(ngx_str_t *value);


static ngx_conf_enum_t  ngx_http_idempotency_formats[] = {
    { ngx_string("any"), NGX_IDEM_KEY_ANY },
    { ngx_string("structured"), NGX_IDEM_KEY_STRUCTURED },
    { ngx_string("uuid"), NGX_IDEM_KEY_UUID },
    { ngx_null_string, 0 }
};


static ngx_conf_post_t  ngx_http_idempotency_msec_post = {
    ngx_http_idempotency_check_msec
};

static ngx_conf_post_t  ngx_http_idempotency_number_post = {
    ngx_http_idempotency_check_number
};

static ngx_conf_post_t  ngx_http_idempotency_size_post = {
    ngx_http_idempotency_check_size
};


ngx_command_t  ngx_http_idempotency_commands[] = {

    { ngx_string("idempotency_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_idempotency_redis,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_json"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2,
      ngx_http_idempotency_json,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_form"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2,
      ngx_http_idempotency_form,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_http_idempotency_use,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_key"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_key_parts,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_key_format"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, format),
      &ngx_http_idempotency_formats },

    { ngx_string("idempotency_key_length"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE2,
      ngx_http_idempotency_key_length,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_required"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_http_idempotency_required,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_methods"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_methods,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_scope"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_scope_parts,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_fingerprint"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_fingerprint_parts,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_valid"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_valid,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_lease"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, lease),
      &ngx_http_idempotency_msec_post },

    { ngx_string("idempotency_concurrent"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_http_idempotency_concurrent,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_waiters"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, waiters),
      &ngx_http_idempotency_number_post },

    { ngx_string("idempotency_unknown"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE12,
      ngx_http_idempotency_unknown,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_max_response"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, max_response),
      &ngx_http_idempotency_size_post },

    { ngx_string("idempotency_hide_header"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_fields,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, hide),
      NULL },

    { ngx_string("idempotency_pass_header"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_fields,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, pass),
      NULL },

    { ngx_string("idempotency_serialize"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE123,
      ngx_http_idempotency_serialize,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_sequence"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE123,
      ngx_http_idempotency_sequence,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_states"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_idempotency_states,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_state"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_idempotency_state,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_version"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE12,
      ngx_http_idempotency_version,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_replay_header"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE12,
      ngx_http_idempotency_replay_header,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_acknowledge"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_idempotency_acknowledge_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_documentation"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_http_idempotency_documentation,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_bypass"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_1MORE,
      ngx_http_set_predicate_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, bypass),
      NULL },

    { ngx_string("idempotency_dry_run"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, dry_run),
      NULL },

    { ngx_string("idempotency_on_error"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_http_idempotency_on_error,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_token_secret"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE12,
      ngx_http_idempotency_token_secret,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_token_ttl"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_TAKE1,
      ngx_http_idempotency_token_ttl,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_token_rotate"),
      NGX_HTTP_IDEMPOTENCY_ALL_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_idempotency_loc_conf_t, token.rotate),
      NULL },

    { ngx_string("idempotency_token_issue"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_idempotency_token_issue,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("idempotency_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_idempotency_status_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


/* idempotency_zone zone=name:size [redis=name] [full=refuse|evict]; */

static char *
ngx_http_idempotency_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                         *rv;
    ngx_str_t                    *value;
    ngx_uint_t                    i;
    ngx_http_idempotency_zone_t   zone;

    value = cf->args->elts;

    ngx_memzero(&zone, sizeof(ngx_http_idempotency_zone_t));

    for (i = 1; i < cf->args->nelts; i++) {

        rv = ngx_http_idempotency_zone_parameter(cf, &zone, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (zone.size == 0) {
        return "needs the parameter \"zone=name:size\"";
    }

    if (zone.redis.len && zone.full_set) {
        return "has no \"full=\" with \"redis=\": it is a cache then";
    }

    return ngx_http_idempotency_add_zone(cf, conf, &zone);
}


static char *
ngx_http_idempotency_zone_parameter(ngx_conf_t *cf,
    ngx_http_idempotency_zone_t *zone, ngx_str_t *value)
{
    if (ngx_strncmp(value->data, "zone=", 5) == 0 && zone->size == 0) {
        return ngx_http_idempotency_zone_size(cf, value, &zone->name,
                                              &zone->size);
    }

    if (ngx_strcmp(value->data, "full=refuse") == 0 && !zone->full_set) {
        zone->full_set = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "full=evict") == 0 && !zone->full_set) {
        zone->full_set = 1;
        zone->full = NGX_IDEM_FULL_EVICT;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "redis=", 6) == 0
        && value->len > 6
        && zone->redis.len == 0)
    {
#if (NGX_HAVE_HIREDIS)

        zone->redis.data = value->data + 6;
        zone->redis.len = value->len - 6;
        zone->full = NGX_IDEM_FULL_EVICT;

        return NGX_CONF_OK;

#else

        return "takes \"redis=\" in a module that was built with hiredis";

#endif
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid or repeated parameter \"%V\"", value);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_idempotency_zone_size(ngx_conf_t *cf, ngx_str_t *value,
    ngx_str_t *name, ssize_t *size)
{
    u_char     *p;
    ngx_str_t   s;

    name->data = value->data + 5;

    p = (u_char *) ngx_strchr(name->data, ':');

    if (p == NULL || p == name->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone \"%V\", it must be zone=name:size",
                           value);
        return NGX_CONF_ERROR;
    }

    name->len = p - name->data;

    s.data = p + 1;
    s.len = value->data + value->len - s.data;

    *size = ngx_parse_size(&s);

    if (*size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size of zone \"%V\"", value);
        return NGX_CONF_ERROR;
    }

    if (*size < NGX_IDEM_ZONE_MIN_SIZE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is too small, 64k is the least",
                           value);
        return NGX_CONF_ERROR;
    }

    if (name->len == 3 && ngx_strncmp(name->data, "off", 3) == 0) {
        return "cannot have a zone with the name \"off\"";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_add_zone(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf, ngx_http_idempotency_zone_t *zone)
{
    ngx_uint_t          i;
    ngx_idem_store_t  **st;

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {

        if (st[i]->name.len == zone->name.len
            && ngx_strncmp(st[i]->name.data, zone->name.data, zone->name.len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "idempotency zone \"%V\" is declared twice",
                               &zone->name);
            return NGX_CONF_ERROR;
        }
    }

    if (imcf->worker == NULL) {

        imcf->worker = ngx_idem_worker_add(cf, &ngx_http_idempotency_module);

        if (imcf->worker == NULL
            || ngx_http_idempotency_init_crypto(cf, imcf) != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    st = ngx_array_push(&imcf->stores);
    if (st == NULL) {
        return NGX_CONF_ERROR;
    }

    *st = ngx_idem_zone_add(cf, &zone->name, (size_t) zone->size, zone->full,
                            imcf->worker, &ngx_http_idempotency_module);

#if (NGX_HAVE_HIREDIS)

    if (*st && zone->redis.len) {
        *st = ngx_http_idempotency_redis_store(cf, *st, &zone->redis);
    }

#endif

    return (*st == NULL) ? NGX_CONF_ERROR : NGX_CONF_OK;
}


/* idempotency zone|off; */

static char *
ngx_http_idempotency_use(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t                   *value;
    ngx_http_idempotency_ref_t  *ref;

    if (ilcf->ref != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "needs the name of a zone";
    }

    ref = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_ref_t));
    if (ref == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_strcmp(value[1].data, "off") != 0) {
        ref->name = value[1];
        ref->file = cf->conf_file->file.name;
        ref->line = cf->conf_file->line;
    }

    ilcf->ref = ref;

    return NGX_CONF_OK;
}


/* idempotency_key value ...; */

static char *
ngx_http_idempotency_key_parts(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    if (ilcf->key != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    ilcf->key = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                 sizeof(ngx_http_idempotency_part_t));
    if (ilcf->key == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0) {
            return "has an empty part";
        }

        if (ngx_http_idempotency_add_part(cf, ilcf->key, &value[i])
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_idempotency_add_part(ngx_conf_t *cf, ngx_array_t *parts,
    ngx_str_t *value)
{
    ngx_http_idempotency_part_t  *part;

    part = ngx_array_push(parts);
    if (part == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(part, sizeof(ngx_http_idempotency_part_t));

    if (ngx_http_idempotency_plain_header(cf, value, &part->header)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_idempotency_compile_one(cf, value, &part->value);
}


/* $http_name or ${http_name} and nothing else. */

static ngx_int_t
ngx_http_idempotency_plain_header(ngx_conf_t *cf, ngx_str_t *value,
    ngx_str_t *header)
{
    u_char  *p, *end, *name;

    p = value->data;
    end = p + value->len;

    if (p == end || *p++ != '$') {
        return NGX_OK;
    }

    if (end - p > 2 && *p == '{' && end[-1] == '}') {
        p++;
        end--;
    }

    if (end - p <= 5 || ngx_strncasecmp(p, (u_char *) "http_", 5) != 0) {
        return NGX_OK;
    }

    p += 5;

    for (name = p; p < end; p++) {
        if ((*p < 'a' || *p > 'z') && (*p < 'A' || *p > 'Z')
            && (*p < '0' || *p > '9') && *p != '_')
        {
            return NGX_OK;
        }
    }

    header->len = end - name;

    header->data = ngx_pnalloc(cf->pool, header->len);
    if (header->data == NULL) {
        return NGX_ERROR;
    }

    ngx_strlow(header->data, name, header->len);

    return NGX_OK;
}


/* idempotency_key_length min max; */

static char *
ngx_http_idempotency_key_length(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_int_t   min, max;
    ngx_str_t  *value;

    if (ilcf->length_min != NGX_CONF_UNSET_SIZE) {
        return "is duplicate";
    }

    value = cf->args->elts;

    min = ngx_atoi(value[1].data, value[1].len);
    max = ngx_atoi(value[2].data, value[2].len);

    if (min == NGX_ERROR || max == NGX_ERROR) {
        return "takes two numbers";
    }

    if (min < 1 || max < min) {
        return "takes a least length of 1 or more, "
               "and a greatest that is not below it";
    }

    ilcf->length_min = (size_t) min;
    ilcf->length_max = (size_t) max;

    return NGX_CONF_OK;
}


/* idempotency_required on|off|token; */

static char *
ngx_http_idempotency_required(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t  *value;

    if (ilcf->required != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "on") == 0) {
        ilcf->required = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->required = 0;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "token") == 0) {
        return ngx_http_idempotency_token_required(cf, ilcf);
    }

    return "takes \"on\", \"off\" or \"token\"";
}


/* idempotency_methods name ...; */

static char *
ngx_http_idempotency_methods(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t   *value, *method;
    ngx_uint_t   i;

    if (ilcf->methods != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    ilcf->methods = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                     sizeof(ngx_str_t));
    if (ilcf->methods == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (!ngx_http_idempotency_is_token(&value[i])
            || ngx_strlchr(value[i].data, value[i].data + value[i].len, '-'))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid method \"%V\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        method = ngx_array_push(ilcf->methods);
        if (method == NULL) {
            return NGX_CONF_ERROR;
        }

        *method = value[i];
    }

    return NGX_CONF_OK;
}


/* idempotency_scope value ...; */

static char *
ngx_http_idempotency_scope_parts(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    if (ilcf->scope != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        if (value[i].len == 0) {
            return "has an empty part";
        }
    }

    ilcf->scope = ngx_http_idempotency_compile(cf, &value[1],
                                               cf->args->nelts - 1);

    return (ilcf->scope == NULL) ? NGX_CONF_ERROR : NGX_CONF_OK;
}


/* idempotency_fingerprint value ... [body] | off; */

static char *
ngx_http_idempotency_fingerprint_parts(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t                           *value;
    ngx_uint_t                           i, n;
    ngx_http_idempotency_fingerprint_t  *fp;

    if (ilcf->fingerprint != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    fp = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_fingerprint_t));
    if (fp == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;
    n = cf->args->nelts - 1;

    if (ngx_strcmp(value[n].data, "body") == 0) {
        fp->body = 1;
        n--;
    }

    for (i = 1; i <= n; i++) {

        if (ngx_strcmp(value[i].data, "off") == 0 && cf->args->nelts > 2) {
            return "cannot be \"off\" and something else";
        }

        if (ngx_strcmp(value[i].data, "body") == 0) {
            return "must have \"body\" once, at its end";
        }
    }

    if (n == 1 && ngx_strcmp(value[1].data, "off") == 0) {
        n = 0;
    }

    fp->parts = ngx_http_idempotency_compile(cf, &value[1], n);
    ilcf->fingerprint = fp;

    return (fp->parts == NULL) ? NGX_CONF_ERROR : NGX_CONF_OK;
}


ngx_array_t *
ngx_http_idempotency_compile(ngx_conf_t *cf, ngx_str_t *value, ngx_uint_t n)
{
    ngx_uint_t                 i;
    ngx_array_t               *values;
    ngx_http_complex_value_t  *cv;

    values = ngx_array_create(cf->pool, n ? n : 1,
                              sizeof(ngx_http_complex_value_t));
    if (values == NULL) {
        return NULL;
    }

    for (i = 0; i < n; i++) {

        cv = ngx_array_push(values);

        if (cv == NULL
            || ngx_http_idempotency_compile_one(cf, &value[i], cv) != NGX_OK)
        {
            return NULL;
        }
    }

    return values;
}


static ngx_int_t
ngx_http_idempotency_compile_one(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv)
{
    ngx_http_compile_complex_value_t  ccv;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv);
}


/* idempotency_valid [code|2xx|3xx|4xx|5xx|any ...] time; */

static char *
ngx_http_idempotency_valid(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    char                              *rv;
    uint32_t                           ttl_s;
    ngx_str_t                         *value;
    ngx_uint_t                         i, n;
    ngx_http_idempotency_lifetimes_t  *valid;

    value = cf->args->elts;
    n = cf->args->nelts - 1;

    ttl_s = ngx_http_idempotency_parse_ttl(&value[n]);

    if (ttl_s == NGX_IDEM_TTL_UNSET) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid time \"%V\"",
                           &value[n]);
        return NGX_CONF_ERROR;
    }

    if (ilcf->valid == NGX_CONF_UNSET_PTR) {

        valid = ngx_pcalloc(cf->pool,
                            sizeof(ngx_http_idempotency_lifetimes_t));

        if (valid == NULL
            || ngx_array_init(&valid->rules, cf->pool, 4,
                              sizeof(ngx_idem_valid_t))
               != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }

        valid->ttl_s = NGX_IDEM_TTL_UNSET;
        ilcf->valid = valid;
    }

    valid = ilcf->valid;

    if (n == 1) {

        if (valid->ttl_s != NGX_IDEM_TTL_UNSET) {
            return "without a status is duplicate";
        }

        valid->ttl_s = ttl_s;
        return NGX_CONF_OK;
    }

    for (i = 1; i < n; i++) {

        rv = ngx_http_idempotency_valid_add(cf, valid, &value[i], ttl_s);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_valid_add(ngx_conf_t *cf,
    ngx_http_idempotency_lifetimes_t *valid, ngx_str_t *value, uint32_t ttl_s)
{
    ngx_uint_t         i;
    ngx_idem_valid_t   rule, *rules;

    if (ngx_http_idempotency_valid_status(value, &rule) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid status \"%V\"",
                           value);
        return NGX_CONF_ERROR;
    }

    rules = valid->rules.elts;

    for (i = 0; i < valid->rules.nelts; i++) {

        if (rules[i].first == rule.first && rules[i].last == rule.last) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "status \"%V\" is given twice", value);
            return NGX_CONF_ERROR;
        }
    }

    rules = ngx_array_push(&valid->rules);
    if (rules == NULL) {
        return NGX_CONF_ERROR;
    }

    rule.ttl_s = ttl_s;
    *rules = rule;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_idempotency_valid_status(ngx_str_t *value, ngx_idem_valid_t *rule)
{
    ngx_int_t  code;

    if (ngx_strcmp(value->data, "any") == 0) {
        rule->first = 100;
        rule->last = 599;
        return NGX_OK;
    }

    if (value->len != 3) {
        return NGX_ERROR;
    }

    if (value->data[0] >= '2' && value->data[0] <= '5'
        && ngx_strcmp(value->data + 1, "xx") == 0)
    {
        rule->first = (uint16_t) (100 * (value->data[0] - '0'));
        rule->last = (uint16_t) (rule->first + 99);
        return NGX_OK;
    }

    code = ngx_atoi(value->data, value->len);

    if (code < 200 || code > 599) {
        return NGX_ERROR;
    }

    rule->first = (uint16_t) code;
    rule->last = (uint16_t) code;

    return NGX_OK;
}


/* idempotency_concurrent reject|wait=time; */

static char *
ngx_http_idempotency_concurrent(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_int_t   wait;
    ngx_str_t  *value, time;

    if (ilcf->wait != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "reject") == 0) {
        ilcf->wait = 0;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value[1].data, "wait=", 5) != 0) {
        return "takes \"reject\" or \"wait=time\"";
    }

    time.data = value[1].data + 5;
    time.len = value[1].len - 5;

    wait = ngx_parse_time(&time, 0);

    if (wait == NGX_ERROR || wait == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid time \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    ilcf->wait = (ngx_msec_t) wait;

    return NGX_CONF_OK;
}


/* idempotency_unknown refuse|retry|check=uri [time]; */

static char *
ngx_http_idempotency_unknown(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    uint32_t    ttl_s;
    ngx_str_t  *value;

    if (ilcf->on_unknown != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "refuse") == 0) {
        ilcf->on_unknown = NGX_IDEM_UNKNOWN_REFUSE;

    } else if (ngx_strcmp(value[1].data, "retry") == 0) {
        ilcf->on_unknown = NGX_IDEM_UNKNOWN_RETRY;

    } else if (ngx_strncmp(value[1].data, "check=", 6) == 0) {
        ilcf->on_unknown = NGX_IDEM_UNKNOWN_CHECK;
        ilcf->check = ngx_http_idempotency_check_uri(cf, &value[1]);

        if (ilcf->check == NULL) {
            return NGX_CONF_ERROR;
        }

    } else {
        return "takes \"refuse\", \"retry\" or \"check=uri\"";
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    ttl_s = ngx_http_idempotency_parse_ttl(&value[2]);

    if (ttl_s == NGX_IDEM_TTL_UNSET || ttl_s == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid time \"%V\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    ilcf->unknown = (time_t) ttl_s;

    return NGX_CONF_OK;
}


/* A path, and arguments behind a "?". */

static ngx_http_idempotency_check_t *
ngx_http_idempotency_check_uri(ngx_conf_t *cf, ngx_str_t *value)
{
    u_char                        *p, *end;
    ngx_http_idempotency_check_t  *check;

    check = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_check_t));
    if (check == NULL) {
        return NULL;
    }

    p = value->data + sizeof("check=") - 1;
    end = value->data + value->len;

    if (p == end || *p != '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URI in \"%V\", it must begin with \"/\"",
                           value);
        return NULL;
    }

    check->uri.data = p;

    while (p < end && *p != '?') {
        p++;
    }

    check->uri.len = p - check->uri.data;

    if (p < end) {
        check->args.data = p + 1;
        check->args.len = end - check->args.data;
    }

    return check;
}


/* idempotency_hide_header name ...; idempotency_pass_header name ...; */

static char *
ngx_http_idempotency_fields(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t         *value;
    ngx_uint_t         i;
    ngx_array_t      **names, *others;
    ngx_idem_span_t   *name;

    names = (ngx_array_t **) ((char *) conf + cmd->offset);
    others = (names == &ilcf->hide) ? ilcf->pass : ilcf->hide;

    if (*names == NGX_CONF_UNSET_PTR) {
        *names = ngx_array_create(cf->pool, 4, sizeof(ngx_idem_span_t));
        if (*names == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (!ngx_http_idempotency_is_token(&value[i])) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid name \"%V\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        if (ngx_http_idempotency_contains(others, &value[i])) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" is both hidden and passed", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (names == &ilcf->pass
            && !ngx_http_idempotency_passable(&value[i]))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" belongs to one message on one "
                               "connection and cannot be stored", &value[i]);
            return NGX_CONF_ERROR;
        }

        name = ngx_array_push(*names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = ngx_http_idempotency_span(&value[i]);
    }

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_http_idempotency_contains(ngx_array_t *names, ngx_str_t *name)
{
    ngx_str_t         known;
    ngx_uint_t        i;
    ngx_idem_span_t  *span;

    if (names == NGX_CONF_UNSET_PTR) {
        return 0;
    }

    span = names->elts;

    for (i = 0; i < names->nelts; i++) {

        known = ngx_http_idempotency_str(&span[i]);

        if (ngx_http_idempotency_same_name(&known, name)) {
            return 1;
        }
    }

    return 0;
}


/* A field that even its own name in the list does not get through. */

static ngx_uint_t
ngx_http_idempotency_passable(ngx_str_t *name)
{
    ngx_idem_span_t         span, none;
    ngx_idem_fields_conf_t  fields;

    span = ngx_http_idempotency_span(name);

    ngx_memzero(&none, sizeof(ngx_idem_span_t));
    ngx_memzero(&fields, sizeof(ngx_idem_fields_conf_t));

    fields.pass = &span;
    fields.npass = 1;

    return ngx_idem_policy_keeps(span, &fields, none);
}


/* idempotency_replay_header name [value] | off; */

static char *
ngx_http_idempotency_replay_header(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t                      *value;
    ngx_uint_t                      i;
    ngx_http_idempotency_marker_t  *marker;

    if (ilcf->replay_header != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    marker = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_marker_t));
    if (marker == NULL) {
        return NGX_CONF_ERROR;
    }

    ilcf->replay_header = marker;

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        return (cf->args->nelts == 2) ? NGX_CONF_OK
                                      : "cannot be \"off\" with a value";
    }

    if (!ngx_http_idempotency_is_token(&value[1])
        || !ngx_http_idempotency_passable(&value[1]))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid name \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    marker->name = value[1];
    ngx_str_set(&marker->value, "true");

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    marker->value = value[2];

    for (i = 0; i < value[2].len; i++) {
        if (value[2].data[i] < ' ') {
            return "has a control character in its value";
        }
    }

    return NGX_CONF_OK;
}


/* idempotency_documentation uri; it stands in a Link field, in <>. */

static char *
ngx_http_idempotency_documentation(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    if (ilcf->documentation.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 0; i < value[1].len; i++) {

        if (value[1].data[i] <= ' ' || value[1].data[i] >= 0x7f
            || ngx_strchr("<>\"#", value[1].data[i]))
        {
            break;
        }
    }

    if (i < value[1].len || value[1].len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid URI \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    ilcf->documentation = value[1];

    return NGX_CONF_OK;
}


/* idempotency_on_error refuse|local|pass; */

static char *
ngx_http_idempotency_on_error(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_str_t  *value;

    if (ilcf->on_error != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "refuse") == 0) {
        ilcf->on_error = NGX_HTTP_IDEMPOTENCY_ON_ERROR_REFUSE;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "pass") == 0) {
        ilcf->on_error = NGX_HTTP_IDEMPOTENCY_ON_ERROR_PASS;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "local") == 0) {
        ilcf->on_error = NGX_HTTP_IDEMPOTENCY_ON_ERROR_LOCAL;
        return NGX_CONF_OK;
    }

    return "takes \"refuse\", \"local\" or \"pass\"";
}


static char *
ngx_http_idempotency_check_msec(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t *msec = data;

    return (*msec == 0) ? "must not be 0" : NGX_CONF_OK;
}


static char *
ngx_http_idempotency_check_number(ngx_conf_t *cf, void *post, void *data)
{
    ngx_int_t *number = data;

    return (*number < 1 || *number > 65535) ? "must be from 1 to 65535"
                                            : NGX_CONF_OK;
}


static char *
ngx_http_idempotency_check_size(ngx_conf_t *cf, void *post, void *data)
{
    size_t *size = data;

    return (*size > NGX_MAX_UINT32_VALUE / 2) ? "must be below 2g"
                                              : NGX_CONF_OK;
}


/* RFC 9110, section 5.6.2, without the characters that nobody uses. */

static ngx_uint_t
ngx_http_idempotency_is_token(ngx_str_t *value)
{
    u_char      ch;
    ngx_uint_t  i;

    for (i = 0; i < value->len; i++) {

        ch = value->data[i];

        if ((ch < 'a' || ch > 'z') && (ch < 'A' || ch > 'Z')
            && (ch < '0' || ch > '9') && ch != '-' && ch != '_')
        {
            return 0;
        }
    }

    return value->len != 0;
}


/* NGX_IDEM_TTL_UNSET: not a time, or more than 68 years. */

static uint32_t
ngx_http_idempotency_parse_ttl(ngx_str_t *value)
{
    ngx_int_t  s;

    s = ngx_parse_time(value, 1);

    if (s == NGX_ERROR || s > NGX_MAX_INT32_VALUE) {
        return NGX_IDEM_TTL_UNSET;
    }

    return (uint32_t) s;
}
