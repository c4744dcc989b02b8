#!/usr/bin/perl

# The same on two nodes that share a Redis, whatever happens to that and to the
# net between them.

use strict;
use warnings;

use lib 't/lib', 'bench/lib';

use Torture::Test;

torture(guards => 1, redis => 1, seconds => 8);
