#!/usr/bin/perl

# Whatever happens to clients, upstream and workers, at any moment and all at
# once: nothing is carried out twice, every answer is the right one, no key is
# stuck, nothing is left behind.  bench/README.md tells how that is known.
#
# IDEMPOTENCY_TORTURE_SECONDS, 60; IDEMPOTENCY_TORTURE_SEED, to do it again.

use strict;
use warnings;

use lib 't/lib', 'bench/lib';

use Test::More;

use Torture::Run;

my $seconds = $ENV{IDEMPOTENCY_TORTURE_SECONDS} || 60;
my $seed = $ENV{IDEMPOTENCY_TORTURE_SEED} || int rand 1e9;

$SIG{INT} = $SIG{TERM} = sub { exit 130 };
$SIG{ALRM} = sub { die "not done in time\n" };
alarm $seconds + 300;

diag("again: IDEMPOTENCY_TORTURE_SEED=$seed, or bench/torture --seed $seed");

my $run = Torture::Run->new(seed => $seed, seconds => $seconds);

END {
    local $?;
    $run->stop if $run;
}

$run->play;

for my $rule ($run->rules) {
    my @wrong = $run->wrong($rule);

    ok(!@wrong, $run->means($rule))
        or diag(join "\n", splice @wrong, 0, 10);
}

diag($run->summary);

done_testing;
