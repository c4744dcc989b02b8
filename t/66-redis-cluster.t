#!/usr/bin/perl

# Redis Cluster: keys are where their slots are, and go with them, while claims
# run too.  While a node of it is not there, nothing runs unprotected.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Cluster;
use Test::Idempotency::Redis;

use Time::HiRes qw(time);

my $cluster = Test::Idempotency::Cluster->new;
my @nodes = $cluster->nodes;

my $conf = 'idempotency payments; add_header X-Id $idempotency_id always;';
my $locations = <<'END';
    location /wait/  { proxy_pass http://backend; idempotency_concurrent wait=9s; }
    location /pass/  { proxy_pass http://backend; idempotency_on_error pass; }
    location /local/ { proxy_pass http://backend; idempotency_on_error local; }
END

# who knows the identity of a request beforehand

my $seer = Test::Idempotency->new($conf, workers => 1, backend => 'auto');


# A node that is told of these servers, by ports, and more.

sub node {
    my ($lines, @seeds) = @_;

    my $servers = join ' ', map { "server 127.0.0.1:$_;" } @seeds;

    return Test::Idempotency->new($conf, workers => 1,
        locations => $locations, zone => 'zone=payments:1m redis=main',
        files => { password => "secret\n" },
        http => "idempotency_redis main { mode cluster; $servers $lines "
                . 'connect_timeout 500ms; timeout 500ms; }');
}


# The first one of the seeds is not there.

my $missing = Test::Idempotency::Redis->prepare;
my ($a, $b) = map {
    node('', map { $_->port } $missing, @nodes[1, 2])
} 1, 2;

my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }


# A request that the backend of a node holds.

sub begin {
    my ($t, $request) = @_;

    my $asked = $t->backend->requests;
    my $client = $t->start_post(%$request);

    wait_for("$request->{key} is carried out",
             sub { $t->backend->requests > $asked });

    return ($client, $t->backend->last);
}


sub carried_out {
    my ($t, $request, $name) = @_;

    my ($client, $held) = begin($t, $request);
    $t->backend->answer(201, "of $request->{key}", to => $held);

    return is_answer($client, 201, "of $request->{key}", $name);
}


sub slot {
    my ($request) = @_;

    return $cluster->slot('idem:' . $seer->post(%$request)->header('X-Id'));
}


# A request whose key is on this node.

sub pay_at {
    my ($node, @more) = @_;

    for (1 .. 100) {
        my %request = pay(@more);
        return %request if $cluster->node_of_slot(slot(\%request)) == $node;
    }

    die "no such slot\n";
}


# Sends a request again and again, until it is replayed.

sub in_the_end {
    my ($t, $request, $body, $name) = @_;

    my $m;

    wait_for("$name: a replay", sub {
        $m = $t->post(%$request);
        die "$name: status " . $m->status . "\n"
            if $m->status !~ /^(?:201|409|503)$/;

        return $m->status == 201;
    });

    return is_replay($m, 201, $body, $name);
}


# New keys of a node of the cluster, until one is carried out.

sub works_again {
    my ($t, $node) = @_;

    my ($client, $asked) = (undef, $t->backend->requests);

    wait_for('it works again', sub {
        $client = $t->start_post(pay_at($node));
        wait_for('', sub { $client->answered
                           || $t->backend->requests > $asked });
        return $t->backend->requests > $asked;
    });

    $t->backend->answer(201, 'again', to => $t->backend->last);

    return is_answer($client, 201, 'again', 'it works again');
}


sub executions {
    my ($request) = @_;

    return scalar grep { $_->header('Idempotency-Key') eq $request->{key} }
        map { $_->backend->all } $a, $b;
}


# All slots.

my %at;

for (1 .. 40) {
    my %request = pay();

    carried_out($a, \%request, "$request{key} on one node");
    is_replay($b->post(%request), 201, "of $request{key}", 'and on the other');
    $at{ $cluster->node_of_slot(slot(\%request))->port }++;
}

is(scalar(keys %at), 3, 'all nodes of the cluster have keys');
is($_->command('DBSIZE'), $at{ $_->port }, 'so many') for @nodes;

# Who waits is woken, on whatever node it listens.

my $soonest = 9;

for my $node (@nodes, @nodes) {
    my %request = pay_at($node, path => '/wait/');
    my ($client, $held) = begin($a, \%request);
    my $twin = $b->start_post(%request);

    wait_for('somebody listens', sub {
        grep { @{ $_->command('PUBSUB', 'CHANNELS') } } @nodes });

    my $began = time;
    $a->backend->answer(201, 'told', to => $held);
    is_replay($twin, 201, 'told', 'who waits learns of it');
    $soonest = time - $began if time - $began < $soonest;
    $client->response;
    wait_for('nobody listens',
             sub { !grep { @{ $_->command('PUBSUB', 'CHANNELS') } } @nodes });
}

cmp_ok($soonest, '<', 0.5, 'not only by looking once a second');

# Scripts that are not there any more.

for my $node (@nodes) {
    my %request = pay_at($node);

    $_->command('SCRIPT', 'FLUSH') for @nodes;
    my ($client, $held) = begin($a, \%request);
    $_->command('SCRIPT', 'FLUSH') for @nodes;
    $a->backend->answer(201, 'flushed', to => $held);
    is_answer($client, 201, 'flushed', 'without scripts');
    is_replay($b->post(%request), 201, 'flushed', 'and its duplicate');
}

# Slots move.  Each request says when it begins, and when it ends: before a
# slot moves (0), while its keys are on their way (1), when all are gone (2),
# when the move is over (3).

for ([ 0, 1 ], [ 0, 2 ], [ 0, 3 ], [ 1, 1 ], [ 1, 2 ], [ 1, 3 ], [ 2, 3 ]) {
    my ($begin, $end) = @$_;
    my $name = "a move, from $begin to $end";
    my ($from, $to) = @nodes[ $n % 3, ($n + 1) % 3 ];
    my %request = pay_at($from, path => $n % 2 ? '/wait/' : '/');
    my $slot = slot(\%request);
    my ($client, $held, @twins);

    for my $step (0 .. 3) {
        $cluster->begin_move($slot, $to) if $step == 1;
        $cluster->move_keys($slot, $to)  if $step == 2;
        $cluster->end_move($slot, $to)   if $step == 3;

        ($client, $held) = begin($a, \%request) if $step == $begin;

        if ($step >= $begin && $step <= $end) {
            push @twins, $b->start_post(%request);
            is_problem(pop @twins, 409, 'in-flight', "$name: it runs")
                if $request{path} eq '/';
        }

        if ($step == $end) {
            $a->backend->answer(201, $name, to => $held);
            is_answer($client, 201, $name, "$name: it ends");
            is_replay($_, 201, $name, "$name: who waits learns of it")
                for @twins;
            is_replay($b->post(%request), 201, $name, "$name: a duplicate");
        }
    }

    is(executions(\%request), 1, "$name: once");
}

# Who knows an old map only, and who asks one that is no cluster.

my %moved = pay_at($nodes[0]);
carried_out($a, \%moved, 'a record');
$cluster->move(slot(\%moved), $nodes[2]);
is_replay($b->post(%moved), 201, "of $moved{key}", 'is found where it is now');

my $lonely = Test::Idempotency::Redis->new;
my $c = node('', $lonely->port);
is_problem($c->post(pay()), 503, 'store-unavailable', 'no cluster');
is($c->backend->requests, 0, 'nothing runs');
$c->log_like(qr/cluster support disabled/, 'the log says so');
$c->finish;

# A node dies, and its replica takes its place.

my $replica = $cluster->add_replica($nodes[0]);
my %heir = pay_at($nodes[0]);
my $slot = slot(\%heir);
my ($heir, $held) = begin($a, \%heir);

wait_for('its replica has it', sub {
    my $client = $nodes[0]->client;
    $client->command('PING');
    return $client->command('WAIT', 1, 2000);
});

$nodes[0]->kill;
is_problem($b->post(%heir), 503, 'store-unavailable', 'a node is dead');
$a->backend->answer(201, 'meanwhile', to => $held);
is_answer($heir, 201, 'meanwhile', 'who is done has its answer');
wait_for('the replica has the slots', sub {
    $cluster->node_of_slot($slot) == $replica });
in_the_end($b, \%heir, 'meanwhile', 'the replica is told');
works_again($_, $replica) for $a, $b;
is(executions(\%heir), 1, 'it was carried out once');

$nodes[0]->start->wait_for_sync;
$cluster->wait_until_ok;
$nodes[0] = $replica;

# One dies that has none, and the cluster is down.

my %known = pay_at($nodes[1]);
my %runs = pay_at($nodes[1]);
my %new = pay_at($nodes[1]);

carried_out($a, \%known, 'before');
(my $runs, $held) = begin($a, \%runs);

$nodes[2]->kill;

for my $why ('one is dead', 'the cluster is down') {
    my %lost = pay_at($nodes[1]);

    wait_for('the cluster is down', sub {
        $nodes[1]->command('CLUSTER', 'INFO') =~ /^cluster_state:fail/m
    }) if $why =~ /down/;

    %lost = pay_at($nodes[2]) if $why =~ /dead/;

    my $began = time;
    is_problem($a->post(%lost), 503, 'store-unavailable',
               "$why: a new key is refused");
    cmp_ok(time - $began, '<', 3, "$why: in time");
    is_replay($a->post(%known), 201, "of $known{key}",
              "$why: what the zone has is replayed");
    carried_out($a, { %lost, path => '/pass/' }, "$why: pass");
    carried_out($a, { %lost, key => "$lost{key}-", path => '/local/' },
                "$why: local");
}

$a->backend->answer(201, 'ran', to => $held);
is_answer($runs, 201, 'ran', 'who ran has its answer');
is_replay($a->post(%runs), 201, 'ran', 'its node replays it');

$nodes[2]->start;
$cluster->wait_until_ok;
in_the_end($b, \%runs, 'ran', 'it is told when the cluster is there again');
is(executions(\%runs), 1, 'it ran once');

for my $t ($a, $b) {
    works_again($t, $_) for @nodes;
}

# With TLS, and a user who has no other rights than those of README.

$_->finish for $a, $b;
undef @nodes;

$cluster = Test::Idempotency::Cluster->new(tls => 'mutual',
    users => [ 'user default on nopass ~* &* +@all',
               'user idem on >secret ~idem:* &idem:* '
               . Test::Idempotency::Redis->rights ]);

my $files = ($cluster->nodes)[0]->certificates;

($a, $b) = map { node(<<"END", ($cluster->nodes)[0]->tls_port) } 1, 2;
    user                     idem;
    password_file            password;
    tls                      on;
    tls_name                 redis.test;
    tls_trusted_certificate  @{[ $files->file('ca.pem') ]};
    tls_certificate          @{[ $files->file('client.pem') ]};
    tls_certificate_key      @{[ $files->file('client.key') ]};
END

for my $node ($cluster->nodes) {
    my %request = pay_at($node, path => '/wait/');
    my ($client, $held) = begin($a, \%request);
    my $twin = $b->start_post(%request);

    $cluster->move(slot(\%request), ($cluster->others($node))[0]);
    $a->backend->answer(201, 'safe', to => $held);
    is_answer($client, 201, 'safe', 'with TLS');
    is_replay($twin, 201, 'safe', 'on both nodes');
}

done_testing;
