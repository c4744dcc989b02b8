#!/usr/bin/perl

# One byte below a limit, at it, and one above: an answer is kept up to the
# size that was told, to the byte; a request is taken up to the size that nginx
# takes, and is the same wherever its body was kept; no size is a bad one for
# what the zone is made of.

use lib 't/lib';
use Test::Idempotency;

use constant MAX   => 5000;             # of an answer
use constant TAKEN => 20_000;           # of a request's body
use constant KEPT  => 8192;             # of it in memory

my $proxy = 'proxy_pass http://backend; proxy_http_version 1.1;';

my $t = Test::Idempotency->new(<<"END", locations => <<"LOCATIONS");
    idempotency               payments;
    idempotency_max_response  @{[ MAX ]};
    client_max_body_size      @{[ TAKEN ]};
    client_body_buffer_size   @{[ KEPT ]};
END
    location /on/   { $proxy }
    location /off/  { $proxy proxy_buffering off; }
    location /none/ { $proxy idempotency_max_response 0; }
    location /all/  { $proxy idempotency_max_response 1m; }
LOCATIONS

my $backend = $t->backend;
my $n = 0;


# A first request that is answered so, and its duplicate.

sub twice {
    my ($path, $body, %answer) = @_;

    my %pay = (path => $path, key => 'k' . ++$n, body => 'eur=1');
    my $first = $t->start_post(%pay);

    $backend->wait_for_request;
    $backend->answer(200, $body, %answer);

    return ($first->response, $t->post(%pay));
}


# Answers, in one piece and in several.

for my $path (qw(/on/ /off/)) {
    for my $size (MAX - 1, MAX, MAX + 1) {
        my $body = 'x' x $size;

        for ([ 'with a length' ],
             [ 'in chunks', chunked => [ unpack '(a777)*', $body ] ],
             [ 'in one chunk', chunked => [ $body ] ])
        {
            my ($how, @answer) = @$_;
            my $name = "$path: an answer of $size bytes $how";
            my ($first, $second) = twice($path, $body, @answer);

            is_answer($first, 200, $body, $name);
            is_replay($second, 200, $body, "$name is kept") if $size <= MAX;
            is_problem($second, 409, 'response-not-stored', "$name is not")
                if $size > MAX;
        }
    }
}

for ([ '', 1 ], [ 'x', 0 ]) {
    my ($body, $kept) = @$_;
    my ($first, $second) = twice('/none/', $body);

    is_answer($first, 200, $body, 'the limit is 0: an answer');
    is_replay($second, 200, '', 'an empty one is kept') if $kept;
    is_problem($second, 409, 'response-not-stored', 'any other is not')
        if !$kept;
}

# Sizes around those of a block and of the pages that are copied at a time.

my @around = map { my $size = $_; map { $size + $_ } -90 .. -80, -1 .. 1 }
    128, 256, 4096, 8192;

for my $size (0 .. 3, @around, 65535 .. 65537) {
    my $body = join '', map { chr(32 + ($_ * 7 + $size) % 90) } 1 .. $size;
    my ($first, $second) = twice('/all/', $body);

    is_replay($second, 200, $body, "an answer of $size bytes, byte for byte");
}

# Requests: too large is refused before anything is claimed.

$backend->auto(200, 'answer %n');

for my $size (TAKEN - 1, TAKEN, TAKEN + 1) {
    for ('length', 'chunks') {
        my %pay = (path => '/on/', key => 'k' . ++$n, body => 'y' x $size);
        my $firsts = $t->counter('first');

        $pay{chunked} = [ unpack '(a999)*', $pay{body} ] if $_ eq 'chunks';

        my $first = $t->post(%pay);
        my $name = "a request of $size bytes, by $_";

        if ($size > TAKEN) {
            is($first->status, 413, "$name: 413");
            is($t->counter('first'), $firsts, "$name: nothing is claimed");
            next;
        }

        is_answer($first, 200, undef, $name);
        is_replay($t->post(%pay), 200, $first->body, "$name, and again");
    }
}

# In memory or in a file, and framed in whatever way: the same request.

for my $size (KEPT - 1, KEPT, KEPT + 1) {
    my $body = 'z' x $size;
    my %pay = (path => '/on/', key => 'k' . ++$n, body => $body);
    my $first = $t->post(%pay);

    is_answer($first, 200, undef, "a body of $size bytes");
    is_replay($t->post(%pay, chunked => [ unpack '(a100)*', $body ]), 200,
              $first->body, 'the same in chunks');
    is_problem($t->post(%pay, body => substr($body, 1) . '!'), 422,
               'key-reused', 'another last byte is another request');
    is_problem($t->post(%pay, body => "${body}z"), 422, 'key-reused',
               'and so is one byte more');
}

done_testing;
