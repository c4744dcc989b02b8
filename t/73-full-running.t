#!/usr/bin/perl

# A zone is full while hundreds of requests run, duplicates wait, and answers
# of all sizes come in any order.  Nothing runs twice, what runs or is unknown
# is never thrown out, each client gets the right answer or learns that it was
# not kept, all is counted, and no block is lost.

use lib 't/lib';
use Test::Idempotency;

use List::Util qw(sum0);

use constant STEPS => $ENV{IDEMPOTENCY_STEPS} || 600;
use constant CROWD => 250;              # requests that run at once
use constant BLOCK => 128;

my $seed = $ENV{IDEMPOTENCY_SEED} || int rand 1e9;
my $proxy = 'proxy_pass http://backend;';

srand $seed;
note "IDEMPOTENCY_SEED=$seed";

my $t = Test::Idempotency->new(<<'END', workers => 3, connections => 2000,
    idempotency_concurrent  wait=60s;
    idempotency_waiters     1000;
END
    zone => [ 'zone=refuse:64k', 'zone=evict:64k full=evict' ],
    locations => <<"LOCATIONS");
    location /refuse/ { $proxy idempotency refuse; }
    location /evict/  { $proxy idempotency evict; }
LOCATIONS

my $backend = $t->backend;

# A key has clients, how many of its executions were to be its last ones, and
# what the backend said to these.

my %keys;
my $n = 0;


sub start {
    my ($zone, $key) = @_;

    my $k = $keys{$zone}{$key} ||= { ran => 0, freed => 0, clients => [] };

    push @{ $k->{clients} },
        $t->start_post(path => "/$zone/", key => $key, body => 'eur=1');

    return;
}


# Bytes of a body: often few, sometimes many, and each fortieth more than a zone
# has.

my $answers = 0;


sub any_size {
    return 60_000 if ++$answers % 40 == 0;
    return int rand 300 if rand() < 0.8;
    return int rand 9000 if rand() < 0.9;
    return 20_000 + int rand 50_000;
}


# The backend ends one of the requests that it holds.

sub end_one {
    my ($zone, @held) = @_;

    my $request = $held[rand @held];
    my $key = $request->header('Idempotency-Key');
    my $k = $keys{$zone}{$key};
    my $dice = rand;

    $k->{ran}++;

    if ($dice < 0.2) {
        $k->{freed}++;
        $backend->answer(503, 'busy', to => $request);

    } elsif ($dice < 0.26) {
        $k->{cut} = 1;
        $backend->answer(201, 'x' x 50, cut => 10, to => $request);

    } else {
        $k->{body} = ++$n . ' ' . 'x' x any_size();
        $backend->answer(201, $k->{body}, to => $request);
    }

    # what is evicted is no longer known to those who still wait

    if ($zone eq 'evict' && $dice >= 0.2) {
        $_->response for @{ $k->{clients} };
    }

    return;
}


# All end, and those who run after them, until everybody has an answer.

sub end_all {
    my ($zone) = @_;

    my @open = map { @{ $_->{clients} } } values %{ $keys{$zone} };

    while (@open) {
        my @held;

        wait_for('all have an answer', sub {
            @held = $backend->held;
            @open = grep { !$_->answered } @open if !@held;

            return @held || !@open;
        });

        end_one($zone, @held) if @held;
    }

    return;
}


# What the client of a key must not get.

sub wrong {
    my ($k, $m) = @_;

    my $body = $m->body // '';
    my $replayed = $m->header('Idempotent-Replayed');

    return if $m->status == 503 && $body =~ /store is full"/;
    return if $m->status == 503 && $body eq 'busy' && $k->{freed};
    return if $m->status == 502 && $k->{cut} && !$replayed;
    return if $m->status == 409 && $body =~ /is unknown"/ && $k->{cut};

    if (defined $k->{body}) {
        return if $m->status == 201 && $body eq $k->{body};
        return if $m->status == 409 && $body =~ /not kept"/;
    }

    return $m->summary;
}


# Blocks that an answer with such a body takes, and that are taken.

sub blocks_of {
    my ($size) = @_;

    my $before = used('refuse');

    $backend->on('/refuse/', 201, 'x' x $size);
    $t->post(path => '/refuse/', key => 'size' . ++$n, body => 'eur=1');

    return used('refuse') - $before;
}


sub used {
    my ($zone) = @_;

    my $z = $t->zone($zone);

    return $z->{blocks} - $z->{free};
}


# Bytes of a record beside its body: where one more byte takes one more block.

sub overhead {
    my ($low, $high) = (0, BLOCK);
    my $few = blocks_of(0);

    while ($high - $low > 1) {
        my $size = int(($low + $high) / 2);
        blocks_of($size) == $few ? ($low = $size) : ($high = $size);
    }

    return ($few - 1) * BLOCK - $low;
}


