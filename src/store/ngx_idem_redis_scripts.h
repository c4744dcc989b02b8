
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */

/*
 * The verbs of a store as scripts that Redis runs, each of them atomic, on one
 * key: KEYS[1] is the prefix and the identity in hexadecimal digits.  They
 * obey the lease machine of core/ngx_idem_lease.h, by the clock of the server.
 *
 * The answer is a list.  Its first value is a letter, the verdict; numbers are
 * integers.  All times are milliseconds, in arguments too, where a number is
 * written in decimal digits and must be less than 2^53.
 *
 * claim     owner, fingerprint, lease, life as unknown, what to do about an
 *           unknown (0 refuse, 1 retry, 2 check), waiting (0, 1: wants to be
 *           told when the claim that runs has ended), known (0, 1: is not to
 *           be the first)
 *
 *             O fence                               owned
 *             O fence 1                             owned, it was unknown
 *             C fence age status born life          owned, to be looked into
 *             B left                                of the lease
 *             D status age left fence dry record
 *             S status age left fence dry           unstored
 *             U age                                 unknown
 *             M                                     mismatch
 *             A                                     absent, if it is not to be
 *                                                   the first
 *
 *           Whoever holds the claim and asks again, because a reply was lost,
 *           is answered as before, and the lease begins anew.
 *
 * renew     owner, lease
 *
 *             O or L                                owned or lost
 *
 * complete  owner, state (d done, u unstored, k unknown), life, status, dry
 *           (0, 1), record (empty unless done), end (empty: life from now),
 *           channel
 *
 *             D, S, U or L
 *
 *           An unknown is put back with its life as C said it (in whole
 *           seconds will do), and with born + life for its end, which counts.
 *           Whoever has completed and does it again, because a reply was
 *           lost, is answered as before; nothing changes.
 *
 * release   owner, channel, back (0, 1: nobody has made use of the claim)
 *
 *             A, U or L                             absent, unknown or lost
 *
 *           If nobody has looked into an unknown, or has run it again, it is
 *           what it was.
 *
 * load      with the record (0, 1)
 *
 *             A
 *             B, D, S or U, then: status age left fence dry life waiting size
 *             fingerprint record
 *
 *           status is 0 and age is 0 while running, left is of the lease then
 *           and life as an unknown; size is that of the record, which is empty
 *           unless asked for.  For people to look at.
 *
 * hold      owner, lease, life of what is in it if the lease runs out, pending,
 *           the queue's limit
 *
 *             O fence value pending                 held; pending as given
 *             C fence value pending                 held; pending as found, by
 *                                                   one who has vanished
 *             B left place                          of the lease; in the queue,
 *                                                   from 1; 0: not in it
 *
 *           Whoever holds it and asks again is answered as before, and the
 *           lease begins anew.  Whoever waits asks again once a second, and
 *           loses his place if he was not seen for 3 s: his node is dead.
 *
 * mark      owner, value, pending
 *
 *             O or L                                held or lost
 *
 * leave     owner, value, pending, life (0: of nothing), channel, back (0, 1:
 *           as if it had not been asked for: a guard as it was found, or a
 *           place in the queue; value, pending and life do not count)
 *
 *             A or L                                left or lost
 *
 *           If somebody waits, the guard is free for the first of those that
 *           are alive, and his owner is published on the channel.  He is not
 *           made its holder: he may be dead, and that shows in 3 s if he has to
 *           ask, but only at the end of a lease if he need not.  Whoever comes
 *           meanwhile stands behind him, on any node.
 *
 * renew is for guards, too.
 *
 * complete and release publish the letter of their answer on the channel if
 * somebody waits.  Nobody is told when a lease ends: B says when to ask again.
 *
 * An answer that is an error (not a list) has changed nothing.  One is that
 * what is at the key is not a record.
 *
 *
 * A record on Redis is a string:
 *
 *      0   3  "I1" and the state: r running, d, u, k as above
 *      3  16  owner, the last one
 *     19  32  fingerprint
 *     51   8  fence
 *     59   8  life in ms; while running, that as an unknown
 *     67   2  status; 0 while running
 *     69   1  dry
 *     70   1  "1": somebody waits, else "0"
 *     71      done: the record.  Running what was unknown: when that was born
 *             (8), its life (8) and status (2); "O" (1) if it is not looked
 *             into but run again
 *
 * in network byte order; fence, life and born are IEEE doubles with integers
 * in them.  There is no time of day in it: the key's own time to live is the
 * clock.  A finished record has as much of its life left as the key has.
 * While running, the key lives for the lease and the life as an unknown; so
 * when it has no more than the latter left, the lease has ended, and the
 * record is unknown though nobody has written so.
 *
 * A guard is a string, too:
 *
 *      0   3  "G1" and the state: r held, d free
 *      3  16  owner, the last one
 *     19  32  zero
 *     51   8  fence
 *     59   8  life in ms of value and pending; held: once the lease is over
 *     67   3  zero
 *     70   1  "C": pending is what was found; else "O"
 *     71      as in core/ngx_idem_guard.h; what is kept about a waiter is when
 *             he was seen last, by the server's clock in ms, a double
 *
 * It is free, too, when its key has no more than that life left.  If there is
 * pending in it then, whoever holds it next has to find out.  The key lives for
 * 4 s at least if there are waiters, and is deleted if nothing is in it.
 */


#ifndef _NGX_IDEM_REDIS_SCRIPTS_H_INCLUDED_
#define _NGX_IDEM_REDIS_SCRIPTS_H_INCLUDED_


#include "store/ngx_idem_redis_conn.h"


typedef enum {
    NGX_IDEM_REDIS_CLAIM = 0,
    NGX_IDEM_REDIS_RENEW,
    NGX_IDEM_REDIS_COMPLETE,
    NGX_IDEM_REDIS_RELEASE,
    NGX_IDEM_REDIS_LOAD,
    NGX_IDEM_REDIS_HOLD,
    NGX_IDEM_REDIS_MARK,
    NGX_IDEM_REDIS_LEAVE,

    NGX_IDEM_REDIS_SCRIPTS
} ngx_idem_redis_verb_e;


/* By verb.  src/store/lua/, as .ci/embed-lua has made C of it. */

extern ngx_idem_redis_script_t  ngx_idem_redis_scripts[NGX_IDEM_REDIS_SCRIPTS];


#endif /* _NGX_IDEM_REDIS_SCRIPTS_H_INCLUDED_ */
