
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A client's key is taken as it was meant, however it is spelled, and what is
 * no key is told apart from no key at all.
 */


#include <stdlib.h>

#include "core/ngx_idem_key.h"
#include "tap.h"


#define ANY         NGX_IDEM_KEY_ANY
#define STRUCTURED  NGX_IDEM_KEY_STRUCTURED
#define UUID        NGX_IDEM_KEY_UUID

#define OK          NGX_IDEM_KEY_OK
#define MISSING     NGX_IDEM_KEY_MISSING
#define SYNTAX      NGX_IDEM_KEY_SYNTAX
#define SHORT       NGX_IDEM_KEY_SHORT
#define LONG        NGX_IDEM_KEY_LONG

#define U1          "8e03978e-40d5-43e8-bc93-6894a57f9324"

#define DIGIT       "0123456789"
#define LOWER       "abcdefghijklmnopqrstuvwxyz"
#define ALPHA       LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


typedef struct {
    ngx_idem_key_format_e   format;
    const char             *field;
    ngx_idem_key_answer_e   answer;
    const char             *key;        /* NULL unless OK */
    const char             *why;
} test_case_t;


typedef struct {
    size_t                  min;
    size_t                  max;
    size_t                  len;
    ngx_idem_key_answer_e   answer;
    const char             *why;
} test_length_t;


typedef struct {
    ngx_idem_key_format_e   format;
    const char             *before;
    const char             *behind;
    const char             *set;        /* of bytes that make a key */
    const char             *why;
} test_class_t;


static void test_cases(void);
static void test_params(void);
static void test_bytes(void);
static void test_classes(void);
static void test_lengths(void);
static ngx_idem_key_answer_e test_parse(const ngx_idem_key_rule_t *rule,
    const char *field, size_t field_len, char *key, size_t *len);


