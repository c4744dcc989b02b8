package Test::Idempotency::Connection;

# A client's connection: requests go out as they are told to, answers are
# collected later, and every wait has an end.  Options: tls; alpn, a protocol
# that is offered then; rcvbuf, bytes that the socket may hold.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX qw(EAGAIN);
use Socket qw(INADDR_LOOPBACK IPPROTO_TCP SOL_SOCKET SO_LINGER SO_RCVBUF
              TCP_NODELAY);
use Time::HiRes qw(time);

use Test::Idempotency::Deadline;
use Test::Idempotency::Message;

use constant FIONREAD => 0x541b;


sub new {
    my ($class, $port, %o) = @_;

    my $socket = IO::Socket::INET->new(Proto => 'tcp', Timeout => LIMIT);

    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, $o{rcvbuf} if $o{rcvbuf};
    $socket->connect($port, INADDR_LOOPBACK)
        or die "cannot connect to port $port: $!\n";

    # what is sent is there before what is sent elsewhere later

    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    binmode $socket;
    _start_tls($socket, $o{alpn}) if $o{tls};
    $socket->blocking(0);

    return bless { socket => $socket, port => $port, tls => $o{tls}, in => '',
                   out => '', methods => [] }, $class;
}


# Whether there can be TLS: Perl itself has none.

sub tls_available { return eval { require IO::Socket::SSL } }


# A context takes longer than a handshake, so it is kept.

my %contexts;


