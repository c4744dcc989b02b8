
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A guard is the same bytes everywhere, who waits for it stands in order of
 * arrival, and bytes that are no guard are not taken for one.
 */


#include "core/ngx_idem_guard.h"
#include "tap.h"


#define GOLDEN                                                                \
    "\0\2" "\0\3" "\0\2" "v1" "new"                                           \
    "aaaaaaaaaaaaaaaa" "12345678" "bbbbbbbbbbbbbbbb" "87654321"


typedef struct {
    const char  *bytes;
    size_t       len;
    const char  *why;
} test_bad_t;


static void test_golden(void);
static void test_bad(void);
static void test_limits(void);
static void test_queue(void);
static void test_span(ngx_idem_span_t *span, const char *text);
static const uint8_t *test_bytes(const char *text);


static const test_bad_t  bads[] = {
    { "", 0, "no byte" },
    { "\0\0\0\0\0", 5, "no head" },
    { "\0\0\0\0\0\0x", 7, "a byte behind it" },
    { "\0\1\0\0\0\0", 6, "a value that is not there" },
    { "\0\0\0\2\0\0x", 7, "half of what is pending" },
    { "\0\0\0\0\0\1aaaaaaaaaaaaaaaa1234567", 29, "most of a waiter" },
    { "\xff\xff\xff\xff\xff\xff", 6, "lengths beyond all limits" },
};


int
main(void)
{
    test_golden();
    test_bad();
    test_limits();
    test_queue();

    return tap_done();
}


static void
test_golden(void)
{
    uint8_t           bytes[NGX_IDEM_GUARD_BYTES], *end;
    ngx_idem_span_t   span;
    ngx_idem_guard_t  gd, again;

    memset(&gd, 0, sizeof(ngx_idem_guard_t));

    end = ngx_idem_guard_write(&gd, bytes);
    tap_is_bytes(bytes, (size_t) (end - bytes), "\0\0\0\0\0\0", 6,
                 "an empty guard is six bytes");
    tap_ok(ngx_idem_guard_is_empty(&gd), "nobody would miss it");

    test_span(&gd.value, "v1");
    test_span(&gd.pending, "new");
    (void) ngx_idem_guard_join(&gd, test_bytes("aaaaaaaaaaaaaaaa"),
                               test_bytes("12345678"), 2);
    (void) ngx_idem_guard_join(&gd, test_bytes("bbbbbbbbbbbbbbbb"),
                               test_bytes("87654321"), 2);

    tap_is(ngx_idem_guard_size(&gd), sizeof(GOLDEN) - 1, "the size of all");
    end = ngx_idem_guard_write(&gd, bytes);
    tap_is_bytes(bytes, (size_t) (end - bytes), GOLDEN, sizeof(GOLDEN) - 1,
                 "value, pending and queue, in this order");

    span.data = bytes;
    span.len = sizeof(GOLDEN) - 1;
    tap_is((unsigned) ngx_idem_guard_read(&again, span), 0, "it is read");
    tap_is_bytes(again.value.data, again.value.len, "v1", 2, "the value");
    tap_is_bytes(again.pending.data, again.pending.len, "new", 3, "pending");
    tap_is_bytes(again.queue, again.nqueue * NGX_IDEM_GUARD_WAITER, gd.queue,
                 2 * NGX_IDEM_GUARD_WAITER, "and the queue");
    tap_ok(again.value.data == bytes + NGX_IDEM_GUARD_HEAD,
           "its spans are in the bytes");

    gd.value.len = 0;
    gd.pending.len = 0;
    tap_ok(!ngx_idem_guard_is_empty(&gd), "a queue alone is something");
    gd.nqueue = 0;
    gd.pending.len = 1;
    tap_ok(!ngx_idem_guard_is_empty(&gd), "pending alone is");
    gd.pending.len = 0;
    gd.value.len = 1;
    tap_ok(!ngx_idem_guard_is_empty(&gd), "a value alone is");
}