static const test_case_t  cases[] = {
/*    format      field              answer   key         why */
    { ANY,        "",                MISSING, NULL,       "any: no byte" },
    { STRUCTURED, "",                MISSING, NULL,
      "structured: no byte" },
    { UUID,       "",                MISSING, NULL,       "uuid: no byte" },

    { ANY,        "abc",             OK,      "abc",      "any: bare" },
    { ANY,        "\"abc\"",         OK,      "abc",
      "any: quoted equals bare" },
    { ANY,        "a;b=c",           OK,      "a;b=c",
      "any: a bare key has no parameters" },
    { ANY,        "a\\b",            OK,      "a\\b",
      "any: a backslash in a bare key is itself" },
    { ANY,        "!~",              OK,      "!~",
      "any: both ends of visible ASCII" },
    { ANY,        "a b",             SYNTAX,  NULL,
      "any: space in a bare key" },
    { ANY,        "a,b",             SYNTAX,  NULL,
      "any: comma, perhaps two field lines" },
    { ANY,        "a\"b",            SYNTAX,  NULL,
      "any: quote inside a bare key" },
    { ANY,        "abc\"",           SYNTAX,  NULL,
      "any: quote at the end only" },
    { ANY,        "\"abc",           SYNTAX,  NULL,
      "any: quote at the start only" },
    { ANY,        "\"",              SYNTAX,  NULL,       "any: one quote" },
    { ANY,        "\"a\", \"b\"",    SYNTAX,  NULL,       "any: a List" },
    { ANY,        "a\x7f",           SYNTAX,  NULL,       "any: DEL" },
    { ANY,        "k\xc3\xa9y",      SYNTAX,  NULL,       "any: UTF-8" },
    { ANY,        "a\tb",            SYNTAX,  NULL,       "any: tab" },

    { STRUCTURED, "\"a b\"",         OK,      "a b",
      "structured: space inside" },
    { STRUCTURED, "\"a,b\"",         OK,      "a,b",
      "structured: comma inside" },
    { STRUCTURED, "\" ~\"",          OK,      " ~",
      "structured: both ends of the string's bytes" },
    { STRUCTURED, "\"\\\"\\\\\"",    OK,      "\"\\",
      "structured: both escapes" },
    { STRUCTURED, "\"\"",            SHORT,   NULL,
      "structured: an empty string was sent" },
    { ANY,        "\"\"",            SHORT,   NULL,
      "any: an empty string was sent" },
    { UUID,       "\"\"",            SHORT,   NULL,
      "uuid: an empty string was sent" },
    { STRUCTURED, "abc",             SYNTAX,  NULL,
      "structured: a token is no string" },
    { STRUCTURED, "42",              SYNTAX,  NULL,
      "structured: an integer is no string" },
    { STRUCTURED, ":YWJj:",          SYNTAX,  NULL,
      "structured: a byte sequence is no string" },
    { STRUCTURED, "?1",              SYNTAX,  NULL,
      "structured: a boolean is no string" },
    { STRUCTURED, "(\"a\")",         SYNTAX,  NULL,
      "structured: an inner list is no item" },
    { STRUCTURED, "'a'",             SYNTAX,  NULL,
      "structured: single quotes" },
    { STRUCTURED, "\"a\\n\"",        SYNTAX,  NULL,
      "structured: an escape of another byte" },
    { STRUCTURED, "\"a\\",           SYNTAX,  NULL,
      "structured: ends after the backslash" },
    { STRUCTURED, "\"a\\\"",         SYNTAX,  NULL,
      "structured: the last quote is escaped" },
    { STRUCTURED, "\"k\x7f\"",       SYNTAX,  NULL,
      "structured: DEL is not in a string" },
    { STRUCTURED, "\"k\x1f\"",       SYNTAX,  NULL,
      "structured: nor is a control" },
    { STRUCTURED, "\"k\x80\"",       SYNTAX,  NULL,
      "structured: nor is a byte above ASCII" },
    { STRUCTURED, "\"a\"b",          SYNTAX,  NULL,
      "structured: something behind the string" },
    { STRUCTURED, "\"a\"\"b\"",      SYNTAX,  NULL,
      "structured: two strings" },

    { UUID,       U1,                OK,      U1,         "uuid: bare" },
    { UUID,       "\"" U1 "\"",      OK,      U1,         "uuid: quoted" },
    { UUID,       "\"" U1 "\"; v=4", OK,      U1,
      "uuid: quoted, with a parameter" },
    { UUID,       "8E03978E-40D5-43E8-BC93-6894A57F9324",
                                     OK,      U1,
      "uuid: upper case is the same key" },
    { UUID,       "\"8E03978e-40d5-43E8-bc93-6894A57f9324\"",
                                     OK,      U1,
      "uuid: mixed case, quoted, is the same key" },
    { UUID,       "AFaf0990-0000-0000-0000-000000000000",
                                     OK,
      "afaf0990-0000-0000-0000-000000000000",
      "uuid: ends of the hex digits, any version" },
    { UUID,       "urn:uuid:" U1,    SYNTAX,  NULL,       "uuid: as a URN" },
    { UUID,       "{" U1 "}",        SYNTAX,  NULL,       "uuid: in braces" },
    { UUID,       "8e03978e40d543e8bc936894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: without hyphens" },
    { UUID,       "8e03978-e40d5-43e8-bc93-6894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: a hyphen one too early" },
    { UUID,       "8e03978e-40d5-43e8-bc93_6894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: an underline for the last hyphen" },
    { UUID,       "8e03978e-40d5-43e8-bc93-6894a57f932",
                                     SYNTAX,  NULL,
      "uuid: a digit too few" },
    { UUID,       U1 "0",            SYNTAX,  NULL,
      "uuid: a digit too many" },
    { UUID,       "ge03978e-40d5-43e8-bc93-6894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: g is no hex digit" },
    { UUID,       "`e03978e-40d5-43e8-bc93-6894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: nor is the byte before a" },
    { UUID,       "@e03978e-40d5-43e8-bc93-6894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: nor is the byte before A" },
    { UUID,       "\x10" "e03978e-40d5-43e8-bc93-6894a57f9324",
                                     SYNTAX,  NULL,
      "uuid: a control that would fold to 0" }
};


