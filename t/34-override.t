#!/usr/bin/perl

# The upstream knows best what became of a request: it says so in
# X-Accel-Idempotency, against the rules for statuses, but not against what
# the wire says.  The client never sees that field.

use lib 't/lib';
use Test::Idempotency;

my $proxy = 'proxy_pass http://backend;';
my $lua = Test::Idempotency->can_load(qw(ndk_http ngx_http_lua));

my $t = Test::Idempotency->new(<<'END', backends => [ 'other' ],
    idempotency               payments;
    idempotency_max_response  1k;
    idempotency_unknown       refuse 1h;
END
    $lua ? (modules => [ qw(ndk_http ngx_http_lua) ]) : (),
    files => { 'html/file' => 'a file', 'html/sorry.html' => 'sorry' },
    locations => <<"LOCATIONS" . ($lua ? <<'LUA' : ''));
    location /off/     { $proxy proxy_buffering off; }
    location /rules/   { $proxy idempotency_valid 200 0; }
    location /hidden/  { $proxy proxy_hide_header X-Accel-Idempotency; }
    location /passed/  { $proxy idempotency_pass_header X-Accel-Idempotency; }
    location /dry/     { $proxy idempotency_dry_run on; }
    location /aloof/   { $proxy idempotency_bypass 1; }
    location /none/    { $proxy idempotency off; }
    location /page/    {
        $proxy
        proxy_intercept_errors on;
        error_page 500 503 /sorry.html;
    }
    location = /sorry.html { internal; }
    location /fallback/ {
        $proxy
        proxy_intercept_errors on;
        error_page 500 502 503 = \@other;
    }
    location \@other   { proxy_pass http://other; idempotency off; }
LOCATIONS
    location /lua/ {
        content_by_lua_block {
            ngx.header["X-Accel-Idempotency"] = ngx.var.arg_say
            ngx.header["X-Lua"] = "here"
            ngx.print("made by lua")
        }
    }
LUA

my $backend = $t->backend;
my $other = $t->backend('other');
my $n = 0;

is($lua, 1, 'Lua is there');


# An answer with the field, or fields.

sub answers {
    my ($status, $say, %o) = @_;

    my @fields = map { [ 'X-Accel-Idempotency', $_ ] }
        ref $say ? @$say : $say;

    return ($status, $o{body} // 'told', %o, headers => \@fields);
}


# A request whose upstream answers so: what becomes of its record?

sub becomes {
    my ($becomes, $path, $answer, $why) = @_;

    my $key = 'k' . ++$n;
    my %request = (path => $path, key => $key, body => 'eur=1');
    my %before = %{ $t->zone->{counters} };

    my $first = $t->start_post(%request);
    $answer->();

    my $m = $first->response;
    $t->wait_until(running => 0);

    my %after = %{ $t->zone->{counters} };
    my ($became) = grep { $after{$_} > $before{$_} }
        qw(done unstored released unknown);

    is($became, $becomes, "$why: $becomes");
    is($m->header('X-Accel-Idempotency'), undef, "$why: the client is not told");

    return ($m, %request);
}


sub told { my @answer = answers(@_); return sub { $backend->answer(@answer) } }

my @words = (
#     path       answer                              becomes     why
    [ '/',       told(200, 'store'),                 'done',     'store'    ],
    [ '/',       told(200, 'release'),               'released', 'release'  ],
    [ '/',       told(200, 'unknown'),               'unknown',  'unknown'  ],
    [ '/',       told(503, 'store'),        'done',     'a refusal, store'  ],
    [ '/',       told(502, 'store'),        'done',     'a 502, store'      ],
    [ '/',       told(503, 'unknown'),      'unknown',  'a refusal, unknown' ],
    [ '/',       told(200, 'ttl=0'),        'released', 'the time 0'        ],
    [ '/',       told(200, 'store, ttl=0'), 'released', 'store, the time 0' ],
    [ '/',       told(200, 'RELEASE'),      'released', 'upper case'        ],
    [ '/',       told(200, [ 'ttl=9', 'release' ]), 'released', 'two fields' ],
    [ '/',       told(503, 'ttl=9'),        'released', 'a time alone, 503' ],
    [ '/',       told(502, 'ttl=9'),        'unknown',  'a time alone, 502' ],
    [ '/off/',   told(200, 'release'),      'released', 'not buffered'      ],
    [ '/rules/', told(200, 'store'),        'done',     'against a rule'    ],
    [ '/hidden/', told(200, 'release'),     'released', 'though hidden'     ],
    [ '/passed/', told(200, 'store'),       'done',     'though passed'     ],
    [ '/dry/',   told(200, 'release'),      'released', 'in a dry run'      ],
    [ '/page/',  told(500, 'release'), 'released', 'with a page, release'   ],
    [ '/page/',  told(503, 'store'),   'done',     'with a page, store'     ],
    [ '/page/',  told(500, 'unknown'), 'unknown',  'with a page, unknown'   ],
);

becomes($_->[2], $_->[0], $_->[1], $_->[3]) for @words;

# What comes after: a replay has not the field either, what is released runs
# again, what is unknown is refused.

my ($m, %request) = becomes('done', '/passed/', told(503, 'store'), 'stored');
is_answer($m, 503, 'told', 'an answer that is stored');
my $again = $t->post(%request);
is_replay($again, 503, 'told', 'is replayed');
is($again->header('X-Accel-Idempotency'), undef, 'without the field');

($m, %request) = becomes('unknown', '/', told(200, 'unknown'), 'a half message');
is_answer($m, 200, 'told', 'the client gets the answer');
is_problem($t->post(%request), 409, 'outcome-unknown', 'a duplicate does not');

($m, %request) = becomes('released', '/', told(201, 'release'), 'rolled back');
my $second = $t->start_post(%request);
$backend->answer(201, 'once more');
is_answer($second, 201, 'once more', 'it runs again');

# Lives, in seconds.

$backend->on('/short', answers(200, 'ttl=1'));
$backend->on('/doubt', answers(200, 'unknown, ttl=1'));
$backend->on('/kept', answers(200, 'store, ttl=100000'));

for my $path ('/short', '/doubt') {
    my %request = (path => $path, key => "lives $path" =~ s/\W//gr);
    my $asked = $backend->requests;

    $t->post(%request);
    wait_for("$path ends", sub {
        $t->post(%request);
        return $backend->requests > $asked + 1;
    });
    pass("$path lives as long as it was told");
}

# What is not understood changes nothing, and the log says so.

my @strange = (
#     says                 becomes     why
    [ 'keep',              'done',     'a strange word'                     ],
    [ 'releases',          'done',     'more than a word'                   ],
    [ 'ttl=soon',          'done',     'no number'                          ],
    [ 'release, ttl=-1',   'released', 'no number beside a word'            ],
    [ 'store, release',    'done',     'two words'                          ],
);

for (@strange) {
    my ($say, $becomes, $why) = @$_;

    becomes($becomes, '/', told(200, $say), $why);
    $t->log_like(qr/\[warn\].*"X-Accel-Idempotency: \Q$say\E" says something/,
                 "$why: the log tells");
}

is(() = $t->log =~ /says something that is not known/g, @strange,
   'once each');

# It does not speak for what did not come whole, or is too large.

my @cuts = (
#     answer                                          becomes     why
    [ told(200, 'release', body => 'x' x 99, cut => 9), 'unknown', 'cut off' ],
    [ told(200, 'store', body => 'x' x 99, cut => 9), 'unknown',  'cut off'  ],
    [ told(200, 'store', body => 'x' x 2000),         'unstored', 'large'    ],
    [ told(200, 'release', body => 'x' x 2000),       'released', 'large'    ],
    [ told(200, 'unknown', body => 'x' x 2000),       'unknown',  'large'    ],
);

becomes($_->[1], '/', $_->[0], $_->[2]) for @cuts;

# The last one who was asked speaks, and for nobody else.

my @fallbacks = (
#     the first says         the other says          becomes
    [ [ 500, 'store' ],      [ 200, 'release' ],     'unknown'  ],
    [ [ 500, 'release' ],    [ 200, 'store' ],       'done'     ],
    [ [ 503, 'store' ],      [ 200, 'release' ],     'released' ],
    [ [ 503, 'release' ],    [ 200, 'unknown' ],     'unknown'  ],
);

for (@fallbacks) {
    my ($one, $two, $becomes) = @$_;

    becomes($becomes, '/fallback/', sub {
        $backend->answer(answers(@$one));
        $other->answer(answers(@$two));
    }, "first $one->[1], then $two->[1]");
}

# A content handler that is no upstream speaks for itself.

becomes('released', '/lua/?say=release', sub { }, 'Lua says release');
becomes('unknown', '/lua/?say=unknown', sub { }, 'Lua says unknown');

# The field goes nowhere, protected or not.  Where the module is off it is none
# of our business.

$backend->auto(answers(200, 'store'));

my @others = (
#     request                                  why
    [ { path => '/', method => 'GET' },        'another method' ],
    [ { path => '/' },                         'no key'         ],
    [ { path => '/aloof/', key => 'aloof' },   'bypass'         ],
);

is($t->post(%{ $_->[0] })->header('X-Accel-Idempotency'), undef,
   "$_->[1]: the client is not told") for @others;
is($t->post(path => '/none/')->header('X-Accel-Idempotency'), 'store',
   'off: hands off');

done_testing;
