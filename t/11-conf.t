#!/usr/bin/perl

# What cannot be meant is an error at start-up, which names the file, the line
# and what is wrong there; what can be meant is taken without a word.

use lib 't/lib';
use Test::Idempotency;

# The zone stands in http, with everything it needs.

my @zones = (
#     parameters                            message
    [ '',                                   qr/invalid number of arguments/ ],
    [ 'full=evict',                         qr/needs .* "zone=name:size"/   ],
    [ 'payments:1m',                        qr/parameter "payments:1m"/     ],
    [ 'zone=a',                             qr/invalid .*"zone=a"/          ],
    [ 'zone=:1m',                           qr/invalid .*"zone=:1m"/        ],
    [ 'zone=a:',                            qr/size .*"zone=a:"/            ],
    [ 'zone=a:much',                        qr/size .*"zone=a:much"/        ],
    [ 'zone=a:-1m',                         qr/size .*"zone=a:-1m"/         ],
    [ 'zone=a:1x',                          qr/size .*"zone=a:1x"/          ],
    [ 'zone=a:1m:2m',                       qr/size .*"zone=a:1m:2m"/       ],
    [ 'zone=a:99999999999999999999m',       qr/size .*"zone=a:9+m"/         ],
    [ 'zone=a:0',                           qr/"zone=a:0" is too small/     ],
    [ 'zone=a:63k',                         qr/too small, 64k is the least/ ],
    [ 'zone=a:65535',                       qr/too small/                   ],
    [ 'zone=off:1m',                        qr/the name "off"/              ],
    [ 'zone=a:1m zone=b:1m',                qr/repeated .*"zone=b:1m"/      ],
    [ 'zone=a:1m full=never',               qr/invalid .*"full=never"/      ],
    [ 'zone=a:1m full=',                    qr/invalid .*"full="/           ],
    [ 'zone=a:1m full=evict full=refuse',   qr/repeated .*"full=refuse"/    ],
    [ 'zone=a:1m color=blue',               qr/invalid .*"color=blue"/      ],
    [ 'zone=a:1m redis=',                   qr/invalid.*"redis="/           ],
    [ 'zone=a:1m redis=x redis=y',          qr/invalid or repeated/         ],
    [ 'zone=a:1m redis=x full=evict',       qr/no "full=" with "redis="/    ],
);

for (@zones) {
    my ($parameters, $message) = @$_;
    my $line = "idempotency_zone $parameters;";

    conf_fails('', $message, $line, zone => '', http => $line);
}

conf_fails('', qr/"payments" is declared twice/, 'one zone, twice',
           http => 'idempotency_zone zone=payments:2m;');

# Whoever names a zone, on whichever level, gets that zone or an error.

my $nowhere = qr/zone "nowhere" is not declared/;

conf_fails('', $nowhere, "no such zone, $_", $_ => 'idempotency nowhere;')
    for qw(http server location);
conf_fails('', $nowhere, 'no such zone, in a location that is not there yet',
           locations => "location /a {\nidempotency nowhere;\n}");
conf_fails('idempotency payments;', qr/zone "payments" is not declared/,
           'no zone at all', zone => '');
conf_fails('idempotency Payments;', qr/zone "Payments" is not declared/,
           'another zone by its case');
conf_fails('idempotency $host;', qr/zone "\$host" is not declared/,
           'a name that looks like a variable');

# One line in a server that has a zone.

