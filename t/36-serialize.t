#!/usr/bin/perl

# Requests that change one resource go to the upstream one at a time, in the
# order in which they came, whatever their keys; who has waited too long, or
# finds too many in front, is told that the resource is busy.

use lib 't/lib';
use Test::Idempotency;

use Time::HiRes qw(time);

my $t = Test::Idempotency->new('idempotency payments; ', workers => 2,
    locations => <<'END');
    add_header X-Told $idempotency_status always;
    add_header X-Waited $idempotency_wait_time always;
    location /one/   { proxy_pass http://backend;
                       idempotency_serialize $arg_account; }
    location /queue/ { proxy_pass http://backend;
                       idempotency_serialize $arg_account wait=10s;
                       idempotency_concurrent wait=10s; }
    location /brief/ { proxy_pass http://backend;
                       idempotency_serialize $arg_account wait=300ms; }
    location /two/   { proxy_pass http://backend;
                       idempotency_serialize $arg_account wait=10s queue=2; }
    location /lease/ { proxy_pass http://backend; idempotency_lease 300ms;
                       idempotency_max_response 3k;
                       idempotency_serialize $arg_account wait=10s; }
END

my $n = 0;


sub change { return (path => $_[0], key => 'k' . ++$n, body => 'eur=1') }


sub start { return $t->start_post(change(@_)) }


# Begins, and is inside the backend.

sub begin {
    my $client = start(@_);

    $t->backend->wait_for_request;

    return $client;
}


# Another one is in front.

my $first = begin('/one/?account=a');
is_problem($t->post(change('/one/?account=a')), 409, 'resource-busy',
           'another request for the resource');

my $other = start('/one/?account=b');
$t->backend->wait_for_request(2);
$t->backend->answer(200, 'a');
$t->backend->answer(200, 'b');
is_answer($first, 200, 'a', 'the first one ends');
is_answer($other, 200, 'b', 'one for another resource did not wait');

$first = begin('/one/?account=a');
$t->backend->answer(200, 'again');
is_answer($first, 200, 'again', 'then it is free');

my $free = start('/one/');
$t->backend->wait_for_request;
my $free2 = start('/one/');
$t->backend->wait_for_request(2);
$t->backend->answer(200, 'free') for 1, 2;
is($_->response->status, 200, 'no resource, no order') for $free, $free2;

# In order of arrival.

$first = begin('/queue/?account=a');
my @queue;

for my $i (1 .. 5) {
    push @queue, start('/queue/?account=a');
    $t->wait_until(waiting => $i);
}

$t->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the first one of a queue');

for my $i (0 .. 4) {
    $t->backend->wait_for_request;
    is(scalar(grep { $_->answered } @queue), $i, "one after the other: $i");
    $t->backend->answer(200, "turn $i");
    is_answer($queue[$i], 200, "turn $i", 'in order of arrival');
}

# A duplicate of one that waits in the queue waits with it.

$first = begin('/queue/?account=a');
my %second = change('/queue/?account=a');
my $second = $t->start_post(%second);
$t->wait_until(waiting => 1);
my $twin = $t->start_post(%second);
$t->wait_until(waiting => 2);
my $requests = $t->backend->requests;
$t->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the one before');
$t->backend->wait_for_request;
$t->backend->answer(200, 'second');
is_answer($second, 200, 'second', 'the one in the queue');
like($second->response->header('X-Waited'), qr/^\d+\.\d{3}$/, 'has waited');
is($first->response->header('X-Waited'), undef, 'the one before has not');
is_replay($twin, 200, 'second', 'its duplicate');
is($t->backend->requests, $requests + 1, 'did not queue twice');

# Patience ends; the queue is full.

$first = begin('/brief/?account=a');
my $began = time;
is_problem($t->post(change('/brief/?account=a')), 409, 'resource-busy',
           'patience ends');
cmp_ok(time - $began, '>=', 0.29, 'not before its time');
$t->backend->answer(200, 'done');
is_answer($first, 200, 'done', 'the first one did not feel it');

$first = begin('/two/?account=a');
@queue = map { start('/two/?account=a') } 1, 2;
$t->wait_until(waiting => 2);
is_problem($t->post(change('/two/?account=a')), 409, 'resource-busy',
           'a queue that is full');
$t->backend->answer(200, 'first');
$first->response;

for (@queue) {
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'next');
}

is($_->response->status, 200, 'those in it have their turns') for @queue;

# One in the queue leaves.

$first = begin('/queue/?account=a');
my $leaver = start('/queue/?account=a');
$t->wait_until(waiting => 1);
my $last = start('/queue/?account=a');
$t->wait_until(waiting => 2);
$leaver->reset;
$t->wait_until(waiting => 1);
$t->backend->answer(200, 'first');
is_answer($first, 200, 'first', 'the first one');
$t->backend->wait_for_request;
$t->backend->answer(200, 'last');
is_answer($last, 200, 'last', 'one behind a client that has left');

# The holder leaves: its request goes on, and nobody comes before its end.

$first = begin('/queue/?account=a');
$last = start('/queue/?account=a');
$t->wait_until(waiting => 1);
$first->reset;
$t->zone;
is(scalar($t->backend->held), 1, 'the request of one who left goes on');
$t->backend->answer(200, 'nobody hears it');
$t->backend->wait_for_request;
$t->backend->answer(200, 'last');
is_answer($last, 200, 'last', 'then comes the next one');

# An answer that is passed on as it comes is recorded with its first byte, but
# the upstream is at work until its last one: so long the lock is held.

my $head = "HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\n"
           . "Content-Length: 6\r\n\r\n";

