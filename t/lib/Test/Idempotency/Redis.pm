package Test::Idempotency::Redis;

# A redis-server of a test's own: its directory, port and process.  Nothing is
# kept on disk: who starts again is empty.
#
#   my $redis = Test::Idempotency::Redis->new(%options);
#
#   password    of the user "default"
#   users       lines of an ACL file: [ 'user idem on >secret ~idem:* ...' ]
#   tls         1: a port with TLS, too; 'mutual': clients need certificates
#   replica_of  another one
#   conf        more lines of redis.conf
#
# Its port stays its own while it does not run.  The test itself speaks to it
# over a unix socket: command(), client().

use strict;
use warnings;

use File::Temp;
use IO::Socket::INET;
use POSIX qw(WNOHANG);

use Test::Idempotency::Certificates;
use Test::Idempotency::Deadline;
use Test::Idempotency::Guard;
use Test::Idempotency::Resp;

# a signal must not leave servers behind

for (qw(INT TERM)) {
    $SIG{$_} ||= sub { exit 130 };
}


sub new {
    my ($class, %o) = @_;

    return $class->prepare(%o)->start;
}


# The same, not started yet.

sub prepare {
    my ($class, %o) = @_;

    my $keep = $ENV{IDEMPOTENCY_KEEP} ? 1 : 0;
    my $dir = File::Temp->newdir('redis-XXXXXX', TMPDIR => 1,
                                 CLEANUP => !$keep);
    print STDERR "# kept: $dir\n" if $keep;

    my $self = bless { dir => $dir, owner => $$, conf => [], %o }, $class;

    $self->{port} = $self->place;
    $self->{tls_port} = $self->place if $o{tls};
    $self->{certificates} = Test::Idempotency::Certificates->shared
        if $o{tls};
    $self->write_file('users.acl', join '', map { "$_\n" } @{ $o{users} })
        if $o{users};

    return $self;
}


# A free port, bound here and deaf, so that nobody else takes it.

sub place {
    my ($self) = @_;

    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
        Proto => 'tcp', ReuseAddr => 1) or die "no port for Redis: $!\n";

    push @{ $self->{places} }, $socket;

    return $socket->sockport;
}


sub dir          { return "$_[0]{dir}" }
sub pid          { return $_[0]{pid} }
sub port         { return $_[0]{port} }
sub tls_port     { return $_[0]{tls_port} }
sub told_port    { return $_[0]{tls_port} || $_[0]{port} }
sub socket       { return "$_[0]{dir}/socket" }
sub address      { return "127.0.0.1:$_[0]{port}" }
sub certificates { return $_[0]{certificates} }
sub log          { return $_[0]->read_file('log') }


sub write_file {
    my ($self, $name, $text) = @_;

    my $file = "$self->{dir}/$name";

    open my $out, '>:raw', $file or die "$file: $!\n";
    print {$out} $text;
    close $out or die "$file: $!\n";

    return $file;
}


sub read_file {
    my ($self, $name) = @_;

    open my $in, '<:raw', "$self->{dir}/$name" or return '';
    local $/;

    return scalar(<$in>) // '';
}


sub _conf {
    my ($self) = @_;

    my $dir = $self->dir;

    my @lines = ('bind 127.0.0.1', "port $self->{port}",
        "unixsocket $dir/socket", "dir $dir", "logfile $dir/log",
        'daemonize no', 'save ""', 'appendonly no', 'databases 4', 'hz 100',
        'enable-debug-command yes', 'repl-diskless-sync-delay 0',
        'repl-backlog-size 1mb');

    push @lines, "requirepass $self->{password}",
        "masterauth $self->{password}" if $self->{password};
    push @lines, "aclfile $dir/users.acl" if $self->{users};
    push @lines, 'replicaof 127.0.0.1 ' . $self->{replica_of}->told_port
        if $self->{replica_of};
    push @lines, $self->_tls if $self->{tls};

    return join '', map { "$_\n" } @lines, @{ $self->{conf} };
}


