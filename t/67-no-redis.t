#!/usr/bin/perl

# A module that was built without hiredis says so to whoever wants Redis, and
# does all else.  One that was built with it does not.

use lib 't/lib';
use Test::Idempotency;

my $none = ($ENV{IDEMPOTENCY_REDIS} // '') eq 'no';

conf_fails('idempotency payments;',
           $none ? qr/takes a module that was built with hiredis/
                 : qr/has no server/,
           'a Redis', http => 'idempotency_redis main { }');
conf_fails('idempotency payments;',
           $none ? qr/takes "redis=" in a module that was built with hiredis/
                 : qr/"main" is not declared/,
           'a zone on a Redis', zone => 'zone=payments:1m redis=main');

my $t = Test::Idempotency->new('idempotency payments;', backend => 'auto');
my %pay = (path => '/', key => 'k', body => 'eur=1');

is_answer($t->post(%pay), 200, 'answer 1', 'a first request');
is_replay($t->post(%pay), 200, 'answer 1', 'its duplicate');

done_testing;
