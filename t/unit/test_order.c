
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A number is above another one however many digits both have, and an entity
 * tag is the same as another one only to the last byte.
 */


#include <stdlib.h>

#include "core/ngx_idem_order.h"
#include "tap.h"


#define NINES  "999999999999999999999999999999999999999"


typedef struct {
    const char  *text;
    const char  *number;        /* NULL: it is none */
    const char  *why;
} test_number_t;


typedef struct {
    const char  *a;
    const char  *b;
    int          sign;
    const char  *why;
} test_compare_t;


typedef struct {
    const char  *text;
    int          is;
    const char  *why;
} test_tag_t;


typedef struct {
    const char  *if_match;
    const char  *tag;
    int          passes;
    const char  *why;
} test_match_t;


static ngx_idem_span_t test_span(const char *text);
static void test_free(ngx_idem_span_t span);
static void test_numbers(void);
static void test_compare(void);
static void test_tags(void);
static void test_matches(void);
static void test_bytes(void);


static const test_number_t  numbers[] = {
    { "0",            "0",       "0"                             },
    { "7",            "7",       "a digit"                       },
    { "1234567890",   "1234567890", "all digits"                 },
    { "007",          "7",       "zeros in front"                },
    { "000",          "0",       "zeros alone"                   },
    { NINES,          NINES,     "the longest one"               },
    { "0" NINES,      NINES,     "it may have zeros in front"    },
    { "1" NINES,      NULL,      "longer"                        },
    { "",             NULL,      "nothing"                       },
    { " 7",           NULL,      "a space in front"              },
    { "7 ",           NULL,      "a space behind"                },
    { "-7",           NULL,      "below 0"                       },
    { "+7",           NULL,      "a sign"                        },
    { "7.0",          NULL,      "a point"                       },
    { "7e3",          NULL,      "an exponent"                   },
    { "0x7",          NULL,      "hexadecimal"                   },
    { "7a",           NULL,      "a letter behind"               },
    { "/",            NULL,      "the byte below 0"              },
    { ":",            NULL,      "the byte above 9"              }
};

static const test_compare_t  compares[] = {
    { "7",            "7",       0,   "the same"                      },
    { "6",            "7",       -1,  "below"                         },
    { "8",            "7",       1,   "above"                         },
    { "9",            "10",      -1,  "more digits are more"          },
    { "100",          "99",      1,   "even if they are smaller"      },
    { "18446744073709551616",
      "18446744073709551615",    1,   "above what 64 bits have"       },
    { "9007199254740993",
      "9007199254740992",        1,   "above what a double tells"     },
    { "0",            "1",       -1,  "0"                             }
};

static const test_tag_t  tags[] = {
    { "\"a\"",        1,  "a strong one"               },
    { "\"\"",         1,  "an empty one"               },
    { "\"a,b\"",      1,  "with a comma"               },
    { "\"\xc3\xa9\"", 1,  "with bytes above 127"       },
    { "W/\"a\"",      0,  "a weak one"                 },
    { "a",            0,  "no quotes"                  },
    { "\"a",          0,  "no end"                     },
    { "a\"",          0,  "no beginning"               },
    { "\"",           0,  "a quote alone"              },
    { "",             0,  "nothing"                    },
    { "\"a\"b",       0,  "something behind"           },
    { "\"a\" ",       0,  "a space behind"             },
    { "\"a b\"",      0,  "a space in it"              },
    { "\"a\x7f\"",    0,  "DEL in it"                  },
    { "\"a\t\"",      0,  "a tab in it"                }
};

