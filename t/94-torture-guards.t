#!/usr/bin/perl

# Requests that change one resource, whatever happens to clients, upstream and
# workers: the upstream has them one at a time, states and numbers go where they
# may go, a token is used once, nobody is kept out by nobody, and in the end no
# guard is held.

use strict;
use warnings;

use lib 't/lib', 'bench/lib';

use Torture::Test;

torture(guards => 1, seconds => 10);
