#!/usr/bin/perl

# However a client hangs up or stops to read, over HTTP/1.1 or HTTP/2, with TLS
# or without, at whatever moment: a request that was claimed runs to its end,
# its answer is stored whole, who comes back gets it to the letter, and the
# upstream was asked once and never left.

use lib 't/lib';
use Test::Idempotency;

my $proxy = 'proxy_pass http://backend;';

# One worker: what it was told first, it has seen first.  A large answer is
# larger than what sockets take.

my $t = Test::Idempotency->new(<<'END', http2 => 1, tls => 1, workers => 1,
    idempotency               payments;
    idempotency_max_response  4m;
    access_log                access.log leaving;
    send_timeout              4s;
END
    listen => 'sndbuf=64k', 
    zone => 'zone=payments:48m full=evict',
    http => <<'END',
    log_format leaving '$idempotency_key $idempotency_status $status '
                       '"$idempotency_client_gone"';
END
    locations => "location /off/ { $proxy proxy_buffering off; }");

my $backend = $t->backend;
my %body = (
    small => 'receipt ' x 1000,
    large => join('', map { pack 'N', $_ } 1 .. 1 << 18),
);
my @keep = (headers => [ [ 'Connection', 'keep-alive' ] ]);
my @cases;


# How a client begins.

sub http1 {
    my ($case, %o) = @_;

    return $t->start_post($case->{pay}->%*, tls => $case->{tls}, %o);
}


sub kept { return http1(@_, @keep) }


# Another request stands behind this one on its connection.

sub piped {
    my ($case) = @_;

    return kept($case)->request(method => 'POST', path => '/', body => 'eur=1',
                                @keep, key => "$case->{key}-behind");
}


sub http2 {
    my ($case, %o) = @_;

    return $t->connect_http2(tls => $case->{tls}, %o)
        ->request(method => 'POST', $case->{pay}->%*);
}


sub narrow { return http2(@_, window => 100) }


my @ways = (
#     begins     leaves by     name
    [ \&http1,   'close',      'close'                       ],
    [ \&kept,    'close',      'close, keepalive'            ],
    [ \&piped,   'close',      'close, another behind'       ],
    [ \&http1,   'reset',      'reset'                       ],
    [ \&kept,    'reset',      'reset, keepalive'            ],
    [ \&http1,   'half_close', 'half close'                  ],
    [ \&kept,    'half_close', 'half close, keepalive'       ],
    [ \&http1,   undef,        'slow'                        ],
    [ \&http1,   undef,        'stalled'                     ],
    [ \&http2,   'cancel',     'HTTP/2, RST_STREAM'          ],
    [ \&http2,   'close',      'HTTP/2, close'               ],
    [ \&http2,   'reset',      'HTTP/2, reset'               ],
    [ \&http2,   'goaway',     'HTTP/2, GOAWAY'              ],
    [ \&narrow,  'cancel',     'HTTP/2, RST_STREAM, no window' ],
    [ \&narrow,  undef,        'HTTP/2, slow'                ],
    [ \&narrow,  undef,        'HTTP/2, stalled'             ],
);

# When it goes: what the upstream has said by then, and the rest.

my %moments = (
    'before the header' => sub { return '', announced($_[0]) },
    'in the body' => sub { return halves(announced($_[0])) },
    'in the chunks' => sub { return halves(chunked($_[0])) },
    'after the end' => sub { return announced($_[0]), '' },
);


sub announced {
    my ($body) = @_;

    return "HTTP/1.1 201 OK\r\nContent-Length: " . length($body)
           . "\r\n\r\n$body";
}


sub chunked {
    my ($body) = @_;

    return join '', "HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        map({ sprintf "%x\r\n%s\r\n", length $_, $_ }
            unpack '(a5000)*', $body), "0\r\n\r\n";
}


sub halves {
    my ($bytes) = @_;

    return unpack 'a' . int(length($bytes) / 2) . 'a*', $bytes;
}


# All ways at a moment, at once.

