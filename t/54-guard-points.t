#!/usr/bin/perl

# A worker dies in the middle of a change of a guard, with the lock of the zone
# or without.  The resource does not wait for the dead one, what is known of it
# stays known, what it was about to become is found out, and who stood in the
# queue has its turn.

use lib 't/lib';
use Test::Idempotency;

my $n = 0;

my $t = Test::Idempotency->new('idempotency payments;', points => 1,
    locations => <<'LOCATIONS');
    idempotency_lease  1h;
    location /turn {
        idempotency_serialize  $http_x_resource wait=20s;
        proxy_pass             http://backend;
    }
    location /number {
        idempotency_sequence  $http_x_resource $http_x_number;
        proxy_pass            http://backend;
    }
    location /steady {
        idempotency_serialize  steady;
        proxy_pass             http://backend;
    }
LOCATIONS

my $backend = $t->backend;
my %steady = (path => '/steady', key => 'steady');

my $steady_c = $t->connect;
my $steady = $t->worker_of($steady_c);
$t->spare($steady);
$steady_c->request(method => 'POST', %steady);
$backend->wait_for_request;


sub to_steady { return $t->connect_to(sub { $_ == $steady })->request(@_) }
sub to_victim { return $t->connect_to(sub { $_ != $steady })->request(@_) }


# A request about a resource; number: what is to be the last one.

