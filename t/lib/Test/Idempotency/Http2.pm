package Test::Idempotency::Http2;

# A request over HTTP/2, made by curl.

use strict;
use warnings;

use Test::Idempotency::Deadline;
use Test::Idempotency::Message;


sub available { return `curl --version 2>&1` =~ /\bHTTP2\b/ }


# Options: method, path, key, body, headers.

sub start {
    my ($class, $nginx, %o) = @_;

    my $name = 'http2.' . ++$nginx->{curls};
    my $file = $nginx->write_file("$name.body", $o{body} // '');
    my @fields = @{ $o{headers} || [] };

    push @fields, [ 'Idempotency-Key', $o{key} ] if defined $o{key};

    my @command = ('curl', '--silent', '--show-error',
        '--http2-prior-knowledge', '--max-time', LIMIT,
        '--dump-header', "$nginx->{dir}/$name.head",
        '--output', "$nginx->{dir}/$name.answer",
        $o{method} eq 'HEAD' ? '--head' : ('--request', $o{method}),
        (map { ('--header', "$_->[0]: $_->[1]") } @fields),
        defined $o{body} ? ('--data-binary', "\@$file") : (),
        'http://127.0.0.1:' . $nginx->http2_port . $o{path});

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        open STDERR, '>', "$nginx->{dir}/$name.error";
        exec @command or POSIX::_exit(127);
    }

    return bless { nginx => $nginx, name => $name, pid => $pid,
                   method => $o{method} }, $class;
}


sub response {
    my ($self) = @_;

    return $self->{response} ||= $self->_response;
}


sub _response {
    my ($self) = @_;

    my $file = sub { $self->{nginx}->read_file("$self->{name}.$_[0]") };

    waitpid $self->{pid}, 0;

    return Test::Idempotency::Message->broken('curl: ' . $file->('error'))
        if $? != 0;

    my ($head) = $file->('head') =~ m{(HTTP/2 (?!1\d\d).*\r\n\r\n)\z}s;
    $head .= $file->('answer');

    return Test::Idempotency::Message->parse(\$head,
        eof => 1, method => $self->{method});
}


# Breaks the connection off.

sub close {
    my ($self) = @_;

    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;

    return;
}


1;
