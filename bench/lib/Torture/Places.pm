package Torture::Places;

# The locations that the torture test asks, the zones behind them, and what
# the checker has to know of each.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(%PLACES %ZONES %MOVES $REDIS $GUARDS MAX_RESPONSE);

use constant MAX_RESPONSE => 64 * 1024;


# Zones.  small: it may be full, so that answers are not kept; evict: what is
# finished may go before its time; brief: all of it is gone soon after the end.

our %ZONES = (
    large => { size => '96m' },
    brief => { size => '16m', brief => 1 },
    lease => { size => '16m', brief => 1 },
    tight => { size => '128k', brief => 1, small => 1 },
    evict => { size => '128k', small => 1, evict => 1 },
);


# Whether the zones are those of two nodes that share a Redis.

our $REDIS = 0;


# Whether the places are those with guards, and with tokens.

our $GUARDS = 0;


# The state machine: all resources begin with the first state.

our %MOVES = (
    new => [ 'a', 'b' ],
    a   => [ 'b', 'c' ],
    b   => [ 'c', 'a' ],
    c   => [ 'a', 'd' ],
);


# Places.
#
#   weight   how often it is asked, beside the others
#   zone
#   valid    seconds that a finished record lives
#   unknown  seconds that an unknown one lives
#   retry    an unknown one is run again
#   check    the upstream is asked about it
#   wait     seconds that a duplicate waits; without it, it does not
#   lease    seconds, where a lease may end
#   hasty    the upstream may be given up before it has answered
#   up       the upstream that is asked, if not "live"
#   conf     more lines of configuration

our %PLACES = (
    main  => { weight => 20, zone => 'large' },
    wait  => { weight => 20, zone => 'large', wait => 12 },
    off   => { weight => 10, zone => 'large', wait => 12,
               conf => 'proxy_buffering off; proxy_request_buffering off;' },
    kept  => { weight => 8, zone => 'large', up => 'kept',
               conf => 'proxy_http_version 1.1;' },
    retry => { weight => 10, zone => 'large', wait => 12, retry => 1 },
    check => { weight => 10, zone => 'large', wait => 12, check => 1 },
    hasty => { weight => 6, zone => 'large', hasty => 1,
               conf => 'proxy_read_timeout 300ms;' },
    short => { weight => 8, zone => 'brief', valid => 1, unknown => 1 },
    lease => { weight => 5, zone => 'lease', lease => 1, valid => 4,
               unknown => 4 },
    relet => { weight => 5, zone => 'lease', lease => 1, valid => 4,
               unknown => 4, wait => 12,
               retry => 1 },
    tight => { weight => 6, zone => 'tight', valid => 2, unknown => 2 },
    evict => { weight => 6, zone => 'evict' },
);

# Places of another kind, where requests with different keys are in each
# other's way, as they change one resource.
#
#   serialize  one at a time: seconds that a request waits for its turn, or 0
#   sequence   what happens to one that is late: reject, acknowledge
#   state      it moves a state
#   token      its key has to be a token, and is remembered as long as that is
#              valid, whatever the configuration says

my %guarded = (
    queue  => { weight => 14, zone => 'large', wait => 12, serialize => 4 },
    alone  => { weight => 8, zone => 'large', serialize => 0 },
    leased => { weight => 6, zone => 'lease', lease => 1, valid => 4,
                unknown => 4, wait => 12, serialize => 4 },
    seq    => { weight => 10, zone => 'large', wait => 12, serialize => 4,
                sequence => 'reject' },
    order  => { weight => 10, zone => 'large', sequence => 'acknowledge' },
    state  => { weight => 12, zone => 'large', state => 1 },
    moves  => { weight => 14, zone => 'large', wait => 12, serialize => 4,
                state => 1, check => 1 },
    redo   => { weight => 8, zone => 'large', serialize => 0, state => 1,
                retry => 1 },
    token  => { weight => 12, zone => 'token', token => 1, valid => 3600 },
);

_complete(\%PLACES);
_complete(\%guarded);


sub _complete {
    my ($places) = @_;

    for my $name (keys %$places) {
        my $place = $places->{$name};

        $place->{name} = $name;
        $place->{valid} ||= 90;
        $place->{unknown} ||= 3600;
        $place->{up} ||= 'live';
        $place->{guard} = 1 if grep { defined $place->{$_} }
                               qw(serialize sequence state);
    }

    return;
}


# From now on, the places are those with guards.

sub on_guards {
    $GUARDS = 1;

    %PLACES = %guarded;
    %ZONES = (%ZONES{qw(large lease)}, token => { size => '32m' });

    return;
}


