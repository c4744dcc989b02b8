
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A stored response comes back byte by byte as it was, and bytes that are no
 * record are never replayed.
 */


#include <stdlib.h>

#include "core/ngx_idem_record.h"
#include "tap.h"


#define span(s)  { (const uint8_t *) (s), sizeof(s) - 1 }

#define OK       NGX_IDEM_RECORD_OK
#define END      NGX_IDEM_RECORD_END
#define CORRUPT  NGX_IDEM_RECORD_CORRUPT

/* bytes of the golden record before its body */
#define HEAD     126


typedef struct {
    ngx_idem_span_t            bytes;
    ngx_idem_record_answer_e   answer;
    const char                *why;
} test_case_t;


typedef struct {
    size_t                     n;
    size_t                     size;
    const char                *why;
} test_varint_t;


static void test_write(void);
static void test_read(void);
static void test_cases(void);
static void test_truncated(void);
static void test_varints(void);
static void test_stays_corrupt(void);
static ngx_idem_record_answer_e test_read_all(ngx_idem_span_t bytes);
static int test_same(ngx_idem_span_t a, ngx_idem_span_t b);


static const ngx_idem_field_t  fields[] = {
    { NGX_IDEM_FIELD_HEADER, span("Location"), span("/pay/7") },
    { NGX_IDEM_FIELD_HEADER, span("X-Empty"), { NULL, 0 } },
    { NGX_IDEM_FIELD_TRAILER, span("Digest"), span("x") },
    { NGX_IDEM_FIELD_TYPE, { NULL, 0 }, span("application/json") },
    { NGX_IDEM_FIELD_CHARSET, { NULL, 0 }, span("utf-8") },
    { NGX_IDEM_FIELD_REASON, { NULL, 0 }, span("201 OK") },
    { NGX_IDEM_FIELD_LENGTH, { NULL, 0 }, span("1234") },
    { NGX_IDEM_FIELD_LOCATION, { NULL, 0 }, span("/pay/9/") },
    { NGX_IDEM_FIELD_MODIFIED, { NULL, 0 },
      span("Mon, 28 Sep 1970 06:00:00 GMT") }
};


static const ngx_idem_span_t  golden = span(
    "\x01"                              /* version */
    "\xc9\x01"                          /* status 201 */
    "\x7a"                              /* 122 bytes of fields */
    "\x01\x08\x06" "Location" "/pay/7"
    "\x01\x07\x00" "X-Empty"
    "\x02\x06\x01" "Digest" "x"
    "\x03\x00\x10" "application/json"
    "\x04\x00\x05" "utf-8"
    "\x05\x00\x06" "201 OK"
    "\x06\x00\x04" "1234"
    "\x07\x00\x07" "/pay/9/"
    "\x08\x00\x1d" "Mon, 28 Sep 1970 06:00:00 GMT"
    "{\"receipt\": 7}");


static const ngx_idem_span_t  body = span("{\"receipt\": 7}");


