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


# Each recipe plays a story, and fails if an answer or the ledger is not what it
# promises.  What is looked for here is that it was told at all.

my $replayed = qr/Idempotent-Replayed: true/;

my %recipes = (
    payments => [
        [ qr/^   second: 201, $replayed$/m, 'the second one is a replay'     ],
        [ qr/Eight requests, three orders, three charges/, 'carried out once'],
    ],
    stripe => [
        [ qr/^   again: 201, $replayed$/m,   'a success stays'               ],
        [ qr/^   insists: 402, $replayed$/m, 'a refusal of the bank stays'   ],
        [ qr/^   valid: 201$/m,              'a mistake may be corrected'    ],
        [ qr/^   bob: 201$/m,                'a key belongs to an account'   ],
        [ qr/^   unsure: 409\n.*outcome.*unknown/m, 'doubt is not a retry'   ],
    ],
    square => [
        [ qr/^   twin: 201, $replayed$/m,    'one that waits gets the same'  ],
        [ qr/^   two: 400\n.*is missing/m,   'two keys are none'             ],
        [ qr/^   charge 2: 20\n\n/m,         'two payments, and no other'    ],
    ],
    form => [
        [ qr/^   click2: 201, $replayed$/m,  'the second click is a replay'  ],
        [ qr/^   changed: 422$/m,            'a token is for one order'      ],
        [ qr/^   tab2: 204$/m,               'a second page sells nothing'   ],
        [ qr/^   taken: 403$/m,              'a token is for one user'       ],
        [ qr/^   sale 3: .* of bob\n\n/m,    'three sales, and no other'     ],
    ],
    callback => [
        [ qr/^   again: 200, $replayed$/m,   'a duplicate is acknowledged'   ],
        [ qr/^   old: 200\n +\(empty\)$/m,   'so is an old one'              ],
        [ qr/^   older: 200\n +\(empty\)$/m, 'also of two at once'           ],
        [ qr/^   retried: 200\n +success$/m, 'a failed one comes again'      ],
        [ qr/^   found: 200, $replayed$/m,   'one of which nobody knew'      ],
        [ qr/2: A is paid.*\n.*3: B is paid.*\n.*4: A is refunded/,
                                             'no step backwards'             ],
    ],
    stock => [
        [ qr/^   sale 2: pear, .* 6 left$/m, 'without nginx a sale is lost'  ],
        [ qr/^   eve: 412\n.*another version/m, 'the second buyer is told'   ],
        [ qr/^   repeated: 200, .*$replayed$/m, 'a retry is not stale'       ],
        [ qr/^   blind: 428$/m,              'a version is needed'           ],
        [ qr/^   sale 5: apple, .* 1 left\n\n/m, 'no sale of apples is lost' ],
    ],
    sync => [
        [ qr/^   two: 204\n/m,               'an old number is thanked'      ],
        [ qr/^   four: 204\n/m,              'also of two at once'           ],
        [ qr/^   retried: 200$/m,            'a failed one comes again'      ],
        [ qr/^   mistake: 422$/m,            'a number is for one change'    ],
        [ qr/^   item 5: door = shut.*\n\n/m, 'what was carried out'         ],
    ],
    webhooks => [
        [ qr/^   forged: 401\n.*\n.*\n   push: 200$/m,
                                             'a forged one uses nothing up'  ],
        [ qr/^   redelivery: 204, $replayed$/m, 'GitHub delivers twice'      ],
        [ qr/^   depot: 200$/m,              'an id belongs to its source'   ],
        [ qr/^   handled: 200$/m,            'a failed one comes again'      ],
        [ qr/^   twin: 204, $replayed$/m,    'two of Stripe at once'         ],
        [ qr/^   event 5: stripe evt_1\n\n/m, 'what was carried out'         ],
    ],
    message => [
        [ qr/^   retried: 200$/m,            'what was rolled back may run'  ],
        [ qr/^   impatient: 409, Retry-After: 1\n.*outcome/m,
                                             'the upstream does not know'    ],
        [ qr/^   patient: 200, $replayed$/m, 'then it knows'                 ],
        [ qr/^   found: 200, $replayed$/m,   'it had died, and it was done'  ],
        [ qr/^   alive: 200$/m,              'it had died, and it was not'   ],
        [ qr/^   message 12: m5 is committed\n\n/m, 'what was carried out'   ],
    ],
    tenants => [
        [ qr/^   globex: 201$/m,             'one key of two certificates'   ],
        [ qr/^   again: 201, $replayed$/m,   'a new certificate'             ],
        [ qr/^   other: 201$/m,              'one key of two tokens'         ],
        [ qr/^   fresh: 201, $replayed$/m,   'a new token'                   ],
        [ qr/^   forged: 401$/m,             'a forged token'                ],
        [ qr/^   charge 4: 30 for globex\n\n/m, 'four charges, and no other' ],
    ],
);

for my $name (sort keys %recipes) {
    my %env;
    @env{qw(PORT PORT_B BACKEND_PORT)} = ports(3);

    my $story = run("examples/recipe $name --once", %env);
    like($story, $_->[0], "$name: $_->[1]") for @{ $recipes{$name} };
}

my @stories = map { s{.*/}{}r } glob('examples/stories/*');
is("@stories", "@{[ sort keys %recipes ]}", 'all have been played');

# Two nodes that share a Redis.

my %env;
@env{qw(PORT PORT_B BACKEND_PORT REDIS_PORT)} = ports(4);

my $output = run('examples/run-redis --once', %env);
like($output, qr/node \S+:$env{PORT_B}:.*Idempotent-Replayed: true/s,
     'also when it is sent to another node');

done_testing;
