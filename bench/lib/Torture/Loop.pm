package Torture::Loop;

# An event loop: files that can be read or written, and times that come.

use strict;
use warnings;

use Errno qw(EINTR);

use Torture::Log;


sub new {
    my ($class) = @_;

    return bless { reads => '', writes => '', files => {}, timers => [],
                   count => 0, ended => 0 }, $class;
}


# watch($fh, read => code, write => code): what is not given is not watched.

sub watch {
    my ($self, $fh, %on) = @_;

    my $fd = fileno $fh;

    vec($self->{reads}, $fd, 1) = $on{read} ? 1 : 0;
    vec($self->{writes}, $fd, 1) = $on{write} ? 1 : 0;

    if (%on) {
        $self->{files}{$fd} = \%on;

    } else {
        delete $self->{files}{$fd};
    }

    return;
}


# Calls the code so many seconds from now.  Returns what cancel() takes.

sub after {
    my ($self, $seconds, $code) = @_;

    my $timers = $self->{timers};
    my $timer = { at => now() + $seconds, code => $code };
    my ($low, $high) = (0, scalar @$timers);

    while ($low < $high) {
        my $middle = ($low + $high) >> 1;

        if ($timers->[$middle]{at} <= $timer->{at}) {
            $low = $middle + 1;

        } else {
            $high = $middle;
        }
    }

    splice @$timers, $low, 0, $timer;

    return $timer;
}


sub cancel {
    my ($self, $timer) = @_;

    delete $timer->{code} if $timer;

    return;
}


sub end { $_[0]{ended} = 1; return }


# Until somebody calls end(), or nothing is left to wait for.

sub run {
    my ($self) = @_;

    $self->{ended} = 0;
    $self->_turn while !$self->{ended} && $self->_busy;

    return;
}


sub _busy {
    my ($self) = @_;

    my $timers = $self->{timers};
    shift @$timers while @$timers && !$timers->[0]{code};

    return @$timers || %{ $self->{files} };
}


sub _turn {
    my ($self) = @_;

    my $timers = $self->{timers};
    my $left = @$timers ? $timers->[0]{at} - now() : undef;
    $left = 0 if defined $left && $left < 0;

    my $n = select my $r = $self->{reads}, my $w = $self->{writes}, undef,
        $left;
    die "select: $!\n" if $n < 0 && $! != EINTR;

    $self->_call($r, $w) if $n > 0;

    my $now = now();

    while (@$timers && $timers->[0]{at} <= $now) {
        my $code = delete shift(@$timers)->{code} or next;
        $code->();
    }

    return;
}


# A file may be closed, and its number given to another, by a call before.

sub _call {
    my ($self, $r, $w) = @_;

    my $files = $self->{files};

    for my $fd (keys %$files) {
        my $on = $files->{$fd} or next;

        if (vec($w, $fd, 1) && $on->{write}) {
            $on->{write}->();
        }

        if (vec($r, $fd, 1) && $on->{read} && ($files->{$fd} // 0) == $on) {
            $on->{read}->();
        }
    }

    return;
}


1;
