package Test::Idempotency;

# A test of the module: a real nginx with a configuration of a few lines, a
# backend that holds requests until told, clients whose answers are collected
# later, and checks at the end that nothing was left behind.
#
#   my $t = Test::Idempotency->new(<<'END', %options);
#       idempotency  payments;
#   END
#
# The directives stand in the server block; its "location /" leads to the
# backend.  Relative paths are relative to $t->dir.  Options:
#
#   server, location, locations, http, main
#               more lines for the server, for its "location /", locations
#               beside it, and lines for the levels above
#   zone        parameters of idempotency_zone, or a list of such;
#               'zone=payments:1m'
#   workers     2
#   connections of a worker; 512
#   backend     'auto' answers at once; 'hold'
#   backends    names of more upstreams, each with a backend of its own
#   files       { name => content }
#   http2, tls  1: $t->http2, $t->start_http2 and $t->connect_http2 may be
#               used; connections may have tls => 1
#   listen      parameters of the server's listen directives
#   modules     dynamic modules of nginx, loaded before ours; see can_load
#   module      0: without our module
#   points      1: with the module that dies where $t->arm says
#   log         level of the error log; 'info'
#   daemon      1: nginx is nobody's child, and can be upgraded
#   env         { name => value } of nginx
#
# Environment: IDEMPOTENCY_NGINX, IDEMPOTENCY_MODULE (empty: it is built in),
# IDEMPOTENCY_POINTS, with points; IDEMPOTENCY_MODULES, a directory;
# IDEMPOTENCY_TIMEOUT, seconds that a test waits for anything;
# IDEMPOTENCY_KEEP, keeps the directory.

use strict;
use warnings;

use JSON::PP ();
use Test::More ();

use Test::Idempotency::Backend;
use Test::Idempotency::Check;
use Test::Idempotency::Connection;
use Test::Idempotency::Deadline;
use Test::Idempotency::Http2;
use Test::Idempotency::Http2Client;
use Test::Idempotency::Nginx;

my @from_test_more = qw(ok is isnt like unlike cmp_ok is_deeply pass fail
                        diag note plan skip explain subtest BAIL_OUT);
my @ours = qw(is_answer is_replay is_problem wait_for conf_fails conf_works
              done_testing);

my @running;


sub import {
    my ($class) = @_;

    my $caller = caller;

    strict->import;
    warnings->import;

    no strict 'refs';
    *{"${caller}::$_"} = \&{"Test::More::$_"} for @from_test_more;
    *{"${caller}::$_"} = \&$_ for @ours;
    *{"${caller}::TODO"} = \${"${caller}::TODO"};

    return;
}


