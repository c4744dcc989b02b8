#!/usr/bin/perl

# A key is taken as it is written, or refused with a reason; a request that
# needs none passes; two spellings of one key are one key.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOF', backend => 'auto',
    idempotency           payments;
    idempotency_required  on;
    idempotency_scope     $uri;
EOF
    locations => <<'EOF');
    location /any/ {
        proxy_pass http://backend;
    }

    location /structured/ {
        idempotency_key_format structured;
        proxy_pass http://backend;
    }

    location /uuid/ {
        idempotency_key_format uuid;
        proxy_pass http://backend;
    }

    location /length/ {
        idempotency_key_length 3 5;
        proxy_pass http://backend;
    }

    location /optional/ {
        idempotency_required off;
        proxy_pass http://backend;
    }

    location /composite/ {
        idempotency_key $http_x_source $http_x_seq;
        proxy_pass http://backend;
    }

    location /argument/ {
        idempotency_key $arg_id;
        proxy_pass http://backend;
    }

    location /mixed/ {
        idempotency_key "$http_x_source-$http_x_seq";
        proxy_pass http://backend;
    }

    location /methods/ {
        idempotency_methods PUT DELETE;
        proxy_pass http://backend;
    }

    location /bypass/ {
        idempotency_bypass $http_x_bypass $arg_bypass;
        proxy_pass http://backend;
    }

    location /scope/ {
        idempotency_required off;
        idempotency_scope $http_x_user;
        proxy_pass http://backend;
    }

    location /scopes/ {
        idempotency_scope $http_x_user $http_x_shop;
        proxy_pass http://backend;
    }

    location /off/ {
        idempotency off;
        proxy_pass http://backend;
    }
EOF

my $backend = $t->backend;
my %counted;
my $n = 0;

# The scope is the path: each request of a table has an empty world.

sub path {
    my ($location) = @_;

    return "/$location/" . ++$n;
}


sub is_protected {
    my ($name, %request) = @_;

    my $first = $t->post(%request);

    return is_answer($first, 200, qr/^answer \d+$/, "$name: first")
        && is_replay($t->post(%request), 200, $first->body, "$name: again");
}


sub is_untouched {
    my ($name, %request) = @_;

    my $before = $backend->requests;

    is_answer($t->post(%request), 200, undef, "$name: passes")
        && is_answer($t->post(%request), 200, undef, "$name: again");

    return is($backend->requests, $before + 2, "$name: asked twice");
}


sub is_refused {
    my ($name, $kind, %request) = @_;

    my $before = $backend->requests;

    $counted{ $kind =~ tr/-/_/r }++;
    is_problem($t->post(%request), 400, $kind, $name);

    return is($backend->requests, $before, "$name: the backend is not asked");
}


# One header field: what is a key?

my $hex = '0123abcd-89ef-4567-89ab-cdef01234567';
my ($ok, $bad, $none) = ('', 'key-invalid', 'key-missing');

