#!/usr/bin/perl

# What comes late is not carried out: a number that is not above the last one
# that succeeded, a move that the state machine does not list.  Number and state
# move only when the upstream has said 2xx; of two at once one is told.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new('idempotency payments;', workers => 2,
    backends => [ 'known', 'none' ],
    http => <<'HTTP', locations => <<'END');
    idempotency_states order {
        new      created;
        created  paid cancelled;
        paid     shipped refunded;
    }
HTTP
    add_header X-Told $idempotency_status always;
    location /seq/  { proxy_pass http://backend;
                      idempotency_sequence $arg_entity $arg_n; }
    location /ack/  { proxy_pass http://backend;
                      idempotency_sequence $arg_entity $arg_n
                                           late=acknowledge; }
    location /both/ { proxy_pass http://backend;
                      idempotency_serialize $arg_entity wait=20s;
                      idempotency_sequence $arg_entity $arg_n; }
    location /state/ { proxy_pass http://backend;
                      idempotency_state order $arg_order $arg_to; }
    location /late/ { proxy_pass http://backend;
                      idempotency_state order $arg_order $arg_to
                                        late=acknowledge; }
    location /check/ { proxy_pass http://backend;
                      idempotency_unknown check=/known;
                      idempotency_state order $arg_order $arg_to; }
    location /short/ { proxy_pass http://backend;
                      idempotency_unknown refuse 1s;
                      idempotency_state order $arg_order $arg_to; }
    location /again/ { proxy_pass http://$http_x_to;
                      idempotency_unknown retry;
                      idempotency_serialize $arg_order;
                      idempotency_state order $arg_order $arg_to; }
    location /turn/ { proxy_pass http://backend;
                      idempotency_serialize $arg_order; }
    location = /known { internal; proxy_pass http://known; }
END

my $n = 0;


sub message { return (path => $_[0], key => 'm' . ++$n, body => 'x') }


# Is carried out, and answered so.

sub carried_out {
    my ($path, $status, $name, @more) = @_;

    my $client = $t->start_post(message($path), @more);
    $t->backend->wait_for_request;
    $t->backend->answer($status, 'ran');

    return is_answer($client, $status, 'ran', $name);
}


sub late {
    my ($path, $name, @more) = @_;

    my $ran = $t->backend->requests;
    is_problem($t->post(message($path), @more), 409, 'out-of-order', $name);

    return is($t->backend->requests, $ran, "$name: is not carried out");
}


sub acknowledged {
    my ($path, $name) = @_;

    my $ran = $t->backend->requests;
    my $m = $t->post(message($path));

    is($m->status, 204, $name);
    is($m->body, '', "$name: with nothing");
    is($m->header('X-Told'), 'acknowledged', "$name: which is said");

    return is($t->backend->requests, $ran, "$name: is not carried out");
}


# Numbers.

carried_out('/seq/?entity=a&n=5', 200, 'the first number');
late('/seq/?entity=a&n=5', 'the same number');
late('/seq/?entity=a&n=4', 'a lower number');
late('/seq/?entity=a&n=0005', 'the same with zeros');
carried_out('/seq/?entity=a&n=6', 200, 'the next number');
carried_out('/seq/?entity=a&n=10', 201, 'a greater number, with a gap');
late('/seq/?entity=a&n=9', 'a shorter number');
carried_out('/seq/?entity=b&n=1', 200, 'another entity');
carried_out('/seq/?entity=a&n=340282366920938463463374607431768211455', 200,
            'a number of 128 bits');
late('/seq/?entity=a&n=11', 'after that');

for my $bad ('', 'x', '-1', '1.5', '1' x 40) {
    is_problem($t->post(message("/seq/?entity=a&n=$bad")), 400, 'key-invalid',
               "\"$bad\" is no number");
}

carried_out('/seq/?n=1', 200, 'without an entity there is no order');
carried_out('/seq/?n=1', 200, 'and there is none still');

# It moves with success only.

carried_out('/seq/?entity=c&n=1', 200, 'a number');
carried_out('/seq/?entity=c&n=5', 500, 'one that fails');
carried_out('/seq/?entity=c&n=5', 503, 'one that is refused');
carried_out('/seq/?entity=c&n=2', 200, 'one below those');

my %request = message('/seq/?entity=c&n=9');
my $client = $t->start_post(%request);
$t->backend->wait_for_request;
$t->backend->close;
is($client->response->status, 502, 'one of which nobody knows');
is_problem($t->post(%request), 409, 'outcome-unknown', 'its duplicate');
carried_out('/seq/?entity=c&n=3', 200, 'it has not moved the number');

# Two at once.

$client = $t->start_post(message('/seq/?entity=d&n=1'));
$t->backend->wait_for_request;
is_problem($t->post(message('/seq/?entity=d&n=2')), 409, 'resource-busy',
           'while another one is being carried out');
$t->backend->answer(200, 'one');
is_answer($client, 200, 'one', 'that one');

# A duplicate is a replay, late or not.

%request = message('/seq/?entity=e&n=1');
$client = $t->start_post(%request);
$t->backend->wait_for_request;
$t->backend->answer(200, 'one');
is_answer($client, 200, 'one', 'a first request');
carried_out('/seq/?entity=e&n=2', 200, 'the next one');
is_replay($t->post(%request), 200, 'one', 'a duplicate of the one before');

# Late ones may be acknowledged.

carried_out('/ack/?entity=f&n=5', 200, 'a number');
acknowledged('/ack/?entity=f&n=5', 'the same again');
acknowledged('/ack/?entity=f&n=1', 'one below');
carried_out('/ack/?entity=f&n=6', 200, 'the next one');

# States.

late('/state/?order=1&to=paid', 'a state that does not follow the first one');
late('/state/?order=1&to=nowhere', 'a state that there is not');
carried_out('/state/?order=1&to=created', 200, 'new to created');
acknowledged('/state/?order=1&to=created', 'where it is already');
late('/state/?order=1&to=shipped', 'too early');
carried_out('/state/?order=1&to=paid', 200, 'created to paid');
late('/state/?order=1&to=cancelled', 'too late');
carried_out('/state/?order=1&to=refunded', 500, 'a move that fails');
carried_out('/state/?order=1&to=shipped', 200, 'paid to shipped');
late('/state/?order=1&to=refunded', 'from where nothing leads');
acknowledged('/late/?order=1&to=refunded', 'the same, acknowledged');
late('/state/?order=2&to=paid', 'another order is at its beginning');

# Two moves from one state.

carried_out('/state/?order=3&to=created', 200, 'an order');
$client = $t->start_post(message('/state/?order=3&to=paid'));
$t->backend->wait_for_request;
is_problem($t->post(message('/state/?order=3&to=cancelled')), 409,
           'resource-busy', 'the other move is told');
$t->backend->answer(200, 'paid');
is_answer($client, 200, 'paid', 'one of them wins');
late('/state/?order=3&to=cancelled', 'the other one afterwards');

# A move of which nobody knows: nothing moves until that is known.

carried_out('/check/?order=4&to=created', 200, 'an order');
%request = message('/check/?order=4&to=paid');
$client = $t->start_post(%request);
$t->backend->wait_for_request;
$t->backend->close;
is($client->response->status, 502, 'a move of which nobody knows');
is($t->post(message('/check/?order=4&to=cancelled'))->status, 409,
   'then nothing moves');
$client = $t->start_post(%request);
$t->backend('known')->wait_for_request;
$t->backend('known')->answer(200, 'it was paid');
is_replay($client, 200, 'it was paid', 'its duplicate finds out');
late('/check/?order=4&to=cancelled', 'so it was paid');
carried_out('/check/?order=4&to=shipped', 200, 'and is shipped');

# Or until its time is over, also if the request had no key to be found by.

for my $key (1, undef) {
    my $order = $key ? 6 : 7;
    my $with = $key ? 'with a key' : 'without a key';

    carried_out("/short/?order=$order&to=created", 200, 'an order');
    %request = message("/short/?order=$order&to=paid");
    delete $request{key} if !$key;
    $client = $t->start_post(%request);
    $t->backend->wait_for_request;
    $t->backend->close;
    is($client->response->status, 502, "$with: a move of which nobody knows");
    is_problem($t->post(message("/short/?order=$order&to=cancelled")), 409,
               'outcome-unknown', "$with: then nothing moves");
    $client = wait_for('its time is over', sub {
        my $client = $t->start_post(
            message("/short/?order=$order&to=cancelled"));
        wait_for('it is told, or carried out', sub {
            $client->answered || $t->backend->held });
        return !$client->answered && $client;
    });
    $t->backend->answer(200, 'ran');
    is_answer($client, 200, 'ran', "$with: until its time is over");
}

# The upstream says that it did not happen, or that it does not know.

for ([ release => 8 ], [ unknown => 9 ]) {
    my ($word, $order) = @$_;

    carried_out("/state/?order=$order&to=created", 200, 'an order');
    $client = $t->start_post(message("/state/?order=$order&to=paid"));
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'so', headers =>
                        [ [ 'X-Accel-Idempotency', $word ] ]);
    is_answer($client, 200, 'so', "the upstream says: $word");
    is_problem($t->post(message("/state/?order=$order&to=cancelled")), 409,
               'outcome-unknown', 'then nothing moves') if $word eq 'unknown';
    carried_out("/state/?order=$order&to=cancelled", 200,
                'then nothing has moved') if $word eq 'release';
}

