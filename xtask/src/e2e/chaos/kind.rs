//! The kinds of faults, and what each needs and leaves behind.

use std::fmt;

use clap::ValueEnum;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// kill -9 of the leader, restarted later
    KillLeader,
    /// kill -9 of a follower, restarted later
    KillFollower,
    /// kill -9 of any node, restarted later
    KillRandom,
    /// The leader stands still (SIGSTOP) and goes on
    PauseLeader,
    /// A follower stands still and goes on
    PauseFollower,
    /// The leader is asked to end (SIGTERM) and started again
    RestartLeader,
    /// A follower is asked to end and started again
    RestartFollower,
    /// A node is killed with -9 and restarted again and again, about once a second
    CrashLoop,
    /// kill -9 of all nodes at once
    PowerCut,
    /// All links deliver late, each piece by another time
    Delay,
    /// One direction of a node's links delivers nothing
    OneWay,
    /// All links of a node are cut, with resets
    CutNode,
    /// The leader is alone, the others are a majority
    LeaderMinority,
    /// A follower is alone, the leader has the majority
    LeaderMajority,
    /// Two halves, neither of them a majority
    NoMajority,
    /// Connections that one end has given up and the other end has not
    HalfOpen,
    /// Connections are reset again and again
    Reset,
    /// All links of a node go up and down again and again
    Flap,
    /// The links of a node carry little
    Slow,
    /// Packets of all links get lost at random
    Loss,
    /// The file system below a node's data is full
    DiskFull,
    /// The file system below the leader's data takes nothing and lets nobody go
    DiskHangs,
}

/// How the network between the nodes is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Medium {
    /// Every link goes through a proxy of this command
    Proxy,
    /// Each node in a network namespace of its own, with packet filters; takes root
    Namespaces,
}

impl Kind {
    /// Whether `medium` can do it: a proxy sees no packets, and a packet filter neither keeps bytes for later
    /// nor knows one end of a connection from the other.
    pub(crate) fn is_possible(self, medium: Medium) -> bool {
        match medium {
            Medium::Proxy => self != Self::Loss,
            Medium::Namespaces => !matches!(self, Self::Delay | Self::HalfOpen | Self::Reset | Self::Slow),
        }
    }

    /// True if the nodes that it leaves alone are a majority that can go on meanwhile.
    pub(crate) fn leaves_majority(self) -> bool {
        !matches!(self, Self::PowerCut | Self::NoMajority)
    }

    /// True if others may overlap it. Nobody can end a process that waits for a disk.
    pub(crate) fn is_combinable(self) -> bool {
        !matches!(self, Self::PowerCut | Self::DiskHangs)
    }

    /// True if it is done to the small disk, which takes the right to mount.
    pub(crate) fn needs_disk(self) -> bool {
        matches!(self, Self::DiskFull | Self::DiskHangs)
    }

    /// True if it may overlap another one. There is one small disk.
    pub(crate) fn is_partner(self) -> bool {
        !matches!(self, Self::PowerCut | Self::DiskFull | Self::DiskHangs)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&typed(self))
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&typed(self))
    }
}

/// As one types it.
fn typed(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
