//! A node's writer and application at work.

use super::application::{ADMISSIONS, Taken};
use super::clients::Reply;
use super::cluster::{Cluster, Happening, Process};
use super::disk::{Completion, Group, Write};
use super::invariants::{Verdict, Violation};
use super::node::Task;
use super::swarm::{ApplicationKind, Boundary};
use super::trace::Step;
use crate::reach::reach;
use crate::replica::Event;
use crate::storage::{ApplicationWrite, LogEntry, Snapshot, WriteBatch};

impl Cluster {
    /// Hands a batch to a node's writer.
    pub(super) fn write(&mut self, process: Process, write: Write) {
        if let Some(time_us) = self.nodes[process.node].disk.submit(write) {
            reach!(SyncLongerThanAnElection, time_us > self.swarm.tick_us * self.swarm.election_ticks as u64);
            self.schedule.after(time_us, Happening::Written(process));
        }
    }

    /// A node's writer is done with a group.
    pub(super) fn written(&mut self, process: Process) -> Verdict {
        let node = process.node;
        if self.nodes[node].running_as(process.incarnation).is_none() {
            return Ok(());
        }
        let (completions, next_us) = match self.nodes[node].disk.complete()? {
            Group::Done(completions, next_us) => (completions, next_us),
            // The chain halts: nothing leaves it any more, and whoever watches over it starts it again.
            Group::Failed(why) => return self.crash(node, why),
        };
        if let Some(time_us) = next_us {
            self.schedule.after(time_us, Happening::Written(process));
        }
        self.note(node, Step::Written { completions: completions.len() });
        if self.crashes_at(node, Boundary::Written) {
            return self.crash(node, Boundary::Written.as_str());
        }
        self.check_durable(node)?;
        let promised = self.nodes[node].disk.promised();
        self.invariants.monotonic.durable(node, promised);
        for completion in completions {
            self.completed(process, completion);
        }
        Ok(())
    }

    /// Gives a node's application something to do.
    pub(super) fn assign(&mut self, process: Process, task: Task) {
        let Some(running) = self.nodes[process.node].running.as_mut() else { return };
        running.tasks.push_back(task);
        if running.tasks.len() == 1 {
            self.begin_task(process);
        }
    }

    fn begin_task(&mut self, process: Process) {
        let time_us = 5 + self.work[process.node].exponential(self.swarm.latencies.apply_mean_us);
        self.schedule.after(time_us, Happening::Worked(process));
    }

    /// An application that hung goes on.
    pub(super) fn wake_application(&mut self, process: Process) {
        let tasks = self.nodes[process.node].running_as(process.incarnation).map_or(0, |r| r.tasks.len());
        if tasks > 0 {
            self.begin_task(process);
        }
    }

    /// A node's application is done with its first task, or with a part of it.
    pub(super) fn worked(&mut self, process: Process) -> Verdict {
        let node = process.node;
        let part = self.work[node].draw();
        let now_us = self.schedule.now_us();
        let Some(running) = self.nodes[node].running_as(process.incarnation) else { return Ok(()) };
        if running.hangs_until_us > now_us {
            let at_us = running.hangs_until_us;
            self.schedule.at(at_us, Happening::Worked(process));
            return Ok(());
        }
        let Some(task) = running.tasks.pop_front() else { return Ok(()) };
        let boundary = match task {
            Task::Apply(mut entries) => {
                let count = 1 + (part % (2 * entries.len() as u64)) as usize;
                let rest = entries.split_off(count.min(entries.len()));
                if !rest.is_empty() {
                    running.tasks.push_front(Task::Apply(rest));
                }
                self.take_entries(process, &entries)?;
                Boundary::Applied
            }
            Task::Build => {
                let (index, data) = (running.application.index(), running.application.snapshot());
                let bytes = data.as_ref().map_or(0, |data| data.len());
                self.note(node, Step::SnapshotBuilt { index, bytes });
                self.give(process, Event::SnapshotBuilt { index, data });
                Boundary::Snapshot
            }
            Task::Install(snapshot) => {
                self.install(process, &snapshot)?;
                Boundary::Snapshot
            }
        };
        if self.crashes_at(node, boundary) {
            return self.crash(node, boundary.as_str());
        }
        if self.nodes[node].running.as_ref().is_some_and(|running| !running.tasks.is_empty()) {
            self.begin_task(process);
        }
        Ok(())
    }

