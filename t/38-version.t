#!/usr/bin/perl

# Whoever changes what has been changed meanwhile is told so without the
# upstream: the entity tag of the last success is known, and If-Match must name
# it.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new('idempotency payments;', workers => 2,
    locations => <<'END');
    idempotency_methods  POST PUT DELETE;
    location /free/ { proxy_pass http://backend; idempotency_version $uri; }
    location /gzip/ { proxy_pass http://backend; idempotency_version $uri;
                      idempotency_max_response 1; gzip on; gzip_min_length 1;
                      gzip_proxied any; gzip_types *; }
    location /must/ { proxy_pass http://backend;
                      idempotency_version $uri required; }
    location /short/ { proxy_pass http://backend; idempotency_version $uri;
                      idempotency_unknown refuse 1s; }
END

my $n = 0;


# Asks with that If-Match, or without.

sub change {
    my ($path, @match) = @_;

    return (path => $path, method => 'PUT', key => 'v' . ++$n, body => 'x',
            headers => [ map { [ 'If-Match' => $_ ] } @match ]);
}


# Is carried out; the answer has that ETag, or none.

sub carried_out {
    my ($request, $status, $etag, $name) = @_;

    my $client = $t->start_post(%$request);
    $t->backend->wait_for_request;
    $t->backend->answer($status, 'ran',
                        headers => [ map { [ ETag => $_ ] } $etag // () ]);

    return is_answer($client, $status, 'ran', $name);
}


sub stale {
    my ($request, $name) = @_;

    my $ran = $t->backend->requests;
    is_problem($t->post(%$request), 412, 'stale-version', $name);

    return is($t->backend->requests, $ran, "$name: the upstream is not asked");
}


carried_out({ change('/free/1', '"x"') }, 200, '"v1"',
            'nothing is known of a resource');
stale({ change('/free/1', '"x"') }, 'another version');
carried_out({ change('/free/1') }, 200, '"v2"', 'without If-Match');

# nginx makes a weak tag of it where it compresses, and says so to the client
# alone; the answer may be too large to keep, or its request have no key.

for ([ 'with a key', '/gzip/1' ], [ 'without a key', '/gzip/2' ]) {
    my ($key, $path) = @$_;
    my %request = change($path);
    push @{ $request{headers} }, [ 'Accept-Encoding' => 'gzip' ];
    delete $request{key} if $key eq 'without a key';
    my $client = $t->start_post(%request);
    $t->backend->wait_for_request;
    $t->backend->answer(200, 'x' x 5000, headers => [ [ ETag => '"z1"' ] ]);
    is($client->response->header('ETag'), 'W/"z1"', "gzip, $key: a weak tag");
    stale({ change($path, '"z0"') }, "gzip, $key: another version");
    carried_out({ change($path, '"z1"') }, 200, '"z2"',
                "gzip, $key: the version of the upstream");
}

stale({ change('/free/1', '"v1"') }, 'the version before');
carried_out({ change('/free/1', '"v2"') }, 200, '"v3"', 'the version now');
carried_out({ change('/free/1', '"a", "v3" , W/"b"') }, 200, '"v4"',
            'one of several');
carried_out({ change('/free/1', '*') }, 200, '"v6"', 'any version');
stale({ change('/free/1', 'W/"v6"') }, 'a weak tag is none');
stale({ change('/free/1', 'v6') }, 'neither is one without quotes');
stale({ change('/free/1', '"v6" "a"') }, 'nor what is no list');
carried_out({ change('/free/2', '"v6"') }, 200, '"w1"', 'another resource');

# A version changes with success only.

carried_out({ change('/free/1', '"v6"') }, 500, '"no"', 'a failure');
carried_out({ change('/free/1', '"v6"') }, 503, '"no"', 'a refusal');
stale({ change('/free/1', '"no"') }, 'a tag of neither');

# What is not known is for the upstream to say.

carried_out({ change('/free/1', '"v6"') }, 200, undef, 'an answer without ETag');
carried_out({ change('/free/1', '"old"') }, 200, '"v8"', 'then nothing is known');
carried_out({ change('/free/1', '"v8"') }, 200, 'W/"v9"', 'a weak ETag');
carried_out({ change('/free/1', '"old"') }, 200, '"v10"', 'says nothing either');

my %request = change('/free/1', '"v10"');
my $client = $t->start_post(%request);
$t->backend->wait_for_request;
$t->backend->close;
is($client->response->status, 502, 'a change of which nobody knows');
carried_out({ change('/free/1', '"old"') }, 200, '"v11"',
            'then nothing is known');

# Required.

is_problem($t->post(change('/must/1')), 428, 'version-required',
           'a version is required');
carried_out({ change('/must/1', '"any"') }, 200, '"m1"', 'any will do at first');
is_problem($t->post(change('/must/1')), 428, 'version-required',
           'it is required still');
stale({ change('/must/1', '"any"') }, 'and must be the right one');

# Two at once with the same version.

$client = $t->start_post(change('/must/1', '"m1"'));
$t->backend->wait_for_request;
is_problem($t->post(change('/must/1', '"m1"')), 409, 'resource-busy',
           'one of two is told');
$t->backend->answer(200, 'ran', headers => [ [ ETag => '"m2"' ] ]);
is_answer($client, 200, 'ran', 'the other one');
stale({ change('/must/1', '"m1"') }, 'it was too late');

# A duplicate is a replay, whatever the version is now.

%request = change('/must/1', '"m2"');
carried_out(\%request, 200, '"m3"', 'a change');
is_replay($t->post(%request), 200, 'ran', 'its duplicate');

# The worker dies with a change.  When its record is gone, nobody knows more.

carried_out({ change('/short/1', '"x"') }, 200, '"s1"', 'a version');
%request = change('/short/1', '"s1"');
$client = $t->start_post(%request);
$t->backend->wait_for_request;
my $gone = $t->backend->gone;
$t->kill_worker($_) for $t->workers;
wait_for('it is gone', sub { $t->backend->gone > $gone });
is_problem($t->post(%request), 409, 'outcome-unknown', 'its worker dies');
$t->wait_until(unknown => 1);               # that of before
carried_out({ change('/short/1', '"s2"') }, 200, '"s3"',
            'then no version is known');
stale({ change('/short/1', '"s1"') }, 'but that of the next one');

$t->allow(qr/signal 9/);

done_testing;
