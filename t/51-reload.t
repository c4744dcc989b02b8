#!/usr/bin/perl

# A reload is not felt: records stay, what runs runs on and completes, who
# waits is answered.  A zone that would have to be made anew for it is refused,
# and the old configuration serves on.

use lib 't/lib';
use Test::Idempotency;

my $server = <<'EOF';
    idempotency             payments;
    idempotency_concurrent  reject;
EOF

my $locations = <<'EOF';
    location /wait {
        idempotency_concurrent wait=10s;
        proxy_pass http://backend;
    }
EOF

my $t = Test::Idempotency->new($server, locations => $locations);
my $backend = $t->backend;

# Before the reload: an answer, an unknown, a request that runs, and one that
# another one waits for.

$backend->on('/done', 201, 'done');
$backend->on('/cut', 200, 'answer', cut => 2);
is_answer($t->post(path => '/done', key => 'done'), 201, 'done', 'an answer');
is($t->post(path => '/cut', key => 'cut')->status, 502, 'an unknown');

my $runs = $t->start_post(key => 'runs');
my $waited = $t->start_post(path => '/wait', key => 'wait');
$backend->wait_for_request(2);
my $waiter = $t->start_post(path => '/wait', key => 'wait');
$t->wait_until(waiting => 1);

my $before = $t->zone;
my @old = $t->workers;

$t->reload;

# The new workers know all of it.

my $after = $t->zone;

is(grep({ my $pid = $_; grep { $_ == $pid } @old } $t->workers), 0,
   'there are new workers');
is_deeply($after->{records}, $before->{records}, 'all records are there');
is_deeply($after->{counters}, $before->{counters}, 'and all counters');
is_replay($t->post(path => '/done', key => 'done'), 201, 'done',
          'an answer is replayed');
is_problem($t->post(path => '/done', key => 'done', body => 'b'), 422,
           'key-reused', 'and belongs to its request');
is_problem($t->post(path => '/cut', key => 'cut'), 409, 'outcome-unknown',
           'an unknown is unknown');
is_problem($t->post(key => 'runs'), 409, 'in-flight', 'what runs is running');

my $twin = $t->start_post(path => '/wait', key => 'wait');
$t->wait_until(waiting => 2);
pass('one more waits, in a new worker');
is($waiter->answered, 0, 'the one in an old worker waits on');

# The old workers end what they have begun.

my %held = map { $_->uri => $_ } $backend->all;
$backend->answer(200, 'ran', to => $held{'/'});
is_answer($runs, 200, 'ran', 'what ran is answered by an old worker');
is_replay($t->post(key => 'runs'), 200, 'ran', 'and replayed by a new one');

$backend->answer(200, 'so', to => $held{'/wait'});
is_answer($waited, 200, 'so', 'what was waited for is answered');
is_replay($waiter, 200, 'so', 'so is the waiter in an old worker');
is_replay($twin, 200, 'so', 'and the one in a new worker');

$t->wait_for_old_workers;
is($t->zone->{waiting}, 0, 'nobody waits');
is($t->counter('waited'), 2, 'both have');
is($t->counter($_), 0, "none was $_") for qw(orphaned lost lease_ended);

# The other way round: a waiter in an old worker, a claim in a new one.  The
# waiter's first is released, and whoever claims next is waited for.

$waited = $t->start_post(path => '/wait', key => 'turn');
$backend->wait_for_request;
my @waiters = map { $t->start_post(path => '/wait', key => 'turn') } 1 .. 3;
$t->wait_until(waiting => 3);
$t->reload;
$backend->answer(429, 'later');
is_answer($waited, 429, 'later', 'a first that is released');
$backend->wait_for_request;
$t->wait_until(waiting => 2);
$backend->answer(200, 'my turn');

my @answers = map { $_->response } @waiters;
is_answer($_, $_->status, 'my turn', 'one of the waiters ran for all')
    for grep { !$_->header('Idempotent-Replayed') } @answers;
is(grep({ $_->header('Idempotent-Replayed') } @answers), 2,
   'two got it again');
$t->wait_for_old_workers;

# A waiter that leaves, and one whose patience ends, in a worker that does.

$waited = $t->start_post(path => '/wait', key => 'left');
$backend->wait_for_request;
$waiter = $t->start_post(path => '/wait', key => 'left');
$t->wait_until(waiting => 1);
$t->reload;
$waiter->close;
$t->wait_until(waiting => 0);
pass('a waiter that leaves an old worker frees its place');
$backend->answer(200, 'nobody else');
is_answer($waited, 200, 'nobody else', 'its first does not care');
$t->wait_for_old_workers;

