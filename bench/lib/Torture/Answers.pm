package Torture::Answers;

# The rules for answers: whose they are, whether they are what they must be,
# and whether there was a reason for them.

use strict;
use warnings;

use Torture::Facts;
use Torture::Guards;
use Torture::Places;

use constant {
    SLACK => 0.05,          # seconds
    GRACE => 8,
};

my %statuses = (
    'in-flight' => 409, 'outcome-unknown' => 409, 'response-not-stored' => 409,
    'key-reused' => 422, 'store-full' => 503, 'store-unavailable' => 503,
    'resource-busy' => 409, 'out-of-order' => 409, 'acknowledged' => 204,
    'token-invalid' => 403,
);


# guards: a Torture::Guards; say: code that gets a rule, words, and a request.

sub new {
    my ($class, $facts, $guards, $say) = @_;

    return bless { facts => $facts, guards => $guards, say => $say }, $class;
}


sub look {
    my ($self, $id) = @_;

    my @known = $self->_known($id);

    for my $r (@{ $id->{requests} }) {
        $self->_stuck($r);
        next if $r->{end} ne 'answer';

        $self->_answer($r, $id);
        $self->_steady($r, @known);
    }

    return;
}


sub _say {
    my ($self, $rule, $r, $words) = @_;

    $self->{say}->($rule, "$r->{id} $words", $r);

    return;
}


sub _answer {
    my ($self, $r, $id) = @_;

    my $told = $r->{told} // '';
    my $method = "_" . $told =~ tr/-/_/r;

    if (defined $statuses{$told}) {
        $self->_say('answers', $r, "got $told with $r->{status}")
            if $statuses{$told} != $r->{status} || defined $r->{run}
               || defined $r->{mark};
        return $self->$method($r, $id);
    }

    return $self->_own($r) if $told eq 'first';
    return $self->_replay($r, $id) if $told =~ /^(replayed|waited)$/;

    # a request that was not sent whole

    $self->_say('reasons', $r, "got $r->{status}, $told")
        if $r->{status} != 400 || $told ne '-' || defined $r->{t1};

    return;
}


# Somebody's answer: the one that the upstream has given to this identity.

