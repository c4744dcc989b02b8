
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_redis_wire.h"


#include <hiredis/hiredis.h>


struct ngx_idem_redis_reader_s {
    redisReader                *reader;
    redisReplyObjectFunctions   fn;
    redisReplyObjectFunctions  *defaults;
};


#if (HIREDIS_MAJOR < 1)
static void *ngx_idem_redis_array(const redisReadTask *task, int elements);
#endif


ngx_int_t
ngx_idem_redis_format(ngx_str_t *bytes, const ngx_str_t *argv,
    ngx_uint_t argc)
{
    int          len;
    char        *command;
    size_t       lens[NGX_IDEM_REDIS_WORDS];
    ngx_uint_t   i;
    const char  *words[NGX_IDEM_REDIS_WORDS];

    if (argc > NGX_IDEM_REDIS_WORDS) {
        return NGX_ERROR;
    }

    for (i = 0; i < argc; i++) {
        words[i] = (const char *) argv[i].data;
        lens[i] = argv[i].len;
    }

    len = redisFormatCommandArgv(&command, (int) argc, words, lens);

    if (len < 0) {
        return NGX_ERROR;
    }

    bytes->data = (u_char *) command;
    bytes->len = (size_t) len;

    return NGX_OK;
}


void
ngx_idem_redis_format_free(ngx_str_t *bytes)
{
    if (bytes->data) {
        redisFreeCommand((char *) bytes->data);
        ngx_str_null(bytes);
    }
}


ngx_idem_redis_reader_t *
ngx_idem_redis_reader(void)
{
    redisReader              *reader;
    ngx_idem_redis_reader_t  *rd;

    reader = redisReaderCreate();
    if (reader == NULL) {
        return NULL;
    }

    /* memory of the same kind as that of all the rest here */

    rd = calloc(1, sizeof(ngx_idem_redis_reader_t));
    if (rd == NULL) {
        redisReaderFree(reader);
        return NULL;
    }

    rd->reader = reader;

#if (HIREDIS_MAJOR < 1)

    rd->defaults = reader->fn;
    rd->fn = *reader->fn;
    rd->fn.createArray = ngx_idem_redis_array;

    reader->fn = &rd->fn;
    reader->privdata = rd;

#else

    reader->maxelements = NGX_IDEM_REDIS_ELEMENTS;

#endif

    return rd;
}


#if (HIREDIS_MAJOR < 1)

/* hiredis takes the word of the peer for how much memory a list needs. */

static void *
ngx_idem_redis_array(const redisReadTask *task, int elements)
{
    ngx_idem_redis_reader_t  *rd = task->privdata;

    if (elements > NGX_IDEM_REDIS_ELEMENTS) {
        return NULL;
    }

    return rd->defaults->createArray(task, elements);
}

#endif


void
ngx_idem_redis_reader_free(ngx_idem_redis_reader_t *rd)
{
    redisReaderFree(rd->reader);
    free(rd);
}


ngx_int_t
ngx_idem_redis_reader_feed(ngx_idem_redis_reader_t *rd, const u_char *p,
    size_t len)
{
    redisReader  *reader;

    reader = rd->reader;

    if (reader->len - reader->pos + len > NGX_IDEM_REDIS_BYTES) {
        return NGX_ERROR;
    }

    if (redisReaderFeed(reader, (const char *) p, len) != REDIS_OK) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_idem_redis_reader_next(ngx_idem_redis_reader_t *rd,
    ngx_idem_redis_reply_t **reply)
{
    void  *next;

    next = NULL;

    if (redisReaderGetReply(rd->reader, &next) != REDIS_OK) {
        return NGX_ERROR;
    }

    *reply = next;

    return next ? NGX_OK : NGX_AGAIN;
}


void
ngx_idem_redis_reply_free(ngx_idem_redis_reply_t *reply)
{
    freeReplyObject(reply);
}


ngx_idem_redis_kind_e
ngx_idem_redis_reply(const ngx_idem_redis_reply_t *reply,
    ngx_idem_redis_value_t *v)
{
    const redisReply  *rr;

    rr = (const redisReply *) reply;

    v->str.len = 0;
    v->str.data = (u_char *) "";
    v->integer = 0;

    switch (rr->type) {

    case REDIS_REPLY_INTEGER:
        v->str.data = NULL;
        v->integer = rr->integer;
        return NGX_IDEM_REDIS_INTEGER;

    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
        v->str.len = rr->len;
        v->str.data = (u_char *) rr->str;
        return (rr->type == REDIS_REPLY_ERROR) ? NGX_IDEM_REDIS_ERROR
                                               : NGX_IDEM_REDIS_STRING;

    case REDIS_REPLY_ARRAY:
        return NGX_IDEM_REDIS_LIST;
    }

    /* a nil; types of later versions of the protocol are not asked for */

    return NGX_IDEM_REDIS_NIL;
}


const ngx_idem_redis_reply_t *
ngx_idem_redis_reply_at(const ngx_idem_redis_reply_t *reply, ngx_uint_t i)
{
    const redisReply  *rr;

    rr = (const redisReply *) reply;

    if (rr->type != REDIS_REPLY_ARRAY || i >= rr->elements) {
        return NULL;
    }

    return (const ngx_idem_redis_reply_t *) rr->element[i];
}


ngx_uint_t
ngx_idem_redis_reply_is(const ngx_idem_redis_reply_t *reply, const char *word)
{
    ngx_idem_redis_value_t  v;

    return reply
           && ngx_idem_redis_reply(reply, &v) == NGX_IDEM_REDIS_STRING
           && v.str.len == ngx_strlen(word)
           && ngx_strncmp(v.str.data, word, v.str.len) == 0;
}


ngx_int_t
ngx_idem_redis_reply_values(const ngx_idem_redis_reply_t *reply,
    ngx_idem_redis_value_t *values, ngx_uint_t *n)
{
    ngx_uint_t                     i;
    ngx_idem_redis_kind_e          kind;
    const ngx_idem_redis_reply_t  *element;

    kind = ngx_idem_redis_reply(reply, values);

    if (kind != NGX_IDEM_REDIS_LIST) {
        *n = 1;
        return (kind == NGX_IDEM_REDIS_ERROR) ? NGX_DECLINED : NGX_OK;
    }

    i = 0;

    while ((element = ngx_idem_redis_reply_at(reply, i)) != NULL) {

        if (i == NGX_IDEM_REDIS_VALUES) {
            return NGX_DECLINED;
        }

        kind = ngx_idem_redis_reply(element, &values[i++]);

        if (kind == NGX_IDEM_REDIS_ERROR || kind == NGX_IDEM_REDIS_LIST) {
            return NGX_DECLINED;
        }
    }

    *n = i;

    return NGX_OK;
}
