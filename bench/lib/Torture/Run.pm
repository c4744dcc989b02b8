package Torture::Run;

# A whole run: starts the upstream, nginx and the clients, lets chaos reign for
# so many seconds, waits until all is quiet, looks at what is left, and has the
# logs checked.
#
#   my $run = Torture::Run->new(seed => 1, seconds => 60);
#   $run->play;
#   my @wrong = $run->wrong('once');    # for each of Torture::Checker::RULES
#   print $run->summary;

use strict;
use warnings;

use File::Basename qw(dirname);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(sleep time);

use Test::Idempotency::Nginx;

use Torture::Chaos;
use Torture::Checker;
use Torture::Client;
use Torture::Log;
use Torture::Places;
use Torture::Remains;
use Torture::Schedule;
use Torture::Trouble;
use Torture::Upstream;

use constant CLIENTS => 4;


# seed, seconds, weigh (see Torture::Schedule), redis: two nodes share one,
# guards: requests are in each other's way.

sub new {
    my ($class, %o) = @_;

    Torture::Places->on_guards if $o{guards};
    Torture::Places->on_redis if $o{redis};

    my $schedule = Torture::Schedule->new($o{seed}, %{ $o{weigh} || {} });

    return bless { weigh => {}, %o, schedule => $schedule, owner => $$,
                   pids => [], nodes => [], remains => [] }, $class;
}


sub play {
    my ($self) = @_;

    $self->_start;

    my $begin = now();

    $self->{outside}->begin($begin, $self->_log('trouble'))
        if $self->{outside};
    $self->{chaos} = Torture::Chaos->new(
        schedule => $self->{schedule}, nodes => $self->{nodes},
        trouble => $self->{outside}, log => $self->_log('chaos'),
        root => dirname(__FILE__) . '/../../..');
    $self->{chaos}->run_until($begin + $self->{seconds});

    # what does not come to rest need not be asked any further

    $self->_order('rest', 'resting', 60)
        && $self->_all('settle')
        && $self->_order('probe', 'probed', 60)
        && $self->_all('look');

    push @{ $self->{left} }, $self->{outside}->remains
        if $self->{outside};

    $self->stop;
    $self->_check;

    return $self;
}


# Whether that is so for all nodes.

sub _all {
    my ($self, $what) = @_;

    return !grep { !$_->$what } @{ $self->{remains} };
}


sub dir  { return $_[0]{nodes}[0]->dir }
sub _log { return $_[0]->dir . "/$_[1].log" }


sub _start {
    my ($self) = @_;

    my ($live, $reset, $dead) = map {
        IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp', @$_)
            || die "no port for an upstream: $!\n"
    } [ Listen => 511 ], [ Listen => 511 ], [];

    my %ports = (live => $live->sockport, reset => $reset->sockport,
                 dead => $dead->sockport);

    $self->{dead} = $dead;              # bound, so that nobody listens there
    $self->{offset} = time - now();

    # the module may have points, or not

    $ENV{IDEMPOTENCY_POINTS} = Test::Idempotency::Nginx::module_file() // '';

    $self->{outside} = Torture::Trouble->new(schedule => $self->{schedule},
                                             nodes => 2) if $self->{redis};

    my @nets = $self->{outside} ? $self->{outside}->ports : undef;

    $self->{nodes} = [ map {
        Test::Idempotency::Nginx->new(points => 1,
            Torture::Places->options(%ports, redis => $_))
    } @nets ];

    $self->_fork(sub {
        Torture::Upstream->new(schedule => $self->{schedule}, live => $live,
                               reset => $reset, log => $self->_log('upstream'))
            ->run;
    });

    close $_ for $live, $reset;

    $_->start for @{ $self->{nodes} };
    $self->{remains} = [ map { Torture::Remains->new($_, grep { defined } @nets) }
                         @{ $self->{nodes} } ];

    $self->_client($_) for 0 .. CLIENTS - 1;

    return;
}


sub _client {
    my ($self, $number) = @_;

    socketpair my $near, my $far, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair: $!\n";

    $self->_fork(sub {
        close $near;
        close $_ for @{ $self->{controls} };
        Torture::Client->new(schedule => $self->{schedule}, number => $number,
                             of => CLIENTS,
                             ports => [ map { $_->port } @{ $self->{nodes} } ],
                             log => $self->_log("client-$number"),
                             control => $far)->run;
    });

    close $far;
    push @{ $self->{controls} }, $near;

    return;
}


