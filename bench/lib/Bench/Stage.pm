package Bench::Stage;

# Everything that is started, and the ways to measure it.

use strict;
use warnings;

use List::Util qw(sum);
use POSIX qw(strftime);
use Time::HiRes qw(sleep time);

use Bench::Contenders;
use Bench::Site;

use constant BODY => 200;               # bytes of the usual response

my %SIZE = ('2k' => 2048, '32k' => 32768, '256k' => 262144, '1m' => 1048576);


# bench, module, peers, rounds, ms, quick: see ../../run

sub new {
    my ($class, %self) = @_;

    return bless { %self, site => Bench::Site->new, server => {} }, $class;
}


sub quick  { return $_[0]{quick} }
sub rounds { return $_[0]{rounds} }
sub site   { return $_[0]{site} }
sub port   { return $_[0]{ports}{ $_[1] } }


# Those of the names that take part, in the order given; without names all,
# but for the nodes that share a Redis, which have rows of their own.

sub who {
    my ($self, @names) = @_;

    return @{ $self->{who} } if !@names;

    my %there = map { $_ => 1 } @{ $self->{who} }, $self->{shared} || ();
    return grep { $there{$_} } @names;
}


sub note {
    my ($self, @words) = @_;

    printf STDERR "%s %s\n", strftime('%H:%M:%S', localtime), "@words";

    return;
}


sub set {
    my ($self) = @_;

    $self->need($_) or die "$_ is needed\n" for qw(nginx valgrind strace gcc);

    $self->{who} = [ 'return', 'proxy', $self->ours,
                     grep { $self->available($_) } @{ $self->{peers} } ];
    $self->{shared} = 'shared' if $self->ours && $self->available('shared');

    for my $name (qw(load burst stall)) {
        system('gcc', '-O2', '-o', $self->site->dir . "/$name",
               "$self->{bench}/$name.c") == 0
            or die "cannot build $name.c\n";
    }

    $self->start_stores;

    return;
}


sub clear {
    my ($self) = @_;

    $self->site->stop_all;

    return;
}


sub ours {
    my ($self) = @_;

    return 'ours' if -e $self->{module};

    $self->note("without this module: no $self->{module}");
    return;
}


# A peer whose packages cannot be had is left out, aloud.

sub available {
    my ($self, $who) = @_;

    my $missing = grep { !$self->need($_) } Bench::Contenders::packages($who);

    return 1 if !$missing && ($who ne 'redis' || $self->lua_redis);

    $self->note("without $who: its packages cannot be had");
    return;
}


sub need {
    my ($self, $package) = @_;

    return 1 if installed($package);

    my $log = $self->site->dir . '/apt.log';

    $self->note("installing $package");
    system 'apt-get install -y -q --no-install-recommends '
         . "$package >$log 2>&1";

    return installed($package);
}


sub installed {
    my ($package) = @_;

    return `dpkg-query -W -f '\${Status}' $package 2>/dev/null`
        =~ /ok installed/;
}


# One file of Lua, without the whole of nginx-extras that its package wants.

sub lua_redis {
    my ($self) = @_;

    my $dir = $self->site->dir;

    system "cd $dir && apt-get download -q lua-nginx-redis >apt.log 2>&1"
         . ' && dpkg -x lua-nginx-redis_*.deb extra'
         . ' && cp -r extra/usr/share/lua/5.1 lua';

    return -e "$dir/lua/nginx/redis.lua";
}


sub start_stores {
    my ($self) = @_;

    my $site = $self->site;
    my %port = map { $_ => $site->free_port }
        qw(slow redis memcached memcached_fill);

    $self->{upstream} = $self->start_upstream;
    $port{upstream} = $self->{upstream}{port};
    $self->{ports} = \%port;

    if ($self->who('redis', 'shared')) {
        $self->{redis} = $self->start('redis', 'redis-server', '--port', $port{redis},
            '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no',
            '--dir', $site->dir);
    }

    if ($self->who('srcache')) {
        my @memcached = qw(memcached -l 127.0.0.1 -t 1 -u root);

        $self->start('memcached', @memcached, '-m', 2048, '-p',
            $port{memcached});
        $self->start('memcached_fill', @memcached, '-m', 64, '-p',
            $port{memcached_fill});
    }

    $self->{contenders} = Bench::Contenders->new(
        %port,
        module => $self->{module},
        lib    => "$self->{bench}/lib",
        dir    => $site->dir,
    );

    # what does not start shall tell so at once

    $self->server($_) for $self->who;

    if ($self->who('shared') && !eval { $self->server('shared') }) {
        $self->note("without this module's Redis: $@");
        delete $self->{shared};
    }

    return;
}


