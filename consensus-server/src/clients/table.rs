//! The accounts of all clients, and what all of them together use.
//!
//! An account stays while its client is connected, and afterwards until its tokens are full again: somebody who
//! leaves and comes back has not got more. Of those who are away so many are kept at most, so that nobody
//! grows the table from many addresses; who is forgotten early begins anew.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::account::{Account, Exceeded, Limit};
use super::identity::Identity;
use super::metered;
use crate::config;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ClientMetrics;

/// Accounts of clients that are away.
const AWAY_MAX: usize = 4096;
/// Clients get at most this part of the files that the process may open; peers and the store have the rest.
const FILES_PART: u64 = 2;

/// All clients of a node; clones are of the same.
#[derive(Clone, Debug)]
pub struct Clients {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    each: config::Client,
    connections_max: u64,
    table: Mutex<Table>,
    totals: Arc<Totals>,
}

#[derive(Debug, Default)]
struct Table {
    accounts: HashMap<Identity, Arc<Account>>,
    /// Who has left, in the order of leaving, with the number of the visit that ended.
    away: VecDeque<(Identity, u64)>,
    connections: u64,
}

/// What all clients together use.
#[derive(Debug)]
pub(super) struct Totals {
    receiving: metered::Pool,
    deliver_streams: AtomicU64,
    deliver_streams_max: u64,
    metrics: ClientMetrics,
}

impl Clients {
    /// Nobody yet. Fewer connections than the configuration says if the process may not open files enough.
    pub fn new(config: &config::Clients, metrics: &Metrics) -> Self {
        let files = getrlimit(Resource::Nofile).current;
        let most = files.map_or(u64::MAX, |files| (files / FILES_PART).max(1));
        let connections_max = config.connections_max.min(most);
        if connections_max < config.connections_max {
            tracing::info!(
                configured = config.connections_max,
                connections_max,
                files,
                "fewer connections of clients than limits.client_connections_max: the process may not open more files"
            );
        }
        let totals = Totals {
            receiving: metered::Pool::new(config.receive_bytes_max),
            deliver_streams: AtomicU64::new(0),
            deliver_streams_max: config.deliver_streams_max,
            metrics: ClientMetrics::new(metrics, &Limit::ALL.map(Limit::key)),
        };
        let shared =
            Shared { each: config.each, connections_max, table: Mutex::default(), totals: Arc::new(totals) };
        Self { shared: Arc::new(shared) }
    }

    /// Whether all places for connections are taken, so that a handshake would be in vain.
    ///
    /// # Errors
    /// They are.
    pub fn room(&self) -> Result<(), Exceeded> {
        self.shared.room(&self.shared.table()).map_err(|exceeded| self.shared.refused(exceeded))
    }

    /// A client has connected.
    ///
    /// # Errors
    /// It has too many connections, or all clients together have.
    pub fn connect(&self, identity: Identity) -> Result<Connection, Exceeded> {
        let connected = self.shared.connect(identity, Instant::now());
        let account = connected.map_err(|exceeded| self.shared.refused(exceeded))?;
        Ok(Connection { shared: self.shared.clone(), account, cut: CancellationToken::new() })
    }

    /// Clients that are known.
    pub fn known(&self) -> usize {
        self.shared.table().accounts.len()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the lock is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self, table: &Table) -> Result<(), Exceeded> {
        if table.connections < self.connections_max {
            return Ok(());
        }
        Err(Exceeded::new(Limit::AllConnections, table.connections + 1, self.connections_max))
    }

    fn connect(&self, identity: Identity, now: Instant) -> Result<Arc<Account>, Exceeded> {
        let mut table = self.table();
        self.room(&table)?;
        table.forget(now);
        let made = || Account::new(identity, self.each, self.totals.clone());
        let account = table.accounts.entry(identity).or_insert_with(made).clone();
        account.connect()?;
        table.connections += 1;
        self.tell(&table);
        Ok(account)
    }

    fn disconnect(&self, account: &Account) {
        let mut table = self.table();
        table.connections -= 1;
        if let Some(visit) = account.disconnect() {
            table.away.push_back((account.identity(), visit));
            table.forget(Instant::now());
        }
        self.tell(&table);
    }

    fn tell(&self, table: &Table) {
        self.totals.metrics.known(table.accounts.len() as u64, table.connections);
    }

    fn refused(&self, exceeded: Exceeded) -> Exceeded {
        self.totals.refused(exceeded.limit);
        exceeded
    }
}

impl Table {
    /// Forgets those at the front who lose nothing by it, and those who are too many.
    fn forget(&mut self, now: Instant) {
        while let Some((identity, visit)) = self.away.front() {
            let Some(account) = self.accounts.get(identity) else {
                self.away.pop_front();
                continue;
            };
            let is_away = account.is_away_since(*visit);
            if is_away && self.away.len() <= AWAY_MAX && !account.is_forgettable(now) {
                return;
            }
            if is_away {
                self.accounts.remove(identity);
            }
            self.away.pop_front();
        }
    }
}