sub _of_run {
    my ($self, $r, $e) = @_;

    my @wrong = !$e ? 'of no execution' : (
        (grep { ($r->{$_} // '') ne ($e->{$_} // '') }
            qw(place scope key sent)),
        $r->{status} != $e->{status}
            && !($r->{status} == 200 && _checked($e, $r)) ? 'status' : (),
        $r->{says} ? 'X-Accel-Idempotency' : (),
        $e->{sha} ne $r->{sha} ? 'body' : (),
        ($r->{etag} // '') ne "\"$e->{n}\"" ? 'ETag' : (),
        $e->{status} != 204 && ($r->{type} // '') ne 'text/plain' ? 'type'
                                                                  : (),
        defined $e->{last} && $e->{last} > $r->{t2} ? 'time' : ());

    $self->_say('answers', $r, "got an answer that is not its own: @wrong")
        if @wrong;

    return !@wrong;
}


# Whether the upstream had said by then that it was carried out.

sub _checked {
    my ($e, $r) = @_;

    return defined $e->{checked} && $e->{checked} <= $r->{t2};
}


# The answer to a request that was carried out.

sub _own {
    my ($self, $r) = @_;

    my $own = $r->{own};

    return $self->_page($r, $own) if !defined $r->{run};
    return if !$self->_of_run($r, $self->{facts}->run($r->{run}));

    $self->_say('answers', $r, 'got an answer that looks like a replay')
        if defined $r->{mark} || !$r->{cookie};
    $self->_say('answers', $r, 'got the answer of another as its own')
        if !$own || $own->{n} != $r->{run};
    $self->_say('answers', $r, 'got a part as a whole')
        if $own && $own->{broken};

    return;
}


# A page of nginx's, as the upstream gave no whole answer, or none at all.

sub _page {
    my ($self, $r, $own) = @_;

    my $hasty = $self->{facts}->place($r)->{hasty};

    $self->_say('answers', $r, "got $r->{status}, of nobody")
        if $r->{status} !~ ($hasty ? qr/^50[24]$/ : qr/^502$/)
           || defined $r->{mark} || defined $r->{etag} || $r->{cookie};

    return if $hasty;

    $self->_say('reasons', $r, 'got a page in place of a whole answer')
        if $own && !($own->{broken} && $own->{fate} eq 'unknown');
    $self->_say('reasons', $r, 'was not carried out, for no reason')
        if !$own && $r->{upstream} !~ /^(dead|reset|kept)$/;

    return;
}


sub _replay {
    my ($self, $r, $id) = @_;

    my $facts = $self->{facts};
    my $e = $facts->run($r->{run});

    return if !$self->_of_run($r, $e);

    $self->_say('answers', $r, 'got a replay that is not marked as one')
        if ($r->{mark} // '') ne 'true' || $r->{cookie};
    $self->_say('answers', $r, 'got a replay of itself')
        if $e->{request} eq $r->{id};
    $self->_say('answers', $r, 'got a replay of what is not kept')
        if $e->{fate} ne 'done' && !_checked($e, $r);
    $self->_say('steady', $r, 'got a replay of what was over')
        if !$self->_is_kept($r, $e)
           && grep { $_->{fence} > $e->{fence} && $_->{t} < $r->{t0} }
              @{ $id->{runs} };

    $self->_too_late($r, $e);

    return;
}


# A node that Redis did not hear in time keeps what it has, and the other one,
# to which that is unknown, may run it again.

sub _is_kept {
    my ($self, $r, $e) = @_;

    my $facts = $self->{facts};

    return $REDIS && !$facts->sure($e)
        && $facts->request($e->{request})->{node} == $r->{node};
}


# A replay of what should have expired; and one that was waited for too long.
# A worker that reads a record keeps it, also if it is frozen or dies.

sub _too_late {
    my ($self, $r, $e) = @_;

    my $facts = $self->{facts};
    my $place = $facts->place($e);
    my $life = $place->{valid};

    # on Redis its life begins when that is told

    $life += $place->{lease} + GRACE if $REDIS && !$facts->sure($e);

    $self->_say('stuck', $r, 'got a replay after its time')
        if $r->{fresh} && $r->{t0} > $e->{known} + $life + 2 * SLACK
           && !$facts->death_within($r->{t0} - GRACE, $r->{t2})
           && !grep { $_->{t} <= $r->{t2} && $_->{until} >= $r->{t0} - GRACE }
              $facts->freezes;

    my $since = $e->{last} // $e->{t};

    for ($r->{t0}, $e->{checked} // ()) {
        $since = $_ if $since < $_;
    }

    $self->_say('stuck', $r, 'waited for what was there')
        if $r->{told} eq 'waited' && $r->{got} > $since + GRACE;

    return;
}


# Reasons.

sub _others {
    my ($self, $r, $id, $same) = @_;

    return grep {
        $_ != $r && ($_->{sent} eq $r->{sent}) == $same
            && $_->{t0} < $r->{t2} && $self->{facts}->may_have_owned($_)
    } @{ $id->{requests} };
}


sub _in_flight {
    my ($self, $r, $id) = @_;

    my $facts = $self->{facts};
    my $wait = $facts->place($r)->{wait};

    $self->_say('reasons', $r, 'is told of another, and there is none')
        if !grep { $facts->may_run_until($_) > $r->{t0} }
           $self->_others($r, $id, 1);

    # nobody waits on Redis for one that is dead here

    $self->_say('reasons', $r, 'has not waited')
        if $wait && $r->{fresh} && $r->{t2} - $r->{t0} < $wait - SLACK
           && !($REDIS && $self->_in_doubt($r, $id));

    return;
}


# A node may have forgotten what it had claimed; and may have been told since
# by Redis alone.

sub _in_doubt {
    my ($self, $r, $id) = @_;

    my $facts = $self->{facts};
    my @when = ($r->{node}, $id->{requests}[0]{t0}, $r->{t2});

    return $facts->death_on(@when) || $facts->trouble(@when);
}


sub _outcome_unknown {
    my ($self, $r, $id) = @_;

    my $facts = $self->{facts};

    my $place = $facts->place($r);

    $self->_say('reasons', $r, 'is to be run again, and was not')
        if $place->{retry} && !$place->{state};
    $self->_say('reasons', $r, 'is told that nobody knows, and somebody does')
        if !grep { $self->_may_be_unknown($_, $r) }
           $place->{retry} ? () : $self->_others($r, $id, 1),
           $self->_of_state($r);

    return;
}


# What nobody knows of one move keeps all others out.

sub _of_state {
    my ($self, $r) = @_;

    my $facts = $self->{facts};

    return if !$facts->place($r)->{state};

    return grep { $_->{t0} < $r->{t2} && $facts->may_have_owned($_) }
        @{ $facts->resource($r)->{requests} };
}


# Whether a request may have left an unknown outcome by then.

sub _may_be_unknown {
    my ($self, $of, $r) = @_;

    my $facts = $self->{facts};
    my $place = $facts->place($r);

    if ($of->{own}) {
        my $since = $facts->outcomes($of->{own})->{unknown};
        return 1 if defined $since && $since <= $r->{t2};
        return 0 if !$REDIS || $facts->sure($of->{own});
    }

    return 1 if $of->{upstream} =~ /^(reset|kept)$/;
    return 1 if $place->{hasty};
    return 1 if $place->{lease} && !$REDIS && $facts->leases_end($place);

    # a claim whose answer was lost, and that could not be given back

    return 1 if $REDIS && $of->{t0} + $place->{lease} - SLACK <= $r->{t2}
                && $facts->trouble($of->{node}, $of->{t0} - 1,
                                   $facts->may_run_until($of));

    return grep { $_->{from} <= $r->{t2} }
        $facts->death_within($of->{t0}, $facts->may_run_until($of));
}


sub _response_not_stored {
    my ($self, $r, $id) = @_;

    my $facts = $self->{facts};

    my @reasons = grep {
        my $since = $facts->outcomes($_)->{unstored};
        defined $since && $since <= $r->{t2} && $_->{sent} eq $r->{sent}
            && $_->{status} == ($r->{original} // 0)
    } @{ $id->{runs} };

    $self->_say('reasons', $r, 'is told that an answer was not kept, '
                . 'and it should have been')
        if !@reasons;

    return;
}


sub _key_reused {
    my ($self, $r, $id) = @_;

    $self->_say('reasons', $r, 'is told of another request, and there is none')
        if !$self->_others($r, $id, 0);

    return;
}


# Guards.

sub _resource_busy {
    my ($self, $r) = @_;

    my $facts = $self->{facts};
    my $turn = $facts->place($r)->{serialize};

    $self->_say('reasons', $r, 'is told that its resource is busy, and nobody '
                . 'was there')
        if !$self->{guards}->busy($r);

    # nobody waits for a state that somebody finds out about, nor for its guard,
    # and that may fall free later than the turn

    $self->_say('reasons', $r, 'has not waited for its turn')
        if $turn && $r->{fresh} && $r->{t2} - $r->{t0} < $turn - SLACK
           && !$facts->disturbed($r->{node}, $r->{t0} - GRACE, $r->{t2})
           && !grep { $self->_may_be_unknown($_, $r) } $self->_of_state($r);

    return;
}


sub _out_of_order {
    my ($self, $r) = @_;

    $self->_say('reasons', $r, 'is told that it is out of order, and is not')
        if !$self->{guards}->is_late($r, 0);

    return;
}


sub _acknowledged {
    my ($self, $r) = @_;

    $self->_say('reasons', $r, 'is acknowledged, and was never carried out')
        if !$self->{guards}->is_late($r, 1);

    return;
}


sub _token_invalid {
    my ($self, $r) = @_;

    $self->_say('tokens', $r, 'was refused with a good token')
        if !$r->{forged};

    return;
}


# A Redis that does not answer; then nothing is carried out.

sub _store_unavailable {
    my ($self, $r) = @_;

    my $facts = $self->{facts};

    $self->_say('reasons', $r, 'is told that the store is away, and it is not')
        if !$REDIS || !$facts->trouble($r->{node}, $r->{t0}, $r->{t2});
    $self->_say('answers', $r, 'is told that the store is away, and ran')
        if $r->{own};

    return;
}


sub _store_full {
    my ($self, $r) = @_;

    $self->_say('reasons', $r, 'is told that the zone is full, and it is not')
        if !$self->{facts}->zone_of($r)->{small};

    return;
}


# What is known for certain of an identity, from when and until when: that it
# has a record of such a state, and by which request.

sub _known {
    my ($self, $id) = @_;

    my $facts = $self->{facts};

    return if !@{ $id->{requests} } || $facts->zone_of($id)->{evict};

    my @known = ((map { $self->_known_run($_) } @{ $id->{runs} }),
                 (map { $self->_known_by($_) } @{ $id->{runs} }),
                 $self->_known_unknown($id));

    return grep { defined $_->{from} && $_->{from} < $_->{until} } @known;
}


# A node on a Redis has what it has replayed, whatever becomes of Redis.

sub _known_by {
    my ($self, $e) = @_;

    my $facts = $self->{facts};
    my $by = $e->{replayed_by} || {};
    my $until = $facts->lives_until($e, 'done') // return;

    return if !$REDIS || !$facts->sure($e);

    return map { {
        run => $e, sent => $e->{sent}, state => 'done', node => $_,
        from => $by->{$_}, until => $until
    } } keys %$by;
}


# Where a lease may end, an owner may have come too late; where a zone is
# small, an answer may not have been kept.  A replay proves it even there.

sub _known_run {
    my ($self, $e) = @_;

    my $facts = $self->{facts};
    my $r = $facts->request($e->{request}) or return;
    my $sure = $facts->sure($e);
    my %fact = (run => $e, sent => $e->{sent});

    return if $REDIS && !$sure;

    if ($e->{fate} eq 'done' || defined $e->{checked}) {
        my $small = $facts->zone_of($e)->{small};

        return { %fact, state => 'done',
                 from => $sure && !$small && $e->{fate} eq 'done'
                     ? $e->{known} : $e->{replayed},
                 until => $facts->lives_until($e, 'done') };
    }

    # its first byte says so, unless that is one of a page of nginx's

    return if $e->{fate} ne 'unstored' || !$sure
              || !defined $r->{run} && ($r->{end} eq 'answer'
                                        || $facts->place($e)->{hasty});

    # it is sent on before Redis has heard of it

    return { %fact, state => 'unstored',
             from => defined $r->{got} ? $r->{got} + $REDIS : undef,
             until => $facts->lives_until($e, 'unstored') };
}


# An unknown record began when somebody sent that request, or later.

sub _known_unknown {
    my ($self, $id) = @_;

    my $place = $self->{facts}->place($id);
    my (%first, @known);

    return if $place->{retry} || $place->{check} || $place->{state} || $REDIS;

    for my $r (@{ $id->{requests} }) {
        my $first = $first{ $r->{sent} } //= $r->{t0};

        push @known, { state => 'unknown', sent => $r->{sent},
                       from => $r->{t2},
                       until => $first + $place->{unknown}
                                - $self->{facts}->late($first) }
            if ($r->{told} // '') eq 'outcome-unknown';
    }

    return @known;
}


sub _steady {
    my ($self, $r, @known) = @_;

    my $told = $r->{told} // '';

    for my $fact (@known) {
        next if $r->{t0} < $fact->{from} || $r->{t2} > $fact->{until}
                || ($fact->{node} // $r->{node} // 0) != ($r->{node} // 0);

        my $right = $told eq '-'
            || ($told eq 'store-unavailable' && !defined $fact->{node})
            || ($told eq 'in-flight' && $self->_is_being_asked($r, $fact))
            || ($REDIS && $self->_kept_by_its_node($r, $fact)) || (
            $r->{sent} ne $fact->{sent} ? $told eq 'key-reused'
            : $fact->{state} eq 'unknown' ? $told eq 'outcome-unknown'
            : $fact->{state} eq 'unstored' ? $told eq 'response-not-stored'
                && ($r->{original} // 0) == $fact->{run}{status}
            : $told =~ /^(replayed|waited)$/
              && ($r->{run} // 0) == $fact->{run}{n});

        return $self->_say('steady', $r, "got $told, but was known to be "
            . $fact->{state} . ($fact->{run} ? " by $fact->{run}{n}" : ''))
            if !$right;
    }

    return;
}


# Whether a node has kept an outcome that Redis had not taken in time: there,
# it was unknown, and was run again.

sub _kept_by_its_node {
    my ($self, $r, $fact) = @_;

    my $facts = $self->{facts};

    return grep {
        $_ != $fact->{run} && $self->_is_kept($r, $_)
            && ($r->{told} eq 'replayed' ? $r->{run} == $_->{n}
                : $r->{told} eq 'response-not-stored')
    } @{ $facts->identity($r)->{runs} };
}


# Whether another one of the same node was asking Redis meanwhile.  What has been
# asked is asked to its end, two timeouts at most, though the client has left.

sub _is_being_asked {
    my ($self, $r, $fact) = @_;

    return $REDIS && !defined $fact->{node}
        && grep { $_ != $r && $_->{node} == $r->{node}
                  && $_->{t0} <= $r->{t2}
                  && $_->{t2} + ($_->{end} eq 'left' ? 1.6 : 0) >= $r->{t0} }
           @{ $self->{facts}->identity($r)->{requests} };
}


# One who has asked the upstream has its answer before Redis has heard of it; so
# has one who was kept out by a guard.

sub _just_asked {
    my ($self, $r) = @_;

    my $facts = $self->{facts};
    my $place = $facts->place($r);
    my $told = join '|', $place->{check} ? qw(outcome-unknown replayed) : (),
        $place->{guard} ? qw(resource-busy out-of-order acknowledged) : (),
        $place->{state} ? 'outcome-unknown' : ();

    return $REDIS && length $told
        && grep { ($_->{told} // '') =~ /^(?:$told)$/
                  && $_->{t2} <= $r->{t2} && $_->{t2} > $r->{t0} - 1 }
           @{ $facts->identity($r)->{requests} };
}


# Nobody waits for ever; and when all is quiet, everybody gets an answer.

sub _stuck {
    my ($self, $r) = @_;

    my $facts = $self->{facts};
    my $told = $r->{told} // '';

    $self->_say('stuck', $r, 'got no answer at all') if $r->{end} eq 'late';

    return if !$r->{calm};

    my $right = $r->{end} eq 'answer'
        && ($told =~ /^(replayed|outcome-unknown|response-not-stored
                      |key-reused)$/x
            || ($told eq 'first' && (defined $r->{run}
                                     || $facts->place($r)->{hasty}))
            || ($REDIS && $told eq 'waited')
            || ($told eq 'store-full' && $facts->zone_of($r)->{small})
            || ($told eq 'in-flight' && $self->_just_asked($r))
            || $told =~ /^(out-of-order|acknowledged|token-invalid)$/
            || ($told eq 'resource-busy'
                && grep { $_->{calm} } $self->{guards}->busy($r)));

    $self->_say('stuck', $r, "got $r->{end} $told when all was quiet")
        if !$right;

    return;
}


1;
