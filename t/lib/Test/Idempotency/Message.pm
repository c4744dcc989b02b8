package Test::Idempotency::Message;

# A request or a response of HTTP/1, as it came over the wire.

use strict;
use warnings;


# Cuts the first message off $$in and returns it; undef while it is not there
# as a whole.  Options: eof, no more bytes will come; method, of the request
# that a response belongs to.

sub parse {
    my ($class, $in, %o) = @_;

    my $end = index $$in, "\r\n\r\n";
    return if $end < 0;

    my ($start, @lines) = split /\r\n/, substr $$in, 0, $end;

    my $self = bless {
        start  => $start,
        fields => [ map { [ /^([^:]*):[ \t]*(.*?)[ \t]*$/s ] } @lines ],
    }, $class;

    my $length = $self->_take_body($in, $end + 4, \%o);
    return if !defined $length;

    $self->{raw} = substr $$in, 0, $end + 4 + $length, '';

    return $self;
}


# What there is instead of a message, and why.

sub broken {
    my ($class, $why) = @_;

    return bless { start => '', fields => [], body => '', raw => '',
                   broken => $why }, $class;
}


# Sets body (and trailers) from a place on and returns how many bytes they took.
# It is tried with each piece that comes: what is not whole is not copied.

sub _take_body {
    my ($self, $in, $at, $o) = @_;

    my $there = length($$in) - $at;
    my $length = $self->header('Content-Length');

    if ($self->is_response && $self->_has_no_body($o->{method})) {
        $length = 0;

    } elsif (lc($self->header('Transfer-Encoding') // '') eq 'chunked') {
        return $self->_take_chunks(substr $$in, $at);

    } elsif (!defined $length) {
        return if $self->is_response && !$o->{eof};
        $length = $self->is_response ? $there : 0;
    }

    return if $there < $length;

    $self->{body} = substr $$in, $at, $length;

    return $length;
}


sub _has_no_body {
    my ($self, $method) = @_;

    return 1 if ($method // '') eq 'HEAD';
    return $self->status =~ /^(1..|204|304)$/;
}


sub _take_chunks {
    my ($self, $rest) = @_;

    my $body = '';
    my $at = 0;

    for ( ;; ) {
        my $end = index $rest, "\r\n", $at;
        return if $end < 0;

        my $size = hex +(substr($rest, $at, $end - $at) =~ /^([0-9a-f]+)/i)[0];
        $at = $end + 2;
        last if $size == 0;

        return if length $rest < $at + $size + 2;
        $body .= substr $rest, $at, $size;
        $at += $size + 2;
    }

    my $end = index $rest, "\r\n", $at;

    while ($end > $at) {
        my $line = substr $rest, $at, $end - $at;
        push @{ $self->{trailers} }, [ split /:\s*/, $line, 2 ];
        $at = $end + 2;
        $end = index $rest, "\r\n", $at;
    }

    return if $end < 0;

    $self->{body} = $body;

    return $end + 2;
}


sub is_response { return $_[0]{start} =~ m{^HTTP/} }

sub version { return ($_[0]{start} =~ m{(HTTP/[\d.]+)})[0] }
sub status  { return ($_[0]{start} =~ m{^HTTP/\S+ (\d+)})[0] // 0 }
sub reason  { return ($_[0]{start} =~ m{^HTTP/\S+ \d+ ?(.*)})[0] // '' }

sub method  { return ($_[0]{start} =~ m{^(\S+)})[0] }
sub uri     { return ($_[0]{start} =~ m{^\S+ (\S+)})[0] }

sub body     { return $_[0]{body} }
sub raw      { return $_[0]{raw} }
sub trailers { return @{ $_[0]{trailers} || [] } }
sub interim  { return @{ $_[0]{interim} || [] } }      # the 1xx before it
sub why      { return $_[0]{broken} }


# All values of a name in order; the first one; the names in order.

sub headers {
    my ($self, $name) = @_;

    return map { $_->[1] } grep { lc $_->[0] eq lc $name }
        @{ $self->{fields} };
}


sub header {
    my ($self, $name) = @_;

    return ($self->headers($name))[0];
}


sub header_names { return map { $_->[0] } @{ $_[0]{fields} } }


# One line for diagnostics.

sub summary {
    my ($self) = @_;

    return "no answer: $self->{broken}" if $self->{broken};

    my $body = substr $self->body, 0, 300;
    $body =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/ge;

    return "$self->{start} | $body";
}


1;
