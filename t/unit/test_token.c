
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A token is good for the scope and the time it was issued for, as long as
 * its secret is one of those in use, and nobody can make one or change one.
 */


#include "core/ngx_idem_token.h"
#include "tap.h"


#define EXPIRES_S  UINT64_C(1700003600)

#define span(s)    { (const uint8_t *) (s), sizeof(s) - 1 }


/*
 * The expected tokens are those of Python: base64.urlsafe_b64encode() of the
 * bytes, their end made by hmac.new(secret, bytes + scope, sha256).
 */

typedef struct {
    const char  *token;
    const char  *why;
    size_t       secret;
    uint64_t     expires_s;
    uint8_t      nonce[NGX_IDEM_TOKEN_RANDOM_LEN];
    uint8_t      scope[NGX_IDEM_DIGEST_LEN];
} test_golden_t;


typedef struct {
    uint64_t                 now_s;
    ngx_idem_token_answer_e  answer;
    const char              *why;
} test_time_t;


static int test_begin(void);
static int test_use(size_t first, size_t n);
static void test_golden(void);
static void test_times(void);
static void test_secrets(void);
static void test_scope(const uint8_t *scope, uint64_t now_s,
    ngx_idem_token_answer_e answer, const char *why);
static void test_changed(void);
static void test_lengths(void);
static void test_alphabet(void);
static ngx_idem_token_answer_e test_verify(const uint8_t *token, size_t len,
    uint64_t now_s);


/* The last one is longer than a block of HMAC. */

static const ngx_idem_span_t  texts[] = {
    span("0123456789abcdef"),
    span("0123456789abcdeg"),
    span("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0")
};

static ngx_idem_token_secret_t  secrets[tap_count(texts)];
static ngx_idem_token_keys_t    keys;