# A store; what cpu_of() wants to know of it.

sub start {
    my ($self, $name, @command) = @_;

    my $site = $self->site;
    my $pid = $site->spawn($name, $site->others, @command);

    $site->wait_for_port($pid, $self->port($name));

    return { workers => [ $pid ] };
}


# Answers POST from files, too: that is what the error_page is for.

sub start_upstream {
    my ($self) = @_;

    my $site = $self->site;
    my $dir = $site->dir;
    my $body = '0' x BODY;

    mkdir "$dir/www";
    mkdir "$dir/www/f";
    $site->write_file("www/f/$_", '0' x $SIZE{$_}) for keys %SIZE;

    return $site->nginx(
        name   => 'upstream',
        cores  => $site->others,
        main   => '',
        http   => '    sendfile on;',
        server => <<"EOF",
        location = /b200 { return 200 "$body"; }
        location /f/ { root $dir/www; error_page 405 =200 \$uri; }
        location = /status { stub_status; }
EOF
    );
}


# The server of a contender with so many workers, started when first wanted;
# node is a word that makes it another one.  One worker has a core for itself,
# several share all.

sub server {
    my ($self, $who, $workers, $node) = @_;

    $workers ||= 1;

    my $site = $self->site;
    my $name = "$who-$workers" . ($node || '');

    return $self->{server}{$name} ||= $site->nginx(
        name    => $name,
        cores   => $workers == 1 ? $site->front : $site->all,
        workers => $workers,
        $self->{contenders}->conf($who, $name),
    );
}


# Runs one of our programs against a server; the numbers it printed by name.

sub program {
    my ($self, $name, $server, @arguments) = @_;

    my $program = $self->start_program($name, $server, @arguments);
    my $out = join '', readline $program;

    close $program or die "$server->{name}: @arguments: $out",
        $self->site->log_of($server->{name});

    return numbers($out);
}


# Starts it, and leaves what it prints to the caller.

sub start_program {
    my ($self, $name, $server, @arguments) = @_;

    my $site = $self->site;
    my @command = ('taskset', '-c', $site->others, $site->dir . "/$name",
                   '-p', $server->{port}, @arguments);

    open my $program, '-|', "@command 2>&1" or die "cannot start $name: $!\n";

    return $program;
}


