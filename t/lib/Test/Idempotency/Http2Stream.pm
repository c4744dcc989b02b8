package Test::Idempotency::Http2Stream;

# A request over HTTP/2 and what has come of its answer; see
# Test::Idempotency::Http2Client.

use strict;
use warnings;

use Time::HiRes qw(time);

use Test::Idempotency::Deadline;
use Test::Idempotency::Message;


sub new {
    my ($class, $connection, $id, $method) = @_;

    return bless { connection => $connection, id => $id, method => $method,
                   heads => [], body => '' }, $class;
}


sub response {
    my ($self) = @_;

    return $self->{response} ||= $self->_response(time + LIMIT);
}


sub _response {
    my ($self, $end) = @_;

    my $c = $self->{connection};

    while (!$self->{end}) {
        my $why = $self->{broken} || $c->{eof};

        return Test::Idempotency::Message->broken(
            join ', ', $why, $c->{said} // (), length($self->{body}) . ' bytes')
            if $why;

        $c->_pump($end) or return Test::Idempotency::Message->broken(
            "nothing more within @{[ LIMIT ]} s");
    }

    return $self->_message;
}


# The answer as if it had come over HTTP/1: header names are lower case.

sub _message {
    my ($self) = @_;

    my ($head, $trailers) = @{ $self->{heads} };
    my %pseudo = map { @$_ } grep { $_->[0] =~ /^:/ } @$head;

    my $text = join "\r\n", "HTTP/2 $pseudo{':status'} ",
        (map { "$_->[0]: $_->[1]" } grep { $_->[0] !~ /^:/ } @$head),
        '', $self->{body};

    my $m = Test::Idempotency::Message->parse(\$text, eof => 1,
                                              method => $self->{method})
        || return Test::Idempotency::Message->broken('not all of the body');

    $m->{trailers} = $trailers;

    return $m;
}


# Whether something has come by now.

sub answered {
    my ($self) = @_;

    $self->{connection}->_pump(time) if !$self->{connection}{eof};

    return @{ $self->{heads} } || $self->{end} || $self->{broken} ? 1 : 0;
}


sub cancel      { return $_[0]{connection}->cancel($_[0]{id}) }
sub open_window { return $_[0]{connection}->open_window($_[0]{id}) }

sub close  { return $_[0]{connection}->close }
sub reset  { return $_[0]{connection}->reset }
sub goaway { return $_[0]{connection}->goaway }


1;