/* What may stand behind "k"; the key is k or there is none. */

static const test_case_t  params[] = {
    { ANY,  ";a",                    OK,      "k",    "a true" },
    { ANY,  ";a;b;a",                OK,      "k",    "a name twice" },
    { ANY,  "; a=1",                 OK,      "k",    "space before a name" },
    { ANY,  ";   a=1",               OK,      "k",    "many spaces" },
    { ANY,  ";*a0_-.*=1",            OK,      "k",    "every byte of names" },
    { ANY,  ";a=0",                  OK,      "k",    "integer" },
    { ANY,  ";a=-999999999999999",   OK,      "k",    "15 digits" },
    { ANY,  ";a=1.5",                OK,      "k",    "decimal" },
    { ANY,  ";a=-123456789012.123",  OK,      "k",    "12 and 3 digits" },
    { ANY,  ";a=\"\"",               OK,      "k",    "empty string" },
    { ANY,  ";a=\"x;\\\"y\"",        OK,      "k",    "string" },
    { ANY,  ";a=tok",                OK,      "k",    "token" },
    { ANY,  ";a=*",                  OK,      "k",    "token of a star" },
    { ANY,  ";a=T9!#$%&'*+-.^_`|~:/", OK,     "k",    "every byte of tokens" },
    { ANY,  ";a=::",                 OK,      "k",    "no bytes" },
    { ANY,  ";a=:aZ09+/==:",         OK,      "k",    "byte sequence" },
    { ANY,  ";a=?0;b=?1",            OK,      "k",    "booleans" },

    { ANY,  ";",                     SYNTAX,  NULL,   "nothing behind ;" },
    { ANY,  "; ",                    SYNTAX,  NULL,   "space behind ;" },
    { ANY,  ";;a",                   SYNTAX,  NULL,   "a name is missing" },
    { ANY,  " ;a",                   SYNTAX,  NULL,   "space before ;" },
    { ANY,  ";a ",                   SYNTAX,  NULL,   "space at the end" },
    { ANY,  ";\ta",                  SYNTAX,  NULL,   "tab before a name" },
    { ANY,  ";A",                    SYNTAX,  NULL,   "upper case name" },
    { ANY,  ";1a",                   SYNTAX,  NULL,   "digit first" },
    { ANY,  ";-a",                   SYNTAX,  NULL,   "hyphen first" },
    { ANY,  ";aB",                   SYNTAX,  NULL,   "upper case inside" },
    { ANY,  ";a=",                   SYNTAX,  NULL,   "no value" },
    { ANY,  ";a= 1",                 SYNTAX,  NULL,   "space before a value" },
    { ANY,  ";a =1",                 SYNTAX,  NULL,   "space before =" },
    { ANY,  ";a=-",                  SYNTAX,  NULL,   "a sign alone" },
    { ANY,  ";a=+1",                 SYNTAX,  NULL,   "plus sign" },
    { ANY,  ";a=.5",                 SYNTAX,  NULL,   "no digit before ." },
    { ANY,  ";a=1.",                 SYNTAX,  NULL,   "no digit behind ." },
    { ANY,  ";a=1.2345",             SYNTAX,  NULL,   "4 digits behind ." },
    { ANY,  ";a=1.2.3",              SYNTAX,  NULL,   "two points" },
    { ANY,  ";a=1234567890123.1",    SYNTAX,  NULL,   "13 digits before ." },
    { ANY,  ";a=1234567890123456",   SYNTAX,  NULL,   "16 digits" },
    { ANY,  ";a=1x",                 SYNTAX,  NULL,   "letter in a number" },
    { ANY,  ";a=\"x",                SYNTAX,  NULL,   "string left open" },
    { ANY,  ";a=\"\\x\"",            SYNTAX,  NULL,   "wrong escape" },
    { ANY,  ";a=!x",                 SYNTAX,  NULL,   "no token starts so" },
    { ANY,  ";a=x(y)",               SYNTAX,  NULL,   "bracket in a token" },
    { ANY,  ";a=:YQ",                SYNTAX,  NULL,   "bytes left open" },
    { ANY,  ";a=:Y-Q:",              SYNTAX,  NULL,   "not base64" },
    { ANY,  ";a=:",                  SYNTAX,  NULL,   "one colon" },
    { ANY,  ";a=?2",                 SYNTAX,  NULL,   "third boolean" },
    { ANY,  ";a=?",                  SYNTAX,  NULL,   "no boolean" },
    { ANY,  ";a=(1)",                SYNTAX,  NULL,   "an inner list" },
    { ANY,  ", x",                   SYNTAX,  NULL,   "a second member" }
};


