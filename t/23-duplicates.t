#!/usr/bin/perl

# What a second request with a key gets depends on what became of the first
# one, and on whether it is the same request at all; whose key it is decides
# who is asked about.

use lib 't/lib';
use Test::Idempotency;

use JSON::PP ();
use Time::HiRes qw(time);

my $proxy = 'proxy_pass http://backend;';

my $t = Test::Idempotency->new(<<'END', http2 => 1, locations => <<"LOCATIONS",
    idempotency  payments;
    idempotency_max_response  1k;
END
    location /retry/ {
        $proxy
        proxy_set_header X-Fence \$idempotency_fence;
        idempotency_unknown retry;
    }

    location /required/ { $proxy idempotency_required on; }
    location /scope/    { $proxy idempotency_scope \$http_x_user; }
    location /two/      { $proxy idempotency two; }
    location /brief/    { $proxy idempotency_valid 1s; }
    location /dull/     { $proxy idempotency_fingerprint off; }

    location /docs/ {
        $proxy
        idempotency_required on;
        idempotency_documentation https://example.com/keys;
        add_header X-Instance \$idempotency_instance always;
    }
LOCATIONS
    zone => [ 'zone=payments:1m', 'zone=two:1m' ]);

my $backend = $t->backend;
my $n = 0;


# A request with a new key, and another one with the same key.

sub pay   { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }
sub other { return (@_, body => 'eur=2') }


# Brings the record of a new key into a state, and returns the request.

my %ways = (
    done     => sub { $backend->answer(201, 'receipt') },
    unstored => sub { $backend->answer(202, 'x' x 2000) },
    unknown  => sub { $backend->close },
    released => sub { $backend->answer(503, 'busy') },
);

sub bring_to {
    my ($state, @more) = @_;

    my %request = pay(@more);
    my $p = $t->start_post(%request);
    $ways{$state}->();
    $p->response;

    return %request;
}


# The table, row by row.

my %request = pay();
my $first = $t->start_post(%request);
$backend->wait_for_request;

is_problem($t->post(%request), 409, 'in-flight', 'running: 409');
is_problem($t->post(other(%request)), 422, 'key-reused',
           'running, another request: 422');
is($first->answered, 0, 'the first has not noticed');
$ways{done}->();
is_answer($first, 201, 'receipt', 'and gets its answer');
is_replay($t->post(%request), 201, 'receipt', 'done: replayed');
is_replay($t->post(%request), 201, 'receipt', 'and again');

%request = bring_to('unstored');
is_problem($t->post(%request), 409, 'response-not-stored', 'unstored: 409');
is($t->post(%request)->body =~ /"original_status":(\d+)/ && $1, 202,
   'it tells the first status');

%request = bring_to('unknown');
is_problem($t->post(%request), 409, 'outcome-unknown', 'unknown: 409');

for my $state (qw(done unstored unknown)) {
    %request = bring_to($state);
    is_problem($t->post(other(%request)), 422, 'key-reused',
               "$state, another request: 422");
}

is($backend->requests, 6, 'the backend has seen first requests only');

%request = bring_to('released');
$first = $t->start_post(other(%request));
$ways{done}->();
is_answer($first, 201, 'receipt', 'released: any request may run');
is_replay($t->post(other(%request)), 201, 'receipt', 'and counts as first');

%request = bring_to('unknown', path => '/retry/');
my $fence = $backend->last->header('X-Fence');
like($fence, qr/^\d+$/, 'the first has a fence');
is_problem($t->post(other(%request)), 422, 'key-reused',
           'unknown, retry, another request: 422');
$first = $t->start_post(%request);
$ways{done}->();
is_answer($first, 201, 'receipt', 'unknown, retry: it runs');
cmp_ok($backend->last->header('X-Fence'), '>', $fence, 'the fence grows');
is_replay($t->post(%request), 201, 'receipt', 'and is stored');

# A record lives as long as it is told to, however often it is replayed.

$backend->auto(200, 'answer %n');
%request = pay(path => '/brief/');
my $answer = $t->post(%request)->body;
my $born = time;
my $replays = 0;

wait_for('the record ends', sub {
    my $m = $t->post(%request);
    $replays++ if $m->header('Idempotent-Replayed') && $m->body eq $answer;
    return $m->body ne $answer;
});

cmp_ok(time - $born, '>', 0.9, 'it does not expire early');
cmp_ok(time - $born, '<', 3, 'nor much later');
cmp_ok($replays, '>', 1, 'replays do not prolong it');

# What makes it another request.

