package Test::Idempotency::Nginx;

# An nginx of a test's own: its directory, its configuration, its processes
# and its log.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Spec;
use File::Temp;
use IO::Socket::INET;
use POSIX qw(WNOHANG);

use Test::Idempotency::Deadline;

use constant STARTS => 5;

my @ports = ('', qw(http2_ tls_ status_));


# Options: those of Test::Idempotency->new, and directives.

sub new {
    my ($class, %o) = @_;

    my $keep = $ENV{IDEMPOTENCY_KEEP} ? 1 : 0;
    my $dir = File::Temp->newdir('idempotency-XXXXXX', TMPDIR => 1,
                                 CLEANUP => !$keep);
    print STDERR "# kept: $dir\n" if $keep;

    my $self = bless { dir => $dir, allowed => [], owner => $$,
                       workers => 2, zone => 'zone=payments:1m', module => 1,
                       upstreams => {}, %o }, $class;

    mkdir "$dir/html" or die "$dir: $!\n";
    $self->write_file($_, $o{files}{$_}) for keys %{ $o{files} || {} };

    return $self;
}


sub dir         { return "$_[0]{dir}" }
sub port        { return $_[0]{port} }
sub http2_port  { return $_[0]{http2_port} }
sub tls_port    { return $_[0]{tls_port} }
sub status_port { return $_[0]{status_port} }


sub write_file {
    my ($self, $name, $text) = @_;

    my $file = "$self->{dir}/$name";

    make_path(dirname($file));
    open my $out, '>:raw', "$file.new" or die "$file.new: $!\n";
    print {$out} $text;
    close $out or die "$file.new: $!\n";

    # at once: a reload may be reading the old one

    rename "$file.new", $file or die "$file: $!\n";

    return $file;
}


sub read_file {
    my ($self, $name) = @_;

    open my $in, '<:raw', "$self->{dir}/$name" or return '';
    local $/;

    return scalar(<$in>) // '';
}


# Other options from now on; they count with the next reload or start.

sub change {
    my ($self, %o) = @_;

    @$self{ keys %o } = values %o;
    $self->write_conf;

    return;
}


sub write_conf {
    my ($self) = @_;

    for (grep { !$self->{"${_}port"} } @ports) {
        push @{ $self->{places} }, _free_socket();
        $self->{"${_}port"} = $self->{places}[-1]->sockport;
    }

    return $self->write_file('nginx.conf', $self->_conf);
}


sub _conf {
    my ($self) = @_;

    my %o = (map({ $_ => '' } qw(main http server directives locations
                                 location)), %$self);
    my $dir = $self->dir;
    my $user = $> == 0 ? 'user root;' : '';
    my ($load, $zone, $status) = ('', '', '');

    $o{main} .= "\nenv NGX_IDEM_POINTS_DIR=$dir/points;" if $o{points};

    if ($o{module}) {
        my $module = module_file($o{points});
        $load = "load_module $module;" if $module;
        $zone = join '', map { "idempotency_zone $_;\n    " }
            ref $o{zone} ? @{ $o{zone} } : $o{zone} || ();
        $status = 'idempotency_status;';
    }

    my $listen = $o{listen} ? " $o{listen}" : '';
    my $http2 = $o{http2} ? "listen 127.0.0.1:$o{http2_port} http2$listen;"
                          : '';
    my $tls = $o{tls} ? $self->_tls($listen) : '';
    my $upstreams = join "\n", map {
        "    upstream $_ { server 127.0.0.1:$o{upstreams}{$_} max_fails=0; }"
    } sort keys %{ $o{upstreams} };

    return <<"END";
$user
daemon @{[ $o{daemon} ? 'on' : 'off' ]};
worker_processes $o{workers};
pid nginx.pid;
error_log error.log @{[ $o{log} || 'info' ]};
$o{main}
$load
events {
    worker_connections @{[ $o{connections} || 512 ]};
}

http {
    access_log off;
    client_body_temp_path $dir/client_body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;

    $zone
$o{http}
$upstreams

    server {
        listen 127.0.0.1:$o{port}$listen;
        $http2
        $tls
        server_name localhost;

$o{directives}
$o{server}

        location = /idempotency_worker {
            add_header X-Worker \$pid;
            return 204;
        }

        location / {
            proxy_pass http://backend;
$o{location}
        }

$o{locations}
    }

    server {
        listen 127.0.0.1:$o{status_port};

        location = /idempotency_status {
            $status
        }
    }
}
END
}