sub numbers {
    my ($out) = @_;

    return { ($out // '') =~ /(\w+) (-?[\d.]+)/g };
}


# A server in one process that tells its longest turn.

sub turning {
    my ($self, $who) = @_;

    my $site = $self->site;
    my $file = $site->write_file('turn', pack 'Q', 0);

    system('gcc', '-O2', '-shared', '-fPIC', '-o', $site->dir . '/turn.so',
           "$self->{bench}/turn.c", '-ldl') == 0
        or die "cannot build turn.c\n";

    return $site->nginx(
        name  => "$who-turn",
        cores => $site->front,
        wrap  => [ 'env', 'LD_PRELOAD=' . $site->dir . '/turn.so',
                   "BENCH_TURN=$file" ],
        $self->{contenders}->conf($who, "$who-turn"),
    );
}


# The longest turn, in milliseconds, from when so many wait until all have an
# answer; and what the burst told.  The first asks another node, if there is
# one.

sub longest_turn {
    my ($self, $server, $n, $first) = @_;

    my $burst = $self->start_program('burst', $first || $server, '-n', $n,
        '-w', $server->{port}, '-l', $self->port('slow'), '-u', '/wait',
        '-d', 4000, '-k', 1000);

    # of those who wait for another node, one has asked it in the name of all

    $self->wait_for($server, hot => waiting => $n - ($first ? 2 : 1));

    my $woken;
    my $turn = $self->turn_of(sub {
        $woken = numbers(scalar readline $burst);
    });

    close $burst;

    return ($turn, $woken);
}


# The longest turn of the turning server while something is done.

sub turn_of {
    my ($self, $do) = @_;

    # in place, as the server has it mapped

    open my $turn, '+<:unix', $self->site->dir . '/turn' or die "turn: $!\n";
    syswrite $turn, pack 'Q', 0;

    $do->();

    sysseek $turn, 0, 0;
    sysread $turn, my $ns, 8;

    return unpack('Q', $ns) / 1e6;
}


# Each location has a family of keys for itself, as zones and stores are shared.

sub load {
    my ($self, $server, $uri, @arguments) = @_;

    return $self->program('load', $server, '-u', $uri, '-f',
        Bench::Contenders::family($uri), @arguments);
}


# Stores the keys 0 .. $n - 1.

sub fill {
    my ($self, $server, $uri, $n) = @_;

    my $got = $self->load($server, $uri, '-k', '+0', '-r', $n);
    die "$server->{name}: $got->{other} answers were not 200\n"
        if $got->{other};

    return;
}


# How often the upstream was asked, this question not counted.

sub executions {
    my ($self) = @_;

    my ($n) = $self->site->ask($self->port('upstream'), '/status')
        =~ /^ \d+ \d+ (\d+)/m or die "no status of the upstream\n";
    $self->{questions}++;

    return $n - $self->{questions};
}


# One slice of load: microseconds of processor time a request.  Dies unless
# the upstream was asked as often as it should be.  What Redis took is kept
# with the run, in microseconds a request, too.

sub slice {
    my ($self, $run, $keys) = @_;

    my $site = $self->site;
    my $server = $run->{server};
    my $name = "$server->{name} $run->{uri}";
    my $asked = $self->executions;
    my ($cpu, $store) = map { $_ ? $site->cpu_of($_) : 0 }
        $server, $self->{redis};
    my $got = $self->load($server, $run->{uri}, '-k', $keys,
        $run->{requests} ? ('-r', $run->{requests}) : ('-t', $self->{ms}));

    $cpu = $site->cpu_of($server) - $cpu;
    $store = $site->cpu_of($self->{redis}) - $store if $self->{redis};
    $asked = $self->executions - $asked;

    die "$name: $got->{other} answers were not 200\n" if $got->{other};
    die "$name: $asked of $got->{requests} requests reached the upstream\n"
        if $asked != ($run->{upstream} ? $got->{requests} : 0);

    $run->{counter}{next} = $got->{next} if $run->{keys} eq '+';
    push @{ $run->{store} }, $store / 1000 / $got->{requests};

    return $cpu / 1000 / $got->{requests};
}


# What one contender does in an interleaved measurement: label, server, uri,
# keys (a number, or + for a new one each time, as counter has it), and whether
# every request reaches the upstream; requests, if a slice ends by them.

sub run_of {
    my ($self, $who, $uri, $keys, %o) = @_;

    my $server = $o{server} || $self->server($who);

    return {
        label    => $who,
        server   => $server,
        counter  => $server,
        uri      => $uri,
        keys     => $keys,
        upstream => $who eq 'proxy' || $keys eq '+' && $who ne 'return',
        %o,
    };
}


# Interleaved slices, another one first each round; a run may also be something
# else to measure.  Returns lists of microseconds by label, one for each round;
# a contender that fails is out.

sub interleave {
    my ($self, @runs) = @_;

    my %us;

    for my $round (1 .. $self->rounds) {
        for my $run (@runs) {
            my $us = eval {
                $run->{measure} ? $run->{measure}->()
                    : $self->slice($run, keys_now($run))
            };

            $run->{failed} = 1 if !$us;
            warn $@ if !$us;
            push @{ $us{ $run->{label} } }, $us;
        }

        delete @us{ map { $_->{label} } grep { $_->{failed} } @runs };
        @runs = grep { !$_->{failed} } @runs;
        push @runs, shift @runs;
    }

    return \%us;
}


sub keys_now {
    my ($run) = @_;

    return $run->{keys} if $run->{keys} ne '+';
    return '+' . ($run->{counter}{next} || 0);
}


# User-space instructions a request by function, as callgrind counts them: what
# $n more requests cost, divided by $n.  kind is "replay", "first" or "far": a
# record that another node has stored.

sub instructions {
    my ($self, $who, $kind, $n) = @_;

    return $self->{instructions}{"$who $kind $n"}
        ||= $self->instructions_now($who, $kind, $n);
}


sub instructions_now {
    my ($self, $who, $kind, $n) = @_;

    my ($once, $twice) = map { $self->callgrind($who, $kind, $_) } $n, 2 * $n;

    return if !$once || !$twice;
    return { map { $_ => ($twice->{$_} - ($once->{$_} || 0)) / $n }
             keys %$twice };
}


# Instructions of all $n requests, by function.

sub callgrind {
    my ($self, $who, $kind, $n) = @_;

    my $site = $self->site;
    my $name = "callgrind-$who-$kind-$n";
    my $file = $site->dir . "/$name.out";
    my @load = ('/new', '-r', $n, '-k', keys_of($kind));

    eval {
        $self->load($self->server($who), @load) if $kind eq 'far';

        my $server = $site->nginx(
            name  => $name,
            cores => $site->front,
            wrap  => [ 'valgrind', '--tool=callgrind', '-q',
                       "--callgrind-out-file=$file" ],
            $self->{contenders}->conf($who, $name),
        );

        $self->fill($server, '/new', 1);
        my $got = $self->load($server, @load);

        $site->stop($server->{pid}, 'QUIT');
        die "$got->{other} answers were not 200\n" if $got->{other};
        1;
    } or return warn("$name: $@") && undef;

    return functions_of($file);
}


sub functions_of {
    my ($file) = @_;

    my %of;

    for (`callgrind_annotate --threshold=100 --auto=no $file 2>/dev/null`) {
        my ($n, $name, $object)
            = /^\s*([\d,]+) \(.*?\)\s+\S*?:(\S+)(?: \[(?:.*\/)?(.*?)\])?/
            or next;
        $n =~ tr/,//d;
        $name =~ s/'\d+$|\.part\.\d+$//;
        $name .= " of $object" if $name =~ /^0x/ && $object;
        $of{$name} += $n;
    }

    return \%of;
}


# Keys no earlier run has used, or one key.

sub keys_of {
    my ($kind) = @_;

    return $kind eq 'replay' ? 1 : '+' . int(time * 1000);
}


# System calls a request, by difference, too: connections and the like go out.

sub syscalls {
    my ($self, $who, $kind, $n) = @_;

    my $server = $self->server($who);

    $self->fill($server, '/new', 1);

    my ($once, $twice) = map {
        $self->strace($server, '-r', $_, '-k', keys_of($kind))
    } $n, 2 * $n;

    return ($twice - $once) / $n;
}


sub strace {
    my ($self, $server, @arguments) = @_;

    my $site = $self->site;
    my $file = $site->dir . '/strace.out';
    my $pid = $site->spawn('strace', $site->others, 'strace', '-qq', '-c',
        '-U', 'calls,name', '-o', $file, '-p', $server->{workers}[0]);

    sleep 0.3;
    $self->load($server, '/new', @arguments);
    $site->stop($pid, 'INT');

    return sum(Bench::Site::read_file($file)
               =~ /^\s*(\d+)\s+(?!total)\w+\s*$/mg) || 0;
}


# How many commands of a run's first requests Redis reads at a time, from a
# slice that nobody counts, which also loads the scripts.

sub redis_batch {
    my ($self, $run) = @_;

    my @before = $self->redis_counts;
    $self->slice($run, keys_now($run));
    my @after = $self->redis_counts;

    my ($commands, $reads) = map { $after[$_] - $before[$_] } 0, 1;

    return int($commands / ($reads || 1) + 0.5) || 1;
}


# Scripts, and reads.

sub redis_counts {
    my ($self) = @_;

    my $port = $self->port('redis');
    my $info = `redis-cli -p $port info all`;

    return map { $info =~ /$_/ ? $1 : 0 }
        qr/^cmdstat_evalsha:calls=(\d+)/m, qr/^total_reads_processed:(\d+)/m;
}


# The least that a claim and a record cost: a script that does one SET, and a
# SET of a record, $batch of either at a time on one connection.  Microseconds
# of Redis for one of both, of $n.

sub redis_bare {
    my ($self, $n, $batch) = @_;

    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', PeerPort => $self->port('redis')
    ) or die "redis: $!\n";
    my $sha = redis_say($socket, 1, redis_words('SCRIPT', 'LOAD', "return redis"
        . ".call('SET', KEYS[1], ARGV[1], 'NX', 'GET', 'PX', ARGV[2])"));
    my ($run, $record) = ('r' x 71, 'd' x (71 + BODY + 100));
    my ($life, $others) = (86_400_000, $self->site->others);

    system "taskset -cp $others $$ >/dev/null";
    my $cpu = $self->site->cpu_of($self->{redis});

    for (1 .. $n / $batch) {
        my @keys = map { sprintf 'bare:%064d', $self->{bare}++ } 1 .. $batch;

        redis_say($socket, $batch, map {
            redis_words('EVALSHA', $sha, 1, $_, $run, $life)
        } @keys);
        redis_say($socket, $batch, map {
            redis_words('SET', $_, $record, 'PX', $life)
        } @keys);
    }

    $cpu = $self->site->cpu_of($self->{redis}) - $cpu;
    system 'taskset -cp ' . $self->site->all . " $$ >/dev/null";

    return $cpu / 1000 / (int($n / $batch) * $batch);
}


sub redis_words {
    return join '', '*' . @_ . "\r\n",
        map { '$' . length($_) . "\r\n$_\r\n" } @_;
}


# Says it in one write; the last of so many replies, each without its length.

sub redis_say {
    my ($socket, $n, @commands) = @_;

    syswrite $socket, join '', @commands;

    my $reply;

    for (1 .. $n) {
        $reply = readline $socket;
        die "redis: $reply" if $reply =~ /^-/;
        $reply = readline $socket if $reply =~ /^\$\d/;
    }

    $reply =~ s/\r\n$//;

    return $reply;
}


# What Redis says a record takes, and how many bytes its value has.

sub redis_bytes {
    my ($self, $uri) = @_;

    my $port = $self->port('redis');
    my $key = 'idem:' . Bench::Contenders::key($uri, 0);

    $self->load($self->server('redis'), $uri, '-k', 1, '-r', 1);

    my ($used) = `redis-cli -p $port memory usage $key` =~ /(\d+)/;
    my ($size) = `redis-cli -p $port strlen $key` =~ /(\d+)/;

    return ($used, $size);
}


sub memcached_items {
    my ($self) = @_;

    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', PeerPort => $self->port('memcached_fill')
    ) or die "memcached: $!\n";

    print {$socket} "stats\r\nquit\r\n";
    local $/;
    my ($n) = <$socket> =~ /STAT curr_items (\d+)/;

    return $n;
}


