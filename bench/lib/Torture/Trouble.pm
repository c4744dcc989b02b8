package Torture::Trouble;

# What happens to the Redis that two nodes share, and to the nets between it
# and them, beside all else: the net is slow, swallows what is said, cuts a
# connection after so many bytes, lets nobody in; Redis hangs, forgets its
# scripts, dismisses its clients.  It loses nothing.  The log says when:
#
#   trouble  t, to, kind, node

use strict;
use warnings;

use Test::Idempotency::FaultProxy;
use Test::Idempotency::Redis;

use Torture::Log;


# schedule, nodes: how many.

sub new {
    my ($class, %o) = @_;

    my $redis = Test::Idempotency::Redis->new;
    my @nets = map { Test::Idempotency::FaultProxy->new($redis->port) }
        1 .. $o{nodes};

    return bless { %o, redis => $redis, nets => \@nets, next => 0, count => 0,
                   over => [] }, $class;
}


sub redis { return $_[0]{redis} }
sub ports { return map { $_->port } @{ $_[0]{nets} } }
sub count { return $_[0]{count} }


sub begin {
    my ($self, $now, $log) = @_;

    $self->{log} = Torture::Log->new($log);

    return $self->_plan($now);
}


sub _plan {
    my ($self, $now) = @_;

    $self->{event} = $self->{schedule}->trouble($self->{next}++);
    $self->{at} = $now + $self->{event}{pause} / 1000;

    return;
}


# Does what is due.

sub step {
    my ($self, $now) = @_;

    $self->_end($now);

    return if $now < $self->{at};

    my $event = $self->{event};
    my $node = $event->{which} % @{ $self->{nets} };
    my $method = "_$event->{what}";

    $self->{log}->write('trouble', t => $now, to => $now + $event->{ms} / 1000,
                        kind => $event->{what}, node => $node);
    $self->{count}++;
    $self->$method($self->{nets}[$node], $event);

    return $self->_plan($now);
}


# What lasts for some time is over.

sub _end {
    my ($self, $now) = @_;

    my @over = grep { $_->[0] <= $now } @{ $self->{over} };

    @{ $self->{over} } = grep { $_->[0] > $now } @{ $self->{over} };
    $_->[1]->() for @over;

    return;
}


sub calm {
    my ($self) = @_;

    $self->_end(1e99);
    $_->pass for @{ $self->{nets} };

    return;
}


sub _for {
    my ($self, $event, $code) = @_;

    push @{ $self->{over} }, [ now() + $event->{ms} / 1000, $code ];

    return;
}


sub _delay {
    my ($self, $net, $event) = @_;

    $net->delay($event->{way} => $event->{ms} / 4000);

    return $self->_for($event, sub { $net->pass });
}


# A connection that has lost something never works again.

sub _drop {
    my ($self, $net, $event) = @_;

    $net->drop($event->{way} => 1);

    return $self->_for($event, sub { $net->pass; $net->reset });
}


sub _cut {
    my ($self, $net, $event) = @_;

    return $net->cut($event->{way} => $event->{bytes},
                     how => $event->{which} % 2 ? 'close' : 'reset');
}


sub _half_open {
    my ($self, $net, $event) = @_;

    $net->accept('hold');
    $net->reset;

    return $self->_for($event, sub { $net->pass; $net->reset });
}


sub _refuse {
    my ($self, $net, $event) = @_;

    $net->accept('refuse');
    $net->reset;

    return $self->_for($event, sub { $net->pass });
}


sub _reset { return $_[1]->reset }


sub _hang {
    my ($self, $net, $event) = @_;

    return if $self->{hangs};

    $self->{hangs} = 1;
    $self->{redis}->pause;

    return $self->_for($event, sub {
        $self->{hangs} = 0;
        $self->{redis}->resume;
    });
}


sub _forget {
    my ($self) = @_;

    return if $self->{hangs};

    return $self->{redis}->command(qw(SCRIPT FLUSH));
}


sub _dismiss {
    my ($self) = @_;

    return if $self->{hangs};

    return $self->{redis}->command(qw(CLIENT KILL TYPE normal SKIPME yes));
}


# What is left on Redis when all is over: nothing that runs, and nothing that
# never ends.

sub remains {
    my ($self) = @_;

    my @wrong;

    for my $key (@{ $self->{redis}->command('KEYS', '*') }) {
        my $left = $self->{redis}->command('PTTL', $key);
        my $value = $self->{redis}->command('GET', $key) // next;
        my ($state, undef, $life) = unpack 'a3 a56 d>', $value;

        push @wrong, "$key on Redis never ends" if $left == -1;
        push @wrong, "$key on Redis runs"
            if $state eq 'I1r' && $left > $life;
        push @wrong, "$key on Redis is no record"
            if $state !~ /^I1[rduk]$/;
    }

    return @wrong;
}


sub stop {
    my ($self) = @_;

    return if $self->{stopped}++;

    $self->{redis}->resume;
    $_->stop for @{ $self->{nets} };
    $self->{redis}->stop;

    return;
}


1;
