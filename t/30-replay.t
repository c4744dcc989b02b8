#!/usr/bin/perl

# A replay is the first answer to the byte: its status and reason, the header
# fields that were stored, in their order, and its body, whatever this request
# asks for besides.

use lib 't/lib';
use Test::Idempotency;

my $proxy = 'proxy_pass http://backend;';
my @lua = qw(ndk_http ngx_http_lua);
my $lua = Test::Idempotency->can_load(@lua);

my $t = Test::Idempotency->new(<<'END', locations => <<"LOCATIONS",
    idempotency          payments;
    idempotency_methods  HEAD GET POST;
    default_type         text/oops;
    idempotency_max_response  2m;
END
    location /off/    { $proxy proxy_buffering off; }

    location /kept/ {
        $proxy
        proxy_http_version 1.1;
        proxy_pass_header Date;
        proxy_pass_header Server;
        proxy_pass_header X-Accel-Charset;
    }
@{[ $lua ? <<'LUA' : '' ]}
    location /lua/ {
        access_by_lua_block {
            ngx.header['X-Lua'] = ngx.var.request_id
        }
        proxy_pass http://backend;
    }
LUA
LOCATIONS
    zone => 'zone=payments:16m',
    modules => $lua ? \@lua : []);

my $backend = $t->backend;
my $n = 0;


# The first answer and a replay of it, both as messages.  The request of the
# replay may have other header fields.

sub twice {
    my ($answer, $again, %o) = @_;

    my %request = (path => '/', key => 'k' . ++$n, %o);
    my $first = $t->start_post(%request);

    $backend->answer(@$answer);
    $first = $first->response;

    return ($first, $t->post(%request, headers => $again));
}


# All of a message but what is new each time.

sub shape {
    my ($m) = @_;

    return [ $m->status, $m->reason, map { "$_->[0]: $_->[1]" }
             grep { $_->[0] !~ /^(Date|Server|Idempotent-Replayed)$/ }
             @{ $m->{fields} } ];
}


sub is_same {
    my ($first, $replay, $name) = @_;

    is_replay($replay, $first->status, $first->body, $name);

    return is_deeply(shape($replay), shape($first), "$name, to the letter");
}


# Every field line of the replay that the upstream sent.

sub lines {
    my ($m, $names) = @_;

    return join ' | ', map { "$_->[0]: $_->[1]" }
        grep { $_->[0] =~ $names } @{ $m->{fields} };
}


# Bodies of all sizes, over all ways in which they may come.

my $bytes = join '', map { chr } 0 .. 255;

for my $size (0, 1, 4095, 4096, 4097, 65536, 1 << 20) {
    my $body = substr $bytes x ($size / 256 + 1), 0, $size;

    for my $path ('/', '/off/', '/kept/') {
        my ($first, $replay) = twice([ 200, $body ], [], path => $path);

        is_answer($first, 200, $body, "$path: $size bytes");
        is_same($first, $replay, "$path: $size bytes again");
    }

    my @pieces = unpack '(a1000)*', $body;
    my ($first, $replay) = twice([ 200, '', chunked => \@pieces ], []);

    is_answer($first, 200, $body, "$size bytes in chunks");
    is_same($first, $replay, "$size bytes in chunks again");

    ($first, $replay) = twice([ 0, '', raw => "HTTP/1.0 200 OK\r\n\r\n$body" ],
                              []);
    is_same($first, $replay, "$size bytes up to the end of the connection");
}

# Fields that have a meaning for nginx, and a few that have none.

my @type = [ 'Content-Type', 'text/plain' ];

