
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * Blocks of one size in one piece of memory.
 *
 * Each block has a link, a word in an array of its own:
 *
 *   bit 31      the block is a head, something of the caller's
 *   bit 30      marked; set by scans only, and none is left behind
 *   bits 0..29  the next block of a chain or of the free list, or nil
 *
 * A chain of data blocks is a ring, known by its last block: the next of the
 * last is the first.  So it grows at its end and is given back as a whole in
 * constant time.
 *
 * Heads, and the chains that the caller's heads name, are the truth; the free
 * list is derived: what no head and no chain holds is free, see
 * ngx_idem_arena_rebuild().
 *
 * Nothing here locks.  Links of a chain that cannot be given back meanwhile
 * may be followed without a lock.
 */


#ifndef _NGX_IDEM_ARENA_H_INCLUDED_
#define _NGX_IDEM_ARENA_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_IDEM_BLOCK       128
#define NGX_IDEM_NIL         0x3fffffff
#define NGX_IDEM_MAX_BLOCKS  NGX_IDEM_NIL

#define NGX_IDEM_LINK_HEAD   0x80000000
#define NGX_IDEM_LINK_MARK   0x40000000


/* Part of a zone's layout. */

typedef struct {
    uint32_t                 nblocks;
    uint32_t                 nfree;
    uint32_t                 free;          /* the first one, or nil */
    uint32_t                 reserved;
} ngx_idem_arena_list_t;


/* An arena as this process sees it. */

typedef struct {
    ngx_idem_arena_list_t   *list;
    uint32_t                *links;
    u_char                  *blocks;
} ngx_idem_arena_t;


/* Bytes in memory on their way into blocks; pos is NULL at the start. */

typedef struct {
    ngx_chain_t             *chain;
    u_char                  *pos;
} ngx_idem_arena_source_t;


#define ngx_idem_arena_block(ar, i)                                           \
    ((void *) ((ar)->blocks + (size_t) (i) * NGX_IDEM_BLOCK))

#define ngx_idem_arena_next(ar, i)   ((ar)->links[i] & NGX_IDEM_NIL)

#define ngx_idem_arena_is_head(ar, i)                                         \
    (((ar)->links[i] & NGX_IDEM_LINK_HEAD) != 0)

/* Blocks for so many bytes. */

#define ngx_idem_arena_blocks(size)                                           \
    (((size) + NGX_IDEM_BLOCK - 1) / NGX_IDEM_BLOCK)


/* A free block, or nil. */
uint32_t ngx_idem_arena_pop(ngx_idem_arena_t *ar);

/* Gives back a block that is in no chain. */
void ngx_idem_arena_push(ngx_idem_arena_t *ar, uint32_t i);

/* Makes a block a head, or no head any more: one store each. */
void ngx_idem_arena_set_head(ngx_idem_arena_t *ar, uint32_t i);
void ngx_idem_arena_unset_head(ngx_idem_arena_t *ar, uint32_t i);

/*
 * Appends n free blocks, 1 or more and as many as are free, to the chain that
 * ends with *last; nil: an empty one.  Returns the first of the new blocks.
 * *last names a whole ring at every moment.
 */
uint32_t ngx_idem_arena_extend(ngx_idem_arena_t *ar, uint32_t *last,
    uint32_t n);

/* Gives back a chain of n blocks; nothing if it is nil. */
void ngx_idem_arena_give(ngx_idem_arena_t *ar, uint32_t last, uint32_t n);

/*
 * Makes two chains of the one that ends with last: the first ends with end, a
 * block of it, the second with last.  At every moment end names a whole ring
 * in which all of the first is.
 */
void ngx_idem_arena_cut(ngx_idem_arena_t *ar, uint32_t last, uint32_t end);

/* The n-th block of a chain, from 1. */
uint32_t ngx_idem_arena_nth(ngx_idem_arena_t *ar, uint32_t last, uint32_t n);

/* Blocks of a chain, counted. */
uint32_t ngx_idem_arena_count(ngx_idem_arena_t *ar, uint32_t last);

/*
 * Fills the blocks from i on with the next n bytes of the source.  Returns
 * the bytes copied: fewer if the source has no more.
 */
size_t ngx_idem_arena_fill(ngx_idem_arena_t *ar, uint32_t i, size_t n,
    ngx_idem_arena_source_t *src);

/* Copies the first n bytes of a chain, which has as many, to dst. */
void ngx_idem_arena_read(ngx_idem_arena_t *ar, uint32_t last, u_char *dst,
    size_t n);

/*
 * A scan: marks of all blocks off, marks of a head and of its chain on, and
 * then all that is not marked becomes the free list, in ascending order.
 * mark: NGX_ERROR if a block was marked before, or the chain is none.
 */
void ngx_idem_arena_unmark(ngx_idem_arena_t *ar);
ngx_int_t ngx_idem_arena_mark(ngx_idem_arena_t *ar, uint32_t i);
ngx_int_t ngx_idem_arena_mark_chain(ngx_idem_arena_t *ar, uint32_t last);
void ngx_idem_arena_rebuild(ngx_idem_arena_t *ar);


#endif /* _NGX_IDEM_ARENA_H_INCLUDED_ */
