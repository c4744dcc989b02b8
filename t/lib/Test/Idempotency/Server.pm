package Test::Idempotency::Server;

# The process behind Test::Idempotency::Backend: one loop over all connections
# and the pair of sockets that leads to the test.

use strict;
use warnings;

use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use POSIX qw(EAGAIN);
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_LINGER TCP_NODELAY);
use Storable qw(nfreeze thaw);

use Test::Idempotency::Message;

our @EXPORT = qw(pack_list unpack_list);


sub new {
    my ($class, $port, $control) = @_;

    $control->blocking(0);

    return bless { port => $port, control => $control, orders => '',
                   news => '', accept => 'read', rules => {}, conns => {} },
        $class;
}


# Does not return; ends when the test does.

sub run {
    my ($self) = @_;

    $SIG{PIPE} = $SIG{INT} = $SIG{TERM} = 'IGNORE';

    eval {
        $self->_listen;

        for ( ;; ) {
            $self->_turn;
        }
    };

    print STDERR "# backend: $@" if $@ ne "end\n";
    POSIX::_exit(0);
}


sub _listen {
    my ($self) = @_;

    $self->{listener} = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
        LocalPort => $self->{port}, ReusePort => 1, Listen => 128,
        Blocking => 0) or die "backend cannot listen: $!\n";

    return;
}


sub _turn {
    my ($self) = @_;

    my @conns = values %{ $self->{conns} };
    my $r = IO::Select->new($self->{control}, $self->{listener} || (),
        map { $_->{socket} } grep { !$_->{deaf} } @conns);
    my $w = IO::Select->new(length $self->{news} ? $self->{control} : (),
        map { $_->{socket} } grep { length $_->{out} } @conns);

    my ($readers, $writers) = IO::Select->select($r, $w);

    for my $fh (grep { $_ != $self->{control} } @$writers) {
        $self->_write($self->{conns}{ fileno $fh });
    }

    for my $fh (grep { $_ != $self->{control} } @$readers) {
        if ($self->{listener} && $fh == $self->{listener}) {
            $self->_accept;

        } elsif (defined fileno $fh) {
            $self->_read($self->{conns}{ fileno $fh });
        }
    }

    # orders come last: they see what was there before them

    $self->_obey if grep { $_ == $self->{control} } @$readers;
    $self->_tell if length $self->{news};

    return;
}


sub _accept {
    my ($self) = @_;

    while (my $socket = $self->{listener}->accept) {
        $socket->blocking(0);
        setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;

        my $c = { socket => $socket, in => '', out => '' };
        $self->{conns}{ fileno $socket } = $c;

        $c->{deaf} = 1 if $self->{accept} eq 'ignore';
        $self->_end($c, $self->{accept})
            if $self->{accept} =~ /^(close|reset)$/;
    }

    return;
}


sub _read {
    my ($self, $c) = @_;

    my $n = sysread $c->{socket}, $c->{in}, 1 << 18, length $c->{in};
    return if !defined $n && $! == EAGAIN;

    if (!$n) {
        $self->_news(gone => $c->{request}{id}) if $c->{request};
        return $self->_end($c, 'close');
    }

    return $self->_next_request($c);
}


sub _next_request {
    my ($self, $c) = @_;

    return if $c->{request};

    my $m = Test::Idempotency::Message->parse(\$c->{in});
    return if !$m;

    my $rules = $self->{rules};
    my ($path) = $m->uri =~ /^([^?]*)/;
    my $rule = $rules->{$path} || $rules->{''};

    $m->{id} = ++$self->{count};
    $m->{held} = !$rule;
    $c->{request} = $m;

    $self->_news(request => $m);
    $self->_answer($c, @$rule) if $rule;

    return;
}


