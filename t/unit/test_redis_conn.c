
/*
 * Copyright (C) the authors of ngx_http_idempotency_module
 */


/*
 * Every command that was accepted has one end, and the end says what may have
 * become of it; whatever the server does, or does not.
 */


#include "redis_world.h"

#if (NGX_HAVE_HIREDIS)

#include "store/ngx_idem_redis_client.h"


#define COUNT(name)   (long) board_of.counts[NGX_IDEM_REDIS_COUNT_##name]
#define ERRORS(name)  (long) board_of.errors[NGX_IDEM_REDIS_ERROR_##name]
#define SHA  "0123456789abcdef0123456789abcdef01234567"


/* A command, and what was heard of it. */

typedef struct {
    ngx_idem_redis_cmd_t      cmd;
    ngx_uint_t                calls;
    ngx_idem_redis_end_e      end;
    ngx_uint_t                order;
    char                      heard[256];
    void                    (*then)(void);
} asked_t;


/* A subscriber, and how often it was called. */

typedef struct {
    ngx_idem_redis_sub_t      sub;
    ngx_uint_t                calls;
    ngx_uint_t                leaves;       /* in its handler */
} hearer_t;


static void test_greeting(void);
static void test_refused_greeting(void);
static void test_busy_greeting(void);
static void test_silent_greeting(void);
static void test_pipeline(void);
static void test_bytes(void);
static void test_long(void);
static void test_script(void);
static void test_errors(void);
static void test_shapes(void);
static void test_overdue(void);
static void test_behind(void);
static void test_broken(void);
static void test_nonsense(void);
static void test_pauses(void);
static void test_forget(void);
static void test_again(void);
static void test_limits(void);
static void test_idle(void);
static void test_addresses(void);
static void test_close(void);
static void test_memory(void);
static void test_wait(void);
static void test_wait_place(void);
static void test_wait_groups(void);
static void test_wait_lost(void);
static void test_subscribe(void);
static void test_subscribe_anew(void);
static void test_sentinel(void);
static void test_sentinel_unknown(void);
static void test_failover(void);
static void test_slots(void);
static void test_cluster(void);
static void test_cluster_answers(void);
static void test_moved(void);
static void test_cluster_down(void);
static void test_node_gone(void);

static void begin(const char *servers);
static void finish(void);
static void set(ngx_str_t *str, const char *text);
static void greeted(peer_t *pr);
static void ready(void);
static asked_t *ask(const char *key);
static void ask_handler(ngx_idem_redis_cmd_t *cmd);
static void ask_more(void);
static void ended(asked_t *as, ngx_idem_redis_end_e end, const char *words,
    const char *why);
static hearer_t *hear(const char *channel);
static void hear_handler(ngx_idem_redis_sub_t *sub);
static void cluster_ready(void);
static peer_t *peer_to(const char *name);
static const char *evalsha(const char *key);


static ngx_idem_redis_conf_t     conf;
static ngx_idem_redis_stat_t     stat_of;
static ngx_idem_redis_board_t    board_of;
static ngx_idem_redis_client_t  *rc;
static ngx_url_t                 urls[4];
static ngx_addr_t                addrs[4];
static struct sockaddr_in        sins[4];
static char                      names[4][32];

static asked_t                   asks[5000];
static ngx_uint_t                nasks;
static ngx_uint_t                ends;
static asked_t                  *more;
static hearer_t                  hearers[8];
static ngx_uint_t                nhearers;

static ngx_idem_redis_script_t   script = { "test", "return 1", 8, SHA };


int
main(void)
{
    world_start();

    test_greeting();
    test_refused_greeting();
    test_busy_greeting();
    test_silent_greeting();
    test_pipeline();
    test_bytes();
    test_long();
    test_script();
    test_errors();
    test_shapes();
    test_overdue();
    test_behind();
    test_broken();
    test_nonsense();
    test_pauses();
    test_forget();
    test_again();
    test_limits();
    test_idle();
    test_addresses();
    test_close();
    test_memory();
    test_wait();
    test_wait_place();
    test_wait_groups();
    test_wait_lost();
    test_subscribe();
    test_subscribe_anew();
    test_sentinel();
    test_sentinel_unknown();
    test_failover();
    test_slots();
    test_cluster();
    test_cluster_answers();
    test_moved();
    test_cluster_down();
    test_node_gone();

    return tap_done();
}


