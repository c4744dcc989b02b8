
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A claim is given up only where nothing happened, an operator's rule beats
 * ours where it may, and no response is kept with a field that was meant for
 * one client, one moment or one connection.
 */


#include "core/ngx_idem_policy.h"
#include "tap.h"


#define RELEASE  NGX_IDEM_FATE_RELEASE
#define STORE    NGX_IDEM_FATE_STORE
#define UNKNOWN  NGX_IDEM_FATE_UNKNOWN

#define DEFAULT  NGX_IDEM_TTL_DEFAULT
#define NOT_SET  77


#define span(s)  { (const uint8_t *) (s), sizeof(s) - 1 }


typedef struct {
    ngx_idem_evidence_t   ev;
    ngx_idem_fate_e       fate;
    const char           *why;
} test_fate_t;


typedef struct {
    unsigned              status;
    ngx_idem_fate_e       fate;
    uint32_t              ttl_s;
    const char           *why;
} test_rule_t;


typedef struct {
    const char           *name;
    int                   keeps;
    const char           *why;
} test_field_t;


static void test_evidence(void);
static void test_statuses(void);
static void test_rules(void);
static void test_rule_rows(const ngx_idem_valid_conf_t *valid,
    const test_rule_t *rows, size_t n);
static void test_fields(const ngx_idem_fields_conf_t *conf,
    const char *connection, const test_field_t *rows, size_t n);


/* Without a rule of the operator's. */

static const test_fate_t  fates[] = {
/*      upstream final asked sent answered complete doubt */
    { { 0,       502,  1,    0,   0,       1, 0 }, RELEASE,
      "asked, not answered, not sent: a page of nginx's own" },
    { { 0,       0,    1,    0,   0,       0, 0 }, RELEASE,
      "asked, not answered, not sent: no page" },
    { { 200,     200,  1,    0,   0,       1, 0 }, RELEASE,
      "asked, not answered, not sent, whatever the status" },
    { { 0,       504,  1,    1,   0,       1, 0 }, UNKNOWN,
      "asked, sent, not answered: a page of nginx's own" },
    { { 201,     201,  1,    1,   0,       0, 0 }, UNKNOWN,
      "asked, sent, cut off in the body" },
    { { 503,     200,  1,    1,   0,       1, 0 }, UNKNOWN,
      "asked, sent, cut off in a refusal, replaced by a page" },
    { { 0,       0,    0,    0,   0,       0, 0 }, RELEASE,
      "ended before content" },
    { { 0,       200,  0,    1,   0,       0, 0 }, UNKNOWN,
      "a content handler ran and did not end" },
    { { 200,     200,  1,    1,   1,       0, 0 }, UNKNOWN,
      "answered, but the answer for the client is not whole" },
    { { 200,     200,  1,    0,   1,       0, 0 }, RELEASE,
      "not complete, and nothing was sent" },
    { { 201,     201,  1,    1,   1,       1, 0 }, STORE,
      "an answer" },
    { { 0,       201,  0,    1,   0,       1, 0 }, STORE,
      "an answer of a content handler" },
    { { 0,       200,  0,    0,   0,       1, 0 }, STORE,
      "an answer without evidence of sending" },
    { { 502,     502,  1,    1,   1,       1, 0 }, UNKNOWN,
      "502 of the upstream's own" },
    { { 504,     200,  1,    1,   1,       1, 0 }, UNKNOWN,
      "504 of the upstream's own, replaced by a page" },
    { { 0,       502,  0,    1,   0,       1, 0 }, STORE,
      "502 of no upstream" },
    { { 0,       504,  0,    1,   0,       1, 0 }, STORE,
      "504 of no upstream" },
    { { 503,     200,  1,    1,   1,       1, 0 }, RELEASE,
      "the upstream's status decides: it refused" },
    { { 200,     503,  1,    1,   1,       1, 0 }, STORE,
      "the upstream's status decides: it did not" },
    { { 0,       503,  0,    1,   0,       1, 0 }, RELEASE,
      "the final status decides if no upstream was asked" },
    { { 503,     503,  1,    1,   1,       1, 1 }, UNKNOWN,
      "a refusal does not speak for one asked before" },
    { { 200,     200,  1,    1,   1,       1, 1 }, STORE,
      "another's success is what came of it" }
};


static const unsigned  refusals[] = {
    401, 403, 407, 408, 409, 413, 421, 423, 425, 426, 428, 429, 431, 503, 511
};


/* The operator's rules, in an order that must not matter. */

static const ngx_idem_valid_t  rules[] = {
    { 100, 599, 10 },
    { 400, 499, 20 },
    { 409, 409, 30 },
    { 410, 410, 0  },
    { 500, 599, 0  },
    { 503, 503, 40 },
    { 503, 503, 50 }
};


