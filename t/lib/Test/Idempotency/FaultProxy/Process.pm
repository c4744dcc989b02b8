package Test::Idempotency::FaultProxy::Process;

# The process behind Test::Idempotency::FaultProxy: one loop over all
# connections, each of which is two ways, up and down, with a queue of what is
# to be passed on, and when.

use strict;
use warnings;

use Errno qw(EAGAIN EINPROGRESS EINTR);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_ERROR SO_LINGER);
use Time::HiRes qw(time);

use Test::Idempotency::Server;

use constant MOST => 4 << 20;               # bytes in a queue


sub new {
    my ($class, $port, $target, $control) = @_;

    $control->blocking(0);

    return bless { port => $port, target => $target, control => $control,
                   orders => '', accept => 'pass', conns => [],
                   delay => {}, stall => {}, drop => {}, cut => {},
                   counts => { connections => 0, up => 0, down => 0 } },
        $class;
}


# Does not return; ends when the test does.

sub run {
    my ($self) = @_;

    $SIG{PIPE} = $SIG{INT} = $SIG{TERM} = 'IGNORE';

    eval {
        $self->_listen(128);

        for ( ;; ) {
            $self->_turn;
        }
    };

    print STDERR "# proxy: $@" if $@ ne "end\n";
    POSIX::_exit(0);
}


sub _listen {
    my ($self, $backlog) = @_;

    $self->{listener} = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
        LocalPort => $self->{port}, Proto => 'tcp', ReusePort => 1)
        or die "cannot bind: $!\n";
    $self->{listener}->blocking(0);
    listen $self->{listener}, $backlog or die "cannot listen: $!\n";

    return;
}


sub _turn {
    my ($self) = @_;

    my $now = time;
    my ($wake, @readers, @writers);

    for my $way (map { @$_{qw(up down)} } @{ $self->{conns} }) {
        push @readers, $way->{from} if $self->_wants($way);
        push @writers, $way->{to} if !$way->{connected};

        my $due = $self->{stall}{ $way->{name} } ? undef
                                                 : $way->{queue}[0] or next;

        if ($due->[0] <= $now) {
            push @writers, $way->{to};

        } elsif (!defined $wake || $due->[0] < $wake) {
            $wake = $due->[0];
        }
    }

    push @readers, $self->{listener}
        if $self->{listener} && $self->{accept} ne 'vanish';

    my ($r, $w) = IO::Select->select(
        IO::Select->new($self->{control}, @readers),
        @writers ? IO::Select->new(@writers) : undef, undef,
        defined $wake ? $wake - $now : undef);

    $self->_serve({ map { $_ => 1 } @{ $r || [] } },
                  { map { $_ => 1 } @{ $w || [] } });

    return;
}


sub _serve {
    my ($self, $r, $w) = @_;

    for my $c (@{ $self->{conns} }) {
        for my $way (@$c{qw(up down)}) {
            $self->_write($way) if !$c->{ended} && $w->{ $way->{to} };
            $self->_read($way) if !$c->{ended} && $r->{ $way->{from} };
        }

        $self->_end($c, 'close')
            if !$c->{ended} && $c->{up}{finished} && $c->{down}{finished};
    }

    $self->_accept if $self->{listener} && $r->{ $self->{listener} };

    # orders come last: they see what was there before them

    $self->_obey if $r->{ $self->{control} };

    # the ways of a connection lead back to it

    delete @$_{qw(up down)} for grep { $_->{ended} } @{ $self->{conns} };
    @{ $self->{conns} } = grep { !$_->{ended} } @{ $self->{conns} };

    return;
}


sub _accept {
    my ($self) = @_;

    while (my $client = $self->{listener}->accept) {
        $client->blocking(0);
        $self->{counts}{connections}++;

        my $c = { client => $client };

        if ($self->{accept} eq 'reset') {
            $self->_end($c, 'reset');

        } else {
            $self->_open($c);
        }
    }

    return;
}


# Without a way up there is nobody to talk to, and what comes is thrown away.

sub _open {
    my ($self, $c) = @_;

    my $server = $c->{client};

    if ($self->{accept} eq 'hold') {
        $c->{held} = 1;

    } else {
        $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $self->{target}, Proto => 'tcp', Blocking => 0);
        return $self->_end($c, 'reset') if !$server;
    }

    $c->{server} = $server;
    $c->{up} = _way('up', $c, $c->{client}, $server);
    $c->{down} = _way('down', $c, $server, $c->{client});
    $c->{up}{connected} = $c->{held};
    $c->{down}{connected} = 1;

    push @{ $self->{conns} }, $c;

    return;
}


sub _way {
    my ($name, $c, $from, $to) = @_;

    return { name => $name, conn => $c, from => $from, to => $to,
             queue => [], size => 0, since => 0 };
}


sub _wants {
    my ($self, $way) = @_;

    my $c = $way->{conn};

    return 0 if $way->{read_all} || $c->{held} && $way->{name} eq 'down';

    return $way->{size} < MOST && !$self->{stall}{ $way->{name} };
}


sub _read {
    my ($self, $way) = @_;

    my ($c, $name) = @$way{qw(conn name)};
    my $n = sysread $way->{from}, my $bytes, 1 << 16;

    return if !defined $n && ($! == EAGAIN || $! == EINTR);
    return $self->_end($c, 'reset') if !defined $n;

    $self->{counts}{$name} += $n;

    if ($c->{held}) {
        $self->_end($c, 'close') if !$n;
        return;
    }

    if ($self->{drop}{$name} && $n) {
        $c->{lost} = 1;
    }

    if ($c->{lost}) {
        $way->{read_all} = !$n;
        return;
    }

    return $self->_queue($way, $bytes);
}


