package Bench::Contenders;

# Who is measured, and how each is configured: as well as its own manual
# allows.  Every contender answers the same locations.

use strict;
use warnings;


my @LOCATIONS = (
#     location    upstream   zone           what it is for
    [ '/',        'b200',    'hot:64m',     'one hot key, 10,000 keys'  ],
    [ '/new',     'b200',    'new:768m',    'a new key each time'       ],
    [ '/far',     'b200',    'new:768m',    'stored by another node'     ],
    [ '/k3',      'b200',    'k3:16m',      '10^3 keys stored'          ],
    [ '/k5',      'b200',    'k5:96m',      '10^5 keys stored'          ],
    [ '/k6',      'b200',    'k6:768m',     '10^6 keys stored'          ],
    [ '/fill',    'b200',    'fill:64m',    'until 64 MiB are full'     ],
    [ '/expire',  'b200',    'expire:128m', 'records that expire'       ],
    [ '/s200',    'b200',    'size:256m',   'bytes a record'            ],
    [ '/s2k',     'f/2k',    'size:256m',   'bytes a record'            ],
    [ '/s32k',    'f/32k',   'size:256m',   'bytes a record'            ],
    [ '/s1m',     'f/1m',    'size:256m',   'bytes a record'            ],
    [ '/r32k',    'f/32k',   'hot:64m',     'replay of large responses' ],
    [ '/r256k',   'f/256k',  'hot:64m',     'replay of large responses' ],
    [ '/wait',    undef,     'hot:64m',     'duplicates that wait'      ],
);

our @PEERS = qw(proxy_cache lua redis srcache);

our %TITLE = (
    return      => '`return 200`',
    proxy       => 'plain proxying',
    ours        => 'this module',
    proxy_cache => 'proxy_cache',
    lua         => 'Lua shared dict',
    redis       => 'Lua + Redis',
    srcache     => 'srcache + memcached',
    shared      => 'this module + Redis',
    bare        => 'a bare claim and a SET',
);

# Lines that this module gets in each location; each key has a resource of its
# own, so that nobody waits.

my %GUARDS = (
    serialize => 'idempotency_serialize $http_idempotency_key wait=30s;',
    sequence  => 'idempotency_sequence $http_idempotency_key 1;',
    state     => 'idempotency_state payment $http_idempotency_key paid;',
    version   => 'idempotency_version $http_idempotency_key;',
    json      => 'idempotency_key $http_idempotency_key $amount;',
);

my %PACKAGES = (
    shared  => [ qw(redis-server) ],
    lua     => [ qw(libnginx-mod-http-lua lua-resty-core) ],
    redis   => [ qw(libnginx-mod-http-lua lua-resty-core redis-server) ],
    srcache => [ qw(libnginx-mod-http-srcache-filter libnginx-mod-http-memc
                    memcached) ],
);

my $MODULES = '/usr/lib/nginx/modules';


sub packages {
    my ($who) = @_;

    return @{ $PACKAGES{$who} || [] };
}


# The number of a location's family of keys, and one of these keys as the load
# program writes it.

sub family {
    my ($uri) = @_;

    my ($n) = grep { $LOCATIONS[$_][0] eq $uri } 0 .. $#LOCATIONS;

    return $n;
}


sub key {
    my ($uri, $n) = @_;

    return sprintf '%08x-40d5-43dd-bc93-%012x', family($uri), $n;
}


# module, lib, dir; upstream, slow, redis, memcached and memcached_fill: ports

sub new {
    my ($class, %env) = @_;

    return bless { %env }, $class;
}


sub guards { return sort keys %GUARDS }


# The parts of nginx.conf of one contender, for Bench::Site::nginx(); instance
# is a name of that server.  A guard may follow the name: "ours+state".

