#!/usr/bin/perl

# What became of a request can be read in the access log, in fields of answers
# and upstream requests, and on a page of counters; keys and bodies are never
# told to the error log.

use lib 't/lib';
use Test::Idempotency;

use Digest::SHA qw(sha256_hex);
use JSON::PP qw(decode_json);

my @names = qw(status key id fence age wait_time store client_gone instance);
my $format = join '', map { " $_=[\$idempotency_$_]" } @names;

my $t = Test::Idempotency->new(<<'EOF', backend => 'auto', log => 'info',
    idempotency      payments;
    proxy_set_header X-Fence $idempotency_fence;
    proxy_set_header X-Key $idempotency_key;
    proxy_set_header X-Id $idempotency_id;
    proxy_set_header X-Told $idempotency_status;
    proxy_set_header X-Store $idempotency_store;
    add_header X-Told $idempotency_status always;
    add_header X-Id $idempotency_id always;
    add_header X-Age $idempotency_age always;
    add_header X-Instance $idempotency_instance always;
EOF
    http => "log_format idem '\$request_uri \$status$format';",
    server => 'access_log access.log idem;', locations => <<'EOF');
    location /off {
        idempotency off;
        proxy_pass http://backend;
    }

    location /required {
        idempotency_required on;
        proxy_pass http://backend;
    }

    location /scoped {
        idempotency_scope $http_x_user $http_x_shop;
        proxy_pass http://backend;
    }

    location /bypass {
        idempotency_bypass $http_x_debug;
        proxy_pass http://backend;
    }

    location /wait {
        idempotency_concurrent wait=10s;
        proxy_pass http://backend;
    }

    location /impatient {
        idempotency_concurrent wait=200ms;
        proxy_pass http://backend;
    }

    location /retry {
        idempotency_unknown retry;
        proxy_pass http://backend;
    }

    location /parts {
        idempotency_key $http_x_source $http_x_seq;
        proxy_pass http://backend;
    }

    location /released {
        idempotency_valid 0;
        proxy_pass http://backend;
    }

    location /status {
        idempotency_status;
    }
EOF

my $backend = $t->backend;
my $lines = 0;

my $hex = qr/^[0-9a-f]{64}$/;
my $seconds = qr/^\d+\.\d{3}$/;
my $uuid = qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
my $number = qr/^[1-9]\d*$/;


# Lines of the access log are written after the answer.