# A server of HTTP/1.1 and HTTP/2 over TLS, with a certificate of its own.

sub _tls {
    my ($self, $listen) = @_;

    my $dir = $self->dir;
    my @command = (qw(openssl req -x509 -nodes -subj /CN=localhost -newkey ec
                      -pkeyopt ec_paramgen_curve:prime256v1 -keyout),
                   "$dir/key.pem", '-out', "$dir/certificate.pem");

    -e "$dir/certificate.pem" || system("@command 2>$dir/openssl") == 0
        or die "@command: " . $self->read_file('openssl');

    return <<"END";
listen 127.0.0.1:$self->{tls_port} ssl http2$listen;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
END
}


# A free port, bound here and deaf, so that nobody else takes it, nor is it that
# of a connection to somewhere.

sub _free_socket {
    return IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp',
        ReuseAddr => 1) || die "no free port: $!\n";
}


# Starts the master and waits for its workers.  Whoever took one of our ports
# in between makes us take others.

sub start {
    my ($self) = @_;

    for ( 1 .. STARTS ) {
        $self->write_conf;
        return $self if $self->_start;

        last if $self->log !~ /bind\(\) to .* failed/;

        delete @$self{ 'places', map { "${_}port" } @ports };
        unlink "$self->{dir}/error.log";
    }

    die "nginx did not start:\n" . $self->read_file('output') . $self->log;
}


sub _start {
    my ($self) = @_;

    my @command = $self->_command;
    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        $self->_redirect;
        exec @command or POSIX::_exit(127);
    }

    if ($self->{daemon}) {
        waitpid $pid, 0;
        return if $? != 0;
        $pid = wait_for('the master starts', sub { $self->_pid('nginx.pid') });
    }

    $self->{pid} = $pid;

    return wait_for('workers start', sub {
        return 'up' if $self->workers == $self->{workers};
        return 'down' if defined _status($pid);
    }) eq 'up' || !delete $self->{pid};
}


sub _pid {
    my ($self, $file) = @_;

    return ($self->read_file($file) =~ /^(\d+)/)[0];
}


# The status of a process that has ended, 0 if only its parent can know it;
# undef while it runs.

sub _status {
    my ($pid) = @_;

    return $? if waitpid($pid, WNOHANG) == $pid;

    open my $in, '<', "/proc/$pid/stat" or return 0;

    return (<$in> // '') =~ /\) Z/ ? 0 : undef;
}


sub _command {
    my ($self, @more) = @_;

    return (binary(), '-p', "$self->{dir}/", '-c', 'nginx.conf',
            '-e', 'error.log', @more);
}


sub binary {
    return $ENV{IDEMPOTENCY_NGINX} if $ENV{IDEMPOTENCY_NGINX};

    my ($found) = grep { -x } map { "$_/nginx" }
        split(/:/, $ENV{PATH}), '/usr/sbin';

    return $found || die "nginx is not installed\n";
}


# The module under test; an empty name says that nginx has it built in.

sub module_file {
    my ($points) = @_;

    my $so = 'ngx_http_idempotency_module.so';
    my $file = $points ? $ENV{IDEMPOTENCY_POINTS} // "build/points/objs/$so"
                       : $ENV{IDEMPOTENCY_MODULE} // "build/$so";
    return if $file eq '';

    die "$file: no such module\n" if !-f $file;

    return File::Spec->rel2abs($file);
}


# In the child: what nginx says, and what a sanitizer says, goes to files.

sub _redirect {
    my ($self) = @_;

    %ENV = (%ENV, %{ $self->{env} || {} });

    for (qw(ASAN_OPTIONS UBSAN_OPTIONS)) {
        $ENV{$_} = join ':', $ENV{$_} || (), "log_path=$self->{dir}/sanitizer";
    }

    open STDIN, '<', '/dev/null';
    open STDOUT, '>>', "$self->{dir}/output";
    open STDERR, '>&', \*STDOUT;

    return;
}


# What "nginx -t" says of the configuration: its status and its words.

sub test_conf {
    my ($self) = @_;

    $self->write_conf;

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        $self->_redirect;
        exec $self->_command('-t') or POSIX::_exit(127);
    }

    waitpid $pid, 0;

    return ($?, $self->read_file('output'));
}