sub wave {
    my (%o) = @_;

    my $late = $o{when} =~ /after/;
    my $done = $t->counter('done');
    my @wave;

    for (@ways) {
        my ($begin, $how, $way) = @$_;

        # what stands behind an answer that is out is the next to run

        next if $late && $begin == \&piped;

        push @wave, begin($begin, %o, how => $how, way => $way);
        $wave[-1]{held} = $backend->wait_for_request(scalar @wave);
    }

    # what has come by now is read: a close is not to be a reset

    $_->{client}->answered for grep { $_->{how} } @wave;

    says($_, 0) for @wave;
    $backend->requests;                 # said by now
    $late ? $t->wait_until('counters.done' => $done + @wave) : $t->zone;

    leaves($_) for @wave;
    $t->zone;

    if (!$late) {
        ok($backend->holds($_->{held}), "$_->{name}: it goes on") for @wave;
        @wave = grep { $backend->holds($_->{held}) } @wave;
        says($_, 1) for @wave;
        $t->wait_until('counters.done' => $done + @wave);
    }

    reads($_) for @wave;
    comes_back($_) for @wave;

    return;
}


sub begin {
    my ($begin, %o) = @_;

    my $case = { %o, n => scalar @cases, key => 'k' . @cases };

    $case->{name} = join ', ', $o{path}, $o{size}, $o{tls} ? 'TLS' : (),
        $o{when}, $o{way};
    $case->{pay} = { path => $o{path}, key => $case->{key}, body => 'eur=1' };
    $case->{client} = $begin->($case);
    push @cases, $case;

    return $case;
}


sub leaves {
    my ($case) = @_;

    my $how = $case->{how} or return;

    $case->{client}->$how;

    return;
}


# The answer of a case: there is none like it.

sub body { return "$_[0]{key}: $body{ $_[0]{size} }" }


# The upstream says the first or the second part of it.

sub says {
    my ($case, $part) = @_;

    my @parts = $moments{ $case->{when} }->(body($case));

    $backend->answer(0, '', to => $case->{held}, raw => $parts[$part],
                     then => $part == 0 && length $parts[1] ? 'hold'
                                                            : 'close');

    return;
}


# Who was slow reads at last, and all of it; who is stalled never does.

sub reads {
    my ($case) = @_;

    my ($client, $way) = @$case{qw(client way)};

    return if $way =~ /stalled/;

    if ($way =~ /slow/) {
        $client->open_window if $client->can('open_window');
        is_answer($client, 201, body($case), "$case->{name}: gets it late");
    }

    $client->close;

    return;
}


sub comes_back {
    my ($case) = @_;

    my %pay = (method => 'POST', $case->{pay}->%*);
    my $client = $case->{n} % 3 ? $t->connect : $t->connect_http2;

    is_replay($client->request(%pay)->response, 201, body($case),
              "$case->{name}: it was stored");

    return;
}


for my $path ('/', '/off/') {
    for my $size ('small', 'large') {
        for my $tls (0, $t->can_tls ? 1 : ()) {
            wave(path => $path, size => $size, tls => $tls, when => $_)
                for sort keys %moments;
        }
    }
}

# What the log and the upstream have seen.

my (%logged, %asked);

wait_for('all is logged', sub {
    %logged = $t->file('access.log') =~ /^(\S+) first (.*)$/mg;

    return keys %logged == @cases;
});

$asked{ $_->header('Idempotency-Key') }++ for $backend->all;

for my $case (@cases) {
    my ($key, $name) = @$case{qw(key name)};

    is($asked{$key}, 1, "$name: the upstream was asked once");
    is($asked{"$key-behind"}, undef, "$name: nothing behind it ran");
    is($logged{$key}, '201 "' . gone($case) . '"', "$name: the log knows");
}

$_->{client}->close for grep { $_->{way} =~ /stalled/ } @cases;


# Whether a client was gone before it had its answer.  A small one is out at
# once, unless its client forbids.

sub gone {
    my ($case) = @_;

    my ($way, $size, $when) = @$case{qw(way size when)};

    return '-' if $way =~ /slow/;
    return 1 if $size eq 'large' || $way =~ m{HTTP/2, stalled|no window};

    return $way =~ /stalled/ || $when =~ /after/ ? '-' : 1;
}


SKIP: {
    skip 'IO::Socket::SSL is not installed', 1 if !$t->can_tls;
    is(scalar @cases, 504, 'no case is missing');
}

note(scalar(@cases) . ' cases');

done_testing;
