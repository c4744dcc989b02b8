package Test::Idempotency::Crowd;

# Thousands of clients that send the same bytes, each on a connection of its
# own.  A few processes hold the connections; orders go to them, and what came
# of these comes back, over pairs of sockets.  They come from addresses of
# their own: at 127.0.0.1 a test beside us could no longer listen.

use strict;
use warnings;

use IO::Handle;
use IO::Socket::INET;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);

use Test::Idempotency::Deadline;
use Test::Idempotency::Message;

use constant PROCESSES => 4;
use constant BOUND => 5 * LIMIT;        # seconds for all that a crowd does


# How many clients there may be, in thousands, as a worker may have a
# connection of each of them.

sub most {
    my ($wanted) = @_;

    my $files = POSIX::sysconf(POSIX::_SC_OPEN_MAX()) // $wanted + 1000;
    my $most = 1000 * int($files / 1000) - 1000;

    return $most < $wanted ? $most : $wanted;
}


# Returns when all have sent.  tell => code: what to count of an answer, which
# it gets as a message.

sub new {
    my ($class, $port, $n, $bytes, %o) = @_;

    my $self = bless { tell => $o{tell}, children => [] }, $class;

    for my $i (1 .. PROCESSES) {
        my $share = int($n * $i / PROCESSES) - int($n * ($i - 1) / PROCESSES);

        push @{ $self->{children} },
            $self->_child('127.0.1.' . $i, $port, $share, $bytes);
    }

    $self->_hear;

    return $self;
}


sub _child {
    my ($self, $address, @order) = @_;

    socketpair my $near, my $far, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair: $!\n";
    $_->autoflush for $near, $far;

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        alarm BOUND;
        $SIG{PIPE} = 'IGNORE';
        close $_ for $near, map { $_->{control} } @{ $self->{children} };
        eval { $self->_run($far, $address, @order); 1 }
            or print STDERR "# crowd: $@";
        POSIX::_exit(0);
    }

    close $far;

    return { pid => $pid, control => $near };
}


sub _run {
    my ($self, $control, $address, $port, $n, $bytes) = @_;

    my @sockets;

    while (@sockets < $n) {
        my $socket = IO::Socket::INET->new(LocalAddr => $address,
                                           PeerAddr => "127.0.0.1:$port")
            or die "cannot connect: $!\n";

        syswrite($socket, $bytes) == length $bytes or die "cannot send: $!\n";
        push @sockets, $socket;
    }

    print {$control} ".\n";

    while (my $order = <$control>) {
        my ($what, $k) = split ' ', $order;

        if ($what eq 'leave') {
            splice @sockets, -$k;

        } else {
            my %told;
            $told{ $self->_answer($_) }++ for splice @sockets;
            print {$control} map { "$told{$_} $_\n" } sort keys %told;
        }

        print {$control} ".\n";
    }

    return;
}


sub _answer {
    my ($self, $socket) = @_;

    my $in = '';

    while (sysread $socket, $in, 1 << 16, length $in) { }

    my $m = Test::Idempotency::Message->parse(\$in, eof => 1);

    return $m ? $self->{tell}->($m) : 'no answer';
}


# So many hang up, the last ones first.

sub leave {
    my ($self, $n) = @_;

    $self->_say('leave ' . int($n / PROCESSES));
    $self->_hear;

    return $self;
}


# Waits for all answers: how many are told as what.

sub answers {
    my ($self) = @_;

    my %told;

    $self->_say('answers');

    for ($self->_hear) {
        my ($n, $what) = /^(\d+) (.*)$/;
        $told{$what} += $n;
    }

    $self->_end;

    return \%told;
}


sub _say {
    my ($self, $order) = @_;

    print { $_->{control} } "$order\n" for @{ $self->{children} };

    return;
}


# What all have to say, up to their full stops.

sub _hear {
    my ($self) = @_;

    my @said;

    for my $child (@{ $self->{children} }) {
        for ( ;; ) {
            my $line = readline $child->{control};

            die "a crowd has died\n" if !defined $line;
            last if $line eq ".\n";

            chomp $line;
            push @said, $line;
        }
    }

    return @said;
}


sub _end {
    my ($self) = @_;

    for (splice @{ $self->{children} }) {
        close $_->{control};
        waitpid $_->{pid}, 0;
    }

    return;
}


1;
