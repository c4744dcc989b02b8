
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * One-time tokens: a location issues them, others take them for keys.
 *
 * Nobody remembers a token.  It is a key that was signed, so its first use is
 * an ordinary claim, and that it was used is what a record says.
 */


#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_SECRET_MAX   4096
#define NGX_HTTP_IDEMPOTENCY_TOKEN_TTL    3600


static void ngx_http_idempotency_token_keys(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_idem_token_keys_t *keys);
static char *ngx_http_idempotency_add_secret(ngx_conf_t *cf,
    ngx_array_t *secrets, ngx_str_t *name);
static char *ngx_http_idempotency_read_secret(ngx_conf_t *cf,
    ngx_str_t *name, ngx_idem_span_t *secret);
static ngx_http_idempotency_ref_t *ngx_http_idempotency_here(ngx_conf_t *cf);
static char *ngx_http_idempotency_check_token_key(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *conf);
static ngx_int_t ngx_http_idempotency_issue_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_issue_method(ngx_http_request_t *r);
static ngx_int_t ngx_http_idempotency_issue_refused(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf);
static ngx_int_t ngx_http_idempotency_issue_send(ngx_http_request_t *r,
    ngx_str_t *token, uint64_t expires_s);
static ngx_int_t ngx_http_idempotency_fresh_token(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf, u_char *scope, ngx_str_t *token,
    uint64_t *expires_s);
static ngx_int_t ngx_http_idempotency_scope_digest(ngx_http_request_t *r,
    ngx_array_t *scope, u_char *digest);


static ngx_str_t  ngx_http_idempotency_token_name =
    ngx_string("Idempotency-Token");


/* Before anything is claimed; ngx_http_idempotency_token_renew() answers. */

ngx_int_t
ngx_http_idempotency_token_check(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx, ngx_array_t *keys, ngx_array_t *scope)
{
    u_char                               digest[NGX_IDEM_DIGEST_LEN];
    ngx_str_t                           *key;
    ngx_idem_token_keys_t                tk;
    ngx_idem_token_answer_e              answer;
    ngx_http_idempotency_token_conf_t   *tc;

    tc = &ctx->ilcf->token;
    key = keys->elts;

    if (ngx_http_idempotency_scope_digest(r, scope, digest) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_idempotency_token_keys(r, ctx->ilcf, &tk);

    answer = ngx_idem_token_verify(ngx_http_idempotency_span(&key[0]), digest,
                                   &tk, (uint64_t) ngx_time());

    if (answer == NGX_IDEM_TOKEN_FAILED) {
        return NGX_ERROR;
    }

    if (answer == NGX_IDEM_TOKEN_INVALID) {
        return NGX_HTTP_FORBIDDEN;
    }

    ctx->token_expires_s = ngx_idem_token_expires_s(
                                         ngx_http_idempotency_span(&key[0]));

    ctx->op.known = (answer == NGX_IDEM_TOKEN_EXPIRED);

    if (answer == NGX_IDEM_TOKEN_EXPIRED || !tc->rotate
        || ctx->ilcf->dry_run)
    {
        return NGX_OK;
    }

    ctx->token_scope = ngx_pnalloc(r->pool, NGX_IDEM_DIGEST_LEN);
    if (ctx->token_scope == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(ctx->token_scope, digest, NGX_IDEM_DIGEST_LEN);

    return NGX_OK;
}


uint32_t
ngx_http_idempotency_token_left_s(ngx_http_idempotency_ctx_t *ctx)
{
    uint64_t  now_s;

    now_s = (uint64_t) ngx_time();

    if (ctx->token_expires_s <= now_s) {
        return 0;
    }

    return (uint32_t) ngx_min(ctx->token_expires_s - now_s, NGX_IDEM_TTL_MAX);
}


/*
 * An answer that is whole and recorded is not given up because there is no
 * memory for a token.
 */

void
ngx_http_idempotency_token_renew(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    uint64_t                       expires_s;
    ngx_str_t                      token;
    ngx_table_elt_t               *h;
    ngx_http_idempotency_place_t   pl;

    if (ctx->token_scope == NULL) {
        return;
    }

    pl.part = &r->headers_out.headers.part;
    pl.i = 0;

    for ( ;; ) {

        h = ngx_http_idempotency_next_field(&pl,
                                            &ngx_http_idempotency_token_name);
        if (h == NULL) {
            break;
        }

        h->hash = 0;
    }

    if (ngx_http_idempotency_fresh_token(r, ctx->ilcf, ctx->token_scope,
                                         &token, &expires_s)
        != NGX_OK
        || ngx_http_idempotency_add_field(&r->headers_out.headers,
                                          &ngx_http_idempotency_token_name,
                                          &token)
           == NULL)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "idempotency: no fresh token could be issued");
    }
}


