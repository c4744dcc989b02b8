
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


#if (NGX_HAVE_HIREDIS)

#include "store/ngx_idem_redis.h"


typedef struct {
    ngx_idem_redis_conf_t  conf;
    ngx_str_t              file;            /* of the first use, or of the */
    ngx_uint_t             line;            /* block */
    ngx_str_t              certificate;
    ngx_str_t              key;
    ngx_str_t              trusted;
    unsigned               declared:1;
} ngx_http_idempotency_redis_t;


static ngx_http_idempotency_redis_t *ngx_http_idempotency_redis_find(
    ngx_conf_t *cf, ngx_str_t *name);
static char *ngx_http_idempotency_redis_line(ngx_conf_t *cf,
    ngx_command_t *dummy, void *conf);
static char *ngx_http_idempotency_redis_check(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd);
static char *ngx_http_idempotency_redis_tls(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd);

static char *ngx_http_idempotency_redis_server(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_redis_mode(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_redis_password(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_redis_wait(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_idempotency_redis_time(ngx_conf_t *cf, void *post,
    void *data);


static ngx_conf_post_t  ngx_http_idempotency_redis_above_0 = {
    ngx_http_idempotency_redis_time
};


static ngx_command_t  ngx_http_idempotency_redis_lines[] = {

    { ngx_string("server"),
      NGX_CONF_TAKE1,
      ngx_http_idempotency_redis_server,
      0,
      0,
      NULL },

    { ngx_string("mode"),
      NGX_CONF_TAKE12,
      ngx_http_idempotency_redis_mode,
      0,
      0,
      NULL },

    { ngx_string("user"),
      NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.user),
      NULL },

    { ngx_string("password_file"),
      NGX_CONF_TAKE1,
      ngx_http_idempotency_redis_password,
      0,
      0,
      NULL },

    { ngx_string("database"),
      NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.database),
      NULL },

    { ngx_string("prefix"),
      NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.prefix),
      NULL },

    { ngx_string("connect_timeout"),
      NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.connect_timeout),
      &ngx_http_idempotency_redis_above_0 },

    { ngx_string("timeout"),
      NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.timeout),
      &ngx_http_idempotency_redis_above_0 },

    { ngx_string("wait"),
      NGX_CONF_TAKE2,
      ngx_http_idempotency_redis_wait,
      0,
      0,
      NULL },

    { ngx_string("tls"),
      NGX_CONF_TAKE1,
      ngx_conf_set_flag_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.tls),
      NULL },

    { ngx_string("tls_trusted_certificate"),
      NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, trusted),
      NULL },

    { ngx_string("tls_name"),
      NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, conf.tls_name),
      NULL },

    { ngx_string("tls_certificate"),
      NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, certificate),
      NULL },

    { ngx_string("tls_certificate_key"),
      NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_idempotency_redis_t, key),
      NULL },

      ngx_null_command
};


/* idempotency_redis name { ... } */

char *
ngx_http_idempotency_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                          *rv;
    ngx_str_t                     *value;
    ngx_conf_t                     save;
    ngx_http_idempotency_redis_t  *rd;

    value = cf->args->elts;

    rd = ngx_http_idempotency_redis_find(cf, &value[1]);
    if (rd == NULL) {
        return NGX_CONF_ERROR;
    }

    if (rd->declared) {
        return "is duplicate";
    }

    rd->declared = 1;
    rd->file = cf->conf_file->file.name;
    rd->line = cf->conf_file->line;

    save = *cf;
    cf->handler = ngx_http_idempotency_redis_line;
    cf->handler_conf = (char *) rd;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_idempotency_redis_check(cf, rd);
}


/* The block may stand behind the first use of its name. */

static ngx_http_idempotency_redis_t *
ngx_http_idempotency_redis_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                         i;
    ngx_http_idempotency_redis_t      *rd, **known;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);
    known = imcf->redis.elts;

    for (i = 0; i < imcf->redis.nelts; i++) {

        if (known[i]->conf.name.len == name->len
            && ngx_strncmp(known[i]->conf.name.data, name->data, name->len)
               == 0)
        {
            return known[i];
        }
    }

    rd = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_redis_t));
    known = ngx_array_push(&imcf->redis);

    if (rd == NULL
        || known == NULL
        || ngx_array_init(&rd->conf.servers, cf->pool, 1, sizeof(ngx_url_t))
           != NGX_OK)
    {
        return NULL;
    }

    *known = rd;

    rd->conf.name = *name;
    rd->conf.database = NGX_CONF_UNSET_UINT;
    rd->conf.connect_timeout = NGX_CONF_UNSET_MSEC;
    rd->conf.timeout = NGX_CONF_UNSET_MSEC;
    rd->conf.tls = NGX_CONF_UNSET;

    rd->file = cf->conf_file->file.name;
    rd->line = cf->conf_file->line;

    return rd;
}


