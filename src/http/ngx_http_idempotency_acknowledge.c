
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * For who delivers messages and only wants to know that one has arrived: a
 * duplicate gets a status, and nothing of the first answer is kept.
 */


#include "http/ngx_http_idempotency.h"


#define NGX_HTTP_IDEMPOTENCY_ACKNOWLEDGE_OFF  0


/*
 * The record is an answer, as any other one: that of a duplicate.  Without
 * memory for it the record is unstored, which says enough here.
 */

void
ngx_http_idempotency_acknowledge_record(ngx_http_idempotency_ctx_t *ctx)
{
    size_t               size;
    ngx_buf_t           *b;
    ngx_uint_t           status;
    ngx_chain_t         *cl;
    ngx_http_request_t  *r;

    r = ctx->request;
    status = ctx->ilcf->acknowledge;

    ctx->op.record = NULL;
    ctx->op.size = 0;

    size = ngx_idem_record_start_size((unsigned) status, 0);

    b = ngx_create_temp_buf(r->pool, size);
    cl = ngx_alloc_chain_link(r->pool);

    if (b == NULL || cl == NULL) {
        return;
    }

    b->last = ngx_idem_record_start(b->last, (unsigned) status, 0);

    cl->buf = b;
    cl->next = NULL;

    ctx->op.record = cl;
    ctx->op.size = size;
}


/* Whatever the record has: it may be older than this configuration. */

ngx_int_t
ngx_http_idempotency_acknowledge(ngx_http_request_t *r,
    ngx_http_idempotency_ctx_t *ctx)
{
    if (ngx_http_idempotency_mark(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->err_status = 0;
    r->disable_not_modified = 1;
    r->header_only = 1;

    r->headers_out.status = ctx->ilcf->acknowledge;
    r->headers_out.content_length_n = 0;

    return ngx_http_send_header(r);
}


/* idempotency_acknowledge [status] | off; */

char *
ngx_http_idempotency_acknowledge_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_idempotency_loc_conf_t *ilcf = conf;

    ngx_int_t   status;
    ngx_str_t  *value;

    if (ilcf->acknowledge != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    if (cf->args->nelts == 1) {
        ilcf->acknowledge = NGX_HTTP_NO_CONTENT;
        return NGX_CONF_OK;
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->acknowledge = NGX_HTTP_IDEMPOTENCY_ACKNOWLEDGE_OFF;
        return NGX_CONF_OK;
    }

    status = ngx_atoi(value[1].data, value[1].len);

    if (status < 200 || status > 299 || status == NGX_HTTP_PARTIAL_CONTENT) {
        return "takes \"off\" or a status from 200 to 299 that is not 206";
    }

    ilcf->acknowledge = (ngx_uint_t) status;

    return NGX_CONF_OK;
}
