#!/usr/bin/perl

# What nginx does to an answer on its way out, it does to a replay as well,
# and once: client by client, from what the upstream said.

use lib 't/lib';
use Test::Idempotency;

use Compress::Zlib qw(memGzip memGunzip);

my $proxy = 'proxy_pass http://backend;';
my @lua = qw(ndk_http ngx_http_lua);
my @more = qw(ngx_http_headers_more_filter);
my $lua = Test::Idempotency->can_load(@lua);
my $more = Test::Idempotency->can_load(@more);

my @filters = (
#     directives                                   what the answer shows
    [ 'gzip on; gzip_types *; gzip_min_length 1;
       gzip_proxied any; gzip_vary on;',           qr/^Content-Encoding: g/m  ],
    [ 'gunzip on;',                                qr/eur and eur/            ],
    [ 'add_header X-A $arg_x; add_header X-A $idempotency_key;
       add_header Link "</x>" always;
       add_header Cache-Control private;',         qr/^Cache-Control: priv/m  ],
    [ 'add_trailer X-T $arg_x;',                   qr/^X-T: 7$/m              ],
    [ 'expires epoch;',                            qr/^Expires: Thu, 01 Jan/m ],
    [ 'expires max;',                              qr/^Cache-Control: max-a/m ],
    [ 'sub_filter eur EUR; sub_filter_once off;
       sub_filter_last_modified on;',              qr/EUR and EUR/            ],
    [ 'ssi on; ssi_last_modified on;',             qr/by POST with a part/    ],
    [ 'charset utf-8;',                            qr/^Content-.*=utf-8$/m    ],
    [ 'charset utf-8; source_charset koi8-r;',     qr/\xd0\xb4/               ],
    [ 'add_before_body /part; add_after_body /part;
       addition_types *;',                         qr/a part.*eur.*a part/    ],
    [ 'limit_rate 1m;',                            qr/eur and eur/            ],
    [ 'proxy_hide_header X-Plain;',                qr/^(?!.*X-Plain)/s        ],
    [ 'proxy_redirect default;',            qr{^Location: http://localhost:}m ],
    [ 'proxy_redirect default;
       absolute_redirect off;',                    qr{^Location: /7}m         ],
    [ 'proxy_redirect off;',                  qr{^Location: http://back}m     ],
    [ 'server_tokens off; keepalive_timeout 0;',   qr/^Server: nginx$/m       ],
    [ 'output_buffers 1 512; postpone_output 0;',  qr/eur and eur/            ],
    [ 'aio threads; directio 1; sendfile on;',     qr/eur and eur/            ],
);

push @filters, [ 'header_filter_by_lua_block {
        ngx.header["X-Lua"] = (ngx.header["X-Lua"] or "") .. "x"
        ngx.header.content_length = nil
    }
    body_filter_by_lua_block { ngx.arg[1] = ngx.arg[1]:upper() }',
    qr/^X-Lua: x\n.*EUR/ms ] if $lua;

push @filters, [ 'more_set_headers "X-Plain: 8"; more_clear_headers ETag;',
    qr/^X-Plain: 8$/m ] if $more;

my $locations = join '', map { "location /$_/ { $proxy $filters[$_][0] }\n" }
    0 .. $#filters;

my $t = Test::Idempotency->new('idempotency payments;',
    backends => [ 'other' ], files => { 'html/page.html' => 'page' },
    modules => [ $lua ? @lua : (), $more ? @more : () ], http => <<'END',
    charset_map koi8-r utf-8 { C4 D0B4; }
    log_format idempotency '$uri $status $idempotency_status $idempotency_key '
                           '$body_bytes_sent';
END
    locations => $locations . <<'END');
    location = /part       { return 200 "a part"; }
    location = /page.html  { internal; }

    location @other {
        access_log access.log idempotency;
        proxy_pass http://other;
    }

    location /log/ {
        idempotency_required on;
        access_log access.log idempotency;
        proxy_pass http://backend;
    }

    location /pages/ {
        idempotency_required on;
        error_page 400 =418 /page.html;
        error_page 409 /page.html;
        error_page 422 = @other;
        proxy_pass http://backend;
    }
END

my $backend = $t->backend;
my $other = $t->backend('other');
my $last_modified = 'Tue, 15 Nov 1994 12:45:26 GMT';
my @fields = ([ 'Content-Type', 'text/html' ], [ 'ETag', '"7"' ],
              [ 'Last-Modified', $last_modified ], [ 'X-Plain', 7 ],
              [ 'Cache-Control', 'no-cache' ], [ 'Cache-Control', 'private' ],
              [ 'Location', 'http://backend/7' ]);
my $n = 0;

my $html = "eur and eur \xc4 by <!--# echo var='request_method' -->"
           . ' with <!--# include virtual="/part" -->' . ' ' x 3000;

$backend->auto(200, $html, headers => \@fields);
$backend->on('/1/', 200, memGzip($html),
             headers => [ @fields, [ 'Content-Encoding', 'gzip' ] ]);


# All of an answer but what is new each time, as text.

sub text {
    my ($m) = @_;

    my $body = $m->body;
    $body = memGunzip($body)
        if ($m->header('Content-Encoding') // '') eq 'gzip';

    return join "\n",
        map({ "$_->[0]: $_->[1]" }
            grep { $_->[0] !~ /^(Date|Idempotent-Replayed)$/ }
            @{ $m->{fields} }),
        map({ "$_->[0]: $_->[1]" } $m->trailers),
        '', $body;
}


# The first answer and the replay are the same to the eye of any client.

for my $i (0 .. $#filters) {
    my ($directives, $sign) = @{ $filters[$i] };
    my ($name) = $directives =~ /^(.*)/;
    my %request = (path => "/$i/?x=7", key => "f$i", body => 'eur=1');

    $request{headers} = [ [ 'Accept-Encoding', 'gzip' ] ] if $i == 0;

    my ($first, $replay) = map { $t->post(%request) } 1 .. 2;

    like(text($first), $sign, "$name works on a first answer");
    is_replay($replay, 200, $first->body, "$name: replayed");
    is(text($replay), text($first), "$name works on a replay");

    my $plain = $t->post(%request, headers => []);
    is(($plain->header('Content-Encoding') // 'none'), 'none',
       "$name: no coding for those who take none");
    is_replay($plain, 200, undef, "$name: a replay for another client");
    $i == 0 and is(text($plain) =~ s/.*\n\n//sr, $html, "$name: in full");
}

is($backend->requests, @filters, 'the backend was asked once for each');
is($t->zone->{records}{running}, 0, 'no part of a page has claimed anything');

# A range of a replay is not made, a gzipped one has a weak validator.

my $replay = $t->post(path => '/0/?x=7', key => 'f0', body => 'eur=1',
                      headers => [ [ 'Accept-Encoding', 'gzip' ],
                                   [ 'Range', 'bytes=0-3' ],
                                   [ 'If-None-Match', 'W/"7"' ] ]);
is_replay($replay, 200, undef, 'no range of a gzipped replay');
is($replay->header('ETag'), 'W/"7"', 'its ETag is weak');

# An error_page stands in for our problems.

my %pages = (path => '/pages/', body => 'eur=1');

is_answer($t->post(%pages), 418, 'page', 'error_page for 400');

$backend->hold;
my $first = $t->start_post(%pages, key => 'p');
$backend->wait_for_request;
my $page = $t->post(%pages, key => 'p');
is_answer($page, 409, 'page', 'error_page for 409');
is($page->header('Retry-After'), 1, 'it keeps Retry-After');
isnt($page->header('Content-Type'), 'application/problem+json',
     'but is no problem document');
$backend->answer(500, 'first');
is_answer($first, 500, 'first', 'the first gets its answer');
is_replay($t->post(%pages, key => 'p'), 500, 'first', 'it is replayed');

$other->auto(200, 'the other says');
my $firsts = $t->counter('first');
is_answer($t->post(%pages, key => 'p', body => 'eur=2'), 200,
          'the other says', 'error_page for 422: a named location');
is($other->last->body, 'eur=2', 'which gets the request');
is($t->counter('first'), $firsts, 'that claims nothing');
is_replay($t->post(%pages, key => 'p'), 500, 'first', 'nor changes anything');

# The access log has a line for each, whatever it got.

my %log = (path => '/log/', key => '"a b"', body => 'eur=1');

$first = $t->start_post(%log);
$backend->wait_for_request;
$t->post(%log);
$backend->answer(201, 'receipt');
$first->response;
$t->post(%log);
$t->post(%log, body => 'eur=2');
$t->post(path => '/log/');
$t->get(path => '/log/none') if $backend->auto(200, 'four');

wait_for('the log is written', sub { ($t->file('access.log') =~ tr/\n//) > 6 });

my @lines = map { s/( 4.*) \d+$/$1/r } split /\n/, $t->file('access.log');

is_deeply([ sort @lines ], [ sort(
    '/log/ 201 first a b 7',
    '/log/ 409 in-flight a b',
    '/log/ 201 replayed a b 7',
    '/log/ 422 key-reused a b',
    '/log/ 400 key-missing -',
    '/log/none 200 - - 4',
    '/pages/ 200 key-reused p 14') ], 'the access log says it');

done_testing;
