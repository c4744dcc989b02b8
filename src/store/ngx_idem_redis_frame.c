
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_redis_frame.h"


void
ngx_idem_redis_frame(const ngx_str_t *s)
{
    u_char    *p;
    uint32_t   crc;

    p = s->data;
    crc = ngx_crc32_long(p + NGX_IDEM_REDIS_FRAME,
                         s->len - NGX_IDEM_REDIS_FRAME);

    p[0] = NGX_IDEM_REDIS_VERSION;
    p[1] = (u_char) crc;
    p[2] = (u_char) (crc >> 8);
    p[3] = (u_char) (crc >> 16);
    p[4] = (u_char) (crc >> 24);
}


ngx_int_t
ngx_idem_redis_unframe(ngx_str_t *s)
{
    u_char    *p;
    uint32_t   crc;

    p = s->data;

    if (s->len < NGX_IDEM_REDIS_FRAME || p[0] != NGX_IDEM_REDIS_VERSION) {
        return NGX_ERROR;
    }

    crc = (uint32_t) p[1] | (uint32_t) p[2] << 8 | (uint32_t) p[3] << 16
          | (uint32_t) p[4] << 24;

    s->data += NGX_IDEM_REDIS_FRAME;
    s->len -= NGX_IDEM_REDIS_FRAME;

    return (ngx_crc32_long(s->data, s->len) == crc) ? NGX_OK : NGX_ERROR;
}
