package Bench::Rows;

# The figures and their goals, one part after the other.

use strict;
use warnings;

use List::Util qw(max sum);

use Bench::Table qw(median ratios spread thousands lowest);


our @PARTS = qw(hot random first stored large workers instructions syscalls
                waiters records payload stall wake);

my $CPU = 'CPU of the front server, microseconds a request: median'
          . ' (least-most)';

my %TITLE = %Bench::Contenders::TITLE;


sub new {
    my ($class, $stage, $table) = @_;

    return bless { stage => $stage, table => $table }, $class;
}


sub hot {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who;

    $stage->fill($stage->server($_), '/', 1) for @who;

    my $us = $self->cpu('replay, one hot key',
                        map { $stage->run_of($_, '/', 1) } @who);

    $self->ratio_row('replay, one hot key: CPU / `return`', 1.10, $us,
                     'return');
    $self->ratio_row('replay, one hot key: CPU / plain proxying', 0.55, $us,
                     'proxy');

    return;
}


sub random {
    my ($self) = @_;

    my $n = 10_000;
    my $stage = $self->{stage};
    my @who = grep { $_ ne 'proxy' } $stage->who;

    $stage->fill($stage->server($_), '/', $n) for @who;

    my $us = $self->cpu('replay, 10,000 keys at random',
                        map { $stage->run_of($_, '/', $n) } @who);

    $self->ratio_row('replay, 10,000 keys at random: CPU / `return`', 1.20,
                     $us, 'return');

    return;
}


sub first {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @who = grep { $_ ne 'return' } $stage->who;

    my $us = $self->cpu('first request, a new key each time',
                        map { $stage->run_of($_, '/new', '+') } @who);

    $self->ratio_row('first request, a new key each time: CPU / plain'
                     . ' proxying', 1.25, $us, 'proxy');

    return;
}


# One server with few, many and very many keys in three zones.

sub stored {
    my ($self) = @_;

    my $stage = $self->{stage};
    my $most = $stage->quick ? 300_000 : 1_000_000;
    my %n = ('/k3' => 1000, '/k5' => 100_000, '/k6' => $most);
    my @who = $stage->who('ours', 'lua');
    my @runs = $stage->run_of('return', '/', 1);

    for my $who (@who) {
        for my $uri (sort keys %n) {
            $stage->fill($stage->server($who), $uri, $n{$uri});
            push @runs, $stage->run_of($who, $uri, $n{$uri},
                label => "$who, " . thousands($n{$uri}) . ' keys');
        }
    }

    my $us = $self->cpu('replay by number of stored keys', @runs);
    my ($few, $many) = map { thousands($_) } @n{'/k3', '/k6'};

    $self->ratio_row("replay, $many keys stored: CPU / `return`", 1.30,
        { return => $us->{return},
          map { $_ => $us->{"$_, $many keys"} } @who }, 'return');

    my %flat = map {
        $_ => ratios($us->{"$_, $many keys"}, $us->{"$_, $few keys"})
    } grep { $us->{"$_, $many keys"} && $us->{"$_, $few keys"} } @who;

    $self->list_row("replay, $many keys stored: CPU / with $few", 1.20,
                    \%flat);

    return;
}


sub large {
    my ($self) = @_;

    my %bound = (32 => 0.65, 256 => 0.80);
    my $stage = $self->{stage};
    my @who = $stage->who(qw(ours proxy_cache lua));

    for my $size (32, 256) {
        my $uri = "/r${size}k";

        $stage->fill($stage->server($_), $uri, 1) for @who;

        my $us = $self->cpu("replay of $size KiB",
                            map { $stage->run_of($_, $uri, 1) } @who);

        $self->ratio_row("replay of $size KiB: CPU / proxy_cache",
                         $bound{$size}, $us, 'proxy_cache');
    }

    return;
}


sub workers {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who(qw(return ours proxy_cache lua));
    my @runs;

    for my $who (@who) {
        my @server = ($stage->server($who), $stage->server($who, 2));

        $stage->fill($_, '/', 1) for @server;
        push @runs, $stage->run_of($who, '/', 1),
            $stage->run_of($who, '/', 1, label => "$who, two workers",
                           server => $server[1]);
    }

    my $us = $self->cpu('two workers, one hot key', @runs);
    my %ratio = map { $_ => ratios($us->{"$_, two workers"}, $us->{$_}) }
        grep { $us->{"$_, two workers"} && $us->{$_} } @who;
    my $return = delete $ratio{return};

    $self->list_row('two workers, one hot key: CPU / with one worker'
                    . ' (`return` ' . spread($return) . ')', 1.10, \%ratio);

    return;
}


