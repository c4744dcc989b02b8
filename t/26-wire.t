#!/usr/bin/perl

# The wire between nginx and an upstream may break at any byte, or fall silent
# there.  A client gets a whole answer or a clean 502 or 504, never half of
# one; what was sent, and not answered as a whole, is never sent again.

use lib 't/lib';
use Test::Idempotency;

use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);

# an upstream that the test itself plays, connection by connection

my $raw = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16)
    or die "no raw upstream: $!\n";

# one that has no room for another connection: connecting hangs

my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp')
    or die "no deaf upstream: $!\n";
listen $deaf, 0;
my @crowd = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', Blocking => 0,
                                        PeerPort => $deaf->sockport) } 1 .. 4;

my $proxy = 'proxy_pass http://backend;';
my $kept = 'proxy_http_version 1.1; proxy_set_header Connection "";';
my $short = 'proxy_read_timeout 1500ms;';

my $locations = <<"LOCATIONS";
    location /off/        { $proxy proxy_buffering off; }
    location /kept/       { $proxy $kept }
    location /kept/off/   { $proxy $kept proxy_buffering off; }
    location /short/      { $proxy $short }
    location /short/off/  { $proxy $short $kept proxy_buffering off; }
    location /raw/ {
        proxy_pass          http://127.0.0.1:@{[ $raw->sockport ]};
        proxy_send_timeout  1s;
        proxy_read_timeout  1s;
    }
LOCATIONS

my $t = Test::Idempotency->new(<<'END', locations => $locations,
    idempotency           payments;
    idempotency_methods   POST PATCH PUT;
    client_max_body_size  20m;
END
    backends => [ 'other' ], tls => 1, workers => 1);

my $backend = $t->backend;
my $other = $t->backend('other');
my $page = qr/^<html>/;
my $n = 0;


# Requests that run at the same time.  Of each: its path, what the upstream
# sends (and whether it then closes, resets, or holds the connection), what the
# client gets, what becomes of the claim.

sub ends_all {
    my ($path, @cases) = @_;

    $backend->hold;
    $_->{request} = { path => $path, key => 'k' . ++$n } for @cases;
    $_->{client} = $t->start_post(%{ $_->{request} }) for @cases;
    $backend->wait_for_request(scalar @cases);

    my %held = map { $_->header('Idempotency-Key') => $_ } $backend->all;

    $backend->answer(0, '', raw => $_->{bytes}, then => $_->{then},
                     to => $held{ $_->{request}{key} }) for @cases;
    is_answer($_->{client}, @$_{qw(status body)},
              "$path, $_->{name}: the client gets $_->{status}") for @cases;

    $backend->auto(200, 'once more');
    is_fate($_, "$path, $_->{name}") for @cases;

    return;
}


sub is_fate {
    my ($case, $name) = @_;

    my $key = $case->{request}{key};
    my $again = $t->post(%{ $case->{request} });
    my $became = $case->{became};

    is_replay($again, @$case{qw(status body)}, "$name: replayed")
        if $became eq 'done';
    is_problem($again, 409, 'outcome-unknown', "$name: unknown")
        if $became eq 'unknown';
    is_problem($again, 409, 'response-not-stored', "$name: unstored")
        if $became eq 'unstored';
    is_answer($again, 200, 'once more', "$name: released")
        if $became eq 'released';

    return is(scalar(grep { $_->header('Idempotency-Key') eq $key }
                     $backend->all),
              $became eq 'released' ? 2 : 1, "$name: executions");
}


# An answer may end behind each of these pieces.

my $body = 'receipt 7';
my $status = "HTTP/1.1 201 Created\r\n";
my $length = 'Content-Length: ' . length($body) . "\r\n";

my @plain = (
#     piece                  where it ends
    [ '',                    'before the first byte'      ],
    [ 'HTT',                 'in the name of HTTP'        ],
    [ 'P/1.1 20',            'in the status'              ],
    [ '1 Created',           'before the end of the line' ],
    [ "\r\n",                'after the status line'      ],
    [ 'X-Fie',               'in the name of a field'     ],
    [ 'ld: val',             'in the value of a field'    ],
    [ "ue\r\n",              'after a field'              ],
    [ $length,               'after the last field'       ],
    [ "\r",                  'in the end of the header'   ],
    [ "\n",                  'before the body'            ],
    [ 'r',                   'after a byte of the body'   ],
    [ 'eceipt ',             'before the last byte'       ],
    [ '7',                   'after the last byte'        ],
);

