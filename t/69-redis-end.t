#!/usr/bin/perl

# A key may be used anew when the time of its record is over, on all nodes at
# the same time: none replays the old answer any longer, however late it had
# heard of it, or that Redis had taken it.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::FaultProxy;
use Test::Idempotency::Redis;

my $redis = Test::Idempotency::Redis->new;
my $net = Test::Idempotency::FaultProxy->new($redis->port);

my ($near, $far) = map {
    Test::Idempotency->new('idempotency payments; idempotency_valid 2s;',
        zone => 'zone=payments:1m redis=main', workers => 1, http => <<"END")
    idempotency_redis main {
        server           127.0.0.1:$_;
        connect_timeout  10s;
        timeout          10s;
    }
END
} $redis->port, $net->port;


sub done {
    my ($t, $body, %request) = @_;

    my $first = $t->start_post(%request);

    $t->backend->wait_for_request;
    $t->backend->answer(200, $body);

    return is_answer($first, 200, $body, "\"$body\" is carried out");
}


sub forgotten {
    return wait_for('its time is over', sub {
        !@{ $redis->command('KEYS', 'idem:*') } });
}


done($far, 'to begin with', key => 'k0');
forgotten();

# It hears late of a record of the other one's.

my %request = (key => 'k1');
done($near, 'one', %request);
$net->delay(down => 1);
is_replay($far->post(%request), 200, 'one', 'the other node learns of it');
$net->pass;
forgotten();
done($near, 'another one', %request);
is_replay($far->post(%request), 200, 'another one',
          'and has forgotten it as soon as Redis has');

# It hears late that its own was taken.

forgotten();
%request = (key => 'k2');
my $first = $far->start_post(%request);
$far->backend->wait_for_request;
$net->delay(down => 1);
$far->backend->answer(200, 'two');
is_answer($first, 200, 'two', '"two" is carried out');
$net->pass;
forgotten();
done($near, 'another two', %request);
is_replay($far->post(%request), 200, 'another two',
          'what it has itself recorded, too');

done_testing;