# Beyond what nginx itself needs for the same.

sub instructions {
    my ($self) = @_;

    my $stage = $self->{stage};
    my $n = $stage->quick ? 1000 : 3000;

    for ([ 'replay', 'return', 'proxy', 8000 ],
         [ 'first', 'proxy', 'return', 10_000 ])
    {
        my ($kind, $base, $not, $bound) = @$_;
        my %of = map { $_ => scalar $stage->instructions($_, $kind, $n) }
            grep { $_ ne $not } $stage->who;
        my %n = map { $_ => sum(values %{ $of{$_} }) }
            grep { $of{$_} } keys %of;
        my %beyond = map { $_ => $n{$_} - $n{$base} }
            grep { $n{$_} && $_ ne $base } keys %n;
        my ($peer) = grep { $_ ne 'ours' } lowest(\%beyond);

        $self->{table}->add(
            figure => "$kind: user-space instructions beyond $TITLE{$base} ("
                      . thousands($n{$base}) . ')',
            goal   => '<= +' . thousands($bound),
            ours   => defined $beyond{ours} ? [ $beyond{ours} ] : undef,
            bound  => $bound,
            format => sub { '+' . thousands($_[0]) },
            peer   => $peer && "$TITLE{$peer} +" . thousands($beyond{$peer}),
        );
        $self->{table}->detail('User-space instructions a request', $kind,
            map { "$TITLE{$_} " . thousands($n{$_}) } lowest(\%n));
        $self->tell_functions($kind, @of{'ours', $base});
    }

    return;
}


# Where the instructions of this module go, and the difference to the base.

sub tell_functions {
    my ($self, $kind, $ours, $base) = @_;

    return if !$ours || !$base;

    my %beyond = map { $_ => ($ours->{$_} || 0) - ($base->{$_} || 0) }
        keys %$ours, keys %$base;
    my $text = sprintf "%8s %8s  %s\n", 'all', 'beyond', 'function';

    for (reverse lowest(\%beyond)) {
        $text .= sprintf "%8.0f %+8.0f  %s\n", $ours->{$_} || 0, $beyond{$_},
            $_ if abs $beyond{$_} >= 1;
    }

    $self->{stage}->result("functions.$kind", $text);

    return;
}


sub syscalls {
    my ($self) = @_;

    my $stage = $self->{stage};
    my $n = $stage->quick ? 1000 : 4000;

    for ([ 'replay', 'return', 'proxy' ], [ 'first', 'proxy', 'return' ]) {
        my ($kind, $base, $not) = @$_;
        my %n = map { $_ => scalar $stage->syscalls($_, $kind, $n) }
            grep { $_ ne $not } $stage->who;
        my ($peer) = grep { $_ ne 'ours' && $_ ne $base } lowest(\%n);
        my $format = sub { sprintf '%.1f', $_[0] };

        $self->{table}->add(
            figure => "$kind: system calls",
            goal   => 'as ' . $TITLE{$base} . ', ' . $format->($n{$base}),
            ours   => $n{ours} && [ $n{ours} ],
            bound  => $n{$base} + 0.1,
            format => $format,
            peer   => $peer && "$TITLE{$peer} " . $format->($n{$peer}),
        );
        $self->{table}->detail('System calls a request', $kind,
            map { "$TITLE{$_} " . $format->($n{$_}) } lowest(\%n));
    }

    return;
}


sub waiters {
    my ($self) = @_;

    for my $workers (1, 2) {
        $self->waiter_row($workers, 0);
        $self->waiter_row($workers, 80);
    }

    return;
}


# abort: milliseconds after which the first client goes; 0: it stays.

