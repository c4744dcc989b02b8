#!/usr/bin/perl

# A key may be a value of the body: a member of a JSON document or a field of a
# form.  It is what the client wrote; what is doubtful is no key.

use lib 't/lib';
use Test::Idempotency;

my $store = <<'EOF';
    idempotency           payments;
    idempotency_required  on;
    idempotency_scope     $uri;
    access_log            fields.log fields;
EOF

my $http = <<'EOF';
    idempotency_json  $json_id      /order/id;
    idempotency_json  $json_first   /items/0;
    idempotency_json  $json_escape  /a~1b/m~0n;
    idempotency_json  $json_all     "";
    idempotency_json  $json_type    /type;
    idempotency_form  $form_id      id;
    idempotency_form  $form_odd     "a b\"c";

    map $json_id $mapped {
        ""       "";
        default  "m-$json_id";
    }

    log_format  fields  "$request_uri $json_id|$form_id|$mapped";
EOF

my $locations = join '', map {
    my ($path, $key, $more) = @$_;
    <<"EOF";
    location /$path/ {
        idempotency_key   $key;
        $more
        proxy_set_header  X-Value "@{[ $key =~ tr/ /,/r ]}";
        proxy_pass        http://backend;
    }
EOF
} (
    [ 'id',        '$json_id',              '' ],
    [ 'first',     '$json_first',           '' ],
    [ 'escape',    '$json_escape',          '' ],
    [ 'all',       '$json_all',             '' ],
    [ 'form',      '$form_id',              '' ],
    [ 'odd',       '$form_odd',             '' ],
    [ 'map',       '$mapped',               '' ],
    [ 'optional',  '$json_id',              'idempotency_required off;' ],
    [ 'pair',      '$json_id $json_first',  '' ],
    [ 'mixed',     '$http_x_source $json_id', '' ],
    [ 'cloud',     '$http_ce_source $http_ce_id', '' ],
    [ 'two',       '$form_id $form_odd',    '' ],
    [ 'bypass',    '$http_x_key',           'idempotency_bypass $json_type;' ],
    [ 'scope',     '$http_x_key',           'idempotency_scope $json_id;' ],
    [ 'same',      '$http_x_key',
      'idempotency_fingerprint $json_id;' ],
    [ 'small',     '$json_id',              'client_body_buffer_size 1k;' ],
    [ 'file',      '$json_id',              'client_body_in_file_only clean;' ],
    [ 'refused',   '$json_id',              'deny all;' ],
    [ 'off',       '$json_id',              'idempotency off;' ],
    [ 'stream',    '$json_id',              'proxy_request_buffering off;' ],
);

$locations .= <<'EOF';
    location /away/ {
        idempotency_key    $json_id;
        error_page         503 = @elsewhere;
        proxy_intercept_errors on;
        proxy_pass         http://backend;
    }

    location /early/ {
        idempotency      off;
        if ($json_id = "none") { return 403; }
        proxy_pass       http://backend;
    }

    location @elsewhere {
        proxy_set_header  X-Value $json_id;
        proxy_pass        http://backend;
    }
EOF

my $t = Test::Idempotency->new($store, backend => 'auto', http => $http,
                               locations => $locations);

my $backend = $t->backend;
my $n = 0;

sub request {
    my ($path, $type, $body, @headers) = @_;

    return (path => "/$path/" . ++$n, body => $body,
            headers => [ defined $type ? [ 'Content-Type', $type ] : (),
                         @headers ]);
}


# The value, and that it is a key; undef: no key, and nobody is asked.

sub is_value {
    my ($request, $value, $why) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $before = $backend->requests;
    my $first = $t->post(@$request);

    return is_problem($first, 400, 'key-missing', $why)
        && is($backend->requests, $before, "$why: nobody is asked")
        if !defined $value;

    return is_answer($first, 200, undef, $why)
        && is($backend->last->header('X-Value'), $value, "$why: the value")
        && is_replay($t->post(@$request), 200, $first->body, "$why: again")
        && is($backend->requests, $before + 1, "$why: asked once");
}


my $json = 'application/json';

