#!/usr/bin/perl

# A client that leaves before its body is there has claimed nothing; one that
# waits for another gives its place up; one that has left before nginx begins
# to look is served to the end.  Those who wait for it, the other streams of
# its connection and upstreams of other protocols do not feel it.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Gateway;

my $proxy = 'proxy_pass http://backend;';
my @protocols = qw(fastcgi scgi uwsgi grpc);

my %gateways = map { $_ => Test::Idempotency::Gateway->new($_, \&answer) }
    @protocols;

my $passes = join '', map { <<"END" } grep { $_ ne 'grpc' } @protocols;
    location /$_/ {
        ${_}_pass 127.0.0.1:@{[ $gateways{$_}->port ]};
        ${_}_param CONTENT_LENGTH \$content_length;
        location /$_/off/ {
            ${_}_pass 127.0.0.1:@{[ $gateways{$_}->port ]};
            ${_}_buffering off;
        }
    }
END

# one worker: what it was told first, it has seen first

my $t = Test::Idempotency->new(<<'END', http2 => 1, tls => 1, workers => 1,
    idempotency             payments;
    idempotency_concurrent  wait=30s;
    access_log              access.log leaving;
END
    zone => 'zone=payments:16m', listen => 'sndbuf=64k', http => <<'END',
    log_format leaving '$idempotency_key $idempotency_status $status '
                       '"$idempotency_client_gone"';
END
    locations => <<"END");
    $passes
    location /grpc/   { grpc_pass 127.0.0.1:@{[ $gateways{grpc}->port ]}; }
    location /off/    { $proxy proxy_buffering off; }
    location /ignore/ { $proxy proxy_ignore_client_abort on; }
    location /one/    { $proxy idempotency_waiters 1; }
    location /brief/  { $proxy client_body_timeout 300ms; }
END

my $backend = $t->backend;
my @tls = (0, $t->can_tls ? 1 : ());
my @keep = (headers => [ [ 'Connection', 'keep-alive' ] ]);
my $n = 0;


sub pay { return (method => 'POST', path => '/', key => 'k' . ++$n,
                  body => 'eur=1', @_) }


# What a gateway answers: the body of the request says when it is to wait, or
# that the answer is to be too large to keep.

sub answer {
    my ($request) = @_;

    my ($n, $body) = @$request{qw(n body)};

    return { status => 201, body => 'x' x (2 << 20) } if $body eq 'large';
    return { status => 201, body => "answer $n " x 1000, hold => $body };
}


sub client {
    my ($http, $tls) = @_;

    return $http == 2 ? $t->connect_http2(tls => $tls)
                      : $t->connect(undef, tls => $tls);
}


# Each way to leave, and its name.

sub each_way {
    my ($code) = @_;

    my %ways = (1 => [ qw(close reset half_close) ],
                2 => [ qw(cancel close reset goaway) ]);

    for my $tls (@tls) {
        for my $http (1, 2) {
            $code->($http, $tls, $_, "HTTP/$http, " . ($tls ? 'TLS, ' : '')
                                     . $_) for $ways{$http}->@*;
        }
    }

    return;
}


# nginx has seen what was done before.

sub seen { return $t->zone }


# The first line of a key in the access log.

sub logged {
    my ($key) = @_;

    my $said;

    wait_for("$key is logged", sub {
        ($said) = $t->file('access.log') =~ /^\Q$key\E (.*)$/m;
    });

    return $said;
}


# A request whose body does not come whole.

sub begins {
    my ($http, $tls, %request) = @_;

    my $client = client($http, $tls);

    return $client->request(%request, body => 'eur=', more => 1) if $http == 2;

    return $client->send(substr($client->compose(%request), 0, -1), 'POST');
}


# Before the body is there, nothing is claimed.

my $firsts = $t->counter('first');
my @left;

each_way(sub {
    my ($http, $tls, $how, $name) = @_;

    return if $how eq 'cancel';             # there is no stream yet

    my %request = pay();
    my $client = client($http, $tls);

    $client->send(substr $client->compose(%request), 0, 60);
    seen();
    $client->$how;
    push @left, [ "$name, in the header", %request ];
});

each_way(sub {
    my ($http, $tls, $how, $name) = @_;

    my %request = pay();
    my $client = begins($http, $tls, %request);

    seen();
    $client->$how;
    like(logged($request{key}), qr/^- 4\d\d "-"$/, "$name, in the body: 4xx");
    push @left, [ "$name, in the body", %request ];
});

for my $tls (@tls) {
    for my $http (1, 2) {
        my %request = pay(path => '/brief/');
        my $client = begins($http, $tls, %request);

        is($client->response->status, 0, "HTTP/$http: who stalls is left");
        is(logged($request{key}), '- 408 "-"', "HTTP/$http: and got a 408");
        push @left, [ "HTTP/$http, stalled in the body", %request ];
    }
}

seen();
is($t->counter('first'), $firsts, 'nothing was claimed');
is($backend->requests, 0, 'the backend has seen nothing');