    fn take_entries(&mut self, process: Process, entries: &[LogEntry]) -> Verdict {
        let node = process.node;
        let id = node as u64 + 1;
        let chain = self.nodes[node].chain();
        let Some(running) = self.nodes[node].running.as_mut() else { return Ok(()) };
        let before = running.application.index();
        let taken = running.application.apply(entries);
        self.invariants.apply_order.taken(node, before, running.application.index())?;
        let taken = taken.map_err(|why| Violation::new("S10 apply order", format!("n{id}: {why}")))?;
        let height = running.application.tip().0;
        let index = entries.last().map_or(0, |last| last.index);
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        self.invariants.ordered_and_bounded.takes(node, bytes);
        let mut told = Vec::new();
        for block in taken.blocks {
            for (client, number) in &block.canonical.transactions {
                if let Some(admitted) =
                    client.checked_sub(ADMISSIONS + 1).and_then(|node| self.admitted.get_mut(node as usize))
                {
                    *admitted = (*admitted).max(*number);
                }
            }
            let ids = block.canonical.transactions.iter();
            told.extend(ids.filter(|(client, number)| running.pool.told(*client, *number)).copied());
            self.invariants.block(node, block)?;
        }
        for (client, number) in told {
            let place = self.nodes[node]
                .running
                .as_ref()
                .and_then(|running| running.application.find(client, number));
            if let Some(place) = place {
                self.reply(client as usize, number, node, Reply::Committed(place));
            }
        }
        self.keep_state(node, &taken.writes);
        if !taken.writes.is_empty() {
            let mut batch = WriteBatch::new(chain);
            batch.application = taken.writes;
            self.write(process, Write::of_application(batch, height, None));
        }
        self.note(node, Step::Applied { index, height });
        self.give(process, Event::Applied { index });
        Ok(())
    }

    /// An application had lost blocks and made them anew from the log: they must be the same.
    pub(super) fn forgotten(&mut self, node: usize, caught_up: Taken) -> Verdict {
        reach!(ApplicationBehindAtStart, !caught_up.writes.is_empty());
        for block in caught_up.blocks {
            self.invariants.made_anew(node, block)?;
        }
        if let Some(running) = self.nodes[node].running.as_ref().filter(|_| !caught_up.writes.is_empty()) {
            let height = running.application.tip().0;
            let mut batch = WriteBatch::new(self.nodes[node].chain());
            batch.application = caught_up.writes;
            self.write(self.process(node), Write::of_application(batch, height, None));
        }
        Ok(())
    }

    /// An application that keeps its state by itself has it durable before anybody else has its records.
    fn keep_state(&mut self, node: usize, writes: &[ApplicationWrite]) {
        let own = self.swarm.applications.ahead && self.swarm.application == ApplicationKind::HashChain;
        if own && let Some(write) = writes.last() {
            self.nodes[node].kept.clone_from(&write.value);
        }
    }

    fn install(&mut self, process: Process, snapshot: &Snapshot) -> Verdict {
        let node = process.node;
        let id = node as u64 + 1;
        let chain = self.nodes[node].chain();
        let Some(running) = self.nodes[node].running.as_mut() else { return Ok(()) };
        let writes = running.application.install(snapshot);
        let writes = writes.map_err(|why| Violation::new("S10 apply order", format!("n{id}: {why}")))?;
        let (height, hash) = running.application.tip();
        self.invariants.one_content_per_position.tip(id, height, hash)?;
        self.invariants.apply_order.installed(node, height);
        self.keep_state(node, &writes);
        let mut batch = WriteBatch::new(chain);
        batch.application = writes;
        batch.sync = true;
        let index = snapshot.position.index;
        self.write(process, Write::of_application(batch, height, Some(Completion::Installed { index })));
        Ok(())
    }
}
