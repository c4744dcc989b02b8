#!/usr/bin/perl

# Requests that change one resource do so one at a time, in order of arrival,
# on whatever node they arrive; nobody's death stops the others for long, and
# what somebody who died was about to do is not forgotten.  The scripts that
# see to it.

use lib 't/lib';
use Test::Idempotency;

use Digest::SHA qw(sha256_hex);

use Test::Idempotency::Deadline;
use Test::Idempotency::Redis;
use Test::Idempotency::Resp;

use constant HOUR => 3600 * 1000;           # ms
use constant SEEN => 3000;                  # so long a waiter keeps its place

my @verbs = qw(hold mark leave renew claim complete release load);
my $redis = Test::Idempotency::Redis->new;
my $c = $redis->client;
my $news = $redis->client;
my $keys = 0;

my %sha = map { $_ => $c->command('SCRIPT', 'LOAD',
                                  slurp("src/store/lua/$_.lua")) } @verbs;

# who asks; bytes that a string of C would not survive

my ($me, $other, @more) = map { substr "\0$_\r\n" . "\xff\0" x 8, 0, 16 }
    'me', 'other', 1 .. 200;

my $value = join '', map { chr } 0 .. 255;
my $pending = "\0\r\n" . 'p' x 317;

$news->command('PSUBSCRIBE', 'idem:*:w', 'marks');
$news->receive;


sub slurp {
    my ($file) = @_;

    open my $in, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$in>;
}


