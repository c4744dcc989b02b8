package Torture::Remains;

# What a run leaves behind.  When nobody asks any more, nothing runs and nobody
# waits, what is short-lived is gone to the last block, and workers hold no
# socket and no file of a request.

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(sleep);

use Test::Idempotency::Connection;

use Torture::Log;
use Torture::Places;

use constant {
    PATIENCE => 20,         # seconds
    HEADERS  => 400,        # at most so many bytes of a record are no body
    BLOCK    => 128,
};


sub new {
    my ($class, $nginx, @redis) = @_;

    return bless { nginx => $nginx, wrong => [],
                   redis => { map { sprintf('%04X', $_) => 1 } @redis } },
        $class;
}


# The counters of the zones of all nodes together.

sub sum {
    my ($class, @nodes) = @_;

    my %zones;

    for my $zones (map { $_->zones || () } @nodes) {
        for my $name (keys %$zones) {
            my $counters = $zones->{$name}{counters};
            $zones{$name}{counters}{$_} += $counters->{$_}
                for keys %$counters;
        }
    }

    return \%zones;
}


sub wrong { return @{ $_[0]{wrong} } }
sub zones { return $_[0]{zones} }


# A new generation of workers takes care of what the dead ones have left, and
# the old ones end.  What a Redis has not been told is told, or of no use.

sub settle {
    my ($self) = @_;

    my $nginx = $self->{nginx};

    $self->_try('the last reload', sub { $nginx->reload; 1 });
    $self->_until('old workers still run', sub { !$nginx->old_workers });

    if ($REDIS) {
        $self->_until('Redis is not told all', sub {
            my $zones = $self->_status;
            return !grep { $_->{redis}{undelivered} } values %$zones;
        });

        sleep 3.5;                      # a lease of somebody who is dead
    }

    return !$self->wrong;
}


sub look {
    my ($self) = @_;

    for my $name (sort keys %ZONES) {
        $self->_until("zone $name has live leases or waiters", sub {
            my $z = $self->_zone($name);
            return !$z->{waiting} && !$z->{records}{running};
        }) && $self->_blocks($name);
    }

    $self->_until('a zone is not empty, though all is over', sub {
        my $zones = $self->_status;
        return !grep { $ZONES{$_}{brief}
                       && $zones->{$_}{free} != $zones->{$_}{blocks} }
            keys %ZONES;
    });

    $self->{zones} = $self->_status;

    $self->_until('workers have open sockets', sub { !$self->_sockets });
    $self->_files;

    return !$self->wrong;
}


sub _say { push @{ $_[0]{wrong} }, $_[1]; return 0 }


sub _try {
    my ($self, $what, $code) = @_;

    my $said = eval { $code->() };
    $self->_say("$what: $@") if $@;

    return $said;
}


sub _until {
    my ($self, $what, $code) = @_;

    my $end = now() + PATIENCE;

    while (now() < $end && !$self->wrong) {
        return 1 if $self->_try($what, $code);
        sleep 0.1;
    }

    return $self->wrong ? 0 : $self->_say($what);
}


sub _status {
    my ($self) = @_;

    my $m = Test::Idempotency::Connection->new($self->{nginx}->status_port)
        ->request(method => 'GET', path => '/idempotency_status')->response;

    return JSON::PP->new->utf8->decode($m->body)->{zones};
}


sub _zone { return $_[0]->_status->{ $_[1] } }


# The blocks of a zone are those of its records, and of guards, which nobody
# counts.

sub _blocks {
    my ($self, $name) = @_;

    my $z = $self->_zone($name);
    my $used = $z->{blocks} - $z->{free};
    my ($records, $done) = (0, $z->{records}{done});
    $records += $_ for values %{ $z->{records} };

    my $most = $records + $done * (1 + (MAX_RESPONSE + HEADERS) / BLOCK);

    $self->_say("zone $name: $used blocks, but $records records, $done of "
                . 'them done')
        if $used < $records + $done || (!$GUARDS
           && ($used > $most || ($records == 0 && $used)));

    return;
}


# Of the sockets of the workers, those that belong to a request: not the ones
# that listen, and not those between the processes.

sub _sockets {
    my ($self) = @_;

    my %known = map { $_ => 1 } _inodes('unix', sub { $_[6] }),
        _inodes('tcp', sub {
            return $_[3] eq '0A' || $self->{redis}{ $_[2] =~ s/.*://r }
                ? $_[9] : ();
        });
    my @found;

    for my $pid ($self->{nginx}->workers) {
        my @files = map { readlink // () } glob "/proc/$pid/fd/*";

        push @found, map { "$pid: $_" }
            grep { /^socket:\[(\d+)\]/ && !$known{$1} } @files;
    }

    return @found;
}


sub _inodes {
    my ($table, $inode) = @_;

    open my $in, '<', "/proc/net/$table" or return;
    <$in>;

    return map { $inode->(split) } <$in>;
}


# No worker holds a temporary file, and none lies around.  One that was killed
# between making and unlinking it has left an empty one.

sub _files {
    my ($self) = @_;

    my $dir = $self->{nginx}->dir;

    for my $pid ($self->{nginx}->workers) {
        my @files = map { readlink // () } glob "/proc/$pid/fd/*";

        $self->_say("a worker has $_ open")
            for grep { m{^\Q$dir\E/(?:client_body|proxy)/} } @files;
    }

    $self->_say("$_ was left")
        for grep { -s } glob "$dir/client_body/* $dir/proxy/*";

    return;
}


1;
