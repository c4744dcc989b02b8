#!/usr/bin/perl

# Whatever a request gets, a replay or a problem, early or late, the client's
# connection is as good as before, and the next request on it is understood.

use lib 't/lib';
use Test::Idempotency;

my $proxy = 'proxy_pass http://backend;';

my $t = Test::Idempotency->new(<<'END', http2 => 1, locations => <<"LOCATIONS",
    idempotency            payments;
    idempotency_methods    HEAD POST;
    client_max_body_size   8m;
    idempotency_concurrent reject;
END
    location /required/ { $proxy idempotency_required on; }
LOCATIONS
    zone => 'zone=payments:8m');

my $backend = $t->backend;
my @keep = ([ 'Connection', 'keep-alive' ]);
my $large = join '', map { chr 128 + rand 128 } 1 .. 3 << 20;
my $n = 0;

$backend->auto(200, 'answer %n');


sub key { return 'k' . ++$n }


# Requests with an answer that shows what they were taken for; "/required/"
# wants a key.

sub requests {
    my ($body, @framing) = @_;

    my ($one, $two) = (key(), key());
    my @framed = (@framing, method => 'POST', headers => \@keep);

    return (
        [ 200, 'answer',     path => '/', key => $one, @framed ],
        [ 200, 'replay',     path => '/', key => $one, @framed ],
        [ 400, 'key-missing', path => '/required/', @framed ],
        [ 200, 'answer',     path => '/', key => $two, @framed ],
        [ 400, 'key-invalid', path => '/', key => '"', @framed ],
        [ 422, 'key-reused', path => '/', key => $one, @framed,
          chunked => undef, body => $body . 'x' ],
        [ 200, 'answer',     path => '/', @framed ],
        [ 200, 'answer',     path => '/', method => 'GET', headers => \@keep ],
        [ 200, 'replay',     path => '/', key => $two, @framed ],
        [ 400, 'key-missing', path => '/required/', @framed,
          method => 'HEAD' ],
        [ 200, 'replay',     path => '/', key => $one, @framed ],
    );
}


sub is_expected {
    my ($m, $status, $what, $method, $name) = @_;

    return is($m->status, $status, $name) if $method eq 'HEAD';
    return is_answer($m, 200, qr/^answer \d+$/, $name) if $what eq 'answer';
    return is_replay($m, 200, qr/^answer \d+$/, $name) if $what eq 'replay';
    return is_problem($m, $status, $what, $name);
}


# One after the other on one connection, then all at once.

my @bodies = (
#     name           body and its framing
    [ 'no body',     '' ],
    [ 'a body',      'eur=1' ],
    [ 'a long one',  'eur=1' x 5000 ],
    [ 'chunks',      'eur=1', chunked => [ 'eur', '=1' ] ],
    [ 'long chunks', 'eur=1' x 5000, chunked => [ ('eur=1' x 500) x 10 ] ],
);

for (@bodies) {
    my ($name, $body, @framing) = @$_;
    my $c = $t->connect;

    for (requests($body, @framing, body => $body)) {
        my ($status, $what, %o) = @$_;

        is_expected($c->request(%o)->next_response, $status, $what, $o{method},
                    "keepalive, $name: $what to $o{method}");
    }

    my @pipe = requests($body, @framing, body => $body);

    $c->send(join('', map { my ($s, $w, %o) = @$_; $c->compose(%o) } @pipe),
             map { my ($s, $w, %o) = @$_; $o{method} } @pipe);

    for (@pipe) {
        my ($status, $what, %o) = @$_;

        is_expected($c->next_response, $status, $what, $o{method},
                    "pipelining, $name: $what to $o{method}");
    }

    $c->close;
}

# A duplicate behind its own first on one connection does not block it.

$backend->hold;
my %request = (method => 'POST', path => '/', key => key(), body => 'eur=1');
my $p = $t->start_post(%request);
my $c = $t->connect;
$backend->wait_for_request;

for my $round (1, 2) {
    is_problem($c->request(%request, headers => \@keep)->next_response, 409,
               'in-flight', "a 409 on a connection, round $round");
}

$backend->answer(201, 'receipt');
is_answer($p, 201, 'receipt', 'the first on its own connection');
is_replay($c->request(%request, headers => \@keep)->next_response, 201,
          'receipt', 'a replay where there were problems');
$c->close;
$backend->auto(200, 'answer %n');

# A large body: refused before it has come, its rest does not confuse anybody.

