#!/usr/bin/perl

# Whoever makes the answer - another protocol, a file, the cache, nginx itself
# - it is taken whole, trailers included, and given again as it was; and a
# request runs to its end there, too, when its client leaves.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Gateway;

my $long = join '', map { chr } map { 1 .. 255 } 1 .. 300;
my @plain = ([ 'Content-Type', 'text/plain' ], [ 'X-A', 1 ], [ 'X-B', 2 ],
             [ 'X-A', 3 ]);

# The body of a request says how it is to be answered.

sub answer {
    my ($request) = @_;

    my $n = $request->{n};
    my %answers = (
        short   => { status => 201, body => "answer $n" },
        long    => { status => 201, body => "answer $n$long" },
        empty   => { status => 200, body => '' },
        nothing => { status => 204, body => '' },
        refuses => { status => 429, body => "busy $n" },
        cut     => { status => 201, body => $long, cut => 1 },
        open    => { status => 201, body => "answer $n", open => 1 },
        broken  => { status => 201, body => $long, open => 1, cut => 1 },
        large   => { status => 201, body => $long x 3 },
        held    => { status => 201, body => "answer $n", hold => 1 },

        # gRPC

        trailed => { status => 200, body => "answer $n", trailers =>
                     [ [ 'grpc-status', 0 ], [ 'grpc-message', "no $n" ] ] },
        long_trailed => { status => 200, body => "answer $n$long",
                          trailers => [ [ 'grpc-status', 0 ] ] },
        no_data => { status => 200, body => '',
                     trailers => [ [ 'grpc-status', 7 ] ] },
        large_trailed => { status => 200, body => $long x 3,
                           trailers => [ [ 'grpc-status', 0 ] ] },
    );

    return { headers => \@plain, %{ $answers{ $request->{body} } } };
}


my %gateways = map { $_ => Test::Idempotency::Gateway->new($_, \&answer) }
    qw(fastcgi scgi uwsgi grpc);

my $cgi = join '', map { <<"END" } qw(fastcgi scgi uwsgi);
    location /$_/ {
        ${_}_pass 127.0.0.1:@{[ $gateways{$_}->port ]};
        ${_}_param CONTENT_LENGTH \$content_length;
        location /$_/off/ {
            ${_}_pass 127.0.0.1:@{[ $gateways{$_}->port ]};
            ${_}_buffering off;
        }
    }
END

my $t = Test::Idempotency->new(<<'END', http2 => 1,
    idempotency  payments;
    idempotency_max_response 100k;
END
    zone => 'zone=payments:4m',
    files => { 'html/static/file' => $long, 'html/files/receipt' => $long },
    http => 'proxy_cache_path cache keys_zone=cache:1m;',
    locations => <<"END");
    $cgi
    location /grpc/ { grpc_pass 127.0.0.1:@{[ $gateways{grpc}->port ]}; }

    location /static/ {
        idempotency_methods GET;
    }

    location /accel/ { proxy_pass http://backend; }
    location /files/ { internal; }

    location /cache/ {
        proxy_pass http://backend;
        proxy_cache cache;
        proxy_cache_methods POST;
        proxy_cache_key \$uri;
        proxy_cache_valid 1h;
        add_header X-Cache \$upstream_cache_status;
    }

    location /return/ { try_files /nowhere \@return; }
    location \@return { return 202 "returned\\n"; }
END

my $backend = $t->backend;
my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, @_) }


# All of a message but what is new each time.

sub text {
    my ($m) = @_;

    return join "\n", $m->status, $m->reason,
        map({ "$_->[0]: $_->[1]" }
            grep { $_->[0] !~ /^(Date|Idempotent-Replayed)$/ }
            @{ $m->{fields} }),
        'trailers', map({ "$_->[0]: $_->[1]" } $m->trailers), '', $m->body;
}


sub is_kept {
    my ($name, $status, $body, %request) = @_;

    my $first = $t->post(%request);
    my $replay = $t->post(%request);

    is_answer($first, $status, $body, "$name: the answer");
    is_replay($replay, $status, $first->body, "$name: again");
    ok(text($replay) eq text($first), "$name: to the letter")
        or diag substr(text($first), 0, 400), "\n--\n",
                substr(text($replay), 0, 400);

    return $replay;
}


# Other protocols, with and without buffers.

