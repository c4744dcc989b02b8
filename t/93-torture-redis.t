#!/usr/bin/perl

# The same for two nodes that share a Redis, whatever happens to that and to the
# net between them: nothing is carried out twice, on whichever node, every
# answer is the right one, no key is stuck, nothing is left behind.

use strict;
use warnings;

use lib 't/lib', 'bench/lib';

use Torture::Test;

torture(redis => 1);
