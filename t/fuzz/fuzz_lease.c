
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include "core/ngx_idem_lease.h"
#include "replay.h"


/* Event and time until the next: one owner is alive, as long as its lease. */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t             op, now = 1000;
    const uint8_t       *alive = NULL;
    ngx_idem_entry_t     en = { .state = NGX_IDEM_STATE_ABSENT };
    ngx_idem_outcome_t   oc = { NGX_IDEM_STATE_UNKNOWN, 1, 200, 0, 0 };
    ngx_idem_verdict_e   v;
    static uint8_t       id[2][NGX_IDEM_DIGEST_LEN] = { { 1 }, { 2 } };
    ngx_idem_claimant_t  cl = { id[0], NULL, 0, 300, 1, 1, 0 };

    for ( /* void */ ; size >= 2; now += 4 * data[1], size -= 2, data += 2) {
        op = data[0] % 4;
        cl.owner = id[data[0] >> 7];
        alive = (en.until_ms > now) ? alive : NULL;
        v = (op == 0) ? ngx_idem_lease_claim(&en, &cl, now)
            : (op == 1) ? ngx_idem_lease_renew(&en, cl.owner, 300, now)
            : (op == 2) ? ngx_idem_lease_complete(&en, cl.owner, &oc, now)
            : ngx_idem_lease_release(&en, cl.owner, now);
        fuzz_check(op == 0 ? v != NGX_IDEM_OWNED || alive == NULL
                           : (v != NGX_IDEM_LOST) == (alive == cl.owner));
        alive = (op > 1 && alive == cl.owner) ? NULL : alive;
        alive = (v == NGX_IDEM_OWNED) ? cl.owner : alive;
        fuzz_check((en.state == NGX_IDEM_STATE_RUNNING) == (alive != NULL));
    }

    return 0;
}
