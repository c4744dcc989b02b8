#!/usr/bin/perl

# An answer that cannot be kept, as it is too large or has no end, is recorded
# as that before the client sees the first byte of it; then it flows, while
# the upstream is still speaking.  Nobody will get it again, nor run it again.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'END', locations => <<'LOCATIONS');
    idempotency                payments;
    idempotency_max_response   4k;
    idempotency_methods        HEAD POST;
    proxy_buffer_size          1k;
    proxy_buffers              4 1k;
    proxy_busy_buffers_size    2k;
    proxy_max_temp_file_size   0;
END
    location /off/ {
        proxy_pass http://backend;
        proxy_buffering off;
    }

    location /again/ {
        proxy_pass http://backend;
        idempotency_unknown retry;
    }

    location /upgrade/ {
        proxy_pass http://backend;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
    }
LOCATIONS

my $backend = $t->backend;
my $start = "HTTP/1.1 200 OK\r\n";
my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }


# A chunk of so many bytes that can be told from others.

sub chunk {
    my ($letter, $size) = @_;

    return sprintf "%x\r\n%s\r\n", $size, $letter x $size;
}


# Whether these bytes are with the client by now, or will be without another
# word of the upstream.

sub sees {
    my ($client, $bytes, $name) = @_;

    return ok(eval { wait_for('', sub {
        $client->answered;
        index($client->{in}, $bytes) >= 0;
    }) }, $name);
}


sub is_not_stored {
    my ($name, $status, %request) = @_;

    my $m = $t->post(%request);
    my ($first) = $m->body =~ /"original_status":(\d+)/;

    is_problem($m, 409, 'response-not-stored', $name);

    return is($first, $status, "$name: the first was $status");
}


# Too large, and known to be: the header says it.

for my $path ('/', '/off/') {
    my %request = pay(path => $path);
    my $p = $t->start_post(%request);

    $backend->wait_for_request;
    is_problem($t->post(%request), 409, 'in-flight', "$path: it runs");

    $backend->send("${start}Content-Length: 20000\r\n\r\n" . 'a' x 10000);
    sees($p, 'a' x 4097, "$path: the beginning is here");
    is_not_stored("$path: a duplicate now", 200, %request);

    $backend->answer(0, '', raw => 'b' x 10000);
    is_answer($p, 200, 'a' x 10000 . 'b' x 10000, "$path: it is whole");
    is_not_stored("$path: a duplicate later", 200, %request);
}

# Too large, which is seen when the limit is passed; until then it is withheld.

for my $path ('/', '/off/') {
    my %request = pay(path => $path);
    my $p = $t->start_post(%request);

    $backend->send("${start}Transfer-Encoding: chunked\r\n\r\n"
                   . chunk('a', 4000));
    is_problem($t->post(%request), 409, 'in-flight', "$path: it may fit");
    is($p->answered, 0, "$path: the client sees nothing yet");

    $backend->send(chunk('b', 4000));
    sees($p, 'b', "$path: the limit is passed: it flows");
    is_not_stored("$path: a duplicate now", 200, %request);

    $backend->answer(0, '', raw => chunk('c', 1000) . "0\r\n\r\n");
    is_answer($p, 200, 'a' x 4000 . 'b' x 4000 . 'c' x 1000,
              "$path: nothing was lost");
}

my %request = pay();
my $p = $t->start_post(%request);
$backend->answer(201, '', chunked => [ ('d' x 512) x 8 ]);
is_answer($p, 201, 'd' x 4096, 'exactly at the limit');
is_replay($t->post(%request), 201, 'd' x 4096, 'is stored');

$p = $t->start_post(%request = pay());
$backend->answer(201, '', chunked => [ ('d' x 512) x 8, 'e' ]);
is_answer($p, 201, 'd' x 4096 . 'e', 'one byte more');
is_not_stored('is not', 201, %request);

# The length of an answer to HEAD says nothing of what is to be stored.

%request = pay(method => 'HEAD', body => undef);
$p = $t->start(%request);
$backend->answer(200, 'f' x 20000);
is_answer($p, 200, '', 'HEAD of something large');
is_replay($p = $t->post(%request), 200, '', 'is stored');
is($p->header('Content-Length'), 20000, 'with the length it told');

# Streams.

my @streams = (
    [ 'Content-Type', 'text/event-stream'               ],
    [ 'Content-Type', 'Text/Event-Stream;charset=utf-8' ],
    [ 'X-Accel-Buffering', 'no'                         ],
    [ 'x-accel-buffering', 'No'                         ],
);

