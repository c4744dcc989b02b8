package Test::Idempotency::Memory;

# The memory of an nginx, which runs out on command: t/fail/fail_malloc.c.

use strict;
use warnings;

use Cwd qw(getcwd);
use Fcntl qw(SEEK_SET);
use File::Temp;

use constant {                          # places in the file
    COUNTDOWN => 0,
    LASTING   => 1,
    CALLS     => 2,
    FAILED    => 3,
    LIVING    => 4,
    FIELDS    => 5,
};


sub new {
    my ($class) = @_;

    my $library = getcwd . '/build/fail_malloc.so';
    die "$library: not built\n" if !-f $library;

    my $file = File::Temp->new(TEMPLATE => 'idempotency-XXXXXX', TMPDIR => 1);
    my $self = bless { file => $file, library => $library }, $class;

    $self->_set(0, (0) x FIELDS);

    return $self;
}


# What nginx is to be started with.  It has the sanitizer's allocator behind
# ours then, which the sanitizer would complain about.

sub env {
    my ($self) = @_;

    return {
        FAIL_MALLOC  => $self->{file}->filename,
        LD_PRELOAD   => $self->{library},
        ASAN_OPTIONS => join(':', $ENV{ASAN_OPTIONS} || (),
                             'verify_asan_link_order=0'),
    };
}


# From now on the n-th allocation fails; or, if it lasts, all from that on.

sub fail {
    my ($self, $n, $lasting) = @_;

    $self->_set(COUNTDOWN, 0, $lasting ? 1 : 0, 0, 0);
    $self->_set(COUNTDOWN, $n);

    return;
}


# There is enough again.  Returns how many have failed, of how many.

sub enough {
    my ($self) = @_;

    $self->_set(COUNTDOWN, 0);

    return ($self->_get)[FAILED, CALLS];
}


# Pieces of memory that nginx has.

sub living { return ($_[0]->_get)[LIVING] }


sub _set {
    my ($self, $place, @numbers) = @_;

    sysseek $self->{file}, 4 * $place, SEEK_SET;
    syswrite $self->{file}, pack 'L*', @numbers;

    return;
}


sub _get {
    my ($self) = @_;

    sysseek $self->{file}, 0, SEEK_SET;
    sysread $self->{file}, my $bytes, 4 * FIELDS;

    return unpack 'L*', $bytes;
}


1;