sub new_key { return 'idem:' . sha256_hex('guard ' . ++$keys) }
sub evalsha { return ('EVALSHA', $sha{ $_[0] }, 1, @_[1 .. $#_]) }
sub call    { return @{ $c->command(evalsha(@_)) } }
sub now     { my ($s, $us) = @{ $c->command('TIME') };
              return $s * 1000 + int($us / 1000) }


# The verbs, with terms that do unless others are given.

sub hold {
    my ($key, %o) = @_;

    return call(hold_args($key, %o));
}


sub hold_args {
    my ($key, %o) = @_;

    return ('hold', $key, $o{owner} // $me, $o{lease} // HOUR,
            $o{life} // 24 * HOUR, $o{pending} // '', $o{most} // 0);
}


# Its verdict, with the place of one who has to wait.

sub held {
    my ($said, undef, $place) = hold(@_);

    return $said eq 'B' ? "B$place" : $said;
}


sub waits { my ($key, $owner) = @_;
            return held($key, owner => $owner, most => 128) }


sub mark {
    my ($key, %o) = @_;

    return call('mark', $key, $o{owner} // $me, $o{value} // '',
                $o{pending} // '');
}


sub leave {
    my ($key, %o) = @_;

    return call('leave', $key, $o{owner} // $me, $o{value} // '',
                $o{pending} // '', $o{life} // 24 * HOUR, "$key:w",
                $o{back} // 0);
}


sub renew {
    my ($key, %o) = @_;

    return call('renew', $key, $o{owner} // $me, $o{lease} // HOUR);
}


sub life  { return $c->command('PTTL', $_[0]) }
sub there { return $c->command('EXISTS', $_[0]) }


# Returns when so many ms have passed on the server's clock.

sub time_passes {
    my ($ms) = @_;

    my $end = now() + $ms;

    return wait_for('time passes', sub { now() >= $end });
}


# As if those in the queue had been seen so much earlier; all, or one.

sub unseen {
    my ($key, $ms, $owner) = @_;

    my $v = $c->command('GET', $key);
    my ($a, $b, $n) = unpack 'x71 n n n', $v;

    for my $i (0 .. $n - 1) {
        my $at = 77 + $a + $b + 24 * $i;
        my ($who, $seen) = unpack 'a16 d>', substr $v, $at, 24;

        substr($v, $at, 24) = pack 'a16 d>', $who, $seen - $ms
            if !defined $owner || $who eq $owner;
    }

    $c->command('SET', $key, $v, 'KEEPTTL');

    return;
}


# As if its holder had vanished, and the lease had ended.

sub vanishes {
    my ($key) = @_;

    my ($life) = unpack 'x59 d>', $c->command('GET', $key);

    $c->command('PEXPIRE', $key, $life);

    return;
}


sub is_about {
    my ($got, $expected, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return ok(defined $got && $got <= $expected && $got > $expected - 2000,
              $name) || diag($got // 'nothing', " instead of $expected");
}


# What comes on the channels, up to now: names of owners.

sub told {
    my $mark = "mark " . ++$keys;
    my @said;

    $c->command('PUBLISH', 'marks', $mark);

    for ( ;; ) {
        my (undef, $pattern, $channel, $message) = @{ $news->receive };
        return "@said" if $pattern eq 'marks' && $message eq $mark;
        push @said, $message =~ /\0(\w+)\r/ if $pattern ne 'marks';
    }
}


# A guard as it is written, byte for byte.

sub guard {
    my ($state, %o) = @_;

    my @spans = map { $_ // '' } @o{qw(value pending)};

    return pack('a2 a1 a16 x32 d> d> x3 a1 n n n', 'G1', $state,
                $o{owner} // $me, $o{n}, $o{life}, $o{by} // 'O',
                (map { length } @spans), $o{waiters} // 0)
         . join('', @spans);
}


subtest 'one at a time' => sub {
    my $key = new_key();
    my $before = now() * 1000;
    my @got = hold($key, pending => $pending);

    is("@got[0, 2]", 'O ', 'the first holds it');
    cmp_ok($got[1], '>=', $before, 'its fence is a time');
    ok($got[3] eq $pending, 'what it is about to do');

    my ($said, $left, $place) = hold($key, owner => $other);
    is("$said $place", 'B 0', 'another one does not');
    is_about($left, HOUR, 'so much of the lease is left');

    is_deeply([ hold($key, pending => 'x') ], \@got,
              'who holds it is answered again');
    is_deeply([ leave($key, value => $value) ], [ 'A' ], 'it leaves');
    is_deeply([ leave($key, value => 'x') ], [ 'L' ], 'and has left');

    my @next = hold($key, owner => $other);
    ok($next[0] eq 'O' && $next[2] eq $value, 'the next finds what is known');
    cmp_ok($next[1], '>', $got[1], 'and has a greater fence');
    is_deeply([ map { @$_ } [ leave($key) ], [ mark($key) ], [ renew($key) ] ],
              [ qw(L L L) ], 'who does not hold it changes nothing');
    is((leave($key, owner => $other))[0], 'A', 'the next leaves nothing');
    is(there($key), 0, 'and nothing is kept');

    # the clock of the server is set back, or a replica's is behind

    my $future = 2 ** 52 + 1;
    $c->command('SET', $key, guard('d', n => $future, life => HOUR));
    is((hold($key))[1], $future + 1, 'also if the clock was ahead');
};


subtest 'who vanishes' => sub {
    my $key = new_key();
    my $ends = sub { vanishes($key); time_passes(2) };

    hold($key);
    $ends->();
    is_deeply([ map { @$_ } [ leave($key) ], [ mark($key) ], [ renew($key) ] ],
              [ qw(L L L) ], 'nobody holds it after the lease');
    is((hold($key, owner => $other))[0], 'O',
       'who was to do nothing leaves no doubt');

    leave($key, owner => $other, value => $value);
    hold($key, pending => $pending);
    $ends->();

    my ($said, $fence, @found) = hold($key, owner => $other, pending => 'mine');
    is($said, 'C', 'else the next has to find out');
    ok($found[0] eq $value && $found[1] eq $pending,
       'what was known, and what that one was to do');
    is_deeply([ hold($key, owner => $other, pending => 'mine') ],
              [ $said, $fence, @found ], 'and is answered again');

    $ends->();
    @found = hold($key, owner => $more[0]);
    ok($found[0] eq 'C' && $found[3] eq $pending,
       'it vanishes, too: the doubt stays');

    is((mark($key, owner => $more[0], value => 'v', pending => 'p'))[0], 'O',
       'who found out says so');
    is_deeply([ (hold($key, owner => $more[0]))[0, 2, 3] ], [ qw(O v p) ],
              'and is answered again');
    is_about(life($key), 25 * HOUR, 'the lease has begun anew');
    $ends->();
    is_deeply([ (hold($key))[0, 2, 3] ], [ qw(C v p) ],
              'what it was to do is in doubt then');

    leave($key, value => 'v', pending => 'q');
    is_deeply([ (hold($key))[0, 2, 3] ], [ qw(C v q) ],
              'a doubt that is left is there for the next');
    leave($key, value => 'w');
    is_deeply([ (hold($key))[0, 2, 3] ], [ 'O', 'w', '' ], 'or is no more');
};


subtest 'as if it had not been asked for' => sub {
    my $key = new_key();
    my $back = sub { (leave($key, @_, back => 1))[0] };

    hold($key, pending => 'p');
    is($back->(), 'A', 'a guard is given back');
    is(there($key), 0, 'and was not there before');
    is($back->(), 'L', 'it is not there again');

    hold($key);
    leave($key, value => 'v');
    hold($key, pending => 'p');
    is($back->(value => 'x', pending => 'y', life => 0), 'A', 'given back');
    is_about(life($key), 24 * HOUR, 'it lives as long as before');
    is_deeply([ (hold($key, pending => 'p'))[0, 2, 3] ], [ qw(O v p) ],
              'what is known is known');

    vanishes($key);
    time_passes(2);
    hold($key, owner => $other);
    is($back->(owner => $other), 'A', 'given back by one who was to find out');
    is_deeply([ (hold($key))[0, 2, 3] ], [ qw(C v p) ], 'others have to');

    mark($key, value => 'v', pending => 'mine');
    is($back->(owner => $other), 'A', 'who does not hold it');
    is_deeply([ (hold($key))[0, 2, 3] ], [ qw(O v mine) ], 'changes nothing');
};


subtest 'how long it lives' => sub {
    my $key = new_key();

    hold($key, lease => HOUR, life => 5 * HOUR);
    is_about(life($key), 6 * HOUR, 'held: lease, and life if that runs out');
    renew($key, lease => 2 * HOUR);
    is_about(life($key), 7 * HOUR, 'renewed');
    hold($key, lease => 3 * HOUR, life => 9 * HOUR);
    is_about(life($key), 8 * HOUR, 'held again: as renewed');
    waits($key, $other);
    is_about(life($key), 8 * HOUR, 'somebody waits');
    mark($key, value => 'v');
    is_about(life($key), 8 * HOUR, 'marked');
    leave($key, owner => $other, back => 1);
    is_about(life($key), 8 * HOUR, 'nobody waits');
    leave($key, value => 'v', life => 30 * HOUR);
    is_about(life($key), 30 * HOUR, 'left: so long is it known');
    hold($key);
    is_about(life($key), 31 * HOUR, 'held: no shorter than before');
    vanishes($key);
    hold($key, owner => $other, life => 0);
    is_about(life($key), 31 * HOUR, 'also by the next');
    leave($key, owner => $other, value => 'v', pending => 'p', life => 0);
    is(there($key), 0, 'for no time');

    hold($key);
    leave($key, value => 'v', life => 20);
    time_passes(21);
    is_deeply([ (hold($key))[0, 2] ], [ 'O', '' ], 'in the end it is gone');

    waits($key, $other);
    leave($key, value => 'v', life => 20);
    is_about(life($key), 4000, 'while somebody waits it lives for him');
    is((leave($key))[0], 'L', 'it is left, and that once');
    time_passes(100);
    waits($key, $more[0]);
    cmp_ok(life($key), '>', 3950, 'and for one who comes then');
    leave($key, owner => $more[0], back => 1);
    is(waits($key, $other), 'O', 'he comes');
    waits($key, $me);
    leave($key, owner => $other, value => 'v', pending => 'p', life => 0);
    is_deeply([ (hold($key))[0, 2] ], [ 'O', '' ], 'nothing, for no time');
    leave($key, life => 0);
    is(there($key), 0, 'and goes');

    hold($key, lease => 10, life => 10);
    cmp_ok(life($key), '>', 3000, 'waiters outlive a lease');
};


subtest 'in order of arrival' => sub {
    my $key = new_key();

    hold($key);
    is(waits($key, $more[$_]), 'B' . ($_ + 1), "number $_ comes") for 0 .. 4;
    is(waits($key, $more[$_]), 'B' . ($_ + 1), "number $_ asks") for 3, 0, 4;
    told();
    is((leave($key, value => 'v'))[0], 'A', 'it is free');
    is(told(), 1, 'the first of them is told');
    is(held($key, owner => $other), 'B0', 'who comes now does not have it');
    is(waits($key, $more[5]), 'B6', 'but may wait');
    is(waits($key, $more[3]), 'B4', 'who stands behind the first stays there');
    is(told(), '', 'nobody else is told');
    is_deeply([ (hold($key, owner => $more[0]))[0, 2] ], [ qw(O v) ],
              'the first has it');
    is(waits($key, $more[1]), 'B1', 'the second is the first now');

    # who goes away

    leave($key, owner => $more[$_], back => 1) for 2, 1;
    is(told(), '', 'who leaves while it is held tells nobody');
    is(waits($key, $more[4]), 'B2', 'those behind come nearer');
    leave($key, owner => $more[0]);
    is(told(), 4, 'the next is told');
    leave($key, owner => $more[3], back => 1);
    is(told(), 5, 'who leaves when it is his turn tells the next');
    is(waits($key, $more[4]), 'O', 'who has it');
    is(held($key, owner => $more[5], most => 0), 'B1',
       'who is in it stays, whatever the limit');

    # it is given to one who is not there any more

    leave($key, owner => $more[4], back => 1);
    is(told(), 6, 'who gives it back tells the next');
    leave($key, owner => $more[5], back => 1);
    is(there($key), 0, 'nobody is left');
};


subtest 'limits' => sub {
    my $key = new_key();
    my $with = sub { held($key, owner => $more[$_[0]], most => $_[1]) };

    hold($key);
    is($with->(0, 0), 'B0', 'nobody may wait');
    is($with->(0, 2), 'B1', 'two may: the first');
    is($with->(1, 2), 'B2', 'the second');
    is($with->(2, 2), 'B0', 'the third may not');
    is($with->(0, 2) . $with->(1, 2), 'B1B2', 'those who do may stay');
    is($with->(2, 3), 'B3', 'it may, if three may');
    leave($key, owner => $more[0], back => 1);
    is($with->(0, 2), 'B0', 'who has left comes too late');
    leave($key);
    is($with->(3, 2), 'B0', 'also when it is free');
    leave($key, owner => $more[1], back => 1);
    leave($key, owner => $more[2], back => 1);
    is($with->(3, 0), 'O', 'nobody waits: no limit');

    is($with->($_, 128), 'B' . ($_ - 3), "a queue of $_") for 4 .. 131;
    is($with->(132, 128), 'B0', 'and no more');
    leave($key, owner => $more[3]);
    my @order = map { my $n = $_; my $had = $with->($n, 128);
                      leave($key, owner => $more[$n]); $had } 4 .. 131;
    is("@order", "@{[ ('O') x 128 ]}", 'all of them in order');
    is(there($key), 0, 'to the last');
};


subtest 'who waits and dies' => sub {
    my $key = new_key();

    hold($key);
    waits($key, $_) for @more[0 .. 2];
    unseen($key, SEEN + 1, $more[0]);
    is(waits($key, $more[1]), 'B1', 'who was not seen loses its place');
    is(waits($key, $more[0]), 'B3', 'and comes back behind the others');

    unseen($key, SEEN - 500);
    is(waits($key, $more[2]), 'B2', 'not who was seen');
    unseen($key, 501);
    told();
    leave($key);
    is(told(), 3, 'who is told is one who was seen');
    is(waits($key, $more[2]), 'O', 'and it comes');
    is(waits($key, $more[0]), 'B1', 'who is back is the first now');

    # told, and dead

    leave($key, owner => $more[2]);
    is(waits($key, $more[1]), 'B2', 'the dead one was told: the next waits');
    unseen($key, SEEN + 1, $more[0]);
    is(waits($key, $more[1]), 'O', 'no longer than it takes to be missed');

    # all are late, as nobody could be asked

    waits($key, $_) for @more[4 .. 6];
    unseen($key, 2 * SEEN);
    is(waits($key, $more[4]), 'B1', 'the first who comes is the first');

    # the clock was set back, or a replica's is behind

    unseen($key, - 2 * SEEN);
    waits($key, $more[5]);
    is(waits($key, $more[4]), 'B2', 'a time to come is no better');

    # while it is free, time passes for real

    $key = new_key();
    hold($key);
    waits($key, $_) for @more[0, 1];
    leave($key);
    my $polls = 0;
    wait_for('the second has its turn', sub {
        $polls++;
        time_passes(300);
        return waits($key, $more[1]) eq 'O' });
    cmp_ok($polls, '>=', 9, 'the second waits for 3 s');
    cmp_ok($polls, '<=', 13, 'and not for 4');
};


subtest 'a lease that ends while others wait' => sub {
    my $key = new_key();

    hold($key, pending => 'p');
    waits($key, $_) for @more[0, 1];
    vanishes($key);
    time_passes(2);
    is(held($key, owner => $other), 'B0', 'nobody overtakes them');
    is(waits($key, $more[1]), 'B2', 'nor the second the first');
    my @found = hold($key, owner => $more[0]);
    is_deeply([ @found[0, 3] ], [ qw(C p) ], 'who has to find out');
    leave($key, owner => $more[0]);
    is(waits($key, $more[1]), 'O', 'the second need not');

    vanishes($key);
    time_passes(2);
    told();
    is(waits($key, $more[2]), 'O', 'nobody is in doubt, nobody waits');
    waits($key, $more[3]);
    vanishes($key);
    time_passes(2);
    leave($key, owner => $more[2]);
    is(told(), '', 'who leaves too late tells nobody');
    is(waits($key, $more[3]), 'O', 'who asks has it');
};


subtest 'the bytes' => sub {
    my $key = new_key();
    my $stored = sub { $c->command('GET', $key) };
    my $queue = sub { substr $stored->(), -24 };

    my (undef, $n) = hold($key, pending => 'p', life => 7000);
    ok($stored->() eq guard('r', n => $n, life => 7000, pending => 'p'),
       'held');

    my $before = now();
    waits($key, $other);
    my ($who, $seen) = unpack 'a16 d>', $queue->();
    ok($who eq $other && $seen >= $before && $seen < $before + 60000,
       'waited for');
    ok($stored->() eq guard('r', n => $n, life => 7000, pending => 'p',
                            waiters => 1) . $queue->(), 'so written');

    mark($key, value => $value, pending => $pending);
    ok($stored->() eq guard('r', n => $n, life => 7000, value => $value,
       pending => $pending, waiters => 1) . $queue->(), 'marked');
    leave($key, value => 'v', life => 9000);
    ok($stored->() eq guard('d', n => $n, life => 9000, value => 'v',
       waiters => 1) . $queue->(), 'left');
    (undef, $n) = hold($key, owner => $other, life => 20000, pending => 'q');
    ok($stored->() eq guard('r', n => $n, life => 20000, value => 'v',
       pending => 'q', owner => $other), 'held by the next');
    vanishes($key);
    time_passes(2);
    (undef, $n) = hold($key, life => 30000, pending => 'z');
    ok($stored->() eq guard('r', n => $n, life => 30000, value => 'v',
       pending => 'q', by => 'C'), 'held by one who has to find out');
};


subtest 'what is not a guard' => sub {
    my %values = (
        'a word'          => 'hello',
        'a longer text'   => 'hello ' x 20,
        'another version' => guard('r', n => 1, life => HOUR) =~ s/G1/G2/r,
        'another state'   => guard('x', n => 1, life => HOUR),
        'a guard cut off' => substr(guard('r', n => 1, life => HOUR), 0, 60),
        'waiters cut off' => guard('r', n => 1, life => HOUR) . 'a',
    );

    my @make = map { my $v = $values{$_};
                     [ $_, sub { $c->command('SET', $_[0], $v, PX => HOUR) } ] }
        sort keys %values;

    push @make, [ 'a list', sub { $c->command('RPUSH', $_[0], 'a') } ],
        [ 'a claim', sub { call('claim', $_[0], $me, 'f' x 32, HOUR, HOUR, 0,
                                0) } ];

    for (@make) {
        my ($what, $make) = @$_;
        my $key = new_key();

        $make->($key);
        my $before = $c->command('DUMP', $key);

        for my $act ([ hold_args($key, owner => $other) ],
                     [ 'mark', $key, $me, '', '' ],
                     [ 'leave', $key, $me, '', '', HOUR, 'w', 0 ],
                     [ 'leave', $key, $me, '', '', HOUR, 'w', 1 ]) {
            my $said = $c->try(evalsha(@$act));

            ok(is_error($said) || $act->[0] ne 'hold' && "@$said" eq 'L',
               "$what: $act->[0]") || diag("@$said");
        }

        ok($c->command('DUMP', $key) eq $before, "$what: is left alone");
    }

    my $key = new_key();
    hold($key, pending => 'p');
    my $before = $c->command('DUMP', $key);

    for my $act ([ 'claim', $key, $me, 'f' x 32, HOUR, HOUR, 1, 1 ],
                 [ 'load', $key, 1 ],
                 [ 'complete', $key, $me, 'd', HOUR, 201, 0, 'r', '', 'w' ],
                 [ 'release', $key, $me, 'w' ]) {
        my $said = $c->try(evalsha(@$act));

        ok(is_error($said) || "@$said" eq 'L', "no record: $act->[0]");
    }

    ok($c->command('DUMP', $key) eq $before, 'a guard is left alone');
};


subtest 'a server that is full' => sub {
    my ($mine, $new) = (new_key(), new_key());

    hold($mine);
    $c->command('CONFIG', 'SET', 'maxmemory', 1);
    like($c->try(evalsha(hold_args($new))), qr/^OOM/, 'gives no guard');
    is(there($new), 0, 'not by half');
    is((renew($mine))[0], 'O', 'it can be renewed');
    is((leave($mine))[0], 'A', 'and left');
    $c->command('CONFIG', 'SET', 'maxmemory', 0);
};


subtest 'who may do no more than this' => sub {
    my $key = new_key();

    $c->command('ACL', 'SETUSER', 'idem', 'on', '>secret', '~idem:*',
        '&idem:*', '-@all', map { "+$_" } qw(evalsha eval get set del getrange
        setrange strlen pttl pexpire pexpireat time publish));

    my $all = $c;
    $c = $redis->client;
    $c->command('AUTH', 'idem', 'secret');

    is((hold($key))[0], 'O', 'holds');
    is(waits($key, $other), 'B1', 'waits');
    is((renew($key))[0], 'O', 'renews');
    is((mark($key, value => 'v'))[0], 'O', 'marks');
    is((leave($key, value => 'v'))[0], 'A', 'leaves and tells');
    is((leave($key, owner => $other, back => 1))[0], 'A', 'waits no more');
    hold($key);
    is((leave($key))[0], 'A', 'deletes');
    $c = $all;
};


subtest 'a crowd' => sub {
    my $key = new_key();
    my @crowd = map { Test::Idempotency::Resp->new($redis->address) } 1 .. 10;
    my (%said, %place);
    my $n = 0;

    for my $client (@crowd) {
        $client->send(map { [ evalsha(hold_args($key, most => 100,
                                                owner => $more[$n++])) ] }
                      1 .. 20);
    }

    for my $client (@crowd) {
        for ($client->receive(20)) {
            my ($said, undef, $at) = @$_;
            $said{ $said eq 'B' && !$at ? 'full' : $said }++;
            $place{$at}++ if $said eq 'B' && $at;
        }
    }

    is_deeply(\%said, { O => 1, B => 100, full => 99 },
              'one of 200 has it, 100 wait');
    is(scalar(keys %place), 100, 'each in a place of its own');
};


done_testing;
