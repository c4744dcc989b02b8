package Torture::Checker;

# Says what in the logs of a run cannot be.  Each rule is proved by the logs
# alone; Torture::Facts says what may have happened.

use strict;
use warnings;

use Torture::Answers;
use Torture::Facts;
use Torture::Guards;
use Torture::Places;

# The rules, and what they say.

our @RULES = qw(once owners answers steady reasons breaks stuck counters
                remains log);

our %RULES = (
    once     => 'no identity was executed more often than the rules allow',
    owners   => 'every execution is that of one request, as it was sent',
    answers  => 'every answer is the whole and true answer to its request',
    steady   => 'once known, an outcome stays what it is',
    reasons  => 'every refusal has a reason',
    breaks   => 'no connection breaks for nothing',
    stuck    => 'no key and no waiter is stuck',
    counters => 'the counters agree',
    remains  => 'nothing is left behind',
    log      => 'the error log is clean',
    alone    => 'no two executions for one resource run at a time',
    moves    => 'states and numbers go where they may go',
    tokens   => 'a token is good if it was issued for this, and else is not',
);


sub rules { return @RULES, $GUARDS ? qw(alone moves tokens) : () }


# See Torture::Facts.

sub new {
    my ($class, %o) = @_;

    return bless { facts => Torture::Facts->new(%o), wrong => {}, told => 0 },
        $class;
}


sub dead { return map { $_->{pid} } $_[0]{facts}->deaths }


# { rule => [ words ] }

sub wrong {
    my ($self) = @_;

    my $say = sub { $self->_say(@_) };
    my $guards = Torture::Guards->new($self->{facts}, $say);
    my $answers = Torture::Answers->new($self->{facts}, $guards, $say);

    for my $resource (sort { $a->{name} cmp $b->{name} }
                      $self->{facts}->resources)
    {
        $guards->look($resource) if $self->{facts}->place($resource)->{guard};
    }

    for my $id (sort { $a->{name} cmp $b->{name} } $self->{facts}->identities)
    {
        $self->_once($id);
        $answers->look($id);
    }

    $self->_owners;
    $self->_breaks;
    $self->_counters;

    return $self->{wrong};
}


# The first ones come with all that happened to the identity.

sub _say {
    my ($self, $rule, $words, $of) = @_;

    my $id = $of ? $self->{facts}->identity($of) : undef;

    if ($id && $self->{told}++ < 10) {
        $words .= "\n" . $self->_story($id);
        $words .= "\n" . $self->_story($self->_around($of))
            if $self->{facts}->place($of)->{guard};
    }

    push @{ $self->{wrong}{$rule} }, $words;

    return;
}


# Who else wanted the resource at about that time.

