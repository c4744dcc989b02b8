#!/usr/bin/perl

# What each directive does: a request, its duplicate, and what became of them.

use lib 't/lib';
use Test::Idempotency;

my %locations = (
    'plain'       => '',
    'off'         => 'idempotency off;',
    'argument'    => 'idempotency_key $arg_id;
                      idempotency_fingerprint body;',
    'parts'       => 'idempotency_key $http_x_source $http_x_seq;',
    'format'      => 'idempotency_key_format uuid;',
    'length'      => 'idempotency_key_length 2 3;',
    'required'    => 'idempotency_required on;',
    'methods'     => 'idempotency_methods PUT DELETE CHARGE;',
    'scope'       => 'idempotency_scope $http_x_user;',
    'scope/off'   => 'idempotency_scope $http_x_user;
                      idempotency_fingerprint off;',
    'print/own'   => 'idempotency_fingerprint $http_x_op $arg_a body;',
    'print/head'  => 'idempotency_fingerprint $http_x_op;',
    'print/off'   => 'idempotency_fingerprint off;',
    'valid/default' => '',
    'valid/code'  => 'idempotency_valid 200 429 0;
                      idempotency_valid 2xx 1h;',
    'valid/class' => 'idempotency_valid any 1h;
                      idempotency_valid 5xx 0;
                      idempotency_valid 503 2h;',
    'valid/any'   => 'idempotency_valid any 0;
                      idempotency_valid 4xx 1h;
                      idempotency_valid 409 0;',
    'valid/rest'  => 'idempotency_valid 0;
                      idempotency_valid 201 502 1h;',
    'bypass'      => 'idempotency_bypass $http_x_debug $arg_nocheck;',
    'retry'       => 'idempotency_unknown retry;
                      proxy_set_header X-Fence $idempotency_fence;',
    'on-error'    => 'idempotency_on_error pass;',
);

my $t = Test::Idempotency->new(<<'EOF', backend => 'auto',
    idempotency  payments;
EOF
    locations => join '', map { <<"EOF" } sort keys %locations);
    location /$_ {
        $locations{$_}
        proxy_pass http://backend;
    }
EOF

my $backend = $t->backend;
my $keys = 0;


sub key { return 'key-' . ++$keys }


# How the second request fares in the light of the first: "replay", "run", or
# a kind of problem.

sub second_is {
    my ($fate, $name, $one, $two, $status) = @_;

    $status //= 200;

    my $first = $t->post(%$one);
    my $second = $t->post(%$two);

    is_answer($first, $status, undef, "$name: first");

    return is_replay($second, $status, $first->body, $name)
        if $fate eq 'replay';

    return is_answer($second, $status, qr/^(?!\Q@{[ $first->body ]}\E$)/,
                     $name) if $fate eq 'run';

    return is_problem($second, $fate eq 'key-reused' ? 422 : 409, $fate,
                      $name);
}


sub twice {
    my ($fate, $location, %o) = @_;

    my $status = delete $o{status};
    my $name = join ' ', $location, $o{method} || (), $status || ();
    my %request = (key => key(), path => "/$location", %o);

    return second_is($fate, "$name: $fate", \%request, \%request, $status);
}


# Where it applies, and to whom.

twice('replay', 'plain');
twice('run', 'off');
twice('replay', 'on-error');

twice('replay', 'argument', path => '/argument?id=k1');
twice('run', 'argument', path => '/argument', key => 'the header is no key');
second_is('replay', 'one argument, more around it',
          { path => '/argument?id=k2' }, { path => '/argument?a=1&id=k2' });
second_is('run', 'another argument, same field',
          { path => '/argument?id=k3', key => 'k' },
          { path => '/argument?id=k4', key => 'k' });

my @parts = map { { path => '/parts', headers => $_ } }
    [ [ 'X-Source', 'shop' ], [ 'X-Seq', '1' ] ],
    [ [ 'X-Source', 'shop' ], [ 'X-Seq', '2' ] ],
    [ [ 'X-Source', 'shop' ] ];

second_is('replay', 'both parts', @parts[0, 0]);
second_is('run', 'another part', { %{ $parts[0] }, headers =>
          [ [ 'X-Source', 'pop' ], [ 'X-Seq', '1' ] ] }, $parts[1]);
second_is('run', 'half a key is none', @parts[2, 2]);

is_problem($t->post(path => '/format', key => 'k'), 400, 'key-invalid',
           'a format');
is_problem($t->post(path => '/length', key => $_), 400, 'key-invalid',
           "the length of \"$_\"") for 'k', 'long';
is_answer($t->post(path => '/length', key => $_), 200, undef,
          "the length of \"$_\"") for 'ke', 'key';
is_problem($t->post(path => '/required'), 400, 'key-missing', 'required');

