#!/usr/bin/perl

# A master with replicas, and sentinels: when the master dies, another one takes
# its place, and no request is carried out twice.  A claim that too few replicas
# have is none.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;
use Test::Idempotency::Sentinel;

use Time::HiRes qw(time);

my $set = Test::Idempotency::Sentinel->new;
my ($first, @others) = $set->sentinels;
my $locations = <<'END';
    location /wait/  { proxy_pass http://backend; idempotency_concurrent wait=9s; }
    location /check/ { proxy_pass http://backend; idempotency_unknown check=/known; }
    location /known  { internal; proxy_pass http://backend; }
    location /local/ { proxy_pass http://backend; idempotency_on_error local; }
END


# A node with such lines in its block.

sub node {
    my ($lines, %o) = @_;

    return Test::Idempotency->new('idempotency payments;', workers => 1,
        locations => $locations, zone => 'zone=payments:1m redis=main', %o,
        http => "idempotency_redis main { $lines connect_timeout 500ms; "
                . 'timeout 500ms; }');
}


sub sentinels {
    my ($name) = @_;

    return join ' ', "mode sentinel master=$name;",
        map { "server @{[ $_->address ]};" } $set->sentinels;
}


my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }


# A request that the backend of a node holds.  While replicas do not acknowledge
# in time, it may be told to come again, and then does.

sub begin {
    my ($t, $request) = @_;

    my $asked = $t->backend->requests;
    my $client;

    wait_for("$request->{key} is carried out", sub {
        $client = $t->start_post(%$request);
        wait_for('', sub { $client->answered
                           || $t->backend->requests > $asked });
        return $t->backend->requests > $asked
            || comes_again($client->response, $request->{key});
    });

    return ($client, $t->backend->last);
}


sub carried_out {
    my ($t, $request, $name) = @_;

    my ($client, $held) = begin($t, $request);
    $t->backend->answer(201, "of $request->{key}", to => $held);

    return is_answer($client, 201, "of $request->{key}", $name);
}


# Sends a request again and again, until it gets what it is to get.  Meanwhile
# it may be told that it runs, or that nobody can be asked, and in time.

sub in_the_end {
    my ($t, $request, $body, $name) = @_;

    my ($m, @odd, $longest);

    wait_for("$name: a replay", sub {
        my $began = time;
        $m = $t->post(%$request);
        $longest = time - $began if time - $began > ($longest // 0);
        push @odd, $m->status if $m->status !~ /^(?:201|409|503)$/;

        return $m->status == 201;
    });

    is("@odd", '', "$name: nothing odd before");
    cmp_ok($longest, '<', 4, "$name: no answer was late");

    return is_replay($m, 201, $body, $name);
}


# A new key is carried out, in the end.

sub works_again {
    my ($t, $name) = @_;

    return carried_out($t, { pay() }, "$name: it works again");
}


sub comes_again {
    my ($m, $name) = @_;

    die "$name: status " . $m->status . "\n" if $m->status !~ /^(?:409|503)$/;

    return 0;
}


# All replicas have what the master has; so it does not matter which one takes
# its place, and one that was a master before has forgotten what it counted then.

sub all_in_step {
    my $client = $set->master->client;

    $_->wait_for_sync for $set->replicas;
    wait_for('all replicas acknowledge', sub {
        $client->command('PING');
        return $client->command('WAIT', 2, 2000) == 2;
    });

    return;
}


sub executions {
    my ($request, @nodes) = @_;

    return scalar grep { $_->header('Idempotency-Key') eq $request->{key} }
        map { $_->backend->all } @nodes;
}


# One of the sentinels is not there from the start.

$first->kill;

my ($a, $b) = map { node(sentinels('main') . 'wait 1 500ms;') } 1, 2;
my %old = pay();

carried_out($a, \%old, 'a first request');
is_replay($b->post(%old), 201, 'of k1', 'its duplicate on another node');
carried_out($b, { pay() }, 'a first request on that one');
$first->start;

# The master dies while requests run.

my %early = pay();
my %late = pay();
my %waited = pay(path => '/wait/');
my %refused = pay();
my ($early, $held_early) = begin($a, \%early);
my ($late, $held_late) = begin($a, \%late);
my ($waited, $held_waited) = begin($a, \%waited);
my ($refused, $held_refused) = begin($a, \%refused);
my $waiter = $b->start_post(%waited);
$b->wait_until(running => 1);

my $dead = $set->master;
$dead->kill;

$a->backend->answer(201, 'early', to => $held_early);
$a->backend->answer(503, 'no', to => $held_refused);
is_answer($early, 201, 'early', 'who is done meanwhile has its answer');
is_answer($refused, 503, 'no', 'who is refused meanwhile as well');
is_replay($a->post(%early), 201, 'early', 'its node replays it');
is_replay($_->post(%old), 201, 'of k1', 'what the zone has is replayed')
    for $a, $b;

my $began = time;
is_problem($b->post(pay()), 503, 'store-unavailable', 'a new key has to wait');
cmp_ok(time - $began, '<', 3, 'not for long');

in_the_end($b, \%early, 'early', 'done while there was no master');
is_problem($b->post(%late), 409, 'in-flight', 'a claim that runs still runs');
$a->backend->answer(201, 'late', to => $held_late);
is_answer($late, 201, 'late', 'it ends on the new master');
in_the_end($b, \%late, 'late', 'done on the new master');
$a->backend->answer(201, 'waited', to => $held_waited);
is_answer($waited, 201, 'waited', 'one that is waited for ends');
like($waiter->response->status, qr/^(?:201|503)$/,
     'who waited elsewhere knows or does not');
in_the_end($b, \%waited, 'waited', 'one that was waited for');

carried_out($b, \%refused, 'what was refused is carried out then');
in_the_end($a, \%refused, "of $refused{key}", 'and known everywhere');

works_again($_, 'another master') for $a, $b;

my %again = pay(path => '/wait/');
my ($again, $held_again) = begin($b, \%again);
$waiter = $a->start_post(%again);
wait_for('somebody listens on the new master', sub {
    @{ $set->master->command('PUBSUB', 'CHANNELS', 'idem:*') } });
$b->backend->answer(201, 'woken', to => $held_again);
is_answer($again, 201, 'woken', 'one that is waited for on the new master');
is_replay($waiter, 201, 'woken', 'wakes who waits elsewhere');

is(executions($_, $a, $b), 1, "$_->{key} was carried out once")
    for \%old, \%early, \%late, \%waited;
is(executions(\%refused, $a, $b), 2, 'what was refused, again');

# It comes back, as a replica; then the masters change in good order.

$dead->start;
$set->wait_for_replica($dead);
works_again($a, 'the old one is back');
all_in_step();

%late = pay();
($late, $held_late) = begin($a, \%late);
my $before = $set->master;
wait_for('a change in good order', sub {
    ($set->sentinels)[1]->client->try('SENTINEL', 'FAILOVER', 'main') eq 'OK' });
$set->wait_for_other_master($before);
$set->wait_for_replica($before);        # what it is told until then is lost
$a->backend->answer(201, 'changed', to => $held_late);
is_answer($late, 201, 'changed', 'a claim goes through the change');
in_the_end($b, \%late, 'changed', 'so does its record');
works_again($_, 'the change') for $a, $b;
is(executions(\%late, $a, $b), 1, 'it was carried out once');

# It hangs, and another one takes its place; then it goes on, and takes itself
# for the master still.

$set->wait_for_replica($before);
all_in_step();
%late = pay();
($late, $held_late) = begin($a, \%late);
$before = $set->master;
$before->pause;
$began = time;
is_problem($b->post(%late), 503, 'store-unavailable', 'a master hangs');
cmp_ok(time - $began, '<', 3, 'nobody waits for it long');
$a->backend->answer(201, 'meanwhile', to => $held_late);
is_answer($late, 201, 'meanwhile', 'who is done has its answer');
$set->wait_for_other_master($before);
in_the_end($b, \%late, 'meanwhile', 'the other master is told');
$before->resume;
works_again($_, 'a master hung') for $a, $b;
is(executions(\%late, $a, $b), 1, 'it was carried out once');
$set->wait_for_replica($before);

# Nobody knows such a master.

my $c = node(sentinels('other'));

is_problem($c->post(pay()), 503, 'store-unavailable', 'an unknown master');
is($c->backend->requests, 0, 'nothing runs');
$c->log_like(qr/it knows no such master/, 'the log says so');
$c->finish;

# The sentinels die, the master does not.

$_->kill for $set->sentinels;

my %lonely = pay();
carried_out($a, \%lonely, 'without sentinels it goes on');
is_replay($b->post(%lonely), 201, "of $lonely{key}", 'on all nodes');

$a->reload;
is_problem($a->post(pay()), 503, 'store-unavailable',
           'who begins then knows no master');
is_replay($a->post(%lonely), 201, "of $lonely{key}", 'but what the zone has');
carried_out($a, { pay(path => '/local/') }, 'or does it alone');
$_->start for $set->sentinels;
works_again($a, 'they are back');

$_->finish for $a, $b;
undef $set;

# A user who has no other rights than those of README; the sentinel wants no
# password, the same one, or another one.

$set = Test::Idempotency::Sentinel->new(replicas => 1, sentinels => 1,
    password => 'secret', users => [ 'user default on >secret ~* &* +@all',
    'user idem on >mine ~idem:* &idem:* ' . Test::Idempotency::Redis->rights ]);

my $keeper = ($set->sentinels)[0]->client;

for (
    [ 'no password',      201, [ 'default', 'nopass' ]                        ],
    [ 'another password', 503, [ 'default', 'resetpass', '>other' ]           ],
    [ 'the same user',    201, [ 'idem', 'on', '>mine', '+@all', 'allchannels'
                               ]                                              ])
{
    my ($why, $status, $words) = @$_;

    $keeper->command('ACL', 'SETUSER', @$words);

    my $t = node(sentinels('main') . 'user idem; password_file password; '
                 . 'database 1; wait 1 1s;', files => { password => "mine\n" });

    if ($status == 201) {
        works_again($t, "a sentinel with $why");

    } else {
        is_problem($t->post(pay()), 503, 'store-unavailable',
                   "a sentinel with $why");
        $t->log_like(qr/says "NOAUTH/, 'the log says so');
    }

    $t->finish;
}

undef $set;

# With TLS, all speak it.

$set = Test::Idempotency::Sentinel->new(replicas => 1, sentinels => 1,
                                        tls => 'mutual');

my $files = $set->master->certificates;

($a, $b) = map { node(<<"END") } 1, 2;
    mode                     sentinel master=main;
    server                   127.0.0.1:@{[ ($set->sentinels)[0]->tls_port ]};
    tls                      on;
    tls_name                 redis.test;
    tls_trusted_certificate  @{[ $files->file('ca.pem') ]};
    tls_certificate          @{[ $files->file('client.pem') ]};
    tls_certificate_key      @{[ $files->file('client.key') ]};
    wait                     1 1s;
END

%late = pay();
($late, $held_late) = begin($a, \%late);
$set->fail_over;
$a->backend->answer(201, 'safe', to => $held_late);
is_answer($late, 201, 'safe', 'with TLS: a claim while the master dies');
in_the_end($b, \%late, 'safe', 'with TLS: on the new master');
is(executions(\%late, $a, $b), 1, 'with TLS: once');
$_->finish for $a, $b;
undef $set;

# Too few replicas have it in time.

my $master = Test::Idempotency::Redis->new;
my $replica = Test::Idempotency::Redis->new(replica_of => $master);


# The first acknowledgment of a replica that has come may take a second.

sub in_step {
    my $client = $master->client;

    $replica->wait_for_sync;
    wait_for('the replica acknowledges', sub {
        $client->command('PUBLISH', 'nobody', '');
        return $client->command('WAIT', 1, 2000);
    });

    return;
}


in_step();

my $readonly = node("server @{[ $replica->address ]};");
is_problem($readonly->post(pay()), 503, 'store-unavailable', 'a mere replica');
$readonly->log_like(qr/says "READONLY/, 'the log says so');
$readonly->finish;

($a, $b) = map { node("server @{[ $master->address ]}; wait 1 300ms;") } 1, 2;

for (
    [ 'hangs', sub { $replica->pause },  sub { $replica->resume } ],
    [ 'dies',  sub { $replica->kill },   sub { $replica->start }  ])
{
    my ($how, $begin, $end) = @$_;
    my %known = pay();
    my %request = pay();

    my %unknown = pay(path => '/check/');

    carried_out($a, \%known, "its replica $how: before");
    my ($client, $held) = begin($a, \%unknown);
    $a->backend->close(to => $held);
    is($client->response->status, 502, "its replica $how: an outcome is lost");
    my $records = $master->command('DBSIZE');

    $begin->();
    $began = time;
    is_problem($a->post(%request), 503, 'store-unavailable',
               "its replica $how: a new key is refused");
    cmp_ok(time - $began, '<', 2, "its replica $how: in time");
    is_replay($b->post(%known), 201, "of $known{key}",
              "its replica $how: what is done is replayed elsewhere");
    is_problem($b->post(%unknown), 503, 'store-unavailable',
               "its replica $how: nor is one looked into");
    wait_for('the claim is taken back',
             sub { $master->command('DBSIZE') == $records });
    $end->();
    in_step();

    carried_out($b, \%request, "its replica $how: then it works at once");
    is_replay($a->post(%request), 201, "of $request{key}",
              "its replica $how: on all nodes");
    is(executions(\%request, $a, $b), 1, "its replica $how: once");

    $client = $b->start_post(%unknown);
    is($b->backend->wait_for_request->method, 'GET',
       "its replica $how: what was unknown is looked into, still");
    $b->backend->answer(500, '');
    is_problem($client, 409, 'not-known-yet', "its replica $how: in vain");
}

done_testing;