sub _start_tls {
    my ($socket, $alpn) = @_;

    require IO::Socket::SSL;

    my $context = $contexts{ $alpn // '' } ||=
        IO::Socket::SSL::SSL_Context->new(SSL_verify_mode => 0,
            $alpn ? (SSL_alpn_protocols => [ $alpn ]) : ());

    IO::Socket::SSL->start_SSL($socket, SSL_reuse_ctx => $context,
                               Timeout => LIMIT)
        or die "no TLS: $IO::Socket::SSL::SSL_ERROR\n";

    return;
}


# The bytes of a request.  Options: method, path, key, body, headers as pairs,
# chunked as pieces of the body, http as version.  A field among headers
# stands in place of the one that we would send.

sub compose {
    my ($self, %o) = @_;

    my $body = $o{body} // '';
    my @given = @{ $o{headers} || [] };
    my @fields = ([ 'Host', 'localhost' ], [ 'Connection', 'close' ]);

    push @fields, [ 'Idempotency-Key', $o{key} ] if defined $o{key};

    if ($o{method} !~ /^(GET|HEAD)$/ || length $body || $o{chunked}) {
        push @fields,
            [ 'Content-Type', 'application/x-www-form-urlencoded' ],
            $o{chunked} ? [ 'Transfer-Encoding', 'chunked' ]
                        : [ 'Content-Length', length $body ];
    }

    my %given = map { lc $_->[0] => 1 } @given;
    @fields = ((grep { !$given{ lc $_->[0] } } @fields), @given);

    $body = join '', map { sprintf "%x\r\n%s\r\n", length $_, $_ }
        @{ $o{chunked} }, '' if $o{chunked};

    return join "\r\n",
        "$o{method} $o{path} HTTP/" . ($o{http} || '1.1'),
        (map { "$_->[0]: $_->[1]" } @fields), '', $body;
}


# Sends a request, composed or as bytes; the answer is read by response().

sub request {
    my ($self, %o) = @_;

    return $self->send($self->compose(%o), $o{method});
}


sub send {
    my ($self, $bytes, @methods) = @_;

    $self->{out} .= $bytes;
    push @{ $self->{methods} }, @methods;

    my $end = time + LIMIT;

    while (length $self->{out} && !$self->{eof}) {
        $self->_pump($end) or die "gave up sending to port $self->{port}\n";
    }

    return $self;
}


# The first answer, however often it is asked for.

sub response {
    my ($self) = @_;

    return $self->{response} ||= $self->next_response;
}


# The next answer on the connection; a broken() one if none comes.

sub next_response {
    my ($self) = @_;

    my $end = time + LIMIT;
    my @interim;

    for ( ;; ) {
        my $m = Test::Idempotency::Message->parse(\$self->{in},
            eof => $self->{eof}, method => $self->{methods}[0]);

        if ($m && $m->status =~ /^1/ && $m->status != 101) {
            push @interim, $m;
            next;
        }

        if ($m) {
            shift @{ $self->{methods} };
            $m->{interim} = \@interim;
            return $self->_end($m, $end);
        }

        my $got = length($self->{in}) . ' bytes';

        return Test::Idempotency::Message->broken(
            "$self->{eof} after $got") if $self->{eof};

        $self->_pump($end) or return Test::Idempotency::Message->broken(
            "nothing more within @{[ LIMIT ]} s, after $got");
    }
}


# An answer that says it is the last one has nothing behind it.

sub _end {
    my ($self, $m, $end) = @_;

    return $m if lc($m->header('Connection') // '') ne 'close';

    while (!$self->{eof}) {
        $self->_pump($end) or return Test::Idempotency::Message->broken(
            'the connection stays open after ' . $m->summary);
    }

    return $m if $self->{in} eq '';

    return Test::Idempotency::Message->broken(
        length($self->{in}) . ' bytes come after ' . $m->summary);
}


# Whether the other side has closed, within the limit, without another byte.

sub closed {
    my ($self) = @_;

    my $end = time + LIMIT;

    while (!$self->{eof}) {
        $self->_pump($end) or return 0;
    }

    return $self->{in} eq '';
}


# Whether something has come by now.

sub answered {
    my ($self) = @_;

    $self->take;

    return $self->{in} ne '' || $self->{eof} ? 1 : 0;
}


# Reads what has come by now.

sub take {
    my ($self) = @_;

    $self->_pump(time) if !$self->{eof};

    return;
}


# Whether nothing more comes to a client that does not read: to be asked again
# and again, as often as it takes to be sure.

sub full {
    my ($self) = @_;

    my $bytes = pack 'i', 0;

    ioctl $self->{socket}, FIONREAD, $bytes or die "FIONREAD: $!\n";
    my $unread = unpack 'i', $bytes;

    $self->{same} = 0 if $unread != ($self->{unread} // -1);
    $self->{same}++;
    $self->{unread} = $unread;

    return $unread && $self->{same} > 5;
}


sub close {
    my ($self) = @_;

    return $self->_close(SSL_fast_shutdown => 1);
}


sub _close {
    my ($self, @how) = @_;

    local $SIG{PIPE} = 'IGNORE';
    $self->{socket}->close($self->{tls} ? @how : ());
    $self->{eof} = 'closed by us';

    return;
}


sub reset {
    my ($self) = @_;

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0;

    return $self->_close(SSL_no_shutdown => 1);
}


sub half_close {
    my ($self) = @_;

    shutdown $self->{socket}, 1;

    return;
}


# Moves bytes in and out, as far as they go; false when the time is over.

sub _pump {
    my ($self, $end) = @_;

    my $left = $end - time;
    my $s = IO::Select->new($self->{socket});
    my $writer = length $self->{out} ? $s : undef;

    # what TLS has decrypted already, select does not know

    my $ready = $self->{tls} && $self->{socket}->pending;
    $left = 0 if $ready || $left < 0;

    my ($r, $w) = IO::Select->select($s, $writer, undef, $left);
    return if !$r && !$ready;

    $self->_write if $w && @$w;
    $self->_read if $ready || @$r;

    return 1;
}


sub _write {
    my ($self) = @_;

    local $SIG{PIPE} = 'IGNORE';
    my $n = syswrite $self->{socket}, $self->{out};
    return if !defined $n && $! == EAGAIN;

    substr $self->{out}, 0, $n // length $self->{out}, '';

    return;
}


sub _read {
    my ($self) = @_;

    my $n = sysread $self->{socket}, $self->{in}, 1 << 18, length $self->{in};
    return if $n || !defined $n && $! == EAGAIN;

    my $why = defined $n ? 'closed' : "broken ($!)";
    $self->_close(SSL_no_shutdown => 1);
    $self->{eof} = $why;

    return;
}


1;
