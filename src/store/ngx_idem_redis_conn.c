
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "store/ngx_idem_redis_client.h"


static ngx_int_t ngx_idem_redis_addrs(ngx_idem_redis_client_t *rc);
static ngx_int_t ngx_idem_redis_phrases(ngx_idem_redis_client_t *rc);

static ngx_uint_t ngx_idem_redis_full(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_node_t *node);
static ngx_idem_redis_job_t *ngx_idem_redis_job(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_cmd_t *cmd);
static ngx_int_t ngx_idem_redis_job_format(ngx_idem_redis_job_t *job,
    ngx_str_t *key);
static ngx_int_t ngx_idem_redis_job_eval(ngx_idem_redis_job_t *job);
static ngx_int_t ngx_idem_redis_job_start(ngx_idem_redis_job_t *job);
static void ngx_idem_redis_job_free(ngx_idem_redis_job_t *job);

static void ngx_idem_redis_job_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_job_error(ngx_idem_redis_job_t *job,
    const ngx_str_t *words);
static void ngx_idem_redis_asking_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);
static void ngx_idem_redis_wait(ngx_idem_redis_node_t *node);
static void ngx_idem_redis_wait_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply);

static void ngx_idem_redis_job_end(ngx_idem_redis_job_t *job,
    ngx_idem_redis_end_e end);
static void ngx_idem_redis_count(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_end_e end);
static void ngx_idem_redis_tick_handler(ngx_event_t *ev);


ngx_idem_redis_client_t *
ngx_idem_redis_client(ngx_cycle_t *cycle, ngx_idem_redis_conf_t *conf,
    ngx_idem_redis_stat_t *stat)
{
    ngx_idem_redis_client_t  *rc;

    rc = ngx_pcalloc(cycle->pool, sizeof(ngx_idem_redis_client_t));
    if (rc == NULL) {
        return NULL;
    }

    rc->conf = conf;
    rc->stat = stat;
    rc->log = cycle->log;
    rc->pool = cycle->pool;
    rc->timeout = conf->timeout;

    if (conf->wait_replicas) {
        rc->timeout += conf->wait_timeout;
    }

    ngx_queue_init(&rc->parked);
    ngx_queue_init(&rc->nodes);

    /* a debug log of a timer prints the fd of its connection */

    rc->dummy.data = rc;
    rc->dummy.fd = (ngx_socket_t) -1;

    rc->tick.handler = ngx_idem_redis_tick_handler;
    rc->tick.data = &rc->dummy;
    rc->tick.log = cycle->log;

    if (ngx_idem_redis_addrs(rc) != NGX_OK
        || ngx_idem_redis_phrases(rc) != NGX_OK)
    {
        return NULL;
    }

    ngx_idem_redis_subs_init(rc);

    if (ngx_idem_redis_route_init(rc) != NGX_OK) {
        return NULL;
    }

    return rc;
}


/* All addresses of all servers, in the order in which they were named. */

static ngx_int_t
ngx_idem_redis_addrs(ngx_idem_redis_client_t *rc)
{
    ngx_url_t              *url;
    ngx_uint_t              i, j, n;
    ngx_idem_redis_addr_t  *addr;

    url = rc->conf->servers.elts;

    for (i = 0, n = 0; i < rc->conf->servers.nelts; i++) {
        n += url[i].naddrs;
    }

    addr = ngx_pcalloc(rc->pool, n * sizeof(ngx_idem_redis_addr_t));
    if (addr == NULL) {
        return NGX_ERROR;
    }

    rc->addrs = addr;
    rc->naddrs = n;

    for (i = 0; i < rc->conf->servers.nelts; i++) {

        for (j = 0; j < url[i].naddrs; j++, addr++) {
            addr->sockaddr = url[i].addrs[j].sockaddr;
            addr->socklen = url[i].addrs[j].socklen;
            addr->name = url[i].addrs[j].name;
            addr->host = url[i].host;

            /* a certificate has an address without brackets */

            if (addr->host.len > 2 && addr->host.data[0] == '[') {
                addr->host.data++;
                addr->host.len -= 2;
            }
        }
    }

    return NGX_OK;
}


/* What is said again and again. */