/* The location that issues tokens. */

static ngx_int_t
ngx_http_idempotency_issue_handler(ngx_http_request_t *r)
{
    u_char                            digest[NGX_IDEM_DIGEST_LEN];
    uint64_t                          expires_s;
    ngx_int_t                         rc;
    ngx_str_t                         token;
    ngx_array_t                       scope;
    ngx_http_idempotency_loc_conf_t  *ilcf;

    rc = ngx_http_idempotency_issue_method(r);

    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ilcf = ngx_http_get_module_loc_conf(r, ngx_http_idempotency_module);

    rc = ngx_http_idempotency_scope(r, ilcf, &scope);

    if (rc > NGX_OK) {
        return ngx_http_idempotency_issue_refused(r, ilcf);
    }

    if (rc != NGX_OK
        || ngx_http_idempotency_scope_digest(r, &scope, digest) != NGX_OK
        || ngx_http_idempotency_fresh_token(r, ilcf, digest, &token,
                                            &expires_s)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_idempotency_issue_send(r, &token, expires_s);
}


static ngx_int_t
ngx_http_idempotency_issue_method(ngx_http_request_t *r)
{
    ngx_str_t  name = ngx_string("Allow");
    ngx_str_t  value = ngx_string("GET, HEAD, POST");

    if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_POST)) {
        return NGX_OK;
    }

    return ngx_http_idempotency_add_field(&r->headers_out.headers, &name,
                                          &value)
               ? NGX_HTTP_NOT_ALLOWED : NGX_HTTP_INTERNAL_SERVER_ERROR;
}


/* A content handler's request is finalized once more when it returns. */

static ngx_int_t
ngx_http_idempotency_issue_refused(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf)
{
    ngx_int_t                    rc;
    ngx_http_idempotency_ctx_t  *ctx;

    ctx = ngx_http_idempotency_create_ctx(r, ilcf);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->told = NGX_IDEM_STAT_SCOPE_MISSING;
    ngx_http_idempotency_move(ctx, NGX_HTTP_IDEMPOTENCY_REJECTED);

    r->main->count++;

    rc = ngx_http_idempotency_reject(r, ctx);

    if (rc != NGX_DONE) {
        r->main->count--;
    }

    return rc;
}


/* {"token":"...","expires":...} */

static ngx_int_t
ngx_http_idempotency_issue_send(ngx_http_request_t *r, ngx_str_t *token,
    uint64_t expires_s)
{
    ngx_str_t                 type = ngx_string("application/json");
    ngx_str_t                 name = ngx_string("Cache-Control");
    ngx_str_t                 no_store = ngx_string("no-store");
    ngx_http_complex_value_t  cv;

    ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));

    cv.value.data = ngx_pnalloc(r->pool,
                                sizeof("{\"token\":\"\",\"expires\":}\n") - 1
                                + token->len + NGX_INT64_LEN);

    if (cv.value.data == NULL
        || ngx_http_idempotency_add_field(&r->headers_out.headers, &name,
                                          &no_store)
           == NULL
        || ngx_http_idempotency_add_field(&r->headers_out.headers,
                                          &ngx_http_idempotency_token_name,
                                          token)
           == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cv.value.len = ngx_sprintf(cv.value.data,
                               "{\"token\":\"%V\",\"expires\":%uL}\n",
                               token, expires_s)
                   - cv.value.data;

    r->disable_not_modified = 1;

    return ngx_http_send_response(r, NGX_HTTP_OK, &type, &cv);
}


