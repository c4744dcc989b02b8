#!/usr/bin/perl

# An upstream that got the request and gave no answer may have carried it out.
# Another one that is asked after it, and refuses, does not speak for it.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOT', backends => [ 'other' ],
    idempotency  payments;
EOT
                               locations => <<'EOT');
    location /pay {
        proxy_pass http://backend;
        error_page 502 504 = @other;
    }

    location @other {
        proxy_pass http://other;
    }
EOT

my $backend = $t->backend;
my $other = $t->backend('other');

$other->auto(503, 'busy');

# the first one is asked, and breaks

my %pay = (path => '/pay', key => 'doubt', body => 'eur=1');
my $first = $t->start_post(%pay);

$backend->wait_for_request;
$backend->close;

is_answer($first, 503, 'busy', 'the fallback refuses');
is_problem($t->post(%pay), 409, 'outcome-unknown',
           'nobody knows about the first one');

# half an answer of the first one

%pay = (path => '/pay', key => 'half', body => 'eur=1');
$first = $t->start_post(%pay);

$backend->wait_for_request;
$backend->answer(200, 'x' x 1000, cut => 10);

is_answer($first, 503, 'busy', 'the fallback refuses after half an answer');
is_problem($t->post(%pay), 409, 'outcome-unknown',
           'nobody knows about the first one either');

# the first one never got a byte

$backend->accept('refuse');
%pay = (path => '/pay', key => 'refused', body => 'eur=1');

is_answer($t->post(%pay), 503, 'busy', 'only the fallback was asked');

$other->auto(201, 'receipt');

is_answer($t->post(%pay), 201, 'receipt', 'so the key is free again');

# the fallback carries it out: that is the outcome

$backend->accept('read');
%pay = (path => '/pay', key => 'helped', body => 'eur=1');
$first = $t->start_post(%pay);

$backend->wait_for_request;
$backend->close;

is_answer($first, 201, 'receipt', 'the fallback answers');
is_replay($t->post(%pay), 201, 'receipt', 'and its answer is kept');

done_testing;
