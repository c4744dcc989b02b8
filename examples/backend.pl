#!/usr/bin/perl

# A backend that knows nothing of idempotency: whatever it is asked for it
# carries out, and writes a line into the ledger.
#
#   POST /charges, /orders, /callbacks
#   GET  /callbacks           tells whether one was carried out
#   POST /events              /events/github with a signature that is checked
#   POST /items               stores a value
#   GET  /stock/thing         how many there are, and an ETag
#   POST /stock/thing         takes some; does not look at If-Match
#   POST /messages            a transaction, which is committed at once; or
#                             rolled back, or left open (X-Play: end=open)
#   POST /decisions           commits one that was left open
#   GET  /messages            tells how a transaction has ended
#   GET  /tenant              checks a JWT and tells whose it is
#   GET  /ledger
#
# The field X-Play tells it what to act: slow=2 answers two seconds after it has
# carried out what it was asked for, lose=1 does not answer after that, die=1
# does nothing at all, status=500 answers so and does nothing else.  How often
# it was asked for something is in another file, whose name ends in ".asked".
#
# Usage: [SECRET=text] backend.pl port ledger

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);
use Fcntl qw(LOCK_EX);
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use MIME::Base64 qw(decode_base64url);

my ($port, $ledger) = @ARGV;
die "usage: $0 port ledger\n" if @ARGV != 2;

my $secret = $ENV{SECRET} // '';

my @routes = (
    [ qr{^POST /charges$},        \&charge       ],
    [ qr{^POST /orders$},         \&order        ],
    [ qr{^POST /callbacks$},      \&callback     ],
    [ qr{^GET /callbacks$},       \&known        ],
    [ qr{^POST /events$},         \&event        ],
    [ qr{^POST /events/github$},  \&github_event ],
    [ qr{^POST /items$},          \&item         ],
    [ qr{^GET /stock/(\w+)$},     \&stock        ],
    [ qr{^POST /stock/(\w+)$},    \&take         ],
    [ qr{^POST /messages$},       \&message      ],
    [ qr{^POST /decisions$},      \&decision     ],
    [ qr{^GET /messages$},        \&outcome      ],
    [ qr{^GET /tenant$},          \&tenant       ],
    [ qr{^GET /ledger$},          sub { return (200, join '', lines()) } ],
);

my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 128,
                                     LocalPort => $port, ReuseAddr => 1)
    or die "backend: cannot listen on port $port: $!\n";

# whoever waits for us sees the files now

append($_, '') for "$ledger.asked", $ledger;

$SIG{CHLD} = 'IGNORE';

# a process for each connection; a signal to stop may interrupt the wait

for ( ;; ) {
    my $client = $listener->accept or next;

    if (!fork) {
        serve($client);
        exit;
    }
}


sub serve {
    my ($client) = @_;

    my $r = request($client) // return;
    my %play = field($r, 'X-Play') =~ /(\w+)=(\w+)/g;
    my @answer;

    append("$ledger.asked", "$r->{line}\n") if $r->{line} =~ /^POST/;

    return if $play{die};

    if ($play{status}) {
        @answer = ($play{status}, qq({"error":"as was asked for"}\n));

    } else {
        @answer = handle($r);
    }

    sleep $play{slow} if $play{slow};
    answer($client, @answer) if !$play{lose};

    return;
}


