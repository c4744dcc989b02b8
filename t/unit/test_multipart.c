
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A multipart body is told by its parts, whatever its boundary is and however
 * it arrives, and no two bodies have the same parts.
 */


#include "core/ngx_idem_multipart.h"
#include "tap.h"


#define ROUNDS  200000
#define SPACE   1024


/* The items, a bar behind each, and the body written again from them. */

typedef struct {
    ngx_idem_multipart_t  mp;
    size_t                items;
    size_t                item;         /* where it begins in text */
    size_t                len;
    size_t                listed;
    char                  text[SPACE];
    char                  list[SPACE];
} test_items_t;


typedef struct {
    const char           *body;
    const char           *list;         /* NULL: not well formed */
    const char           *why;
} test_case_t;


static void test_cases(void);
static void test_again(void);
static int test_take(test_items_t *items, const char *body, size_t len,
    size_t step);
static void test_bytes(void *data, ngx_idem_span_t piece);
static void test_end(void *data);
static void test_add(test_items_t *items, const char *text);
static unsigned test_random(void);


static const test_case_t  cases[] = {
    { "--x--", "||", "no part" },
    { "--x--\r\n", "|\r\n|", "no part, and a line end" },
    { "--x\r\na:b\r\n\r\nc\r\n--x--", "|a:b|c||", "a part" },
    { "--x\r\n\r\nc\r\n--x--", "||c||", "no header" },
    { "--x\r\na:b\r\n\r\n\r\n--x--", "|a:b|||", "no content" },
    { "--x\r\na:b\r\nc:d\r\n\r\ne\r\n--x\r\nf:g\r\n\r\nh\r\n--x--",
      "|a:b\r\nc:d|e|f:g|h||", "two parts" },
    { "p\r\n--x\r\n\r\n\r\n--x--\r\ne", "p\r\n|||\r\ne|",
      "preamble and epilogue" },
    { "\r\n--x--", "\r\n||", "a line end in front is not lost" },
    { "--x\r\n\r\n\r\r\n-\r\n--\r\n--y\r\n--x--",
      "||\r\r\n-\r\n--\r\n--y||", "what is nearly a boundary" },
    { "--x\r\n\r\n--x\r\n--x--", "||--x||", "a boundary within a line" },
    { "--x\r\na\r\r\nb\r\n\r\nc\r\n--x--", "|a\r\r\nb|c||",
      "a CR within a header" },
    { "", NULL, "nothing" },
    { "--x", NULL, "cut behind a boundary" },
    { "--x-", NULL, "cut within the last one" },
    { "--x\r\n\r\nc", NULL, "cut within a part" },
    { "--x\r\na:b\r\n", NULL, "cut within a header" },
    { "--x\r\n\r\nc\r\n--xy\r\n--x--", NULL, "a line that goes on" },
    { "--x \r\n\r\nc\r\n--x--", NULL, "blanks behind a boundary" },
    { "--x\n\nc\n--x--", NULL, "line ends without CR" },
    { "--x\r\r\n\r\nc\r\n--x--", NULL, "one CR too many" },
    { "--x--y", NULL, "the last one goes on" },
    { "--x-y", NULL, "one dash behind" },
    { "--y--", NULL, "another boundary" },
    { "-x--", NULL, "one dash in front" }
};


int
main(void)
{
    test_cases();
    test_again();

    return tap_done();
}


/* Whole, and cut into pieces of each length. */

static void
test_cases(void)
{
    int                  same;
    size_t               i, len, step;
    test_items_t         items;
    const test_case_t   *t;

    for (i = 0; i < tap_count(cases); i++) {
        t = &cases[i];
        len = strlen(t->body);
        same = 1;

        for (step = 1; step <= len + 1; step++) {

            if (!test_take(&items, t->body, len, step)) {
                same = same && t->list == NULL;
                continue;
            }

            same = same && t->list != NULL
                   && items.listed == strlen(t->list)
                   && memcmp(items.list, t->list, items.listed) == 0
                   && items.len == len
                   && memcmp(items.text, t->body, len) == 0;
        }

        tap_ok(same, t->why);
    }
}


/*
 * The proof: whatever is well formed can be written again from its items, so
 * other items are what another body has.
 */

static void
test_again(void)
{
    char          body[SPACE];
    size_t        i, k, n, len, wrong, found;
    test_items_t  items;

    static const char  *words[] = {
        "--x\r\n", "\r\n--x\r\n", "\r\n--x--", "\r\n\r\n", "\r\n", "\r", "\n",
        "-", "--", "--x", "x", "a:b", "\r\n--x\r\n\r\n", "\r\n--x--"
    };

    wrong = 0;
    found = 0;

    for (i = 0; i < ROUNDS; i++) {
        len = 0;

        for (k = test_random() % 12; k > 0; k--) {
            n = len ? test_random() % tap_count(words) : test_random() % 2;
            memcpy(body + len, words[n], strlen(words[n]));
            len += strlen(words[n]);
        }

        if (!test_take(&items, body, len, 1 + test_random() % 8)) {
            continue;
        }

        found++;

        if (items.len != len || memcmp(items.text, body, len) != 0) {
            wrong++;
        }
    }

    tap_is(wrong, 0, "a body is written again from its items");
    tap_ok(found > ROUNDS / 50, "there were such bodies");
}


static int
test_take(test_items_t *items, const char *body, size_t len, size_t step)
{
    size_t                     i;
    ngx_idem_span_t            piece;
    ngx_idem_boundary_t        boundary;
    ngx_idem_multipart_sink_t  sink;

    memset(items, 0, sizeof(test_items_t));
    memset(&boundary, 0, sizeof(ngx_idem_boundary_t));

    boundary.data[0] = 'x';
    boundary.len = 1;

    sink.bytes = test_bytes;
    sink.end = test_end;
    sink.data = items;

    ngx_idem_multipart_start(&items->mp, &boundary, &sink);

    for (i = 0; i < len; i += step) {
        piece.data = (const uint8_t *) body + i;
        piece.len = (step < len - i) ? step : len - i;

        ngx_idem_multipart_feed(&items->mp, piece);
    }

    return ngx_idem_multipart_end(&items->mp);
}


static void
test_bytes(void *data, ngx_idem_span_t piece)
{
    test_items_t *items = data;

    memcpy(items->text + items->len, piece.data, piece.len);
    items->len += piece.len;

    memcpy(items->list + items->listed, piece.data, piece.len);
    items->listed += piece.len;
}


/* Writes what stands around an item. */

static void
test_end(void *data)
{
    test_items_t *items = data;

    int     header;
    char   *item;
    size_t  len;

    item = items->text + items->item;
    len = items->len - items->item;

    items->list[items->listed++] = '|';

    if (items->items++ % 2 == 0) {
        test_add(items, items->items == 1 ? "--x" : "\r\n--x");

    } else {
        header = (items->mp.state == NGX_IDEM_MULTIPART_HEADER);

        memmove(item + 2, item, len);
        memcpy(item, header ? "\r\n" : "--", 2);
        items->len += 2;

        if (header) {
            test_add(items, len ? "\r\n\r\n" : "\r\n");
        }
    }

    items->item = items->len;
}


static void
test_add(test_items_t *items, const char *text)
{
    memcpy(items->text + items->len, text, strlen(text));
    items->len += strlen(text);
}


static unsigned
test_random(void)
{
    static unsigned  x = 1;

    x = 1103515245 * x + 12345;

    return x >> 16;
}
