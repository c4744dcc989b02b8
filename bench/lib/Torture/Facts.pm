package Torture::Facts;

# What the logs say, put in order, and what follows from it: which identity
# was asked for when, what may have become of an execution, whose claim may
# have been running.  "May" is meant to the letter: whatever could have
# happened is allowed for, so that nobody is accused who is not guilty.

use strict;
use warnings;

use POSIX qw(mktime);

use Torture::Places;

use constant {
    SLACK => 0.05,          # seconds by which the clock of nginx may be late
    STALL => 0.5,           # and if a worker has a lot to do
    GRACE => 8,             # seconds within which nginx gets round to things
};


# events (lines of all logs but nginx's), errors (the text of the error log
# of each node), offset (from the clock of the events to that of the error
# logs), zones (as idempotency_status shows them).

sub new {
    my ($class, %o) = @_;

    my $self = bless { zones => $o{zones} || {}, runs => {}, requests => {},
                       identities => {}, resources => {}, dead => {}, freezes => [],
                       parts => [], troubles => [], order => [],
                       node_of => {} }, $class;

    $self->_take($_) for @{ $o{events} };
    $self->_take_errors($_, $o{errors}[$_], $o{offset} // 0)
        for 0 .. $#{ $o{errors} };
    $self->_join;

    return $self;
}


sub runs       { return values %{ $_[0]{runs} } }
sub run        { return $_[0]{runs}{ $_[1] // '' } }
sub requests   { return @{ $_[0]{order} } }
sub request    { return $_[0]{requests}{ $_[1] // '' } }
sub identities { return values %{ $_[0]{identities} } }
sub identity   { return $_[0]{identities}{ _name($_[1]) } }
sub resources  { return values %{ $_[0]{resources} } }
sub resource   { return $_[0]{resources}{ $_[1]{resource} // '' } }
sub deaths     { return values %{ $_[0]{dead} } }
sub death      { return $_[0]{dead}{ $_[1] // '' } }
sub freezes    { return @{ $_[0]{freezes} } }
sub parts      { return @{ $_[0]{parts} } }
sub place      { return $PLACES{ $_[1]{place} } || {} }


sub counter {
    my ($self, $name, $counter) = @_;

    return $self->{zones}{$name}{counters}{$counter} // 0;
}


sub zone_of { return $ZONES{ $_[0]->place($_[1])->{zone} // '' } || {} }


sub _name { return join ' ', map { $_ // '' } @{ $_[0] }{qw(place scope key)} }


sub _take {
    my ($self, $event) = @_;

    my $what = $event->{what};

    if ($what eq 'request') {
        $self->{requests}{ $event->{id} } = $event;
        push @{ $self->{order} }, $event;

    } elsif ($what eq 'run') {
        $self->{runs}{ $event->{n} } = $event;

    } elsif ($what eq 'first') {
        $self->{runs}{ $event->{n} }{first} = $event->{t};

    } elsif ($what eq 'end') {
        @{ $self->{runs}{ $event->{n} } }{qw(end how last)}
            = @$event{qw(t how last)};

    } elsif ($what eq 'check') {
        push @{ $self->{checks}{ _name($event) } }, $event;

    } elsif ($what eq 'dead') {
        my $death = $self->{dead}{ $event->{pid} } ||= {
            pid => $event->{pid}, from => $event->{t} };

        # one that was told to end may be stopped before it has

        $death->{to} = $event->{t} + GRACE;

    } elsif ($what eq 'freeze') {
        push @{ $self->{freezes} }, $event;

    } elsif ($what eq 'part') {
        push @{ $self->{parts} }, $event;

    } elsif ($what eq 'stall') {
        push @{ $self->{troubles} }, { t => $event->{t} - $event->{s} - 1,
                                       to => $event->{t} };

    } elsif ($what eq 'trouble') {
        push @{ $self->{troubles} }, $event;
    }

    return;
}


# Whose workers were whose.  Those that have killed themselves, at a point:
# nginx tells to the second.

sub _take_errors {
    my ($self, $node, $errors, $offset) = @_;

    $self->{node_of}{$1} = $node
        while $errors =~ /start worker process (\d+)/g;

    while ($errors =~ m{^(\d+)/(\d+)/(\d+)\ (\d+):(\d+):(\d+)\ .*
                        worker\ process\ (\d+)\ exited\ on\ signal\ 9}gmx)
    {
        next if $self->{dead}{$7};

        my $t = mktime($6, $5, $4, $3, $2 - 1, $1 - 1900, 0, 0, -1) - $offset;

        $self->{dead}{$7} = { pid => $7, from => $t - 3, to => $t + 3,
                              own => 1 };
    }

    return;
}


sub _join {
    my ($self) = @_;

    @{ $self->{order} } = sort { $a->{t0} <=> $b->{t0} } @{ $self->{order} };

    for my $r (@{ $self->{order} }) {
        my $id = $self->{identities}{ _name($r) } ||= {
            name => _name($r), place => $r->{place}, requests => [],
            runs => [] };
        push @{ $id->{requests} }, $r;
        push @{ $self->_resource($r)->{requests} }, $r if $r->{resource};
    }

    for my $e (sort { ($a->{fence} || 0) <=> ($b->{fence} || 0) }
               $self->runs)
    {
        my $id = $self->{identities}{ _name($e) };
        push @{ $id->{runs} }, $e if $id;

        my $r = $self->request($e->{request}) or next;
        $r->{own} ||= $e;
    }

    for my $e (sort { $a->{t} <=> $b->{t} } $self->runs) {
        push @{ $self->_resource($e)->{runs} }, $e if $e->{resource};
    }

    $self->_known($_) for @{ $self->{order} };

    for my $check (map { @$_ } values %{ $self->{checks} || {} }) {
        my $e = $self->run($check->{n}) or next;
        $e->{checked} = $check->{t}
            if !defined $e->{checked} || $e->{checked} > $check->{t};
    }

    return;
}


sub _resource {
    my ($self, $of) = @_;

    return $self->{resources}{ $of->{resource} } ||= {
        name => $of->{resource}, place => $of->{place}, requests => [],
        runs => [] };
}


# The first time that anybody had the whole answer of an execution; and that
# somebody had it out of the record.

sub _known {
    my ($self, $r) = @_;

    my $e = $self->run($r->{run}) or return;
    my @kinds = ('known', defined $r->{mark} ? 'replayed' : ());

    return if $r->{end} ne 'answer';

    for (map { $e->{$_} //= {} } map { "${_}_by" } @kinds) {
        my $node = $r->{node} // 0;
        $_->{$node} = $r->{t2} if !defined $_->{$node}
                                  || $_->{$node} > $r->{t2};
    }

    for (@kinds) {
        $e->{$_} = $r->{t2} if !defined $e->{$_} || $e->{$_} > $r->{t2};
    }

    return;
}


# How long a worker was stopped in a span of time.

sub frozen {
    my ($self, $pid, $from, $to) = @_;

    my $sum = 0;

    for (grep { $_->{pid} == ($pid // 0) } $self->freezes) {
        my ($begin, $end) = ($_->{t}, $_->{until} + 1);

        $begin = $from if $begin < $from;
        $end = $to if $end > $to;
        $sum += $end - $begin if $end > $begin;
    }

    return $sum;
}


# What an execution may have left behind: state => the earliest time of it.

sub outcomes {
    my ($self, $e) = @_;

    return $e->{outcomes} if $e->{outcomes};

    my $place = $self->place($e);
    my %may;

    # nonsense is seen as soon as it comes, an end when it is there

    $may{ $e->{fate} } = $e->{fate} =~ /^(done|unstored)$/
                         || $e->{kind} =~ /^(garbage|badchunk)$/
        ? $e->{first} // $e->{t} : $e->{last} // $e->{t};
    delete $may{released} if $e->{fate} eq 'released' && !defined $e->{last};

    $may{unstored} = $may{done}
        if defined $may{done} && $self->zone_of($e)->{small};

    # an upstream that is given up may not even know of the request yet

    my $r = $self->request($e->{request});
    my @unknown = ($self->_killed($e), $self->_lease_ended($e),
                   $may{unknown} // ());

    # the upstream was asked, and has said that it was carried out

    $may{done} //= $e->{checked} if defined $e->{checked};

    push @unknown, $r ? $r->{t0} : 0
        if $place->{hasty} || ($e->{how} // '') ne 'planned';

    ($may{unknown}) = sort { $a <=> $b } @unknown if @unknown;

    return $e->{outcomes} = \%may;
}


# What its guard may have learned of an execution: moved, that the upstream
# has carried it out; kept, that it has not; doubt, that nobody knows.  What a
# zone has replayed was never in doubt, unless it was asked about.

sub left {
    my ($self, $e) = @_;

    my $may = $self->outcomes($e);
    my $has = $may->{done} // $may->{unstored};
    my $good = $e->{status} =~ /^2/;
    my %left;

    $left{moved} = 1 if (defined $has && $good) || defined $e->{checked};
    $left{kept} = 1 if (defined $has && !$good) || defined $may->{released}
                       || $self->_denied($e, $e->{t}, 1e9);
    $left{doubt} = 1 if defined $may->{unknown}
                        && ($REDIS || !defined $e->{replayed}
                            || defined $e->{checked});

    return \%left;
}


# By the death of its worker, unless it is known that it came too late.

sub _killed {
    my ($self, $e) = @_;

    my $death = $self->death($e->{worker}) or return;
    my $end = ($e->{end} // 1e9) + GRACE;

    return if defined $e->{known} && $e->{known} < $death->{from};
    return if $end < $death->{from};

    return $death->{from};
}


# Redis does not tell whether any has.

sub leases_end {
    my ($self, $place) = @_;

    return $REDIS || $self->counter($place->{zone}, 'lease_ended');
}


sub _lease_ended {
    my ($self, $e) = @_;

    my $place = $self->place($e);
    my $r = $self->request($e->{request});

    return if !$place->{lease} || !$r || !$self->leases_end($place)
              || ($REDIS && $self->sure($e));

    return $r->{t0} + $place->{lease} - SLACK;
}


# Whether a worker may have been unable to renew the lease of an execution,
# from some time before the given one on.

sub kept_from_renewing {
    my ($self, $e, $t) = @_;

    my $r = $self->request($e->{request}) or return 0;

    return 1 if $REDIS && $self->trouble($r->{node}, $r->{t0} - 1, $t);
    return 1 if grep { !defined $_->{kind} && $_->{t} <= $t
                       && $_->{to} >= $r->{t0} } @{ $self->{troubles} };
    return grep { $_->{pid} == $e->{worker} && $_->{t} <= $t
                  && $_->{until} >= $r->{t0} } $self->freezes;
}


# The earliest end of what an execution has left, were it in such a state.

sub lives_until {
    my ($self, $e, $state) = @_;

    my $place = $self->place($e);
    my $from = $self->outcomes($e)->{$state} // return;
    my $life = $place->{ $state eq 'unknown' ? 'unknown' : 'valid' };

    return $from + $life - $self->_early($e, $state, $from);
}


# By how much a record may seem to be older than it is: nginx looks at the
# clock once for all that happens at a time, and who is stopped just then is
# late.  A death may be found out about by any worker.

sub _early {
    my ($self, $e, $state, $from) = @_;

    return $self->late($from)
        if $state eq 'unknown' && $self->death($e->{worker});

    return SLACK + $self->frozen($e->{worker}, $e->{t}, $from + GRACE);
}


sub late {
    my ($self, $t) = @_;

    my $sum = STALL;
    $sum += $self->frozen($_->{pid}, $t - GRACE, $t + GRACE)
        for $self->freezes;

    return $sum;
}


# Whether the identity may be claimed anew at that time, after the execution.

sub may_be_over {
    my ($self, $e, $t) = @_;

    my $place = $self->place($e);
    my $may = $self->outcomes($e);

    return 1 if defined $may->{released} && $may->{released} <= $t;
    return 1 if $place->{retry} && defined $may->{unknown}
                && $may->{unknown} <= $t;

    return 1 if $place->{check} && defined $may->{unknown}
                && $self->_denied($e, $may->{unknown}, $t);

    for (qw(done unstored unknown)) {
        my $end = $self->lives_until($e, $_) // next;
        return 1 if $end <= $t;
    }

    return 0 if !$self->zone_of($e)->{evict};

    return grep { defined $_ && $_ <= $t } @$may{qw(done unstored)};
}


# Whether the upstream has said in between that nothing was carried out.

sub _denied {
    my ($self, $e, $from, $to) = @_;

    return grep { $_->{says} eq 'absent' && $_->{t} >= $from && $_->{t} <= $to }
        @{ $self->{checks}{ _name($e) } || [] };
}


# Whether a request may have held a claim, if only to ask what has become of
# another; and until when at most.

sub may_have_owned {
    my ($self, $r) = @_;

    my $told = $r->{told} // '';

    return 1 if $r->{own};
    return 0 if !defined $r->{t1};
    return 1 if $r->{end} ne 'answer' || $told eq 'first';

    # a guard was asked after the claim

    return 1 if $told =~ /^(resource-busy|out-of-order|acknowledged)$/
                || ($told eq 'outcome-unknown' && $self->place($r)->{state});

    # it may have been in the way of others while Redis was asked; and a claim
    # of which nothing was heard may have been granted

    return 1 if $REDIS;
    return $self->place($r)->{check}
        && $told =~ /^(replayed|waited|outcome-unknown)$/;
}


sub may_run_until {
    my ($self, $r) = @_;

    return $self->_redis_runs_until($r) if $REDIS;
    return $r->{t2} if $r->{end} eq 'answer';

    return $self->_runs_until($r);
}


# Redis is told of its end as soon as that can be done, or the lease ends.

sub _redis_runs_until {
    my ($self, $r) = @_;

    my $end = $r->{end} eq 'answer' ? $r->{t2} + 1 : $self->_runs_until($r);

    return $end if !$self->death_on($r->{node}, $r->{t0}, $end)
                   && !$self->trouble($r->{node}, $r->{t0} - 1, $end);

    return $end + $self->place($r)->{lease} + GRACE;
}


sub _runs_until {
    my ($self, $r) = @_;

    my $end = $r->{t2};
    my $e = $r->{own};

    if ($e) {
        my $ended = $e->{end} // 1e9;
        $end = $ended if $end < $ended;
    }

    return $end + GRACE;
}


# Whether somebody who knows the whole answer has certainly told Redis, or the
# zone, while the claim was alive.

sub sure {
    my ($self, $e) = @_;

    my $place = $self->place($e);

    return !$place->{lease} if !$REDIS;

    return $e->{sure} //= do {
        my $r = $self->request($e->{request});
        my $end = ($e->{end} // 1e9) + 1;

        $r && $end - $r->{t0} < $place->{lease}
            && !$self->death($e->{worker})
            && !$self->trouble($r->{node}, $r->{t0} - 1, $end) ? 1 : 0;
    };
}


# Whether anything may have kept a node from Redis in a span of time.  When it
# is over, a node may wait for a while before it tries again.

sub trouble {
    my ($self, $node, $from, $to) = @_;

    return 1 if grep {
        my $long = 2 * ($_->{to} - $_->{t});

        (!defined $_->{node} || $_->{node} == $node) && $_->{t} <= $to
            && $from <= $_->{to} + 1 + ($long < 2 ? $long : 2)
    } @{ $self->{troubles} };

    return grep {
        ($self->{node_of}{ $_->{pid} } // $node) == $node
            && $_->{t} <= $to && $from <= $_->{until} + 2
    } $self->freezes;
}


sub troubles {
    my ($self, $from, $to) = @_;

    return if !$REDIS;
    return grep { $_->{t} <= $to && $_->{to} >= $from }
        @{ $self->{troubles} };
}


# Whether anything may have ended a lease in a span of time.

sub disturbed {
    my ($self, $node, @when) = @_;

    return $self->death_within(@when)
        || ($REDIS && $self->trouble($node, @when))
        || grep { $_->{t} <= $when[1] && $_->{until} + 2 >= $when[0] }
           $self->freezes;
}


# Whether a worker of the node died in a span of time: what it had claimed is
# unknown there, and claimed to others, until the lease ends.

sub death_on {
    my ($self, $node, $from, $to) = @_;

    return grep { ($self->{node_of}{ $_->{pid} } // $node) == $node }
        $self->death_within($from, $to);
}


# Whether a worker died in a span of time.

sub death_within {
    my ($self, $from, $to) = @_;

    return grep { $_->{from} <= $to && $_->{to} >= $from } $self->deaths;
}


1;