# The pids of the workers that take connections; of those that end their work.

# Of the master before an upgrade, if there was one, as well.

sub workers     { return $_[0]->_children(qr/^nginx: worker process\s*$/) }
sub old_workers { return $_[0]->_children(qr/^nginx: worker process is sh/) }


sub _children {
    my ($self, $title, $master) = @_;

    my @pids;
    my %masters = map { $_ => 1 } grep { $_ }
        $master || @$self{qw(pid old_pid)};

    for my $stat (glob '/proc/[0-9]*/stat') {
        open my $in, '<', $stat or next;
        my ($pid, $ppid) = (<$in> // '') =~ /^(\d+) .*\) \S (\d+)/s or next;
        next if !$masters{$ppid};

        open $in, '<', "/proc/$pid/cmdline" or next;
        my $cmdline = <$in> // '';
        $cmdline =~ tr/\0/ /;
        push @pids, $pid if $cmdline =~ $title;
    }

    @pids = sort { $a <=> $b } @pids;

    return @pids;
}


# Returns when the new generation serves and the old one has stopped to take
# connections; it may still have work, see wait_for_old_workers.

sub reload {
    my ($self) = @_;

    my %old = map { $_ => 1 } $self->workers;
    my $mark = length $self->log;

    kill 'HUP', $self->{pid};

    wait_for('new workers', sub {
        die "the reload was refused: $1\n"
            if substr($self->log, $mark) =~ /(\[emerg\].*)/;

        my @now = $self->workers;
        return @now == $self->{workers} && !grep { $old{$_} } @now;
    });

    return $self;
}


sub wait_for_old_workers {
    my ($self) = @_;

    wait_for('old workers end', sub { !$self->old_workers });

    return $self;
}


# A reload that fails with such a line in the log; returns the line.

sub refuse_reload {
    my ($self, $message) = @_;

    $self->allow($message);

    my $mark = length $self->log;

    kill 'HUP', $self->{pid};

    return wait_for("the reload is refused with $message", sub {
        return (grep { $_ =~ $message }
                split /\n/, substr $self->log, $mark)[0];
    });
}


# Kills a worker (the first one) as a crash would, or by another signal; another
# one takes its place.

sub kill_worker {
    my ($self, $pid, $signal) = @_;

    ($pid) = $self->workers if !$pid;
    $self->allow(qr/worker process $pid exited on signal 9/);

    kill $signal || 'KILL', $pid;

    wait_for("a worker in place of $pid", sub {
        my @now = $self->workers;
        return @now == $self->{workers} && !grep { $_ == $pid } @now;
    });

    return $pid;
}


# The next process that comes to one of these points of the module dies there;
# wait_for_death returns when somebody has died at each of them, and there are
# as many workers as before.

sub arm {
    my ($self, @points) = @_;

    $self->allow(qr/worker process \d+ exited on signal 9/);
    $self->{victims} = { map { $_ => 1 } $self->workers };
    $self->write_file("points/$_", '') for @points;

    return;
}


# A worker that lives on, whatever it comes to.

sub spare {
    my ($self, $pid) = @_;

    $self->write_file("points/$pid", '');

    return;
}


sub wait_for_death {
    my ($self) = @_;

    wait_for('a worker dies', sub {
        return if glob "$self->{dir}/points/[a-z]*";

        my @now = $self->workers;
        return @now == $self->{workers}
            && grep { !$self->{victims}{$_} } @now;
    });

    return;
}


# To the master, which has not done by now what it is told.

sub signal {
    my ($self, $signal) = @_;

    kill $signal, $self->{pid};

    return;
}


# A new master beside the old one, each with workers; needs daemon => 1.  From
# then on the old one has end_old, the new one is nginx.  Or it has end_new,
# and the old one is nginx again.

sub upgrade {
    my ($self) = @_;

    my $old = $self->{pid};

    kill 'USR2', $old;

    $self->{pid} = wait_for('a new master', sub {
        my $new = $self->_pid('nginx.pid');
        return $new && $new != $old && $new;
    });
    $self->{old_pid} = $old;

    wait_for('workers of the new master', sub {
        $self->_children(qr/^nginx: worker/, $self->{pid}) == $self->{workers};
    });

    return $self;
}


# The master that has no other work than to see to its old workers' end.

sub winch {
    my ($self) = @_;

    kill 'WINCH', $self->{old_pid};
    wait_for('old workers shut down', sub {
        !$self->_children(qr/^nginx: worker process\s*$/, $self->{old_pid});
    });

    return $self;
}


sub end_old { return $_[0]->_end_master('old_pid') }


sub end_new {
    my ($self) = @_;

    $self->_end_master('pid');
    $self->{pid} = delete $self->{old_pid};
    wait_for('the old one has workers', sub {
        $self->workers == $self->{workers};
    });

    return $self;
}


sub _end_master {
    my ($self, $which) = @_;

    kill 'QUIT', $self->{$which};
    wait_for('a master ends', sub { defined _status($self->{$which}) });
    delete $self->{$which};

    return $self;
}


# Ends nginx, by QUIT if nothing else is said.  Returns undef if it did not end
# in time and had to be killed, else its status, "0 but true" being the good.

sub stop {
    my ($self, $signal) = @_;

    my $status = '0 but true';

    # an upgrade that went wrong may have begun another one meanwhile

    while (my @pids = $self->_masters) {
        $status = $self->_end($signal || 'QUIT', @pids);
        delete @$self{qw(pid old_pid)};
    }

    return $status;
}


sub _end {
    my ($self, $signal, @pids) = @_;

    my %status;

    kill $signal, @pids;

    my $ended = eval { wait_for('', sub {
        $status{$_} //= _status($_) for @pids;
        return !grep { !defined } @status{@pids};
    }) };

    return (grep { $_ } values %status)[0] || '0 but true' if $ended;

    kill 'KILL', map({ $self->_children(qr/^nginx:/, $_) } @pids), @pids;
    waitpid $_, 0 for @pids;

    return;
}


sub _masters {
    my ($self) = @_;

    return $self->{pid} || () if !$self->{daemon};

    my @pids;

    for my $file (glob '/proc/[0-9]*/cmdline') {
        open my $in, '<', $file or next;
        my $cmdline = <$in> // '';
        $cmdline =~ tr/\0/ /;
        push @pids, $file =~ /(\d+)/ if $cmdline =~ /nginx.* -p \Q$self->{dir}/;
    }

    return @pids;
}


sub log { return $_[0]->read_file('error.log') }


# A line in the log that must not fail the test.

sub allow {
    my ($self, $message) = @_;

    push @{ $self->{allowed} }, $message;

    return;
}


# What must not stand in a log, and does.

sub complaints {
    my ($self) = @_;

    my @lines = grep { /\[(alert|crit|emerg)\]/ } split /\n/, $self->log;

    for my $message (@{ $self->{allowed} }) {
        @lines = grep { $_ !~ $message } @lines;
    }

    return @lines;
}


sub sanitizer_reports {
    my ($self) = @_;

    my @reports = map { $self->read_file((File::Spec->splitpath($_))[2]) }
        glob "$self->{dir}/sanitizer.*";

    return @reports, grep { /Sanitizer|runtime error:/ }
        split /\n/, $self->log . $self->read_file('output');
}


1;
