package Torture::Upstream;

# The upstream, a process of its own.  Each request that arrives whole is an
# execution: it is numbered and written to the log, on the disk, before
# anything else; then comes what the schedule has for it.
#
# The log:
#
#   run   an execution: n, t, the request as it came, and the plan for it
#   first the first byte of its answer is sent now: n, t
#   end   n, t, last (when its last bytes began to be sent), and how:
#         as planned, or gone: nginx has closed the connection before
#   check it was asked what became of a request: n of its last execution if it
#         was carried out, t, says
#   part  a request that did not arrive whole: t, worker
#   stall the process was not able to do anything for so long: t, s

use strict;
use warnings;

use Digest::SHA qw(sha1_hex);
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);

use Test::Idempotency::Message;

use Torture::Log;
use Torture::Loop;

use constant MUTE => 3;                 # seconds


# schedule, log (a file), live and reset: listening sockets.

sub new {
    my ($class, %o) = @_;

    return bless { %o, loop => Torture::Loop->new, count => 0, times => {},
                   log => Torture::Log->new($o{log}, durable => 1) }, $class;
}


# Does not return; ends with TERM, or with its parent.

sub run {
    my ($self) = @_;

    my $parent = getppid;

    $SIG{PIPE} = $SIG{INT} = 'IGNORE';
    $SIG{TERM} = sub { POSIX::_exit(0) };

    $self->_listen($self->{live}, sub { $self->_open(@_) });
    $self->_listen($self->{reset}, sub { _reset(@_) });
    $self->_look_after($parent);
    $self->{loop}->run;

    return;
}


sub _listen {
    my ($self, $listener, $code) = @_;

    $listener->blocking(0);

    $self->{loop}->watch($listener, read => sub {
        while (my $socket = $listener->accept) {
            $socket->blocking(0);
            $code->($socket);
        }
    });

    return;
}


sub _reset {
    my ($socket) = @_;

    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0;
    close $socket;

    return;
}


sub _look_after {
    my ($self, $parent) = @_;

    my $tick = 0.5;
    my $next = now() + $tick;

    $self->{loop}->after($tick, sub {
        POSIX::_exit(1) if getppid != $parent;

        my $late = now() - $next;
        $self->{log}->write('stall', t => now(), s => $late) if $late > 0.5;
        $self->_look_after($parent);
    });

    return;
}


sub _open {
    my ($self, $socket) = @_;

    my $c = { socket => $socket, in => '' };

    $self->{loop}->watch($socket, read => sub { $self->_read($c) });

    return;
}


sub _close {
    my ($self, $c, $how) = @_;

    my $socket = delete $c->{socket} or return;

    $self->{loop}->cancel($c->{timer});
    $self->{loop}->watch($socket);

    return $how eq 'reset' ? _reset($socket) : close $socket;
}


sub _read {
    my ($self, $c) = @_;

    my $n = sysread $c->{socket}, $c->{in}, 1 << 18, length $c->{in};

    return $self->_next($c) if $n;
    return if !defined $n && $!{EAGAIN};

    # nginx has left

    if ($c->{run}) {
        $self->_end($c, 'gone');

    } elsif (length $c->{in}) {
        my ($worker) = $c->{in} =~ /^X-Worker: (\d+)/mi;
        $self->{log}->write('part', t => now(), worker => $worker);
    }

    return $self->_close($c, 'close');
}


sub _next {
    my ($self, $c) = @_;

    return if $c->{run};

    my $m = Test::Idempotency::Message->parse(\$c->{in}) or return;

    $self->{loop}->cancel(delete $c->{timer});

    return $self->_check($c, $m) if $m->method eq 'GET';

    my $e = $c->{run} = $self->_execution($m);
    my $plan = $e->{plan};

    $self->{log}->write('run', t => now(),
        (map { $_ => $e->{$_} } qw(n request scope key place method sent worker
                                 fence k resource number target)),
        (map { $_ => $plan->{$_} } qw(kind status fate framing cut broken)),
        size => length $e->{body}, sha => sha1_hex($e->{body}));

    $self->_in($c, $plan->{delay}, sub { $self->_begin($c) });

    return;
}


sub _in {
    my ($self, $c, $ms, $code) = @_;

    return $code->() if !$ms;

    $c->{timer} = $self->{loop}->after($ms / 1000, $code);

    return;
}