my @misuses = (
#     line                                  message
    [ 'idempotency;',                       qr/invalid number of arguments/ ],
    [ 'idempotency a b;',                   qr/invalid number of arguments/ ],
    [ 'idempotency "";',                    qr/needs the name of a zone/    ],

    [ 'idempotency_key "";',                qr/has an empty part/           ],
    [ 'idempotency_key $http_a "";',        qr/has an empty part/           ],
    [ 'idempotency_key "${http_a";',        qr/closing bracket/             ],
    [ 'idempotency_key_format hex;',        qr/invalid value "hex"/         ],
    [ 'idempotency_key_length 10;',         qr/invalid number of arguments/ ],
    [ 'idempotency_key_length 0 10;',       qr/least length of 1/           ],
    [ 'idempotency_key_length 10 9;',       qr/not below it/                ],
    [ 'idempotency_key_length 1 many;',     qr/takes two numbers/           ],
    [ 'idempotency_key_length -1 10;',      qr/takes two numbers/           ],

    [ 'idempotency_required yes;',          qr/"on", "off" or "token"/      ],

    [ 'idempotency_methods POST,PUT;',      qr/invalid method "POST,PUT"/   ],
    [ 'idempotency_methods "";',            qr/invalid method ""/           ],
    [ 'idempotency_methods "POST PUT";',    qr/invalid method "POST PUT"/   ],

    [ 'idempotency_scope "";',              qr/has an empty part/           ],

    [ 'idempotency_fingerprint;',           qr/invalid number of arguments/ ],
    [ 'idempotency_fingerprint off body;',  qr/"off" and something else/    ],
    [ 'idempotency_fingerprint off $uri;',  qr/"off" and something else/    ],
    [ 'idempotency_fingerprint $uri off;',  qr/"off" and something else/    ],
    [ 'idempotency_fingerprint off off;',   qr/"off" and something else/    ],
    [ 'idempotency_fingerprint body $uri;', qr/"body" once, at its end/     ],
    [ 'idempotency_fingerprint body body;', qr/"body" once, at its end/     ],

    [ 'idempotency_valid soon;',            qr/invalid time "soon"/         ],
    [ 'idempotency_valid -1s;',             qr/invalid time "-1s"/          ],
    [ 'idempotency_valid 200 500ms;',       qr/invalid time "500ms"/        ],
    [ 'idempotency_valid 1xx 1h;',          qr/invalid status "1xx"/        ],
    [ 'idempotency_valid 6xx 1h;',          qr/invalid status "6xx"/        ],
    [ 'idempotency_valid 199 1h;',          qr/invalid status "199"/        ],
    [ 'idempotency_valid 600 1h;',          qr/invalid status "600"/        ],
    [ 'idempotency_valid 20 1h;',           qr/invalid status "20"/         ],
    [ 'idempotency_valid 2000 1h;',         qr/invalid status "2000"/       ],
    [ 'idempotency_valid 2x 1h;',           qr/invalid status "2x"/         ],
    [ 'idempotency_valid 200 201 200 1h;',  qr/status "200" is given twice/ ],
    [ 'idempotency_valid any any 1h;',      qr/status "any" is given twice/ ],

    [ 'idempotency_lease soon;',            qr/invalid value/               ],
    [ 'idempotency_lease 0;',               qr/must not be 0/               ],
    [ 'idempotency_lease -1s;',             qr/invalid value/               ],

    [ 'idempotency_concurrent wait;',       qr/"reject" or "wait=time"/     ],
    [ 'idempotency_concurrent 5s;',         qr/"reject" or "wait=time"/     ],
    [ 'idempotency_concurrent wait=0;',     qr/invalid time "wait=0"/       ],
    [ 'idempotency_concurrent wait=;',      qr/invalid time "wait="/        ],
    [ 'idempotency_concurrent wait=soon;',  qr/invalid time "wait=soon"/    ],

    [ 'idempotency_waiters 0;',             qr/from 1 to 65535/             ],
    [ 'idempotency_waiters 65536;',         qr/from 1 to 65535/             ],
    [ 'idempotency_waiters many;',          qr/invalid number/              ],

    [ 'idempotency_unknown forget;',        qr/"refuse", "retry" or "check/ ],
    [ 'idempotency_unknown check=;',        qr/invalid URI in "check="/     ],
    [ 'idempotency_unknown check=was;',     qr/must begin with "\/"/        ],
    [ 'idempotency_unknown check=@was;',    qr/must begin with "\/"/        ],
    [ 'idempotency_unknown check=/was 0;',  qr/invalid time "0"/            ],
    [ 'idempotency_unknown refuse 0;',      qr/invalid time "0"/            ],
    [ 'idempotency_unknown retry soon;',    qr/invalid time "soon"/         ],

    [ 'idempotency_max_response much;',     qr/invalid value/               ],
    [ 'idempotency_max_response 3000m;',    qr/must be below 2g/            ],

    [ 'idempotency_hide_header "X Y";',     qr/invalid name "X Y"/          ],
    [ 'idempotency_hide_header X-Y: ;',     qr/invalid name "X-Y:"/         ],
    [ 'idempotency_hide_header "";',        qr/invalid name ""/             ],
    [ 'idempotency_pass_header $x;',        qr/invalid name "\$x"/          ],
    [ 'idempotency_pass_header Connection;',
                                            qr/"Connection" .*be stored/    ],
    [ 'idempotency_pass_header A keep-alive;',
                                            qr/"keep-alive" .*be stored/    ],
    [ 'idempotency_pass_header Transfer-Encoding;',
                                            qr/Encoding" .*be stored/       ],
    [ 'idempotency_pass_header Upgrade;',   qr/"Upgrade" .*be stored/       ],
    [ 'idempotency_pass_header TE;',        qr/"TE" .*be stored/            ],

    [ 'idempotency_replay_header "";',      qr/invalid name ""/             ],
    [ 'idempotency_replay_header X:Y;',     qr/invalid name "X:Y"/          ],
    [ 'idempotency_replay_header off 1;',   qr/"off" with a value/          ],
    [ 'idempotency_replay_header A b c;',   qr/invalid number of arguments/ ],
    [ 'idempotency_replay_header A "b\nc";', qr/control character/          ],
    [ 'idempotency_replay_header Connection;',
                                            qr/invalid name "Connection"/   ],

    [ 'idempotency_documentation "";',      qr/invalid URI ""/              ],
    [ 'idempotency_documentation "/a b";',  qr{invalid URI "/a b"}          ],
    [ 'idempotency_documentation "/<a>";',  qr{invalid URI "/<a>"}          ],
    [ 'idempotency_documentation /a#b;',    qr{invalid URI "/a#b"}          ],

    [ 'idempotency_dry_run maybe;',         qr/invalid value "maybe"/       ],
    [ "idempotency payments;\nidempotency_on_error local;",
                                            qr/local" needs "redis="/       ],
    [ 'idempotency_on_error ignore;',       qr/"refuse", "local" or "pass"/ ],
);

for (@misuses) {
    my ($line, $message) = @$_;

    conf_fails($line, $message, $line);
}

# Two lines that do not go together.

my @pairs = (
#     first line                            second               message
    [ 'idempotency_valid 1h;',      'idempotency_valid 2h;',
      qr/without a status is duplicate/ ],
    [ 'idempotency_valid 200 1h;',  'idempotency_valid 201 200 2h;',
      qr/status "200" is given twice/ ],
    [ 'idempotency_hide_header X-A;', 'idempotency_pass_header x-a;',
      qr/"x-a" is both hidden and passed/ ],
    [ 'idempotency_pass_header ETag;', 'idempotency_hide_header A etag;',
      qr/"etag" is both hidden and passed/ ],
);

my @once = (
    'idempotency payments;',                'idempotency off;',
    'idempotency_key $http_a;',             'idempotency_key_format uuid;',
    'idempotency_key_length 1 9;',          'idempotency_required on;',
    'idempotency_methods POST;',            'idempotency_scope $host;',
    'idempotency_fingerprint body;',        'idempotency_lease 10s;',
    'idempotency_concurrent reject;',       'idempotency_concurrent wait=1s;',
    'idempotency_waiters 9;',               'idempotency_unknown refuse;',
    'idempotency_unknown retry 1h;',        'idempotency_max_response 10k;',
    'idempotency_unknown check=/was;',      'idempotency_unknown check=/?a 1h;',
    'idempotency_replay_header X-Again;',   'idempotency_replay_header off;',
    'idempotency_documentation /doc;',      'idempotency_dry_run on;',
    'idempotency_on_error pass;',
);

push @pairs, map { [ $_, $_, qr/is duplicate/ ] } @once;

for (@pairs) {
    my ($one, $two, $message) = @$_;

    conf_fails("$one\n$two", $message, "$one $two");
}

conf_fails('', qr/is duplicate/, 'two pages of one location',
           locations => "location /s {\n" . "idempotency_status;\n" x 2 . '}');

# Lines in the wrong place.

my $here = qr/is not allowed here/;
my @everywhere = (@once, 'idempotency_valid 1h;', 'idempotency_bypass $arg_a;',
                  'idempotency_hide_header A;', 'idempotency_pass_header A;');

for (@everywhere) {
    my ($name) = split;

    conf_fails("if (\$arg_a) {\n$_\n}", $here, "$name in if of a server");
    conf_fails('', $here, "$name in if of a location",
               location => "if (\$arg_a) {\n$_\n}");
    conf_fails('', $here, "$name in limit_except",
               location => "limit_except GET {\n$_\n}");
}

conf_fails('', $here, "a zone in $_", $_ => 'idempotency_zone zone=a:1m;')
    for qw(server location);
conf_fails('idempotency_status;', $here, 'a status page of a server');

# What can be meant.

my @meant = (
    @everywhere,
    'idempotency_key "$http_a-${http_b}" constant $arg_c;',
    (map { "idempotency_key_format $_;" } qw(any structured uuid)),
    'idempotency_key_length 36 36;',
    'idempotency_required off;',
    'idempotency_methods GET PUT DELETE M_SEARCH CHARGE;',
    'idempotency_scope $remote_user $http_x_shop;',
    'idempotency_fingerprint off;',
    'idempotency_fingerprint $uri $args body;',
    (map { "idempotency_valid $_;" } qw(0 10 1s 2m 3h 4d 5w 6M 1y 1h30m)),
    "idempotency_valid 200 201 1h;\nidempotency_valid 2xx 2h;\n"
        . "idempotency_valid any 0;\nidempotency_valid 3h;",
    (map { "idempotency_lease $_;" } qw(1ms 500ms 1 10s 2m 1h)),
    (map { "idempotency_concurrent wait=$_;" } qw(1ms 1s500ms 1m)),
    'idempotency_waiters 65535;',
    'idempotency_unknown refuse 30d;',
    (map { "idempotency_max_response $_;" } qw(0 1 64k 64K 8m 8M)),
    "idempotency_hide_header A;\nidempotency_hide_header B C;",
    'idempotency_replay_header X-Again "yes, again";',
    'idempotency_documentation https://example.org/doc?a=1;',
    'idempotency_bypass $arg_a $http_b;',
    'idempotency_on_error refuse;',
);

for my $lines (@meant) {
    my @more = $lines =~ /^idempotency / ? () : 'idempotency payments;';

    conf_works(join("\n", @more, $lines), undef, $lines);
}

conf_works('', undef, "zone=$_", zone => "zone=$_")
    for 'a:64k', 'a:65536', 'a:1M', 'a:1m full=refuse', 'a:1m full=evict';
conf_works('', undef, 'in any order', zone => 'full=evict zone=a:1m');
conf_works('', undef, 'two zones', zone => [ 'zone=a:64k', 'zone=b:64k' ]);
conf_works('', undef, 'no zone and no use of one', zone => '');
conf_works('idempotency off;', undef, 'off, without a zone', zone => '');
conf_works('idempotency late;', undef, 'a zone that is declared later',
           locations => '} idempotency_zone zone=late:64k; server {'
                        . ' listen unix:late.sock;');

my %levels = (http => 'idempotency payments;', server => 'idempotency off;',
              location => 'idempotency payments;');
conf_works('', undef, 'every level has its own', %levels);
conf_works('idempotency_hide_header A;', undef, 'hidden here, passed there',
           location => 'idempotency_pass_header A;');

# What may send a request to two servers is warned about, where it is meant for
# a location that is protected.

my $on = "idempotency payments;\n";
my $again = 'proxy_next_upstream error non_idempotent;';
my @warned = (
#     server         location       why
    [ '',            $on . $again,  'both here'                        ],
    [ $on . $again,  '',            'both on a level above'            ],
    [ $on,           $again,        'protected on a level above'       ],
    [ $again,        $on,           'passed on again by a level above' ],
);
my $warning = sub {
    my ($directive, $location) = @_;
    return qr/\A nginx:\ \[warn\]\ idempotency.*\ "$location"
              .*"non_idempotent".*"$directive".*\ in\ \S+nginx\.conf:\d+\n\z/x;
};

for (@warned) {
    my ($server, $location, $why) = @$_;

    conf_works('', $warning->('proxy_next_upstream', '/'),
               "non_idempotent is warned about: $why",
               server => $server, location => $location);
}

for my $pass (qw(fastcgi scgi uwsgi grpc)) {
    conf_works("$on ${pass}_next_upstream error non_idempotent;",
               $warning->("${pass}_next_upstream", '/other'),
               "${pass}_next_upstream is warned about, there only",
               locations => "location /other { ${pass}_pass 127.0.0.1:9; }");
}

conf_works("$on $again", $warning->('proxy_next_upstream', '/a'),
           'an address that a variable has',
           location => 'proxy_next_upstream off;',
           locations => 'location /a { proxy_pass http://$arg_a; }');
conf_works("$on $again", $warning->('proxy_next_upstream', '@other'),
           'a named location', location => 'proxy_next_upstream off;',
           locations => 'location @other { proxy_pass http://backend; }');
conf_works('', $warning->('proxy_next_upstream', '/'),
           'once, whatever is inside', server => $on . $again,
           location => 'if ($arg_a) { set $a 1; }'
                       . ' limit_except POST { deny all; }');

my @quiet = (
#     server          location                      why
    [ $again,         '',                           'not protected'       ],
    [ $on . $again,   'idempotency off;',           'not protected here'  ],
    [ $on . $again,   'proxy_next_upstream off;',   'not said here'       ],
    [ $on,            'proxy_next_upstream error;', 'not said at all'     ],
    [ $on,            'fastcgi_next_upstream error non_idempotent;',
                                                    'of another kind'     ],
);

for (@quiet) {
    my ($server, $location, $why) = @$_;

    conf_works('', undef, "non_idempotent is not warned about: $why",
               server => $server, location => $location);
}

conf_works('', undef, 'non_idempotent where nothing is passed on',
           location => 'proxy_next_upstream off;', server => $on . $again,
           locations => 'location /a { return 204; } location /b { }');

done_testing;
