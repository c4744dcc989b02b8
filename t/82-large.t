#!/usr/bin/perl

# An answer that is too large to keep passes, and its client leaves or stops to
# read while buffers are full everywhere: the upstream is read to its end all
# the same, and nothing of it stays behind.

use lib 't/lib';
use Test::Idempotency;

my $large = random(4_000_000);      # gzip makes nothing of it
my $t = site('500ms');
my $backend = $t->backend;
my $n = 0;


sub site {
    my ($send_timeout) = @_;

    my $t = Test::Idempotency->new(<<"EOT", http2 => 1, tls => 1,
    idempotency                payments;
    idempotency_max_response   10k;
    proxy_max_temp_file_size   0;
    send_timeout               $send_timeout;
    access_log                 access.log leaving;
EOT
        workers => 1, listen => 'sndbuf=8k',
        http => <<'END', locations => <<'EOL');
    log_format leaving '$idempotency_key $idempotency_status $status '
                       '"$idempotency_client_gone"';
END
    location /off {
        proxy_buffering  off;
        proxy_pass       http://backend;
    }

    location /file {
        proxy_max_temp_file_size  10m;
        proxy_pass                http://backend;
    }

    location /gzip {
        gzip             on;
        gzip_proxied     any;
        gzip_types       *;
        proxy_pass       http://backend;
    }

    location /wide {
        proxy_buffer_size        128k;
        proxy_buffers            4 128k;
        proxy_busy_buffers_size  256k;
        proxy_pass               http://backend;

        location /wide/off {
            proxy_buffering  off;
            proxy_pass       http://backend;
        }
    }
EOL

    $t->backend->auto(200, $large);

    return $t;
}


sub random {
    my ($length) = @_;

    my $bytes;

    open my $in, '<:raw', '/dev/urandom' or die "random bytes: $!\n";
    read $in, $bytes, $length;

    return $bytes;
}


my @stalled;
my @ways = (
    (map { { http => 1, leave => $_ } } qw(reset close stall)),
    (map { { http => 2, leave => $_ } } qw(cancel reset close stall)),
    { http => 2, leave => 'cancel', window => 1000 },
    { http => 2, leave => 'stall', window => 1000 },
);

for my $tls (0, $t->can_tls ? 1 : ()) {
    for my $path ('/', '/off', '/file', '/gzip') {
        for (@ways) {
            my ($http, $leave, $window) = @$_{qw(http leave window)};
            my %pay = (path => $path, key => 'k' . ++$n, body => 'eur=1',
                       headers => [ [ 'Accept-Encoding', 'gzip' ] ]);
            my $unstored = $t->counter('unstored');
            my $client = $http == 1
                ? $t->connect(undef, tls => $tls)
                : $t->connect_http2(tls => $tls, window => $window);

            $client = $client->request(method => 'POST', %pay);
            $t->wait_until('counters.unstored' => $unstored + 1);
            $client->$leave if $leave ne 'stall';
            push @stalled, $client;

            is_problem($t->post(%pay), 409, 'response-not-stored',
                       join ', ', $path, "HTTP/$http", $tls ? 'TLS' : (),
                       $window ? 'no window' : (),
                       "$leave: it was carried out");
        }
    }
}

is($backend->requests, $n, 'each of them once');

# A refusal that is too large: the claim is released when all has been said,
# whoever hears it.

for my $tls (0, $t->can_tls ? 1 : ()) {
    for my $path ('/', '/off', '/file') {
        for ([ 1, 'reset' ], [ 1, 'stall' ], [ 2, 'cancel' ], [ 2, 'stall' ]) {
            my ($http, $leave) = @$_;
            my $name = join ', ', $path, "HTTP/$http", $tls ? 'TLS' : (),
                "$leave: a refusal";
            my %pay = (path => $path, key => 'k' . ++$n, body => 'eur=1');
            my $released = $t->counter('released');
            my $client = $http == 1 ? $t->connect(undef, tls => $tls)
                                    : $t->connect_http2(tls => $tls);

            $backend->on($path, 503, $large);
            my $request = $client->request(method => 'POST', %pay);
            wait_for('all is full', sub { $t->zone; $client->full });
            $request->$leave if $leave ne 'stall';
            push @stalled, $request;

            ok(eval { $t->wait_until('counters.released' => $released + 1) },
               "$name releases the claim");
            $backend->on($path, 201, 'receipt');
            is_answer($t->post(%pay), 201, 'receipt', "$name is tried again");
            $backend->on($path, 200, $large);
        }
    }
}

# Another stream of that connection is not hurt by what is thrown away.

$t = site('60s');
$backend = $t->backend;

for my $tls (0, $t->can_tls ? 1 : ()) {
    for my $path ('/', '/off', '/file') {
        my $name = join ', ', $path, $tls ? 'TLS' : (), 'another stream';
        my ($first, $other) = map { { method => 'POST', path => $path,
                                      key => 'k' . ++$n, body => $_ } }
            'first', 'other';
        my $unstored = $t->counter('unstored');
        my $c = $t->connect_http2(tls => $tls);
        my $stream = $c->request(%$first);

        $t->wait_until('counters.unstored' => $unstored + 1);
        wait_for('all is full', sub { $t->zone; $c->full });
        $stream->cancel;
        $t->zone;                       # seen, while all is full
        $backend->on($path, 201, 'receipt');
        is_answer($c->request(%$other), 201, 'receipt', "$name: gets its own");
        is_replay($c->request(%$other), 201, 'receipt', "$name: is of use");
        is_problem($c->request(%$first), 409, 'response-not-stored',
                   "$name: the first was carried out");
        $c->close;
        $backend->on($path, 200, $large);
    }
}


# A stream that has left does not wait for the connection's window.

for my $tls (0, $t->can_tls ? 1 : ()) {
    for my $path ('/wide', '/wide/off') {
        my %pay = (path => $path, key => 'k' . ++$n, body => 'eur=1');
        my $c = $t->connect_http2(tls => $tls, together => 1, rcvbuf => 4096);
        my $unstored = $t->counter('unstored');
        my $stream = $c->request(method => 'POST', %pay);

        $t->wait_until('counters.unstored' => $unstored + 1);
        wait_for('all is full', sub { $t->zone; $c->full });
        $stream->cancel;
        $t->zone;

        ok(eval { wait_for('', sub {
            $c->take;
            $t->file('access.log') =~ /^$pay{key} first 200 "1"$/m;
        }) }, "$path: it ends");
        $c->close;
    }
}

# the end of the test says whether something stayed: nginx ends in time

done_testing;