# From now on, two nodes share a Redis: any lease may end, as it may not be
# renewed.  What is about a full zone is left to a zone alone.

sub on_redis {
    $REDIS = 1;

    for (grep { $ZONES{$_}{small} } keys %ZONES) {
        my $zone = $_;

        delete @PLACES{ grep { $PLACES{$_}{zone} eq $zone } keys %PLACES };
        delete $ZONES{$zone};
    }

    $_->{lease} ||= 3 for values %PLACES;

    return;
}


# Options of Test::Idempotency::Nginx, given the ports of the upstreams, and
# that of the Redis, if there is one.

sub options {
    my ($class, %port) = @_;

    my $redis = delete $port{redis};
    my %server = map { $_ => "server 127.0.0.1:$port{$_} max_fails=0;" }
        keys %port;

    return (
        zone => [ map { _zone($_) } sort keys %ZONES ],
        upstreams => { %port, backend => $port{dead} },
        files => { secret => 'the same one for all nodes' },
        http => ($redis ? join '', map { _redis($_, $redis) } sort keys %ZONES
                        : '') . _machine() . <<"END",
    upstream pair { $server{dead} $server{live} }
    upstream kept { $server{live} keepalive 8; keepalive_timeout 600ms; }
    log_format torture '\$msec \$pid \$http_x_request \$idempotency_status '
                       '\$status \$idempotency_fence \$upstream_status '
                       '\$upstream_bytes_sent \$request_time '
                       'gone=\$idempotency_client_gone';
END
        directives => <<"END",
    access_log                 access.log  torture;
    idempotency_scope          \$http_x_scope;
    idempotency_max_response   @{[ MAX_RESPONSE ]};
    keepalive_timeout          5s;
    proxy_read_timeout         30s;
    proxy_set_header           X-Worker    \$pid;
    proxy_set_header           X-Fence     \$idempotency_fence;
    proxy_set_header           Connection  "";
    add_header                 X-Worker    \$pid                 always;
    add_header                 X-Told      \$idempotency_status  always;
END
        locations => join('', "location /known/ { internal; "
                              . "proxy_pass http://live; }\n",
                          $GUARDS ? _issuers() : (),
                          map { _location($_) } sort keys %PLACES),
    );
}


sub _zone {
    my ($name) = @_;

    my $zone = $ZONES{$name};

    return "zone=$name:$zone->{size}" . ($zone->{evict} ? ' full=evict' : '')
        . ($REDIS ? " redis=$name" : '');
}


sub _redis {
    my ($name, $port) = @_;

    return <<"END";
    idempotency_redis $name {
        server           127.0.0.1:$port;
        prefix           $name:;
        connect_timeout  800ms;
        timeout          800ms;
    }
END
}


sub _machine {
    return '' if !$GUARDS;

    return join "\n", "    idempotency_states moves {",
        (map { "        $_ @{ $MOVES{$_} };" }
            'new', grep { $_ ne 'new' } sort keys %MOVES), "    }\n";
}


sub _issuers {
    return <<"END";
    idempotency_token_secret  secret;
    location = /token {
        idempotency_token_issue;
        idempotency_token_ttl  3600s;
    }
    location = /token/brief {
        idempotency_token_issue;
        idempotency_token_ttl  1s;
    }
END
}


# Guards of a place, and what it wants of its keys.

sub _guards {
    my ($place) = @_;

    my $turn = $place->{serialize};

    return join "\n        ",
        defined $turn ? 'idempotency_serialize   $arg_r'
                        . ($turn ? " wait=${turn}s;" : ';') : (),
        $place->{sequence} ? 'idempotency_sequence    $arg_r $arg_n late='
                             . "$place->{sequence};" : (),
        $place->{state} ? 'idempotency_state       moves $arg_r $arg_s;' : (),
        $place->{token} ? 'idempotency_required    token;' : ();
}


sub _location {
    my ($name) = @_;

    my $place = $PLACES{$name};
    my $lease = $place->{lease} || 60;
    my $wait = $place->{wait} ? "wait=$place->{wait}s" : 'reject';
    my ($valid, $life) = $place->{token} ? (1, 1) : @$place{qw(valid unknown)};
    my $unknown = $place->{retry} ? 'retry'
                : $place->{check} ? 'check=/known/' : 'refuse';

    return <<"END";
    location /$name/ {
        proxy_pass              http://\$http_x_upstream;
        idempotency             $place->{zone};
        idempotency_valid       ${valid}s;
        idempotency_lease       ${lease}s;
        idempotency_concurrent  $wait;
        idempotency_unknown     $unknown ${life}s;
        @{[ _guards($place) ]}
        @{[ $place->{conf} // '' ]}
    }
END
}


1;
