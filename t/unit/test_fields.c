
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A value of a body is what the client wrote, or nothing: numbers keep their
 * digits, escapes are undone, and what is doubtful has no value.
 */


#include "core/ngx_idem_form.h"
#include "core/ngx_idem_json.h"
#include "tap.h"


#define span(s)  { (const uint8_t *) (s), sizeof(s) - 1 }

#define HEAD  "--x\r\nContent-Disposition: form-data; "
#define TAIL  "\r\n\r\nv\r\n--x--"


typedef struct {
    ngx_idem_span_t   in;
    const char       *out;              /* NULL: refused */
    const char       *why;
} test_case_t;


typedef struct {
    size_t            len;
    char              text[1024];
} test_text_t;


static void test_quote(void);
static void test_pointers(void);
static void test_indexes(void);
static void test_types(void);
static void test_urlencoded(void);
static void test_multipart(void);
static void test_field(void *data, const ngx_idem_form_field_t *field);
static int test_same(const char *got, size_t len, const char *expected);


static const test_case_t  texts[] = {
    { span("{\"a\":1.10}"), "{\"a\":\"1.10\"}", "a fraction" },
    { span("[0,-0,10,-1.5e+9,1E9,1e-9]"),
      "[\"0\",\"-0\",\"10\",\"-1.5e+9\",\"1E9\",\"1e-9\"]", "all of them" },
    { span("12345678901234567890"), "\"12345678901234567890\"", "alone" },
    { span("1 \t\r\n"), "\"1\" \t\r\n", "blanks behind" },
    { span("\"1\\\"2\""), "\"1\\\"2\"", "digits in a string stay" },
    { span("\"\\\\\",1"), "\"\\\\\",\"1\"", "an escaped backslash" },
    { span("true1"), "true\"1\"", "for the parser to refuse" },
    { span("01"), NULL, "a leading zero" },
    { span("-"), NULL, "a minus" },
    { span("-a"), NULL, "a minus and a letter" },
    { span("1."), NULL, "no digit behind the point" },
    { span(".5"), ".\"5\"", "a point first, for the parser to refuse" },
    { span("1e"), NULL, "no exponent" },
    { span("1e+"), NULL, "a sign for one" },
    { span("1x"), NULL, "a letter behind" },
    { span("0x1"), NULL, "hex digits" },
    { span("1 2"), NULL, "two numbers" },
    { span("1\"a\""), NULL, "a string behind" },
    { span("{1:2}"), NULL, "a number as a name" },
    { span("{1 :2}"), NULL, "the same with a blank" },
    { span("\"1"), NULL, "a string without an end" },
    { span("\"1\\"), NULL, "an escape without an end" },
    { span("{}\0"), NULL, "a NUL at the end" },
    { span("{\"a\":1}\0{"), NULL, "a NUL and more" }
};


static const test_case_t  pointers[] = {
    { span(""), "", "the whole" },
    { span("/a/b"), "a|b|", "members" },
    { span("/"), "|", "an empty name" },
    { span("//a/"), "|a||", "and more of them" },
    { span("/a~1b/m~0n"), "a/b|m~n|", "escapes" },
    { span("/~01"), "~1|", "are undone once" },
    { span("a"), NULL, "no slash" },
    { span("#/a"), NULL, "a fragment" },
    { span("/a~"), NULL, "an open escape" },
    { span("/a~2"), NULL, "no such escape" }
};


static const test_case_t  indexes[] = {
    { span("0"), "0", "zero" },
    { span("10"), "10", "ten" },
    { span("999999999"), "999999999", "a large one" },
    { span("01"), NULL, "a leading zero" },
    { span("-"), NULL, "behind the last one" },
    { span("-1"), NULL, "before the first" },
    { span("1a"), NULL, "a letter" },
    { span(""), NULL, "nothing" },
    { span("18446744073709551616"), NULL, "0 with an overflow" }
};


static const test_case_t  types[] = {
    { span("multipart/form-data; boundary=ab"), "ab|multipart/form-data|",
      "a boundary" },
    { span("Multipart/Mixed;BOUNDARY=\"a b\\\"?\"; x=y"), NULL,
      "a quote is none" },
    { span("Multipart/Mixed ;BOUNDARY=\"a b?\" ; x=y"),
      "a b?|Multipart/Mixed | ; x=y", "in quotes, with blanks" },
    { span("multipart/a; x=\"; boundary=q\"; boundary=ab"),
      "ab|multipart/a; x=\"; boundary=q\"|", "one that is within a value" },
    { span("multipart/a; boundary=a/b=c:d;"), "a/b=c:d|multipart/a|;",
      "more than a token" },
    { span("multipart/a"), NULL, "none" },
    { span("multipart/a; boundary="), NULL, "an empty one" },
    { span("multipart/a; boundary=\"a \""), NULL, "a blank at its end" },
    { span("multipart/a; boundary=a; boundary=a"), NULL, "two" },
    { span("multipart/a; boundary=a; x"), NULL, "no value behind" },
    { span("multipart/a; boundary=\"a"), NULL, "an open quote" },
    { span("multipart/a; boundary=a b"), NULL, "a word too many" },
    { span("text/plain; boundary=a"), NULL, "no multipart" },
    { span("multipart"), NULL, "half a type" },
    { span("multipart/a; boundary=01234567890123456789012345678901234567890"
           "123456789012345678901234567890"), NULL, "71 characters" }
};