# Waits until a zone of ours tells so.

sub wait_for {
    my ($self, $server, $zone, $name, $n) = @_;

    my $end = time + 30;

    while ($self->status($zone, $server)->{$name} != $n) {
        die "zone $zone: $name does not become $n\n" if time > $end;
        sleep 0.05;
    }

    return;
}


# What a zone of ours tells about itself, numbers by name.

sub status {
    my ($self, $zone, $server) = @_;

    $server ||= $self->server('ours');

    my $json = $self->site->ask($server->{port}, '/status');
    my ($part) = $json =~ /"\Q$zone\E"\s*:\s*\{(.*?)"counters"/s
        or die "no status of zone $zone: $json\n";

    return { $part =~ /"(\w+)"\s*:\s*(\d+)/g };
}


# Bytes of those fields of a replay that must come out of the record.

sub header_bytes {
    my ($self, $uri) = @_;

    my (undef, $head) = $self->site->ask($self->server('ours')->{port}, $uri,
        '{"amount":1250}', 'Content-Type: application/json',
        'Idempotency-Key: ' . Bench::Contenders::key($uri, 0));

    my @kept = grep {
        !/^(?:HTTP|Date:|Server:|Connection:|Content-Length:)/i
            && !/^Idempotent-Replayed:/i
    } split /\r\n/, $head;

    return length join "\r\n", @kept, '';
}


# A file among the results.

sub result {
    my ($self, $name, $text) = @_;

    mkdir "$self->{bench}/results";
    open my $out, '>', "$self->{bench}/results/$name" or die "$name: $!\n";
    print {$out} $text;

    return;
}


sub machine {
    my ($self) = @_;

    my ($cpu) = Bench::Site::read_file('/proc/cpuinfo')
        =~ /^model name\s*:\s*(.*)$/m;
    my ($system, $kernel) = split ' ', `uname -sr`;
    my @packages = grep { installed($_) } qw(nginx valgrind),
        map { Bench::Contenders::packages($_) } $self->who;
    my $versions = `dpkg-query -W -f '\${Package} \${Version}, ' @packages`;
    $versions =~ s/, $//;

    return sprintf '%s, %d cores, %s %s, %s; %d rounds of %d ms%s; %s.',
        $cpu || 'unknown processor', `nproc`, $system, $kernel,
        strftime('%Y-%m-%d', localtime), $self->rounds, $self->{ms},
        $self->quick ? ' (--quick)' : '', $versions;
}


1;
