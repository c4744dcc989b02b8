package Torture::Client;

# One of several client processes.  It works on so many operations at a time,
# takes the next when one is over, and writes down every request with what
# came of it.
#
# Orders come over a socket: "rest" (begin nothing new, say "resting" when all
# requests have ended), then "probe" (see what has become of the operations,
# say "probed").

use strict;
use warnings;

use Digest::SHA qw(sha1_hex);
use POSIX ();

use Torture::Log;
use Torture::Loop;
use Torture::Places;
use Torture::Request;

use constant {
    STEPS     => 12,        # of an operation without a final answer
    AT_A_TIME => 12,        # operations
    BUSY      => 40,        # requests
    PROBES    => 400,       # operations that are looked at in the end
};


# schedule, number, of (how many clients), ports (of the nodes), log, control.

sub new {
    my ($class, %o) = @_;

    return bless { %o, loop => Torture::Loop->new, next => $o{number},
                   running => 0, ops => 0, uncertain => [], certain => [],
                   log => Torture::Log->new($o{log}) }, $class;
}


# Does not return; ends with its parent.

sub run {
    my ($self) = @_;

    $SIG{PIPE} = $SIG{INT} = 'IGNORE';
    $SIG{TERM} = sub { POSIX::_exit(0) };

    $self->{control}->blocking(0);
    $self->{loop}->watch($self->{control}, read => sub { $self->_obey });
    $self->_next_operation for 1 .. AT_A_TIME;
    $self->{loop}->run;

    return;
}


sub _obey {
    my ($self) = @_;

    my $n = sysread $self->{control}, my $order, 100;

    return if !defined $n && $!{EAGAIN};
    POSIX::_exit(1) if !$n;

    $self->{resting} = 1;
    $self->_rest if $order =~ /rest/;
    $self->_probe if $order =~ /probe/;

    return;
}


sub _say {
    my ($self, $word) = @_;

    syswrite $self->{control}, "$word\n";

    return;
}


sub _rest {
    my ($self) = @_;

    return $self->_say('resting') if !$self->{running};

    $self->{loop}->after(0.05, sub { $self->_rest });

    return;
}


# Operations.

sub _next_operation {
    my ($self) = @_;

    return if $self->{resting};

    my $op = $self->{schedule}->operation($self->{next});

    $self->{next} += $self->{of};
    $op->{step} = 0;
    $op->{bodies} = [ map { _body($op, $_) } 0, 1 ];

    return $self->_get_token($op, 0) if $PLACES{ $op->{place} }{token};
    return $self->_next_step($op);
}


# Its key is a token, as soon as a worker has lived long enough to issue one.
# One that is to expire is not used before it has.

sub _get_token {
    my ($self, $op, $tries) = @_;

    return if $self->{resting};

    my $forged = $op->{forged} // '';
    my $scope = $op->{scope} . ($forged eq 'foreign' ? '-not' : '');
    my $path = $forged eq 'expired' ? '/token/brief' : '/token';
    my $ports = $self->{ports};

    $self->{running}++;

    Torture::Request->new(
        loop => $self->{loop}, port => $ports->[$tries % @$ports],
        plan => { pieces => 1 },
        bytes => "GET $path HTTP/1.1\r\nHost: localhost\r\n"
                 . "X-Scope: $scope\r\nConnection: close\r\n\r\n",
        done => sub {
            my ($request) = @_;
            my $m = $request->{answer};
            my $token = $m ? $m->header('Idempotency-Token') : undef;

            $self->{running}--;

            return $self->{loop}->after(0.1, sub {
                $self->_get_token($op, $tries + 1);
            }) if !defined $token;

            $op->{key} = $forged eq 'flipped' ? _flip($token) : $token;
            $self->{loop}->after($forged eq 'expired' ? 2.2 : 0, sub {
                $self->_next_step($op);
            });
        });

    return;
}


# With another character it is none.

