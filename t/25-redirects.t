#!/usr/bin/perl

# What became of a request is what the upstream said that was asked to carry
# it out.  Who is asked for a page or a file afterwards says nothing of that,
# and another one's refusal does not make a key free.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOT', backends => [ 'other' ],
    idempotency  payments;
    client_max_body_size  1k;
EOT
                               locations => <<'EOT');
    location /accel {
        proxy_pass http://backend;
    }

    location /file {
        internal;
        proxy_pass http://other;
    }

    location /intercept {
        proxy_pass http://backend;
        proxy_intercept_errors on;
        error_page 500 502 504 = @other;
    }

    location @other {
        proxy_pass http://other;
    }

    location /slow {
        proxy_pass http://backend;
        proxy_read_timeout 100ms;
        error_page 504 /errdoc;
    }

    location /nowhere {
        set $nobody nowhere.invalid;
        proxy_pass http://$nobody;
        error_page 502 /errdoc;
    }

    location /broken {
        proxy_pass http://backend;
        error_page 502 = @nobody;
    }

    location @nobody {
        set $nobody ftp://nobody;
        proxy_pass $nobody;
    }

    location /nobody {
        set $nobody ftp://nobody;
        proxy_pass $nobody;
        error_page 500 /errdoc;
    }

    location /errdoc {
        proxy_pass http://other;
    }

    location /limited {
        proxy_pass http://backend;
        error_page 400 413 /errdoc;
    }

    location /quiet {
        idempotency off;
        proxy_pass http://backend;
        post_action @after;
    }

    location @after {
        proxy_pass http://other;
    }
EOT

my $backend = $t->backend;
my $other = $t->backend('other');


sub asked { return scalar grep { $_->uri =~ $_[0] } $backend->all }


# A refusal of the one who has the file.

$backend->on('/accel', 200, '', headers => [ [ 'X-Accel-Redirect', '/file' ] ]);
$other->auto(503, 'busy');

my %pay = (path => '/accel', key => 'accel', body => 'eur=1');

$t->post(%pay);
$t->post(%pay);
is(asked(qr{^/accel}), 1, 'X-Accel-Redirect to one who refuses: ran once');

# A refusal of a fallback, after an error of the first one's own.

$backend->on('/intercept', 502, 'oops');
%pay = (path => '/intercept', key => 'intercept', body => 'eur=1');

is_answer($t->post(%pay), 503, 'busy', 'the fallback refuses');
is_problem($t->post(%pay), 409, 'outcome-unknown',
           'the first one did not say that it did nothing');
is(asked(qr{^/intercept}), 1, 'it ran once');

# A page for a request that timed out.

$other->auto(200, 'sorry');
%pay = (path => '/slow', key => 'slow', body => 'eur=1');

is($t->post(%pay)->body, 'sorry', 'a page for an upstream that is too slow');
is_problem($t->post(%pay), 409, 'outcome-unknown',
           'the page does not say what became of the request');

# A page for a request that nobody could be asked to carry out.

for (
    [ nowhere => 502, 'that has no address' ],
    [ nobody  => 500, 'whose name is none'  ])
{
    my ($path, $status, $name) = @$_;
    my $released = $t->counter('released');
    my %pay = (path => "/$path", key => $path, body => 'eur=1');

    is($t->post(%pay)->body, 'sorry', "a page for an upstream $name");
    $t->wait_until('counters.released' => $released + 1);
    is_answer($t->post(%pay), $status, 'sorry',
              'the key is free: nothing was sent');
}

# A fallback that nobody could be asked for, after an answer that broke off.

$backend->on('/broken', 201, 'receipt', cut => 3);
%pay = (path => '/broken', key => 'broken', body => 'eur=1');

is($t->post(%pay)->status, 500, 'a fallback without an upstream');
is_problem($t->post(%pay), 409, 'outcome-unknown',
           'the first one has not said it all');
is(asked(qr{^/broken}), 1, 'it ran once');

# A body that is refused while it is read.

my %large = (path => '/limited', chunked => [ 'x' x 2000 ]);

is($t->post(%large)->body, 'sorry', 'a page for a body that is too large');
is($t->post(%large, key => 'large')->body, 'sorry', 'with a key as well');
is($t->counter('first'), 8, 'and nothing was claimed for it');

# What nginx sends after the answer is not a request of a client's.

$backend->on('/quiet', 200, 'quiet');
my $after = $other->requests;

is_answer($t->post(path => '/quiet', key => 'quiet'), 200, 'quiet', 'off')
    for 1, 2;
wait_for('both have an action behind them',
         sub { $other->requests == $after + 2 });
is($t->zone->{records}{running}, 0, 'post_action claims nothing');
is($t->counter('first'), 8, 'post_action is not counted');

done_testing;