my @chunked = (
    [ "${status}Transfer-Encoding: chunked\r\n\r\n",
                             'before a chunk'             ],
    [ '9',                   'in the size of a chunk'     ],
    [ "\r\n",                'after the size of a chunk'  ],
    [ 'receipt ',            'in a chunk'                 ],
    [ '7',                   'after the bytes of a chunk' ],
    [ "\r\n",                'before the last chunk'      ],
    [ '0',                   'in the last chunk'          ],
    [ "\r\n",                'before the trailers'        ],
    [ 'X-Sum: 1',            'in the trailers'            ],
    [ "\r\n",                'after a trailer'            ],
    [ "\r\n",                'after the trailers'         ],
);


# What an upstream may do that ends so behind each piece.

sub cuts {
    my ($then, @pieces) = @_;

    my $bytes = '';
    my @cases;

    for (@pieces) {
        my ($piece, $where) = @$_;

        $bytes .= $piece;
        push @cases, { bytes => $bytes, then => $then, status => 502,
                       body => $page, became => 'unknown',
                       name => "$then $where" };
        $cases[-1]{status} = 504
            if $then eq 'hold' && $bytes !~ /\r\n\r\n/;
    }

    @{ $cases[-1] }{qw(status body became)} = (201, $body, 'done');

    return @cases;
}


for my $path ('/', '/off/', '/kept/', '/kept/off/') {
    for my $then ('close', 'reset') {
        ends_all($path, cuts($then, @plain));
        ends_all($path, cuts($then, @chunked));
    }
}

for my $path ('/short/', '/short/off/') {
    ends_all($path, cuts('hold', @plain), cuts('hold', @chunked));
}

# Headers that are none, or say two things at once.

my $ok = "HTTP/1.1 200 OK\r\n";
my $answer = "${ok}Content-Length: 5\r\n\r\nabcde";
my $chunk = "5\r\nabcde\r\n";
my $te = "${ok}Transfer-Encoding: chunked\r\n";
my $cl = "${ok}Content-Length:";

my @none = (
#     the upstream sends                                why
    [ "\r\n$answer",                                    'an empty line ahead' ],
    [ "200 OK\r\n\r\nabcde",                            'no version'          ],
    [ "HTTP/1.1 99 No\r\n\r\nabcde",                    'status 99'           ],
    [ "HTTP/1.1 000 No\r\n\r\nabcde",                   'status 000'          ],
    [ "HTTP/1.1 099 No\r\n\r\nabcde",                   'status 099'          ],
    [ "HTTP/1.1 1000 No\r\n\r\nabcde",                  'status 1000'         ],
    [ "HTTP/1.1 -20 No\r\n\r\nabcde",                   'status -20'          ],
    [ "${ok}X Y: 1\r\n\r\nabcde",                       'a space in a name'   ],
    [ "${ok}X: 1\r\n 2\r\n\r\nabcde",                   'a folded field'      ],
    [ "${ok}X: " . 'x' x 70000 . "\r\n\r\nabcde",       'a large field'       ],
    [ $ok . "X: 1\r\n" x 3000 . "\r\nabcde",            'many fields'         ],
    [ "$cl -5\r\n\r\nabcde",                            'a negative length'   ],
    [ "$cl 5x\r\n\r\nabcde",                            'no number'           ],
    [ "$cl \r\n\r\nabcde",                              'an empty length'     ],
    [ "$cl 5, 5\r\n\r\nabcde",                          'a list of lengths'   ],
    [ "$cl 9" . '9' x 30 . "\r\n\r\na",                 'a huge length'       ],
    [ "$cl 5\r\nContent-Length: 3\r\n\r\nabcde",        'two lengths'         ],
    [ "$cl 3\r\nContent-Length: 5\r\n\r\nabcde",        'two lengths, turned' ],
    [ "${te}\r\nx\r\n",                                 'no size of a chunk'  ],
    [ "${te}\r\n-5\r\nabcde\r\n0\r\n\r\n",              'a negative chunk'    ],
    [ "${te}\r\n" . 'f' x 18 . "\r\na\r\n0\r\n\r\n",    'a huge chunk'        ],
    [ "${te}\r\n5\r\nabcdefg0\r\n\r\n",                 'a chunk too long'    ],
    [ "HTTP/1.1 100 Continue\r\n\r\n",                  '100 and nothing'     ],
    [ "HTTP/1.1 100 Continue\r\n\r\n$answer",           '100 and an answer'   ],
    [ "HTTP/1.1 102 Processing\r\n\r\n$answer",         '102 and an answer'   ],
    [ "HTTP/1.1 103 Early\r\nX: 1\r\n\r\n$answer",      '103 and an answer'   ],
);

