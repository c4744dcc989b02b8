#!/usr/bin/perl

# However many nodes ask for a key, Redis lets one of them carry the request
# out, and no one may say what became of it but that one, in time.  The scripts
# that see to it obey the same table as a zone does.

use lib 't/lib';
use Test::Idempotency;

use Digest::SHA qw(sha1_hex sha256 sha256_hex);
use List::Util qw(max min);

use Test::Idempotency::Deadline;
use Test::Idempotency::Redis;
use Test::Idempotency::Resp;

use constant HOUR => 3600 * 1000;           # ms

my @verbs = qw(claim renew complete release load hold mark leave);
my %text = map { $_ => slurp("src/store/lua/$_.lua") } @verbs;
my %sha = map { $_ => sha1_hex($text{$_}) } @verbs;

my $redis = Test::Idempotency::Redis->new;
my $c = $redis->client;
my $news = $redis->client;
my $keys = 0;

$c->command('SCRIPT', 'LOAD', $text{$_}) for @verbs;

# who claims, and what for; bytes that a string of C would not survive

my ($me, $other) = ("\0me\r\n" . "\0" x 11, "\xff" x 16);
my ($this, $another) = (sha256('eur=1'), "\0" x 32);
my %unknown = (refuse => 0, retry => 1, check => 2);


sub slurp {
    my ($file) = @_;

    open my $in, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$in>;
}


