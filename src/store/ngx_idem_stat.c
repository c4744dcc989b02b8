
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "store/ngx_idem_stat.h"


const ngx_str_t  ngx_idem_stat_names[NGX_IDEM_STAT_N] = {
    ngx_string("first"),
    ngx_string("replayed"),
    ngx_string("waited"),
    ngx_string("in_flight"),
    ngx_string("key_missing"),
    ngx_string("key_invalid"),
    ngx_string("scope_missing"),
    ngx_string("token_invalid"),
    ngx_string("key_reused"),
    ngx_string("outcome_unknown"),
    ngx_string("response_not_stored"),
    ngx_string("store_full"),
    ngx_string("store_unavailable"),
    ngx_string("resource_busy"),
    ngx_string("out_of_order"),
    ngx_string("stale_version"),
    ngx_string("version_required"),
    ngx_string("acknowledged"),
    ngx_string("bypass"),
    ngx_string("unprotected"),

    ngx_string("done"),
    ngx_string("unstored"),
    ngx_string("released"),
    ngx_string("unknown"),
    ngx_string("lease_ended"),
    ngx_string("orphaned"),
    ngx_string("lost"),

    ngx_string("check_done"),
    ngx_string("check_absent"),
    ngx_string("check_unknown"),

    ngx_string("expired"),
    ngx_string("evicted_done"),
    ngx_string("evicted_unstored"),
    ngx_string("no_room"),
    ngx_string("repaired")
};