static ngx_int_t
ngx_http_idempotency_fresh_token(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf, u_char *scope, ngx_str_t *token,
    uint64_t *expires_s)
{
    u_char                             nonce[NGX_IDEM_TOKEN_RANDOM_LEN];
    ngx_idem_token_keys_t              tk;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);
    ngx_http_idempotency_token_keys(r, ilcf, &tk);

    token->len = NGX_IDEM_TOKEN_LEN;

    token->data = ngx_pnalloc(r->pool, token->len);
    if (token->data == NULL) {
        return NGX_ERROR;
    }

    *expires_s = (uint64_t) (ngx_time() + ilcf->token.ttl);

    if (ngx_http_idempotency_random(imcf, nonce, sizeof(nonce)) != NGX_OK
        || ngx_idem_token_issue(token->data, *expires_s, nonce, scope,
                                &tk)
           != 0)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_idempotency_token_keys(ngx_http_request_t *r,
    ngx_http_idempotency_loc_conf_t *ilcf, ngx_idem_token_keys_t *keys)
{
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    keys->md = imcf->digest;
    keys->type = imcf->sha256;
    keys->secrets = ilcf->token.secrets->elts;
    keys->n = ilcf->token.secrets->nelts;
}


static ngx_int_t
ngx_http_idempotency_scope_digest(ngx_http_request_t *r, ngx_array_t *scope,
    u_char *digest)
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

    return (ngx_idem_digest_final(&dg, digest) == 0) ? NGX_OK : NGX_ERROR;
}


/* idempotency_token_secret file [file]; */