static const test_case_t  cases[] = {
    { span("\x01\xc8\x01\x00"), OK, "no field, no body" },
    { span("\x01\x01\x00"), OK, "the smallest status" },
    { span("\x01\xe7\x07\x00"), OK, "the largest status" },
    { span("\x01\xc8\x01\x04\x05\x00\x01x" "body"), OK, "field and body" },
    { span("\x01\xc8\x01\x03\x03\x00\x00"), OK, "a value may be empty" },

    { { NULL, 0 }, CORRUPT, "no byte" },
    { span("\x00\xc8\x01\x00"), CORRUPT, "version 0" },
    { span("\x02\xc8\x01\x00"), CORRUPT, "version 2" },
    { span("\x01\x00\x00"), CORRUPT, "status 0" },
    { span("\x01\xe8\x07\x00"), CORRUPT, "status 1000" },
    { span("\x01\xc8\x81\x80\x80\x10\x00"), CORRUPT, "status 2^32 + 200" },
    { span("\x01\xc8\x81\x00\x00"), CORRUPT, "status with a byte too many" },
    { span("\x01\xc8\x01\x80\x00"), CORRUPT, "length 0 in two bytes" },
    { span("\x01\xc8\x01\x83\x00\x03\x00\x00"), CORRUPT,
      "length 3 in two bytes" },
    { span("\x01\xc8\x01\x01"), CORRUPT, "length one beyond the end" },
    { span("\x01\xc8\x01\xff\xff\xff\xff\x0f\x03\x00\x00"), CORRUPT,
      "the largest length" },
    { span("\x01\xc8\x01\x80\x80\x80\x80\x10"), CORRUPT,
      "a length of 33 bits" },
    { span("\x01\xc8\x01\x80\x80\x80\x80\x80\x01"), CORRUPT,
      "a length of six bytes" },
    { span("\x01\xc8\x01\x04\x00\x00\x01x"), CORRUPT, "kind 0" },
    { span("\x01\xc8\x01\x04\x09\x00\x01x"), CORRUPT, "kind 9" },
    { span("\x01\xc8\x01\x04\xff\x00\x01x"), CORRUPT, "kind 255" },
    { span("\x01\xc8\x01\x04\x01\x00\x01x"), CORRUPT,
      "a header without a name" },
    { span("\x01\xc8\x01\x04\x02\x00\x01x"), CORRUPT,
      "a trailer without a name" },
    { span("\x01\xc8\x01\x05\x03\x01\x01nx"), CORRUPT, "a type with a name" },
    { span("\x01\xc8\x01\x05\x04\x01\x01nx"), CORRUPT,
      "a charset with a name" },
    { span("\x01\xc8\x01\x05\x05\x01\x01nx"), CORRUPT,
      "a reason with a name" },
    { span("\x01\xc8\x01\x05\x06\x01\x01nx"), CORRUPT,
      "a length with a name" },
    { span("\x01\xc8\x01\x05\x07\x01\x01nx"), CORRUPT,
      "a location with a name" },
    { span("\x01\xc8\x01\x05\x08\x01\x01nx"), CORRUPT,
      "a time with a name" },
    { span("\x01\xc8\x01\x01\x01"), CORRUPT, "a kind alone" },
    { span("\x01\xc8\x01\x02\x01\x01"), CORRUPT, "no length of the value" },
    { span("\x01\xc8\x01\x04\x01\x02\x00n" "body"), CORRUPT,
      "a name into the body" },
    { span("\x01\xc8\x01\x05\x01\x01\x02nv" "body"), CORRUPT,
      "a value into the body" },
    { span("\x01\xc8\x01\x0c\x01\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0fn"),
      CORRUPT, "lengths whose sum would wrap" },
    { span("\x01\xc8\x01\x05\x03\x00\x81\x00x"), CORRUPT,
      "a value's length in two bytes" },
    { span("\x01\xc8\x01\x05\x03\x80\x00\x01x"), CORRUPT,
      "a name's length in two bytes" },
    { span("\x01\xc8\x01\x05\x03\x00\x01xy"), CORRUPT,
      "a byte behind the last field" }
};


static const test_varint_t  varints[] = {
    { 0,                    1, "0"          },
    { 1,                    1, "1"          },
    { 127,                  1, "2^7 - 1"    },
    { 128,                  2, "2^7"        },
    { 16383,                2, "2^14 - 1"   },
    { 16384,                3, "2^14"       },
    { 2097151,              3, "2^21 - 1"   },
    { 2097152,              4, "2^21"       },
    { 268435455,            4, "2^28 - 1"   },
    { 268435456,            5, "2^28"       },
    { UINT32_MAX,           5, "2^32 - 1"   }
};


static const ngx_idem_span_t  half_good = span(
    "\x01\xc8\x01\x07\x05\x00\x01x\x09\x00\x00");


int
main(void)
{
    test_write();
    test_read();
    test_cases();
    test_truncated();
    test_varints();
    test_stays_corrupt();

    return tap_done();
}


