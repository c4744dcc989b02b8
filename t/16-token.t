#!/usr/bin/perl

# A token is good for one operation of whom it was issued to: used a hundred
# times at once, or again long after, it is carried out once, and whoever makes
# one up, changes one or takes another's is sent away.  On a zone, and on Redis.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use Digest::SHA qw(hmac_sha256 sha256);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use Time::HiRes qw(time);

my ($old, $new) = map { "$_ secret of 32 bytes\0\n\xff and more" } qw(old new);

my $proxy = 'proxy_pass http://backend;';

my $conf = <<'END';
    idempotency               payments;
    idempotency_required      token;
    idempotency_token_secret  old;
    idempotency_scope         $http_x_user;
    add_header                X-Told $idempotency_status always;
    add_header                X-Fence $idempotency_fence always;
END

my $locations = <<"END";
    location = /token       { idempotency_token_issue; }
    location = /token/brief { idempotency_token_issue; idempotency_token_ttl 10s; }
    location = /token/all   { idempotency_token_issue; idempotency_scope pay; }
    location = /token/ours  { idempotency_token_issue; idempotency_scope \$http_x_user pay; }
    location = /token/page  { idempotency_token_issue; error_page 400 /sorry; }
    location = /sorry       { idempotency off; return 200 sorry; }

    location /query/  { $proxy idempotency_key \$arg_token; }
    location /cookie/ { $proxy idempotency_key \$cookie_token; }
    location /order/  { $proxy idempotency_key \$cookie_token \$arg_order; }
    location /wait/   { $proxy idempotency_concurrent wait=30s; idempotency_waiters 200; }
    location /quoted/ { $proxy idempotency_key_format structured; }
    location /all/    { $proxy idempotency_scope pay; }
    location /optional/ { $proxy idempotency_required off; }
    location /then/   { $proxy idempotency_required on; idempotency_fingerprint body; }
    location /then/small/ {
        $proxy
        idempotency_required on;
        idempotency_fingerprint body;
        idempotency_max_response 1;
    }
    location /then/short/ {
        $proxy
        idempotency_required on;
        idempotency_fingerprint body;
        idempotency_valid 1s;
    }
    location /short/  { $proxy idempotency_valid 1s; idempotency_unknown refuse 1s; }
    location /now/    { $proxy idempotency_fingerprint body; }
    location /now/retry/ { $proxy idempotency_fingerprint body; idempotency_unknown retry; }
    location /now/wait/ {
        $proxy
        idempotency_fingerprint body;
        idempotency_concurrent wait=30s;
    }
    location /dry/    { $proxy idempotency_dry_run on; idempotency_token_rotate on; }
    location /page/   { $proxy error_page 403 /sorry; }
    location /rotate/ { $proxy idempotency_token_rotate on; }
    location /rotate/small/ {
        $proxy
        idempotency_token_rotate on;
        idempotency_max_response 1;
    }
    location /rotate/page/ {
        $proxy
        idempotency_token_rotate on;
        error_page 422 /sorry;
    }
END

my $redis = Test::Idempotency::Redis->new;

my ($t, $backend, @said, %asked);


# A token as the module makes it, or with something else about it.

