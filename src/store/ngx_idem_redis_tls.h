
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * TLS to Redis: as to any upstream, but the certificate is always verified.
 */


#ifndef _NGX_IDEM_REDIS_TLS_H_INCLUDED_
#define _NGX_IDEM_REDIS_TLS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * Begins the handshake on a connection that has a pool.  NGX_OK: it is done;
 * NGX_AGAIN: the handler comes when it is done or has failed; NGX_ERROR: it
 * has failed, and why was logged.
 */
ngx_int_t ngx_idem_redis_tls_start(ngx_connection_t *c, void *ssl,
    const ngx_str_t *name, ngx_connection_handler_pt handler);

/* After the handshake: NGX_OK, or NGX_ERROR, and why was logged. */
ngx_int_t ngx_idem_redis_tls_verify(ngx_connection_t *c,
    const ngx_str_t *name);

/* Before the connection is closed; waits for nobody. */
void ngx_idem_redis_tls_free(ngx_connection_t *c);


#endif /* _NGX_IDEM_REDIS_TLS_H_INCLUDED_ */
