#!/usr/bin/perl

# Whatever happens to clients, upstream and workers, at any moment and all at
# once: nothing is carried out twice, every answer is the right one, no key is
# stuck, nothing is left behind.  bench/README.md tells how that is known.

use strict;
use warnings;

use lib 't/lib', 'bench/lib';

use Torture::Test;

torture();