sub play {
    my ($zone) = @_;

    my $executions = $backend->requests;
    my %before = %{ $t->zone($zone) };
    my $clients = 0;

    $backend->hold;

    # requests come, come again, and end

    for my $step (1 .. STEPS) {
        my @held = $backend->held;
        my $dice = rand;

        if (@held < CROWD / 2 || $dice < 0.5 && @held < CROWD) {
            start($zone, 'new' . ++$n);

        } elsif ($dice < 0.7) {
            start($zone, $held[rand @held]->header('Idempotency-Key'));

        } else {
            end_one($zone, @held);
        }
    }

    end_all($zone);

    my @wrong;
    my $twice = 0;

    for my $key (sort keys %{ $keys{$zone} }) {
        my $k = $keys{$zone}{$key};

        for (@{ $k->{clients} }) {
            $clients++;
            push @wrong, map { "$key: $_" } wrong($k, $_->response);
        }

        $twice++ if $k->{ran} > 1 + $k->{freed};
    }

    is("@wrong[0 .. ($#wrong < 4 ? $#wrong : 4)]", '',
       "$zone: $clients clients get what they should");
    is($twice, 0, "$zone: nothing runs twice");

    add_up($zone, \%before, $clients, $backend->requests - $executions);

    return;
}


# Who came is counted under one word, and so is what became of a claim.

sub add_up {
    my ($zone, $before, $clients, $executions) = @_;

    my $z = $t->zone($zone);
    my %c = map { $_ => $z->{counters}{$_} - $before->{counters}{$_} }
        keys %{ $z->{counters} };
    my %r = %{ $z->{records} };

    is(sum0(@c{qw(first replayed waited in_flight outcome_unknown
                  response_not_stored store_full)}), $clients,
       "$zone: each of them is counted once");
    is($c{first}, $executions, "$zone: $executions requests were taken");
    is(sum0(@c{qw(done unstored released unknown)}), $executions,
       "$zone: each of these has an end");
    is(sum0(@c{qw(lost lease_ended orphaned)}), 0, "$zone: and none another");
    is($c{evicted_done} + $c{evicted_unstored} + $c{expired}
       + $r{done} + $r{unstored} + $r{unknown}
       - sum0(@{ $before->{records} }{qw(done unstored unknown)}),
       $c{done} + $c{unstored} + $c{unknown},
       "$zone: what is not there has left, and was counted");

    cmp_ok($c{$_}, '>', 0, "$zone: $_ occurs")
        for qw(waited no_room released),
            $zone eq 'refuse' ? 'store_full' : qw(evicted_done);
    is($c{$_}, 0, "$zone: $_ does not")
        for $zone eq 'refuse' ? qw(evicted_done evicted_unstored) : ();

    return;
}


# Nothing leaves a zone that refuses: all is there, in as many blocks as it
# takes.

my $overhead = overhead();
my $used = used('refuse');
my $blocks = $t->zone('refuse')->{blocks};

note "$blocks blocks, $overhead bytes of a record beside its body";
play('refuse');

my $asked = $backend->requests;
my @lost;

for my $key (sort keys %{ $keys{refuse} }) {
    my $k = $keys{refuse}{$key};
    next if !defined $k->{body} && !$k->{cut};

    my $m = $t->post(path => '/refuse/', key => $key, body => 'eur=1');
    my $is_kept = $m->status == 201;
    my $size = $is_kept ? $overhead + length $k->{body} : 0;

    push @lost, $key if wrong($k, $m) || $m->status == 503;
    $used += 1 + int(($size + BLOCK - 1) / BLOCK);
}

is("@lost", '', 'refuse: everything is known still');
is($backend->requests, $asked, 'refuse: nothing runs for that');
is(used('refuse'), $used, 'refuse: no block is lost');

# What is unknown stays in a zone that evicts.

play('evict');
$asked = $backend->requests;

my @unknown = grep {
    my $k = $keys{evict}{$_};
    $k->{cut} && !defined $k->{body}
} sort keys %{ $keys{evict} };
my @others = grep {
    my $m = $t->post(path => '/evict/', key => $_, body => 'eur=1');
    $m->status != 409 || $m->body !~ /is unknown"/;
} @unknown;

is("@others", '', 'evict: ' . @unknown . ' unknown ones are unknown still');
is($backend->requests, $asked, 'evict: nothing runs for that');

# An answer that takes all blocks but theirs is kept, so they are all there.

my $room = ($blocks - @unknown - 1) * BLOCK - $overhead;

my %large = (path => '/evict/', key => 'too-large', body => 'eur=1');

$backend->on('/evict/', 201, 'x' x ($room + 1));
$t->post(%large);
is_problem($t->post(%large), 409, 'response-not-stored',
           'evict: a byte more than there is room for');

$large{key} = 'large';
$backend->on('/evict/', 201, 'x' x $room);
$t->post(%large);
is_replay($t->post(%large), 201, 'x' x $room, 'evict: no block is lost');
is($t->zone('evict')->{free}, 0, 'evict: and each of them is in use');

done_testing;
