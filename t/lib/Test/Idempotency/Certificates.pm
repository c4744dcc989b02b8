package Test::Idempotency::Certificates;

# Certificates for TLS, made by openssl when they are asked for first:
#
#   ca.pem                   who is trusted
#   server.pem, server.key   for redis.test and 127.0.0.1
#   expired.pem, expired.key the same, but its time is over
#   client.pem, client.key   for a client
#   other-ca.pem             somebody else, who has signed none of these
#   other.pem, other.key     a client of somebody else

use strict;
use warnings;

use File::Temp;
use POSIX ();

use constant NAMES => 'DNS:redis.test,IP:127.0.0.1';

my $shared;


sub shared { return $shared ||= $_[0]->new }


sub new {
    my ($class) = @_;

    my $dir = File::Temp->newdir('certificates-XXXXXX', TMPDIR => 1);
    my $self = bless { dir => $dir }, $class;

    $self->_issuer($_) for 'ca', 'other-ca';
    $self->_issue('ca', 'server', NAMES);
    $self->_issue('ca', 'expired', NAMES, -1);
    $self->_issue('ca', 'client', 'DNS:client.test');
    $self->_issue('other-ca', 'other', 'DNS:client.test');

    return $self;
}


sub file { return "$_[0]{dir}/$_[1]" }


sub _issuer {
    my ($self, $name) = @_;

    return $self->_openssl(qw(req -x509 -days 2), $self->_key($name),
        '-subj', "/CN=$name", '-addext', 'keyUsage=critical,keyCertSign',
        '-out', $self->file("$name.pem"));
}


sub _issue {
    my ($self, $issuer, $name, $names, $days) = @_;

    my $request = $self->file("$name.csr");
    my $extensions = $self->file("$name.ext");

    open my $out, '>', $extensions or die "$extensions: $!\n";
    print {$out} "subjectAltName=$names\n";
    close $out or die "$extensions: $!\n";

    $self->_openssl(qw(req -new), $self->_key($name), '-subj', "/CN=$name",
        '-out', $request);
    $self->_openssl(qw(x509 -req -days), $days // 2, '-in', $request,
        '-CA', $self->file("$issuer.pem"),
        '-CAkey', $self->file("$issuer.key"), '-CAcreateserial',
        '-extfile', $extensions, '-out', $self->file("$name.pem"));

    return;
}


sub _key {
    my ($self, $name) = @_;

    return (qw(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout),
            $self->file("$name.key"));
}


sub _openssl {
    my ($self, @arguments) = @_;

    my $log = $self->file('openssl.log');
    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $log;
        open STDERR, '>&', \*STDOUT;
        exec 'openssl', @arguments or POSIX::_exit(127);
    }

    local $?;
    waitpid $pid, 0;
    return if $? == 0;

    open my $in, '<', $log or die "openssl: $!\n";
    die 'openssl ', join("\n", "@arguments", <$in>);
}


1;
