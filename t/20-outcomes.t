#!/usr/bin/perl

# How the first request ends decides what its key is worth afterwards: its
# answer is kept, the key is free again as nothing happened, or nobody knows,
# and the client is told so by a clean 502 or 504.

use lib 't/lib';
use Test::Idempotency;

use IO::Socket::INET;

# One has no room for another connection: connecting hangs.  One is a name
# server that takes questions and never answers.

my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp')
    or die "no deaf upstream: $!\n";
listen $deaf, 0;
my @crowd = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', Blocking => 0,
                                        PeerPort => $deaf->sockport) } 1 .. 4;

my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp')
    or die "no mute name server: $!\n";

my $proxy = 'proxy_pass http://backend;';

my $locations = <<"END";
    resolver 127.0.0.1:@{[ $mute->sockport ]};
    resolver_timeout 100ms;

    location /off/           { $proxy proxy_buffering off; }
    location /impatient/     { $proxy proxy_read_timeout 200ms; }
    location /impatient/off/ {
        $proxy
        proxy_read_timeout 200ms; proxy_buffering off;
    }
    location /nobody/        { proxy_pass http://nobody; }
    location /deaf/ {
        proxy_pass http://127.0.0.1:@{[ $deaf->sockport ]};
        proxy_connect_timeout 200ms;
    }
    location /nameless/ {
        set \$name payments.invalid;
        proxy_pass http://\$name;
    }

    location /rules/ {
        $proxy
        idempotency_valid 502 504 1h;
        idempotency_valid 5xx 0;
        idempotency_valid 401 1h;
        idempotency_valid 202 0;
    }
    location /all/           { $proxy idempotency_valid any 1h; }
    location /none/          { $proxy idempotency_valid any 0; }
    location /fallback/ {
        $proxy
        proxy_intercept_errors on;
        error_page 500 502 503 504 = \@other;
    }
    location \@other         { proxy_pass http://other; }
    location /sorry/         { $proxy error_page 502 503 504 /sorry.html; }
    location /intercept/ {
        $proxy
        proxy_intercept_errors on;
        error_page 404 =200 /sorry.html;
        error_page 500 502 503 504 /sorry.html;
    }
    location = /sorry.html   { internal; }
END

my $t = Test::Idempotency->new('idempotency payments;',
    backends => [ 'other' ], locations => $locations,
    files => { 'html/sorry.html' => 'sorry' },
    http => 'upstream nobody { server 127.0.0.1:9 down; }');

my $backend = $t->backend;
my $other = $t->backend('other');
my $page = qr/^<html>/;
my $refuse = sub { $backend->accept('refuse') };
my $n = 0;


# A request whose upstream acts so: what does its client get, and what does
# the next one get that comes with the same key, when all upstreams are well?

sub ends {
    my ($became, $path, $act, $status, $body, $why) = @_;

    my %request = (path => $path, key => 'k' . ++$n, body => 'eur=1');
    my $firsts = $t->counter('first');

    $_->hold for $backend, $other;
    $act->() if $act == $refuse;
    my $first = $t->start_post(%request);
    $act->();
    is_answer($first, $status, $body, "$why: the client gets $status");

    for ($backend, $other) {
        $_->accept('read');
        $_->auto(200, 'once more');
    }

    my $second = $t->post(%request);
    my $runs = $became eq 'released' ? 2 : 1;

    is_replay($second, $status, $first->response->body, "$why: replayed")
        if $became eq 'done';
    is_problem($second, 409, 'outcome-unknown', "$why: unknown")
        if $became eq 'unknown';

    return is($t->counter('first'), $firsts + $runs, "$why: runs $runs times");
}


sub answers { my @answer = @_; return sub { $backend->answer(@answer) } }
sub raw     { return answers(0, '', raw => join "\r\n", @_) }


# Complete answers, by status.

my %not_carried_out = map { $_ => 1 }
    qw(401 403 407 408 409 413 421 423 425 426 428 429 431 503 511);

for my $status (qw(200 201 202 203 207 226 300 301 302 303 305 307 308 400 402
                   404 405 406 410 411 412 414 415 416 417 418 422 424 451 500
                   501 505 506 507 508 510 599), sort keys %not_carried_out)
{
    ends($not_carried_out{$status} ? 'released' : 'done', '/',
         answers($status, "told $status"), $status, "told $status",
         "the upstream says $status");
}

ends('unknown', '/', answers($_, 'no idea'), $_, 'no idea',
     "the upstream's own $_") for 502, 504;

my @rules = (
#     location  status  became      why
    [ 'rules',  502,    'done',     'a rule for 502'                    ],
    [ 'rules',  504,    'done',     'a rule for 504'                    ],
    [ 'rules',  500,    'released', 'time 0 for 5xx'                    ],
    [ 'rules',  401,    'done',     'a rule against the built-in one'   ],
    [ 'rules',  202,    'released', 'time 0 for 202'                    ],
    [ 'rules',  200,    'done',     'rules for others'                  ],
    [ 'rules',  409,    'released', 'rules for others, not carried out' ],
    [ 'all',    502,    'done',     'any, an own 502'                   ],
    [ 'all',    429,    'done',     'any, not carried out'              ],
    [ 'none',   200,    'released', 'any 0'                             ],
);

for (@rules) {
    my ($location, $status, $became, $why) = @$_;
    ends($became, "/$location/", answers($status, 'told'), $status, 'told',
         "idempotency_valid: $why");
}

# Nothing was ever sent.

ends('released', '/',          $refuse, 502, $page, 'refused');
ends('released', '/nobody/',   sub { }, 502, $page, 'no live upstream');
ends('released', '/deaf/',     sub { }, 504, $page, 'connect timeout');
ends('released', '/nameless/', sub { }, 502, $page, 'no address');

# Something was sent, and no complete answer came back.  A client must never
# take a part for the whole.

my $close = sub { $backend->close };
my $start = "HTTP/1.1 200 OK\r\nContent-Type: text/plain";
my $chunked = "$start\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n";

my @cuts = (
#     what the upstream does                               why
    [ $close,                                              'no header'      ],
    [ sub { $backend->reset },                             'a reset'        ],
    [ raw('garbage', '', ''),                              'no HTTP'        ],
    [ raw('HTTP/1.1 xx', '', 'abc'),                       'no status'      ],
    [ raw($start),                                         'half a header'  ],
    [ raw($start, "X-\0: 1", '', ''),                      'a bad header'   ],
    [ raw($start, 'X: ' . 'x' x 9000, '', ''),             'a large header' ],
    [ answers(200, 'x' x 100, cut => 0),                   'no body'        ],
    [ answers(200, 'x' x 100, cut => 99),                  'a cut body'     ],
    [ answers(500, 'x' x 100, cut => 50),                  'a cut 500'      ],
    [ answers(503, 'x' x 100, cut => 50),                  'a cut 503'      ],
    [ answers(200, 'x' x 300000, cut => 250000),           'a long cut body' ],
    [ raw($chunked),                                       'no last chunk'  ],
    [ raw("${chunked}5", 'ab'),                            'half a chunk'   ],
    [ raw("${chunked}nonsense", ''),                       'a bad chunk'    ],
    [ answers(0, '', raw => "$start\r\n\r\nabc", then => 'reset'),
                                                      'a reset in the body' ],
);

for my $path ('/', '/off/') {
    ends('unknown', $path, $_->[0], 502, $page, "$path: $_->[1]") for @cuts;
}

my $half = sub { $backend->send("$start\r\nContent-Length: 9\r\n\r\nab") };

for my $path ('/impatient/', '/impatient/off/') {
    ends('unknown', $path, sub { }, 504, $page, "$path: no answer");
    ends('unknown', $path, $half, 502, $page, "$path: half an answer");
}

ends('done', '/', raw($start, '', 'to the end'), 200, 'to the end',
     'a body that ends with the connection');

# Somebody else answers the client in the end.

my @fallbacks = (
#     first upstream        the other one  status  body      became
    [ $refuse,              [ 200, 'ok' ],    200, 'ok',     'done'     ],
    [ $close,               [ 201, 'ok' ],    201, 'ok',     'done'     ],
    [ $cuts[8][0],          [ 200, 'ok' ],    200, 'ok',     'done'     ],
    [ answers(500, 'no'),   [ 200, 'ok' ],    200, 'ok',     'done'     ],
    [ answers(502, 'no'),   [ 404, 'ok' ],    404, 'ok',     'done'     ],
    [ $close,               [ 502, 'no' ],    502, 'no',     'unknown'  ],
    [ $close,               undef,            502, $page,    'unknown'  ],
    [ $close,               'refuse',         502, $page,    'unknown'  ],
    [ $refuse,              undef,            502, $page,    'unknown'  ],
    [ $refuse,              'refuse',         502, $page,    'released' ],
    [ $refuse,              [ 503, 'no' ],    503, 'no',     'released' ],
);

for (@fallbacks) {
    my ($first, $then, $status, $body, $became) = @$_;
    my $how = !$then ? 'breaks off' : ref $then ? "says $then->[0]" : 'refuses';

    $first->() if $first == $refuse;
    $other->accept('refuse') if $how eq 'refuses';

    ends($became, '/fallback/', sub {
        $first->();
        $other->close if $how eq 'breaks off';
        $other->answer(@$then) if ref $then;
    }, $status, $body, "a fallback that $how, $became");
}

my @pages = (
#     location     upstream          status  body      became      why
    [ 'sorry',     $close,              502, 'sorry',  'unknown',  'closed'  ],
    [ 'sorry',     $cuts[8][0],         502, 'sorry',  'unknown',  'cut'     ],
    [ 'sorry',     $refuse,             502, 'sorry',  'released', 'refused' ],
    [ 'sorry',     answers(503, 'own'), 503, 'own',    'released', 'own 503' ],
    [ 'intercept', answers(404, 'own'), 200, 'sorry',  'done',     '404'     ],
    [ 'intercept', answers(500, 'own'), 500, 'sorry',  'done',     '500'     ],
    [ 'intercept', answers(503, 'own'), 503, 'sorry',  'released', '503'     ],
    [ 'intercept', answers(504, 'own'), 504, 'sorry',  'unknown',  '504'     ],
    [ 'intercept', answers(403, 'own'), 403, 'own',    'released', '403'     ],
);

for (@pages) {
    my ($location, $act, $status, $body, $became, $why) = @$_;
    ends($became, "/$location/", $act, $status, $body,
         "error_page, $location: $why");
}

# Several servers: the other one is asked when the first has failed.

my ($one, $two) = map { 'server 127.0.0.1:' . $_->port . ' max_fails=0' }
    $backend, $other;

$t->change(http => "upstream nobody { server 127.0.0.1:9 down; }\n"
                   . "upstream pair { $one; $two backup; }",
           locations => $locations . <<'END')->reload;
    location /pair/  { proxy_pass http://pair; }
    location /again/ {
        proxy_pass http://pair;
        proxy_next_upstream error http_503 non_idempotent;
    }
END

my $no = answers(503, 'no');

my @pairs = (
#     location  first      the other one  status  body   became      why
    [ 'pair',   $refuse,   [ 200, 'ok' ],  200, 'ok',  'done',     'refused'  ],
    [ 'pair',   $refuse,   [ 429, 'no' ],  429, 'no',  'released', 'refused'  ],
    [ 'pair',   $refuse,   'close',        502, $page, 'unknown',  'refused'  ],
    [ 'pair',   $refuse,   'refuse',       502, $page, 'released', 'refused'  ],
    [ 'pair',   $close,    undef,          502, $page, 'unknown',  'not idem' ],
    [ 'again',  $close,    [ 200, 'ok' ],  200, 'ok',  'done',     'closed'   ],
    [ 'again',  $no,       [ 200, 'ok' ],  200, 'ok',  'done',     'said 503' ],
    [ 'again',  $close,    'close',        502, $page, 'unknown',  'closed'   ],
    [ 'again',  $close,    'refuse',       502, $page, 'unknown',  'closed'   ],
);

for (@pairs) {
    my ($location, $first, $then, $status, $body, $became, $why) = @$_;
    my $how = ref $then ? "says $then->[0]" : $then // 'is not asked';

    $first->() if $first == $refuse;
    $other->accept('refuse') if $how eq 'refuse';

    ends($became, "/$location/", sub {
        $first->();
        $other->close if $how eq 'close';
        $other->answer(@$then) if ref $then;
    }, $status, $body, "two servers, one $why, the other: $how");
}

done_testing;