static const test_rule_t  by_rules[] = {
    { 409, STORE,   30, "own code beats own class"                        },
    { 408, STORE,   20, "own class beats own any and the built-in rules"  },
    { 410, RELEASE, 0,  "own code with time 0"                            },
    { 400, STORE,   20, "first of a class"                                },
    { 499, STORE,   20, "last of a class"                                 },
    { 399, STORE,   10, "one before a class: own any"                     },
    { 200, STORE,   10, "own any"                                         },
    { 500, RELEASE, 0,  "own class with time 0"                           },
    { 502, RELEASE, 0,  "own class beats the rule on 502"                 },
    { 503, STORE,   40, "own code twice: the first"                       },
    { 600, STORE,   99, "any ends at 599"                                 }
};


/* Without an "any": the built-in rules are still there. */

static const test_rule_t  by_classes[] = {
    { 409, STORE,   30, "own code"                                        },
    { 503, STORE,   40, "own code beats the built-in release"             },
    { 504, RELEASE, 0,  "own class beats the rule on 504"                 },
    { 200, STORE,   99, "a class without a rule: the time without status" }
};


static const test_rule_t  by_any[] = {
    { 502, STORE,   10, "own any beats the rule on 502"                   },
    { 429, STORE,   10, "own any beats the built-in release"              }
};


static const test_rule_t  by_zero[] = {
    { 200, RELEASE, 0,  "a time of 0 without a status stores nothing"     },
    { 502, UNKNOWN, 0,  "nor does it make 502 known"                      }
};


static const test_field_t  fields[] = {
    { "Content-Type",           1, "an ordinary field"                    },
    { "Location",               1, "another"                              },
    { "ETag",                   1, "a validator"                          },
    { "Connection",             0, "Connection"                           },
    { "Keep-Alive",             0, "Keep-Alive"                           },
    { "Proxy-Connection",       0, "Proxy-Connection"                     },
    { "TE",                     0, "TE"                                   },
    { "Transfer-Encoding",      0, "Transfer-Encoding"                    },
    { "Upgrade",                0, "Upgrade"                              },
    { "Content-Length",         0, "Content-Length"                       },
    { "Set-Cookie",             0, "Set-Cookie"                           },
    { "Date",                   0, "Date"                                 },
    { "Server",                 0, "Server"                               },
    { "Age",                    0, "Age"                                  },
    { "X-Accel-Expires",        0, "X-Accel-*"                            },
    { "X-Request-Id",           0, "X-Request-Id"                         },
    { "RateLimit-Limit",        0, "RateLimit-*"                          },
    { "X-RateLimit-Reset",      0, "X-RateLimit-*"                        },
    { "Authentication-Info",    0, "Authentication-Info"                  },
    { "Proxy-Status",           0, "Proxy-*"                              },
    { "x-aCCEL-redirect",       0, "names have no case"                   },
    { "SET-COOKIE",             0, "nor have whole names"                 },
    { "Set-Cookie2",            1, "a name that only begins like one"     },
    { "Set-Cooki",              1, "a name that only ends early"          },
    { "Keep\rAlive",            1, "a byte that only folds like a hyphen" },
    { "X-Accel",                1, "a name shorter than the prefix"       },
    { "X-Accel-",               0, "the prefix itself"                    },
    { "Proxy",                  1, "a prefix without its hyphen"          },
    { "My-Proxy-Status",        1, "a prefix inside a name"               }
};


static const ngx_idem_span_t  hide[] = { span("X-Secret"), span("Date") };


static const ngx_idem_span_t  pass[] = {
    span("set-cookie"), span("X-Secret"), span("Connection"),
    span("Content-Length"), span("X-Hop"), span("X-Accel-Buffering")
};


static const test_field_t  passed[] = {
    { "Set-Cookie",             1, "pass wins over the built-in list"     },
    { "X-Accel-Buffering",      1, "pass wins over a prefix"              },
    { "X-Accel-Expires",        0, "but not for its neighbor"             },
    { "x-secret",               0, "hide wins over pass"                  },
    { "Date",                   0, "hide and the list agree"              },
    { "Connection",             0, "hop-by-hop cannot be passed"          },
    { "Content-Length",         0, "nor can Content-Length"               },
    { "X-Hop",                  0, "nor what Connection names"            },
    { "Content-Type",           1, "others are untouched"                 }
};


static const test_field_t  hop_by_hop[] = {
    { "X-First",                0, "first in Connection"                  },
    { "x-middle",               0, "in the middle, without case"          },
    { "X-Tabbed",               0, "between tabs"                         },
    { "X-Last",                 0, "last in Connection"                   },
    { "X-Las",                  1, "a part of a name"                     },
    { "X-Last2",                1, "more than a name"                     },
    { "X-First, close",         1, "two members are no name"              },
    { "Two Words",              0, "blanks inside are kept"               }
};