static const test_case_t  forms[] = {
    { span("a=1&b=2"), "a=1|b=2|", "two fields" },
    { span("a=1+2%2b%26%3d"), "a=1 2+&=|", "escapes" },
    { span("%61=b"), "a=b|", "in a name" },
    { span("a=b=c"), "a=b=c|", "two equals" },
    { span("a"), "a=|", "none" },
    { span("=a"), "=a|", "no name" },
    { span("&&a=1&"), "a=1|", "nothing between" },
    { span("a=%c3%A9"), "a=\xc3\xa9|", "UTF-8" },
    { span("a=1;b=2"), "a=1;b=2|", "a semicolon" },
    { span(""), "", "no field" },
    { span("a=%"), NULL, "an open escape" },
    { span("a=%1"), NULL, "half of one" },
    { span("a=%1&b=2"), NULL, "half of one, and a field" },
    { span("a=%zz"), NULL, "no hex digits" },
    { span("%g0=a"), NULL, "in a name neither" },
    { span("a=%00"), NULL, "NUL" },
    { span("a=\0"), NULL, "NUL as it is" }
};


static const test_case_t  parts[] = {
    { span(HEAD "name=\"a\"" TAIL), "a=v|", "a name" },
    { span(HEAD "name=a" TAIL), "a=v|", "without quotes" },
    { span(HEAD "NAME=\"a\"; x=y\r\nContent-Type: text/plain" TAIL), "a=v|",
      "and more" },
    { span(HEAD "name=\"a\\\"\\\\b\\c\"" TAIL), "a\"\\b\\c=v|",
      "backslashes" },
    { span(HEAD "name=\"%22%0d%0A%41\"" TAIL), "\"\r\n%41=v|",
      "what browsers escape" },
    { span(HEAD "name=\"\"" TAIL), "=v|", "an empty name" },
    { span(HEAD "name=\"a\"; filename=\"f\"" TAIL), "a!|", "a file" },
    { span(HEAD "name=\"a\"; filename=\"\"" TAIL), "a!|", "no file chosen" },
    { span(HEAD "name=\"a\"; filename*=utf-8''f" TAIL), "a!|",
      "a file with an extended name" },
    { span(HEAD "name=\"a\"\r\nContent-Transfer-Encoding: base64" TAIL),
      "a!|", "encoded once more" },
    { span(HEAD "name=\"a\"\r\ncontent-transfer-encoding: 8bit" TAIL),
      "a=v|", "not encoded" },
    { span(HEAD "name=\"a\"\r\n\r\nv\0\r\n--x--"), "a!|", "a NUL" },
    { span(HEAD "name=\"a\"\r\n\r\n\r\n" HEAD "name=\"b\"" TAIL), "a=|b=v|",
      "two" },
    { span("--x--"), "", "no part" },
    { span(HEAD "x=y" TAIL), NULL, "no name" },
    { span(HEAD "name=\"a\"; name=\"b\"" TAIL), NULL, "two names" },
    { span(HEAD "name=\"a" TAIL), NULL, "an open quote" },
    { span(HEAD "name=\"a\"\r\n b: c" TAIL), NULL, "a folded line" },
    { span(HEAD "name=\"a\"\r\nb" TAIL), NULL, "no field" },
    { span(HEAD "name=\"a\"\nb: c" TAIL), NULL, "a line end without CR" },
    { span(HEAD "name=\"a\"\r\nContent-Disposition: form-data; name=b" TAIL),
      NULL, "two dispositions" },
    { span("--x\r\nContent-Disposition: attachment; name=\"a\"" TAIL), NULL,
      "another disposition" },
    { span("--x\r\na: b" TAIL), NULL, "none" },
    { span(HEAD "name=\"a\"\r\n\r\nv\r\n--x"), NULL, "cut" }
};


int
main(void)
{
    test_quote();
    test_pointers();
    test_indexes();
    test_types();
    test_urlencoded();
    test_multipart();

    return tap_done();
}


