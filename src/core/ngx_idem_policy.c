
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_policy.h"


#define ngx_idem_policy_name(s)  { (const uint8_t *) (s), sizeof(s) - 1 }

#define ngx_idem_policy_count(list)  (sizeof(list) / sizeof((list)[0]))


static ngx_idem_fate_e ngx_idem_policy_told(const ngx_idem_evidence_t *ev,
    const ngx_idem_valid_conf_t *valid, uint32_t *ttl_s);
static ngx_idem_fate_e ngx_idem_policy_by_status(
    const ngx_idem_evidence_t *ev, const ngx_idem_valid_conf_t *valid,
    uint32_t *ttl_s);
static unsigned ngx_idem_policy_status(const ngx_idem_evidence_t *ev);
static const ngx_idem_valid_t *ngx_idem_policy_rule(
    const ngx_idem_valid_conf_t *valid, unsigned status);
static int ngx_idem_policy_succeeds(unsigned status);
static int ngx_idem_policy_element(ngx_idem_span_t s,
    ngx_idem_override_t *ov);
static int ngx_idem_policy_ttl(ngx_idem_span_t s, uint32_t *ttl_s);
static int ngx_idem_policy_listed(ngx_idem_span_t name,
    const ngx_idem_span_t *list, size_t n);
static int ngx_idem_policy_hidden(ngx_idem_span_t name);
static int ngx_idem_policy_connection(ngx_idem_span_t name,
    ngx_idem_span_t connection);
static int ngx_idem_policy_next(ngx_idem_span_t *list,
    ngx_idem_span_t *element);
static ngx_idem_span_t ngx_idem_policy_trim(ngx_idem_span_t s);
static int ngx_idem_policy_same(ngx_idem_span_t a, ngx_idem_span_t b);
static uint8_t ngx_idem_policy_lower(uint8_t c);


/* The upstream says so itself: it did not do what it was asked. */

static const uint16_t  ngx_idem_policy_refusals[] = {
    401, 403, 407, 408, 409, 413, 421, 423, 425, 426, 428, 429, 431, 503, 511
};


/* RFC 9110, section 7.6.1, and what else describes one message only */

static const ngx_idem_span_t  ngx_idem_policy_hop_by_hop[] = {
    ngx_idem_policy_name("Connection"),
    ngx_idem_policy_name("Content-Length"),
    ngx_idem_policy_name("Keep-Alive"),
    ngx_idem_policy_name("Proxy-Connection"),
    ngx_idem_policy_name("TE"),
    ngx_idem_policy_name("Transfer-Encoding"),
    ngx_idem_policy_name("Upgrade")
};


static const ngx_idem_span_t  ngx_idem_policy_names[] = {
    ngx_idem_policy_name("Age"),
    ngx_idem_policy_name("Authentication-Info"),
    ngx_idem_policy_name("Date"),
    ngx_idem_policy_name("Server"),
    ngx_idem_policy_name("Set-Cookie"),
    ngx_idem_policy_name("X-Request-Id")
};


static const ngx_idem_span_t  ngx_idem_policy_prefixes[] = {
    ngx_idem_policy_name("Proxy-"),
    ngx_idem_policy_name("RateLimit-"),
    ngx_idem_policy_name("X-Accel-"),
    ngx_idem_policy_name("X-RateLimit-")
};


ngx_idem_fate_e
ngx_idem_policy_fate(const ngx_idem_evidence_t *ev,
    const ngx_idem_valid_conf_t *valid, uint32_t *ttl_s)
{
    ngx_idem_fate_e  fate;

    *ttl_s = NGX_IDEM_TTL_UNSET;

    if ((ev->asked && !ev->answered) || !ev->complete) {
        return (ev->sent || ev->doubt) ? NGX_IDEM_FATE_UNKNOWN
                                       : NGX_IDEM_FATE_RELEASE;
    }

    if (ev->override.given || (ev->override.timed && !ev->override.ttl_s)) {
        fate = ngx_idem_policy_told(ev, valid, ttl_s);

    } else {
        fate = ngx_idem_policy_by_status(ev, valid, ttl_s);
    }

    if (fate != NGX_IDEM_FATE_RELEASE
        && ev->override.timed && ev->override.ttl_s)
    {
        *ttl_s = ev->override.ttl_s;
    }

    return fate;
}


/* Whoever says that nothing happened does not speak for one asked before. */

