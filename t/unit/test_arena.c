
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Every block is free or in one chain, bytes come back as they went in, and
 * what is lost by a crash is found by a scan.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_arena.h"
#include "tap.h"


#define BLOCKS  40


static void test_pop(void);
static void test_extend(void);
static void test_bytes(void);
static void test_short_source(void);
static void test_scattered(void);
static void test_rebuild(void);
static void test_damage(void);

static void test_open(ngx_idem_arena_t *ar, uint32_t n);
static ngx_uint_t test_round_trip(ngx_idem_arena_t *ar, size_t size,
    size_t piece);


static ngx_idem_arena_list_t  list;
static uint32_t               links[BLOCKS];
static u_char                 blocks[BLOCKS * NGX_IDEM_BLOCK];
static u_char                 bytes[BLOCKS * NGX_IDEM_BLOCK];
static u_char                 copy[BLOCKS * NGX_IDEM_BLOCK + 1];


int
main(void)
{
    (void) alarm(30);

    test_pop();
    test_extend();
    test_bytes();
    test_short_source();
    test_scattered();
    test_rebuild();
    test_damage();

    return tap_done();
}


static void
test_pop(void)
{
    uint32_t          i;
    ngx_uint_t        twice;
    ngx_idem_arena_t  ar;
    u_char            seen[BLOCKS];

    test_open(&ar, BLOCKS);
    ngx_memzero(seen, BLOCKS);
    twice = 0;

    tap_is(list.nfree, BLOCKS, "all blocks are free");

    while ((i = ngx_idem_arena_pop(&ar)) != NGX_IDEM_NIL) {
        twice += seen[i]++;
    }

    tap_is(twice, 0, "none is given twice");
    tap_is(list.nfree, 0, "none is left");
    tap_ok(memchr(seen, 0, BLOCKS) == NULL, "each was given");

    ngx_idem_arena_push(&ar, 7);
    tap_is(list.nfree, 1, "one comes back");
    tap_is(ngx_idem_arena_pop(&ar), 7, "and is given again");
    tap_is(ngx_idem_arena_pop(&ar), NGX_IDEM_NIL, "then none is left");
}


static void
test_extend(void)
{
    uint32_t          first, last;
    ngx_idem_arena_t  ar;

    test_open(&ar, 10);
    last = NGX_IDEM_NIL;

    first = ngx_idem_arena_extend(&ar, &last, 3);
    tap_is(ngx_idem_arena_count(&ar, last), 3, "a chain of three");
    tap_is(ngx_idem_arena_next(&ar, last), first, "is a ring");

    (void) ngx_idem_arena_extend(&ar, &last, 1);
    (void) ngx_idem_arena_extend(&ar, &last, 6);
    tap_is(ngx_idem_arena_count(&ar, last), 10, "it grows to all there is");
    tap_is(ngx_idem_arena_next(&ar, last), first, "its first stays");
    tap_is(list.free, NGX_IDEM_NIL, "no block is free");

    ngx_idem_arena_give(&ar, last, 10);
    tap_is(list.nfree, 10, "the chain comes back");

    ngx_idem_arena_give(&ar, NGX_IDEM_NIL, 0);
    tap_is(list.nfree, 10, "an empty one brings nothing");
    tap_is(ngx_idem_arena_count(&ar, NGX_IDEM_NIL), 0, "and has no block");

    last = NGX_IDEM_NIL;
    (void) ngx_idem_arena_extend(&ar, &last, 10);
    tap_is(ngx_idem_arena_count(&ar, last), 10, "all are there again");
}


static void
test_bytes(void)
{
    size_t            i, size;
    ngx_uint_t        failed;
    ngx_idem_arena_t  ar;

    static const size_t  pieces[] = { 1, 7, 127, 128, 129, 1000, 100000 };

    failed = 0;

    for (i = 0; i < tap_count(pieces); i++) {
        for (size = 1; size <= BLOCKS * NGX_IDEM_BLOCK; size += 61) {
            test_open(&ar, BLOCKS);
            failed += !test_round_trip(&ar, size, pieces[i]);
        }
    }

    tap_is(failed, 0, "bytes of any length in pieces of any length");

    test_open(&ar, BLOCKS);
    tap_ok(test_round_trip(&ar, BLOCKS * NGX_IDEM_BLOCK, 333),
           "all blocks, full");
}


static void
test_short_source(void)
{
    uint32_t                 first, last;
    ngx_buf_t                b;
    ngx_chain_t              cl;
    ngx_idem_arena_t         ar;
    ngx_idem_arena_source_t  src;

    test_open(&ar, BLOCKS);
    last = NGX_IDEM_NIL;
    first = ngx_idem_arena_extend(&ar, &last, 4);

    b.pos = bytes;
    b.last = bytes + 300;
    cl.buf = &b;
    cl.next = NULL;
    src.chain = &cl;
    src.pos = NULL;

    tap_is(ngx_idem_arena_fill(&ar, first, 512, &src), 300,
           "a source that ends too early says so");

    src.chain = NULL;
    tap_is(ngx_idem_arena_fill(&ar, first, 512, &src), 0, "or has nothing");
}


/* Free blocks in an order that has nothing to do with their numbers. */

