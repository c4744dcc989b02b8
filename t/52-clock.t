#!/usr/bin/perl

# A record is not gone before its time, also if it came to be while a worker
# began its work: that worker finds the claims of a dead one, and the clock of
# nginx has stood still since the configuration was read.

use lib 't/lib';
use Test::Idempotency;

use POSIX qw(mkfifo);
use Time::HiRes qw(time);

use constant LIFE => 3;                 # seconds

my $t = Test::Idempotency->new(<<"END", workers => 1);
    idempotency          payments;
    idempotency_unknown  refuse @{[ LIFE ]}s;
END

my %pay = (path => '/pay', key => 'k1', body => 'eur=1');
my $first = $t->start_post(%pay);

$t->backend->wait_for_request;
$t->backend->auto;

# the master reads a file that does not come

my ($worker) = $t->workers;
my $master = $t->{nginx}{pid};
my $begin = time;

mkfifo($t->dir . '/slow', 0600) or die "mkfifo: $!\n";
$t->change(main => 'include slow;');
kill 'HUP', $master;
$t->log_like(qr/ reconfiguring$/m, 'the master begins to read');

# meanwhile its worker dies; only the next one can see that

wait_for('time passes', sub { time > $begin + LIFE });
kill 'KILL', $worker;
$t->allow(qr/worker process $worker exited on signal 9/);
open my $out, '>', $t->dir . '/slow' or die "slow: $!\n";
close $out;
wait_for('a new worker', sub { grep { $_ != $worker } $t->workers });

my $died = time;
my $m = $t->post(%pay);

is_problem($m, 409, 'outcome-unknown', 'the outcome is unknown');
cmp_ok(time - $died, '<', LIFE, 'and was to be so that long');
is($t->counter('orphaned'), 1, 'as a worker died');
is($t->backend->requests, 1, 'the backend was asked once');
ok(!$first->response->status, 'who came first got no answer');

$t->change(main => '');
done_testing;
