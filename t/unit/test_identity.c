
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Two operations have one identity only if they are the same list of the same
 * parts, and a body is the same however it arrives.
 */


#include <openssl/err.h>

#include "core/ngx_idem_identity.h"
#include "tap.h"


#define NONE     99

#define span(s)  { (const uint8_t *) (s), sizeof(s) - 1 }


/*
 * The expected digests are sha256sum's, over bytes written with printf:
 * \1 \013 example.com \1 \2 k1 for the first one, and so on.
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


typedef struct {
    const char       *hex;
    const char       *why;
    uint32_t          n;            /* parts in the list */
    size_t            len;          /* of one part of letters a, 0: none */
} test_number_t;


static void test_digest(EVP_MD_CTX *md, const EVP_MD *type,
    const test_list_t *t, uint8_t *out);
static void test_lists(EVP_MD_CTX *md, const EVP_MD *type);
static void test_numbers(EVP_MD_CTX *md, const EVP_MD *type);
static void test_bodies(EVP_MD_CTX *md, const EVP_MD *type);
static void test_splits(EVP_MD_CTX *md, const EVP_MD *type);
static void test_reuse(EVP_MD_CTX *md, const EVP_MD *type);
static void test_failures(const EVP_MD *type);
static void test_hex(const uint8_t *digest, char *hex);


static const test_list_t  lists[] = {
    { "08be5e8b15356548c3d70f5e37af55836660dc4bcda38193ab379e73c2db8a09",
      "a scope and a key", 1, 1, { span("example.com"), span("k1") } },
    { "75304487d8e6252caace979146665c82c60708d5689278a1bae7a364d7904659",
      "two scope parts and a composite key", 2, 2,
      { span("alice"), span("example.com"), span("src"), span("42") } },
    { "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
      "two empty lists", 0, 0, { span("") } },
    { "47dc540c94ceb704a23875c11273e16bb0b8a87aed84de911f2133568115f254",
      "a list of one empty part", 1, NONE, { { NULL, 0 } } }
};


static const test_body_t  bodies[] = {
    { "f5aa0b9324d66d8dd7938ed86cb48406b733b14f096a1561564c31b3afb51ef2",
      "a fingerprint without a body", { NULL, NULL, NULL, NULL }, 0 },
    { "4972082417dfb326e7f6869e58672a696f3af875ab3eae1b533de8d440402ef7",
      "an empty body is not no body", { NULL, NULL, NULL, NULL }, 1 },
    { "4972082417dfb326e7f6869e58672a696f3af875ab3eae1b533de8d440402ef7",
      "empty pieces are an empty body", { "", "", NULL, NULL }, 1 },
    { "68f6f4c21b998af0b3d3c15d5ed9a2020dfdb5096476e6fc536f83c5d8c1ce74",
      "a body at once", { "eur=1", NULL, NULL, NULL }, 1 },
    { "68f6f4c21b998af0b3d3c15d5ed9a2020dfdb5096476e6fc536f83c5d8c1ce74",
      "the same body in three pieces", { "e", "ur=", "1", NULL }, 1 },
    { "68f6f4c21b998af0b3d3c15d5ed9a2020dfdb5096476e6fc536f83c5d8c1ce74",
      "the same body with empty pieces", { "", "eur=", "", "1" }, 1 }
};


/* Base 128, little endian: \204 \206 \210 \10 for the first one. */

static const test_number_t  numbers[] = {
    { "1abeb19d0d5b944568e40aff8638c58311785d6bf9eff8e10825e9ca03976495",
      "a count of four bytes", 0x01020304, 0 },
    { "1306421c285b47733b9c0ef446405e68615e675d404f1c31f8b0149afb9eb352",
      "the longest part with a length of one byte", 1, 127 },
    { "549f16d6bdd0aa761adca742aa74e34b98a0fd2f7e80b9559b4bf53ef8deaca4",
      "the shortest part with a length of two", 1, 128 },
    { "4eabe58540b0a2323643ebe8ca5c644099e8382a946e45b62431c8799373939a",
      "a part longer than the buffer", 1, 300 }
};


/* Lengths of the pieces of a body, one after the other and from the start. */

