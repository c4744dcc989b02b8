
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * One-time tokens that nobody has to remember: a token tells itself until
 * when it may be used, and a signature whose scope it belongs to.
 *
 *      0   1  version, NGX_IDEM_TOKEN_VERSION
 *      1   8  expiry, seconds since 1970, network byte order
 *      9  16  random
 *     25  32  HMAC-SHA256 over these 25 bytes and the 32 of the scope's digest
 *
 * in base64url (RFC 4648, section 5).  57 bytes are 76 characters without a
 * bit left over: one token has one spelling, so its characters are a key.
 */


#ifndef _NGX_IDEM_TOKEN_H_INCLUDED_
#define _NGX_IDEM_TOKEN_H_INCLUDED_


#include <openssl/evp.h>

#include "core/ngx_idem_core.h"


#define NGX_IDEM_TOKEN_VERSION     1

#define NGX_IDEM_TOKEN_LEN         76
#define NGX_IDEM_TOKEN_RANDOM_LEN  16
#define NGX_IDEM_TOKEN_SECRET_MIN  16
#define NGX_IDEM_TOKEN_BLOCK_LEN   64


/* A secret as HMAC (RFC 2104) takes it: filled up with zeros, or hashed. */

typedef struct {
    uint8_t        block[NGX_IDEM_TOKEN_BLOCK_LEN];
} ngx_idem_token_secret_t;


/*
 * What tokens are signed with, and checked.
 *
 *   md    from EVP_MD_CTX_new(), for one digest after the other
 *   type  SHA-256, fetched once by the caller: HMAC() of libcrypto would fetch
 *         it each time, which takes eight times as long as to sign
 */

typedef struct {
    EVP_MD_CTX                     *md;
    const EVP_MD                   *type;
    const ngx_idem_token_secret_t  *secrets;    /* the first one signs */
    size_t                          n;
} ngx_idem_token_keys_t;


typedef enum {
    NGX_IDEM_TOKEN_VALID = 0,
    NGX_IDEM_TOKEN_EXPIRED,         /* but genuine */
    NGX_IDEM_TOKEN_INVALID,         /* forged, cut, another scope or secret */
    NGX_IDEM_TOKEN_FAILED           /* libcrypto did */
} ngx_idem_token_answer_e;


/* Makes a secret of bytes.  Returns 0, or -1 if libcrypto failed. */
int ngx_idem_token_secret(ngx_idem_token_secret_t *secret,
    ngx_idem_span_t bytes, EVP_MD_CTX *md, const EVP_MD *type);

/*
 * Writes a token, NGX_IDEM_TOKEN_LEN characters.
 *
 *   expires_s  the first second in which it is not valid any more
 *   nonce      [NGX_IDEM_TOKEN_RANDOM_LEN] that nobody can guess
 *   scope      [NGX_IDEM_DIGEST_LEN] digest of the scope
 *
 * Returns 0, or -1 if libcrypto failed; out is then not to be used.
 */
int ngx_idem_token_issue(uint8_t *out, uint64_t expires_s,
    const uint8_t *nonce, const uint8_t *scope,
    const ngx_idem_token_keys_t *keys);

/*
 * Whether a token was issued for the scope, with one of the secrets.  How long
 * it takes depends on how much of it is a token's, and not on the signature.
 */
ngx_idem_token_answer_e ngx_idem_token_verify(ngx_idem_span_t token,
    const uint8_t *scope, const ngx_idem_token_keys_t *keys, uint64_t now_s);

/* The first second in which a token that is genuine is not valid any more. */
uint64_t ngx_idem_token_expires_s(ngx_idem_span_t token);


#endif /* _NGX_IDEM_TOKEN_H_INCLUDED_ */