twice('replay', 'methods', method => $_) for qw(PUT DELETE CHARGE);
twice('run', 'methods', method => $_) for qw(POST PATCH GET CHARGED);
twice('replay', 'plain', method => $_) for qw(POST PATCH);
twice('run', 'plain', method => $_) for qw(PUT DELETE GET);

# Whose key it is, and what "the same request" means.

my ($ann, $bob) = map { [ [ 'X-User', $_ ] ] } qw(ann bob);
my ($basic, $bearer) = map { [ [ 'Authorization', $_ ] ] }
    'Basic YTpi', 'Bearer b';
my ($pay, $refund) = map { [ [ 'X-Op', $_ ] ] } qw(pay refund);

my @pairs = (
#     location      first                second                   fate
    [ 'scope',      { headers => $ann }, { headers => $ann },     'replay' ],
    [ 'scope',      { headers => $ann }, { headers => $bob },     'run' ],
    [ 'scope',      { headers => $ann },
                    { headers => [ @$ann, @$basic ] },            'replay' ],
    [ 'scope/off',  { headers => [ @$ann, @$basic ] },
                    { headers => [ @$ann, @$bearer ], body => 1 },
                                                                  'replay' ],
    [ 'plain',      { headers => $basic }, { headers => $basic }, 'replay' ],
    [ 'plain',      { headers => $basic }, { headers => $bearer },
                                                              'key-reused' ],
    [ 'plain',      { headers => $basic }, {},                'key-reused' ],
    [ 'plain',      {}, { headers => $bearer },               'key-reused' ],
    [ 'plain',      { body => 'a' }, { body => 'b' },         'key-reused' ],
    [ 'print/own',  { headers => $pay }, { headers => $pay,
                      method => 'PATCH' },                        'replay' ],
    [ 'print/own',  { headers => $pay }, { headers => $refund },
                                                              'key-reused' ],
    [ 'print/own',  { body => 'a' }, { body => 'b' },         'key-reused' ],
    [ 'print/own',  { headers => $basic }, { headers => $bearer },
                                                              'key-reused' ],
    [ 'print/head', { headers => $pay, body => 'a' },
                    { headers => $pay, body => 'b' },             'replay' ],
    [ 'print/head', { headers => $pay }, { headers => $refund },
                                                              'key-reused' ],
    [ 'print/off',  { body => 'a' }, { method => 'PATCH',
                      path => '/print/off?a', body => 'bb' },     'replay' ],
    [ 'print/off',  { headers => $basic }, { headers => $basic }, 'replay' ],
    [ 'print/off',  { headers => $basic }, { headers => $bearer },
                                                              'key-reused' ],
    [ 'print/off',  { headers => $basic }, {},                'key-reused' ],
);

for (@pairs) {
    my ($location, $one, $two, $fate) = @$_;
    my @common = (key => key(), path => "/$location");

    second_is($fate, "$location: $fate", { @common, %$one },
              { @common, %$two });
}

is_problem($t->post(path => '/scope', key => 'k'), 400, 'scope-missing',
           'nobody has no key');

# For how long, by status: kept at all, or the key is free again.

my @valid = (
#     location         status and what becomes of it
    [ 'valid/default', 200, 'replay', 404, 'replay', 500, 'replay',
                       429, 'run', 409, 'run', 502, 'outcome-unknown',
                       504, 'outcome-unknown' ],
    [ 'valid/code',    200, 'run', 201, 'replay', 429, 'run', 404, 'replay' ],
    [ 'valid/class',   200, 'replay', 429, 'replay', 500, 'run', 502, 'run',
                       503, 'replay' ],
    [ 'valid/any',     200, 'run', 302, 'run', 404, 'replay', 403, 'replay',
                       409, 'run', 502, 'run' ],
    [ 'valid/rest',    200, 'run', 201, 'replay', 404, 'run', 502, 'replay',
                       504, 'outcome-unknown', 429, 'run' ],
);

for (@valid) {
    my ($location, @rules) = @$_;

    while (my ($status, $fate) = splice @rules, 0, 2) {
        $backend->on("/$location", $status, 'answer %n');
        twice($fate, $location, status => $status);
    }
}

# An unknown that may be tried again is granted anew.

$backend->on('/retry', 200, 'answer', cut => 2);
is($t->post(path => '/retry', key => 'r')->status, 502, 'it broke off');
my $fence = $backend->last->header('X-Fence');

$backend->on('/retry', 200, 'answer %n');
is_answer($t->post(path => '/retry', key => 'r'), 200, undef, 'run again');
cmp_ok($backend->last->header('X-Fence'), '>', $fence, 'the fence grows');
is_replay($t->post(path => '/retry', key => 'r'), 200, undef, 'and is done');

# Hands off, if the operator says so.

my %debug = (path => '/bypass', key => key());
twice('replay', 'bypass');
is_answer($t->post(%debug, headers => [ [ 'X-Debug', 1 ] ]), 200, undef,
          'hands off') for 1, 2;
is_answer($t->post(%debug), 200, undef, 'without a trace');

done_testing;
