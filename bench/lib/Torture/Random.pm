package Torture::Random;

# Streams of random numbers.  A stream belongs to a list of names: the seed,
# who draws, and for what.  So what is drawn does not depend on when.

use strict;
use warnings;

use Digest::SHA qw(sha256);


sub new {
    my ($class, @names) = @_;

    my ($state) = unpack 'Q', sha256(join "\0", @names);

    return bless { state => $state | 1 }, $class;
}


# xorshift64

sub _next {
    my ($self) = @_;

    my $x = $self->{state};

    $x ^= $x << 13;
    $x ^= $x >> 7;
    $x ^= $x << 17;

    $self->{state} = $x;

    return $x >> 11;
}


sub below   { return $_[0]->_next % $_[1] }
sub between { return $_[1] + $_[0]->below($_[2] - $_[1] + 1) }
sub chance  { return $_[0]->below(1000) < 1000 * $_[1] }
sub pick    { return $_[1 + $_[0]->below(@_ - 1)] }


# One of the names in a list of name => weight.

sub weighted {
    my ($self, @table) = @_;

    my $sum = 0;
    $sum += $table[2 * $_ + 1] for 0 .. @table / 2 - 1;

    my $at = $self->below($sum * 1000) / 1000;

    while (@table > 2) {
        my ($name, $weight) = splice @table, 0, 2;
        return $name if $at < $weight;
        $at -= $weight;
    }

    return $table[0];
}


1;
