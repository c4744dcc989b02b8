package Test::Idempotency::Cluster;

# Redis Cluster: masters that share the slots.
#
#   my $cluster = Test::Idempotency::Cluster->new(%options);
#   $cluster->nodes; $cluster->slot($key); $cluster->node_of($key);
#   $cluster->begin_move($slot, $to);   # from here on ASK, TRYAGAIN
#   $cluster->move_keys($slot, $to);
#   $cluster->end_move($slot, $to);     # and from here on MOVED
#   $cluster->move($slot, $to);         # all three
#   $cluster->add_replica($node);       # another node, which stands in for it
#
# Options: masters => 3, and those of a server; with TLS, the nodes speak it to
# each other, too.  A node that is started again has its slots, and no keys.

use strict;
use warnings;

use Test::Idempotency::Deadline;
use Test::Idempotency::Redis;
use Test::Idempotency::Resp;

use constant SLOTS => 16384;


sub new {
    my ($class, %o) = @_;

    my $masters = delete $o{masters} // 3;
    my @nodes = map { Test::Idempotency::Cluster::Node->new(%o) } 1 .. $masters;
    my $self = bless { nodes => \@nodes, options => \%o }, $class;

    for my $i (0 .. $#nodes) {
        $nodes[$i]->command('CLUSTER', 'SET-CONFIG-EPOCH', $i + 1);
        $nodes[$i]->command('CLUSTER', 'ADDSLOTSRANGE',
            int($i * SLOTS / @nodes), int(($i + 1) * SLOTS / @nodes) - 1);
        $self->_meet($nodes[0], $nodes[$i]) if $i;
    }

    return $self->wait_until_ok;
}


sub nodes { return @{ $_[0]{nodes} } }


sub _meet {
    my ($self, $one, $other) = @_;

    return $one->command('CLUSTER', 'MEET', '127.0.0.1', $other->port,
                         $other->{bus_port});
}


sub add_replica {
    my ($self, $master) = @_;

    my $node = Test::Idempotency::Cluster::Node->new(%{ $self->{options} });

    push @{ $self->{nodes} }, $node;
    $self->_meet($master, $node);
    $self->wait_until_ok;
    $node->command('CLUSTER', 'REPLICATE', $master->id);

    return $node->wait_for_sync;
}


# Waits until all nodes know of all slots and nodes.

sub wait_until_ok {
    my ($self) = @_;

    for my $node (grep { $_->pid } $self->nodes) {
        wait_for('the cluster is ok', sub {
            my $info = $node->command('CLUSTER', 'INFO');
            my $n = $self->nodes;

            return $info =~ /^cluster_state:ok\r$/m
                && $info =~ /^cluster_known_nodes:$n\r$/m
                && $info =~ /^cluster_slots_ok:@{[ SLOTS ]}\r$/m;
        });
    }

    return $self;
}


sub slot {
    my ($self, $key) = @_;

    my ($node) = grep { $_->pid } $self->nodes;

    return $node->command('CLUSTER', 'KEYSLOT', $key);
}


# The node that has the slot of this key, as all that run say.

sub node_of { return $_[0]->node_of_slot($_[0]->slot($_[1])) }


sub node_of_slot {
    my ($self, $slot) = @_;

    return wait_for("one node has slot $slot", sub {
        my %ports = map { $_->owner_of($slot) => 1 } grep { $_->pid }
            $self->nodes;

        return keys %ports == 1
            && (grep { $ports{ $_->port } } $self->nodes)[0];
    });
}


sub others { return grep { $_ != $_[1] } $_[0]->nodes }


# A slot moves, in three steps.

sub begin_move {
    my ($self, $slot, $to) = @_;

    my $from = $self->node_of_slot($slot);

    $to->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $from->id);
    $from->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $to->id);

    return $self;
}


sub move_keys {
    my ($self, $slot, $to) = @_;

    my $from = $self->node_of_slot($slot);
    my @auth = $to->{password} ? (AUTH => $to->{password}) : ();
    my $port = $to->tls_port || $to->port;

    for ( ;; ) {
        my $keys = $from->command('CLUSTER', 'GETKEYSINSLOT', $slot, 100);
        last if !@$keys;

        $from->command('MIGRATE', '127.0.0.1', $port, '', 0, 5000, @auth,
                       'KEYS', @$keys);
    }

    return $self;
}


sub end_move {
    my ($self, $slot, $to) = @_;

    $_->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $to->id)
        for $to, $self->others($to);

    return $self;
}


sub move {
    my ($self, $slot, $to) = @_;

    return $self->begin_move($slot, $to)->move_keys($slot, $to)
        ->end_move($slot, $to);
}


package Test::Idempotency::Cluster::Node;

our @ISA = qw(Test::Idempotency::Redis);


sub prepare {
    my ($class, %o) = @_;

    my $self = $class->SUPER::prepare(%o);

    $self->{bus_port} = $self->place;

    return $self;
}


sub _conf {
    my ($self) = @_;

    my $tls = $self->{tls} ? 'yes' : 'no';

    return $self->SUPER::_conf =~ s/^databases .*\n//mr . <<"END";
cluster-enabled yes
cluster-config-file nodes.conf
cluster-port $self->{bus_port}
cluster-node-timeout 2000
tls-cluster $tls
END
}


sub id { return $_[0]{id} ||= $_[0]->command('CLUSTER', 'MYID') }


# The port of the node that has this slot, as this one says.

sub owner_of {
    my ($self, $slot) = @_;

    for (@{ $self->command('CLUSTER', 'SLOTS') }) {
        my ($first, $last, $master) = @$_;

        return $master->[1] if $first <= $slot && $slot <= $last;
    }

    return 0;
}


1;
