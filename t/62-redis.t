#!/usr/bin/perl

# Two nodes, one Redis: what one of them carries out, the other one replays;
# what runs on one is running on the other; who waits on one is told when the
# other one is through.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use File::Temp qw(tempdir);
use Time::HiRes qw(time);

my $redis = Test::Idempotency::Redis->new;

my $conf = <<'END';
    idempotency  payments;
    add_header   X-Store $idempotency_store always;
    add_header   X-Told $idempotency_status always;
END

my $locations = <<'END';
    location /wait/    { proxy_pass http://backend; idempotency_concurrent wait=10s; }
    location /brief/   { proxy_pass http://backend; idempotency_concurrent wait=300ms; }
    location /retry/   { proxy_pass http://backend; idempotency_unknown retry; }
    location /check/   { proxy_pass http://backend; idempotency_unknown check=/known; }
    location = /known  { internal; proxy_pass http://backend/known; }
    location /patient/ { proxy_pass http://backend; idempotency_lease 300ms;
                         idempotency_concurrent wait=10s; }
    location /lease/   { proxy_pass http://backend; idempotency_lease 300ms; }
    location /small/   { proxy_pass http://backend; idempotency_max_response 1; }
END

# a file that is larger than a command to Redis may be

my $site = tempdir('redis-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $server = "$site/socket";

chmod 0755, $site;
open my $file, '>', "$site/file" or die "$site/file: $!\n";
truncate $file, 65 << 20;
close $file;

$locations .= <<"END";
    location /huge/ { proxy_pass http://unix:$server.1:/; proxy_method GET;
                      idempotency_max_response 80m; }
END

my ($a, $b) = map {
    Test::Idempotency->new($conf, locations => $locations,
        zone => 'zone=payments:1m redis=main', http => <<"END")
    idempotency_redis main { server 127.0.0.1:@{[ $redis->port ]}; }
    server { listen unix:$server.$_; root $site; idempotency off; }
END
} 1, 2;

my $n = 0;


# Scripts that Redis was asked to run, until now.

sub asked {
    my $stats = $redis->command('INFO', 'commandstats');

    return $stats =~ /^cmdstat_evalsha:calls=(\d+)/m ? $1 : 0;
}


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }


# A first request on A, which A's backend answers so.

sub first {
    my ($request, @answer) = @_;

    my $first = $a->start_post(%$request);
    $a->backend->wait_for_request;
    $a->backend->answer(@answer) if @answer;

    return $first;
}


# Done on A.

my %request = pay();
my $first = first(\%request, 201, 'receipt 1', headers => [ [ 'X-One', '1' ] ]);

is_answer($first, 201, 'receipt 1', 'a first request on A');
is($first->response->header('X-Store'), 'redis', 'Redis has granted it');

my $m = $a->post(%request);
is_replay($m, 201, 'receipt 1', 'A replays it');
is($m->header('X-Store'), 'zone', 'without asking Redis');

$m = $b->post(%request);
is_replay($m, 201, 'receipt 1', 'B replays it');
is($m->header('X-One'), 1, 'with its fields');
is($m->header('X-Store'), 'redis', 'which Redis had');

$m = $b->post(%request);
is_replay($m, 201, 'receipt 1', 'B replays it again');
is($m->header('X-Store'), 'zone', 'without asking Redis');
is($b->backend->requests, 0, 'the backend of B was never asked');

is_problem($b->post(%request, body => 'eur=2'), 422, 'key-reused',
           'another request on B is refused');

# Running on A.

%request = pay();
$first = first(\%request);
is_problem($b->post(%request), 409, 'in-flight', 'it is running, says B');
is_problem($b->post(%request, body => 'eur=2'), 422, 'key-reused',
           'another request is refused');
$a->backend->answer(200, 'done');
is_answer($first, 200, 'done', 'it ends');
is_replay($b->post(%request), 200, 'done', 'B replays it');

# B waits for A.

%request = pay(path => '/wait/');
$first = first(\%request);
my @twins = map { $b->start_post(%request) } 1 .. 3;
$b->wait_until(waiting => 2);
is($_->answered, 0, 'who waits on B waits') for @twins;
$a->backend->answer(200, 'waited for');
is_answer($first, 200, 'waited for', 'A is through');
is_replay($_, 200, 'waited for', 'B learns of it') for @twins;
is($_->response->header('X-Told'), 'waited', 'it has waited') for @twins;

%request = pay(path => '/brief/');
$first = first(\%request);
is_problem($b->post(%request), 409, 'in-flight', 'patience ends');
$a->backend->answer(200, 'at last');
is_answer($first, 200, 'at last', 'the first did not feel it');

# Released on A while B waits.

%request = pay(path => '/wait/');
$first = first(\%request);
@twins = $b->start_post(%request);
wait_for('B asks', sub { $b->zone->{records}{running} == 1 });
$a->backend->answer(503, 'later');
is_answer($first, 503, 'later', 'A is refused');
$b->backend->wait_for_request;
$b->backend->answer(200, 'on B');
is_answer($twins[0], 200, 'on B', 'so B carries it out');
is_replay($a->post(%request), 200, 'on B', 'and A replays it');

# Unknown on A.

%request = pay();
$first = first(\%request);
$a->backend->close;
is($first->response->status, 502, 'A does not know');
is_problem($_->post(%request), 409, 'outcome-unknown', 'nobody knows')
    for $a, $b;

%request = pay(path => '/retry/');
$first = first(\%request);
$a->backend->close;
$first->response;
my $again = $b->start_post(%request);
$b->backend->wait_for_request;
$b->backend->answer(200, 'again');
is_answer($again, 200, 'again', 'B runs it again');
is_replay($a->post(%request), 200, 'again', 'A replays that');

%request = pay(path => '/check/');
$first = first(\%request);
$a->backend->close;
$first->response;

for ([ 500, 'oops' ], [ 200, 'found' ]) {
    $again = $b->start_post(%request);
    $b->backend->wait_for_request;
    $b->backend->answer(@$_);
    is_problem($again, 409, 'not-known-yet', 'B asks in vain') if $_->[0] == 500;
    $b->wait_until(running => 0);           # Redis has it back
    is_replay($again, 200, 'found', 'B asks') if $_->[0] == 200;
}

is_replay($a->post(%request), 200, 'found', 'A knows, too');

# Unstored on A.

%request = pay(path => '/small/');
$first = first(\%request, 200, 'too large');
is_answer($first, 200, 'too large', 'an answer that is not kept');
is_problem($_->post(%request), 409, 'response-not-stored', 'everybody knows')
    for $a, $b;

# A lease is renewed, however long it takes.

%request = pay(path => '/lease/');
$first = first(\%request);
my $end = time + 1;
wait_for('leases would be over', sub { time > $end });
is_problem($b->post(%request), 409, 'in-flight', 'the lease is renewed');
$a->backend->answer(200, 'slow');
is_answer($first, 200, 'slow', 'and the request completes');
is_replay($b->post(%request), 200, 'slow', 'for all');

# Who waits on B waits longer than a lease, and whoever comes later waits, too.

%request = pay(path => '/patient/');
$first = first(\%request);
@twins = $b->start_post(%request);
wait_for('B asks', sub { $b->zone->{records}{running} == 1 });
my $asked = asked();
$end = time + 1;
wait_for('leases would be over', sub { time > $end });
cmp_ok(asked() - $asked, '<', 50, 'who waits asks from time to time');
push @twins, $b->start_post(%request);
$b->wait_until(waiting => 1);
is($b->zone->{records}{unknown}, 0, 'its lease in the zone stands');
$a->backend->answer(200, 'patience');
is_answer($first, 200, 'patience', 'A ends');
is_replay($_, 200, 'patience', 'B learns of it') for @twins;

# An answer with a broken chunk: the client is told, though nginx ends the
# request at once.

%request = pay();
$first = first(\%request);
$a->backend->answer(0, '', raw => "HTTP/1.1 200 OK\r\n"
    . "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnone\r\n");
is($first->response->status, 502, 'a broken chunk');
wait_for('Redis is told', sub {
    $b->post(%request)->body =~ /outcome of the first request is unknown/ });

# A dies.

%request = pay(path => '/lease/');
$first = first(\%request);
my $gone = $a->backend->gone;
$a->kill_worker($_) for $a->workers;
wait_for('it is gone', sub { $a->backend->gone > $gone });
wait_for('the lease ends', sub {
    $b->post(%request)->body =~ /outcome of the first request is unknown/ });
is_problem($a->post(%request), 409, 'outcome-unknown', 'A knows no more');

# Clients of A leave.

%request = pay();
$first = first(\%request);
$first->reset;
$a->zone;
$a->backend->answer(200, 'for the next one');
$a->wait_until(running => 0);
is_replay($b->post(%request), 200, 'for the next one', 'its client left');

# A large answer.

my $large = join '', map { chr($_ % 251) } 1 .. 300_000;
%request = pay();
$first = first(\%request, 200, $large);
is_answer($first, 200, $large, 'a large answer');
is_replay($b->post(%request), 200, $large, 'goes to B byte for byte');

# One that is larger than the zone of a node comes from Redis each time.

my $tiny = Test::Idempotency->new($conf, locations => $locations,
    zone => 'zone=payments:64k redis=main',
    http => "idempotency_redis main { server 127.0.0.1:@{[ $redis->port ]}; }");

for (1, 2) {
    $m = $tiny->post(%request);
    is_replay($m, 200, $large, 'what is larger than a zone');
    is($m->header('X-Store'), 'redis', 'Redis had it');
}

# What is larger than a command to Redis may be is not kept, anywhere.

%request = pay(path => '/huge/file');
$first = $a->start_post(%request);
wait_for('it passes', sub { $first->answered });
$first->reset;
is_problem($_->post(%request), 409, 'response-not-stored',
           'too large for Redis: everybody knows') for $a, $b;

# Redis has nothing that never ends.

my @keys = @{ $redis->command('KEYS', '*') };
is(scalar(grep { $redis->command('PTTL', $_) < 0 } @keys), 0,
   'every record on Redis has an end');

done_testing;
