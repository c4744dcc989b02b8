#!/usr/bin/perl

# A duplicate that comes while the first request runs waits for it, on its
# worker or on another one, gets the same answer as soon as there is one, and
# the backend is asked once.

use lib 't/lib';
use Test::Idempotency;

use Time::HiRes qw(time);

my $proxy = 'proxy_pass http://backend;';

my $t = Test::Idempotency->new(<<'END', http2 => 1, locations => <<"LOCATIONS");
    idempotency             payments;
    idempotency_concurrent  wait=30s;
    add_header              X-Pid $pid always;
    add_header              X-Wait $idempotency_wait_time always;
    add_header              X-Told $idempotency_status always;
END
    location /pid            { return 200 \$pid; }
    location /few/           { $proxy idempotency_waiters 2; }
    location /brief/         { $proxy idempotency_concurrent wait=200ms; }
    location /reject/        { $proxy idempotency_concurrent reject; }
    location /retry/         { $proxy idempotency_unknown retry; }
    location /crowd/         { $proxy idempotency_waiters 300; }
    location /small/         { $proxy idempotency_max_response 1; }
LOCATIONS

my $backend = $t->backend;
my $n = 0;


sub pay { return (path => '/pay', key => 'k' . ++$n, body => 'eur=1', @_) }


# A first request that the backend holds, and so many that wait for it.

sub wait_in_line {
    my ($twins, %request) = @_;

    my $first = $t->start_post(%request);
    $backend->wait_for_request;

    my @twins = map { $t->start_post(%request) } 1 .. $twins;
    $t->wait_until(waiting => $twins);

    return ($first, @twins);
}


# A connection to that worker: the others are stopped while it is made.

sub connect_to {
    my ($pid) = @_;

    my @others = grep { $_ != $pid } $t->workers;

    kill 'STOP', @others;
    wait_for('the others stop', sub { !grep { !is_stopped($_) } @others });
    my $c = $t->connect->request(method => 'GET', path => '/pid',
                                 headers => [ [ 'Connection', 'keep-alive' ] ]);
    my $body = $c->next_response->body;
    kill 'CONT', @others;

    die "worker $body instead of $pid\n" if $body != $pid;

    return $c;
}


sub is_stopped {
    my ($pid) = @_;

    open my $in, '<', "/proc/$pid/stat" or die "worker $pid: $!\n";

    return <$in> =~ /^\d+ .*\) T/;
}


# The usual case.

my ($first, @twins) = wait_in_line(3, pay());

is($first->answered + $_->answered, 0, 'nobody is answered') for @twins;
$backend->answer(201, 'receipt 7');
is_answer($first, 201, 'receipt 7', 'the first gets the answer');

for (@twins) {
    is_replay($_, 201, 'receipt 7', 'a twin gets the same');
    is($_->response->header('X-Told'), 'waited', 'it has waited');
    like($_->response->header('X-Wait'), qr/^\d+\.\d{3}$/, 'so long');
}

is($first->response->header('X-Wait'), undef, 'the first has not');
is($backend->requests, 1, 'the backend was asked once');
is($t->counter('waited'), 3, 'three have waited');

# Between workers, without a delay that a client could feel.

my @pids = $t->workers;
my $begin;
my $took = 0;
my %served;

for my $round (1 .. 5) {
    my %request = pay(method => 'POST');
    my ($mine, $other) = $round % 2 ? @pids : reverse @pids;

    my $first = connect_to($mine)->request(%request);
    $backend->wait_for_request;

    my @twins = map { connect_to($_) } $mine, ($other) x 3;
    $_->request(%request) for @twins;
    $t->wait_until(waiting => 4);

    $begin = time;
    $backend->answer(201, "receipt $round");
    is_answer($first, 201, "receipt $round", "round $round: the first");
    is_replay($_, 201, "receipt $round", "round $round: a twin") for @twins;
    $took += time - $begin;

    $served{ $_->response->header('X-Pid') }++ for @twins;
}

is_deeply([ sort keys %served ], [ sort @pids ], 'both workers had waiters');
cmp_ok($took, '<', 1, 'all five rounds end at once');

# What else may become of the first.

my @ends = (
#     location  what the upstream does               kind
    [ 'pay',    sub { $backend->close },             'outcome-unknown'     ],
    [ 'small',  sub { $backend->answer(200, 'xl') }, 'response-not-stored' ],
);

for (@ends) {
    my ($location, $act, $kind) = @$_;
    my ($first, @twins) = wait_in_line(2, pay(path => "/$location/"));

    $act->();
    $first->response;
    is_problem($_, 409, $kind, "a twin learns: $kind") for @twins;
    like($twins[0]->response->header('X-Wait'), qr/^\d+\.\d{3}$/,
         'it has waited for that');
}

my @again = (
#     location  what the upstream does
    [ 'pay',    sub { $backend->answer(503, 'busy') } ],
    [ 'retry',  sub { $backend->close },              ],
);

