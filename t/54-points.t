#!/usr/bin/perl

# A worker dies in the middle of a change, wherever that is, with the lock of
# the zone or without.  What it had not made true did not happen, what it had
# made true stays; the next one repairs what was half done; all others keep
# what they have, and who waits for the dead one's claim gets an answer.

use lib 't/lib';
use Test::Idempotency;

my $large = 'receipt ' x 1200;
my $n = 0;

my ($t, $backend, $steady);


sub pay { return (method => 'POST', path => '/', key => 'k' . ++$n, @_) }


# A request to the one worker that lives through it all, or to the other one.

sub to_steady { return $t->connect_to(sub { $_ == $steady })->request(@_) }
sub to_victim { return $t->connect_to(sub { $_ != $steady })->request(@_) }


sub used { my $z = $t->zone; return $z->{blocks} - $z->{free} }


# How often the upstream was asked with a key.

sub executions {
    my ($key) = @_;

    return scalar grep { $_->header('Idempotency-Key') eq $key } $backend->all;
}


# A first request in the victim, which the upstream holds, and a waiter for it
# at the steady one.

sub hold {
    my ($pay) = @_;

    my $client = to_victim(%$pay);

    wait_for('the upstream has it', sub { executions($pay->{key}) });
    $backend->on($pay->{path}, 200, 'once more');
    my $waiter = to_steady(%$pay);
    $t->wait_until(waiting => 1);

    return ($client, $waiter);
}


# The ways to come to a point.  Each returns the client of the victim, and of
# the waiter if there is one.

my %acts = (
    claim => sub {
        my ($pay, @points) = @_;
        my $client = $t->connect_to(sub { $_ != $steady });

        $backend->on($pay->{path}, 200, 'once more');
        $t->arm(@points);

        return $client->request(%$pay);
    },
    renew => sub {
        my ($pay, @points) = @_;
        my @clients = hold($pay);

        $t->arm(@points);

        return @clients;
    },
    complete => sub {
        my ($pay, @points) = @_;
        my @clients = hold($pay);

        $t->arm(@points);
        $backend->answer(200, $large, to => $backend->last);

        return @clients;
    },
    release => sub {
        my ($pay, @points) = @_;
        my @clients = hold($pay);

        $t->arm(@points);
        $backend->answer(503, 'busy', to => $backend->last);

        return @clients;
    },
    orphan => sub {
        my ($pay, @points) = @_;
        my @clients = hold($pay);

        $t->arm(@points);
        kill 'KILL', grep { $_ != $steady } $t->workers;

        return @clients;
    },
    park => sub {
        my ($pay, @points) = @_;
        my $first = to_steady(%$pay);

        wait_for('the upstream has it', sub { executions($pay->{key}) });
        my $waiter = $t->connect_to(sub { $_ != $steady });
        $t->arm(@points);
        $waiter->request(%$pay);
        $t->wait_for_death;
        $backend->answer(200, $large, to => $backend->last);
        is_answer($first->next_response, 200, $large, 'its first is answered');

        return $waiter;
    },
    replay => sub {
        my ($pay, @points) = @_;

        $backend->on($pay->{path}, 200, $large);
        $t->post(%$pay);
        my $client = $t->connect_to(sub { $_ != $steady });
        $t->arm(@points);

        return $client->request(%$pay);
    },
);

# What becomes of the record, and whether the zone had to be repaired.

