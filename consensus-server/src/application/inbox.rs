//! What waits for an application, in order, merged where it can be and bounded.
//!
//! The driver never waits for an application, so this queue must hold whatever the replica's limits let
//! pile up before it stops the supply: committed payloads up to the backlog bound and what was already on
//! its way when the bound was reached. More than that means that a limit is not kept somewhere, and the
//! driver halts the chain rather than grow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consensus_core::limits::Limits;
use consensus_core::replica::CommittedEntry;
use thiserror::Error;
use tokio::sync::Notify;

use super::ApplicationEvent;

/// What an entry costs beside its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 64;
/// Events that wait at most beside those that are merged and the answers to proposals in flight.
const EVENTS_SPARE: usize = 1024;

/// The application's inbox holds more than the limits allow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the application's inbox holds {found} {what}, more than its bound of {bound}")]
pub struct InboxFull {
    what: &'static str,
    found: u64,
    bound: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    apply_bytes_max: u64,
    bytes_max: u64,
    events_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<ApplicationEvent>,
    /// Payload bytes of the entries that wait.
    bytes: u64,
    /// Payload bytes of the newest event, if it is an `Apply`.
    newest_bytes: u64,
    /// Requests and withdrawals that wait: at most one of each.
    doors: usize,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct ApplicationSender {
    shared: Arc<Shared>,
}

/// The application's end.
#[derive(Debug)]
pub struct ApplicationInbox {
    shared: Arc<Shared>,
}

/// An inbox sized by the replica's limits.
pub(crate) fn channel(limits: &Limits) -> (ApplicationSender, ApplicationInbox) {
    let bytes_max = limits.apply_backlog_bytes_max
        + limits.apply_bytes_max
        + limits.uncommitted_bytes_max
        + limits.unpersisted_bytes_max
        + limits.tail_bytes_max;
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        wake: Notify::new(),
        apply_bytes_max: limits.apply_bytes_max,
        bytes_max,
        events_max: 2 * limits.inflight_proposals_max + EVENTS_SPARE,
    });
    (ApplicationSender { shared: shared.clone() }, ApplicationInbox { shared })
}