ngx_idem_store_t *
ngx_http_idempotency_redis_store(ngx_conf_t *cf, ngx_idem_store_t *near,
    ngx_str_t *name)
{
    ngx_str_t                          shared;
    ngx_idem_redis_stat_t             *stat;
    ngx_http_idempotency_redis_t      *rd;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);

    rd = ngx_http_idempotency_redis_find(cf, name);
    if (rd == NULL) {
        return NULL;
    }

    shared.len = near->name.len + sizeof("/redis") - 1;
    shared.data = ngx_pnalloc(cf->pool, shared.len);

    if (shared.data == NULL) {
        return NULL;
    }

    (void) ngx_sprintf(shared.data, "%V/redis", &near->name);

    stat = ngx_idem_redis_stat_zone(cf, &shared, imcf->worker,
                                    &ngx_http_idempotency_module);
    if (stat == NULL) {
        return NULL;
    }

    return ngx_idem_redis_add(cf, near, &rd->conf, stat);
}


char *
ngx_http_idempotency_redis_end(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_uint_t                      i;
    ngx_http_idempotency_redis_t  **rd;

    rd = imcf->redis.elts;

    for (i = 0; i < imcf->redis.nelts; i++) {

        if (!rd[i]->declared) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "idempotency_redis \"%V\" is not declared in %V:%ui",
                          &rd[i]->conf.name, &rd[i]->file, rd[i]->line);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_line(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf)
{
    char           *rv;
    ngx_str_t      *value;
    ngx_command_t  *cmd;

    value = cf->args->elts;

    for (cmd = ngx_http_idempotency_redis_lines; cmd->name.len; cmd++) {

        if (ngx_strcmp(value[0].data, cmd->name.data) != 0) {
            continue;
        }

        if (!(cmd->type & ((ngx_uint_t) 1 << (cf->args->nelts - 1)))) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid number of arguments in \"%V\"",
                               &value[0]);
            return NGX_CONF_ERROR;
        }

        rv = cmd->set(cf, cmd, conf);

        if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
            return rv;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", &value[0], rv);
        return NGX_CONF_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown directive \"%V\" in \"idempotency_redis\"",
                       &value[0]);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_idempotency_redis_check(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd)
{
    ngx_conf_init_uint_value(rd->conf.database, 0);
    ngx_conf_init_msec_value(rd->conf.connect_timeout, 1000);
    ngx_conf_init_msec_value(rd->conf.timeout, 500);
    ngx_conf_init_value(rd->conf.tls, 0);

    if (rd->conf.prefix.data == NULL) {
        ngx_str_set(&rd->conf.prefix, "idem:");
    }

    if (rd->conf.servers.nelts == 0) {
        return "has no server";
    }

    if (rd->conf.servers.nelts > 1
        && rd->conf.mode == NGX_IDEM_REDIS_STANDALONE)
    {
        return "has several servers, which takes the mode \"sentinel\" or "
               "\"cluster\"";
    }

    if (rd->conf.database && rd->conf.mode == NGX_IDEM_REDIS_CLUSTER) {
        return "has a database, and a cluster has none but 0";
    }

    if (rd->conf.user.len && rd->conf.password.len == 0) {
        return "has a user without a \"password_file\"";
    }

    if (rd->conf.tls) {
        return ngx_http_idempotency_redis_tls(cf, rd);
    }

    if (rd->trusted.len || rd->certificate.len || rd->key.len
        || rd->conf.tls_name.len)
    {
        return "has parameters of TLS without \"tls on\"";
    }

    return NGX_CONF_OK;
}


#if (NGX_SSL)

