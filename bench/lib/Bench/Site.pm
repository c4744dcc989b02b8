package Bench::Site;

# The place where everything runs: a directory in memory, free ports, child
# processes that end with us, nginx servers and the processor time they use.

use strict;
use warnings;

use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

use constant BOUND => 30;               # seconds to start, seconds to end


sub new {
    my ($class) = @_;

    my $cores = `nproc` + 0;
    die "two cores are needed\n" if $cores < 2;

    my $dir = tempdir('idem-bench-XXXXXX',
                      DIR => -d '/dev/shm' ? '/dev/shm' : '/tmp');
    chmod 0755, $dir;

    return bless {
        dir    => $dir,
        owner  => $$,
        front  => 0,
        others => $cores > 2 ? '1-' . ($cores - 1) : '1',
        all    => '0-' . ($cores - 1),
        pids   => {},
        ports  => {},
    }, $class;
}


sub dir    { return $_[0]{dir} }
sub front  { return $_[0]{front} }
sub others { return $_[0]{others} }
sub all    { return $_[0]{all} }


sub free_port {
    my ($self) = @_;

    for (1 .. 50) {
        my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                           Listen => 1) or next;
        my $port = $socket->sockport;
        return $port if !$self->{ports}{$port}++;
    }

    die "no free port\n";
}


# Starts a program on the given cores; it ends when we do, however that is.

sub spawn {
    my ($self, $name, $cores, @command) = @_;

    my $pid = fork;
    die "cannot fork: $!\n" if !defined $pid;

    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{dir}/$name.log";
        open STDERR, '>&', \*STDOUT;
        exec 'setpriv', '--pdeathsig', 'TERM', 'taskset', '-c', $cores,
            @command or POSIX::_exit(127);
    }

    $self->{pids}{$pid} = $name;

    return $pid;
}


sub wait_for_port {
    my ($self, $pid, $port) = @_;

    my $end = time + BOUND;

    while (time < $end) {
        return if IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                        PeerPort => $port);

        if (waitpid($pid, WNOHANG) == $pid) {
            my $name = delete $self->{pids}{$pid};
            die "$name did not start:\n" . $self->log_of($name) . "\n";
        }

        sleep 0.05;
    }

    die "$self->{pids}{$pid} does not listen\n";
}


# The last lines a child wrote.

sub log_of {
    my ($self, $name) = @_;

    my @lines = map { split /^/, read_file($_) }
        "$self->{dir}/$name.log", "$self->{dir}/$name/error.log";

    return join '', @lines > 8 ? @lines[-8 .. -1] : @lines;
}


# Ends one child and waits for it.

sub stop {
    my ($self, $pid, $signal) = @_;

    return if !exists $self->{pids}{$pid};

    my $end = time + BOUND;
    kill $signal || 'TERM', $pid;

    while (waitpid($pid, WNOHANG) == 0) {
        kill 'KILL', $pid if time > $end;
        sleep 0.02;
    }

    delete $self->{pids}{$pid};

    return;
}


sub stop_all {
    my ($self) = @_;

    return if $$ != $self->{owner};

    kill 'TERM', keys %{ $self->{pids} };
    $self->stop($_) for keys %{ $self->{pids} };
    remove_tree($self->{dir});

    return;
}


sub write_file {
    my ($self, $name, $text) = @_;

    open my $out, '>', "$self->{dir}/$name" or die "$name: $!\n";
    print {$out} $text;
    close $out or die "$name: $!\n";

    return "$self->{dir}/$name";
}


# An nginx of its own.  Options: name, cores, workers; main, http and server,
# the configuration of these blocks; wrap, a command to run it under, as one
# process.  Returns { name, port, pid, workers }.

sub nginx {
    my ($self, %o) = @_;

    my $workers = $o{workers} || 1;
    my $port = $self->free_port;
    my $prefix = "$self->{dir}/$o{name}";

    mkdir $prefix or die "$prefix: $!\n";

    my $conf = $self->write_file("$o{name}/nginx.conf",
                                 nginx_conf($prefix, $port, $workers, %o));

    my $pid = $self->spawn($o{name}, $o{cores}, @{ $o{wrap} || [] },
                           '/usr/sbin/nginx', '-p', $prefix, '-c', $conf);
    $self->wait_for_port($pid, $port);

    return {
        name    => $o{name},
        port    => $port,
        pid     => $pid,
        workers => $o{wrap} ? [ $pid ] : workers_of($pid, $workers),
    };
}


sub nginx_conf {
    my ($prefix, $port, $workers, %o) = @_;

    my $several = $workers > 1;
    my $user = $> == 0 ? 'user root;' : '';
    my $alone = $o{wrap} ? 'master_process off;' : '';
    my $affinity = $several ? 'worker_cpu_affinity auto;' : '';
    my $reuseport = $several ? ' reuseport' : '';

    return <<"EOF";
$o{main}
$user
daemon off;
$alone
worker_processes $workers;
$affinity
worker_rlimit_nofile 16384;
pid $prefix/nginx.pid;
error_log $prefix/error.log crit;

events { worker_connections 12000; }

http {
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_temp_path $prefix/body;
    proxy_temp_path $prefix/proxy;
    fastcgi_temp_path $prefix/fastcgi;
    uwsgi_temp_path $prefix/uwsgi;
    scgi_temp_path $prefix/scgi;
$o{http}
    server {
        listen 127.0.0.1:$port$reuseport backlog=1024;
$o{server}
    }
}
EOF
}


sub workers_of {
    my ($master, $n) = @_;

    my $end = time + BOUND;

    while (time < $end) {
        my @pids = grep {
            read_file("/proc/$_/cmdline") =~ /^nginx: worker process/
        } split ' ', read_file("/proc/$master/task/$master/children");

        return \@pids if @pids == $n;
        sleep 0.05;
    }

    die "no worker\n";
}


# Nanoseconds the workers have been on a processor.

sub cpu_of {
    my ($self, $server) = @_;

    my $sum = 0;

    for my $pid (@{ $server->{workers} }) {
        my ($ns) = split ' ', read_file("/proc/$pid/schedstat");
        $sum += $ns;
    }

    return $sum;
}


# One GET, or a POST of the body with the fields; the body of the answer, and
# its header in list context.

sub ask {
    my ($self, $port, $uri, $body, @fields) = @_;

    my $method = defined $body ? 'POST' : 'GET';
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                       PeerPort => $port, Timeout => 10)
        or die "cannot connect to $port: $!\n";

    push @fields, 'Content-Length: ' . length $body if defined $body;
    print {$socket} join "\r\n", "$method $uri HTTP/1.1", 'Host: bench',
        'Connection: close', @fields, '', $body // '';

    local $/;
    my ($head, $answer) = split /\r\n\r\n/, <$socket> // '', 2;

    return wantarray ? ($answer // '', $head) : $answer // '';
}


# Small files and files of /proc; empty when it is not there.

sub read_file {
    my ($path) = @_;

    open my $in, '<', $path or return '';
    local $/;

    return <$in> // '';
}


1;
