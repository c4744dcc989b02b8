
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_tls.h"


#if (NGX_SSL)

static ngx_int_t ngx_idem_redis_tls_name(ngx_connection_t *c,
    const ngx_str_t *name);
static ngx_uint_t ngx_idem_redis_tls_literal(const ngx_str_t *name);
static ngx_int_t ngx_idem_redis_tls_address(ngx_connection_t *c,
    const ngx_str_t *name);


ngx_int_t
ngx_idem_redis_tls_start(ngx_connection_t *c, void *ssl,
    const ngx_str_t *name, ngx_connection_handler_pt handler)
{
    ngx_int_t  rc;

    if (ngx_ssl_create_connection(ssl, c, NGX_SSL_CLIENT) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_idem_redis_tls_name(c, name) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_ssl_handshake(c);

    if (rc == NGX_AGAIN) {
        c->ssl->handler = handler;
    }

    return rc;
}


/* RFC 6066, section 3: an address is no name. */

static ngx_int_t
ngx_idem_redis_tls_name(ngx_connection_t *c, const ngx_str_t *name)
{
    u_char  *p;

    if (name->len == 0 || ngx_idem_redis_tls_literal(name)) {
        return NGX_OK;
    }

    p = ngx_pnalloc(c->pool, name->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_cpystrn(p, name->data, name->len + 1);

    if (SSL_set_tlsext_host_name(c->ssl->connection, (char *) p) == 0) {
        ngx_ssl_error(NGX_LOG_ERR, c->log, 0,
                      "idempotency: SSL_set_tlsext_host_name(\"%s\") failed",
                      p);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_idem_redis_tls_literal(const ngx_str_t *name)
{
    return ngx_inet_addr(name->data, name->len) != INADDR_NONE
           || ngx_strlchr(name->data, name->data + name->len, ':') != NULL;
}


ngx_int_t
ngx_idem_redis_tls_verify(ngx_connection_t *c, const ngx_str_t *name)
{
    long       rc;
    ngx_str_t  host;

    if (!c->ssl->handshaked) {
        return NGX_ERROR;
    }

    rc = SSL_get_verify_result(c->ssl->connection);

    if (rc != X509_V_OK) {
        ngx_log_error(NGX_LOG_ERR, c->log, 0,
                      "idempotency: certificate of redis: verify error: "
                      "(%l:%s)", rc, X509_verify_cert_error_string(rc));
        return NGX_ERROR;
    }

    host = *name;

    if (ngx_idem_redis_tls_address(c, name) == NGX_OK
        || ngx_ssl_check_host(c, &host) == NGX_OK)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, c->log, 0,
                  "idempotency: certificate of redis does not match \"%V\"",
                  name);

    return NGX_ERROR;
}


/* nginx compares names only, and nodes of a cluster are known by addresses. */

static ngx_int_t
ngx_idem_redis_tls_address(ngx_connection_t *c, const ngx_str_t *name)
{
    int      found;
    X509    *cert;
    u_char   text[NGX_SOCKADDR_STRLEN + 1];

    if (name->len > NGX_SOCKADDR_STRLEN || !ngx_idem_redis_tls_literal(name)) {
        return NGX_DECLINED;
    }

    cert = SSL_get_peer_certificate(c->ssl->connection);
    if (cert == NULL) {
        return NGX_DECLINED;
    }

    (void) ngx_cpystrn(text, name->data, name->len + 1);

    found = X509_check_ip_asc(cert, (char *) text, 0);

    X509_free(cert);

    return (found == 1) ? NGX_OK : NGX_DECLINED;
}


void
ngx_idem_redis_tls_free(ngx_connection_t *c)
{
    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;

        (void) ngx_ssl_shutdown(c);
    }
}

#else

ngx_int_t
ngx_idem_redis_tls_start(ngx_connection_t *c, void *ssl,
    const ngx_str_t *name, ngx_connection_handler_pt handler)
{
    return NGX_ERROR;
}


ngx_int_t
ngx_idem_redis_tls_verify(ngx_connection_t *c, const ngx_str_t *name)
{
    return NGX_ERROR;
}


void
ngx_idem_redis_tls_free(ngx_connection_t *c)
{
    /* void */
}

#endif