sub token {
    my (%o) = @_;

    my @scope = @{ $o{scope} // [ 'ann' ] };
    my $digest = sha256(chr(@scope) . join '', map { pack 'C/a*', $_ } @scope);
    my $bytes = pack 'C Q> a16', $o{version} // 1, int(time) + ($o{ttl} // 3600),
        $o{random} // join '', map { chr rand 256 } 1 .. 16;

    my $token = encode_base64($bytes
        . hmac_sha256($bytes . $digest, $o{secret} // $old), '');

    $token =~ tr{+/}{-_};
    push @said, $token;

    return $token;
}


sub issued {
    my (%o) = @_;

    my $m = $t->get(path => '/token', headers => [ [ 'X-User', 'ann' ] ], %o);
    push @said, $m->header('Idempotency-Token');

    return $said[-1];
}


sub use_of {
    my ($token, %o) = @_;

    return (path => '/', key => $token, body => 'eur=1',
            headers => [ [ 'X-User', $o{user} // 'ann' ] ], %o);
}


sub pay   { return $t->post(use_of(@_)) }
sub start { return $t->start_post(use_of(@_)) }
sub fresh { my ($m) = @_; return $m->header('Idempotency-Token') }

# A first use, which the backend holds until there is an answer to it.

sub first {
    my (@use) = @_;

    my $held = $backend->held;
    my $first = start(@use);
    $asked{$first} = $backend->wait_for_request($held + 1);

    return $first;
}


sub answer {
    my ($first, @answer) = @_;

    return $backend->answer(@answer, to => $asked{$first});
}


sub issues {
    my $m = $t->get(path => '/token', headers => [ [ 'X-User', 'ann' ] ]);
    my $doc = JSON::PP->new->utf8->decode($m->body);

    is($m->status, 200, 'GET is answered');
    is($m->header('Content-Type'), 'application/json', 'in JSON');
    is($m->header('Cache-Control'), 'no-store', 'that nobody keeps');
    like($doc->{token}, qr/^[\w-]{76}$/, 'with a token');
    is(fresh($m), $doc->{token}, 'which is in a field, too');
    cmp_ok(abs($doc->{expires} - time - 3600), '<', 30, 'for an hour');
    is(join(' ', sort keys %$doc), 'expires token', 'and nothing else');
    is(token(random => substr(decode_base64($doc->{token} =~ tr{-_}{+/}r), 9, 16),
             ttl => $doc->{expires} - int time), $doc->{token}, 'as we know it');

    $m = $t->get(path => '/token/brief', headers => [ [ 'X-User', 'ann' ] ]);
    $doc = JSON::PP->new->utf8->decode($m->body);
    cmp_ok(abs($doc->{expires} - time - 10), '<', 9, 'or for ten seconds');

    my $post = $t->post(path => '/token', body => 'x' x 10000,
                        headers => [ [ 'X-User', 'ann' ] ]);
    is($post->status, 200, 'so is POST');
    like(fresh($post), qr/^[\w-]{76}$/, 'with a token');
    isnt(fresh($post), fresh($m), 'of its own');

    $m = $t->get(path => '/token', method => 'HEAD', headers => [ [ 'X-User', 'ann' ] ]);
    is($m->status, 200, 'and HEAD');
    like(fresh($m), qr/^[\w-]{76}$/, 'with a token');

    for my $method (qw(PUT DELETE PATCH)) {
        $m = $t->post(method => $method, path => '/token', headers => [ [ 'X-User', 'ann' ] ]);
        is($m->status, 405, "$method is not");
        is($m->header('Allow'), 'GET, HEAD, POST', 'and it is told what is');
        is(fresh($m), undef, 'no token');
    }

    is_problem($t->get(path => '/token'), 400, 'scope-missing', 'for nobody');
    my $c = $t->connect->request(method => 'GET', path => '/token',
                                 headers => [ [ 'Connection', 'keep-alive' ] ]);
    is($c->next_response->status, 400, 'for nobody, on a connection that stays');
    $c->request(method => 'GET', path => '/token', headers => [ [ 'X-User', 'ann' ] ]);
    is($c->next_response->status, 200, 'for the next one on it');
    is($t->get(path => '/token/page')->body, 'sorry', 'or an error page');

    my ($zone, $keys) = ($t->zone, $redis->command('DBSIZE'));
    my %seen;

    for (1 .. 3) {
        $c = $t->connect;

        for (1 .. 1000) {
            $c->request(method => 'GET', path => '/token', headers =>
                        [ [ 'X-User', 'ann' ], [ 'Connection', 'keep-alive' ] ]);
            $seen{ fresh($c->next_response) }++;
        }
    }

    is(scalar(keys %seen), 3000, 'three thousand differ');
    is_deeply($t->zone, $zone, 'take no room in the zone, and ask no Redis');
    is($redis->command('DBSIZE'), $keys, 'nor is there anything on it');

    return;
}


sub takes {
    $backend->auto(201, 'receipt %n');

    my $token = issued();
    my $n = $backend->requests + 1;
    my $m = pay($token);

    is_answer($m, 201, "receipt $n", 'a token is used');
    is(fresh($m), undef, 'no other one is given');
    is_replay(pay($token), 201, "receipt $n", 'used again: the first answer');
    is($backend->last->header('Idempotency-Key'), $token, 'it goes upstream');
    is_problem(pay($token, body => 'eur=2'), 422, 'key-reused', 'for another request');
    is_replay(pay("\"$token\""), 201, "receipt $n", 'quoted, it is the same');

    is_answer(pay('"' . issued() . '"', path => '/quoted/'), 201, undef, 'in quotes');

    $token = issued();
    is_answer(pay(undef, path => "/query/?token=$token"), 201, undef, 'in the query');
    is_replay(pay(undef, path => "/query/?token=$token"), 201, undef, 'and again');

    my $cookie = sub { [ [ 'X-User', 'ann' ], [ 'Cookie', "token=$token" ] ] };
    $token = issued();
    is_answer(pay(undef, path => '/cookie/', headers => $cookie->()), 201, undef, 'in a cookie');
    is_replay(pay(undef, path => '/cookie/', headers => $cookie->()), 201, undef, 'and again');

    $token = issued();
    is_answer(pay(undef, path => '/order/?order=1', headers => $cookie->()), 201,
              undef, 'with an order number');
    is_replay(pay(undef, path => '/order/?order=1', headers => $cookie->()), 201,
              undef, 'and again');
    is_answer(pay(undef, path => '/order/?order=2', headers => $cookie->()), 201,
              undef, 'and for another order');
    is_problem(pay(undef, path => '/order/?order=3',
                   headers => [ [ 'X-User', 'ann' ], [ 'Cookie', 'token=1' ] ]),
               403, 'token-invalid', 'an order number is not a token');

    is_answer(pay(token()), 201, undef, 'a token that another node has issued');
    is_answer(pay('any', path => '/optional/'), 201, undef,
              'where no token is required, a key is one');

    return;
}


sub refuses {
    $backend->auto(201, 'no');

    my $n = $backend->requests;
    my $token = token();
    my $other = substr($token, 40, 1) eq 'A' ? 'B' : 'A';

    is_problem(pay(undef), 400, 'key-missing', 'no token');
    is_problem(pay('a b'), 400, 'key-invalid', 'no key');
    is_problem(pay($token, headers => []), 400, 'scope-missing', 'nobody');

    my @wrong = (
        [ 'any',                                  'a key that is no token'    ],
        [ 'A' x 76,                               'a token that is made up'   ],
        [ substr($token, 0, 75),                  'a token that is cut'       ],
        [ substr($token, 0, 40),                  'one that is cut in two'    ],
        [ "${token}A",                            'one that is too long'      ],
        [ $token =~ s/^(.{40})./$1$other/r,       'one that was changed'      ],
        [ '+' . substr($token, 1),                'another base64'            ],
        [ token(version => 2),                    'another version'           ],
        [ token(ttl => -1),                       'an expired one'            ],
        [ token(ttl => 0),                        'one that expires now'      ],
        [ token(scope => [ 'bob' ]),              'a token of somebody else'  ],
        [ token(scope => [ 'ann', '' ]),          'of a scope of two parts'   ],
        [ token(secret => $new),                  'with another secret'       ],
        [ token(secret => $new, ttl => -1),       'an expired one, likewise'  ],
    );

    for (@wrong) {
        is_problem(pay($_->[0]), 403, 'token-invalid', $_->[1]);
    }

    is_problem(pay(issued(), headers => [ [ 'X-User', 'bob' ] ]), 403, 'token-invalid',
               'a token that was issued to somebody else');
    is_problem(pay(fresh($t->get(path => '/token/ours', headers => [ [ 'X-User', 'ann' ] ]))),
               403, 'token-invalid', 'or for something else');
    is_problem(pay(issued(), path => '/all/'), 403, 'token-invalid', 'likewise');
    is($backend->requests, $n, 'nothing of it is carried out');
    is(pay('any', path => '/page/')->body, 'sorry', 'or an error page');

    is_answer(pay(fresh($t->get(path => '/token/all')), path => '/all/'), 201,
              undef, 'where all share a scope, a token is for all');
    is(pay('any', path => '/dry/')->header('X-Told'), 'token-invalid', 'a dry run tells');
    is($backend->requests, $n + 2, 'and goes on');

    return;
}


sub hundred {
    $backend->hold;

    my $token = issued();
    my $n = $backend->requests;
    my $refused = $t->counter('in_flight');
    my @uses = map { $t->start_post(use_of($token)) } 1 .. 100;

    $backend->wait_for_request;
    $t->wait_until(in_flight => $refused + 99);
    $backend->answer(201, 'one');

    my @got = map { $_->response->status } @uses;
    is(scalar(grep { $_ == 201 } @got), 1, 'of a hundred uses at once one is carried out');
    is(scalar(grep { $_ == 409 } @got), 99, 'the others are told to come back');
    is_replay(pay($token), 201, 'one', 'and get the first answer then');

    $token = issued();
    @uses = map { $t->start_post(use_of($token, path => '/wait/')) } 1 .. 100;
    $backend->wait_for_request;
    $t->wait_until(waiting => 99);
    $backend->answer(201, 'one');

    @got = map { defined $_->response->header('Idempotent-Replayed') ? 1 : 0 } @uses;
    is(scalar(grep { $_ } @got), 99, 'or the others wait, and get it at once');
    is(scalar(grep { $_->response->body eq 'one' } @uses), 100, 'all of them');
    is($backend->requests, $n + 2, 'two requests for two tokens');

    return;
}


# What was used before it expired has an answer afterwards.  Time need not pass
# for it: where no token is required, an expired one is a key like any other.

sub expires {
    $backend->hold;

    my @brief = (token(ttl => 3), path => '/now/');
    my $first = first(@brief);
    answer($first, 201, 'in time');
    is_answer($first, 201, 'in time', 'used in time');

    my %token = map { $_ => token(ttl => -1) }
        qw(done unstored unknown retried released running waits kept never);
    my $then = sub { my ($name, $path) = @_;
                     return first($token{$name}, path => '/then/' . ($path // '')) };
    my $now = sub { my ($name, $path, @more) = @_;
                    return start($token{$name}, path => '/now/' . ($path // ''), @more) };

    answer($then->('done'), 201, 'receipt');
    answer($then->('unstored', 'small/'), 201, 'large');
    answer($then->('released'), 503, 'not now');
    for ('unknown', 'retried') {
        my $first = $then->($_);
        $backend->close(to => $asked{$first});
        is($first->response->status, 502, "$_: was used");
    }

    $t->wait_until(running => 0);

    is_replay($now->('done'), 201, 'receipt', 'done: the first answer again');
    is_problem($now->('done', '', body => 'eur=2'), 422, 'key-reused', 'and for it only');
    is_problem($now->('unstored'), 409, 'response-not-stored', 'unstored: says so');
    is_problem($now->('unknown'), 409, 'outcome-unknown', 'unknown: says so');
    is_problem($now->('released'), 403, 'token-invalid', 'released: too late');
    is_problem($now->('never'), 403, 'token-invalid', 'never used: too late');
    is_problem($now->('never'), 403, 'token-invalid', 'and it stays so');
    is_problem($now->('never', 'wait/'), 403, 'token-invalid', 'nothing to wait for');

    my $again = $now->('retried', 'retry/');
    $backend->wait_for_request;
    $backend->answer(201, 'after all');
    is_answer($again, 201, 'after all', 'unknown, to be retried: is retried');

    my $running = $then->('running');
    is_problem($now->('running'), 409, 'in-flight', 'running: says so');

    my ($kept, $waits) = map { $then->($_) } qw(kept waits);
    my ($told, $late) = map { $now->($_, 'wait/') } qw(kept waits);
    $t->wait_until(waiting => 2);

    answer($kept, 201, 'kept');
    is_replay($told, 201, 'kept', 'who waits gets the answer');
    answer($waits, 503, 'not now');
    is_problem($late, 403, 'token-invalid', 'who waited in vain comes too late');
    answer($running, 201, 'slow');
    is_answer($running, 201, 'slow', 'what runs is not disturbed');

    my $end = (unpack 'x Q>', decode_base64($brief[0] =~ tr{-_}{+/}r)) + 1;
    wait_for('time passes', sub { $t->zone; time > $end });
    is_replay(pay(@brief), 201, 'in time', 'what was used in time has expired since');
    is_problem(pay(@brief, body => 'eur=2'), 422, 'key-reused', 'and is used');

    return;
}


sub releases {
    $backend->hold;

    my $token = issued();
    my $first = first($token);
    $backend->answer(503, 'not now');
    is_answer($first, 503, 'not now', 'what was not carried out');

    my $second = first($token);
    $backend->answer(201, 'now');
    is_answer($second, 201, 'now', 'has not used the token up');
    is_replay(pay($token), 201, 'now', 'which is used up then');

    return;
}


# What was used on another node, and has expired since, is known to Redis only.

sub elsewhere {
    my ($there) = @_;

    my %token = map { $_ => token(ttl => -1) } qw(done running waits released never);
    my $here = sub { my ($name, $path) = @_;
                     return start($token{$name}, path => '/now/' . ($path // '')) };
    my %first;

    $_->hold for $backend, $there->backend;

    for my $name (qw(done running waits released)) {
        my $held = $there->backend->held;
        $first{$name} = $there->start_post(use_of($token{$name}, path => '/then/'));
        $asked{ $first{$name} } = $there->backend->wait_for_request($held + 1);
        $there->backend->answer(201, 'there') if $name eq 'done';
    }

    my $end = sub {
        my ($name, @answer) = @_;
        $there->backend->answer(@answer, to => $asked{ $first{$name} });
        return is_answer($first{$name}, @answer, "$name: there");
    };

    is_replay($here->('done'), 201, 'there', 'what was done on another node');
    is_problem($here->('never'), 403, 'token-invalid', 'never used on any');
    is_problem($here->('running'), 409, 'in-flight', 'what runs there');

    my @waiting = map { $here->($_, 'wait/') } qw(waits released);
    $t->wait_until(running => 2);
    $end->('waits', 201, 'at last');
    is_replay($waiting[0], 201, 'at last', 'may be waited for');
    $end->('released', 503, 'not now');
    is_problem($waiting[1], 403, 'token-invalid', 'or in vain');
    $end->('running', 201, 'slow');
    is_replay($here->('running'), 201, 'slow', 'and has ended then');

    return;
}


# A token is good for one use, and a record that is forgotten is not known.

sub outlives {
    my @short = map { issued() } 1 .. 3;

    $backend->hold;

    my $first = first($short[0], path => '/short/');
    answer($first, 201, 'receipt');
    is_answer($first, 201, 'receipt', 'a record of a second');

    $first = first($short[1], path => '/short/');
    $backend->answer(201, 'told', headers => [ [ 'X-Accel-Idempotency', 'ttl=1' ] ]);
    is_answer($first, 201, 'told', 'the upstream says so');

    $first = first($short[2], path => '/short/');
    $backend->close;
    is($first->response->status, 502, 'an unknown of a second');

    my $other = token(ttl => -1);
    $first = first($other, path => '/then/short/');
    answer($first, 201, 'forgotten');
    is_answer($first, 201, 'forgotten', 'a key that is no token, likewise');

    wait_for('the record is gone', sub {
        start($other, path => '/now/')->response->status == 403 });

    is_replay(pay($short[0], path => '/short/'), 201, 'receipt', 'lives with its token');
    is_replay(pay($short[1], path => '/short/'), 201, 'told', 'whoever says what');
    is_problem(pay($short[2], path => '/short/'), 409, 'outcome-unknown', 'unknown or not');

    return;
}


# With every answer a new one.

sub rotates {
    $backend->auto(201, 'receipt %n', headers => [ [ 'Idempotency-Token', 'mine' ] ]);

    my $token = issued();
    my %seen = ($token => 1);
    my $next = sub {
        my ($m, $name) = @_;
        my @fresh = $m->headers('Idempotency-Token');

        push @said, @fresh;
        return is(scalar(@fresh), 1, "$name: carries a token")
            && like($fresh[0], qr/^[\w-]{76}$/, "$name: of ours")
            && ok(!$seen{ $fresh[0] }++, "$name: a fresh one");
    };

    my @use = ($token, path => '/rotate/');
    my $m = pay(@use);
    my $answer = $m->body;

    is($m->status, 201, 'a first use');
    $next->($m, 'first');
    my $second = fresh($m);
    $m = pay(@use);
    is_replay($m, 201, $answer, 'a second use');
    $next->($m, 'replayed');
    $m = pay(@use, body => 'eur=2');
    is_problem($m, 422, 'key-reused', 'a use for another request');
    $next->($m, 'refused');
    $m = pay($second, path => '/rotate/');
    is_answer($m, 201, undef, 'the fresh one is good');
    isnt($m->body, $answer, 'for another request');
    $next->($m, 'the next first');

    $m = pay(issued(), path => '/rotate/small/');
    is_answer($m, 201, undef, 'an answer that is not kept');
    $next->($m, 'passing');

    @use = (issued(), path => '/rotate/page/');
    pay(@use);
    $m = pay(@use, body => 'eur=2');
    is($m->body, 'sorry', 'an error page');
    $next->($m, 'error page');

    is(fresh(pay('any', path => '/rotate/')), undef, 'no token for a wrong one');
    is(fresh(pay(token(ttl => -1), path => '/rotate/')), undef, 'nor for an expired one');
    is(fresh(pay(issued(), path => '/dry/')), 'mine', 'a dry run changes nothing');

    $backend->hold;
    my $first = first(issued(), path => '/rotate/');
    $backend->close;
    $m = $first->response;
    is($m->status, 502, 'what breaks off');
    $next->($m, 'broken');

    return;
}


# What the operator does with secrets.

sub secrets_rotate {
    $backend->auto(201, 'receipt %n');

    my ($before, $unused) = (issued(), issued());
    is_answer(pay($before), 201, undef, 'a token of the old secret');

    $t->change(directives => $conf =~ s/ old;/ new old;/r)->reload;
    my $after = issued();
    is_replay(pay($before), 201, undef, 'is used with both');
    is_answer(pay($unused), 201, undef, 'so is one that was not used before');
    is_answer(pay($after), 201, undef, 'and one that is issued now');
    is_answer(pay(token(secret => $new)), 201, undef, 'with the first of them');

    $t->change(directives => $conf =~ s/ old;/ new;/r)->reload;
    is_problem(pay($before), 403, 'token-invalid', 'the old one is no more');
    is_replay(pay($after), 201, undef, 'the new one is');

    # a file is read again with a reload

    $t->{nginx}->write_file('new', "$old\n");
    is_replay(pay($after), 201, undef, 'a file has changed');
    $t->reload;
    is_replay(pay($before), 201, undef, 'and counts after a reload');
    is_problem(pay($after), 403, 'token-invalid', 'alone');

    return;
}


for my $store ('zone', 'redis') {
    my @on = $store eq 'zone' ? () : (
        zone => 'zone=payments:1m redis=main',
        http => 'idempotency_redis main { server ' . $redis->address . '; }');

    $t = Test::Idempotency->new($conf, locations => $locations, @on,
        files => { old => "$old\r\n\n", new => $new });
    $backend = $t->backend;

    subtest "$store: a hundred uses at once"   => \&hundred;
    subtest "$store: tokens are taken"         => \&takes;
    subtest "$store: others are not"           => \&refuses;
    subtest "$store: used, and expired then"   => \&expires;
    subtest "$store: records of a second"      => \&outlives;
    subtest "$store: not carried out"          => \&releases;
    subtest "$store: a fresh one each time"    => \&rotates;

    subtest "$store: tokens are issued"        => \&issues;

    if ($store eq 'zone') {
        subtest 'secrets come and go'          => \&secrets_rotate;
    }

    if ($store eq 'redis') {
        my $there = Test::Idempotency->new($conf, locations => $locations, @on,
                                           files => { old => $old });
        subtest 'on another node'              => sub { elsewhere($there) };
        $there->finish;
    }

    my $log = $t->log =~ s/request: "[^"]*"//gr;
    my @leaked = grep { index($log, $_) >= 0 } $old, $new, @said;
    is(scalar(@leaked), 0, 'no token and no secret is in the error log');
    @said = ();
    $t->finish;
}


# Nobody can be asked whether a token was used.

$t = Test::Idempotency->new("$conf idempotency_on_error pass;", backend => 'auto',
    zone => 'zone=payments:1m redis=main', files => { old => $old },
    http => 'idempotency_redis main { server 127.0.0.1:9; }');
is_answer(pay(token()), 200, undef, 'without a store, a token passes');
is_problem(pay(token(ttl => -1)), 503, 'store-unavailable', 'an expired one does not');
is_problem(pay(token(secret => $new)), 403, 'token-invalid', 'nor does a wrong one');
$t->finish;


# What nginx does not start with.

my %files = (old => $old, short => 'fifteen bytes..', long => 'x' x 4097,
             empty => '', ends => "fifteen bytes..\n\n");
my $required = 'idempotency payments; idempotency_required token;';

my @misuses = (
#     line                                            message
    [ 'idempotency_token_secret;',                    qr/number of arguments/  ],
    [ 'idempotency_token_secret old old old;',        qr/number of arguments/  ],
    [ 'idempotency_token_secret none;',               qr/none" failed/         ],
    [ 'idempotency_token_secret html;',               qr/html" failed/         ],
    [ 'idempotency_token_secret short;',              qr/shorter than 16 byte/ ],
    [ 'idempotency_token_secret ends;',               qr/shorter than 16 byte/ ],
    [ 'idempotency_token_secret empty;',              qr/shorter than 16 byte/ ],
    [ 'idempotency_token_secret old short;',          qr/shorter than 16 byte/ ],
    [ 'idempotency_token_secret long;',               qr/longer than 4096/     ],
    [ 'idempotency_token_ttl 0;',                     qr/invalid time "0"/     ],
    [ 'idempotency_token_ttl soon;',                  qr/invalid time "soon"/  ],
    [ 'idempotency_token_ttl 69y;',                   qr/invalid time "69y"/   ],
    [ 'idempotency_token_rotate maybe;',              qr/invalid value/        ],
    [ 'idempotency_token_issue;',                     qr/not allowed here/     ],
    [ $required,                   qr/"idempotency_required token" needs "idem/ ],
    [ "$required idempotency_token_secret old; idempotency_key_format uuid;",
                                                 qr/needs a format and a leng/ ],
    [ "$required idempotency_token_secret old; idempotency_key_length 1 75;",
                                                 qr/needs a format and a leng/ ],
    [ "$required idempotency_token_secret old; idempotency_key_length 77 99;",
                                                 qr/needs a format and a leng/ ],
);

conf_fails(@$_, undef, files => \%files) for @misuses;

conf_fails('', qr/"idempotency_token_issue" needs "idempotency_token_secret"/,
           'who issues needs a secret',
           locations => 'location = /token { idempotency_token_issue; }');
conf_fails('', qr/"idempotency_token_issue" directive is duplicate/, 'issued twice',
           locations => "location = /token {\nidempotency_token_issue;\nidempotency_token_issue;\n}");

for my $twice ('secret old', 'ttl 1h', 'rotate on') {
    conf_fails("idempotency_token_$twice;\nidempotency_token_$twice;",
               qr/directive is duplicate/, "idempotency_token_$twice: twice",
               files => \%files);
}

conf_works('idempotency_required token;', undef, 'where there is no zone, nothing is missing');
conf_works('', undef, 'issued without a zone', zone => '', files => \%files,
    locations => 'location = /token { idempotency_token_issue; idempotency_token_secret old; }');
conf_works($required . 'idempotency_token_secret old;', undef, 'all that is needed',
           files => \%files);

# Without any zone, tokens are issued all the same.

$t = Test::Idempotency->new('', zone => '', files => \%files, locations =>
    'location = /token { idempotency_token_issue; idempotency_token_secret old; }');
my $m = $t->get(path => '/token');
is($m->header('Idempotency-Token'), token(scope => [ 'localhost' ], ttl =>
    JSON::PP->new->utf8->decode($m->body)->{expires} - int time, random =>
    substr(decode_base64(fresh($m) =~ tr{-_}{+/}r), 9, 16)),
    'issued for the name of the server');

done_testing;
