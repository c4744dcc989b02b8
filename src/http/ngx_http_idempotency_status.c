
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_status_handler(ngx_http_request_t *r);
static size_t ngx_http_idempotency_zones_size(
    ngx_http_idempotency_main_conf_t *imcf);
static u_char *ngx_http_idempotency_write_zone(u_char *p,
    ngx_idem_store_t *st);


char *
ngx_http_idempotency_status_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler == ngx_http_idempotency_status_handler) {
        return "is duplicate";
    }

    clcf->handler = ngx_http_idempotency_status_handler;

    return NGX_CONF_OK;
}


/* {"zones":{"name":{...},...}} */

static ngx_int_t
ngx_http_idempotency_status_handler(ngx_http_request_t *r)
{
    u_char                             *p;
    ngx_str_t                           type = ngx_string("application/json");
    ngx_uint_t                          i;
    ngx_idem_store_t                  **st;
    ngx_http_complex_value_t            cv;
    ngx_http_idempotency_main_conf_t   *imcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    imcf = ngx_http_get_module_main_conf(r, ngx_http_idempotency_module);

    p = ngx_pnalloc(r->pool, ngx_http_idempotency_zones_size(imcf));
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));
    cv.value.data = p;

    p = ngx_cpymem(p, "{\"zones\":{", sizeof("{\"zones\":{") - 1);

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {

        if (i) {
            *p++ = ',';
        }

        p = ngx_http_idempotency_write_zone(p, st[i]);
    }

    p = ngx_cpymem(p, "}}" CRLF, sizeof("}}" CRLF) - 1);

    cv.value.len = p - cv.value.data;

    return ngx_http_send_response(r, NGX_HTTP_OK, &type, &cv);
}


static size_t
ngx_http_idempotency_zones_size(ngx_http_idempotency_main_conf_t *imcf)
{
    size_t              len;
    ngx_uint_t          i;
    ngx_idem_store_t  **st;

    len = sizeof("{\"zones\":{}}" CRLF);

    st = imcf->stores.elts;

    for (i = 0; i < imcf->stores.nelts; i++) {

        len += st[i]->name.len
               + ngx_escape_json(NULL, st[i]->name.data, st[i]->name.len)
               + sizeof(",\"\":{\"size\":,\"block\":,\"blocks\":,\"free\":,"
                        "\"records\":{\"running\":,\"done\":,\"unstored\":,"
                        "\"unknown\":},\"guards\":{\"held\":,\"known\":},"
                        "\"waiting\":,\"counters\":{}}")
               + 11 * NGX_INT_T_LEN;
    }

#if (NGX_HAVE_HIREDIS)
    len += imcf->stores.nelts * ngx_http_idempotency_status_redis_size();
#endif

    for (i = 0; i < NGX_IDEM_STAT_N; i++) {
        len += imcf->stores.nelts * (ngx_idem_stat_names[i].len
                                     + sizeof("\"\":,") + NGX_ATOMIC_T_LEN);
    }

    return len;
}


static u_char *
ngx_http_idempotency_write_zone(u_char *p, ngx_idem_store_t *st)
{
    ngx_uint_t           i;
    ngx_idem_snapshot_t  sn;

    st->verbs->snapshot(st, &sn);

    *p++ = '"';
    p = (u_char *) ngx_escape_json(p, st->name.data, st->name.len);

    p = ngx_sprintf(p, "\":{\"size\":%uz,\"block\":%uz,\"blocks\":%ui,"
                    "\"free\":%ui,\"records\":{\"running\":%ui,\"done\":%ui,"
                    "\"unstored\":%ui,\"unknown\":%ui},"
                    "\"guards\":{\"held\":%ui,\"known\":%ui},"
                    "\"waiting\":%ui,\"counters\":{",
                    sn.size, sn.block, sn.blocks, sn.free, sn.running,
                    sn.done, sn.unstored, sn.unknown, sn.held, sn.known,
                    sn.waiting);

    for (i = 0; i < NGX_IDEM_STAT_N; i++) {
        p = ngx_sprintf(p, "%s\"%V\":%uA", i ? "," : "",
                        &ngx_idem_stat_names[i], st->stat->count[i]);
    }

    *p++ = '}';

#if (NGX_HAVE_HIREDIS)
    if (sn.redis) {
        p = ngx_http_idempotency_status_redis(p, sn.redis);
    }
#endif

    *p++ = '}';

    return p;
}
