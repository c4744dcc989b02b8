#!/usr/bin/perl

# What README.md and docs/ say is what the code has: every directive with its
# contexts, variable, answer, counter and rule, and nothing else.  Links lead
# somewhere, files that are named exist, the synopsis works.

use strict;
use warnings;

use lib 't/lib';

use File::Basename qw(dirname);
use Test::More;

my $readme = slurp('README.md');
my @pages = ('README.md', glob('docs/*.md docs/decisions/*.md'));

my %status = (
    NGX_HTTP_BAD_REQUEST         => 400,
    NGX_HTTP_FORBIDDEN           => 403,
    NGX_HTTP_CONFLICT            => 409,
    NGX_HTTP_PRECONDITION_FAILED => 412,
    NGX_HTTP_SERVICE_UNAVAILABLE => 503,
);


subtest 'directives' => sub {
    my %known = directives();
    my $text = section('Directives');
    my %told = $text =~ /^### (\w+)\n(.*?)(?=^###? |\z)/msg;

    same([ keys %told ], [ keys %known ], 'are all there');
    is_deeply([ $text =~ /^### (\w+)$/mg ],
              [ directives_in_order() ], 'in the order of the source');

    for my $name (sort keys %told) {
        like($told{$name}, qr/^\| Syntax: \| \*\*$name\*\*.*[;}] \|$/m,
             "$name has its syntax");
        like($told{$name}, qr/^\| Default: \| (?:—|$name \S.*;) \|$/m,
             "$name has its default");
        like($told{$name}, qr/^\| Context: \| \Q$known{$name}\E \|$/m,
             "$name has its contexts");
    }

    my %changes = map { $_ => 1 } slurp('CHANGES') =~ /"(idempotency\w*)"/g;
    same([ keys %changes ], [ keys %known ], 'CHANGES has them all');
};


subtest 'variables' => sub {
    my ($vars) = source('http/ngx_http_idempotency_vars.c')
        =~ /^\} ngx_http_idempotency_vars\[\] = \{(.*?)^\};/ms;

    same([ rows('Variables', qr/`\$(\w+)` \| .*/) ], [ strings($vars) ],
         'are all there');

    my %words = words();
    my %kinds = problems();
    my ($told) = section('Variables')
        =~ /^\| `\$idempotency_status` \|(.*)\|$/m;

    same([ ticks($told), keys %kinds ], [ values %words ],
         '$idempotency_status has all of its words');
};


subtest 'answers' => sub {
    my %kinds = problems();
    my @told = map { join ' | ', @$_ }
        rows('Answers', qr/`([\w-]+)` \| (\d+) \| (.*?) \| (yes|no)/);

    same(\@told, [ values %kinds ], 'kind, status, title, retryable');

    my $code = source('http/ngx_http_idempotency_reject.c');

    same([ rows('Answers', qr/`(\w+)` \| [^|]*/) ],
         [ unique($code =~ /\\"(\w+)\\":/g) ], 'members');
};


subtest 'counters' => sub {
    my ($names) = source('store/ngx_idem_stat.c')
        =~ /ngx_idem_stat_names\[\w*\]\s*=\s*\{(.*?)^\};/ms;

    same([ rows('Status', qr/`(\w+)` \| .*/) ], [ strings($names) ],
         'are all there');

    my ($json) = section('Status') =~ /^```json\n(.*?)^```/ms;

    same([ grep { !/^(?:orders|first)$/ } $json =~ /"(\w+)":/g ],
         [ unique(source('http/ngx_http_idempotency_status.c')
                  =~ /\\"(\w+)\\":/g) ], 'members of the status');
};


subtest 'counters of a Redis' => sub {
    my $source = source('store/ngx_idem_redis_stat.c');
    my $text = section('Status of a Redis');

    my ($counts, $errors) = map {
        $source =~ /ngx_idem_redis_${_}_names\[\w*\]\s*=\s*\{(.*?)^\};/ms
    } qw(count error);

    same([ rows('Status of a Redis', qr/`(\w+)` \| .*/) ],
         [ strings($counts) ], 'commands');

    my ($kinds) = $text =~ /^`errors` are counted by kind: (.*?)\n\n/ms;
    same([ ticks($kinds) ], [ strings($errors) ], 'kinds of errors');

    my ($json) = $text =~ /^```json\n(.*?)^```/ms;
    same([ grep { !/^(?:sent|replied|timeout)$/ } $json =~ /"(\w+)":/g ],
         [ unique(source('http/ngx_http_idempotency_status_redis.c')
                  =~ /\\"(\w+)\\":/g) ], 'members of the status');
};


