
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * What is known of a resource that requests change one at a time: the bytes of
 * a guard, the same in a zone and on Redis.
 *
 *   value    what the last request that succeeded has made of it; empty: none
 *            has, as far as we have seen
 *   pending  what the holder is about to make of it.  If the holder vanished,
 *            it stays, and whoever holds the guard next has to find out
 *   queue    who waits for it, in order of arrival
 *
 * As bytes, numbers in network order:
 *
 *      0   2  length of the value
 *      2   2  length of pending
 *      4   2  waiters
 *      6      value, pending, then 24 bytes for each waiter: its owner (16),
 *             and 8 of the store's own about it
 *
 * Pure: a guard is spans and an array of the caller's, nothing is allocated.
 */


#ifndef _NGX_IDEM_GUARD_H_INCLUDED_
#define _NGX_IDEM_GUARD_H_INCLUDED_


#include "core/ngx_idem_core.h"


#define NGX_IDEM_GUARD_VALUE    256     /* bytes, at most */
#define NGX_IDEM_GUARD_PENDING  320
#define NGX_IDEM_GUARD_QUEUE    128     /* waiters, at most */
#define NGX_IDEM_GUARD_HEAD     6
#define NGX_IDEM_GUARD_WAITER   24
#define NGX_IDEM_GUARD_BYTES    (NGX_IDEM_GUARD_HEAD + NGX_IDEM_GUARD_VALUE   \
                                 + NGX_IDEM_GUARD_PENDING                     \
                                 + NGX_IDEM_GUARD_QUEUE                       \
                                   * NGX_IDEM_GUARD_WAITER)


typedef struct {
    uint8_t          owner[NGX_IDEM_OWNER_LEN];
    uint8_t          about[8];          /* the store's */
} ngx_idem_guard_waiter_t;


typedef struct {
    ngx_idem_span_t           value;
    ngx_idem_span_t           pending;
    ngx_idem_guard_waiter_t   queue[NGX_IDEM_GUARD_QUEUE];
    size_t                    nqueue;
} ngx_idem_guard_t;


/* Reads a guard; its spans point into bytes.  Not 0: these are no guard. */
int ngx_idem_guard_read(ngx_idem_guard_t *gd, ngx_idem_span_t bytes);

/*
 * Bytes that it takes, at most NGX_IDEM_GUARD_BYTES, and writes them.  0: its
 * value or pending is too long.
 */
size_t ngx_idem_guard_size(const ngx_idem_guard_t *gd);
uint8_t *ngx_idem_guard_write(const ngx_idem_guard_t *gd, uint8_t *p);

/* Whether there is nothing in it that anybody would miss. */
int ngx_idem_guard_is_empty(const ngx_idem_guard_t *gd);

/* Place in the queue, from 0; nqueue: it is not there. */
size_t ngx_idem_guard_find(const ngx_idem_guard_t *gd, const uint8_t *owner);

/* Puts one at the end.  Not 0: limit, or NGX_IDEM_GUARD_QUEUE, is reached. */
int ngx_idem_guard_join(ngx_idem_guard_t *gd, const uint8_t *owner,
    const uint8_t *about, size_t limit);

/* Takes one out, wherever it stands. */
void ngx_idem_guard_leave(ngx_idem_guard_t *gd, size_t i);


#endif /* _NGX_IDEM_GUARD_H_INCLUDED_ */
