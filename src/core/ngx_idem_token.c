
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <string.h>

#include <openssl/crypto.h>

#include "core/ngx_idem_token.h"


#define NGX_IDEM_TOKEN_EXPIRY  1
#define NGX_IDEM_TOKEN_RANDOM  9
#define NGX_IDEM_TOKEN_MAC     25
#define NGX_IDEM_TOKEN_BYTES   (NGX_IDEM_TOKEN_MAC + NGX_IDEM_DIGEST_LEN)


static uint64_t ngx_idem_token_expiry(const uint8_t *bytes);
static int ngx_idem_token_sign(const uint8_t *bytes, const uint8_t *scope,
    const ngx_idem_token_keys_t *keys, size_t which, uint8_t *mac);
static int ngx_idem_token_digest(const ngx_idem_token_keys_t *keys,
    const uint8_t *data, size_t len, uint8_t *out);
static void ngx_idem_token_encode(const uint8_t *bytes, uint8_t *out);
static int ngx_idem_token_decode(ngx_idem_span_t token, uint8_t *bytes);
static uint32_t ngx_idem_token_value(uint8_t c);


int
ngx_idem_token_secret(ngx_idem_token_secret_t *secret, ngx_idem_span_t bytes,
    EVP_MD_CTX *md, const EVP_MD *type)
{
    ngx_idem_token_keys_t  keys;

    memset(secret, 0, sizeof(ngx_idem_token_secret_t));

    if (bytes.len <= NGX_IDEM_TOKEN_BLOCK_LEN) {
        memcpy(secret->block, bytes.data, bytes.len);
        return 0;
    }

    keys.md = md;
    keys.type = type;

    return ngx_idem_token_digest(&keys, bytes.data, bytes.len, secret->block);
}


int
ngx_idem_token_issue(uint8_t *out, uint64_t expires_s, const uint8_t *nonce,
    const uint8_t *scope, const ngx_idem_token_keys_t *keys)
{
    unsigned  i;
    uint8_t   bytes[NGX_IDEM_TOKEN_BYTES];

    bytes[0] = NGX_IDEM_TOKEN_VERSION;

    for (i = 0; i < 8; i++) {
        bytes[NGX_IDEM_TOKEN_EXPIRY + i] = (uint8_t) (expires_s
                                                      >> (56 - 8 * i));
    }

    memcpy(bytes + NGX_IDEM_TOKEN_RANDOM, nonce, NGX_IDEM_TOKEN_RANDOM_LEN);

    if (ngx_idem_token_sign(bytes, scope, keys, 0, bytes + NGX_IDEM_TOKEN_MAC)
        != 0)
    {
        return -1;
    }

    ngx_idem_token_encode(bytes, out);

    return 0;
}


/* All secrets are tried, whichever it is. */

ngx_idem_token_answer_e
ngx_idem_token_verify(ngx_idem_span_t token, const uint8_t *scope,
    const ngx_idem_token_keys_t *keys, uint64_t now_s)
{
    int      genuine;
    size_t   i;
    uint8_t  bytes[NGX_IDEM_TOKEN_BYTES], mac[NGX_IDEM_DIGEST_LEN];

    if (ngx_idem_token_decode(token, bytes) != 0
        || bytes[0] != NGX_IDEM_TOKEN_VERSION)
    {
        return NGX_IDEM_TOKEN_INVALID;
    }

    genuine = 0;

    for (i = 0; i < keys->n; i++) {

        if (ngx_idem_token_sign(bytes, scope, keys, i, mac) != 0) {
            return NGX_IDEM_TOKEN_FAILED;
        }

        genuine |= (CRYPTO_memcmp(mac, bytes + NGX_IDEM_TOKEN_MAC,
                                  sizeof(mac))
                    == 0);
    }

    if (!genuine) {
        return NGX_IDEM_TOKEN_INVALID;
    }

    return (now_s < ngx_idem_token_expiry(bytes)) ? NGX_IDEM_TOKEN_VALID
                                                  : NGX_IDEM_TOKEN_EXPIRED;
}


uint64_t
ngx_idem_token_expires_s(ngx_idem_span_t token)
{
    uint8_t  bytes[NGX_IDEM_TOKEN_BYTES];

    return (ngx_idem_token_decode(token, bytes) == 0)
               ? ngx_idem_token_expiry(bytes) : 0;
}