static void
test_bad(void)
{
    size_t            i;
    ngx_idem_span_t   span;
    ngx_idem_guard_t  gd;

    for (i = 0; i < tap_count(bads); i++) {
        span.data = test_bytes(bads[i].bytes);
        span.len = bads[i].len;

        tap_ok(ngx_idem_guard_read(&gd, span) != 0, bads[i].why);
    }
}


static void
test_limits(void)
{
    size_t            i;
    uint8_t           bytes[NGX_IDEM_GUARD_BYTES + 1], owner[16] = { 0 };
    ngx_idem_span_t   span;
    ngx_idem_guard_t  gd;

    static uint8_t  full[NGX_IDEM_GUARD_PENDING + 1];

    memset(&gd, 0, sizeof(ngx_idem_guard_t));
    gd.value.data = full;
    gd.pending.data = full;

    for (i = 0; i < NGX_IDEM_GUARD_QUEUE; i++) {
        owner[0] = (uint8_t) i;
        (void) ngx_idem_guard_join(&gd, owner, full, 1000);
    }

    owner[1] = 1;
    tap_ok(ngx_idem_guard_join(&gd, owner, full, 1000) != 0,
           "a queue has a limit");

    gd.value.len = NGX_IDEM_GUARD_VALUE;
    gd.pending.len = NGX_IDEM_GUARD_PENDING;
    tap_is(ngx_idem_guard_size(&gd), NGX_IDEM_GUARD_BYTES, "all that goes in");

    bytes[NGX_IDEM_GUARD_BYTES] = 7;
    tap_ok(ngx_idem_guard_write(&gd, bytes) == bytes + NGX_IDEM_GUARD_BYTES
           && bytes[NGX_IDEM_GUARD_BYTES] == 7, "is written, and no more");

    span.data = bytes;
    span.len = NGX_IDEM_GUARD_BYTES;
    tap_is((unsigned) ngx_idem_guard_read(&gd, span), 0, "and read");

    gd.value.len++;
    tap_is(ngx_idem_guard_size(&gd), 0, "a value may be too long");
    gd.value.len--;
    gd.pending.len++;
    tap_is(ngx_idem_guard_size(&gd), 0, "what is pending may");
}


static void
test_queue(void)
{
    ngx_idem_guard_t  gd;

    const uint8_t  *a = test_bytes("aaaaaaaaaaaaaaaa");
    const uint8_t  *b = test_bytes("bbbbbbbbbbbbbbbb");
    const uint8_t  *c = test_bytes("cccccccccccccccc");

    memset(&gd, 0, sizeof(ngx_idem_guard_t));

    tap_ok(ngx_idem_guard_join(&gd, a, a, 0) != 0, "nobody may wait");
    (void) ngx_idem_guard_join(&gd, a, a, 3);
    (void) ngx_idem_guard_join(&gd, b, b, 3);
    tap_ok(ngx_idem_guard_join(&gd, c, c, 2) != 0, "two may");
    (void) ngx_idem_guard_join(&gd, c, c, 3);

    tap_is(ngx_idem_guard_find(&gd, a), 0, "the first is first");
    tap_is(ngx_idem_guard_find(&gd, c), 2, "the last is last");

    ngx_idem_guard_leave(&gd, 1);
    tap_is(ngx_idem_guard_find(&gd, b), 2, "one leaves");
    tap_is(ngx_idem_guard_find(&gd, c), 1, "who stood behind moves up");
    tap_is_bytes(gd.queue[1].about, 8, c, 8, "with all about it");

    ngx_idem_guard_leave(&gd, 2);
    tap_is(gd.nqueue, 2, "who is not there cannot leave");
    ngx_idem_guard_leave(&gd, 1);
    ngx_idem_guard_leave(&gd, 0);
    tap_ok(ngx_idem_guard_is_empty(&gd), "all have left");
}


static void
test_span(ngx_idem_span_t *span, const char *text)
{
    span->data = test_bytes(text);
    span->len = strlen(text);
}


static const uint8_t *
test_bytes(const char *text)
{
    return (const uint8_t *) text;
}
