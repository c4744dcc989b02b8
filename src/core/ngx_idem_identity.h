
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * SHA-256 over lists of parts, so that no two lists ever give the same bytes.
 *
 * What is hashed:
 *
 *   list   varint, count of parts; then the parts
 *   part   varint, length; then the bytes
 *   body   the bytes as they come; then a varint, their length; at most one,
 *          the last thing in a digest, as its length is known only at its end
 *   items  in place of a body that has some: of each the bytes as they come,
 *          then their length; then the count of the items.  Lengths and count
 *          take 8 bytes each, big endian
 *
 * identity     list of scope parts, list of key parts
 * fingerprint  list of parts, then the body if it belongs to it; with items
 *              there is one part more than with the body, which is "multipart"
 *
 * A varint is little endian base 128 (LEB128), the shortest one that holds its
 * value.  It tells itself where it ends, and a part's tells where the part
 * ends: whoever knows how many lists there are reads them back from the first
 * byte on.  What is left then is nothing, or a body and its length.  The longer
 * a body, the more bytes these two are together: their sum tells the body's
 * length, and so the body.  Items are read back from the last byte: the count,
 * and as often a length and as many bytes as it says.  Whether it is a body or
 * items, the count of the parts in front has told.
 */


#ifndef _NGX_IDEM_IDENTITY_H_INCLUDED_
#define _NGX_IDEM_IDENTITY_H_INCLUDED_


#include <openssl/evp.h>

#include "core/ngx_idem_core.h"


/* Three blocks of SHA-256: most digests are fed to libcrypto in one call. */

#define NGX_IDEM_DIGEST_BUFFER  192


typedef struct {
    EVP_MD_CTX  *md;            /* the caller's, see ngx_idem_digest_start() */
    uint64_t     body;          /* bytes of the body or item fed so far */
    uint64_t     items;         /* ended so far */
    size_t       used;          /* bytes in buf, not fed to libcrypto yet */
    uint8_t      buf[NGX_IDEM_DIGEST_BUFFER];
    int          failed;        /* libcrypto refused; checked at the end */
} ngx_idem_digest_t;


/*
 * Starts a digest.
 *
 *   md    from EVP_MD_CTX_new(); may be used for one digest after the other,
 *         the second and later starts are cheap
 *   type  SHA-256, fetched once by the caller
 *
 * Errors of libcrypto are kept and told by ngx_idem_digest_final().
 */
void ngx_idem_digest_start(ngx_idem_digest_t *dg, EVP_MD_CTX *md,
    const EVP_MD *type);

/* Opens a list of n parts, which follow by ngx_idem_digest_part(). */
void ngx_idem_digest_list(ngx_idem_digest_t *dg, uint32_t n);
void ngx_idem_digest_part(ngx_idem_digest_t *dg, ngx_idem_span_t part);

/* Feeds a piece of the body; any split of the same bytes is the same. */
void ngx_idem_digest_body(ngx_idem_digest_t *dg, ngx_idem_span_t piece);

/* Ends the body, also one without a byte. */
void ngx_idem_digest_body_end(ngx_idem_digest_t *dg);

/*
 * Ends one item, whose pieces were fed as those of a body; and all of them,
 * of which there may be none.
 */
void ngx_idem_digest_item_end(ngx_idem_digest_t *dg);
void ngx_idem_digest_items_end(ngx_idem_digest_t *dg);

/*
 * Writes the digest, NGX_IDEM_DIGEST_LEN bytes.  Returns 0, or -1 if
 * libcrypto failed anywhere since the start; out is then not to be used.
 */
int ngx_idem_digest_final(ngx_idem_digest_t *dg, uint8_t *out);


#endif /* _NGX_IDEM_IDENTITY_H_INCLUDED_ */
