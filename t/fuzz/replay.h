
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * A main for a fuzz target without libFuzzer.  With arguments it replays the
 * files they name, without it makes up inputs: many, but the same each time.
 *
 *   FUZZ_ALPHABET  bytes that the made-up inputs prefer, a string; optional
 */


#ifndef _NGX_IDEM_FUZZ_REPLAY_H_INCLUDED_
#define _NGX_IDEM_FUZZ_REPLAY_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


/* A promise that an input broke. */

#define fuzz_check(promise)                                                   \
    do {                                                                      \
        if (!(promise)) {                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #promise);     \
            abort();                                                          \
        }                                                                     \
    } while (0)


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


#ifndef NGX_IDEM_LIBFUZZER


#define FUZZ_INPUTS  100000
#define FUZZ_LEN     96
#define FUZZ_FILE    65536

#ifndef FUZZ_ALPHABET
#define FUZZ_ALPHABET  "\0\1\2\3\x4b\x80\x81\x82\x83"
#endif


/* Inputs live in memory of their own size: a byte too far is seen. */

static void
fuzz_one(const uint8_t *data, size_t size)
{
    uint8_t  *copy;

    copy = malloc(size + 1);

    if (copy == NULL) {
        abort();
    }

    memcpy(copy + 1, data, size);
    (void) LLVMFuzzerTestOneInput(copy + 1, size);
    free(copy);
}


static int
fuzz_file(const char *name)
{
    FILE            *file;
    size_t           size;
    static uint8_t   data[FUZZ_FILE];

    file = fopen(name, "rb");

    if (file == NULL) {
        perror(name);
        return 1;
    }

    size = fread(data, 1, sizeof(data), file);
    fclose(file);

    fuzz_one(data, size);

    return 0;
}


/* xorshift64 */

static uint32_t
fuzz_random(void)
{
    static uint64_t  x = 88172645463325252u;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;

    return (uint32_t) (x >> 32);
}


static void
fuzz_made_up(void)
{
    size_t   i, n, size;
    uint8_t  data[FUZZ_LEN];

    static const char  alphabet[] = FUZZ_ALPHABET;

    for (n = 0; n < FUZZ_INPUTS; n++) {
        size = fuzz_random() % (FUZZ_LEN + 1);

        for (i = 0; i < size; i++) {
            data[i] = (uint8_t) fuzz_random();

            if (fuzz_random() % 8 != 0) {
                data[i] = (uint8_t) alphabet[data[i] % sizeof(alphabet)];
            }
        }

        fuzz_one(data, size);
    }
}


int
main(int argc, char **argv)
{
    int  i, failed;

    failed = 0;

    for (i = 1; i < argc; i++) {
        failed |= fuzz_file(argv[i]);
    }

    if (argc == 1) {
        fuzz_made_up();
    }

    return failed;
}


#endif


#endif /* _NGX_IDEM_FUZZ_REPLAY_H_INCLUDED_ */