static ngx_idem_fate_e
ngx_idem_policy_told(const ngx_idem_evidence_t *ev,
    const ngx_idem_valid_conf_t *valid, uint32_t *ttl_s)
{
    const ngx_idem_valid_t  *rule;

    if (ev->override.timed && ev->override.ttl_s == 0) {
        return ev->doubt ? NGX_IDEM_FATE_UNKNOWN : NGX_IDEM_FATE_RELEASE;
    }

    switch (ev->override.fate) {

    case NGX_IDEM_FATE_RELEASE:
        return ev->doubt ? NGX_IDEM_FATE_UNKNOWN : NGX_IDEM_FATE_RELEASE;

    case NGX_IDEM_FATE_STORE:
        rule = ngx_idem_policy_rule(valid, ngx_idem_policy_status(ev));
        *ttl_s = rule ? rule->ttl_s : valid->ttl_s;

        if (*ttl_s == 0) {
            *ttl_s = NGX_IDEM_TTL_DEFAULT;
        }

        break;

    case NGX_IDEM_FATE_UNKNOWN:
        break;
    }

    return ev->override.fate;
}


static ngx_idem_fate_e
ngx_idem_policy_by_status(const ngx_idem_evidence_t *ev,
    const ngx_idem_valid_conf_t *valid, uint32_t *ttl_s)
{
    unsigned                 status;
    uint32_t                 ttl;
    const ngx_idem_valid_t  *rule;

    status = ngx_idem_policy_status(ev);
    rule = ngx_idem_policy_rule(valid, status);

    if (rule != NULL) {
        ttl = rule->ttl_s;

    } else {

        if (ev->upstream_status == 502 || ev->upstream_status == 504) {
            return NGX_IDEM_FATE_UNKNOWN;
        }

        if (ngx_idem_policy_refuses(status)
            || (valid->success && !ngx_idem_policy_succeeds(status)))
        {
            return ev->doubt ? NGX_IDEM_FATE_UNKNOWN : NGX_IDEM_FATE_RELEASE;
        }

        ttl = valid->ttl_s;
    }

    if (ttl == 0) {
        return NGX_IDEM_FATE_RELEASE;
    }

    *ttl_s = ttl;

    return NGX_IDEM_FATE_STORE;
}


static unsigned
ngx_idem_policy_status(const ngx_idem_evidence_t *ev)
{
    return ev->upstream_status != 0 ? ev->upstream_status : ev->final_status;
}


ngx_idem_check_e
ngx_idem_policy_check(const ngx_idem_evidence_t *ev)
{
    unsigned  status;

    if ((ev->asked && !ev->answered) || !ev->complete) {
        return NGX_IDEM_CHECK_UNKNOWN;
    }

    status = ngx_idem_policy_status(ev);

    if (ngx_idem_policy_succeeds(status)) {
        return NGX_IDEM_CHECK_DONE;
    }

    return (status == 404 && ev->sent) ? NGX_IDEM_CHECK_ABSENT
                                       : NGX_IDEM_CHECK_UNKNOWN;
}


unsigned
ngx_idem_policy_override(ngx_idem_span_t value, ngx_idem_override_t *ov)
{
    unsigned         unknown;
    ngx_idem_span_t  element;

    unknown = 0;

    while (ngx_idem_policy_next(&value, &element)) {

        if (element.len && !ngx_idem_policy_element(element, ov)) {
            unknown++;
        }
    }

    return unknown;
}


static int
ngx_idem_policy_element(ngx_idem_span_t s, ngx_idem_override_t *ov)
{
    size_t                        i;
    static const ngx_idem_span_t  words[] = {
        [NGX_IDEM_FATE_RELEASE] = ngx_idem_policy_name("release"),
        [NGX_IDEM_FATE_STORE] = ngx_idem_policy_name("store"),
        [NGX_IDEM_FATE_UNKNOWN] = ngx_idem_policy_name("unknown")
    };

    for (i = 0; i < ngx_idem_policy_count(words); i++) {

        if (ngx_idem_policy_same(s, words[i]) && !ov->given) {
            ov->fate = (ngx_idem_fate_e) i;
            ov->given = 1;
            return 1;
        }
    }

    if (!ov->timed && ngx_idem_policy_ttl(s, &ov->ttl_s)) {
        ov->timed = 1;
        return 1;
    }

    return 0;
}


static int
ngx_idem_policy_ttl(ngx_idem_span_t s, uint32_t *ttl_s)
{
    size_t                        i;
    uint32_t                      ttl;
    ngx_idem_span_t               start;
    static const ngx_idem_span_t  name = ngx_idem_policy_name("ttl=");

    start.data = s.data;
    start.len = name.len;

    if (s.len <= name.len || !ngx_idem_policy_same(start, name)) {
        return 0;
    }

    for (i = name.len, ttl = 0; i < s.len; i++) {

        if (s.data[i] < '0' || s.data[i] > '9') {
            return 0;
        }

        if (ttl > NGX_IDEM_TTL_MAX / 10) {
            ttl = NGX_IDEM_TTL_MAX;
            continue;
        }

        ttl = ttl * 10 + (uint32_t) (s.data[i] - '0');
    }

    *ttl_s = (ttl > NGX_IDEM_TTL_MAX) ? NGX_IDEM_TTL_MAX : ttl;

    return 1;
}