sub new {
    my ($class, $directives, %o) = @_;

    my %backends = map { $_ => Test::Idempotency::Backend->new }
        'backend', @{ delete $o{backends} || [] };

    $backends{backend}->auto if (delete $o{backend} // '') eq 'auto';

    my $nginx = Test::Idempotency::Nginx->new(
        directives => $directives // '', _with_modules(%o),
        upstreams => { map { $_ => $backends{$_}->port } keys %backends });

    my $self = bless { nginx => $nginx, backends => \%backends }, $class;

    push @running, $self;
    $nginx->start;

    return $self;
}


# load_module for the modules that stand under modules =>.

sub _with_modules {
    my (%o) = @_;

    my $dir = $ENV{IDEMPOTENCY_MODULES} || '/usr/lib/nginx/modules';

    $o{main} = join "\n", $o{main} // (),
        map { "load_module $dir/${_}_module.so;" }
        @{ delete $o{modules} || [] };

    return %o;
}


# Whether nginx takes such modules: 'ndk_http', 'ngx_http_lua'.  It is asked
# without ours.

sub can_load {
    my ($class, @modules) = @_;

    my ($status) = _test_conf('', modules => \@modules, module => 0);

    return $status == 0;
}


# A configuration that nginx refuses, with such a message, naming the file and
# a line that stands in what it was given here.

sub conf_fails {
    my ($directives, $message, $name, %o) = @_;

    my ($status, $output, $conf) = _test_conf($directives, %o);
    my ($said) = $output =~ /\[emerg\] (.*)/;
    my ($line) = ($said // '') =~ m{ in \S+/nginx\.conf:(\d+)$};
    my $text = $line ? (split /\n/, $conf)[$line - 1] : '';
    my $given = join "\n", $directives, map { ref ? @$_ : $_ // () }
        @o{qw(server location locations http zone)};

    $text =~ s/^\s*idempotency_zone (?=zone=)|^\s+|\s+$|;$//g;

    my @wrong = (
        $status ? () : 'nginx takes it',
        ($said // '') =~ $message ? () : "the message is not $message",
        !$line ? 'no line is named'
               : index($given, $text) < 0 ? "line $line is \"$text\"" : ());

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok(!@wrong, $name // "$directives is refused")
        || Test::More::diag(join "\n", @wrong, $output);
}


# A configuration that nginx takes, saying (no more than) such a message.

sub conf_works {
    my ($directives, $message, $name, %o) = @_;

    my ($status, $output) = _test_conf($directives, %o);
    my $words = join '', grep { !/syntax is ok|test is successful/ }
        split /^/, $output;

    my $ok = $status == 0
        && ($message ? $words =~ $message : $words eq '');

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok($ok, $name // "$directives is taken")
        || Test::More::diag($output);
}


sub _test_conf {
    my ($directives, %o) = @_;

    my $nginx = Test::Idempotency::Nginx->new(
        upstreams => { backend => 9 }, _with_modules(%o),
        directives => $directives);

    my ($status, $output) = $nginx->test_conf;
    my @reports = $nginx->sanitizer_reports;
    die "@reports\n" if @reports;

    return ($status, $output, $nginx->read_file('nginx.conf'));
}


sub backend {
    my ($self, $name) = @_;

    return $self->{backends}{ $name // 'backend' };
}


# Requests.  Options: method, path, key, body, headers => [ [ name, value ],
# ... ], chunked => [ pieces ], http => '1.0', port, tls.  start_... returns at
# once and has response, close, reset and half_close.

sub start {
    my ($self, %o) = @_;

    return $self->connect($o{port}, tls => $o{tls})
        ->request(method => 'POST', path => '/', %o);
}


sub start_post { my ($self, %o) = @_; return $self->start(%o) }
sub post       { my ($self, %o) = @_; return $self->start(%o)->response }

sub get {
    my ($self, %o) = @_;

    return $self->post(method => 'GET', %o);
}


sub start_http2 {
    my ($self, %o) = @_;

    return Test::Idempotency::Http2->start($self->{nginx}, method => 'POST',
                                           path => '/', %o);
}


sub http2 {
    my ($self, %o) = @_;

    return $self->start_http2(%o)->response;
}


# A connection to speak HTTP/1.1 over: request(...), send(bytes, methods of the
# requests in them), next_response, closed.

sub connect {
    my ($self, $port, %o) = @_;

    $port ||= $o{tls} ? $self->{nginx}->tls_port : $self->port;

    return Test::Idempotency::Connection->new($port, tls => $o{tls});
}


# The worker that holds a connection, which stays open for a request.

sub worker_of {
    my ($self, $c) = @_;

    $c->request(method => 'GET', path => '/idempotency_worker',
                headers => [ [ 'Connection', 'keep-alive' ] ]);

    return $c->next_response->header('X-Worker');
}


# A connection to a worker of which the code says that it is the one.

sub connect_to {
    my ($self, $test) = @_;

    for (1 .. 1000) {
        my $c = $self->connect;
        local $_ = $self->worker_of($c);
        return $c if $test->();
        $c->close;
    }

    die "no connection to such a worker\n";
}


# The same for HTTP/2; see Test::Idempotency::Http2Client.

sub connect_http2 {
    my ($self, %o) = @_;

    return Test::Idempotency::Http2Client->new(
        $o{tls} ? $self->{nginx}->tls_port : $self->http2_port, %o);
}


sub can_tls { return Test::Idempotency::Connection::tls_available() }


# Bytes on a connection of their own; they are taken for one request.

sub raw {
    my ($self, $bytes) = @_;

    return $self->connect->send($bytes, $bytes =~ /^(\S+)/);
}


# The process.

sub dir         { return $_[0]{nginx}->dir }
sub port        { return $_[0]{nginx}->port }
sub http2_port  { return $_[0]{nginx}->http2_port }
sub workers     { return $_[0]{nginx}->workers }
sub old_workers { return $_[0]{nginx}->old_workers }
sub file        { return $_[0]{nginx}->read_file($_[1]) }
sub log         { return $_[0]{nginx}->log }
sub allow       { return $_[0]{nginx}->allow($_[1]) }
sub reload      { $_[0]{nginx}->reload; return $_[0] }
sub start_nginx { $_[0]{nginx}->start; return $_[0] }
sub stop        { return $_[0]{nginx}->stop($_[1]) }
sub signal      { return $_[0]{nginx}->signal($_[1]) }
sub upgrade     { $_[0]{nginx}->upgrade; return $_[0] }
sub winch       { $_[0]{nginx}->winch; return $_[0] }
sub end_old     { $_[0]{nginx}->end_old; return $_[0] }
sub end_new     { $_[0]{nginx}->end_new; return $_[0] }
sub arm         { my $t = shift; return $t->{nginx}->arm(@_) }
sub spare       { my $t = shift; return $t->{nginx}->spare(@_) }
sub kill_worker { my $t = shift; return $t->{nginx}->kill_worker(@_) }

sub refuse_reload        { return $_[0]{nginx}->refuse_reload($_[1]) }
sub wait_for_death       { return $_[0]{nginx}->wait_for_death }
sub wait_for_old_workers { $_[0]{nginx}->wait_for_old_workers; return $_[0] }


# Other options (and directives) from the next reload on.

sub change {
    my ($self, %o) = @_;

    $self->{nginx}->change(%o);

    return $self;
}


# A line of the error log, which may come a moment after what it speaks of.

sub log_like {
    my ($self, $message, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok(
        eval { wait_for('', sub { $self->log =~ $message }) },
        $name // "the log says $message");
}


# The zone as idempotency_status shows it.

sub zone {
    my ($self, $name) = @_;

    my $m = $self->get(path => '/idempotency_status',
                       port => $self->{nginx}->status_port);
    my $status = eval { JSON::PP->new->utf8->decode($m->body) };
    die 'idempotency_status: ' . $m->summary . "\n" if !$status;

    return $status->{zones}{ $name // 'payments' };
}


sub counter {
    my ($self, $counter, $zone) = @_;

    return $self->zone($zone)->{counters}{$counter}
        // die "no counter $counter\n";
}


# A barrier: waiting => 3, running => 1, 'counters.done' => 2 ...; a name is
# one of the records, guards, of the zone itself or of the counters, in this
# order.

sub wait_until {
    my ($self, %goal) = @_;

    my $zone = delete $goal{zone};
    my %now;

    return wait_for(
        sub { join ', ', map { "$_ is $now{$_}, not $goal{$_}" } keys %now },
        sub {
            my $z = $self->zone($zone);
            %now = map { $_ => _look_up($z, $_) } keys %goal;

            return !grep { $now{$_} != $goal{$_} } keys %goal;
        });
}


sub _look_up {
    my ($z, $name) = @_;

    my $counter = $name =~ /^counters\.(.*)/ ? $1 : undef;

    return $z->{counters}{$counter} // die "no counter $counter\n"
        if defined $counter;

    return $z->{records}{$name} // $z->{guards}{$name} // $z->{$name}
        // $z->{counters}{$name}
        // die "idempotency_status has no $name\n";
}


# The end of a test: stops nginx and looks at what it left.

sub finish {
    my ($self) = @_;

    my $nginx = $self->{nginx};

    @running = grep { $_ != $self } @running;

    $self->_nothing_lent if $nginx->{module} && $nginx->{pid};

    my $status = $nginx->stop;

    Test::More::is($status, '0 but true', 'nginx ends, and in time');
    Test::More::is(join("\n", $nginx->complaints), '', 'the log is clean');
    Test::More::is(join("\n", $nginx->sanitizer_reports), '',
                   'no sanitizer has a report');

    $_->stop for values %{ $self->{backends} };

    return;
}


# No live lease, no waiter, and no block that belongs to nobody.

sub _nothing_lent {
    my ($self) = @_;

    my $zones = $self->{nginx}{zone} or return;

    for (ref $zones ? @$zones : $zones) {
        my ($name) = /zone=([^:]+)/;

        eval { $self->wait_until(zone => $name, running => 0, waiting => 0,
                                 held => 0) };
        Test::More::is($@, '', "zone $name: no live lease and no waiter");

        my $z = eval { $self->zone($name) } or next;
        my $used = $z->{blocks} - $z->{free};
        my $records = 0;
        $records += $_ for values %{ $z->{records} }, values %{ $z->{guards} };

        Test::More::ok($records ? $used >= $records : $used == 0,
            "zone $name: $used blocks are those of $records records");
    }

    return;
}


sub done_testing {
    $_->finish for my @all = @running;

    return Test::More::done_testing(@_);
}


# A test that dies takes its processes with it.

$SIG{INT} = $SIG{TERM} = sub { exit 130 };

END {
    local $?;

    for (@running) {
        $_->{nginx}->stop('TERM');
        print STDERR "# $_\n" for $_->{nginx}->sanitizer_reports;
        $_->stop for values %{ $_->{backends} };
    }
}


1;
