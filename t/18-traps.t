#!/usr/bin/perl

# What goes wrong in versions of idempotency that were written by hand does not
# go wrong here: eight traps, each of them laid for one nginx with two workers,
# and for two nodes that share a Redis.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use Time::HiRes qw(time);

my $proxy = 'proxy_pass http://shop;';

my $conf = <<'END';
    idempotency               payments;
    idempotency_token_secret  secret;
    proxy_set_header          X-Worker $pid;
END

my $locations = <<"END";
    location /pay/    { $proxy }
    location /wait/   { $proxy idempotency_concurrent wait=30s;
                        idempotency_waiters 200; }
    location /brief/  { $proxy idempotency_lease 600ms; }
    location /lock/   { $proxy idempotency_lease 600ms;
                        idempotency_serialize \$arg_of wait=30s; }
    location /try/    { $proxy idempotency_serialize \$arg_of; }
    location /token/  { $proxy idempotency_required token; }
    location /busy/   { $proxy idempotency_required token;
                        idempotency_serialize \$arg_of; }
    location /state/  { $proxy idempotency_state order \$arg_of \$arg_to; }
    location /page/   { $proxy idempotency_version \$arg_of; }
    location = /token { idempotency_token_issue; }
END

my $states = 'idempotency_states order { new created; created paid cancelled; }';

# On a zone they are the same nginx.

my ($here, $there, $shop);
my $n = 0;


sub request { return (path => $_[0], key => 'k' . ++$n, body => 'eur=1') }


sub token {
    return (path => $_[0], body => 'eur=1',
            key => $there->get(path => '/token')->header('Idempotency-Token'));
}


# Begins, and is inside the upstream; as the client has it, and as that has it.

sub begin {
    my ($t, %request) = @_;

    my $held = $shop->held;
    my $client = $t->start_post(%request);

    return ($client, $shop->wait_for_request($held + 1));
}


sub ends {
    my ($client, $asked, $body) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    $shop->answer(200, $body, to => $asked);

    return is_answer($client, 200, $body, $body);
}


sub time_passes {
    my ($s) = @_;

    my $end = time + $s;

    return wait_for('time passes', sub { time > $end });
}


# Many at once, from all sides; their answers.

sub crowd {
    my ($size, %request) = @_;

    my @crowd = map { ($here, $there)[$_ % 2]->start_post(%request) }
        1 .. $size;

    return \@crowd;
}




# The token is looked up, found, and then deleted: in between, another one
# finds it as well.

sub checked_then_deleted {
    my $ran = $shop->requests;
    my %request = token('/token/');
    my $crowd = crowd(40, %request);
    my $asked = $shop->wait_for_request;

    wait_for('the others are told', sub {
        grep({ $_->answered } @$crowd) == @$crowd - 1 });

    $shop->answer(200, 'once', to => $asked);

    my @status = sort map { $_->response->status } @$crowd;
    is("@status", join(' ', 200, (409) x 39), 'one of forty uses is the first');
    is_replay($_->post(%request), 200, 'once', 'a use after it')
        for $here, $there;
    is($shop->requests, $ran + 1, 'one was carried out');

    return;
}


# The id is written down when the work is done: until then nobody knows it, and
# if that moment does not come, nobody ever will.

sub written_after_the_work {
    my $ran = $shop->requests;
    my %request = request('/brief/');
    my ($client, $asked) = begin($here, %request);

    is_problem($_->post(%request), 409, 'in-flight',
               'it is known while the work goes on') for $here, $there;

    my $gone = $shop->gone;
    $here->kill_worker($asked->header('X-Worker'));
    wait_for('it is gone', sub { $shop->gone > $gone });
    wait_for('all know', sub {
        $there->post(%request)->body =~ /outcome of the first request/ });
    is_problem($_->post(%request), 409, 'outcome-unknown',
               'and when its worker has died') for $here, $there;
    is($shop->requests, $ran + 1, 'one was carried out');

    return;
}


# The lock ends after some seconds; the work takes longer.

sub lock_shorter_than_the_work {
    my $ran = $shop->requests;
    my %request = request('/lock/?of=a');
    my ($client, $asked) = begin($here, %request);
    my $next = $there->start_post(request('/lock/?of=a'));

    time_passes(2);
    is_problem($there->post(%request), 409, 'in-flight',
               'after three leases its key is taken');
    is_problem($there->post(request('/try/?of=a')), 409, 'resource-busy',
               'and so is the resource');
    is($shop->requests, $ran + 1, 'nobody else has come');

    ends($client, $asked, 'long work');
    ends($next, $shop->wait_for_request, 'the next one');
    is_replay($there->post(%request), 200, 'long work', 'it is kept');

    return;
}


# Its lock has ended, another one has it now; it comes back, and deletes that.

sub deletes_the_lock_of_another {
    my $ran = $shop->requests;
    my %request = request('/lock/?of=b');
    my ($client, $asked) = begin($here, %request);
    my $worker = $asked->header('X-Worker');

    kill 'STOP', $worker;

    my ($other, $asked2) = begin($there, request('/lock/?of=b'));
    isnt($asked2->header('X-Worker'), $worker, 'another one has it');
    is_problem($there->post(%request), 409, 'outcome-unknown',
               'and of the first nobody knows');

    kill 'CONT', $worker;
    ends($client, $asked, 'a late one');
    is_problem($there->post(%request), 409, 'outcome-unknown',
               'who comes back late changes no record');
    is_problem($_->post(request('/try/?of=b')), 409, 'resource-busy',
               'and frees no lock') for $here, $there;
    is($shop->requests, $ran + 2, 'nobody else has come');

    ends($other, $asked2, 'whose lock it is');
    ends(begin($there, request('/try/?of=b')), 'then it is free');

    return;
}