static const size_t  splits[][2] = {
    { 1, 1 },
    { 64, 64 },
    { 5, 300 },
    { NGX_IDEM_DIGEST_BUFFER - 1, 1 },
    { NGX_IDEM_DIGEST_BUFFER - 1, 2 },
    { NGX_IDEM_DIGEST_BUFFER, 1 },
    { NGX_IDEM_DIGEST_BUFFER, NGX_IDEM_DIGEST_BUFFER },
    { NGX_IDEM_DIGEST_BUFFER + 1, 1 },
    { 1000, 1000 }
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
    test_splits(md, type);
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


static void
test_numbers(EVP_MD_CTX *md, const EVP_MD *type)
{
    char                  hex[2 * NGX_IDEM_DIGEST_LEN + 1];
    size_t                i;
    uint8_t               out[NGX_IDEM_DIGEST_LEN], bytes[300];
    ngx_idem_span_t       part;
    ngx_idem_digest_t     dg;
    const test_number_t  *t;

    memset(bytes, 'a', sizeof(bytes));

    for (i = 0; i < tap_count(numbers); i++) {
        t = &numbers[i];

        ngx_idem_digest_start(&dg, md, type);
        ngx_idem_digest_list(&dg, t->n);

        if (t->len != 0) {
            part.data = bytes;
            part.len = t->len;
            ngx_idem_digest_part(&dg, part);
        }

        if (ngx_idem_digest_final(&dg, out) != 0) {
            memset(out, 0, NGX_IDEM_DIGEST_LEN);
        }

        test_hex(out, hex);
        tap_ok(strcmp(hex, t->hex) == 0, t->why);
    }
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


/* Bodies of any length, which end anywhere in the buffer and behind it. */

static void
test_splits(EVP_MD_CTX *md, const EVP_MD *type)
{
    size_t             i, k, n, at, wrong;
    uint8_t            out[NGX_IDEM_DIGEST_LEN], expected[NGX_IDEM_DIGEST_LEN];
    uint8_t            bytes[602];
    ngx_idem_span_t    piece;
    ngx_idem_digest_t  dg;

    wrong = 0;

    for (n = 0; n <= 600; n++) {

        for (k = 0; k < n; k++) {
            bytes[k] = (uint8_t) (k * 7);
        }

        if (n > 127) {
            bytes[k++] = (uint8_t) (128 + n % 128);
        }

        bytes[k++] = (uint8_t) (n > 127 ? n / 128 : n);
        wrong += EVP_Digest(bytes, k, expected, NULL, type, NULL) != 1;

        for (i = 0; i < tap_count(splits); i++) {
            ngx_idem_digest_start(&dg, md, type);

            for (at = 0, k = 0; at < n; at += piece.len, k++) {
                piece.data = bytes + at;
                piece.len = splits[i][k % 2];
                piece.len = piece.len < n - at ? piece.len : n - at;
                ngx_idem_digest_body(&dg, piece);
            }

            ngx_idem_digest_body_end(&dg);
            wrong += ngx_idem_digest_final(&dg, out) != 0
                     || memcmp(out, expected, sizeof(out)) != 0;
        }
    }

    tap_is(wrong, 0, "a body of any length is the same in any pieces");
}


static void
test_reuse(EVP_MD_CTX *md, const EVP_MD *type)
{
    char               hex[2 * NGX_IDEM_DIGEST_LEN + 1];
    uint8_t            out[NGX_IDEM_DIGEST_LEN];
    ngx_idem_digest_t  dg;

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_part(&dg, lists[0].parts[0]);
    ngx_idem_digest_body(&dg, lists[0].parts[1]);

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_list(&dg, 2);
    ngx_idem_digest_part(&dg, method);
    ngx_idem_digest_part(&dg, uri);
    ngx_idem_digest_body_end(&dg);

    tap_ok(ngx_idem_digest_final(&dg, out) == 0,
           "a digest left half done, and another one");
    test_hex(out, hex);
    tap_ok(strcmp(hex, bodies[1].hex) == 0, "which gets nothing of the first");
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
    tap_is(ERR_peek_error(), 0, "and leaves no error to others");

    ngx_idem_digest_start(&dg, md, type);
    ngx_idem_digest_list(&dg, 1);
    tap_ok(ngx_idem_digest_final(&dg, out) == 0,
           "and is forgotten by the next start");

    ngx_idem_digest_start(&dg, md, type);
    dg.failed = 1;
    ngx_idem_digest_body(&dg, lists[0].parts[0]);
    tap_ok(ngx_idem_digest_final(&dg, out) == -1,
           "a failure is kept by what goes well behind it");

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
