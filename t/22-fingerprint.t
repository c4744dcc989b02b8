#!/usr/bin/perl

# The same bytes are the same request, however they were framed, buffered or
# read; one changed byte is another request, which gets 422 and no answer of
# the first one.

use lib 't/lib';
use Test::Idempotency;

my @lua_modules = qw(ndk_http ngx_http_lua);
my $lua = Test::Idempotency->can_load(@lua_modules);
my $http2 = Test::Idempotency::Http2::available();

my $locations = <<'EOF';
    location /memory {
        client_body_buffer_size 4m;
        proxy_pass http://backend;
    }

    location /file {
        client_body_buffer_size 1k;
        proxy_pass http://backend;
    }

    location /only-file {
        client_body_in_file_only clean;
        proxy_pass http://backend;
    }

    location /single {
        client_body_in_single_buffer on;
        client_body_buffer_size 16k;
        proxy_pass http://backend;
    }

    location /unbuffered {
        proxy_request_buffering off;
        proxy_http_version 1.1;
        proxy_pass http://backend;
    }

    location /headers {
        idempotency_fingerprint $request_method $request_uri;
        proxy_pass http://backend;
    }

    location /replayed/ {
        proxy_pass http://backend;
    }
EOF

$locations .= <<'EOF' if $lua;
    location /lua {
        client_body_buffer_size 64k;
        access_by_lua_block { ngx.req.read_body() }
        proxy_pass http://backend;
    }

    location /changed {
        access_by_lua_block {
            ngx.req.read_body()
            ngx.req.set_body_data("changed")
        }
        proxy_pass http://backend;
    }
EOF

my $t = Test::Idempotency->new(<<'EOF', backend => 'auto', http2 => $http2,
    idempotency           payments;
    client_max_body_size  8m;
EOF
    modules => $lua ? \@lua_modules : [], locations => $locations);

my $backend = $t->backend;
my $keys = 0;

# Bytes that compression, lines or strings would not survive.

my $large = join('', map { chr } 0 .. 255) x (3 * 4096);
my $small = "eur=1\r\n\0\xff";


# The answer to a request that says the body by one of these ways.

my @type = ([ 'Content-Type', 'application/octet-stream' ]);

my %ways = (
    length => sub {
        my ($body, %o) = @_;
        return $t->post(%o, headers => \@type, body => $body);
    },

    chunks => sub {
        my ($body, %o) = @_;
        my @chunks = grep { length } unpack '(a777)*', $body;
        return $t->post(%o, headers => \@type, chunked => \@chunks);
    },

    one_chunk => sub {
        my ($body, %o) = @_;
        return $t->post(%o, headers => \@type,
                        chunked => [ grep { length } $body ]);
    },

    pieces => sub {
        my ($body, %o) = @_;
        my $c = $t->connect;
        my $bytes = $c->compose(method => 'POST', %o, headers => \@type,
                                body => $body);
        my $start = length($bytes) - length $body;

        $c->send(substr $bytes, 0, $start);
        $c->send($_) for grep { length } unpack '(a99999)*', $body;
        $c->send('', 'POST');

        return $c->response;
    },

    expect => sub {
        my ($body, %o) = @_;
        return $t->post(%o, body => $body, headers =>
                        [ @type, [ 'Expect', '100-continue' ] ]);
    },

    http10 => sub {
        my ($body, %o) = @_;
        return $t->post(%o, headers => \@type, body => $body, http => '1.0');
    },

    $http2 ? (http2 => sub {
        my ($body, %o) = @_;
        return $t->http2(%o, body => $body, headers =>
                         [ @type, [ 'Host', 'localhost' ] ]);
    }) : (),
);

# Each way to send a body against each way to keep it.

my @locations = (qw(/memory /file /only-file /single /unbuffered),
                 $lua ? '/lua' : ());

for my $path (@locations) {
    for (
        [ 'a large body', $large, substr($large, 0, -1) . "\0" ],
        [ 'a small body', $small, "$small\0" ],
        [ 'an empty body', '', "\0" ])
    {
        my ($name, $same, $other) = @$_;
        my %one = (path => $path, key => 'key-' . ++$keys);
        my $before = $backend->requests;

        my $first = $ways{length}->($same, %one);
        is_answer($first, 200, undef, "$path: $name");
        ok($backend->last->body eq $same, 'goes upstream as it is');

        for my $way (sort keys %ways) {
            is_replay($ways{$way}->($same, %one), 200, $first->body,
                      "$path: $name by $way is the same");
            is_problem($ways{$way}->($other, %one), 422, 'key-reused',
                       'another body is not');
        }

        is($backend->requests, $before + 1, 'the backend was asked once');
    }
}

# The way of the first request does not matter, either, nor for its upstream.