my @fields = (
#     fields of the upstream                                   why
    [ [],                                                      'none at all' ],
    [ [ [ 'Content-Type', 'application/json' ] ],              'a type'      ],
    [ [ [ 'Content-Type', 'text/html; charset=koi8-r' ] ],     'a charset'   ],
    [ [ [ 'Content-Type', 'text/html; charset="utf-8"' ] ],    'in quotes'   ],
    [ [ [ 'Content-Type', 'text/html;charset=utf-8' ] ],       'no blank'    ],
    [ [ [ 'Content-Type', 'a/b; v="1;2"; Charset=utf-8; w=3' ] ],
                                                        'more parameters'    ],
    [ [ [ 'Location', '/receipts/7' ] ],                       'relative'    ],
    [ [ [ 'Location', 'receipts/7?a=b' ] ],                    'no slash'    ],
    [ [ [ 'Location', 'https://example.com/7' ] ],             'absolute'    ],
    [ [ @type, [ 'ETag', '"7"' ], [ 'Last-Modified',
        'Tue, 15 Nov 1994 12:45:26 GMT' ] ],                   'validators'  ],
    [ [ @type, [ 'ETag', 'W/"7"' ] ],                          'a weak one'  ],
    [ [ @type, [ 'Last-Modified', 'yesterday' ] ],             'a bad date'  ],
    [ [ [ 'Link', '</a>; rel=next' ], [ 'Link', '</b>; rel=prev' ] ],
                                                               'links'       ],
    [ [ [ 'Cache-Control', 'no-cache' ], [ 'Cache-Control', 'private' ],
        [ 'Expires', 'Tue, 15 Nov 1994 12:45:26 GMT' ] ],      'cache'       ],
    [ [ @type, [ 'Content-Encoding', 'gzip' ] ],               'a coding'    ],
    [ [ [ 'Content-Language', 'de' ], [ 'Content-Disposition', 'inline' ],
        [ 'Content-Location', '/7' ], [ 'Retry-After', '7' ],
        [ 'Refresh', '5; url=/x' ], [ 'Allow', 'GET' ], [ 'Vary', '*' ],
        [ 'WWW-Authenticate', 'Basic realm=x' ] ],             'a few more'  ],
    [ [ [ 'X-A', 1 ], [ 'X-B', 2 ], [ 'X-A', 3 ], [ 'x-a', 4 ] ], 'order'    ],
    [ [ [ 'X-Long', 'x' x 3000 ], [ 'X-Empty', '' ], [ 'X-8', "\xc3\xa9" ] ],
                                                               'odd values'  ],
    [ [ map { [ "X-$_", $_ ] } 1 .. 100 ],                     'a hundred'   ],
);

for (@fields) {
    my ($fields, $why) = @$_;
    my $names = join '|', 'none', map { quotemeta $_->[0] } @$fields;
    my ($first, $replay) = twice([ 201, 'ok', headers => $fields ], []);

    is(join(' ', sort split / \| /, lines($first, qr/^($names)$/i)),
       join(' ', sort map { "$_->[0]: $_->[1]" } @$fields),
       "fields, $why: the first has them");
    is_same($first, $replay, "fields, $why");
}

# Statuses, with and without a body.

my @statuses = (
#     method  status  reason           body    fields
    [ 'POST', 200,    'Very Well',     'body', [] ],
    [ 'POST', 201,    '',              'body', [] ],
    [ 'POST', 204,    'No Content',    '',     [ [ 'ETag', '"7"' ] ] ],
    [ 'POST', 205,    'Reset Content', '',     [] ],
    [ 'POST', 301,    'Moved',         'body', [ [ 'Location', '/there' ] ] ],
    [ 'POST', 304,    'Not Modified',  '',     [ [ 'ETag', '"7"' ] ] ],
    [ 'POST', 422,    'No',            'body', [] ],
    [ 'POST', 500,    'Oh no',         'body', [] ],
    [ 'POST', 799,    'Unheard of',    'body', [] ],
    [ 'GET',  200,    'OK',            'body', [] ],
    [ 'HEAD', 200,    'OK',            'body', [ [ 'ETag', '"7"' ] ] ],
    [ 'HEAD', 404,    'Not Found',     '',     [] ],
);

