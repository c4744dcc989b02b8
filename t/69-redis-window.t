#!/usr/bin/perl

# A worker whose time to shut down is over ends a request in the very moment in
# which Redis has answered it, before the request has gone on: a claim that was
# granted is given back, one that was to wait is called by nobody, and a guard
# that was granted is left.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use Errno qw(EAGAIN);
use Fcntl qw(O_NONBLOCK O_RDWR);
use File::Temp qw(tempdir);
use POSIX qw(mkfifo);
use Time::HiRes qw(time);

use constant PATIENCE => 2;             # of the worker, seconds

# An access log that nobody reads: a worker that writes to it when it is full
# stands still.

my $log = tempdir('window-XXXXXX', TMPDIR => 1, CLEANUP => 1) . '/log';
mkfifo($log, 0666) or die "$log: $!\n";
chmod 0711, $log =~ s{/log$}{}r;
sysopen my $pipe, $log, O_RDWR | O_NONBLOCK or die "$log: $!\n";

my $redis = Test::Idempotency::Redis->new;
my $n = 0;

my ($near, $far) = map {
    Test::Idempotency->new('idempotency payments;', workers => 1,
        zone => 'zone=payments:1m redis=main', log => 'debug',
        main => 'worker_shutdown_timeout ' . PATIENCE . 's;',
        locations => <<"END1", http => <<"END2")
    location /wait/ {
        proxy_pass              http://backend;
        idempotency_concurrent  wait=9s;
    }

    location /guard/ {
        proxy_pass             http://backend;
        idempotency_serialize  order wait=30s;
    }

    location /log/ {
        proxy_pass   http://backend;
        idempotency  off;
        access_log   $log;
    }
END1
    idempotency_redis main {
        server   127.0.0.1:@{[ $redis->port ]};
        timeout  30s;
    }
END2
} 1, 2;


sub fill {
    while (syswrite $pipe, 'x' x 4096) { }
    $! == EAGAIN or die "$log: $!\n";

    return;
}


sub drain {
    while (sysread $pipe, my $bytes, 65536) { }

    return;
}


# Redis and a worker know each other.

sub known {
    my ($t) = @_;

    my $first = $t->start_post(path => '/', key => 'first-' . ++$n);
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'to begin with');

    return is_answer($first, 200, 'to begin with', 'a first request');
}


sub asked { return $redis->info('commandstats')->{cmdstat_evalsha} // '' }


# Redis answers nobody; the returned function ends that.

sub silent {
    $redis->pause;

    return sub { $redis->resume };
}


# The guards that are held.

sub guards {
    return grep { $redis->command('GET', $_) =~ /^G1r/ }
        @{ $redis->command('KEYS', '*') };
}


# One who waits for the guard that another node holds.

sub queued {
    my $client = $near->start_post(path => '/guard/', key => 'queued');

    wait_for('it waits', sub { @{ $redis->command('PUBSUB', 'CHANNELS') } });

    return $client;
}


# Redis forgets a guard and hears of no other one, until told to.

sub forget {
    my $client = $redis->client;

    $client->command(@$_) for [ 'MULTI' ], [ 'DEL', guards() ],
        [ 'CLIENT', 'PAUSE', 60_000, 'WRITE' ], [ 'EXEC' ];

    return sub { $redis->command('CLIENT', 'UNPAUSE') };
}


# The worker hears at the same time that Redis has answered and that its own
# time is over: it stands still meanwhile.

sub hears_too_late {
    my ($name, %o) = @_;

    known($near);
    my $other = $near->start(method => 'GET', path => '/log/');
    my $written = $near->backend->wait_for_request;
    my $silence = $o{silent} // \&silent;

    my $client = $o{queued} && $o{queued}->();
    my $since = asked();
    my $speak = $silence->();
    $client //= $near->start_post(%{ $o{request} });
    wait_for('Redis is asked', sub { $near->zone->{redis}{pending} });

    my $mark = length $near->log;
    $near->reload;
    wait_for('the worker is to end', sub { $near->old_workers });
    my $over = time + PATIENCE;

    fill();
    $near->backend->answer(200, 'it stands still', to => $written);
    wait_for('another request is answered', sub { $other->answered });

    $speak->();
    wait_for('Redis answers', sub { asked() ne $since });
    wait_for('its time is over', sub { time > $over + 0.1 });
    drain();

    ok(eval { $near->wait_for_old_workers }, "$name: the worker ends");

    my ($heard, $on) = @{ $o{states} // [ '3 -> 4', '4 -> [57]' ] };
    my ($after) = substr($near->log, $mark) =~ /state: $heard\n(.*)/s;
    ok(defined $after, "$name: it had heard");
    unlike($after // '', qr/state: $on\b/, "$name: and did not go on");
    is($near->zone->{records}{running}, 0, "$name: no claim is left here");

    return;
}


# A claim that is granted.

my %request = (path => '/', key => 'granted', body => 'eur=1');
hears_too_late('granted', request => \%request);
is($redis->command('DBSIZE'), 1, 'granted: nor on Redis');

# One that is to wait for another node's.

%request = (path => '/wait/', key => 'waits', body => 'eur=1');
my $owner = $far->start_post(%request);
$far->backend->wait_for_request;
hears_too_late('waits', request => \%request);
$far->backend->answer(200, 'once');
is_answer($owner, 200, 'once', 'waits: the other one is answered');
is_replay($near->post(%request), 200, 'once', 'waits: and now here, too');

# A guard: its queue is gone on Redis, and nobody writes there for a while.

my $holds = $far->start_post(path => '/guard/', key => 'holds');
my $held = $far->backend->wait_for_request;

hears_too_late('guard', queued => \&queued, silent => \&forget,
               states => [ '8 -> 7', '7 -> 9' ]);
is_deeply([ guards() ], [], 'guard: nor is it held on Redis');
$far->backend->answer(200, 'alone', to => $held);
is_answer($holds, 200, 'alone', 'guard: the other one is answered');

done_testing;
