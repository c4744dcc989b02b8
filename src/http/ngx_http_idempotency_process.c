
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"

#include <openssl/rand.h>


/* Bytes that one call of the generator is good for: 256 claims. */

#define NGX_HTTP_IDEMPOTENCY_ENTROPY  4096


static void ngx_http_idempotency_free_crypto(void *data);
static void ngx_http_idempotency_wake_handler(void *data);
static void ngx_http_idempotency_timeout_handler(void *data);


/* SHA-256 is looked up once, as each look-up costs more than a digest. */

ngx_int_t
ngx_http_idempotency_init_crypto(ngx_conf_t *cf,
    ngx_http_idempotency_main_conf_t *imcf)
{
    ngx_pool_cleanup_t  *cln;

    if (imcf->digest) {
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_idempotency_free_crypto;
    cln->data = imcf;

    imcf->sha256 = ngx_http_idempotency_sha256();
    imcf->digest = EVP_MD_CTX_new();
    imcf->entropy = ngx_palloc(cf->pool, NGX_HTTP_IDEMPOTENCY_ENTROPY);

    if (imcf->sha256 == NULL
        || imcf->digest == NULL
        || imcf->entropy == NULL)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "idempotency: SHA-256 is not available");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_idempotency_free_crypto(void *data)
{
    ngx_http_idempotency_main_conf_t  *imcf = data;

    EVP_MD_CTX_free(imcf->spare);
    EVP_MD_CTX_free(imcf->digest);
    ngx_http_idempotency_sha256_free(imcf->sha256);
}


/* What the master may have drawn before the fork is known to all workers. */

ngx_int_t
ngx_http_idempotency_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                         i;
    ngx_idem_store_t                 **st;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_idempotency_module);

    if (imcf == NULL) {
        return NGX_OK;
    }

    imcf->nentropy = 0;

    if (ngx_http_idempotency_fields_init(cycle, imcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (imcf->worker == NULL) {
        return NGX_OK;
    }

    if (ngx_idem_worker_init(imcf->worker, cycle,
                             ngx_http_idempotency_wake_handler,
                             ngx_http_idempotency_timeout_handler, imcf)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /*
     * A worker in whose place this one begins may have left claims.  They end
     * now, and not when the master last looked at the clock.
     */

    ngx_time_update();

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {

        if (st[i]->verbs->begin(st[i], cycle) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* A worker that was terminated has not ended its requests. */

void
ngx_http_idempotency_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                         i;
    ngx_queue_t                       *q;
    ngx_idem_store_t                 **st;
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_idempotency_module);

    if (imcf == NULL || imcf->worker == NULL) {
        return;
    }

    while (!ngx_queue_empty(&imcf->requests)) {
        q = ngx_queue_head(&imcf->requests);

        ngx_http_idempotency_cleanup(
                         ngx_queue_data(q, ngx_http_idempotency_ctx_t, queue));
    }

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {
        st[i]->verbs->end(st[i]);
    }

    ngx_idem_worker_exit(imcf->worker);
}


static void
ngx_http_idempotency_wake_handler(void *data)
{
    ngx_http_idempotency_main_conf_t *imcf = data;

    ngx_uint_t          i;
    ngx_idem_store_t  **st;

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {
        st[i]->verbs->tick(st[i]);
    }
}


/*
 * The time that a worker has to shut down is over.  nginx ends the requests of
 * the connections that are there; what goes on without its client is not
 * reached, if its connection had other streams, or is gone.
 */

static void
ngx_http_idempotency_timeout_handler(void *data)
{
    ngx_http_idempotency_main_conf_t *imcf = data;

    ngx_queue_t                 *q, ending;
    ngx_connection_t            *c;
    ngx_http_idempotency_ctx_t  *ctx;

    ngx_queue_init(&ending);
    ngx_queue_add(&ending, &imcf->requests);
    ngx_queue_init(&imcf->requests);

    while (!ngx_queue_empty(&ending)) {
        q = ngx_queue_head(&ending);

        ngx_queue_remove(q);
        ngx_queue_insert_tail(&imcf->requests, q);

        ctx = ngx_queue_data(q, ngx_http_idempotency_ctx_t, queue);
        c = ctx->request->connection;

        c->close = 1;
        c->error = 1;
        c->read->handler(c->read);
    }
}


ngx_int_t
ngx_http_idempotency_random(ngx_http_idempotency_main_conf_t *imcf, u_char *p,
    size_t n)
{
    if (imcf->nentropy < n) {

        if (RAND_bytes(imcf->entropy, NGX_HTTP_IDEMPOTENCY_ENTROPY) != 1) {
            return NGX_ERROR;
        }

        imcf->nentropy = NGX_HTTP_IDEMPOTENCY_ENTROPY;
    }

    imcf->nentropy -= n;

    ngx_memcpy(p, imcf->entropy + imcf->nentropy, n);

    return NGX_OK;
}
