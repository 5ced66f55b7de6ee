//! What becomes of disks and stores: failed writes, no space, flipped bytes, older images, lost ends, and
//! stores that are gone.
//!
//! A failed write halts its chain on the node; a restart finds what the disk has. A damaged store must be
//! refused when it is opened or read, never taken for a sound one. Then it is the operator's
//! ([`super::operator`]): where newcomers can be given the chain, the node comes back with a new store.
//!
//! A torn last batch is no class of its own: a batch is whole or absent, by its checksum, so a crash that keeps
//! fewer batches is the same. Nor is a whole directory that is restored from a copy, with the mark of what was
//! synced: no node can tell it from itself, and ADR 0005 forbids it.

use super::cluster::{Cluster, Happening};
use super::invariants::{Verdict, Violation};
use super::script::Class;
use super::swarm::ApplicationKind;
use super::trace::Step;
use crate::reach::reach;
use crate::storage::memory::DamagedRecord;

/// What can become of a store.
const KINDS: [&str; 6] =
    ["flipped entry", FLIPPED_IN_USE, "flipped record", "lost end", "older image", "lost store"];

/// Bits that flip while the store is in use.
pub(super) const FLIPPED_IN_USE: &str = "flipped entry in use";

/// Entries in a row that are damaged at once: what shares a block of the disk.
const BLOCK_ENTRIES: u64 = 64;

impl Cluster {
    /// The next write of some node fails.
    pub(super) fn fail_write(&mut self) {
        let node = self.faults.disk_failure.below(self.swarm.nodes) as usize;
        if !self.happens(Class::WriteError) {
            return;
        }
        self.nodes[node].disk.fail();
        self.note(node, Step::Fault { what: "write error" });
    }

    /// Some node's disk is full for a while.
    pub(super) fn fill_disk(&mut self) {
        let node = self.faults.disk_failure.below(self.swarm.nodes) as usize;
        let for_us = self.faults.disk_failure.exponential(self.swarm.disks.full_for_us);
        if !self.happens(Class::DiskFull) {
            return;
        }
        self.nodes[node].disk.fill(true);
        self.note(node, Step::Fault { what: "disk full" });
        self.schedule.after(for_us, Happening::Freed(node));
    }

    /// A store is damaged, if the cluster survives it.
    pub(super) fn damage_any(&mut self) -> Verdict {
        let any = self.faults.damage.below(self.swarm.nodes) as usize;
        let kind = *self.faults.damage.pick(&KINDS);
        if !self.happens(Class::Damage) {
            return Ok(());
        }
        // A leader reads its log for those that lag behind; hardly anybody else reads.
        let reader = self.leader().filter(|_| kind == FLIPPED_IN_USE);
        let node = reader.unwrap_or(any);
        if self.nodes[node].refused.is_none() && self.survives_without(1 << node) {
            self.damage(node, kind)?;
        } else {
            reach!(AtlasForbidsDamage);
        }
        Ok(())
    }

    /// A node's store is damaged so that the next start finds it.
    pub(super) fn damage_at_rest(&mut self, node: usize) -> Verdict {
        let kind = *self.faults.damage.pick(&["flipped entry", "flipped record", "lost end", "lost store"]);
        self.damage(node, kind)
    }

    /// Something becomes of a node's store.
    fn damage(&mut self, node: usize, kind: &'static str) -> Verdict {
        if kind == FLIPPED_IN_USE {
            self.flip_entry(node, kind);
            return Ok(());
        }
        self.crash(node, kind)?;
        let chain = self.nodes[node].chain();
        let store = self.nodes[node].disk.store().clone();
        let done = match kind {
            "flipped entry" => {
                self.flip_entry(node, kind);
                return Ok(());
            }
            "flipped record" => {
                let records = [DamagedRecord::HardState, DamagedRecord::Applied, DamagedRecord::Application];
                let record = *self.faults.damage.pick(&records);
                // An application that keeps its own state does not read its record.
                let read = record != DamagedRecord::Application || self.nodes[node].kept.is_none();
                if read {
                    store.damage_record(chain, record);
                }
                read
            }
            "lost end" => {
                let entries = store.durable_view(chain, |image| image.entries().len() as u64).unwrap_or(0);
                let lost = 1 + self.faults.damage.below(8);
                if entries > 0 {
                    store.lose_tail(chain, lost);
                }
                entries > 0
            }
            "older image" => match self.nodes[node].former.take() {
                Some(former) => {
                    let round = |image: &crate::storage::memory::ChainImage| image.round();
                    let older = former.get(&chain).map(round) < store.durable_view(chain, round);
                    if older {
                        store.roll_back(former);
                    }
                    older
                }
                None => false,
            },
            _ => return self.lose_store(node),
        };
        if done {
            self.mark_damaged(node, kind);
        }
        Ok(())
    }

