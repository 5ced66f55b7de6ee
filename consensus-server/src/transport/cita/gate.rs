//! Judges every envelope that arrives, before anybody sees what is in it.
//!
//! The network carries for whoever is connected to it, so an envelope is believed nothing: it must speak this
//! version, be meant for this node and store, and be of this chain. Raft messages must come from the very
//! store that the roster names for their sender, if it does, in this node's group, and be meant for this very
//! store: a store that was wiped or copied has forgotten its votes. Only what leaders say and requests for votes are
//! heard from any store: it may have been admitted where this node has not come to yet. Whether it came before is
//! told in [`super::sessions`]; what Raft messages say is judged by the replica.

use std::collections::BTreeMap;

use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::Message;
use consensus_proto::cita::exchange::{Envelope, RaftBatch, envelope::Body};

use super::envelope::{Seat, VERSION};
use super::{ExchangeConfig, GroupId};
use crate::telemetry::metrics::Refused;
use crate::transport::wire;

/// Where an envelope is from, as far as it says so itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sender {
    pub(super) node: NodeId,
    pub(super) incarnation: StoreIncarnation,
    pub(super) group: Option<GroupId>,
    pub(super) session: u64,
    /// The store of this node that it means.
    pub(super) means: Option<StoreIncarnation>,
}

/// What every envelope must satisfy.
pub(super) fn judge(
    config: &ExchangeConfig,
    seat: Option<Seat>,
    envelope: &Envelope,
) -> Result<Sender, Refused> {
    if envelope.version != VERSION {
        return Err(Refused::Version);
    }
    // First, because what this node sent to all comes back to it.
    if envelope.from == config.node.get() {
        return Err(Refused::Loopback);
    }
    let node = NodeId::new(envelope.from).ok_or(Refused::Sender)?;
    let for_all = envelope.to == 0 && matches!(envelope.body, Some(Body::Hello(_)));
    if envelope.to != config.node.get() && !for_all {
        return Err(Refused::Receiver);
    }
    let both_know = !envelope.chain.is_empty() && !config.chain.is_empty();
    if both_know && envelope.chain != config.chain {
        return Err(Refused::Chain);
    }
    let incarnation = sixteen(&envelope.from_incarnation)?.ok_or(Refused::Malformed)?;
    let means = sixteen(&envelope.to_incarnation)?.map(StoreIncarnation);
    let group = sixteen(&envelope.group)?.map(GroupId);
    let seat = seat.ok_or(Refused::Seatless)?;
    if means.is_some_and(|store| store != seat.incarnation) {
        return Err(Refused::ReceiverStore);
    }
    let incarnation = StoreIncarnation(incarnation);
    Ok(Sender { node, incarnation, group, session: envelope.session, means })
}

/// How much a sender of Raft messages is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    /// Everything: it is the store that the roster names, or the roster does not have the node.
    Member,
    /// What is heard from any store: the roster names another one, and may be behind.
    Stranger,
}

impl Trust {
    /// Leaves in a batch what is believed.
    ///
    /// # Errors
    /// Nothing is.
    pub(super) fn sift(self, batch: &mut RaftBatch) -> Result<(), Refused> {
        if self == Self::Stranger {
            batch.messages.retain(wire::is_heard_from_any_store);
            if batch.messages.is_empty() {
                return Err(Refused::SenderStore);
            }
        }
        Ok(())
    }
}

/// What Raft messages must satisfy beyond that. Of the group anybody may send whom the roster does not have:
/// it may have been added where this node has not come to yet.
pub(super) fn judge_member(
    seat: Seat,
    roster: Option<&BTreeMap<NodeId, StoreIncarnation>>,
    sender: &Sender,
) -> Result<Trust, Refused> {
    if seat.group.is_none() || sender.group != seat.group {
        return Err(Refused::Group);
    }
    if sender.means != Some(seat.incarnation) {
        return Err(Refused::ReceiverStore);
    }
    let known = roster.and_then(|roster| roster.get(&sender.node));
    Ok(if known.is_none_or(|store| *store == sender.incarnation) { Trust::Member } else { Trust::Stranger })
}

/// The messages of a batch, if each is from whom the envelope is, for this node, and of a known kind.
pub(super) fn open(config: &ExchangeConfig, from: NodeId, batch: RaftBatch) -> Result<Vec<Message>, Refused> {
    let open = |message: consensus_proto::raft::Message| {
        if message.from != from.get() || message.to != config.node.get() {
            return Err(Refused::Malformed);
        }
        wire::decode(message).map_err(|_| Refused::Malformed)
    };
    batch.messages.into_iter().map(open).collect()
}

/// 16 bytes or none.
fn sixteen(bytes: &[u8]) -> Result<Option<[u8; 16]>, Refused> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| Refused::Malformed)
}
