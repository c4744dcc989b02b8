#!/usr/bin/perl

# What is kept of an answer, and how a replay and a problem are marked, is the
# operator's to say.

use lib 't/lib';
use Test::Idempotency;

use JSON::PP qw(decode_json);

my %locations = (
    'plain'      => 'idempotency_required on;',
    'max'        => 'idempotency_max_response 1000;',
    'max/0'      => 'idempotency_max_response 0;',
    'hide'       => 'idempotency_hide_header X-Secret x-other;',
    'pass'       => 'idempotency_pass_header set-cookie X-Request-Id;',
    'mark/name'  => 'idempotency_replay_header X-Again;',
    'mark/value' => 'idempotency_replay_header X-Again "yes, again";',
    'mark/off'   => 'idempotency_replay_header off;',
    'documented' => 'idempotency_documentation "https://example.org/d?a=1";
                     idempotency_required on;',
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


# What is kept of an answer.

my @sizes = (
#     location  bytes  kept
    [ 'max',    999,   1 ],
    [ 'max',    1000,  1 ],
    [ 'max',    1001,  0 ],
    [ 'max',    90000, 0 ],
    [ 'max/0',  0,     1 ],
    [ 'max/0',  1,     0 ],
);

for (@sizes) {
    my ($location, $size, $kept) = @$_;
    my $body = 'x' x $size;
    my %plain = (key => key(), path => "/$location");
    my %chunked = (%plain, key => key());

    $backend->on("/$location", 201, $body);
    is_answer($t->post(%plain), 201, $body, "$location: $size bytes");

    my ($half) = (int $size / 2);
    $backend->on("/$location", 201, '', chunked =>
        [ grep { length } substr($body, 0, $half), substr($body, $half) ]);
    is_answer($t->post(%chunked), 201, $body, "$location: in chunks");

    for (\%plain, \%chunked) {
        my $again = $t->post(%$_);

        if ($kept) {
            is_replay($again, 201, $body, "$location: $size are kept");
            next;
        }

        is_problem($again, 409, 'response-not-stored',
                   "$location: $size are not kept");
        is(decode_json($again->body)->{original_status}, 201,
           'but their status is');
    }
}

my @fields = ([ 'X-Secret', 1 ], [ 'X-Other', 2 ], [ 'X-Other', 3 ],
              [ 'Set-Cookie', 'a=1' ], [ 'Set-Cookie', 'b=2' ],
              [ 'X-Request-Id', 4 ], [ 'X-Kept', 5 ]);
my %values = map { my ($n) = $_->[0];
                   $n => join ' ', map { $_->[1] } grep { $_->[0] eq $n }
                       @fields } @fields;

for (
    [ 'hide',  qw(X-Kept) ],
    [ 'pass',  qw(X-Kept X-Secret X-Other Set-Cookie X-Request-Id) ],
    [ 'plain', qw(X-Kept X-Secret X-Other) ])
{
    my ($location, @kept) = @$_;
    my %request = (path => "/$location", key => key());

    $backend->on("/$location", 200, 'b', headers => \@fields);
    my ($first, $again) = map { $t->post(%request) } 1, 2;

    for my $name (sort keys %values) {
        my $expected = (grep { $_ eq $name } @kept) ? $values{$name} : '';

        is(join(' ', $first->headers($name)), $values{$name},
           "$location: $name of the first");
        is(join(' ', $again->headers($name)), $expected,
           "$location: $name of a replay");
    }
}

# What we say of it.

my @marks = (
    [ 'name',  'X-Again',             'true'       ],
    [ 'value', 'X-Again',             'yes, again' ],
    [ 'off',   'Idempotent-Replayed', undef        ],
);

for (@marks) {
    my ($location, $name, $value) = @$_;
    my %request = (path => "/mark/$location", key => key());
    my ($first, $again) = map { $t->post(%request) } 1, 2;

    is($again->body, $first->body, "mark/$location: a replay");
    is($first->header($name), undef, 'the first is not marked');
    is($again->header($name), $value, 'the replay is as it is told');
    is($again->header('Idempotent-Replayed'), undef, 'and not as ever');
}

my $p = $t->post(path => '/documented');
is_problem($p, 400, 'key-missing', 'a documented problem');
is(decode_json($p->body)->{type}, 'https://example.org/d?a=1#key-missing',
   'has a type');
is($p->header('Link'), '<https://example.org/d?a=1>; rel="describedby"',
   'and a link');
is(decode_json($t->post(path => '/plain')->body)->{type}, 'about:blank',
   'another one has none');

done_testing;
