
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Two operations have one identity only if they are the same list of the same
 * parts, and a body is the same however it arrives.
 */


#include "core/ngx_idem_identity.h"
#include "tap.h"


#define NONE     99

#define span(s)  { (const uint8_t *) (s), sizeof(s) - 1 }


/*
 * The expected digests are sha256sum's, over bytes written with printf:
 * \0\0\0\1 \0\0\0\0\0\0\0\013 example.com \0\0\0\1 \0\0\0\0\0\0\0\2 k1
 * for the first one, and so on.
 */

typedef struct {
    const char       *hex;
    const char       *why;
    uint32_t          n1;           /* parts in the first list */
    uint32_t          n2;           /* NONE: there is no second list */
    ngx_idem_span_t   parts[4];
} test_list_t;


typedef struct {
    const char       *hex;
    const char       *why;
    const char       *pieces[4];
    int               end;          /* there is a body */
} test_body_t;


static void test_digest(EVP_MD_CTX *md, const EVP_MD *type,
    const test_list_t *t, uint8_t *out);
static void test_lists(EVP_MD_CTX *md, const EVP_MD *type);
static void test_numbers(EVP_MD_CTX *md, const EVP_MD *type);
static void test_bodies(EVP_MD_CTX *md, const EVP_MD *type);
static void test_reuse(EVP_MD_CTX *md, const EVP_MD *type);
static void test_failures(const EVP_MD *type);
static void test_hex(const uint8_t *digest, char *hex);


static const test_list_t  lists[] = {
    { "c0eaa09a0cac03290bd9d8a7394f8f6afcea8964ac4539c55c422e898a7b2034",
      "a scope and a key", 1, 1, { span("example.com"), span("k1") } },
    { "8f5d82d5696048e16b6ba477874bc295391c278d0a0d4d0e827720fa7a4fc914",
      "two scope parts and a composite key", 2, 2,
      { span("alice"), span("example.com"), span("src"), span("42") } },
    { "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc",
      "two empty lists", 0, 0, { span("") } },
    { "9cbc73d18d70c94fe366e696035c4f2cffdbab7ea6d6c2c039ca185f9c9f2746",
      "a list of one empty part", 1, NONE, { { NULL, 0 } } }
};


static const test_body_t  bodies[] = {
    { "cb1d4079937bdfba05c22bc78f665a047d87c1c7eb107c5c9885cb30d990e6df",
      "a fingerprint without a body", { NULL, NULL, NULL, NULL }, 0 },
    { "fae4407dc66ce2091d50d5e9b94ca6f0c3ad9506c1802f70fc983c317f865463",
      "an empty body is not no body", { NULL, NULL, NULL, NULL }, 1 },
    { "fae4407dc66ce2091d50d5e9b94ca6f0c3ad9506c1802f70fc983c317f865463",
      "empty pieces are an empty body", { "", "", NULL, NULL }, 1 },
    { "6bee612fbc5dc6e61baef813e601de6de0079f399983f4d879fa73890c82e76b",
      "a body at once", { "eur=1", NULL, NULL, NULL }, 1 },
    { "6bee612fbc5dc6e61baef813e601de6de0079f399983f4d879fa73890c82e76b",
      "the same body in three pieces", { "e", "ur=", "1", NULL }, 1 },
    { "6bee612fbc5dc6e61baef813e601de6de0079f399983f4d879fa73890c82e76b",
      "the same body with empty pieces", { "", "eur=", "", "1" }, 1 }
};


static const ngx_idem_span_t  method = span("POST");
static const ngx_idem_span_t  uri = span("/pay");


/* Lists that a hash of joined bytes would mix up; each against each. */

static const test_list_t  apart[] = {
    { NULL, NULL, 1, 1, { span("a"), span("bc") } },
    { NULL, NULL, 1, 1, { span("ab"), span("c") } },
    { NULL, NULL, 1, 1, { span("abc"), span("") } },
    { NULL, NULL, 1, 1, { span(""), span("abc") } },
    { NULL, NULL, 2, 0, { span("a"), span("bc") } },
    { NULL, NULL, 0, 2, { span("a"), span("bc") } },
    { NULL, NULL, 1, 2, { span("a"), span("b"), span("c") } },
    { NULL, NULL, 2, 1, { span("a"), span("b"), span("c") } },
    { NULL, NULL, 2, 1, { span("a"), span("b"), span("C") } },
    { NULL, NULL, 2, NONE, { span("a"), span("bc") } },
    { NULL, NULL, 1, 1, { span("a\0"), span("bc") } }
};


int
main(void)
{
    EVP_MD      *type;
    EVP_MD_CTX  *md;

    type = EVP_MD_fetch(NULL, "SHA256", NULL);
    md = EVP_MD_CTX_new();

    if (!tap_ok(type != NULL && md != NULL, "libcrypto has SHA-256")) {
        return tap_done();
    }

    test_lists(md, type);
    test_numbers(md, type);
    test_bodies(md, type);
    test_reuse(md, type);
    test_failures(type);

    EVP_MD_CTX_free(md);
    EVP_MD_free(type);

    return tap_done();
}


static void
test_digest(EVP_MD_CTX *md, const EVP_MD *type, const test_list_t *t,
    uint8_t *out)
{
    uint32_t           i, n;
    ngx_idem_digest_t  dg;

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_list(&dg, t->n1);

    for (i = 0; i < t->n1; i++) {
        ngx_idem_digest_part(&dg, t->parts[i]);
    }

    if (t->n2 != NONE) {
        n = t->n1 + t->n2;
        ngx_idem_digest_list(&dg, t->n2);

        for ( /* void */ ; i < n; i++) {
            ngx_idem_digest_part(&dg, t->parts[i]);
        }
    }

    if (ngx_idem_digest_final(&dg, out) != 0) {
        memset(out, 0, NGX_IDEM_DIGEST_LEN);
    }
}


