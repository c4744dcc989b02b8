#!/usr/bin/perl

# Who is refused by any other access check gets no replay and takes no key;
# and a request is claimed once, whichever way it goes inside nginx.

use lib 't/lib';
use Test::Idempotency;

my @lua_modules = qw(ndk_http ngx_http_lua);
my $lua = Test::Idempotency->can_load(@lua_modules);

# A request is admitted or refused by its header fields: X-Real-IP is its
# address, X-Pass a ticket, X-Hurry the key of a rate limit.

my $http = <<'EOF';
    limit_req_zone $http_x_hurry zone=hurry:64k rate=1r/m;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Real-IP;
EOF

my $locations = <<'EOF';
    location /basic {
        auth_basic "who?";
        auth_basic_user_file users;
        proxy_pass http://backend;
    }

    location /required {
        auth_basic "who?";
        auth_basic_user_file users;
        idempotency_required on;
        proxy_pass http://backend;
    }

    location /deny {
        deny 10.0.0.1;
        proxy_pass http://backend;
    }

    location /except {
        limit_except GET {
            deny 10.0.0.1;
        }
        proxy_pass http://backend;
    }

    location /request {
        auth_request /ticket;
        proxy_pass http://backend;
    }

    location = /ticket {
        internal;
        proxy_pass http://other;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_method GET;
    }

    location /any {
        satisfy any;
        deny 10.0.0.1;
        allow 10.0.0.3;
        deny all;
        auth_basic "who?";
        auth_basic_user_file users;
        proxy_pass http://backend;
    }

    location /all {
        satisfy all;
        deny 10.0.0.1;
        auth_basic "who?";
        auth_basic_user_file users;
        proxy_pass http://backend;
    }

    location /hurry {
        limit_req zone=hurry;
        limit_req_status 429;
        proxy_pass http://backend;
    }

    location /page {
        auth_basic "who?";
        auth_basic_user_file users;
        error_page 401 /please.html;
        proxy_pass http://backend;
    }

    location = /please.html {
    }

    location /login {
        auth_basic "who?";
        auth_basic_user_file users;
        error_page 401 = @login;
        proxy_pass http://backend;
    }

    location @login {
        proxy_pass http://please;
    }

    location /dead {
        proxy_pass http://dead;
        error_page 502 = @app;
    }

    location /tried {
        try_files $uri @app;
    }

    location /uri {
        try_files $uri /app$uri;
    }

    location /front {
        root html;
        error_page 404 405 = @app;
    }

    location /intercepted {
        proxy_pass http://missing;
        proxy_intercept_errors on;
        error_page 404 = @app;
    }

    location /twice {
        proxy_pass http://missing;
        proxy_intercept_errors on;
        recursive_error_pages on;
        error_page 404 = @dead;
    }

    location @dead {
        proxy_pass http://dead;
        error_page 502 = @app;
    }

    location /returned {
        return 418;
        error_page 418 = @app;
    }

    location /old {
        rewrite ^/old/(.*)$ /app/$1 last;
    }

    location /broken-off {
        rewrite ^ /app/x break;
        proxy_pass http://backend;
    }

    location /accel {
        proxy_pass http://accel;
    }

    location /mirrored {
        mirror /mirror;
        proxy_pass http://backend;
    }

    location = /mirror {
        internal;
        proxy_pass http://other;
    }

    location /app {
        proxy_pass http://backend;
    }

    location @app {
        proxy_pass http://backend;
    }

    location /file {
        proxy_pass http://accel;
    }

    location /files/ {
        internal;
        root html;
    }

    location /ssi {
        ssi on;
        proxy_pass http://backend;
    }

    location = /part {
        proxy_pass http://other;
    }
EOF

$locations .= <<'EOF' if $lua;
    location /lua {
        access_by_lua_block {
            if ngx.var.http_x_pass ~= "yes" then
                ngx.exit(403)
            end
        }
        proxy_pass http://backend;
    }

    location /exec {
        content_by_lua_block {
            ngx.exec("/app/exec")
        }
    }

    location /capture {
        rewrite_by_lua_block {
            ngx.location.capture("/part")
        }
        proxy_pass http://backend;
    }
EOF