sub _flip {
    my ($token) = @_;

    my $at = length($token) * 2 / 3;
    my $char = substr $token, $at, 1;

    substr $token, $at, 1, $char eq 'A' ? 'B' : 'A';

    return $token;
}


sub _body {
    my ($op, $variant) = @_;

    my $text = "variant $variant of $op->{key} ";

    return substr $text x (1 + $op->{size} / length $text), 0, $op->{size};
}


sub _next_step {
    my ($self, $op) = @_;

    my $k = $op->{step}++;

    return $self->_over($op)
        if $self->{resting} || $k >= STEPS
           || ($op->{final} && $op->{extra}-- <= 0);

    my $step = $self->{schedule}->step($op, $k);

    $op->{left} = @{ $step->{requests} };

    for my $plan (@{ $step->{requests} }) {
        $self->{loop}->after(($step->{pause} + $plan->{after}) / 1000, sub {
            $self->_begin($op, $plan, sub { $self->_step_done($op) });
        });
    }

    return;
}


sub _step_done {
    my ($self, $op) = @_;

    $self->_next_step($op) if --$op->{left} == 0;

    return;
}


sub _over {
    my ($self, $op) = @_;

    _close($op);

    push @{ $self->{ $op->{final} ? 'certain' : 'uncertain' } }, $op;
    shift @{ $self->{certain} } if @{ $self->{certain} } > PROBES;

    # bodies are made again when they are needed

    delete $op->{bodies};
    $self->_next_operation;

    return;
}


# Its connections, one to each node.

sub _close {
    my ($op) = @_;

    close $_ for grep { defined } values %{ delete $op->{socket} || {} };

    return;
}


# Requests.

sub _begin {
    my ($self, $op, $plan, $done) = @_;

    return $done->() if $self->{resting} && !$plan->{calm};

    if ($self->{running} >= BUSY) {
        return $self->{loop}->after(0.01, sub {
            $self->_begin($op, $plan, $done);
        });
    }

    $op->{bodies} ||= [ map { _body($op, $_) } 0, 1 ];
    $self->{running}++;

    Torture::Request->new(
        loop => $self->{loop}, port => $self->{ports}[ $plan->{node} ],
        plan => $plan, bytes => _bytes($op, $plan),
        socket => delete $op->{socket}{ $plan->{node} },
        done => sub {
            $self->{running}--;
            $self->_ended($op, @_);
            $done->();
        });

    return;
}


sub _bytes {
    my ($op, $plan) = @_;

    my $body = $op->{bodies}[ $plan->{variant} ];
    my $key = $plan->{quoted} ? "\"$op->{key}\"" : $op->{key};
    my $framing = 'Content-Length: ' . length $body;

    if ($plan->{chunked}) {
        $framing = 'Transfer-Encoding: chunked';
        $body = join '', map { sprintf "%x\r\n%s\r\n", length $_, $_ }
            unpack('(a5000)*', $body), '';
    }

    my $uri = "/$op->{place}/$op->{pair}";
    $uri .= "?r=$op->{resource}&n=$op->{number}&s=$op->{target}"
        if $op->{resource};

    return join "\r\n", "$op->{method} $uri HTTP/1.1",
        'Host: localhost', "Idempotency-Key: $key", "X-Scope: $op->{scope}",
        "X-Place: $op->{place}",
        "X-Request: $plan->{id}", "X-Upstream: $plan->{upstream}",
        'Content-Type: text/plain', $framing,
        $plan->{keep} ? () : 'Connection: close',
        $plan->{calm} ? 'X-Calm: 1' : (),
        '', $body;
}