for (@streams) {
    my ($name, $value) = @$_;
    my %request = pay(path => '/off/');
    my $p = $t->start_post(%request);

    $backend->send("HTTP/1.1 203 OK\r\n$name: $value\r\n\r\n");
    sees($p, "\r\n\r\n", "$name $value: the header is here");
    is_not_stored("$name $value: a duplicate now", 203, %request);

    for my $event (1 .. 3) {
        $backend->send("data: $event\n\n");
        sees($p, "data: $event\n\n", "$name $value: event $event is here");
    }

    $backend->close;
    is_answer($p, 203, qr/^data: 1\n/, "$name $value: it ends");
    is_not_stored("$name $value: a duplicate later", 203, %request);
}

%request = pay();
$p = $t->start_post(%request);
$backend->send("${start}X-Accel-Buffering: no\r\nContent-Length: 9\r\n\r\nabc");
sees($p, 'abc', 'X-Accel-Buffering works where buffering is on');
$backend->answer(0, '', raw => 'defghi');
is_answer($p, 200, 'abcdefghi', 'to the end');

# Another protocol.

%request = pay(path => '/upgrade/', headers => [ [ 'Upgrade', 'chat' ],
                                                 [ 'Connection', 'upgrade' ] ]);
$p = $t->start_post(%request);
$backend->send("HTTP/1.1 101 Switch\r\nUpgrade: chat\r\n"
               . "Connection: upgrade\r\n\r\nwelcome");
sees($p, 'welcome', 'after 101 the upstream is heard');
is_not_stored('a duplicate of a 101', 101, %request);
$backend->send(' and more');
sees($p, 'welcome and more', 'and goes on');
$backend->close;
is($p->response->status, 101, 'it was a 101');

%request = pay(path => '/upgrade/', headers => $request{headers});
$p = $t->start_post(%request);
$backend->answer(200, 'no, thanks');
is_answer($p, 200, 'no, thanks', 'an upgrade may be declined');
is_replay($t->post(%request), 200, 'no, thanks', 'that is an answer as any');

# What is no success is not recorded as one, however it flows.

%request = pay();
$p = $t->start_post(%request);
$backend->send("HTTP/1.1 503 Busy\r\nContent-Length: 20000\r\n\r\n"
               . 'a' x 10000);
sees($p, 'a', 'a large 503 flows');
is_problem($t->post(%request), 409, 'in-flight', 'while its claim is kept');
$backend->answer(0, '', raw => 'b' x 10000);
is_answer($p, 503, qr/^a+b+$/, 'to the end');
$p = $t->start_post(%request);
$backend->answer(201, 'receipt');
is_answer($p, 201, 'receipt', 'then the key is free');

%request = pay();
$p = $t->start_post(%request);
$backend->send("HTTP/1.1 502 Oh\r\nContent-Length: 20000\r\n\r\n"
               . 'a' x 10000);
sees($p, 'a', 'a large 502 flows');
is_problem($t->post(%request), 409, 'in-flight', 'while its claim is kept');
$backend->answer(0, '', raw => 'b' x 10000);
is_answer($p, 502, qr/^a+b+$/, 'to the end');
is_problem($t->post(%request), 409, 'outcome-unknown', 'then it is unknown');

for my $status (200, 503) {
    %request = pay();
    $p = $t->start_post(%request);
    $backend->send("HTTP/1.1 $status Cut\r\nContent-Length: 20000\r\n\r\n"
                   . 'a' x 10000);
    sees($p, 'a', "a large $status that breaks off");
    $backend->reset;
    is($p->response->status, 0, 'does not look whole');

    is_not_stored('it was carried out', 200, %request) if $status == 200;
    is_problem($t->post(%request), 409, 'outcome-unknown', 'who knows')
        if $status == 503;
}

# One that is not stored, nor released, is running until it is through: what was
# unknown, is run again and refused at length is not run once more meanwhile.

my %again = pay(path => '/again/');
my $unknown = $t->start_post(%again);
$backend->wait_for_request;
$backend->close;
is($unknown->response->status, 502, 'an outcome is lost');

my $refused = $t->start_post(%again);
my $slow = $backend->wait_for_request;
$backend->send("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
               . chunk('n', 8192), to => $slow);
wait_for('it passes', sub { $refused->answered });
is_problem($t->post(%again), 409, 'in-flight', 'it is at it still');
$backend->answer(0, '', raw => "0\r\n\r\n", to => $slow);
is($refused->response->status, 503, 'it is through');

my $third = $t->start_post(%again);
$backend->wait_for_request;
$backend->answer(200, 'at last');
is_answer($third, 200, 'at last', 'then it is run again');

done_testing;