my @differences = (
#     what differs                                             verdict  why
    [ [],                                                      200, 'nothing' ],
    [ [ headers => [ [ 'X-Trace', 2 ] ] ],                     200, 'a field' ],
    [ [ chunked => [ 'eur', '=1' ] ],                          200, 'framing' ],
    [ [ http => '1.0' ],                                       200, 'version' ],
    [ [ body => 'eur=11' ],                                    422, 'length'  ],
    [ [ body => '' ],                                          422, 'no body' ],
    [ [ method => 'PATCH' ],                                   422, 'method'  ],
    [ [ path => '/?' ],                                        422, 'a query' ],
    [ [ path => '/%20' ],                                      422, 'path'    ],
    [ [ headers => [ [ 'Content-Type', 'text/plain' ] ] ],     422, 'type'    ],
    [ [ headers => [ [ 'Content-Encoding', 'br' ] ] ],         422, 'coding'  ],
    [ [ headers => [ [ 'Authorization', 'Bearer b' ] ] ],      422, 'sender'  ],
);

for (@differences) {
    my ($difference, $status, $why) = @$_;
    my %one = pay();
    my $body = $t->post(%one)->body;
    my $second = $t->post(%one, @$difference);

    is_replay($second, 200, $body, "$why: the same") if $status == 200;
    is_problem($second, 422, 'key-reused', "$why: another") if $status == 422;
}

%request = pay(path => '/dull/');
$answer = $t->post(%request)->body;
is_replay($t->post(other(%request)), 200, $answer, 'off: all are the same');
is_problem($t->post(%request, headers => [ [ 'Authorization', 'b' ] ]), 422,
           'key-reused', 'off, another sender: nobody reads his answer');

# Whose key it is.

my @users = map { [ headers => [ [ 'X-User', $_ ],
                                 [ 'Authorization', rand ] ] ] } qw(ann bob);

%request = pay(path => '/scope/');
my @answers = map { $t->post(%request, @$_)->body } @users;
isnt($answers[0], $answers[1], 'two users may use one key');
is_replay($t->post(%request, @{ $users[$_] }, headers => [
    $users[$_][1][0], [ 'Authorization', 'fresh' ] ]), 200, $answers[$_],
    'a user gets his own, with another token too') for 0, 1;

%request = pay();
$answer = $t->post(%request)->body;
isnt($t->post(%request, path => '/two/')->body, $answer,
     'two zones may use one key');

# Precedence: 400, then 422, then 409, then replay.

%request = pay(path => '/scope/', key => '"');
is_problem($t->post(%request), 400, 'key-invalid', 'a bad key before no scope');
%request = pay(path => '/scope/');
is_problem($t->post(%request), 400, 'scope-missing', 'no scope');

$backend->hold;
my @user = @{ $users[0] };
%request = pay(path => '/scope/', @user);
$first = $t->start_post(%request);
$backend->wait_for_request;

is_problem($t->post(other(%request), headers => []), 400, 'scope-missing',
           '400 before 422 and 409');
is_problem($t->post(other(%request)), 422, 'key-reused', '422 before 409');
$ways{done}->();
$first->response;
is_problem($t->post(other(%request)), 422, 'key-reused', '422 before replay');
is_problem($t->post(%request, headers => []), 400, 'scope-missing',
           '400 before replay');

# The documents: nothing of the upstream's, an instance of their own.

my %docs = (path => '/docs/');
my $link = '<https://example.com/keys>; rel="describedby"';

%request = bring_to('unstored', %docs);
my @problems = (
    [ $t->post(%docs),             400, 'key-missing'         ],
    [ $t->post(%docs, key => '"'), 400, 'key-invalid'         ],
    [ $t->post(other(%request)),   422, 'key-reused'          ],
    [ $t->post(%request),          409, 'response-not-stored' ],
);

for (@problems) {
    my ($m, $status, $kind) = @$_;
    my $doc = JSON::PP::decode_json($m->body);
    my $instance = $m->header('X-Instance');

    is_problem($m, $status, $kind, "$kind is documented");
    is($doc->{type}, "https://example.com/keys#$kind", "type of $kind");
    is($m->header('Link'), $link, "link of $kind");
    is($doc->{instance}, "urn:uuid:$instance", "instance of $kind");
    $t->log_like(qr/\[info\].*idempotency: $kind, .*\Q$instance\E/,
                 "the log names the instance of $kind");
}

my %seen = map { $_->[0]->header('X-Instance') => 1 } @problems;
is(keys %seen, @problems, 'no two problems share an instance');

# Servers with different names on one port.

$t->change(http => <<"END")->reload;
    server {
        listen 127.0.0.1:@{[ $t->port ]};
        server_name other;
        idempotency payments;
        location / { $proxy }
    }
END

$backend->auto(200, 'answer %n');
%request = pay();
@answers = map { $t->post(%request, headers => [ [ 'Host', $_ ] ]) }
    qw(localhost other other);
isnt($answers[0]->body, $answers[1]->body, 'two servers may use one key');
is_replay($answers[2], 200, $answers[1]->body, 'each has its own records');

done_testing;