    fn mark_damaged(&mut self, node: usize, kind: &'static str) {
        self.nodes[node].damage = Some(kind);
        *self.counters.damages.entry(kind).or_default() += 1;
        self.note(node, Step::Fault { what: kind });
    }

    fn flip_entry(&mut self, node: usize, kind: &'static str) {
        let chain = self.nodes[node].chain();
        let store = self.nodes[node].disk.store().clone();
        let bounds = store.durable_view(chain, |image| (image.truncated().index, image.last().index));
        let Some((before, last)) = bounds.filter(|(before, last)| before < last) else { return };
        let first = self.faults.damage.between(before + 1, last);
        for index in first..=last.min(first + BLOCK_ENTRIES) {
            store.damage_entry(chain, index);
        }
        self.mark_damaged(node, kind);
    }

    /// The directory is gone. Where newcomers can be given the chain, the node begins anew at once; elsewhere its
    /// peers refuse it under its old name.
    pub(super) fn lose_store(&mut self, node: usize) -> Verdict {
        *self.counters.damages.entry("lost store").or_default() += 1;
        self.note(node, Step::Fault { what: "lost store" });
        match self.swarm.application {
            ApplicationKind::HashChain => self.begin_anew(node),
            ApplicationKind::Ledger => {
                self.nodes[node].refused = Some("its store is another one than its peers know".to_owned());
                Ok(())
            }
        }
    }

    /// A node that is down gets a new store and starts as a newcomer.
    pub(super) fn begin_anew(&mut self, node: usize) -> Verdict {
        let failed = |why: String| Violation::new("S17 opens what it wrote", why);
        let was_member = !self.invariants.silent_outsiders.is_outside(node);
        self.nodes[node].begin_anew(was_member).map_err(failed)?;
        self.invariants.begins_anew(node);
        self.note(node, Step::Begin { store: self.nodes[node].store_number });
        self.schedule.after(1_000, Happening::Start(node));
        Ok(())
    }

    /// Keeps how a node's disk is now, for a time when it comes back.
    pub(super) fn remember_disk(&mut self, node: usize) {
        let wanted = self.swarm.disks.damage_every_us.is_some() || self.swarm.applications.behind;
        if wanted && self.faults.damage.below(4) == 0 {
            self.nodes[node].former = Some(self.nodes[node].disk.store().disk_image());
        }
    }

    /// The ledger's records are not synced: in a crash they fall back to how they once were.
    pub(super) fn forget_blocks(&mut self, node: usize) {
        let falls_back = self.swarm.applications.behind && self.swarm.application == ApplicationKind::Ledger;
        if falls_back && let Some(former) = &self.nodes[node].former {
            let chain = self.nodes[node].chain();
            self.nodes[node].disk.store().forget_application(chain, former);
            self.invariants.monotonic.forgets_height(node);
        }
    }

    /// A node refuses to run on its store.
    pub(super) fn refuse(&mut self, node: usize, why: String) -> Verdict {
        if self.nodes[node].running.take().is_some() {
            self.invariants.stops(node);
            self.nodes[node].disk.crash()?;
        }
        self.counters.refusals += 1;
        self.note(node, Step::Refuse);
        self.nodes[node].refused = Some(why);
        Ok(())
    }

    /// A node that found nothing wrong with its store at open: there must be nothing wrong with it.
    pub(super) fn check_noticed(&mut self, node: usize) -> Verdict {
        let state = &mut self.nodes[node];
        let Some(kind) = state.damage.take() else { return Ok(()) };
        if state.disk.store().durable_view(state.chain(), |image| image.is_damaged()) == Some(false)
            && kind == FLIPPED_IN_USE
        {
            // It was overwritten or compacted before anybody read it.
            reach!(DamageOverwritten);
            return Ok(());
        }
        let detail = format!("n{} opens a store with a {kind} as if it were sound", node + 1);
        Err(Violation::new("S17 damage is noticed", detail))
    }
}
