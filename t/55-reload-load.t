#!/usr/bin/perl

# nginx is reloaded again and again while requests come without a pause: first
# ones, their duplicates while they run, and duplicates of those that are long
# done.  Each key runs once, and everybody gets its answer.

use lib 't/lib';
use Test::Idempotency;

use constant KEYS    => 300;
use constant FLIGHT  => 30;     # of them at a time
use constant RELOADS => 6;

my $t = Test::Idempotency->new(<<'END');
    idempotency             payments;
    idempotency_concurrent  wait=20s;
END
my $backend = $t->backend;

my (@clients, @late, %old);
my $reloads = 0;


# The one that is held longest, whichever it is.

sub answer_one {
    my $request = $backend->wait_for_request;
    my $key = $request->header('Idempotency-Key');

    $backend->answer(200, "receipt $key", to => $request);

    return;
}


sub reloads { return scalar(() = $t->log =~ /: reconfiguring$/mg) }


# Not before nginx has heard of the last one: two would be one for it.

sub reload {
    wait_for('the last reload', sub { reloads() == $reloads });
    $reloads++;
    $old{$_} = 1 for $t->workers;
    $t->signal('HUP');

    return;
}


for my $n (1 .. KEYS) {
    my %pay = (path => '/', key => "k$n", body => "eur=$n");

    push @{ $clients[$n] }, map { $t->start_post(%pay) } 1 .. 3;
    reload() if $n % (KEYS / RELOADS) == FLIGHT;

    next if $n <= FLIGHT;
    answer_one();

    next if $n <= 2 * FLIGHT;
    my $done = $n - 2 * FLIGHT;
    push @late, [ $done, $t->start_post(%pay, key => "k$done",
                                        body => "eur=$done") ];
}

answer_one() for 1 .. FLIGHT;

# one of the three was the first, and the others got what it got

my %got = (first => 0, replay => 0);
my @wrong;

for my $n (1 .. KEYS) {
    my @answers = map { $_->response } @{ $clients[$n] };
    my @replays = grep { defined $_->header('Idempotent-Replayed') } @answers;

    push @wrong, map { "k$n: " . $_->summary } @answers
        if @replays != 2
           || grep { $_->status != 200 || $_->body ne "receipt k$n" } @answers;
}

is(join("\n", @wrong), '', 'each key has one first answer, and it twice more');

@wrong = map { "k$_->[0]: " . $_->[1]->response->summary }
    grep {
        my $answer = $_->[1]->response;
        $answer->body ne "receipt k$_->[0]"
            || !defined $answer->header('Idempotent-Replayed');
    } @late;
is(join("\n", @wrong), '', 'and still later it is replayed');

my %executions;
$executions{ $_->header('Idempotency-Key') }++ for $backend->all;
is(keys %executions, KEYS, 'the upstream has seen every key');
is(join(' ', grep { $executions{$_} != 1 } keys %executions), '', 'once');

# it was under load, and there were so many reloads

$t->wait_for_old_workers;
is(reloads(), RELOADS, 'all reloads took place');
ok(!grep({ $old{$_} } $t->workers), 'no worker of before is left');
cmp_ok(keys %old, '>', RELOADS, 'there were many');
cmp_ok($t->counter('waited'), '>', KEYS / 2, 'most duplicates have waited');
is($t->counter('first'), KEYS, 'each key was claimed once');
is($t->counter('done'), KEYS, 'and is done');
is($t->counter($_), 0, "none was $_")
    for qw(in_flight unknown lost orphaned lease_ended released);

done_testing;
