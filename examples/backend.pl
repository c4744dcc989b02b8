#!/usr/bin/perl

# A payments backend that knows nothing of idempotency: every POST /charges it
# gets is a charge, and a line in the ledger.
#
#   POST /charges           amount=10
#   POST /charges?slow=2    answers two seconds after the charge
#   GET  /ledger
#
# Usage: backend.pl port ledger

use strict;
use warnings;

use Fcntl qw(LOCK_EX);
use IO::Socket::INET;

my ($port, $ledger) = @ARGV;
die "usage: $0 port ledger\n" if @ARGV != 2;

my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 128,
                                     LocalPort => $port, ReuseAddr => 1)
    or die "backend: cannot listen on port $port: $!\n";

# whoever waits for us sees the ledger now

open my $new, '>>', $ledger or die "$ledger: $!\n";
close $new;

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

    local $/ = "\r\n";
    my $request = <$client> // return;
    my $length = 0;

    while (my $field = <$client>) {
        last if $field eq "\r\n";
        $length = $1 if $field =~ /^content-length:\s*(\d+)/i;
    }

    read $client, my ($body), $length;

    my ($amount) = $body =~ /\bamount\W+(\d+)/;

    if ($amount && $request =~ m{^POST /charges(?:\?slow=(\d+))? }) {
        my $slow = $1;
        my $n = charge($amount);

        sleep $slow if $slow;

        answer($client, '201 Created', qq({"charge":$n,"amount":$amount}\n),
               "Location: /charges/$n");

    } elsif ($request =~ m{^GET /ledger }) {
        answer($client, '200 OK', join '', lines());

    } else {
        answer($client, '404 Not Found', qq({"error":"no such thing"}\n));
    }

    return;
}


# Writes the charge down, and returns its number.

sub charge {
    my ($amount) = @_;

    open my $out, '>>', $ledger or die "$ledger: $!\n";
    flock $out, LOCK_EX;

    my $n = 1 + lines();
    print {$out} "charge $n: $amount\n";
    close $out;

    return $n;
}


sub lines {
    local $/ = "\n";

    open my $in, '<', $ledger or return;
    my @lines = <$in>;

    return @lines;
}


sub answer {
    my ($client, $status, $body, @fields) = @_;

    print {$client} join "\r\n", "HTTP/1.1 $status",
        'Content-Type: application/json', 'Content-Length: ' . length $body,
        'Connection: close', @fields, '', $body;

    return;
}
