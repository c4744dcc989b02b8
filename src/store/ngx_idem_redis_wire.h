
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Bytes <-> commands and replies of Redis.  hiredis does the work, and this is
 * the only file that sees it.
 */


#ifndef _NGX_IDEM_REDIS_WIRE_H_INCLUDED_
#define _NGX_IDEM_REDIS_WIRE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_redis_conn.h"


/* Of a command: EVALSHA, its hash, 1, a key and what a script may have. */

#define NGX_IDEM_REDIS_WORDS     (4 + NGX_IDEM_REDIS_ARGS)

/* CLUSTER SLOTS has one for each slot at most; nothing has more. */

#define NGX_IDEM_REDIS_ELEMENTS  16384


typedef struct ngx_idem_redis_reader_s  ngx_idem_redis_reader_t;
typedef struct ngx_idem_redis_reply_s   ngx_idem_redis_reply_t;


typedef enum {
    NGX_IDEM_REDIS_STRING = 0,
    NGX_IDEM_REDIS_INTEGER,
    NGX_IDEM_REDIS_NIL,
    NGX_IDEM_REDIS_LIST,
    NGX_IDEM_REDIS_ERROR
} ngx_idem_redis_kind_e;


/*
 * Writes a command of argc words, at most NGX_IDEM_REDIS_WORDS, into memory of
 * its own: ngx_idem_redis_format_free().  NGX_ERROR: no memory.
 */
ngx_int_t ngx_idem_redis_format(ngx_str_t *bytes, const ngx_str_t *argv,
    ngx_uint_t argc);
void ngx_idem_redis_format_free(ngx_str_t *bytes);

/* NULL: no memory. */
ngx_idem_redis_reader_t *ngx_idem_redis_reader(void);
void ngx_idem_redis_reader_free(ngx_idem_redis_reader_t *rd);

/* Bytes as they came.  NGX_ERROR: no memory, or too many for one reply. */
ngx_int_t ngx_idem_redis_reader_feed(ngx_idem_redis_reader_t *rd,
    const u_char *p, size_t len);

/*
 * The next reply: NGX_OK, it is the caller's to free; NGX_AGAIN: not there
 * yet; NGX_ERROR: this is not what Redis speaks.
 */
ngx_int_t ngx_idem_redis_reader_next(ngx_idem_redis_reader_t *rd,
    ngx_idem_redis_reply_t **reply);
void ngx_idem_redis_reply_free(ngx_idem_redis_reply_t *reply);

/* What it is; v points into it.  A nil is an empty string, data not NULL. */
ngx_idem_redis_kind_e ngx_idem_redis_reply(
    const ngx_idem_redis_reply_t *reply, ngx_idem_redis_value_t *v);

/* An element of a list; NULL: no list, or not that long. */
const ngx_idem_redis_reply_t *ngx_idem_redis_reply_at(
    const ngx_idem_redis_reply_t *reply, ngx_uint_t i);

/* Whether it is a string, or an element of a list that is one. */
ngx_uint_t ngx_idem_redis_reply_is(const ngx_idem_redis_reply_t *reply,
    const char *word);

/*
 * The values of a list without lists in it, or of anything else that is one
 * value.  NGX_DECLINED: there are errors or lists in it, or too many values.
 */
ngx_int_t ngx_idem_redis_reply_values(const ngx_idem_redis_reply_t *reply,
    ngx_idem_redis_value_t *values, ngx_uint_t *n);


#endif /* _NGX_IDEM_REDIS_WIRE_H_INCLUDED_ */
