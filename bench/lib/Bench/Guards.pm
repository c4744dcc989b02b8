package Bench::Guards;

# What each guard, and each way to get a key, adds to a first request: there is
# no goal and no peer, only this module without it.

use strict;
use warnings;

use List::Util qw(sum);

use Bench::Contenders;
use Bench::Redis;
use Bench::Table qw(thousands);


our @ISA = qw(Bench::Redis);
our @PARTS = qw(guards);

my %TITLE = %Bench::Contenders::TITLE;


sub guards {
    my ($self) = @_;

    my $stage = $self->{stage};
    my $n = $stage->quick ? 1000 : 3000;

    for my $who ($stage->who('ours', 'shared')) {
        my $plain = total($stage->instructions($who, 'first', $n)) or next;
        my @texts;

        for my $guard (Bench::Contenders->guards) {
            my $of = $stage->instructions("$who+$guard", 'first', $n) or next;
            my $more = total($of) - $plain;

            push @texts, "$guard +" . thousands($more);
            $self->{table}->add(
                figure => "$guard: user-space instructions beyond a first "
                          . "request of $TITLE{$who} (" . thousands($plain)
                          . ')',
                ours   => [ $more ],
                format => sub { '+' . thousands($_[0]) },
            );
        }

        $self->{table}->detail('User-space instructions that a guard adds',
                               $TITLE{$who}, @texts);
    }

    return;
}


sub total {
    my ($of) = @_;

    return $of && sum(values %$of);
}


1;
