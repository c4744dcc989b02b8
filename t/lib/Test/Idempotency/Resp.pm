package Test::Idempotency::Resp;

# A client of Redis for tests: commands go out, one by one or in a batch, and
# values come back.
#
#   my $c = Test::Idempotency::Resp->new('127.0.0.1:6379');   # or /a/socket
#   $c->command('SET', 'k', 'v');       # dies of an error reply
#   $c->try('SADD', 'k', 'v');          # an error is a value: is_error(...)
#   $c->send([ 'GET', 'a' ], [ 'GET', 'b' ]);
#   my ($a, $b) = $c->receive(2);
#
# A value is bytes, a number, undef or a reference to a list.  No wait is
# longer than LIMIT.

use strict;
use warnings;

use Errno qw(EAGAIN EINTR);
use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw(time);

use Test::Idempotency::Deadline;

our @EXPORT = qw(is_error);


sub new {
    my ($class, $address) = @_;

    my $socket = $address =~ m{^/}
        ? IO::Socket::UNIX->new(Peer => $address)
        : IO::Socket::INET->new(PeerAddr => $address, Timeout => LIMIT);
    die "$address: $!\n" if !$socket;

    $socket->blocking(0);

    return bless { socket => $socket, address => $address, in => '',
                   at => 0 }, $class;
}


# An error reply, as a value.

sub is_error { return ref $_[0] eq 'Test::Idempotency::Resp::Error' }


# One command and its value.

sub command {
    my ($self, @command) = @_;

    my $value = $self->try(@command);
    die "$command[0]: $$value\n" if is_error($value);

    return $value;
}


sub try {
    my ($self, @command) = @_;

    $self->send(\@command);

    return $self->receive;
}


# Commands whose values are left for receive().

sub send {
    my ($self, @commands) = @_;

    my $out = join '', map { _format(@$_) } @commands;
    my $end = time + LIMIT;

    while (length $out) {
        local $SIG{PIPE} = 'IGNORE';

        my $n = syswrite $self->{socket}, $out;

        if (defined $n) {
            substr $out, 0, $n, '';

        } elsif ($! == EAGAIN || $! == EINTR) {

            # what comes meanwhile is taken, so that neither side waits

            $self->_wait($end, 1);

        } else {
            die "$self->{address}: $!\n";
        }
    }

    return $self;
}


sub _format {
    my (@args) = @_;

    my $out = '*' . @args . "\r\n";

    for (@args) {
        my $bytes = "$_";
        utf8::downgrade($bytes);
        $out .= '$' . length($bytes) . "\r\n$bytes\r\n";
    }

    return $out;
}


# The next value, or that many.

sub receive {
    my ($self, $n) = @_;

    my $end = time + LIMIT;
    my @values;

    for (1 .. $n // 1) {
        my $value;

        until ($self->_parse(\$value)) {
            $self->_wait($end) or die "$self->{address}: no reply within "
                                      . LIMIT . " s\n";
        }

        push @values, $value;
    }

    return defined $n ? @values : $values[0];
}


# Whether a value comes within so many seconds.

sub ready {
    my ($self, $seconds) = @_;

    my $end = time + ($seconds // 0);
    my $value;

    for ( ;; ) {
        return 1 if $self->_parse(\$value, 1);
        return 0 if !eval { $self->_wait($end) };
    }
}


# Whether the server ends the connection, within LIMIT, and how: 'close',
# 'reset', or false.

sub closed {
    my ($self) = @_;

    my $end = time + LIMIT;

    for ( ;; ) {
        my $more = eval { $self->_wait($end) };

        return $@ =~ /closed$/ ? 'close' : 'reset' if !defined $more;
        return 0 if !$more;
    }
}


sub close {
    my ($self) = @_;

    $self->{socket}->close;

    return;
}


# Takes what has come; 0 when the time is over, dies when the other end does.

sub _wait {
    my ($self, $end, $or_write) = @_;

    my $left = $end - time;
    my $s = IO::Select->new($self->{socket});
    my ($r) = IO::Select->select($s, $or_write ? $s : undef, undef,
                                 $left > 0 ? $left : 0);

    return 0 if !$r;
    return 1 if !@$r;

    if ($self->{at}) {
        substr $self->{in}, 0, $self->{at}, '';
        $self->{at} = 0;
    }

    my $n = sysread $self->{socket}, $self->{in}, 1 << 18, length $self->{in};

    return 1 if $n || !defined $n && ($! == EAGAIN || $! == EINTR);

    die "$self->{address}: " . (defined $n ? 'closed' : $!) . "\n";
}


# Takes a value out of what has come, if it is there as a whole.

sub _parse {
    my ($self, $value, $peek) = @_;

    my $at = $self->{at};
    my $whole = $self->_value($value);

    $self->{at} = $at if !$whole || $peek;

    return $whole;
}


sub _value {
    my ($self, $value) = @_;

    my $end = index $self->{in}, "\r\n", $self->{at};
    return 0 if $end < 0;

    my $type = substr $self->{in}, $self->{at}, 1;
    my $line = substr $self->{in}, $self->{at} + 1, $end - $self->{at} - 1;
    $self->{at} = $end + 2;

    if ($type eq '+' || $type eq ':') {
        $$value = $line;

    } elsif ($type eq '-') {
        $$value = bless \$line, 'Test::Idempotency::Resp::Error';

    } elsif ($line < 0) {
        $$value = undef;

    } elsif ($type eq '$') {
        return 0 if length($self->{in}) < $self->{at} + $line + 2;

        $$value = substr $self->{in}, $self->{at}, $line;
        $self->{at} += $line + 2;

    } elsif ($type eq '*') {
        my @list;

        for (0 .. $line - 1) {
            $self->_value(\$list[$_]) or return 0;
        }

        $$value = \@list;

    } else {
        die "$self->{address}: not a reply: $type$line\n";
    }

    return 1;
}


package Test::Idempotency::Resp::Error;

use overload '""' => sub { return ${ $_[0] } }, fallback => 1;


1;
