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


# Those of the names that take part, in the order given; all without names.

sub who {
    my ($self, @names) = @_;

    return @{ $self->{who} } if !@names;

    my %there = map { $_ => 1 } @{ $self->{who} };
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

    if ($self->who('redis')) {
        $self->start('redis', 'redis-server', '--port', $port{redis},
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

    return;
}


sub start {
    my ($self, $name, @command) = @_;

    my $site = $self->site;
    my $pid = $site->spawn($name, $site->others, @command);

    $site->wait_for_port($pid, $self->port($name));

    return;
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


# The server of a contender with so many workers, started when first wanted.
# One worker has a core for itself, several share all.

sub server {
    my ($self, $who, $workers) = @_;

    $workers ||= 1;

    my $site = $self->site;
    my $name = "$who-$workers";

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
# answer; and what the burst told.

sub longest_turn {
    my ($self, $server, $n) = @_;

    my $burst = $self->start_program('burst', $server, '-n', $n,
        '-l', $self->port('slow'), '-u', '/wait', '-d', 4000, '-k', 1000);

    $self->wait_for($server, hot => waiting => $n - 1);

    # in place, as the server has it mapped

    open my $turn, '+<:unix', $self->site->dir . '/turn' or die "turn: $!\n";
    syswrite $turn, pack 'Q', 0;

    my $woken = numbers(scalar readline $burst);

    sysseek $turn, 0, 0;
    sysread $turn, my $ns, 8;
    close $burst;

    return (unpack('Q', $ns) / 1e6, $woken);
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
# the upstream was asked as often as it should be.

sub slice {
    my ($self, $run, $keys) = @_;

    my $server = $run->{server};
    my $name = "$server->{name} $run->{uri}";
    my $asked = $self->executions;
    my $cpu = $self->site->cpu_of($server);
    my $got = $self->load($server, $run->{uri}, '-k', $keys,
                          '-t', $self->{ms});

    $cpu = $self->site->cpu_of($server) - $cpu;
    $asked = $self->executions - $asked;

    die "$name: $got->{other} answers were not 200\n" if $got->{other};
    die "$name: $asked of $got->{requests} requests reached the upstream\n"
        if $asked != ($run->{upstream} ? $got->{requests} : 0);

    $server->{next} = $got->{next};

    return $cpu / 1000 / $got->{requests};
}


# What one contender does in an interleaved measurement: label, server, uri,
# keys (a number, or + for a new one each time), and whether every request
# reaches the upstream.

sub run_of {
    my ($self, $who, $uri, $keys, %o) = @_;

    return {
        label    => $who,
        server   => $self->server($who),
        uri      => $uri,
        keys     => $keys,
        upstream => $who eq 'proxy' || $keys eq '+' && $who ne 'return',
        %o,
    };
}


# Interleaved slices, another one first each round.  Returns lists of
# microseconds by label, one for each round; a contender that fails is out.

sub interleave {
    my ($self, @runs) = @_;

    my %us;

    for my $round (1 .. $self->rounds) {
        for my $run (@runs) {
            my $keys = $run->{keys} eq '+'
                ? '+' . ($run->{server}{next} || 0) : $run->{keys};
            my $us = eval { $self->slice($run, $keys) };

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


# User-space instructions a request by function, as callgrind counts them: what
# $n more requests cost, divided by $n.  kind is "replay" or "first".

sub instructions {
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

    eval {
        my $server = $site->nginx(
            name  => $name,
            cores => $site->front,
            wrap  => [ 'valgrind', '--tool=callgrind', '-q',
                       "--callgrind-out-file=$file" ],
            $self->{contenders}->conf($who, $name),
        );

        $self->fill($server, '/new', 1);
        my $got = $self->load($server, '/new', '-r', $n, '-k', keys_of($kind));

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

    return $kind eq 'first' ? '+' . int(time * 1000) : 1;
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