sub change {
    my ($resource, $number) = @_;

    return (method => 'POST', key => 'k' . ++$n,
            path => defined $number ? '/number' : '/turn',
            headers => [ [ 'X-Resource' => $resource ],
                         [ 'X-Number' => $number // '' ] ]);
}


sub executions {
    my (%request) = @_;

    return scalar grep { $_->header('Idempotency-Key') eq $request{key} }
        $backend->all;
}


sub upstream_has {
    my (%request) = @_;

    wait_for('the upstream has it', sub { executions(%request) });

    return $backend->last;
}


sub end {
    my ($client, $held, $name) = @_;

    $backend->answer(200, $name, to => $held);

    return is_answer($client->next_response, 200, $name, $name);
}


# A whole request, on the worker that lives through it all.

sub is_carried_out {
    my ($name, @change) = @_;

    my %next = change(@change);
    my $client = to_steady(%next);

    return end($client, upstream_has(%next), $name);
}


# The ways to come to a point: each returns the client of the victim, its
# request, and what is to be seen afterwards, but for the victim's record.

my %acts = (
    hold => sub {
        my ($resource, @points) = @_;
        my %mine = change($resource);

        $t->arm(@points);

        return (to_victim(%mine), \%mine,
                sub { is_carried_out("$_[0]: the next one", $resource) });
    },
    take => sub {
        my ($resource, @points) = @_;
        my %mine = change($resource, 7);

        is_carried_out('number 5', $resource, 5);
        $t->arm(@points);

        return (to_victim(%mine), \%mine, sub {
            is_problem($t->post(change($resource, 5)), 409, 'out-of-order',
                       "$_[0]: what was known is known");
            is_carried_out("$_[0]: the next one", $resource, 6);
        });
    },
    join => sub {
        my ($resource, @points) = @_;
        my %first = change($resource);
        my %mine = change($resource);
        my $first = to_steady(%first);
        my $held = upstream_has(%first);

        $t->arm(@points);

        return (to_victim(%mine), \%mine, sub {
            end($first, $held, "$_[0]: the one in front");
            is_carried_out("$_[0]: the next one", $resource);
        });
    },
    pass => sub {
        my ($resource, @points) = @_;
        my %mine = change($resource);
        my %next = change($resource);
        my $client = to_victim(%mine);
        my $held = upstream_has(%mine);
        my $next = to_steady(%next);

        $t->wait_until(waiting => 1);
        $t->arm(@points);
        $backend->answer(200, 'done', to => $held);

        return ($client, \%mine, sub {
            end($next, upstream_has(%next), "$_[0]: the one behind it");
            is_carried_out("$_[0]: the next one", $resource);
        });
    },
    learn => sub {
        my ($resource, @points) = @_;
        my %mine = change($resource, 7);
        my $client = to_victim(%mine);
        my $held = upstream_has(%mine);

        $t->arm(@points);
        $backend->answer(200, 'done', to => $held);

        return ($client, \%mine, sub {
            is_problem($t->post(change($resource, 6)), 409, 'out-of-order',
                       "$_[0]: its number is known");
            is_carried_out("$_[0]: the next one", $resource, 8);
        });
    },
);

# What becomes of the victim's record, and whether the zone had to be repaired.

my @deaths = (
#     act      point          becomes    repair  why
    [ 'hold',  'hold',        'unknown', 1, 'not a guard yet'           ],
    [ 'hold',  'hold-true',   'unknown', 1, 'a guard'                   ],
    [ 'hold',  'guarded',     'unknown', 0, 'it might have been sent'   ],

    [ 'take',  'guard',       'unknown', 1, 'more blocks, nothing else' ],
    [ 'take',  'guard-bytes', 'unknown', 1, 'half changed'              ],
    [ 'take',  'guard-all',   'unknown', 1, 'changed, and not true'     ],
    [ 'take',  'guard-true',  'unknown', 1, 'held'                      ],

    [ 'join',  'guard',       'unknown', 1, 'more blocks, nothing else' ],
    [ 'join',  'guard-bytes', 'unknown', 1, 'half in the queue'         ],
    [ 'join',  'guard-all',   'unknown', 1, 'changed, and not true'     ],
    [ 'join',  'guard-true',  'unknown', 1, 'in the queue'              ],

    [ 'pass',  'guard',       'done',    1, 'held still'                ],
    [ 'pass',  'guard-bytes', 'done',    1, 'half changed'              ],
    [ 'pass',  'guard-all',   'done',    1, 'changed, and not true'     ],
    [ 'pass',  'guard-true',  'done',    1, 'held by the next one'      ],
    [ 'pass',  'tell',        'done',    1, 'who is not told yet'       ],

    [ 'learn', 'guard',       'done',    1, 'held still'                ],
    [ 'learn', 'guard-bytes', 'done',    1, 'half changed'              ],
    [ 'learn', 'guard-all',   'done',    1, 'changed, and not true'     ],
    [ 'learn', 'guard-true',  'done',    1, 'free'                      ],
    [ 'learn', 'cut',         'done',    1, 'half a chain of blocks'    ],
    [ 'learn', 'shrink',      'done',    1, 'with too many blocks'      ],
    [ 'learn', 'guard-all rebuild', 'done', 1, 'and one that repairs'   ],
);

# A point that no test comes to would be a promise without a test.

my %points = map { $_ => 1 } map { split ' ', $_->[1] } @deaths;
my %sources = (cut => 1);

for my $file (glob 'src/*/*_guard.c') {
    open my $in, '<', $file or die "$file: $!\n";
    $sources{$_} = 1 for join('', <$in>) =~ /NGX_IDEM_POINT\("([^"]+)"\)/g;
}

is_deeply([ sort grep { $sources{$_} } keys %points ], [ sort keys %sources ],
          'all points of a guard are here');

for (@deaths) {
    my ($act, $points, $becomes, $repaired, $why) = @$_;

    my $name = "$act, $points: $why";
    my $repairs = $t->counter('repaired');
    my ($client, $mine, $after) = $acts{$act}->(++$n, split ' ', $points);

    $t->wait_for_death;
    like($client->next_response->why, qr/after 0 bytes/,
         "$name: its client gets nothing");

    $after->($name);

    my $ran = executions(%$mine);
    my $retry = $t->post(%$mine);

    is_problem($retry, 409, 'outcome-unknown', "$name: it is unknown")
        if $becomes eq 'unknown';
    is_replay($retry, 200, 'done', "$name: its record is there")
        if $becomes eq 'done';
    is(executions(%$mine), $ran, "$name: it is not carried out again");
    is($ran, $becomes eq 'done' ? 1 : 0, "$name: it was, or was not");
    is($t->counter('repaired'), $repairs + $repaired, "$name: repairs");
    is_problem($t->post(path => '/steady', key => 'k' . ++$n), 409,
               'resource-busy', "$name: another guard is held");
    is($t->zone->{guards}{held}, 1, "$name: and no other one");
}

my ($held) = grep { $_->uri eq '/steady' } $backend->all;
end($steady_c, $held, 'the steady one has lived through it all');

done_testing;
