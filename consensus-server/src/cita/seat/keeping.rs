//! With a store: whether the group still has a place for this node, and a chance.

use std::time::{Duration, Instant};

use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_core::replica::{Role, Status};
use consensus_proto::cita::exchange as wire;
use tokio::sync::mpsc;

use super::{ASK_EVERY, ASK_SELDOM, Keeper};
use crate::chain::ChainHandle;
use crate::cita::founding::{Chance, LostGroup, superseded};
use crate::config::cita::address::Short;
use crate::transport::cita::{GroupId, Letter, Mail};

/// How often the group is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After this long without a leader the others are asked what has become of them.
const LEADERLESS_MAX: Duration = Duration::from_secs(2);
/// A newcomer to whom nobody sends a snapshot for this long starts anew.
const NEWCOMER_MAX: Duration = Duration::from_secs(20);
/// A group that makes no blocks for this long, or three intervals, may not be the chain's any more.
const NO_BLOCKS_MAX: Duration = Duration::from_secs(10);
/// Two dismissals count if they lie this far apart.
const DISMISSED_FOR: Duration = Duration::from_secs(3);

/// What a member watches.
struct Watch {
    group: GroupId,
    since: Instant,
    leader_at: Instant,
    greeted_at: Option<Instant>,
    dismissed_since: Option<Instant>,
    /// Heights of the controller and of the newest agreed block.
    progress: (Option<u64>, u64),
    progress_at: Instant,
    lost: LostGroup,
}

impl Watch {
    fn new(group: GroupId) -> Self {
        let now = Instant::now();
        Self {
            group,
            since: now,
            leader_at: now,
            greeted_at: None,
            dismissed_since: None,
            progress: (None, 0),
            progress_at: now,
            lost: LostGroup::default(),
        }
    }
}

impl Keeper {
    pub(super) async fn keep_seat(
        &mut self,
        group: GroupId,
        handle: &ChainHandle,
        letters: &mpsc::Sender<Letter>,
    ) -> Option<String> {
        let mut watch = Watch::new(group);
        let mut look_at = tokio::time::Instant::now();
        loop {
            let reason = tokio::select! {
                () = self.seat.stop.cancelled() => return None,
                Some(letter) = self.seat.letters.recv() => {
                    let reason = self.on_letter_with_seat(&mut watch, handle, &letter);
                    // What does not fit is sent again by whoever still wants it.
                    let _ = letters.try_send(letter);
                    reason
                }
                () = tokio::time::sleep_until(look_at) => {
                    let status = handle.status();
                    let is_newcomer = status.voters.is_empty();
                    look_at = tokio::time::Instant::now() + if is_newcomer { ASK_EVERY } else { LOOK_EVERY };
                    self.look_after(&mut watch, &status)
                }
            };
            if reason.is_some() {
                return reason;
            }
        }
    }

    fn on_letter_with_seat(
        &mut self,
        watch: &mut Watch,
        handle: &ChainHandle,
        letter: &Letter,
    ) -> Option<String> {
        self.note(letter);
        match &letter.mail {
            Mail::Hello(hello) => {
                self.on_hello_with_seat(watch, &handle.status(), letter, hello);
                None
            }
            Mail::Dismissal(dismissal) if letter.group == Some(watch.group) => {
                let listed = self.known().validators.contains(&self.own);
                let since = *watch.dismissed_since.get_or_insert_with(Instant::now);
                (!listed || since.elapsed() >= DISMISSED_FOR).then(|| {
                    format!(
                        "node {} says that it is no member as of entry {}",
                        Short(letter.from),
                        dismissal.index
                    )
                })
            }
            _ => None,
        }
    }

