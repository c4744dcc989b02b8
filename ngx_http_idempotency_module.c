
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "http/ngx_http_idempotency.h"


static ngx_int_t ngx_http_idempotency_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_idempotency_add_handler(ngx_conf_t *cf,
    ngx_http_phases phase, ngx_http_handler_pt handler);
static void ngx_http_idempotency_check_order(ngx_conf_t *cf);


static ngx_http_module_t  ngx_http_idempotency_module_ctx = {
    ngx_http_idempotency_add_variables,    /* preconfiguration */
    ngx_http_idempotency_init,             /* postconfiguration */

    ngx_http_idempotency_create_main_conf, /* create main configuration */
    ngx_http_idempotency_init_main_conf,   /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_idempotency_create_loc_conf,  /* create location configuration */
    ngx_http_idempotency_merge_loc_conf    /* merge location configuration */
};


ngx_module_t  ngx_http_idempotency_module = {
    NGX_MODULE_V1,
    &ngx_http_idempotency_module_ctx,      /* module context */
    ngx_http_idempotency_commands,         /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_idempotency_init_process,     /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_idempotency_exit_process,     /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_idempotency_init(ngx_conf_t *cf)
{
    ngx_http_idempotency_main_conf_t  *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module);

    if (imcf->stores.nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_idempotency_add_handler(cf, NGX_HTTP_PREACCESS_PHASE,
                                       ngx_http_idempotency_preaccess_handler)
        != NGX_OK
        || ngx_http_idempotency_add_handler(cf, NGX_HTTP_ACCESS_PHASE,
                                          ngx_http_idempotency_access_handler)
           != NGX_OK
        || ngx_http_idempotency_add_handler(cf, NGX_HTTP_PRECONTENT_PHASE,
                                      ngx_http_idempotency_precontent_handler)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_http_idempotency_check_order(cf);
    ngx_http_idempotency_filter_init();
    ngx_http_idempotency_request_body_filter_init();

    return NGX_OK;
}


static ngx_int_t
ngx_http_idempotency_add_handler(ngx_conf_t *cf, ngx_http_phases phase,
    ngx_http_handler_pt handler)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[phase].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = handler;

    return NGX_OK;
}


/*
 * A filter that was loaded behind us sees the response before us: what it
 * adds would be stored, and added once more on each replay.
 */

static void
ngx_http_idempotency_check_order(ngx_conf_t *cf)
{
    ngx_uint_t      i;
    ngx_module_t  **modules;

    modules = cf->cycle->modules;

    for (i = 0; modules[i] && modules[i + 1]; i++) {

        if (modules[i] != &ngx_http_idempotency_module) {
            continue;
        }

        if (ngx_strcmp(modules[i + 1]->name, "ngx_http_copy_filter_module")
            != 0)
        {
            ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                          "idempotency: load ngx_http_idempotency_module "
                          "behind %s, whose filter would be stored",
                          modules[i + 1]->name);
        }

        return;
    }
}