sub _obey {
    my ($self) = @_;

    sysread $self->{control}, $self->{orders}, 1 << 18,
        length $self->{orders} or die "end\n";

    while (my $order = unpack_list(\$self->{orders})) {
        my ($what, $which, $answer) = @$order;

        if ($what eq 'answer') {
            my ($c) = grep { $_->{request} && $_->{request}{id} == $which }
                values %{ $self->{conns} };
            $self->_answer($c, @$answer) if $c;

        } elsif ($what eq 'on') {
            $self->{rules}{$which} = $answer;

        } elsif ($what eq 'hold') {
            $self->{rules} = {};

        } elsif ($what eq 'accept') {
            $self->{accept} = $which;

            if ($which ne 'refuse') {
                $self->_listen if !$self->{listener};

            } elsif ($self->{listener}) {

                # forgetting it is not enough: select() of this turn holds it

                CORE::close delete $self->{listener};
            }

        } elsif ($what eq 'sync') {
            $self->_news(sync => $which);
        }
    }

    return;
}


sub _answer {
    my ($self, $c, $status, $body, $o) = @_;

    my $m = $c->{request};
    my $keep = $m->version eq 'HTTP/1.1' ? 'keep' : 'close';
    $keep = 'close' if lc($m->header('Connection') // '') eq 'close';

    $body //= '';
    $body =~ s/%n/$m->{id}/g if !$m->{held};

    if (defined $o->{raw}) {
        $c->{out} .= $o->{raw};
        $keep = 'close';

    } else {
        $c->{out} .= _compose($m->method, $status, $body, $o);
        $keep = 'close' if defined $o->{cut};
    }

    $c->{then} = $o->{then} || $keep;

    return $self->_write($c);
}


sub _compose {
    my ($method, $status, $body, $o) = @_;

    my @fields = map { "$_->[0]: $_->[1]" } @{ $o->{headers} || [] };

    if ($o->{chunked}) {
        push @fields, 'Transfer-Encoding: chunked';
        $body = join '', map { sprintf "%x\r\n%s\r\n", length $_, $_ }
            @{ $o->{chunked} }, '';

    } elsif ($status !~ /^(1..|204|304)$/) {
        push @fields, 'Content-Length: ' . length $body;
    }

    $body = '' if $method eq 'HEAD';
    $body = substr $body, 0, $o->{cut} if defined $o->{cut};

    my $reason = $o->{reason} // 'Told So';

    return join "\r\n", "HTTP/1.1 $status $reason", @fields, '', $body;
}


sub _write {
    my ($self, $c) = @_;

    return if !$c || !$c->{socket};

    if (length $c->{out}) {
        my $n = syswrite $c->{socket}, $c->{out};
        return if !defined $n && $! == EAGAIN;
        return $self->_end($c, 'close') if !defined $n;

        substr $c->{out}, 0, $n, '';
        return if length $c->{out};
    }

    my $then = delete $c->{then} || 'hold';
    return if $then eq 'hold';

    delete $c->{request};

    return $then eq 'keep' ? $self->_next_request($c)
                           : $self->_end($c, $then);
}


sub _end {
    my ($self, $c, $how) = @_;

    delete $self->{conns}{ fileno $c->{socket} };

    setsockopt $c->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0
        if $how eq 'reset';
    CORE::close delete $c->{socket};

    return;
}


sub _news {
    my ($self, @news) = @_;

    $self->{news} .= pack_list(\@news);

    return;
}


sub _tell {
    my ($self) = @_;

    my $n = syswrite $self->{control}, $self->{news};
    die "end\n" if !defined $n && $! != EAGAIN;
    substr $self->{news}, 0, $n || 0, '';

    return;
}


# Lists over a stream, with their lengths.

sub pack_list {
    my ($list) = @_;

    return pack 'N/a*', nfreeze($list);
}


sub unpack_list {
    my ($in) = @_;

    return if length $$in < 4;

    my $length = unpack 'N', $$in;
    return if length $$in < 4 + $length;

    return thaw(substr substr($$in, 0, 4 + $length, ''), 4);
}


1;