for my $protocol (qw(fastcgi scgi uwsgi grpc)) {
    for my $path ("/$protocol/", $protocol eq 'grpc' ? () : "/$protocol/off/") {

        my $gateway = $gateways{$protocol};
        my $m = is_kept("$path: short", 201, qr/^answer \d+$/,
                        pay(path => $path, body => 'short'));

        is(join(' ', $m->headers('X-A')), '1 3', "$path: fields of a name");
        is_kept("$path: long", 201, qr/^answer \d+\Q$long\E$/s,
                pay(path => $path, body => 'long'));
        is_kept("$path: no length", 201, qr/^answer \d+$/,
                pay(path => $path, body => 'open'));
        is_kept("$path: empty", 200, '', pay(path => $path, body => 'empty'));
        is_kept("$path: 204", 204, '', pay(path => $path, body => 'nothing'));

        my %request = pay(path => $path, body => 'refuses');
        my $busy = $t->post(%request)->body;
        is_answer($t->post(%request), 429, qr/^busy (?!.*\b\Q$busy\E)/,
                  "$path: a refusal is not kept");

        # without a length, only FastCGI and gRPC tell where an answer ends

        for my $cut ('cut', $protocol =~ /fast|grpc/ ? 'broken' : ()) {
            %request = pay(path => $path, body => $cut);
            is_answer($t->post(%request), 502, qr/^<html>/, "$path: $cut: 502");
            is_problem($t->post(%request), 409, 'outcome-unknown',
                       "$path: $cut: nobody knows");
        }

        %request = pay(path => $path, body => 'large');
        ok($t->post(%request)->body eq $long x 3, "$path: large: whole");
        is_problem($t->post(%request), 409, 'response-not-stored',
                   "$path: large: not kept");

        for my $how (qw(close reset)) {
            %request = pay(path => $path, body => 'held');
            my $client = $t->start_post(%request);

            $gateway->wait_for_request;
            $client->$how;
            $t->zone;
            my $done = $t->counter('done');
            $gateway->let_go;
            $t->wait_until('counters.done' => $done + 1);
            is_replay($t->post(%request), 201, qr/^answer \d+$/,
                      "$path: $how: it goes on");
        }
    }
}

# The trailers of gRPC.

sub trailers { return join ', ', map { "$_->[0]: $_->[1]" } $_[0]->trailers }

my $m = is_kept('trailers', 200, qr/^answer \d+$/,
                pay(path => '/grpc/', body => 'trailed'));
like(trailers($m), qr/^grpc-status: 0, grpc-message: no \d+$/, 'are replayed');

is_kept('trailers of a long answer', 200, qr/^answer/,
        pay(path => '/grpc/', body => 'long_trailed'));

$m = is_kept('trailers of no data', 200, '',
             pay(path => '/grpc/', body => 'no_data'));
is(trailers($m), 'grpc-status: 7', 'are replayed');

my %request = pay(path => '/grpc/', body => 'large_trailed');
$m = $t->post(%request);
ok($m->body eq $long x 3, 'a large answer with trailers is whole');
is(trailers($m), 'grpc-status: 0', 'its trailers come');
is_problem($t->post(%request), 409, 'response-not-stored', 'it is not kept');

SKIP: {
    skip 'curl knows no HTTP/2', 4 if !Test::Idempotency::Http2::available();

    my %request = pay(path => '/grpc/', body => 'trailed');

    for my $n (1, 2) {
        $t->http2(%request);
        my $head = $t->file("http2.$n.head");

        like($head, qr/^grpc-status: 0\r\n/m, "HTTP/2: a trailer, $n");
        is($head =~ /^idempotent-replayed/m ? 1 : 0, $n - 1, "in answer $n");
    }
}

# Files.

%request = (method => 'GET', body => undef, path => '/static/file');
$m = is_kept('a file', 200, $long, pay(%request));
is($m->header('Content-Length'), length $long, 'with its length');
ok($m->header('ETag') && $m->header('Last-Modified'), 'and validators');

%request = pay(%request, headers => [ [ 'Range', 'bytes=1-2' ] ]);
$t->post(%request);
is_replay($t->post(%request), 200, $long, 'a range of a file: kept whole');
is_replay($t->post(%request, headers => []), 200, $long, 'and replayed whole');

$backend->auto(200, 'not me', headers => [
    [ 'X-Accel-Redirect', '/files/receipt' ], [ 'Content-Type', 'text/x' ],
    [ 'X-Receipt', 7 ] ]);

for my $range ([], [ [ 'Range', 'bytes=1-2' ] ]) {
    my $requests = $backend->requests;
    my $m = is_kept("X-Accel-Redirect, @{[ map { @$_ } @$range ]}", 200, $long,
                    pay(path => '/accel/', headers => $range));

    is($m->header('Content-Type'), 'text/x', 'the upstream says what it is');
    is($backend->requests, $requests + 1, 'the upstream is asked once');
}

$backend->on('/accel/none', 200, '',
             headers => [ [ 'X-Accel-Redirect', '/files/none' ] ]);
is_kept('X-Accel-Redirect to nothing', 404, qr/^<html>/,
        pay(path => '/accel/none'));

# The cache.

$backend->auto(200, 'answer %n', headers => [ [ 'ETag', '"7"' ] ]);

my %miss = pay(path => '/cache/');
my %hit = pay(path => '/cache/');
my $requests = $backend->requests;
my $first = $t->post(%miss);

is($first->header('X-Cache'), 'MISS', 'the cache knows nothing');
is($t->post(%hit)->header('X-Cache'), 'HIT', 'then it knows');
is_replay($t->post($_->@*), 200, $first->body, 'both are replayed')
    for [ %miss ], [ %hit ];
is($backend->requests, $requests + 1, 'the upstream is asked once');

%hit = pay(path => '/cache/', headers => [ [ 'Range', 'bytes=1-2' ] ]);
$t->post(%hit);
is_replay($t->post(%hit), 200, $first->body, 'no range of the cache is kept');

# Nginx itself.

is_kept('return in a named location', 202, "returned\n",
        pay(path => '/return/'));

is($t->zone->{records}{running}, 0, 'nothing is left running');

done_testing;