impl Totals {
    pub(super) fn receiving(&self) -> &metered::Pool {
        &self.receiving
    }

    pub(super) fn deliver_began(&self) -> Result<(), Exceeded> {
        let most = self.deliver_streams_max;
        let more = |streams: u64| (streams < most).then_some(streams + 1);
        match self.deliver_streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(()),
            Err(streams) => Err(Exceeded::new(Limit::AllDeliverStreams, streams + 1, most)),
        }
    }

    pub(super) fn deliver_ended(&self) {
        self.deliver_streams.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn refused(&self, limit: Limit) {
        self.metrics.refused(limit.key());
    }
}

/// A client's connection, until it is dropped.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    account: Arc<Account>,
    cut: CancellationToken,
}

impl Connection {
    /// Whose it is.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Ends it.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Resolves when it is to end.
    pub fn is_cut(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }

    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.shared.totals.metrics
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.disconnect(&self.account);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::config::{Client, Rate};

    /// Clients of a node that has room for four connections and four streams of blocks.
    pub(crate) fn clients(each: Client) -> Clients {
        with_connections(4, each)
    }

    fn with_connections(connections_max: u64, each: Client) -> Clients {
        let config = config::Clients {
            connections_max,
            receive_bytes_max: 1 << 20,
            deliver_streams_max: 4,
            deliver_stall: Duration::from_secs(1),
            each,
        };
        Clients::new(&config, &Metrics::new(1))
    }

    pub(crate) fn identity(number: u32) -> Identity {
        Identity::Address(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn connections_are_bounded_for_one_client_and_for_all() {
        let clients = clients(Client { connections_max: Some(2), ..Client::default() });
        let held: Vec<_> = (0..2).map(|_| clients.connect(identity(1)).expect("room")).collect();
        let refused = clients.connect(identity(1)).expect_err("two of two");
        assert_eq!(refused.to_string(), "3 connections of this client, limits.client.connections_max is 2");
        let others: Vec<_> = (2..4).map(|number| clients.connect(identity(number)).expect("room")).collect();
        assert!(clients.room().is_err());
        let refused = clients.connect(identity(5)).expect_err("four of four");
        assert_eq!(refused.to_string(), "5 connections of clients, limits.client_connections_max is 4");
        drop((held, others));
        clients.connect(identity(1)).expect("returned");
    }

    #[test]
    fn who_leaves_and_comes_back_has_not_got_more() {
        let rate = Some(Rate { per_s: 1, burst: 10 });
        let clients = clients(Client { rate, ..Client::default() });
        let connection = clients.connect(identity(1)).expect("room");
        drop(connection.account().submit(10, 1).expect("a burst"));
        drop(connection);
        let again = clients.connect(identity(1)).expect("room");
        again.account().submit(10, 1).expect_err("the burst is spent");
        let other = clients.connect(identity(2)).expect("room");
        other.account().submit(10, 1).expect("another client has its own");
    }

    #[test]
    fn who_has_nothing_to_lose_is_forgotten_at_once() {
        let clients = clients(Client { rate: Some(Rate { per_s: 1, burst: 10 }), ..Client::default() });
        drop(clients.connect(identity(1)).expect("room"));
        assert_eq!(clients.known(), 0);
        let connection = clients.connect(identity(1)).expect("room");
        let under_way = connection.account().submit(1, 1).expect("room");
        drop(connection);
        drop(clients.connect(identity(2)).expect("room"));
        assert_eq!(clients.known(), 2, "the second waits behind the first, who owes");
        drop(under_way);
    }

    #[test]
    fn many_addresses_do_not_grow_the_table() {
        let rate = Some(Rate { per_s: 1, burst: 1 });
        let clients = clients(Client { rate, ..Client::default() });
        let stays = clients.connect(identity(0)).expect("room");
        for number in 1..=3 * AWAY_MAX as u32 {
            let connection = clients.connect(identity(number)).expect("room");
            drop(connection.account().submit(1, 1).expect("a token"));
            drop(connection);
            assert!(clients.known() <= AWAY_MAX + 2, "{}", clients.known());
        }
        for _ in 0..3 * AWAY_MAX {
            drop(clients.connect(identity(7)).expect("room"));
        }
        assert!(clients.shared.table().away.len() <= AWAY_MAX, "one who comes and goes grows it no more");
        stays.account().submit(1, 1).expect("who is connected is not forgotten");
        assert!(clients.shared.table().accounts.contains_key(&identity(0)));
    }
}
