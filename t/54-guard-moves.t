#!/usr/bin/perl

# A move and its record are one: a worker that dies when the record is written,
# and the state or the number is not yet, leaves it to the next one to find out
# that the move was made.  On a zone, and on Redis.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

my $states = <<'END';
    idempotency_states order {
        new      created;
        created  paid cancelled;
    }
END

my $locations = <<'END';
    location /state/ { proxy_pass http://backend;
                       idempotency_state order $arg_of $arg_to; }
    location /seq/   { proxy_pass http://backend;
                       idempotency_sequence $arg_of $arg_to; }
END

my ($t, $n, $of) = (undef, 0, 0);


sub request {
    my ($path, $to) = @_;

    return (path => "/$path/?of=$of&to=$to", key => 'k' . ++$n, body => 'x');
}


sub carried_out {
    my ($name, $status, @request) = @_;

    my $client = $t->start_post(request(@request));
    $t->backend->wait_for_request;
    $t->backend->answer($status, 'ran');

    return is_answer($client, $status, 'ran', $name);
}


# Is with the upstream, which answers; then the worker dies.

sub dies {
    my ($status, @request) = @_;

    my %request = request(@request);
    my $client = $t->start_post(%request);

    $t->backend->wait_for_request;
    $t->arm('settled');
    $t->backend->answer($status, 'ran');
    $t->wait_for_death;

    return %request;
}


# On Redis the dead one has the guard until its lease has ended.

sub refused {
    my ($name, @request) = @_;

    my $m = wait_for('it is not busy', sub {
        my $m = $t->post(request(@request));
        return $m->body !~ /resource is busy/ && $m;
    });

    return is_problem($m, 409, 'out-of-order', $name);
}


my $redis = Test::Idempotency::Redis->new;

for my $store ('zone', 'redis') {
    my $main = $store eq 'zone' ? '' : 'idempotency_redis main { server '
        . $redis->address . '; timeout 5s; }';

    $t = Test::Idempotency->new(<<'END', points => 1,
        idempotency          payments;
        idempotency_lease    900ms;
END
        http => "$states $main", locations => $locations,
        zone => 'zone=payments:1m' . ($main ? ' redis=main' : ''));

    $of++;
    carried_out("$store: an order", 200, 'state', 'created');
    my %move = dies(200, 'state', 'paid');
    is_replay($t->post(%move), 200, 'ran', "$store: its record is there");
    refused("$store: and the state has moved", 'state', 'cancelled');

    $of++;
    carried_out("$store: another order", 200, 'state', 'created');
    %move = dies(500, 'state', 'paid');
    is_replay($t->post(%move), 500, 'ran', "$store: a failure is there");
    wait_for('its lease ends', sub {
        my $client = $t->start_post(request('state', 'cancelled'));
        wait_for('it is told, or carried out', sub {
            $client->answered || $t->backend->held });
        return !$client->answered;
    });
    $t->backend->answer(200, 'ran');
    refused("$store: and had not moved the state", 'state', 'paid');

    $of++;
    carried_out("$store: a number", 200, 'seq', 5);
    dies(200, 'seq', 9);
    refused("$store: the number has moved", 'seq', 9);
    carried_out("$store: so far", 200, 'seq', 10);

    $t->finish;
}

done_testing;
