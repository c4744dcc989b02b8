#!/usr/bin/perl

# A client may hang up at any moment: a request that was claimed runs to its
# end all the same, its answer is stored, and who comes back for it gets it,
# while the upstream saw one request that nobody broke off.

use lib 't/lib';
use Test::Idempotency;

my $proxy = 'proxy_pass http://backend;';

# one worker: what it was told first, it has seen first

my $t = Test::Idempotency->new(<<'END', http2 => 1, workers => 1,
    idempotency   payments;
    access_log    access.log leaving;
    idempotency_max_response 100k;
END
    backends => [ 'other' ],
    http => <<'END',
    log_format leaving '$idempotency_key $status "$idempotency_client_gone"';
    proxy_cache_path cache keys_zone=cache:1m;
END
    locations => <<"LOCATIONS");
    location /off/       { $proxy proxy_buffering off; }
    location /unsent/    { $proxy proxy_request_buffering off; }
    location /kept/ {
        $proxy
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }
    location /cache/ {
        $proxy
        proxy_cache cache;
        proxy_cache_methods POST;
        proxy_cache_key \$uri;
        proxy_cache_valid 200 1h;
        proxy_cache_lock on;
    }
    location /impatient/ { $proxy proxy_read_timeout 200ms; }
    location /dry/       {
        $proxy
        idempotency_dry_run on;
        location /dry/off/ { $proxy proxy_buffering off; }
    }
    location /fallback/  { $proxy error_page 502 = \@other; }
    location \@other     { proxy_pass http://other; }
LOCATIONS

my $backend = $t->backend;
my $other = $t->backend('other');
my $text = 'receipt ' x 1000;
my $chunked = sprintf "%x\r\n%s\r\n", length $text, $text;
my @keep = (headers => [ [ 'Connection', 'keep-alive' ] ]);
my $n = 0;


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1', @_) }


# A request, and how its client leaves.

sub starts {
    my ($http, %request) = @_;

    return $http == 1 ? $t->start_post(%request)
        : $t->connect_http2->request(method => 'POST', %request);
}


my %leaves = (1 => 'reset', 2 => 'cancel');


# A client leaves, and nginx has noticed: what it says now came later.

sub leaves {
    my ($client, $how) = @_;

    $client->$how;
    $t->zone;

    return;
}


# The upstream says something, and nginx has heard it.

sub says {
    my ($bytes) = @_;

    $backend->send($bytes) if $bytes ne '';
    $backend->requests;                 # sent by now
    $t->zone;

    return;
}


# The access log of a key: status and whether the client was gone.

sub logged {
    my ($key) = @_;

    my $said;

    wait_for("$key is logged", sub {
        ($said) = $t->file('access.log') =~ /^\Q$key\E (.*)$/m;
    });

    return $said;
}


# When a client may leave: what the upstream has said by then, and the rest.

my $header = "HTTP/1.1 201 OK\r\nContent-Length: 8000\r\n\r\n";
my $other_header = "HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

my @moments = (
#     said by then              the rest            when
    [ '',                       $header . $text,    'before the header'    ],
    [ $header,                  $text,              'before the body'      ],
    [ "${header}rec",           substr($text, 3),   'in the body'          ],
    [ $other_header . $chunked, "0\r\n\r\n",        'at the last chunk'    ],
);

for my $path ('/', '/off/', '/kept/', '/unsent/') {
    for my $how (qw(close reset half_close)) {
        for (@moments) {
            my ($begin, $rest, $when) = @$_;
            my %request = pay(path => $path, $n % 2 ? @keep : ());
            my $name = "$path: $how $when";
            my $done = $t->counter('done');

            my $client = $t->start_post(%request);
            $backend->wait_for_request;
            says($begin);
            leaves($client, $how);

            is($backend->gone, 0, "$name: the upstream is not left");
            $backend->answer(0, '', raw => $rest);
            $t->wait_until('counters.done' => $done + 1);

            my $requests = $backend->requests;
            is_replay($t->post(%request), 201, $text, "$name: it was stored");
            is($backend->requests, $requests, "$name: and ran once");
            is(logged($request{key}), '201 "1"', "$name: the log knows");
        }
    }
}

my %request = pay();
my $client = $t->start_post(%request);
$backend->answer(201, $text);
is_answer($client, 201, $text, 'a client that stays');
is(logged($request{key}), '201 "-"', 'is not called gone');

# Other ends: the request still gets the one it would have had.

my %acts = (
    'breaks'  => sub { $backend->close },
    'is cut'  => sub { $backend->answer(200, $text, cut => 9) },
    'babbles' => sub { $backend->answer(0, '', raw => "${other_header}zzz") },
    'is mute' => sub {
        my $gone = $backend->gone;
        wait_for('nginx goes', sub { $backend->gone > $gone });
    },
    'refuses' => sub { $backend->answer(503, 'busy') },
    'is wordy' => sub { $backend->answer(201, $text x 20) },
    'has help' => sub { $backend->close; $other->answer(201, $text) },
);

my @ends = (
#     location       the upstream  becomes
    [ '/',           'breaks',     'unknown'  ],
    [ '/',           'is cut',     'unknown'  ],
    [ '/',           'babbles',    'unknown'  ],
    [ '/off/',       'babbles',    'unknown'  ],
    [ '/impatient/', 'is mute',    'unknown'  ],
    [ '/',           'refuses',    'released' ],
    [ '/',           'is wordy',   'unstored' ],
    [ '/fallback/',  'has help',   'done'     ],
);

for my $http (1, 2) {
    for (@ends) {
        my ($path, $end, $becomes) = @$_;
        my $name = "HTTP/$http: left, then the upstream $end";
        my %request = pay(path => $path);
        my $count = $t->counter($becomes);
        my $client = starts($http, %request);

        $backend->wait_for_request;
        leaves($client, $leaves{$http});
        $acts{$end}->();
        $t->wait_until("counters.$becomes" => $count + 1);
        pass("$name: $becomes");
        like(logged($request{key}), qr/"1"$/, "$name: the log knows");
    }
}

# What is not kept goes on as well, to its end.

my @streams = (
#     location  the header                                        why
    [ '/',      "HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\n",   'stream'  ],
    [ '/off/',  "HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\n",   'stream'  ],
    [ '/',      "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n",  'large'   ],
    [ '/off/',  "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n",  'large'   ],
);

for my $http (1, 2) {
    for (@streams) {
        my ($path, $header, $why) = @$_;
        my $name = "HTTP/$http, $path: $why";
        my %request = pay(path => $path);
        my $count = $t->counter('unstored');
        my $gone = $backend->gone;
        my $client = starts($http, %request);

        says("$header\r\n" . 'x' x 100000);
        $t->wait_until('counters.unstored' => $count + 1);
        leaves($client, $leaves{$http});

        for (1 .. 3) {
            says('x' x 100000) if $backend->gone == $gone;
        }

        is($backend->gone, $gone, "$name: the upstream is not left");
        $backend->close if $backend->gone == $gone;
        is(logged($request{key}), '200 "1"', "$name: the log knows");
        is_problem($t->post(%request), 409, 'response-not-stored',
                   "$name: nobody gets it again");
    }
}

# A dry run goes on, too, and counts what would have been.

for my $http (1, 2) {
    for my $path ('/dry/', '/dry/off/') {
        for (@moments) {
            my ($begin, $rest, $when) = @$_;
            my $name = "HTTP/$http, $path: $when";
            my $count = $t->counter('unstored');
            my $client = starts($http, pay(path => $path));
            my $held = $backend->wait_for_request;

            says($begin);
            leaves($client, $leaves{$http});
            ok($backend->holds($held), "$name: the upstream is not left");
            $backend->answer(0, '', raw => $rest);
            $t->wait_until(running => 0);
            is($t->counter('unstored'), $count + 1, "$name: it would be kept");
        }
    }
}

# One who has to wait for the lock of a cache may leave at any moment as well.

for my $http (1, 2) {
    for my $when ('at the lock', 'behind the lock', 'in the body') {
        my ($done, $gone) = ($t->counter('done'), $backend->gone);
        my $requests = $backend->requests;
        my $name = "HTTP/$http, $when";
        my ($one, $two) = map { { pay(path => '/cache/') } } 1, 2;

        my $ahead = $t->start_post(%$one);
        $backend->wait_for_request;
        my $behind = starts($http, %$two);
        $t->wait_until(running => 2);
        is($backend->requests, $requests + 1, "$name: he waits for the lock");
        leaves($behind, $leaves{$http}) if $when eq 'at the lock';

        $backend->answer(503, 'not for the cache');
        $ahead->response;
        $backend->wait_for_request;
        leaves($behind, $leaves{$http}) if $when eq 'behind the lock';
        says("${header}rec");
        leaves($behind, $leaves{$http}) if $when eq 'in the body';

        is($backend->gone, $gone, "$name: the upstream is not left");
        $backend->answer(0, '', raw => substr $text, 3)
            if $backend->gone == $gone;
        $t->wait_until(running => 0);
        is($t->counter('done'), $done + 1, "$name: it was stored");
    }
}

# A client that leaves while it gets a large answer, and does not read.

my $large = 'x' x 100000;
%request = pay();
$client = $t->start_post(%request);
$backend->answer(201, $large);
$t->wait_until(running => 0);
leaves($client, 'reset');
is_replay($t->post(%request), 201, $large, 'leaves while it gets the answer');

%request = pay(path => '/off/');
$client = $t->start_post(%request);
$backend->answer(201, $large);
$client->response;
my @replays = map { $t->start_post(%request) } 1 .. 5;
leaves($_, 'reset') for @replays;
is_replay($t->post(%request), 201, $large, 'leaves while it gets a replay');

# Before its body is there, nothing is claimed.

my $firsts = $t->counter('first');

for my $how (qw(close reset half_close)) {
    %request = pay(method => 'POST');
    $client = $t->connect;
    $client->send(substr $client->compose(%request), 0, -1);
    leaves($client, $how);
    is(logged($request{key}), '400 "-"', "$how in the request's body: 400");
}

is($t->counter('first'), $firsts, 'nothing was claimed');

done_testing;
