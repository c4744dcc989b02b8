#!/usr/bin/perl

# Mistakes in the directives of guards, and in state machines, are told at start
# with their file and line; what is inherited can be switched off.

use lib 't/lib';
use Test::Idempotency;

my $machine = 'idempotency_states order { new created; created paid; }';

my @lines = (
#     directive                                       message
    [ 'idempotency_serialize;',                       qr/invalid number of/   ],
    [ 'idempotency_serialize $uri wait=0;',           qr/"wait=0"/            ],
    [ 'idempotency_serialize $uri queue=0;',          qr/"queue=0"/           ],
    [ 'idempotency_serialize $uri queue=129;',        qr/"queue=129"/         ],
    [ 'idempotency_serialize $uri color=red;',        qr/"color=red"/         ],
    [ 'idempotency_serialize off; idempotency_serialize $uri;',
                                                      qr/is duplicate/        ],
    [ 'idempotency_sequence $uri;',                   qr/has no number/       ],
    [ 'idempotency_sequence $uri $arg_n late=never;', qr/"late=never"/        ],
    [ 'idempotency_state order $uri;',                qr/has no target|takes a name/ ],
    [ 'idempotency_state order $uri paid late=x;',    qr/"late=x"/            ],
    [ 'idempotency_state order $uri paid late=reject more;',
                                                      qr/takes a name/        ],
    [ 'idempotency_state other $uri paid;',           qr/"other" is not decl/ ],
    [ 'idempotency_state order $uri shiped;',         qr/no state "shiped"/   ],
    [ 'idempotency_version $uri always;',             qr/"always"/            ],
);

for (@lines) {
    my ($line, $message) = @$_;

    conf_fails("idempotency payments; $line", $message, $line,
               http => $machine);
}

my @machines = (
#     lines                                           message
    [ '',                                             qr/has no state/        ],
    [ 'a b; a c;',                                    qr/"a" is listed twice/ ],
    [ 'a b b;',                                       qr/"b" twice/           ],
    [ 'a a;',                                         qr/to itself/           ],
    [ 'a b; b;',                                      qr/leads nowhere/       ],
    [ 'a b; c d;',                                    qr/leads to "c"/        ],
    [ 'a ' . 'b' x 300 . ';',                         qr/too long a name/     ],
    [ 'a' x 300 . ' b;',                              qr/too long a name/     ],
);

for (@machines) {
    my ($lines, $message) = @$_;

    conf_fails('idempotency payments;', $message, "{ $lines }",
               http => "idempotency_states order { $lines }");
}

conf_fails('idempotency payments;', qr/is duplicate/, 'a machine, twice',
           http => "$machine $machine");

my $t = Test::Idempotency->new(
    'idempotency payments; idempotency_serialize all;', workers => 1,
    locations => 'location /off/ { proxy_pass http://backend; '
                 . 'idempotency_serialize off; }');

my $first = $t->start_post(path => '/', key => 'a', body => 'x');
$t->backend->wait_for_request;
is_problem($t->post(path => '/', key => 'b', body => 'x'), 409,
           'resource-busy', 'what is inherited counts');

my $other = $t->start_post(path => '/off/', key => 'c', body => 'x');
$t->backend->wait_for_request(2);
$t->backend->answer(200, 'done') for 1, 2;
is($_->response->status, 200, 'unless it is switched off') for $first, $other;

done_testing;