my $t = Test::Idempotency->new(<<'EOF', http => $http,
    idempotency payments;
    root html;
EOF
    locations => $locations,
    modules => $lua ? \@lua_modules : [],
    backends => [ qw(other please missing accel dead) ],
    files => {
        'users' => "ann:{PLAIN}secret\n",
        'html/please.html' => "please log in\n",
        'html/files/receipt' => 'a receipt in a file',
    });

my $backend = $t->backend;

$t->backend('dead')->accept('refuse');
$t->backend('missing')->auto(404, 'not here');
$t->backend('please')->auto(200, "please log in\n");
$t->backend('other')->auto(200, 'part %n');
$t->backend('accel')->on('/accel/1', 200, '',
                         headers => [ [ 'X-Accel-Redirect', '@app' ] ]);
$t->backend('accel')->on('/file/1', 200, '',
                         headers => [ [ 'X-Accel-Redirect', '/files/receipt' ],
                                      [ 'X-Receipt', 7 ] ]);

# Tickets are looked at by the upstream "other".

my @ticket = ([ 'X-Pass', 'yes' ]);
my @ann = ([ 'Authorization', 'Basic YW5uOnNlY3JldA==' ]);
my @stranger = ([ 'Authorization', 'Basic YW5uOndyb25n' ]);
my @outside = ([ 'X-Real-IP', '10.0.0.1' ]);
my @inside = ([ 'X-Real-IP', '10.0.0.3' ]);
my @hurry = ([ 'X-Hurry', 'yes' ]);

# the limit is used up from here on

$backend->auto(200, 'receipt %n');
is($t->get(path => '/hurry', headers => \@hurry)->status, 200, 'one is free');

my @refusals = (
#     path        admitted          refused               status  by
    [ '/basic',   \@ann,            [],                   401, 'auth_basic'  ],
    [ '/basic',   \@ann,            \@stranger,           401, 'password'    ],
    [ '/deny',    [],               \@outside,            403, 'deny'        ],
    [ '/except',  [],               \@outside,            403, 'except GET' ],
    [ '/any',     \@inside,         \@outside,            401, 'satisfy any' ],
    [ '/any',     [ @ann, @outside ], [ @stranger, @outside ],
                                                          401, 'satisfy any' ],
    [ '/all',     \@ann,            [ @ann, @outside ],   403, 'satisfy all' ],
    [ '/all',     \@ann,            \@inside,             401, 'satisfy all' ],
    [ '/hurry',   [],               \@hurry,              429, 'limit_req'   ],
    [ '/page',    \@ann,            [],                   401, 'error_page'  ],
    [ '/login',   \@ann,            [],                   200, 'named page'  ],
    [ '/request', \@ticket,         [],                   403, 'a ticket'    ],
    [ '/lua',     \@ticket,         [],                   403, 'Lua'         ],
);

my $row = 0;

for (@refusals) {
    my ($path, $admitted, $refused, $status, $name) = @$_;

    SKIP: {
        skip 'no Lua', 9 if $path eq '/lua' && !$lua;

        my %request = (path => "$path/" . ++$row, key => "row-$row",
                       body => 'eur=1');
        refuses("$row. $name", $status, \%request, $admitted, $refused);
    }
}


sub refuses {
    my ($name, $status, $request, $admitted, $refused) = @_;

    my $before = $t->zone;
    my $asked = $backend->requests;

    my $no = ask($request, $refused);
    is_answer($no, $status, undef, "$name: a first request is refused");
    is($backend->requests, $asked, "$name: and does not reach the backend");

    my $after = $t->zone;
    is_deeply($after->{records}, $before->{records}, "$name: nor the zone");
    is_deeply($after->{counters}, $before->{counters}, "$name: nor a counter");

    my $receipt = ask($request, $admitted);
    is_answer($receipt, 200, qr/^receipt/, "$name: the key is not consumed");

    my $again = ask($request, $refused);
    is_answer($again, $status, $no->body, "$name: a duplicate is refused");
    is($t->counter('replayed'), $before->{counters}{replayed},
       "$name: nothing is replayed");

    is_replay(ask($request, $admitted), 200, $receipt->body,
              "$name: who is admitted gets the replay");
    is($backend->requests, $asked + 1, "$name: the backend is asked once");

    return;
}


# Whoever makes the request, its ticket is checked now.

