#!/usr/bin/perl

# A zone that is full refuses what it could not protect, and loses nothing; or
# it lets the oldest answers go, if it was told to, and says so.  An answer
# that there is no room for is remembered as carried out.

use lib 't/lib';
use Test::Idempotency;

use JSON::PP qw(decode_json);

my $server = <<'EOF';
    idempotency  payments;
EOF

my $locations = <<'EOF';
    location /unstored {
        idempotency_max_response 0;
        proxy_pass http://backend;
    }

    location /short {
        idempotency_valid 3s;
        proxy_pass http://backend;
    }

    location /hour {
        idempotency_valid 1h;
        proxy_pass http://backend;
    }
EOF

my $t;


# New keys until one is refused, or so many; the requests that were taken, and
# the answer that was not.

my $keys = 0;

sub fill {
    my ($most, @request) = @_;

    my @taken;

    while (@taken < $most) {
        my %one = (key => 'key-' . ++$keys, @request);
        my $m = $t->post(%one);

        return (\@taken, $m) if $m->status == 503;

        push @taken, [ \%one, $m ];
    }

    return \@taken;
}


# Every answer is there; or, if there was no room for it when it came, that is
# known and counted.

sub is_kept {
    my ($taken, $name) = @_;

    my ($kept, $known) = (0, 0);

    for (@$taken) {
        my ($request, $answer) = @$_;
        my $m = $t->post(%$request);

        $kept++ if $m->header('Idempotent-Replayed')
                   && $m->body eq $answer->body;
        $known++ if $m->status == 409 && $m->body =~ /response was not kept/;
    }

    cmp_ok($known, '<=', $t->counter('no_room'), "$known are unstored");

    return is($kept + $known, @$taken, $name);
}


# full=refuse: the smallest zone there is.

$t = Test::Idempotency->new($server, backend => 'auto',
                            zone => 'zone=payments:64k',
                            locations => $locations);

my $empty = $t->zone;
is($empty->{size}, 65536, 'the smallest zone');
is($empty->{free}, $empty->{blocks}, 'is empty');

my ($taken, $refused) = fill(1000);

is_problem($refused, 503, 'store-full', 'after a while it is full');
cmp_ok(@$taken, '>', 20, @$taken . ' requests were taken before');
my $records = $t->zone->{records};

is($records->{done} + $records->{unstored}, @$taken,
   'it has a record of each');

my $asked = $t->backend->requests;

is_problem($t->post(key => "no-$_"), 503, 'store-full', 'full is full')
    for 1 .. 3;
is($t->backend->requests, $asked, 'what is refused is not passed on');
is($t->counter('store_full'), 4, 'it is counted');
is_kept($taken, 'every answer is still there');
is_answer($t->post, 200, undef, 'who needs no protection gets an answer');
is($t->counter($_), 0, "nothing has left: $_")
    for qw(evicted_done evicted_unstored expired);

# The answer is larger than all that is left.

$t->finish;
$t = Test::Idempotency->new($server, backend => 'auto',
                            zone => 'zone=payments:64k',
                            locations => $locations);

($taken) = fill(5);

my %large = (path => '/large', key => 'large');
my $bytes = 'x' x 65536;

$t->backend->on('/large', 201, $bytes);
is_answer($t->post(%large), 201, $bytes, 'an answer that has no room');

my $again = $t->post(%large);
is_problem($again, 409, 'response-not-stored', 'it is not carried out twice');
is(decode_json($again->body)->{original_status}, 201, 'its status is known');
is($t->zone->{records}{unstored}, 1, 'its record is unstored');
is($t->counter($_), 1, "counted: $_") for qw(no_room unstored);
is_kept($taken, 'others keep their answers');

# Room comes back by expiry.

my ($short) = fill(10, path => '/short');
(my $rest, $refused) = fill(1000);

is_problem($refused, 503, 'store-full', 'full of records, some live not long');
wait_for('room comes back', sub {
    return $t->post(key => 'after-expiry')->status == 200;
});
is_replay($t->post(key => 'after-expiry'), 200, undef, 'expiry makes room');
is_kept([ @$taken, @$rest ], 'what has not expired is there');
$t->finish;

# Room comes back by release; and whatever becomes of a claim, there is room to
# write that down.

$t = Test::Idempotency->new($server, zone => 'zone=payments:64k');
$t->backend->on('/fill', 200, 'answer %n');

my @held;

while (@held < 20) {
    my %one = (key => 'held-' . @held);

    push @held, [ \%one, $t->start_post(%one) ];
    $t->backend->wait_for_request(scalar @held);
}

