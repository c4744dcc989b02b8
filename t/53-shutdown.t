#!/usr/bin/perl

# A worker that is told to end.  By TERM it ends at once, and so do its claims:
# what was sent is unknown, and who waits for it is told.  By QUIT it does its
# work to the end.  With worker_shutdown_timeout it does not work for longer
# than that, whatever upstreams, and clients that have left, would have it do.

use lib 't/lib';
use Test::Idempotency;

use IO::Socket::INET;

# no room for another connection: connecting hangs, and nothing is sent

my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp')
    or die "no deaf upstream: $!\n";
listen $deaf, 0;
my @crowd = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', Blocking => 0,
                                        PeerPort => $deaf->sockport) } 1 .. 4;

my $locations = <<"END";
    location /reject/ {
        idempotency_concurrent  reject;
        proxy_pass              http://backend;
    }
    location /off/ {
        idempotency_concurrent  reject;
        proxy_buffering         off;
        proxy_pass              http://backend;
    }
    location /deaf/ {
        idempotency_concurrent  reject;
        proxy_connect_timeout   20s;
        proxy_pass              http://127.0.0.1:@{[ $deaf->sockport ]};
    }
END

my $http2 = Test::Idempotency::Http2::available();
my $n = 0;

my ($t, $backend);


sub begin {
    my (%o) = @_;

    $t = Test::Idempotency->new(<<'END', locations => $locations, %o,
        idempotency               payments;
        idempotency_concurrent    wait=20s;
        idempotency_max_response  100k;
        access_log                access.log leaving;
END
        http => <<'END');
    log_format leaving '$idempotency_key $status "$idempotency_client_gone"';
END
    $backend = $t->backend;

    return;
}


# A request over a connection to such a worker.

sub request {
    my ($worker, %request) = @_;

    return $t->connect_to($worker)->request(%request);
}


sub pay { return (method => 'POST', path => '/', key => 'k' . ++$n, @_) }


# The access log of a key: status and whether the client was gone.

sub logged {
    my ($key) = @_;

    my $said;

    wait_for("$key is logged", sub {
        ($said) = $t->file('access.log') =~ /^\Q$key\E (.*)$/m;
    });

    return $said;
}


# TERM, to one of two workers: it has claims, and waiters of its own.

begin();

my %other = pay();
$backend->on('/', 201, 'receipt');
is_answer($t->post(%other), 201, 'receipt', 'a record of before');
$backend->hold;

my $victim_c = $t->connect;
my $victim = $t->worker_of($victim_c);
my ($mine, $others) = (sub { $_ == $victim }, sub { $_ != $victim });

my %running = pay();
my $running = request($others, %running);
$backend->wait_for_request(1);
my $leaver = request($mine, %running);
$t->wait_until(waiting => 1);

my %sent = pay(path => '/reject/');
my $sent = request($mine, %sent);
$backend->wait_for_request(2);

my %waited = pay();
my $waited = request($mine, %waited);
$backend->wait_for_request(3);
my $waiter = request($others, %waited);
$t->wait_until(waiting => 2);

my $unsent = request($mine, pay(path => '/deaf/'));
$t->wait_until(running => 4);

$t->kill_worker($victim, 'TERM');

is_problem($waiter->next_response, 409, 'outcome-unknown',
           'TERM: who waits at another worker is told');
is_problem($t->post(%sent), 409, 'outcome-unknown', 'TERM: so is who comes');
is($t->counter('unknown'), 2, 'TERM: its worker has said so');
is($t->counter('released'), 1, 'TERM: and what was not sent is free again');
is($t->counter('orphaned'), 0, 'TERM: there is no orphan');
is($t->zone->{waiting}, 0, 'TERM: nobody waits, not at that worker either');
is_problem($t->post(%running, path => '/reject/'), 422, 'key-reused',
           'TERM: another claim goes on');
is_replay($t->post(%other), 201, 'receipt', 'TERM: another record is there');

$backend->answer(200, 'done', to => ($backend->all)[1]);
is_answer($running->next_response, 200, 'done', 'TERM: the other completes');
is_replay($t->post(%running), 200, 'done', 'TERM: and is replayed');
is($backend->requests, 4, 'TERM: nothing ran twice');
$t->finish;


# QUIT: what runs, runs to its end, for clients that left too, and who waits
# waits for it.

begin(http2 => 1);

# in the end, one worker has nothing left but a waiter for the other

