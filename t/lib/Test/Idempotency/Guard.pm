package Test::Idempotency::Guard;

# A process that ends those of a test when the test has ended without doing it,
# as when it was killed.

use strict;
use warnings;

use Exporter qw(import);
use POSIX ();

our @EXPORT = qw(guard unguard);

my ($pipe, $owner);


sub guard   { return _tell("+$_[0]\n") }
sub unguard { return _tell("-$_[0]\n") }


sub _tell {
    my ($order) = @_;

    _start() if !$pipe;

    syswrite $pipe, $order if $owner == $$;

    return;
}


sub _start {
    pipe my $orders, $pipe or die "pipe: $!\n";

    $owner = $$;

    my $pid = fork // die "fork: $!\n";
    return close $orders if $pid;

    close $pipe;
    $SIG{INT} = $SIG{TERM} = $SIG{HUP} = 'IGNORE';

    for (*STDIN, *STDOUT, *STDERR) {
        open $_, '+<', '/dev/null';
    }

    my %pids;

    while (my $order = readline $orders) {
        my ($what, $pid) = $order =~ /^(.)(\d+)/;

        $pids{$pid} = $what eq '+';
    }

    kill 'KILL', grep { $pids{$_} } keys %pids;
    POSIX::_exit(0);
}


1;
