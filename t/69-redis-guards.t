#!/usr/bin/perl

# Two nodes, one Redis, one resource: requests that change it go to the upstream
# one at a time, in order of arrival, whichever node they arrive at.  A client
# that leaves, a node that dies, or a Redis that is away for a moment stops the
# others no longer than it must.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use Time::HiRes qw(time);

my $redis = Test::Idempotency::Redis->new;

my $conf = <<'END';
    idempotency  payments;
    add_header   X-Told $idempotency_status always;
END

my $locations = <<'END';
    location /one/   { proxy_pass http://backend;
                       idempotency_serialize $arg_of wait=20s queue=3; }
    location /brief/ { proxy_pass http://backend;
                       idempotency_serialize $arg_of wait=300ms; }
    location /lease/ { proxy_pass http://backend; idempotency_lease 600ms;
                       idempotency_serialize $arg_of wait=20s; }
    location /seq/   { proxy_pass http://backend; idempotency_lease 600ms;
                       idempotency_sequence $arg_of $arg_n; }
    location /long/  { proxy_pass http://backend;
                       idempotency_sequence $arg_of $arg_n; }
END

my ($a, $b) = map {
    Test::Idempotency->new($conf, locations => $locations, workers => 2,
        zone => 'zone=payments:1m redis=main',
        http => <<"END") } 1, 2;
idempotency_redis main { server 127.0.0.1:@{[ $redis->port ]}; timeout 300ms; }
END

my $n = 0;


# A request on a node; each is another one.

sub start {
    my ($t, $path) = @_;

    return $t->start_post(path => $path, key => 'k' . ++$n, body => 'eur=1');
}


# The guards on Redis: "r2", held, and two wait.

sub guards {
    my @found;

    for (@{ $redis->command('KEYS', '*') }) {
        my $v = $redis->command('GET', $_) // next;
        push @found, join '', unpack 'x2 a1 x68 x4 n', $v if $v =~ /^G1/;
    }

    return join ' ', sort @found;
}


sub guards_are {
    my ($expected, $name) = @_;

    return wait_for(sub { "$name: " . guards() },
                    sub { guards() eq $expected });
}


sub asked {
    my ($calls) = $redis->command('INFO', 'commandstats')
        =~ /^cmdstat_evalsha:calls=(\d+)/m;

    return $calls // 0;
}


# The backend of a node gets one, and answers.

sub arrives {
    my ($t, $client, $name) = @_;

    $t->backend->wait_for_request;
    $t->backend->answer(200, $name);
    is_answer($client, 200, $name, $name);

    return;
}