my $first_c = $t->connect;
my $has_first = $t->worker_of($first_c);
my %first = pay();
$first_c->request(%first);
my $first = $backend->wait_for_request;
my $parked = request(sub { $_ != $has_first }, %first);
$t->wait_until(waiting => 1);

my @runs = map { { pay(path => $_) } } '/reject/', '/reject/', '/off/';
my @clients = map { $t->start(%$_) } @runs;
$backend->wait_for_request(4);

if ($http2) {
    push @runs, { pay() };
    push @clients, $t->start_http2(%{ $runs[3] });
    $backend->wait_for_request(5);
    $clients[3]->close;
}

$clients[1]->close;
$clients[2]->reset;
$t->zone;

$t->signal('QUIT');
wait_for('workers end', sub { $t->old_workers == 2 });
is($backend->gone, 0, 'QUIT: no upstream is left');

$backend->answer(200, 'ran', to => $_)
    for grep { $_ != $first } $backend->all;
is_answer($clients[0], 200, 'ran', 'QUIT: a client gets its answer');
is(logged($runs[$_]{key}), '200 "1"', 'QUIT: the request of one who left ran')
    for 1 .. $#runs;

$backend->answer(200, 'last', to => $first);
is_answer($first_c->next_response, 200, 'last', 'QUIT: the first of two, too');
is_replay($parked->next_response, 200, 'last', 'QUIT: and the second of them');
is($t->stop, '0 but true', 'QUIT: nginx ends');
is($backend->requests, @runs + 1, 'QUIT: nothing ran twice');
$t->finish;

# A reload with worker_shutdown_timeout: at its end the old worker has one
# request left, or two, that could go on for long.

begin(http2 => 1, workers => 1, main => 'worker_shutdown_timeout 200ms;');

my $text = 'receipt ' x 1000;
my $header = "HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n";
my $stream = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n";
my %kinds = (unknown => 'outcome-unknown', unstored => 'response-not-stored');
my ($asked, $unstored) = (0, 0);

my @ends = (
#     path         the upstream says   becomes     why
    [ '/reject/',  '',                 'unknown',  'no answer'           ],
    [ '/off/',     $header . 'rec',    'unknown',  'half an answer'      ],
    [ '/',         $stream . $text,    'unstored', 'half a large answer' ],
    [ '/deaf/',    undef,              'absent',   'no connection'       ],
);


# One request; the old worker is to end it, by itself.

sub is_ended {
    my ($start, $leaves, $path, $says, $becomes, $name) = @_;

    my %request = pay(path => $path);
    my $client = $t->$start(%request);

    if (defined $says) {
        $backend->send($says);
        $asked++;
    }

    $unstored++ if $becomes eq 'unstored';
    $t->wait_until(running => $becomes eq 'unstored' ? 0 : 1,
                   unstored => $unstored);

    $client->close if $leaves;
    $t->zone;
    $t->reload;
    ok(eval { $t->wait_for_old_workers }, "$name: the worker ends");
    wait_for('the upstream is left', sub { $backend->gone == $asked });

    is($t->zone->{records}{running}, 0, "$name: so does the claim");
    is($t->counter('orphaned'), 0, "$name: not as an orphan");
    is_problem($t->$start(%request), 409, $kinds{$becomes}, "$name: $becomes")
        if $kinds{$becomes};

    return;
}


for my $start ('start', $http2 ? 'start_http2' : ()) {
    for my $leaves (0, 1) {
        for (@ends) {
            my ($path, $says, $becomes, $why) = @$_;
            my $name = join ', ', $start, $leaves ? 'leaves' : 'stays', $why;

            is_ended($start, $leaves, $path, $says, $becomes, $name);
        }
    }
}

# Waiters there, and one that came to the new worker meanwhile.

for my $start ('start', $http2 ? 'start_http2' : ()) {
    $t->change(main => 'worker_shutdown_timeout 1s;');
    $t->reload->wait_for_old_workers;

    my %request = pay();
    my $first = $t->$start(%request);
    $backend->wait_for_request;
    my @waiters = map { $t->$start(%request) } 1, 2;
    $t->wait_until(waiting => 2);
    $t->reload;
    my $newcomer = $t->$start(%request);

    is_problem($newcomer, 409, 'outcome-unknown', "$start: who waits is told");
    ok(eval { $t->wait_for_old_workers }, "$start: the worker ends");
    is($t->zone->{waiting}, 0, "$start: nobody waits");
    is($t->counter('orphaned'), 0, "$start: not as an orphan");
    isnt($_->response->why, undef, "$start: the others get nothing")
        for $first, @waiters;
}

done_testing;
