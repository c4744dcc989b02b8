
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Every difference between the versions of nginx that this module is built
 * against: 1.22.0 and later.
 */


#ifndef _NGX_HTTP_IDEMPOTENCY_COMPAT_H_INCLUDED_
#define _NGX_HTTP_IDEMPOTENCY_COMPAT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <openssl/evp.h>


#if (nginx_version < 1022000)
#error "nginx 1.22.0 or later is needed: earlier ones lose request bodies"
#endif


/*
 * Since 1.23.0 fields of one name are linked, and headers_out keeps the first
 * of them; before, headers_out had arrays of Cache-Control and Link.
 */

#if (nginx_version >= 1023000)

#define ngx_http_idempotency_note(r, field, h)                                \
    ngx_http_idempotency_link(&(r)->headers_out.field, h)


static ngx_inline ngx_int_t
ngx_http_idempotency_link(ngx_table_elt_t **ph, ngx_table_elt_t *h)
{
    while (*ph) {
        ph = &(*ph)->next;
    }

    *ph = h;

    return NGX_OK;
}

#else

#define ngx_http_idempotency_note(r, field, h)                                \
    ngx_http_idempotency_push(&(r)->headers_out.field, (r)->pool, h)


static ngx_inline ngx_int_t
ngx_http_idempotency_push(ngx_array_t *a, ngx_pool_t *pool, ngx_table_elt_t *h)
{
    ngx_table_elt_t  **ph;

    if (a->elts == NULL
        && ngx_array_init(a, pool, 1, sizeof(ngx_table_elt_t *)) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ph = ngx_array_push(a);
    if (ph == NULL) {
        return NGX_ERROR;
    }

    *ph = h;

    return NGX_OK;
}

#endif


/* OpenSSL 3 looks a digest up by name each time unless it is fetched. */

#if (OPENSSL_VERSION_NUMBER >= 0x30000000L)

#define ngx_http_idempotency_sha256()                                         \
    EVP_MD_fetch(NULL, "SHA256", NULL)
#define ngx_http_idempotency_sha256_free(md)                                  \
    EVP_MD_free((EVP_MD *) (uintptr_t) (md))

#else

#define ngx_http_idempotency_sha256()         EVP_sha256()
#define ngx_http_idempotency_sha256_free(md)  (void) (md)

#endif


#endif /* _NGX_HTTP_IDEMPOTENCY_COMPAT_H_INCLUDED_ */