for (@statuses) {
    my ($method, $status, $reason, $body, $fields) = @$_;
    my ($first, $replay) = twice(
        [ $status, $body, reason => $reason, headers => $fields ], [],
        method => $method);

    is($first->status, $status, "$method, $status");
    is($first->reason, $reason, "$method, $status: its reason");
    is_same($first, $replay, "$method, $status");
}

# A replay is no answer to a condition or a range of the request at hand.

my @resource = ([ 'ETag', '"7"' ], [ 'Accept-Ranges', 'bytes' ],
                [ 'Last-Modified', 'Tue, 15 Nov 1994 12:45:26 GMT' ]);
my @conditions = (
    [ 'Range', 'bytes=1-2' ],
    [ 'Range', 'bytes=100-' ],
    [ 'If-None-Match', '"7"' ],
    [ 'If-None-Match', '*' ],
    [ 'If-Match', '"8"' ],
    [ 'If-Modified-Since', 'Tue, 15 Nov 1994 12:45:26 GMT' ],
    [ 'If-Unmodified-Since', 'Tue, 15 Nov 1983 12:45:26 GMT' ],
);

for my $method ('GET', 'HEAD', 'POST') {
    for (@conditions) {
        my ($first, $replay) = twice(
            [ 200, 'the whole', headers => \@resource ], [ $_ ],
            method => $method);

        is_same($first, $replay, "$method, $_->[0]: $_->[1]");
    }
}

# What is not stored: it belonged to the first answer alone.

my @alone = (
    [ 'Set-Cookie', 'a=1' ], [ 'Set-Cookie', 'b=2' ], [ 'Age', '7' ],
    [ 'X-Request-Id', '7' ], [ 'RateLimit-Limit', '7' ],
    [ 'RateLimit-Policy', '7' ], [ 'X-RateLimit-Reset', '7' ],
    [ 'Authentication-Info', '7' ], [ 'Proxy-Authenticate', '7' ],
    [ 'Idempotent-Replayed', 'maybe' ], [ 'X-Accel-Charset', 'utf-8' ],
    [ 'X-Hop', '7' ], [ 'x-step', '7' ], [ 'Keep-Alive', 'timeout=7' ],
    [ 'Date', 'Tue, 15 Nov 1994 12:45:26 GMT' ], [ 'Server', 'elsewhere' ],
);

my ($first, $replay) = twice(
    [ 200, 'ok', headers => [ @alone, [ 'Connection', 'X-Hop, close' ],
                              [ 'Connection', 'X-Step' ], [ 'X-Stays', 7 ] ] ],
    [], path => '/kept/');

my %upstream = map { $_->[0] => 1 } @alone;

for my $name (sort keys %upstream) {
    my @sent = map { $_->[1] } grep { $_->[0] eq $name } @alone;
    my %sent = map { $_ => 1 } @sent;

    is_deeply([ $first->headers($name) ], \@sent, "$name: the first has it")
        if $name ne 'Keep-Alive';
    is_deeply([ grep { $sent{$_} } $replay->headers($name) ], [],
              "$name: the replay has not");
}

is($replay->header('X-Stays'), 7, 'other fields are stored');
is(join(' ', $replay->headers('Idempotent-Replayed')), 'true',
   'nobody else says what a replay is');
is($replay->header('Server') =~ /^nginx/, 1, 'the replay is served by nginx');

# What was set before the claim belongs to each request.

SKIP: {
    skip 'no module for Lua', 3 if !$lua;

    ($first, $replay) = twice([ 200, 'ok', headers => [ [ 'X-A', 1 ] ] ], [],
                              path => '/lua/');
    is(scalar(my @set = $replay->headers('X-Lua')), 1, 'a field of Lua: once');
    isnt($set[0], $first->header('X-Lua'), 'it is this request\'s');
    is($replay->header('X-A'), 1, 'beside what is stored');
}

done_testing;