    fn on_hello_with_seat(&mut self, watch: &Watch, status: &Status, letter: &Letter, hello: &wire::Hello) {
        let from = letter.from;
        if let Some(founding) = &self.founding
            && letter.group.is_none()
            && self.is_founder(from, letter.incarnation)
        {
            self.seat.exchange.mail(from, Mail::Founding(founding.clone()));
        }
        if !hello.reply {
            let (seated, led) = (status.is_member(self.own), self.seat.view.leader_of(status).is_some());
            let answer = wire::Hello { reply: true, seated, led, ..self.hello(&self.known()) };
            self.seat.exchange.mail(from, Mail::Hello(answer));
        }
        let stray = hello.seated && letter.group == Some(watch.group) && !status.is_member(from);
        if stray && status.role == Role::Leader {
            let dismissal = wire::Dismissal { index: status.applied };
            self.seat.exchange.mail(from, Mail::Dismissal(dismissal));
        }
    }

    fn is_founder(&self, id: NodeId, store: StoreIncarnation) -> bool {
        let seat = |seat: &wire::Seat| seat.node_id == id.get() && seat.incarnation.as_ref() == store.0;
        self.founding.as_ref().is_some_and(|founding| founding.founders.iter().any(seat))
    }

    /// Whether the group still has a place for this node, and a chance.
    fn look_after(&mut self, watch: &mut Watch, status: &Status) -> Option<String> {
        let now = Instant::now();
        if self.seat.view.leader_of(status).is_some() || status.halted.is_some() {
            watch.leader_at = now;
            watch.dismissed_since = None;
            watch.lost.reset();
        }
        if status.voters.is_empty() {
            if now.duration_since(watch.since) >= NEWCOMER_MAX {
                return Some("nobody has sent this newcomer a snapshot".to_owned());
            }
            self.greet(watch, &self.known().validators, status, now);
            return None;
        }
        if !status.is_member(self.own) {
            return Some("this node is no member any more".to_owned());
        }
        if now.duration_since(watch.leader_at) < LEADERLESS_MAX {
            self.seat.view.waits(None);
            return self.look_for_another_group(watch, status, now);
        }
        let voters: Vec<NodeId> = status.voters.iter().filter_map(|id| NodeId::new(*id)).collect();
        let mut all = voters.clone();
        all.extend(self.known().validators.into_iter().filter(|id| !voters.contains(id)));
        self.greet(watch, &all, status, now);
        match watch.lost.judge(self.own, watch.group, &voters, &self.heard, now) {
            Chance::Maybe(why) => {
                self.seat.view.waits(Some(format!("no leader: {why}")));
                None
            }
            Chance::None => Some("too few of the group's members still have their state".to_owned()),
        }
    }

    /// A group that is led and makes no blocks may have been left behind by the chain.
    fn look_for_another_group(&self, watch: &mut Watch, status: &Status, now: Instant) -> Option<String> {
        let controller = self.seat.view.controller_status();
        let progress = (controller.height, controller.agreed_height);
        let patience = NO_BLOCKS_MAX.max(3 * Duration::from_millis(controller.block_interval_ms));
        if watch.progress != progress {
            (watch.progress, watch.progress_at) = (progress, now);
        }
        if now.duration_since(watch.progress_at) < patience {
            return None;
        }
        let validators = self.known().validators;
        self.greet(watch, &validators, status, now);
        let other = superseded(watch.group, &validators, &self.heard, now)?;
        Some(format!("the chain goes on in group {other}, where most validators are"))
    }

    fn greet(&self, watch: &mut Watch, to: &[NodeId], status: &Status, now: Instant) {
        let (seated, led) = (status.is_member(self.own), self.seat.view.leader_of(status).is_some());
        let pause = if seated { ASK_SELDOM } else { ASK_EVERY };
        if watch.greeted_at.is_some_and(|at| now.duration_since(at) < pause) {
            return;
        }
        watch.greeted_at = Some(now);
        let hello = wire::Hello { seated, led, ..self.hello(&self.known()) };
        if !seated {
            // The leader that waits for it may be no validator any more.
            return self.seat.exchange.announce(hello);
        }
        for id in to.iter().filter(|id| **id != self.own) {
            self.seat.exchange.mail(*id, Mail::Hello(hello.clone()));
        }
    }
}
