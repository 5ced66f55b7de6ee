//! How much memory a node with this configuration may take at most: the sum of all its bounds.
//!
//! A bound and no estimate: queues rarely are full, and what several of them hold they mostly share. Beyond it
//! are only replies to GetBlock and Prove whose clients read slowly (a block each), and what the allocator does not give back.

use super::Config;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The program, its threads, file tables, and the chain's window of known ids.
const PROGRAM_BYTES: u64 = 96 * MIB;
/// RocksDB with [`consensus_core::storage::rocks::RocksOptions`]' defaults: four write buffers of the log, two of
/// the ledger, two small ones, and the cache.
const STORE_BYTES: u64 = (4 * 32 + 2 * 32 + 2 * 4 + 32) * MIB;
/// Newest blocks for readers, `LedgerOptions::recent_bytes_max`.
const RECENT_BYTES: u64 = 64 * MIB;
/// What a transaction costs beside its bytes while it waits.
const TRANSACTION_BYTES: u64 = 512;
/// What a client's connection costs beside its window: TLS, HTTP/2, one gathered write.
const CONNECTION_BYTES: u64 = 192 * KIB;
/// Bytes of one client stream that wait for this node to take them.
pub const CLIENT_STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for all streams of a client's connection.
pub const CLIENT_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of blocks read ahead for one Deliver stream; a single larger block still passes.
pub const DELIVER_AHEAD_BYTES_MAX: u64 = 1 << 20;

/// One summand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// What it is for.
    pub what: &'static str,
    /// Bytes at most.
    pub bytes: u64,
}

impl Config {
    /// Bytes that this node may take at most, by what they are for.
    pub fn memory(&self) -> [Part; 7] {
        let Self { limits, queues, clients, block, .. } = self;
        let peers = self.others().count() as u64;
        let replica = [
            limits.uncommitted_bytes_max,
            limits.unpersisted_bytes_max,
            limits.apply_backlog_bytes_max,
            limits.tail_bytes_max,
        ];
        // In the queue, in the pipeline, and on their way to the leader.
        let pool =
            queues.pool_bytes_max.saturating_add(queues.pool_transactions_max as u64 * TRANSACTION_BYTES);
        // What waits, and one message each way.
        let peer = queues.peer_bytes_max.saturating_add(2 * limits.message_bytes_max());
        let connection = u64::from(CLIENT_CONNECTION_WINDOW_BYTES) + CONNECTION_BYTES;
        let connections = clients.connections_max.saturating_mul(connection);
        // What is read ahead, and one block on its way out, as it is and encoded.
        let deliver = DELIVER_AHEAD_BYTES_MAX.saturating_add(block.absolute_bytes.saturating_mul(2));
        let part = |what, bytes| Part { what, bytes };
        [
            part("program", PROGRAM_BYTES),
            part("store", STORE_BYTES),
            part("replica", replica.into_iter().fold(0, u64::saturating_add)),
            part("ledger", pool.saturating_mul(3).saturating_add(RECENT_BYTES)),
            part("peers", peers.saturating_mul(peer)),
            part("requests", connections.saturating_add(clients.receive_bytes_max)),
            part("deliver streams", clients.deliver_streams_max.saturating_mul(deliver)),
        ]
    }

    /// Their sum.
    pub fn memory_bytes_max(&self) -> u64 {
        self.memory().iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }
}