static const test_field_t  empty_members[] = {
    { "a",                      0, "found between empty members"          },
    { "b",                      0, "found at the end"                     },
    { "c",                      1, "not found"                            }
};


int
main(void)
{
    ngx_idem_fields_conf_t  none, own;

    memset(&none, 0, sizeof(none));

    own.hide = hide;
    own.nhide = tap_count(hide);
    own.pass = pass;
    own.npass = tap_count(pass);

    test_evidence();
    test_statuses();
    test_rules();

    test_fields(&none, "", fields, tap_count(fields));
    test_fields(&own, "x-hop", passed, tap_count(passed));
    test_fields(&none, "X-First, close,X-Middle ,\tX-Tabbed\t, Two Words,"
                       "X-Last", hop_by_hop, tap_count(hop_by_hop));
    test_fields(&none, ", ,a,,  b", empty_members, tap_count(empty_members));

    return tap_done();
}


static void
test_evidence(void)
{
    size_t                 i;
    uint32_t               ttl;
    ngx_idem_fate_e        fate;
    const test_fate_t     *t;
    ngx_idem_valid_conf_t  valid = { NULL, 0, DEFAULT };

    for (i = 0; i < tap_count(fates); i++) {
        t = &fates[i];
        ttl = NOT_SET;

        fate = ngx_idem_policy_fate(&t->ev, &valid, &ttl);

        tap_ok(fate == t->fate && ttl == (fate == STORE ? DEFAULT : NOT_SET),
               t->why);
    }

    /* what was not answered is never a matter of rules */

    valid.rules = rules;
    valid.n = tap_count(rules);

    for (i = 0; i < tap_count(fates); i++) {
        t = &fates[i];

        if ((t->ev.asked && !t->ev.answered) || !t->ev.complete) {
            tap_is(ngx_idem_policy_fate(&t->ev, &valid, &ttl), t->fate,
                   t->why);
        }
    }
}


/* Every status there is, by the built-in rules. */

static void
test_statuses(void)
{
    char                   why[64];
    size_t                 k;
    unsigned               status;
    uint32_t               ttl;
    ngx_idem_fate_e        expected;
    ngx_idem_evidence_t    ev = { 0, 0, 1, 1, 1, 1, 0 };
    ngx_idem_valid_conf_t  valid = { NULL, 0, DEFAULT };

    for (status = 100; status < 600; status++) {
        expected = (status == 502 || status == 504) ? UNKNOWN : STORE;

        for (k = 0; k < tap_count(refusals); k++) {
            expected = (status == refusals[k]) ? RELEASE : expected;
        }

        ev.upstream_status = status;
        ev.final_status = status;

        snprintf(why, sizeof(why), "status %u of an upstream", status);
        tap_is(ngx_idem_policy_fate(&ev, &valid, &ttl), expected, why);
    }
}


static void
test_rules(void)
{
    ngx_idem_valid_conf_t  valid;

    valid.ttl_s = 99;
    valid.rules = rules;
    valid.n = tap_count(rules);
    test_rule_rows(&valid, by_rules, tap_count(by_rules));

    valid.rules = rules + 1;
    valid.n = tap_count(rules) - 1;
    test_rule_rows(&valid, by_classes, tap_count(by_classes));

    valid.rules = rules;
    valid.n = 1;
    test_rule_rows(&valid, by_any, tap_count(by_any));

    valid.n = 0;
    valid.ttl_s = 0;
    test_rule_rows(&valid, by_zero, tap_count(by_zero));
}


static void
test_rule_rows(const ngx_idem_valid_conf_t *valid, const test_rule_t *rows,
    size_t n)
{
    size_t               i;
    uint32_t             ttl;
    ngx_idem_fate_e      fate;
    ngx_idem_evidence_t  ev = { 0, 0, 1, 1, 1, 1, 0 };

    for (i = 0; i < n; i++) {
        ttl = NOT_SET;
        ev.upstream_status = rows[i].status;

        fate = ngx_idem_policy_fate(&ev, valid, &ttl);

        tap_ok(fate == rows[i].fate
               && ttl == (fate == STORE ? rows[i].ttl_s : NOT_SET),
               rows[i].why);
    }
}


static void
test_fields(const ngx_idem_fields_conf_t *conf, const char *connection,
    const test_field_t *rows, size_t n)
{
    size_t           i;
    ngx_idem_span_t  name, list;

    list.data = (const uint8_t *) connection;
    list.len = strlen(connection);

    for (i = 0; i < n; i++) {
        name.data = (const uint8_t *) rows[i].name;
        name.len = strlen(rows[i].name);

        tap_ok(ngx_idem_policy_keeps(name, conf, list) == rows[i].keeps,
               rows[i].why);
    }
}
