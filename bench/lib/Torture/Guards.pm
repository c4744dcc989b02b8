package Torture::Guards;

# The rules for requests that change one resource: that the upstream had them
# one at a time, that states and numbers went the way they may go, and that
# whoever was kept out was kept out by somebody.
#
# A guard is a lease, held by the worker that has the request.  The upstream may
# still be at work for a worker that has died, or whose lease has ended, while
# the next one begins: only then may two of them overlap.

use strict;
use warnings;

use Torture::Facts;
use Torture::Places;

use constant {
    SLACK => 0.05,          # seconds
    GRACE => 8,
};


# say: code that gets a rule, words, and a request or an execution.

sub new {
    my ($class, $facts, $say) = @_;

    return bless { facts => $facts, say => $say }, $class;
}


sub look {
    my ($self, $resource) = @_;

    my $place = $self->{facts}->place($resource);

    $self->_alone($resource);
    $self->_states($resource) if $place->{state};
    $self->_numbers($resource) if $place->{sequence};

    return;
}


sub _say {
    my ($self, $rule, $of, $words) = @_;

    $self->{say}->($rule, $words, $of);

    return;
}


# Executions of one resource, in order of their beginning.

sub _alone {
    my ($self, $resource) = @_;

    my @runs = @{ $resource->{runs} };

    for my $i (0 .. $#runs) {
        my $end = _end($runs[$i]);

        for my $next (@runs[ $i + 1 .. $#runs ]) {
            last if $next->{t} >= $end;

            $self->_say('alone', $next, "execution $next->{n} began while "
                . "$runs[$i]{n} ran for $resource->{name}")
                if !$self->_is_let_go($runs[$i], $next->{t});
        }
    }

    return;
}


# The earliest time at which nginx can know that an execution has ended: when
# the last bytes began to be sent, or nonsense came.

sub _end {
    my ($e) = @_;

    return $e->{first} // $e->{t} if $e->{kind} =~ /^(garbage|badchunk)$/;
    return $e->{last} // $e->{end} // 1e9;
}


# Whether the guard of an execution may have fallen free before that had ended:
# its own worker was dead by then, or had not been able to renew the lease.

sub _is_let_go {
    my ($self, $e, $t) = @_;

    my $facts = $self->{facts};
    my $death = $facts->death($e->{worker});
    my $lease = $facts->place($e)->{lease} or return $death
        && $death->{from} <= $t;

    return 1 if $death && $death->{from} <= $t;

    # it is renewed at each third of the lease

    return $facts->kept_from_renewing($e, $t - $lease * 2 / 3 + SLACK);
}


# The states that a resource may be in after each execution, in turn.

sub _states {
    my ($self, $resource) = @_;

    my $facts = $self->{facts};
    my %states = (new => 1);
    my @way = ({ t => 0, states => { new => 1 } });
    my ($before, $doubt);

    for my $e (@{ $resource->{runs} }) {
        $states{new} = 1 if $before && $self->_is_forgotten($before, $e);
        $self->_in_doubt($doubt, $e) if $doubt;
        $doubt = $self->_leaves_doubt($doubt, $e);

        my @from = grep { $self->_leads($_, $e->{target}) }
            sort keys %states;

        $self->_say('moves', $e, "execution $e->{n} went to $e->{target} from "
                    . join ' or ', sort keys %states)
            if !@from;

        my $left = $facts->left($e);
        @from = keys %states if !@from;

        %states = (($left->{kept} || $left->{doubt} ? map { $_ => 1 } @from
                                                    : ()),
                   ($left->{moved} || $left->{doubt} ? ($e->{target} => 1)
                                                     : ()));
        $way[-1]{until} = ($e->{end} // 1e9) + GRACE;
        push @way, { t => $e->{t}, states => { %states } };
        $before = $e;
    }

    $resource->{way} = \@way;

    return;
}


sub _leads {
    my ($self, $from, $to) = @_;

    return grep { $_ eq $to } @{ $MOVES{$from} || [] };
}


# Whether all that is known of a resource may have come to its end between two
# executions.

sub _is_forgotten {
    my ($self, $before, $e) = @_;

    my $facts = $self->{facts};
    my $life = $facts->place($e)->{valid};

    return $e->{t} >= _end($before) + $life - $facts->late($e->{t});
}


# What nobody knows keeps all others out, until that is settled.

sub _in_doubt {
    my ($self, $doubt, $e) = @_;

    $self->_say('moves', $e, "execution $e->{n} came, and nobody knew what had "
                . "become of $doubt->{n}")
        if _name($doubt) ne _name($e)
           && $e->{t} < $doubt->{t} + $self->{facts}->place($e)->{unknown};

    return;
}


sub _name { return "$_[0]{scope} $_[0]{key}" }


# The execution of which nobody knows, now that there was another one, if that
# is known.  One that was run again and refused has settled nothing.

sub _leaves_doubt {
    my ($self, $doubt, $e) = @_;

    my $facts = $self->{facts};

    return $e if join(' ', keys %{ $facts->left($e) }) eq 'doubt';
    return $doubt if $doubt && _name($doubt) eq _name($e)
                     && join(' ', keys %{ $facts->outcomes($e) }) eq 'released';
    return;
}


# Numbers that the upstream was known to have taken only grow.

sub _numbers {
    my ($self, $resource) = @_;

    my $facts = $self->{facts};
    my ($most, $before);

    for my $e (@{ $resource->{runs} }) {
        undef $most if $before && $self->_is_forgotten($before, $e);

        $self->_say('moves', $e, "execution $e->{n} with number $e->{number} "
                    . "came after $most->{n} with $most->{number}")
            if $most && $e->{number} <= $most->{number};

        $most = $e if join(' ', keys %{ $facts->left($e) }) eq 'moved'
                      && (!$most || $most->{number} < $e->{number});
        $before = $e;
    }

    return;
}


# Reasons.  Others that may have been in the way while a request was there.

sub busy {
    my ($self, $r) = @_;

    my $facts = $self->{facts};

    return grep {
        $_ != $r && $_->{t0} < $r->{t2} && $self->_may_have_held($_)
            && $facts->may_run_until($_) > $r->{t0}
    } @{ $facts->resource($r)->{requests} };
}


# Whoever was kept out itself, or has asked for no guard, kept nobody out: if
# all are told of others, there are none.  Excepted are those who find out what
# became of a move, or run it again, as nobody else moves meanwhile; and those
# to whom Redis has given what they never heard of.

sub _may_have_held {
    my ($self, $r) = @_;

    my $facts = $self->{facts};
    my $place = $facts->place($r);

    return 0 if !$facts->may_have_owned($r);
    return 1 if ($r->{told} // '') !~ /^(?:resource-busy|in-flight|key-reused
                                       |replayed|waited|response-not-stored)$/x
                || ($place->{state} && ($place->{check} || $place->{retry}));

    return $REDIS && $facts->trouble($r->{node}, $r->{t0} - 1, $r->{t2} + 1);
}


# Whether the resource was, at some time while the request was there, where
# what it wants is out of order; or is there already.

sub is_late {
    my ($self, $r, $there) = @_;

    my $facts = $self->{facts};
    my $resource = $facts->resource($r);

    return grep {
        $_->{number} >= $r->{number} && $_->{t} <= $r->{t2}
            && $facts->left($_)->{moved}
    } @{ $resource->{runs} } if $facts->place($r)->{sequence};

    my @states = map { keys %{ $_->{states} } }
        grep { $_->{t} <= $r->{t2} && ($_->{until} // 1e9) >= $r->{t0} }
        @{ $resource->{way} };

    return grep { $there ? $_ eq $r->{target}
                         : $_ ne $r->{target}
                           && !$self->_leads($_, $r->{target}) } @states;
}


1;