static char *
ngx_http_idempotency_redis_tls(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd)
{
    ngx_ssl_t           *ssl;
    ngx_pool_cleanup_t  *cln;

    if (rd->trusted.len == 0) {
        return "has \"tls on\" without a \"tls_trusted_certificate\"";
    }

    if ((rd->certificate.len == 0) != (rd->key.len == 0)) {
        return "has one of \"tls_certificate\" and \"tls_certificate_key\" "
               "only";
    }

    ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    cln = ngx_pool_cleanup_add(cf->pool, 0);

    if (ssl == NULL || cln == NULL) {
        return NGX_CONF_ERROR;
    }

    ssl->log = cf->log;

    if (ngx_ssl_create(ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = ssl;

    rd->conf.ssl = ssl;

    if (rd->certificate.len
        && ngx_ssl_certificate(cf, ssl, &rd->certificate, &rd->key, NULL)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (ngx_ssl_trusted_certificate(cf, ssl, &rd->trusted, 3) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}

#else

static char *
ngx_http_idempotency_redis_tls(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd)
{
    return "has \"tls on\", which takes an nginx with TLS";
}

#endif


static char *
ngx_http_idempotency_redis_server(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_redis_t *rd = conf;

    ngx_url_t  *u;
    ngx_str_t  *value;

    value = cf->args->elts;

    u = ngx_array_push(&rd->conf.servers);
    if (u == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(u, sizeof(ngx_url_t));

    u->url = value[1];
    u->default_port = 6379;

    if (ngx_parse_url(cf->pool, u) != NGX_OK) {

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "%s in server \"%V\"",
                           u->err ? u->err : "error", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* mode standalone | sentinel master=name | cluster; */

static char *
ngx_http_idempotency_redis_mode(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_redis_t *rd = conf;

    ngx_str_t  *value, *master;

    value = cf->args->elts;

    if (rd->conf.mode != NGX_IDEM_REDIS_STANDALONE) {
        return "is duplicate";
    }

    if (cf->args->nelts == 2
        && ngx_strcmp(value[1].data, "standalone") == 0)
    {
        rd->conf.mode = NGX_IDEM_REDIS_STANDALONE;
        return NGX_CONF_OK;
    }

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "cluster") == 0) {
        rd->conf.mode = NGX_IDEM_REDIS_CLUSTER;
        return NGX_CONF_OK;
    }

    master = &value[2];

    if (cf->args->nelts == 3
        && ngx_strcmp(value[1].data, "sentinel") == 0
        && ngx_strncmp(master->data, "master=", 7) == 0
        && master->len > 7)
    {
        rd->conf.mode = NGX_IDEM_REDIS_SENTINEL;
        rd->conf.master.data = master->data + 7;
        rd->conf.master.len = master->len - 7;
        return NGX_CONF_OK;
    }

    return "takes \"standalone\", \"sentinel master=name\" or \"cluster\"";
}


/* The first line of a file. */

static char *
ngx_http_idempotency_redis_password(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_redis_t *rd = conf;

    u_char     *p, buf[4096];
    ssize_t     n;
    ngx_fd_t    fd;
    ngx_str_t  *value;

    value = cf->args->elts;

    if (rd->conf.password.data) {
        return "is duplicate";
    }

    if (ngx_conf_full_name(cf->cycle, &value[1], 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    fd = ngx_open_file(value[1].data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", &value[1]);
        return NGX_CONF_ERROR;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    (void) ngx_close_file(fd);

    for (p = buf; p < buf + n && *p != LF && *p != CR; p++) { /* void */ }

    if (n <= 0 || p == buf || p == buf + sizeof(buf)) {
        return "has no password in its file";
    }

    rd->conf.password.len = p - buf;
    rd->conf.password.data = ngx_pnalloc(cf->pool, p - buf);

    if (rd->conf.password.data == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memcpy(rd->conf.password.data, buf, p - buf);
    ngx_explicit_memzero(buf, sizeof(buf));

    return NGX_CONF_OK;
}


/* wait replicas time; */

static char *
ngx_http_idempotency_redis_wait(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_redis_t *rd = conf;

    ngx_int_t   n, ms;
    ngx_str_t  *value;

    value = cf->args->elts;

    if (rd->conf.wait_replicas) {
        return "is duplicate";
    }

    n = ngx_atoi(value[1].data, value[1].len);
    ms = ngx_parse_time(&value[2], 0);

    if (n == NGX_ERROR || n == 0 || ms == NGX_ERROR || ms == 0) {
        return "takes a number of replicas and a time";
    }

    rd->conf.wait_replicas = (ngx_uint_t) n;
    rd->conf.wait_timeout = (ngx_msec_t) ms;

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_time(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t *ms = data;

    return *ms ? NGX_CONF_OK : "must not be 0";
}

#else

char *
ngx_http_idempotency_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return "takes a module that was built with hiredis";
}

#endif
