
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include "core/ngx_idem_guard.h"


static size_t ngx_idem_guard_get(const uint8_t *p);
static uint8_t *ngx_idem_guard_put(uint8_t *p, size_t n);
static uint8_t *ngx_idem_guard_copy(uint8_t *p, const void *data, size_t len);


int
ngx_idem_guard_read(ngx_idem_guard_t *gd, ngx_idem_span_t bytes)
{
    const uint8_t  *p;

    if (bytes.len < NGX_IDEM_GUARD_HEAD) {
        return -1;
    }

    p = bytes.data;

    gd->value.len = ngx_idem_guard_get(p);
    gd->pending.len = ngx_idem_guard_get(p + 2);
    gd->nqueue = ngx_idem_guard_get(p + 4);

    if (ngx_idem_guard_size(gd) != bytes.len) {
        return -1;
    }

    gd->value.data = p + NGX_IDEM_GUARD_HEAD;
    gd->pending.data = gd->value.data + gd->value.len;

    (void) ngx_idem_guard_copy((uint8_t *) gd->queue,
                               gd->pending.data + gd->pending.len,
                               gd->nqueue * NGX_IDEM_GUARD_WAITER);

    return 0;
}


size_t
ngx_idem_guard_size(const ngx_idem_guard_t *gd)
{
    if (gd->value.len > NGX_IDEM_GUARD_VALUE
        || gd->pending.len > NGX_IDEM_GUARD_PENDING
        || gd->nqueue > NGX_IDEM_GUARD_QUEUE)
    {
        return 0;
    }

    return NGX_IDEM_GUARD_HEAD + gd->value.len + gd->pending.len
           + gd->nqueue * NGX_IDEM_GUARD_WAITER;
}


uint8_t *
ngx_idem_guard_write(const ngx_idem_guard_t *gd, uint8_t *p)
{
    p = ngx_idem_guard_put(p, gd->value.len);
    p = ngx_idem_guard_put(p, gd->pending.len);
    p = ngx_idem_guard_put(p, gd->nqueue);

    p = ngx_idem_guard_copy(p, gd->value.data, gd->value.len);
    p = ngx_idem_guard_copy(p, gd->pending.data, gd->pending.len);

    return ngx_idem_guard_copy(p, gd->queue,
                               gd->nqueue * NGX_IDEM_GUARD_WAITER);
}


int
ngx_idem_guard_is_empty(const ngx_idem_guard_t *gd)
{
    return gd->value.len == 0 && gd->pending.len == 0 && gd->nqueue == 0;
}


size_t
ngx_idem_guard_find(const ngx_idem_guard_t *gd, const uint8_t *owner)
{
    size_t  i;

    for (i = 0; i < gd->nqueue; i++) {
        if (memcmp(gd->queue[i].owner, owner, NGX_IDEM_OWNER_LEN) == 0) {
            break;
        }
    }

    return i;
}


int
ngx_idem_guard_join(ngx_idem_guard_t *gd, const uint8_t *owner,
    const uint8_t *about, size_t limit)
{
    ngx_idem_guard_waiter_t  *w;

    if (gd->nqueue >= limit || gd->nqueue >= NGX_IDEM_GUARD_QUEUE) {
        return -1;
    }

    w = &gd->queue[gd->nqueue];
    gd->nqueue++;

    memcpy(w->owner, owner, sizeof(w->owner));
    memcpy(w->about, about, sizeof(w->about));

    return 0;
}


void
ngx_idem_guard_leave(ngx_idem_guard_t *gd, size_t i)
{
    if (i >= gd->nqueue) {
        return;
    }

    gd->nqueue--;

    memmove(&gd->queue[i], &gd->queue[i + 1],
            (gd->nqueue - i) * sizeof(ngx_idem_guard_waiter_t));
}


static size_t
ngx_idem_guard_get(const uint8_t *p)
{
    return (size_t) p[0] << 8 | p[1];
}


static uint8_t *
ngx_idem_guard_put(uint8_t *p, size_t n)
{
    p[0] = (uint8_t) (n >> 8);
    p[1] = (uint8_t) n;

    return p + 2;
}


/* A span of no byte may be nowhere. */

static uint8_t *
ngx_idem_guard_copy(uint8_t *p, const void *data, size_t len)
{
    if (len) {
        memcpy(p, data, len);
    }

    return p + len;
}
