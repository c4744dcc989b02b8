
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
#define NOT_SET  NGX_IDEM_TTL_UNSET
#define GARBAGE  77


/* No override. */
#define NOTHING  { RELEASE, 0, 0, 0 }


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
    const char           *value;
    unsigned              unknown;
    ngx_idem_override_t   ov;
    const char           *why;
} test_override_t;


/* An override in an evidence that is whole, with doubt or without. */

typedef struct {
    const char           *value;
    unsigned              status;
    int                   doubt;
    ngx_idem_fate_e       fate;
    uint32_t              ttl_s;
    const char           *why;
} test_told_t;


typedef struct {
    ngx_idem_evidence_t   ev;
    ngx_idem_check_e      check;
    const char           *why;
} test_check_t;


typedef struct {
    const char           *name;
    int                   keeps;
    const char           *why;
} test_field_t;


static void test_evidence(void);
static void test_statuses(void);
static void test_rules(void);
static void test_success(void);
static void test_rule_rows(const ngx_idem_valid_conf_t *valid,
    const test_rule_t *rows, size_t n);
static void test_overrides(void);
static void test_told(void);
static void test_checks(void);
static void test_fields(const ngx_idem_fields_conf_t *conf,
    const char *connection, const test_field_t *rows, size_t n);


/* Without a rule of the operator's. */