sub new_key { return 'idem:' . sha256_hex('key ' . ++$keys) }
sub channel { return "$_[0]:w" }
sub evalsha { return ('EVALSHA', $sha{ $_[0] }, 1, @_[1 .. $#_]) }
sub call    { return @{ $c->command(evalsha(@_)) } }
sub now     { my ($s, $us) = @{ $c->command('TIME') };
              return $s * 1000 + int($us / 1000) }


# The verbs, with terms that do unless others are given.

sub claim {
    my ($key, %o) = @_;

    return call(claim_args($key, %o));
}


sub claim_args {
    my ($key, %o) = @_;

    return ('claim', $key, $o{owner} // $me, $o{for} // $this,
            $o{lease} // HOUR, $o{life} // 24 * HOUR,
            $unknown{ $o{unknown} // 'refuse' }, $o{waiting} // 0,
            $o{known} // 0);
}


sub renew {
    my ($key, %o) = @_;

    return call('renew', $key, $o{owner} // $me, $o{lease} // HOUR);
}


sub complete {
    my ($key, %o) = @_;

    return call('complete', $key, $o{owner} // $me, $o{state} // 'd',
                $o{life} // 24 * HOUR, $o{status} // 201, $o{dry} // 0,
                $o{record} // '', $o{end} // '', channel($key));
}


sub release {
    my ($key, %o) = @_;

    return call('release', $key, $o{owner} // $me, channel($key),
                $o{back} // 0);
}


sub load {
    my ($key, $whole) = @_;

    my %r;

    @r{qw(state status age left fence dry life waiting size for record)} =
        call('load', $key, $whole // 0);

    return \%r;
}


# Returns when so many ms have passed on the server's clock.

sub time_passes {
    my ($ms) = @_;

    my $end = now() + $ms;

    return wait_for('time passes', sub { now() >= $end });
}


# What would be seen if anything had been changed.

sub trace {
    my ($key) = @_;

    return join ' ', map { $_ // '-' } $c->try('GET', $key),
        $c->command('PEXPIRETIME', $key);
}


sub is_about {
    my ($got, $expected, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return ok(defined $got && $got <= $expected && $got > $expected - 60000,
              $name) || diag($got // 'nothing', " instead of $expected");
}


# What comes on the channels, up to now.

sub messages {
    my $mark = "mark " . ++$keys;
    my @said;

    $c->command('PUBLISH', 'marks', $mark);

    for ( ;; ) {
        my (undef, $pattern, $channel, $message) = @{ $news->receive };
        return "@said" if $pattern eq 'marks' && $message eq $mark;
        push @said, $message if $pattern ne 'marks';
    }
}


$news->command('PSUBSCRIBE', 'idem:*:w', 'marks');
$news->receive;


# The states that a record can be in, and how it comes to that, if then 20 ms
# pass.

my %states = (
    absent    => sub { },
    running   => sub { claim($_[0]) },
    done      => sub { claim($_[0]); complete($_[0], record => 'r') },
    unstored  => sub { claim($_[0]); complete($_[0], state => 'u') },
    unknown   => sub { claim($_[0]); complete($_[0], state => 'k') },
    late      => sub { claim($_[0], lease => 20) },
    released  => sub { claim($_[0]); release($_[0]) },
    expired   => sub { claim($_[0]); complete($_[0], life => 20) },
    gone      => sub { claim($_[0], lease => 10, life => 10) },
    checking  => sub { claim($_[0]); complete($_[0], state => 'k');
                       claim($_[0], unknown => 'check') },
    again     => sub { claim($_[0]); complete($_[0], state => 'k');
                       claim($_[0], unknown => 'retry') },
    unchecked => sub { claim($_[0]); complete($_[0], state => 'k');
                       claim($_[0], unknown => 'check', lease => 20) },
);

# What is done to it, by the one who has (or had) the claim, or by another.

my %acts = (
    claim   => sub { claim(@_) },
    retry   => sub { claim(@_, unknown => 'retry') },
    check   => sub { claim(@_, unknown => 'check') },
    differs => sub { claim(@_, for => $another) },
    renew   => sub { renew(@_) },
    done    => sub { complete(@_, record => 'x') },
    unst    => sub { complete(@_, state => 'u') },
    unkn    => sub { complete(@_, state => 'k') },
    release => sub { release(@_) },
    back    => sub { release(@_, back => 1) },
);

# The verdict; and after ">" the state then, if it is another one.  What is
# said of absent goes for released, expired and gone, too, and what is said of
# late, for unchecked.

my $table = <<'END_OF_TABLE';
state    who   claim retry check differs renew done unst unkn release back
absent   me    O>B   O>B   O>B   O>B     L     L    L    L    L       L
absent   other O>B   O>B   O>B   O>B     L     L    L    L    L       L
running  me    O     O     O     M       O     D>D  S>S  U>U  A>A     A>A
running  other B     B     B     M       L     L    L    L    L       L
checking me    C     C     C     M       O     D>D  S>S  U>U  A>A     U>U
checking other B     B     B     M       L     L    L    L    L       L
again    me    O     O     O     M       O     D>D  S>S  U>U  A>A     U>U
again    other B     B     B     M       L     L    L    L    L       L
done     me    D     D     D     M       L     D    L    L    L       L
done     other D     D     D     M       L     L    L    L    L       L
unstored me    S     S     S     M       L     L    S    L    L       L
unstored other S     S     S     M       L     L    L    L    L       L
unknown  me    U     O>B   C>B   M       L     L    L    U    L       L
unknown  other U     O>B   C>B   M       L     L    L    L    L       L
late     me    U     O>B   C>B   M       L     L    L    L    L       L
late     other U     O>B   C>B   M       L     L    L    L    L       L
END_OF_TABLE

my %alike = (absent => [ qw(released expired gone) ], late => [ 'unchecked' ]);
my %letter = (running => 'B', checking => 'B', again => 'B', done => 'D', unstored => 'S',
              unknown => 'U', late => 'U');


# The table as a list: key, name, owner, act, verdict, state after, whether
# anything changes; each key is in the state it begins with.

sub cells {
    my ($head, @rows) = map { [ split ] } split /\n/, $table;
    my @acts = @$head[2 .. $#$head];
    my @cells;

    for (@rows) {
        my ($state, $who, @verdicts) = @$_;

        for my $begin ($state, @{ $alike{$state} || [] }) {
            for my $i (0 .. $#acts) {
                my ($verdict, $then) = split />/, $verdicts[$i];
                my $key = new_key();

                $states{$begin}->($key);
                push @cells, [ $key, "$begin: $acts[$i] by $who",
                    $who eq 'me' ? $me : $other, $acts[$i], $verdict,
                    $then // $letter{$state} // 'A',
                    defined $then || $verdict =~ /[OC]/ ];
            }
        }
    }

    return @cells;
}


subtest 'the table' => sub {
    my @cells = cells();

    is(scalar(@cells), 12 * 2 * 10, 'every cell');
    time_passes(21);

    for (@cells) {
        my ($key, $name, $owner, $act, $verdict, $then, $changes) = @$_;
        my $before = trace($key);
        my ($said) = $acts{$act}->($key, owner => $owner);

        is($said, $verdict, $name);
        is(load($key)->{state}, $then, "$name: the state after");
        is(trace($key), $before, "$name: nothing is changed") if !$changes;
    }
};


subtest 'what is answered' => sub {
    my $record = join '', map { chr } 0 .. 255, 13, 10, 0;
    my $key = new_key();
    my ($owned, $fence) = claim($key);

    my ($busy, $left) = claim($key, owner => $other);
    is($busy, 'B', 'running');
    is_about($left, HOUR, 'so much of the lease is left');

    is_deeply([ claim($key) ], [ 'O', $fence ], 'the owner is answered again');

    complete($key, status => 409, record => $record);
    time_passes(10);

    my @done = claim($key, owner => $other);
    is(join(' ', @done[0, 1, 4, 5]), "D 409 $fence 0", 'done');
    ok($done[2] >= 10 && $done[2] < 60000, 'its age');
    is($done[2] + $done[3], 24 * HOUR, 'and what is left of its life');
    ok($done[6] eq $record, 'the record, byte for byte');
    is(scalar(@done), 7, 'no more');

    for my $dry (0, 1) {
        $key = new_key();
        (undef, $fence) = claim($key);
        complete($key, state => 'u', status => 503, dry => $dry);

        my @unstored = claim($key);
        is(join(' ', @unstored[0, 1, 4, 5]), "S 503 $fence $dry", 'unstored');
        is($unstored[2] + $unstored[3], 24 * HOUR, 'its age and life');
        is(scalar(@unstored), 6, 'no more');
    }

    $key = new_key();
    claim($key, lease => 10);
    time_passes(30);
    my ($unknown, $age) = claim($key);
    is($unknown, 'U', 'unknown');
    ok($age >= 20 && $age < 60000, 'since the lease has ended');
    is_deeply([ claim($key, for => $another) ], [ 'M' ], 'another request');

    my $big = join '', map { sha256($_) } 1 .. 40000;

    $key = new_key();
    claim($key);
    complete($key, record => $big);
    ok((claim($key))[6] eq $big, 'a record of more than a megabyte');
};


subtest 'who is not to be the first' => sub {
    my $key = new_key();
    my @late = ($key, owner => $other, known => 1);

    is_deeply([ claim(@late) ], [ 'A' ], 'is told that there is nothing');
    is($c->command('EXISTS', $key), 0, 'and claims nothing');
    claim($key);
    is((claim(@late, waiting => 1))[0], 'B', 'may wait');
    is_deeply([ claim(@late, for => $another) ], [ 'M' ], 'may err');
    is((claim($key, known => 1))[0], 'O', 'holds what it has claimed');
    release($key);
    is((claim(@late))[0], 'A', 'is told of a release');
    claim($key);
    complete($key, state => 'k');
    is((claim(@late))[0], 'U', 'of an unknown');
    is((claim(@late, unknown => 'retry'))[0], 'O', 'and may retry that');
    complete($key, owner => $other, record => 'r');
    is((claim(@late))[6], 'r', 'gets a record');
};


subtest 'the key lives as long as the record' => sub {
    my $key = new_key();
    my $life = sub { $c->command('PTTL', $key) };

    claim($key, lease => HOUR, life => 5 * HOUR);
    is_about($life->(), 6 * HOUR, 'running: lease and life as unknown');

    renew($key, lease => 2 * HOUR);
    is_about($life->(), 7 * HOUR, 'renewed');

    claim($key, lease => 3 * HOUR, life => 9 * HOUR);
    is_about($life->(), 8 * HOUR, 'claimed again: as renewed');

    claim($key, owner => $other, waiting => 1);
    is_about($life->(), 8 * HOUR, 'somebody waits');

    complete($key, life => 4 * HOUR);
    is_about($life->(), 4 * HOUR, 'done');

    claim($key);
    complete($key, life => 9 * HOUR);
    is_about($life->(), 4 * HOUR, 'asked and completed again');

    $key = new_key();
    claim($key, lease => 20, life => 2 * HOUR);
    time_passes(20);
    is_about($life->(), 2 * HOUR, 'a lease has ended');

    claim($key, unknown => 'retry', life => 3 * HOUR);
    is_about($life->(), 4 * HOUR, 'run again');

    complete($key, life => 20);
    time_passes(21);
    is($c->command('EXISTS', $key), 0, 'and in the end it is gone');

    $key = new_key();
    claim($key);
    is_deeply([ complete($key, state => 'k', life => 0) ], [ 'U' ],
              'a life of nothing');
    is($c->command('EXISTS', $key), 0, 'is none');
};


subtest 'fences' => sub {
    my $key = new_key();
    my $before = now() * 1000;
    my (undef, $fence) = claim($key);

    cmp_ok($fence, '>=', $before, 'a fence is a time');
    cmp_ok($fence, '<', $before + 60e6, 'of the server');

    my @fences = ($fence);

    for (1 .. 200) {
        release($key);
        push @fences, (claim($key))[1];
    }

    is(scalar(grep { $fences[$_] <= $fences[$_ - 1] } 1 .. 200), 0,
       'each is greater than the one before, also of one that was released');

    $key = new_key();
    claim($key);
    complete($key, state => 'k');
    time_passes(2);
    $before = now() * 1000;
    cmp_ok((claim($key, unknown => 'retry'))[1], '>=', $before,
           'and a time, also of one that runs again');

    # the clock of the server is set back, or a replica's is behind

    $key = new_key();
    my $future = 2 ** 52 + 1;
    $c->command('SET', $key, head('k', n => $future, life => HOUR), PX => HOUR);

    is_deeply([ claim($key, unknown => 'retry') ], [ 'O', $future + 1, 1 ],
              'and than one of a clock that was ahead; and it was unknown');
    is((claim($key))[1], $future + 1, 'not greater for asking again');
    complete($key, state => 'k');
    is((claim($key, unknown => 'check'))[1], $future + 2,
       'a check has one, too');
};


# A record as it is written, byte for byte.

sub head {
    my ($state, %o) = @_;

    return pack 'a2 a1 a16 a32 d> d> n C a1', 'I1', $state, $o{owner} // $me,
        $this, $o{n}, $o{life}, $o{status} // 0, $o{dry} // 0, $o{w} // 0;
}


subtest 'the bytes' => sub {
    my $key = new_key();
    my (undef, $n) = claim($key, life => 7000);
    my $stored = sub { $c->command('GET', $key) };

    ok($stored->() eq head('r', n => $n, life => 7000), 'running');
    claim($key, owner => $other, waiting => 1);
    ok($stored->() eq head('r', n => $n, life => 7000, w => 1), 'waited for');
    complete($key, life => 9000, status => 201, record => "\0r");
    ok($stored->() eq head('d', n => $n, life => 9000, status => 201) . "\0r",
       'done');

    for ([ u => 1 ], [ k => 0 ]) {
        my ($state, $dry) = @$_;

        $key = new_key();
        (undef, $n) = claim($key);
        complete($key, state => $state, dry => $dry, life => 9000);
        ok($stored->() eq head($state, n => $n, life => 9000, status => 201,
                               dry => $dry), "state $state");
    }

    my (undef, $fence, $age, $status, $born, $life) =
        claim($key, unknown => 'check', owner => $other);
    my $left = unpack 'd>', substr $stored->(), 59, 8;
    is_about($left, 9000, 'what is left of it is the life as unknown');
    ok($stored->() eq head('r', n => $fence, life => $left, owner => $other)
       . pack('d> d> n', $born, 9000, 201), 'and what it was stands behind');
};


subtest 'looking into an unknown' => sub {
    my $key = new_key();

    claim($key);
    complete($key, state => 'k', life => HOUR, status => 504);
    my $end = $c->command('PEXPIRETIME', $key);
    time_passes(10);

    my ($verdict, $fence, $age, $status, $born, $life) = my @check =
        claim($key, unknown => 'check', lease => 5 * HOUR, life => 9 * HOUR);

    is($verdict, 'C', 'it is given to one');
    is((claim($key, owner => $other, unknown => 'check'))[0], 'B', 'only');
    ok($age >= 10 && $age < 60000, 'with its age');
    is("$status $life", '504 ' . HOUR, 'status and life');
    ok($born + $life <= $end && $born + $life >= $end - 1, 'and its end');

    my @again = claim($key, unknown => 'check');
    is_deeply([ @again[0, 1, 3 .. 5] ], [ @check[0, 1, 3 .. 5] ],
              'who asks again has it still to look into');
    cmp_ok($again[2], '>=', $age, 'a bit older');

    is((renew($key, lease => 6 * HOUR))[0], 'O', 'it takes time');
    is_about($c->command('PTTL', $key), 7 * HOUR, 'that of a claim');

    is_deeply([ complete($key, state => 'k', status => $status, life => $life,
                         end => $born + $life) ], [ 'U' ], 'it is put back');
    is($c->command('PEXPIRETIME', $key), $born + $life, 'with its own end');
    is(load($key)->{status}, 504, 'and status');
    cmp_ok(load($key)->{age}, '>=', $age, 'and age');

    # not made use of

    @check = claim($key, unknown => 'check', lease => 9 * HOUR);
    is_deeply([ release($key, back => 1) ], [ 'U' ], 'it is given back');
    is($c->command('PEXPIRETIME', $key), $check[4] + $check[5],
       'with its own end');
    is(load($key)->{status}, 504, 'and status');

    # again and again: no longer for it

    for (1 .. 20) {
        my @c = claim($key, unknown => 'check', lease => 9 * HOUR);
        complete($key, state => 'k', status => $c[3], life => $c[5],
                 end => $c[4] + $c[5]);
    }

    my $now = $c->command('PEXPIRETIME', $key);
    ok($now <= $end && $now > $end - 1000, 'however often');

    # its life may have been rounded

    my @short = claim($key, unknown => 'check');
    complete($key, state => 'k', life => 0, end => $short[4] + $short[5]);
    is_about(load($key)->{left}, HOUR, 'a life in rough numbers');
    is_deeply([ claim($key) ], [ 'U', 0 ], 'makes no end and no odd age');

    # put back when it should have ended meanwhile

    my @late = claim($key, unknown => 'check');
    is_deeply([ complete($key, state => 'k', life => $late[5],
                         end => now() - 1) ], [ 'U' ], 'put back too late');
    is($c->command('EXISTS', $key), 0, 'it has ended');

    # its claimant dies

    $key = new_key();
    claim($key);
    complete($key, state => 'k', life => 2 * HOUR);
    claim($key, unknown => 'check', lease => 20, life => 9 * HOUR);
    time_passes(21);
    is_deeply([ (complete($key))[0], (claim($key))[0] ], [ 'L', 'U' ],
              'a claimant that dies leaves it unknown');
    is_about(load($key)->{left}, 2 * HOUR, 'for what was left of its life');

    # it did not happen: the request runs, as any other

    $key = new_key();
    claim($key);
    complete($key, state => 'k');
    my (undef, $ran) = claim($key, unknown => 'check');
    is_deeply([ complete($key, record => 'r') ], [ 'D' ], 'it is found out');
    my @done = claim($key);
    is("@done[4, 6]", "$ran r", 'and recorded');
};


subtest 'who waits is told' => sub {
    my $wait = sub { claim($_[0], owner => $other, waiting => 1) };

    my %ends = (
        'D' => sub { complete($_[0]) },
        'S' => sub { complete($_[0], state => 'u') },
        'U' => sub { complete($_[0], state => 'k') },
        'A' => sub { release($_[0]) },
    );

    messages();

    for my $end (sort keys %ends) {
        my $key = new_key();

        claim($key);
        claim($key, owner => $other);
        $ends{$end}->($key);
        is(messages(), '', "$end: nobody waits, nobody is told");

        $key = new_key();
        claim($key);
        $wait->($key) for 1 .. 3;
        claim($key, owner => $other);
        renew($key);
        claim($key);
        complete($key, owner => $other);
        release($key, owner => $other);
        is(messages(), '', "$end: not before the end");
        $ends{$end}->($key);
        is(messages(), $end, "$end: told once");
        $ends{$end}->($key);
        is(messages(), '', "$end: not told again");
    }

    my $key = new_key();

    claim($key, lease => 20);
    $wait->($key);
    time_passes(21);
    complete($key);
    is(messages(), '', 'an owner who is late tells nobody');
    claim($key, unknown => 'retry', owner => $other);
    complete($key, owner => $other);
    is(messages(), 'D', 'another execution tells those of the one before');
};


subtest 'a crowd' => sub {
    my @crowd = map { Test::Idempotency::Resp->new($redis->address) } 1 .. 20;

    for my $round (1 .. 3) {
        my $key = new_key();
        my %said;
        my $n = 0;

        for my $client (@crowd) {
            $client->send(map {
                [ evalsha(claim_args($key, owner => pack('N4', ++$n, 0, 0, 0),
                                     waiting => 1)) ]
            } 1 .. 50);
        }

        for my $client (@crowd) {
            $said{ $_->[0] }++ for $client->receive(50);
        }

        is_deeply(\%said, { O => 1, B => 999 }, 'one of 1000 is granted');
    }
};


subtest 'scripts come and go' => sub {
    my $key = new_key();

    is(system('.ci/embed-lua', 'check'), 0, 'the module has these scripts');

    my $source = slurp('src/store/ngx_idem_redis_scripts.c');
    my %told = $source =~ /^    \{ "(\w+)",\n.*?, "([0-9a-f]{40})" \}/msg;
    is_deeply(\%told, \%sha, 'by these names and digests');

    $c->command('SCRIPT', 'FLUSH');
    like($c->try(evalsha(claim_args($key))), qr/^NOSCRIPT/, 'forgotten');
    is($c->command('EXISTS', $key), 0, 'nothing was done');
    is($c->command('EVAL', $text{claim}, 1, (claim_args($key))[1 .. 7])->[0],
       'O', 'sent as text');
    is((claim($key))[0], 'O', 'and known from then on');

    for (@verbs) {
        is($c->command('SCRIPT', 'LOAD', $text{$_}), $sha{$_}, "$_: digest");
    }
};


subtest 'what is not a record' => sub {
    my %values = (
        'a word'              => 'hello',
        'nothing'             => '',
        'a longer text'       => 'hello ' x 20,
        'another version'     => head('d', n => 1, life => HOUR) =~ s/I1/I2/r,
        'another state'       => head('x', n => 1, life => HOUR),
        'a record cut off'    => substr(head('r', n => 1, life => HOUR), 0, 60),
    );

    my @make = map { my $v = $values{$_};
                     [ $_, sub { $c->command('SET', $_[0], $v) } ] }
        grep { $values{$_} ne '' } sort keys %values;

    push @make, [ 'a list', sub { $c->command('RPUSH', $_[0], 'a') } ],
        [ 'a hash', sub { $c->command('HSET', $_[0], 's', 'd') } ];

    for (@make) {
        my ($what, $make) = @$_;
        my $key = new_key();

        $make->($key);
        my $before = $c->command('DUMP', $key);

        for my $verb (@verbs) {
            my @args = $verb eq 'claim' ? claim_args($key)
                     : $verb eq 'load' ? ($verb, $key, 1)
                     : ($verb, $key, $me, 'd', HOUR, 201, 0, 'r', '', 'w');
            my $said = $c->try(evalsha(@args));

            ok(is_error($said) || $verb !~ /claim|load/ && "@$said" eq 'L',
               "$what: $verb") || diag(ref $said eq 'ARRAY' ? "@$said" : $said);
        }

        ok($c->command('DUMP', $key) eq $before, "$what: is left alone");
    }

    my $key = new_key();

    claim($key);
    complete($key);
    $c->command('PEXPIRE', $key, 48 * HOUR);
    is_deeply([ map { @$_ } [ renew($key) ], [ complete($key, state => 'u') ],
                [ release($key) ] ], [ qw(L L L) ],
              'a longer life makes no claim of a record');

    $key = new_key();
    claim($key);
    $c->command('PERSIST', $key);
    is_deeply([ (complete($key))[0], (claim($key))[0] ], [ 'L', 'U' ],
              'a claim without a time to live is unknown, not ours');
};


subtest 'a server that is full' => sub {
    my ($mine, $new) = (new_key(), new_key());

    claim($mine);
    $c->command('CONFIG', 'SET', 'maxmemory', 1);
    like($c->try(evalsha(claim_args($new))), qr/^OOM/, 'takes no claim');
    is($c->command('EXISTS', $new), 0, 'not by half');
    like($c->try(evalsha('complete', $mine, $me, 'd', HOUR, 201, 0, 'r', '',
                         'w')), qr/^OOM/, 'and no record');
    is((claim($mine, owner => $other))[0], 'B', 'the claim stands');
    is((renew($mine))[0], 'O', 'and can be renewed');
    is((release($mine))[0], 'A', 'and released');
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

    is((claim($key))[0], 'O', 'claims');
    is((claim($key, owner => $other, waiting => 1))[0], 'B', 'waits');
    is((renew($key))[0], 'O', 'renews');
    is((complete($key, state => 'k'))[0], 'U', 'completes');
    my @check = claim($key, unknown => 'check');
    is($check[0], 'C', 'looks');
    is((complete($key, state => 'k', end => $check[4] + $check[5]))[0], 'U',
       'puts back');
    claim($key, unknown => 'retry');
    is((release($key))[0], 'A', 'releases');
    claim($key);
    complete($key, record => 'r');
    is(load($key, 1)->{record}, 'r', 'loads');
    $c = $all;
};


subtest 'to look at' => sub {
    my $key = new_key();

    is(load($key)->{state}, 'A', 'absent');

    my (undef, $fence) = claim($key, life => 5 * HOUR);
    my $r = load($key);
    is_about($r->{left}, HOUR, 'running: the lease');
    is_deeply([ @$r{qw(state status age fence dry life waiting size for)} ],
              [ 'B', 0, 0, $fence, 0, 5 * HOUR, 0, 0, $this ], 'and the rest');
    claim($key, owner => $other, waiting => 1);
    is(load($key)->{waiting}, 1, 'waited for');

    complete($key, record => "\0rec", status => 404, life => 3 * HOUR);
    $r = load($key);
    is($r->{age} + $r->{left}, 3 * HOUR, 'done: its life');
    is_deeply([ @$r{qw(state status fence dry life waiting size record)} ],
              [ 'D', 404, $fence, 0, 3 * HOUR, 0, 4, '' ], 'and the rest');
    is(load($key, 1)->{record}, "\0rec", 'with the record, if asked');
};


# The same once more, at random: thousands of events on the scripts and on a
# dictionary.  Only the lives of keys tell the time; so it passes by shortening
# them, an hour being the unit, and what really passes is of no account.

my (%model, @seen, $told);


sub model_claim {
    my ($m, $o) = @_;

    return 'A' if $m->{state} eq 'A' && $o->{known};
    return 'M' if $m->{state} ne 'A' && $m->{for} ne $o->{for};
    return $m->{state} if $m->{state} =~ /[DS]/;

    if ($m->{state} eq 'B' && $m->{owner} eq $o->{owner}) {
        $m->{until} = $o->{lease};
        return $m->{check} ? 'C' : 'O';
    }

    $m->{waiting} ||= $o->{waiting} if $m->{state} eq 'B';
    return $m->{state} if $m->{state} eq 'B'
        || $m->{state} eq 'U' && $o->{unknown} eq 'refuse';

    my $check = $m->{state} eq 'U' && $o->{unknown} eq 'check';
    my $life = $check ? $m->{until} : $o->{life};

    @$m{qw(state owner for until life check)} =
        ('B', @$o{qw(owner for lease)}, $life, $check);

    return $check ? 'C' : 'O';
}


sub model_end {
    my ($m, $o, $state) = @_;

    return 'L' if $m->{state} ne 'B' || $m->{owner} ne $o->{owner};

    $told .= $state if $m->{waiting};
    @$m{qw(state until life waiting record)} =
        ($state, @$o{qw(life life)}, 0, $o->{record});

    return $state;
}


sub model_complete {
    my ($m, $o) = @_;

    my $state = { d => 'D', u => 'S', k => 'U' }->{ $o->{state} };

    return $state if $m->{state} eq $state && $m->{owner} eq $o->{owner};

    return model_end($m, $o, $state);
}


sub model_renew {
    my ($m, $o) = @_;

    return 'L' if $m->{state} ne 'B' || $m->{owner} ne $o->{owner};

    $m->{until} = $o->{lease};

    return 'O';
}


sub model_passes {
    my ($m, $hours) = @_;

    $m->{until} -= $hours;

    if ($m->{state} eq 'B' && $m->{until} <= 0) {
        @$m{qw(state until)} = ('U', $m->{until} + $m->{life});
        $m->{owner} = '';
    }

    %$m = (state => 'A', until => 0) if $m->{until} <= 0;

    return;
}


# As hours pass for a key.

sub hours_pass {
    my ($key, $hours) = @_;

    my $end = $c->command('PEXPIRETIME', $key);

    $c->command('PEXPIREAT', $key, $end - $hours * HOUR) if $end > 0;
    model_passes($model{$key}, $hours);

    return;
}


# A hit of the owner, mostly, of one of a few.

sub random_terms {
    my ($m) = @_;

    my $one = sub { $_[rand @_] };
    my $owner = $one->(map { sha256("owner $_") =~ s/^(.{16}).*/$1/sr } 1 .. 4);

    $owner = $m->{owner} if $m->{owner} && rand(3) > 1;

    return (
        owner => $owner, for => rand(12) < 1 ? $another : $this,
        lease => HOUR * $one->(1 .. 3), life => HOUR * $one->(1 .. 6),
        unknown => $one->(qw(refuse retry check)), waiting => $one->(0, 0, 1),
        known => $one->(0, 0, 0, 1),
        state => $one->(qw(d d u k)), record => sha256(rand),
    );
}


sub random_event {
    my ($key, $n) = @_;

    my $m = $model{$key} ||= { state => 'A', until => 0 };
    my $act = (qw(claim claim claim claim renew complete complete release
                  hours_pass hours_pass))[rand 10];

    return hours_pass($key, 1 + int rand 2) if $act eq 'hours_pass';

    my %o = random_terms($m);
    my %hours = (%o, map { $_ => $o{$_} / HOUR } qw(lease life));

    my ($said, @more) = $act eq 'claim' ? claim($key, %o)
                      : $act eq 'renew' ? renew($key, %o)
                      : $act eq 'complete' ? complete($key, %o)
                      : release($key, %o);

    my $expected = $act eq 'claim' ? model_claim($m, \%hours)
                 : $act eq 'renew' ? model_renew($m, \%hours)
                 : $act eq 'complete' ? model_complete($m, \%hours)
                 : model_end($m, { %hours, life => 0 }, 'A');

    push @seen, "$act: $said";
    return "event $n, $act: $said, not $expected" if $said ne $expected;

    if ($said =~ /[OC]/ && $act eq 'claim') {
        return "event $n: fence $more[0]"
            if $more[0] < ($m->{fence} // 0);
        $m->{fence} = $more[0];
    }

    return "event $n: another record"
        if $said eq 'D' && $act eq 'claim' && $more[5] ne $m->{record};

    return agrees($key, $m, $n);
}


sub agrees {
    my ($key, $m, $n) = @_;

    my $r = load($key);
    my $left = ($r->{left} // 0) / HOUR;

    return "event $n: state $r->{state}, not $m->{state}"
        if $r->{state} ne $m->{state};

    return "event $n: $left hours left, not $m->{until}"
        if $left > $m->{until} || $left < $m->{until} - 0.1;

    return "event $n: waiting is $r->{waiting}"
        if ($r->{waiting} // 0) != ($m->{waiting} // 0)
           && $r->{state} eq 'B';

    return;
}


subtest 'at random' => sub {
    my $seed = $ENV{IDEMPOTENCY_SEED} || 4;
    my @keys = map { new_key() } 1 .. 30;
    my $wrong;

    srand $seed;
    messages();
    $told = '';

    for my $n (1 .. 6000) {
        $wrong = random_event($keys[rand @keys], $n) and last;
    }

    is($wrong, undef, "scripts and dictionary agree (seed $seed)");

    my %seen = map { $_ => 1 } @seen;
    is(join(', ', sort keys %seen), join(', ',
        (map { "claim: $_" } qw(A B C D M O S U)),
        (map { "complete: $_" } qw(D L S U)), 'release: A', 'release: L',
        'renew: L', 'renew: O'), 'on every verdict');

    is(messages() =~ s/ //gr, $told, 'and on who is told');
};


done_testing;