my @deaths = (
#     act         point               becomes    repair  why
    [ 'claim',    'claim',            'absent',  1, 'not a record yet'        ],
    [ 'claim',    'claim-true',       'unknown', 1, 'a record'                ],
    [ 'claim',    'enter',            'unknown', 1, 'half in the index'       ],
    [ 'claim',    'enqueue',          'unknown', 1, 'half in a queue'         ],
    [ 'claim',    'owned',            'unknown', 0, 'it might have been sent' ],

    [ 'renew',    'dequeue',          'unknown', 1, 'half out of a queue'     ],
    [ 'renew',    'renew',            'unknown', 1, 'in no queue'             ],
    [ 'renew',    'enqueue',          'unknown', 1, 'half in a queue'         ],

    [ 'complete', 'whole',            'unknown', 0, 'answered, and nothing '
                                                    . 'recorded'              ],
    [ 'complete', 'extend',           'unknown', 1, 'half a chain of blocks'  ],
    [ 'complete', 'complete',         'unknown', 1, 'blocks without bytes'    ],
    [ 'complete', 'complete-between', 'unknown', 0, 'some of the bytes'       ],
    [ 'complete', 'dequeue',          'unknown', 1, 'half out of a queue'     ],
    [ 'complete', 'set',              'unknown', 1, 'half changed'            ],
    [ 'complete', 'set-all',          'unknown', 1, 'changed, and not true'   ],
    [ 'complete', 'set-true',         'done',    1, 'true'                    ],
    [ 'complete', 'tell',             'done',    1, 'the waiter not told yet' ],
    [ 'complete', 'enqueue',          'done',    1, 'half in a queue'         ],
    [ 'complete', 'settled',          'done',    0, 'recorded'                ],

    [ 'release',  'dequeue',          'unknown', 1, 'half out of a queue'     ],
    [ 'release',  'leave',            'unknown', 1, 'half out of the index'   ],
    [ 'release',  'drop',             'unknown', 1, 'out of the index'        ],
    [ 'release',  'drop-true',        'absent',  1, 'not a record any more'   ],
    [ 'release',  'tell',             'absent',  1, 'the waiter not told yet' ],
    [ 'release',  'settled',          'absent',  0, 'released'                ],

    [ 'orphan',   'dequeue',          'unknown', 1, 'the heir dies as well'   ],
    [ 'orphan',   'set',              'unknown', 1, 'the heir dies as well'   ],
    [ 'orphan',   'set-true',         'unknown', 1, 'the heir dies as well'   ],
    [ 'orphan',   'tell',             'unknown', 1, 'the heir dies as well'   ],

    [ 'complete', 'set rebuild',      'unknown', 1, 'and one that repairs'    ],
    [ 'complete', 'set-true rebuild', 'done',    1, 'and one that repairs'    ],
    [ 'release',  'drop enqueue',     'unknown', 1, 'and one that repairs'    ],

    [ 'park',     'parked',           'done',    0, 'a waiter dies'           ],
    [ 'replay',   'fetch',            'done',    0, 'a reader dies'           ],
);

# The same when time is over, and when there is no room.

my @drops = (
#     point        gone  why
    [ 'dequeue',   0,    'half out of a queue'    ],
    [ 'leave',     0,    'half out of the index'  ],
    [ 'drop',      0,    'out of the index'       ],
    [ 'drop-true', 1,    'not a record any more'  ],
    [ 'give',      1,    'its blocks are nobody\'s' ],
);

# A point that no test comes to would be a promise without a test.  Those of
# guards are in t/54-guard-points.t.

my %points = map { $_ => 1 } map { split ' ', $_->[1] } @deaths;
$points{ $_->[0] } = 1 for @drops;

my %sources;

for my $file (grep { !/_guard\.c$/ } glob 'src/*/*.c') {
    open my $in, '<', $file or die "$file: $!\n";
    $sources{$_} = 1 for join('', <$in>) =~ /NGX_IDEM_POINT\("([^"]+)"\)/g;
}

delete $sources{cut};

is_deeply([ sort keys %points ], [ sort keys %sources ],
          'all points of the source are here');

$t = Test::Idempotency->new(<<'END', points => 1, locations => <<'LOCATIONS');
    idempotency             payments;
    idempotency_concurrent  wait=20s;
    idempotency_lease       1h;
END
    location /renew {
        idempotency_lease       3s;
        proxy_pass              http://backend;
    }
    location /steady {
        idempotency_concurrent  reject;
        proxy_pass              http://backend;
    }
LOCATIONS

$backend = $t->backend;

# what others have, and how many blocks a record takes

my %other = pay();
my %running = pay(path => '/steady');
my %blocks = (absent => 0, unknown => 1);

for ([ done => $large ], [ again => 'once more' ]) {
    my $used = used();

    $backend->on('/', 200, $_->[1]);
    $t->post($_->[0] eq 'done' ? %other : pay());
    $blocks{ $_->[0] } = used() - $used;
}

$backend->hold;

my $steady_c = $t->connect;
$steady = $t->worker_of($steady_c);
$t->spare($steady);
$steady_c->request(%running);
$backend->wait_for_request;


