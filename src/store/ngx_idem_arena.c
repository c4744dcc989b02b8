
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_arena.h"
#include "store/ngx_idem_point.h"


static size_t ngx_idem_arena_run(ngx_idem_arena_t *ar, uint32_t i, size_t n,
    uint32_t *next);
static size_t ngx_idem_arena_take(ngx_idem_arena_source_t *src, u_char *dst,
    size_t n);


uint32_t
ngx_idem_arena_pop(ngx_idem_arena_t *ar)
{
    uint32_t  i;

    i = ar->list->free;

    if (i != NGX_IDEM_NIL) {
        ar->list->free = ngx_idem_arena_next(ar, i);
        ar->list->nfree--;
    }

    return i;
}


void
ngx_idem_arena_push(ngx_idem_arena_t *ar, uint32_t i)
{
    ar->links[i] = ar->list->free;

    ar->list->free = i;
    ar->list->nfree++;
}


/* What the head says must be there before it is one, and after. */

void
ngx_idem_arena_set_head(ngx_idem_arena_t *ar, uint32_t i)
{
    ngx_memory_barrier();

    ar->links[i] = NGX_IDEM_LINK_HEAD | NGX_IDEM_NIL;

    ngx_memory_barrier();
}


void
ngx_idem_arena_unset_head(ngx_idem_arena_t *ar, uint32_t i)
{
    ngx_memory_barrier();

    ar->links[i] = NGX_IDEM_NIL;

    ngx_memory_barrier();
}


uint32_t
ngx_idem_arena_extend(ngx_idem_arena_t *ar, uint32_t *last, uint32_t n)
{
    uint32_t  i, first, end;

    first = ar->list->free;

    for (end = first, i = 1; i < n; i++) {
        end = ngx_idem_arena_next(ar, end);
    }

    ar->list->free = ngx_idem_arena_next(ar, end);
    ar->list->nfree -= n;

    if (*last == NGX_IDEM_NIL) {
        ar->links[end] = first;

    } else {
        ar->links[end] = ngx_idem_arena_next(ar, *last);

        ngx_memory_barrier();

        ar->links[*last] = first;
    }

    NGX_IDEM_POINT("extend");

    ngx_memory_barrier();

    *last = end;

    return first;
}


void
ngx_idem_arena_give(ngx_idem_arena_t *ar, uint32_t last, uint32_t n)
{
    uint32_t  first;

    if (last == NGX_IDEM_NIL) {
        return;
    }

    first = ngx_idem_arena_next(ar, last);

    ar->links[last] = ar->list->free;

    NGX_IDEM_POINT("give");

    ar->list->free = first;
    ar->list->nfree += n;
}


void
ngx_idem_arena_cut(ngx_idem_arena_t *ar, uint32_t last, uint32_t end)
{
    uint32_t  first, second;

    first = ngx_idem_arena_next(ar, last);
    second = ngx_idem_arena_next(ar, end);

    ar->links[end] = first;

    NGX_IDEM_POINT("cut");

    ngx_memory_barrier();

    ar->links[last] = second;
}


uint32_t
ngx_idem_arena_nth(ngx_idem_arena_t *ar, uint32_t last, uint32_t n)
{
    uint32_t  i;

    for (i = last; n; n--) {
        i = ngx_idem_arena_next(ar, i);
    }

    return i;
}


uint32_t
ngx_idem_arena_count(ngx_idem_arena_t *ar, uint32_t last)
{
    uint32_t  i, n;

    if (last == NGX_IDEM_NIL) {
        return 0;
    }

    n = 1;

    for (i = ngx_idem_arena_next(ar, last); i != last; n++) {
        i = ngx_idem_arena_next(ar, i);
    }

    return n;
}


size_t
ngx_idem_arena_fill(ngx_idem_arena_t *ar, uint32_t i, size_t n,
    ngx_idem_arena_source_t *src)
{
    size_t    copied, len, size;
    uint32_t  next;

    for (copied = 0; copied < n; copied += size) {
        len = ngx_idem_arena_run(ar, i, n - copied, &next);
        size = ngx_idem_arena_take(src, ngx_idem_arena_block(ar, i), len);

        if (size < len) {
            return copied + size;
        }

        i = next;
    }

    return copied;
}


void
ngx_idem_arena_read(ngx_idem_arena_t *ar, uint32_t last, u_char *dst,
    size_t n)
{
    size_t    len;
    uint32_t  i, next;

    if (n == 0) {
        return;
    }

    for (i = ngx_idem_arena_next(ar, last); n; i = next) {
        len = ngx_idem_arena_run(ar, i, n, &next);
        dst = ngx_cpymem(dst, ngx_idem_arena_block(ar, i), len);
        n -= len;
    }
}


void
ngx_idem_arena_unmark(ngx_idem_arena_t *ar)
{
    uint32_t  i;

    for (i = 0; i < ar->list->nblocks; i++) {
        ar->links[i] &= ~NGX_IDEM_LINK_MARK;
    }
}


ngx_int_t
ngx_idem_arena_mark(ngx_idem_arena_t *ar, uint32_t i)
{
    if (i >= ar->list->nblocks || (ar->links[i] & NGX_IDEM_LINK_MARK)) {
        return NGX_ERROR;
    }

    ar->links[i] |= NGX_IDEM_LINK_MARK;

    return NGX_OK;
}


ngx_int_t
ngx_idem_arena_mark_chain(ngx_idem_arena_t *ar, uint32_t last)
{
    uint32_t  i;

    i = last;

    while (i != NGX_IDEM_NIL) {

        if (ngx_idem_arena_mark(ar, i) != NGX_OK
            || ngx_idem_arena_is_head(ar, i))
        {
            return NGX_ERROR;
        }

        i = ngx_idem_arena_next(ar, i);

        if (i == last) {
            return NGX_OK;
        }
    }

    return (last == NGX_IDEM_NIL) ? NGX_OK : NGX_ERROR;
}


void
ngx_idem_arena_rebuild(ngx_idem_arena_t *ar)
{
    uint32_t  i;

    ar->list->free = NGX_IDEM_NIL;
    ar->list->nfree = 0;

    for (i = ar->list->nblocks; i; i--) {

        if (ar->links[i - 1] & NGX_IDEM_LINK_MARK) {
            ar->links[i - 1] &= ~NGX_IDEM_LINK_MARK;
            continue;
        }

        ngx_idem_arena_push(ar, i - 1);
    }
}


/*
 * How many of n bytes lie in adjacent blocks from i on, and which block
 * follows in the chain.
 */

static size_t
ngx_idem_arena_run(ngx_idem_arena_t *ar, uint32_t i, size_t n, uint32_t *next)
{
    size_t  len;

    for (len = NGX_IDEM_BLOCK; len < n; len += NGX_IDEM_BLOCK) {

        *next = ngx_idem_arena_next(ar, i);

        if (*next != i + 1) {
            return len;
        }

        i++;
    }

    *next = NGX_IDEM_NIL;

    return n;
}


static size_t
ngx_idem_arena_take(ngx_idem_arena_source_t *src, u_char *dst, size_t n)
{
    size_t      left, len;
    ngx_buf_t  *b;

    for (left = n; left && src->chain; left -= len) {
        b = src->chain->buf;

        if (src->pos == NULL) {
            src->pos = b->pos;
        }

        len = ngx_min(left, (size_t) (b->last - src->pos));
        dst = ngx_cpymem(dst, src->pos, len);
        src->pos += len;

        if (src->pos == b->last) {
            src->chain = src->chain->next;
            src->pos = NULL;
        }
    }

    return n - left;
}