my @keys = (
#     location       field value               verdict  why
    [ 'any',         undef,                    $none, 'no field'            ],
    [ 'any',         '',                       $none, 'an empty field'      ],
    [ 'any',         '   ',                    $none, 'blanks'              ],
    [ 'any',         'k',                      $ok,   'one byte'            ],
    [ 'any',         "!#\$%&'()*+-./:;<=>?@[\\]^_`{|}~",
                                               $ok,   'visible ASCII'       ],
    [ 'any',         'k' x 255,                $ok,   '255 bytes'           ],
    [ 'any',         'k' x 256,                $bad,  '256 bytes'           ],
    [ 'any',         'a b',                    $bad,  'a blank in between'  ],
    [ 'any',         'a,b',                    $bad,  'a comma'             ],
    [ 'any',         'a"b',                    $bad,  'a quote in between'  ],
    [ 'any',         "a\x01b",                 $bad,  'a control character' ],
    [ 'any',         "a\tb",                   $bad,  'a tab'               ],
    [ 'any',         "a\x7f",                  $bad,  'DEL'                 ],
    [ 'any',         "\xc3\xa9",               $bad,  'not ASCII'           ],
    [ 'any',         '"k"',                    $ok,   'a string'            ],
    [ 'any',         '""',                     $bad,  'an empty string'     ],
    [ 'any',         '"a b, c"',               $ok,   'a string with blanks' ],
    [ 'any',         '"' . 'k' x 255 . '"',    $ok,   'quotes do not count' ],
    [ 'any',         '"' . 'k' x 256 . '"',    $bad,  'too long in quotes'  ],
    [ 'any',         '"' . '\\"' x 255 . '"',  $ok,   'escapes count once'  ],
    [ 'any',         '"k',                     $bad,  'a quote is missing'  ],
    [ 'any',         '"k"x',                   $bad,  'junk behind'         ],
    [ 'any',         '"a\\b"',                 $bad,  'no such escape'      ],
    [ 'any',         '"k"; x=1; y',            $ok,   'parameters'          ],
    [ 'any',         '"k"; X=1',               $bad,  'a bad parameter'     ],
    [ 'any',         '"k";',                   $bad,  'an empty parameter'  ],
    [ 'any',         '"a", "b"',               $bad,  'a list'              ],
    [ 'any',         "\"k\x7f\"",              $bad,  'DEL in a string'     ],
    [ 'any',         "\"\xc3\xa9\"",           $bad,  'not ASCII, quoted'   ],

    [ 'structured',  '"k"',                    $ok,   'a string'            ],
    [ 'structured',  '"k";v=?1;w=:Zg==:',      $ok,   'with parameters'     ],
    [ 'structured',  '""',                     $bad,  'an empty string'     ],
    [ 'structured',  'k',                      $bad,  'a token'             ],
    [ 'structured',  '17',                     $bad,  'a number'            ],
    [ 'structured',  '?1',                     $bad,  'a boolean'           ],
    [ 'structured',  ':aw==:',                 $bad,  'a byte sequence'     ],
    [ 'structured',  '("k")',                  $bad,  'an inner list'       ],
    [ 'structured',  undef,                    $none, 'nothing'             ],

    [ 'uuid',        $hex,                     $ok,   'a UUID'              ],
    [ 'uuid',        "\"$hex\"",               $ok,   'a UUID, quoted'      ],
    [ 'uuid',        uc $hex,                  $ok,   'in capitals'         ],
    [ 'uuid',        "urn:uuid:$hex",          $bad,  'urn:'                ],
    [ 'uuid',        "{$hex}",                 $bad,  'braces'              ],
    [ 'uuid',        $hex =~ tr/-//dr,         $bad,  'no hyphens'          ],
    [ 'uuid',        $hex =~ tr/a/g/r,         $bad,  'not hex'             ],
    [ 'uuid',        "${hex}0",                $bad,  'one digit more'      ],
    [ 'uuid',        substr($hex, 0, 35),      $bad,  'one digit less'      ],
    [ 'uuid',        'k',                      $bad,  'any other key'       ],

    [ 'length',      'ab',                     $bad,  'below the minimum'   ],
    [ 'length',      'abc',                    $ok,   'at the minimum'      ],
    [ 'length',      'abcde',                  $ok,   'at the maximum'      ],
    [ 'length',      'abcdef',                 $bad,  'above the maximum'   ],
    [ 'length',      '"ab"',                   $bad,  'quotes do not help'  ],

    [ 'optional',    'k',                      $ok,   'a key, not required' ],
    [ 'optional',    '""',                     $bad,  'malformed anyway'    ],
    [ 'optional',    'a b',                    $bad,  'malformed, unquoted' ],
);

for (@keys) {
    my ($location, $key, $verdict, $why) = @$_;
    my %request = (path => path($location), key => $key, body => 'eur=1');

    if ($verdict eq $ok) {
        is_protected("$location: $why", %request);

    } else {
        is_refused("$location: $why", $verdict, %request);
    }
}

# Several fields, other sources.

my @key = ([ 'Idempotency-Key', 'a' ]);
my @source = ([ 'X-Source', 's' ]);
my @seq = ([ 'X-Seq', '7' ]);

my @requests = (
#     location      fields or arguments                verdict  why
    [ 'any',        [ @key, @key ],                    $bad,  'two fields'  ],
    [ 'any',        [ @key, [ 'idempotency-key', 'b' ] ],
                                                       $bad,  'two cases'   ],
    [ 'any',        [ @key, [ 'Idempotency-Key', '' ] ],
                                                       $bad,  'one empty'   ],
    [ 'optional',   [ @key, @key ],                    $bad,  'two fields'  ],
    [ 'composite',  [ @source, @seq ],                 $ok,   'both parts'  ],
    [ 'composite',  [ @source ],                       $none, 'first part'  ],
    [ 'composite',  [ @seq ],                          $none, 'second part' ],
    [ 'composite',  [ @key ],                          $none, 'no part'     ],
    [ 'composite',  [ @source, [ 'X-Seq', 'a b' ] ],   $bad,  'a bad part'  ],
    [ 'composite',  [ @source, @seq, @seq ],           $bad,  'a part twice' ],
    [ 'mixed',      [ @source, @seq ],                 $ok,   'put together' ],
    [ 'argument',   '?id=a',                           $ok,   'an argument' ],
    [ 'argument',   '?id=',                            $none, 'it is empty' ],
    [ 'argument',   '',                                $none, 'no argument' ],
    [ 'argument',   '?id=a,b',                         $bad,  'it is bad'   ],
);

for (@requests) {
    my ($location, $what, $verdict, $why) = @$_;
    my %request = (path => path($location));

    $request{headers} = $what if ref $what;
    $request{path} .= $what if !ref $what;

    if ($verdict eq $ok) {
        is_protected("$location: $why", %request);

    } else {
        is_refused("$location: $why", $verdict, %request);
    }
}

# One key in two spellings, or two keys.

my @pairs = (
#     location      one                other               same  why
    [ 'any',        'abc',             '"abc"',               1, 'quotes'    ],
    [ 'any',        '"abc"',           '"abc"; v=2',          1, 'parameter' ],
    [ 'any',        'a\\b',            '"a\\\\b"',            1, 'escape'    ],
    [ 'any',        'abc',             'ABC',                 0, 'case'      ],
    [ 'any',        $hex,              uc $hex,               0, 'hex'       ],
    [ 'uuid',       $hex,              uc $hex,               1, 'case'      ],
    [ 'uuid',       $hex,              "\"$hex\"",            1, 'quotes'    ],
    [ 'composite',  [ 'ab', 'c' ],     [ 'a', 'bc' ],         0, 'where'     ],
    [ 'composite',  [ 'a', 'b' ],      [ 'b', 'a' ],          0, 'order'     ],
    [ 'composite',  [ 'a', 'b' ],      [ 'a', 'c' ],          0, 'its end'   ],
    [ 'composite',  [ 'a', '"b"' ],    [ '"a"', 'b' ],        1, 'quotes'    ],
);

for (@pairs) {
    my ($location, $one, $other, $same, $why) = @$_;
    my $path = path($location);
    my $name = "$location: " . ($same ? 'one key' : 'two keys') . " by $why";

    my ($first, $second) = map {
        $t->post(path => $path, ref $_
            ? (headers => [ [ 'X-Source', $_->[0] ], [ 'X-Seq', $_->[1] ] ])
            : (key => $_))
    } $one, $other;

    is_answer($first, 200, undef, "$name: first");

    if ($same) {
        is_replay($second, 200, $first->body, $name);

    } else {
        is_answer($second, 200, qr/^(?!\Q@{[ $first->body ]}\E$)/, $name);
    }
}

# Who shares keys.

my %k = (path => '/scope/', key => 'k');
my @user = map { [ [ 'X-User', $_ ] ] } 'ann', 'bob';

is_protected("the key of $_->[0][1]", %k, headers => $_) for @user;
is_refused('nobody\'s key', 'scope-missing', %k);
is_untouched('nobody, no key', path => '/scope/');
is_refused('a scope with an empty part', 'scope-missing',
           %k, path => '/scopes/', headers => $user[0]);
is_protected("a scope of two parts, shop $_", %k, path => '/scopes/',
             headers => [ @{ $user[0] }, [ 'X-Shop', $_ ] ]) for 1, 2;

# Requests that we have nothing to do with.

is_untouched('no key where none is needed', path => path('optional'));
is_untouched('a composite key lacks a part, and off', path => path('off'),
             headers => \@source);
is_untouched('off', path => path('off'), key => 'k');
is_untouched('off, with a bad key', path => path('off'), key => '""');

my @methods = (
#     location    method     protected
    [ 'any',      'POST',    1 ],
    [ 'any',      'PATCH',   1 ],
    [ 'any',      'PUT',     0 ],
    [ 'any',      'DELETE',  0 ],
    [ 'any',      'GET',     0 ],
    [ 'any',      'OPTIONS', 0 ],
    [ 'any',      'PURCHASE', 0 ],
    [ 'methods',  'PUT',     1 ],
    [ 'methods',  'DELETE',  1 ],
    [ 'methods',  'POST',    0 ],
    [ 'methods',  'PATCH',   0 ],
);

for (@methods) {
    my ($location, $method, $protected) = @$_;
    my @request = (path => path($location), method => $method);

    if ($protected) {
        is_protected("$location: $method", @request, key => 'k');
        is_refused("$location: $method without a key", $none, @request);

    } else {
        is_untouched("$location: $method", @request, key => 'k');
        is_untouched("$location: $method, bad key", @request, key => '""');
        is_untouched("$location: $method, no key", @request);
    }
}

my @bypass = (
#     header  argument  hands off
    [ undef,  '',       0 ],
    [ '0',    '',       0 ],
    [ '',     '',       0 ],
    [ '1',    '',       1 ],
    [ 'yes',  '',       1 ],
    [ '00',   '',       1 ],
    [ '0',    '1',      1 ],
    [ undef,  '0',      0 ],
);

for (@bypass) {
    my ($header, $argument, $off) = @$_;
    my $name = 'bypass by "' . ($header // '') . "\" or \"$argument\"";
    my @request = (
        path => path('bypass') . ($argument ne '' && "?bypass=$argument"),
        headers => [ defined $header ? [ 'X-Bypass', $header ] : () ]);

    if ($off) {
        is_untouched($name, @request, key => 'k');
        is_untouched("$name, bad key", @request, key => '""');
        $counted{bypass} += 4;

    } else {
        is_protected($name, @request, key => 'k');
        is_refused("$name, no key", $none, @request);
    }
}

# What the upstream sees, and what is counted.

$t->post(path => path('any'), key => '"a b"; v=1');
is($backend->last->header('Idempotency-Key'), '"a b"; v=1',
   'the key goes upstream as it was sent');

is($t->counter($_), $counted{$_}, "$counted{$_} times $_")
    for sort keys %counted;

# What cannot be meant.

my @misuses = (
#     directives                               message
    [ 'idempotency_key_format hex;',           qr/invalid value "hex"/       ],
    [ 'idempotency_key_length 5 3;',           qr/idempotency_key_length/    ],
    [ 'idempotency_key_length 1;',             qr/invalid number of arg/     ],
    [ 'idempotency_key_length a b;',           qr/takes two numbers/         ],
    [ 'idempotency_key;',                      qr/invalid number of arg/     ],
    [ 'idempotency_methods;',                  qr/invalid number of arg/     ],
    [ 'idempotency_required perhaps;',         qr/takes "on", "off" or "token"/       ],
    [ 'idempotency_scope;',                    qr/invalid number of arg/     ],
    [ 'idempotency_bypass;',                   qr/invalid number of arg/     ],
    [ "idempotency_key a;\nidempotency_key b;", qr/is duplicate/             ],
);

conf_fails("idempotency payments;\n$_->[0]", $_->[1], $_->[0]) for @misuses;

done_testing;