impl ApplicationSender {
    /// Hands over an event.
    pub(crate) fn push(&self, event: ApplicationEvent) -> Result<(), InboxFull> {
        {
            let mut queue = self.shared.lock();
            match event {
                ApplicationEvent::Apply(entries) => self.push_entries(&mut queue, entries)?,
                door @ (ApplicationEvent::RequestProposal { .. } | ApplicationEvent::WithdrawRequest) => {
                    push_door(&mut queue, door);
                }
                other => queue.events.push_back(other),
            }
            let found = queue.events.len();
            if found > self.shared.events_max {
                let bound = self.shared.events_max as u64;
                return Err(InboxFull { what: "events", found: found as u64, bound });
            }
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    fn push_entries(&self, queue: &mut Queue, entries: Vec<CommittedEntry>) -> Result<(), InboxFull> {
        let bytes: u64 = entries.iter().map(|e| e.entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES).sum();
        queue.bytes += bytes;
        if queue.bytes > self.shared.bytes_max {
            return Err(InboxFull {
                what: "bytes of entries",
                found: queue.bytes,
                bound: self.shared.bytes_max,
            });
        }
        if let Some(ApplicationEvent::Apply(newest)) = queue.events.back_mut()
            && queue.newest_bytes + bytes <= self.shared.apply_bytes_max
        {
            newest.extend(entries);
            queue.newest_bytes += bytes;
            return Ok(());
        }
        queue.newest_bytes = bytes;
        queue.events.push_back(ApplicationEvent::Apply(entries));
        Ok(())
    }

    /// Ends the inbox once it is empty.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for ApplicationSender {
    fn drop(&mut self) {
        self.close();
    }
}

/// A request replaces earlier ones; a withdrawal replaces all before it.
fn push_door(queue: &mut Queue, door: ApplicationEvent) {
    if queue.doors > 0 {
        let withdraws = matches!(door, ApplicationEvent::WithdrawRequest);
        queue.events.retain(|event| match event {
            ApplicationEvent::RequestProposal { .. } => false,
            ApplicationEvent::WithdrawRequest => !withdraws,
            _ => true,
        });
        queue.doors = queue.events.iter().filter(|e| matches!(e, ApplicationEvent::WithdrawRequest)).count();
    }
    queue.doors += 1;
    queue.events.push_back(door);
}

impl ApplicationInbox {
    /// The next event, without waiting.
    pub fn try_recv(&mut self) -> Option<ApplicationEvent> {
        let mut queue = self.shared.lock();
        let event = queue.events.pop_front()?;
        match &event {
            ApplicationEvent::Apply(entries) => {
                let bytes: u64 =
                    entries.iter().map(|e| e.entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES).sum();
                queue.bytes = queue.bytes.saturating_sub(bytes);
            }
            ApplicationEvent::RequestProposal { .. } | ApplicationEvent::WithdrawRequest => {
                queue.doors = queue.doors.saturating_sub(1);
            }
            _ => {}
        }
        Some(event)
    }

    /// The next event; `None` when the chain has stopped and everything was taken. Cancel-safe.
    pub async fn recv(&mut self) -> Option<ApplicationEvent> {
        loop {
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            if self.shared.lock().closed {
                return None;
            }
            self.shared.wake.notified().await;
        }
    }

    /// Whether nothing more can come.
    pub fn is_finished(&self) -> bool {
        let queue = self.shared.lock();
        queue.closed && queue.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::storage::{EntryKind, LogEntry};

    use super::*;

    fn entry(index: u64, bytes: usize) -> CommittedEntry {
        let data = vec![1; bytes].into();
        let context = bytes::Bytes::new();
        CommittedEntry {
            entry: LogEntry { index, term: 1, kind: EntryKind::Normal, context, data },
            ticket: None,
        }
    }

    #[test]
    fn entries_that_wait_become_one_step_within_its_bound() {
        let limits = Limits { apply_bytes_max: 4096, ..Limits::default() };
        let (sender, mut inbox) = channel(&limits);
        for index in 1..=5 {
            sender.push(ApplicationEvent::Apply(vec![entry(index, 1000)])).expect("fits");
        }
        let mut steps = Vec::new();
        while let Some(ApplicationEvent::Apply(entries)) = inbox.try_recv() {
            steps.push(entries.iter().map(|e| e.entry.index).collect::<Vec<_>>());
        }
        assert_eq!(steps, [vec![1, 2, 3], vec![4, 5]]);
    }

    #[test]
    fn leadership_that_comes_and_goes_does_not_pile_up() {
        let (sender, mut inbox) = channel(&Limits::default());
        for term in 1..10_000 {
            sender.push(ApplicationEvent::RequestProposal { term, room: 1 }).expect("merged");
            sender.push(ApplicationEvent::WithdrawRequest).expect("merged");
        }
        sender.push(ApplicationEvent::RequestProposal { term: 10_000, room: 5 }).expect("merged");
        assert!(matches!(inbox.try_recv(), Some(ApplicationEvent::WithdrawRequest)));
        assert!(matches!(
            inbox.try_recv(),
            Some(ApplicationEvent::RequestProposal { term: 10_000, room: 5 })
        ));
        assert!(inbox.try_recv().is_none());
    }

    #[test]
    fn more_entries_than_the_limits_allow_are_an_error_instead_of_growth() {
        let limits = Limits::default();
        let (sender, _inbox) = channel(&limits);
        let outcome = (1..).map(|i| sender.push(ApplicationEvent::Apply(vec![entry(i, 1 << 20)]))).take(1000);
        assert!(outcome.into_iter().any(|o| o.is_err()));
    }

    #[tokio::test]
    async fn a_closed_inbox_hands_out_what_waits_and_then_ends() {
        let (sender, mut inbox) = channel(&Limits::default());
        sender.push(ApplicationEvent::BuildSnapshot).expect("fits");
        drop(sender);
        assert!(matches!(inbox.recv().await, Some(ApplicationEvent::BuildSnapshot)));
        assert!(inbox.recv().await.is_none());
    }
}
