package Torture::Log;

# What an actor has seen, a line an event: a word, and name=value, with tabs
# in between.  A line is there as soon as it was written.

use strict;
use warnings;

use Fcntl qw(O_APPEND O_CREAT O_SYNC O_WRONLY);
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);

use Exporter qw(import);

our @EXPORT = qw(now);


# One clock for all processes, which nobody sets.

sub now { return clock_gettime(CLOCK_MONOTONIC) }


# Option: durable, a line is on the disk when write() returns.

sub new {
    my ($class, $file, %o) = @_;

    sysopen my $fh, $file,
        O_WRONLY | O_CREAT | O_APPEND | ($o{durable} ? O_SYNC : 0)
        or die "$file: $!\n";

    return bless { fh => $fh }, $class;
}


sub write {
    my ($self, $what, @fields) = @_;

    my $line = $what;

    while (my ($name, $value) = splice @fields, 0, 2) {
        next if !defined $value;
        $value = sprintf '%.6f', $value if $value =~ /^\d+\.\d+$/;
        $line .= "\t$name=$value";
    }

    my $n = syswrite $self->{fh}, "$line\n";
    die "a log cannot be written: $!\n" if !$n || $n != length($line) + 1;

    return;
}


# All lines of a log: { what => word, name => value, ... }.

sub read {
    my ($class, $file) = @_;

    open my $in, '<:raw', $file or return;

    return map {
        chomp;
        my ($what, @fields) = split /\t/;
        { what => $what, map { split /=/, $_, 2 } @fields }
    } <$in>;
}


1;
