//! What one client uses now, beside what it may.
//!
//! Each bound has a verb that takes and a value that returns when it is dropped. What does not fit is refused with
//! the bound's name, its value, and when to come back where that is known.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::identity::Identity;
use super::metered::Room;
use super::table::Totals;
use crate::config;

/// What a transaction counts beside its payload and id.
const TRANSACTION_OVERHEAD_BYTES: u64 = 64;
/// Somebody who has too much under way may come back after this time; until then something is answered.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A bound of clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Limit {
    /// Connections of one client.
    Connections,
    /// Connections of all.
    AllConnections,
    /// Calls of one client that are under way.
    Calls,
    /// Its submission streams.
    SubmitStreams,
    /// Its streams of blocks.
    DeliverStreams,
    /// Streams of blocks of all.
    AllDeliverStreams,
    /// Its transactions that are under way.
    Transactions,
    /// Their bytes.
    Bytes,
    /// How fast it submits.
    Rate,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Connections,
        Self::AllConnections,
        Self::Calls,
        Self::SubmitStreams,
        Self::DeliverStreams,
        Self::AllDeliverStreams,
        Self::Transactions,
        Self::Bytes,
        Self::Rate,
    ];

    /// Its key in the configuration, which is its label too.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Connections => "limits.client.connections_max",
            Self::AllConnections => "limits.client_connections_max",
            Self::Calls => "limits.client.calls_inflight_max",
            Self::SubmitStreams => "limits.client.submit_streams_max",
            Self::DeliverStreams => "limits.client.deliver_streams_max",
            Self::AllDeliverStreams => "limits.deliver_streams_max",
            Self::Transactions => "limits.client.transactions_inflight_max",
            Self::Bytes => "limits.client.bytes_inflight_max",
            Self::Rate => "limits.client.transactions_per_s",
        }
    }

    /// What there is too much of.
    const fn words(self) -> &'static str {
        match self {
            Self::Connections => "connections of this client",
            Self::AllConnections => "connections of clients",
            Self::Calls => "calls of this client under way",
            Self::SubmitStreams => "submission streams of this client",
            Self::DeliverStreams => "streams of blocks to this client",
            Self::AllDeliverStreams => "streams of blocks",
            Self::Transactions => "transactions of this client under way",
            Self::Bytes => "bytes of this client's transactions under way",
            Self::Rate => "transactions more than this client may send now",
        }
    }
}

/// Why something of a client is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// The bound.
    pub limit: Limit,
    /// What it would be if it were taken.
    pub value: u64,
    /// What it may be at most.
    pub bound: u64,
    /// When to come back.
    pub retry_after: Duration,
}

impl Exceeded {
    pub(super) const fn new(limit: Limit, value: u64, bound: u64) -> Self {
        Self { limit, value, bound, retry_after: RETRY_AFTER }
    }

    /// For the protocol: at least 1.
    pub fn retry_after_ms(&self) -> u32 {
        u32::try_from(self.retry_after.as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, value, bound, .. } = self;
        write!(f, "{value} {}, {} is {bound}", limit.words(), limit.key())
    }
}

/// What one client uses.
#[derive(Debug)]
pub struct Account {
    identity: Identity,
    bounds: config::Client,
    used: Mutex<Used>,
    room: Room,
    totals: Arc<Totals>,
}

/// Counts of what is in use.
#[derive(Debug)]
struct Used {
    connections: u64,
    calls: u64,
    submit_streams: u64,
    deliver_streams: u64,
    transactions: u64,
    bytes: u64,
    bucket: Option<Bucket>,
    /// How often it has connected, so that a note of its being idle is known to be old.
    visits: u64,
}

impl Used {
    fn of(&mut self, slot: Kind) -> &mut u64 {
        match slot {
            Kind::Call => &mut self.calls,
            Kind::SubmitStream => &mut self.submit_streams,
            Kind::DeliverStream => &mut self.deliver_streams,
        }
    }
}

/// What a slot is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Call,
    SubmitStream,
    DeliverStream,
}

