//! Who may speak with this node, and what both sides must agree on before the first message.
//!
//! The caller presents itself with a [`Hello`]; the callee compares it with its own identity and answers
//! with a [`PeerWelcome`], which the caller compares in turn. A refusal names the first thing that differs,
//! with both values, so that either side's log is enough to see what is wrong.

use std::sync::Arc;

use consensus_core::ids::{Hash, NodeId, StoreIncarnation};
use consensus_core::storage::Identity;
use consensus_proto::peer::{Hello, PeerWelcome};
use thiserror::Error;

use super::book::{Book, Peer};
use crate::security::Certificate;

/// Version of the protocol between nodes. Changes only if old and new cannot talk at all.
pub const PROTOCOL_VERSION: u32 = 1;

/// Why a peer is refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{what}")]
pub struct Refused {
    /// What differs, as one word for a label.
    pub difference: &'static str,
    /// What differs, in words with both values.
    pub what: String,
}

impl Refused {
    fn new(difference: &'static str, theirs: impl std::fmt::Display, ours: impl std::fmt::Display) -> Self {
        Self {
            difference,
            what: format!("{difference} differs: the caller has {theirs}, this node has {ours}"),
        }
    }
}

/// This node as it presents itself to the peers of one chain.
#[derive(Clone, Debug)]
pub struct Handshake {
    identity: Identity,
    address: String,
    book: Arc<Book>,
}

impl Handshake {
    /// `address` is where the others reach this node.
    pub fn new(identity: Identity, address: String, book: Arc<Book>) -> Self {
        Self { identity, address, book }
    }

    /// The peers.
    pub fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// How this node presents itself to `to`.
    pub fn hello(&self, to: NodeId) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: self.identity.cluster.clone(),
            chain: self.identity.chain.clone(),
            chain_incarnation: self.identity.chain_incarnation,
            genesis_hash: self.identity.genesis_hash.as_bytes().to_vec().into(),
            node_id: self.identity.node_id.get(),
            store_incarnation: self.identity.store_incarnation.0.to_vec().into(),
            to_node_id: to.get(),
            address: self.address.clone(),
        }
    }

    /// How this node answers an accepted caller.
    pub fn welcome(&self) -> PeerWelcome {
        PeerWelcome {
            node_id: self.identity.node_id.get(),
            store_incarnation: self.identity.store_incarnation.0.to_vec().into(),
            answers_pings: true,
            pong: 0,
        }
    }

    /// Judges a caller; the peer it is. `certificate` is what it has shown: over TLS, whoever claims to be a
    /// node must have that node's public key.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn accept(&self, hello: &Hello, certificate: Option<&Certificate>) -> Result<&Arc<Peer>, Refused> {
        let ours = &self.identity;
        if hello.protocol_version != PROTOCOL_VERSION {
            return Err(Refused::new("protocol version", hello.protocol_version, PROTOCOL_VERSION));
        }
        if hello.cluster != ours.cluster {
            return Err(Refused::new("cluster", shown(&hello.cluster), shown(&ours.cluster)));
        }
        if hello.chain != ours.chain {
            return Err(Refused::new("chain", shown(&hello.chain), shown(&ours.chain)));
        }
        if hello.chain_incarnation != ours.chain_incarnation {
            return Err(Refused::new("chain incarnation", hello.chain_incarnation, ours.chain_incarnation));
        }
        if hello.genesis_hash.as_ref() != ours.genesis_hash.as_bytes() {
            let theirs = Hash::from_slice(&hello.genesis_hash)
                .map_or_else(|| format!("{} bytes", hello.genesis_hash.len()), |hash| hash.to_string());
            let ours = format!("{} (members or chain are configured differently)", ours.genesis_hash);
            return Err(Refused::new("genesis hash", theirs, ours));
        }
        if hello.to_node_id != ours.node_id.get() {
            let what =
                format!("the caller looks for node {}, this is node {}", hello.to_node_id, ours.node_id);
            return Err(Refused { difference: "node id", what });
        }
        let peer = NodeId::new(hello.node_id).and_then(|id| self.book.peer(id)).ok_or_else(|| Refused {
            difference: "member",
            what: format!(
                "node {} is no other member of the chain in this node's configuration",
                hello.node_id
            ),
        })?;
        if let Some(certificate) = certificate.filter(|shown| !peer.public_keys().contains(&shown.pin)) {
            let Certificate { subject, pin, .. } = certificate;
            let what = format!(
                "the caller says it is node {}, {subject} has the public key {pin}, which is not that node's",
                peer.node_id()
            );
            return Err(Refused { difference: "public key", what });
        }
        present_store(peer, &hello.store_incarnation)?;
        peer.heard();
        Ok(peer)
    }

    /// Judges the answer of the node that was called as `peer`.
    ///
    /// # Errors
    /// What differs.
    pub fn accept_welcome(&self, peer: &Peer, welcome: &PeerWelcome) -> Result<(), Refused> {
        if welcome.node_id != peer.node_id().get() {
            let (found, address) = (welcome.node_id, peer.address());
            let what =
                format!("{address} is node {found}, this node's configuration says node {}", peer.node_id());
            return Err(Refused { difference: "node id", what });
        }
        present_store(peer, &welcome.store_incarnation)?;
        peer.heard();
        Ok(())
    }
}

fn present_store(peer: &Peer, presented: &[u8]) -> Result<(), Refused> {
    let difference = "store incarnation";
    let presented = presented.try_into().map(StoreIncarnation).map_err(|_| Refused {
        difference,
        what: format!(
            "store incarnation of node {} has {} bytes, must have 16",
            peer.node_id(),
            presented.len()
        ),
    })?;
    peer.present_store(presented).map_err(|what| Refused { difference, what })
}

/// A name from the wire, quoted and cut off.
fn shown(name: &str) -> String {
    let cut: String = name.chars().take(64).collect();
    format!("{cut:?}")
}
