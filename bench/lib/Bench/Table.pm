package Bench::Table;

# Numbers, and the table they end up in.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(median ratios spread thousands lowest);


sub new {
    my ($class) = @_;

    return bless { rows => [], details => [] }, $class;
}


# One row: figure, goal, peer (text); and either text and met, or ours (a list
# of values), bound, format and least (more is better).  No goal: no verdict.

sub add {
    my ($self, %r) = @_;

    if ($r{ours}) {
        my $m = median($r{ours});

        $r{text} = spread($r{ours}, $r{format});
        $r{met} = $r{goal}
            && ($r{least} ? $m >= $r{bound} : $m <= $r{bound});
    }

    my $verdict = !defined $r{text} || !$r{goal} ? '-' : $r{met} ? 'met' : '**missed**';
    my @row = map { $_ || '-' } @r{qw(figure goal text peer)}, $verdict;

    push @{ $self->{rows} }, \@row;
    printf STDERR "  %s: ours %s, goal %s, peer %s\n", @row[0, 2, 1, 3];

    return;
}


# What everybody reached, under a heading: $of is text by name.

sub detail {
    my ($self, $heading, $title, @texts) = @_;

    my ($section) = grep { $_->[0] eq $heading } @{ $self->{details} };

    if (!$section) {
        $section = [ $heading ];
        push @{ $self->{details} }, $section;
    }

    push @$section, [ $title, join '; ', @texts ];

    return;
}


sub text {
    my ($self) = @_;

    my $text = table([ qw(figure goal ours), 'best peer', 'verdict' ],
                     @{ $self->{rows} });

    for (@{ $self->{details} }) {
        my ($heading, @rows) = @$_;
        $text .= "\n$heading:\n\n" . table([ '', '' ], @rows);
    }

    return $text;
}


sub table {
    my ($head, @rows) = @_;

    return join '', map { '| ' . join(' | ', @$_) . " |\n" }
        $head, [ map { '---' } @$head ], @rows;
}


sub median {
    my ($list) = @_;

    my @sorted = sort { $a <=> $b } @$list;

    return $sorted[@sorted / 2];
}


# Round by round: what the machine did to both goes out.

sub ratios {
    my ($of, $by) = @_;

    my $n = @$of < @$by ? @$of : @$by;

    return [ map { $of->[$_] / $by->[$_] } 0 .. $n - 1 ];
}


# "median (least-most)"

sub spread {
    my ($list, $format) = @_;

    $format ||= sub { sprintf '%.2f', $_[0] };
    my @sorted = sort { $a <=> $b } @$list;

    return $format->($sorted[0]) if @sorted == 1;
    return sprintf '%s (%s-%s)', map { $format->($_) }
        median($list), $sorted[0], $sorted[-1];
}


sub thousands {
    my ($n) = @_;

    my $text = sprintf '%.0f', $n;
    1 while $text =~ s/^(-?\d+)(\d{3})/$1,$2/;

    return $text;
}


# The names of a hash of numbers, the lowest first.

sub lowest {
    my ($of) = @_;

    return sort { $of->{$a} <=> $of->{$b} || $a cmp $b }
        grep { defined $of->{$_} } keys %$of;
}


1;