# Another size cannot be had without losing what is there.

for my $size ('2m', '512k') {
    $t->change(zone => "zone=payments:$size");
    like($t->refuse_reload(qr/\[emerg\].*zone.*"payments"/), qr/size/,
         "a reload to $size is refused");
    is_replay($t->post(path => '/done', key => 'done'), 201, 'done',
              'the old configuration serves on');
}

is($t->zone->{size}, 1024 * 1024, 'with the old zone');

$runs = $t->start_post(key => 'meanwhile');
$backend->wait_for_request;
$backend->answer(200, 'taken');
is_answer($runs, 200, 'taken', 'new requests are taken');
$t->change(zone => 'zone=payments:1024k');
$t->reload->wait_for_old_workers;
is_replay($t->post(key => 'meanwhile'), 200, 'taken',
          'the same size, said otherwise, is the same');

# Zones come and go.

my $two = $locations . <<'EOF';
    location /other {
        idempotency refunds;
        proxy_pass http://backend;
    }
EOF

$backend->on($_, 200, 'answer %n') for '/other', '/done';
$t->change(zone => [ 'zone=payments:1m', 'zone=refunds:64k' ],
           locations => $two);
$t->reload->wait_for_old_workers;

my %other = (path => '/other', key => 'other');
my $first = $t->post(%other);
is_answer($first, 200, undef, 'a zone that is added');
is_replay($t->post(%other), 200, $first->body, 'works');
is($t->zone('refunds')->{records}{done}, 1, 'by itself');
is_replay($t->post(path => '/done', key => 'done'), 201, 'done',
          'the other one is as it was');

$runs = $t->start_post(path => '/other/slow', key => 'slow');
$backend->wait_for_request;
$t->change(zone => 'zone=payments:1m', locations => $locations);
$t->reload;
is($t->zone('refunds'), undef, 'it is removed');
$backend->answer(200, 'on its own');
is_answer($runs, 200, 'on its own', 'a claim in it ends as ever');
$t->wait_for_old_workers;
is_replay($t->post(path => '/done', key => 'done'), 201, 'done',
          'the other one stays');

$t->change(zone => [ 'zone=refunds:128k', 'zone=payments:1m' ],
           locations => $two);
$t->reload->wait_for_old_workers;
is($t->zone('refunds')->{records}{done}, 0, 'when it comes back it is empty');
is_answer($t->post(%other), 200, undef, 'and takes requests');
is($t->zone('refunds')->{size}, 128 * 1024, 'with another size');

# The directive goes while a request runs.

$runs = $t->start_post(key => 'off');
$backend->wait_for_request;
$t->change(directives => 'idempotency off;');
$t->reload;
$backend->answer(200, 'protected');
is_answer($runs, 200, 'protected', 'it was protected when it began');
$t->wait_for_old_workers;
$t->change(directives => $server);
$t->reload->wait_for_old_workers;
is_replay($t->post(key => 'off'), 200, 'protected', 'and was recorded');

$t->finish;

# full= may change from one reload to the next.

$t = Test::Idempotency->new($server, zone => 'zone=payments:64k',
                            backend => 'auto');
my $n = 0;
wait_for('it is full', sub { $t->post(key => 'k' . ++$n)->status == 503 });

$t->change(zone => 'zone=payments:64k full=evict');
$t->reload->wait_for_old_workers;
is($t->post(key => "k$n")->status, 200, 'from refuse to evict');
is($t->counter('evicted_done'), 1, 'one had to go');

$t->change(zone => 'zone=payments:64k full=refuse');
$t->reload->wait_for_old_workers;
is_problem($t->post(key => 'one-more'), 503, 'store-full', 'and back');
is_replay($t->post(key => "k$n"), 200, undef, 'with what it had');
$t->finish;

# Many generations: each worker gives back what it took.

$t = Test::Idempotency->new($server, workers => 8, locations => $locations);
$backend = $t->backend;

for (1 .. 10) {
    $t->reload->wait_for_old_workers;
}

$waited = $t->start_post(path => '/wait', key => 'many');
$backend->wait_for_request;
@waiters = map { $t->start_post(path => '/wait', key => 'many') } 1 .. 20;
$t->wait_until(waiting => 20);
$backend->answer(200, 'many');
is_answer($waited, 200, 'many', 'after many reloads a claim');
is_replay($_, 200, 'many', 'wakes its waiters') for @waiters;
unlike($t->log, qr/\[(warn|error)\].*idempotency/, 'without a warning');

done_testing;
