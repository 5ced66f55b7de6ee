//! The network between the nodes, whose links this command can spoil.
//!
//! A rule belongs to an ordered pair of nodes and says what happens to what the first sends to the second,
//! whichever of the two has made the connection. Rules of several faults add up. How rules are enforced is
//! the business of [`proxy`] and [`namespaces`].

pub(in crate::e2e::chaos) mod namespaces;
pub(crate) mod proxy;
mod pump;
mod rules;

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use self::namespaces::Namespaces;
use self::proxy::Proxies;
pub(crate) use self::rules::{Effects, Link, Passage, Rule};

/// The links of a cluster.
#[derive(Debug)]
pub(crate) enum Network {
    Proxies(Proxies),
    Namespaces(Namespaces),
}

/// Links of one fault and their rule.
pub(crate) type Spoiled = BTreeMap<Link, Rule>;

impl Network {
    /// Makes these rules the only ones.
    pub(crate) fn apply(&mut self, faults: &[&Spoiled]) -> Result<()> {
        let rules = rules::combined(faults);
        match self {
            Self::Proxies(proxies) => {
                proxies.apply(rules);
                Ok(())
            }
            Self::Namespaces(namespaces) => namespaces.apply(&rules),
        }
    }

    /// What the rules have done so far.
    pub(crate) fn effects(&self) -> Result<Effects> {
        match self {
            Self::Proxies(proxies) => Ok(proxies.effects()),
            Self::Namespaces(namespaces) => namespaces.effects(),
        }
    }

    /// Resets every connection between these nodes.
    pub(crate) fn reset(&self, one: u64, other: u64) -> Result<()> {
        match self {
            Self::Proxies(proxies) => {
                proxies.reset(one, other);
                Ok(())
            }
            Self::Namespaces(_) => bail!("a packet filter resets no connections at a given moment"),
        }
    }

    /// Ends what `node` has connected for it alone: the other ends of the connections stay.
    pub(crate) fn half_open(&self, node: u64) -> Result<()> {
        match self {
            Self::Proxies(proxies) => {
                proxies.half_open(node);
                Ok(())
            }
            Self::Namespaces(_) => bail!("a packet filter does not know one end of a connection"),
        }
    }

    /// Ends what [`Network::half_open`] has left.
    pub(crate) fn close_half_open(&self) {
        if let Self::Proxies(proxies) = self {
            proxies.close_half_open();
        }
    }
}