static const test_fate_t  fates[] = {
/*      upstream final asked sent answered complete doubt */
    { { 0,       502,  1,    0,   0,       1, 0, NOTHING }, RELEASE,
      "asked, not answered, not sent: a page of nginx's own" },
    { { 0,       0,    1,    0,   0,       0, 0, NOTHING }, RELEASE,
      "asked, not answered, not sent: no page" },
    { { 200,     200,  1,    0,   0,       1, 0, NOTHING }, RELEASE,
      "asked, not answered, not sent, whatever the status" },
    { { 0,       502,  1,    0,   0,       1, 1, NOTHING }, UNKNOWN,
      "asked, not answered, not sent, but an earlier run was" },
    { { 0,       0,    0,    0,   0,       0, 1, NOTHING }, UNKNOWN,
      "ended before content, after an earlier run" },
    { { 0,       504,  1,    1,   0,       1, 0, NOTHING }, UNKNOWN,
      "asked, sent, not answered: a page of nginx's own" },
    { { 201,     201,  1,    1,   0,       0, 0, NOTHING }, UNKNOWN,
      "asked, sent, cut off in the body" },
    { { 503,     200,  1,    1,   0,       1, 0, NOTHING }, UNKNOWN,
      "asked, sent, cut off in a refusal, replaced by a page" },
    { { 0,       0,    0,    0,   0,       0, 0, NOTHING }, RELEASE,
      "ended before content" },
    { { 0,       200,  0,    1,   0,       0, 0, NOTHING }, UNKNOWN,
      "a content handler ran and did not end" },
    { { 200,     200,  1,    1,   1,       0, 0, NOTHING }, UNKNOWN,
      "answered, but the answer for the client is not whole" },
    { { 200,     200,  1,    0,   1,       0, 0, NOTHING }, RELEASE,
      "not complete, and nothing was sent" },
    { { 201,     201,  1,    1,   1,       1, 0, NOTHING }, STORE,
      "an answer" },
    { { 0,       201,  0,    1,   0,       1, 0, NOTHING }, STORE,
      "an answer of a content handler" },
    { { 0,       200,  0,    0,   0,       1, 0, NOTHING }, STORE,
      "an answer without evidence of sending" },
    { { 502,     502,  1,    1,   1,       1, 0, NOTHING }, UNKNOWN,
      "502 of the upstream's own" },
    { { 504,     200,  1,    1,   1,       1, 0, NOTHING }, UNKNOWN,
      "504 of the upstream's own, replaced by a page" },
    { { 0,       502,  0,    1,   0,       1, 0, NOTHING }, STORE,
      "502 of no upstream" },
    { { 0,       504,  0,    1,   0,       1, 0, NOTHING }, STORE,
      "504 of no upstream" },
    { { 503,     200,  1,    1,   1,       1, 0, NOTHING }, RELEASE,
      "the upstream's status decides: it refused" },
    { { 200,     503,  1,    1,   1,       1, 0, NOTHING }, STORE,
      "the upstream's status decides: it did not" },
    { { 0,       503,  0,    1,   0,       1, 0, NOTHING }, RELEASE,
      "the final status decides if no upstream was asked" },
    { { 503,     503,  1,    1,   1,       1, 1, NOTHING }, UNKNOWN,
      "a refusal does not speak for one asked before" },
    { { 200,     200,  1,    1,   1,       1, 1, NOTHING }, STORE,
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


/* What stands in X-Accel-Idempotency. */

static const test_override_t  overrides[] = {
    { "",                      0, { RELEASE, 0, 0, 0 },   "nothing"        },
    { "store",                 0, { STORE, 1, 0, 0 },     "store"          },
    { "release",               0, { RELEASE, 1, 0, 0 },   "release"        },
    { "unknown",               0, { UNKNOWN, 1, 0, 0 },   "unknown"        },
    { " \tSToRe ",             0, { STORE, 1, 0, 0 },     "any case"       },
    { "ttl=60",                0, { RELEASE, 0, 1, 60 },  "a time alone"   },
    { "ttl=0",                 0, { RELEASE, 0, 1, 0 },   "the time 0"     },
    { "store, ttl=60",         0, { STORE, 1, 1, 60 },    "both"           },
    { "TTL=060 ,\tunknown",    0, { UNKNOWN, 1, 1, 60 },  "in any order"   },
    { ",, store,,",            0, { STORE, 1, 0, 0 },     "empty elements" },
    { "ttl=2147483647",        0, { RELEASE, 0, 1, 2147483647 },
      "the longest time" },
    { "ttl=2147483648",        0, { RELEASE, 0, 1, 2147483647 },
      "a longer one is that" },
    { "ttl=4294967297",        0, { RELEASE, 0, 1, 2147483647 },
      "it does not wrap around" },
    { "ttl=99999999999999999999999", 0, { RELEASE, 0, 1, 2147483647 },
      "however long it is" },
    { "keep",                  1, { RELEASE, 0, 0, 0 },   "a strange word" },
    { "store, keep",           1, { STORE, 1, 0, 0 },
      "a strange word beside one that is known" },
    { "store release",         1, { RELEASE, 0, 0, 0 },
      "two words without a comma" },
    { "store, release",        1, { STORE, 1, 0, 0 },
      "a second word changes nothing" },
    { "store, store",          1, { STORE, 1, 0, 0 },
      "not even the same one" },
    { "ttl=5, ttl=0",          1, { RELEASE, 0, 1, 5 },
      "a second time changes nothing" },
    { "ttl=, ttl, ttl=-1, ttl=1s, ttl= 1, ttl =1, =1", 7,
      { RELEASE, 0, 0, 0 }, "no times" },
    { "stor, stored, releas, unknow", 4, { RELEASE, 0, 0, 0 },
      "parts of words, and more than words" }
};


static const test_told_t  told[] = {
    { "store",           503, 0, STORE,   99,      "store a refusal"         },
    { "store",           502, 0, STORE,   99,      "store a 502"             },
    { "store",           409, 0, STORE,   30,      "store for a rule's time" },
    { "store",           410, 0, STORE,   DEFAULT,
      "store in spite of a rule's 0" },
    { "store, ttl=7",    409, 0, STORE,   7,       "store for so long"       },
    { "store, ttl=0",    200, 0, RELEASE, NOT_SET, "the time 0 wins"         },
    { "store",           503, 1, STORE,   99,      "store, in doubt"         },
    { "release",         200, 0, RELEASE, NOT_SET, "release an answer"       },
    { "release",         409, 0, RELEASE, NOT_SET, "release against a rule"  },
    { "release, ttl=7",  200, 0, RELEASE, NOT_SET, "release has no time"     },
    { "release",         200, 1, UNKNOWN, NOT_SET,
      "release does not speak for one asked before" },
    { "ttl=0",           200, 0, RELEASE, NOT_SET, "the time 0 releases"     },
    { "ttl=0",           502, 0, RELEASE, NOT_SET, "a 502, too"              },
    { "ttl=0",           200, 1, UNKNOWN, NOT_SET,
      "it does not speak for one asked before either" },
    { "unknown",         200, 0, UNKNOWN, NOT_SET, "unknown"                 },
    { "unknown, ttl=7",  200, 0, UNKNOWN, 7,       "unknown for so long"     },
    { "ttl=7",           200, 0, STORE,   7,       "the time alone"          },
    { "ttl=7",           409, 0, STORE,   7,       "against a rule's time"   },
    { "ttl=7",           502, 0, UNKNOWN, 7,       "of what stays unknown"   },
    { "ttl=7",           503, 0, RELEASE, NOT_SET, "of what is released"     },
    { "ttl=7",           410, 0, RELEASE, NOT_SET,
      "of what a rule releases" },
    { "keep",            503, 0, RELEASE, NOT_SET, "a strange word"          }
};


/* A code of its own each, so that others have the built-in rules. */

static const ngx_idem_valid_t  told_rules[] = {
    { 409, 409, 30 },
    { 410, 410, 0  }
};


static const test_check_t  checks[] = {
/*      upstream final asked sent answered complete doubt */
    { { 200,     200,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_DONE,    "200 of an upstream" },
    { { 299,     299,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_DONE,    "the last 2xx" },
    { { 0,       204,  0,    1,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_DONE,    "204 of a content handler" },
    { { 0,       200,  0,    0,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_DONE,    "200 out of a cache" },
    { { 200,     200,  1,    1,   1,       0, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "200, cut off" },
    { { 200,     200,  1,    1,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "200 of one asked before" },
    { { 0,       200,  1,    0,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "a page in place of an upstream" },
    { { 404,     404,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_ABSENT,  "404 of an upstream" },
    { { 404,     200,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_ABSENT,  "404 of an upstream, with a page" },
    { { 0,       404,  0,    1,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_ABSENT,  "404 of a content handler" },
    { { 0,       404,  0,    0,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "404 of nginx's own" },
    { { 404,     404,  1,    1,   1,       0, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "404, cut off" },
    { { 500,     404,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "404 made of a 500" },
    { { 0,       404,  1,    1,   0,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "404 made of no answer" },
    { { 199,     199,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "199" },
    { { 300,     300,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "300" },
    { { 410,     410,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "410" },
    { { 503,     503,  1,    1,   1,       1, 0, NOTHING },
      NGX_IDEM_CHECK_UNKNOWN, "503" }
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
    test_success();
    test_overrides();
    test_told();
    test_checks();

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
    ngx_idem_valid_conf_t  valid = { NULL, 0, DEFAULT, 0 };

    for (i = 0; i < tap_count(fates); i++) {
        t = &fates[i];
        ttl = GARBAGE;

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
    ngx_idem_evidence_t    ev = { .asked = 1, .sent = 1, .answered = 1,
                                   .complete = 1 };
    ngx_idem_valid_conf_t  valid = { NULL, 0, DEFAULT, 0 };

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
    valid.success = 0;
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


/* Where a success only is an answer: all statuses, in doubt and not. */

static void
test_success(void)
{
    unsigned               status, wrong, doubted;
    uint32_t               ttl;
    ngx_idem_fate_e        fate;
    ngx_idem_evidence_t    ev = { .asked = 1, .sent = 1, .answered = 1,
                                  .complete = 1 };
    ngx_idem_valid_conf_t  valid = { NULL, 0, DEFAULT, 1 };

    wrong = 0;
    doubted = 0;

    for (status = 100; status < 600; status++) {
        ev.upstream_status = status;

        fate = (status / 100 == 2) ? STORE
               : (status == 502 || status == 504) ? UNKNOWN : RELEASE;

        ev.doubt = 0;
        wrong += (ngx_idem_policy_fate(&ev, &valid, &ttl) != fate);

        ev.doubt = 1;
        doubted += (ngx_idem_policy_fate(&ev, &valid, &ttl)
                    != (fate == RELEASE ? UNKNOWN : fate));
    }

    tap_is(wrong, 0, "success: what is not 2xx releases, 502 and 504 do not");
    tap_is(doubted, 0, "success: unless another one may have done it");

    valid.rules = rules;
    valid.n = tap_count(rules);
    test_rule_rows(&valid, by_rules, tap_count(by_rules) - 1);

    valid.n = 0;
    ev.doubt = 0;
    ev.upstream_status = 500;
    ev.override.given = 1;
    ev.override.fate = STORE;
    tap_is(ngx_idem_policy_fate(&ev, &valid, &ttl), STORE,
           "success: the upstream knows better");
    ev.complete = 0;
    tap_is(ngx_idem_policy_fate(&ev, &valid, &ttl), UNKNOWN,
           "success: what is not whole is unknown");
}


static void
test_rule_rows(const ngx_idem_valid_conf_t *valid, const test_rule_t *rows,
    size_t n)
{
    size_t               i;
    uint32_t             ttl;
    ngx_idem_fate_e      fate;
    ngx_idem_evidence_t  ev = { .asked = 1, .sent = 1, .answered = 1,
                                   .complete = 1 };

    for (i = 0; i < n; i++) {
        ttl = GARBAGE;
        ev.upstream_status = rows[i].status;

        fate = ngx_idem_policy_fate(&ev, valid, &ttl);

        tap_ok(fate == rows[i].fate
               && ttl == (fate == STORE ? rows[i].ttl_s : NOT_SET),
               rows[i].why);
    }
}


static void
test_overrides(void)
{
    size_t                  i;
    ngx_idem_span_t         value;
    ngx_idem_override_t     ov;
    const test_override_t  *t;

    for (i = 0; i < tap_count(overrides); i++) {
        t = &overrides[i];
        value.data = (const uint8_t *) t->value;
        value.len = strlen(t->value);
        memset(&ov, 0, sizeof(ov));

        tap_ok(ngx_idem_policy_override(value, &ov) == t->unknown
               && ov.fate == t->ov.fate && ov.given == t->ov.given
               && ov.timed == t->ov.timed && ov.ttl_s == t->ov.ttl_s,
               t->why);
    }
}


static void
test_told(void)
{
    size_t                 i;
    uint32_t               ttl;
    ngx_idem_span_t        value;
    ngx_idem_evidence_t    ev;
    const test_told_t     *t;
    ngx_idem_valid_conf_t  valid = { told_rules, 2, 99, 0 };

    for (i = 0; i < tap_count(told); i++) {
        t = &told[i];
        ttl = GARBAGE;
        memset(&ev, 0, sizeof(ev));

        ev.upstream_status = t->status;
        ev.asked = ev.sent = ev.answered = ev.complete = 1;
        ev.doubt = t->doubt;

        value.data = (const uint8_t *) t->value;
        value.len = strlen(t->value);
        (void) ngx_idem_policy_override(value, &ev.override);

        tap_ok(ngx_idem_policy_fate(&ev, &valid, &ttl) == t->fate
               && ttl == t->ttl_s, t->why);

        ev.complete = 0;
        tap_is(ngx_idem_policy_fate(&ev, &valid, &ttl), UNKNOWN,
               "not if the answer is cut off");
    }
}


static void
test_checks(void)
{
    size_t  i;

    for (i = 0; i < tap_count(checks); i++) {
        tap_is(ngx_idem_policy_check(&checks[i].ev), checks[i].check,
               checks[i].why);
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