sub _around {
    my ($self, $of) = @_;

    my $resource = $self->{facts}->resource($of);
    my ($from, $to) = (($of->{t0} // $of->{t}) - 3,
                       ($of->{t2} // $of->{t}) + 1);

    return { %$resource,
        requests => [ grep { $_->{t2} >= $from && $_->{t0} <= $to }
                           @{ $resource->{requests} } ],
        runs => [ grep { ($_->{end} // $to) >= $from && $_->{t} <= $to }
                       @{ $resource->{runs} } ] };
}


sub _story {
    my ($self, $id) = @_;

    my @lines = map { [ $_->{t0}, sprintf('    %.3f %.3f %s %s', $_->{t0},
        $_->{t2}, $_->{id}, join ' ', map { "$_->[0]=$_->[1]" }
        _members($_, qw(node variant upstream leave end status told run mark worker
                        fresh t1 number target forged))) ] }
        @{ $id->{requests} };

    push @lines, map { [ $_->{t}, sprintf('    %.3f execution %d %s', $_->{t},
        $_->{n}, join ' ', map { "$_->[0]=$_->[1]" }
        _members($_, qw(request fence worker kind status fate first last end
                        how number target))) ] } @{ $id->{runs} };

    for my $death ($self->{facts}->deaths) {
        push @lines, [ $death->{from},
            sprintf '    %.3f worker %d dies', $death->{from}, $death->{pid} ]
            if grep { ($_->{worker} // 0) == $death->{pid} }
               @{ $id->{requests} }, @{ $id->{runs} };
    }

    push @lines, $self->_troubles($id);

    return join "\n", "    $id->{name}:",
        map { $_->[1] } sort { $a->[0] <=> $b->[0] } @lines;
}


sub _troubles {
    my ($self, $id) = @_;

    my @times = sort { $a <=> $b }
        map { ($_->{t0}, $_->{t2}) } @{ $id->{requests} };

    return map {
        [ $_->{t}, sprintf '    %.3f %.3f %s%s', @$_{qw(t to)},
          $_->{kind} // 'the machine was busy',
          defined $_->{node} ? " of the net of node $_->{node}" : '' ]
    } $self->{facts}->troubles($times[0] - 5, $times[-1]);
}


sub _members {
    my ($of, @names) = @_;

    return map { [ $_, $of->{$_} ] } grep { defined $of->{$_} } @names;
}


# In the order in which they were granted: each but the first comes when what
# the one before has left may be over.

sub _once {
    my ($self, $id) = @_;

    my $facts = $self->{facts};
    my @runs = @{ $id->{runs} };

    for my $i (1 .. $#runs) {
        my ($before, $this) = @runs[ $i - 1, $i ];

        $self->_say('once', "execution $this->{n} came after execution "
                    . "$before->{n}", $this)
            if !$facts->may_be_over($before, $this->{t});
    }

    return;
}


sub _owners {
    my ($self) = @_;

    my $facts = $self->{facts};
    my (%fences, %asked);

    for my $e (sort { $a->{n} <=> $b->{n} } $facts->runs) {
        my $r = $facts->request($e->{request});
        my $zone = $facts->place($e)->{zone} // '';
        my $fence = $e->{fence} || 'no fence';

        my $why = !$r ? 'no request'
            : join(' ', @$e{qw(place scope key method sent)})
              ne join(' ', @$r{qw(place scope key method sent)})
                ? 'a request that was another one'
            : !defined $r->{t1} ? 'a request that was not sent whole'
            : $e->{t} < $r->{t0} ? 'a request to come'
            : $r->{upstream} =~ /^(dead|reset)$/
                ? 'a request for another upstream'
            : $r->{forged} ? "a request with a token that is $r->{forged}"
            : $asked{ $e->{request} }++ ? 'a request that had run'
            : $fences{ $REDIS ? "$e->{place} $e->{scope} $e->{key} $fence"
                              : "$zone $fence" }++
                ? "the fence of another, $fence"
            : undef;

        $self->_say('owners', "execution $e->{n} is of $why", $e)
            if defined $why;
    }

    return;
}


# What broke, and for what reason.

sub _breaks {
    my ($self) = @_;

    my $facts = $self->{facts};

    for my $r ($facts->requests) {
        $self->_say('breaks', "the answer to $r->{id} broke off", $r)
            if $r->{end} =~ /^(none|part)$/ && !$self->_may_break($r);
    }

    for my $e ($facts->runs) {
        $self->_say('breaks', "the upstream was left in execution $e->{n}",
                    $e)
            if ($e->{how} // 'open') ne 'planned'
               && !$facts->place($e)->{hasty}
               && $e->{kind} !~ /^(mute|garbage|badchunk)$/
               && !$self->_may_leave($e);
    }

    for my $part ($facts->parts) {
        my @deaths = $part->{worker} ? ($facts->death($part->{worker}) || ())
                                     : $facts->deaths;

        $self->_say('breaks', "a part of a request came at $part->{t}")
            if !grep { $_->{from} <= $part->{t} } @deaths;
    }

    return;
}


sub _may_break {
    my ($self, $r) = @_;

    my $e = $r->{own};

    return 1 if ($r->{leave} // '') =~ /-half$/;
    return 1 if !$r->{fresh} && $r->{end} eq 'none';
    return 1 if $self->_may_have_died($r);

    # a page cannot take the place of what was begun

    return $r->{end} eq 'part' && $e && $e->{kind} =~ /^(large|stream)$/
        && (defined $e->{cut} || $self->{facts}->place($r)->{hasty});
}


# Whether the worker that had a request may have died: that one, if the
# upstream was told which, and else any of its node.

sub _may_have_died {
    my ($self, $r) = @_;

    my $facts = $self->{facts};
    my @when = @$r{qw(t0 t2)};

    return $facts->death_on($r->{node}, @when) if !$r->{own};
    return grep { $_->{pid} == $r->{own}{worker} }
        $facts->death_within(@when);
}


sub _may_leave {
    my ($self, $e) = @_;

    my $death = $self->{facts}->death($e->{worker});

    return $death && $death->{from} <= ($e->{end} // 1e9);
}


# What the zones have counted.

sub _counters {
    my ($self) = @_;

    my $facts = $self->{facts};
    my %runs;

    $runs{ $facts->place($_)->{zone} // '' }++ for $facts->runs;

    for my $name (sort keys %ZONES) {
        my $zone = $ZONES{$name};
        my %count = map { $_ => $facts->counter($name, $_) }
            qw(first lost lease_ended no_room store_full evicted_done
               evicted_unstored store_unavailable unprotected);

        my @wrong = (
            $count{first} < ($runs{$name} // 0)
                ? "$runs{$name} executions of $count{first} claims" : (),
            !$REDIS && $count{lost} > $count{lease_ended}
                ? "$count{lost} claims lost, $count{lease_ended} leases ended"
                : (),
            (map { $count{$_} ? "$count{$_} $_" : () }
                $REDIS ? () : 'store_unavailable', 'unprotected',
                $zone->{small} ? () : qw(no_room store_full),
                $zone->{evict} ? () : qw(evicted_done evicted_unstored)),
        );

        $self->_say('counters', "zone $name: $_") for @wrong;
    }

    return;
}


sub summary {
    my ($self) = @_;

    my $facts = $self->{facts};
    my (%told, %end, %ops);

    for my $r ($facts->requests) {
        $end{ $r->{end} }++;
        $ops{ $r->{n} }++;
        $told{ $r->{told} // '-' }++ if $r->{end} eq 'answer';
    }

    my $requests = () = $facts->requests;
    my $own = grep { $_->{own} } $facts->deaths;

    return {
        requests => $requests, operations => scalar keys %ops,
        executions => scalar(() = $facts->runs), told => \%told, end => \%end,
        deaths => scalar(() = $facts->deaths), own => $own,
    };
}


1;