static void
test_lists(EVP_MD_CTX *md, const EVP_MD *type)
{
    char     hex[2 * NGX_IDEM_DIGEST_LEN + 1];
    size_t   i, k, same;
    uint8_t  out[NGX_IDEM_DIGEST_LEN];
    uint8_t  all[tap_count(apart)][NGX_IDEM_DIGEST_LEN];

    for (i = 0; i < tap_count(lists); i++) {
        test_digest(md, type, &lists[i], out);
        test_hex(out, hex);
        tap_ok(strcmp(hex, lists[i].hex) == 0, lists[i].why);
    }

    same = 0;

    for (i = 0; i < tap_count(apart); i++) {
        test_digest(md, type, &apart[i], all[i]);

        for (k = 0; k < i; k++) {
            same += memcmp(all[i], all[k], NGX_IDEM_DIGEST_LEN) == 0;
        }
    }

    tap_is(same, 0, "no two lists of the same letters are the same");
}


/* Counts and lengths beyond one byte: big endian, all of it. */

static void
test_numbers(EVP_MD_CTX *md, const EVP_MD *type)
{
    char               hex[2 * NGX_IDEM_DIGEST_LEN + 1];
    uint8_t            out[NGX_IDEM_DIGEST_LEN], bytes[300];
    ngx_idem_span_t    part;
    ngx_idem_digest_t  dg;

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_list(&dg, 0x01020304);
    tap_ok(ngx_idem_digest_final(&dg, out) == 0, "a count of four bytes");
    test_hex(out, hex);
    tap_ok(strcmp(hex, "9f64a747e1b97f131fabb6b447296c9b"
                       "6f0201e79fb3c5356e6c77e89b6a806a") == 0,
           "is hashed big endian");

    memset(bytes, 'a', sizeof(bytes));
    part.data = bytes;
    part.len = sizeof(bytes);

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_list(&dg, 1);
    ngx_idem_digest_part(&dg, part);
    tap_ok(ngx_idem_digest_final(&dg, out) == 0, "a part of 300 bytes");
    test_hex(out, hex);
    tap_ok(strcmp(hex, "d6fbdef58b8da14eb6c4c8eb15097f05"
                       "fd4df221fbc5b7e8fa291851b0edd9c2") == 0,
           "has its length in big endian");
}


static void
test_bodies(EVP_MD_CTX *md, const EVP_MD *type)
{
    char                hex[2 * NGX_IDEM_DIGEST_LEN + 1];
    size_t              i, k;
    uint8_t             out[NGX_IDEM_DIGEST_LEN];
    ngx_idem_span_t     piece;
    ngx_idem_digest_t   dg;
    const test_body_t  *t;

    for (i = 0; i < tap_count(bodies); i++) {
        t = &bodies[i];

        ngx_idem_digest_start(&dg, md, type);
        ngx_idem_digest_list(&dg, 2);
        ngx_idem_digest_part(&dg, method);
        ngx_idem_digest_part(&dg, uri);

        for (k = 0; k < tap_count(t->pieces) && t->pieces[k] != NULL; k++) {
            piece.data = (const uint8_t *) t->pieces[k];
            piece.len = strlen(t->pieces[k]);
            ngx_idem_digest_body(&dg, piece);
        }

        if (t->end) {
            ngx_idem_digest_body_end(&dg);
        }

        if (ngx_idem_digest_final(&dg, out) != 0) {
            memset(out, 0, NGX_IDEM_DIGEST_LEN);
        }

        test_hex(out, hex);
        tap_ok(strcmp(hex, t->hex) == 0, t->why);
    }
}


static void
test_reuse(EVP_MD_CTX *md, const EVP_MD *type)
{
    char               hex[2 * NGX_IDEM_DIGEST_LEN + 1];
    uint8_t            out[NGX_IDEM_DIGEST_LEN];
    ngx_idem_digest_t  dg;

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_part(&dg, lists[0].parts[0]);

    test_digest(md, type, &lists[0], out);
    test_hex(out, hex);

    tap_ok(strcmp(hex, lists[0].hex) == 0,
           "a digest left half done leaves nothing to the next one");
}


static void
test_failures(const EVP_MD *type)
{
    uint8_t            out[NGX_IDEM_DIGEST_LEN];
    EVP_MD_CTX        *md;
    ngx_idem_digest_t  dg;

    md = EVP_MD_CTX_new();

    if (!tap_ok(md != NULL, "a context to fail with")) {
        return;
    }

    ngx_idem_digest_start(&dg, md, NULL);
    ngx_idem_digest_list(&dg, 1);
    ngx_idem_digest_part(&dg, lists[0].parts[0]);
    tap_ok(ngx_idem_digest_final(&dg, out) == -1,
           "a start that failed is told at the end");

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_list(&dg, 1);
    tap_ok(ngx_idem_digest_final(&dg, out) == 0,
           "and is forgotten by the next start");

    EVP_MD_CTX_free(md);
}


static void
test_hex(const uint8_t *digest, char *hex)
{
    size_t  i;

    for (i = 0; i < NGX_IDEM_DIGEST_LEN; i++) {
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
}
