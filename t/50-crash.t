#!/usr/bin/perl

# A worker is killed.  What it was about to do may have been done, so its keys
# are unknown at once; nobody else's record is touched, and whoever waited for
# it is told.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOT', locations => <<'EOL');
    idempotency             payments;
    idempotency_concurrent  wait=10s;
EOT
    location /reject {
        idempotency_concurrent  reject;
        proxy_pass              http://backend;
    }
EOL

my $backend = $t->backend;

# another record, and a claim of another worker, which nothing must happen to

my %other = (method => 'POST', path => '/', key => 'other', body => 'eur=2');

$backend->on('/', 201, 'receipt of another');
is_answer($t->post(%other), 201, 'receipt of another', 'a record of before');
$backend->hold;

my $victim_c = $t->connect;
my $victim = $t->worker_of($victim_c);
my $other_c = $t->connect_to(sub { $_ != $victim });

my %pay = (method => 'POST', path => '/reject', key => 'mine', body => 'x');
my %running = (%pay, key => 'running');

$other_c->request(%running);
$backend->wait_for_request(1);
$victim_c->request(%pay);
$backend->wait_for_request(2);
$t->wait_until(running => 2);

# another worker's client waits for one that is killed with its worker

my %wait = (%pay, path => '/');
my $holder = $t->connect_to(sub { $_ == $victim });

$holder->request(%wait, key => 'waited');
$backend->wait_for_request(3);

my $waiter_c = $t->connect_to(sub { $_ != $victim });

$waiter_c->request(%wait, key => 'waited');
$t->wait_until(waiting => 1);

$t->kill_worker($victim);

is_problem($waiter_c->next_response, 409, 'outcome-unknown',
           'the one who waited is told');
is_problem($t->post(%pay), 409, 'outcome-unknown',
           'the outcome is unknown, and not after the lease only');
is($t->counter('orphaned'), 2, 'both claims of the worker are orphans');
is($t->zone->{records}{running}, 1, 'the other worker\'s claim is running');

is_replay($t->post(%other), 201, 'receipt of another',
          'another record is still there');
is_problem($t->post(%running), 409, 'in-flight', 'another claim goes on');

# the upstream has seen three requests, and sees no more of them

my @held = grep { $_->{held} } $backend->all;

$backend->answer(200, 'done', to => $held[0]);
is_answer($other_c->next_response, 200, 'done', 'the other claim is completed');
is_replay($t->post(%running), 200, 'done', 'and replayed');
is($backend->requests, 4, 'nothing ran twice');

done_testing;
