#!/usr/bin/perl

# Whoever looks at the status sees what Redis does: which servers are there,
# how long they take, what is on its way, what went wrong, and what Redis has
# still to be told.  A worker that was killed leaves nothing behind, and a
# reload forgets nothing.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::FaultProxy;
use Test::Idempotency::Redis;

my $redis = Test::Idempotency::Redis->new;
my $net = Test::Idempotency::FaultProxy->new($redis->port);
my $address = '127.0.0.1:' . $net->port;

my $t = Test::Idempotency->new('idempotency payments;', workers => 1,
    zone => 'zone=payments:1m redis=main', http => <<"END");
    idempotency_redis main {
        server           $address;
        connect_timeout  300ms;
        timeout          300ms;
    }
END

my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1') }


sub redis { return $t->zone->{redis} }


sub server {
    my ($name) = @_;

    return (grep { $_->{server} eq ($name // $address) }
            @{ redis()->{servers} })[0];
}


sub carried_out {
    my (%request) = @_;

    my $client = $t->start_post(%request);
    $t->backend->wait_for_request;
    $t->backend->answer(201, 'receipt');

    return $client->response;
}


sub becomes {
    my ($what, $look, $goal) = @_;

    my $is;
    wait_for($what, sub { ($is = $look->()) eq $goal });

    return is($is, $goal, $what);
}


# Nothing was asked yet.

is_deeply(redis()->{servers}, [], 'no server is known before it is needed');
is(redis()->{commands}{sent}, 0, 'and nothing was sent');

carried_out(pay());

is(server()->{state}, 'there', 'a server that answers is there');
is_deeply(server()->{workers}, { there => 1, opening => 0, away => 0 },
          'for the one worker');
is(server()->{connects}, 1, 'by one connection');
ok(!server()->{sentinel}, 'it is no sentinel');
is_deeply([ @{ redis()->{commands} }{qw(sent replied)} ], [ 2, 2 ],
          'a claim and a completion');

my $trip = server()->{round_trip};
is($trip->{count}, 4, 'each of them made two round trips: it was not known');
is($trip->{buckets}{'+Inf'}, 4, 'which are in the histogram');
cmp_ok($trip->{sum}, '>', 0, 'and took some time');

my @buckets = map { $trip->{buckets}{$_} } sort { $a <=> $b }
    grep { $_ ne '+Inf' } keys %{ $trip->{buckets} };
is("@buckets", join(' ', sort { $a <=> $b } @buckets),
   'each bucket has those of the one before');

# A slow network.

$net->delay(up => 0.06, down => 0.06);
carried_out(pay());
$net->pass;

$trip = server()->{round_trip};
is($trip->{count}, 6, 'two more round trips');
cmp_ok($trip->{sum}, '>', 0.24, 'which took their time');
cmp_ok($trip->{buckets}{'+Inf'} - $trip->{buckets}{'0.100000'}, '>=', 2,
       'are in the buckets of the slow ones');

# What is on its way.

$redis->pause;
my $claim = $t->start_post(pay());
becomes('a command is pending', sub { redis()->{pending} }, 1);
is_problem($claim->response, 503, 'store-unavailable', 'it is not answered');
becomes('and no more', sub { redis()->{pending} }, 0);
is(redis()->{errors}{timeout}, 1, 'a reply was overdue');
cmp_ok(redis()->{commands}{lost}, '>=', 1, 'the command is lost');
is(redis()->{undelivered}, 1, 'Redis is still to be told to forget it');
becomes('the server is away', sub { server()->{state} }, 'away');
$redis->resume;
becomes('that is told', sub { redis()->{undelivered} }, 0);

# An outcome that Redis does not take.

my %request = pay();
my $client = $t->start_post(%request);
$t->backend->wait_for_request;

my $late = redis()->{commands}{delivered_late};
$net->accept('refuse');
$net->reset;
$t->backend->answer(201, 'kept');

is_answer($client, 201, 'kept', 'a client has its answer without Redis');
becomes('one outcome is undelivered', sub { redis()->{undelivered} }, 1);
cmp_ok(redis()->{undelivered_bytes}, '>', length 'kept', 'it has some bytes');
wait_for('it cannot be told', sub { redis()->{errors}{connect} });
cmp_ok(server()->{failures}, '>=', 2, 'the server has failed');

$net->pass;
becomes('it lands', sub { redis()->{undelivered} }, 0);
is(redis()->{undelivered_bytes}, 0, 'with all its bytes');
is(redis()->{commands}{delivered_late}, $late + 1, 'later than the others');
is(redis()->{commands}{abandoned}, 0, 'none was given up');

# Errors by kind.

$redis->command(qw(CONFIG SET maxmemory 1));
is_problem($t->post(pay()), 503, 'store-unavailable', 'Redis has no memory');
is(redis()->{errors}{oom}, 1, 'which is an error of its own kind');
is(redis()->{commands}{failed}, 1, 'a command failed');
$redis->command(qw(CONFIG SET maxmemory 0));

# It says no more than it knows.

my $before = redis()->{commands}{sent};
$t->reload;
is(redis()->{commands}{sent}, $before, 'a reload forgets nothing');
$t->wait_for_old_workers;
is(server()->{state}, 'unused', 'the new worker has not asked yet');
carried_out(pay());
is(server()->{workers}{there}, 1, 'it has now');

$redis->pause;
$claim = $t->start_post(pay());
becomes('a command is pending', sub { redis()->{pending} }, 1);
$t->kill_worker;
is(redis()->{pending}, 0, 'that of a dead worker is not');
is(server()->{workers}{there}, 0, 'nor is its connection');
$redis->resume;

$t->allow(qr/signal 9/);
$t->log_like(qr/a reply is overdue/, 'what failed is in the log');

done_testing;