static uint64_t
ngx_idem_token_expiry(const uint8_t *bytes)
{
    unsigned  i;
    uint64_t  expires_s;

    expires_s = 0;

    for (i = 0; i < 8; i++) {
        expires_s = expires_s << 8 | bytes[NGX_IDEM_TOKEN_EXPIRY + i];
    }

    return expires_s;
}


/* HMAC: RFC 2104, section 2. */

static int
ngx_idem_token_sign(const uint8_t *bytes, const uint8_t *scope,
    const ngx_idem_token_keys_t *keys, size_t which, uint8_t *mac)
{
    size_t          i;
    uint8_t         inner[NGX_IDEM_TOKEN_BLOCK_LEN + NGX_IDEM_TOKEN_BYTES];
    uint8_t         outer[NGX_IDEM_TOKEN_BLOCK_LEN + NGX_IDEM_DIGEST_LEN];
    uint8_t        *text;
    const uint8_t  *key;

    key = keys->secrets[which].block;

    for (i = 0; i < NGX_IDEM_TOKEN_BLOCK_LEN; i++) {
        inner[i] = key[i] ^ 0x36;
        outer[i] = key[i] ^ 0x5c;
    }

    text = inner + NGX_IDEM_TOKEN_BLOCK_LEN;

    memcpy(text, bytes, NGX_IDEM_TOKEN_MAC);
    memcpy(text + NGX_IDEM_TOKEN_MAC, scope, NGX_IDEM_DIGEST_LEN);

    if (ngx_idem_token_digest(keys, inner, sizeof(inner),
                              outer + NGX_IDEM_TOKEN_BLOCK_LEN)
        != 0)
    {
        return -1;
    }

    return ngx_idem_token_digest(keys, outer, sizeof(outer), mac);
}


static int
ngx_idem_token_digest(const ngx_idem_token_keys_t *keys, const uint8_t *data,
    size_t len, uint8_t *out)
{
    if (EVP_DigestInit_ex(keys->md, keys->type, NULL) != 1
        || EVP_DigestUpdate(keys->md, data, len) != 1
        || EVP_DigestFinal_ex(keys->md, out, NULL) != 1)
    {
        return -1;
    }

    return 0;
}


static void
ngx_idem_token_encode(const uint8_t *bytes, uint8_t *out)
{
    size_t              i;
    uint32_t            group;
    static const char   alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                     "abcdefghijklmnopqrstuvwxyz"
                                     "0123456789-_";

    for (i = 0; i < NGX_IDEM_TOKEN_BYTES; i += 3) {

        group = (uint32_t) bytes[i] << 16 | (uint32_t) bytes[i + 1] << 8
                | bytes[i + 2];

        *out++ = (uint8_t) alphabet[group >> 18];
        *out++ = (uint8_t) alphabet[group >> 12 & 63];
        *out++ = (uint8_t) alphabet[group >> 6 & 63];
        *out++ = (uint8_t) alphabet[group & 63];
    }
}


/* 0; or -1: it is not a token. */

static int
ngx_idem_token_decode(ngx_idem_span_t token, uint8_t *bytes)
{
    size_t    i;
    uint32_t  group, value, wrong;

    if (token.len != NGX_IDEM_TOKEN_LEN) {
        return -1;
    }

    group = 0;
    wrong = 0;

    for (i = 0; i < NGX_IDEM_TOKEN_LEN; i++) {

        value = ngx_idem_token_value(token.data[i]);
        wrong |= value & 64;
        group = group << 6 | (value & 63);

        if (i % 4 == 3) {
            *bytes++ = (uint8_t) (group >> 16);
            *bytes++ = (uint8_t) (group >> 8);
            *bytes++ = (uint8_t) group;
        }
    }

    return wrong ? -1 : 0;
}


/* 64: not of the alphabet. */

static uint32_t
ngx_idem_token_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z') {
        return (uint32_t) (c - 'A');
    }

    if (c >= 'a' && c <= 'z') {
        return (uint32_t) (c - 'a' + 26);
    }

    if (c >= '0' && c <= '9') {
        return (uint32_t) (c - '0' + 52);
    }

    return (c == '-') ? 62 : (c == '_') ? 63 : 64;
}