impl Account {
    pub(super) fn new(identity: Identity, bounds: config::Client, totals: Arc<Totals>) -> Arc<Self> {
        let used = Used {
            connections: 0,
            calls: 0,
            submit_streams: 0,
            deliver_streams: 0,
            transactions: 0,
            bytes: 0,
            bucket: bounds.rate.map(Bucket::new),
            visits: 0,
        };
        let room = Room::new(bounds.bytes_inflight_max, totals.receiving().clone());
        Arc::new(Self { identity, bounds, used: Mutex::new(used), room, totals })
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        // Nothing panics while the lock is held.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Where room is taken for what is being received.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Takes a place for a connection.
    pub(super) fn connect(&self) -> Result<(), Exceeded> {
        let mut used = self.used();
        fits(Limit::Connections, used.connections + 1, self.bounds.connections_max)?;
        used.connections += 1;
        used.visits += 1;
        Ok(())
    }

    /// A connection has ended. Of the last one: the number of its visit.
    pub(super) fn disconnect(&self) -> Option<u64> {
        let mut used = self.used();
        used.connections -= 1;
        (used.connections == 0).then_some(used.visits)
    }

    /// Whether nothing is lost if this is forgotten, as it was noted at the end of a visit.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        let used = self.used();
        used.connections == 0
            && used.transactions == 0
            && used.bucket.is_none_or(|bucket| bucket.is_full(now))
    }

    /// Whether the client has not come back since the end of a visit.
    pub(super) fn is_away_since(&self, visit: u64) -> bool {
        let used = self.used();
        used.connections == 0 && used.visits == visit
    }

    /// A call begins.
    ///
    /// # Errors
    /// Too many are under way.
    pub fn call(self: &Arc<Self>) -> Result<Slot, Exceeded> {
        self.slot(Kind::Call, Limit::Calls, self.bounds.calls_inflight_max)
    }

    /// A submission stream begins.
    ///
    /// # Errors
    /// Too many are open.
    pub fn submit_stream(self: &Arc<Self>) -> Result<Slot, Exceeded> {
        self.slot(Kind::SubmitStream, Limit::SubmitStreams, self.bounds.submit_streams_max)
    }

    /// A stream of blocks begins.
    ///
    /// # Errors
    /// Too many are open, of this client or of all.
    pub fn deliver_stream(self: &Arc<Self>) -> Result<Slot, Exceeded> {
        let slot = self.slot(Kind::DeliverStream, Limit::DeliverStreams, self.bounds.deliver_streams_max)?;
        match self.totals.deliver_began() {
            Ok(()) => Ok(slot),
            Err(exceeded) => {
                // What the slot would return was not taken.
                slot.forget();
                Err(self.refused(exceeded))
            }
        }
    }

    fn slot(self: &Arc<Self>, kind: Kind, limit: Limit, bound: Option<u64>) -> Result<Slot, Exceeded> {
        let taken = {
            let mut used = self.used();
            let count = used.of(kind);
            fits(limit, *count + 1, bound).map(|()| *count += 1)
        };
        taken.map_err(|exceeded| self.refused(exceeded))?;
        Ok(Slot { account: Some(self.clone()), kind })
    }

    /// Takes transactions of so many bytes, ids included. More than a whole bound passes when nothing else is
    /// under way.
    ///
    /// # Errors
    /// Too much is under way, or it comes too fast.
    pub fn submit(self: &Arc<Self>, transactions: usize, bytes: usize) -> Result<InFlight, Exceeded> {
        self.submit_at(transactions, bytes, Instant::now())
    }

    fn submit_at(
        self: &Arc<Self>,
        transactions: usize,
        bytes: usize,
        now: Instant,
    ) -> Result<InFlight, Exceeded> {
        let count = transactions as u64;
        let bytes = bytes as u64 + count * TRANSACTION_OVERHEAD_BYTES;
        let taken = self.take(count, bytes, now);
        taken.map_err(|exceeded| self.refused(exceeded))?;
        Ok(InFlight { account: self.clone(), transactions: count, bytes })
    }

    fn take(&self, count: u64, bytes: u64, now: Instant) -> Result<(), Exceeded> {
        let mut used = self.used();
        if used.transactions > 0 {
            let transactions = used.transactions + count;
            fits(Limit::Transactions, transactions, self.bounds.transactions_inflight_max)?;
            fits(Limit::Bytes, used.bytes + bytes, self.bounds.bytes_inflight_max)?;
        }
        if let (Some(bucket), Some(rate)) = (&mut used.bucket, self.bounds.rate) {
            bucket.take(count, now).map_err(|retry_after| Exceeded {
                limit: Limit::Rate,
                value: count,
                bound: rate.per_s,
                retry_after,
            })?;
        }
        used.transactions += count;
        used.bytes += bytes;
        Ok(())
    }

    fn refused(&self, exceeded: Exceeded) -> Exceeded {
        self.totals.refused(exceeded.limit);
        exceeded
    }
}

