#!/usr/bin/perl

# Ten thousand duplicates may wait for one request: all get its answer, and it
# runs once.  If it was not carried out, one of them runs and the others wait
# on; and whoever leaves, or a reload, changes nothing for the rest.

BEGIN { $ENV{IDEMPOTENCY_TIMEOUT} ||= 60 }      # so many take their time

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Crowd;

use constant MANY => Test::Idempotency::Crowd::most(10_000);

note "only @{[ MANY ]} clients, as there are no more descriptors"
    if MANY < 10_000;

my $t = Test::Idempotency->new(<<'END', connections => MANY + 500);
    idempotency             payments;
    idempotency_concurrent  wait=120s;
    idempotency_waiters     10000;
    add_header              X-Pid $pid always;
END

my $backend = $t->backend;
my $n = 0;


sub pay { return (path => '/pay', key => 'k' . ++$n, body => 'eur=1') }


# A first request that the backend holds, and a crowd that waits for it.

sub wait_in_crowd {
    my (%request) = @_;

    my $first = $t->start_post(%request);
    $backend->wait_for_request;

    my $bytes = $t->connect->compose(method => 'POST', %request);
    my $crowd = Test::Idempotency::Crowd->new($t->port, MANY, $bytes,
        tell => sub {
            my ($m) = @_;
            my $kind = $m->header('Idempotent-Replayed') ? 'replay' : 'first';

            return join ' ', $m->status, $kind, $m->body, $m->header('X-Pid');
        });

    $t->wait_until(waiting => MANY);

    return ($first, $crowd);
}


# What the answers are, and which workers they are from.

sub by_worker {
    my ($answers) = @_;

    my (%all, %by);

    for (keys %$answers) {
        my ($told, $pid) = /(.*) (\d+)$/ ? ($1, $2) : ($_, 0);
        $all{$told} += $answers->{$_};
        $by{$pid} += $answers->{$_};
    }

    note "worker $_ answers $by{$_}" for sort keys %by;

    return (\%all, \%by);
}


# All get the answer.

my ($first, $crowd) = wait_in_crowd(pay());

$backend->answer(201, 'receipt');
is_answer($first, 201, 'receipt', 'the first gets the answer');

my ($all, $by) = by_worker($crowd->answers);

is_deeply($all, { '201 replay receipt' => MANY },
          'all who waited get the same');
is_deeply([ sort keys %$by ], [ sort $t->workers ], 'from both workers');
is($backend->requests, 1, 'the backend was asked once');
is($t->counter('waited'), MANY, 'so many have waited');

# The first is released: one runs, the rest wait on.  Then half of them leave,
# and the others are with workers that are to end.

($first, $crowd) = wait_in_crowd(pay());

$backend->answer(503, 'busy');
is_answer($first, 503, 'busy', 'one that is not carried out');
$backend->wait_for_request;
$t->wait_until(waiting => MANY - 1, running => 1);
is($backend->requests, 3, 'then one of those who wait runs');

$crowd->leave(MANY / 2);
wait_for('half of them leave', sub { $t->zone->{waiting} <= MANY / 2 });

my @old = sort $t->workers;

$t->reload;
$backend->answer(201, 'receipt');
($all, $by) = by_worker($crowd->answers);

# the one that ran may be among those who left

my $ran = delete $all->{'201 first receipt'} // 0;

cmp_ok($ran, '<=', 1, 'one has run');
is_deeply($all, { '201 replay receipt' => MANY / 2 - $ran },
          'all the others who stayed get its answer');
is_deeply([ sort keys %$by ], \@old, 'from the workers they had come to');
is($backend->requests, 3, 'nobody else ran');
$t->wait_for_old_workers;

done_testing;
