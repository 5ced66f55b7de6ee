//! Without a store: asking until there is a seat.

use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_proto::cita::exchange as wire;

use super::{ASK_EVERY, ASK_SELDOM, Keeper, Known, blocking};
use crate::application::controller::Configuration;
use crate::application::controller::agreement::{Roster, roster_from_wire, roster_to_wire};
use crate::cita::founding::{Decision, Founding};
use crate::cita::group::Group;
use crate::config::cita::address::{peer_ids, short};
use crate::transport::cita::{GroupId, Letter, Mail};

/// After this long without a seat it asks more seldom.
const ASK_OFTEN_FOR: Duration = Duration::from_secs(20);
/// A controller is asked where it is this often while there is no seat.
const PING_EVERY: Duration = Duration::from_millis(500);
/// The same on a node that is no validator.
const PING_SELDOM: Duration = Duration::from_secs(3);
/// Everybody on the network is asked this often by a node that looks for its seat.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(400);

impl Keeper {
    /// Asks until there is one; `None`: the node stops.
    pub(super) async fn look_for_seat(&mut self) -> anyhow::Result<Option<Group>> {
        self.seat.exchange.take_seat(self.incarnation, None);
        let (start, mut known, mut founding) = (Instant::now(), Known::default(), Founding::default());
        let mut asks = tokio::time::interval(ASK_EVERY);
        asks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut asked_at, mut ping_at) = (None::<Instant>, start);
        let mut ping = None;
        loop {
            let now = Instant::now();
            if ping.is_none() && now >= ping_at {
                ping = Some(self.seat.controller.ping());
            }
            tokio::select! {
                () = self.seat.stop.cancelled() => return Ok(None),
                Some(letter) = self.seat.letters.recv() => {
                    if let Some(group) = self.on_letter_without_seat(letter, &known).await? {
                        return Ok(Some(group));
                    }
                }
                Ok(()) = self.seat.hints.changed() => {
                    self.seat.hints.borrow_and_update();
                    ping_at = Instant::now();
                }
                answer = async { match &mut ping { Some(ping) => ping.await, None => std::future::pending().await } } => {
                    ping = None;
                    let is_validator = known.validators.contains(&self.own) || known.validators.is_empty();
                    ping_at = Instant::now() + if is_validator { PING_EVERY } else { PING_SELDOM };
                    match answer {
                        Ok((code, Some(configuration))) if code.0 == 0 => self.on_configuration(&mut known, &configuration),
                        Ok((code, _)) => self.seat.view.controller_lost(format!("the controller answers {code}")),
                        Err(error) => {
                            self.seat.view.controller_lost(format!("the controller does not answer: {error}"));
                        }
                    }
                }
                _ = asks.tick() => {
                    let pause = if start.elapsed() < ASK_OFTEN_FOR { ASK_EVERY } else { ASK_SELDOM };
                    if asked_at.is_some_and(|at| at.elapsed() + Duration::from_millis(1) < pause) {
                        continue;
                    }
                    asked_at = Some(Instant::now());
                    if let Some(group) = self.ask(&known, &mut founding).await? {
                        return Ok(Some(group));
                    }
                }
            }
        }
    }

    fn on_configuration(&self, known: &mut Known, configuration: &Configuration) {
        match peer_ids(&configuration.validators) {
            Ok(mut validators) => {
                validators.sort_unstable();
                let height = configuration.height;
                if known.validators != validators {
                    tracing::info!(height, validators = ?short(&validators), "the controller's validators");
                }
                *known = Known { height, validators };
                self.seat.view.controller_at(configuration);
            }
            Err(error) => {
                self.seat.view.looking(format!("validators of height {}: {error}", configuration.height));
            }
        }
    }

    /// One round of asking.
    async fn ask(&mut self, known: &Known, founding: &mut Founding) -> anyhow::Result<Option<Group>> {
        if known.validators.is_empty() {
            return Ok(None);
        }
        if !known.validators.contains(&self.own) {
            self.seat.view.looking("this node is no validator: it follows its controller".to_owned());
            return Ok(None);
        }
        for id in known.validators.iter().filter(|id| **id != self.own) {
            self.seat.exchange.mail(*id, Mail::Hello(self.hello(known)));
        }
        if self.announced_at.is_none_or(|at| at.elapsed() >= ANNOUNCE_EVERY) {
            self.announced_at = Some(Instant::now());
            self.seat.exchange.announce(self.hello(known));
        }
        let list = (known.validators.as_slice(), known.height);
        match founding.decide(self.own, self.incarnation, list, &self.heard, Instant::now()) {
            Decision::Ask(what) => self.seat.view.looking(format!("looking for the group: {what}")),
            Decision::WaitFor(group) => {
                self.seat.view.looking(format!("waiting to be admitted to group {group}"));
            }
            Decision::Found(roster) => {
                let group = GroupId(rand::random());
                let message = wire::Founding {
                    group: group.0.to_vec().into(),
                    voters: known.validators.iter().map(|id| id.get()).collect(),
                    founders: roster_to_wire(&roster),
                };
                let founded = self.found(group, &known.validators, roster.clone()).await?;
                for id in roster.keys() {
                    self.seat.exchange.mail(*id, Mail::Founding(message.clone()));
                }
                self.founding = Some(message);
                return Ok(Some(founded));
            }
        }
        Ok(None)
    }

    async fn found(&self, id: GroupId, voters: &[NodeId], roster: Roster) -> anyhow::Result<Group> {
        tracing::info!(group = %id, voters = ?short(voters), founders = roster.len(), "founding the chain's group");
        let (home, own, incarnation, voters) =
            (self.home.clone(), self.own, self.incarnation, voters.to_vec());
        blocking(move || home.found(own, incarnation, id, &voters, roster)).await
    }

    async fn on_letter_without_seat(
        &mut self,
        letter: Letter,
        known: &Known,
    ) -> anyhow::Result<Option<Group>> {
        self.note(&letter);
        match letter.mail {
            Mail::Hello(hello) => {
                if !hello.reply {
                    let answer = wire::Hello { reply: true, ..self.hello(known) };
                    self.seat.exchange.mail(letter.from, Mail::Hello(answer));
                }
                Ok(None)
            }
            Mail::Founding(founding) => self.on_founding(&founding, known).await,
            Mail::Invitation(invitation) => self.on_invitation(letter.group, &invitation).await,
            // For those that have a seat.
            Mail::Dismissal(_)
            | Mail::Candidate(_)
            | Mail::Verdict(_)
            | Mail::Report(_)
            | Mail::VoidRequest(_)
            | Mail::VoidPromise(_) => Ok(None),
        }
    }

    async fn on_founding(&self, founding: &wire::Founding, known: &Known) -> anyhow::Result<Option<Group>> {
        let group: Result<[u8; 16], _> = founding.group.as_ref().try_into();
        let (Ok(group), Ok(roster)) = (group, roster_from_wire(&founding.founders)) else { return Ok(None) };
        let voters: Vec<NodeId> = founding.voters.iter().filter_map(|id| NodeId::new(*id)).collect();
        let meant = roster.get(&self.own) == Some(&self.incarnation);
        if !meant || voters != known.validators || roster.len() <= voters.len() / 2 {
            return Ok(None);
        }
        self.found(GroupId(group), &voters, roster).await.map(Some)
    }

    async fn on_invitation(
        &self,
        group: Option<GroupId>,
        invitation: &wire::Invitation,
    ) -> anyhow::Result<Option<Group>> {
        let (Some(id), Ok(roster)) = (group, roster_from_wire(&invitation.roster)) else { return Ok(None) };
        if roster.get(&self.own) != Some(&self.incarnation) {
            return Ok(None);
        }
        tracing::info!(group = %id, "admitted to the chain's group");
        let (home, own, incarnation) = (self.home.clone(), self.own, self.incarnation);
        blocking(move || home.join(own, incarnation, id)).await.map(Some)
    }
}