for my $path ('/queue/', '/lease/') {
    $first = begin("$path?account=a");
    $last = start("$path?account=a");
    $t->wait_until(waiting => 1);
    $t->backend->send("${head}one");
    wait_for('a part is here', sub { $first->answered; $first->{in} =~ /one$/ });

    my $end = time + ($path eq '/lease/' ? 1 : 0);
    wait_for('a lease would be over', sub { time > $end });
    $t->zone;
    is(scalar($t->backend->held), 1, "$path: the stream goes on, alone");

    $t->backend->answer(0, '', raw => 'two');
    is_answer($first, 200, 'onetwo', "$path: it is through");
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'last');
    is_answer($last, 200, 'last', "$path: then comes the next one");
}

# And when it breaks off, or its client has left.

for my $how (qw(breaks leaves)) {
    $first = begin('/queue/?account=a');
    $last = start('/queue/?account=a');
    $t->wait_until(waiting => 1);
    $t->backend->send("${head}one");
    wait_for('a part is here', sub { $first->answered; $first->{in} =~ /one$/ });

    if ($how eq 'leaves') {
        $first->reset;
        $t->zone;
        is(scalar($t->backend->held), 1, "$how: the stream goes on, alone");
        $t->backend->answer(0, '', raw => 'two');

    } else {
        $t->backend->close;
    }

    $t->backend->wait_for_request;
    $t->backend->answer(200, 'last');
    is_answer($last, 200, 'last', "$how: then comes the next one");
}

# An upstream that fails frees it, too.

$first = begin('/queue/?account=a');
$last = start('/queue/?account=a');
$t->wait_until(waiting => 1);
$t->backend->close;
is($first->response->status, 502, 'an upstream that fails');
$t->backend->wait_for_request;
$t->backend->answer(200, 'last');
is_answer($last, 200, 'last', 'then comes the next one');

# An answer that is not kept passes: the upstream is at it until its end.

for my $how ('streamed', 'too large') {
    my %flows = change('/lease/?account=a');
    $first = $t->start_post(%flows);
    my $held = $t->backend->wait_for_request;
    $t->backend->send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        . ($how eq 'streamed' ? "X-Accel-Buffering: no\r\n\r\n5\r\nhello\r\n"
           : "\r\n1000\r\n" . 'x' x 4096 . "\r\n"), to => $held);
    wait_for('it passes', sub { $first->answered });
    is_problem($t->post(%flows), 409, 'response-not-stored',
               "an answer that is $how: it is recorded");
    $requests = $t->backend->requests;
    $last = start('/lease/?account=a');
    $t->wait_until(waiting => 1);
    my $over = time + 1;
    wait_for('the lease would be over', sub { time > $over });
    is($t->backend->requests, $requests, "$how: nobody comes before its end");
    $t->backend->answer(0, '', raw => "0\r\n\r\n", to => $held);
    is($first->response->status, 200, "$how: it ends");
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'last');
    is_answer($last, 200, 'last', "$how: then comes the next one");
}

# One whose client leaves meanwhile goes on as well.

$first = start('/lease/?account=a');
my $flows = $t->backend->wait_for_request;
$t->backend->send("HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\n\r\nhello",
                  to => $flows);
wait_for('it passes', sub { $first->answered });
$last = start('/lease/?account=a');
$t->wait_until(waiting => 1);
$requests = $t->backend->requests;
$first->reset;
$t->zone;
$t->backend->send('here', to => $flows);
$t->zone;
is($t->backend->requests, $requests, 'its client leaves: nobody comes yet');
$t->backend->close(to => $flows);
$t->backend->wait_for_request;
$t->backend->answer(200, 'last');
is_answer($last, 200, 'last', 'its client leaves: then comes the next one');

# A lease is renewed, also while waiting.

$first = begin('/lease/?account=a');
$last = start('/lease/?account=a');
$t->wait_until(waiting => 1);
my $end = time + 1;
wait_for('leases would be over', sub { time > $end });
is(scalar($t->backend->held), 1, 'the lock is held as long as the request runs');
$t->backend->answer(200, 'slow');
is_answer($first, 200, 'slow', 'a slow one');
$t->backend->wait_for_request;
$t->backend->answer(200, 'last');
is_answer($last, 200, 'last', 'the one behind it');

# A reload: who waits in the old worker has its turn; who comes to a new one
# comes after it.

$first = begin('/queue/?account=a');
my $old = start('/queue/?account=a');
$t->wait_until(waiting => 1);
$t->reload;
my $new = start('/queue/?account=a');
$t->wait_until(waiting => 2);

for (qw(first old new)) {
    $t->backend->answer(200, $_);
    is_answer({ first => $first, old => $old, new => $new }->{$_}, 200, $_,
              "reload: $_");
    $t->backend->wait_for_request if $_ ne 'new';
}

$t->wait_for_old_workers;

# The holder's worker dies: the next one has its turn.

$first = begin('/queue/?account=a');
my $gone = $t->backend->gone;
$t->kill_worker($_) for $t->workers;
wait_for('it is gone', sub { $t->backend->gone > $gone });
$last = start('/queue/?account=a');
$t->backend->wait_for_request(1);
$t->backend->answer(200, 'whoever');
is_answer($last, 200, 'whoever', 'a lock outlives no owner');

# Without a key, too.

$first = $t->start_post(path => '/queue/?account=a', body => 'eur=1');
$t->backend->wait_for_request;
$last = $t->start_post(path => '/queue/?account=a', body => 'eur=1');
$t->wait_until(waiting => 1);
$t->backend->answer(200, 'one');
is_answer($first, 200, 'one', 'one without a key');
$t->backend->wait_for_request;
$t->backend->answer(200, 'two');
is_answer($last, 200, 'two', 'another one without a key waits for it');

$t->allow(qr/signal 9/);

done_testing;