sub request {
    my ($client) = @_;

    local $/ = "\r\n";
    my $line = <$client> // return;
    my %r = (line => $line =~ s/(?:\?.*)? HTTP.*//sr);

    while (my $field = <$client>) {
        last if $field eq "\r\n";
        my ($name, $value) = $field =~ /^([\w-]+):\s*(.*?)\r\n/ or next;
        $r{ lc $name } = $value;
    }

    read $client, $r{body}, $r{'content-length'} // 0;

    return \%r;
}


sub handle {
    my ($r) = @_;

    for (@routes) {
        my ($route, $handler) = @$_;

        if ($r->{line} =~ $route) {
            return $handler->($r, $1);
        }
    }

    return (404, qq({"error":"no such thing"}\n));
}


# A field of the header, and one of the body, be that a form or JSON.

sub field { return $_[0]{ lc $_[1] } // '' }


sub value {
    my ($r, $name) = @_;

    my ($value) = $r->{body} =~ /\b$name\b\W+([\w.-]+)/;

    return $value // '';
}


# What is carried out.

sub charge {
    my ($r) = @_;

    my $amount = value($r, 'amount');
    my $tenant = field($r, 'X-Tenant');

    return (422, qq({"error":"no amount"}\n)) if $amount !~ /^\d+$/;

    my $n = note('charge', $tenant ? "$amount for $tenant" : $amount);

    return (201, qq({"charge":$n,"amount":$amount}\n),
            "Location: /charges/$n");
}


sub order {
    my ($r) = @_;

    my $order = value($r, 'order');
    my $user = field($r, 'X-User');
    my $n = note('sale', "order $order of $user");

    return (201, qq({"sale":$n,"order":"$order"}\n));
}


sub callback {
    my ($r) = @_;

    my ($serial, $order, $status) = map { value($r, $_) }
        qw(serial order status);

    note('payment', "$order is $status, says $serial");

    return (200, "success\n");
}


sub known {
    my ($r) = @_;

    my $serial = field($r, 'X-Serial');

    return (200, "success\n") if grep { /says \Q$serial\E$/ } lines();
    return (404, qq({"error":"not carried out"}\n));
}


sub event {
    my ($r) = @_;

    my $n = note('event', field($r, 'X-Event'));

    return (200, qq({"event":$n}\n));
}


sub github_event {
    my ($r) = @_;

    my $signature = 'sha256=' . hmac_sha256_hex($r->{body}, $secret);

    if (!same(field($r, 'X-Hub-Signature-256'), $signature)) {
        return (401, qq({"error":"the signature is wrong"}\n));
    }

    return event($r);
}


sub item {
    my ($r) = @_;

    my ($id, $seq, $value) = map { value($r, $_) } qw(id seq value);

    note('item', "$id = $value, by number $seq");

    return (200, qq({"id":"$id","value":"$value"}\n));
}


# A stock of ten.  Who takes some looks how many there are, and writes down what
# is left a moment later: two at once both see the same.

sub stock {
    my ($r, $thing) = @_;

    my @taken = grep { /: $thing, / } lines();
    my $left = @taken ? $taken[-1] =~ /(\d+) left/ && $1 : 10;

    return (200, qq({"left":$left}\n), sprintf 'ETag: "v%d"', 1 + @taken);
}


sub take {
    my ($r, $thing) = @_;

    my ($left) = (stock($r, $thing))[1] =~ /(\d+)/;
    my ($n, $order) = map { value($r, $_) } qw(take order);

    return (422, qq({"error":"not so many left"}\n)) if $n > $left;

    sleep $1 if field($r, 'X-Play') =~ /think=(\d)/;

    note('sale', sprintf '%s, %d for %s, %d left', $thing, $n, $order,
         $left - $n);

    return stock($r, $thing);
}


# A transaction begins, and then ends: committed, rolled back, or left open.

sub message {
    my ($r) = @_;

    my $name = field($r, 'X-Transaction');
    my ($end) = field($r, 'X-Play') =~ /end=(\w+)/;

    note('message', "$name begins");

    if (!$end) {
        return commit($name);
    }

    if ($end eq 'open') {
        return (202, qq({"message":"open"}\n), 'X-Accel-Idempotency: unknown');
    }

    note('message', "$name is rolled back");

    return (200, qq({"message":"rolled back"}\n),
            'X-Accel-Idempotency: release');
}


sub commit {
    my ($name) = @_;

    note('message', "$name is committed");

    return (200, qq({"message":"committed"}\n), 'X-Accel-Idempotency: store');
}


sub decision {
    my ($r) = @_;

    return commit(value($r, 'message'));
}


sub outcome {
    my ($r) = @_;

    my $name = field($r, 'X-Transaction');
    my ($last) = reverse grep { /: $name / } lines();

    return !$last || $last =~ /rolled back/
               ? (404, qq({"message":"did not happen"}\n))
         : $last =~ /committed/
               ? (200, qq({"message":"committed"}\n))
         : (503, qq({"message":"open"}\n));
}


# A JWT of RFC 7519, signed with HS256 and nothing else, and not expired.

sub tenant {
    my ($r) = @_;

    my ($head, $claims, $signature) = field($r, 'Authorization')
        =~ /^Bearer ([\w-]+)\.([\w-]+)\.([\w-]+)$/ or return 401;

    same(decode_base64url($signature), hmac_sha256("$head.$claims", $secret))
        or return 401;

    ($head, $claims) = map {
        eval { decode_json(decode_base64url($_)) }
    } $head, $claims;

    return 401 if ref $head ne 'HASH' || ref $claims ne 'HASH'
        || ($head->{alg} // '') ne 'HS256'
        || ($claims->{exp} // 0) !~ /^\d+$/ || $claims->{exp} <= time
        || ($claims->{tenant} // '') !~ /^[\w-]+\z/;

    return (204, '', "X-Tenant: $claims->{tenant}");
}


# Compares in a time that does not tell where the difference is.

sub same {
    my ($given, $right) = @_;

    return hmac_sha256($given, $secret) eq hmac_sha256($right, $secret);
}


# Writes a line into the ledger, and returns which one of its kind it is.

sub note {
    my ($kind, $what) = @_;

    open my $out, '>>', $ledger or die "$ledger: $!\n";
    flock $out, LOCK_EX;

    my $n = 1 + grep { /^$kind / } lines();
    print {$out} "$kind $n: $what\n";
    close $out;

    return $n;
}


sub append {
    my ($file, $text) = @_;

    open my $out, '>>', $file or die "$file: $!\n";
    print {$out} $text;
    close $out;

    return;
}


sub lines {
    local $/ = "\n";

    open my $in, '<', $ledger or return;
    my @lines = <$in>;

    return @lines;
}


sub answer {
    my ($client, $status, $body, @fields) = @_;

    $body //= '';

    print {$client} join "\r\n", "HTTP/1.1 $status -",
        'Content-Type: application/json', 'Content-Length: ' . length $body,
        'Connection: close', @fields, '', $body;

    return;
}