sub _fork {
    my ($self, $code) = @_;

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        eval { $code->(); 1 } or print STDERR "# torture: $@";
        POSIX::_exit(1);
    }

    push @{ $self->{pids} }, $pid;

    return;
}


# Tells all clients something and waits until they have all answered.

sub _order {
    my ($self, $order, $answer, $seconds) = @_;

    my $end = now() + $seconds;

    syswrite $_, "$order\n" for @{ $self->{controls} };

    for my $control (@{ $self->{controls} }) {
        my $left = $end - now();
        my $said = '';

        sysread $control, $said, 100
            if $left > 0 && IO::Select->new($control)->can_read($left);

        push @{ $self->{trouble} }, "a client was told to $order, and "
            . (length $said ? 'said ' . $said =~ s/\n//gr : 'never did')
            if $said ne "$answer\n";
    }

    return !$self->{trouble};
}


# Ends whatever runs.

sub stop {
    my ($self) = @_;

    return if $$ != $self->{owner};

    my @pids = splice @{ $self->{pids} };

    $self->{ended} = !grep { !$_->stop } grep { defined } @{ $self->{nodes} };

    kill 'KILL', @pids;
    waitpid $_, 0 for @pids;

    $self->{outside}->stop if $self->{outside};

    return;
}


sub DESTROY {
    my ($self) = @_;

    local ($?, $@);
    $self->stop;

    return;
}


sub _check {
    my ($self) = @_;

    my @logs = map { $self->_log($_) }
        'upstream', 'chaos', 'trouble', map { "client-$_" } 0 .. CLIENTS - 1;

    $self->{checker} = Torture::Checker->new(
        events => [ map { Torture::Log->read($_) } @logs ],
        errors => [ map { $_->log } @{ $self->{nodes} } ],
        offset => $self->{offset},
        zones => Torture::Remains->sum(@{ $self->{remains} }));

    $self->{wrong} = $self->{checker}->wrong;

    push @{ $self->{wrong}{stuck} }, @{ $self->{trouble} || [] },
        $self->{checker}->summary->{requests} ? () : 'nobody asked anything';
    push @{ $self->{wrong}{remains} }, @{ $self->{left} || [] },
        map { $_->wrong } @{ $self->{remains} };
    push @{ $self->{wrong}{log} }, map { $self->_log_wrong($_) }
        @{ $self->{nodes} };
    push @{ $self->{wrong}{log} }, 'nginx did not end' if !$self->{ended};

    return;
}


# The lines of the error log that nobody expects.

sub _log_wrong {
    my ($self, $nginx) = @_;

    for my $pid ($self->{checker}->dead) {
        $nginx->allow(qr/worker process $pid exited on signal 9/);
        $nginx->allow(qr/"ngx_http_idempotency_workers" was locked by $pid/);

        # one that had been told to finish its work first

        $nginx->allow(qr/ $pid#\d+: (?:\*\d+ open socket |aborting$)/);
    }

    return $nginx->complaints, $nginx->sanitizer_reports;
}


sub rules { return Torture::Checker->rules }
sub means { return $Torture::Checker::RULES{ $_[1] } }
sub wrong { return @{ $_[0]{wrong}{ $_[1] } || [] } }


sub summary {
    my ($self) = @_;

    my $s = $self->{checker}->summary;
    my $chaos = $self->{chaos}->count;

    my @said = (
        "$s->{requests} requests", ($s->{requests} - $s->{operations})
        . " of them retries", "$s->{executions} executions",
        ($chaos->{kills} // 0) . ' kills', "$s->{own} deaths at a point",
        ($chaos->{freezes} // 0) . ' freezes',
        ($chaos->{reloads} // 0) . ' reloads',
        $self->_troubles,
        map({ "$s->{told}{$_} $_" } sort keys %{ $s->{told} }),
        map({ "$s->{end}{$_} $_" } grep { $_ ne 'answer' }
            sort keys %{ $s->{end} }));

    return join ', ', @said;
}


sub _troubles {
    my ($self) = @_;

    my $count = $self->{outside} ? $self->{outside}->count : {};

    return map { "$count->{$_} x $_" } sort keys %$count;
}


1;