my @whole = (
#     the upstream sends                             the client    why
    [ "${answer}fghi",                               200, 'abcde',
      'more than announced'  ],
    [ "${te}\r\n${chunk}0\r\n\r\nmore",              200, 'abcde',
      'more than chunks'     ],
    [ "${te}\r\n5;x=y\r\nabcde\r\n0\r\n\r\n",        200, 'abcde',
      'a chunk\'s extension' ],
    [ "${te}Content-Length: 3\r\n\r\n${chunk}0\r\n\r\n", 200, 'abcde',
      'chunks and a length'  ],
    [ "$cl 5\r\nContent-Length: 5\r\n\r\nabcde",     200, 'abcde',
      'a length, twice'      ],
    [ "HTTP/1.1 200\nContent-Length: 5\n\nabcde",    200, 'abcde',
      'bare line feeds'      ],
    [ "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nab", 204, '',
      '204 with half a body' ],
    [ "HTTP/1.1 999 No\r\nContent-Length: 5\r\n\r\nabcde", 999, 'abcde',
      'status 999'           ],
);

my %close = (then => 'close');

for my $path ('/', '/off/', '/kept/') {
    ends_all($path,
        map({ { %close, bytes => $_->[0], name => $_->[1], status => 502,
                body => $page, became => 'unknown' } } @none),
        map({ { %close, bytes => $_->[0], name => $_->[3], status => $_->[1],
                body => $_->[2], became => 'done' } } @whole),
        { %close, bytes => "HTTP/1.1 101 No\r\n\r\nabcde", status => 101,
          became => 'unstored', name => '101, not asked for' });
}

# A request may break on its way, too: small, or larger than what is on the way
# of it; or it is answered before it was read.

sub accept_raw {
    my $socket = wait_for('nginx connects', sub {
        return IO::Select->new($raw)->can_read(0) && $raw->accept;
    });

    wait_for('nginx sends', sub { IO::Select->new($socket)->can_read(0) });

    return $socket;
}


sub reset_raw {
    my ($socket) = @_;

    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0;
    close $socket;

    return;
}


sub says { my ($bytes) = @_; return sub { syswrite $_[0], $bytes } }

my %acts = (
    closes    => sub { close $_[0] },
    resets    => sub { reset_raw($_[0]) },
    tastes    => sub { sysread $_[0], my $byte, 1; reset_raw($_[0]) },
    is_mute   => sub { },
    refuses   => says("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"),
    accepts   => says("HTTP/1.1 202 OK\r\nContent-Length: 2\r\n\r\nok"),
    stammers  => says("HTTP/1.1 202 OK\r\nContent-Length: 2\r\n\r\no"),
);

my @early = (
#     the upstream  body   status  body   becomes
    [ 'closes',     'x',      502, $page, 'unknown'  ],
    [ 'resets',     'x',      502, $page, 'unknown'  ],
    [ 'tastes',     'x',      502, $page, 'unknown'  ],
    [ 'is_mute',    'x',      504, $page, 'unknown'  ],
    [ 'closes',     'large',  502, $page, 'unknown'  ],
    [ 'tastes',     'large',  502, $page, 'unknown'  ],
    [ 'is_mute',    'large',  504, $page, 'unknown'  ],
    [ 'refuses',    'large',  413, 'no',  'released' ],
    [ 'accepts',    'large',  202, 'ok',  'done'     ],
    [ 'stammers',   'large',  502, $page, 'unknown'  ],
);

for (@early) {
    my ($act, $size, $status, $body, $became) = @$_;
    my $name = "the upstream $act, a request that is $size";
    my %request = (path => '/raw/', key => 'k' . ++$n,
                   body => $size eq 'large' ? 'x' x (8 << 20) : $size);

    my $client = $t->start_post(%request);
    my $socket = accept_raw();
    $acts{$act}->($socket);
    is_answer($client, $status, $body, "$name: the client gets $status");

    my $again = $t->start_post(%request);

    if ($became eq 'released') {
        $acts{accepts}->(my $socket = accept_raw());
        is_answer($again, 202, 'ok', "$name: released");
    }

    is_problem($again, 409, 'outcome-unknown', "$name: unknown")
        if $became eq 'unknown';
    is_replay($again, $status, $body, "$name: replayed") if $became eq 'done';
    ok(!IO::Select->new($raw)->can_read(0), "$name: nobody asks again");
}

# Several servers: what was sent to none may go to the next one, what was sent
# to one may not.  And TLS: what its handshake sends is not the request.

my %server = (map({ $_ => '127.0.0.1:' . $t->backend($_)->port }
                  'backend', 'other'),
              deaf => '127.0.0.1:' . $deaf->sockport,
              tls => "unix:@{[ $t->dir ]}/tls.sock");