sub _tls {
    my ($self) = @_;

    my $c = $self->{certificates};
    my $mutual = $self->{tls} eq 'mutual' ? 'yes' : 'no';

    return ("tls-port $self->{tls_port}",
        'tls-cert-file ' . $c->file('server.pem'),
        'tls-key-file ' . $c->file('server.key'),
        'tls-ca-cert-file ' . $c->file('ca.pem'),
        "tls-auth-clients $mutual", 'tls-replication yes');
}


# Starts the process, and returns when it answers.

sub start {
    my ($self) = @_;

    die "Redis runs\n" if $self->{pid};

    $self->write_file('redis.conf', $self->_conf) if !$self->{configured}++;
    unlink $self->socket;

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{dir}/log";
        open STDERR, '>&', \*STDOUT;
        exec $self->_command or POSIX::_exit(127);
    }

    guard($pid);
    $self->{pid} = $pid;

    wait_for(sub { "Redis answers\n" . $self->log }, sub {
        if (waitpid($pid, WNOHANG) != 0) {
            delete $self->{pid};
            die "Redis did not start:\n" . $self->log;
        }

        return eval { $self->client->try('PING') };
    });

    return $self;
}


sub _command { return ('redis-server', "$_[0]{dir}/redis.conf") }


# Ends it, orderly.

sub stop {
    my ($self) = @_;

    return $self->_end('TERM');
}


# Ends it as a crash would.

sub kill {
    my ($self) = @_;

    return $self->_end('KILL');
}


sub _end {
    my ($self, $signal) = @_;

    my $pid = $self->{pid} or return $self;

    local $?;

    CORE::kill $signal, $pid;
    CORE::kill 'CONT', $pid;

    # reaped before anything else, as it is told apart by its pid

    eval { wait_for('', sub { waitpid($pid, WNOHANG) == $pid }) }
        or CORE::kill('KILL', $pid) && waitpid $pid, 0;

    unguard($pid);
    delete $self->{pid};

    return $self;
}


# Ends it as a crash would, and starts it, empty, where it was.

sub restart {
    my ($self) = @_;

    return $self->kill->start;
}


# It hangs: its port takes connections, and nobody answers.

sub pause {
    my ($self) = @_;

    CORE::kill 'STOP', $self->{pid};
    wait_for('Redis stops', sub { $self->_state eq 'T' });

    return $self;
}


sub resume {
    my ($self) = @_;

    CORE::kill 'CONT', $self->{pid};

    return $self;
}


sub _state {
    my ($self) = @_;

    open my $in, '<', "/proc/$self->{pid}/stat" or die "Redis: $!\n";

    return (<$in> =~ /^\d+ .*\) (\S)/)[0];
}


# A connection of its own, with all rights.

sub client {
    my ($self) = @_;

    my $client = Test::Idempotency::Resp->new($self->socket);
    $client->try('AUTH', $self->{password}) if $self->{password};

    return $client;
}


# Over one that is made for it, as Redis may have closed any other.

sub command {
    my ($self, @command) = @_;

    return $self->client->command(@command);
}


# What INFO says: { name => value }.

sub info {
    my ($self, @sections) = @_;

    return { map { /^([^#:]+):(.*)/ ? ($1 => $2) : () }
             split /\r\n/, $self->command('INFO', @sections) };
}


# The rights of a user of nginx's, as README.md names them.

sub rights {
    open my $in, '<', 'README.md' or die "README.md: $!\n";

    my ($rights) = join('', <$in>)
        =~ /^ACL SETUSER \S+ on \S+ ~idem:\* &idem:\* (.*?)```/ms
        or die "README.md has no user\n";

    return $rights =~ s/[\\\s]+/ /gr;
}


sub role { return $_[0]->command('ROLE')->[0] }


# Waits until this replica has all that its master has.

sub wait_for_sync {
    my ($self) = @_;

    wait_for('the replica is in step', sub {
        my $info = eval { $self->info('replication') } || {};
        my $link = $info->{master_link_status} // '';

        return $link eq 'up' && !$info->{master_sync_in_progress};
    });

    return $self;
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $@, $!);
    $self->kill;

    return;
}


1;
