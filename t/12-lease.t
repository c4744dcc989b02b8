#!/usr/bin/perl

# A request may take much longer than its lease: the worker that runs it
# renews the lease until there is an answer.  If that worker does not, nobody
# knows what became of the request, and its late answer changes nothing.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOF', locations => <<'EOF');
    idempotency        payments;
    idempotency_lease  300ms;
    proxy_set_header   X-Worker $pid;
EOF
    location /wait {
        idempotency_concurrent wait=10s;
        proxy_pass http://backend;
    }

    location /clock {
        idempotency_valid 1s;
        proxy_pass http://backend;
    }

    location /patient {
        idempotency_lease 1h;
        proxy_pass http://backend;
    }
EOF

my $backend = $t->backend;
my $clocks = 0;

$backend->on('/clock', 200, 'tick %n');


# Returns after a second: when a record of that life has expired.

sub a_second_passes {
    my %clock = (path => '/clock', key => 'clock-' . ++$clocks);
    my $tick = $t->post(%clock)->body;

    return wait_for('the clock ticks',
                    sub { $t->post(%clock)->body ne $tick });
}


sub state_of {
    my ($pid) = @_;

    open my $stat, '<', "/proc/$pid/stat" or return '';

    return (<$stat> =~ /\) (\S)/)[0];
}


# Three leases later the claim still stands, and its answer is taken.

my $first = $t->start_post(key => 'long');
my $waiting = $t->start_post(path => '/wait', key => 'waited');
$backend->wait_for_request(2);
my $twin = $t->start_post(path => '/wait', key => 'waited');
$t->wait_until(waiting => 1);

a_second_passes();

is($first->answered, 0, 'the first request runs');
is_problem($t->post(key => 'long'), 409, 'in-flight', 'and holds its claim');
is($twin->answered, 0, 'a waiter waits on');
is($t->zone->{waiting}, 1, 'and is parked');

my %held = map { $_->uri => $_ } $backend->all;
$backend->answer(201, 'at last', to => $held{'/'});
$backend->answer(201, 'so long', to => $held{'/wait'});

is_answer($first, 201, 'at last', 'the first is answered');
is_replay($t->post(key => 'long'), 201, 'at last', 'the answer is kept');
is_answer($waiting, 201, 'so long', 'the one that was waited for, too');
is_replay($twin, 201, 'so long', 'the waiter has waited for it');
is($t->counter('lease_ended'), 0, 'no lease has ended');

# A worker that is stopped renews nothing.

for my $path ('/', '/patient') {
    my %stopped = (path => $path, key => "stopped $path" =~ tr/ //dr);

    $first = $t->start_post(%stopped);
    my $worker = $backend->wait_for_request->header('X-Worker');
    my $since = $t->zone->{counters};

    kill 'STOP', $worker;
    wait_for('it stops', sub { state_of($worker) eq 'T' });

    if ($path eq '/patient') {
        a_second_passes();
        is_problem($t->post(%stopped), 409, 'in-flight',
                   'a long lease of the location is long');

    } else {
        wait_for('the lease ends', sub {
            $t->post(%stopped)->body =~ /outcome of the first/;
        });
        is_problem($t->post(%stopped), 409, 'outcome-unknown',
                   'when its lease has ended, nobody knows');
        is($t->counter('lease_ended'), $since->{lease_ended} + 1,
           'which is counted');
    }

    kill 'CONT', $worker;
    $backend->answer(200, 'late');
    is_answer($first, 200, 'late', 'the client gets the late answer');

    if ($path eq '/patient') {
        is_replay($t->post(%stopped), 200, 'late', 'as any other');
        is($t->counter('lost'), $since->{lost}, 'the claim was never lost');
        next;
    }

    is_problem($t->post(%stopped), 409, 'outcome-unknown',
               'the late answer changes nothing');
    is($t->counter('lost'), $since->{lost} + 1, 'which is counted');
    $t->log_like(qr/\[warn\].* idempotency: the lease.* ended/, 'and logged');
}

done_testing;