for my $way (sort keys %ways) {
    my %one = (path => '/file', key => "first-$way");
    my $first = $ways{$way}->($large, %one);

    is_answer($first, 200, undef, "the first by $way");
    ok($backend->last->body eq $large, 'goes upstream as it is');
    is_replay($ways{length}->($large, %one), 200, $first->body, 'and again');
    is_problem($ways{length}->($small, %one), 422, 'key-reused',
               'and no other');
}

# No body at all is an empty one.

my %none = (path => '/memory', key => 'none', method => 'PATCH');
my $head = join "\r\n", 'PATCH /memory HTTP/1.1', 'Host: localhost',
    'Connection: close', 'Idempotency-Key: none',
    'Content-Type: application/octet-stream';

my $first = $t->raw("$head\r\n\r\n");
is_answer($first, 200, undef, 'no body');
is_replay($t->post(%none, headers => \@type), 200, $first->response->body,
          'an empty one is the same');
is_replay($t->raw("$head\r\n\r\n"), 200, $first->response->body, 'and none');
is_problem($t->post(%none, headers => \@type, body => '0'), 422, 'key-reused',
           'one byte is not');

# Every part of the fingerprint counts, and no two run into each other.

my %base = (method => 'POST', path => '/replayed/a?b=1', body => 'eur=1',
            headers => [ @type, [ 'Content-Encoding', 'gzip' ] ]);
my @others = (
#     what differs
    [ 'method',             method => 'PATCH' ],
    [ 'path',               path => '/replayed/A?b=1' ],
    [ 'arguments',          path => '/replayed/a?b=2' ],
    [ 'an empty argument',  path => '/replayed/a?b=1&' ],
    [ 'spelling of a path', path => '/replayed/%61?b=1' ],
    [ 'dots in a path',     path => '/replayed/./a?b=1' ],
    [ 'content type',       headers => [ [ 'Content-Type', 'text/plain' ],
                                         [ 'Content-Encoding', 'gzip' ] ] ],
    [ 'a parameter of it',  headers => [ [ @{ $type[0] }[0],
                                           "$type[0][1]; a=b" ],
                                         [ 'Content-Encoding', 'gzip' ] ] ],
    [ 'content encoding',   headers => [ @type,
                                         [ 'Content-Encoding', 'br' ] ] ],
    [ 'no encoding',        headers => \@type ],
    [ 'type and encoding',  headers => [ [ 'Content-Type', "$type[0][1]g" ],
                                         [ 'Content-Encoding', 'zip' ] ] ],
    [ 'encoding and body',  headers => [ @type,
                                         [ 'Content-Encoding', 'gzipe' ] ],
                            body => 'ur=1' ],
    [ 'a longer body',      body => "eur=1\n" ],
    [ 'a shorter body',     body => 'eur=' ],
    [ 'no body',            body => '' ],
);

for (@others) {
    my ($name, %other) = @$_;
    my $key = 'key-' . ++$keys;
    my $one = $t->post(%base, key => $key);

    is_problem($t->post(%base, %other, key => $key), 422, 'key-reused',
               "another request by $name");
    is_replay($t->post(%base, key => $key), 200, $one->body,
              'does no harm to the first');
}

# What does not count.

for (
    [ 'User-Agent', 'another' ], [ 'X-Request-Id', '7' ], [ 'Accept', 'a/b' ],
    [ 'Cookie', 'a=1' ], [ 'Traceparent', '00-1-2-03' ])
{
    my $key = 'key-' . ++$keys;
    my $one = $t->post(%base, key => $key);

    is_replay($t->post(%base, key => $key,
                       headers => [ @{ $base{headers} }, $_ ]), 200,
              $one->body, "the same request with $_->[0]");
}

# Without the body in the fingerprint, it is read all the same.

my %headers = (path => '/headers', key => 'headers');

$first = $t->post(%headers, body => $large);
ok($backend->last->body eq $large, 'a body that does not count goes upstream');
is_replay($t->post(%headers, body => $small), 200, $first->body,
          'a request with another one is the same');
is_replay($t->post(%headers, chunked => [ 'a', 'b' ]), 200, $first->body,
          'in chunks, too');
is_problem($t->post(%headers, method => 'PATCH'), 422, 'key-reused',
           'a request with another method is not');

# A body that a module put in place of the client's is what counts: it is what
# the upstream gets.

SKIP: {
    skip 'no Lua module', 3 if !$lua;

    my %changed = (path => '/changed', key => 'changed');

    $first = $t->post(%changed, body => 'one');
    is_answer($first, 200, undef, 'a body that is replaced');
    is($backend->last->body, 'changed', 'reaches the upstream so');
    is_replay($t->post(%changed, body => 'two'), 200, $first->body,
              'and makes the fingerprint');
}

done_testing;
