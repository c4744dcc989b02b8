#!/usr/bin/perl

# A directive may stand in http, server or location; the innermost one counts,
# and what a level does not say comes from the level around it.

use lib 't/lib';
use Test::Idempotency;

my $keys = 0;


# The status of the second request, and whether it is a replay.

sub second {
    my ($t, %o) = @_;

    my $two = delete $o{two} || {};
    my %one = (key => 'key-' . ++$keys, body => 'a', %o);

    $t->backend->auto;
    $t->post(%one);
    my $m = $t->post(%one, %$two);

    return $m->status . ($m->header('Idempotent-Replayed') ? ' again' : '');
}


# What becomes of so many duplicates of a request that still runs.

sub crowd {
    my ($t, $n) = @_;

    my %one = (key => 'key-' . ++$keys);
    my $first = $t->start_post(%one);
    $t->backend->wait_for_request;

    my @more = map { $t->start_post(%one) } 1 .. $n;
    my ($waiting, @answered);

    wait_for('they wait or are answered', sub {
        $waiting = $t->zone->{waiting};
        @answered = grep { $_->answered } @more;
        return $waiting + @answered == $n;
    });

    $t->backend->answer(200, 'so');
    $_->response for $first, @more;

    return "$waiting of $n wait";
}


sub field_again {
    my ($t, $name) = @_;

    my %one = (key => 'key-' . ++$keys);

    $t->backend->auto(200, 'b', headers => [ [ 'X-A', 1 ],
                                             [ 'Set-Cookie', 'a=1' ] ]);
    $t->post(%one);

    return $t->post(%one)->header($name) // 'none';
}


sub broken_off {
    my ($t) = @_;

    $t->backend->auto(200, 'answer', cut => 2);
    $t->post(key => 'k');
    $t->backend->auto;

    return $t->post(key => 'k')->status;
}


my @other_user = (two => { headers => [ [ 'Authorization', 'Basic Yjpi' ] ] });
my @x_key = (key => undef, headers => [ [ 'X-Key', 'k' ] ]);
my @x_debug = (headers => [ [ 'X-Debug', 1 ] ]);

my @directives = (
#     directive, the value that counts, another one
#         what the one does, seen by
    [ 'idempotency', 'payments', 'off',
      '200 again', \&second ],
    [ 'idempotency_key', '$http_x_key', '$http_x_other',
      '200 again', sub { second($_[0], @x_key) } ],
    [ 'idempotency_key_format', 'uuid', 'any',
      '400', \&second ],
    [ 'idempotency_key_length', '20 30', '1 30',
      '400', \&second ],
    [ 'idempotency_required', 'on', 'off',
      '400', sub { second($_[0], key => undef) } ],
    [ 'idempotency_methods', 'PUT', 'PATCH',
      '200 again', sub { second($_[0], method => 'PUT') } ],
    [ 'idempotency_scope', '$http_x_user', 'all',
      '400', \&second ],
    [ 'idempotency_scope', '$server_name', '$http_authorization.',
      '200 again', sub { second($_[0], @other_user) } ],
    [ 'idempotency_fingerprint', '$uri', 'body',
      '200 again', sub { second($_[0], two => { body => 'b' }) } ],
    [ 'idempotency_fingerprint', 'off', 'body',
      '200 again', sub { second($_[0], two => { body => 'b' }) } ],
    [ 'idempotency_valid', '200 0', '404 0',
      '200', \&second ],
    [ 'idempotency_valid', '0', '1h',
      '200', \&second ],
    [ 'idempotency_concurrent', 'wait=5s', 'reject',
      '1 of 1 wait', sub { crowd($_[0], 1) } ],
    [ 'idempotency_waiters', '2', '1',
      '2 of 3 wait', sub { crowd($_[0], 3) }, 'idempotency_concurrent wait=5s;'
    ],
    [ 'idempotency_unknown', 'retry', 'refuse',
      '200', \&broken_off ],
    [ 'idempotency_max_response', '5', '100',
      '409', \&second ],
    [ 'idempotency_hide_header', 'X-A', 'X-B',
      'none', sub { field_again($_[0], 'X-A') } ],
    [ 'idempotency_pass_header', 'Set-Cookie', 'X-A',
      'a=1', sub { field_again($_[0], 'Set-Cookie') } ],
    [ 'idempotency_replay_header', 'X-Again yes', 'X-Again no',
      'yes', sub { field_again($_[0], 'X-Again') } ],
    [ 'idempotency_replay_header', 'X-Again', 'off',
      'true', sub { field_again($_[0], 'X-Again') } ],
    [ 'idempotency_documentation', '/one', '/other',
      '</one>; rel="describedby"',
      sub { $_[0]->post(key => '""')->header('Link') } ],
    [ 'idempotency_bypass', '$http_x_debug', '$http_x_other',
      '200', sub { second($_[0], @x_debug) } ],
    [ 'idempotency_dry_run', 'on', 'off',
      '200', \&second ],
);

for (@directives) {
    my ($name, $value, $another, $effect, $seen, $more) = @$_;
    my ($one, $other) = map { "$name $_;\n" } $value, $another;
    my $base = $name eq 'idempotency' ? '' : 'idempotency payments;';

    for (
        [ $one,   '',     ''   ],
        [ $other, $one,   ''   ],
        [ $other, '',     $one ],
        [ $other, $other, $one ],
        [ $one,   $other, '', 'not' ])
    {
        my ($http, $server, $location, $not) = @$_;
        my @where = ('http', $server ? 'server' : (),
                     $location ? 'location' : ());

        my $t = Test::Idempotency->new($base,
            http => ($more // '') . $http, server => $server,
            location => $location);

        my $is = $seen->($t) // 'nothing';

        if ($not) {
            isnt($is, $effect, "$name $another: another effect");

        } else {
            is($is, $effect, "$name $value: @where");
        }

        $t->finish;
    }
}

# Lists are not added to those of an outer level: they take their place.

my $t = Test::Idempotency->new('idempotency payments;', backend => 'auto',
                               server => <<'EOF', locations => <<'EOF');
    idempotency_valid        404 0;
    idempotency_hide_header  X-A;
EOF
    location /inner {
        idempotency_valid        200 0;
        idempotency_hide_header  X-B;
        proxy_pass http://backend;
    }
EOF

my @answer = ('b', headers => [ [ 'X-A', 1 ] ]);

for (
    [ '/',      200, 1 ], [ '/',      404, 0 ],
    [ '/inner', 200, 0 ], [ '/inner', 404, 1 ])
{
    my ($path, $status, $kept) = @$_;
    my %one = (path => $path, key => "$path-$status");

    $t->backend->on($path, $status, @answer);
    $t->post(%one);
    my $m = $t->post(%one);

    is($m->header('Idempotent-Replayed'), $kept ? 'true' : undef,
       "$path, $status: " . ($kept ? 'kept' : 'not kept'));
    is($m->header('X-A'), $path eq '/' && $kept ? undef : 1, 'and a field');
}

done_testing;
