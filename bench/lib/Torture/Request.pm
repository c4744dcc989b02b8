package Torture::Request;

# One request of a client: connects, sends, reads the answer, or leaves in the
# midst of it, all as the schedule says.  Ends in one of these ways:
#
#   answer   a whole one came
#   none     the other side has closed, without a byte of an answer
#   part     it has closed within the answer
#   left     the client has left
#   late     nothing came for so long that the client gave up

use strict;
use warnings;

use Errno qw(EAGAIN EINPROGRESS);
use Fcntl qw(F_GETFL F_SETFL O_NONBLOCK);
use Socket qw(AF_INET IPPROTO_TCP SOCK_STREAM SOL_SOCKET SO_ERROR SO_LINGER
              SO_RCVBUF TCP_NODELAY inet_aton pack_sockaddr_in);

use Test::Idempotency::Message;

use Torture::Log;

use constant PATIENCE => 30;            # seconds


# loop, port, plan (see Torture::Schedule), bytes and body (their last part),
# socket (of an earlier request, or undef), done: code that gets the request.

sub new {
    my ($class, %o) = @_;

    my $self = bless { %o, in => '', fresh => $o{socket} ? 0 : 1 }, $class;

    $self->{leave} = $self->{plan}{leave} || { when => 'never' };
    $self->{t0} = now();
    $self->_in(PATIENCE, sub { $self->_end('late') });

    if ($self->{socket}) {
        $self->_connected;

    } else {
        $self->_connect;
    }

    return $self;
}


sub _connect {
    my ($self) = @_;

    socket my $socket, AF_INET, SOCK_STREAM, IPPROTO_TCP
        or die "socket: $!\n";

    fcntl $socket, F_SETFL, O_NONBLOCK | fcntl $socket, F_GETFL, 0;
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4096 if $self->{plan}{slow};

    $self->{socket} = $socket;

    connect $socket, pack_sockaddr_in($self->{port}, inet_aton('127.0.0.1'))
        or $!{EINPROGRESS}
        or return $self->_in(0, sub { $self->_end('none') });

    $self->{loop}->watch($socket, write => sub {
        return $self->_end('none')
            if unpack 'i', getsockopt $socket, SOL_SOCKET, SO_ERROR;
        $self->_connected;
    });

    return;
}


# Later, if the request has not ended by then.

sub _in {
    my ($self, $seconds, $code) = @_;

    push @{ $self->{timers} },
        $self->{loop}->after($seconds, sub { $code->() if $self->{done} });

    return;
}


sub _connected {
    my ($self) = @_;

    my $pieces = $self->{plan}{pieces};
    my $size = int(length($self->{bytes}) / $pieces) + 1;
    my $when = $self->{leave}{when};

    $self->{loop}->watch($self->{socket});

    return $self->_in(0, sub { $self->_leave }) if $when eq 'begin';

    $self->{most} = int($self->{leave}{at} * length $self->{bytes})
        if $when eq 'part';
    $self->{pieces} = [ unpack "(a$size)*", $self->{bytes} ];
    $self->{out} = '';
    $self->{sent} = 0;

    return $self->_piece;
}


sub _piece {
    my ($self) = @_;

    $self->{out} = shift @{ $self->{pieces} };

    return $self->_write;
}


sub _write {
    my ($self) = @_;

    my $most = defined $self->{most} ? $self->{most} - $self->{sent}
                                     : length $self->{out};
    my $n = $most > 0 ? syswrite $self->{socket}, $self->{out}, $most : 0;

    if (!defined $n && !$!{EAGAIN}) {
        return $self->_await;           # an answer may be there even so
    }

    $self->{sent} += $n // 0;
    substr $self->{out}, 0, $n // 0, '';

    return $self->_leave
        if defined $self->{most} && $self->{sent} >= $self->{most};

    if (length $self->{out}) {
        return $self->{loop}->watch($self->{socket},
            read => sub { $self->_read }, write => sub { $self->_write });
    }

    return $self->_all_sent if !@{ $self->{pieces} };

    $self->_await;

    return $self->_in($self->{plan}{pause} / 1000, sub { $self->_piece });
}


sub _all_sent {
    my ($self) = @_;

    my $leave = $self->{leave};

    $self->{t1} = now();
    $self->_await;
    $self->_in($leave->{ms} / 1000, sub { $self->_leave })
        if $leave->{when} eq 'sent';

    return;
}


sub _await {
    my ($self) = @_;

    $self->{loop}->watch($self->{socket}, read => sub { $self->_read });

    return;
}


# A slow reader takes little, and then rests.

sub _read {
    my ($self) = @_;

    my $slow = $self->{plan}{slow};
    my $n = sysread $self->{socket}, $self->{in}, $slow ? 4096 : 1 << 17,
        length $self->{in};

    return if !defined $n && $!{EAGAIN};

    $self->{got} //= now() if $n;

    return $self->_leave if $n && $self->{leave}{when} eq 'answer'
                            && !$self->{half};

    my $m = Test::Idempotency::Message->parse(\$self->{in}, eof => !$n);

    if ($m) {
        $self->{answer} = $m;
        return $self->_end('answer');
    }

    return $self->_end(length $self->{in} ? 'part' : 'none') if !$n;

    if ($slow) {
        $self->{loop}->watch($self->{socket});
        $self->_in(0.02, sub { $self->_await });
    }

    return;
}


# A client that has closed its half only may still get an answer.

sub _leave {
    my ($self) = @_;

    my $how = $self->{leave}{how};

    if ($how eq 'half') {
        $self->{half} = 1;
        shutdown $self->{socket}, 1;
        return $self->_await;
    }

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0
        if $how eq 'reset';

    return $self->_end('left');
}


sub _end {
    my ($self, $how) = @_;

    my $done = delete $self->{done} or return;

    $self->{t2} = now();
    $self->{end} = $how;

    $self->{loop}->cancel($_) for @{ $self->{timers} };
    $self->{loop}->watch($self->{socket});

    close delete $self->{socket} if !$self->can_be_kept;

    $done->($self);

    return;
}


sub can_be_kept {
    my ($self) = @_;

    return $self->{end} eq 'answer' && $self->{t1} && $self->{plan}{keep}
        && $self->{leave}{when} eq 'never' && $self->{in} eq ''
        && lc($self->{answer}->header('Connection') // '') ne 'close';
}


1;
