#!/usr/bin/perl

# Whoever delivers messages more than once only wants to know that they have
# arrived: a duplicate of one that did is acknowledged, and nothing of the first
# answer is kept.  One that did not arrive is delivered again.  On a zone, and
# on Redis.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

my $proxy = 'proxy_pass http://backend;';

my $conf = <<'END';
    idempotency              payments;
    idempotency_acknowledge;
    idempotency_concurrent   wait=30s;
    add_header               X-Told $idempotency_status always;
END

my $locations = <<"END";
    location /off/     { $proxy idempotency_acknowledge off; }
    location /202/     { $proxy idempotency_acknowledge 202; }
    location /200/     { $proxy idempotency_acknowledge 200; }
    location /rules/   { $proxy idempotency_valid 400 422 1h; idempotency_valid 201 0; }
    location /small/   { $proxy idempotency_max_response 10; }
    location /mark/    { $proxy idempotency_replay_header X-Again yes; }
    location /dry/     { $proxy idempotency_dry_run on; }
    location /was/     { $proxy idempotency_fingerprint body; idempotency_acknowledge off; }
    location /was/small/ {
        $proxy
        idempotency_fingerprint body;
        idempotency_acknowledge off;
        idempotency_max_response 1;
    }
    location /is/      { $proxy idempotency_fingerprint body; }
    location /rotate/  {
        $proxy
        idempotency_required token;
        idempotency_token_secret secret;
        idempotency_token_rotate on;
    }
    location = /token  { idempotency_token_issue; idempotency_token_secret secret; }
    location /check/   { $proxy idempotency_unknown check=/known; }
    location = /known  { internal; proxy_pass http://backend/known; }
    location /gzip/    { $proxy gzip on; gzip_min_length 0; gzip_types *; }
END

my ($t, $backend);
my $n = 0;


sub message {
    my ($path, %o) = @_;

    return (path => $path, key => 'm' . ++$n, body => 'order 1', %o);
}


# A first delivery that the upstream answers so.

sub delivered {
    my ($message, @answer) = @_;

    my $first = $t->start_post(%$message);
    $backend->wait_for_request;
    @answer ? $backend->answer(@answer) : $backend->close;

    return $first->response;
}


sub is_acknowledged {
    my ($from, $status, $name) = @_;
    my $m = $from->can('response') ? $from->response : $from;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is_replay($m, $status, '', $name);
    is(join(' ', grep { defined } map { $m->header($_) }
            qw(Content-Type Location X-Order ETag Last-Modified)), '', "$name: no field");
    is($m->header('Content-Length'), $status == 204 ? undef : 0, "$name: no body");

    return;
}


sub acknowledges {
    my $used = $t->zone->{blocks} - $t->zone->{free};
    my @fields = ([ 'X-Order', '7' ], [ 'Location', '/orders/7' ], [ 'ETag', '"7"' ],
                  [ 'Content-Type', 'text/plain' ]);
    my $large = 'x' x 100_000;

    for ([ '/', 204 ], [ '/202/', 202 ], [ '/200/', 200 ], [ '/gzip/', 204 ]) {
        my ($path, $status) = @$_;
        my %message = message($path);

        my $m = delivered(\%message, 201, $large, headers => \@fields);
        is_answer($m, 201, $large, "$path: the first answer is whole");
        is($m->header('X-Order'), 7, "$path: with its fields");
        is_acknowledged($t->post(%message), $status, "$path: a duplicate") for 1, 2;
        is_acknowledged($t->post(%message, headers => [ $_ ]), $status,
                        "$path: a duplicate, $_->[0]")
            for [ 'If-Match', '"v1"' ], [ 'If-None-Match', '*' ],
                [ 'If-Unmodified-Since', 'Mon, 01 Jan 2001 00:00:00 GMT' ];
        is_problem($t->post(%message, body => 'order 2'), 422, 'key-reused',
                   "$path: another message with its id");
    }

    $used = $t->zone->{blocks} - $t->zone->{free} - $used;
    is($used, 4 * 2, 'two blocks of 128 bytes hold what is left of a message');
    is($t->zone->{records}{done}, 4, 'which is done');

    my %message = message('/');
    my $first = $t->start_post(%message);
    $backend->wait_for_request;
    my @waiting = map { $t->start_post(%message) } 1 .. 3;
    $t->wait_until(waiting => 3);
    $backend->answer(200, 'done');
    is_answer($first, 200, 'done', 'a first delivery');
    is_acknowledged($_, 204, 'a duplicate that came meanwhile') for @waiting;
    is($waiting[0]->response->header('X-Told'), 'waited', 'and waited');

    %message = message('/off/');
    is_answer(delivered(\%message, 201, 'all of it'), 201, 'all of it', 'where it is off');
    is_replay($t->post(%message), 201, 'all of it', 'all is kept');

    %message = message('/mark/');
    delivered(\%message, 204, '');
    my $m = $t->post(%message);
    is($m->status . $m->header('X-Again'), '204yes', 'the mark is the operator\'s');

    %message = message('/');
    delivered(\%message, 200, 'ok');
    $m = $t->http2(%message);
    is($m->status . $m->header('Idempotent-Replayed'), '204true', 'over HTTP/2');
    is($m->body, '', 'without a body');

    my $c = $t->connect;

    for (1 .. 2) {
        $c->request(method => 'POST', %message, headers => [ [ 'Connection', 'keep-alive' ] ]);
        is($c->next_response->status, 204, 'over a connection that stays');
    }

    return;
}


sub delivers_again {
    my @cases = (
#         path       answer                became
        [ '/',       [ 200, 'ok' ],        'done'     ],
        [ '/',       [ 299, 'ok' ],        'done'     ],
        [ '/',       [ 301, 'elsewhere' ], 'released' ],
        [ '/',       [ 400, 'no' ],        'released' ],
        [ '/',       [ 404, 'no' ],        'released' ],
        [ '/',       [ 500, 'no' ],        'released' ],
        [ '/',       [ 503, 'no' ],        'released' ],
        [ '/',       [ 502, 'no' ],        'unknown'  ],
        [ '/',       [ 504, 'no' ],        'unknown'  ],
        [ '/',       [ 500, 'no', headers => [ [ 'X-Accel-Idempotency', 'store' ] ] ],
                                           'done'     ],
        [ '/',       [ 200, 'ok', headers => [ [ 'X-Accel-Idempotency', 'release' ] ] ],
                                           'released' ],
        [ '/rules/', [ 400, 'never' ],     'done'     ],
        [ '/rules/', [ 422, 'never' ],     'done'     ],
        [ '/rules/', [ 409, 'not now' ],   'released' ],
        [ '/rules/', [ 201, 'as said' ],   'released' ],
        [ '/small/', [ 200, 'x' x 100 ],   'done'     ],
        [ '/small/', [ 200, 'x', headers => [ [ 'X-Accel-Buffering', 'no' ] ] ], 'done' ],
        [ '/small/', [ 500, 'x' x 100 ],   'released' ],
        [ '/off/',   [ 500, 'no' ],        'kept'     ],
        [ '/dry/',   [ 500, 'no' ],        'released' ],
    );

    for (@cases) {
        my ($path, $answer, $became) = @$_;
        my %message = message($path);
        my $name = "$path: $answer->[0], $became";

        is_answer(delivered(\%message, @$answer), @$answer[0, 1], $name);

        is_acknowledged($t->post(%message), 204, $name) if $became eq 'done';
        is_replay($t->post(%message), @$answer[0, 1], $name) if $became eq 'kept';
        is_problem($t->post(%message), 409, 'outcome-unknown', $name)
            if $became eq 'unknown';
        is_answer(delivered(\%message, 200, 'then'), 200, 'then', $name)
            if $became eq 'released';
    }

    my %message = message('/');
    is(delivered(\%message)->status, 502, 'what broke off');
    is_problem($t->post(%message), 409, 'outcome-unknown', 'is unknown');

    %message = message('/dry/');
    is_answer(delivered(\%message, 200, 'ok'), 200, 'ok', 'a dry run');
    my $m = delivered(\%message, 200, 'again');
    is_answer($m, 200, 'again', 'delivers again');
    is($m->header('X-Told'), 'replayed', 'and tells what it would have done');

    return;
}


# What was recorded before it was on, and what is after that it is off.

sub changes {
    my %message = message('/was/');
    is_answer(delivered(\%message, 201, 'kept'), 201, 'kept', 'an answer that is kept');
    is_replay($t->post(%message), 201, 'kept', 'is replayed');
    is_acknowledged($t->post(%message, path => '/is/'), 204, 'until it is acknowledged');

    %message = message('/was/small/');
    is_answer(delivered(\%message, 201, 'too large'), 201, 'too large', 'one that is too large');
    is_problem($t->post(%message), 409, 'response-not-stored', 'is not kept');
    is_acknowledged($t->post(%message, path => '/is/'), 204, 'and need not be');

    %message = message('/is/');
    is_answer(delivered(\%message, 201, 'not kept'), 201, 'not kept', 'one that is not');
    is_acknowledged($t->post(%message, path => '/was/'), 204, 'was not kept');

    return;
}


# Together with others.

sub combines {
    my $token = $t->get(path => '/token')->header('Idempotency-Token');
    my %message = message('/rotate/', key => $token);
    my @fresh = delivered(\%message, 201, 'ok')->header('Idempotency-Token');
    my $m = $t->post(%message);

    is_acknowledged($m, 204, 'a token that was used');
    like($m->header('Idempotency-Token'), qr/^[\w-]{76}$/, 'is acknowledged with a fresh one');

    %message = message('/check/');
    is(delivered(\%message)->status, 502, 'nobody knows');
    my $second = $t->start_post(%message);
    $backend->wait_for_request;
    is($backend->last->uri, '/known', 'it is asked');
    $backend->answer(200, 'it was');
    is_acknowledged($second, 204, 'what is found out');
    is_acknowledged($t->post(%message), 204, 'and known then');

    return;
}


my $redis = Test::Idempotency::Redis->new;

for my $store ('zone', 'redis') {
    $t = Test::Idempotency->new($conf, locations => $locations,
        http2 => 1, files => { secret => 'sixteen bytes or more' },
        $store eq 'zone' ? (zone => 'zone=payments:1m')
        : (zone => 'zone=payments:1m redis=main',
           http => 'idempotency_redis main { server ' . $redis->address . '; }'));
    $backend = $t->backend;

    subtest "$store: a duplicate is acknowledged" => \&acknowledges;
    subtest "$store: what failed comes again"     => \&delivers_again;
    subtest "$store: it comes and goes"           => \&changes;
    subtest "$store: with others"                 => \&combines;

    $t->finish;
}

for my $wrong (qw(on 199 300 206 20 2000 204x -1)) {
    conf_fails("idempotency_acknowledge $wrong;", qr/takes "off" or a status from 200/);
}

conf_fails("idempotency_acknowledge;\nidempotency_acknowledge 200;", qr/is duplicate/);
conf_fails('idempotency_acknowledge 200 201;', qr/invalid number of arguments/);

done_testing;
