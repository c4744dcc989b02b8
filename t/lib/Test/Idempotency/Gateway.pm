package Test::Idempotency::Gateway;

# An upstream that speaks FastCGI, SCGI, uwsgi or gRPC, as far as nginx needs
# it: a process that answers one request after the other.
#
#   my $gw = Test::Idempotency::Gateway->new(fastcgi => sub {
#       my ($request) = @_;         # n, the number of it, and body
#       return { status => 201, headers => [ [ name, value ], ... ],
#                body => $bytes };
#   });
#
# What the code returns may also say: trailers (gRPC); open => 1, no length is
# announced; cut => 1, only half the body comes; hold => 1, it waits for
# $gw->let_go, and $gw->wait_for_request tells that it does; hold => 'middle',
# the same after half the answer.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);

use Test::Idempotency::Deadline;

my $halfway;

my %speak = (
    fastcgi => [ \&_read_fastcgi, \&_write_fastcgi ],
    scgi    => [ \&_read_scgi,    \&_write_cgi     ],
    uwsgi   => [ \&_read_uwsgi,   \&_write_cgi     ],
    grpc    => [ \&_read_grpc,    \&_write_grpc    ],
);


sub new {
    my ($class, $protocol, $code) = @_;

    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                         Listen => 16)
        or die "no port for a gateway: $!\n";

    socketpair my $near, my $far, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair: $!\n";

    my $self = bless { port => $listener->sockport, control => $near,
                       owner => $$ }, $class;

    $self->{pid} = fork // die "fork: $!\n";
    return $self if $self->{pid};

    $SIG{PIPE} = $SIG{INT} = $SIG{TERM} = 'IGNORE';
    close $near;
    eval { _run($listener, $far, $code, @{ $speak{$protocol} }) };
    print STDERR "# $protocol: $@";
    POSIX::_exit(0);
}


sub port { return $_[0]{port} }


# Waits until a request is held.

sub wait_for_request {
    my ($self) = @_;

    IO::Select->new($self->{control})->can_read(LIMIT)
        && sysread($self->{control}, my $news, 1)
        or die "the gateway holds no request\n";

    return;
}


sub let_go {
    my ($self) = @_;

    syswrite $self->{control}, '!';

    return;
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $@);
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;

    return;
}


sub _run {
    my ($listener, $control, $code, $read, $write) = @_;

    my $n = 0;

    while (my $socket = $listener->accept) {
        my $body = eval { $read->($socket) };

        if (defined $body) {
            my $answer = $code->({ n => ++$n, body => $body });

            my $hold = $answer->{hold} // '';

            _hold($control) if $hold && $hold ne 'middle';
            $halfway = $hold eq 'middle' && sub { _hold($control) };
            eval { $write->($socket, $answer) };
        }

        close $socket;
    }

    return;
}


sub _hold {
    my ($control) = @_;
    syswrite $control, '?';
    sysread $control, my $order, 1 or die "the test has ended\n";

    return;
}


sub _take {
    my ($socket, $length) = @_;

    my $bytes = '';

    while (length $bytes < $length) {
        sysread $socket, $bytes, $length - length $bytes, length $bytes
            or die "gone\n";
    }

    return $bytes;
}


sub _put {
    my ($socket, $bytes) = @_;

    if (my $hold = $halfway) {
        undef $halfway;
        _put($socket, substr $bytes, 0, length($bytes) / 2, '');
        $hold->();
    }

    while (length $bytes) {
        my $n = syswrite $socket, $bytes or die "gone\n";
        substr $bytes, 0, $n, '';
    }

    return;
}


# The body, or half of it.

sub _body {
    my ($a) = @_;
    my $length = length $a->{body};

    return substr $a->{body}, 0, $a->{cut} ? $length / 2 : $length;
}


sub _cgi {
    my ($a) = @_;

    return join "\r\n", "Status: $a->{status} Told So",
        map({ "$_->[0]: $_->[1]" } @{ $a->{headers} || [] }),
        $a->{open} ? () : 'Content-Length: ' . length $a->{body}, '',
        _body($a);
}


# FastCGI: records of a type; a stream ends with an empty one.

sub _read_fastcgi {
    my ($socket) = @_;

    my $body = '';

    for ( ;; ) {
        my (undef, $type, undef, $length, $padding) =
            unpack 'CCnnC', _take($socket, 8);
        my $content = substr _take($socket, $length + $padding), 0, $length;

        return $body if $type == 5 && $length == 0;
        $body .= $content if $type == 5;
    }
}


sub _write_fastcgi {
    my ($socket, $a) = @_;

    _put($socket, pack('CCnnxx', 1, 6, 1, length) . $_)
        for unpack '(a30000)*', _cgi($a);
    return if $a->{cut};

    _put($socket, pack('CCnnxx', 1, 6, 1, 0)
                  . pack('CCnnxxx8', 1, 3, 1, 8));

    return;
}


# SCGI: a netstring of names and values.  uwsgi: the same, with lengths.

sub _read_scgi {
    my ($socket) = @_;

    my $length = '';
    $length .= _take($socket, 1) while $length !~ /:$/;
    my $vars = _take($socket, substr($length, 0, -1) + 1);

    return _take($socket, ($vars =~ /^CONTENT_LENGTH\0(\d+)/)[0]);
}


sub _read_uwsgi {
    my ($socket) = @_;

    my (undef, $length) = unpack 'Cv', _take($socket, 4);
    my %vars = unpack '(v/a*)*', _take($socket, $length);

    return _take($socket, $vars{CONTENT_LENGTH} || 0);
}


sub _write_cgi {
    my ($socket, $a) = @_;

    return _put($socket, _cgi($a));
}


# gRPC: frames of HTTP/2, one stream a connection; fields are written as
# literals, 8 being the place of :status in the static table of HPACK.

sub _read_grpc {
    my ($socket) = @_;

    my $body = '';

    _take($socket, 24);
    _put($socket, _frame(4, 0, 0, ''));

    for ( ;; ) {
        my ($high, $low, $type, $flags, $id) =
            unpack 'CnCCN', _take($socket, 9);
        my $payload = _take($socket, $high << 16 | $low);

        _put($socket, _frame(4, 1, 0, '')) if $type == 4 && !($flags & 1);
        $body .= $payload if $type == 0;

        return $body if $type <= 1 && $flags & 1;
    }
}


sub _write_grpc {
    my ($socket, $a) = @_;

    my @data = unpack '(a16000)*', _body($a);
    my $head = "\x08" . pack('C/a*', $a->{status})
               . _fields($a->{headers});
    my $end = @data || $a->{trailers} || $a->{cut} ? 0 : 1;

    _put($socket, join '', _frame(1, 4 | $end, 1, $head),
        map { _frame(0, 0, 1, $_) } @data);
    return if $a->{cut};

    _put($socket, $a->{trailers}
        ? _frame(1, 4 | 1, 1, _fields($a->{trailers}))
        : _frame(0, 1, 1, '')) if !$end;

    # what nginx still says is read before the end, which would be a reset

    while (sysread $socket, my $rest, 1 << 16) { }

    return;
}


sub _fields {
    my ($fields) = @_;

    return join '', map { pack 'xC/a*C/a*', lc $_->[0], $_->[1] }
        @{ $fields || [] };
}


sub _frame {
    my ($type, $flags, $id, $payload) = @_;

    return pack 'CnCCNa*', length($payload) >> 16, length($payload) & 0xffff,
        $type, $flags, $id, $payload;
}


1;
