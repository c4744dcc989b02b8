package Test::Idempotency::Hpack;

# Header fields of HTTP/2 to bytes and back, as far as a test and nginx need
# it: what we write is all literal, and nginx refers to the static table only.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(hpack hunpack);

my @names = (undef, qw(
    :authority :method :method :path :path :scheme :scheme
    :status :status :status :status :status :status :status
    accept-charset accept-encoding accept-language accept-ranges accept
    access-control-allow-origin age allow authorization cache-control
    content-disposition content-encoding content-language content-length
    content-location content-range content-type cookie date etag expect expires
    from host if-match if-modified-since if-none-match if-range
    if-unmodified-since last-modified link location max-forwards
    proxy-authenticate proxy-authorization range referer refresh retry-after
    server set-cookie strict-transport-security transfer-encoding user-agent
    vary via www-authenticate
));

my %values;
@values{8 .. 14} = qw(200 204 206 304 400 404 500);

# Codes of one length follow each other, in the order of their characters, and
# the first of a length follows the last of the one before.  Text has none
# longer than 15 bits.

my %huffman = _codes(
    5 => [ qw(0 1 2 a c e i o s t) ],
    6 => [ ' ', qw(% - . /), 3 .. 9, qw(= A _ b d f g h l m n p r u) ],
    7 => [ ':', 'B' .. 'W', qw(Y j k q v w x y z) ],
    8 => [ '&', '*', ',', qw(; X Z) ],
    10 => [ '!', '"', '(', ')', '?' ],
    11 => [ q('), '+', '|' ],
    12 => [ '#', '>' ],
    13 => [ "\0", qw($ @ [ ] ~) ],
    14 => [ '^', '}' ],
    15 => [ '<', '`', '{' ],
);


sub _codes {
    my %chars = @_;

    my ($code, $before, %codes) = (0, 5);

    for my $length (sort { $a <=> $b } keys %chars) {
        $code <<= $length - $before;
        $before = $length;
        $codes{ sprintf "%0*b", $length, $code++ } = $_
            for @{ $chars{$length} };
    }

    return %codes;
}


# A block of fields, given as pairs.

sub hpack {
    return join '', map { "\0" . _string($_->[0]) . _string($_->[1]) } @_;
}


sub _string {
    my ($text) = @_;

    my $length = length $text;
    die "a field of $length bytes\n" if $length > 127 + 127;

    return ($length < 127 ? chr $length : pack 'CC', 127, $length - 127)
           . $text;
}


# The pairs of a block.

sub hunpack {
    my ($block) = @_;

    my @fields;

    while (length $block) {
        my $first = ord $block;

        if ($first & 0x80) {
            my $i = _take_number(\$block, 7);
            push @fields, [ $names[$i] // die("field $i\n"), $values{$i} ];

        } elsif (($first & 0xe0) == 0x20) {
            _take_number(\$block, 5);

        } else {
            my $i = _take_number(\$block, $first & 0x40 ? 6 : 4);
            my $name = $i ? $names[$i] // die("field $i\n")
                          : _take_string(\$block);
            push @fields, [ $name, _take_string(\$block) ];
        }
    }

    return @fields;
}


sub _take_number {
    my ($in, $bits) = @_;

    my $most = (1 << $bits) - 1;
    my $n = $most & ord substr $$in, 0, 1, '';
    return $n if $n < $most;

    for (my $shift = 0; ; $shift += 7) {
        my $byte = ord substr $$in, 0, 1, '';
        $n += ($byte & 0x7f) << $shift;
        return $n if $byte < 0x80;
    }
}


sub _take_string {
    my ($in) = @_;

    my $coded = ord($$in) & 0x80;
    my $bytes = substr $$in, 0, _take_number($in, 7), '';
    return $bytes if !$coded;

    my ($text, $code) = ('', '');

    for my $bit (split //, unpack 'B*', $bytes) {
        $code .= $bit;
        next if !defined $huffman{$code};

        $text .= $huffman{$code};
        $code = '';
    }

    die "not text: $text, then $code\n" if $code !~ /^1{0,7}$/;

    return $text;
}


1;
