#!/usr/bin/perl

# A client that sends something else with a key of another's is refused, and
# that alone: the right request is not taken for the wrong one since that came
# just before, and was still asking Redis, or died as it did.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

my $redis = Test::Idempotency::Redis->new;

my ($a, $b) = map {
    Test::Idempotency->new('idempotency payments;', workers => 1,
        zone => 'zone=payments:1m redis=main', http => <<"END")
    idempotency_redis main {
        server           127.0.0.1:@{[ $redis->port ]};
        connect_timeout  20s;
        timeout          20s;
    }
END
} 1, 2;


sub done {
    my (%request) = @_;

    my $first = $a->start_post(%request);

    $a->backend->wait_for_request;
    $a->backend->answer(201, 'receipt');

    return is_answer($first, 201, 'receipt', 'a first request on A');
}


# A wrong one asks Redis, which takes its time.

sub wrong_one {
    my (%request) = @_;

    $redis->pause;

    my $wrong = $b->start_post(%request, body => 'eur=1000');
    $b->wait_until(running => 1);

    return $wrong;
}


my %request = (key => 'k1', body => 'eur=1');
done(%request);
my $wrong = wrong_one(%request);
my $right = $b->start_post(%request);
$b->zone;
is($right->answered, 0, 'the right one is not answered before Redis is asked');
$redis->resume;
is_problem($wrong, 422, 'key-reused', 'the wrong one is refused');
is_replay($right, 201, 'receipt', 'the right one is replayed');

%request = (key => 'k2', body => 'eur=1');
done(%request);
$wrong = wrong_one(%request);
$b->kill_worker($b->workers);
$redis->resume;
is_replay($b->post(%request), 201, 'receipt',
          'the right one is replayed, though the wrong one has died');
is_problem($b->post(%request, body => 'eur=1000'), 422, 'key-reused',
           'and the wrong one is refused');

# Nobody has had it: who comes first is right.

%request = (key => 'k3', body => 'eur=1');
$wrong = wrong_one(%request);
$b->kill_worker($b->workers);
$redis->resume;
is_problem($_->post(%request), 422, 'key-reused',
           'what was claimed before it died counts') for $b, $a;

done_testing;
