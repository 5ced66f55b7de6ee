//! What clients may use of a node, as its configuration says: all of them together in `[limits]`, and each one
//! in `[limits.client]`, where 0 means that one may use whatever there is for all.
//!
//! Who one client is, and what happens at a bound, is in `crate::clients`.

use std::time::Duration;

use consensus_core::limits::{Limits, MESSAGE_OVERHEAD_BYTES};
use toml::Spanned;

use super::file::{self, Typed};
use super::validate::Check;
use super::{Block, Queues};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Transactions a second of one client unless the configuration says otherwise.
const TRANSACTIONS_PER_S: u64 = 200_000;
/// One client gets this part of the pool's transactions and bytes unless the configuration says otherwise: four
/// nodes forward to one leader, whose pool then has room for others.
const POOL_SHARE: u64 = 8;

/// What clients may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clients {
    /// Connections of all clients.
    pub connections_max: u64,
    /// Bytes of requests of all clients that are being received.
    pub receive_bytes_max: u64,
    /// Deliver streams of all clients.
    pub deliver_streams_max: u64,
    /// A Deliver stream whose reader takes nothing for this long is ended.
    pub deliver_stall: Duration,
    /// What one client may use of that.
    pub each: Client,
}

/// What one client may use; `None`: whatever there is for all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Client {
    /// How fast it may submit.
    pub rate: Option<Rate>,
    /// Transactions taken and not yet answered.
    pub transactions_inflight_max: Option<u64>,
    /// Their bytes, and apart from them those of its requests that are being received.
    pub bytes_inflight_max: Option<u64>,
    /// Open submission streams.
    pub submit_streams_max: Option<u64>,
    /// Open streams of blocks.
    pub deliver_streams_max: Option<u64>,
    /// Calls under way, streams included.
    pub calls_inflight_max: Option<u64>,
    /// Connections.
    pub connections_max: Option<u64>,
}

/// How fast somebody may submit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Transactions a second, at least 1.
    pub per_s: u64,
    /// Transactions at once after a pause, at least 1.
    pub burst: u64,
}

/// Largest message of a client in bytes: less than what fits between nodes, where it may be forwarded.
pub fn message_bytes_max(limits: &Limits) -> u64 {
    limits.message_bytes_max() - MESSAGE_OVERHEAD_BYTES
}

impl Check {
    /// What clients may use.
    pub(super) fn clients(
        &mut self,
        typed: &file::Limits,
        message_bytes_max: u64,
        block: &Block,
        queues: &Queues,
    ) -> Clients {
        let connections =
            self.number("limits.client_connections_max", &typed.client_connections_max, 1024, 1..=1_000_000);
        let receive_default = (128 * MIB).max(message_bytes_max);
        let receive = self.number(
            "limits.client_receive_bytes_max",
            &typed.client_receive_bytes_max,
            receive_default,
            KIB..=16 * GIB,
        );
        if receive < message_bytes_max {
            let what =
                format!("is {receive}, must be at least {message_bytes_max}, a client's largest message");
            self.mistake_at("limits.client_receive_bytes_max", &typed.client_receive_bytes_max, what);
        }
        let delivers = self.number("limits.deliver_streams_max", &typed.deliver_streams_max, 64, 1..=100_000);
        let stall = self.number("limits.deliver_stall_ms", &typed.deliver_stall_ms, 30_000, 100..=3_600_000);
        let own = &typed.client;
        let each = Client {
            rate: self.rate(own),
            transactions_inflight_max: self.share(
                "limits.client.transactions_inflight_max",
                &own.transactions_inflight_max,
                (queues.pool_transactions_max as u64 / POOL_SHARE).max(1),
                ("limits.pool_transactions_max", queues.pool_transactions_max as u64),
            ),
            bytes_inflight_max: self.share(
                "limits.client.bytes_inflight_max",
                &own.bytes_inflight_max,
                (queues.pool_bytes_max / POOL_SHARE).max(block.absolute_bytes).min(queues.pool_bytes_max),
                ("limits.pool_bytes_max", queues.pool_bytes_max),
            ),
            submit_streams_max: self.most("limits.client.submit_streams_max", &own.submit_streams_max, 256),
            deliver_streams_max: self.share(
                "limits.client.deliver_streams_max",
                &own.deliver_streams_max,
                (delivers / 2).max(1),
                ("limits.deliver_streams_max", delivers),
            ),
            calls_inflight_max: self.most("limits.client.calls_inflight_max", &own.calls_inflight_max, 4096),
            connections_max: self.share(
                "limits.client.connections_max",
                &own.connections_max,
                (connections / 4).max(1),
                ("limits.client_connections_max", connections),
            ),
        };
        Clients {
            connections_max: connections,
            receive_bytes_max: receive,
            deliver_streams_max: delivers,
            deliver_stall: Duration::from_millis(stall),
            each,
        }
    }

    fn rate(&mut self, typed: &file::Client) -> Option<Rate> {
        let per_s =
            self.most("limits.client.transactions_per_s", &typed.transactions_per_s, TRANSACTIONS_PER_S);
        let Some(per_s) = per_s else {
            if let Some(burst) = &typed.transactions_burst {
                let what = format!(
                    "is {}, which nothing reads: limits.client.transactions_per_s is 0 (no limit)",
                    burst.as_ref()
                );
                self.mistake("limits.client.transactions_burst", burst, what);
            }
            return None;
        };
        let key = "limits.client.transactions_burst";
        let burst = self.number(key, &typed.transactions_burst, per_s, 1..=1_000_000_000);
        Some(Rate { per_s, burst })
    }

    /// A bound that depends on nothing else; 0 is none.
    fn most(&mut self, key: &str, value: &Typed<u64>, default: u64) -> Option<u64> {
        Some(self.number(key, value, default, 0..=1_000_000_000)).filter(|bound| *bound > 0)
    }

    /// A bound that is a part of another one; 0 is none.
    fn share(&mut self, key: &str, value: &Typed<u64>, default: u64, all: (&str, u64)) -> Option<u64> {
        let bound = value.as_ref().map_or(default, |typed: &Spanned<u64>| *typed.as_ref());
        let (of, most) = all;
        if bound > most {
            let what = format!("is {bound}, must be at most {of} ({most}), or 0 for no limit");
            self.mistake_at(key, value, what);
        }
        Some(bound).filter(|bound| *bound > 0)
    }
}