# It lost the race, looks for the result of who has won, and there is none yet,
# or half of it.

sub no_result_yet {
    my %request = request('/wait/');
    my $half = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
    my ($client, $asked) = begin($here, %request);
    my $crowd = crowd(10, %request);

    $shop->send($half, to => $asked);
    is_problem($there->post(%request, path => '/pay/'), 422, 'key-reused',
               'another request with the key gets nothing of it');
    push @$crowd, @{ crowd(10, %request) };
    time_passes(0.3);
    is(scalar(grep { $_->answered } $client, @$crowd), 0,
       'nobody gets half a result');

    $shop->answer(0, '', raw => 'half', then => 'close', to => $asked);
    is_answer($client, 200, 'halfhalf', 'it is whole');

    my @got = map { $_->response } @$crowd;
    is(scalar(grep { $_->status == 200 && $_->body eq 'halfhalf' } @got), 20,
       'all get all of it');

    %request = request('/pay/');
    ($client, $asked) = begin($here, %request);
    is_problem($there->post(%request), 409, 'in-flight',
               'or are told to come back');
    ends($client, $asked, 'for the result');
    is_replay($there->post(%request), 200, 'for the result', 'which is there');

    return;
}


# The token is used up, and then the work fails: it can never be done.

sub burnt_by_failure {
    my %request = token('/token/');
    my ($client, $asked) = begin($here, %request);

    $shop->answer(503, 'not now', to => $asked);
    is_answer($client, 503, 'not now', 'the upstream has refused');

    $shop->accept('refuse');
    is($there->post(%request)->status, 502, 'it is not there');
    $shop->accept('read');

    my ($holder, $holds) = begin($here, request('/try/?of=c'));
    my %busy = token('/busy/?of=c');
    is_problem($there->post(%busy), 409, 'resource-busy', 'another has it');
    ends($holder, $holds, 'that one');

    for (\%request, \%busy) {
        ends(begin($there, %$_), "the token of $_->{path} was not used up");
        is_replay($here->post(%$_), 200, undef, 'now it is');
    }

    return;
}


# Is it there?  No.  Then it is put there: by all who asked at that time.

sub check_then_insert {
    my $ran = $shop->requests;

    $shop->auto(200, 'number %n');

    for my $round (1 .. 15) {
        my $crowd = crowd(20, request('/wait/'));
        my @first = grep { !defined $_->header('Idempotent-Replayed') }
            map { $_->response } @$crowd;
        my %said = map { $_->response->body => 1 } @$crowd;

        is(@first . ' ' . keys(%said), '1 1', "round $round: one of twenty");
    }

    is($shop->requests, $ran + 15, 'each was carried out by one');
    $shop->hold;

    return;
}


# The old state, or the old version, is looked at and found good: by all who
# looked at that time.

sub look_then_change {
    for my $round (1 .. 10) {
        my $state = "/state/?of=s$round&to=";
        my $page = "/page/?of=p$round";

        $shop->auto(200, 'done', headers => [ [ ETag => '"old"' ] ]);
        is_answer($here->post(request("${state}created")), 200, 'done',
                  "round $round: a state");
        is_answer($here->post(request($page)), 200, 'done',
                  "round $round: a version");

        $shop->auto(200, 'done', headers => [ [ ETag => '"new"' ] ]);

        my $ran = $shop->requests;
        my @crowd = map {
            my $t = ($here, $there)[$_ % 2];
            ($t->start_post(request($state . ('paid', 'cancelled')[$_ % 3 > 0])),
             $t->start_post(request($page), headers =>
                            [ [ 'If-Match', '"old"' ] ]));
        } 1 .. 10;
        my @status = map { $_->response->status } @crowd;

        is(scalar(grep { $_ == 200 } @status[map { 2 * $_ } 0 .. 9]), 1,
           "round $round: of ten moves one is made");
        is(scalar(grep { $_ == 200 } @status[map { 2 * $_ + 1 } 0 .. 9]), 1,
           "round $round: and of ten changes");
        is($shop->requests - $ran, scalar(grep { $_ == 200 } @status),
           "round $round: and nobody who was told otherwise");
    }

    $shop->hold;

    return;
}


my $redis = Test::Idempotency::Redis->new;

my @traps = (
    [ 'a token that is checked, then deleted'   => \&checked_then_deleted ],
    [ 'an id that is written after the work'    => \&written_after_the_work ],
    [ 'a lock that is shorter than the work'    => \&lock_shorter_than_the_work ],
    [ 'a lock of another that is deleted'       => \&deletes_the_lock_of_another ],
    [ 'a result that is not there yet'          => \&no_result_yet ],
    [ 'a token that is burnt by a failure'      => \&burnt_by_failure ],
    [ 'a look, then an insert'                  => \&check_then_insert ],
    [ 'a look, then a change'                   => \&look_then_change ],
);

for my $store ('zone', 'redis') {
    my %o = (locations => $locations, http => $states,
             files => { secret => 'sixteen bytes or more' });

    if ($store eq 'redis') {
        $o{zone} = 'zone=payments:1m redis=main';
        $o{http} .= 'idempotency_redis main { server ' . $redis->address
            . '; timeout 5s; }';
    }

    $here = $there = Test::Idempotency->new($conf, %o, backends => [ 'shop' ]);
    $shop = $here->backend('shop');

    if ($store eq 'redis') {
        $o{http} .= ' upstream shop { server 127.0.0.1:' . $shop->port
            . ' max_fails=0; }';
        $there = Test::Idempotency->new($conf, %o);
    }

    subtest "$store: $_->[0]" => $_->[1] for @traps;

    $there->finish if $there != $here;
    $here->finish;
}

done_testing;
