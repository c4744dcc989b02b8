#!/usr/bin/perl

# A record lives as long as it was told to, from the end of the request on:
# not shorter, and not longer for being asked.

use lib 't/lib';
use Test::Idempotency;

use Time::HiRes qw(time);

my $t = Test::Idempotency->new(<<'EOF', backend => 'auto',
    idempotency        payments;
    idempotency_lease  300ms;
EOF
    locations => <<'EOF');
    location /short {
        idempotency_valid 1s;
        proxy_pass http://backend;
    }

    location /status {
        idempotency_valid 201 1s;
        idempotency_valid 4xx 1h;
        proxy_pass http://backend;
    }

    location /unstored {
        idempotency_valid 1s;
        idempotency_max_response 0;
        proxy_pass http://backend;
    }

    location /unknown {
        idempotency_unknown refuse 1s;
        proxy_pass http://backend;
    }

    location /known {
        idempotency_valid any 1s;
        idempotency_unknown refuse;
        proxy_pass http://backend;
    }

    location /released {
        idempotency_valid 0;
        proxy_pass http://backend;
    }
EOF

my $backend = $t->backend;
my $keys = 0;


# Sends it again and again, until it runs once more; how long that took.

sub runs_again {
    my (%request) = @_;

    my $asked = $backend->requests;
    my $began = time;

    wait_for("$request{key} expires", sub {
        $t->post(%request);
        return $backend->requests > $asked;
    });

    return time - $began;
}


# Returns when a record that lives one second has come and gone.

sub a_second_passes {
    my %clock = (path => '/short', key => 'clock-' . ++$keys);

    $t->post(%clock);

    return runs_again(%clock);
}


# Not early, not late, however often it is replayed.

my %short = (path => '/short', key => 'short');
my $began = time;
my $first = $t->post(%short);

is_answer($first, 200, undef, 'a record of one second');
is_replay($t->post(%short), 200, $first->body, 'is replayed');

runs_again(%short);
my $life = time - $began;

cmp_ok($life, '>=', 0.99, 'not for less than that');
cmp_ok($life, '<', 3, 'replays do not extend it');

my $second = $t->post(%short);
is_replay($second, 200, qr/^(?!\Q@{[ $first->body ]}\E$)/,
          'then there is another answer');
cmp_ok(runs_again(%short), '>', 0.8, 'which lives as long again');

# With the record, its fingerprint is gone.

my %one = (path => '/short', key => 'print');
$t->post(%one, body => 'a');
is_problem($t->post(%one, body => 'b'), 422, 'key-reused',
           'another request does not fit');
wait_for('it expires', sub { $t->post(%one, body => 'b')->status == 200 });
is_problem($t->post(%one, body => 'a'), 422, 'key-reused',
           'until it takes the key');

# By status; what has no time of its own has a day.

$backend->on("/status/$_", $_, 'answer %n') for 200, 201, 404;

my %status = map { my %one = (path => "/status/$_", key => "s$_");
                   $_ => [ \%one, $t->post(%one) ] } 200, 201, 404;

is_answer($status{$_}[1], $_, undef, "an answer with $_") for sort keys %status;
runs_again(%{ $status{201}[0] });
is_replay($t->post(%{ $status{$_}[0] }), $_, $status{$_}[1]->body,
          "the record of $_ outlives one of a second") for 200, 404;

# An unstored one lives like a done one, an unknown one has a life of its own.

my %unstored = (path => '/unstored', key => 'unstored');

is_answer($t->post(%unstored), 200, undef, 'an answer that is not kept');
is_problem($t->post(%unstored), 409, 'response-not-stored', 'is remembered');
cmp_ok(runs_again(%unstored), '<', 3, 'for as long as an answer would be');

$backend->on($_, 200, 'answer', cut => 2) for qw(/unknown /known);
for (
    [ '/unknown', 'that lives a second' ], [ '/known', 'that lives a day' ])
{
    my ($path, $name) = @$_;
    my %unknown = (path => $path, key => $path);

    is($t->post(%unknown)->status, 502, "an unknown $name");
    is_problem($t->post(%unknown), 409, 'outcome-unknown', 'is known as such');
}

$backend->on($_, 200, 'answer %n') for qw(/unknown /known);
cmp_ok(runs_again(path => '/unknown', key => '/unknown'), '<', 3,
       'after a second it may run');
is_replay($t->post(path => '/unknown', key => '/unknown'), 200, undef,
          'and has an answer');
is_problem($t->post(path => '/known', key => '/known'), 409,
           'outcome-unknown', 'the time of answers is not that of an unknown');

# The time counts from the end: a request may take longer than its record
# lives.

$backend->hold;
$backend->on('/short', 200, 'answer %n');
$first = $t->start_post(path => '/short/slow', key => 'slow');
$backend->wait_for_request;
a_second_passes();
is_problem($t->post(path => '/short/slow', key => 'slow'), 409, 'in-flight',
           'a request that runs does not expire');
$backend->answer(200, 'slow');
is_answer($first, 200, 'slow', 'it ends');
is_replay($t->post(path => '/short/slow', key => 'slow'), 200, 'slow',
          'and its record lives from then on');

# All that has expired is gone: from the counts, and from memory.

$t->finish;
$t = Test::Idempotency->new('idempotency payments;', backend => 'auto',
                            location => 'idempotency_valid 1s;',
                            locations => <<'EOF');
    location /released {
        idempotency_valid 0;
        proxy_pass http://backend;
    }
EOF

$t->backend->on('/large', 200, 'x' x 9000);
$t->post(path => '/large', key => "gone-$_") for 1 .. 50;

my $full = $t->zone;
is($full->{records}{done}, 50, 'fifty records');

wait_for('all are gone', sub {
    $t->post(path => '/released', key => 'other');
    return $t->zone->{records}{done} == 0;
});

my $now = $t->zone;
is($now->{counters}{expired}, 50, 'are counted when they have expired');
is($now->{free}, $now->{blocks}, 'and their memory is free');

done_testing;