for (
#     location  body                                  value     why
    [ 'id',     '{"order":{"id":"k1"}}',              'k1',     'a string'    ],
    [ 'id',     '{"order":{"id":"\u006b\/1"}}',       'k/1',    'escapes'     ],
    [ 'id',     '{"order":{"id":7}}',                 '7',      'a number'    ],
    [ 'id',     '{"order":{"id":1.10}}',              '1.10',   'a fraction'  ],
    [ 'id',     '{"order":{"id":-0}}',                '-0',     'minus zero'  ],
    [ 'id',     '{"order":{"id":12345678901234567890}}',
                '12345678901234567890',                         'a large one' ],
    [ 'id',     '{"order":{"id":1e999}}',             '1e999',  'a huge one'  ],
    [ 'id',     '{"order":{"id":true}}',              'true',   'true'        ],
    [ 'id',     '{"order":{"id":false}}',             'false',  'false'       ],
    [ 'id',     " {\"order\" :\r\n{\"id\":\t7 } }\n", '7',      'blanks'      ],
    [ 'id',     '{"order":{"id":null}}',              undef,    'null'        ],
    [ 'id',     '{"order":{"id":""}}',                undef,    'an empty one' ],
    [ 'id',     '{"order":{"id":{}}}',                undef,    'an object'   ],
    [ 'id',     '{"order":{"id":[1]}}',               undef,    'an array'    ],
    [ 'id',     '{"order":{}}',                       undef,    'no member'   ],
    [ 'id',     '{"order":7}',                        undef,    'no object'   ],
    [ 'id',     '7',                                  undef,    'a scalar'    ],
    [ 'id',     '',                                   undef,    'no body'     ],
    [ 'id',     '{"order":{"id":7}',                  undef,    'cut'         ],
    [ 'id',     '{"order":{"id":07}}',                undef,    'no number'   ],
    [ 'id',     '{"order":{"id":7}} x',               undef,    'more'        ],
    [ 'id',     '{"order":{"id":7,}}',                undef,    'a comma'     ],
    [ 'id',     '{"order":{"id":7},1:2}',             undef,    'number: name' ],
    [ 'id',     "{\"order\":{\"id\":7}}\0",           undef,    'NUL'         ],
    [ 'id',     '{"order":{"id":7},"a":"\u0000"}',    undef,    'a NUL'       ],
    [ 'id',     "{\"order\":{\"id\":7},\"a\":\"\xff\"}",
                                                      undef,    'no UTF-8'    ],
    [ 'id',     '{"order":{"id":7,"id":7}}',          undef,    'twice'       ],
    [ 'id',     '{"order":{"id":7},"order":{"id":7}}', undef,   'twice above' ],
    [ 'id',     '{"order":{"id":7},"a":' . '[' x 3000 . ']' x 3000 . '}',
                                                      undef,    'deep'        ],
    [ 'first',  '{"items":["a","b"]}',                'a',      'an element'  ],
    [ 'first',  '{"items":{"0":"a"}}',                'a',      'a member "0"' ],
    [ 'first',  '{"items":[]}',                       undef,    'no element'  ],
    [ 'escape', '{"a/b":{"m~n":"k"}}',                'k',      'odd names'   ],
    [ 'all',    '"k"',                                'k',      'the whole'   ],
    [ 'all',    '7.0',                                '7.0',    'a number'    ],
    [ 'all',    '{}',                                 undef,    'no scalar'   ],
    [ 'map',    '{"order":{"id":7}}',                 'm-7',    'in a map'    ],
    [ 'map',    '{}',                                 undef,    'no map'      ],
    [ 'stream', '{"order":{"id":7}}',                 '7',      'unbuffered'  ])
{
    my ($location, $body, $value, $why) = @$_;

    is_value([ request($location, $json, $body) ], $value, "JSON: $why");
}

for (
    [ 'application/json; charset=utf-8', '7',   'a parameter'  ],
    [ 'Application/JSON',                '7',   'capitals'     ],
    [ 'application/cloudevents+json',    '7',   'a suffix'     ],
    [ undef,                             undef, 'no type'      ],
    [ 'text/plain',                      undef, 'another type' ],
    [ 'application/jsonp',               undef, 'a longer one' ])
{
    my ($type, $value, $why) = @$_;

    is_value([ request('id', $type, '{"order":{"id":7}}') ], $value, $why);
}

# In chunks, in pieces and over HTTP/1.0 it is the same value.

for my $size (1, 7) {
    my %one = request('id', $json, '');

    delete $one{body};
    is_value([ %one, chunked => [ unpack "(a$size)*",
               '{"order":{"id":"chunks"}}' ] ], 'chunks', "chunks of $size");
}

# A body in a file is not looked at.

my $long = '{"order":{"id":7},"pad":"' . 'x' x 9000 . '"}';