static const test_match_t  matches[] = {
    { "\"a\"",                  "\"a\"",   1,  "the same"                  },
    { "\"a\"",                  "\"b\"",   0,  "another one"               },
    { "\"a\"",                  "\"ab\"",  0,  "a longer one"              },
    { "\"ab\"",                 "\"a\"",   0,  "a shorter one"             },
    { "\"A\"",                  "\"a\"",   0,  "other case"                },
    { "*",                      "\"a\"",   1,  "any"                       },
    { "\"*\"",                  "\"a\"",   0,  "a tag that is a star"      },
    { "* ",                     "\"a\"",   0,  "more than a star"          },
    { "*, \"a\"",               "\"a\"",   0,  "a star in a list"          },
    { "\"b\", \"a\"",           "\"a\"",   1,  "the second of a list"      },
    { "\"a\", \"b\"",           "\"a\"",   1,  "the first of a list"       },
    { "\"b\",\"c\" ,\t\"a\"",   "\"a\"",   1,  "spaces around commas"      },
    { ", ,\"a\",,",             "\"a\"",   1,  "nothing between commas"    },
    { "\"b\", \"c\"",           "\"a\"",   0,  "none of a list"            },
    { "W/\"a\"",                "\"a\"",   0,  "a weak one is not strong"  },
    { "W/\"b\", \"a\"",         "\"a\"",   1,  "a weak one beside it"      },
    { "w/\"b\", \"a\"",         "\"a\"",   0,  "w is not W"                },
    { "\"a,b\"",                "\"a\"",   0,  "a comma in a tag"          },
    { "\"a\" \"b\"",            "\"a\"",   0,  "no comma"                  },
    { "\"a\", b",               "\"a\"",   0,  "no tag in a list"          },
    { "\"a\", \"b",             "\"a\"",   0,  "no end"                    },
    { "a",                      "\"a\"",   0,  "no quotes"                 },
    { "",                       "\"a\"",   0,  "nothing"                   },
    { ",",                      "\"a\"",   0,  "a comma"                   },
    { "W/",                     "\"a\"",   0,  "half a weak one"           }
};


int
main(void)
{
    test_numbers();
    test_compare();
    test_tags();
    test_matches();
    test_bytes();

    return tap_done();
}


/* Memory of just that length, so that a sanitizer sees who reads on. */

static ngx_idem_span_t
test_span(const char *text)
{
    uint8_t          *data;
    ngx_idem_span_t   span;

    span.len = strlen(text);

    data = malloc(span.len + (span.len == 0));
    if (data == NULL) {
        abort();
    }

    memcpy(data, text, span.len);
    span.data = data;

    return span;
}


static void
test_free(ngx_idem_span_t span)
{
    free((void *) (uintptr_t) span.data);
}


static void
test_numbers(void)
{
    size_t           i;
    ngx_idem_span_t  text, n;

    for (i = 0; i < tap_count(numbers); i++) {
        text = test_span(numbers[i].text);

        if (ngx_idem_order_number(text, &n)) {
            tap_ok(numbers[i].number == NULL, numbers[i].why);

        } else if (numbers[i].number == NULL) {
            tap_ok(0, numbers[i].why);

        } else {
            tap_is_bytes(n.data, n.len, numbers[i].number,
                         strlen(numbers[i].number), numbers[i].why);
        }

        test_free(text);
    }
}


static void
test_compare(void)
{
    int              sign;
    size_t           i;
    ngx_idem_span_t  a, b;

    for (i = 0; i < tap_count(compares); i++) {
        a = test_span(compares[i].a);
        b = test_span(compares[i].b);

        sign = ngx_idem_order_compare(a, b);
        tap_ok((sign > 0) - (sign < 0) == compares[i].sign, compares[i].why);

        sign = ngx_idem_order_compare(b, a);
        tap_ok((sign < 0) - (sign > 0) == compares[i].sign,
               "and the other way round");

        test_free(a);
        test_free(b);
    }
}


static void
test_tags(void)
{
    size_t           i;
    ngx_idem_span_t  tag;

    for (i = 0; i < tap_count(tags); i++) {
        tag = test_span(tags[i].text);
        tap_ok(ngx_idem_order_is_tag(tag) == tags[i].is, tags[i].why);
        test_free(tag);
    }
}


static void
test_matches(void)
{
    size_t           i;
    ngx_idem_span_t  value, tag;

    for (i = 0; i < tap_count(matches); i++) {
        value = test_span(matches[i].if_match);
        tag = test_span(matches[i].tag);

        tap_ok(ngx_idem_order_matches(value, tag) == matches[i].passes,
               matches[i].why);

        test_free(value);
        test_free(tag);
    }
}


/* Each byte, in a tag and in a number. */

static void
test_bytes(void)
{
    int              i, in_tag, in_number;
    uint8_t          text[3];
    ngx_idem_span_t  span, n;

    in_tag = 0;
    in_number = 0;

    for (i = 0; i < 256; i++) {
        text[0] = '"';
        text[1] = (uint8_t) i;
        text[2] = '"';

        span.data = text;
        span.len = 3;
        in_tag += ngx_idem_order_is_tag(span);

        span.data = &text[1];
        span.len = 1;
        in_number += !ngx_idem_order_number(span, &n);
    }

    tap_is((unsigned) in_tag, 256 - 0x21 - 2,
           "a tag has no control, space, quote or DEL in it");
    tap_is((unsigned) in_number, 10, "a number has ten digits");
}
