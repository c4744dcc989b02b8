#!/usr/bin/perl

# What the other tests stand on: the backend holds what it is not told to
# answer, clients read what was sent, nginx starts, reloads and ends, and no
# wait is endless.  The module takes no part in this.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new('', module => 0, http2 => 1, tls => 1,
                               backends => [ 'other' ],
                               locations => <<'EOF');
    location /other {
        proxy_pass http://other;
    }

    location /kept/ {
        proxy_pass http://backend;
        proxy_http_version 1.1;
        proxy_set_header Connection '';
    }
EOF

my $backend = $t->backend;

# held, answered, collected later

my @pending = map { $t->start_post(path => "/$_", body => "b$_") } 1 .. 3;
$backend->wait_for_request(3);

is($_->answered, 0, 'nothing is answered yet') for @pending;

my %held = map { $_->uri => $_ } $backend->all;
$backend->answer(201, "to $_", to => $held{"/$_"}) for 3, 1, 2;

is_answer($pending[$_ - 1], 201, "to $_", "number $_ gets its own")
    for 1 .. 3;

is($backend->requests, 3, 'three requests have come');
is($held{'/2'}->body, 'b2', 'with their bodies');
is($held{'/2'}->method, 'POST', 'and methods');

# what the wire carries

my $binary = join('', map { chr } 0 .. 255) x 4000;
my $p = $t->start_post(body => $binary,
                       headers => [ [ 'X-Two', 1 ], [ 'X-Two', 2 ] ]);
my $seen = $backend->wait_for_request;

ok($seen->body eq $binary, 'a binary body of 1 MB arrives');
is(join(' ', $seen->headers('x-two')), '1 2', 'both fields of a name arrive');

$backend->answer(200, $binary, reason => 'So Be It',
                 headers => [ [ 'X-A', 1 ], [ 'X-B', 2 ], [ 'X-A', 3 ] ]);
is_answer($p, 200, $binary, 'a binary body of 1 MB comes back');
is($p->response->reason, 'So Be It', 'with its reason');
is(join(' ', grep { /^X-/ } $p->response->header_names), 'X-A X-B X-A',
   'and its fields in order');

$backend->auto(200, 'answer %n');

is_answer($t->post(body => $binary), 200, 'answer 5', 'answered at once');
is_answer($t->post(chunked => [ 'a', 'bc' ]), 200, 'answer 6', 'chunked too');
is($backend->last->body, 'abc', 'the chunks are put together');

$backend->on('/chunks', 200, '', chunked => [ 'one,', 'two' ]);
is_answer($t->post(path => '/chunks'), 200, 'one,two', 'so are an answer\'s');

is($t->get(method => 'HEAD')->status, 200, 'HEAD has an answer');
is($t->get(method => 'HEAD')->body, '', 'and no body');

$backend->on('/none', 204, '');
is_answer($t->get(path => '/none'), 204, '', '204 has none');

my $c = $t->connect;
my @keep = (method => 'POST', headers => [ [ 'Connection', 'keep-alive' ] ]);
$c->send(join('', map { $c->compose(@keep, path => "/p$_") } 1 .. 3),
         ('POST') x 3);
like($c->next_response->body, qr/^answer \d+$/, "pipelined $_") for 1 .. 3;
$c->request(@keep, path => '/');
is($c->next_response->status, 200, 'and one more on the same connection');
$c->close;

is_answer($t->post(path => '/kept/'), 200, qr/^answer/, 'kept alive upstream');

$p = $t->start_post(body => 'x', headers => [ [ 'Expect', '100-continue' ] ]);
is($p->response->status, 200, '100-continue is followed by an answer');
is(join(' ', map { $_->status } $p->response->interim), '100', 'and seen');

SKIP: {
    skip 'curl knows no HTTP/2', 2 if !Test::Idempotency::Http2::available();

    like($t->http2(path => '/h2', body => 'two')->body, qr/^answer/, 'HTTP/2');
    is($backend->last->body, 'two', 'its body arrives');
}

# HTTP/2 by frames, and TLS; zeros make it worth nginx's while to compress

my $text = join '', '0' x 120, map { chr } 33 .. 91, 93 .. 126;

