#!/usr/bin/perl

# A client that makes a new boundary for each try sends the same request; other
# parts, another order, other names are another request, which gets 422.

use lib 't/lib';
use Test::Idempotency;

my $t = Test::Idempotency->new(<<'EOF', backend => 'auto',
    idempotency           payments;
    client_max_body_size  8m;
EOF
    locations => <<'EOF');
    location /memory {
        client_body_buffer_size 4m;
        proxy_pass http://backend;
    }

    location /file {
        client_body_buffer_size 1k;
        proxy_pass http://backend;
    }

    location /headers {
        idempotency_fingerprint $request_uri $content_type;
        proxy_pass http://backend;
    }
EOF

my $keys = 0;
my @parts = ([ 'name="a"', '1' ], [ 'name="b"', "2\r\n--\r\n-" ]);
my @large = ([ 'name="f"; filename="f"', join('', map { chr } 0 .. 255) x 999 ],
             [ 'name="g"', "\r\n--" x 9999 ]);


# Parts, each a disposition and a content, behind such a boundary.

sub multipart {
    my ($boundary, @list) = @_;

    return join '', map({ "--$boundary\r\nContent-Disposition: form-data; "
                          . "$_->[0]\r\n\r\n$_->[1]\r\n" } @list),
        "--$boundary--\r\n";
}


sub request {
    my ($boundary, $body, %o) = @_;

    my $type = $o{type} // 'multipart/form-data; boundary=%s';

    return (headers => [ [ 'Content-Type', sprintf $type, $boundary ] ],
            $o{chunks} ? (chunked => [ unpack "(a$o{chunks})*", $body ])
                       : (body => $body));
}


for my $path ('/memory', '/file') {
    for my $list (\@parts, \@large) {
        my %one = (path => $path, key => 'key-' . ++$keys);
        my $first = $t->post(%one, request('xyz', multipart('xyz', @$list)));

        is_answer($first, 200, undef, "$path: a multipart");

        for my $boundary ('xyz', '----WebKitFormBoundary7', 'x', 'x' x 70) {
            is_replay($t->post(%one, request($boundary,
                                             multipart($boundary, @$list))),
                      200, $first->body, "is the same behind $boundary");
        }

        is_replay($t->post(%one, request("b'", multipart("b'", @$list),
                       type => 'multipart/form-data; boundary="%s"')),
                  200, $first->body, 'and behind one in quotes');

        # a boundary may lie across buffers

        is_replay($t->post(%one, request('abc', multipart('abc', @$list),
                                         chunks => $_)),
                  200, $first->body, "and in chunks of $_")
            for $list == \@parts ? (1 .. 9) : (997, 4093);
    }
}

# What is another request.

my ($p, $q) = @parts;
my $good = multipart('abc', @parts);

my @others = (
    [ 'another order',        multipart('abc', $q, $p) ],
    [ 'a part less',          multipart('abc', $p) ],
    [ 'a part more',          multipart('abc', @parts, $p) ],
    [ 'another name',         multipart('abc', [ 'name="A"', '1' ], $q) ],
    [ 'another content',      multipart('abc', [ 'name="a"', '0' ], $q) ],
    [ 'a byte of the next',   multipart('abc', [ 'name="a"', '12' ],
                                        [ 'name="b"', "\r\n--\r\n-" ]) ],
    [ 'a byte of the header', multipart('abc', [ "name=\"a\"\r\n\r\n", '1' ],
                                        $q) ],
    [ 'two parts in one',     multipart('abc', [ 'name="a"',
        "1\r\n--xyz\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n"
        . $q->[1] ]) ],
    [ 'a header in the content', "--abc\r\nContent-Disposition: form-data; "
        . "$p->[0]\r\n\r\n$p->[1]Content-Disposition: form-data; $q->[0]"
        . "\r\n--abc\r\n\r\n$q->[1]\r\n--abc--\r\n" ],
    [ 'a preamble',           "p\r\n$good" ],
    [ 'a line end in front',  "\r\n$good" ],
    [ 'an epilogue',          "$good." ],
    [ 'no last line end',     $good =~ s/\r\n\z//r ],
    [ 'no end',               $good =~ s/--\r\n\z//r ],
    [ 'no CR',                $good =~ tr/\r//dr ],
    [ 'another subtype',      $good, type => 'multipart/mixed; boundary=%s' ],
    [ 'a parameter',          $good,
      type => 'multipart/form-data; boundary=%s; charset=utf-8' ],
    [ 'two boundaries',       $good,
      type => 'multipart/form-data; boundary=abc; boundary=%s' ],
    [ 'no multipart',         $good, type => 'text/plain; boundary=%s' ],
);

for my $path ('/memory', '/file') {
    for (@others) {
        my ($name, $body, %o) = @$_;
        my %one = (path => $path, key => 'key-' . ++$keys);
        my $first = $t->post(%one, request('xyz', multipart('xyz', @parts)));

        is_problem($t->post(%one, request('abc', $body, %o)), 422,
                   'key-reused', "$path: another request by $name");
        is_replay($t->post(%one, request('abc', $good)), 200, $first->body,
                  'does no harm to the first');
    }
}

# What is not well formed is compared byte by byte, with its type.

for (
    [ 'cut',            '--%1$s' . "\r\n\r\na" ],
    [ 'without CR',     '--%1$s' . "\n\na\n" . '--%1$s--' ],
    [ 'of another kind', 'eur=1' ])
{
    my ($name, $form) = @$_;

    for my $path ('/memory', '/file') {
        my $body = $form =~ s{%1\$s}{xyz}gr . 'x' x 5000;
        my %one = (path => $path, key => 'key-' . ++$keys);
        my $first = $t->post(%one, request('xyz', $body));

        is_answer($first, 200, undef, "$path: a body that is $name");
        is_replay($t->post(%one, request('xyz', $body)), 200, $first->body,
                  'is the same as itself');
        is_replay($t->post(%one, request('xyz', $body, chunks => 7)), 200,
                  $first->body, 'in chunks, too');
        is_problem($t->post(%one, request('xyz', "$body.")), 422,
                   'key-reused', 'but not with another byte');
        is_problem($t->post(%one, request('abc', $body)), 422,
                   'key-reused', 'or another boundary');
    }
}

# Without the body in the fingerprint the boundary counts as ever.

my %plain = (path => '/headers', key => 'headers');
my $first = $t->post(%plain, request('xyz', multipart('xyz', @parts)));

is_answer($first, 200, undef, 'the type without the body');
is_problem($t->post(%plain, request('abc', $good)), 422, 'key-reused',
           'is compared with its boundary');

done_testing;