char *
ngx_http_idempotency_token_secret(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    char         *rv;
    ngx_str_t    *value;
    ngx_uint_t    i;
    ngx_array_t  *secrets;

    if (ilcf->token.secrets != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    secrets = ngx_array_create(cf->pool, 2, sizeof(ngx_idem_token_secret_t));
    if (secrets == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        rv = ngx_http_idempotency_add_secret(cf, secrets, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    ilcf->token.secrets = secrets;

    return NGX_CONF_OK;
}


static char *
ngx_http_idempotency_add_secret(ngx_conf_t *cf, ngx_array_t *secrets,
    ngx_str_t *name)
{
    char                              *rv;
    ngx_idem_span_t                    bytes;
    ngx_idem_token_secret_t           *secret;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);

    secret = ngx_array_push(secrets);

    if (secret == NULL
        || ngx_http_idempotency_init_crypto(cf, imcf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    rv = ngx_http_idempotency_read_secret(cf, name, &bytes);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (ngx_idem_token_secret(secret, bytes, imcf->digest, imcf->sha256)
        != 0)
    {
        return "cannot be hashed";
    }

    return NGX_CONF_OK;
}


/*
 * All of the file is the secret, but line ends at its end: some editors leave
 * one there, and others do not.
 */

static char *
ngx_http_idempotency_read_secret(ngx_conf_t *cf, ngx_str_t *name,
    ngx_idem_span_t *secret)
{
    u_char    *buf;
    ssize_t    n;
    ngx_fd_t   fd;

    if (ngx_conf_full_name(cf->cycle, name, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    buf = ngx_pnalloc(cf->pool, NGX_HTTP_IDEMPOTENCY_SECRET_MAX + 1);
    if (buf == NULL) {
        return NGX_CONF_ERROR;
    }

    fd = ngx_open_file(name->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", name);
        return NGX_CONF_ERROR;
    }

    n = ngx_read_fd(fd, buf, NGX_HTTP_IDEMPOTENCY_SECRET_MAX + 1);

    if (n == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_read_fd_n " \"%V\" failed", name);
    }

    (void) ngx_close_file(fd);

    if (n == -1) {
        return NGX_CONF_ERROR;
    }

    if (n > NGX_HTTP_IDEMPOTENCY_SECRET_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret in \"%V\" is longer than %d bytes", name,
                           NGX_HTTP_IDEMPOTENCY_SECRET_MAX);
        return NGX_CONF_ERROR;
    }

    while (n && (buf[n - 1] == LF || buf[n - 1] == CR)) {
        n--;
    }

    if (n < NGX_IDEM_TOKEN_SECRET_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret in \"%V\" is shorter than %d bytes", name,
                           NGX_IDEM_TOKEN_SECRET_MIN);
        return NGX_CONF_ERROR;
    }

    secret->data = buf;
    secret->len = (size_t) n;

    return NGX_CONF_OK;
}


/* idempotency_token_ttl time; */

char *
ngx_http_idempotency_token_ttl(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_int_t   s;
    ngx_str_t  *value;

    if (ilcf->token.ttl != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    s = ngx_parse_time(&value[1], 1);

    if (s == NGX_ERROR || s == 0 || s > NGX_MAX_INT32_VALUE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid time \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    ilcf->token.ttl = s;

    return NGX_CONF_OK;
}


/* idempotency_token_issue; */

char *
ngx_http_idempotency_token_issue(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_http_core_loc_conf_t  *clcf;

    if (ilcf->token.issue) {
        return "is duplicate";
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    ilcf->token.issue = ngx_http_idempotency_here(cf);

    if (ilcf->token.issue == NULL) {
        return NGX_CONF_ERROR;
    }

    clcf->handler = ngx_http_idempotency_issue_handler;

    return NGX_CONF_OK;
}


/* idempotency_required token; */

char *
ngx_http_idempotency_token_required(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *ilcf)
{
    ilcf->required = NGX_HTTP_IDEMPOTENCY_REQUIRED_TOKEN;
    ilcf->token.required = ngx_http_idempotency_here(cf);

    return ilcf->token.required ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_http_idempotency_ref_t *
ngx_http_idempotency_here(ngx_conf_t *cf)
{
    ngx_http_idempotency_ref_t  *ref;

    ref = ngx_pcalloc(cf->pool, sizeof(ngx_http_idempotency_ref_t));

    if (ref) {
        ref->file = cf->conf_file->file.name;
        ref->line = cf->conf_file->line;
    }

    return ref;
}


/*
 * set by ngx_pcalloc():
 *
 *     conf->token.required = NULL;
 *     conf->token.issue = NULL;
 */

void
ngx_http_idempotency_token_unset(ngx_http_idempotency_token_conf_t *tc)
{
    tc->secrets = NGX_CONF_UNSET_PTR;
    tc->ttl = NGX_CONF_UNSET;
    tc->rotate = NGX_CONF_UNSET;
}


/* Comes when all else has been merged: a token must fit what a key may be. */

char *
ngx_http_idempotency_merge_token(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *prev,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_http_idempotency_ref_t  *ref;

    ngx_conf_merge_ptr_value(conf->token.secrets, prev->token.secrets, NULL);
    ngx_conf_merge_value(conf->token.ttl, prev->token.ttl,
                         NGX_HTTP_IDEMPOTENCY_TOKEN_TTL);
    ngx_conf_merge_value(conf->token.rotate, prev->token.rotate, 0);

    if (conf->required == NGX_HTTP_IDEMPOTENCY_REQUIRED_TOKEN
        && conf->token.required == NULL)
    {
        conf->token.required = prev->token.required;
    }

    ref = conf->token.issue;

    if (ref && conf->token.secrets == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"idempotency_token_issue\" needs "
                      "\"idempotency_token_secret\" in %V:%ui",
                      &ref->file, ref->line);
        return NGX_CONF_ERROR;
    }

    if (conf->store == NULL
        || conf->required != NGX_HTTP_IDEMPOTENCY_REQUIRED_TOKEN)
    {
        return NGX_CONF_OK;
    }

    return ngx_http_idempotency_check_token_key(cf, conf);
}


static char *
ngx_http_idempotency_check_token_key(ngx_conf_t *cf,
    ngx_http_idempotency_loc_conf_t *conf)
{
    ngx_http_idempotency_ref_t  *ref;

    ref = conf->token.required;

    if (conf->token.secrets == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"idempotency_required token\" needs "
                      "\"idempotency_token_secret\" in %V:%ui",
                      &ref->file, ref->line);
        return NGX_CONF_ERROR;
    }

    if (conf->format == NGX_IDEM_KEY_UUID
        || conf->length_min > NGX_IDEM_TOKEN_LEN
        || conf->length_max < NGX_IDEM_TOKEN_LEN)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"idempotency_required token\" needs a format and a "
                      "length of keys that a token of %d characters has "
                      "in %V:%ui",
                      NGX_IDEM_TOKEN_LEN, &ref->file, ref->line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
