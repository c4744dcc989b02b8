#!/usr/bin/perl

# An answer that is too large to keep passes, and its client leaves or stops to
# read while buffers are full everywhere: the upstream is read to its end all
# the same, and nothing of it stays behind.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOT', workers => 1, locations => <<'EOL');
    idempotency                payments;
    idempotency_max_response   10k;
    proxy_max_temp_file_size   0;
    send_timeout               500ms;
EOT
    location /off {
        proxy_buffering  off;
        proxy_pass       http://backend;
    }
EOL

my $backend = $t->backend;
my $large = 'x' x 16_000_000;
my $n = 0;

$backend->on($_, 200, $large) for '/', '/off';

for my $path ('/', '/off') {
    for my $leave (qw(reset close stall)) {
        my %pay = (path => $path, key => 'k' . ++$n, body => 'eur=1');
        my $unstored = $t->counter('unstored');
        my $client = $t->connect;

        $client->request(method => 'POST', %pay);
        $t->wait_until('counters.unstored' => $unstored + 1);
        $client->$leave if $leave ne 'stall';

        is_problem($t->post(%pay), 409, 'response-not-stored',
                   "$path: $leave: it was carried out");
        push @main::stalled, $client if $leave eq 'stall';
    }
}

is($backend->requests, $n, 'each of them once');

# the end of the test says whether something stayed: nginx ends in time

done_testing;