static void
test_scattered(void)
{
    uint32_t          i;
    ngx_uint_t        failed;
    ngx_idem_arena_t  ar;

    test_open(&ar, BLOCKS);

    while (ngx_idem_arena_pop(&ar) != NGX_IDEM_NIL) { /* void */ }

    for (i = 0; i < BLOCKS; i++) {
        ngx_idem_arena_push(&ar, i * 17 % BLOCKS);
    }

    failed = !test_round_trip(&ar, 3000, 100);
    failed += !test_round_trip(&ar, BLOCKS * NGX_IDEM_BLOCK, 5000);

    tap_is(failed, 0, "blocks in any order");
    tap_is(list.nfree, BLOCKS, "all of them are free again");
}


static void
test_rebuild(void)
{
    uint32_t          head, last, lost;
    ngx_idem_arena_t  ar;

    test_open(&ar, BLOCKS);

    head = ngx_idem_arena_pop(&ar);
    ngx_idem_arena_set_head(&ar, head);

    last = NGX_IDEM_NIL;
    (void) ngx_idem_arena_extend(&ar, &last, 5);

    lost = NGX_IDEM_NIL;
    (void) ngx_idem_arena_extend(&ar, &lost, 11);
    (void) ngx_idem_arena_pop(&ar);

    ngx_idem_arena_unmark(&ar);
    tap_ok(ngx_idem_arena_mark(&ar, head) == NGX_OK
           && ngx_idem_arena_mark_chain(&ar, last) == NGX_OK,
           "a head and its chain are marked");
    ngx_idem_arena_rebuild(&ar);

    tap_is(list.nfree, BLOCKS - 6, "all the others are free");
    tap_ok(ngx_idem_arena_is_head(&ar, head), "the head is one still");
    tap_is(ngx_idem_arena_count(&ar, last), 5, "and the chain is whole");
    tap_is(ngx_idem_arena_pop(&ar), 6, "the first free block is the lowest");

    ngx_idem_arena_unset_head(&ar, head);
    tap_ok(!ngx_idem_arena_is_head(&ar, head), "a head no more");
}


static void
test_damage(void)
{
    uint32_t          last;
    ngx_idem_arena_t  ar;

    test_open(&ar, BLOCKS);

    last = NGX_IDEM_NIL;
    (void) ngx_idem_arena_extend(&ar, &last, 5);

    ar.links[2] = 1;
    tap_is(ngx_idem_arena_mark_chain(&ar, last), (uint64_t) NGX_ERROR,
           "a circle that does not come back is no chain");

    ngx_idem_arena_unmark(&ar);
    ar.links[2] = BLOCKS;
    tap_is(ngx_idem_arena_mark_chain(&ar, last), (uint64_t) NGX_ERROR,
           "nor is one that leads out of the arena");

    ngx_idem_arena_unmark(&ar);
    ar.links[2] = NGX_IDEM_NIL;
    tap_is(ngx_idem_arena_mark_chain(&ar, last), (uint64_t) NGX_ERROR,
           "nor one that ends");

    ngx_idem_arena_unmark(&ar);
    tap_is(ngx_idem_arena_mark_chain(&ar, NGX_IDEM_NIL), NGX_OK,
           "none at all is one");
}


static void
test_open(ngx_idem_arena_t *ar, uint32_t n)
{
    size_t  i;

    for (i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (u_char) (i + (i >> 8) * 3);
    }

    ngx_memzero(links, sizeof(links));
    ngx_memzero(blocks, sizeof(blocks));

    list.nblocks = n;
    ar->list = &list;
    ar->links = links;
    ar->blocks = blocks;

    ngx_idem_arena_rebuild(ar);
}


/* In two goes: a first one of two blocks, then the rest. */

static ngx_uint_t
test_round_trip(ngx_idem_arena_t *ar, size_t size, size_t piece)
{
    size_t                    n;
    uint32_t                  first, last, nblocks;
    ngx_uint_t                i, same;
    ngx_buf_t                *b;
    ngx_chain_t              *cl;
    ngx_idem_arena_source_t   src;

    static ngx_buf_t    bufs[sizeof(bytes)];
    static ngx_chain_t  chains[sizeof(bytes)];

    for (i = 0, n = 0; n < size; i++, n += piece) {
        b = &bufs[i];
        b->pos = bytes + n;
        b->last = bytes + ngx_min(n + piece, size);
        cl = &chains[i];
        cl->buf = b;
        cl->next = (n + piece < size) ? cl + 1 : NULL;
    }

    src.chain = chains;
    src.pos = NULL;
    last = NGX_IDEM_NIL;
    nblocks = (uint32_t) ngx_idem_arena_blocks(size);
    n = ngx_min(size, 2 * NGX_IDEM_BLOCK);

    first = ngx_idem_arena_extend(ar, &last,
                                  (uint32_t) ngx_idem_arena_blocks(n));
    same = (ngx_idem_arena_fill(ar, first, n, &src) == n);

    if (n < size) {
        first = ngx_idem_arena_extend(ar, &last, nblocks - 2);
        same &= (ngx_idem_arena_fill(ar, first, size - n, &src) == size - n);
    }

    copy[size] = 0x5a;
    ngx_idem_arena_read(ar, last, copy, size);
    same &= (memcmp(copy, bytes, size) == 0 && copy[size] == 0x5a);

    ngx_idem_arena_give(ar, last, nblocks);

    return same;
}
