package Bench::Redis;

# The figures and goals of nodes that share a Redis.

use strict;
use warnings;

use List::Util qw(sum);
use Time::HiRes ();

use Bench::Rows;
use Bench::Table qw(median ratios spread thousands lowest);


our @ISA = qw(Bench::Rows);
our @PARTS = qw(redis_first redis_hot redis_far redis_waiters
                redis_instructions redis_stall redis_turn);

my %TITLE = %Bench::Contenders::TITLE;


# What Redis itself uses is measured in the same slices.

sub redis_first {
    my ($self) = @_;

    my $stage = $self->{stage};

    return if !$stage->who('shared');

    my %run = map { $_ => $stage->run_of($_, '/new', '+') }
        $stage->who(qw(proxy ours shared redis));
    my $batch = $stage->redis_batch($run{shared});
    my $bare = { label => 'bare', counter => {},
                 measure => sub { $stage->redis_bare(4000, $batch) } };

    delete $_->{store} for values %run;

    my $us = $self->cpu('first request, with Redis', values %run, $bare);

    $self->shared_row('first request, with Redis: CPU / plain proxying',
                      1.7, $us, 'proxy');

    my %store = (bare => $us->{bare},
                 map { $_ => $run{$_}{store} } grep { $run{$_} }
                     qw(shared redis));

    $self->shared_row('first request: CPU of Redis / a bare claim and a SET',
                      1.3, \%store, 'bare');
    $self->{table}->detail('CPU of Redis, microseconds a request',
        "first request; about $batch commands in one read",
        map { "$TITLE{$_} " . spread($store{$_}) } qw(bare shared redis));

    return;
}


sub redis_hot {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who(qw(return ours shared redis));

    $stage->fill($stage->server($_), '/', 1) for @who;

    my $us = $self->cpu('replay of what this node holds, with Redis',
                        map { $stage->run_of($_, '/', 1) } @who);

    $self->shared_row('replay of what this node holds, with Redis: CPU /'
                      . ' `return`', 1.10, $us, 'return');
    $self->shared_row('replay of what this node holds, with Redis: CPU /'
                      . ' without', undef, $us, 'ours');

    return;
}


# One node stores, another one is asked, for each key once.

sub redis_far {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who(qw(shared redis));
    my $slice = $stage->quick ? 1000 : 3000;
    my @runs = $stage->run_of('proxy', '/far', '+', requests => $slice);

    for my $who (@who) {
        $stage->fill($stage->server($who), '/far', $slice * $stage->rounds);

        push @runs, $stage->run_of($who, '/far', '+',
            server   => $stage->server($who, 1, '-far'),
            requests => $slice,
            counter  => {},
            upstream => 0);
    }

    my $us = $self->cpu('replay of what only Redis holds', @runs);

    $self->shared_row('replay of what only Redis holds: CPU / plain proxying',
                      1.1, $us, 'proxy');
    $self->{table}->detail('CPU of Redis, microseconds a request',
        'replay of what only Redis holds',
        map { "$TITLE{ $_->{label} } " . spread($_->{store}) }
            grep { $_->{label} ne 'proxy' } @runs);

    return;
}


# The first client asks one node, all others another one.

sub redis_waiters {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who(qw(shared redis));
    my (%p99, %text);

    for (1 .. $stage->rounds) {
        for my $who (@who) {
            my $other = $stage->server($who, 1, '-far');
            my $got = $stage->program('burst', $stage->server($who),
                '-w', $other->{port}, '-l', $stage->port('slow'),
                '-u', '/wait');

            die "$who: $got->{executions} executions, $got->{unanswered}"
                . " without an answer\n" if $got->{executions} != 1
                                            || $got->{unanswered};

            push @{ $p99{$who} }, $got->{p99};
        }
    }

    $self->{table}->add(
        figure => '199 duplicates on another node: ms from the end to p99',
        goal   => '<= 10',
        ours   => $p99{shared},
        bound  => 10,
        peer   => $p99{redis} && "$TITLE{redis} " . spread($p99{redis}),
    );
    $self->{table}->detail('Duplicates: executions; ms to p99',
        '199 on another node',
        map { "$TITLE{$_} 1; " . spread($p99{$_}) . ' ms' } @who);

    return;
}


