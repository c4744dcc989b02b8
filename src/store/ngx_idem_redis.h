
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The store on Redis, with a zone as its near tier.
 *
 * Redis owns a claim.  The zone answers what it knows for certain, without
 * asking: a done record, and a claim that this node holds or asks for.  So of
 * all that happens to one identity on one node, one request at a time talks to
 * Redis, and the others wait for it at the zone as they do without Redis.
 *
 * A claim takes the identity in the zone first, then on Redis.  If somebody
 * else has it there, the zone's is given back; or kept, by one who waits for
 * the other node and has the others of this node wait for itself.
 *
 * An outcome goes to Redis first, then to the zone.  If Redis does not take
 * it, the zone keeps it and it is sent again and again until it is taken, or
 * the record's time is over.  The same for what is to be given back: a claim
 * whose answer was lost, say.
 */


#ifndef _NGX_IDEM_REDIS_H_INCLUDED_
#define _NGX_IDEM_REDIS_H_INCLUDED_


#include "store/ngx_idem_redis_conn.h"
#include "store/ngx_idem_store.h"


/* Makes a store of a zone and a Redis.  NULL: out of memory. */
ngx_idem_store_t *ngx_idem_redis_add(ngx_conf_t *cf, ngx_idem_store_t *near,
    ngx_idem_redis_conf_t *conf, ngx_idem_redis_stat_t *stat);


#endif /* _NGX_IDEM_REDIS_H_INCLUDED_ */
