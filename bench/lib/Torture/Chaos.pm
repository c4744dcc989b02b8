package Torture::Chaos;

# What happens to nginx: workers are killed, terminated and frozen, the
# configuration is loaded anew.  The log says when, to whom:
#
#   dead    a worker was sent a signal that ends it: t, pid, signal
#   freeze  it was stopped: t, until, pid
#   reload  t
#   point   t, name: the next worker that comes by that point of the module
#           dies there, in a build with NGX_IDEM_POINTS; the error log tells

use strict;
use warnings;

use Time::HiRes qw(sleep);

use Torture::Log;


# schedule, nodes (Test::Idempotency::Nginx each), log, root (of the source),
# trouble (a Torture::Trouble, or undef).

sub new {
    my ($class, %o) = @_;

    return bless { %o, next => 0, frozen => {}, count => {},
                   points => _points($o{root}),
                   log => Torture::Log->new($o{log}) }, $class;
}


sub _points {
    my ($root) = @_;

    local @ARGV = glob "$root/src/{store,http}/*.c";
    my %points = map { $_ => 1 } map { /\bNGX_IDEM_POINT\("([\w-]+)"\)/g } <>;

    return [ sort keys %points ];
}


sub count { return $_[0]{count} }


sub run_until {
    my ($self, $end) = @_;

    while (now() < $end) {
        my $event = $self->{schedule}->chaos($self->{next}++);

        $self->_sleep($event->{pause} / 1000, $end);
        last if now() >= $end;

        my $method = "_$event->{what}";
        $self->$method($event);
    }

    $self->_thaw(now() + 60);
    unlink glob $_->dir . '/points/*' for @{ $self->{nodes} };
    $self->{trouble}->calm if $self->{trouble};

    return;
}


sub _sleep {
    my ($self, $seconds, $end) = @_;

    my $wake = now() + $seconds;
    $wake = $end if $wake > $end;

    while ((my $left = $wake - now()) > 0) {
        sleep($left < 0.05 ? $left : 0.05);
        $self->_thaw(now());
        $self->{trouble}->step(now()) if $self->{trouble};
    }

    return;
}


sub _pick {
    my ($event, @pids) = @_;

    return @pids ? $pids[ $event->{which} % @pids ] : undef;
}


sub _workers     { return map { $_->workers } @{ $_[0]{nodes} } }
sub _old_workers { return map { $_->old_workers } @{ $_[0]{nodes} } }


sub _kill { return $_[0]->_end(KILL => _pick($_[1], $_[0]->_workers)) }
sub _term { return $_[0]->_end(TERM => _pick($_[1], $_[0]->_workers)) }


# One that ends its work after a reload.

sub _old {
    my ($self, $event) = @_;

    my @old = $self->_old_workers;

    return @old ? $self->_end(KILL => _pick($event, @old))
                : $self->_reload($event);
}


sub _end {
    my ($self, $signal, $pid) = @_;

    return if !$pid;

    $self->{log}->write('dead', t => now(), pid => $pid, signal => $signal);
    $self->{count}{kills}++ if kill $signal, $pid;

    return;
}


sub _freeze {
    my ($self, $event) = @_;

    my $pid = _pick($event, $self->_workers) or return;
    return if %{ $self->{frozen} };

    my $until = now() + $event->{ms} / 1000;

    $self->{log}->write('freeze', t => now(), until => $until, pid => $pid);
    $self->{frozen}{$pid} = $until if kill 'STOP', $pid;
    $self->{count}{freezes}++;

    return;
}


# A process that has ended meanwhile is no child of nginx's any more.

sub _thaw {
    my ($self, $now) = @_;

    my @over = grep { $self->{frozen}{$_} <= $now } keys %{ $self->{frozen} }
        or return;
    my %ours = map { $_ => 1 } $self->_workers, $self->_old_workers;

    for (@over) {
        kill 'CONT', $_ if $ours{$_};
        delete $self->{frozen}{$_};
    }

    return;
}


sub _reload {
    my ($self, $event) = @_;

    $self->{log}->write('reload', t => now());
    $self->{count}{reloads}++;

    return kill 'HUP', _pick($event, @{ $self->{nodes} })->{pid};
}


sub _point {
    my ($self, $event) = @_;

    my $point = _pick($event, @{ $self->{points} });

    $self->{log}->write('point', t => now(), name => $point);
    $_->write_file("points/$point", '') for _pick($event, @{ $self->{nodes} });

    return;
}


1;
