
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * A response as bytes.  The header part is written by this file, the body
 * follows it unchanged.
 *
 *   byte     version, NGX_IDEM_RECORD_VERSION
 *   varint   status
 *   varint   length of all that follows up to the body
 *   fields   until that length is used up:
 *              byte     kind, ngx_idem_field_e
 *              varint   length of the name, 0 for a kind without one
 *              varint   length of the value
 *              bytes    name, value
 *   bytes    body, to the end of the record
 *
 * A varint is little endian base 128 (LEB128), at most 5 bytes, 32 bits, and
 * the shortest one that holds its value: one response has one spelling.
 */


#ifndef _NGX_IDEM_RECORD_H_INCLUDED_
#define _NGX_IDEM_RECORD_H_INCLUDED_


#include "core/ngx_idem_core.h"


#define NGX_IDEM_RECORD_VERSION  1


typedef enum {
    NGX_IDEM_FIELD_HEADER = 1,      /* name: value */
    NGX_IDEM_FIELD_TRAILER,         /* name: value, after the body */
    NGX_IDEM_FIELD_TYPE,            /* Content-Type, whole */
    NGX_IDEM_FIELD_CHARSET,         /* one that the type does not name yet */
    NGX_IDEM_FIELD_REASON,          /* status line as sent: "200 Fine" */
    NGX_IDEM_FIELD_LENGTH,          /* Content-Length of an answer without a
                                       body, in decimal */
    NGX_IDEM_FIELD_LOCATION,        /* a path that nginx makes absolute */
    NGX_IDEM_FIELD_MODIFIED         /* a time that nginx makes a field of */
} ngx_idem_field_e;


typedef struct {
    ngx_idem_field_e  kind;
    ngx_idem_span_t   name;         /* empty unless HEADER or TRAILER */
    ngx_idem_span_t   value;
} ngx_idem_field_t;


/* Bytes that a field takes. */
size_t ngx_idem_record_field_size(const ngx_idem_field_t *f);

/*
 * Bytes that the start of a record takes, before its first field.
 *
 *   fields  sum of ngx_idem_record_field_size() over all fields
 */
size_t ngx_idem_record_start_size(unsigned status, size_t fields);

/* Write to p, which has the room told above; return the byte behind. */
uint8_t *ngx_idem_record_start(uint8_t *p, unsigned status, size_t fields);
uint8_t *ngx_idem_record_field(uint8_t *p, const ngx_idem_field_t *f);


/* A record being read; the spans point into the bytes it was opened on. */

typedef struct {
    unsigned         status;
    ngx_idem_span_t  fields;        /* those not read yet */
    ngx_idem_span_t  body;
} ngx_idem_record_t;


/* What reading says. */

typedef enum {
    NGX_IDEM_RECORD_OK = 0,
    NGX_IDEM_RECORD_END,            /* no field is left */
    NGX_IDEM_RECORD_CORRUPT         /* never a replay */
} ngx_idem_record_answer_e;


/* OK or CORRUPT (another version, lengths that do not fit, no status). */
ngx_idem_record_answer_e ngx_idem_record_open(ngx_idem_record_t *rec,
    ngx_idem_span_t bytes);

/* OK and the next field in f, END, or CORRUPT. */
ngx_idem_record_answer_e ngx_idem_record_next(ngx_idem_record_t *rec,
    ngx_idem_field_t *f);


#endif /* _NGX_IDEM_RECORD_H_INCLUDED_ */