static void
test_write(void)
{
    size_t   i, sum;
    uint8_t  buf[128], *p;

    sum = 0;

    for (i = 0; i < tap_count(fields); i++) {
        sum += ngx_idem_record_field_size(&fields[i]);
    }

    tap_is(ngx_idem_record_start_size(201, sum) + sum, HEAD,
           "sizes are told before writing");

    p = ngx_idem_record_start(buf, 201, sum);

    for (i = 0; i < tap_count(fields); i++) {
        p = ngx_idem_record_field(p, &fields[i]);
    }

    tap_is_bytes(buf, (size_t) (p - buf), golden.data, HEAD,
                 "the golden record is written");
}


static void
test_read(void)
{
    size_t             i;
    ngx_idem_field_t   f;
    ngx_idem_record_t  rec;

    tap_is(ngx_idem_record_open(&rec, golden), OK, "the golden record opens");
    tap_is(rec.status, 201, "with its status");
    tap_ok(test_same(rec.body, body), "and its body");

    for (i = 0; i < tap_count(fields); i++) {
        tap_ok(ngx_idem_record_next(&rec, &f) == OK
               && f.kind == fields[i].kind
               && test_same(f.name, fields[i].name)
               && test_same(f.value, fields[i].value),
               "a field comes back");
    }

    tap_is(ngx_idem_record_next(&rec, &f), END, "then there is none");
    tap_is(ngx_idem_record_next(&rec, &f), END, "and stays so");
}


static void
test_cases(void)
{
    size_t  i;

    for (i = 0; i < tap_count(cases); i++) {
        tap_is(test_read_all(cases[i].bytes), cases[i].answer, cases[i].why);
    }
}


/* A body has no length of its own: who keeps the bytes knows how many. */

static void
test_truncated(void)
{
    size_t           i, good, bad;
    ngx_idem_span_t  cut;

    good = 0;
    bad = 0;

    for (i = 0; i <= golden.len; i++) {
        cut.data = golden.data;
        cut.len = i;

        if (test_read_all(cut) == OK) {
            good++;

        } else {
            bad++;
        }
    }

    tap_is(bad, HEAD, "cut anywhere before the body it is no record");
    tap_is(good, body.len + 1, "what is cut behind that is the body only");
}


/* Lengths at the edges of a varint, read back through a record. */

static void
test_varints(void)
{
    size_t                i;
    uint8_t               buf[16];
    const test_varint_t  *t;
    ngx_idem_span_t       bytes;
    ngx_idem_record_t     rec;

    for (i = 0; i < tap_count(varints); i++) {
        t = &varints[i];

        bytes.data = buf;
        bytes.len = (size_t) (ngx_idem_record_start(buf, 7, t->n) - buf);

        tap_ok(bytes.len == 2 + t->size
               && bytes.len == ngx_idem_record_start_size(7, t->n), t->why);

        /* the fields would be t->n bytes, but there are none */

        tap_is(ngx_idem_record_open(&rec, bytes), t->n == 0 ? OK : CORRUPT,
               t->why);
    }
}


static void
test_stays_corrupt(void)
{
    ngx_idem_field_t   f;
    ngx_idem_record_t  rec;

    tap_is(ngx_idem_record_open(&rec, half_good), OK, "a record opens");
    tap_is(ngx_idem_record_next(&rec, &f), OK, "its first field is good");
    tap_is(ngx_idem_record_next(&rec, &f), CORRUPT, "its second is not");
    tap_is(ngx_idem_record_next(&rec, &f), CORRUPT, "nothing follows that");
}


/* OK if the record and all its fields are. */

static ngx_idem_record_answer_e
test_read_all(ngx_idem_span_t bytes)
{
    uint8_t                   *copy;
    ngx_idem_field_t           f;
    ngx_idem_record_t          rec;
    ngx_idem_record_answer_e   answer;

    copy = malloc(bytes.len + 1);

    if (copy == NULL) {
        abort();
    }

    if (bytes.len != 0) {
        memcpy(copy + 1, bytes.data, bytes.len);
        bytes.data = copy + 1;
    }

    answer = ngx_idem_record_open(&rec, bytes);

    while (answer == OK) {
        answer = ngx_idem_record_next(&rec, &f);
    }

    free(copy);

    return answer == END ? OK : answer;
}


static int
test_same(ngx_idem_span_t a, ngx_idem_span_t b)
{
    return a.len == b.len
           && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
