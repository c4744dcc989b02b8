
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

typedef char *(*ngx_http_idempotency_redis_pt)(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);


static ngx_http_idempotency_redis_t *ngx_http_idempotency_redis_find(
    ngx_conf_t *cf, ngx_str_t *name);
static char *ngx_http_idempotency_redis_line(ngx_conf_t *cf,
    ngx_command_t *dummy, void *conf);
static char *ngx_http_idempotency_redis_check(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd);
static char *ngx_http_idempotency_redis_tls(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd);

static char *ngx_http_idempotency_redis_server(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_mode(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_user(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_password(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_database(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_prefix(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_connect_timeout(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_timeout(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_wait(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_tls_on(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_tls_trusted(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_tls_name(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_tls_certificate(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_tls_key(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value);
static char *ngx_http_idempotency_redis_msec(ngx_conf_t *cf,
    ngx_str_t *value, ngx_msec_t *msec);


static const struct {
    ngx_str_t                      name;
    ngx_uint_t                     min;         /* arguments */
    ngx_uint_t                     max;
    ngx_http_idempotency_redis_pt  set;
} ngx_http_idempotency_redis_lines[] = {

    { ngx_string("server"), 1, 1, ngx_http_idempotency_redis_server },

    { ngx_string("mode"), 1, 2, ngx_http_idempotency_redis_mode },

    { ngx_string("user"), 1, 1, ngx_http_idempotency_redis_user },

    { ngx_string("password_file"), 1, 1,
      ngx_http_idempotency_redis_password },

    { ngx_string("database"), 1, 1, ngx_http_idempotency_redis_database },

    { ngx_string("prefix"), 1, 1, ngx_http_idempotency_redis_prefix },

    { ngx_string("connect_timeout"), 1, 1,
      ngx_http_idempotency_redis_connect_timeout },

    { ngx_string("timeout"), 1, 1, ngx_http_idempotency_redis_timeout },

    { ngx_string("wait"), 2, 2, ngx_http_idempotency_redis_wait },

    { ngx_string("tls"), 1, 1, ngx_http_idempotency_redis_tls_on },

    { ngx_string("tls_trusted_certificate"), 1, 1,
      ngx_http_idempotency_redis_tls_trusted },

    { ngx_string("tls_name"), 1, 1, ngx_http_idempotency_redis_tls_name },

    { ngx_string("tls_certificate"), 1, 1,
      ngx_http_idempotency_redis_tls_certificate },

    { ngx_string("tls_certificate_key"), 1, 1,
      ngx_http_idempotency_redis_tls_key }
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
    rd->conf.connect_timeout = 1000;
    rd->conf.timeout = 500;
    ngx_str_set(&rd->conf.prefix, "idem:");

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
    char        *rv;
    size_t       i;
    ngx_str_t   *value;
    ngx_uint_t   n;

    value = cf->args->elts;
    n = cf->args->nelts - 1;

    for (i = 0; i < sizeof(ngx_http_idempotency_redis_lines)
                    / sizeof(ngx_http_idempotency_redis_lines[0]); i++)
    {
        if (ngx_strcmp(value[0].data,
                       ngx_http_idempotency_redis_lines[i].name.data)
            != 0)
        {
            continue;
        }

        if (n < ngx_http_idempotency_redis_lines[i].min
            || n > ngx_http_idempotency_redis_lines[i].max)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid number of arguments in \"%V\"",
                               &value[0]);
            return NGX_CONF_ERROR;
        }

        rv = ngx_http_idempotency_redis_lines[i].set(cf, conf, value);

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
ngx_http_idempotency_redis_server(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    ngx_url_t  *u;

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
ngx_http_idempotency_redis_mode(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    ngx_str_t  *master;

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


static char *
ngx_http_idempotency_redis_user(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    rd->conf.user = value[1];

    return NGX_CONF_OK;
}


/* The first line of a file. */

static char *
ngx_http_idempotency_redis_password(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    u_char    *p, buf[4096];
    ssize_t    n;
    ngx_fd_t   fd;

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


static char *
ngx_http_idempotency_redis_database(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value[1].data, value[1].len);

    if (n == NGX_ERROR) {
        return "takes a number";
    }

    rd->conf.database = (ngx_uint_t) n;

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_prefix(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    rd->conf.prefix = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_connect_timeout(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    return ngx_http_idempotency_redis_msec(cf, &value[1],
                                           &rd->conf.connect_timeout);
}


static char *
ngx_http_idempotency_redis_timeout(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    return ngx_http_idempotency_redis_msec(cf, &value[1], &rd->conf.timeout);
}


static char *
ngx_http_idempotency_redis_msec(ngx_conf_t *cf, ngx_str_t *value,
    ngx_msec_t *msec)
{
    ngx_int_t  n;

    n = ngx_parse_time(value, 0);

    if (n == NGX_ERROR || n == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid time \"%V\"",
                           value);
        return NGX_CONF_ERROR;
    }

    *msec = (ngx_msec_t) n;

    return NGX_CONF_OK;
}


/* wait replicas time; */

static char *
ngx_http_idempotency_redis_wait(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value[1].data, value[1].len);

    if (n == NGX_ERROR || n == 0) {
        return "takes a number of replicas and a time";
    }

    rd->conf.wait_replicas = (ngx_uint_t) n;

    return ngx_http_idempotency_redis_msec(cf, &value[2],
                                           &rd->conf.wait_timeout);
}


static char *
ngx_http_idempotency_redis_tls_on(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    if (ngx_strcmp(value[1].data, "on") == 0) {
        rd->conf.tls = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "off") == 0) {
        rd->conf.tls = 0;
        return NGX_CONF_OK;
    }

    return "takes \"on\" or \"off\"";
}


static char *
ngx_http_idempotency_redis_tls_trusted(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    rd->trusted = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_tls_name(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    rd->conf.tls_name = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_tls_certificate(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    rd->certificate = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_redis_tls_key(ngx_conf_t *cf,
    ngx_http_idempotency_redis_t *rd, ngx_str_t *value)
{
    rd->key = value[1];

    return NGX_CONF_OK;
}

#else

char *
ngx_http_idempotency_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return "takes a module that was built with hiredis";
}

#endif
