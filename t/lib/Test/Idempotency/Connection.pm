package Test::Idempotency::Connection;

# A client's connection: requests go out as they are told to, answers are
# collected later, and every wait has an end.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

use Test::Idempotency::Deadline;
use Test::Idempotency::Message;


sub new {
    my ($class, $port) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                       PeerPort => $port,
                                       Timeout => LIMIT);
    die "cannot connect to port $port: $!\n" if !$socket;

    binmode $socket;
    $socket->blocking(0);

    return bless { socket => $socket, port => $port, in => '', out => '',
                   methods => [] }, $class;
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

    $self->_pump(time) if !$self->{eof};

    return $self->{in} ne '' || $self->{eof} ? 1 : 0;
}


sub close {
    my ($self) = @_;

    $self->{socket}->close;
    $self->{eof} = 'closed by us';

    return;
}


sub reset {
    my ($self) = @_;

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0;
    $self->close;

    return;
}


sub half_close {
    my ($self) = @_;

    $self->{socket}->shutdown(1);

    return;
}


# Moves bytes in and out, as far as they go; false when the time is over.

sub _pump {
    my ($self, $end) = @_;

    my $left = $end - time;
    my $s = IO::Select->new($self->{socket});
    my $writer = length $self->{out} ? $s : undef;

    my ($r, $w) = IO::Select->select($s, $writer, undef, $left > 0 ? $left : 0);
    return if !$r;

    if (@$w) {
        local $SIG{PIPE} = 'IGNORE';
        my $n = syswrite $self->{socket}, $self->{out};
        substr $self->{out}, 0, $n // length $self->{out}, '';
    }

    if (@$r) {
        my $n = sysread $self->{socket}, $self->{in}, 1 << 18,
            length $self->{in};

        if (!$n) {
            $self->{eof} = defined $n ? 'closed' : "broken ($!)";
            $self->{socket}->close;
        }
    }

    return 1;
}


1;
