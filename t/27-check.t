#!/usr/bin/perl

# Nobody knows what became of the first request: the duplicate has somebody
# asked, once, and gets what was found; or it runs as nothing had happened; or
# it is told that this is not known yet.

use lib 't/lib';
use Test::Idempotency;

use Time::HiRes qw(time);

my $proxy = 'proxy_pass http://backend;';
my $lua = Test::Idempotency->can_load(qw(ndk_http ngx_http_lua));

my $t = Test::Idempotency->new(<<'END', http2 => 1,
    idempotency               payments;
    idempotency_unknown       check=/known?by=nginx;
    idempotency_max_response  1k;
    proxy_set_header          X-Fence $idempotency_fence;
    access_log                access.log told;
END
    backends => [ qw(known other) ],
    $lua ? (modules => [ qw(ndk_http ngx_http_lua) ]) : (),
    http => <<'END',
    log_format told '$idempotency_key $status $idempotency_status '
                    '"$idempotency_age"';
    proxy_cache_path cache keys_zone=cache:1m;
END
    files => { 'html/static/page' => 'a page', 'html/static/sorry' => 'sorry' },
    locations => <<"LOCATIONS" . ($lua ? <<'LUA' : ''));
    location = /known {
        internal;
        proxy_pass         http://known;
        proxy_set_header   X-Key \$idempotency_key;
        proxy_read_timeout 500ms;
    }
    location = /known/off {
        internal;
        proxy_pass         http://known;
        proxy_buffering    off;
    }
    location = /known/help {
        internal;
        proxy_pass         http://known;
        error_page         502 = \@known;
    }
    location \@known       { proxy_pass http://other; }
    location = /known/page {
        internal;
        proxy_pass         http://known;
        proxy_intercept_errors on;
        error_page         500 =404 /static/sorry;
        error_page         502 =200 /static/sorry;
        error_page         404 =200 /static/sorry;
    }
    location = /known/cached {
        internal;
        proxy_pass         http://known;
        proxy_cache        cache;
        proxy_cache_valid  any 1h;
    }
    location = /known/loop { rewrite ^ /known/loop last; }
    location = /known/cycle { error_page 404 /known/cycle; return 404; }
    location = /known/return { return 404; }
    location = /redirected { internal; try_files /static/page =404; }
    location /static/      { }

    location /off/      { $proxy idempotency_unknown check=/known/off; }
    location /help/     { $proxy idempotency_unknown check=/known/help; }
    location /page/     { $proxy idempotency_unknown check=/known/page; }
    location /cached/   { $proxy idempotency_unknown check=/known/cached; }
    location /loop/     { $proxy idempotency_unknown check=/known/loop; }
    location /cycle/    { $proxy idempotency_unknown check=/known/cycle; }
    location /return/   { $proxy idempotency_unknown check=/known/return; }
    location /file/     { $proxy idempotency_unknown check=/static/page; }
    location /missing/  { $proxy idempotency_unknown check=/static/none; }
    location /tried/    { $proxy idempotency_unknown check=/redirected; }
    location /self/     { $proxy idempotency_unknown check=/self/; }
    location /wait/     { $proxy idempotency_concurrent wait=10s; }
    location /rule/     { $proxy idempotency_valid any 0; }
    location /brief/    { $proxy idempotency_unknown check=/known 1s; }
    location /lease/    {
        $proxy
        idempotency_unknown check=/known/off;
        idempotency_lease   300ms;
    }
    location /dry/      { $proxy idempotency_dry_run on; }
    location /filters/  { $proxy add_header X-Added here always; gzip off; }
LOCATIONS
    location = /known/lua {
        content_by_lua_block {
            local status = ngx.var.http_x_say or 200
            ngx.status = tonumber(status)
            ngx.header["X-Lua"] = "asked by " .. ngx.req.get_method()
            ngx.print("lua knows " .. ngx.var.idempotency_key)
        }
    }
    location /lua/      {
        proxy_pass http://backend;
        idempotency_unknown check=/known/lua;
    }
LUA

my $backend = $t->backend;
my $known = $t->backend('known');
my $other = $t->backend('other');
my $n = 0;

is($lua, 1, 'Lua is there');


# A key whose first request came to an unknown end.

sub unknown {
    my (%o) = @_;

    my %request = (path => '/', body => 'eur=1', key => 'k' . ++$n, %o);
    my $unknown = $t->counter('unknown');

    my $first = $t->start_post(%request);
    $backend->wait_for_request;
    $backend->close;
    $first->response;
    $t->wait_until('counters.unknown' => $unknown + 1);

    return %request;
}


# A duplicate for which somebody is being asked.

sub ask {
    my (%request) = @_;

    my $client = $t->start_post(%request);
    $known->wait_for_request;

    return $client;
}


sub logged {
    my ($key, $what) = @_;

    return wait_for("$key is logged", sub {
        return (grep { /^\Q$key\E \Q$what\E/ }
                split /\n/, $t->file('access.log'))[-1];
    });
}


# It was carried out: the answer of the check is the record from now on.

my %request = unknown(headers => [ [ 'Authorization', 'Bearer 7' ] ]);
my $asked = $backend->requests;
my $client = ask(%request);
my $check = $known->last;

is($check->method, 'GET', 'it is asked by GET');
is($check->uri, '/known?by=nginx', 'in the location that was named');
is($check->body, '', 'without a body');
is($check->header($_), undef, "and without $_")
    for qw(Content-Length Transfer-Encoding);
is($check->header('X-Key'), $request{key}, 'it is told the key');
is($check->header('Authorization'), 'Bearer 7', 'and what the client sent');
is($t->zone->{records}{running}, 1, 'the claim stands meanwhile');
is_problem($t->post(%request), 409, 'in-flight', 'others are concurrent');
is_problem($t->post(%request, body => 'eur=2'), 422, 'key-reused',
           'another request is refused');

$known->answer(201, 'receipt 7', headers => [ [ 'X-Receipt', '7' ],
                                              [ 'Set-Cookie', 'a=b' ] ]);
is_replay($client, 201, 'receipt 7', 'what was found is replayed');
is($client->response->header('X-Receipt'), 7, 'with its header fields');
is($client->response->header('Set-Cookie'), undef, 'those that are kept');
is($t->zone->{records}{done}, 1, 'it is the record');
is_replay($t->post(%request), 201, 'receipt 7', 'for all who come later');
is($known->requests, 1, 'it was asked once');
is($backend->requests, $asked, 'and nothing ran again');
like(logged($request{key}, '201 replayed'), qr/"\d+\.\d{3}"$/, 'the log knows');

# It was not: the request runs, and has a greater fence.

%request = unknown();
my $fence = $backend->last->header('X-Fence');
$client = ask(%request);
$known->answer(404, 'never heard of it');
$backend->wait_for_request;
is_problem($t->post(%request), 409, 'in-flight', 'it runs, once');
cmp_ok($backend->last->header('X-Fence'), '>', $fence, 'with a greater fence');
is($backend->last->body, 'eur=1', 'and with its body');
$backend->answer(200, 'done now');
is_answer($client, 200, 'done now', 'it is a first request');
is_replay($t->post(%request), 200, 'done now', 'that is kept');
logged($request{key}, '200 first');

# Nobody knows.

my $told = 0;
my $half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
my $chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

my @failures = (
#     the check ...                                          why
    [ sub { $known->answer(500, 'oops') },                   'fails'         ],
    [ sub { $known->answer(503, 'later') },                  'is busy'       ],
    [ sub { $known->answer(410, 'gone') },                   'says 410'      ],
    [ sub { $known->answer(302, '', headers =>
                [ [ 'Location', '/' ] ]) },                  'goes elsewhere' ],
    [ sub { $known->close },                                 'breaks off'    ],
    [ sub { $known->reset },                                 'is reset'      ],
    [ sub { },                                               'is slow'       ],
    [ sub { $known->answer(0, '', raw => $half) },           'is cut off'    ],
    [ sub { $known->answer(0, '', raw => "${chunked}zz\r\n") }, 'is broken'  ],
    [ sub { $known->answer(0, '', raw => "garbage\r\n") },   'is no HTTP'    ],
    [ sub { $known->answer(404, 'x' x 99, cut => 9) },       'cuts a 404'    ],
    [ sub { $known->answer(0, '', raw => "HTTP/1.1 404 Two\r\n"
            . "Content-Length: 0\r\nContent-Length: 1\r\n\r\n") },
                                                      'has two lengths'      ],
    [ sub { $known->answer(200, 'x' x 2000, cut => 1500) },  'cuts a large'  ],
);

for my $path ('/', '/off/') {
    for (@failures) {
        my ($act, $why) = @$_;

        next if $path eq '/off/' && $why eq 'is slow';

        my %request = unknown(path => $path);
        my $requests = $backend->requests;

        for my $time ('once', 'again') {
            my $gone = $known->gone + ($why eq 'is slow');

            $client = ask(%request);
            $act->();
            is_problem($client, 409, 'not-known-yet',
                       "$path: a check that $why, $time");
            wait_for('nginx goes', sub { $known->gone >= $gone });
        }

        is($backend->requests, $requests, "$path: $why: nothing runs");
        is($t->zone->{records}{running}, 0, "$path: $why: no claim is left");
        $client = ask(%request);
        $known->answer(200, 'found');
        is_replay($client, 200, 'found', "$path: $why: a later one knows");
        $told += 2;
    }
}

is($t->counter('check_unknown'), $told, 'all of them are counted');
like(logged("k$n", '409 outcome-unknown'), qr/"\d+\.\d{3}"$/, 'the log knows');

$known->accept('refuse');
%request = unknown();
is_problem($t->post(%request), 409, 'not-known-yet', 'nobody there to ask');
$known->accept('read');

# Whoever answers must be one who knows: no page of nginx's own says that a
# request did not happen, and none stands for what it did.

my @strangers = (
#     path         the upstream asked says     why
    [ '/missing/', undef,                      'a file that is not there'   ],
    [ '/loop/',    undef,                      'a rewrite in a circle'      ],
    [ '/cycle/',   undef,                      'an error page in a circle'  ],
    [ '/return/',  undef,                      'a return'                   ],
    [ '/page/',    sub { $known->answer(500) }, '404 made of a 500'         ],
    [ '/page/',    sub { $known->close },      '200 made of no answer'      ],
);

for (@strangers) {
    my ($path, $act, $why) = @$_;
    my %request = unknown(path => $path);
    my $requests = $backend->requests;

    $client = $t->start_post(%request);

    if ($act) {
        $known->wait_for_request;
        $act->();
    }

    is_problem($client, 409, 'not-known-yet', "$why: nobody knows");
    is($backend->requests, $requests, "$why: nothing runs");
}

# Nor is it enough that somebody said so of another key, some time ago.

%request = unknown(path => '/cached/');
$client = ask(%request);
$known->answer(404, 'no such thing');
$backend->wait_for_request;
$backend->answer(200, 'ran');
is_answer($client, 200, 'ran', 'a check that a cache will remember');

%request = unknown(path => '/cached/');
is_problem($t->post(%request), 409, 'not-known-yet', 'a cache does not know');

# A file that is there is an answer, of whatever that is worth.

for (qw(/file/ /tried/)) {
    %request = unknown(path => $_);
    is_replay($t->post(%request), 200, 'a page', "$_: a file");
    is_replay($t->post(%request), 200, 'a page', "$_: stays the answer");
}

# An error page of the location may ask somebody else.

%request = unknown(path => '/help/');
$client = ask(%request);
$known->close;
$other->wait_for_request;
$other->answer(200, 'the other one knows');
is_replay($client, 200, 'the other one knows', 'another one is asked');

%request = unknown(path => '/help/');
$client = ask(%request);
$known->close;
$other->wait_for_request;
$other->answer(404, 'nor me');
$backend->wait_for_request;
$backend->answer(200, 'so it runs');
is_answer($client, 200, 'so it runs', 'and says that it did not happen');

# The location may be the same one, and be asked by GET.

%request = unknown(path => '/self/');
$client = $t->start_post(%request);
is($backend->wait_for_request->method, 'GET', 'the upstream itself is asked');
$backend->answer(200, 'all is well');
is_replay($client, 200, 'all is well', 'and knows');

# What was found may be empty, large, or of a life of 0.

%request = unknown();
$client = ask(%request);
$known->answer(204, '');
is_replay($client, 204, '', 'an answer without a body');
is_replay($t->post(%request), 204, '', 'stays one');

%request = unknown();
$client = ask(%request);
$known->answer(200, '', chunked => [ 'x' x 512, 'y' x 512 ]);
is_replay($client, 200, 'x' x 512 . 'y' x 512, 'an answer of the largest size');

%request = unknown();
$client = ask(%request);
$known->answer(200, 'x' x 1025);
is_problem($client, 409, 'response-not-stored', 'one that is too large');
is_problem($t->post(%request), 409, 'response-not-stored', 'is known as done');

for my $path ('/rule/', '/') {
    %request = unknown(path => $path);
    $client = ask(%request);
    $known->answer(200, 'done', headers => [ [ 'X-Accel-Idempotency',
                                               'release, ttl=0' ] ])
        if $path eq '/';
    $known->answer(200, 'done') if $path ne '/';
    is_replay($client, 200, 'done', "$path: what would be released");
    is_replay($t->post(%request), 200, 'done', "$path: is kept even so");
}

# Filters work on it as on any replay.

%request = unknown(path => '/filters/');
$client = ask(%request);
$known->answer(200, 'done');
is_replay($client, 200, 'done', 'a filter');
is($client->response->header('X-Added'), 'here', 'adds to what was found');

# Several at once: one asks, the others wait for what it learns.

for ([ 200, 'found' ], [ 500, 'oops' ], [ 404, 'nothing' ]) {
    my ($status, $body) = @$_;
    my %request = unknown(path => '/wait/');
    my $requests = $known->requests;
    my $ran = $backend->requests;
    my $one = ask(%request);
    my @others = map { $t->start_post(%request) } 1 .. 5;

    $t->wait_until(waiting => 5);
    $known->answer($status, $body);

    if ($status == 404) {
        $backend->wait_for_request;
        $backend->answer(201, 'ran');
        is_answer($one, 201, 'ran', '404: the one who asked runs');
    }

    for ($status == 404 ? () : $one, @others) {
        is_replay($_, 200, 'found', '200: it is for all') if $status == 200;
        is_problem($_, 409, 'not-known-yet', '500: nobody knows')
            if $status == 500;
        is_replay($_, 201, 'ran', '404: others get that') if $status == 404;
    }

    is($known->requests, $requests + 1, "$status: one has asked");
    is($backend->requests, $ran + ($status == 404), "$status: so many ran");
}

# One who waits for a first request that ends so asks after that.

%request = (path => '/wait/', key => 'behind', body => 'x');
my $first = $t->start_post(%request);
$backend->wait_for_request;
my $twin = $t->start_post(%request);
$t->wait_until(waiting => 1);
$backend->close;
is($first->response->status, 502, 'a first request of which nothing is known');
$known->wait_for_request;
$known->answer(200, 'it was done');
is_replay($twin, 200, 'it was done', 'who waited for it finds out');

# Several of them: one asks, and speaks for all.

%request = (path => '/wait/', key => 'several', body => 'x');
$first = $t->start_post(%request);
$backend->wait_for_request;
my @twins = map { $t->start_post(%request) } 1 .. 4;
$t->wait_until(waiting => 4);
$asked = $known->requests;
$backend->close;
$known->wait_for_request;
$t->wait_until(waiting => 3);
$known->answer(500, 'oops');
is_problem($_, 409, 'not-known-yet', 'nobody knows') for @twins;
is($known->requests, $asked + 1, 'though one has asked');

# Whoever asks may leave: the next one asks again.

for my $leave (qw(close reset half_close)) {
    my %request = unknown();
    my $gone = $known->gone;

    $client = ask(%request);
    $client->$leave;
    wait_for('the check ends', sub { $known->gone > $gone });
    $t->wait_until(running => 0);
    $client = ask(%request);
    $known->answer(200, 'found');
    is_replay($client, 200, 'found', "$leave: the next one asks again");
}

%request = unknown(path => '/wait/');
$client = ask(%request);
$twin = $t->start_post(%request);
$t->wait_until(waiting => 1);
$client->reset;
is_problem($twin, 409, 'not-known-yet', 'who waits for one who leaves');

# The worker may die.

%request = unknown();
$client = ask(%request);
my $left = $known->gone;
$t->kill_worker($_) for $t->workers;
wait_for('it is gone', sub { $known->gone > $left });
$client = ask(%request);
$known->answer(200, 'found');
is_replay($client, 200, 'found', 'a worker dies, the next one asks again');

# It may take longer than a lease.

%request = unknown(path => '/lease/');
$client = ask(%request);
$asked = $t->counter('lease_ended');
my $end = time + 0.6;
wait_for('two leases are over', sub { time > $end });
is($t->counter('lease_ended'), $asked, 'the lease is renewed');
$known->answer(200, 'at last');
is_replay($client, 200, 'at last', 'a check that takes long');

# Asking does not make an unknown live longer.

%request = unknown(path => '/brief/');
my $tries = 0;

$known->auto(500, 'oops');
$backend->auto(200, 'ran');
wait_for('it is over', sub { ++$tries && $t->post(%request)->status == 200 });
cmp_ok($tries, '>', 3, 'it was asked about, and ended all the same');
$_->hold for $known, $backend;

# A dry run asks nobody.

%request = unknown(path => '/dry/');
$asked = $known->requests;
$client = $t->start_post(%request);
$backend->wait_for_request;
$backend->answer(200, 'passed on');
is_answer($client, 200, 'passed on', 'a dry run passes it on');
is($known->requests, $asked, 'and asks nobody');
logged($request{key}, '200 outcome-unknown');

# Lua knows, too.

for ([ 200, 'lua knows', 1 ], [ 404, 'ran', 0 ], [ 500, '', 0 ]) {
    my ($say, $body) = @$_;
    my %request = unknown(path => '/lua/', headers => [ [ 'X-Say', $say ] ]);

    $client = $t->start_post(%request);

    if ($say == 404) {
        $backend->wait_for_request;
        $backend->answer(200, 'ran');
        is_answer($client, 200, 'ran', 'Lua says 404: it runs');
    }

    is_replay($client, 200, "lua knows $request{key}", 'Lua says 200')
        if $say == 200;
    is_problem($client, 409, 'not-known-yet', 'Lua says 500') if $say == 500;
}

# HTTP/2.

%request = unknown();
$client = $t->start_http2(%request);
$known->wait_for_request;
$known->answer(200, 'found');
is_replay($client, 200, 'found', 'HTTP/2: what was found');

%request = unknown();
my $gone = $known->gone;
$client = $t->start_http2(%request);
$known->wait_for_request;
$client->close;
wait_for('the check ends', sub { $known->gone > $gone });
$t->wait_until(running => 0);
pass('HTTP/2: who leaves while asking leaves nothing behind');

done_testing;