/* The grammar of RFC 8941, sections 3.1.2 and 3.3, byte by byte. */

static const test_class_t  classes[] = {
    { ANY,  "\"k\";",      "",   LOWER "*", "first of a name" },
    { ANY,  "\"k\";a",     "",   LOWER DIGIT "_-.*", "in a name" },
    { ANY,  "\"k\";a=",    "",   ALPHA DIGIT "*",
      "a value: an integer or first of a token" },
    { ANY,  "\"k\";a=t",   "",   ALPHA DIGIT "!#$%&'*+-.^_`|~:/",
      "in a token" },
    { ANY,  "\"k\";a=1",   "",   DIGIT, "in an integer" },
    { ANY,  "\"k\";a=1.",  "",   DIGIT, "in a decimal" },
    { ANY,  "\"k\";a=:",   ":",  ALPHA DIGIT "+/=", "in a byte sequence" },
    { ANY,  "\"k\";a=?",   "",   "01", "a boolean" },
    { UUID, "8e03978e-40d5-43e8-bc93-6894a57f932", "",
      DIGIT "abcdefABCDEF", "in a UUID" },
    { UUID, "\"8e03978e-40d5-43e8-bc93-6894a57f932", "\"",
      DIGIT "abcdefABCDEF", "in a quoted UUID" }
};


static const test_length_t  lengths[] = {
/*    min  max  len  answer  why */
    { 1,   255, 1,   OK,     "the shortest by default" },
    { 1,   255, 255, OK,     "the longest by default" },
    { 1,   255, 256, LONG,   "one more than the default" },
    { 8,   16,  7,   SHORT,  "one below min" },
    { 8,   16,  8,   OK,     "min" },
    { 8,   16,  9,   OK,     "one above min" },
    { 8,   16,  15,  OK,     "one below max" },
    { 8,   16,  16,  OK,     "max" },
    { 8,   16,  17,  LONG,   "one above max" },
    { 9,   9,   9,   OK,     "min is max" }
};


int
main(void)
{
    test_cases();
    test_params();
    test_bytes();
    test_classes();
    test_lengths();

    return tap_done();
}


static void
test_cases(void)
{
    char                    key[256];
    size_t                  i, len;
    const test_case_t      *t;
    ngx_idem_key_rule_t     rule;
    ngx_idem_key_answer_e   answer;

    rule.min = 1;
    rule.max = 255;

    for (i = 0; i < tap_count(cases); i++) {
        t = &cases[i];
        len = 999;

        rule.format = t->format;
        answer = test_parse(&rule, t->field, strlen(t->field), key, &len);

        if (t->answer != OK) {
            tap_ok(answer == t->answer && len == 999, t->why);
            continue;
        }

        tap_ok(answer == OK && len == strlen(t->key)
               && memcmp(key, t->key, len) == 0, t->why);
    }
}


static void
test_params(void)
{
    char                    key[256], field[64];
    size_t                  i, len;
    const test_case_t      *t;
    ngx_idem_key_rule_t     rule;
    ngx_idem_key_answer_e   answer;

    rule.min = 1;
    rule.max = 255;
    rule.format = STRUCTURED;

    for (i = 0; i < tap_count(params); i++) {
        t = &params[i];
        len = 0;

        snprintf(field, sizeof(field), "\"k\"%s", t->field);
        answer = test_parse(&rule, field, strlen(field), key, &len);

        tap_ok(answer == t->answer
               && (answer != OK || (len == 1 && key[0] == 'k')), t->why);
    }
}