sub is_survived {
    my ($act, $points, $becomes, $repaired, $why) = @_;

    my %pay = pay(path => "/$act");
    my ($used, $repairs) = (used(), $t->counter('repaired'));
    my $name = "$act, $points, $becomes";

    $backend->hold;
    my ($client, $waiter) = $acts{$act}->(\%pay, split ' ', $points);

    # one who waited may have run already

    my $ran = $waiter ? 1 : executions($pay{key});
    $t->wait_for_death;

    like($client->next_response->why, qr/after 0 bytes/,
         "$name: $why: its client gets nothing");

    is_fate($waiter->next_response, $becomes, "$name: the waiter is told")
        if $waiter;
    is_fate($t->post(%pay), $becomes, "$name: the retry", $waiter);

    is(executions($pay{key}), $ran + ($becomes eq 'absent' ? 1 : 0),
       "$name: nothing ran that had run");
    is($t->counter('repaired'), $repairs + $repaired, "$name: repairs");
    is_replay($t->post(%other), 200, $large, "$name: another record");
    is_problem($t->post(%running), 409, 'in-flight', "$name: another claim");
    is(used(), $used + $blocks{ $becomes eq 'absent' ? 'again' : $becomes },
       "$name: no block is lost, and none used twice");

    return;
}


# What is said of a key; what was absent has run for a waiter, or runs now.

sub is_fate {
    my ($answer, $becomes, $name, $waiter) = @_;

    return is_problem($answer, 409, 'outcome-unknown', $name)
        if $becomes eq 'unknown';
    return is_replay($answer, 200, $large, $name)
        if $becomes eq 'done';
    return is_replay($answer, 200, 'once more', $name)
        if $waiter;

    return is_answer($answer, 200, 'once more', $name);
}


is_survived(@$_) for @deaths;

my ($held) = grep { $_->uri eq '/steady' } $backend->all;
$backend->answer(200, 'at last', to => $held);
is_answer($steady_c->next_response, 200, 'at last',
          'the steady one has lived through it all');
is_replay($t->post(%running), 200, 'at last', 'and kept what it got');
$t->finish;

# Of records with a large answer, and of those without one.

sub is_whole {
    my ($name) = @_;

    my $z = $t->zone;
    my $records = $z->{records};

    return is($z->{blocks} - $z->{free},
              $records->{done} * $blocks{done} + $records->{unknown},
              "$name: all blocks are those of the records");
}


# Time is over: whoever looks next dies, and the next one sees it out.

$t = Test::Idempotency->new(<<'END', points => 1, locations => <<'LOCATIONS');
    idempotency        payments;
    idempotency_valid  1s;
END
    location /long {
        idempotency_valid  1h;
        proxy_pass         http://backend;
    }
LOCATIONS

$backend = $t->backend;
$backend->auto(200, $large);
%other = pay(path => '/long');
$t->post(%other);

for (@drops) {
    my ($point, undef, $why) = @$_;
    my $name = "expire, $point, $why";
    my %pay = pay();
    my $repairs = $t->counter('repaired');

    $t->wait_until(done => 1);          # no record of before is to end now
    is_answer($t->post(%pay), 200, $large, "$name: a short record");
    $t->arm($point);
    wait_for('its time is over', sub {
        return !eval { $t->zone };
    });
    $t->wait_for_death;

    is_answer($t->post(%pay), 200, $large, "$name: it is forgotten");
    is(executions($pay{key}), 2, "$name: ran again");
    is_replay($t->post(%other), 200, $large, "$name: another record");
    is($t->counter('repaired'), $repairs + 1, "$name: repaired");
    is_whole($name);
}

$t->finish;

# No room is left: an answer that is kept evicts the oldest record.

$t = Test::Idempotency->new('idempotency payments;', points => 1,
                            zone => 'zone=payments:64k full=evict');
$backend = $t->backend;
$backend->auto(200, $large);

my @keys;


sub fill {
    my %pay = pay();

    push @keys, \%pay;

    return $t->post(%pay);
}


wait_for('it is full', sub { fill(); $t->counter('evicted_done') });
shift @keys;

for (@drops) {
    my ($point, $gone, $why) = @$_;
    my $name = "evict, $point, $why";
    my $oldest = shift @keys;
    my %pay = pay();
    my $repairs = $t->counter('repaired');
    my $client = $t->connect;

    $t->arm($point);
    $client->request(%pay);
    $t->wait_for_death;

    like($client->next_response->why, qr/after 0 bytes/,
         "$name: its client gets nothing");
    is_problem($t->post(%pay), 409, 'outcome-unknown', "$name: it is unknown");
    is(executions($pay{key}), 1, "$name: and ran once");
    is_replay($t->post(%$oldest), 200, $large, "$name: the oldest is there")
        if !$gone;
    is_replay($t->post(%$_), 200, $large, "$name: another is there")
        for @keys;
    is($t->counter('repaired'), $repairs + 1, "$name: repaired");

    is_answer(fill(), 200, $large, "$name: the next one runs");
    is_answer($t->post(%$oldest), 200, $large, "$name: the oldest was evicted");
    push @keys, $oldest;
    shift @keys;

    is_whole($name);
}

done_testing;