sub refused {
    my ($client, $status, $why, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $m = $client->response;

    return ok($m->status == $status && $m->body =~ /$why/, $name)
        || diag($m->status, "\n", $m->body);
}


sub requests { return $a->backend->requests + $b->backend->requests }


# In order of arrival.

my $first = start($a, '/one/?of=x');
$a->backend->wait_for_request;
guards_are('r0', 'held');

my @next;

for my $t ($b, $a, $b) {
    push @next, start($t, '/one/?of=x');
    guards_are('r' . @next, 'number ' . @next . ' waits');
}

refused(start($_, '/one/?of=x'), 409, 'resource is busy', 'the queue is full')
    for $a, $b;

my $other = start($b, '/one/?of=y');
arrives($b, $other, 'another resource');

my $asked = asked();
my $end = time + 2;
wait_for('time passes', sub { time > $end });
cmp_ok(asked() - $asked, '<', 20, 'who waits asks once a second');
is(requests(), 2, 'nobody has overtaken');

my $at = time;
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the first is through');
arrives($b, $next[0], 'the second, on B');
arrives($a, $next[1], 'the third, on A');
arrives($b, $next[2], 'the fourth, on B');
cmp_ok(time - $at, '<', 0.9, 'each was told, none had to ask');
guards_are('', 'nothing is left');

# Who has no patience, and who leaves.

$first = start($a, '/one/?of=x');
$a->backend->wait_for_request;
refused(start($b, '/brief/?of=x'), 409, 'resource is busy', 'patience ends');
guards_are('r0', 'its place is empty');

@next = start($b, '/one/?of=x');
guards_are('r1', 'one waits');
push @next, start($b, '/one/?of=x');
guards_are('r2', 'another one waits');
$at = time;
$next[0]->reset;
guards_are('r1', 'who leaves is gone');
cmp_ok(time - $at, '<', 2, 'who leaves gives up its place at once');
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the first is through');
arrives($b, $next[1], 'the next');

# A node dies whose requests wait.

$first = start($a, '/one/?of=x');
$a->backend->wait_for_request;
@next = start($b, '/one/?of=x');
guards_are('r1', 'one waits on B');
push @next, start($a, '/one/?of=x');
guards_are('r2', 'one on A');
$b->kill_worker($_) for $b->workers;
$at = time;
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the first is through');
arrives($a, $next[1], 'who waits behind the dead');
cmp_ok(time - $at, '<', 4.5, 'not for long');

# A node dies whose request has it.

$first = start($b, '/lease/?of=x');
$b->backend->wait_for_request;
@next = start($a, '/lease/?of=x');
guards_are('r1', 'one waits on A');
my $gone = $b->backend->gone;
$b->kill_worker($_) for $b->workers;
wait_for('it is gone', sub { $b->backend->gone > $gone });
arrives($a, $next[0], 'when the lease has ended');

# How long the request takes does not matter.

$first = start($b, '/lease/?of=x');
$b->backend->wait_for_request;
@next = start($a, '/lease/?of=x');
$end = time + 1.5;
wait_for('leases would be over', sub { time > $end });
is(scalar($a->backend->held), 0, 'its lease is renewed');
$b->backend->answer(200, 'slow');
is_answer($first, 200, 'slow', 'it ends');
arrives($a, $next[0], 'the next');

# What is known on one node is known on the other; what a dead one was about to
# do is found out.

arrives($a, start($a, '/seq/?of=s&n=5'), 'number 5, on A');
refused(start($b, '/seq/?of=s&n=5'), 409, 'out of order', 'is late on B');
arrives($b, start($b, '/seq/?of=s&n=6'), 'number 6, on B');

$first = start($b, '/seq/?of=s&n=9');
$b->backend->wait_for_request;
refused(start($a, '/seq/?of=s&n=10'), 409, 'resource is busy', 'one runs on B');
$gone = $b->backend->gone;
$b->kill_worker($_) for $b->workers;
wait_for('it is gone', sub { $b->backend->gone > $gone });
wait_for('its lease ends', sub {
    start($a, '/seq/?of=s&n=6')->response->body =~ /out of order/ });
arrives($a, start($a, '/seq/?of=s&n=7'), 'it is not known to have succeeded');
refused(start($b, '/seq/?of=s&n=7'), 409, 'out of order', 'this is');

# Redis is away when a request ends: it is told later.

$first = start($a, '/long/?of=t&n=1');
$a->backend->wait_for_request;
$redis->pause;
$a->backend->answer(200, 'meanwhile');
is_answer($first, 200, 'meanwhile', 'the answer goes out');
$redis->resume;
wait_for('it is told', sub { start($b, '/long/?of=t&n=1')->response->body
                                 =~ /out of order/ });

# Redis is away when a request asks for it: nothing is left of that.

$first = start($a, '/one/?of=z');
$a->backend->wait_for_request;
@next = map { start($_, '/one/?of=z') } $a, $b;
wait_for('two wait', sub { guards() =~ /r2/ });
$redis->pause;
refused($_, 503, 'store is unavailable', 'who waits is told') for @next;
$redis->resume;
wait_for('nobody waits', sub { guards() =~ /r0/ });
@next = start($b, '/one/?of=z');
wait_for('one waits', sub { guards() =~ /r1/ });
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the first is through');
arrives($b, $next[0], 'the next');

for ($a, $b) {
    $_->allow(qr/exited on signal|Redis|reply is overdue|a lease had ended
                |cannot be asked/x);
}

# An answer that passes holds the guard to its end, for all nodes.

my $flows = start($a, '/lease/?of=flows');
my $asks = $a->backend->wait_for_request;
$a->backend->send("HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\n\r\nhello",
                  to => $asks);
wait_for('it passes', sub { $flows->answered });
my $behind = start($b, '/lease/?of=flows');
wait_for('the other node waits', sub { guards() =~ /r1/ });
my $over = time + 1.5;
wait_for('the lease would be over', sub { time > $over });
is($b->backend->held, 0, 'nobody comes before its end');
$a->backend->close(to => $asks);
is($flows->response->body, 'hello', 'it ends');
arrives($b, $behind, 'then comes the next one');

done_testing;
