#!/usr/bin/perl

# The examples do what they say: whoever starts them sees the promise kept.

use lib 't/lib';
use Test::Idempotency;

use IO::Socket::INET;

# Ports that are free now, in the order that the programs want them.

sub ports {
    my @sockets = map {
        IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)
            or die "no port: $!\n";
    } 1 .. $_[0];

    return map { $_->sockport } @sockets;
}


sub run {
    my ($command, %env) = @_;

    local @ENV{ keys %env } = values %env;
    my $output = `timeout 60 $command 2>&1`;

    is($?, 0, $command) or diag($output);

    return $output;
}


like(run('examples/recipe payments --once'), qr/Eight requests, three orders, three charges/,
     'a payment that is sent twice is carried out once');

my %env;
@env{qw(PORT PORT_B BACKEND_PORT REDIS_PORT)} = ports(4);

my $output = run('examples/run-redis --once', %env);
like($output, qr/node \S+:$env{PORT_B}:.*Idempotent-Replayed: true/s,
     'also when it is sent to another node');

done_testing;
