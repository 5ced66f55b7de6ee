//! What others call our series: Hyperledger Fabric's orderer (etcdraft), and `consensus_raft` of CITA-Cloud.

use std::fmt::Write;

/// One name of theirs.
pub(super) struct Row {
    pub(super) theirs: &'static str,
    /// Names of ours, as they are served.
    pub(super) ours: &'static [&'static str],
    /// What differs, or why there is none.
    pub(super) words: &'static str,
}

const fn row(theirs: &'static str, ours: &'static [&'static str], words: &'static str) -> Row {
    Row { theirs, ours, words }
}

/// `{channel}` of theirs is `{chain}` of ours.
const FABRIC: [Row; 47] = [
    row("consensus_etcdraft_cluster_size", &["consensus_raft_voters"], ""),
    row("consensus_etcdraft_is_leader", &["consensus_raft_is_leader"], ""),
    row("consensus_etcdraft_active_nodes", &["consensus_raft_active_voters"], "on the leader; 0 elsewhere"),
    row(
        "consensus_etcdraft_committed_block_number",
        &["consensus_ledger_height", "consensus_raft_commit_index"],
        "the height counts blocks, the index entries of the log",
    ),
    row(
        "consensus_etcdraft_snapshot_block_number",
        &["consensus_raft_first_index"],
        "the ledger keeps every block and needs no snapshot; the log begins there",
    ),
    row("consensus_etcdraft_leader_changes", &["consensus_raft_leader_changes_total"], ""),
    row("consensus_etcdraft_proposal_failures", &["consensus_raft_proposals_failed_total"], "by reason"),
    row(
        "consensus_etcdraft_data_persist_duration",
        &["consensus_storage_persist_duration_seconds", "consensus_storage_sync_duration_seconds"],
        "until durable as the chain sees it, and the write with its sync alone",
    ),
    row(
        "consensus_etcdraft_normal_proposals_received",
        &["consensus_raft_proposals_total", "consensus_ordering_submissions_total"],
        "blocks proposed, and transactions submitted",
    ),
    row(
        "consensus_etcdraft_config_proposals_received",
        &[],
        "none, because there are no channel configuration transactions",
    ),
    row(
        "cluster_comm_egress_queue_length",
        &["consensus_peer_queue_messages", "consensus_peer_queue_bytes"],
        "",
    ),
    row(
        "cluster_comm_egress_queue_capacity",
        &[],
        "none, because it is configured: `limits.peer_queue_messages_max` and `limits.peer_queue_bytes_max`",
    ),
    row("cluster_comm_egress_queue_workers", &[], "none, because each peer has one stream"),
    row(
        "cluster_comm_ingress_stream_count",
        &[],
        "none, because `consensus_peer_connected` of the others counts them",
    ),
    row("cluster_comm_egress_stream_count", &["consensus_peer_connected"], "1 for each peer that is reached"),
    row("cluster_comm_egress_tls_connection_count", &["consensus_peer_connected"], "all are TLS, or none is"),
    row(
        "cluster_comm_msg_send_time",
        &["consensus_peer_round_trip_seconds"],
        "there and back on the same stream, beside the queue",
    ),
    row("cluster_comm_msg_dropped_count", &["consensus_peer_messages_dropped_total"], "by reason"),
    row(
        "broadcast_validate_duration",
        &["consensus_ordering_submit_duration_seconds"],
        "the whole way of a submission; there are no signatures to validate",
    ),
    row(
        "broadcast_enqueue_duration",
        &["consensus_ordering_submit_duration_seconds"],
        "ours ends when the outcome is known, not when it is queued",
    ),
    row("broadcast_processed_count", &["consensus_ordering_submissions_total"], "`status` is our `reason`"),
    row(
        "blockcutter_block_fill_duration",
        &[],
        "none, because a block is cut at once while none is under way; what transactions wait is in \
         `consensus_ordering_submit_duration_seconds`",
    ),
    row("deliver_streams_opened", &["consensus_ordering_deliver_streams_opened_total"], ""),
    row(
        "deliver_streams_closed",
        &["consensus_ordering_deliver_streams_opened_total", "consensus_ordering_deliver_streams"],
        "opened less open",
    ),
    row(
        "deliver_requests_received",
        &["consensus_ordering_deliver_streams_opened_total"],
        "one request a stream",
    ),
    row("deliver_requests_completed", &[], "none, because a stream is live until its reader ends it"),
    row("deliver_blocks_sent", &["consensus_ordering_blocks_delivered_total"], ""),
    row(
        "participation_status",
        &["consensus_raft_halted", "consensus_raft_installing"],
        "neither: it takes part",
    ),
    row("participation_consensus_relation", &["consensus_raft_role"], "learners: `consensus_raft_learners`"),
    row("ledger_blockchain_height", &["consensus_ledger_height"], ""),
    row(
        "ledger_blockstorage_commit_time",
        &["consensus_raft_apply_duration_seconds", "consensus_storage_write_duration_seconds"],
        "from proposal to applied, and the writes that do not wait for the disk",
    ),
    row(
        "grpc_server_stream_request_duration",
        &[],
        "none, because streams last for as long as their callers like",
    ),
    row(
        "grpc_server_stream_requests_received",
        &["consensus_ordering_deliver_streams_opened_total"],
        "of readers",
    ),
    row("grpc_server_stream_requests_completed", &[], "none, because what counts is how submissions end"),
    row(
        "grpc_server_stream_messages_received",
        &["consensus_peer_messages_received_total"],
        "of peers; clients: `consensus_ordering_submissions_total`",
    ),
    row(
        "grpc_server_stream_messages_sent",
        &["consensus_peer_messages_sent_total"],
        "to peers; readers: `consensus_ordering_blocks_delivered_total`",
    ),
    row("grpc_server_unary_request_duration", &["consensus_ordering_submit_duration_seconds"], ""),
    row("grpc_server_unary_requests_received", &["consensus_ordering_submissions_total"], ""),
    row("grpc_server_unary_requests_completed", &["consensus_ordering_submissions_total"], "by reason"),
    row("grpc_comm_conn_opened", &[], "none, because open connections show in `process_open_fds`"),
    row("grpc_comm_conn_closed", &[], "none, because open connections show in `process_open_fds`"),
    row("logging_entries_written", &["consensus_log_lines_total"], ""),
    row("logging_entries_checked", &[], "none, because a line that the filter holds back is not looked at"),
    row("fabric_version", &["consensus_build_info"], ""),
    row("go_goroutines", &["consensus_runtime_tasks"], ""),
    row("process_cpu_seconds_total", &["process_cpu_seconds_total"], "and the other series of `process_*`"),
    row("go_memstats_alloc_bytes", &["process_resident_memory_bytes"], "there is no collector of garbage"),
];

/// `consensus_raft` had no metrics of Raft.
const PREDECESSOR: [Row; 8] = [
    row("controller_to_Reconfigure", &["controller_to_Reconfigure"], "the same, in ms"),
    row("controller_to_CheckBlock", &["controller_to_CheckBlock"], "the same, in ms"),
    row("network_to_ProcessNetworkMsg", &["network_to_ProcessNetworkMsg"], "the same, in ms"),
    row("process_open_fds", &["process_open_fds"], "the same"),
    row("process_max_fds", &["process_max_fds"], "the same"),
    row("process_virtual_memory_bytes", &["process_virtual_memory_bytes"], "the same"),
    row("process_resident_memory_bytes", &["process_resident_memory_bytes"], "the same"),
    row("process_start_time_seconds", &["process_start_time_seconds"], "the same"),
];

/// All rows; a name that both have stands in the first part only.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    FABRIC.iter().chain(&PREDECESSOR)
}