static ngx_int_t
ngx_idem_redis_phrases(ngx_idem_redis_client_t *rc)
{
    u_char     n[NGX_INT_T_LEN], ms[NGX_INT_T_LEN];
    ngx_str_t  words[3];

    ngx_str_set(&words[0], "ASKING");

    if (ngx_idem_redis_format(&rc->asking, words, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_str_set(&words[0], "WAIT");
    words[1].data = n;
    words[1].len = ngx_sprintf(n, "%ui", rc->conf->wait_replicas) - n;
    words[2].data = ms;
    words[2].len = ngx_sprintf(ms, "%M", rc->conf->wait_timeout) - ms;

    return ngx_idem_redis_format(&rc->wait, words, 3);
}


void
ngx_idem_redis_close(ngx_idem_redis_client_t *rc)
{
    rc->closed = 1;

    ngx_idem_redis_link_close(&rc->subs.link);
    ngx_idem_redis_route_close(rc);
    ngx_idem_redis_unpark(rc);

    if (rc->tick.timer_set) {
        ngx_del_timer(&rc->tick);
    }

    ngx_idem_redis_format_free(&rc->wait);
    ngx_idem_redis_format_free(&rc->asking);
}


ngx_uint_t
ngx_idem_redis_pending(ngx_idem_redis_client_t *rc)
{
    return rc->pending;
}


void
ngx_idem_redis_link_of(ngx_idem_redis_client_t *rc,
    ngx_idem_redis_link_t *link)
{
    link->conf = rc->conf;
    link->stat = rc->stat;
    link->addrs = rc->addrs;
    link->naddrs = rc->naddrs;

    ngx_idem_redis_link_init(link, rc->log);
}


ngx_idem_redis_node_t *
ngx_idem_redis_node(ngx_idem_redis_client_t *rc)
{
    ngx_idem_redis_node_t  *node;

    node = ngx_calloc(sizeof(ngx_idem_redis_node_t), rc->log);
    if (node == NULL) {
        return NULL;
    }

    node->rc = rc;
    node->link.data = node;
    node->link.shown = 1;

    ngx_idem_redis_link_of(rc, &node->link);
    ngx_queue_init(&node->acks);

    return node;
}


void
ngx_idem_redis_node_free(ngx_idem_redis_node_t *node)
{
    ngx_idem_redis_link_close(&node->link);
    ngx_free(node);
}


ngx_int_t
ngx_idem_redis_send(ngx_idem_redis_client_t *rc, ngx_idem_redis_cmd_t *cmd)
{
    ngx_idem_redis_job_t  *job;

    cmd->slot = NULL;

    job = ngx_idem_redis_job(rc, cmd);

    if (job == NULL || ngx_idem_redis_job_start(job) != NGX_OK) {

        if (job) {
            ngx_idem_redis_job_free(job);
        }

        ngx_idem_redis_count(rc, NGX_IDEM_REDIS_REFUSED);
        return NGX_ERROR;
    }

    ngx_idem_redis_stat_add(rc->stat, NGX_IDEM_REDIS_COUNT_SENT);
    ngx_idem_redis_stat_pending(rc->stat, ++rc->pending);

    cmd->slot = job;

    return NGX_AGAIN;
}


void
ngx_idem_redis_forget(ngx_idem_redis_cmd_t *cmd)
{
    ngx_idem_redis_job_t  *job;

    job = cmd->slot;

    if (job) {
        job->cmd = NULL;
        cmd->slot = NULL;
    }
}


static ngx_idem_redis_job_t *
ngx_idem_redis_job(ngx_idem_redis_client_t *rc, ngx_idem_redis_cmd_t *cmd)
{
    u_char                *p;
    ngx_str_t              key;
    ngx_idem_redis_job_t  *job;

    if (rc->closed) {
        return NULL;
    }

    key.len = rc->conf->prefix.len + cmd->key.len;

    job = ngx_alloc(sizeof(ngx_idem_redis_job_t) + key.len, rc->log);
    if (job == NULL) {
        return NULL;
    }

    ngx_memzero(job, sizeof(ngx_idem_redis_job_t));

    key.data = (u_char *) (job + 1);

    p = ngx_cpymem(key.data, rc->conf->prefix.data, rc->conf->prefix.len);
    ngx_memcpy(p, cmd->key.data, cmd->key.len);

    job->rc = rc;
    job->cmd = cmd;
    job->script = cmd->script;
    job->nargs = cmd->nargs;
    job->wait = cmd->wait && rc->conf->wait_replicas;

    if (rc->slots) {
        job->slot = ngx_idem_redis_cluster_slot(key.data, key.len);
    }

    job->deadline = ngx_current_msec + rc->timeout + rc->conf->connect_timeout;

    job->item.handler = ngx_idem_redis_job_handler;
    job->item.data = job;

    job->asking.handler = ngx_idem_redis_asking_handler;
    job->asking.data = job;
    job->asking.bytes = rc->asking;

    if (ngx_idem_redis_job_format(job, &key) != NGX_OK) {
        ngx_idem_redis_job_free(job);
        return NULL;
    }

    return job;
}


static ngx_int_t
ngx_idem_redis_job_format(ngx_idem_redis_job_t *job, ngx_str_t *key)
{
    size_t      len;
    ngx_str_t   words[NGX_IDEM_REDIS_WORDS];
    ngx_uint_t  i;

    ngx_str_set(&words[0], "EVALSHA");
    words[1].data = job->script->sha1;
    words[1].len = 40;
    ngx_str_set(&words[2], "1");
    words[3] = *key;

    if (job->nargs > NGX_IDEM_REDIS_ARGS) {
        return NGX_ERROR;
    }

    for (i = 0, len = key->len; i < job->nargs; i++) {
        words[4 + i] = job->cmd->args[i];

        if (words[4 + i].len > NGX_IDEM_REDIS_BYTES - len) {
            return NGX_ERROR;
        }

        len += words[4 + i].len;
    }

    return ngx_idem_redis_format(&job->bytes, words, 4 + job->nargs);
}


/*
 * EVALSHA is written as *N $7 EVALSHA $40 hash $1 1 ..., each on a line of its
 * own; all but the first five lines is the same with EVAL.
 */

static ngx_int_t
ngx_idem_redis_job_eval(ngx_idem_redis_job_t *job)
{
    u_char     *p;
    size_t      size;
    ngx_str_t   tail;

    static const char  head[] = "*nn\r\n$4\r\nEVAL\r\n$\r\n\r\n";
    static const char  hash[] = "$7\r\nEVALSHA\r\n$40\r\n";

    p = ngx_strlchr(job->bytes.data, job->bytes.data + job->bytes.len, '\n');

    tail.data = p + 1 + sizeof(hash) - 1 + 40 + 2;
    tail.len = job->bytes.data + job->bytes.len - tail.data;

    size = sizeof(head) + NGX_SIZE_T_LEN + job->script->len + tail.len;

    p = ngx_alloc(size, job->rc->log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    job->eval.data = p;

    p = ngx_sprintf(p, "*%ui\r\n$4\r\nEVAL\r\n$%uz\r\n", 4 + job->nargs,
                    job->script->len);
    p = ngx_cpymem(p, job->script->text, job->script->len);
    *p++ = CR;
    *p++ = LF;
    p = ngx_cpymem(p, tail.data, tail.len);

    job->eval.len = p - job->eval.data;

    return NGX_OK;
}


/* NGX_ERROR: it cannot be said and not be parked; it is the caller's still. */

static ngx_int_t
ngx_idem_redis_job_start(ngx_idem_redis_job_t *job)
{
    ngx_int_t                 rv;
    ngx_idem_redis_node_t    *node;
    ngx_idem_redis_client_t  *rc;

    rc = job->rc;
    node = NULL;

    rv = ngx_idem_redis_route(rc, job->slot, &node);

    if (rv == NGX_ERROR || ngx_idem_redis_full(rc, node)) {
        return NGX_ERROR;
    }

    if (node) {
        return ngx_idem_redis_job_say(job, node, 0);
    }

    ngx_idem_redis_job_park(job);

    return NGX_OK;
}


static ngx_uint_t
ngx_idem_redis_full(ngx_idem_redis_client_t *rc, ngx_idem_redis_node_t *node)
{
    if (node == NULL) {
        return rc->nparked >= NGX_IDEM_REDIS_PENDING;
    }

    return node->link.nitems >= NGX_IDEM_REDIS_PENDING
           || node->link.unsaid >= NGX_IDEM_REDIS_UNSAID;
}


ngx_int_t
ngx_idem_redis_job_say(ngx_idem_redis_job_t *job, ngx_idem_redis_node_t *node,
    ngx_uint_t asking)
{
    ngx_msec_int_t  left;

    left = (ngx_msec_int_t) (job->deadline - ngx_current_msec);

    if (left <= 0) {
        return NGX_ERROR;
    }

    job->item.timeout = ngx_min((ngx_msec_t) left, job->rc->timeout);
    job->item.bytes = job->eval.len ? job->eval : job->bytes;
    job->item.timed = 1;

    if (asking) {
        job->asking.timeout = job->item.timeout;

        if (ngx_idem_redis_link_add(&node->link, &job->asking) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    /* if the first one could be said, the second one can */

    if (ngx_idem_redis_link_add(&node->link, &job->item) != NGX_OK) {
        return NGX_ERROR;
    }

    job->node = node;

    if (job->reply) {
        ngx_idem_redis_reply_free(job->reply);
        job->reply = NULL;
    }

    if (job->wait) {
        ngx_queue_insert_tail(&node->acks, &job->queue);
        ngx_idem_redis_wait(node);
    }

    return NGX_OK;
}


static void
ngx_idem_redis_job_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    ngx_idem_redis_job_t    *job;
    ngx_idem_redis_value_t   v;

    job = it->data;

    if (*reply == NULL) {

        if (job->wait) {
            ngx_queue_remove(&job->queue);
        }

        ngx_idem_redis_job_end(job, it->sent ? NGX_IDEM_REDIS_LOST
                                             : NGX_IDEM_REDIS_REFUSED);
        return;
    }

    job->reply = *reply;
    *reply = NULL;

    if (ngx_idem_redis_reply(job->reply, &v) == NGX_IDEM_REDIS_ERROR) {

        if (job->wait) {
            ngx_queue_remove(&job->queue);
        }

        ngx_idem_redis_job_error(job, &v.str);
        return;
    }

    if (!job->wait) {
        ngx_idem_redis_job_end(job, NGX_IDEM_REDIS_REPLIED);
    }
}


/* Nothing was done.  The words are gone as soon as the job is said again. */

static void
ngx_idem_redis_job_error(ngx_idem_redis_job_t *job, const ngx_str_t *words)
{
    ngx_int_t  rv;

    if (job->eval.len == 0 && ngx_idem_redis_says(words, "NOSCRIPT")) {
        rv = ngx_idem_redis_job_eval(job);

        if (rv == NGX_OK) {
            rv = ngx_idem_redis_job_say(job, job->node, 0);
        }

    } else {
        rv = ngx_idem_redis_redirect(job, words);
    }

    switch (rv) {

    case NGX_OK:
        break;

    case NGX_DECLINED:
        ngx_idem_redis_job_end(job, NGX_IDEM_REDIS_FAILED);
        break;

    default:
        ngx_idem_redis_job_end(job, NGX_IDEM_REDIS_REFUSED);
    }
}


/* What it says matters only to the script behind it. */

static void
ngx_idem_redis_asking_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    /* void */
}


/*
 * The WAIT stands behind all scripts that have not left yet, or it is on its
 * way; then those that it does not speak for get another one after it.
 */

static void
ngx_idem_redis_wait(ngx_idem_redis_node_t *node)
{
    if (node->waiting) {
        (void) ngx_idem_redis_link_last(&node->link, &node->wait);
        return;
    }

    node->wait.bytes = node->rc->wait;
    node->wait.timeout = node->rc->timeout;
    node->wait.handler = ngx_idem_redis_wait_handler;
    node->wait.data = node;

    if (ngx_idem_redis_link_add(&node->link, &node->wait) == NGX_OK) {
        node->waiting = 1;
    }
}


static void
ngx_idem_redis_wait_handler(ngx_idem_redis_item_t *it,
    ngx_idem_redis_reply_t **reply)
{
    ngx_queue_t             *q;
    ngx_idem_redis_end_e     end;
    ngx_idem_redis_job_t    *job;
    ngx_idem_redis_node_t   *node;
    ngx_idem_redis_value_t   v;

    node = it->data;
    node->waiting = 0;

    end = NGX_IDEM_REDIS_LOST;

    if (*reply) {
        end = NGX_IDEM_REDIS_TOO_FEW;

        switch (ngx_idem_redis_reply(*reply, &v)) {

        case NGX_IDEM_REDIS_INTEGER:
            if (v.integer >= (int64_t) node->rc->conf->wait_replicas) {
                end = NGX_IDEM_REDIS_REPLIED;
            }

            break;

        case NGX_IDEM_REDIS_ERROR:
            ngx_idem_redis_link_log(&node->link, &v.str);
            break;

        case NGX_IDEM_REDIS_STRING:
        case NGX_IDEM_REDIS_NIL:
        case NGX_IDEM_REDIS_LIST:
            break;
        }
    }

    /* replies come in order: those that have theirs were before the WAIT */

    while (!ngx_queue_empty(&node->acks)) {
        q = ngx_queue_head(&node->acks);
        job = ngx_queue_data(q, ngx_idem_redis_job_t, queue);

        if (job->reply == NULL) {
            break;
        }

        ngx_queue_remove(q);
        ngx_idem_redis_job_end(job, end);
    }

    if (*reply && !ngx_queue_empty(&node->acks) && !node->waiting) {
        ngx_idem_redis_wait(node);
    }
}


void
ngx_idem_redis_job_park(ngx_idem_redis_job_t *job)
{
    ngx_idem_redis_client_t  *rc;

    rc = job->rc;

    ngx_queue_insert_tail(&rc->parked, &job->queue);
    rc->nparked++;

    if (!rc->tick.timer_set) {
        ngx_add_timer(&rc->tick, NGX_IDEM_REDIS_TICK);
    }
}


static void
ngx_idem_redis_tick_handler(ngx_event_t *ev)
{
    ngx_connection_t  *c;

    c = ev->data;

    ngx_idem_redis_unpark(c->data);
}


void
ngx_idem_redis_unpark(ngx_idem_redis_client_t *rc)
{
    ngx_queue_t           *q, jobs;
    ngx_idem_redis_job_t  *job;

    if (ngx_queue_empty(&rc->parked)) {
        return;
    }

    ngx_queue_init(&jobs);
    ngx_queue_add(&jobs, &rc->parked);
    ngx_queue_init(&rc->parked);
    rc->nparked = 0;

    while (!ngx_queue_empty(&jobs)) {
        q = ngx_queue_head(&jobs);
        ngx_queue_remove(q);

        job = ngx_queue_data(q, ngx_idem_redis_job_t, queue);

        if (!rc->closed
            && (ngx_msec_int_t) (job->deadline - ngx_current_msec) > 0
            && ngx_idem_redis_job_start(job) == NGX_OK)
        {
            continue;
        }

        ngx_idem_redis_job_end(job, job->reply ? NGX_IDEM_REDIS_FAILED
                                               : NGX_IDEM_REDIS_REFUSED);
    }
}


static void
ngx_idem_redis_job_end(ngx_idem_redis_job_t *job, ngx_idem_redis_end_e end)
{
    ngx_uint_t                n;
    ngx_idem_redis_cmd_t     *cmd;
    ngx_idem_redis_value_t    v, values[NGX_IDEM_REDIS_VALUES];
    ngx_idem_redis_client_t  *rc;

    rc = job->rc;
    cmd = job->cmd;
    n = 0;

    ngx_str_null(&v.str);

    if (end == NGX_IDEM_REDIS_REPLIED || end == NGX_IDEM_REDIS_TOO_FEW) {

        if (ngx_idem_redis_reply_values(job->reply, values, &n) != NGX_OK) {
            ngx_log_error(NGX_LOG_ALERT, rc->log, 0,
                          "idempotency: script \"%s\" answers what is no list "
                          "of values", job->script->name);
            n = 0;
            end = NGX_IDEM_REDIS_LOST;
        }
    }

    if (end == NGX_IDEM_REDIS_FAILED) {
        (void) ngx_idem_redis_reply(job->reply, &v);
        ngx_idem_redis_stat_error(rc->stat, ngx_idem_redis_stat_kind(&v.str));
        ngx_idem_redis_link_log(&job->node->link, &v.str);
    }

    ngx_idem_redis_stat_pending(rc->stat, --rc->pending);
    ngx_idem_redis_count(rc, end);

    if (cmd) {
        cmd->slot = NULL;
        cmd->end = end;
        cmd->error = v.str;
        cmd->values = values;
        cmd->nvalues = n;

        if (!rc->closed) {
            cmd->handler(cmd);
        }
    }

    ngx_idem_redis_job_free(job);
}


static void
ngx_idem_redis_job_free(ngx_idem_redis_job_t *job)
{
    if (job->reply) {
        ngx_idem_redis_reply_free(job->reply);
    }

    if (job->eval.data) {
        ngx_free(job->eval.data);
    }

    ngx_idem_redis_format_free(&job->bytes);
    ngx_free(job);
}


static void
ngx_idem_redis_count(ngx_idem_redis_client_t *rc, ngx_idem_redis_end_e end)
{
    ngx_idem_redis_stat_add(rc->stat, NGX_IDEM_REDIS_COUNT_REPLIED + end);
}
