package Test::Idempotency::Sentinel;

# A master with replicas, and sentinels that watch them.
#
#   my $set = Test::Idempotency::Sentinel->new(%options);
#   $set->name; $set->master; $set->replicas; $set->sentinels; $set->servers
#   $set->fail_over;        # the master is killed, another one takes over
#
# Options: replicas => 2, sentinels => 3, and those of a server (password ...),
# which count for all servers; with TLS, all of them speak it.  quick => 0: the usual slowness of a sentinel.

use strict;
use warnings;

use Test::Idempotency::Deadline;
use Test::Idempotency::Redis;

# how often a sentinel does things, in ms; TILT would be its pause whenever
# the machine is busy; a replica that has not been heard of for five pings is
# not made a master, and a second is usual then

my %quick = ('ping-period' => 500, 'ask-period' => 100,
             'info-period' => 200, 'publish-period' => 200,
             'tilt-trigger' => 60000);


sub new {
    my ($class, %o) = @_;

    my ($replicas, $sentinels) = (delete $o{replicas} // 2,
                                  delete $o{sentinels} // 3);
    my $quick = delete $o{quick} // 1;
    my $master = Test::Idempotency::Redis->new(%o);
    my @replicas = map {
        Test::Idempotency::Redis->new(%o, replica_of => $master)
    } 1 .. $replicas;

    $_->wait_for_sync for @replicas;

    my $self = bless { servers => [ $master, @replicas ] }, $class;
    my $quorum = int($sentinels / 2) + 1;

    for (1 .. $sentinels) {
        my $sentinel = Test::Idempotency::Sentinel::Process->new(
            watches => $master, name => $self->name, quorum => $quorum,
            tls => $o{tls});

        $sentinel->command('SENTINEL', 'DEBUG', %quick) if $quick;
        push @{ $self->{sentinels} }, $sentinel;
    }

    return $self->wait_until_ready($replicas, $sentinels - 1);
}


sub name      { return 'main' }
sub servers   { return @{ $_[0]{servers} } }
sub sentinels { return @{ $_[0]{sentinels} } }
sub replicas  { my $m = $_[0]->master; return grep { $_ != $m } $_[0]->servers }


# The server that all sentinels take for the master; undef if they differ.

sub master {
    my ($self) = @_;

    my %ports = map { $self->_port($_) => 1 } grep { $_->pid }
        $self->sentinels;

    return if keys %ports != 1;

    return (grep { $ports{ $_->told_port } } $self->servers)[0];
}


sub _port {
    my ($self, $sentinel) = @_;

    my $address = $sentinel->command('SENTINEL', 'get-master-addr-by-name',
                                     $self->name);

    return $address->[1];
}


# Waits until every sentinel knows the others, and so many replicas.

sub wait_until_ready {
    my ($self, $replicas, $others) = @_;

    for my $sentinel ($self->sentinels) {
        wait_for('a sentinel knows all', sub {
            my %master = @{ $sentinel->command('SENTINEL', 'master',
                                               $self->name) };

            return $master{'num-slaves'} == $replicas
                && $master{'num-other-sentinels'} == $others;
        });
    }

    return $self;
}


# Whether a server says so of itself.  A sentinel that changes its role closes
# its connections, also that of the question.

sub is_a {
    my ($role, $server) = @_;

    return (eval { $server->role } // '') eq $role;
}


# Waits until a server is a replica, as one that comes back should be.

sub wait_for_replica {
    my ($self, $server) = @_;

    return wait_for('a replica', sub { is_a('slave', $server) });
}


# Kills the master, and returns the one that was, when there is a new one.

sub fail_over {
    my ($self) = @_;

    my $old = $self->master or die "there is no master\n";

    $old->kill;
    $self->wait_for_other_master($old);

    return $old;
}


sub wait_for_other_master {
    my ($self, $old) = @_;

    # an election that nobody wins is held again, after some seconds

    for (1 .. 3) {
        my $master = eval { $self->_wait_for_other($old) };
        return $master if $master;
    }

    return $self->_wait_for_other($old);
}


sub _wait_for_other {
    my ($self, $old) = @_;

    return wait_for('another master', sub {
        my $master = $self->master;

        return $master && $master != $old && is_a('master', $master)
            && $master;
    });
}


package Test::Idempotency::Sentinel::Process;

our @ISA = qw(Test::Idempotency::Redis);


# A sentinel writes to its configuration, which it finds again when started
# anew.

sub _conf {
    my ($self) = @_;

    my ($dir, $name, $master) = ($self->dir, @$self{qw(name watches)});

    my @lines = ('bind 127.0.0.1', "port $self->{port}",
        "unixsocket $dir/socket", "dir $dir", "logfile $dir/log",
        'daemonize no', 'protected-mode no',
        "sentinel monitor $name 127.0.0.1 @{[ $master->told_port ]} "
            . $self->{quorum},
        "sentinel down-after-milliseconds $name 500",
        "sentinel failover-timeout $name 2000");

    push @lines, $self->_tls if $self->{tls};
    push @lines, "sentinel auth-pass $name $master->{password}"
        if $master->{password};

    return join '', map { "$_\n" } @lines, @{ $self->{conf} };
}


sub _command { return ('redis-server', "$_[0]{dir}/redis.conf", '--sentinel') }


1;
