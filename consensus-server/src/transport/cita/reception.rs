//! The way of what arrives: judged, told from what came before, put together, handed on.
//!
//! In that order, so that an envelope that is refused leaves no trace but a count: strangers can neither take
//! a member's numbers nor move its address. Raft messages go to the chain, everything else becomes a letter.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_proto::cita::exchange::{self, Envelope, RaftBatch, envelope::Body};
use prost::Message as _;

use super::envelope::{Seat, is_bloated};
use super::gate::{self, Sender, Trust};
use super::parts::Key;
use super::sender::{Led, Peer};
use super::{BEFORE_LARGE_MAX, Core, LARGE_LETTER_BYTES, Letter, Mail, SWEEP_EVERY, Sink};
use crate::telemetry::metrics::Refused;
use crate::transport::wire;

/// A sender of Raft messages that this node's chain listens to.
struct Admitted {
    trust: Trust,
    chain: Arc<dyn Sink>,
}

impl Core {
    /// Counts what was dropped, and says so now and then.
    pub(super) fn refuse(&self, cause: Refused, from: u64) -> bool {
        self.metrics.refused(cause);
        let reason = cause.as_str();
        match cause {
            Refused::Loopback => {}
            // An ordinary thing on a network that sends again, and while a group forms.
            Refused::Duplicate | Refused::OldSession | Refused::Chainless | Refused::Seatless => {
                tracing::debug!(from = %format_args!("{from:016x}"), reason, "envelope dropped");
            }
            _ => {
                if let Some(held_back) = self.refused_log[cause.number()].pass() {
                    tracing::warn!(from = %format_args!("{from:016x}"), reason, held_back, "envelope refused");
                }
            }
        }
        false
    }

    /// Judges an envelope and hands on what is in it.
    pub(super) fn admit(&self, origin: u64, envelope: Envelope) -> Result<(), Refused> {
        if self.stop.is_cancelled() {
            return Err(Refused::Seatless);
        }
        let seat = self.place().seat;
        let sender = gate::judge(&self.config, seat, &envelope)?;
        let mut body = envelope.body.ok_or(Refused::Malformed)?;
        // Before it is counted as come, so that strangers leave no trace.
        if let Body::Raft(batch) = &mut body {
            self.judge_member(&sender)?.trust.sift(batch)?;
        }
        let peer = self.peer(sender.node).ok_or(Refused::Crowded)?;
        // What is for everybody has no number, may come twice, and from an address that leads nowhere.
        let (for_all, origin) = if envelope.to == 0 { (true, 0) } else { (false, origin) };
        if !for_all {
            peer.heard().sessions.admit(sender.incarnation, sender.session, envelope.sequence)?;
        }
        let body = match body {
            Body::Part(part) => match self.admit_part(&sender, part)? {
                Some(body) => body,
                None => return Ok(()),
            },
            body => body,
        };
        self.admit_body(&sender, body)?;
        self.learn(&peer, &sender, origin);
        Ok(())
    }

    fn judge_member(&self, sender: &Sender) -> Result<Admitted, Refused> {
        let place = self.place();
        let seat = place.seat.ok_or(Refused::Seatless)?;
        let trust = gate::judge_member(seat, place.roster.as_deref(), sender)?;
        let chain = place.chain.clone().ok_or(Refused::Chainless)?;
        Ok(Admitted { trust, chain })
    }

    /// With the last piece comes the body of the whole, which is by the same sender.
    fn admit_part(&self, sender: &Sender, part: exchange::Part) -> Result<Option<Body>, Refused> {
        let key = Key {
            from: sender.node,
            incarnation: sender.incarnation,
            session: sender.session,
            message: part.message,
        };
        let whole = {
            let mut assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
            assembly.0.add(key, part, Instant::now())?
        };
        self.metrics.part_received();
        let Some(whole) = whole else { return Ok(None) };
        if is_bloated(&whole) {
            return Err(Refused::TooLarge);
        }
        let whole = Envelope::decode(whole).map_err(|_| Refused::Malformed)?;
        // Its own number does not count: its pieces have come once each.
        if gate::judge(&self.config, self.place().seat, &whole)? != *sender {
            return Err(Refused::Malformed);
        }
        match whole.body {
            None | Some(Body::Part(_)) => Err(Refused::Malformed),
            Some(body) => Ok(Some(body)),
        }
    }

    fn admit_body(&self, sender: &Sender, body: Body) -> Result<(), Refused> {
        let mail = match body {
            Body::Part(_) => return Err(Refused::Malformed),
            Body::Raft(batch) => return self.deliver(sender, batch),
            Body::Hello(hello) => Mail::Hello(hello),
            Body::Founding(founding) => Mail::Founding(founding),
            Body::Invitation(invitation) => Mail::Invitation(invitation),
            Body::Dismissal(dismissal) => Mail::Dismissal(dismissal),
            Body::Candidate(candidate) => Mail::Candidate(candidate),
            Body::Verdict(verdict) => Mail::Verdict(verdict),
            Body::Report(report) => Mail::Report(report),
            Body::VoidRequest(request) => Mail::VoidRequest(request),
            Body::VoidPromise(promise) => Mail::VoidPromise(promise),
        };
        let Sender { node: from, incarnation, group, .. } = *sender;
        let wait = self.letters.max_capacity() - self.letters.capacity();
        if mail.queued_bytes() > LARGE_LETTER_BYTES && wait >= BEFORE_LARGE_MAX {
            return Err(Refused::LettersFull);
        }
        let letter = Letter { from, incarnation, group, mail };
        self.letters.try_send(letter).map_err(|_| Refused::LettersFull)?;
        self.metrics.letter_received();
        Ok(())
    }

    fn deliver(&self, sender: &Sender, mut batch: RaftBatch) -> Result<(), Refused> {
        let Admitted { trust, chain } = self.judge_member(sender)?;
        trust.sift(&mut batch)?;
        let leads = trust == Trust::Stranger && batch.messages.iter().any(wire::is_leaders);
        let asks = batch.messages.iter().any(wire::is_request_for_vote);
        let messages = gate::open(&self.config, sender.node, batch)?;
        let peer = self.book().peers.get(&sender.node).cloned();
        if let Some(peer) = peer {
            peer.series().received_messages.inc_by(messages.len() as u64);
            if asks {
                peer.heard().asked = Some(sender.incarnation);
            }
            if leads {
                let admitted = self.member_store(sender.node);
                peer.heard().led = admitted.map(|admitted| Led { admitted, store: sender.incarnation });
            }
        }
        chain.deliver(sender.node, messages);
        Ok(())
    }

    /// The store that the roster names for a node.
    fn member_store(&self, node: NodeId) -> Option<StoreIncarnation> {
        self.place().roster.as_ref().and_then(|roster| roster.get(&node).copied())
    }

    /// What an accepted envelope tells of its sender; of a member, only if it is of the member's store, or of one
    /// that led.
    fn learn(&self, peer: &Peer, sender: &Sender, origin: u64) {
        let member = self.member_store(sender.node);
        let led = peer.heard().led.is_some_and(|led| led.store == sender.incarnation);
        if led || member.is_none_or(|store| store == sender.incarnation) {
            peer.on_heard();
            let mut heard = peer.heard();
            heard.seat = Some(Seat { incarnation: sender.incarnation, group: sender.group });
            if origin != 0 {
                heard.origin = (origin != sender.node.get()).then_some(origin);
            }
        }
        let mut assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(assembly.1) >= SWEEP_EVERY {
            assembly.1 = now;
            assembly.0.sweep(now);
        }
    }
}
