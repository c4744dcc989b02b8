#!/usr/bin/perl

# Memory may run out at any moment of a request.  Then the client gets a clean
# error, or is left; never a wrong answer or half of one.  Who tries again gets
# the first answer, or learns that there is none, or the request is carried out
# if it was not yet: but not twice.  Nothing is left behind.
#
# A scenario is played with the first allocation failing, then with the second,
# and so on until it does not get so far.  In the sanitizer build each piece of
# memory that a request takes is an allocation (NGX_DEBUG_PALLOC); elsewhere
# nginx takes pools of some kilobytes, and there are fewer steps.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Memory;

use constant MOST => 1000;              # steps of a scenario
use constant LIFE => 15;                # seconds of a record

my $memory = Test::Idempotency::Memory->new;
my $proxy = 'proxy_pass http://backend;';

# one worker, so that its memory is the one that runs out

my $t = Test::Idempotency->new(<<"END", workers => 1, http2 => 1,
    idempotency                payments;
    idempotency_concurrent     wait=30s;
    idempotency_max_response   10k;
    idempotency_valid          @{[ LIFE ]}s;
    idempotency_unknown        refuse @{[ LIFE ]}s;
    idempotency_documentation  https://example.com/problems;
    client_body_buffer_size    1k;
    add_header                 X-Told \$idempotency_status always;
    add_header                 X-Key \$idempotency_key always;
    access_log                 access.log told;
END
    env => $memory->env, files => { secret => 'x' x 32 }, backends => [ 'other' ],
    http => <<'END',
    log_format told '$idempotency_id $idempotency_instance $status '
                    '$idempotency_age $idempotency_wait_time '
                    '$idempotency_fence $idempotency_store';
END
    locations => <<"LOCATIONS");
    location /off/      { $proxy proxy_buffering off; }
    location /reject/   { $proxy idempotency_concurrent reject; }
    location /fallback/ { $proxy error_page 502 = \@other; }
    location /page/     { $proxy error_page 422 /reused; }
    location = /reused  { internal; return 200 "reused"; }
    location \@other    { proxy_pass http://other; }
    location = /nothing { idempotency off; return 204; }
    location /found/    { $proxy idempotency_unknown check=/known; }
    location /absent/   { $proxy idempotency_unknown check=/none; }
    location = /known   { internal; $proxy }
    location = /none    { internal; $proxy }
    location = /issue   { idempotency_token_issue; idempotency_token_secret secret;
                          idempotency_token_ttl @{[ LIFE ]}s; }
    location /token/ {
        idempotency_required      token;
        idempotency_token_secret  secret;
        idempotency_token_ttl     @{[ LIFE ]}s;
        idempotency_token_rotate  on;
        $proxy
    }
    location /acknowledge/ { $proxy idempotency_acknowledge; }
    location /composite/ {
        idempotency_key    \$http_source \$http_number;
        idempotency_scope  \$server_name \$http_user;
        $proxy
    }
LOCATIONS

my $backend = $t->backend;
my $other = $t->backend('other');
my $large = 'x' x 20_000;
my ($worker) = $t->workers;
my $n = 0;

$backend->on($_, 201, 'answer %n')
    for qw(/ /off/ /page/ /composite/ /token/ /acknowledge/);
$backend->on('/pieces', 201, '', chunked => [ 'answer ', 'in ', 'pieces' ]);
$backend->on('/large', 201, $large);
$backend->on('/fields', 201, 'answer %n', headers => [
    [ 'Cache-Control', 'no-cache' ], [ 'Cache-Control', 'private' ],
    [ 'Link', '</>; rel="up"' ], [ 'Location', '/there' ],
    map { [ "X-Field-$_", 'x' ] } 1 .. 45 ]);
$backend->on('/busy', 429, 'busy');
$backend->on($_, 201, 'answer', cut => 2)
    for qw(/cut /off/cut /fallback/ /found/ /absent/);
$backend->on('/known', 200, 'known');
$backend->on('/none', 404, 'none');
$other->on('/fallback/', 201, 'help %n');

# what nginx says when an allocation has failed

$t->allow(qr/\[emerg\] .*(?:malloc|posix_memalign)\(.*\) failed/);


# What came of a request: "right", "error", "left" without a byte, "cut" so
# that a client can see it, or, in words, what it must not be.

sub kind_of {
    my ($m, $right) = @_;

    if ($m->why) {
        return $m->why =~ /\b0 bytes$/ ? 'left' : 'cut';
    }

    return 'right' if $right->($m);

    # an error of nginx's own has nothing of the answer that it stands for

    return 'error' if $m->status =~ /^50[023]$/
        && !grep { /^(X-Field|Location|Idempotent)/i } $m->header_names;

    return $m->summary;
}


sub is_first   { return $_[0]->status == 201 && !marked($_[0]) }
sub is_again   { return $_[0]->status == 201 && marked($_[0]) }
sub is_replayed {
    my ($m, $status, $body) = @_;

    return $m->status == $status && marked($m) && $m->body eq $body;
}

sub marked     { return defined $_[0]->header('Idempotent-Replayed') }
sub is_unknown { return $_[0]->status == 409 && $_[0]->body =~ /is unknown"/ }
sub is_not_kept { return $_[0]->status == 409 && $_[0]->body =~ /not kept"/ }


# Plays a scenario with each allocation failing.  It gets a key, and a function
# that says from where on memory is short; it returns what is wrong.

sub play {
    my ($name, $scenario, %o) = @_;

    my @wrong;
    my $steps = 0;

    for my $step (1 .. MOST) {
        my $failed;

        push @wrong, map { "$step: $_" } $scenario->('k' . ++$n,
            sub { $memory->fail($step, $o{lasting}) },
            sub { ($failed) = $memory->enough });

        last if !$failed || @wrong > 10;
        $steps = $step;
    }

    $name .= ', and all that follow' if $o{lasting};

    ok(!@wrong && $steps > 0 && $steps < MOST,
       "$name: whichever of $steps allocations fails")
        or diag(join "\n", @wrong);

    return;
}


# A request that is the first with its key.  Options: request, what is sent;
# by, how; right, the answer that is; again, what those get who come back, if
# not that; most, how often upstreams may be asked; cut, it may break off.

sub first {
    my (%o) = @_;

    my $send = $o{by} || \&http1;
    my $right = $o{right} || \&is_first;

    return sub {
        my ($key, $short, $enough) = @_;

        my %request = (path => '/', body => 'eur=1', ref $o{request} eq 'CODE'
            ? %{ $o{request}->($key) } : (key => $key, %{ $o{request} }));
        my @asked = (asked());
        my @wrong;

        my $m = $send->($short, %request);
        $enough->();

        my $kind = kind_of($m, $right);
        push @wrong, "it gets: $kind"
            if $kind !~ /^(?:right|error|left)$/
               && !($o{cut} && $kind eq 'cut');

        $t->wait_until(running => 0) if $kind ne 'right';
        push @asked, asked();

        $request{body} .= 'x' if $o{by};    # as http2() has

        my $retry = $t->post(%request);
        my $again = $t->post(%request);
        push @asked, asked();

        return @wrong, retried(\%o, $right, $kind eq 'right' && $m, $retry,
                               $again, @asked);
    };
}


sub http1 {
    my ($short, %request) = @_;

    $short->();

    return $t->post(%request);
}


# Memory is short when the last byte comes.  Before that, where nginx makes a
# request line of the fields, a failure kills the worker, with this module or
# without: ngx_http_v2_construct_request_line() has set the length of the line
# already, and the message about the failure prints the line.

sub http2 {
    my ($short, %request) = @_;

    my $c = $t->connect_http2;
    my $stream = $c->request(method => 'POST', %request, more => 1);

    $t->zone;                           # the header was read before that
    $short->();
    $c->send(pack 'CnCCNC', 0, 1, 0, 1, 1, ord 'x');

    my $m = $stream->response;
    $c->close;

    return $m;
}


sub composite {
    my ($key) = @_;

    return { path => '/composite/', headers => [ [ 'Source', 'shop' ],
             [ 'Number', $key ], [ 'User', 'me' ] ] };
}


sub token {
    return { path => '/token/',
             key => $t->get(path => '/issue')->header('Idempotency-Token') };
}


sub issued {
    my ($key, $short, $enough) = @_;

    $short->();
    my $m = $t->get(path => '/issue');
    $enough->();

    my $kind = kind_of($m, sub {
        my ($token) = $_[0]->body =~ /"token":"([\w-]{76})"/;
        return $token && $_[0]->header('Idempotency-Token') eq $token });

    return $kind =~ /^(?:right|error|left)$/ ? () : "it gets: $kind";
}


sub is_acknowledged { return is_replayed($_[0], 204, '') }


# What those may get who come back, by how often an upstream was asked before,
# by the first request and by those.

sub retried {
    my ($o, $right, $m, $retry, $again, $before, $first, $all) = @_;

    my @wrong;
    my $answer = $m || $retry;
    my $most = $o->{most} || 1;

    push @wrong, 'the upstream is asked ' . ($all - $before) . ' times'
        if $all - $before > $most;

    if ($first == $before) {
        push @wrong, 'it is not carried out then: ' . $retry->summary
            if kind_of($retry, $right) ne 'right';
        $retry = $again;
    }

    for ($retry, $again) {
        next if is_unknown($_) || is_not_kept($_);
        next if $o->{again} && $o->{again}->($_);
        next if !$o->{again} && is_again($_)
                && ($first > $before && !$m || $_->body eq $answer->body);

        push @wrong, 'who comes back gets: ' . $_->summary;
    }

    return @wrong;
}


sub asked { return $backend->requests + $other->requests }


# Requests with a key that has a record, whose answers are known.

sub later {
    my ($right, %later) = @_;

    return sub {
        my ($key, $short, $enough) = @_;

        my %request = (path => '/', key => $key, body => 'eur=1');
        my $path = $later{path} || '/';
        my $first = $t->post(%request, path => $path);
        my $asked = asked();
        my @wrong;

        $short->();
        my $m = $t->post(%request, %later);
        $enough->();

        my $is_right = sub { $right->($_[0], $first) };
        my $kind = kind_of($m, $is_right);
        push @wrong, "it gets: $kind" if $kind !~ /^(?:right|error|left)$/;

        my $again = $t->post(%request, %later);
        push @wrong, 'who comes back gets: ' . $again->summary
            if !$is_right->($again);

        $again = $t->post(%request, path => $path);
        push @wrong, 'the first one gets: ' . $again->summary
            if !is_again($again) || $again->body ne $first->body;

        push @wrong, 'the upstream is asked' if asked() != $asked;

        return @wrong;
    };
}


sub same {
    my ($m, $first) = @_;

    return is_again($m) && $m->body eq $first->body;
}


sub reused { return $_[0]->status == 422 && $_[0]->body =~ /already used"/ }
sub paged  { return $_[0]->status == 422 && $_[0]->body eq 'reused' }


# A first one that the backend holds, and a second one.

sub hold {
    my ($key, $path) = @_;

    my %request = (path => $path, key => $key, body => 'eur=1');
    my $first = $t->start_post(%request);

    $backend->wait_for_request;

    return ($first, \%request);
}


sub is_busy { return $_[0]->status == 409 && $_[0]->body =~ /outstanding/ }


sub busy {
    my ($key, $short, $enough) = @_;

    my ($first, $request) = hold($key, '/reject/');
    my @wrong;

    $short->();
    my $m = $t->post(%$request);
    $enough->();

    my $kind = kind_of($m, \&is_busy);
    push @wrong, "it gets: $kind" if $kind !~ /^(?:right|error|left)$/;

    return @wrong, ends_well($first, $request);
}


# There is enough when the backend answers.

sub ends_well {
    my ($first, $request, @twins) = @_;

    my $asked = asked();

    $backend->answer(201, "for $request->{key}");

    my @wrong = map { 'the first one gets: ' . $_->summary }
        grep { !is_first($_) || $_->body ne "for $request->{key}" }
        $first->response;

    push @wrong, map { 'who waits or comes back gets: ' . $_->summary }
        grep { !is_again($_) || $_->body ne "for $request->{key}" }
        (map { $_->response } @twins), $t->post(%$request);

    push @wrong, 'the upstream is asked again' if asked() != $asked;

    return @wrong;
}


# Whether the second one is parked is told by a third one behind it, on a
# connection that is there: nginx has seen the second one before that.

sub parks {
    my ($key, $short, $enough) = @_;

    my ($first, $request) = hold($key, '/held');
    my @keep = (headers => [ [ 'Connection', 'keep-alive' ] ]);
    my @c = map { $t->connect } 1, 2;
    my @wrong;

    $_->request(method => 'GET', path => '/nothing', @keep) for @c;
    $_->next_response for @c;

    $short->();
    $c[0]->request(method => 'POST', %$request);
    $c[1]->request(method => 'GET', path => '/nothing');
    $c[1]->next_response;
    $enough->();

    if ($c[0]->answered) {
        my $kind = kind_of($c[0]->response, sub { 0 });
        push @wrong, "it gets: $kind" if $kind !~ /^(?:error|left)$/;
        shift @c;
    }

    return @wrong, ends_well($first, $request, @c > 1 ? $c[0] : ());
}


# Memory is short from when the backend answers: the first one, and one or two
# who wait for it.

sub woken {
    my ($key, $short, $enough) = @_;

    my ($first, $request) = hold($key, '/held');
    my @twins = map { $t->start_post(%$request) } 1, 2;
    my $asked = asked();
    my @wrong;

    $t->wait_until(waiting => 2);
    $short->();
    $backend->answer(201, "for $key");

    my $is_right = sub { is_first($_[0]) && $_[0]->body eq "for $key" };
    my $kind = kind_of($first->response, $is_right);
    push @wrong, "the first one gets: $kind"
        if $kind !~ /^(?:right|error|left)$/;

    my $is_known = sub {
        my ($m) = @_;

        return is_again($m) && $m->body eq "for $key" || is_unknown($m)
            || is_not_kept($m);
    };

    for (@twins) {
        my $kind = kind_of($_->response, $is_known);
        push @wrong, "who waits gets: $kind"
            if $kind !~ /^(?:right|error|left)$/;
    }

    $enough->();

    my $again = $t->post(%$request);
    push @wrong, 'who comes back gets: ' . $again->summary
        if !$is_known->($again);
    push @wrong, 'the upstream is asked again' if asked() != $asked;

    return @wrong;
}


# Memory is short when a duplicate asks what became of an unknown one: that is
# found out, or that it did not happen and may run.

sub checked {
    my ($path, $right, %o) = @_;

    return sub {
        my ($key, $short, $enough) = @_;

        my %request = (path => $path, key => $key, body => 'eur=1');
        my $before = ran($path);
        my @wrong;

        $t->post(%request);

        $short->();
        my $m = $t->post(%request);
        $enough->();

        my $known = sub {
            return $right->($_[0]) || is_unknown($_[0]) || is_not_kept($_[0]);
        };
        my $kind = kind_of($m, $known);
        push @wrong, "it gets: $kind"
            if $kind !~ /^(?:right|error|left)$/
               && !($o{cut} && $kind eq 'cut');

        $t->wait_until(running => 0) if $kind ne 'right';

        my $again = $t->post(%request);
        push @wrong, 'who comes back gets: ' . $again->summary
            if !$known->($again);

        push @wrong, 'it ran ' . (ran($path) - $before) . ' times'
            if ran($path) - $before > ($path eq '/found/' ? 1 : 3);

        return @wrong;
    };
}


sub ran {
    my ($path) = @_;

    return scalar grep { $_->uri eq $path } $backend->all;
}


sub files { return scalar grep { !/\/\.\.?$/ } glob "/proc/$worker/fd/*" }


# What the worker has when nothing goes on, after all has happened once.

http2(sub { }, path => '/', key => 'warm', body => 'x' x 2000);
$t->post(path => $_, key => "warm$_") for qw(/off/ /fallback/ /page/);
$t->post(%{ composite('warm') });

my @idle = (0, 0);

wait_for('nothing goes on', sub {
    my @before = @idle;
    $t->zone;
    @idle = (files(), $memory->living);
    return "@idle" eq "@before";
});

# First requests.


# without memory to keep it, an answer passes as it comes, and breaks off so

my %cut = (right => sub { $_[0]->status == 502 }, again => \&is_unknown,
           cut => 1);

my @firsts = (
    [ 'a request',                {}                                       ],
    [ 'a body in a file',         { body => 'x' x 5000 }                   ],
    [ 'a body in chunks',         { chunked => [ 'eur', '=1' ] }           ],
    [ 'a large body in chunks',   { chunked => [ ('x' x 700) x 5 ] }       ],
    [ 'an answer in chunks',      { path => '/pieces' }                    ],
    [ 'an answer of many fields', { path => '/fields' }                    ],
    [ 'without buffering',        { path => '/off/' }                      ],
    [ 'scope and composite key',  \&composite                              ],
    [ 'a token',                  \&token                                  ],
    [ 'an acknowledgement',       { path => '/acknowledge/' },
        again => \&is_acknowledged ],
    [ 'a large answer',           { path => '/large' },                    cut => 1 ],
    [ 'an answer that breaks off', { path => '/cut' },                     %cut ],
    [ 'so, without buffering',    { path => '/off/cut' },                  %cut ],
    [ 'an upstream that is busy', { path => '/busy' },                     most => 3,
        right => sub { $_[0]->status == 429 },
        again => sub { $_[0]->status == 429 } ],
    [ 'help of another upstream', { path => '/fallback/' },                most => 2, cut => 1 ],
    [ 'HTTP/2',                   {},                                      by => \&http2, cut => 1 ],
);

for (@firsts) {
    my ($name, $request, %o) = @$_;

    play($name, first(request => $request, %o));
}

# Others.

play('a replay', later(\&same));
play('a token is issued', \&issued);
play('a replay of many fields', later(\&same, path => '/fields'));
play('another request', later(\&reused, body => 'eur=2'));
play('its page', later(\&paged, body => 'eur=2', path => '/page/'));
play('an unknown that is found out',
     checked('/found/', sub { is_replayed($_[0], 200, 'known') }));
play('an unknown that did not happen',
     checked('/absent/', sub { $_[0]->status == 502 }, cut => 1));
play('a duplicate that is refused', \&busy);
play('a duplicate that begins to wait', \&parks);
play('duplicates that are woken', \&woken);

# All fail from one on.

play('a request', first(request => {}), lasting => 1);
play('an answer that breaks off', first(request => { path => '/cut' }, %cut),
     lasting => 1);
play('a replay', later(\&same), lasting => 1);
play('another request', later(\&reused, body => 'eur=2'), lasting => 1);
play('a duplicate that begins to wait', \&parks, lasting => 1);
play('duplicates that are woken', \&woken, lasting => 1);

# Nothing is left.

is_deeply([ $t->workers ], [ $worker ], 'the worker is the same one');
wait_for(sub { 'files: ' . files() . ", not $idle[0]" },
         sub { files() == $idle[0] });
pass('it has no more files open than before');
wait_for(sub { 'pieces of memory: ' . $memory->living . ", not $idle[1]" },
         sub { $memory->living == $idle[1] });
pass('nor more memory');
is_deeply([ glob $t->dir . '/client_body/*' ], [], 'no temporary file is left');

my $empty = sub { my $z = $t->zone; $z->{free} == $z->{blocks} };

for ( 1 .. 3 ) {
    last if eval { wait_for('', $empty) };
}

ok($empty->(), 'nor a block, when all has expired');

done_testing;
