#!/usr/bin/perl

# Another binary takes over without a pause.  What the old one has begun, it
# ends, and answers.  The new one begins with an empty zone: that is the limit,
# and a request of before that is repeated is carried out once more.

use lib 't/lib';
use Test::Idempotency;

my %options = (daemon => 1, main => "env ASAN_OPTIONS;\nenv UBSAN_OPTIONS;");
my $n = 0;

my ($t, $backend);


sub begin {
    $t = Test::Idempotency->new(<<'END', %options);
        idempotency             payments;
        idempotency_concurrent  wait=20s;
END
    $backend = $t->backend;

    return;
}


sub pay { return (path => '/', key => 'k' . ++$n, body => 'eur=1') }


# The eventfds of a process: what it could wake others by.

sub eventfds {
    my ($pid) = @_;

    return join ' ', sort { $a <=> $b }
        map { m{(\d+)$} } grep { (readlink // '') =~ /\[eventfd\]/ }
        glob "/proc/$pid/fd/*";
}


# A first request, and one that waits for it, in one of the workers there are.

sub begin_pair {
    my (%pay) = @_;

    my $held = $backend->requests;
    my $first = $t->start_post(%pay);

    wait_for('the upstream has it', sub { $backend->requests > $held });
    my $waiter = $t->start_post(%pay);

    return ($first, $waiter, $backend->last);
}


# USR2, WINCH, QUIT.

begin();

my %before = pay();
$backend->on('/', 201, 'of before');
is_answer($t->post(%before), 201, 'of before', 'a record of before');
$backend->hold;

my %runs = pay();
my ($runs, $waits, $held) = begin_pair(%runs);
$t->wait_until(waiting => 1);

my @old = $t->workers;
my $had = eventfds($old[0]);

$t->upgrade;

my ($new) = grep { my $pid = $_; !grep { $_ == $pid } @old } $t->workers;
like($had, qr{^\d+( \d+){63}}, 'a worker has an eventfd for each');
is(eventfds($new), $had, 'no eventfd came from the old binary to the new one');

$t->winch;
is($t->zone->{records}{$_}, 0, "the new zone is empty: nothing is $_")
    for qw(running done);
is($waits->answered, 0, 'the old one waits on');

# what is repeated now is carried out again

$backend->on('/', 200, 'once more');
is_answer($t->post(%before), 200, 'once more', 'what was done runs again');
is_answer($t->post(%runs), 200, 'once more', 'so does what still runs');
$backend->hold;

# the new one can do all of it

my %also = pay();
my ($first, $second, $also) = begin_pair(%also);
$t->wait_until(waiting => 1);
$backend->answer(200, 'so', to => $also);
is_answer($first, 200, 'so', 'a claim of the new one');
is_replay($second, 200, 'so', 'and its waiter');
is($runs->answered, 0, 'are not those of the old one');

$backend->answer(200, 'at last', to => $held);
is_answer($runs, 200, 'at last', 'what ran in the old one is answered');
is_replay($waits, 200, 'at last', 'so is who waited for it');

$t->wait_for_old_workers->end_old;
is_replay($t->post(%runs), 200, 'once more', 'the new one stands by its own');
is_replay($t->post(%also), 200, 'so', 'answers');
is($t->workers, 2, 'the old one is gone');

# and may be reloaded, and upgraded again

$t->reload->wait_for_old_workers;
is_replay($t->post(%also), 200, 'so', 'a reload keeps its zone');
$t->upgrade->winch->wait_for_old_workers->end_old;
is($t->zone->{records}{done}, 0, 'another upgrade does not');
$t->finish;

# And back: the old one's zone was there all the time.

begin();

%before = pay();
$backend->on('/', 201, 'of before');
$t->post(%before);
$backend->hold;
%runs = pay();
($runs, $waits, $held) = begin_pair(%runs);
$t->wait_until(waiting => 1);

$t->upgrade->winch;
my %between = pay();
$backend->on('/', 200, 'in between');
is_answer($t->post(%between), 200, 'in between', 'the new one has one record');
$backend->hold;

$t->end_new;
is_replay($t->post(%before), 201, 'of before', 'back: records are there');
my $newcomer = $t->start_post(%runs);
$t->wait_until(waiting => 2);
pass('back: what runs is running');
$t->reload;
is_replay($t->post(%before), 201, 'of before', 'back: after a reload as well');

$backend->answer(200, 'at last', to => $held);
is_answer($runs, 200, 'at last', 'back: the first is answered');
is_replay($_, 200, 'at last', 'back: who waits gets it') for $waits, $newcomer;

$backend->on('/', 200, 'once more');
is_answer($t->post(%between), 200, 'once more',
          'back: what the new one has known is forgotten');
$t->wait_for_old_workers;
is($t->workers, 2, 'back: nobody stays');
is($t->counter($_), 0, "back: none was $_") for qw(orphaned lost lease_ended);

done_testing;