subtest 'rules' => sub {
    my $policy = source('core/ngx_idem_policy.c');
    my $fields = section('idempotency_hide_header');

    my ($refusals) = $policy =~ /_refusals\[\] = \{(.*?)\}/s;
    my ($told) = section('What becomes of a claim')
        =~ /did not carry the request out: ([\d ]+) \|/;

    is($told, join(' ', $refusals =~ /\d+/g), 'statuses that release');

    my ($default) = $fields =~ /^Not stored by default: (.*?)\n\n/ms;
    my ($never) = $fields =~ /^Never stored: (.*?)\n\n/ms;

    same([ ticks($default) ],
         [ map { table($policy, $_) } qw(names prefixes) ],
         'fields that are not stored by default');
    same([ ticks($never) ], [ table($policy, 'hop_by_hop') ],
         'fields that are never stored');
};


subtest 'links' => sub {
    for my $page (@pages) {
        my $text = slurp($page);
        my $dir = dirname($page);
        my @wrong;

        for my $target (without_code($text) =~ /\]\(([^)\s]+)\)/g) {
            next if $target =~ /^https?:/;

            my ($path, $anchor) = $target =~ /^([^#]*)(?:#(.*))?$/;
            my $file = $path eq '' ? $page : normal("$dir/$path");

            push @wrong, $target if !-e $file
                || defined($anchor)
                   && !grep { $_ eq $anchor } anchors(slurp($file));
        }

        is("@wrong", '', "$page: links");

        my @paths = grep { !-e }
            $text =~ m{(?<![\w./-])((?:\.ci|bench|docs|examples|src|t)/
                       [\w./-]*\w)}gx;
        is("@paths", '', "$page: files");

        my @targets = grep { slurp('Makefile') !~ /^$_:/m }
            $text =~ /(?:^|`)make ([a-z]+)/gm;
        is("@targets", '', "$page: targets of make");

        my @functions = grep { !defined_in_source($_) }
            $text =~ /`(ngx_\w+)\(\)`/g;
        is("@functions", '', "$page: functions");

        my $long = join ', ', grep { length > 80 && !/^\|/ } split /\n/, $text;
        is($long, '', "$page: width");
    }
};


subtest 'files' => sub {
    my $text = slurp('docs/architecture.md');

    is(join(' ', grep { index($text, "`$_`") < 0 } glob('src/*/*.c')), '',
       'docs/architecture.md has all of the sources');
};


subtest 'words' => sub {
    for my $page (@pages, 'CHANGES') {
        unlike(slurp($page), qr/exactly\s+once/i,
               "$page promises no more than can be had");
    }

    like($readme, qr/implements\s+draft-ietf-httpapi-idempotency-key-header-07/,
         'what is implemented is a draft');
};


subtest 'synopsis' => sub {
    my $nginx = Synopsis->new(section('Synopsis'));
    my @commands = $nginx->commands;

    is(scalar(@commands), 2, 'has two commands to try');

    $nginx->start;

    my ($first, $second) = map { scalar(qx($_ 2>/dev/null)) } @commands;
    my ($order) = $first =~ /^(order \w+)$/m;

    like($first, qr{^HTTP/1\.1 201 }, 'the first is answered');
    unlike($first, qr/^Idempotent-Replayed:/m, 'by the upstream');
    like($second, qr/^Idempotent-Replayed: true\r$/m, 'the second is a replay');
    like($second, qr/^\Q$order\E$/m, 'of the same order');

    is($nginx->stop, '0 but true', 'nginx ends');
    is(join('', $nginx->complaints), '', 'and has nothing to complain of');
};

done_testing;


# The sources.

sub slurp {
    my ($file) = @_;

    open my $in, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$in>;
}


# Without comments, adjacent strings being one.

sub source {
    my ($file) = @_;

    my $text = slurp("src/$file");

    $text =~ s{/\*.*?\*/}{}gs;
    $text =~ s/"\s*\n\s*"//g;

    return $text;
}


sub defined_in_source {
    my ($function) = @_;

    return grep { slurp($_) =~ /^$function\(/m } glob('*.c src/*/*.[ch]');
}


sub strings { return $_[0] =~ /ngx_string\("(\w+)"\)/g }
sub ticks   { return $_[0] =~ /`([^`]+)`/g }


sub table {
    my ($text, $name) = @_;

    my ($names) = $text =~ /ngx_idem_policy_$name\[\] = \{(.*?)^\};/ms;

    return $names =~ /"([^"]+)"/g;
}


sub commands_of_source {
    my ($commands) = source('http/ngx_http_idempotency_directives.c')
        =~ /ngx_http_idempotency_commands\[\] = \{(.*?)^\};/ms;

    return $commands =~ /ngx_string\("(\w+)"\),\s*([\w|]+),/g;
}


sub directives_in_order {
    my @commands = commands_of_source();

    return @commands[grep { $_ % 2 == 0 } 0 .. $#commands];
}


# name => contexts, as README.md has them

sub directives {
    my %commands = commands_of_source();

    for (values %commands) {
        $_ = /IDEMPOTENCY_ALL_CONF/  ? 'http, server, location'
           : /^NGX_HTTP_MAIN_CONF\|/ ? 'http'
           : /^NGX_HTTP_LOC_CONF\|/  ? 'location'
           :                           'contexts that this test does not know';
    }

    return %commands;
}


# NGX_IDEM_STAT_... => word of $idempotency_status

sub words {
    return source('http/ngx_http_idempotency_vars.c')
        =~ /\[NGX_IDEM_STAT_(\w+)\] = ngx_string\("([^"]+)"\)/g;
}


# kind => row of README.md

sub problems {
    my $text = source('http/ngx_http_idempotency_reject.c');
    my %words = words();
    my %kinds;

    my %of = reverse
        $text =~ /\[NGX_IDEM_STAT_(\w+)\]\s*=\s*&(\w+)/g;

    for my $name (keys %of) {
        my ($code, $title, $retryable) = $text
            =~ /\b$name\ =\ \{\s*(\w+),\s*ngx_string\("([^"]*)"\),
                \s*ngx_string\("[^"]*"\),\s*(\d),/x;
        my $kind = $words{ $of{$name} };

        $kinds{$kind} = join ' | ', $kind, $status{$code} // $code, $title,
                                    $retryable ? 'yes' : 'no';
    }

    return %kinds;
}


# README.md

sub section {
    my ($title) = @_;

    my ($level, $text) = $readme
        =~ /^(##+) \Q$title\E\n(.*?)(?=^##? |\z)/ms;
    die "README.md has no section \"$title\"\n" if !defined $text;

    $text =~ s/^### .*//ms if $level eq '###';

    return $text;
}


# The first cells of rows that are like this, or all that is captured of them.

sub rows {
    my ($title, $row) = @_;

    my @found = map { [ /^\| $row \|$/ ] } split /\n/, section($title);

    return map { @$_ == 1 ? $_->[0] : $_ } grep { @$_ } @found;
}


sub without_code {
    my ($text) = @_;

    return $text =~ s/^```.*?^```$//gmsr;
}


# The anchors of a page's headings, as GitHub makes them.

sub anchors {
    my ($text) = @_;

    my %seen;

    return map {
        my $anchor = lc =~ s/[^\w\s-]//gr =~ s/ /-/gr;
        my $n = $seen{$anchor}++;
        $n ? "$anchor-$n" : $anchor;
    } without_code($text) =~ /^#+ (.*)$/mg;
}


sub normal {
    my ($path) = @_;

    $path =~ s{^(?:\./)+}{};
    1 while $path =~ s{(?:^|(?<=/))(?!\.\./)[^/]+/\.\./}{};

    return $path;
}


sub unique {
    my %seen;

    return grep { !$seen{$_}++ } @_;
}


sub same {
    my ($told, $known, $name) = @_;

    return is(join("\n", sort @$told), join("\n", sort @$known), $name);
}


# An nginx that runs the synopsis: with ports, a module and directories of its
# own, and nothing else changed.

package Synopsis;

use parent 'Test::Idempotency::Nginx';


sub new {
    my ($class, $text) = @_;

    my ($conf) = $text =~ /^```nginx\n(.*?)^```/ms;
    my ($shell) = $text =~ /^```sh\n(.*?)^```/ms;

    return $class->SUPER::new(workers => 1, conf => $conf, shell => $shell);
}


sub commands {
    my ($self) = @_;

    $self->write_conf;

    return map { $self->_moved($_) } $self->{shell} =~ /^curl .*/mg;
}


sub _conf {
    my ($self) = @_;

    my $dir = $self->dir;
    my $module = Test::Idempotency::Nginx::module_file();
    my $load = $module ? "load_module $module;" : '';
    my $temp = join ' ', map { "${_}_temp_path $dir/$_;" }
        qw(client_body proxy fastcgi uwsgi scgi);
    my $conf = $self->_moved($self->{conf});

    $conf =~ s/^load_module modules\/\w+\.so;$/$load/m
        or die "the synopsis does not load the module\n";
    $conf =~ s/^http \{/http { access_log off; $temp/m;

    return "daemon off; pid nginx.pid; error_log error.log;\n$conf";
}


sub _moved {
    my ($self, $text) = @_;

    $text =~ s/127\.0\.0\.1:8080/127.0.0.1:$self->{port}/g;
    $text =~ s/127\.0\.0\.1:8081/127.0.0.1:$self->{status_port}/g;

    return $text;
}