/* Every byte alone, and between two letters of a string. */

static void
test_bytes(void)
{
    int                  c, plain, string, quoted, bare;
    char                 key[8], field[8];
    size_t               len;
    ngx_idem_key_rule_t  rule;

    plain = 0;
    string = 0;
    rule.min = 0;
    rule.max = 8;
    rule.format = ANY;

    for (c = 0; c < 256; c++) {
        bare = c > 0x20 && c < 0x7f && c != '"' && c != ',';
        quoted = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';

        field[0] = (char) c;
        plain += bare == (test_parse(&rule, field, 1, key, &len) == OK);

        memcpy(field, "\"a?b\"", 5);
        field[2] = (char) c;
        string += quoted == (test_parse(&rule, field, 5, key, &len) == OK);
    }

    tap_is((unsigned) plain, 256, "every byte as a bare key");
    tap_is((unsigned) string, 256, "every byte in a string");

    tap_is(test_parse(&rule, "a\0b", 3, key, &len), SYNTAX,
           "NUL ends nothing");
    tap_is(test_parse(&rule, "\"a\";b\0", 6, key, &len), SYNTAX,
           "NUL is in no name");
    tap_is(test_parse(&rule, "\"\"", 2, key, &len), OK,
           "an empty string, if min is 0");
    tap_is(len, 0, "and it is empty");
}


static void
test_classes(void)
{
    int                   c, right, expected;
    char                  key[64], field[64];
    size_t                i, n, len;
    const test_class_t   *t;
    ngx_idem_key_rule_t   rule;

    rule.min = 1;
    rule.max = 255;

    for (i = 0; i < tap_count(classes); i++) {
        t = &classes[i];
        n = strlen(t->before);
        right = 0;

        rule.format = t->format;
        snprintf(field, sizeof(field), "%s?%s", t->before, t->behind);

        for (c = 0; c < 256; c++) {
            field[n] = (char) c;
            expected = c != 0 && strchr(t->set, c) != NULL;

            right += expected == (test_parse(&rule, field,
                                             n + 1 + strlen(t->behind), key,
                                             &len) == OK);
        }

        tap_is((unsigned) right, 256, t->why);
    }
}


/* Lengths are those of the key, not of its spelling. */

static void
test_lengths(void)
{
    char                  key[512], field[1024];
    size_t                i, n, len;
    const test_length_t  *t;
    ngx_idem_key_rule_t   rule;

    for (i = 0; i < tap_count(lengths); i++) {
        t = &lengths[i];

        rule.min = t->min;
        rule.max = t->max;
        rule.format = ANY;

        memset(field, 'a', t->len);
        tap_ok(test_parse(&rule, field, t->len, key, &len) == t->answer
               && (t->answer != OK || len == t->len), t->why);

        field[0] = '"';

        for (n = 0; n < t->len; n++) {
            memcpy(field + 1 + 2 * n, "\\\"", 2);
        }

        field[1 + 2 * n] = '"';
        rule.format = STRUCTURED;

        tap_ok(test_parse(&rule, field, 2 + 2 * n, key, &len) == t->answer
               && (t->answer != OK || len == t->len), t->why);
    }
}


/* Parses copies of the exact size, so that a sanitizer sees a byte too far. */

static ngx_idem_key_answer_e
test_parse(const ngx_idem_key_rule_t *rule, const char *field,
    size_t field_len, char *key, size_t *len)
{
    uint8_t                *in, *out;
    ngx_idem_span_t         span;
    ngx_idem_key_answer_e   answer;

    in = malloc(field_len + 1);
    out = malloc(field_len + 1);

    if (in == NULL || out == NULL) {
        abort();
    }

    /* the copies end at the end of their memory */

    span.data = memcpy(in + 1, field, field_len);
    span.len = field_len;

    answer = ngx_idem_key_parse(rule, span, out + 1, len);

    if (answer == OK) {
        memcpy(key, out + 1, *len);
    }

    free(in);
    free(out);

    return answer;
}
