package Test::Idempotency::Http2Client;

# A client's connection that speaks HTTP/2, frame by frame, and as rudely as a
# test wants it to.
#
#   my $c = $t->connect_http2(%options);
#   my $stream = $c->request(method => 'POST', path => '/', key => '"k1"',
#                            body => 'eur=1');
#
# Options: tls; rcvbuf; window, how much of an answer may come (everything);
# together => 1, the connection's own window is left as it is: 65535 bytes.
#
# A stream has response, answered, cancel (RST_STREAM) and open_window; close,
# reset and goaway are those of its connection, which has what
# Test::Idempotency::Connection has.

use strict;
use warnings;

use parent 'Test::Idempotency::Connection';

use Scalar::Util qw(weaken);

use Test::Idempotency::Hpack;
use Test::Idempotency::Http2Stream;

use constant {
    PREFACE => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ALL => 0x7fffffff, WINDOW => 0xffff,

    DATA => 0, HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, PING => 6,
    GOAWAY => 7, WINDOW_UPDATE => 8,

    END_STREAM => 1, ACK => 1, END_HEADERS => 4,
    INITIAL_WINDOW_SIZE => 4, CANCEL => 8,
};


sub new {
    my ($class, $port, %o) = @_;

    my $self = $class->SUPER::new($port, %o, alpn => 'h2');

    $self->{streams} = {};
    $self->{opened} = -1;

    return $self->send(PREFACE
        . _frame(SETTINGS, 0, 0,
                 pack 'nN', INITIAL_WINDOW_SIZE, $o{window} // ALL)
        . ($o{together} ? ''
           : _frame(WINDOW_UPDATE, 0, 0, pack 'N', ALL - WINDOW)));
}


# The bytes of the next request: HEADERS and DATA.  Options: method, path, key,
# body, headers; more => 1, a byte of the body is yet to come.

sub compose {
    my ($self, %o) = @_;

    my $id = $self->{opened} += 2;
    my $body = $o{body} // '';
    my $length = length($body) + ($o{more} ? 1 : 0);
    my $end = $o{more} ? 0 : END_STREAM;
    my @fields = ([ ':method', $o{method} ], [ ':path', $o{path} ],
                  [ ':scheme', $self->{tls} ? 'https' : 'http' ],
                  [ ':authority', 'localhost' ]);

    push @fields, [ 'idempotency-key', $o{key} ] if defined $o{key};
    push @fields, [ 'content-type', 'application/x-www-form-urlencoded' ],
        [ 'content-length', $length ] if $length;
    push @fields, map { [ lc $_->[0], $_->[1] ] } @{ $o{headers} || [] };

    return _frame(HEADERS, END_HEADERS | ($length ? 0 : END_STREAM), $id,
                  hpack(@fields))
           . ($length ? _frame(DATA, $end, $id, $body) : '');
}


sub request {
    my ($self, %o) = @_;

    my $bytes = $self->compose(%o);
    my $id = $self->{opened};
    my $stream = Test::Idempotency::Http2Stream->new($self, $id, $o{method});

    weaken($self->{streams}{$id} = $stream);
    $self->send($bytes);

    return $stream;
}


# Says good-bye, and leaves.

sub goaway {
    my ($self) = @_;

    $self->send(_frame(GOAWAY, 0, 0, pack 'NN', 0, CANCEL));

    return $self->close;
}


sub cancel {
    my ($self, $id) = @_;

    return $self->send(_frame(RST_STREAM, 0, $id, pack 'N', CANCEL));
}


# All of an answer may come.

sub open_window {
    my ($self, $id) = @_;

    return $self->send(_frame(WINDOW_UPDATE, 0, $id, pack 'N', ALL - WINDOW));
}


sub _frame {
    my ($type, $flags, $id, $payload) = @_;

    return pack 'CnCCNa*', length($payload) >> 16, length($payload) & 0xffff,
        $type, $flags, $id, $payload;
}


# Takes apart what has come.

sub _pump {
    my ($self, $end) = @_;

    my $moved = $self->SUPER::_pump($end);

    while (length $self->{in} >= 9) {
        my ($high, $low, $type, $flags, $id) = unpack 'CnCCN', $self->{in};
        my $length = $high << 16 | $low;
        last if length $self->{in} < 9 + $length;

        my $payload = substr substr($self->{in}, 0, 9 + $length, ''), 9;

        $id ? $self->_of_stream($self->{streams}{$id}, $type, $flags, $payload)
            : $self->_of_connection($type, $flags, $payload);
    }

    return $moved;
}


sub _of_connection {
    my ($self, $type, $flags, $payload) = @_;

    if ($type == SETTINGS && !($flags & ACK)) {
        $self->{out} .= _frame(SETTINGS, ACK, 0, '');

    } elsif ($type == PING && !($flags & ACK)) {
        $self->{out} .= _frame(PING, ACK, 0, $payload);

    } elsif ($type == GOAWAY) {
        $self->{said} = 'GOAWAY ' . unpack 'x4N', $payload;
    }

    return;
}


sub _of_stream {
    my ($self, $stream, $type, $flags, $payload) = @_;

    return if !$stream;

    if ($type == HEADERS) {
        push @{ $stream->{heads} }, [ hunpack($payload) ];

    } elsif ($type == DATA) {
        $stream->{body} .= $payload;

    } elsif ($type == RST_STREAM) {
        $stream->{broken} = 'RST_STREAM ' . unpack 'N', $payload;
    }

    $stream->{end} = 1 if $type <= HEADERS && $flags & END_STREAM;

    return;
}


1;