sub group {
    my ($name, $first, $second, $options) = @_;

    return "upstream $name { server $server{$first} @{[ $options // '' ]};"
           . " server $server{$second} max_fails=0 backup; }\n";
}


my $once = 'proxy_connect_timeout 500ms; proxy_read_timeout 1s;';
my $more = 'proxy_next_upstream error timeout invalid_header http_500'
           . ' http_503 http_429;';
my $tls = 'proxy_pass https://tls; proxy_ssl_session_reuse off;';

$t->change(
    http => group('pair', 'backend', 'other', 'max_fails=0')
            . group('late', 'deaf', 'other', 'max_fails=0')
            . group('mixed', 'backend', 'tls', 'max_fails=0')
            . <<"HTTP", locations => $locations . <<"LOCATIONS");
    upstream tls    { server $server{tls}; }
    upstream idle   { server 127.0.0.1:@{[ $raw->sockport ]}; keepalive 4; }
    upstream marks  {
        zone marks 64k;
        server $server{backend} max_fails=1 fail_timeout=1h;
        server $server{other} max_fails=1 fail_timeout=1h;
    }
    server {
        listen               $server{tls} ssl;
        ssl_certificate      certificate.pem;
        ssl_certificate_key  key.pem;
        ssl_protocols        TLSv1.3;

        location /       { proxy_pass http://$server{other}; }
        location /shut/  { return 444; }
    }
HTTP
    location /pair/      { proxy_pass http://pair; $once $more }
    location /tries/     { proxy_pass http://pair; $once $more
                           proxy_next_upstream_tries 1; }
    location /never/     { proxy_pass http://pair; $once
                           proxy_next_upstream off; }
    location /late/      { proxy_pass http://late; $once }
    location /too/late/  { proxy_pass http://late; $once
                           proxy_next_upstream_timeout 100ms; }
    location /marks/     { proxy_pass http://marks; $once }
    location /idle/      { proxy_pass http://idle; $once $kept }

    location /tls/       { $tls proxy_ssl_protocols TLSv1.3; }
    location /shut/      { $tls proxy_ssl_protocols TLSv1.3; }
    location /old/       { $tls proxy_ssl_protocols TLSv1.2; }
    location /foreign/ {
        $tls
        proxy_ssl_protocols            TLSv1.3;
        proxy_ssl_verify               on;
        proxy_ssl_name                 elsewhere;
        proxy_ssl_trusted_certificate  certificate.pem;
    }
    location /plain/     { proxy_pass https://backend; $once
                           proxy_ssl_protocols TLSv1.3; }
    location /mixed/     { proxy_pass https://mixed;
                           proxy_ssl_protocols TLSv1.3; }
LOCATIONS
$t->reload->wait_for_old_workers;
$t->allow(qr/\[crit\].* while SSL handshaking to upstream/);

my @connecting = map { my $how = $_; sub { $backend->accept($how) } }
    qw(refuse close ignore);
my ($refuses, $closes_at_once, $ignores) = @connecting;
my $both_refuse = sub { $_->accept('refuse') for $backend, $other };


sub answers { my @answer = @_; return sub { $backend->answer(@answer) } }


# The first one acts so, the other one answers 200: how often is each asked?

sub passes_on {
    my ($path, $act, $end, $asked, $why) = @_;

    my ($status, $body, $became) = @$end;
    my %request = (path => $path, key => 'k' . ++$n,
                   method => $why =~ /^P/ ? $why : 'POST');
    my $firsts = $t->counter('first');
    my $early = grep { $_ == $act } @connecting, $both_refuse;

    $backend->hold;
    $other->auto(200, 'ok');
    $act->() if $early;
    my $client = $t->start_post(%request);
    $act->() if !$early;

    is_answer($client, $status, $body, "$path, $why: the client gets $status");

    my $times = sub {
        my ($which) = @_;
        return scalar grep { $_->header('Idempotency-Key') eq $request{key} }
            $which->all;
    };

    is(join('+', map { $times->($_) } $backend, $other), $asked,
       "$path, $why: who was asked");

    $_->accept('read') for $backend, $other;
    $backend->auto(200, 'once more');

    my $again = $t->post(%request);
    is_replay($again, $status, $body, "$path, $why: replayed")
        if $became eq 'done';
    is_problem($again, 409, 'outcome-unknown', "$path, $why: unknown")
        if $became eq 'unknown';

    return is($t->counter('first'), $firsts + ($became eq 'released' ? 2 : 1),
              "$path, $why: claims");
}


my $nothing = sub { };
my $break = sub { $backend->close };
my $silence = sub { $backend->wait_for_request };
my $half = answers(200, 'x' x 100, cut => 50);
my $garbage = answers(0, '', raw => "X Y\r\n\r\n");
my ($no, $busy, $slow) = map { answers($_, 'no') } 500, 503, 429;

my $done = [ 200, 'ok', 'done' ];
my $lost = [ 502, $page, 'unknown' ];
my $free = [ 502, $page, 'released' ];

my @servers = (
#     location      the first        the client gets       asked  why
    [ '/pair/',     $refuses,        $done,                '0+1', 'refused'   ],
    [ '/pair/',     $break,          $lost,                '1+0', 'closed'    ],
    [ '/pair/',     $silence, [ 504, $page, 'unknown' ],   '1+0', 'silence'   ],
    [ '/pair/',     $half,           $lost,                '1+0', 'half'      ],
    [ '/pair/',     $garbage,        $lost,                '1+0', 'no header' ],
    [ '/pair/',     $no,      [ 500, 'no', 'done' ],       '1+0', 'says 500'  ],
    [ '/pair/',     $busy,    [ 503, 'no', 'released' ],   '1+0', 'says 503'  ],
    [ '/pair/',     $slow,    [ 429, 'no', 'released' ],   '1+0', 'says 429'  ],
    [ '/pair/',     $both_refuse,    $free,                '0+0', 'both'      ],
    [ '/never/',    $refuses,        $free,                '0+0', 'refused'   ],
    [ '/tries/',    $refuses,        $free,                '0+0', 'refused'   ],
    [ '/late/',     $nothing,        $done,                '0+1', 'no room'   ],
    [ '/too/late/', $nothing, [ 504, $page, 'released' ],  '0+0', 'no room'   ],

    [ '/pair/',     $break,          $lost,                '1+0', 'PATCH'     ],
    [ '/never/',    $break,          $lost,                '1+0', 'PUT'       ],

    [ '/marks/',    $refuses,        $done,                '0+1', 'one fails' ],
    [ '/marks/',    $nothing,        $done,                '0+1', 'is marked' ],
    [ '/marks/',    $both_refuse,    $free,                '0+0', 'all fail'  ],
    [ '/marks/',    $nothing,        $free,                '0+0', 'no one'    ],

    [ '/tls/',      $nothing,        $done,                '0+1', 'all well'  ],
    [ '/shut/',     $nothing,        $lost,                '0+0', 'no answer' ],
    [ '/old/',      $nothing,        $free,                '0+0', 'protocol'  ],
    [ '/foreign/',  $nothing,        $free,                '0+0', 'distrust'  ],
    [ '/plain/',    $closes_at_once, $free,                '0+0', 'no TLS'    ],
    [ '/plain/',    $ignores, [ 504, $page, 'released' ],  '0+0', 'silence'   ],
    [ '/mixed/',    $closes_at_once, $done,                '0+1', 'no TLS'    ],

    # nginx thinks that it does no harm

    [ '/pair/',     $break,          $done,                '1+1', 'PUT'       ],
);

passes_on(@$_) for @servers;

# A connection to the upstream that was kept, and that the upstream closes:
# while nobody needs it, and in the moment when a request is sent on it.

sub answer_raw {
    my ($socket) = @_;

    sysread $socket, my $request, 1 << 16;
    $acts{accepts}->($socket);

    return $socket;
}


sub idle { return (method => 'POST', path => '/idle/', key => 'k' . ++$n) }

my %request = idle();
my $client = $t->start_post(%request);
my $socket = answer_raw(accept_raw());

is_answer($client, 202, 'ok', 'a connection to keep');
close $socket;
$t->zone;                           # nginx has seen that
%request = idle();
$client = $t->start_post(%request);
$socket = answer_raw(accept_raw());
is_answer($client, 202, 'ok', 'closed while idle: another one is made');
is_replay($t->post(%request), 202, 'ok', 'closed while idle: replayed');

# both happen while nginx does not look, the request first

my ($worker) = $t->workers;
%request = idle();
$client = $t->connect;
$t->worker_of($client);
kill 'STOP', $worker;
wait_for('nginx stands still', sub {
    open my $in, '<', "/proc/$worker/stat" or return;
    return <$in> =~ /\) T/;
});
$client->request(%request);
close $socket;
kill 'CONT', $worker;

is_answer($client->next_response, 502, $page, 'closed as nginx sends: 502');
is_problem($t->post(%request), 409, 'outcome-unknown',
           'closed as nginx sends: unknown');
ok(!IO::Select->new($raw)->can_read(0), 'closed as nginx sends: not again');

done_testing;