sub redis_instructions {
    my ($self) = @_;

    my $stage = $self->{stage};
    my $n = $stage->quick ? 1000 : 3000;
    my $base = $stage->instructions('proxy', 'first', $n);

    for ([ 'first', 'first request, with Redis' ],
         [ 'far', 'replay of what only Redis holds' ])
    {
        my ($kind, $title) = @$_;
        my %of = map { $_ => scalar $stage->instructions($_, $kind, $n) }
            $stage->who(qw(shared redis));
        my %n = map { $_ => sum(values %{ $of{$_} }) }
            grep { $of{$_} } keys %of;
        my $floor = sum(values %$base);
        my %beyond = map { $_ => $n{$_} - $floor } keys %n;

        $self->{table}->add(
            figure => "$title: user-space instructions beyond plain proxying ("
                      . thousands($floor) . ')',
            ours   => $n{shared} && [ $beyond{shared} ],
            format => sub { sprintf '%s%s', $_[0] < 0 ? '' : '+',
                                    thousands($_[0]) },
            peer   => $n{redis} && "$TITLE{redis} +"
                                   . thousands($beyond{redis}),
        );
        $self->{table}->detail('User-space instructions a request', $title,
            map { "$TITLE{$_} " . thousands($n{$_}) } lowest(\%n));
        $self->tell_functions("redis-$kind", $of{shared}, $base);
    }

    return;
}


sub redis_stall {
    my ($self) = @_;

    $self->stall_row('shared', $self->{stage}->quick ? 20_000 : 100_000,
                     ', with Redis');

    return;
}


# What a node has most to do in one turn: many requests at once, answers of
# the largest size, and all who wait for another node.

sub redis_turn {
    my ($self) = @_;

    my $n = 4000;
    my $stage = $self->{stage};

    return if !$stage->who('shared');

    my $first = $stage->server('shared');
    my $server = $stage->turning('shared');
    my $load = sub {
        my @arguments = @_;
        return sub { $stage->load($server, @arguments) };
    };
    my (%turn, @last);

    $stage->load($first, '/s1m', '-k', '+1000', '-r', 150);

    for my $round (1 .. ($stage->quick ? 1 : 3)) {
        my @few = ('-c', 4, '-r', 50, '-k');

        my %do = (
            'first requests' => $load->('/new', '-r', 3000, '-k',
                                        '+' . (int(Time::HiRes::time() * 1000) + $round * 5000)),
            'first requests, 1 MiB' => $load->('/s1m', @few,
                                               '+' . $round * 100_000),
            'replays of what only Redis holds, 1 MiB' =>
                $load->('/s1m', @few, '+' . (950 + $round * 50)),
        );

        push @{ $turn{$_} }, $stage->turn_of($do{$_}) for keys %do;

        my ($turn, $woken) = $stage->longest_turn($server, $n, $first);

        die "$woken->{executions} executions, $woken->{unanswered} without"
            . " an answer\n" if $woken->{executions} != 1
                                || $woken->{unanswered};

        push @{ $turn{thousands($n) . ' waiters woken'} }, $turn;
        push @last, $woken->{max};
    }

    my %median = map { $_ => median($turn{$_}) } keys %turn;
    my ($worst) = reverse lowest(\%median);

    $self->{table}->add(
        figure => "longest turn of the event loop, with Redis ($worst): ms of"
                  . ' CPU',
        goal   => '<= 5',
        ours   => $turn{$worst},
        bound  => 5,
    );
    $self->{table}->detail('Longest turn of the event loop, with Redis, ms of'
        . ' CPU', $_, spread($turn{$_})) for lowest(\%median);
    $self->{table}->detail('Duplicates: executions; ms to p99',
        thousands($n) . ' duplicates on another node',
        "$TITLE{shared} 1; the last one is answered after " . spread(\@last)
            . ' ms');

    return;
}


# As ratio_row(), with the nodes that share a Redis for ours.

sub shared_row {
    my ($self, $figure, $bound, $us, $base) = @_;

    my %ratio = map { $_ => ratios($us->{$_}, $us->{$base}) }
        grep { $us->{$_} } qw(shared redis);

    $ratio{ours} = delete $ratio{shared};

    return $self->list_row($figure, $bound, \%ratio);
}


1;