# A move of which nobody knows is run again, and that comes to nothing, as
# somebody else has the turn, no upstream is there, or the one there says that it
# did not carry it out: still nobody knows what became of it the first time.

my @to = (headers => [ [ 'X-To', 'backend' ] ]);
my @nowhere = (headers => [ [ 'X-To', '127.0.0.1:' . $t->backend('none')->port ] ]);

$t->backend('none')->stop;

for my $how ('no turn', 'no upstream', 'refused') {
    my $path = '/again/?order=' . $how =~ tr/ /-/r . '&to=';

    carried_out("${path}created", 200, 'an order', @to);
    %request = message("${path}paid");
    $client = $t->start_post(%request, @to);
    $t->backend->wait_for_request;
    $t->backend->close;
    is($client->response->status, 502, "$how: a move of which nobody knows");

    if ($how eq 'no turn') {
        $client = $t->start_post(message($path =~ s/again/turn/r));
        $t->backend->wait_for_request;
        is_problem($t->post(%request, @to), 409, 'resource-busy',
                   "$how: it cannot be run again");
        $t->backend->answer(200, 'the turn');
        is_answer($client, 200, 'the turn', "$how: whose turn it was");

    } elsif ($how eq 'no upstream') {
        is($t->post(%request, @nowhere)->status, 502, "$how: it was not run");

    } else {
        $client = $t->start_post(%request, @to);
        $t->backend->wait_for_request;
        $t->backend->answer(503, 'no');
        is_answer($client, 503, 'no', "$how: it was not carried out");
    }

    is_problem($t->post(message("${path}cancelled"), @to), 409,
               'outcome-unknown', "$how: nothing moves");

    $client = $t->start_post(%request, @to);
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'paid');
    is_answer($client, 200, 'paid', "$how: at last it is run");
    late("${path}cancelled", "$how: so it was paid", @to);
}

# Who has waited for its turn has it with the other guard as well: the one before
# has left that by then, in whatever worker.

$t->backend->on('/both/' => 200, 'done');

my @turns = map {
    my $entity = "turns-$_";
    map { $t->start_post(message("/both/?entity=$entity&n=$_")) } 1 .. 20
} 1 .. 10;

is(scalar(grep { $_->response->body =~ /resource is busy/i } @turns), 0,
   'nobody has waited in vain');

# The worker dies with a move.

carried_out('/state/?order=5&to=created', 200, 'an order');
$client = $t->start_post(message('/state/?order=5&to=paid'));
$t->backend->wait_for_request;
my $gone = $t->backend->gone;
$t->kill_worker($_) for $t->workers;
wait_for('it is gone', sub { $t->backend->gone > $gone });
is_problem($t->post(message('/state/?order=5&to=cancelled')), 409,
           'outcome-unknown', 'a dead worker leaves a move in doubt');

$t->allow(qr/signal 9/);

done_testing;
