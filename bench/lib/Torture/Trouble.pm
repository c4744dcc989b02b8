package Torture::Trouble;

# What happens to the Redis that two nodes share, and to the nets between it
# and them, beside all else: the net is slow, swallows what is said, cuts a
# connection after so many bytes, lets nobody in; Redis hangs, crashes, forgets
# its scripts, dismisses its clients.  It writes down what it acknowledges, and
# so loses nothing.  A net has one trouble at a time, and so has Redis.  The log
# says when it was over:
#
#   trouble  t, to, kind, node: whose net it was

use strict;
use warnings;

use Test::Idempotency::FaultProxy;
use Test::Idempotency::Redis;

use Torture::Log;

my %of_redis = map { $_ => 1 } qw(hang crash forget dismiss);


# schedule, nodes: how many.

sub new {
    my ($class, %o) = @_;

    my $redis = Test::Idempotency::Redis->new(
        conf => [ 'appendonly yes', 'appendfsync always' ]);
    my @nets = map { Test::Idempotency::FaultProxy->new($redis->port) }
        1 .. $o{nodes};

    return bless { %o, redis => $redis, nets => \@nets, next => 0, count => {},
                   now => {} }, $class;
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


# Ends what has lasted long enough, and begins what is due.

sub step {
    my ($self, $now) = @_;

    $self->_end($now);

    return if $now < $self->{at};

    my $event = $self->{event};
    my $whom = $of_redis{ $event->{what} } ? 'redis'
                                           : $event->{which} % @{ $self->{nets} };

    $self->_begin($whom, $event) if !$self->{now}{$whom};

    return $self->_plan($now);
}


sub _begin {
    my ($self, $whom, $event) = @_;

    my $method = "_$event->{what}";
    my $began = now();
    my $end = $self->$method($event, $self->{nets}[$whom eq 'redis' ? 0
                                                                    : $whom]);

    $self->{count}{ $event->{what} }++;
    $self->{now}{$whom} = {
        t => $began, to => $end ? now() + $event->{ms} / 1000 : now(),
        kind => $event->{what}, node => $whom eq 'redis' ? undef : $whom,
        end => $end,
    };

    return;
}


sub _end {
    my ($self, $now) = @_;

    for my $whom (sort keys %{ $self->{now} }) {
        next if $self->{now}{$whom}{to} > $now;

        my $trouble = delete $self->{now}{$whom};
        my $end = $trouble->{end};

        $end->() if $end;
        $self->{log}->write('trouble', to => now(),
                            map { $_ => $trouble->{$_} } qw(t kind node));
    }

    return;
}


sub calm { return $_[0]->_end(1e99) }


# Troubles.  They return what ends them, if they last.

sub _delay {
    my ($self, $event, $net) = @_;

    $net->delay(map { $_ => $event->{late} / 1000 } @{ $event->{ways} });

    return sub { $net->pass };
}


# A connection that has lost something never works again, and nobody says so.

sub _drop {
    my ($self, $event, $net) = @_;

    $net->drop(map { $_ => 1 } @{ $event->{ways} });

    return sub { $net->pass };
}


sub _stall {
    my ($self, $event, $net) = @_;

    $net->stall(map { $_ => 1 } @{ $event->{ways} });

    return sub { $net->pass };
}


sub _cut {
    my ($self, $event, $net) = @_;

    $net->cut($event->{ways}[0] => $event->{bytes}, how => $event->{how});

    return sub { $net->pass };
}


sub _unplug {
    my ($self, $event, $net) = @_;

    $net->unplug;

    return sub { $net->pass; $net->reset };
}


# What is connected ends; who connects is treated like that.

sub _half_open { return $_[0]->_shut($_[1], $_[2], 'hold') }
sub _refuse    { return $_[0]->_shut($_[1], $_[2], 'refuse') }
sub _vanish    { return $_[0]->_shut($_[1], $_[2], 'vanish') }
sub _deny      { return $_[0]->_shut($_[1], $_[2], 'reset') }


sub _shut {
    my ($self, $event, $net, $how) = @_;

    $net->accept($how);
    $self->_reset($event, $net);

    return sub { $net->pass; $net->reset if $how eq 'hold' };
}


sub _reset {
    my ($self, $event, $net) = @_;

    $event->{how} eq 'reset' ? $net->reset : $net->close;

    return;
}


sub _hang {
    my ($self) = @_;

    my $redis = $self->{redis}->pause;

    return sub { $redis->resume };
}


sub _crash {
    my ($self) = @_;

    my $redis = $self->{redis}->kill;

    return sub { $redis->start };
}


sub _forget {
    my ($self) = @_;

    $self->{redis}->command(qw(SCRIPT FLUSH));

    return;
}


sub _dismiss {
    my ($self, $event) = @_;

    $self->{redis}->command(qw(CLIENT KILL TYPE), $_, qw(SKIPME yes))
        for @{ $event->{clients} };

    return;
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
        push @wrong, "$key on Redis runs, or is held"
            if $state =~ /^[IG]1r$/ && $left > $life;
        push @wrong, "$key on Redis is no record, and no guard"
            if $state !~ /^(?:I1[rduk]|G1[rd])$/;
    }

    return @wrong;
}


sub stop {
    my ($self) = @_;

    return if $self->{stopped}++;

    $_->stop for @{ $self->{nets} };
    $self->{redis}->kill;

    return;
}


1;