int
ngx_idem_policy_keeps(ngx_idem_span_t name,
    const ngx_idem_fields_conf_t *conf, ngx_idem_span_t connection)
{
    if (ngx_idem_policy_listed(name, ngx_idem_policy_hop_by_hop,
                            ngx_idem_policy_count(ngx_idem_policy_hop_by_hop))
        || ngx_idem_policy_connection(name, connection))
    {
        return 0;
    }

    if (ngx_idem_policy_listed(name, conf->hide, conf->nhide)) {
        return 0;
    }

    if (ngx_idem_policy_listed(name, conf->pass, conf->npass)) {
        return 1;
    }

    return !ngx_idem_policy_hidden(name);
}


/* The narrowest rule is the most exact one; of equals, the first. */

static const ngx_idem_valid_t *
ngx_idem_policy_rule(const ngx_idem_valid_conf_t *valid, unsigned status)
{
    size_t                   i;
    const ngx_idem_valid_t  *rule, *best;

    best = NULL;

    for (i = 0; i < valid->n; i++) {
        rule = &valid->rules[i];

        if (status < rule->first || status > rule->last) {
            continue;
        }

        if (best == NULL
            || rule->last - rule->first < best->last - best->first)
        {
            best = rule;
        }
    }

    return best;
}


int
ngx_idem_policy_refuses(unsigned status)
{
    size_t  i;

    for (i = 0; i < ngx_idem_policy_count(ngx_idem_policy_refusals); i++) {

        if (ngx_idem_policy_refusals[i] == status) {
            return 1;
        }
    }

    return 0;
}


static int
ngx_idem_policy_succeeds(unsigned status)
{
    return status >= 200 && status <= 299;
}


static int
ngx_idem_policy_listed(ngx_idem_span_t name, const ngx_idem_span_t *list,
    size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {

        if (ngx_idem_policy_same(name, list[i])) {
            return 1;
        }
    }

    return 0;
}


static int
ngx_idem_policy_hidden(ngx_idem_span_t name)
{
    size_t           i;
    ngx_idem_span_t  start;

    for (i = 0; i < ngx_idem_policy_count(ngx_idem_policy_prefixes); i++) {
        start = name;

        if (start.len > ngx_idem_policy_prefixes[i].len) {
            start.len = ngx_idem_policy_prefixes[i].len;
        }

        if (ngx_idem_policy_same(start, ngx_idem_policy_prefixes[i])) {
            return 1;
        }
    }

    return ngx_idem_policy_listed(name, ngx_idem_policy_names,
                                 ngx_idem_policy_count(ngx_idem_policy_names));
}


/* Whether name stands in the comma separated list connection. */

static int
ngx_idem_policy_connection(ngx_idem_span_t name, ngx_idem_span_t connection)
{
    ngx_idem_span_t  option;

    while (ngx_idem_policy_next(&connection, &option)) {

        if (option.len && ngx_idem_policy_same(name, option)) {
            return 1;
        }
    }

    return 0;
}


/*
 * Cuts the first element off a list with commas, without the blanks around
 * it; it may be empty.  0: there is no list any more.
 */

static int
ngx_idem_policy_next(ngx_idem_span_t *list, ngx_idem_span_t *element)
{
    size_t  n;

    if (list->len == 0) {
        return 0;
    }

    for (n = 0; n < list->len && list->data[n] != ','; n++) { /* void */ }

    element->data = list->data;
    element->len = n;
    *element = ngx_idem_policy_trim(*element);

    n += (n < list->len);

    list->data += n;
    list->len -= n;

    return 1;
}


static ngx_idem_span_t
ngx_idem_policy_trim(ngx_idem_span_t s)
{
    while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t')) {
        s.data++;
        s.len--;
    }

    while (s.len > 0
           && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'))
    {
        s.len--;
    }

    return s;
}


static int
ngx_idem_policy_same(ngx_idem_span_t a, ngx_idem_span_t b)
{
    size_t  i;

    if (a.len != b.len) {
        return 0;
    }

    for (i = 0; i < a.len; i++) {

        if (ngx_idem_policy_lower(a.data[i])
            != ngx_idem_policy_lower(b.data[i]))
        {
            return 0;
        }
    }

    return 1;
}


static uint8_t
ngx_idem_policy_lower(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') ? c | 0x20 : c;
}
