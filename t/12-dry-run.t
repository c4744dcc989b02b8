#!/usr/bin/perl

# A dry run lets every request pass and changes no answer, and tells what
# would have been; when it ends, what it has seen done is not done again.

use lib 't/lib';
use Test::Idempotency;

use JSON::PP qw(decode_json);

my $server = <<'EOF';
    idempotency               payments;
    idempotency_max_response  100k;
    add_header                X-Told $idempotency_status always;
EOF

my $t = Test::Idempotency->new("${server}idempotency_dry_run on;",
                               locations => <<'EOF');
    location /required {
        idempotency_required on;
        proxy_pass http://backend;
    }

    location /scoped {
        idempotency_scope $http_x_user;
        proxy_pass http://backend;
    }

    location /wait {
        idempotency_concurrent wait=10s;
        proxy_pass http://backend;
    }
EOF

my $backend = $t->backend;
my ($asked, %told) = (0);


# An answer of the upstream, and what we have to say about it.

sub passes {
    my ($from, $status, $body, $told, $name) = @_;

    my $m = $from->can('response') ? $from->response : $from;

    $asked++;
    $told{ $told =~ tr/-/_/r }++ if $told ne '-';

    return is_answer($m, $status, $body, $name)
        && is($m->header('X-Told'), $told, "$name: $told");
}


# The first request, and others while it runs: none waits for it.

my %pay = (key => 'pay', body => 'eur=1');

my $first = $t->start_post(%pay);
$backend->wait_for_request;
my $twin = $t->start_post(%pay);
$backend->wait_for_request(2);
my $other = $t->start_post(%pay, body => 'eur=2');
$backend->wait_for_request(3);

my ($one, $two, $three) = $backend->all;
$backend->answer(201, 'second', to => $two);
passes($twin, 201, 'second', 'in-flight', 'a duplicate');
$backend->answer(201, 'third', to => $three);
passes($other, 201, 'third', 'key-reused', 'another request');
is($t->zone->{records}{running}, 1, 'the claim of the first stands');

# Nothing is withheld: the client sees an answer grow.

$backend->send("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n"
               . 'x' x 80000, to => $one);
wait_for('the answer begins', sub { $first->answered });
pass('an answer is not withheld');
is($t->zone->{records}{running}, 1, 'nor is it complete');

$backend->send('x' x 10000, to => $one);
passes($first, 200, 'x' x 90000, 'first', 'the first request');
$t->wait_until(running => 0);

is_deeply($t->zone->{records},
          { running => 0, done => 0, unstored => 1, unknown => 0 },
          'it is known as carried out');
cmp_ok($t->zone->{blocks} - $t->zone->{free}, '<', 4, 'its body is not kept');

# Once it is done.

$backend->auto;

passes($t->post(%pay), 200, qr/^answer/, 'replayed', 'a late duplicate');
passes($t->post(%pay, body => 'eur=2'), 200, undef, 'key-reused', 'a misuse');
passes($t->post(path => '/required'), 200, undef, 'key-missing', 'no key');
passes($t->post(key => '""'), 200, undef, 'key-invalid', 'a bad key');
passes($t->post(path => '/scoped', key => 'k'), 200, undef, 'scope-missing',
       'no scope');
passes($t->post, 200, undef, '-', 'no key, and none needed');
passes($t->get(key => 'k'), 200, undef, '-', 'a method that is not ours');

# Ends of other kinds.

my @ends = (
#     path         answer                             second request would be
    [ '/busy',     [ 429, 'later' ],                  'first'               ],
    [ '/gateway',  [ 502, 'not here' ],               'outcome-unknown'     ],
    [ '/limit',    [ 200, 'x' x 102_400 ],            'replayed'            ],
    [ '/large',    [ 200, 'x' x 102_401 ],            'response-not-stored' ],
    [ '/empty',    [ 204, '' ],                       'replayed'            ],
);

for (@ends) {
    my ($path, $answer, $again) = @$_;
    my ($name) = $path =~ /(\w+)/;

    $backend->on($path, @$answer);
    passes($t->post(path => $path, key => $path), @$answer, 'first', $name);
    passes($t->post(path => $path, key => $path), @$answer, $again,
           "$name again");
}

$backend->on('/cut', 200, 'answer', cut => 3);
is($t->post(path => '/cut', key => 'cut')->status, 0,
   'an answer that breaks off is passed on as it is');
$told{first}++;
$asked++;
$backend->on('/cut', 200, 'answer');
passes($t->post(path => '/cut', key => 'cut'), 200, 'answer',
       'outcome-unknown', 'it would be unknown');

is($backend->requests, $asked, 'every request was passed on');
is($t->counter($_), $told{$_}, "$told{$_} times $_") for sort keys %told;

# A duplicate does not even wait where it would.

$backend->hold;
my %wait = (path => '/wait', key => 'wait');
my @both = map { $t->start_post(%wait) } 1, 2;
$backend->wait_for_request(2);
is($t->zone->{waiting}, 0, 'nobody waits');
$backend->answer(200, 'both') for 1, 2;
is_answer($_, 200, 'both', 'both are answered') for @both;

# The dry run ends while one more request runs.

$first = $t->start_post(key => 'over');
$backend->wait_for_request;

$t->change(directives => $server);
$t->reload;

is_problem($t->post(key => 'over'), 409, 'in-flight',
           'what runs is protected from now on');
$backend->answer(201, 'over');
is_answer($first, 201, 'over', 'it is answered');
$t->wait_for_old_workers;

for ([ \%pay, 200 ], [ { key => 'over' }, 201 ]) {
    my ($request, $status) = @$_;
    my $again = $t->post(%$request);

    is_problem($again, 409, 'response-not-stored',
               "$request->{key}: not done again");
    is(decode_json($again->body)->{original_status}, $status,
       'and its status is known');
}

is_problem($t->post(%pay, body => 'eur=2'), 422, 'key-reused',
           'its fingerprint, too');

$backend->auto;
my $new = $t->post(key => 'new');
is_answer($new, 200, undef, 'a new key');
is_replay($t->post(key => 'new'), 200, $new->body, 'is replayed again');

done_testing;
