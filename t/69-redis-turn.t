#!/usr/bin/perl

# Whoever waits for a resource that another node changes has its turn, or is
# told so in time, also if its worker or Redis stands still meanwhile; and it
# does not go on with a claim that it has lost while it waited.

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
    location /turn/  { proxy_pass http://backend;
                       idempotency_serialize $arg_of wait=20s; }
    location /check/ { proxy_pass http://backend; idempotency_lease 600ms;
                       idempotency_unknown check=/known;
                       idempotency_serialize $arg_of wait=20s; }
    location /brief/ { proxy_pass http://backend;
                       idempotency_serialize $arg_of wait=1200ms; }
    location /short/ { proxy_pass http://backend; idempotency_lease 600ms;
                       idempotency_sequence $arg_of $arg_n; }
    location /local/ { proxy_pass http://backend; idempotency_on_error local;
                       idempotency_sequence $arg_of $arg_n; }
    location /pass/  { proxy_pass http://backend; idempotency_on_error pass;
                       idempotency_sequence $arg_of $arg_n; }
    location = /known { internal; proxy_pass http://known; }
END

my ($a, $b) = map {
    Test::Idempotency->new($conf, locations => $locations, workers => 1,
        backends => ['known'], zone => 'zone=payments:1m redis=main',
        http => <<"END") } 1, 2;
idempotency_redis main { server 127.0.0.1:@{[ $redis->port ]}; timeout 15s; }
END

$_->backend('known')->auto(404, 'never heard of it') for $a, $b;

my $n = 0;


sub start {
    my ($t, $path, $key) = @_;

    return $t->start_post(path => $path, key => $key // 'k' . ++$n,
                          body => 'eur=1');
}


# A request that is inside the backend of a node.

sub begin {
    my $client = start(@_);

    $_[0]->backend->wait_for_request;

    return $client;
}


sub keys_like {
    my ($form) = @_;

    return grep { ($redis->command('TYPE', $_) eq 'string'
                   ? $redis->command('GET', $_) // '' : '') =~ $form }
        @{ $redis->command('KEYS', '*') };
}


# Others stand in the queue of a guard that is held.

sub queue_is {
    my ($length) = @_;

    return wait_for("$length wait", sub {
        grep { unpack('n', substr $redis->command('GET', $_), 75, 2) == $length }
            keys_like(qr/^G1r/) });
}


sub passes {
    my ($seconds, $why) = @_;

    my $end = time + $seconds;

    return wait_for($why, sub { time > $end });
}


# Its lease ends while it waits; a duplicate finds out that it did not happen.

my $first = begin($a, '/check/?of=a');
my $waits = start($b, '/check/?of=a', 'once');
queue_is(1);
my ($worker) = $b->workers;
kill 'STOP', $worker;
passes(1.3, 'its lease is over');
my $twin = start($a, '/check/?of=a', 'once');
passes(0.5, 'the duplicate waits in its place');
kill 'CONT', $worker;
passes(0.5, 'it looks around');
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the one in front');
$a->backend->wait_for_request;
$a->backend->answer(201, 'by the duplicate');
is_answer($twin, 201, 'by the duplicate', 'a lost claim: who has it now');
$waits = $waits->response;
like($waits->status, qr/^(?:409|201)$/, 'a lost claim: who had it');
is(scalar(grep { $_->header('Idempotency-Key') eq 'once' }
          map { $_->backend->all } $a, $b), 1, 'a lost claim: once');

# Redis says to a worker in one breath that it has to wait and that it is free.

my $server = $redis->pid;
$first = begin($a, '/turn/?of=b');
$waits = start($b, '/turn/?of=b');
queue_is(1);
kill 'STOP', $server;
wait_for('it asks again', sub { $b->zone->{redis}{pending} });
kill 'STOP', $worker;
kill 'CONT', $server;
wait_for('Redis is there again', sub { keys_like(qr/^G1r/) });
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'in one breath: the one in front');
wait_for('it is left', sub { !keys_like(qr/^G1r/) });
kill 'CONT', $worker;
$b->backend->wait_for_request;
$b->backend->answer(200, 'its turn');
is_answer($waits, 200, 'its turn', 'in one breath: it has its turn');

# Patience ends while Redis is silent.

$first = begin($a, '/brief/?of=c');
my $began = time;
$waits = start($b, '/brief/?of=c');
queue_is(1);
kill 'STOP', $server;
wait_for('it asks again', sub { $b->zone->{redis}{pending} });
passes(1.4 - (time - $began), 'patience is over') if time - $began < 1.4;
kill 'CONT', $server;
$began = time;
is_problem($waits->response, 409, 'resource-busy', 'patience is over');
cmp_ok(time - $began, '<', 0.6, 'and no question more');
$a->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the one in front did not feel it');

# Nobody can tell what became of the one before: the zone decides alone, and
# Redis has its guard back; or nobody does, and that is counted.

for my $how (qw(local pass)) {
    my $gone = $b->backend->gone;

    begin($b, "/short/?of=$how&n=5");
    $b->kill_worker($_) for $b->workers;
    wait_for('it is gone', sub { $b->backend->gone > $gone });
    wait_for('its lease is over', sub {
        my ($guard) = keys_like(qr/^G1r/);
        my $left = unpack 'd>', substr $redis->command('GET', $guard), 59, 8;
        return $redis->command('PTTL', $guard) <= $left;
    });

    for (keys_like(qr/^I1r/)) {
        $redis->command('DEL', $_);
        $redis->command('RPUSH', $_, 'no record');
    }

    my $client = begin($a, "/$how/?of=$how&n=6");
    $a->backend->answer(200, 'six');
    my $m = $client->response;
    is($m->status, 200, "$how: it is carried out");
    is($m->header('X-Told'), $how eq 'pass' ? 'unprotected' : 'first',
       "$how: and told so");
    wait_for("$how: no guard is held", sub { !keys_like(qr/^G1r/) });
}

$_->allow(qr/signal 9|damaged or foreign|cannot be asked|WRONGTYPE/)
    for $a, $b;

done_testing;