sub _ended {
    my ($self, $op, $request) = @_;

    my $plan = $request->{plan};
    my $leave = $request->{leave};

    if ($request->can_be_kept) {
        my $kept = $op->{socket}{ $plan->{node} };

        close $kept if $kept;
        $op->{socket}{ $plan->{node} } = $request->{socket};
    }

    $self->_look($op, $request);

    $self->{log}->write('request',
        (map { $_ => $op->{$_} } qw(n scope key place method resource number
                                    target forged)),
        (map { $_ => $plan->{$_} } qw(id variant upstream calm slow node)),
        (map { $_ => $request->{$_} } qw(fresh t0 t1 t2 got end)),
        leave => $leave->{when} eq 'never' ? undef
                                           : "$leave->{when}-$leave->{how}",
        sent => sha1_hex($op->{bodies}[ $plan->{variant} ]),
        _answer($request->{answer}));

    return;
}


sub _answer {
    my ($m) = @_;

    return if !$m;

    my %fields = (told => 'X-Told', worker => 'X-Worker', run => 'X-Execution',
                  mark => 'Idempotent-Replayed', type => 'Content-Type',
                  etag => 'ETag', says => 'X-Accel-Idempotency');
    my ($original) = $m->body =~ /"original_status": ?(\d+)/;

    return (
        (map { $_ => join(',', $m->headers($fields{$_})) || undef }
            sort keys %fields),
        cookie => defined scalar($m->header('Set-Cookie')) ? 1 : undef,
        status => $m->status, original => $original,
        length => length $m->body, sha => sha1_hex($m->body),
    );
}


# Whether a client would come again: not if it has an answer for good.

sub _look {
    my ($self, $op, $request) = @_;

    my $m = $request->{answer} or return;
    my $told = $m->header('X-Told') // '';

    $op->{final} = 1
        if $told =~ /^(replayed|waited|outcome-unknown|response-not-stored
                     |key-reused|token-invalid)$/x
           || ($told =~ /^(out-of-order|acknowledged)$/
               && $PLACES{ $op->{place} }{sequence})
           || ($told eq 'first' && $m->header('X-Execution')
               && $m->status !~ /^(409|425|429|502|503|504)$/);

    return;
}


# The end: what has become of the operations?  Those without a final answer
# are asked about first.  Some short time later, everybody gets the same.

sub _probe {
    my ($self) = @_;

    my @ops = (@{ $self->{uncertain} }, reverse @{ $self->{certain} });

    splice @ops, PROBES if @ops > PROBES;

    # what is to be gone soon comes first

    @ops = sort { _brief($b) <=> _brief($a) } @ops;

    push @ops, $self->_newcomers(@ops) if $GUARDS;

    $self->{probing} = \@ops;
    $self->{probers} = 0;

    $self->_next_probe for 1 .. AT_A_TIME;

    return;
}


# One more request for each resource, if this client is to see to that: who
# has never been there before needs its guard.

sub _newcomers {
    my ($self, @ops) = @_;

    my %ops = map { $_->{resource} => $_ }
        grep { $PLACES{ $_->{place} }{guard}
               && ($_->{resource} =~ /(\d+)$/)[0] % $self->{of}
                  == $self->{number} } @ops;

    return map { { %$_, n => "$_->{n}-new", key => "$_->{key}-new",
                   bodies => undef } } map { $ops{$_} } sort keys %ops;
}


sub _brief {
    my ($op) = @_;

    return $ZONES{ $PLACES{ $op->{place} }{zone} }{brief} // 0;
}


sub _next_probe {
    my ($self) = @_;

    my $op = shift @{ $self->{probing} };

    if (!$op) {
        $self->_say('probed') if !$self->{probers} && !$self->{probed}++;
        return;
    }

    my @variants = (0, 0, 1);

    $op->{calms} = 0;
    $self->{probers}++;

    return $self->_probe_one($op, @variants);
}


sub _probe_one {
    my ($self, $op, @variants) = @_;

    if (!@variants) {
        _close($op);
        $self->{probers}--;
        return $self->_next_probe;
    }

    my $variant = shift @variants;
    my $plan = $self->{schedule}->calm($op, $op->{calms}++, $variant);

    return $self->_begin($op, $plan, sub {
        $self->_probe_one($op, @variants);
    });
}


1;
