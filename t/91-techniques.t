#!/usr/bin/perl

# Every configuration that docs/techniques.md and README.md show is one that
# nginx takes, without a word; and whatever the page of techniques promises a
# section, a directive or a test for has one.

use lib 't/lib';
use Test::Idempotency;

my $page = 'docs/techniques.md';

my %http = map { $_ => 1 } qw(idempotency_zone idempotency_redis map server
                              idempotency_states idempotency_json upstream
                              idempotency_form);

# What a certificate or a secret might be; it is read at start.

my $secret = 'sixteen bytes or more';


sub slurp {
    my ($file) = @_;

    open my $in, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$in>;
}


# The blocks of a page, each with its first line.

sub blocks {
    my ($file) = @_;

    my $text = slurp($file);
    my @blocks;

    while ($text =~ /^```nginx\n(.*?)^```/msg) {
        my $line = 1 + substr($text, 0, $-[1]) =~ tr/\n//;
        push @blocks, [ $line, $1 ];
    }

    return @blocks;
}


# A line of dots is whatever else stands there; files are ours.

sub statements {
    my ($block) = @_;

    my $plain = qr/(?:"[^"]*"|[^"{};])+/;

    $block =~ s/^\s*\.\.\.$//mg;
    $block =~ s{/etc/nginx/}{}g;

    my @found = $block =~ /\G\s*(\w+$plain?(?:;|(?:\{(?:$plain|;|(?1)|
                           \{(?:$plain|;)*\})*\})))/xg;
    my $rest = $block;
    $rest =~ s/\Q$_\E// for @found;

    die "this is no configuration:\n$rest\n" if $rest =~ /\S/;

    return @found;
}


# The frame that a block needs, as options of a test: what it names and does
# not declare, and the level that each of its lines belongs to.

sub frame {
    my ($block) = @_;

    my (@http, @server);

    for (statements($block)) {
        my ($name) = /^(\w+)/;
        push @{ $http{$name} ? \@http : \@server }, $_;
    }

    my %zones = map { $_ => 1 } $block =~ /^\s*idempotency\s+(\w+);/mg, 'orders';
    my %redis = map { $_ => 1 } $block =~ /\bredis=(\w+)/g;
    my %shops = map { $_ => 1 } $block =~ m{http://(\w+)[/;]}g;

    delete $zones{$_} for 'off', $block =~ /zone=(\w+):/g;
    delete $redis{$_} for $block =~ /idempotency_redis\s+(\w+)/g;
    delete $shops{$_} for 'backend', $block =~ /upstream\s+(\w+)/g;

    my @needs = (
        map({ "idempotency_redis $_ { server 127.0.0.1:9; }" } keys %redis),
        map({ "upstream $_ { server 127.0.0.1:9; }" } keys %shops));

    my %files = map { $_ => $secret } $block =~ m{\b(?:password_file|
        idempotency_token_secret)\s+(?:/etc/nginx/)?([\w.]+)}xg;

    return (join("\n", @server), http => join("\n", @needs, @http),
            zone => [ map { "zone=$_:1m" } keys %zones ], files => \%files);
}


for my $file ($page, 'README.md') {
    for (blocks($file)) {
        my ($line, $block) = @$_;

        next if $block =~ /^load_module/;      # t/91-docs.t starts that one

        my ($directives, %frame) = frame($block);
        conf_works($directives, undef, "$file:$line: nginx takes it", %frame);
    }
}

# Whoever mistypes one is told.

for (
#     line                                    message
    [ 'idempotency_serialise $uri;',          qr/unknown directive/    ],
    [ 'idempotency_serialize $uri wiat=5s;',  qr/"wiat=5s"/            ],
    [ 'idempotency_valid 2xx 24x;',           qr/"24x"/                ],
    [ 'idempotency_state order $uri paid;',   qr/is not declared/      ],
)
{
    my ($directives, %frame)
        = frame("location /x { idempotency orders;\n$_->[0]\n}");

    conf_fails($directives, $_->[1], "a mistake is noticed: $_->[0]", %frame);
}

# The page itself.

my $text = slurp($page);
my $readme = slurp('README.md');
my %sections = $text =~ /^## ([^\n]*)\n(.*?)(?=^## |\z)/msg;

my ($table) = $text =~ /^(\| Technique \|.*?)\n\n/ms;
my (undef, undef, @rows) = map { [ split / \| /, s/^\| | \|$//gr ] }
    split /\n/, $table;

is(scalar(@rows), keys(%sections) - 1, 'every section is in the table');

for (@rows) {
    my ($technique, $directives, $section, $tests) = @$_;
    my ($title) = $section =~ /^\[(.*)\]/;
    my $body = $sections{$title} // '';
    my @names = grep { !/=$/ } $directives =~ /`(\$?[\w-]+)/g;

    is(join(' ', grep { index($readme, $_) < 0 } @names), '',
       "$technique: README.md knows it");
    is(join(' ', grep { index($body, $_) < 0 } @names), '',
       "$technique: its section speaks of it");
    is(join(' ', grep { $body !~ /^\*$_/m }
            'Holds\.\*', 'Stays with the upstream\.\*', 'Avoids:\*'), '',
       "$technique: its section is complete");
    cmp_ok(scalar($body =~ /^```nginx/m), '==', 1, "$technique: shows it");
    is(join(' ', grep { !-e } $tests =~ /`(t\/[^`]+)`/g), '',
       "$technique: has tests");
}

# Traps have tests: the name of a subtest stands behind that of the file.

my @traps = $sections{Traps} =~ /^\| (?!Trap|---)(.*) \|$/mg;
my @named;

cmp_ok(scalar(@traps), '>=', 7, 'there are seven traps');

for (@traps) {
    my ($trap, $tests) = (split / \| /)[0, -1];
    my ($file, $subtest) = $tests =~ /^`(t\/[^`]+)`(?:: (.*))?/;

    like($file // '', qr/^t\//, "$trap: has a test");
    next if !defined $subtest;

    like(slurp($file), qr/'\Q$subtest\E'\s*=>/, "$trap: which tells of it");
    push @named, $subtest;
}

my @laid = slurp('t/18-traps.t') =~ /^\s+\[ '([^']+)'\s+=> \\&/mg;
is(join("\n", sort @named), join("\n", sort @laid),
   'all traps that have a test are told of');

done_testing;