for my $framing ([ body => $large ],
                 [ chunked => [ unpack '(a100000)*', $large ] ])
{
    my @o = (method => 'POST', headers => \@keep, @$framing);
    my $c = $t->connect;
    my $key = key();
    my $how = $framing->[0];

    is_problem($c->request(@o, path => '/required/')->next_response, 400,
               'key-missing', "a large $how without a key");
    is_problem($c->request(@o, path => '/', key => '""')->next_response, 400,
               'key-invalid', "a large $how with a bad key");
    is_answer($c->request(@o, path => '/', key => $key)->next_response, 200,
              qr/^answer/, "a large $how passes");
    ok($backend->last->body eq $large, "the large $how arrives");
    is_replay($c->request(@o, path => '/', key => $key)->next_response, 200,
              qr/^answer/, "a large $how again");
    is_problem($c->request(method => 'POST', headers => \@keep, path => '/',
                           key => $key, body => "$large.")->next_response,
               422, 'key-reused', "a large $how and a byte");
    is_answer($c->request(method => 'GET', path => '/',
                          headers => \@keep)->next_response, 200, qr/^answer/,
              'the connection is as good as before');
    $c->close;
}

# A client that closes after each request.

%request = (path => '/', key => key(), body => $large);
is_answer($t->post(%request), 200, qr/^answer/, 'a large body, then close');
is_replay($t->post(%request), 200, qr/^answer/, 'its replay');
is_problem($t->post(path => '/required/', body => $large), 400, 'key-missing',
           'its problem');

# Expect: 100-continue.

my @expect = ([ 'Expect', '100-continue' ], @keep);
%request = (method => 'POST', path => '/', key => key(), body => 'eur=1',
            headers => \@expect);

for my $what (qw(answer replay)) {
    my $c = $t->connect;
    my ($head, $body) = $c->compose(%request) =~ /^(.*\r\n\r\n)(.*)/s;

    $c->send($head, 'POST');
    wait_for('100', sub { $c->answered });
    $c->send($body);

    my $m = $c->next_response;
    is(join(' ', map { $_->status } $m->interim), 100, "100, then the $what");
    is_expected($m, 200, $what, 'POST', "100-continue: the $what");
    is_expected($c->request(%request)->next_response, 200, 'replay', 'POST',
                "100-continue: a replay after the $what");
    $c->close;
}

$c = $t->connect;
is_problem($c->request(%request, path => '/required/', key => undef)
             ->next_response, 400, 'key-missing', '100-continue: a problem');
is_replay($c->request(%request)->next_response, 200, qr/^answer/,
          'and a replay after it');
$c->close;

# HTTP/1.0

$backend->on('/chunks', 200, '', chunked => [ 'one,', 'two' ]);
%request = (path => '/chunks', key => key(), http => '1.0', body => 'eur=1');
is_answer($t->post(%request), 200, 'one,two', 'HTTP/1.0');
my $replay = $t->post(%request);
is_replay($replay, 200, 'one,two', 'HTTP/1.0: a replay');
is($replay->header('Content-Length'), 7, 'with its length');
is($replay->header('Transfer-Encoding'), undef, 'and no chunks');
is_problem($t->post(%request, body => 'eur=2'), 422, 'key-reused',
           'HTTP/1.0: a problem');

$c = $t->connect;
%request = (%request, method => 'POST', headers => \@keep);
is_replay($c->request(%request)->next_response, 200, 'one,two',
          "HTTP/1.0, kept alive $_") for 1, 2;
$c->close;

# HTTP/2

SKIP: {
    skip 'curl knows no HTTP/2', 7 if !Test::Idempotency::Http2::available();

    my @type = ([ 'Content-Type', 'application/x-www-form-urlencoded' ]);
    my %request = (path => '/', key => key(), body => 'eur=1',
                   headers => \@type);
    my $first = $t->http2(%request);

    is_answer($first, 200, qr/^answer/, 'HTTP/2');
    is_replay($t->http2(%request), 200, $first->body, 'HTTP/2: a replay');
    is_replay($t->post(%request), 200, $first->body, 'HTTP/1.1 replays HTTP/2');
    is_problem($t->http2(%request, body => 'eur=2'), 422, 'key-reused',
               'HTTP/2: 422');
    is_problem($t->http2(%request, key => '"', body => undef), 400,
               'key-invalid', 'HTTP/2: 400');

    %request = (%request, key => key(), body => $large);
    $first = $t->post(%request);
    is_replay($t->http2(%request), 200, $first->body,
              'HTTP/2 replays HTTP/1.1, a large body');

    my $answer = substr $large, 0, 1 << 20;
    $backend->on('/mb', 200, $answer);
    %request = (path => '/mb', key => key(), body => 'eur=1');
    $t->http2(%request);
    is_replay($t->http2(%request), 200, $answer, 'HTTP/2: a large replay');
}

is($t->zone->{records}{running}, 0, 'nothing is left running');

done_testing;
