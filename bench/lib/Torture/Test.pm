package Torture::Test;

# A run as a test: each rule is one.
#
#   torture(redis => 1, guards => 1, seconds => 10);
#
# IDEMPOTENCY_TORTURE_SECONDS, else what the test says, else 60;
# IDEMPOTENCY_TORTURE_SEED, to do it again.

use strict;
use warnings;

use Exporter qw(import);
use Test::More;

use Torture::Run;

our @EXPORT = qw(torture);

my $run;

$SIG{INT} = $SIG{TERM} = sub { exit 130 };
$SIG{ALRM} = sub { die "not done in time\n" };

END {
    local $?;
    $run->stop if $run;
}


sub torture {
    my (%o) = @_;

    my $seconds = $ENV{IDEMPOTENCY_TORTURE_SECONDS} || $o{seconds} || 60;
    my $seed = $ENV{IDEMPOTENCY_TORTURE_SEED} || int rand 1e9;

    alarm $seconds + 300;

    diag("again: IDEMPOTENCY_TORTURE_SEED=$seed, or bench/torture "
         . join('', map { "--$_ " } grep { $o{$_} } qw(redis guards))
         . "--seed $seed");

    $run = Torture::Run->new(%o, seed => $seed, seconds => $seconds);
    $run->play;

    for my $rule ($run->rules) {
        my @wrong = $run->wrong($rule);

        ok(!@wrong, $run->means($rule))
            or diag(join "\n", splice @wrong, 0, 10);
    }

    diag($run->summary);
    done_testing();

    return;
}


1;