$backend->auto(201, 'receipt %n');

for (@left) {
    my ($name, %request) = @$_;

    is_answer($t->post(%request), 201, qr/^receipt/, "$name: all is new");
}

$backend->hold;

# Gone already when nginx begins to read: the request and the end of it come at
# once, on a connection that is new, or is not.

for my $path ('/', '/off/', '/ignore/') {
    for my $tls (@tls) {
        for my $how (qw(close half_close)) {
            for my $new (0, 1) {
                my %request = pay(path => $path);
                my $client = client(1, $tls);
                my $name = join ', ', "$path $how at once", $tls ? 'TLS' : (),
                    $new ? () : 'keepalive';

                if (!$new) {
                    $client->request(method => 'GET', path => '/none', @keep);
                    $backend->answer(404, '');
                    $client->response;
                }

                $client->answered;
                seen();
                stopped(sub { $client->request(%request)->$how });

                my $held = $backend->wait_for_request;
                seen();
                ok($backend->holds($held), "$name: it runs");
                $backend->answer(201, 'receipt', to => $held);
                is(logged($request{key}), 'first 201 "1"',
                   "$name: the log knows");
                is_replay($t->post(%request), 201, 'receipt',
                          "$name: it was stored");
            }
        }
    }
}


# Something is done while the worker does not look.

sub stopped {
    my ($code) = @_;

    my ($pid) = $t->workers;

    kill 'STOP', $pid;
    wait_for('the worker stops', sub {
        open my $in, '<', "/proc/$pid/stat" or die "worker $pid: $!\n";
        return <$in> =~ /^\d+ .*\) T/;
    });

    $code->();
    kill 'CONT', $pid;

    return;
}


# Those who wait behind another leave one by one, and nobody else feels it.

my %request = pay();
my $first = $t->start_post(%request);
my $held = $backend->wait_for_request;
my $waited = $t->counter('waited');
my @waiters;

each_way(sub {
    my ($http, $tls, $how, $name) = @_;

    push @waiters, [ client($http, $tls)->request(%request), $how, $name ];
    $t->wait_until(waiting => scalar @waiters);
});

while (my $waiter = shift @waiters) {
    my ($client, $how, $name) = @$waiter;

    $client->answered;
    $client->$how;
    $t->wait_until(waiting => scalar @waiters, running => 1);
    pass("$name: waits no longer");
}

ok($backend->holds($held), 'the first goes on');
$backend->answer(201, 'receipt', to => $held);
is_answer($first, 201, 'receipt', 'and gets its answer');
is($t->counter('waited'), $waited, 'nobody has waited to the end');

# Where one may wait, its place is free again.

%request = pay(path => '/one/');
$first = $t->start_post(%request);
$backend->wait_for_request;

each_way(sub {
    my ($http, $tls, $how, $name) = @_;

    my $client = client($http, $tls)->request(%request);

    $t->wait_until(waiting => 1);
    is_problem($t->post(%request), 409, 'in-flight', "$name: no place is left");
    $client->$how;
    $t->wait_until(waiting => 0);
});

my $last = $t->start_post(%request);
$t->wait_until(waiting => 1);
$backend->answer(201, 'receipt');
is_answer($first, 201, 'receipt', 'the first gets its answer');
is_replay($last, 201, 'receipt', 'so does who came last');

# The first leaves, and others wait for what it has asked for.

each_way(sub {
    my ($http, $tls, $how, $name) = @_;

    my %request = pay();
    my $client = client($http, $tls)->request(%request);
    my $held = $backend->wait_for_request;
    my @twins = map { client($_, $tls)->request(%request) } 1, 2;

    $t->wait_until(waiting => 2);
    $client->answered;
    $client->$how;
    seen();
    ok($backend->holds($held), "$name: the first has left");
    $backend->answer(201, 'receipt', to => $held);
    is_replay($_, 201, 'receipt', "$name: a twin gets the answer") for @twins;
});

# Streams of one connection: two are cancelled, a first and a waiter.

for my $path ('/', '/off/') {
    for my $tls (@tls) {
        my %pay = map { $_ => { pay(path => $path) } } qw(far left stays);
        my $far = $t->start_post($pay{far}->%*);
        my $c = client(2, $tls);
        my %stream = map { $_ => $c->request($pay{$_}->%*) } qw(left stays);

        $backend->wait_for_request(3);
        my %held = map { $_ => held($pay{$_}{key}) } keys %pay;
        my @waiters = map { $c->request($pay{$_}->%*) } qw(left far far);
        $t->wait_until(waiting => 3);

        $_->cancel for $stream{left}, $waiters[1];
        $t->wait_until(waiting => 2);

        $backend->send("HTTP/1.1 201 OK\r\nContent-Length: 9\r\n\r\nto",
                       to => $_) for values %held;
        $backend->requests;             # sent by now
        seen();
        ok($backend->holds($held{$_}), "$path: $_ goes on") for keys %held;
        $backend->answer(0, '', to => $held{$_}, raw => sprintf '%7s', $_)
            for keys %held;

        is_answer($far, 201, 'to    far', "$path: another connection");
        is_answer($stream{stays}, 201, 'to  stays', "$path: another stream");
        is_replay($waiters[0], 201, 'to   left',
                  "$path: who waits for the one that left");
        is_replay($waiters[2], 201, 'to    far',
                  "$path: who waits beside the one that left");
        is($stream{left}->answered + $waiters[1]->answered, 0,
           "$path: those who left hear nothing");
        $c->close;
    }
}


