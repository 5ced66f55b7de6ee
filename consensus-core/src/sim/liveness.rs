//! The second phase: faults have ended, and the cluster has to recover.
//!
//! In every second run at first only some nodes that hold a majority of every membership in use, while the
//! others are down or cut off; then all. Within a minute of simulated time one node leads and the others follow
//! it, at least ten more blocks are in the chain, no change of the membership is half done; in the end every
//! client has its answer, every ticket is answered, lost nodes are members again if they are wanted, and all
//! members have applied the same (our promise of liveness). Who was far behind may take longer while it makes
//! progress.
//!
//! If more is lost than the cluster survives, it has to stand still instead: nothing more is committed, and who
//! has lost something says so.

use super::cluster::{Cluster, Happening, RECOVERY_US};
use super::invariants::{Verdict, Violation};
use super::rng::{Rng, Stream};
use super::schedule::{MILLISECOND, SECOND};
use super::swarm::ApplicationKind;
use super::trace::Step;
use crate::reach::reach;

/// Blocks that must follow.
const BLOCKS_MIN: u64 = 10;

/// How long a node that lags behind may take for one more entry.
const PROGRESS_US: u64 = 10 * SECOND;

/// How long recovery may take at most, whoever makes progress.
const LONGEST_US: u64 = 10 * RECOVERY_US;

/// How often the condition is looked at.
const LOOK_EVERY_US: u64 = 100 * MILLISECOND;

/// How long what is under way may still be committed after too much was lost, and how long nothing may be then.
const STANDSTILL_US: u64 = 30 * SECOND;

impl Cluster {
    /// Ends all faults and waits until the cluster has recovered, or stands still.
    pub(super) fn recover(&mut self) -> Verdict {
        if self.swarm.disks.beyond && self.swarm.disks.damage_every_us.is_some() {
            self.lose_too_much()?;
            if self.stands_still {
                return self.stand_still();
            }
        }
        let mut rng = Rng::new(self.swarm.seed, Stream::Core, 0);
        let left_out = if self.swarm.core_first { self.draw_left_out(&mut rng) } else { 0 };
        if left_out != 0 {
            self.recover_core(left_out, rng.coin())?;
        } else {
            self.quieten(0, 0);
        }
        self.recover_all()
    }

    /// The others have to recover without these.
    fn recover_core(&mut self, left_out: u64, down: bool) -> Verdict {
        self.operator.rests = true;
        if down {
            for node in (0..self.nodes.len()).filter(|node| (left_out >> node) & 1 == 1) {
                self.crash(node, "left out")?;
            }
            self.quieten(0, left_out);
        } else {
            self.quieten(left_out, 0);
        }
        self.counters.cores += 1;
        let before = self.invariants.one_content_per_position.blocks().len() as u64;
        self.wait(|cluster| cluster.core_misses(left_out, before + BLOCKS_MIN))?;
        reach!(CoreRecovered);
        self.operator.rests = false;
        self.network.rejoin();
        self.left_down = 0;
        for node in (0..self.nodes.len()).filter(|node| (left_out >> node) & 1 == 1) {
            self.schedule.after(MILLISECOND, Happening::Start(node));
        }
        Ok(())
    }

