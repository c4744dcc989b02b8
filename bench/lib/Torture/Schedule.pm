package Torture::Schedule;

# Everything that is random in a run, drawn from the seed: what clients send
# and when they leave, what the upstream does, what happens to nginx.  Nothing
# here depends on time, so a seed says it all.
#
# An operation is what a client wants to have done: a scope, a key, a place
# and a body.  It takes steps, each of some requests at about the same time,
# until there is a final answer, and a few more.

use strict;
use warnings;

use Torture::Places;
use Torture::Random;

use constant SCOPES => qw(ann bob cem dot);
use constant SHARERS => 16;             # of a resource: so many pairs


# weigh: { name => factor } makes kinds of chaos, places, faults and ways to
# leave more or less likely.

sub new {
    my ($class, $seed, %weigh) = @_;

    return bless { seed => $seed, weigh => \%weigh }, $class;
}


sub seed { return $_[0]{seed} }


sub _stream {
    my ($self, @names) = @_;

    return Torture::Random->new($self->{seed}, @names);
}


sub _weighted {
    my ($self, $random, @table) = @_;

    for my $i (0 .. @table / 2 - 1) {
        my $factor = $self->{weigh}{ $table[2 * $i] };
        $table[2 * $i + 1] *= $factor if defined $factor;
    }

    return $random->weighted(@table);
}


# Milliseconds: a list of weight => [ least, most ].

