package Test::Idempotency::Deadline;

# No wait of a test is without an end.

use strict;
use warnings;

use Exporter qw(import);
use Time::HiRes qw(sleep time);

use constant LIMIT => $ENV{IDEMPOTENCY_TIMEOUT} || 10;     # seconds
use constant PAUSE => 0.01;

our @EXPORT = qw(LIMIT wait_for);


# Waits until the code says true, and returns what it said; dies of the reason
# (text, or code that makes it) when the time is over.

sub wait_for {
    my ($what, $code) = @_;

    my $end = time + LIMIT;

    for ( ;; ) {
        my $said = $code->();
        return $said if $said;

        last if time > $end;
        sleep PAUSE;
    }

    $what = $what->() if ref $what;
    die "gave up after @{[ LIMIT ]} s: $what\n";
}


1;