    fn recover_all(&mut self) -> Verdict {
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_some() && self.nodes[node].is_damaged() {
                // What nobody has read yet is found by whoever looks through the whole store.
                self.crash(node, "scrub")?;
                self.schedule.after(MILLISECOND, Happening::Start(node));
            }
        }
        let before = self.invariants.one_content_per_position.blocks().len() as u64;
        self.wait(|cluster| cluster.missing(before + BLOCKS_MIN))?;
        for node in 0..self.nodes.len() {
            if let Some(running) = &self.nodes[node].running {
                let (height, hash) = running.application.tip();
                self.invariants.one_content_per_position.tip(node as u64 + 1, height, hash)?;
            }
        }
        Ok(())
    }

    /// Waits until nothing is missing; for a minute, or longer while somebody who was far behind goes on.
    fn wait(&mut self, missing: impl Fn(&mut Self) -> Option<String>) -> Verdict {
        let mut end_us = self.schedule.now_us() + RECOVERY_US;
        let last_us = self.schedule.now_us() + LONGEST_US;
        let mut slowest = 0;
        while let Some(words) = missing(self) {
            let now_us = self.schedule.now_us();
            let before = std::mem::replace(&mut slowest, self.slowest());
            if slowest > before && self.clients.retired() {
                // Who was far behind, with slow disks and small messages, may take long as long as it goes on. It may
                // be another one than before: a member that was taken out and comes back.
                end_us = end_us.max(now_us + PROGRESS_US).min(last_us);
            }
            if now_us >= end_us {
                return Err(Violation::new("L1 recovery", words));
            }
            self.run_until((now_us + LOOK_EVERY_US).min(end_us))?;
        }
        Ok(())
    }

    /// Ends all faults; the first mask of nodes stays without network, the second one down.
    fn quieten(&mut self, left_out: u64, left_down: u64) {
        self.quiet = true;
        self.left_down = left_down;
        self.trace.record(self.schedule.now_us(), 0, Step::Quiet);
        self.network.quieten(left_out);
        self.clients.quieten();
        for client in 0..self.clients.len() {
            let pause_us = self.clients.pause_us(client);
            self.schedule.after(pause_us, Happening::Begin { client });
        }
        let now_us = self.schedule.now_us();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.quieten();
            match self.nodes[node].running.as_mut() {
                Some(running) => {
                    running.busy_until_us = running.busy_until_us.min(now_us);
                    running.hangs_until_us = running.hangs_until_us.min(now_us);
                }
                None => self.schedule.after(MILLISECOND, Happening::Start(node)),
            }
            // A round or a task that was scheduled for the end of a pause comes then; this one comes at once.
            let process = self.process(node);
            self.schedule.after(MILLISECOND, Happening::Round(process));
            self.wake_application(process);
        }
    }

    /// Damages voters until the rest is no majority; nothing while a change of the membership is under way.
    fn lose_too_much(&mut self) -> Verdict {
        let Some(newest) = self.settled_membership() else { return Ok(()) };
        for node in 0..self.nodes.len() {
            if self.is_beyond(&newest) {
                break;
            }
            if self.is_sound(node) {
                self.damage_at_rest(node)?;
            }
            if self.is_sound(node) {
                // There was nothing in it yet that could be damaged.
                self.lose_store(node)?;
            }
        }
        self.stands_still = self.is_beyond(&newest);
        Ok(())
    }

    /// Nothing may be committed any more, and every node that has lost something has said so or is a newcomer.
    fn stand_still(&mut self) -> Verdict {
        self.counters.standstills += 1;
        self.operator.rests = true;
        self.quieten(0, 0);
        let settled_us = self.schedule.now_us() + STANDSTILL_US;
        self.run_until(settled_us)?;
        let committed = self.invariants.one_content_per_position.committed();
        self.run_until(settled_us + STANDSTILL_US)?;
        let later = self.invariants.one_content_per_position.committed();
        if later > committed {
            let detail = format!(
                "a majority has lost its stores, and the commit index goes on from {committed} to {later}; {}",
                self.standing()
            );
            return Err(Violation::new("L2 standstill", detail));
        }
        reach!(StoodStill);
        Ok(())
    }

    /// What the nodes that are not left out still miss. Clients go on.
    fn core_misses(&mut self, left_out: u64, height: u64) -> Option<String> {
        let blocks = self.invariants.one_content_per_position.blocks().len() as u64;
        if blocks < height {
            return Some(format!(
                "{blocks} blocks, {height} are due without {left_out:b}; {}",
                self.standing()
            ));
        }
        let followed = self.leader().is_some_and(|leader| {
            let Some(first) = self.nodes[leader].running.as_ref() else { return false };
            let term = first.status.term;
            (0..self.nodes.len()).filter(|node| (left_out >> node) & 1 == 0 && self.is_sound(*node)).all(
                |node| {
                    let running = self.nodes[node].running.as_ref();
                    let member = first.status.voters.contains(&(node as u64 + 1));
                    !member
                        || running.is_some_and(|running| {
                            running.status.term == term
                                && running.application.tip().0 >= height
                                && !running.status.joint
                        })
                },
            )
        });
        if followed { None } else { Some(format!("without {left_out:b}: {}", self.standing())) }
    }

    /// What has not recovered yet. Clients stop when there are blocks enough.
    fn missing(&mut self, height: u64) -> Option<String> {
        let blocks = self.invariants.one_content_per_position.blocks().len() as u64;
        if blocks < height {
            return Some(format!("{blocks} blocks, {height} are due; {}", self.standing()));
        }
        self.clients.retire();
        if !self.clients.content() {
            return Some(format!("a client waits for its answer; {}", self.standing()));
        }
        let agree = self.leader().is_some_and(|leader| {
            let shaped =
                self.swarm.application == ApplicationKind::Ledger || self.operator_is_content(leader);
            shaped && self.all_follow(leader)
        });
        let answered = self.nodes.iter().all(|node| match &node.running {
            Some(running) => running.open_questions() == 0,
            None => node.refused.is_some(),
        });
        if agree && answered { None } else { Some(self.standing()) }
    }

    fn all_follow(&self, leader: usize) -> bool {
        let Some(first) = self.nodes[leader].running.as_ref() else { return false };
        let (status, tip) = (&first.status, first.application.tip());
        let member = |id: u64| status.voters.contains(&id) || status.learners.contains(&id);
        !status.joint
            && self.nodes.iter().filter(|node| member(node.id)).all(|node| match &node.running {
                Some(running) => {
                    running.status.term == status.term
                        && running.status.leader == Some(status.node_id)
                        && running.status.applied == status.commit
                        && running.status.last == status.last
                        && running.application.tip() == tip
                }
                None => node.refused.is_some(),
            })
    }

    /// What every member has applied, as the leader knows them; who was taken out may stay where it is.
    fn slowest(&self) -> u64 {
        let leader = self.leader().and_then(|leader| self.nodes[leader].running.as_ref());
        let Some(status) = leader.map(|leader| &leader.status) else { return 0 };
        let member = |id: u64| status.voters.contains(&id) || status.learners.contains(&id);
        let members =
            (0..self.nodes.len()).filter(|node| member(self.nodes[*node].id) && self.is_sound(*node));
        let applied =
            members.map(|node| self.nodes[node].running.as_ref().map_or(0, |running| running.status.applied));
        applied.min().unwrap_or(0)
    }

    fn standing(&self) -> String {
        let mut words = Vec::new();
        for node in &self.nodes {
            match (&node.running, &node.refused) {
                (None, Some(why)) => words.push(format!("n{} refuses its store: {why}", node.id)),
                (None, None) => words.push(format!("n{} is down", node.id)),
                (Some(running), _) => {
                    let (status, height) = (&running.status, running.application.tip().0);
                    words.push(format!(
                        "n{} {} term {} leader {:?} commit {} applied {} last {} height {height} open {} voters \
                         {:?} learners {:?}{} store {}",
                        node.id,
                        status.role.as_str(),
                        status.term,
                        status.leader,
                        status.commit,
                        status.applied,
                        status.last,
                        running.open_questions(),
                        status.voters,
                        status.learners,
                        if status.joint { " joint" } else { "" },
                        node.store_number,
                    ));
                }
            }
        }
        words.push(self.operator.in_words());
        words.join("; ")
    }
}