for my $tls (0, $t->can_tls ? 1 : ()) {
    my $name = $tls ? 'TLS' : 'no TLS';
    my %o = (method => 'POST', path => '/', tls => $tls);

    is_answer($t->post(%o, body => $binary), 200, qr/^answer/,
              "$name: a body of 1 MB");
    ok($backend->last->body eq $binary, "$name: it arrives");

    $backend->on('/binary', 200, $binary, headers => [ [ 'X-Text', $text ] ]);

    my $c = $t->connect_http2(tls => $tls);
    my @streams = map { $c->request(%o, %$_) } { key => 'k7', body => 'two' },
        { path => '/none' }, { path => '/binary' };

    is_answer($streams[2], 200, $binary, "$name: HTTP/2, 1 MB of an answer");
    is($streams[2]->response->header('X-Text'), $text,
       "$name: HTTP/2, a field");
    is_answer($streams[1], 204, '', "$name: HTTP/2, no body");
    is_answer($streams[0], 200, qr/^answer/, "$name: HTTP/2, answers mix");
    my ($seen) = grep { ($_->header('Idempotency-Key') // '') eq 'k7' }
        $backend->all;
    is($seen->body, 'two', "$name: HTTP/2, the body arrives");
    $c->close;

    $c = $t->connect_http2(tls => $tls, window => 1000);
    my $s = $c->request(%o, path => '/binary');
    wait_for('a window of an answer', sub {
        $s->answered; length $s->{body} == 1000
    });
    $s->open_window;
    is_answer($s, 200, $binary, "$name: HTTP/2, a window that opens");
    $c->close;
}

# a backend that fails

my @cases = (
#     what it does                                           status  why
    [ sub { $backend->close },                                  502, 'close' ],
    [ sub { $backend->reset },                                  502, 'reset' ],
    [ sub { $backend->answer(0, '', raw => "HTTP/1.1 200") },   502, 'head'  ],
    [ sub { $backend->answer(200, 'x' x 9, cut => 4) },         0,   'cut'   ],
);

$backend->hold;

for (@cases) {
    my ($fault, $status, $why) = @$_;

    $p = $t->start_post;
    $backend->wait_for_request;
    $fault->();
    is($p->response->status, $status, "a backend may fail: $why");
}

for my $how (qw(close reset refuse)) {
    $backend->accept($how);
    is($t->post->status, 502, "a backend may $how at once");
}

$backend->accept('read');

$p = $t->start_post;
$backend->wait_for_request;
$backend->send("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nab");
$backend->answer(0, '', raw => 'cd');
is_answer($p, 200, 'abcd', 'an answer in two pieces');

# clients that leave

for my $leave (qw(close reset half_close)) {
    my $gone = $backend->gone;

    $p = $t->start_post;
    $backend->wait_for_request;
    $p->$leave;
    wait_for("the backend sees $leave", sub { $backend->gone > $gone });
    pass("a client may $leave");
}

for my $tls (0, $t->can_tls ? 1 : ()) {
    for my $leave (qw(cancel close reset goaway)) {
        my $gone = $backend->gone;
        my $s = $t->connect_http2(tls => $tls)
            ->request(method => 'POST', path => '/');

        $backend->wait_for_request;
        $s->$leave;
        wait_for("the backend sees $leave", sub { $backend->gone > $gone });
        pass("HTTP/2: a client may $leave" . ($tls ? ', TLS' : ''));
    }
}

$t->backend('other')->auto(200, 'the other');
is_answer($t->post(path => '/other'), 200, 'the other', 'a second backend');

# processes

is(scalar(my @workers = $t->workers), 2, 'two workers');

$p = $t->start_post;
$backend->wait_for_request;
$t->reload;
wait_for('the idle one ends', sub { $t->old_workers == 1 });
$backend->answer(200, 'late');
is_answer($p, 200, 'late', 'and ends it');
$t->wait_for_old_workers;

my $killed = $t->kill_worker;
is(scalar(grep { $_ == $killed } $t->workers), 0, 'a worker is replaced');

$t->change(http => "    nonsense on;\n");
like($t->refuse_reload(qr/unknown directive "nonsense"/), qr/emerg/,
     'a reload is refused');
$t->change(http => '');

# configurations

conf_fails('nonsense;', qr/unknown directive "nonsense"/,
           'a configuration that nginx refuses', module => 0);
conf_works('keepalive_timeout 1s;', undef,
           'a configuration that nginx takes', module => 0);

done_testing;