for (@again) {
    my ($location, $act) = @$_;
    my $before = $backend->requests;
    my ($first, @twins) = wait_in_line(4, pay(path => "/$location/"));

    $act->();
    $first->response;

    for my $left (3, 2) {
        $backend->wait_for_request;
        $t->wait_until(waiting => $left);
        $act->() if $left == 3;
    }

    is($backend->requests, $before + 3, "$location: they run one by one");
    $backend->answer(201, 'receipt');

    my @answers = sort map { $_->response->status . ' '
        . ($_->response->header('Idempotent-Replayed') // 'first') } @twins;
    my ($failed) = grep { !/^201/ } @answers;

    is_deeply(\@answers, [ sort '201 first', '201 true', '201 true', $failed ],
              "$location: until one succeeds; the others get its answer");
    like($failed, qr/^50[23] first$/, "$location: one was as unlucky");
    is($backend->requests, $before + 3, "$location: nobody runs after that");
}

# A wait has an end.

my %request = pay(path => '/brief/');
($first) = wait_in_line(0, %request);
$begin = time;
my $m = $t->post(%request);
is_problem($m, 409, 'in-flight', 'after its time a twin gets 409');
cmp_ok($m->header('X-Wait'), '>=', 0.19, 'it has waited that long');
cmp_ok(time - $begin, '<', 5, 'and not much longer');
is($m->header('X-Told'), 'in-flight', 'its status says so');
$backend->answer(201, 'receipt');
is_answer($first, 201, 'receipt', 'the first has noticed nothing');

($first) = wait_in_line(0, %request = pay(path => '/reject/'));
is_problem($m = $t->post(%request), 409, 'in-flight', 'reject: at once');
is($m->header('X-Wait'), undef, 'no time to tell');
$backend->answer(201, 'receipt');
$first->response;

# Another request with the key does not wait.

($first, @twins) = wait_in_line(1, %request = pay());
is_problem($t->post(%request, body => 'eur=2'), 422, 'key-reused',
           'another request gets 422 at once');
is($first->answered, 0, 'while the first runs');
$backend->answer(201, 'receipt');
is_replay($twins[0], 201, 'receipt', 'and the twin waits');

# No more than so many wait on a key; another key has places of its own.

%request = pay(path => '/few/');
($first, @twins) = wait_in_line(2, %request);
is_problem($t->post(%request), 409, 'in-flight', 'the third of two gets 409');

$twins[0]->close;
$t->wait_until(waiting => 1);
push @twins, $t->start_post(%request);
$t->wait_until(waiting => 2);
pass('who leaves frees a place');

my %second = pay(path => '/few/');
my $second = $t->start_post(%second);
$backend->wait_for_request(2);
push @twins, $t->start_post(%second);
$t->wait_until(waiting => 3);
pass('another key has places of its own');

my ($held) = grep { $_->header('Idempotency-Key') eq $second{key} }
    $backend->all;
$backend->answer(201, 'second', to => $held);
is_answer($second, 201, 'second', 'and a first of its own');
is_replay($twins[3], 201, 'second', 'whose twin gets its answer');
$backend->answer(201, 'first');
is_answer($first, 201, 'first', 'the other first gets its own');
is_replay($_, 201, 'first', 'and so do its twins')
    for @twins[1, 2];

# Who leaves while waiting changes nothing.

for my $leave (qw(close reset half_close)) {
    my $before = $backend->requests;
    my ($first, @twins) = wait_in_line(3, pay());

    $twins[1]->$leave;
    $t->wait_until(waiting => 2);
    $backend->answer(201, 'receipt');
    is_answer($first, 201, 'receipt', "$leave: the first gets its answer");
    is_replay($twins[$_], 201, 'receipt', "$leave: so does a twin") for 0, 2;
    is($backend->requests, $before + 1, "$leave: the backend is asked once");
}

# HTTP/2.

SKIP: {
    skip 'curl knows no HTTP/2', 5 if !Test::Idempotency::Http2::available();

    my %request = pay();
    my $first = $t->start_http2(%request);
    $backend->wait_for_request;
    my @twins = ((map { $t->start_http2(%request) } 1 .. 3),
                 $t->start_post(%request));
    $t->wait_until(waiting => 4);
    $twins[2]->close;
    $t->wait_until(waiting => 3);
    $backend->answer(201, 'receipt');
    is_answer($first, 201, 'receipt', 'HTTP/2: the first');
    is_replay($twins[$_], 201, 'receipt', 'HTTP/2: a twin') for 0, 1, 3;
    is($t->zone->{waiting}, 0, 'HTTP/2: who leaves has left');
}

# A crowd.

my $before = $backend->requests;
%request = pay(path => '/crowd/');
@twins = map { $t->start_post(%request) } 1 .. 200;
$backend->wait_for_request;
$t->wait_until(waiting => 199);
$backend->answer(201, 'receipt');

my %got;
$got{ $_->response->body . ($_->response->header('Idempotent-Replayed') // '')
    }++ for @twins;
is_deeply(\%got, { 'receipt' => 1, 'receipttrue' => 199 },
          '200 at once: one runs, 199 get its answer');
is($backend->requests, $before + 1, 'the backend was asked once');

done_testing;
