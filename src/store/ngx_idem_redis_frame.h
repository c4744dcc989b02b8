
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Bytes in front of a record on Redis:
 *
 *      0   1  version
 *      1   4  CRC-32 of all that follows, lowest byte first
 *      5      the record, as core/ngx_idem_record.h has it
 *
 * Redis is asked by others, too, and its memory is not ours: what does not
 * agree with its frame is never replayed.
 */


#ifndef _NGX_IDEM_REDIS_FRAME_H_INCLUDED_
#define _NGX_IDEM_REDIS_FRAME_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_IDEM_REDIS_FRAME    5
#define NGX_IDEM_REDIS_VERSION  1


/* The record stands in s behind room for its frame, which is filled in. */
void ngx_idem_redis_frame(const ngx_str_t *s);

/* Makes s the record without its frame.  NGX_ERROR: it is damaged, or none. */
ngx_int_t ngx_idem_redis_unframe(ngx_str_t *s);


#endif /* _NGX_IDEM_REDIS_FRAME_H_INCLUDED_ */