sub _time {
    my ($random, @table) = @_;

    my @ranges = @table[ map { 2 * $_ + 1 } 0 .. @table / 2 - 1 ];
    my $which = $random->weighted(map { $_ => $table[2 * $_] } 0 .. $#ranges);

    return $random->between(@{ $ranges[$which] });
}


# Two operations that follow each other are the same request with the same
# key, in two scopes.

sub operation {
    my ($self, $n) = @_;

    my $pair = $n >> 1;
    my $random = $self->_stream('operation', $pair);
    my $place = $self->_weighted($random,
                    map { $_ => $PLACES{$_}{weight} } sort keys %PLACES);

    return {
        n      => $n,
        pair   => $pair,
        key    => "key-$pair",
        scope  => (SCOPES)[ ($pair + $n % 2) % 4 ],
        place  => $place,
        method => $random->chance(0.85) ? 'POST' : 'PATCH',
        size   => _time($random, 85 => [ 20, 300 ], 8 => [ 5_000, 20_000 ],
                        7 => [ 20_000, 90_000 ]),
        extra  => $random->between(1, 3),
        $GUARDS ? $self->_wants($n, $place) : (),
    };
}


# What an operation wants of which resource, and whether its token is a good
# one.  Operations that follow each other share resources.
#
#   number, target  what they are for a sequence, and for a state machine
#   forged          flipped: a bit of it; foreign: of another scope; expired

sub _wants {
    my ($self, $n, $place) = @_;

    my $pair = $n >> 1;
    my $random = $self->_stream('wants', $pair);
    my %wants = (
        resource => "$place-" . int($pair / SHARERS),
        number   => 1 + $pair % SHARERS + $random->below(5),
        target   => $random->weighted(a => 4, b => 4, c => 4, d => 1),
    );
    my $forged = $self->_stream('token', $n)->weighted(
        none => 70, flipped => 12, foreign => 12, expired => 6);

    $wants{forged} = $forged if $PLACES{$place}{token} && $forged ne 'none';

    return %wants;
}


# Step k of an operation: how long after the one before, and its requests.

sub step {
    my ($self, $op, $k) = @_;

    my $random = $self->_stream('step', $op->{n}, $k);
    my $n = $k == 0
        ? $random->weighted(1, 30, 2, 30, 3, 20, 4, 12, 6, 8)
        : $random->weighted(1, 75, 2, 20, 3, 5);

    return {
        pause => $k == 0 ? $random->below(50)
                         : _time($random, 30 => [ 0, 30 ], 40 => [ 30, 200 ],
                                 25 => [ 200, 900 ], 5 => [ 900, 2600 ]),
        requests => [ map { $self->_request($op, $k, $_) } 0 .. $n - 1 ],
    };
}


sub _request {
    my ($self, $op, $k, $j) = @_;

    my $random = $self->_stream('request', $op->{n}, $k, $j);
    my $own = $PLACES{ $op->{place} }{up};

    return {
        id       => "$op->{n}-$k-$j",
        after    => $j == 0 ? 0 : _time($random, 60 => [ 0, 40 ],
                                        40 => [ 40, 300 ]),
        variant  => $random->chance($k + $j ? 0.1 : 0.03) ? 1 : 0,
        upstream => $self->_weighted($random, $own, 85, pair => 8, dead => 5,
                                     reset => 3),
        quoted   => $random->chance(0.5),
        chunked  => $random->chance(0.15),
        pieces   => $random->weighted(1, 70, 2, 20, 4, 10),
        pause    => $random->below(30),
        keep     => $random->chance(0.5),
        slow     => $random->chance(0.06),
        node     => $self->_node($op, $k, $j),
        $self->_leave($random),
    };
}


# Which of the nodes is asked, if there are two.

sub _node {
    my ($self, @names) = @_;

    my $op = shift @names;

    return $REDIS ? $self->_stream('node', $op->{n}, @names)->below(2) : 0;
}


# begin: before a byte was sent; part: before all were sent; sent: so many
# milliseconds after that; answer: with the first byte of the answer.

sub _leave {
    my ($self, $random) = @_;

    return if $self->_weighted($random, stay => 78, leave => 22) eq 'stay';

    my $when = $self->_weighted($random, begin => 1, part => 3, sent => 7,
                                answer => 2);

    return (leave => {
        when => $when,
        how  => $self->_weighted($random, close => 4, reset => 4, half => 3),
        at   => $random->below(1000) / 1000,
        ms   => _time($random, 50 => [ 0, 30 ], 50 => [ 30, 300 ]),
    });
}


# A request without any harm, to see what has become of an operation.

sub calm {
    my ($self, $op, $n, $variant) = @_;

    return {
        id => "$op->{n}-calm-$n", after => 0, variant => $variant,
        node => $self->_node($op, 'calm', $n),
        upstream => 'live', quoted => 1, chunked => 0, pieces => 1,
        pause => 0, keep => 0, slow => 0, calm => 1,
    };
}


# What the upstream does with the k-th execution of an identity.
#
#   kind     see below
#   status   of the answer; of nginx's page, if there is no whole one
#   fate     what the record becomes, if nothing happens to nginx
#   delay    milliseconds before the first byte
#   size     of the body
#   framing  length, chunks, close
#   pauses   milliseconds after each piece of the answer but the last
#   cut      the part of the body that is sent, if not all is
#   broken   there is no whole answer
#   stream   X-Accel-Buffering: no
#   says     X-Accel-Idempotency
#   idle     milliseconds that a connection is kept afterwards

my %faults = (
#   kind         weight
    whole     => 50,    # a status that is stored
    refuse    => 12,    # a status of "not carried out"
    gateway   => 3,     # an own 502 or 504
    says      => 5,     # that the status is not what counts
    close     => 4,     # no answer, the connection is closed
    abort     => 3,     # no answer, it is reset
    half      => 2,     # a part of the header
    garbage   => 2,     # no HTTP
    cut       => 5,     # a part of the body
    badchunk  => 2,     # a body in chunks, one of them is none
    broken    => 3,     # a reset in the body
    large     => 5,     # more than is kept
    stream    => 5,     # what is to reach the client at once
);


sub execution {
    my ($self, $place, $scope, $key, $k) = @_;

    my $random = $self->_stream('execution', $place, $scope, $key, $k);
    my $traits = $PLACES{$place};
    my $kind = $self->_weighted($random,
        (map { $_ => $faults{$_} } sort keys %faults),
        $traits->{hasty} ? (mute => 12, late => 15) : ());

    my $plan = {
        kind    => $kind,
        status  => $random->pick(200, 200, 200, 201, 204, 404, 500),
        fate    => 'done',
        delay   => _delay($random, $kind, $traits),
        size    => _time($random, 20 => [ 0, 0 ], 50 => [ 1, 2_000 ],
                         20 => [ 2_000, 9_000 ], 10 => [ 9_000, 50_000 ]),
        framing => $random->weighted(length => 5, chunks => 3, close => 1),
        pauses  => [ map { _time($random, 60 => [ 0, 5 ], 40 => [ 5, 60 ]) }
                         1 .. $random->weighted(0, 6, 1, 2, 3, 2) ],
        idle    => _time($random, 50 => [ 1, 100 ], 50 => [ 100, 500 ]),
    };

    _harm($plan, $random);

    return $plan;
}


# Where a lease may end, an execution takes about as long as that.

sub _delay {
    my ($random, $kind, $traits) = @_;

    return $random->between(400, 1500) if $kind eq 'late';
    return $random->between(0, 1600) if $traits->{lease};
    return _time($random, 45 => [ 0, 0 ], 30 => [ 1, 60 ], 25 => [ 60, 300 ]);
}


sub _harm {
    my ($plan, $random) = @_;

    my $kind = $plan->{kind};

    return if $kind =~ /^(whole|late)$/;

    return @$plan{qw(status fate)}
        = ($random->pick(503, 429, 409, 425), 'released') if $kind eq 'refuse';

    return @$plan{qw(status fate)} = ($random->pick(502, 504), 'unknown')
        if $kind eq 'gateway';

    return @$plan{qw(status says fate)} = @{ $random->pick(
        [ 200, 'release', 'released' ], [ 503, 'store', 'done' ],
        [ 201, 'unknown', 'unknown' ], [ 502, 'store', 'done' ]) }
        if $kind eq 'says';

    return _pass($plan, $random) if $kind =~ /^(large|stream)$/;

    @$plan{qw(status fate broken)} = ($kind eq 'mute' ? 504 : 502,
                                      'unknown', 1);
    @$plan{qw(framing cut)} = ($random->pick('length', 'chunks'),
                               $random->below(990) / 1000)
        if $kind =~ /^(cut|broken|badchunk)$/;
    $plan->{framing} = 'chunks' if $kind eq 'badchunk';

    return;
}


# What is not kept, and passes.  All of it that is sent is more than is kept.

sub _pass {
    my ($plan, $random) = @_;

    $plan->{status} = $random->weighted(200, 60, 201, 10, 500, 10, 503, 20);
    $plan->{fate} = $plan->{status} == 503 ? 'released' : 'unstored';
    $plan->{framing} = $random->pick('length', 'chunks');

    if ($plan->{kind} eq 'large') {
        $plan->{size} = $random->between(80_000, 230_000);

    } else {
        $plan->{stream} = 1;
        $plan->{size} = $random->between(100, 20_000);
    }

    return if $random->chance(0.85);

    $plan->{cut} = $random->between(900, 990) / 1000;
    $plan->{broken} = 1;
    $plan->{fate} = 'unknown' if $plan->{fate} eq 'released';

    return;
}


# What the upstream says when it is asked for the k-th time what has become of
# a request: done, absent, or it does not know.

sub check {
    my ($self, $scope, $key, $k) = @_;

    my $random = $self->_stream('check', $scope, $key, $k);

    return {
        says  => $random->weighted(done => 45, absent => 30, 'no idea' => 25),
        how   => $random->weighted(error => 2, close => 1, half => 1),
        delay => _time($random, 50 => [ 0, 0 ], 50 => [ 1, 200 ]),
    };
}


# What happens to nginx next: after how many milliseconds, what, to which of
# the processes that there are, for how long.

sub chaos {
    my ($self, $n) = @_;

    my $random = $self->_stream('chaos', $n);

    return {
        pause => _time($random, 30 => [ 20, 150 ], 50 => [ 150, 600 ],
                       20 => [ 600, 1200 ]),
        what  => $self->_weighted($random, kill => 40, term => 8, old => 10,
                                  freeze => 8, reload => 20, point => 8),
        which => $random->below(1000),
        ms    => $random->between(1200, 2200),
    };
}


# What happens to the Redis, or to the net between it and one of the nodes:
# after how many milliseconds, what, to which of them, and for how long.
#
#   ways     where: up (towards Redis), down
#   late     by how many milliseconds
#   bytes    so many more pass before a cut
#   how      a connection ends: close, reset
#   clients  that Redis dismisses

sub trouble {
    my ($self, $n) = @_;

    my $random = $self->_stream('trouble', $n);

    return {
        pause   => _time($random, 40 => [ 50, 800 ], 60 => [ 800, 2000 ]),
        what    => $self->_weighted($random, delay => 12, drop => 8,
                       stall => 7, cut => 24, unplug => 4, half_open => 4,
                       refuse => 4, vanish => 3, deny => 3, reset => 8,
                       hang => 8, crash => 4, forget => 6, dismiss => 6),
        which   => $random->below(1000),
        ways    => $random->pick([ 'up' ], [ 'down' ], [ 'down' ],
                                 [ 'up', 'down' ]),
        late    => _time($random, 60 => [ 5, 200 ], 40 => [ 200, 1000 ]),
        bytes   => _time($random, 30 => [ 1, 60 ], 40 => [ 60, 1000 ],
                         30 => [ 1000, 6000 ]),
        how     => $random->pick('close', 'reset'),
        clients => $random->pick([ 'normal' ], [ 'pubsub' ],
                                 [ 'normal', 'pubsub' ]),
        ms      => _time($random, 60 => [ 20, 300 ], 30 => [ 300, 1000 ],
                         10 => [ 1000, 2500 ]),
    };
}



1;