sub waiter_row {
    my ($self, $workers, $abort) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who(qw(proxy ours proxy_cache lua redis));
    my (%p99, %asked, %lost, %text);

    for (1 .. $stage->rounds) {
        for my $who (@who) {
            my $got = $stage->program('burst', $stage->server($who, $workers),
                '-l', $stage->port('slow'), '-u', '/wait', '-a', $abort);

            push @{ $p99{$who} }, $got->{p99};
            $asked{$who} = max($asked{$who} // 0, $got->{executions});
            $lost{$who} = max($lost{$who} // 0, $got->{unanswered});
        }
    }

    for my $who (@who) {
        $text{$who} = "$asked{$who}; "
            . ($lost{$who} ? "$lost{$who} without an answer; " : '')
            . spread($p99{$who}) . ' ms';
    }

    my ($peer) = sort {
        $asked{$a} <=> $asked{$b} || median($p99{$a}) <=> median($p99{$b})
    } grep { !/^(?:ours|proxy)$/ } @who;
    my $title = '200 duplicates at once' . ($abort ? ', first client gone' : '')
        . ($workers > 1 ? ', two workers' : '');
    my $own = median($p99{proxy});

    $self->{table}->add(
        figure => "$title: executions; ms to p99 of waiters",
        goal   => $abort ? '1; all answered'
                  : sprintf('1; <= plain proxying, %.2f', $own),
        text   => $text{ours},
        met    => $text{ours} && $asked{ours} == 1 && !$lost{ours}
                  && ($abort || median($p99{ours}) <= $own),
        peer   => $peer && "$TITLE{$peer} $text{$peer}",
    );
    $self->{table}->detail('Duplicates: executions; ms to p99', $title,
                           map { "$TITLE{$_} $text{$_}" } @who);

    return;
}


sub records {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @peers = $stage->quick ? () : $stage->who('lua', 'srcache');
    my %n;

    if ($stage->who('ours')) {
        $n{ours} = $stage->load($stage->server('ours'), '/fill', '-k', '+0',
                                '-s', '-r', 2_000_000)->{ok};
    }

    $stage->fill($stage->server($_), '/fill', 400_000) for @peers;

    for (@peers) {
        $n{$_} = $_ eq 'srcache' ? $stage->memcached_items
            : $stage->site->ask($stage->server('lua')->{port}, '/count') + 0;
    }

    if ($stage->who('redis')) {
        my ($bytes) = $stage->redis_bytes('/s200');
        $n{redis} = int(64 * 1024 * 1024 / $bytes);
    }

    my ($peer) = grep { $_ ne 'ours' } reverse lowest(\%n);

    $self->{table}->add(
        figure => 'records in 64 MiB, 200-byte body',
        goal   => '>= 160,000',
        ours   => $n{ours} && [ $n{ours} ],
        bound  => 160_000,
        least  => 1,
        format => \&thousands,
        peer   => $peer && "$TITLE{$peer} " . thousands($n{$peer}),
    );
    $self->{table}->detail('Records in 64 MiB', '200-byte body',
        map { "$TITLE{$_} " . thousands($n{$_}) } reverse lowest(\%n));

    return;
}


# A block costs its share of the whole zone, index and all.

sub payload {
    my ($self) = @_;

    my $stage = $self->{stage};
    my @size = ([ '/s200', '200 B', 200, 1000 ],
                [ '/s2k', '2 KiB', 2048, 1000 ],
                [ '/s32k', '32 KiB', 32768, 200 ],
                [ '/s1m', '1 MiB', 1048576, 20 ]);

    for (@size) {
        my ($uri, $name, $body, $n) = @$_;
        my ($beyond, $redis);
        my $bound = 160 + $body / 10;

        if ($stage->who('ours')) {
            my $before = $stage->status('size');
            $stage->fill($stage->server('ours'), $uri, $n);
            my $after = $stage->status('size');

            die "not $n records\n" if $after->{done} - $before->{done} != $n;

            $beyond = ($before->{free} - $after->{free}) / $n
                * $after->{size} / $after->{blocks}
                - $body - $stage->header_bytes($uri);
        }

        if ($stage->who('redis')) {
            my ($used, $size) = $stage->redis_bytes($uri);
            $redis = 'Redis string ' . thousands($used - $size);
        }

        $self->{table}->add(
            figure => "bytes a record beyond its payload, body of $name",
            goal   => '<= 160 + 10 %, ' . thousands($bound),
            ours   => defined $beyond ? [ $beyond ] : undef,
            bound  => $bound,
            format => \&thousands,
            peer   => $redis,
        );
    }

    return;
}


# All records of a zone expire at once.  Beside it, a server that only proxies.

sub stall {
    my ($self) = @_;

    $self->stall_row('ours', 100_000, '');

    return;
}


sub stall_row {
    my ($self, $ours, $n, $with) = @_;

    my $stage = $self->{stage};
    my @who = $stage->who('proxy', $ours);
    my (%cpu, %clock);

    for my $round (1 .. ($stage->quick ? 1 : 3)) {
        for my $who (@who) {
            my $server = $stage->server($who);
            my @worker = ('-P', $server->{workers}[0]);

            if ($who eq $ours) {
                $stage->load($server, '/expire', '-r', $n, '-k',
                             '+' . $round * $n);
            }

            my @got = (
                $stage->program('stall', $server, @worker, '-t', 6000),
                $stage->program('stall', $server, @worker, '-t', 2000,
                                '-w', '/expire'),
            );

            push @{ $cpu{$who} }, max(map { $_->{cpu} } @got);
            push @{ $clock{$who} }, max(map { $_->{worst} } @got);
        }
    }

    $self->{table}->add(
        figure => 'longest stall while ' . thousands($n) . ' records expire'
                  . "$with: ms of CPU",
        goal   => '<= 5',
        ours   => $cpu{$ours},
        bound  => 5,
        peer   => 'plain proxying ' . spread($cpu{proxy}),
    );
    $self->{table}->detail('Longest time without an answer, ms',
        thousands($n) . " records expire$with", map {
            "$TITLE{$_} CPU " . spread($cpu{$_}) . ', clock '
                . spread($clock{$_})
        } @who);

    return;
}


# All who wait for one key are woken at once.

sub wake {
    my ($self) = @_;

    my $n = 10_000;
    my $stage = $self->{stage};
    my (@turn, @last);

    return if !$stage->who('ours');

    my $server = $stage->turning('ours');

    for (1 .. ($stage->quick ? 1 : 3)) {
        my ($turn, $woken) = $stage->longest_turn($server, $n);

        die "$woken->{executions} executions, $woken->{unanswered} without"
            . " an answer\n" if $woken->{executions} != 1
                                || $woken->{unanswered};

        push @turn, $turn;
        push @last, $woken->{max};
    }

    $self->{table}->add(
        figure => 'longest turn of the event loop while ' . thousands($n)
                  . ' waiters are woken: ms of CPU',
        goal   => '<= 5',
        ours   => \@turn,
        bound  => 5,
    );
    $self->{table}->detail('Duplicates: executions; ms to p99',
        thousands($n) . ' duplicates at once',
        "$TITLE{ours} 1; the last one is answered after " . spread(\@last)
            . ' ms');

    return;
}


# Interleaved runs, told in full; the lists of microseconds by label.

sub cpu {
    my ($self, $title, @runs) = @_;

    my $us = $self->{stage}->interleave(@runs);
    my %median = map { $_ => median($us->{$_}) } keys %$us;

    $self->{table}->detail($CPU, $title, map {
        my ($name, $more) = /^(\w+)(.*)$/;
        "$TITLE{$name}$more " . spread($us->{$_})
    } lowest(\%median));

    return $us;
}


# Ratios of everybody to $base.

sub ratio_row {
    my ($self, $figure, $bound, $us, $base) = @_;

    my %ratio = map { $_ => ratios($us->{$_}, $us->{$base}) }
        grep { $us->{$_} } keys %$us;

    delete @ratio{qw(return proxy)};

    return $self->list_row($figure, $bound, \%ratio);
}


# The lowest of all others is the best peer.  No bound: no goal.

sub list_row {
    my ($self, $figure, $bound, $list) = @_;

    my %median = map { $_ => median($list->{$_}) } keys %$list;
    my ($peer) = grep { $_ ne 'ours' } lowest(\%median);

    $self->{table}->add(
        figure => $figure,
        goal   => $bound && sprintf('<= %.2f', $bound),
        ours   => $list->{ours},
        bound  => $bound,
        peer   => $peer && "$TITLE{$peer} " . spread($list->{$peer}),
    );

    return;
}


1;