# No bytes: the end of them.

sub _queue {
    my ($self, $way, $bytes) = @_;

    my $name = $way->{name};
    my $due = time + ($self->{delay}{$name} || 0);
    my $cut = $self->{cut}{$name};

    $due = $way->{queue}[-1][0]
        if @{ $way->{queue} } && $way->{queue}[-1][0] > $due;

    $way->{read_all} = 1 if $bytes eq '';

    if (defined $cut && $bytes ne ''
        && $way->{since} + length $bytes >= $cut)
    {
        $bytes = substr $bytes, 0, $cut - $way->{since};
        $way->{cut} = $self->{cut}{how};
        $way->{read_all} = 1;
        $self->{cut} = {};
    }

    $way->{since} += length $bytes;
    $way->{size} += length $bytes;
    push @{ $way->{queue} }, [ $due, $bytes ] if $bytes ne '';
    push @{ $way->{queue} }, [ $due, '' ] if $way->{read_all};

    return $self->_write($way);
}


# Writes what is due.

sub _write {
    my ($self, $way) = @_;

    if (!$way->{connected}) {
        my $error = $way->{to}->getsockopt(SOL_SOCKET, SO_ERROR);

        return $self->_end($way->{conn}, 'reset') if $error;
        return if !$way->{to}->connected;

        $way->{connected} = 1;
    }

    return if $self->{stall}{ $way->{name} };

    while (my $next = $way->{queue}[0]) {
        last if $next->[0] > time;

        return $self->_finish($way) if $next->[1] eq '';

        my $n = syswrite $way->{to}, $next->[1];

        return if !defined $n && ($! == EAGAIN || $! == EINTR);
        return $self->_end($way->{conn}, 'reset') if !defined $n;

        $way->{size} -= $n;
        substr $next->[1], 0, $n, '';
        shift @{ $way->{queue} } if $next->[1] eq '';
    }

    return;
}


sub _finish {
    my ($self, $way) = @_;

    return $self->_end($way->{conn}, $way->{cut}) if $way->{cut};

    shift @{ $way->{queue} };
    $way->{finished} = 1;
    $way->{to}->shutdown(1);

    return;
}


sub _end {
    my ($self, $c, $how) = @_;

    for my $socket (grep { $_ } @$c{qw(client server)}) {
        next if !defined fileno $socket;

        setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0
            if $how eq 'reset';
        close $socket;
    }

    $c->{ended} = 1;

    return;
}


# Orders; each of them is answered with what went wrong, and the counts.

sub _obey {
    my ($self) = @_;

    sysread $self->{control}, $self->{orders}, 1 << 16,
        length $self->{orders} or die "end\n";

    while (my $order = unpack_list(\$self->{orders})) {
        my ($what, @arguments) = @$order;
        my $act = $self->can("_order_$what");

        eval { $self->$act(@arguments) };
        my $error = $@ =~ s/\n\z//r;

        $self->{counts}{open} = grep { !$_->{ended} } @{ $self->{conns} };

        my $news = pack_list([ $error, $self->{counts} ]);
        syswrite($self->{control}, $news) == length $news or die "end\n";
    }

    return;
}


sub _order_count { return }


sub _order_set {
    my ($self, $what, $values) = @_;

    $self->{$what} = { %{ $self->{$what} }, %$values };

    return;
}


sub _order_cut {
    my ($self, $how, $limits) = @_;

    $_->{since} = 0 for map { @$_{qw(up down)} } @{ $self->{conns} };
    $self->{cut} = { how => $how, %$limits };

    return;
}


sub _order_end {
    my ($self, $how) = @_;

    $self->_end($_, $how) for @{ $self->{conns} };

    return;
}


sub _order_lead_to {
    my ($self, $target) = @_;

    $self->{target} = $target;

    return;
}


sub _order_pass {
    my ($self) = @_;

    $self->{$_} = {} for qw(delay stall drop cut);
    $self->_order_accept('pass');

    # what was late is late no more

    for my $way (map { @$_{qw(up down)} } @{ $self->{conns} }) {
        $_->[0] = 0 for @{ $way->{queue} };
    }

    return;
}


sub _order_accept {
    my ($self, $how) = @_;

    return if $how eq $self->{accept};

    my $listens = $self->{listener} && $self->{accept} ne 'vanish';

    $self->_accept if $listens;
    $self->{accept} = $how;

    return if $listens && $how =~ /^(?:pass|hold|reset)$/;

    # whoever still tries to connect must not be refused in between

    my @old = grep { $_ } delete $self->{listener},
        @{ delete $self->{crowd} || [] };

    $self->_listen(128) if $how =~ /^(?:pass|hold|reset)$/;
    close $_ for @old;
    $self->_vanish if $how eq 'vanish';

    return;
}


# Nobody takes connections out of a short line; when it is full, the system
# does not answer whoever wants to join it.

sub _vanish {
    my ($self) = @_;

    $self->_listen(0);

    for (1 .. 16) {
        my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $self->{port}, Proto => 'tcp', Blocking => 0)
            or die "cannot fill the line: $!\n";

        push @{ $self->{crowd} }, $socket;

        return if !$socket->connected;
    }

    die "the line does not fill\n";
}


1;