# What came, what is to be done with it, and the answer that belongs to it.

sub _execution {
    my ($self, $m) = @_;

    my %e = (
        n       => ++$self->{count},
        request => $m->header('X-Request') // '',
        scope   => $m->header('X-Scope') // '',
        key     => ($m->header('Idempotency-Key') // '') =~ s/^"|"$//gr,
        worker  => $m->header('X-Worker'),
        fence   => $m->header('X-Fence'),
        method  => $m->method,
        sent    => sha1_hex($m->body),
    );

    my ($place, $pair, $args) = $m->uri =~ m{^/(\w+)/(\d+)\??(.*)};
    my %arg = map { split /=/, $_, 2 } split /&/, $args // '';

    $e{place} = $place // '';
    @e{qw(resource number target)} = @arg{qw(r n s)};

    # a token is drawn by nginx, and not from the seed

    my @identity = @e{qw(place scope key)};

    $e{k} = $self->{times}{"@identity"}++;
    $e{plan} = $self->{schedule}->execution(@e{qw(place scope)},
                                            'key-' . ($pair // ''), $e{k});
    $e{plan} = _calm() if $m->header('X-Calm');
    $e{keep} = $m->version eq 'HTTP/1.1' ? 1 : 0;
    $e{body} = _body(\%e);

    return $self->{latest}{"@identity"} = \%e;
}


sub _calm {
    return { kind => 'whole', status => 200, fate => 'done', delay => 0,
             size => 30, framing => 'length', pauses => [], idle => 1 };
}


# No two executions have the same body, as long as they have one.

sub _body {
    my ($e) = @_;

    return '' if $e->{plan}{status} == 204;

    my $mark = "execution $e->{n} of $e->{scope}/$e->{key} "
               . "at $e->{place}, asked for by $e->{request}\n";
    my $more = $e->{plan}{size} - length $mark;

    return $more <= 0 ? $mark
                      : $mark . substr $mark x (1 + $more / length $mark), 0,
                                       $more;
}


# What has become of the last execution: its answer, as far as there was one;
# or that it was none; or something that says neither.

sub _check {
    my ($self, $c, $m) = @_;

    my ($scope, $key, $place) = map { ($m->header($_) // '') =~ s/^"|"$//gr }
        qw(X-Scope Idempotency-Key X-Place);
    my $plan = $self->{schedule}->check($scope, $key,
                                        $self->{checks}{"$scope $key"}++);
    my $e = $self->{latest}{"$place $scope $key"};
    my $says = _honest($e, $plan->{says});

    $self->{log}->write('check', t => now(), place => $place,
                        scope => $scope, key => $key, says => $says,
                        n => $says eq 'done' ? $e->{n} : undef);

    $self->_in($c, $plan->{delay}, sub {
        $c->{out} = _report($e, $says, $plan->{how});
        $c->{pieces} = [];
        $c->{closes} = 1;
        $self->_write($c);
    });

    return;
}


# What never came was not carried out, and what was refused neither; what still
# runs may be yet.  What was not carried out once, never was.

sub _honest {
    my ($e, $says) = @_;

    return 'absent' if !$e;
    return 'no idea' if !$e->{over} || length $e->{body} > 60_000;

    $says = 'absent' if $e->{plan}{fate} eq 'released';
    $says = 'no idea' if $says eq 'done' && $e->{denied};

    $e->{denied} = 1 if $says eq 'absent';

    return $says;
}


sub _report {
    my ($e, $says, $how) = @_;

    return "HTTP/1.1 404 Never\r\nContent-Length: 0\r\n\r\n"
        if $says eq 'absent';

    if ($says eq 'done') {
        my $plan = { status => 200, framing => 'length' };
        return _head({ %$e, plan => $plan }) . $e->{body};
    }

    return $how eq 'error' ? "HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n"
         : $how eq 'half'  ? "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
                           : '';
}


# The answer begins.

sub _begin {
    my ($self, $c) = @_;

    my $plan = $c->{run}{plan};
    my $kind = $plan->{kind};

    if ($kind eq 'mute') {
        return $self->_in($c, 1000 * MUTE, sub { $self->_finish($c) });
    }

    my $bytes = _answer($c->{run});
    my $pieces = 1 + @{ $plan->{pauses} };
    my $size = int(length($bytes) / $pieces) + 1;

    $c->{pieces} = [ unpack "(a$size)*", $bytes ];
    $c->{pauses} = [ @{ $plan->{pauses} } ];

    $self->{log}->write('first', n => $c->{run}{n}, t => now())
        if length $bytes;

    return $self->_piece($c);
}


sub _answer {
    my ($e) = @_;

    my $plan = $e->{plan};
    my $kind = $plan->{kind};

    return '' if $kind =~ /^(close|abort)$/;
    return "garbage\r\n\r\n" if $kind eq 'garbage';

    my $head = _head($e);
    return substr $head, 0, length($head) / 2 if $kind eq 'half';

    my $body = $e->{body};
    $body = substr $body, 0, $plan->{cut} * length $body
        if defined $plan->{cut};
    $body = _chunks($body, $plan) if $plan->{framing} eq 'chunks'
                                     && $plan->{status} != 204;

    return $head . $body;
}


sub _head {
    my ($e) = @_;

    my $plan = $e->{plan};
    my $framing = $plan->{status} == 204 ? '' : $plan->{framing};

    return join "\r\n", "HTTP/1.1 $plan->{status} Told",
        "X-Execution: $e->{n}", "ETag: \"$e->{n}\"",
        "Content-Type: text/plain", "Set-Cookie: execution=$e->{n}",
        $plan->{stream} ? 'X-Accel-Buffering: no' : (),
        $plan->{says} ? "X-Accel-Idempotency: $plan->{says}" : (),
        $framing eq 'length' ? 'Content-Length: ' . length $e->{body} : (),
        $framing eq 'chunks' ? 'Transfer-Encoding: chunked' : (),
        $e->{keep} && $framing ne 'close' ? () : 'Connection: close',
        '', '';
}


sub _chunks {
    my ($body, $plan) = @_;

    my $chunks = join '', map { sprintf "%x\r\n%s\r\n", length $_, $_ }
        unpack '(a4000)*', $body;

    return "${chunks}nonsense\r\n" if $plan->{kind} eq 'badchunk';
    return $chunks . (defined $plan->{cut} ? '' : "0\r\n\r\n");
}


sub _piece {
    my ($self, $c) = @_;

    $c->{out} = shift @{ $c->{pieces} };

    return $self->_close($c, 'close') if $c->{closes};
    return $self->_finish($c) if !defined $c->{out};

    $c->{run}{last} = now();

    return $self->_write($c);
}


sub _write {
    my ($self, $c) = @_;

    my $n = syswrite $c->{socket}, $c->{out};

    if (!defined $n && !$!{EAGAIN}) {
        $self->_end($c, 'gone');
        return $self->_close($c, 'close');
    }

    substr $c->{out}, 0, $n // 0, '';

    my %on = (read => sub { $self->_read($c) });
    $on{write} = sub { $self->_write($c) } if length $c->{out};
    $self->{loop}->watch($c->{socket}, %on);

    return if length $c->{out};

    my $pause = @{ $c->{pieces} } ? shift @{ $c->{pauses} } : 0;

    return $self->_in($c, $pause, sub { $self->_piece($c) });
}


sub _finish {
    my ($self, $c) = @_;

    my $e = $c->{run};
    my $plan = $e->{plan};

    $e->{last} = now() if _ends_by_closing($plan);

    $self->_end($c, 'planned');

    if (!$plan->{broken} && $e->{keep} && $plan->{framing} ne 'close') {
        return $self->_in($c, $plan->{idle}, sub {
            $self->_close($c, 'close');
        });
    }

    return $self->_close($c, $plan->{kind} =~ /^(abort|broken)$/ ? 'reset'
                                                                 : 'close');
}


# Whether nginx can know the end of it only when the connection is closed.

sub _ends_by_closing {
    my ($plan) = @_;

    return $plan->{kind} !~ /^(garbage|badchunk)$/ if $plan->{broken};
    return $plan->{framing} eq 'close' && $plan->{status} != 204;
}


sub _end {
    my ($self, $c, $how) = @_;

    my $e = delete $c->{run} or return;

    $e->{over} = 1;

    $self->{loop}->cancel(delete $c->{timer});
    $self->{log}->write('end', n => $e->{n}, t => now(), how => $how,
                        last => $e->{last});

    return;
}


1;