is_value([ request('id', $json, $long) ], '7', 'a long body');
is_value([ request('small', $json, $long) ], undef, 'too long a body');
is_value([ request('file', $json, '{"order":{"id":7}}') ], undef, 'a file');

# Forms.

my $urlencoded = 'application/x-www-form-urlencoded';

for (
    [ 'form', 'id=7&a=1',      '7',     'a field'           ],
    [ 'form', 'a=1&i%64=%37',  '7',     'escapes'           ],
    [ 'form', 'ID=7',          undef,   'another name'      ],
    [ 'form', 'id=7&id=7',     undef,   'twice'             ],
    [ 'form', 'id=7&id',       undef,   'twice, once empty' ],
    [ 'form', 'id=',           undef,   'empty'             ],
    [ 'form', '',              undef,   'no body'           ],
    [ 'form', 'id=7&a=%zz',    undef,   'a broken escape'   ],
    [ 'form', 'id=7%00',       undef,   'a NUL'             ],
    [ 'odd',  'a+b%22c=7',     '7',     'an odd name'       ])
{
    my ($location, $body, $value, $why) = @$_;

    is_value([ request($location, $urlencoded, $body) ], $value,
             "form: $why");
}

is_value([ request('form', 'text/plain', 'id=7') ], undef, 'no form');

sub multipart {
    return join '', map({ "--x\r\nContent-Disposition: form-data; $_->[0]"
                          . "\r\n\r\n$_->[1]\r\n" } @_), "--x--\r\n";
}


for (
    [ 'form', multipart([ 'name="id"', '7' ]),        '7',   'a part'      ],
    [ 'form', multipart([ 'name=id', '7' ]),          '7',   'no quotes'   ],
    [ 'odd',  multipart([ 'name="a b\"c"', '7' ]),    '7',   'a backslash' ],
    [ 'odd',  multipart([ 'name="a b%22c"', '7' ]),   '7',   'an escape'   ],
    [ 'form', multipart([ 'name="id"; filename="f"', '7' ]),
                                                      undef, 'a file'      ],
    [ 'form', multipart([ 'name="id"', '7' ],
                        [ 'name="id"; filename="f"', '8' ]),
                                                      undef, 'and a file'  ],
    [ 'form', multipart([ 'name="f"; filename="f"',
              "a\r\n--y\r\nContent-Disposition: form-data; name=\"id\"\r\n"
              . "\r\n8" ], [ 'name="id"', '7' ]),     '7',   'in a file'   ],
    [ 'form', multipart([ 'name="id"', '7' ]) =~ s/--x--//r,
                                                      undef, 'no end'      ])
{
    my ($location, $body, $value, $why) = @$_;

    is_value([ request($location, 'multipart/form-data; boundary="x"', $body) ],
             $value, "multipart: $why");
}

# Composite keys: no two lists of parts are one key.

sub are_two {
    my ($name, $one, $other) = @_;

    my $first = $t->post(@$one);
    my $second = $t->post(@$other);

    is_answer($first, 200, undef, "$name: one");
    is_answer($second, 200, undef, "$name: the other");
    isnt($second->body, $first->body, "$name: are two");
    is_replay($t->post(@$one), 200, $first->body, "$name: the first again");
}


sub with {
    my ($path, $type, $body, @headers) = @_;

    $n--;
    return [ request($path, $type, $body, @headers) ];
}


$n++;
are_two('fields',
    with('cloud', undef, '', [ 'ce-source', 'a' ], [ 'ce-id', 'bc' ]),
    with('cloud', undef, '', [ 'ce-source', 'ab' ], [ 'ce-id', 'c' ]));
are_two('fields and JSON',
    with('mixed', $json, '{"order":{"id":"bc"}}', [ 'X-Source', 'a' ]),
    with('mixed', $json, '{"order":{"id":"c"}}', [ 'X-Source', 'ab' ]));
are_two('JSON',
    with('pair', $json, '{"order":{"id":"a"},"items":["bc"]}'),
    with('pair', $json, '{"order":{"id":"ab"},"items":["c"]}'));
are_two('form',
    with('two', $urlencoded, 'id=a&a+b%22c=bc'),
    with('two', $urlencoded, 'id=ab&a+b%22c=c'));
is_problem($t->post(@{ with('pair', $json, '{"order":{"id":"a"}}') }), 400,
           'key-missing', 'a part that is missing');
is_problem($t->post(@{ with('mixed', $json, '{"order":{"id":"a"}}',
                            [ 'X-Source', '"' ]) }), 400, 'key-invalid',
           'a malformed one');