sub conf {
    my ($self, $who, $instance) = @_;

    my ($name, $guard) = split /\+/, $who;
    my $method = "conf_$name";
    my %conf = (main => '', http => '', $self->$method($instance));

    $conf{http} .= guard($guard) if $guard;

    $conf{http} = <<"EOF" . $conf{http};
    upstream up { server 127.0.0.1:$self->{upstream}; keepalive 256; }
    upstream slow { server 127.0.0.1:$self->{slow}; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
EOF
    $conf{server} .= "    location = /trivial { return 204; }\n";

    return %conf;
}


sub conf_return {
    my ($self) = @_;

    my $body = '0' x 200;

    return server => locations(sub { qq{return 200 "$body";} });
}


sub conf_proxy {
    my ($self) = @_;

    return server => locations(\&pass);
}


sub conf_ours {
    my ($self) = @_;

    return $self->module('', "    idempotency_zone zone=%s:%s;\n");
}


# A node of several: all instances have the same Redis.

sub conf_shared {
    my ($self) = @_;

    my $redis = "    idempotency_redis main { server 127.0.0.1:$self->{redis}; }\n";

    return $self->module($redis,
                         "    idempotency_zone zone=%s:%s redis=main;\n");
}


sub guard {
    my ($guard) = @_;

    return <<"EOF";
    idempotency_states payment { new paid; }
    idempotency_json \$amount /amount;
    $GUARDS{$guard}
EOF
}


sub module {
    my ($self, $http, $zone) = @_;

    my %own = (
        '/wait'   => ' idempotency_concurrent wait=30s;'
                     . ' idempotency_waiters 20000;',
        '/expire' => ' idempotency_valid 5s;',
    );

    return (
        main   => "load_module $self->{module};\n",
        http   => $http . zones($zone),
        server => locations(sub {
            my ($uri, $behind, $zone) = @_;
            "idempotency $zone;" . ($own{$uri} || '') . ' ' . pass(@_);
        }) . "    location = /status { idempotency_status; }\n",
    );
}


sub conf_proxy_cache {
    my ($self, $instance) = @_;

    return (
        server => locations(sub {
            my ($uri) = @_;
            ($uri =~ /^.r\d/ ? 'sendfile on; ' : '') . pass(@_);
        }),
        http   => <<"EOF",
    proxy_cache_path $self->{dir}/cache-$instance levels=1:2
        keys_zone=idem:256m max_size=8g inactive=1d use_temp_path=off;
    proxy_cache idem;
    proxy_cache_methods POST;
    proxy_cache_key \$uri\$http_idempotency_key;
    proxy_cache_valid 200 1d;
    proxy_cache_lock on;
    proxy_cache_lock_timeout 60s;
    proxy_cache_lock_age 60s;
    proxy_ignore_client_abort on;
EOF
    );
}


sub conf_lua {
    my ($self) = @_;

    my $dict = 'require("idem_shdict")';

    return (
        main   => load_modules(qw(ndk_http ngx_http_lua)),
        http   => $self->lua('idem_shdict')
                  . zones("    lua_shared_dict %s %s;\n")
                  . "    proxy_ignore_client_abort on;\n",
        server => locations(sub {
            my ($uri, $behind, $zone) = @_;
            qq[access_by_lua_block { $dict.access("$zone") } ]
                . "body_filter_by_lua_block { $dict.body() } " . pass(@_);
        }) . "    location = /count { content_by_lua_block { "
           . qq[$dict.count("fill") } }\n],
    );
}


sub conf_redis {
    my ($self) = @_;

    return (
        main   => load_modules(qw(ndk_http ngx_http_lua)),
        http   => $self->lua('idem_redis'),
        server => locations(sub {
            my ($uri) = @_;
            qq[content_by_lua_block { require("idem_redis").content(]
                . qq[$self->{redis}, "/behind$uri") }];
        }) . locations(sub { 'internal; ' . pass(@_) }, '/behind'),
    );
}


sub conf_srcache {
    my ($self) = @_;

    return (
        main   => load_modules(qw(ndk_http ngx_http_memc
                                  ngx_http_srcache_filter)),
        http   => <<"EOF",
    upstream memc { server 127.0.0.1:$self->{memcached}; keepalive 256; }
    upstream memc_fill {
        server 127.0.0.1:$self->{memcached_fill}; keepalive 256;
    }
EOF
        server => locations(sub {
            my ($uri) = @_;
            my $memc = $uri eq '/fill' ? '/memc_fill' : '/memc';
            my $key = '$uri$http_idempotency_key';
            "srcache_fetch GET $memc $key; srcache_store PUT $memc $key; "
                . 'srcache_methods POST; ' . pass(@_);
        }) . memc('memc') . memc('memc_fill'),
    );
}


sub memc {
    my ($name) = @_;

    return <<"EOF";
    location = /$name {
        internal;
        set \$memc_key \$query_string;
        set \$memc_exptime 86400;
        memc_pass $name;
    }
EOF
}


sub lua {
    my ($self, $module) = @_;

    return <<"EOF";
    lua_package_path "$self->{lib}/?.lua;$self->{dir}/lua/?.lua;;";
    init_by_lua_block { require "resty.core"; require "$module" }
    lua_socket_log_errors off;
EOF
}


sub load_modules {
    return join '', map { "load_module $MODULES/${_}_module.so;\n" } @_;
}


# A location for each, with what inside(location, upstream, zone) says.

sub locations {
    my ($inside, $before) = @_;

    $before //= '';

    return join '', map {
        my ($uri, $behind, $zone) = @$_;
        $zone =~ s/:.*//;
        "    location = $before$uri { "
            . $inside->($uri, $behind, $zone) . " }\n"
    } @LOCATIONS;
}


sub pass {
    my ($uri, $behind) = @_;

    return 'proxy_pass http://' . ($behind ? "up/$behind" : 'slow/') . ';';
}


# A line for each zone.

sub zones {
    my ($format) = @_;

    my %seen;

    return join '', map { sprintf $format, split /:/ }
        grep { !$seen{$_}++ } map { $_->[2] } @LOCATIONS;
}


1;
