#!/usr/bin/perl

# Two nodes, one Redis: a state, a number or a version that one of them has
# moved has moved for the other one as well, with a success and with nothing
# else; of two moves at once one is told, and what nobody knows stays so until
# somebody is asked.  Who waits for a resource has one place, whatever becomes
# of its node's workers.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

my $redis = Test::Idempotency::Redis->new;

my $conf = <<'END';
    idempotency          payments;
    idempotency_methods  POST PUT;
    add_header           X-Told $idempotency_status always;
END

my $locations = <<'END';
    location /state/  { proxy_pass http://shop;
                        idempotency_state order $arg_order $arg_to; }
    location /check/  { proxy_pass http://shop; idempotency_unknown check=/known;
                        idempotency_state order $arg_order $arg_to; }
    location /brief/  { proxy_pass http://shop; idempotency_lease 600ms;
                        idempotency_unknown check=/known;
                        idempotency_state order $arg_order $arg_to; }
    location /short/  { proxy_pass http://shop; idempotency_unknown refuse 1s;
                        idempotency_state order $arg_order $arg_to; }
    location /seq/    { proxy_pass http://shop;
                        idempotency_sequence $arg_entity $arg_n; }
    location /page/   { proxy_pass http://shop; idempotency_version $uri; }
    location /queue/  { proxy_pass http://shop; idempotency_concurrent wait=20s;
                        idempotency_serialize $arg_of wait=20s; }
    location = /known { internal; proxy_pass http://shop/known; }
END

my $states = <<'END';
    idempotency_states order {
        new      created;
        created  paid cancelled;
        paid     shipped;
    }
END

my %o = (locations => $locations, zone => 'zone=payments:1m redis=main',
         http => "$states idempotency_redis main { server "
                 . $redis->address . '; timeout 5s; }');

my $a = Test::Idempotency->new($conf, %o, backends => [ 'shop' ]);
my $shop = $a->backend('shop');

$o{http} .= 'upstream shop { server 127.0.0.1:' . $shop->port
    . ' max_fails=0; }';

my $b = Test::Idempotency->new($conf, %o);

my $n = 0;


sub request { return (path => $_[0], key => 'k' . ++$n, body => 'x') }


# Is carried out, and answered so.

sub carried_out {
    my ($t, $request, $status, $name, @headers) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $client = $t->start_post(ref $request ? %$request : request($request));
    $shop->wait_for_request;
    $shop->answer($status, 'ran', headers => \@headers);

    return is_answer($client, $status, 'ran', $name);
}


# Is not, and is told why.

sub refused {
    my ($t, $path, $kind, $name, %more) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $ran = $shop->requests;
    my $status = $kind eq 'stale-version' ? 412 : 409;

    return is_problem($t->post(request($path), %more), $status, $kind, $name)
        && is($shop->requests, $ran, "$name: nobody is asked");
}


# Begins, and is with the upstream, which then breaks off.

sub breaks_off {
    my ($t, %request) = @_;

    my $client = $t->start_post(%request);
    $shop->wait_for_request;
    $shop->close;

    return is($client->response->status, 502, 'nobody knows');
}


# So many wait on Redis for something that is held.

sub queue_is {
    my ($length) = @_;

    return wait_for("$length wait", sub {
        grep { join('', unpack 'x2 a1 x68 x4 n', $_) eq "r$length" }
            grep { defined && /^G1/ } map { $redis->command('GET', $_) }
            @{ $redis->command('KEYS', '*') };
    });
}


# States.

refused($b, '/state/?order=1&to=paid', 'out-of-order', 'too early');
carried_out($a, '/state/?order=1&to=created', 201, 'new to created, on A');
carried_out($b, '/state/?order=1&to=paid', 200, 'created to paid, on B');
refused($a, '/state/?order=1&to=cancelled', 'out-of-order', 'too late, on A');
is($a->post(request('/state/?order=1&to=paid'))->header('X-Told'),
   'acknowledged', 'where it is already, on A');
carried_out($a, '/state/?order=1&to=shipped', $_, "$_ moves nothing")
    for 500, 422, 503;
carried_out($b, '/state/?order=1&to=shipped', 200, 'paid to shipped, on B');

# Two moves from one state.

carried_out($a, '/state/?order=2&to=created', 200, 'another order');
my %paid = request('/state/?order=2&to=paid');
my $client = $a->start_post(%paid);
$shop->wait_for_request;
refused($_, '/state/?order=2&to=cancelled', 'resource-busy',
        'the other move is told') for $a, $b;
$shop->answer(200, 'paid');
is_answer($client, 200, 'paid', 'one wins');
refused($b, '/state/?order=2&to=cancelled', 'out-of-order', 'the other lost');
is_replay($b->post(%paid), 200, 'paid', 'the record says the same');

# A move of which nobody knows.

for my $found (200, 404, 500) {
    my $order = "c$found";

    carried_out($a, "/check/?order=$order&to=created", 200, 'an order');
    my %move = request("/check/?order=$order&to=paid");
    breaks_off($a, %move);
    refused($_, "/check/?order=$order&to=cancelled", 'not-known-yet',
            'then nothing moves') for $a, $b;

    $client = $b->start_post(%move);
    $shop->wait_for_request;
    is($shop->last->uri, '/known', 'a duplicate on B asks');
    $shop->answer($found, 'found');

    if ($found == 404) {
        $shop->wait_for_request;
        is($shop->last->uri, $move{path}, 'it was not: it runs');
        $shop->answer(200, 'found');
        is_answer($client, 200, 'found', 'it runs on B');

    } elsif ($found == 200) {
        is_replay($client, 200, 'found', 'it was');

    } else {
        is_problem($client, 409, 'not-known-yet', 'nobody can tell');
        refused($_, "/check/?order=$order&to=cancelled", 'not-known-yet',
                'and nothing moves still') for $a, $b;
        next;
    }

    refused($_, "/check/?order=$order&to=cancelled", 'out-of-order',
            "so it is paid: $found") for $a, $b;
}

# Or its time is over, also if the request had no key to be found by.

for my $key (1, undef) {
    my $with = $key ? 'with a key' : 'without a key';
    my $order = $key ? 'k' : 'n';

    carried_out($a, "/short/?order=$order&to=created", 200, 'an order');
    my %move = request("/short/?order=$order&to=paid");
    delete $move{key} if !$key;
    breaks_off($a, %move);
    refused($_, "/short/?order=$order&to=cancelled", 'outcome-unknown',
            "$with: then nothing moves") for $a, $b;

    my $client = wait_for('its time is over', sub {
        my $client = $b->start_post(
            request("/short/?order=$order&to=cancelled"));
        wait_for('it is told, or carried out', sub {
            $client->answered || $shop->held });
        return !$client->answered && $client;
    });
    $shop->answer(200, 'ran');
    is_answer($client, 200, 'ran', "$with: until its time is over");
}

# The worker dies with a move: on Redis its lease has to end.

carried_out($a, '/brief/?order=d&to=created', 200, 'an order');
my %move = request('/brief/?order=d&to=paid');
$client = $a->start_post(%move);
$shop->wait_for_request;
my $gone = $shop->gone;
$a->kill_worker($_) for $a->workers;
wait_for('it is gone', sub { $shop->gone > $gone });
wait_for('the leases end', sub {
    $b->post(request('/brief/?order=d&to=cancelled'))->body
        =~ /outcome of the first request/ });
refused($_, '/brief/?order=d&to=cancelled', 'not-known-yet',
        'a dead worker leaves it in doubt') for $a, $b;
$client = $b->start_post(%move);
$shop->wait_for_request;
$shop->answer(200, 'it was paid');
is_replay($client, 200, 'it was paid', 'until somebody is asked');
refused($a, '/brief/?order=d&to=cancelled', 'out-of-order', 'so it was paid');

# Numbers.

carried_out($a, '/seq/?entity=a&n=5', 200, 'a number, on A');
refused($b, '/seq/?entity=a&n=5', 'out-of-order', 'is late on B');
carried_out($b, '/seq/?entity=a&n=9', $_, "$_ moves none") for 500, 503;
carried_out($a, '/seq/?entity=a&n=6', 200, 'the next one');
breaks_off($a, request('/seq/?entity=a&n=8'));
carried_out($b, '/seq/?entity=a&n=7', 200, 'what nobody knows has moved none');

$client = $a->start_post(request('/seq/?entity=b&n=2'));
$shop->wait_for_request;
refused($b, '/seq/?entity=b&n=3', 'resource-busy', 'two at once: one is told');
$shop->answer(200, 'two');
is_answer($client, 200, 'two', 'the other one wins');

# Versions.

sub put {
    my ($match) = @_;

    return { request('/page/1'), method => 'PUT',
             headers => [ [ 'If-Match', $match ] ] };
}


carried_out($a, put('"x"'), 200, 'a first version, on A', [ ETag => '"1"' ]);
refused($b, '/page/1', 'stale-version', 'another one, on B', %{ put('"x"') });
carried_out($b, put('"1"'), 500, 'a failure', [ ETag => '"2"' ]);
carried_out($b, put('"1"'), 200, 'the right one, on B', [ ETag => '"3"' ]);
refused($a, '/page/1', 'stale-version', 'the one before', %{ put('"1"') });

my %put = %{ put('"3"') };
$client = $a->start_post(%put);
$shop->wait_for_request;
refused($b, '/page/1', 'resource-busy', 'two with the right one',
        %{ put('"3"') });
$shop->answer(200, 'done', headers => [ [ ETag => '"4"' ] ]);
is_answer($client, 200, 'done', 'one wins');
refused($b, '/page/1', 'stale-version', 'the other lost', %{ put('"3"') });
is_replay($b->post(%put), 200, 'done', 'a duplicate is a replay');
breaks_off($a, %{ put('"4"') });
carried_out($b, put('"?"'), 200, 'then no version is known');

# A duplicate of one that waits in the queue waits with it, on both nodes.

my $first = $a->start_post(request('/queue/?of=x'));
$shop->wait_for_request;
my %second = request('/queue/?of=x');
my $second = $a->start_post(%second);
queue_is(1);
my @twins = map { $_->start_post(%second) } $a, $b;
$a->wait_until(waiting => 1);
wait_for('B asks', sub { $b->zone->{records}{running} == 1 });
queue_is(1);
my $ran = $shop->requests;
$shop->answer(200, 'first');
is_answer($first, 200, 'first', 'the one before');
$shop->wait_for_request;
$shop->answer(200, 'second');
is_answer($second, 200, 'second', 'the one in the queue');
is_replay($_, 200, 'second', 'its duplicate') for @twins;
is($shop->requests, $ran + 1, 'none has stood in the queue twice');

# The holder's client leaves: the next one waits until its request has ended.

$first = $a->start_post(request('/queue/?of=z'));
$shop->wait_for_request;
$second = $b->start_post(request('/queue/?of=z'));
queue_is(1);
$first->reset;
$a->zone;
is(scalar($shop->held), 1, 'the request of one who left goes on');
$shop->answer(200, 'nobody hears it');
$shop->wait_for_request;
$shop->answer(200, 'next');
is_answer($second, 200, 'next', 'then comes the next one');

# A reload: who waits in an old worker keeps its place.

my %client = (first => $a->start_post(request('/queue/?of=y')));
$shop->wait_for_request;
$client{old} = $a->start_post(request('/queue/?of=y'));
queue_is(1);
$a->reload;
$client{new} = $a->start_post(request('/queue/?of=y'));
queue_is(2);
$client{other} = $b->start_post(request('/queue/?of=y'));
queue_is(3);

for (qw(first old new other)) {
    $shop->wait_for_request;
    $shop->answer(200, $_);
    is_answer($client{$_}, 200, $_, "reload: $_");
}

$a->wait_for_old_workers;

done_testing;