sub ask {
    my ($request, $headers) = @_;

    my $pass = grep { $_->[0] eq 'X-Pass' } @$headers;

    $t->backend('other')->on('/ticket', $pass ? 204 : 403, '');

    return $t->post(%$request, headers => $headers);
}


# A key that is missing is told at once, to whomever.

is_problem($t->post(path => '/required', headers => $_), 400, 'key-missing',
           'no key, ' . (@$_ ? 'admitted' : 'not admitted')) for \@ann, [];

# Ways inside nginx; each of them ends at the backend, which holds the request.

my @ways = (
    [ '/app/1',         'proxy_pass'                                ],
    [ '/dead/1',        'error_page to a named location'            ],
    [ '/intercepted/1', 'an error of an upstream, intercepted'      ],
    [ '/twice/1',       'two error pages, one after the other'      ],
    [ '/returned/1',    'return and error_page'                     ],
    [ '/front/1',       'a file that is not there, and error_page'  ],
    [ '/tried/1',       'try_files to a named location'             ],
    [ '/uri/1',         'try_files to a URI'                        ],
    [ '/old/1',         'rewrite last'                              ],
    [ '/broken-off/1',  'rewrite break'                             ],
    [ '/accel/1',       'X-Accel-Redirect to a named location'      ],
    [ '/mirrored/1',    'mirror'                                    ],
    [ '/exec/1',        'ngx.exec of Lua'                           ],
    [ '/capture/1',     'a subrequest of Lua'                       ],
);

$backend->hold;

for (@ways) {
    my ($path, $name) = @$_;

    SKIP: {
        skip 'no Lua', 6 if $path =~ m{^/(exec|capture)/} && !$lua;

        goes($path, $name);
    }
}


sub goes {
    my ($path, $name) = @_;

    my %request = (path => $path, key => "way-$path", body => 'eur=1');
    my $before = $t->zone;
    my $asked = $backend->requests;

    my $first = $t->start_post(%request);
    $backend->wait_for_request;
    $t->wait_until(running => 1);

    is_problem($t->post(%request), 409, 'in-flight', "$name: one claim");

    $backend->answer(201, "receipt of $path");

    is_answer($first, 201, "receipt of $path", "$name: is kept");
    is_replay($t->post(%request), 201, "receipt of $path", "$name: and done");

    my $after = $t->zone;
    is($after->{counters}{first}, $before->{counters}{first} + 1,
       "$name: no other claim");
    is($after->{records}{done}, $before->{records}{done} + 1,
       "$name: no other record");
    is($backend->requests, $asked + 1, "$name: the backend is asked once");

    return;
}


is(scalar(grep { $_->uri eq '/mirror' } $t->backend('other')->all), 1,
   'a replay and a refusal are not mirrored');

# A file as origin, by X-Accel-Redirect.

my %file = (path => '/file/1', key => 'file');
my $first = $t->post(%file);

is_answer($first, 200, 'a receipt in a file', 'X-Accel-Redirect to a file');
is_replay($t->post(%file), 200, 'a receipt in a file', 'and its replay');
is($t->backend('accel')->requests, 2, 'the upstreams were asked once each');

# Subrequests of a response: it is stored without them, they run again.

my %ssi = (path => '/ssi/1', key => 'ssi', body => 'eur=1');

$first = $t->start_post(%ssi);
$backend->wait_for_request;
$backend->answer(200, 'receipt, <!--#include virtual="/part" -->',
                 headers => [ [ 'Content-Type', 'text/html' ] ]);

my $firsts = $t->counter('first');

is_answer($first, 200, qr/^receipt, part \d+$/, 'SSI, a first answer');
is_replay($t->post(%ssi), 200, qr/^receipt, part \d+$/, 'SSI, its replay');
is($t->counter('first'), $firsts, 'an included part takes no claim');

# A subrequest does not claim, even if its method is one of ours.

$t->change(directives => <<'EOF')->reload;
    idempotency payments;
    idempotency_methods POST GET;
    root html;
EOF

$backend->auto(200, 'receipt %n');
refuses('a ticket, GET too', 403, { path => '/request/get', key => 'get' },
        \@ticket, []);

$backend->hold;
goes('/mirrored/get', 'mirror, GET too');

SKIP: {
    skip 'no Lua', 6 if !$lua;

    goes('/capture/get', 'a subrequest of Lua, GET too');
}

done_testing;