fn fits(limit: Limit, value: u64, bound: Option<u64>) -> Result<(), Exceeded> {
    match bound {
        Some(bound) if value > bound => Err(Exceeded::new(limit, value, bound)),
        Some(_) | None => Ok(()),
    }
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub struct Slot {
    /// None once it is given up without having counted in full.
    account: Option<Arc<Account>>,
    kind: Kind,
}

impl Slot {
    /// Returns the client's own place and nothing else.
    fn forget(mut self) {
        if let Some(account) = self.account.take() {
            *account.used().of(self.kind) -= 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(account) = self.account.take() else { return };
        *account.used().of(self.kind) -= 1;
        if self.kind == Kind::DeliverStream {
            account.totals.deliver_ended();
        }
    }
}

/// Transactions that are under way until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    account: Arc<Account>,
    transactions: u64,
    bytes: u64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut used = self.account.used();
        used.transactions -= self.transactions;
        used.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::table::tests::{clients, identity};
    use crate::config::{Client, Rate};

    fn account(each: Client) -> (crate::clients::Connection, Arc<Account>) {
        let connection = clients(each).connect(identity(1)).expect("room");
        let account = connection.account().clone();
        (connection, account)
    }

    #[test]
    fn a_refusal_names_the_bound_its_value_and_when_to_come_back() {
        let each = Client { rate: Some(Rate { per_s: 100, burst: 10 }), ..Client::default() };
        let (_connection, account) = account(each);
        drop(account.submit(10, 1).expect("a burst"));
        let refused = account.submit(5, 1).expect_err("too fast");
        assert_eq!(
            refused.to_string(),
            "5 transactions more than this client may send now, limits.client.transactions_per_s is 100"
        );
        assert!((1..=50).contains(&refused.retry_after_ms()), "{refused:?}");
    }

    #[test]
    fn what_is_under_way_is_bounded_and_comes_back_with_the_answer() {
        let each = Client {
            transactions_inflight_max: Some(10),
            bytes_inflight_max: Some(2000),
            ..Client::default()
        };
        let (_connection, account) = account(each);
        let first = account.submit(6, 100).expect("room");
        let refused = account.submit(5, 100).expect_err("11 of 10");
        assert_eq!((refused.limit, refused.value, refused.bound), (Limit::Transactions, 11, 10));
        let refused = account.submit(2, 1500).expect_err("bytes");
        assert_eq!((refused.limit, refused.value), (Limit::Bytes, 100 + 1500 + 8 * 64));
        drop(first);
        let alone = account.submit(50, 50_000).expect("what is larger passes alone");
        assert!(account.submit(1, 1).is_err());
        drop(alone);
        account.submit(1, 1).expect("all is returned");
    }

    #[test]
    fn each_kind_of_slot_is_bounded_and_returned() {
        let each = Client {
            calls_inflight_max: Some(1),
            submit_streams_max: Some(1),
            deliver_streams_max: Some(1),
            ..Client::default()
        };
        let (_connection, account) = account(each);
        type Take = fn(&Arc<Account>) -> Result<Slot, Exceeded>;
        let take: [(Take, Limit); 3] = [
            (|account| account.call(), Limit::Calls),
            (|account| account.submit_stream(), Limit::SubmitStreams),
            (|account| account.deliver_stream(), Limit::DeliverStreams),
        ];
        for (take, limit) in take {
            let held = take(&account).expect("room");
            let refused = take(&account).expect_err("no room");
            assert_eq!((refused.limit, refused.value, refused.bound), (limit, 2, 1));
            drop(held);
            take(&account).expect("returned");
        }
    }

    #[test]
    fn streams_of_blocks_are_bounded_over_all_clients() {
        let clients = clients(Client::default());
        let connections: Vec<_> =
            (1..=2).map(|number| clients.connect(identity(number)).expect("room")).collect();
        let held: Vec<_> = (0..4).map(|_| connections[0].account().deliver_stream().expect("room")).collect();
        let refused = connections[1].account().deliver_stream().expect_err("four of four");
        assert_eq!(refused.to_string(), "5 streams of blocks, limits.deliver_streams_max is 4");
        drop(held);
        connections[1].account().deliver_stream().expect("returned");
    }

    #[test]
    fn without_bounds_everything_passes() {
        let (_connection, account) = account(Client::default());
        let _calls: Vec<_> = (0..100).map(|_| account.call().expect("no bound")).collect();
        let _flight: Vec<_> = (0..100).map(|_| account.submit(1000, 1 << 20).expect("no bound")).collect();
    }
}
