package Test::Idempotency::FaultProxy;

# What may happen between a node and its Redis: a process that passes bytes on
# over TCP, and does to them what the test says, while it runs.
#
#   my $net = Test::Idempotency::FaultProxy->new($redis->port);
#   ... connect to 127.0.0.1, $net->port
#
#   $net->delay(down => 0.3);       # seconds; up is towards Redis
#   $net->stall(up => 1);           # nothing moves, until it is let go
#   $net->drop(up => 1, down => 1); # what is sent vanishes; a connection that
#                                   # has lost something never works again
#   $net->cut(down => 20);          # once so many more bytes have passed on
#                                   # a connection, it ends; once.  how =>
#                                   # 'close' or 'reset'
#   $net->accept('hold');           # takes connections and says nothing; also
#                                   # 'pass', 'refuse', 'reset' and 'vanish':
#                                   # who connects gets no answer
#   $net->unplug;                   # nothing arrives, nobody can connect
#   $net->pass;                     # all of it is over
#   $net->reset; $net->close;       # ends what is connected
#   $net->lead_to($port);           # where new connections go
#
# Each of them counts when it returns.  The other end of the control socket is
# Test::Idempotency::FaultProxy::Process.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(time);

use Test::Idempotency::Deadline;
use Test::Idempotency::FaultProxy::Process;
use Test::Idempotency::Server;


sub new {
    my ($class, $target) = @_;

    # bound and deaf: keeps the port ours while nobody listens

    my $place = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                      Proto => 'tcp', ReusePort => 1);
    die "no port for a proxy: $!\n" if !$place;

    socketpair my $near, my $far, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair: $!\n";

    my $self = bless { place => $place, port => $place->sockport,
                       control => $near, news => '', owner => $$ }, $class;

    $self->{pid} = fork // die "fork: $!\n";

    if ($self->{pid} == 0) {
        CORE::close $near;
        Test::Idempotency::FaultProxy::Process->new($self->{port}, $target,
                                                    $far)->run;
    }

    CORE::close $far;
    $self->_order('count');

    return $self;
}


sub port    { return $_[0]{port} }
sub address { return "127.0.0.1:$_[0]{port}" }


# Faults.

sub delay  { my ($self, %o) = @_; return $self->_set(delay => %o) }
sub stall  { my ($self, %o) = @_; return $self->_set(stall => %o) }
sub drop   { my ($self, %o) = @_; return $self->_set(drop => %o) }
sub accept { my ($self, $how) = @_; return $self->_order(accept => $how) }


sub cut {
    my ($self, %o) = @_;

    my $how = delete $o{how} // 'close';

    return $self->_order(cut => $how, _directions(%o));
}


sub unplug {
    my ($self) = @_;

    return $self->accept('vanish')->stall(up => 1, down => 1);
}


sub pass    { return $_[0]->_order('pass') }
sub reset   { return $_[0]->_order(end => 'reset') }
sub close   { return $_[0]->_order(end => 'close') }
sub lead_to { return $_[0]->_order(lead_to => $_[1]) }


# How many connections were ever made, and how many there are; how many bytes
# have come for a direction, whatever became of them.

sub connections { return $_[0]->_order('count')->{counts}{connections} }
sub open        { return $_[0]->_order('count')->{counts}{open} }
sub bytes       { return $_[0]->_order('count')->{counts}{ $_[1] } }


sub _directions {
    my (%o) = @_;

    for (keys %o) {
        die "no such direction: $_\n" if !/^(?:up|down)$/;
    }

    return \%o;
}


sub _set {
    my ($self, $what, %o) = @_;

    return $self->_order(set => $what, _directions(%o));
}


# Gives an order, and returns when it was carried out.

sub _order {
    my ($self, @order) = @_;

    my $bytes = pack_list(\@order);
    my $end = time + LIMIT;

    syswrite($self->{control}, $bytes) == length $bytes
        or die "the proxy has died: $!\n";

    for ( ;; ) {
        my $news = unpack_list(\$self->{news});

        if ($news) {
            my ($error, $counts) = @$news;
            die "proxy: $error\n" if $error;

            $self->{counts} = $counts;
            return $self;
        }

        my $left = $end - time;

        $left > 0 && IO::Select->new($self->{control})->can_read($left)
            && sysread $self->{control}, $self->{news}, 1 << 16,
                       length $self->{news}
            or die "the proxy does not answer\n";
    }
}


sub stop {
    my ($self) = @_;

    my $pid = delete $self->{pid} or return;

    local $?;
    kill 'KILL', $pid;
    waitpid $pid, 0;

    return;
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($@, $!);
    $self->stop;

    return;
}


1;