/// What others measure, or people ask for, and how it is known here.
const NOT_HERE: [(&str, &str); 8] = [
    (
        "whether there is a quorum",
        "`consensus_raft_active_voters > consensus_raft_voters / 2` on the leader; without a quorum there is none",
    ),
    (
        "transactions in a block",
        "`rate(consensus_ledger_transactions[5m]) / rate(consensus_ledger_height[5m])`",
    ),
    ("how far an application lags", "`consensus_raft_commit_index - consensus_raft_applied_index`"),
    (
        "damaged records found",
        "`consensus_raft_halted`: a damaged record halts its chain, or keeps the node from starting, with the key in the \
         log",
    ),
    ("a torn end of the write-ahead log", "nothing was acknowledged of it, and the engine does not tell"),
    (
        "age of the oldest write that is not durable",
        "`consensus_raft_unpersisted_rounds` and `consensus_storage_persist_duration_seconds`",
    ),
    (
        "whether the nodes' blocks are equal",
        "the status page and `consensus-cli status` compare them; a counter could only tell of its own node",
    ),
    ("round trips through CITA-Cloud's network service", "it answers for itself and not for the peer"),
];

/// The second half of the page.
pub(super) fn page() -> String {
    let mut page = String::from(
        "\n# Names elsewhere\n\nFor those who come with dashboards of another system. What is not here has no \
         counterpart on their side.\n",
    );
    for (heading, rows) in [
        ("Hyperledger Fabric's orderer (etcdraft)", &FABRIC[..]),
        ("`consensus_raft` of CITA-Cloud", &PREDECESSOR[..]),
    ] {
        write!(page, "\n## {heading}\n\n| theirs | ours | |\n|---|---|---|\n").expect("a string");
        for Row { theirs, ours, words } in rows {
            let ours: Vec<String> = ours.iter().map(|name| format!("`{name}`")).collect();
            writeln!(page, "| `{theirs}` | {} | {words} |", ours.join(", ")).expect("a string");
        }
    }
    page += "\n## Without a series of its own\n\n| asked for | here |\n|---|---|\n";
    for (asked, here) in NOT_HERE {
        writeln!(page, "| {asked} | {here} |").expect("a string");
    }
    page
}