($taken, $refused) = fill(1000, path => '/fill');

is_problem($refused, 503, 'store-full', 'full while some requests run');
is($t->zone->{records}{running}, 20, 'their claims stand');

$t->backend->answer(429, 'later');
is_answer($held[0][1], 429, 'later', 'one of them is released');
$held[0] = [ { key => 'another' }, $t->start_post(key => 'another') ];
is($t->backend->wait_for_request(20)->header('Idempotency-Key'), 'another',
   'release makes room');

push @held, shift @held;
$t->backend->answer(200, "for $_") for 0 .. 19;
is_answer($held[$_][1], 200, "for $_", "claim $_ ends") for 0 .. 19;
is($t->zone->{records}{running}, 0, 'all have ended');
$asked = $t->backend->requests;

my @again = map { $t->post(%{ $_->[0] }) } @held;
my @lost = grep { $_->status != 200 } @again;

is_problem($_, 409, 'response-not-stored', 'one has no answer kept')
    for @lost;
is_replay($again[$_], 200, "for $_", 'one has its answer kept')
    for grep { $again[$_]->status == 200 } 0 .. 19;
cmp_ok($t->counter('no_room'), '>=', @lost, 'which is counted');
is($t->backend->requests, $asked, 'none runs again');
is_kept($taken, 'nothing else was lost');
$t->finish;

# full=evict: the oldest answers go, one by one.

$t = Test::Idempotency->new($server, locations => $locations,
                            zone => 'zone=payments:64k full=evict');

my $backend = $t->backend;

my $runs = $t->start_post(key => 'runs');
$backend->wait_for_request;
$backend->on('/unknown', 200, 'answer', cut => 2);
$t->post(path => '/unknown', key => 'unknown');
$backend->on($_, 200, 'answer %n') for qw(/unstored /done /hour);

my ($oldest) = fill(10, path => '/unstored');
my @all;

for my $path (('/done', '/hour') x 250) {
    my ($one) = fill(1, path => $path);
    push @all, @$one;
}

is(@all, 500, 'an evicting zone takes all');
is($t->counter('store_full'), 0, 'nothing is refused');
is($t->counter('evicted_unstored'), 10, 'the oldest were the unstored ones');

my $done = $t->zone->{records}{done};
is($t->counter('evicted_done'), 500 - $done, 'then came the done ones');
is_kept([ reverse @all[-$done .. -1] ], "the last $done are there");
is($t->counter('evicted_done'), 500 - $done, 'and no other');
$t->log_like(qr/\[warn\].*idempotency.*evict/, 'eviction is logged');

my ($request, $answer) = @{ $all[0] };
is_answer($t->post(%$request), 200, qr/^(?!\Q@{[ $answer->body ]}\E$)/,
          'an evicted key runs again');
is_answer($t->post(%{ $oldest->[0][0] }), 200, undef, 'an unstored one, too');

# They go for a body, too.

$backend->on('/large', 201, 'y' x 30_000);
is_answer($t->post(%large), 201, 'y' x 30_000, 'a large answer');
is_replay($t->post(%large), 201, 'y' x 30_000, 'has room made for it');
cmp_ok($t->zone->{records}{done}, '<', $done, 'by others, which went');
is($t->counter('no_room'), 0, 'no answer was lost');

# What runs, and what nobody knows of, does not go.

is_problem($t->post(key => 'runs'), 409, 'in-flight', 'a claim stays');
is_problem($t->post(path => '/unknown', key => 'unknown'), 409,
           'outcome-unknown', 'an unknown stays');

$backend->answer(200, 'ran');
is_answer($runs, 200, 'ran', 'the claim ends');
is_replay($t->post(key => 'runs'), 200, 'ran', 'and is kept');

$runs = $t->start_post(key => 'last');
$backend->wait_for_request;
($taken, $refused) = fill(1000, path => '/unknown');

is_problem($refused, 503, 'store-full', 'no unknown evicts another');
is($t->zone->{records}{unknown}, @$taken + 1, 'they are all there');
is($t->zone->{records}{done} + $t->zone->{records}{unstored}, 0,
   'all the rest is gone');
is($t->counter('expired'), 0, 'none of it too early');
is_problem($t->post(%{ $_->[0] }), 409, 'outcome-unknown', 'an unknown stays')
    for @$taken[0, -1];
is_problem($t->post(key => 'last'), 409, 'in-flight', 'what runs, runs');
$backend->answer(200, 'last');
is_answer($runs, 200, 'last', 'until it ends');
is_problem($t->post(key => 'last'), 409, 'response-not-stored',
           'and is known as carried out');

done_testing;
