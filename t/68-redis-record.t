#!/usr/bin/perl

# A record on Redis has a layout that other versions, and other nodes, can rely
# on: what a node writes is known byte for byte, and such bytes are replayed
# whoever wrote them.  If any of them is another, nothing is replayed.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use Compress::Zlib qw(crc32);

my $redis = Test::Idempotency::Redis->new;

my $t = Test::Idempotency->new('idempotency payments;', workers => 1,
    zone => 'zone=payments:1m redis=main', backend => 'auto',
    locations => "location /golden {\n"
        . 'proxy_pass http://backend; '
        . "idempotency_fingerprint golden; }\n",
    http => 'idempotency_redis main { server unix:' . $redis->socket . '; }');

my %request = (path => '/golden', key => 'k1', body => 'x');
is_answer($t->post(%request), 200, 'answer 1', 'a first request');

my ($key) = @{ $redis->command('KEYS', '*') };
like($key, qr/^idem:[0-9a-f]{64}$/, 'a key is a prefix and an identity');

my $value = $redis->command('GET', $key);
my ($head, $frame, $record) = unpack 'a71 a5 a*', $value;
my ($state, $owner, $print, $fence, $life, $status, $dry, $waits)
    = unpack 'a3 a16 a32 d> d> n C a1', $head;

is($state, 'I1d', 'version and state');
is(length $owner, 16, 'an owner');
is(unpack('H*', $print), golden_print(), 'the fingerprint');
cmp_ok($fence, '>', 1_700_000_000_000_000, 'a fence that began with the time');
is($life, 24 * 3600 * 1000, 'the life in milliseconds');
is($status, 200, 'the status');
is($dry, 0, 'no dry run');
is($waits, '0', 'nobody waits');
is(unpack('H*', $frame), unpack('H*', pack 'C V', 1, crc32($record)),
   'version and checksum of what was stored');
is(unpack('H*', $record), golden_record(), 'what was stored, byte for byte');


sub golden_print {
    return 'f9465fd099b713c9cbc5177a51731414dd19e6568ed1101f4ff99dbd3fc03247';
}


# version, status, bytes of fields; a reason without a name; the body

sub golden_record {
    return join '', '01', 'c801', '0e', '05', '00', '0b', unpack('H*',
        '200 Told So'), unpack 'H*', 'answer 1';
}


# The same bytes by somebody else.

my $golden = pack('a3 a16 H64 d> d> n C a1', 'I1d', 'o' x 16, golden_print(),
                  7, 60_000, 200, 0, '0')
    . pack('C V', 1, crc32(pack 'H*', golden_record()))
    . pack('H*', golden_record());


# Another node: its zone knows nothing.

sub asks {
    my ($bytes) = @_;

    $redis->command('SET', $key, $bytes, 'PX', 60_000);

    return $t->post(%request);
}


$t->stop;
$t->start_nginx;
is_replay(asks($golden), 200, 'answer 1', 'those of somebody else');

# Any byte of what was stored, and any end.

$t->stop;
$t->start_nginx;

my @replayed;

for my $at (71 .. length($golden) - 1) {
    my $bytes = $golden;
    substr($bytes, $at, 1) ^= "\x01";
    my $m = asks($bytes);
    push @replayed, "$at: " . $m->status if $m->status != 500;
}

is("@replayed", '', 'none is replayed if one bit of it is another');

my @cut = grep { asks(substr $golden, 0, $_)->status != 500 }
    71 .. length($golden) - 1;
is("@cut", '', 'none is replayed if it is cut');

is_replay(asks($golden), 200, 'answer 1', 'it was whole then');

$t->allow(qr/damaged or foreign/);

done_testing;
