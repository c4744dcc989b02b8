#!/usr/bin/perl

# A claim that was not answered in time is not heard later: the connection is
# reset, so that nothing that still lies in the network, or in a buffer, reaches
# Redis after the claim was given back.

use lib 't/lib';
use Test::Idempotency;

use Errno qw(ECONNRESET);
use IO::Select;
use IO::Socket::INET;

my $redis = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 8)
    or die "no port: $!\n";

my $t = Test::Idempotency->new('idempotency payments; idempotency_lease 2s;', workers => 1,
    zone => 'zone=payments:1m redis=main', http => <<"END");
    idempotency_redis main {
        server   127.0.0.1:@{[ $redis->sockport ]};
        timeout  200ms;
    }
END

# A Redis that says who it is, and then nothing.

my $client = $t->start_post(path => '/', key => 'k1', body => 'x');
my $node = accepted();

like(said($node, qr/PING/), qr/PING/, 'a greeting');
print {$node} "+PONG\r\n";

like(said($node, qr/EVALSHA/), qr/EVALSHA/, 'a claim');

is_problem($client->response, 503, 'store-unavailable', 'is not answered');

IO::Select->new($node)->can_read(10) or die "the connection goes on\n";
is(sysread($node, my $bytes, 1), undef, 'nothing more is read');
is($! + 0, ECONNRESET, 'the connection was reset');

$t->log_like(qr/a reply is overdue/, 'which is logged');

done_testing;


sub accepted {
    IO::Select->new($redis)->can_read(10) or die "nobody connects\n";

    my $socket = $redis->accept;
    $socket->autoflush;

    return $socket;
}


sub said {
    my ($socket, $words) = @_;

    my $bytes = '';

    until ($bytes =~ $words) {
        IO::Select->new($socket)->can_read(10)
            && sysread $socket, $bytes, 4096, length $bytes
            or die "only \"$bytes\" was said\n";
    }

    return $bytes;
}
