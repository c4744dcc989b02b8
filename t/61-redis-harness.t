#!/usr/bin/perl

# What the tests with Redis stand on: servers start, hang, die and come back
# where they were, sentinels and clusters do what they do, and a network
# between them and a node fails as it is told.  The module takes no part.

use lib 't/lib';
use Test::Idempotency;

use File::Path qw(remove_tree);
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

use Test::Idempotency::Cluster;
use Test::Idempotency::Deadline;
use Test::Idempotency::FaultProxy;
use Test::Idempotency::Redis;
use Test::Idempotency::Resp;
use Test::Idempotency::Sentinel;

use constant MOMENT => 0.2;         # long enough to see that nothing comes

my $redis = Test::Idempotency::Redis->new;


sub connect_to { return Test::Idempotency::Resp->new($_[0]->address) }
sub error_of   { return eval { $_[0]->(); 1 } ? '' : $@ }


# Whether there is such a process; one that nobody has buried yet is none.

sub runs {
    my ($pid) = @_;

    open my $in, '<', "/proc/$pid/stat" or return 0;

    return (<$in> // '') =~ /^\d+ .*\) [^ZX]/;
}


# A connection on its way: connected, or refused, or neither.

sub begin_connect {
    my ($to) = @_;

    return IO::Socket::INET->new(PeerAddr => '127.0.0.1',
        PeerPort => $to->port, Proto => 'tcp', Blocking => 0)
        || die "connect: $!\n";
}


# A client with TLS, from the command line.

sub tls_ping {
    my ($server, $ca, $client) = @_;

    my $c = $server->certificates;
    my @command = ('redis-cli', '--tls', '-h', '127.0.0.1',
        '-p', $server->tls_port, '--cacert', $c->file("$ca.pem"));

    push @command, '--cert', $c->file("$client.pem"),
        '--key', $c->file("$client.key") if $client;

    open my $in, '-|', "@command ping 2>&1" or die "redis-cli: $!\n";

    return join '', <$in>;
}


subtest 'values' => sub {
    my $c = $redis->client;
    my $bytes = join('', map { chr } 0 .. 255) x 4000;

    is($c->command('PING'), 'PONG', 'a word');
    is($c->command('SET', 'k', $bytes), 'OK', 'a megabyte goes there');
    ok($c->command('GET', 'k') eq $bytes, 'and comes back');
    is($c->command('STRLEN', 'k'), 1024000, 'a number');
    is($c->command('GET', 'none'), undef, 'nothing');
    is_deeply($c->command('EVAL', "return { 1, { 'a', '' }, {} }", 0),
              [ 1, [ 'a', '' ], [] ], 'lists in a list');

    like(error_of(sub { $c->command('LPUSH', 'k', 1) }), qr/^LPUSH: WRONGTYPE/,
         'an error is died of');
    ok(is_error($c->try('LPUSH', 'k', 1)), 'or looked at');
    like($c->try('LPUSH', 'k', 1), qr/^WRONGTYPE/, 'as text');

    $c->send(map { [ 'SET', "p$_", $bytes ] } 1 .. 8);
    is(join(' ', $c->receive(8)), join(' ', ('OK') x 8),
       'more than the sockets hold goes at once');

    $c->send(map { [ 'ECHO', $_ ] } 1 .. 1000);
    is_deeply([ $c->receive(1000) ], [ 1 .. 1000 ], 'in order');

    my $listener = $redis->client;
    $listener->command('SUBSCRIBE', 'news');
    ok(!$listener->ready(0), 'no news yet');
    $c->command('PUBLISH', 'news', 'here');
    ok($listener->ready(LIMIT), 'news');
    is_deeply($listener->receive, [ 'message', 'news', 'here' ], 'these');
};


subtest 'a server' => sub {
    my ($port, $pid) = ($redis->port, $redis->pid);

    connect_to($redis)->command('SET', 'k', 'v');
    my $c = connect_to($redis);

    $redis->pause;
    my $late = connect_to($redis);
    $_->send([ 'GET', 'k' ]) for $c, $late;
    ok(!$c->ready(MOMENT) && !$late->ready, 'it hangs');
    $redis->resume;
    is($_->receive, 'v', 'and answers after all') for $c, $late;

    $redis->kill;
    ok($c->closed, 'it is killed');
    ok(!kill(0, $pid), 'the process has gone');
    like(error_of(sub { connect_to($redis) }), qr/refused/, 'nobody listens');

    $redis->start;
    is($redis->port, $port, 'it comes back where it was');
    is(connect_to($redis)->command('GET', 'k'), undef, 'empty');

    $pid = $redis->pid;
    $redis->stop;
    ok(!kill(0, $pid), 'it ends');
    like($redis->log, qr/bye bye/, 'orderly');
    $redis->start;
};


subtest 'who may enter' => sub {
    my $locked = Test::Idempotency::Redis->new(password => 'secret');
    my $c = connect_to($locked);

    like($c->try('GET', 'k'), qr/^NOAUTH/, 'a password is asked for');
    like($c->try('AUTH', 'wrong'), qr/^WRONGPASS/, 'the right one');
    is($c->command('AUTH', 'secret'), 'OK', 'this');
    is($locked->command('SET', 'k', 'v'), 'OK', 'the test has it');

    my $lists = Test::Idempotency::Redis->new(users => [
        'user idem on >secret ~idem:* &idem:* +get +set' ]);

    $c = connect_to($lists);
    is($c->command('AUTH', 'idem', 'secret'), 'OK', 'a user');
    is($c->command('SET', 'idem:k', 'v'), 'OK', 'may do this');
    like($c->try('SET', 'k', 'v'), qr/^NOPERM/, 'not that');
    is($lists->command('SET', 'k', 'v'), 'OK', 'the test may');
};


subtest 'TLS' => sub {
    my $one = Test::Idempotency::Redis->new(tls => 1);
    my $both = Test::Idempotency::Redis->new(tls => 'mutual');

    is(tls_ping($one, 'ca'), "PONG\n", 'a server whose name is signed');
    unlike(tls_ping($one, 'other-ca'), qr/PONG/, 'not by somebody else');

    is(tls_ping($both, 'ca', 'client'), "PONG\n", 'a client as well');
    unlike(tls_ping($both, 'ca', 'other'), qr/PONG/, 'not of somebody else');
    unlike(tls_ping($both, 'ca'), qr/PONG/, 'nor without a certificate');
};


subtest 'a test that is killed' => sub {
    pipe my $in, my $out or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        open STDOUT, '>&', $out;
        exec $^X, '-It/lib', '-MTest::Idempotency::Redis', '-e',
            '$| = 1; $r = Test::Idempotency::Redis->new; print $r->pid, "\n",'
            . ' $r->dir, "\n"; kill KILL => $$';
        exit 1;
    }

    close $out;
    my ($server, $dir) = map { s/\n//r } <$in>;
    waitpid $pid, 0;

    is($?, 9, 'it is dead');
    ok(eval { wait_for('', sub { !runs($server) }) }, 'and so is its server');

    remove_tree($dir) if $dir =~ m{/redis-\w{6}$};
};


subtest 'a network that works' => sub {
    my $net = Test::Idempotency::FaultProxy->new($redis->port);
    my $c = connect_to($net);
    my $bytes = join('', map { chr } 0 .. 255) x 8000;

    is($net->connections, 1, 'one connection');
    ok($c->command('ECHO', $bytes) eq $bytes, 'two megabytes, both ways');
    cmp_ok($net->bytes('up'), '>', 2048000, 'counted on their way up');
    cmp_ok($net->bytes('down'), '>', 2048000, 'and down');
    cmp_ok($net->bytes('up'), '<', 2048100, 'once');

    my @more = map { connect_to($net) } 1 .. 20;
    $_->send([ 'PING' ]) for @more;
    is(join(' ', map { $_->receive } @more), join(' ', ('PONG') x 20), 'many');
    is($net->connections, 21, 'all counted');
    is($net->open, 21, 'all open');

    $_->close for @more;
    ok(eval { wait_for('', sub { $net->open == 1 }) }, 'but one, closed again');

    $c->try('QUIT');
    ok($c->closed, 'Redis may close');
};


subtest 'a network that is slow' => sub {
    my $net = Test::Idempotency::FaultProxy->new($redis->port);
    my $c = connect_to($net);

    for my $way (qw(up down)) {
        my $begin = time;

        $net->delay($way => MOMENT);
        $c->send([ 'PING' ]);
        is($c->receive, 'PONG', "$way: it comes");
        cmp_ok(time - $begin, '>=', MOMENT, "$way: late");

        $c->send(map { [ 'ECHO', $_ ] } 1 .. 50);
        is_deeply([ $c->receive(50) ], [ 1 .. 50 ], "$way: in order");
        $net->pass;
    }

    $net->delay(down => 100);
    $c->send([ 'PING' ]);
    ok(!$c->ready(MOMENT), 'very late');
    $net->pass;
    is($c->receive, 'PONG', 'not any more');
};


subtest 'a network that loses' => sub {
    my $net = Test::Idempotency::FaultProxy->new($redis->port);

    for my $way (qw(up down)) {
        my $c = connect_to($net);

        $c->command('SET', 'k', 0);
        $net->stall($way => 1);
        $c->send([ 'INCR', 'k' ]);
        ok(!$c->ready(MOMENT), "$way: it stands still");
        is($redis->command('GET', 'k'), $way eq 'up' ? 0 : 1,
           "$way: Redis has " . ($way eq 'up' ? 'not been asked' : 'done it'));
        $net->pass;
        is($c->receive, 1, "$way: and goes on");

        $net->drop($way => 1);
        $c->send([ 'INCR', 'k' ]);
        ok(!$c->ready(MOMENT), "$way: it vanishes");
        is($redis->command('GET', 'k'), $way eq 'up' ? 1 : 2,
           "$way: Redis has " . ($way eq 'up' ? 'not been asked' : 'done it'));
        $net->pass;
        $c->send([ 'PING' ]);
        ok(!$c->ready(MOMENT), "$way: this connection never recovers");
        is(connect_to($net)->command('PING'), 'PONG', "$way: another works");
    }
};


subtest 'a network that breaks' => sub {
    my $net = Test::Idempotency::FaultProxy->new($redis->port);
    my $length = length "*2\r\n\$4\r\nINCR\r\n\$1\r\nk\r\n";

    my @cases = (
    #     way     bytes        k   received  what
        [ 'up',   $length - 1, 0,  '',       'most of a command' ],
        [ 'up',   $length,     1,  '',       'a command'         ],
        [ 'down', 0,           1,  '',       'no answer'         ],
        [ 'down', 3,           1,  ":1\r",   'most of an answer' ],
        [ 'down', 4,           1,  ":1\r\n", 'an answer'         ],
    );

    for (@cases) {
        my ($way, $bytes, $k, $received, $what) = @$_;

        for my $how (qw(close reset)) {
            $redis->command('SET', 'k', 0);
            my $c = connect_to($net);

            # Redis has to know the connection: a reset may overtake what
            # it has not read yet

            $c->command('PING');
            $net->cut($way => $bytes, how => $how);
            $c->send([ 'INCR', 'k' ]);
            ok($c->closed, "$what: $how");

            wait_for('k', sub { $redis->command('GET', 'k') == $k }) if $k;
            is($redis->command('GET', 'k'), $k, "$what: so many times done");
            is($c->{in}, $received, "$what: so much has come")
                if $how eq 'close' && !($way eq 'up' && $k);
            is(connect_to($net)->command('PING'), 'PONG', "$what: once");
        }
    }

    for my $how (qw(close reset)) {
        my @c = map { connect_to($net) } 1 .. 3;
        $_->command('PING') for @c;

        $net->$how;
        is(join(' ', map { $_->closed } @c), "$how $how $how", 'all end so');
        is($net->open, 0, 'none is left');
        is(connect_to($net)->command('PING'), 'PONG', 'new ones work');
    }
};


subtest 'a network where nobody is' => sub {
    my $net = Test::Idempotency::FaultProxy->new($redis->port);

    $net->accept('hold');
    my $c = connect_to($net);
    $c->send([ 'PING' ]);
    ok(!$c->ready(MOMENT), 'half-open: connected, and not a word');
    is($net->connections, 1, 'it is counted');

    $net->accept('refuse');
    like(error_of(sub { connect_to($net) }), qr/refused/, 'refused');

    $net->accept('reset');
    my $reset = eval { connect_to($net) };
    ok(!$reset || $reset->closed, 'reset at once');

    $net->accept('vanish');
    my $lost = begin_connect($net);
    ok(!IO::Select->new($lost)->can_write(MOMENT), 'no answer to a SYN');
    ok(!$lost->connected, 'so not connected');
    is($net->connections, 2, 'nor counted');

    $net->pass;
    ok(IO::Select->new($lost)->can_write(LIMIT) && $lost->connected,
       'but when it tries again');
    is(connect_to($net)->command('PING'), 'PONG', 'as everybody else');

    my $works = connect_to($net);
    $works->command('PING');
    $net->unplug;
    $works->send([ 'PING' ]);
    ok(!$works->ready(MOMENT), 'unplugged');
    ok(!IO::Select->new(begin_connect($net))->can_write(MOMENT), 'for all');
    $net->pass;
    is($works->receive, 'PONG', 'and in again');

    $redis->kill;
    ok($works->closed, 'Redis dies: seen on the other side');
    my $refused = eval { connect_to($net) };
    ok(!$refused || $refused->closed, 'and new ones end');
    $redis->start;

    my $other = Test::Idempotency::Redis->new;
    $other->command('SET', 'me', 'other');
    $net->lead_to($other->port);
    is(connect_to($net)->command('GET', 'me'), 'other', 'another server');
};


subtest 'sentinels' => sub {
    my $set = Test::Idempotency::Sentinel->new(password => 'secret');
    my $first = $set->master;

    is(scalar($set->replicas), 2, 'two replicas');
    is($first->role, 'master', 'and a master');

    $first->command('SET', 'k', 'v');
    is($first->client->command('WAIT', 2, 5000), 2, 'replicas acknowledge');
    like(error_of(sub { ($set->replicas)[0]->command('SET', 'k', 'v') }),
         qr/READONLY/, 'and cannot be written to');

    is($set->fail_over, $first, 'the master dies');
    isnt($set->master, $first, 'another takes over');
    is($set->master->role, 'master', 'as a master');
    is($set->master->command('GET', 'k'), 'v', 'with all there was');

    $first->start;
    ok($set->wait_for_replica($first), 'who comes back is a replica');
};


subtest 'a cluster' => sub {
    my $cluster = Test::Idempotency::Cluster->new(password => 'secret');
    my $node = $cluster->node_of('k');
    my ($other) = $cluster->others($node);
    my $slot = $cluster->slot('k');

    is(scalar($cluster->nodes), 3, 'three nodes');
    is($node->command('SET', 'k', 'v'), 'OK', 'the right one takes it');

    my $moved = qr/MOVED $slot 127\.0\.0\.1:@{[ $node->port ]}$/;
    like(error_of(sub { $_->command('GET', 'k') }), $moved, 'others lead there')
        for $cluster->others($node);

    $cluster->begin_move($slot, $other);
    is($node->command('GET', 'k'), 'v', 'a slot moves, not what is in it');
    like(error_of(sub { $node->command('GET', '{k}new') }),
         qr/ASK $slot 127\.0\.0\.1:@{[ $other->port ]}$/, 'ask the other one');

    $cluster->move_keys($slot, $other);
    like(error_of(sub { $node->command('GET', 'k') }), qr/ASK $slot /,
         'the keys have moved');
    my $c = $other->client;
    $c->command('ASKING');
    is($c->command('GET', 'k'), 'v', 'to the other one');

    $cluster->end_move($slot, $other);
    is($cluster->node_of('k'), $other, 'and the slot');
    like(error_of(sub { $node->command('GET', 'k') }), qr/MOVED $slot /,
         'as its old node says');

    $other->restart;
    $cluster->wait_until_ok;
    is($cluster->node_of('k'), $other, 'restarted, a node has its slots');
    is($other->command('GET', 'k'), undef, 'and is empty');

    $other->kill;
    ok(eval { wait_for('', sub {
        error_of(sub { $node->command('GET', '{k}') }) =~ /CLUSTERDOWN/;
    }) }, 'without it the cluster is down');
};


done_testing;