static void
test_quote(void)
{
    size_t              i, len;
    uint8_t             out[1024];
    const test_case_t  *t;

    for (i = 0; i < tap_count(texts); i++) {
        t = &texts[i];

        if (!ngx_idem_json_quote(t->in, out, &len)) {
            tap_ok(t->out == NULL, t->why);
            continue;
        }

        tap_ok(len <= ngx_idem_json_quoted_size(t->in.len)
               && test_same((char *) out, len, t->out), t->why);
    }

    tap_ok(ngx_idem_media_is_json((ngx_idem_span_t) span("Application/JSON;")),
           "a type");
    tap_ok(ngx_idem_media_is_json((ngx_idem_span_t) span("a/b+json ; c=d")),
           "a suffix");
    tap_ok(!ngx_idem_media_is_json((ngx_idem_span_t) span("text/json")),
           "another type");
    tap_ok(!ngx_idem_media_is_json((ngx_idem_span_t) span("a/b; c=+json")),
           "a parameter");
    tap_ok(!ngx_idem_media_is_json((ngx_idem_span_t) span("")), "none");
}


static void
test_pointers(void)
{
    size_t              i, n;
    uint8_t             token[64];
    test_text_t         text;
    ngx_idem_span_t     rest;
    const test_case_t  *t;

    for (i = 0; i < tap_count(pointers); i++) {
        t = &pointers[i];
        rest = t->in;
        text.len = 0;

        if (!ngx_idem_json_is_pointer(rest)) {
            tap_ok(t->out == NULL, t->why);
            continue;
        }

        while (rest.len) {
            n = ngx_idem_json_token(&rest, token);
            memcpy(text.text + text.len, token, n);
            text.len += n;
            text.text[text.len++] = '|';
        }

        tap_ok(test_same(text.text, text.len, t->out), t->why);
    }
}


static void
test_indexes(void)
{
    char                text[32];
    size_t              i, index;
    const test_case_t  *t;

    for (i = 0; i < tap_count(indexes); i++) {
        t = &indexes[i];

        if (!ngx_idem_json_index(t->in, &index)) {
            tap_ok(t->out == NULL, t->why);
            continue;
        }

        snprintf(text, sizeof(text), "%zu", index);
        tap_ok(test_same(text, strlen(text), t->out), t->why);
    }
}


static void
test_types(void)
{
    char                 text[1024];
    size_t               i;
    const test_case_t   *t;
    ngx_idem_boundary_t  b;

    for (i = 0; i < tap_count(types); i++) {
        t = &types[i];

        if (!ngx_idem_media_boundary(t->in, &b)) {
            tap_ok(t->out == NULL, t->why);
            continue;
        }

        snprintf(text, sizeof(text), "%.*s|%.*s|%.*s",
                 (int) b.len, (char *) b.data,
                 (int) b.before.len, (const char *) b.before.data,
                 (int) b.behind.len, (const char *) b.behind.data);

        tap_ok(test_same(text, strlen(text), t->out), t->why);
    }
}


static void
test_urlencoded(void)
{
    size_t              i;
    uint8_t             out[1024];
    test_text_t         text;
    const test_case_t  *t;

    for (i = 0; i < tap_count(forms); i++) {
        t = &forms[i];
        text.len = 0;

        if (!ngx_idem_form_urlencoded(t->in, out, test_field, &text)) {
            tap_ok(t->out == NULL, t->why);
            continue;
        }

        tap_ok(test_same(text.text, text.len, t->out), t->why);
    }
}


static void
test_multipart(void)
{
    int                  taken;
    size_t               i;
    uint8_t              out[1024];
    test_text_t          text;
    const test_case_t   *t;
    ngx_idem_boundary_t  boundary;

    memset(&boundary, 0, sizeof(ngx_idem_boundary_t));
    boundary.data[0] = 'x';
    boundary.len = 1;

    for (i = 0; i < tap_count(parts); i++) {
        t = &parts[i];
        text.len = 0;

        taken = ngx_idem_form_multipart(t->in, &boundary, out, test_field,
                                        &text);

        tap_ok(taken ? test_same(text.text, text.len, t->out)
                     : t->out == NULL, t->why);
    }
}


static void
test_field(void *data, const ngx_idem_form_field_t *field)
{
    test_text_t *text = data;

    memcpy(text->text + text->len, field->name.data, field->name.len);
    text->len += field->name.len;
    text->text[text->len++] = field->plain ? '=' : '!';

    if (field->plain) {
        memcpy(text->text + text->len, field->value.data, field->value.len);
        text->len += field->value.len;
    }

    text->text[text->len++] = '|';
}


static int
test_same(const char *got, size_t len, const char *expected)
{
    return expected != NULL && len == strlen(expected)
           && memcmp(got, expected, len) == 0;
}