# Scope, fingerprint, bypass.

my @key = ([ 'X-Key', 'k' ]);

are_two('scope', with('scope', $json, '{"order":{"id":1}}', @key),
        with('scope', $json, '{"order":{"id":2}}', @key));
is_problem($t->post(@{ with('scope', $json, '{}', @key) }), 400,
           'scope-missing', 'no scope in the body');

my $first = $t->post(@{ with('same', $json, '{"order":{"id":1}}', @key) });
is_replay($t->post(@{ with('same', $json, '{"order":{"id":1},"a":2}', @key) }),
          200, $first->body, 'the fingerprint is one member');
is_problem($t->post(@{ with('same', $json, '{"order":{"id":2}}', @key) }), 422,
           'key-reused', 'and another one is another request');

for (
    [ '{"type":"test"}', [ @key ], 'bypass' ],
    [ '{"type":"test"}', [ [ 'X-Key', '"' ] ], 'bypass of a malformed key' ])
{
    my ($body, $headers, $name) = @$_;
    my $before = $backend->requests;

    is_answer($t->post(@{ with('bypass', $json, $body, @$headers) }), 200,
              undef, "$name: passes") for 1, 2;
    is($backend->requests, $before + 2, "$name: twice");
}

$first = $t->post(@{ with('bypass', $json, '{"type":0}', @key) });
is_answer($first, 200, undef, 'no bypass');
is_replay($t->post(@{ with('bypass', $json, '{"type":0}', @key) }), 200,
          $first->body, 'is protected');
is_problem($t->post(@{ with('bypass', $json, '{}', [ 'X-Key', '"' ]) }), 400,
           'key-invalid', 'and checked');

# Without a key, a request passes with its body; who is not admitted is refused.

is_answer($t->post(request('optional', $json, '{"a":1}')), 200, undef,
          'no key passes');
is($backend->last->body, '{"a":1}', 'with its body');
is_answer($t->post(request('refused', $json, '{"order":{"id":7}}')), 403,
          undef, 'who is not admitted is refused');

# Elsewhere: in a location that has nothing to do with us, behind an error_page.

is_answer($t->post(request('off', $json, '{"order":{"id":7}}')), 200, undef,
          'a location that is not protected');
is($backend->last->header('X-Value'), '7', 'has the variable');

is_answer($t->post(request('early', $json, '{"order":{"id":9}}')), 200, undef,
          'who asks before the body is there');

$backend->hold;
my $away = $t->start_post(request('away', $json, '{"order":{"id":8}}'));
$backend->wait_for_request;
$backend->answer(503, 'no');
$backend->wait_for_request;
is($backend->last->header('X-Value'), '8', 'as has an error_page');
$backend->answer(200, 'yes');
is_answer($away, 200, 'yes', 'which answers');

# The log knows it as well.

my %logged;

wait_for('access log', sub {
    %logged = $t->file('fields.log') =~ m{^/(\w+)/\d+ (.*)$}mg;
    return exists $logged{away};
});

is($logged{away}, '8|-|m-8', 'the log has a member');
is($logged{early}, '9|-|m-9', 'also if somebody has asked too early');
is($logged{off}, '7|-|m-7', 'also where nothing is protected');

# What is no pointer and no variable is an error at start.

conf_fails('', $_->[1], "$_->[0] is refused", http => "$_->[0];") for (
    [ 'idempotency_json $a b',       qr/invalid pointer "b"/        ],
    [ 'idempotency_json $a /~2',     qr/invalid pointer "\/~2"/     ],
    [ 'idempotency_json $a "#/b"',   qr/invalid pointer "#\/b"/     ],
    [ 'idempotency_json a /b',       qr/invalid variable name "a"/  ],
    [ 'idempotency_json $ /b',       qr/invalid variable name "\$"/ ],
    [ 'idempotency_json $uri /b',    qr/the duplicate "uri" variable/ ],
    [ 'idempotency_form $a ""',      qr/needs the name of a field/  ],
    [ 'idempotency_form a b',        qr/invalid variable name "a"/  ],
    [ 'idempotency_form $host b',    qr/the duplicate "host" variable/ ],
    [ 'idempotency_form $a',         qr/invalid number of arguments/ ],
);

conf_fails('', qr/the duplicate "a" variable/, 'a variable twice',
           http => "idempotency_json \$a /b;\nidempotency_form \$a b;");

done_testing;