static const test_golden_t  golden[] = {
    { "AQAAAABlU_8QAAECAwQFBgcICQoLDA0OD0Crtw6fGrvW5i-yOvjZMxWj2-r0rWZxOSzPJqrG"
      "7Sva",
      "a token", 0, EXPIRES_S,
      { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
      { 0x5f, 0x16, 0x1c, 0x91, 0x49, 0x88, 0x2e, 0x0e,
        0x10, 0x12, 0x4b, 0xc5, 0xdd, 0x5c, 0x11, 0xf0,
        0xfb, 0xe8, 0xec, 0x45, 0x2e, 0xdd, 0x52, 0xbc,
        0xec, 0x76, 0xb0, 0x1e, 0x92, 0x52, 0xcb, 0x33 } },
    { "Af_______________________________3IayD9MSBarBzzwtOMO7QUWUD9P_5LvYX4BdeRD"
      "9lv8",
      "a token that never expires, of all bits", 0, UINT64_MAX,
      { 255, 255, 255, 255, 255, 255, 255, 255,
        255, 255, 255, 255, 255, 255, 255, 255 },
      { 0 } },
    { "AQAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAGbMNrxumI0AYa71CUdFjJeKjVip5QsvIEXVN10J"
      "tDp0",
      "a token of a long secret", 2, 1, { 0 }, { 0 } }
};


static const test_time_t  times[] = {
    { 0,             NGX_IDEM_TOKEN_VALID,   "long before its end" },
    { EXPIRES_S - 1, NGX_IDEM_TOKEN_VALID,   "in its last second" },
    { EXPIRES_S,     NGX_IDEM_TOKEN_EXPIRED, "at its end" },
    { UINT64_MAX,    NGX_IDEM_TOKEN_EXPIRED, "long after it" }
};


int
main(void)
{
    if (test_begin() != 0) {
        return 1;
    }

    test_golden();
    test_times();
    test_secrets();
    test_changed();
    test_lengths();
    test_alphabet();

    EVP_MD_CTX_free(keys.md);

    return tap_done();
}


static int
test_begin(void)
{
    size_t  i;

    keys.md = EVP_MD_CTX_new();
    keys.type = EVP_sha256();

    if (keys.md == NULL) {
        return -1;
    }

    for (i = 0; i < tap_count(texts); i++) {
        tap_is((unsigned long long)
               ngx_idem_token_secret(&secrets[i], texts[i], keys.md,
                                     keys.type), 0, "a secret");
    }

    return test_use(0, 1);
}


/* The secrets in use from now on. */

static int
test_use(size_t first, size_t n)
{
    keys.secrets = secrets + first;
    keys.n = n;

    return 0;
}


static void
test_golden(void)
{
    size_t                i;
    uint8_t               out[NGX_IDEM_TOKEN_LEN];
    ngx_idem_span_t       token;
    const test_golden_t  *t;

    for (i = 0; i < tap_count(golden); i++) {
        t = &golden[i];

        (void) test_use(t->secret, 1);

        tap_is((unsigned long long)
               ngx_idem_token_issue(out, t->expires_s, t->nonce, t->scope,
                                    &keys), 0, "is issued");
        tap_is_bytes(out, sizeof(out), t->token, strlen(t->token), t->why);

        token.data = out;
        token.len = sizeof(out);

        tap_is(ngx_idem_token_verify(token, t->scope, &keys,
                                     t->expires_s - 1),
               NGX_IDEM_TOKEN_VALID, "and is valid");
        tap_is(ngx_idem_token_expires_s(token), t->expires_s,
               "until it expires");
    }

    (void) test_use(0, 1);
}


static void
test_times(void)
{
    size_t          i;
    const uint8_t  *token;

    token = (const uint8_t *) golden[0].token;

    for (i = 0; i < tap_count(times); i++) {
        tap_is(test_verify(token, NGX_IDEM_TOKEN_LEN, times[i].now_s),
               times[i].answer, times[i].why);
    }
}


static void
test_secrets(void)
{
    uint8_t                  scope[NGX_IDEM_DIGEST_LEN];
    ngx_idem_token_secret_t  swapped[2];

    swapped[0] = secrets[1];
    swapped[1] = secrets[0];

    keys.secrets = swapped;
    keys.n = 2;
    test_scope(golden[0].scope, 1, NGX_IDEM_TOKEN_VALID,
               "the second secret verifies, too");

    (void) test_use(0, 2);
    test_scope(golden[0].scope, 1, NGX_IDEM_TOKEN_VALID, "so does the first");

    (void) test_use(1, 1);
    test_scope(golden[0].scope, 1, NGX_IDEM_TOKEN_INVALID,
               "a secret that is not in use any more");
    test_scope(golden[0].scope, UINT64_MAX, NGX_IDEM_TOKEN_INVALID,
               "what is foreign and expired is foreign");

    (void) test_use(0, 0);
    test_scope(golden[0].scope, 1, NGX_IDEM_TOKEN_INVALID,
               "no secret at all");

    (void) test_use(0, 1);
    memcpy(scope, golden[0].scope, sizeof(scope));
    scope[31] ^= 1;
    test_scope(scope, 1, NGX_IDEM_TOKEN_INVALID, "another scope");
}


static void
test_scope(const uint8_t *scope, uint64_t now_s,
    ngx_idem_token_answer_e answer, const char *why)
{
    ngx_idem_span_t  token;

    token.data = (const uint8_t *) golden[0].token;
    token.len = NGX_IDEM_TOKEN_LEN;

    tap_is(ngx_idem_token_verify(token, scope, &keys, now_s), answer, why);
}


/* Any bit of any character: there is no other spelling. */

static void
test_changed(void)
{
    size_t    i, bit;
    uint8_t   token[NGX_IDEM_TOKEN_LEN];
    unsigned  wrong;

    wrong = 0;

    for (i = 0; i < sizeof(token); i++) {

        for (bit = 0; bit < 8; bit++) {
            memcpy(token, golden[0].token, sizeof(token));
            token[i] = (uint8_t) (token[i] ^ (1u << bit));

            wrong += (test_verify(token, sizeof(token), 1)
                      != NGX_IDEM_TOKEN_INVALID);
        }
    }

    tap_is(wrong, 0, "a bit more or less is another token, and is not one");
}


static void
test_lengths(void)
{
    size_t    len;
    uint8_t   token[NGX_IDEM_TOKEN_LEN + 4];
    unsigned  wrong;

    memcpy(token, golden[0].token, NGX_IDEM_TOKEN_LEN);
    memcpy(token + NGX_IDEM_TOKEN_LEN, "AAAA", 4);

    wrong = 0;

    for (len = 0; len <= sizeof(token); len++) {
        wrong += (len != NGX_IDEM_TOKEN_LEN
                  && test_verify(token, len, 1) != NGX_IDEM_TOKEN_INVALID);
    }

    tap_is(wrong, 0, "cut or longer");
}


/* "+" and "/" are those of the other base64, and "=" fills it up. */

static void
test_alphabet(void)
{
    int       c;
    uint8_t   token[NGX_IDEM_TOKEN_LEN];
    unsigned  valid;

    valid = 0;

    for (c = 0; c < 256; c++) {
        memcpy(token, golden[1].token, sizeof(token));
        token[2] = (uint8_t) c;

        valid += (test_verify(token, sizeof(token), 1)
                  != NGX_IDEM_TOKEN_INVALID);
    }

    tap_is(valid, 0, "of another scope, whatever one character is");

    valid = 0;

    for (c = 0; c < 256; c++) {
        memcpy(token, golden[0].token, sizeof(token));
        token[NGX_IDEM_TOKEN_LEN - 1] = (uint8_t) c;

        valid += (test_verify(token, sizeof(token), 1)
                  == NGX_IDEM_TOKEN_VALID);
    }

    tap_is(valid, 1, "one character only is the last one");
}


static ngx_idem_token_answer_e
test_verify(const uint8_t *token, size_t len, uint64_t now_s)
{
    ngx_idem_span_t  s;

    s.data = token;
    s.len = len;

    return ngx_idem_token_verify(s, golden[0].scope, &keys, now_s);
}