static void
test_greeting(void)
{
    asked_t  *as;

    begin("10.0.0.1:6379");
    set(&conf.user, "app");
    set(&conf.password, "secret");
    conf.database = 7;
    world_connect = NGX_AGAIN;

    tap_is(world_npeers, 0, "a client connects to nobody");

    as = ask("k");
    tap_ok(strcmp(peer()->to, "10.0.0.1:6379") == 0, "until it is needed");
    tap_is(peer()->nin, 0, "nothing is said before there is a connection");

    turn();
    hears(peer(), "AUTH app secret", "first, who we are");
    hears(peer(), "SELECT 7", "and where");
    hears(peer(), "PING", "and whether anybody is there");
    hears(peer(), "", "a command waits for the answer");
    tap_is(peer()->writes, 1, "all that is one write");

    say(peer(), "+OK\r\n+OK\r\n");
    turn();
    hears(peer(), "", "to all of it");

    say(peer(), "+PONG\r\n");
    turn();
    hears(peer(), evalsha("k"), "then it is said");

    say(peer(), ":1\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "1", "and answered");
    tap_is(board_of.servers[0].connects, 1, "a connection is counted");

    finish();
}


static void
test_refused_greeting(void)
{
    asked_t  *as;

    begin("10.0.0.1:6379");
    set(&conf.password, "secret");

    as = ask("k");
    turn();
    say(peer(), "-WRONGPASS invalid password\r\n+PONG\r\n");
    turn();

    ended(as, NGX_IDEM_REDIS_REFUSED, "", "a password that is wrong refuses");
    tap_ok(strstr(world_said, "says \"WRONGPASS invalid password\"") != NULL,
           "and the log has the server's words");
    tap_is(peer()->closed, 1, "the connection is closed");
    tap_ok(ask("k") == NULL, "then commands are refused at once");

    world_said[0] = '\0';
    later(2000);
    turn();
    say(peer(), "-ERR unknown command `AUTH`, with args: `secret`\r\n");
    turn();
    tap_ok(strstr(world_said, "unknown command") != NULL
           && strstr(world_said, "secret") == NULL,
           "the password is not logged, even if the server repeats it");

    later(2000);
    turn();
    say(peer(), "+OK\r\n-NOPERM no PING for you\r\n");
    turn();
    tap_ok(ask("k") != NULL, "who may not PING was answered, too");

    finish();
}


static void
test_busy_greeting(void)
{
    size_t       i;
    asked_t     *as;
    const char  *refusals[] = {
        "-ERR DB index is out of range\r\n", "+OK\r\n-LOADING\r\n",
        "+OK\r\n-NOAUTH\r\n", "-DENIED Redis is running in protected mode\r\n"
    };

    for (i = 0; i < tap_count(refusals); i++) {
        begin("10.0.0.1:6379");
        conf.database = 99;

        as = ask("k");
        turn();
        say(peer(), refusals[i]);
        turn();
        ended(as, NGX_IDEM_REDIS_REFUSED, "", refusals[i]);
        finish();
    }
}


static void
test_silent_greeting(void)
{
    asked_t  *as;

    begin("10.0.0.1:6379");

    as = ask("k");
    turn();
    later(999);
    tap_is(as->calls, 0, "a server may take its time to answer");
    later(1);
    ended(as, NGX_IDEM_REDIS_REFUSED, "", "but not for ever");
    tap_is(ERRORS(CONNECT), 1, "that is a failure to connect");

    later(2000);
    turn();
    tap_ok(ask("k") == NULL, "the next time nobody waits for it");
    finish();

    begin("10.0.0.1:6379 10.0.0.2:6379");
    as = ask("k");
    turn();
    later(1000);
    ended(as, NGX_IDEM_REDIS_REFUSED, "", "then there is no time for others");
    finish();
}


static void
test_pipeline(void)
{
    asked_t     *a, *b, *c;
    ngx_uint_t   writes;

    begin("10.0.0.1:6379");
    ready();

    writes = peer()->writes;
    a = ask("a");
    b = ask("b");
    c = ask("c");
    tap_is(ngx_idem_redis_pending(rc), 3, "three are pending");

    turn();
    tap_is(peer()->writes, writes + 1, "those of one turn leave in one write");
    hears(peer(), evalsha("a"), "the first");
    hears(peer(), evalsha("b"), "the second");
    hears(peer(), evalsha("c"), "the third");

    say_list(peer(), "*2 $1 x :-5");
    say_list(peer(), "*0");
    say_list(peer(), "*3 $-1 $0  +ok");
    turn();

    ended(a, NGX_IDEM_REDIS_REPLIED, "x -5", "strings and numbers");
    ended(b, NGX_IDEM_REDIS_REPLIED, "", "an empty list");
    ended(c, NGX_IDEM_REDIS_REPLIED, "[] [] ok", "nothing, and empty strings");
    tap_ok(a->order < b->order && b->order < c->order, "in order");
    tap_is(ngx_idem_redis_pending(rc), 0, "nothing is pending");
    tap_is(COUNT(REPLIED), 3, "and all were counted");

    finish();
}


/* However replies are cut on their way. */

static void
test_bytes(void)
{
    size_t       n;
    asked_t     *a, *b;
    ngx_uint_t   bad;

    for (n = 1, bad = 0; n < 40; n++) {
        begin("10.0.0.1:6379");
        world_chunk = n;
        ready();

        a = ask("a");
        b = ask("b");
        turn();
        say_list(peer(), "*3 $10 0123456789 :42 $2 ab");
        say(peer(), "-ERR no\r\n");
        turn();

        bad += (strcmp(a->heard, "0123456789 42 ab") != 0
                || strcmp(b->heard, "ERR no") != 0
                || b->end != NGX_IDEM_REDIS_FAILED);
        finish();
    }

    tap_is(bad, 0, "replies may be cut anywhere");
}


/* A command that does not fit into any buffer. */

static void
test_long(void)
{
    asked_t        *as;
    static u_char   body[3000000];

    begin("10.0.0.1:6379");
    ready();
    peer()->room = 1000;

    memset(body, 'x', sizeof(body));
    as = &asks[nasks];
    as->cmd.args[0].data = body;
    as->cmd.args[0].len = sizeof(body);
    as->cmd.nargs = 1;

    as = ask("k");
    turn();

    while (strlen(heard(peer())) == 0) {
        peer()->room = 100000;
        turn();
    }

    tap_ok(peer()->nin > sizeof(body), "a long command is sent piece by piece");

    say(peer(), ":1\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "1", "and answered");

    finish();
}


static void
test_script(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379");
    ready();

    asks[nasks].cmd.nargs = 2;
    set(&asks[nasks].cmd.args[0], "one");
    set(&asks[nasks].cmd.args[1], "");
    a = ask("a");
    b = ask("b");
    turn();
    hears(peer(), "EVALSHA " SHA " 1 idem:a one ", "by its hash");
    (void) heard(peer());

    say(peer(), "-NOSCRIPT No matching script.\r\n:2\r\n");
    turn();
    hears(peer(), "EVAL return 1 1 idem:a one ", "or whole, if need be");
    ended(b, NGX_IDEM_REDIS_REPLIED, "2", "others need not wait for it");

    say(peer(), "-NOSCRIPT No matching script.\r\n");
    turn();
    hears(peer(), "", "but once");
    ended(a, NGX_IDEM_REDIS_FAILED, "NOSCRIPT No matching script.",
          "then it has failed");

    a = ask("a");
    turn();
    (void) heard(peer());
    say(peer(), "-NOSCRIPT\r\n");
    turn();
    (void) heard(peer());
    peer()->eof = 1;
    turn();
    ended(a, NGX_IDEM_REDIS_LOST, "", "a script that was sent whole is lost");

    finish();
}


static void
test_errors(void)
{
    size_t       i;
    asked_t     *as;
    const char  *errors[] = {
        "LOADING Redis is loading", "MASTERDOWN Link is down", "READONLY You",
        "BUSY Redis is busy", "OOM command not allowed", "NOAUTH required",
        "NOPERM no permission", "MOVED 1 10.0.0.2:1", "ASK 1 10.0.0.2:1",
        "ERR x", ""
    };

    begin("10.0.0.1:6379");
    ready();

    for (i = 0; i < tap_count(errors); i++) {
        as = ask("k");
        turn();
        say(peer(), "-");
        say(peer(), errors[i]);
        say(peer(), "\r\n");
        turn();
        ended(as, NGX_IDEM_REDIS_FAILED, errors[i], errors[i]);
    }

    tap_is(world_npeers, 1, "a server that says so is not left");

    finish();
}


static void
test_shapes(void)
{
    size_t       i;
    asked_t     *as;
    const char  *shapes[] = { "*1 *1 :1", "*2 :1 -ERR" };

    begin("10.0.0.1:6379");
    ready();

    for (i = 0; i < tap_count(shapes); i++) {
        as = ask("k");
        turn();
        say_list(peer(), shapes[i]);
        turn();
        ended(as, NGX_IDEM_REDIS_LOST, "", "what is no list of values");
    }

    as = ask("k");
    turn();
    say(peer(), "*65\r\n");

    for (i = 0; i < 65; i++) {
        say(peer(), ":1\r\n");
    }

    turn();
    ended(as, NGX_IDEM_REDIS_LOST, "", "or too long a one");

    finish();
}


static void
test_overdue(void)
{
    asked_t  *a, *b, *c;

    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    turn();
    later(300);
    b = ask("b");
    turn();
    say(peer(), ":1\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "in time");

    later(499);
    tap_is(b->calls, 0, "not yet");

    peer()->room = 0;
    c = ask("c");
    turn();
    tap_is(world_busy(), 1, "a worker that shuts down stays for it");
    later(1);

    ended(b, NGX_IDEM_REDIS_LOST, "", "no reply in time: perhaps it was done");
    ended(c, NGX_IDEM_REDIS_REFUSED, "", "one that was not sent was not");
    tap_ok(b->order < c->order, "in order");
    tap_is(peer()->closed, 1, "the connection is of no use any more");
    tap_is(world_busy(), 0, "nobody stays for a pause");
    tap_is(COUNT(LOST), 1, "one was lost");
    tap_is(COUNT(REFUSED), 1, "one was refused");

    finish();
}


/* A worker with much to do gets to the timers before it gets to the reply. */

static void
test_behind(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    turn();
    say(peer(), ":1\r\n");
    later(700);
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "a reply that is there is not late");
    tap_is(peer()->closed, 0, "the connection stays");

    b = ask("b");
    turn();
    later(499);
    tap_is(b->calls, 0, "the next one has its own time");
    later(1);
    ended(b, NGX_IDEM_REDIS_LOST, "", "and no more");

    finish();
    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    turn();
    later(100);
    b = ask("b");
    turn();
    say(peer(), ":1\r\n");
    later(400);
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "the first one is there");
    tap_is(b->calls, 0, "the second one has time left");
    later(100);
    ended(b, NGX_IDEM_REDIS_LOST, "", "until that is over, too");

    finish();
    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    turn();
    peer()->eof = 1;
    later(500);
    ended(a, NGX_IDEM_REDIS_LOST, "", "an end that is there is one");

    finish();
}


static void
test_broken(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    turn();
    b = ask("b");
    peer()->eof = 1;
    peer()->read.handler(&peer()->read);

    ended(a, NGX_IDEM_REDIS_LOST, "", "a connection that broke loses commands");
    ended(b, NGX_IDEM_REDIS_REFUSED, "", "but those that were not sent");
    tap_ok(ask("k") == NULL, "others are refused");

    later(100);
    turn();
    tap_is(world_npeers, 2, "it connects anew");
    peer()->deaf = 1;
    greeted(peer());
    a = ask("k");
    turn();
    ended(a, NGX_IDEM_REDIS_REFUSED, "", "what could not be written");

    later(200);
    turn();
    tap_ok(ask("k") == NULL, "refused until it was greeted");
    say(peer(), "+PONG\r\n");
    turn();
    a = ask("k");
    turn();
    tap_ok(a != NULL, "then not any more");
    say(peer(), ":1\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "and all is well");

    finish();
}


static void
test_nonsense(void)
{
    size_t       i;
    asked_t     *as;
    const char  *nonsense[] = {
        "HTTP/1.1 400 Bad Request\r\n", "*100000000\r\n", "$-5\r\n",
        ":1\r\n:2\r\n",
    };

    for (i = 0; i < tap_count(nonsense); i++) {
        begin("10.0.0.1:6379");
        ready();

        as = ask("k");
        turn();
        say(peer(), nonsense[i]);
        turn();
        tap_is(as->calls, 1, nonsense[i]);
        tap_is(peer()->closed, 1, "ends the connection");
        finish();
    }

    begin("10.0.0.1:6379");
    ready();
    as = ask("k");
    say(peer(), ":1\r\n");
    peer()->read.handler(&peer()->read);
    ended(as, NGX_IDEM_REDIS_REFUSED, "", "a reply before it was asked");

    finish();
}


static void
test_pauses(void)
{
    ngx_uint_t   i, bad;
    ngx_msec_t   pause, least;

    begin("10.0.0.1:6379");
    world_connect = NGX_DECLINED;

    tap_ok(ask("k") == NULL, "nobody is there");

    for (i = 0, bad = 0, least = 50; i < 10; i++) {
        pause = world_next();
        bad += (pause < least || pause > least * 2);
        least = ngx_min(least * 2, 1000);
        later(pause);
    }

    tap_is(bad, 0, "pauses grow from 50 ms to 2 s");
    tap_is(ERRORS(CONNECT), 11, "each failure is counted");

    world_connect = NGX_OK;
    later(2000);
    turn();
    say(peer(), "+PONG\r\n");
    turn();
    tap_ok(strstr(world_said, "is there again") == NULL,
           "who did not say that it failed need not say that it works");
    (void) ask("k");
    turn();
    say(peer(), ":1\r\n");
    turn();
    peer()->eof = 1;
    (void) ask("k");
    turn();
    pause = world_next();
    tap_ok(pause <= 100, "after success they begin anew");

    finish();
}


static void
test_forget(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    b = ask("b");
    turn();
    ngx_idem_redis_forget(&a->cmd);
    ngx_idem_redis_forget(&a->cmd);
    memset(&a->cmd, 0xff, sizeof(a->cmd));

    say(peer(), ":1\r\n:2\r\n");
    turn();
    tap_is(a->calls, 0, "nobody hears of what was forgotten");
    ended(b, NGX_IDEM_REDIS_REPLIED, "2", "the next one has its own reply");
    tap_is(ngx_idem_redis_pending(rc), 0, "and both have ended");

    ngx_idem_redis_forget(&b->cmd);
    tap_ok(1, "one that has ended may be forgotten");

    finish();
}


static void
test_again(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379");
    ready();

    a = ask("a");
    b = ask("b");
    a->then = ask_more;
    turn();
    say(peer(), ":1\r\n:2\r\n");
    turn();
    tap_is(b->calls, 0, "a handler may forget another command");
    say(peer(), ":3\r\n");
    turn();
    ended(more, NGX_IDEM_REDIS_REPLIED, "3", "and send one");

    a = ask("a");
    a->then = ask_more;
    turn();
    peer()->eof = 1;
    turn();
    tap_ok(more == NULL, "which is refused while a connection breaks");

    finish();
}


static void
test_limits(void)
{
    ngx_uint_t      n;
    static u_char   body[3000000];

    begin("10.0.0.1:6379");
    ready();

    for (n = 0; n < 4999 && ask("k"); n++) {
        /* void */
    }

    tap_is(n, 4096, "so many commands may be pending");
    finish();

    begin("10.0.0.1:6379");
    ready();
    peer()->room = 0;

    for (n = 0; n < 10; n++) {
        asks[nasks].cmd.args[0].data = body;
        asks[nasks].cmd.args[0].len = sizeof(body);
        asks[nasks].cmd.nargs = 1;

        if (ask("k") == NULL) {
            break;
        }
    }

    tap_is(n, 3, "and so many bytes");

    asks[nasks].cmd.args[0].data = body;
    asks[nasks].cmd.args[0].len = (size_t) -1;
    asks[nasks].cmd.nargs = 1;
    tap_ok(ask("k") == NULL, "a command may not be as long as it likes");

    finish();
}


static void
test_idle(void)
{
    asked_t  *as;

    begin("10.0.0.1:6379");
    ready();
    tap_is(peer()->c.idle, 1, "a connection is idle");

    as = ask("k");
    turn();
    tap_is(peer()->c.idle, 0, "or not");

    peer()->c.close = 1;
    peer()->c.error = 1;
    peer()->read.handler(&peer()->read);
    tap_is(as->calls, 0, "a shutdown does not end commands");
    say(peer(), ":1\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "1", "the server does");

    peer()->read.handler(&peer()->read);
    tap_is(peer()->closed, 1, "nginx closes what is idle");
    tap_is(world_ntimers, 0, "that is no failure");

    as = ask("k");
    tap_is(world_npeers, 2, "who needs it opens it again");
    turn();
    greeted(peer());
    say(peer(), ":1\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "1", "and does not notice");

    peer()->eof = 1;
    turn();
    tap_is(world_ntimers, 0, "a server that closes what is idle is no failure");
    tap_ok(world_said[0] == '\0', "and it is not logged");

    finish();
}


static void
test_addresses(void)
{
    asked_t  *as;

    begin("10.0.0.1:6379 10.0.0.2:6379 10.0.0.3:6379");
    world_dead = 1;

    as = ask("k");
    tap_ok(strcmp(peer()->to, "10.0.0.2:6379") == 0,
           "if one fails the next is tried");

    turn();
    peer()->eof = 1;
    turn();
    tap_ok(strcmp(peer()->to, "10.0.0.3:6379") == 0,
           "also one that fails later");
    tap_is(as->calls, 0, "the command does not notice");

    turn();
    greeted(peer());
    say(peer(), ":1\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "1", "the third one answers");

    peer()->eof = 1;
    turn();
    world_connect = NGX_AGAIN;
    world_broken = 1;
    as = ask("k");
    turn();
    ended(as, NGX_IDEM_REDIS_REFUSED, "", "if none can be reached it is over");
    tap_is(world_npeers, 5, "each was tried once");

    finish();
}


static void
test_close(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379");
    ready();
    a = ask("a");
    turn();
    b = ask("b");

    ngx_idem_redis_close(rc);
    tap_is(a->calls + b->calls, 0, "who closes the client hears nothing");
    tap_is(ngx_idem_redis_pending(rc), 0, "nothing is pending");
    tap_is(world_ntimers, 0, "no timer is left");
    tap_is(peer()->closed, 1, "no connection is left");
    tap_ok(ngx_idem_redis_send(rc, &a->cmd) == NGX_ERROR, "nothing is sent");
    ngx_idem_redis_forget(&b->cmd);
    world_begin();
}


/* Whatever allocation fails: a command is refused, or it has one end. */

static void
test_memory(void)
{
    peer_t      *pr;
    ngx_uint_t   i, n, bad;

    for (n = 1, bad = 0; n < 40; n++) {
        world_memory = 0;
        begin("10.0.0.1:6379");
        finish();
        world_memory = n;
        rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

        if (rc == NULL) {
            continue;
        }

        (void) ask("a");
        (void) hear("x");
        turn();

        for (i = 0; i < world_npeers; i++) {
            pr = world_peers[i];
            say(pr, "+PONG\r\n");
            turn();

            (void) heard(pr);

            while (!pr->closed && strlen(heard(pr))) {
                say(pr, "-NOSCRIPT\r\n");
                turn();
            }
        }

        (void) ask("b");
        turn();
        later(3000);
        turn();

        for (i = 0; i < nasks; i++) {
            bad += (asks[i].calls != 1);
        }

        finish();
    }

    world_memory = 0;
    tap_is(bad, 0, "without memory, too, a command has one end");
}


static void
test_wait(void)
{
    asked_t  *a, *b, *c;

    begin("10.0.0.1:6379");
    conf.wait_replicas = 2;
    conf.wait_timeout = 50;
    finish();
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);
    ready();

    asks[nasks].cmd.wait = 1;
    a = ask("a");
    b = ask("b");
    asks[nasks].cmd.wait = 1;
    c = ask("c");
    turn();
    hears(peer(), evalsha("a"), "a command");
    hears(peer(), evalsha("b"), "one that does not wait");
    hears(peer(), evalsha("c"), "one that does");
    hears(peer(), "WAIT 2 50", "then one WAIT for all");
    hears(peer(), "", "and no other");

    say(peer(), ":1\r\n:2\r\n:3\r\n");
    turn();
    tap_is(a->calls, 0, "a reply is not the end");
    ended(b, NGX_IDEM_REDIS_REPLIED, "2", "but for one that does not wait");

    say(peer(), ":2\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "enough replicas");
    ended(c, NGX_IDEM_REDIS_REPLIED, "3", "for both");

    asks[nasks].cmd.wait = 1;
    a = ask("a");
    turn();
    later(549);
    tap_is(a->calls, 0, "such a command may take longer");
    say(peer(), ":1\r\n:1\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_TOO_FEW, "1", "too few replicas");
    tap_is(COUNT(TOO_FEW), 1, "are counted");

    asks[nasks].cmd.wait = 1;
    a = ask("a");
    turn();
    say(peer(), ":1\r\n-ERR no\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_TOO_FEW, "1", "a WAIT that fails says nothing");

    finish();
}


/* Its place is at the end, even if it is the next to be sent. */

static void
test_wait_place(void)
{
    asked_t        *a, *b;
    static u_char   body[32768];

    begin("10.0.0.1:6379");
    conf.wait_replicas = 1;
    conf.wait_timeout = 50;
    finish();
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    asks[nasks].cmd.wait = 1;
    a = ask("a");
    asks[nasks].cmd.wait = 1;
    b = ask("b");
    turn();
    greeted(peer());
    hears(peer(), evalsha("a"), "also while it connects");
    hears(peer(), evalsha("b"), "one");
    hears(peer(), "WAIT 1 50", "WAIT");
    say(peer(), ":1\r\n:2\r\n:1\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "for");
    ended(b, NGX_IDEM_REDIS_REPLIED, "2", "both");

    /* the buffer is full with the first command, and leaves bit by bit */

    memset(body, 'x', sizeof(body));
    asks[nasks].cmd.args[0].data = body;
    asks[nasks].cmd.args[0].len = 32768 - strlen("*5\r\n$7\r\nEVALSHA\r\n"
        "$40\r\n" SHA "\r\n$1\r\n1\r\n$6\r\nidem:a\r\n$32667\r\n\r\n");
    asks[nasks].cmd.nargs = 1;
    asks[nasks].cmd.wait = 1;
    peer()->room = 10000;
    a = ask("a");
    world_post();
    asks[nasks].cmd.wait = 1;
    b = ask("b");
    peer()->room = 100000;
    turn();
    (void) heard(peer());
    hears(peer(), evalsha("b"), "a script comes before a WAIT that waits");
    hears(peer(), "WAIT 1 50", "which speaks for it, too");
    hears(peer(), "", "alone");

    finish();
}


static void
test_wait_groups(void)
{
    asked_t  *a, *b, *c;

    begin("10.0.0.1:6379");
    conf.wait_replicas = 1;
    conf.wait_timeout = 50;
    finish();
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    asks[nasks].cmd.wait = 1;
    a = ask("a");
    turn();
    greeted(peer());
    hears(peer(), evalsha("a"), "the first");
    hears(peer(), "WAIT 1 50", "and its WAIT");

    asks[nasks].cmd.wait = 1;
    b = ask("b");
    turn();
    asks[nasks].cmd.wait = 1;
    c = ask("c");
    turn();
    hears(peer(), evalsha("b"), "more come meanwhile");
    hears(peer(), evalsha("c"), "and more");
    hears(peer(), "", "but there is one WAIT at a time");

    say(peer(), ":1\r\n:1\r\n:2\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "it speaks for those before it");
    tap_is(b->calls, 0, "and not for those after it");
    hears(peer(), "WAIT 1 50", "for which there is a second one");

    say(peer(), "-NOSCRIPT\r\n:0\r\n");
    turn();
    hears(peer(), "EVAL return 1 1 idem:c", "a script was not known");
    hears(peer(), "WAIT 1 50", "it needs a third one");
    ended(b, NGX_IDEM_REDIS_TOO_FEW, "2", "the second one was not met");

    say(peer(), "*0\r\n:1\r\n");
    turn();
    ended(c, NGX_IDEM_REDIS_REPLIED, "", "the third one was");

    finish();
}


static void
test_wait_lost(void)
{
    asked_t  *a, *b, *c;

    begin("10.0.0.1:6379");
    conf.wait_replicas = 1;
    conf.wait_timeout = 50;
    finish();
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);
    ready();

    asks[nasks].cmd.wait = 1;
    a = ask("a");
    turn();
    asks[nasks].cmd.wait = 1;
    b = ask("b");
    turn();
    asks[nasks].cmd.wait = 1;
    c = ask("c");
    say(peer(), ":1\r\n");
    peer()->read.handler(&peer()->read);
    peer()->eof = 1;
    peer()->read.handler(&peer()->read);

    ended(a, NGX_IDEM_REDIS_LOST, "", "answered, but who knows for how long");
    ended(b, NGX_IDEM_REDIS_LOST, "", "sent");
    ended(c, NGX_IDEM_REDIS_REFUSED, "", "not sent");

    later(100);
    turn();
    greeted(peer());
    asks[nasks].cmd.wait = 1;
    a = ask("a");
    turn();
    hears(peer(), evalsha("a"), "a new connection");
    hears(peer(), "WAIT 1 50", "has its own WAIT");

    finish();
}


static void
test_subscribe(void)
{
    hearer_t  *a, *b, *c;

    begin("10.0.0.1:6379");

    a = hear("x");
    turn();
    tap_is(world_npeers, 1, "subscribers have a connection of their own");
    greeted(peer());
    hears(peer(), "SUBSCRIBE idem:x", "that subscribes");
    tap_is(a->calls, 0, "it is not sure yet");

    b = hear("x");
    say_list(peer(), "*3 $9 subscribe $6 idem:x :1");
    turn();
    tap_is(a->calls, 1, "now it is");
    tap_is(b->calls, 0, "one that came later is not");
    hears(peer(), "SUBSCRIBE idem:x", "it wants to be sure itself");

    say_list(peer(), "*3 $7 message $6 idem:x $0 ");
    say_list(peer(), "*3 $9 subscribe $6 idem:x :1");
    say_list(peer(), "*3 $7 message $6 idem:y $0 ");
    turn();
    tap_is(a->calls, 2, "a message is for all");
    tap_is(b->calls, 2, "also before one is sure");
    tap_is(peer()->c.idle, 0, "such a connection is not idle");

    c = hear("x");
    turn();
    hears(peer(), "SUBSCRIBE idem:x", "a third one");
    a->leaves = 1;
    b->leaves = 1;
    say_list(peer(), "*3 $7 message $6 idem:x $0 ");
    turn();
    tap_is(a->calls + b->calls + c->calls, 7, "who hears it may leave");
    hears(peer(), "", "while there is another one, the server need not know");

    ngx_idem_redis_unsubscribe(rc, &c->sub);
    turn();
    hears(peer(), "UNSUBSCRIBE idem:x", "the last one ends it");
    say_list(peer(), "*3 $9 subscribe $6 idem:x :1");
    say_list(peer(), "*3 $11 unsubscribe $6 idem:x :0");
    turn();
    tap_is(peer()->closed, 0, "the connection stays");
    tap_is(peer()->c.idle, 1, "and is idle");

    finish();
}


static void
test_subscribe_anew(void)
{
    hearer_t  *a, *b;

    begin("10.0.0.1:6379");

    a = hear("x");
    turn();
    greeted(peer());
    say_list(peer(), "*3 $9 subscribe $6 idem:x :1");
    turn();
    peer()->eof = 1;
    turn();
    tap_is(world_busy(), 0, "nobody stays for it");

    b = hear("y");
    later(100);
    turn();
    tap_is(world_npeers, 2, "it is made anew");
    greeted(peer());
    hears(peer(), "SUBSCRIBE idem:x", "with the one");
    hears(peer(), "SUBSCRIBE idem:y", "and the other");
    tap_is(a->calls, 1, "nobody is sure");
    say_list(peer(), "*3 $9 subscribe $6 idem:x :1");
    say_list(peer(), "*3 $9 subscribe $6 idem:y :2");
    turn();
    tap_is(a->calls, 2, "until now");
    tap_is(b->calls, 1, "both are");

    (void) hear("z");
    turn();
    later(500);
    tap_is(peer()->closed, 1, "one that is not confirmed ends the connection");

    ngx_idem_redis_unsubscribe(rc, &hearers[0].sub);
    ngx_idem_redis_unsubscribe(rc, &hearers[1].sub);
    ngx_idem_redis_unsubscribe(rc, &hearers[2].sub);
    nhearers = 0;
    later(2000);
    tap_is(world_npeers, 2, "which nobody needs any more");

    finish();
}


static void
test_sentinel(void)
{
    asked_t  *as;
    peer_t   *sentinel;

    begin("10.0.0.1:26379 10.0.0.2:26379");
    finish();
    conf.mode = NGX_IDEM_REDIS_SENTINEL;
    set(&conf.master, "mymaster");
    set(&conf.password, "secret");
    conf.database = 1;
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    as = ask("k");
    sentinel = peer();
    turn();
    hears(sentinel, "AUTH secret", "a sentinel may want a password");
    hears(sentinel, "PING", "but has no databases");
    say(sentinel, "-ERR no password\r\n+PONG\r\n");
    turn();
    hears(sentinel, "SENTINEL get-master-addr-by-name mymaster",
          "it is asked for the master");

    say_list(sentinel, "*2 $8 10.0.0.9 $4 6379");
    turn();
    tap_ok(strcmp(peer()->to, "10.0.0.9:6379") == 0, "whom it names");
    hears(sentinel, "SUBSCRIBE +switch-master", "and whose changes it tells");
    (void) heard(peer());
    hears(peer(), "SELECT 1", "a master has databases");
    hears(peer(), "ROLE", "and is asked whether it is one");
    say(peer(), "+OK\r\n+OK\r\n");
    say_list(peer(), "*3 $5 slave $1 h :1");
    turn();
    tap_is(peer()->closed, 1, "one that is not gets no commands");
    ended(as, NGX_IDEM_REDIS_REFUSED, "", "which are refused");
    tap_ok(ask("k") == NULL, "now, too");

    later(100);
    turn();
    tap_is(sentinel->closed, 1, "another sentinel is asked");
    sentinel = peer_to("10.0.0.2:26379");
    say(sentinel, "+OK\r\n+PONG\r\n");
    turn();
    say_list(sentinel, "*2 $8 10.0.0.9 $4 6379");
    turn();
    (void) heard(peer());
    say(peer(), "+OK\r\n+OK\r\n");
    say_list(peer(), "*3 $6 master :0 *0");
    turn();
    tap_ok(ask("k") != NULL, "a master gets them");

    finish();
}


static void
test_sentinel_unknown(void)
{
    asked_t  *as;

    begin("10.0.0.1:26379 10.0.0.2:26379");
    finish();
    conf.mode = NGX_IDEM_REDIS_SENTINEL;
    set(&conf.master, "mymaster");
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    as = ask("k");
    turn();
    greeted(peer());
    say(peer(), "*-1\r\n");
    turn();
    tap_ok(strcmp(peer()->to, "10.0.0.2:26379") == 0,
           "a sentinel may not know: the next is asked");
    tap_is(as->calls, 0, "meanwhile a command waits");
    turn();
    greeted(peer());
    say(peer(), "-IDONTKNOW\r\n");
    turn();
    later(100);
    ended(as, NGX_IDEM_REDIS_REFUSED, "", "if none knows it is refused");
    tap_ok(ask("k") == NULL, "and others at once");

    later(2000);
    turn();
    greeted(peer());
    say_list(peer(), "*2 $8 10.0.0.9 $4 6379");
    turn();
    tap_ok(strcmp(peer()->to, "10.0.0.9:6379") == 0, "they are asked again");

    finish();
}


static void
test_failover(void)
{
    peer_t    *sentinel, *master;
    asked_t   *a, *b;
    hearer_t  *he;

    begin("10.0.0.1:26379");
    finish();
    conf.mode = NGX_IDEM_REDIS_SENTINEL;
    set(&conf.master, "mymaster");
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    (void) ask("k");
    sentinel = peer();
    turn();
    greeted(sentinel);
    say_list(sentinel, "*2 $8 10.0.0.8 $4 6379");
    turn();
    master = peer();
    say_list(master, "*3 $6 master :0 *0");
    turn();
    say(master, ":1\r\n");
    turn();
    he = hear("x");
    turn();

    a = ask("a");
    turn();
    say_list(sentinel, "*3 $9 subscribe $14 +switch-master :1");
    say_list(sentinel, "*3 $7 message $14 +switch-master $1 x");
    turn();
    tap_is(master->closed, 0, "what a sentinel tells is asked for first");
    sentinel = peer();
    turn();
    greeted(sentinel);
    say_list(sentinel, "*2 $8 10.0.0.9 $4 6379");
    turn();
    tap_is(master->closed, 1, "the old master is left");
    ended(a, NGX_IDEM_REDIS_LOST, "", "a command on its way is lost");
    tap_is(peer_to("10.0.0.9:6379")->closed, 0, "the new one is called");

    b = ask("b");
    tap_ok(b != NULL, "others may wait for it");
    tap_is(world_npeers, 6, "subscribers move, too");
    tap_is(he->calls, 0, "and are not sure");
    master = world_peers[world_npeers - 1];
    turn();
    say_list(peer_to("10.0.0.9:6379"), "*3 $6 master :0 *0");
    say(world_peers[4], "+PONG\r\n");
    turn();
    say(peer_to("10.0.0.9:6379"), "-MASTERDOWN no link\r\n");
    turn();
    ended(b, NGX_IDEM_REDIS_FAILED, "MASTERDOWN no link",
          "a master that is none any more says so");
    tap_is(peer_to("10.0.0.9:6379")->closed, 1, "and is left");

    finish();
}


static void
test_slots(void)
{
    size_t  i;

    struct {
        const char  *key;
        unsigned     slot;
    } keys[] = {
        { "123456789", 12739 }, { "foo", 12182 }, { "{foo}bar", 12182 },
        { "bar{foo}{zap}", 12182 }, { "foo{}{bar}", 8363 },
        { "foo{{bar}}zap", 4015 }, { "{", 4092 }, { "", 0 },
    };

    for (i = 0; i < tap_count(keys); i++) {
        tap_is(ngx_idem_redis_cluster_slot((const u_char *) keys[i].key,
                                           strlen(keys[i].key)),
               keys[i].slot, keys[i].key);
    }
}


static void
test_cluster(void)
{
    asked_t  *a, *b;

    begin("10.0.0.1:6379 10.0.0.2:6379");
    finish();
    conf.mode = NGX_IDEM_REDIS_CLUSTER;
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    a = ask("{foo}");
    b = ask("{123456780}");
    turn();
    greeted(peer());
    hears(peer(), "CLUSTER SLOTS", "a seed is asked for the slots");
    say_list(peer(), "*3"
             " *3 :0 :9999 *4 $-1 :7001 $2 id *0"
             " *4 :10000 :16383 *2 $9 127.0.0.2 :7002 *2 $9 127.0.0.3 :7003"
             " *2 :1 $1 x");
    turn();
    tap_is(world_peers[0]->closed, 1, "and left");
    tap_is(world_npeers, 3, "two nodes are needed, one each");
    hears(peer_to("127.0.0.2:7002"), "PING", "one of them");
    hears(peer_to("10.0.0.1:7001"), "PING",
          "one has no address: that of the seed");

    say(peer_to("127.0.0.2:7002"), "+PONG\r\n");
    say(peer_to("10.0.0.1:7001"), "+PONG\r\n");
    turn();
    hears(peer_to("127.0.0.2:7002"), evalsha("{foo}"), "a command goes there");
    say(peer_to("127.0.0.2:7002"), ":2\r\n");
    say(peer_to("10.0.0.1:7001"), ":1\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "2", "and is answered");
    ended(b, NGX_IDEM_REDIS_REPLIED, "1", "one goes elsewhere");

    finish();
}


static void
test_cluster_answers(void)
{
    size_t       i;
    asked_t     *as;
    const char  *answers[] = {
        "*0", "*1 :1", "*1 *2 :0 :1", "*1 *3 :0 :16384 *2 $9 127.0.0.1 :1",
        "*1 *3 :-1 :5 *2 $9 127.0.0.1 :1", "*1 *3 $1 0 :5 *2 $9 127.0.0.1 :1",
        "*1 *3 :0 :5 *1 $9 127.0.0.1", "*1 *3 :0 :5 *2 $9 127.0.0.1 :0",
        "*1 *3 :0 :5 *2 $9 127.0.0.1 :65536", "*1 *3 :0 :5 *2 :1 :1",
        "*1 *3 :0 :5 *2 $9 some.host :1", ":1", "-ERR no",
    };

    for (i = 0; i < tap_count(answers); i++) {
        begin("10.0.0.1:6379");
        finish();
        conf.mode = NGX_IDEM_REDIS_CLUSTER;
        rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

        as = ask("k");
        turn();
        greeted(peer());
        say_list(peer(), answers[i]);
        turn();
        later(100);
        tap_is(peer()->closed, 1, answers[i]);
        later(2000);
        ended(as, NGX_IDEM_REDIS_REFUSED, "", "is no answer");
        finish();
    }

    cluster_ready();
    later(200);
    as = ask("{foo}");
    turn();
    say(peer_to("127.0.0.1:7001"), "-MOVED 12182 2001:db8::1:7002\r\n");
    turn();
    tap_is(as->calls, 0, "a command goes on");
    tap_is(peer_to("[2001:db8::1]:7002")->closed, 0, "to an IPv6 address");
    tap_is(peer_to("10.0.0.1:6379")->closed, 0, "and the map is asked for");
    finish();
}


static void
test_moved(void)
{
    asked_t     *as;
    peer_t      *one, *two;
    ngx_uint_t   i;

    cluster_ready();
    one = peer_to("127.0.0.1:7001");

    as = ask("{foo}");
    turn();
    hears(one, evalsha("{foo}"), "a node is asked");
    say(one, "-ASK 12182 127.0.0.1:7002\r\n");
    turn();
    two = peer_to("127.0.0.1:7002");
    greeted(two);
    hears(two, "ASKING", "ASK: another one, for once");
    hears(two, evalsha("{foo}"), "the same command");
    say(two, "+OK\r\n:5\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "5", "is answered there");

    as = ask("{foo}");
    turn();
    hears(one, evalsha("{foo}"), "the next one is asked where it was");
    say(one, "-MOVED 12182 :7002\r\n");
    turn();
    hears(two, evalsha("{foo}"), "MOVED: it goes there");
    say(two, ":6\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_REPLIED, "6", "and is answered there");

    as = ask("{foo}");
    turn();
    hears(two, evalsha("{foo}"), "and so are those after it");

    for (i = 0; i < 3; i++) {
        say(two, "-MOVED 12182 127.0.0.1:7001\r\n");
        turn();
        say(one, "-MOVED 12182 127.0.0.1:7002\r\n");
        turn();
    }

    ended(as, NGX_IDEM_REDIS_FAILED, "MOVED 12182 127.0.0.1:7002",
          "but not round and round");

    as = ask("{foo}");
    turn();
    say(peer_to("127.0.0.1:7002"), "-MOVED 12182 some.host:7001\r\n");
    turn();
    tap_is(as->calls, 0, "two nodes: which of them was asked");
    say(peer_to("127.0.0.1:7001"), "-MOVED 12182 some.host:7001\r\n");
    turn();
    ended(as, NGX_IDEM_REDIS_FAILED, "MOVED 12182 some.host:7001",
          "names are not looked up");

    finish();
}


static void
test_cluster_down(void)
{
    asked_t  *a, *b;
    peer_t   *node;

    cluster_ready();
    node = peer_to("127.0.0.1:7001");

    a = ask("a");
    b = ask("b");
    turn();
    (void) heard(node);
    (void) heard(node);
    say(node, "-TRYAGAIN later\r\n-CLUSTERDOWN is down\r\n");
    turn();
    tap_is(a->calls + b->calls, 0, "such commands are parked");
    tap_is(world_busy(), 1, "and a worker that shuts down stays for them");

    later(100);
    hears(node, evalsha("a"), "and tried again");
    hears(node, evalsha("b"), "both");
    say(node, ":1\r\n-CLUSTERDOWN is down\r\n");
    turn();
    ended(a, NGX_IDEM_REDIS_REPLIED, "1", "one is answered");

    while (b->calls == 0) {
        later(50);

        if (strlen(heard(node))) {
            say(node, "-CLUSTERDOWN is down\r\n");
            turn();
        }
    }

    ended(b, NGX_IDEM_REDIS_FAILED, "CLUSTERDOWN is down",
          "the other one has failed when its time is over");
    tap_ok(ngx_current_msec - b->cmd.args[7].len <= 600, "and not later");

    finish();
}


static void
test_node_gone(void)
{
    asked_t     *as;
    peer_t      *node;
    ngx_uint_t   n;

    cluster_ready();
    node = peer_to("127.0.0.1:7001");

    as = ask("a");
    turn();
    later(200);
    n = world_npeers;
    node->eof = 1;
    turn();
    ended(as, NGX_IDEM_REDIS_LOST, "", "a node that is gone loses a command");
    tap_is(world_npeers, n + 1, "somebody is asked who has its slots now");
    tap_ok(ask("a") == NULL, "until then they are refused");

    turn();
    greeted(peer());
    say_list(peer(), "*1 *3 :0 :16383 *2 $9 127.0.0.1 :7009");
    turn();
    as = ask("a");
    tap_ok(strcmp(peer()->to, "127.0.0.1:7009") == 0, "then another node is");
    tap_is(rc->nnodes, 1, "and the other one is forgotten");

    finish();
}


/* A client of servers whose names are given, with blanks between. */

static void
begin(const char *servers)
{
    int          port;
    char         host[32];
    ngx_uint_t   n;

    world_begin();

    memset(&conf, 0, sizeof(conf));
    memset(&board_of, 0, sizeof(board_of));
    ngx_idem_redis_stat_init(&stat_of, &board_of);
    memset(asks, 0, sizeof(asks));
    memset(hearers, 0, sizeof(hearers));
    memset(sins, 0, sizeof(sins));

    nasks = 0;
    nhearers = 0;
    ends = 0;

    for (n = 0; *servers; n++) {
        (void) sscanf(servers, "%31[0-9.]:%d", host, &port);
        (void) sprintf(names[n], "%s:%d", host, port);

        sins[n].sin_family = AF_INET;
        sins[n].sin_port = htons((in_port_t) port);
        (void) inet_pton(AF_INET, host, &sins[n].sin_addr);

        addrs[n].sockaddr = (struct sockaddr *) &sins[n];
        addrs[n].socklen = sizeof(struct sockaddr_in);
        set(&addrs[n].name, names[n]);

        urls[n].addrs = &addrs[n];
        urls[n].naddrs = 1;
        set(&urls[n].host, "redis.test");

        servers += strlen(names[n]);
        servers += (*servers == ' ');
    }

    conf.servers.elts = urls;
    conf.servers.nelts = n;
    set(&conf.name, "main");
    set(&conf.prefix, "idem:");
    conf.connect_timeout = 1000;
    conf.timeout = 500;

    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);
}


static void
finish(void)
{
    ngx_idem_redis_close(rc);
    free(rc->addrs);
    free(rc->slots);
    free(rc);

    while (world_ntimers) {
        tap_ok(0, "no timer is left");
        world_ntimers--;
    }
}


static void
set(ngx_str_t *str, const char *text)
{
    str->len = strlen(text);
    str->data = (u_char *) strdup(text);
}


/* It is answered, and what it has said is forgotten. */

static void
greeted(peer_t *pr)
{
    say(pr, "+PONG\r\n");
    turn();

    if (strcmp(heard(pr), "PING") != 0) {
        tap_ok(0, "a connection greets");
    }
}


/* The client has a connection, and nothing to do. */

static void
ready(void)
{
    asked_t  *as;

    as = ask("ready");
    turn();
    greeted(peer());
    say(peer(), ":0\r\n");
    turn();
    (void) heard(peer());

    if (as == NULL || as->calls != 1) {
        tap_ok(0, "the client is ready");
    }

    memset(asks, 0, sizeof(asks));
    memset(&board_of, 0, sizeof(board_of));
    ngx_idem_redis_stat_init(&stat_of, &board_of);
    nasks = 0;
}


/* NULL: refused at once.  Arguments and wait may have been set before. */

static asked_t *
ask(const char *key)
{
    asked_t  *as;

    as = &asks[nasks];

    as->cmd.script = &script;
    as->cmd.key.data = (u_char *) strdup(key);
    as->cmd.key.len = strlen(key);
    as->cmd.handler = ask_handler;
    as->cmd.data = as;
    as->cmd.args[7].len = ngx_current_msec;

    if (ngx_idem_redis_send(rc, &as->cmd) != NGX_AGAIN) {
        free(as->cmd.key.data);
        return NULL;
    }

    free(as->cmd.key.data);

    if (as->calls) {
        tap_ok(0, "a handler is not called by send");
    }

    nasks++;

    return as;
}


static void
ask_handler(ngx_idem_redis_cmd_t *cmd)
{
    char        *p;
    asked_t     *as;
    ngx_uint_t   i;

    as = cmd->data;
    as->calls++;
    as->end = cmd->end;
    as->order = ++ends;

    p = as->heard;
    p += sprintf(p, "%.*s", (int) cmd->error.len, cmd->error.data);

    for (i = 0; i < cmd->nvalues; i++) {
        p += sprintf(p, "%s", i ? " " : "");

        if (cmd->values[i].str.data == NULL) {
            p += sprintf(p, "%lld", (long long) cmd->values[i].integer);

        } else if (cmd->values[i].str.len == 0) {
            p += sprintf(p, "[]");

        } else {
            p += sprintf(p, "%.*s", (int) cmd->values[i].str.len,
                         cmd->values[i].str.data);
        }
    }

    if (as->then) {
        as->then();
    }
}


/* A handler that sends another command, and forgets one. */

static void
ask_more(void)
{
    more = ask("more");

    if (nasks > 2) {
        ngx_idem_redis_forget(&asks[1].cmd);
    }
}


static void
ended(asked_t *as, ngx_idem_redis_end_e end, const char *words,
    const char *why)
{
    if (!tap_ok(as && as->calls == 1 && as->end == end
                && strcmp(as->heard, words) == 0, why)
        && as)
    {
        printf("# calls: %d, end: %d, words: %s\n", (int) as->calls,
               (int) as->end, as->heard);
    }
}


static hearer_t *
hear(const char *channel)
{
    hearer_t  *he;

    he = &hearers[nhearers++];

    set(&he->sub.channel, channel);
    he->sub.handler = hear_handler;
    he->sub.data = he;

    ngx_idem_redis_subscribe(rc, &he->sub);

    if (he->calls) {
        tap_ok(0, "a handler is not called by subscribe");
    }

    return he;
}


static void
hear_handler(ngx_idem_redis_sub_t *sub)
{
    hearer_t  *he;

    he = sub->data;
    he->calls++;

    if (he->leaves) {
        ngx_idem_redis_unsubscribe(rc, sub);
        memset(sub, 0xff, sizeof(ngx_idem_redis_sub_t));
    }
}


/* A cluster of one node, 127.0.0.1:7001, which is greeted. */

static void
cluster_ready(void)
{
    begin("10.0.0.1:6379");
    finish();
    conf.mode = NGX_IDEM_REDIS_CLUSTER;
    rc = ngx_idem_redis_client(&world_cycle, &conf, &stat_of);

    (void) ask("ready");
    turn();
    greeted(peer());
    say_list(peer(), "*1 *3 :0 :16383 *2 $9 127.0.0.1 :7001");
    turn();
    greeted(peer());
    say(peer(), ":0\r\n");
    turn();
    (void) heard(peer());

    memset(asks, 0, sizeof(asks));
    nasks = 0;
}


/* The last connection to a server. */

static peer_t *
peer_to(const char *name)
{
    ngx_uint_t  i;

    for (i = world_npeers; i > 0; i--) {
        if (strcmp(world_peers[i - 1]->to, name) == 0) {
            return world_peers[i - 1];
        }
    }

    tap_ok(0, name);
    exit(1);
}


static const char *
evalsha(const char *key)
{
    static char  words[128];

    (void) sprintf(words, "EVALSHA %s 1 idem:%s", SHA, key);

    return words;
}

#else

int
main(void)
{
    printf("1..0 # SKIP built without hiredis\n");

    return 0;
}

#endif
