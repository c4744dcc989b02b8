#!/usr/bin/perl

# What nginx is told about Redis: a mistake is told with its file and line, and
# what is right works, over TCP, a unix socket and TLS, with users and
# databases.  Who is not let in, or does not trust the server, says so and lets
# nothing through.

use lib 't/lib';
use Test::Idempotency;
use Test::Idempotency::Redis;

use File::Temp;

# Mistakes.

my $zone = 'zone=payments:1m redis=main';
my $server = 'server 127.0.0.1:6379;';
my $empty = File::Temp->new;
my $ca = Test::Idempotency::Certificates->shared->file('ca.pem');
my $trust = "tls_trusted_certificate $ca;";

my @mistakes = (
#     the block has                     message
    [ '',                               qr/has no server/                    ],
    [ 'server;',                        qr/invalid number of arguments/      ],
    [ 'server 127.0.0.1:x;',            qr/invalid port/                     ],
    [ 'server none.invalid;',           qr/host not found/                   ],
    [ "$server server 127.0.0.1:2;",    qr/has several servers/              ],
    [ "$server mode;",                  qr/invalid number of arguments/      ],
    [ "$server mode odd;",              qr/takes "standalone"/               ],
    [ "$server mode sentinel;",         qr/takes "standalone"/               ],
    [ "$server mode sentinel master=;", qr/takes "standalone"/               ],
    [ "$server mode cluster master=a;", qr/takes "standalone"/               ],
    [ "$server mode cluster; database 1;", qr/none but 0/                    ],
    [ "$server user me;",               qr/user without a "password_file"/   ],
    [ "$server password_file none;",    qr/open\(\) ".*none" failed/         ],
    [ "$server password_file $empty;",  qr/has no password in its file/      ],
    [ "$server database x;",            qr/"database" invalid number/        ],
    [ "$server database 1; database 2;", qr/"database" is duplicate/         ],
    [ "$server prefix a:; prefix b:;",  qr/"prefix" is duplicate/            ],
    [ "$server wait 1 1s; wait 2 1s;",  qr/"wait" is duplicate/              ],
    [ "$server tls off; tls on;",       qr/"tls" is duplicate/               ],
    [ "$server timeout 0;",             qr/"timeout" must not be 0/          ],
    [ "$server connect_timeout soon;",  qr/"connect_timeout" invalid value/  ],
    [ "$server wait 1;",                qr/invalid number of arguments/      ],
    [ "$server wait 0 50ms;",           qr/number of replicas and a time/    ],
    [ "$server wait 1 long;",           qr/number of replicas and a time/    ],
    [ "$server tls maybe;",             qr/it must be "on" or "off"/         ],
    [ "$server tls on;",                qr/without a "tls_trusted_certifica/ ],
    [ "$server tls on; $trust tls_certificate $ca;",
                                        qr/has one of "tls_certificate"/     ],
    [ "$server tls_name a;",            qr/parameters of TLS without/        ],
    [ "$server $trust",                 qr/parameters of TLS without/        ],
    [ "$server colour red;",            qr/unknown directive "colour"/       ],
);

for (@mistakes) {
    my ($lines, $message) = @$_;

    conf_fails('idempotency payments;', $message, "{ $lines }",
               zone => $zone, http => "idempotency_redis main { $lines }");
}

conf_fails('idempotency payments;', qr/"main" is not declared/,
           'a Redis that is not declared', zone => $zone);
conf_fails('idempotency payments;', qr/is duplicate/, 'one that is, twice',
           zone => $zone, http => "idempotency_redis main { $server }\n"
                                  . "idempotency_redis main { $server }");

# What works.

my $redis = Test::Idempotency::Redis->new(tls => 'mutual',
    users => [ 'user default on nopass ~* &* +@all',
               "user idem on >secret ~pay:* &pay:* "
               . Test::Idempotency::Redis->rights ]);

my ($socket, $tls_port) = ($redis->socket, $redis->tls_port);
my $c = $redis->certificates;
my $locations = <<'END';
    location /wait/  { proxy_pass http://backend; idempotency_concurrent wait=9s; }
    location /brief/ { proxy_pass http://backend; idempotency_lease 1s; }
END


# nginx with such a block.

sub node {
    my ($lines, %o) = @_;

    return Test::Idempotency->new('idempotency payments;', workers => 1,
        zone => $zone, locations => $locations,
        files => { password => "secret\n" }, %o,
        http => "idempotency_redis main { $lines }");
}


# The lines for TLS; undef leaves one away.

sub tls {
    my (%o) = @_;

    %o = (ca => 'ca', cert => 'client', name => 'redis.test', %o);

    return join ' ', "server 127.0.0.1:$tls_port; tls on;",
        'tls_trusted_certificate ' . $c->file("$o{ca}.pem") . ';',
        $o{name} ? "tls_name $o{name};" : (),
        $o{cert} ? 'tls_certificate ' . $c->file("$o{cert}.pem") . '; '
                   . 'tls_certificate_key ' . $c->file("$o{cert}.key") . ';'
                 : ();
}


my $user = 'prefix pay:; user idem; password_file password;';

my @ways = (
#     the block has                                 database  why
    [ "server 127.0.0.1:@{[ $redis->port ]};",      0, 'TCP'                 ],
    [ "server localhost:@{[ $redis->port ]};",      0, 'a name'              ],
    [ "server unix:$socket;",                       0, 'a unix socket'       ],
    [ "server unix:$socket; database 2;",           2, 'a database'          ],
    [ "server unix:$socket; $user",                 0, 'a user'              ],
    [ "server unix:$socket; database 3; $user",     3, 'a user, a database'  ],
    [ tls(),                                        0, 'TLS'                 ],
    [ tls(name => undef),                           0, 'TLS with an address' ],
    [ tls() . $user,                                0, 'TLS and a user'      ],
);

my $n = 0;

for (@ways) {
    my ($lines, $database, $why) = @$_;
    my ($t, $other) = map { node($lines) } 1, 2;
    my %pay = (path => '/wait/', key => 'way-' . ++$n, body => 'eur=1');

    $redis->command('FLUSHALL');

    my $first = $t->start_post(%pay);
    $t->backend->wait_for_request;
    my $twin = $other->start_post(%pay);
    wait_for("$why: somebody listens", sub {
        @{ $redis->command('PUBSUB', 'CHANNELS') } });

    $t->backend->answer(200, 'done');
    is_answer($first, 200, 'done', "$why: a first request");
    is_replay($twin, 200, 'done', "$why: its duplicate on another node");

    my $client = $redis->client;
    $client->command('SELECT', $database);
    my $prefix = $lines =~ /prefix/ ? 'pay' : 'idem';
    like(join(' ', @{ $client->command('KEYS', '*') }),
         qr/^$prefix:[0-9a-f]{64}$/, "$why: the record is where it should be");

    $_->finish for $t, $other;
}

# Who is not let in, or does not trust the server.

my @doubts = (
#     the block has                         the log says          why
    [ "server unix:$socket; $user",         qr/says "WRONGPASS/,
      'a wrong password' ],
    [ "server unix:$socket; database 99;",  qr/says "ERR DB index/,
      'no such database' ],
    [ "server unix:$socket; prefix not:; user idem; password_file password;",
                                            qr/NOPERM/,
      'no right to these keys' ],
    [ tls(ca => 'other-ca'),                qr/verify error: \(\d+:/,
      'a certificate of another CA' ],
    [ tls(name => 'other.test'),            qr/does not match "other\.test"/,
      'a certificate of another name' ],
    [ tls(cert => undef),                   qr/certificate required/,
      'no certificate of the client' ],
    [ tls(cert => 'other'),                 qr/unknown ca/,
      'a certificate of a client of somebody else' ],
    [ "server 127.0.0.1:$tls_port;",        qr/idempotency: redis/,
      'no TLS where it is needed' ],
    [ tls() =~ s/$tls_port/$redis->port/er, qr/it does not answer/,
      'TLS where there is none' ],
);

for (@doubts) {
    my ($lines, $words, $why) = @$_;
    my $password = $why =~ /password/ ? 'wrong-one' : 'secret';
    my $t = node($lines, files => { password => "$password\n" });

    is_problem($t->post(path => '/', key => 'k'), 503, 'store-unavailable',
               "$why: it is refused");
    is($t->backend->requests, 0, "$why: nothing runs");
    $t->log_like($words, "$why: the log says so");
    $t->allow(qr/SSL_read\(\) failed .* alert/);
    unlike($t->log, qr/wrong-one|secret/, "$why: not with the password");
    $t->finish;
}

# A certificate is exchanged for one that is over, and for a good one.

sub certificate {
    my ($name) = @_;

    $redis->command('CONFIG', 'SET', 'tls-cert-file', $c->file("$name.pem"),
                    'tls-key-file', $c->file("$name.key"));
    $redis->command('CLIENT', 'KILL', 'LADDR', "127.0.0.1:$tls_port");
}


# A new key is carried out, in the end.

sub works_again {
    my ($t, $why) = @_;

    my ($client, $asked) = (undef, $t->backend->requests);

    wait_for("$why: it works again", sub {
        $client = $t->start_post(path => '/', key => 'again' . ++$n);
        wait_for('', sub { $client->answered
                           || $t->backend->requests > $asked });
        return $t->backend->requests > $asked;
    });

    $t->backend->answer(200, 'again', to => $t->backend->last);

    return is_answer($client, 200, 'again', "$why: it works again");
}


my $t = node(tls());

works_again($t, 'at first');
certificate('expired');
is_problem($t->post(path => '/', key => 'k'), 503, 'store-unavailable',
           'a certificate that is over');
$t->log_like(qr/certificate has expired/, 'is in the log');
certificate('server');
works_again($t, 'a good certificate');
$t->finish;

# A password is changed while nginx runs.

$t = node("server unix:$socket; $user");
works_again($t, 'with the password');

my %brief = (path => '/brief/', key => 'brief');
my $brief = $t->start_post(%brief);
$t->backend->wait_for_request;

$redis->command('ACL', 'SETUSER', 'idem', 'resetpass', '>changed');
works_again($t, 'who is in stays in');
$redis->command('CLIENT', 'KILL', 'USER', 'idem');

is_problem($t->post(path => '/', key => 'k'), 503, 'store-unavailable',
           'another password')
    for 1, 2;
$t->log_like(qr/says "WRONGPASS/, 'is in the log');
$t->backend->answer(200, 'meanwhile');
is_answer($brief, 200, 'meanwhile', 'who ran meanwhile has an answer');
is_replay($t->post(%brief), 200, 'meanwhile', 'which is replayed');

$t->change(files => undef);
$t->{nginx}->write_file('password', "changed\n");
$t->reload;
works_again($t, 'the new password');
is_replay($t->post(%brief), 200, 'meanwhile', 'what the zone has is there');
unlike($t->log, qr/secret|changed/, 'no password is in the log');

done_testing;
