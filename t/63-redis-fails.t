#!/usr/bin/perl

# Redis cannot be asked: it is gone, it hangs, the network swallows what is
# said, or it says no.  A client learns that at once, or nearly, and nothing
# runs that is not protected, unless the operator wants it so.  When Redis is
# back, all is as it was.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::FaultProxy;
use Test::Idempotency::Redis;

use Time::HiRes qw(time);

my $redis = Test::Idempotency::Redis->new;
my $net = Test::Idempotency::FaultProxy->new($redis->port);

my $conf = 'idempotency payments; '
           . 'add_header X-Told $idempotency_status always;';

my $locations = <<'END';
    location /local/ { proxy_pass http://backend; idempotency_on_error local; }
    location /pass/  { proxy_pass http://backend; idempotency_on_error pass; }
    location /wait/  { proxy_pass http://backend; idempotency_concurrent wait=20s; }
END

my ($a, $b) = map {
    Test::Idempotency->new($conf, locations => $locations, workers => 1,
        zone => 'zone=payments:1m redis=main', http => <<"END")
    idempotency_redis main {
        server           127.0.0.1:$_;
        connect_timeout  300ms;
        timeout          300ms;
    }
END
} $net->port, $redis->port;

my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }


sub carried_out {
    my ($request, $status, $body, $name) = @_;

    my $client = $a->start_post(%$request);
    $a->backend->wait_for_request;
    $a->backend->answer($status, $body);

    return is_answer($client, $status, $body, $name);
}


# A new key is protected again.

sub recovers {
    my ($how) = @_;

    my $client;
    my $asked = $a->backend->requests;

    wait_for("$how: it works again", sub {
        $client = $a->start_post(pay());
        wait_for('', sub { $client->answered
                           || $a->backend->requests > $asked });
        return $a->backend->requests > $asked;
    });
    $a->backend->answer(200, 'again');

    return is_answer($client, 200, 'again', "$how: then it works again");
}


# What a client gets while Redis does so.

my @faults = (
#     how          begin                              end
    [ 'refuses',   sub { $net->accept('refuse'); $net->reset },
                                                      sub { $net->pass } ],
    [ 'resets',    sub { $net->accept('reset'); $net->reset },
                                                      sub { $net->pass } ],
    [ 'hangs',     sub { $redis->pause },             sub { $redis->resume } ],
    [ 'vanishes',  sub { $net->drop(up => 1, down => 1) },
                                                      sub { $net->pass;
                                                            $net->reset } ],
    [ 'is silent', sub { $net->accept('hold'); $net->reset },
                                                      sub { $net->pass;
                                                            $net->reset } ],
    [ 'is dead',   sub { $redis->kill },              sub { $redis->start } ],
    [ 'has a new password',
                   sub { $redis->command(qw(CONFIG SET requirepass new));
                         $net->reset },
                   sub { my $c = $redis->client;
                         $c->command(qw(AUTH new));
                         $c->command('CONFIG', 'SET', 'requirepass', '') } ],
    [ 'has no memory', sub { $redis->command(qw(CONFIG SET maxmemory 1)) },
                   sub { $redis->command(qw(CONFIG SET maxmemory 0)) } ],
);

my %old = pay();
carried_out(\%old, 201, 'receipt', 'a record of before');
recovers('at first');

for (@faults) {
    my ($how, $begin, $end) = @$_;
    my $asked = $a->backend->requests;

    $begin->();

    my $began = time;
    my %request = pay();
    is_problem($a->post(%request), 503, 'store-unavailable',
               "Redis $how: a new key is refused");
    cmp_ok(time - $began, '<', 5, "Redis $how: in time");
    is($a->backend->requests, $asked, "Redis $how: nothing runs");
    is_replay($a->post(%old), 201, 'receipt',
              "Redis $how: what the zone has is replayed");

    carried_out({ pay(path => '/pass/') }, 200, 'unprotected',
                "Redis $how: pass");

    %request = pay(path => '/local/');
    carried_out(\%request, 200, 'by the zone', "Redis $how: local");
    is_replay($a->post(%request), 200, 'by the zone',
              "Redis $how: local, and its duplicate");

    $end->();
    recovers("Redis $how");
}

# It goes away while a request runs: the client gets its answer, this node
# knows it, and the other one as soon as Redis does.

for ([ 'refuses', 0 ], [ 'vanishes', 2 ], [ 'hangs', 3 ]) {
    my ($how, $i) = @$_;
    my (undef, $begin, $end) = @{ $faults[$i == 2 ? 3 : $i == 3 ? 2 : 0] };
    my %request = pay();

    my $client = $a->start_post(%request);
    $a->backend->wait_for_request;
    $begin->();
    $a->backend->answer(201, 'told later');
    is_answer($client, 201, 'told later',
              "Redis $how meanwhile: the client has its answer");
    is_replay($a->post(%request), 201, 'told later',
              "Redis $how meanwhile: this node replays it");
    $end->();
    wait_for('it lands', sub {
        $b->post(%request)->status == 201 });
    is_replay($b->post(%request), 201, 'told later',
              "Redis $how meanwhile: the other node replays it then");
}

# A claim whose answer is lost is given back.

my %request = pay();
$net->cut(down => 1);
my $m = $a->post(%request);
wait_for('the key is free', sub {
    my $client = $b->start_post(%request);
    wait_for('', sub { $client->answered || $b->backend->requests });
    return $b->backend->requests;
});
$b->backend->answer(200, 'free');
pass('a claim whose answer was lost is given back');
recovers('a lost answer');

# What is no record is never replayed.

%request = pay();
carried_out(\%request, 200, 'whole', 'a record');
my ($key) = grep { $redis->command('GET', $_) =~ /whole/ }
    @{ $redis->command('KEYS', 'idem:*') };
my $value = $redis->command('GET', $key);

for (
    [ 'damaged', substr($value, 0, -1) . 'X' ],
    [ 'cut', substr $value, 0, -2 ],
    [ 'foreign', 'hello' ])
{
    my ($what, $bytes) = @$_;
    $redis->command('SET', $key, $bytes, 'PX', 100000);
    is($b->post(%request)->status, 500, "a record that is $what is an error");
}

$redis->command('SET', $key, $value, 'PX', 100000);
is_replay($b->post(%request), 200, 'whole', 'one that is not is replayed');

# Redis starts again, empty: what the zone has is still there.

%request = pay();
carried_out(\%request, 200, 'kept', 'a record');
$redis->restart;
is_replay($a->post(%request), 200, 'kept', 'this node replays it still');
recovers('an empty Redis');

$_->log_like(qr/idempotency/, 'it was logged') for $a;
$_->allow(qr/damaged or foreign/) for $a, $b;

done_testing;