# All streams of a connection leave at once.

for my $tls (@tls) {
    for my $how (qw(close reset goaway)) {
        my %pay = map { $_ => { pay() } } qw(far one two);
        my $far = $t->start_post($pay{far}->%*);
        my $c = client(2, $tls);
        my @streams = map { $c->request($pay{$_}->%*) } qw(one two);

        $backend->wait_for_request(3);
        push @streams, map { $c->request($pay{$_}->%*) } qw(far one two);
        my $twin = $t->start_post($pay{one}->%*);
        $t->wait_until(waiting => 4);

        $c->answered;
        $c->$how;
        $t->wait_until(waiting => 1, running => 3);

        for (qw(far one two)) {
            my $held = held($pay{$_}{key});

            ok($backend->holds($held), "$how of all: $_ goes on");
            $backend->answer(201, "to $_", to => $held);
        }

        is_answer($far, 201, 'to far', "$how of all: another connection");
        is_replay($twin, 201, 'to one', "$how of all: who waits elsewhere");
        is_replay($t->post($pay{two}->%*), 201, 'to two',
                  "$how of all: who comes back");
    }
}


sub held {
    my ($key) = @_;

    my ($held) = grep { ($_->header('Idempotency-Key') // '') eq $key }
        $backend->all;

    return $held;
}


# A stream that nobody reads does not keep the others.

for my $tls (@tls) {
    my $c = $t->connect_http2(tls => $tls, window => 100);
    my @pay = map { { pay() } } 1 .. 3;
    my @streams = map { $c->request(%$_) } @pay;
    my $done = $t->counter('done');

    $backend->wait_for_request(3);
    $backend->answer(201, 'receipt ' x 1000) for 1 .. 3;
    $t->wait_until('counters.done' => $done + 3);

    $streams[0]->cancel;
    $streams[1]->open_window;
    is_answer($streams[1], 201, 'receipt ' x 1000, 'a stream is read');
    $c->close;
    is_replay($t->post(%$_), 201, 'receipt ' x 1000, 'all were stored')
        for @pay;
}

# While it gets a replay.

%request = pay();
$first = $t->start_post(%request);
$backend->answer(201, 'receipt ' x 100000);
$first->response;

each_way(sub {
    my ($http, $tls, $how, $name) = @_;

    client($http, $tls)->request(%request)->$how;
    is_replay($t->post(%request), 201, 'receipt ' x 100000,
              "$name: a replay is there for the next");
});

# Other protocols, before the answer and in the middle of it.

my %asked;

for my $path (map { ("/$_/", $_ eq 'grpc' ? () : "/$_/off/") } @protocols) {
    my ($protocol) = $path =~ /(\w+)/;
    my $gateway = $gateways{$protocol};

    for my $when (qw(before middle)) {
        each_way(sub {
            my ($http, $tls, $how, $name) = @_;

            my %request = pay(path => $path, body => $when);
            my $done = $t->counter('done');
            my $client = client($http, $tls)->request(%request);

            $gateway->wait_for_request;
            seen();
            $client->$how;
            seen();
            $gateway->let_go;
            $t->wait_until('counters.done' => $done + 1);

            my $text = 'answer ' . ++$asked{$protocol} . ' ';
            is_replay($t->post(%request), 201, $text x 1000,
                      "$path, $when: $name: it was stored");
            is(logged($request{key}), 'first 201 "1"',
               "$path, $when: $name: the log knows");
        });
    }

    # an answer that is not kept: buffers are full

    each_way(sub {
        my ($http, $tls, $how, $name) = @_;

        return if $how !~ /^(reset|cancel)$/;

        my %request = pay(path => $path, body => 'large');
        my $client = client($http, $tls);
        my $unstored = $t->counter('unstored');
        my $stream = $client->request(%request);

        $t->wait_until('counters.unstored' => $unstored + 1);
        wait_for('all is full', sub { $t->zone; $client->full });
        $stream->$how;

        # what is on its way to a stream has to arrive

        wait_for('the connection is empty', sub {
            $client->take;
            $t->file('access.log') =~ /^$request{key} /m;
        });

        is(logged($request{key}), 'first 201 "1"', "$path, large: $name: ends");
        is_problem($t->post(%request), 409, 'response-not-stored',
                   "$path, large: $name: was carried out");
        $asked{$protocol}++;
    });
}

done_testing;
