package Test::Idempotency::Check;

# What a test says of an answer: it is this one, it is a replay of this one,
# or it is a problem of this kind.  Each of them is one line of TAP.

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP ();
use Test::More ();

our @EXPORT = qw(is_answer is_replay is_problem);


my $uuid = qr/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/;

# retryable says what the member is, Retry-After what the field looks like

my %kinds = (
    'key-missing' => {
        title => 'Idempotency-Key is missing',
    },
    'key-invalid' => {
        title => 'Idempotency-Key is invalid',
    },
    'scope-missing' => {
        title => 'The request carries nothing that tells whose key this is',
    },
    'token-invalid' => {
        title => 'The token is unknown, expired or not yours',
    },
    'key-reused' => {
        title => 'Idempotency-Key is already used',
    },
    'in-flight' => {
        title => 'A request is outstanding for this Idempotency-Key',
        retry => qr/^1$/,
    },
    'outcome-unknown' => {
        title => 'The outcome of the first request is unknown',
    },
    'not-known-yet' => {
        kind => 'outcome-unknown',
        title => 'The outcome of the first request is unknown',
        retry => qr/^1$/,
    },
    'response-not-stored' => {
        title => 'The first request was carried out, its response was not '
                 . 'kept',
        original_status => 1,
    },
    'store-full' => {
        title => 'The idempotency store is full',
        retry => qr/^[1-9]\d*$/,
    },
    'store-unavailable' => {
        title => 'The idempotency store is unavailable',
        retry => qr/^[1-9]\d*$/,
    },
    'resource-busy' => {
        title => 'The resource is busy',
        retry => qr/^1$/,
    },
    'out-of-order' => {
        title => 'The request comes out of order',
    },
    'stale-version' => {
        title => 'The resource has another version',
    },
    'version-required' => {
        title => 'A version is required',
    },
);


# The answer of an upstream.  The body is text, a pattern, or undef: whatever.

sub is_answer {
    my ($from, $status, $body, $name) = @_;

    my $m = _message($from);
    my @wrong = _unlike($m, $status, $body);

    push @wrong, 'it is a replay' if defined $m->header('Idempotent-Replayed');

    return _say($m, $name, @wrong);
}


sub is_replay {
    my ($from, $status, $body, $name) = @_;

    my $m = _message($from);
    my $mark = join ', ', $m->headers('Idempotent-Replayed');
    my @wrong = _unlike($m, $status, $body);

    push @wrong, "Idempotent-Replayed is \"$mark\"" if $mark ne 'true';

    return _say($m, $name, @wrong);
}


sub is_problem {
    my ($from, $status, $kind, $name) = @_;

    my $m = _message($from);
    my $k = $kinds{$kind} || die "no such kind of problem: $kind\n";
    $kind = $k->{kind} || $kind;

    my $doc = eval { JSON::PP->new->utf8->decode($m->body) };

    my @wrong = _unlike($m, $status);

    push @wrong, ref $doc eq 'HASH' ? _wrong_members($doc, $status, $kind, $k)
                                    : 'the body is not a JSON object';
    push @wrong, _wrong_fields($m, $k);

    return _say($m, $name, @wrong);
}


sub _message {
    my ($from) = @_;

    return $from->can('response') ? $from->response : $from;
}


sub _unlike {
    my ($m, $status, $body) = @_;

    my @wrong;

    push @wrong, 'status is ' . $m->status . ", not $status"
        if $m->status != $status;

    push @wrong, 'the body is another one, of ' . length($m->body) . ' bytes'
        if ref $body ? $m->body !~ $body
                     : defined $body && $m->body ne $body;

    return @wrong;
}


sub _wrong_members {
    my ($doc, $status, $kind, $k) = @_;

    my %right = (
        type => sub { $_[0] =~ /^about:blank$|#\Q$kind\E$/ },
        title => sub { $_[0] eq $k->{title} },
        status => sub { $_[0] == $status },
        detail => sub { !ref $_[0] && $_[0] =~ /\w/ },
        instance => sub { $_[0] =~ /^urn:uuid:$uuid$/ },
        retryable => sub {
            JSON::PP::is_bool($_[0]) && !$_[0] == !$k->{retry}
        },
    );

    $right{original_status} = sub { $_[0] =~ /^[1-5]\d\d$/ }
        if $k->{original_status};

    return map { "member $_ is " . ($doc->{$_} // 'missing') }
        grep { !defined $doc->{$_} || !$right{$_}->($doc->{$_}) }
        sort keys %right;
}


sub _wrong_fields {
    my ($m, $k) = @_;

    my %right = (
        'Content-Type' => qr{^application/problem\+json$},
        'Content-Language' => qr/^en$/,
        'Cache-Control' => qr/^no-store$/,
        'Retry-After' => $k->{retry} || qr/^$/,
        'Idempotent-Replayed' => qr/^$/,
    );

    return map { "$_ is \"" . join(', ', $m->headers($_)) . '"' }
        grep { join(', ', $m->headers($_)) !~ $right{$_} } sort keys %right;
}


sub _say {
    my ($m, $name, @wrong) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 2;

    Test::More::ok(!@wrong, $name)
        or Test::More::diag(join "\n", @wrong, $m->summary);

    return !@wrong;
}


1;
