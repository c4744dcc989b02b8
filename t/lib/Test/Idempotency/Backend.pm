package Test::Idempotency::Backend;

# The upstream of a test: a process that takes requests and HOLDS them until
# the test says what becomes of them.  Orders go to it, and news come from it,
# over a pair of sockets; Test::Idempotency::Server is the other end.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(time);

use Test::Idempotency::Deadline;
use Test::Idempotency::Server;


sub new {
    my ($class) = @_;

    # bound and deaf: keeps the port ours while we refuse connections

    my $place = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                      Proto => 'tcp', ReusePort => 1);
    die "no port for a backend: $!\n" if !$place;

    socketpair my $near, my $far, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair: $!\n";

    my $self = bless { place => $place, port => $place->sockport,
                       news => '', held => [], seen => [], gone => 0,
                       order => 0, synced => 0 }, $class;

    $self->{pid} = fork // die "fork: $!\n";

    if ($self->{pid} == 0) {
        CORE::close $near;
        Test::Idempotency::Server->new($self->{port}, $far)->run;
    }

    CORE::close $far;
    $self->{control} = $near;

    return $self->_sync;
}


sub port { return $_[0]{port} }


# Waits until so many requests (1) are held here, and returns the last of
# these: method, uri, header(name), headers(name), header_names, body.

sub wait_for_request {
    my ($self, $n) = @_;

    $n ||= 1;
    my $end = time + LIMIT;

    while (@{ $self->{held} } < $n) {
        $self->_hear($end)
            or die "gave up after @{[ LIMIT ]} s: the backend holds "
                   . @{ $self->{held} } . " requests, not $n\n";
    }

    return $self->{held}[$n - 1];
}


# Answers the request that is held longest, or the one given as to =>.
#
#   headers => [ [ name => value ], ... ]
#   reason  => text
#   chunked => [ pieces ]       in place of the body
#   cut     => n                so many bytes of the body come, of all that
#                               were announced; then the connection is closed
#   raw     => bytes            in place of everything
#   then    => keep, close, reset, or hold: more is to come

sub answer {
    my ($self, $status, $body, %o) = @_;

    my $id = $self->_pick($o{to}, ($o{then} // '') eq 'hold');
    delete $o{to};

    return $self->_tell(answer => $id, [ $status, $body, \%o ]);
}


# A piece of an answer; the request stays held.

sub send {
    my ($self, $bytes, %o) = @_;

    return $self->answer(0, '', %o, raw => $bytes, then => 'hold');
}


# Ends the connection of a held request.

sub close {
    my ($self, %o) = @_;

    return $self->answer(0, '', %o, raw => '', then => 'close');
}


sub reset {
    my ($self, %o) = @_;

    return $self->answer(0, '', %o, raw => '', then => 'reset');
}


# From now on requests are answered at once, "%n" in the body being their
# number; on() says it for one path.  hold() is the beginning again.

sub auto {
    my ($self, @answer) = @_;

    return $self->on('' => @answer ? @answer : (200, 'answer %n'));
}


sub on {
    my ($self, $path, $status, $body, %o) = @_;

    return $self->_tell(on => $path, [ $status, $body, \%o ])->_sync;
}


sub hold {
    my ($self) = @_;

    return $self->_tell('hold')->_sync;
}


# What becomes of new connections: "read" (as ever), "close" or "reset" at
# once, "ignore" for ever, or "refuse": nobody listens.

sub accept {
    my ($self, $how) = @_;

    $self->_tell(accept => $how);

    return $self->_sync;
}


# How many requests have come; the last of them; those that are held; how many
# connections of held requests the other side has given up.

sub requests { return scalar @{ $_[0]->_sync->{seen} } }
sub last     { return $_[0]->_sync->{seen}[-1] }
sub all      { return @{ $_[0]->_sync->{seen} } }
sub held     { return @{ $_[0]->_sync->{held} } }
sub gone     { return $_[0]->_sync->{gone} }


# Whether a request is held still, and nobody has given it up.

sub holds {
    my ($self, $request) = @_;

    return scalar grep { $_ == $request } @{ $self->_sync->{held} };
}


sub stop {
    my ($self) = @_;

    return if !$self->{pid};

    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    delete $self->{pid};

    return;
}


sub _pick {
    my ($self, $request, $stays) = @_;

    $request ||= $self->wait_for_request;

    @{ $self->{held} } = grep { $_ != $request } @{ $self->{held} }
        if !$stays;

    return $request->{id};
}


sub _tell {
    my ($self, @order) = @_;

    my $bytes = pack_list(\@order);

    while (length $bytes) {
        my $n = syswrite $self->{control}, $bytes;
        die "the backend has died: $!\n" if !defined $n;
        substr $bytes, 0, $n, '';
    }

    return $self;
}


# Returns when all orders are carried out and all news are here.

sub _sync {
    my ($self) = @_;

    my $n = ++$self->{order};
    my $end = time + LIMIT;

    $self->_tell(sync => $n);

    while ($self->{synced} < $n) {
        $self->_hear($end) or die "the backend does not answer\n";
    }

    return $self;
}


sub _hear {
    my ($self, $end) = @_;

    my $left = $end - time;
    return if $left <= 0;
    return if !IO::Select->new($self->{control})->can_read($left);

    sysread $self->{control}, $self->{news}, 1 << 18, length $self->{news}
        or die "the backend has died\n";

    while (my $news = unpack_list(\$self->{news})) {
        my ($what, $arg) = @$news;

        if ($what eq 'request') {
            push @{ $self->{seen} }, $arg;
            push @{ $self->{held} }, $arg if $arg->{held};

        } elsif ($what eq 'gone') {
            $self->{gone}++;
            @{ $self->{held} } = grep { $_->{id} != $arg } @{ $self->{held} };

        } elsif ($what eq 'sync') {
            $self->{synced} = $arg;
        }
    }

    return 1;
}


1;