sub logged {
    my ($name, %expected) = @_;

    $lines++;
    wait_for("access log, line $lines",
             sub { $t->file('access.log') =~ tr/\n// >= $lines });

    my $line = (split /\n/, $t->file('access.log'))[$lines - 1];
    my %is = $line =~ /(\w+)=\[(.*?)\]/g;
    my @wrong = grep { ref $expected{$_} ? $is{$_} !~ $expected{$_}
                                         : $is{$_} ne ($expected{$_} // '-')
                } @names;

    ok(!@wrong, "access log: $name")
        || diag("wrong: @wrong\n$line");

    return \%is;
}


# The first request, and its replays.

my %one = (path => '/', key => '"one"', body => 'secret-body');

my $first = $t->post(%one);
my $said = logged('first', status => 'first', key => 'one', id => $hex,
                  fence => $number, store => 'zone');
my $seen = $backend->last;

is($seen->header('X-Fence'), $said->{fence}, 'the upstream sees the fence');
is($seen->header('X-Key'), 'one', 'and the key as it is');
is($seen->header('Idempotency-Key'), '"one"', 'and as it was sent');
is($seen->header('X-Id'), $said->{id}, 'and the identity');
is($seen->header('X-Told'), 'first', 'and the status');
is($seen->header('X-Store'), 'zone', 'and the store');
is($first->header('X-Told'), 'first', 'the client, too');
is($first->header('X-Id'), $said->{id}, 'the identity');
is($first->header('X-Age'), undef, 'the first answer has no age');

isnt($said->{id}, sha256_hex('one'), 'it is not that of the key alone');

my $again = $t->post(%one);
logged('replayed', status => 'replayed', key => 'one', id => $said->{id},
       age => $seconds, store => 'zone');
is($again->header('X-Told'), 'replayed', 'a replay says so');
like($again->header('X-Age'), $seconds, 'and how old it is');

# Each execution has a larger fence than all before it.

my @fences = $said->{fence};

for (1 .. 3) {
    $t->post(path => '/released', key => 'again');
    push @fences, logged('released', status => 'first', key => 'again',
                         id => $hex, fence => $number, store => 'zone'
                        )->{fence};
}

is_deeply(\@fences, [ sort { $a <=> $b } @fences ], 'fences grow');
is(keys %{ { map { $_ => 1 } @fences } }, @fences, 'each of its own');

# What is refused has an instance, in the answer, in both logs.

my @refused = (
#     request                                          kind           more
    [ { %one, body => 'another' },                     'key-reused',
      key => 'one', id => $said->{id} ],
    [ { path => '/required' },                         'key-missing' ],
    [ { path => '/', key => 'bad,key' },               'key-invalid' ],
    [ { path => '/scoped', key => 'k' },               'scope-missing',
      key => qr/^(k|-)$/ ],
);

for (@refused) {
    my ($request, $kind, @more) = @$_;
    my $m = $t->post(%$request);
    my $is = logged($kind, status => $kind, store => 'zone',
                    instance => $uuid, @more);

    is($m->header('X-Instance'), $is->{instance}, "$kind: an add_header");
    is(decode_json($m->body)->{instance}, "urn:uuid:$is->{instance}",
       'the problem has the same');
    $t->log_like(qr/\[info\].*$kind.*\b$is->{instance}/, 'and the error log');
}

# What has to wait, or does not.

$backend->hold;
$first = $t->start_post(path => '/wait', key => 'wait');
$backend->wait_for_request;
my $twin = $t->start_post(path => '/wait', key => 'wait');
$t->wait_until(waiting => 1);
$backend->answer(200, 'done');
is_answer($first, 200, 'done', 'the first is answered');
is_replay($twin, 200, 'done', 'the waiter, too');
$lines++;                           # the first, in whatever order
$said = logged('waited or first', map { $_ => qr/./ } @names);
my ($waited) = $t->file('access.log') =~ /^(.* status=\[waited\].*)$/m;
my %waited = $waited =~ /(\w+)=\[(.*?)\]/g;
like($waited{wait_time}, $seconds, 'access log: how long it waited');
like($waited{age}, $seconds, 'and the age of what it got');
is($waited{instance}, '-', 'it was not refused');

$first = $t->start_post(path => '/impatient', key => 'impatient');
$backend->wait_for_request;
is_problem($t->post(path => '/impatient', key => 'impatient'), 409,
           'in-flight', 'it gives up');
$said = logged('in flight', status => 'in-flight', key => 'impatient',
               id => $hex, wait_time => $seconds, store => 'zone',
               instance => $uuid);
cmp_ok($said->{wait_time}, '>=', 0.2, 'the wait was as long as allowed');
cmp_ok($said->{wait_time}, '<', 5, 'and no longer');
$backend->answer(200, 'done');
is_answer($first, 200, 'done', 'its first ends');
logged('the one it waited for', status => 'first', key => 'impatient',
       id => $hex, fence => $number, store => 'zone');

# Who leaves is noted, with the status that is stored.

$first = $t->start_post(path => '/', key => 'gone');
$backend->wait_for_request;
$first->close;
$t->log_like(qr/client is gone/, 'the client has left');
$backend->answer(201, 'for nobody');
$said = logged('client gone', status => 'first', key => 'gone', id => $hex,
               fence => $number, store => 'zone', client_gone => 1);
like($t->file('access.log'), qr{^/ 201 .*key=\[gone\]}m,
     'with the status that was stored');
is_replay($t->post(path => '/', key => 'gone'), 201, 'for nobody', 'it is');
logged('replay after it', status => 'replayed', key => 'gone', id => $hex,
       age => $seconds, store => 'zone');

# An outcome that nobody knows, and one that was not kept.

$backend->auto(200, 'answer', cut => 1);
$t->post(path => '/retry', key => 'unknown');
$said = logged('cut off', status => 'first', key => 'unknown', id => $hex,
               fence => $number, store => 'zone');
$t->post(path => '/', key => 'unknown');
logged('another request', status => 'key-reused', key => 'unknown',
       id => $said->{id}, instance => $uuid, store => 'zone');
$backend->auto;
$t->post(path => '/retry', key => 'unknown');
my $fence = logged('run again', status => 'first', key => 'unknown',
                   id => $said->{id}, fence => $number, store => 'zone'
                  )->{fence};
cmp_ok($fence, '>', $said->{fence}, 'with a larger fence');

# Several parts, hands off, not for us.

$t->post(path => '/parts', headers => [ [ 'X-Source', '"a"' ],
                                        [ 'X-Seq', '7' ] ]);
logged('two parts', status => 'first', key => 'a,7', id => $hex,
       fence => $number, store => 'zone');

$t->post(path => '/bypass', key => 'k', headers => [ [ 'X-Debug', 1 ] ]);
logged('bypass', status => 'bypass', store => qr/./);

for ([ get => '/', key => 'k' ], [ post => '/' ],
     [ post => '/off', key => 'k' ], [ post => '/off' ])
{
    my ($method, $path, @key) = @$_;
    my $m = $t->$method(path => $path, @key);

    logged("$method $path @key: not for us", status => '-',
           store => "$method $path @key" eq 'post / ' ? qr/./ : '-');
    is($m->header('X-Told'), '-', 'the answer says so');
    is($m->header('X-Id'), undef, 'and nothing more');
}

# The page of counters.

my $page = $t->get(path => '/status');
my $zone = decode_json($page->body)->{zones}{payments};

is($page->status, 200, 'the page');
is($page->header('Content-Type'), 'application/json', 'is JSON');
is($zone->{size}, 1024 * 1024, 'the size of the zone');
is_deeply([ sort keys %$zone ], [ sort qw(size block blocks free records guards
                                          waiting counters) ], 'its members');
is_deeply([ sort keys %{ $zone->{records} } ],
          [ sort qw(running done unstored unknown) ], 'records by state');
is_deeply([ sort keys %{ $zone->{guards} } ], [ sort qw(held known) ],
          'guards by state');
cmp_ok($zone->{free}, '<', $zone->{blocks}, 'some blocks are taken');
cmp_ok($zone->{blocks} * $zone->{block}, '<=', $zone->{size}, 'all fit in');
is($zone->{counters}{$_->[0]}, $_->[1], "$_->[1] times $_->[0]")
    for [ waited => 1 ], [ in_flight => 1 ], [ bypass => 1 ],
        [ key_reused => 2 ], [ scope_missing => 1 ], [ released => 3 ];

is($t->get(path => '/status', method => 'HEAD')->body, '', 'HEAD is fine');
is($t->post(path => '/status', key => 'k')->status, 405, 'POST is not');

# The error log tells what was wrong, never with a key or a body.

my $log = $t->log;
unlike($log, qr/\Q$_\E/, "the error log does not have \"$_\"")
    for 'secret-body', 'bad,key', '"one"', 'for nobody';

done_testing;
