//! What people do with each series: the alert that watches it, what a high value means, where to look next.

/// By the name without the endings of a kind, in the order of the page.
const ADVICE: [(&str, &str); 137] = [
    (
        "consensus_raft_is_leader",
        "Alerts `ConsensusQuorumAtRisk`, `ConsensusTwoLeaders`; the sum over a chain's nodes is 1, for a moment 0.",
    ),
    (
        "consensus_raft_role",
        "A timeline of roles; `pre-candidate` for long: the node hears no leader and finds no majority.",
    ),
    ("consensus_raft_has_leader", "Alert `ConsensusNoLeader`."),
    (
        "consensus_raft_leader_id",
        "Shows where leadership is; different ids on nodes of one term must not be.",
    ),
    ("consensus_raft_term", "Rises with each election; many terms in a short time are elections that fail."),
    (
        "consensus_raft_voters",
        "Alert `ConsensusMembersDiffer`; the base of every majority: `floor(voters / 2) + 1`.",
    ),
    (
        "consensus_raft_learners",
        "Nodes that catch up before they vote; more than 0 for long: a newcomer does not get there.",
    ),
    (
        "consensus_raft_active_voters",
        "Alerts `ConsensusQuorumAtRisk`, `ConsensusMemberMissing`; the chain has a quorum while it is above half of the voters.",
    ),
    (
        "consensus_raft_commit_index",
        "Alerts `ConsensusNoProgress`, `ConsensusNodeBehind`; its rate is the chain's speed in entries.",
    ),
    ("consensus_raft_applied_index", "Alert `ConsensusApplyLag`: what is committed and not applied."),
    (
        "consensus_raft_persisted_index",
        "Behind `consensus_raft_last_index` for long: the disk does not keep up.",
    ),
    (
        "consensus_raft_first_index",
        "Rises when old entries leave the log: on a CITA-Cloud chain at snapshots; the built-in ledger keeps all.",
    ),
    ("consensus_raft_last_index", "With `consensus_raft_commit_index`: what waits for a majority."),
    (
        "consensus_raft_proposals_inflight",
        "At `block.inflight_max` for long: peers or disks are the bottleneck, see the durations beside it.",
    ),
    (
        "consensus_raft_apply_backlog_bytes",
        "Grows when the application is slower than the log; at `limits.apply_backlog_bytes_max` no proposal is taken.",
    ),
    ("consensus_raft_unpersisted_rounds", "Alert `ConsensusWriterBehind`."),
    ("consensus_raft_inbox_left", "More than 0 for long: the driver has more to do than it can."),
    ("consensus_raft_joint", "1 for long: a membership change does not find both its majorities."),
    (
        "consensus_raft_installing",
        "1 for long: the application does not take the snapshot; the node applies nothing meanwhile.",
    ),
    ("consensus_raft_halted", "Alert `ConsensusHalted`; the log and `/status` say why."),
    ("consensus_raft_leader_changes", "Alert `ConsensusLeadershipRestless`."),
    (
        "consensus_raft_disk_hand_overs",
        "Alert `ConsensusLeaderDiskHangs`; again and again: nobody takes over.",
    ),
    ("consensus_raft_elections_started", "Alert `ConsensusElectionsFail`."),
    ("consensus_raft_gate_refused", "Alert `ConsensusMessagesRefused`."),
    ("consensus_raft_inbox_dropped", "Alert `ConsensusInboxFull`."),
    ("consensus_raft_peer_matched_lag_entries", "Alert `ConsensusPeerLag`."),
    (
        "consensus_raft_peer_inflight_entries",
        "Much in flight and a growing lag: the peer or the way to it is slow; little in flight and a lag: it is probed.",
    ),
    ("consensus_raft_peer_active", "Which member a leader misses when `ConsensusMemberMissing` fires."),
    (
        "consensus_raft_peer_state",
        "`probe` for long: the peer does not answer; `snapshot` for long: it does not take one.",
    ),
    (
        "consensus_raft_rounds",
        "With `consensus_raft_events_total`: events in a round, which grow under load.",
    ),
    ("consensus_raft_round_duration_seconds", "Alert `ConsensusDriverSlow`."),
    (
        "consensus_raft_round_age_seconds",
        "Some seconds: the driver hangs, and liveness fails with it. On a CITA-Cloud node only while it has a seat.",
    ),
    ("consensus_raft_events", "What the driver does, ticks included."),
    (
        "consensus_raft_proposals",
        "Rate of proposals; with `consensus_raft_proposals_failed_total` the share that fails.",
    ),
    (
        "consensus_raft_proposals_failed",
        "By reason: `overloaded` is back-pressure, `leadership-lost` and `not-leader` go with changes of the leader, `entry-size` is a wrong configuration.",
    ),
    ("consensus_raft_messages_sent", "Messages for each entry rise when peers are probed or lag."),
    ("consensus_raft_entries_committed", "Rate of entries that reach the application on this node."),
    (
        "consensus_raft_ticks_skipped",
        "The process or its machine stood still; many: too little processor time, a frozen machine.",
    ),
    (
        "consensus_raft_commit_duration_seconds",
        "What agreement costs: the disk of the second-fastest node and the way there. Compare with `consensus_storage_sync_duration_seconds` and `consensus_peer_round_trip_seconds`.",
    ),
    ("consensus_raft_apply_duration_seconds", "Far above the commit's: the application is slow."),
    ("consensus_raft_reads", "Rate of linearizable reads."),
    ("consensus_raft_reads_failed", "By reason; `timed-out`: no quorum confirmed the leader."),
    ("consensus_raft_reads_pending", "Grows without a leader or a quorum."),
    (
        "consensus_raft_snapshot_build_duration_seconds",
        "Entries wait meanwhile; never on the built-in ledger, which needs none.",
    ),
    ("consensus_raft_snapshot_install_duration_seconds", "How long a newcomer applies nothing else."),
    ("consensus_raft_snapshots_sent", "A peer was too far behind for entries."),
    (
        "consensus_raft_snapshots_failed",
        "Again and again for one peer: a snapshot does not get through, see its queue and the way there.",
    ),
    (
        "consensus_raft_peer_unreachable",
        "Rises with broken streams and full queues; alerts `ConsensusPeerDisconnected`, `ConsensusPeerQueueFull` tell which.",
    ),
    ("consensus_storage_free_bytes", "Alerts `ConsensusDiskFull`, `ConsensusDiskFillsUp`."),
    ("consensus_storage_capacity_bytes", "The share that is left: `free_bytes / capacity_bytes`."),
    ("consensus_storage_file_bytes", "What the chains take; its growth a day is in [sizing](sizing.md)."),
    ("consensus_storage_wal_bytes", "Beyond 256 MiB for long: data files cannot be written."),
    ("consensus_storage_level0_files", "Tens of them for long: compactions do not keep up with the disk."),
    ("consensus_storage_compaction_pending_bytes", "The same in bytes."),
    (
        "consensus_storage_background_errors",
        "More than 0: the disk is full or fails; look at the log before anything is restarted.",
    ),
    (
        "consensus_storage_stalled_seconds",
        "More than 0: writes wait because data files are written too slowly, and so does everything that needs a sync.",
    ),
    (
        "consensus_storage_looks_failed",
        "The directory or its disk does not answer; the gauges beside it are old.",
    ),
    ("consensus_storage_entries_written", "Rate of log entries."),
    ("consensus_storage_entry_bytes_written", "Rate of payload bytes; the base of [sizing](sizing.md)."),
    (
        "consensus_storage_persist_duration_seconds",
        "Alert `ConsensusPersistSlow`; far above the sync's: rounds wait for other chains' writes.",
    ),
    (
        "consensus_storage_persisted_rounds",
        "With `consensus_storage_writes_total`: rounds that share a sync.",
    ),
    ("consensus_storage_writes", "Writes a second; bounded by the disk's syncs."),
    ("consensus_storage_batches", "With writes: how many batches share one."),
    ("consensus_storage_sync_duration_seconds", "Alerts `ConsensusDiskSlow`, `ConsensusDiskTooSlow`."),
    (
        "consensus_storage_write_duration_seconds",
        "Slow without a sync: memory is full, see `consensus_storage_stalled_seconds_total`.",
    ),
    (
        "consensus_storage_write_size_bytes",
        "Small and many under load: little is in flight; large: the disk's bandwidth counts, not its syncs.",
    ),
    ("consensus_peer_connected", "Alert `ConsensusPeerDisconnected`."),
    ("consensus_peer_queue_bytes", "Near `limits.peer_queue_bytes_max`: messages will be dropped."),
    ("consensus_peer_queue_messages", "Near `limits.peer_queue_messages_max`: the same."),
    ("consensus_peer_connects", "Rises often: the stream breaks again and again."),
    (
        "consensus_peer_round_trip_seconds",
        "Alert `ConsensusPeersFar`; a tenth of the election timeout is the bound of comfort. None through CITA-Cloud's network service.",
    ),
    ("consensus_peer_messages_sent", "Traffic to the peer."),
    ("consensus_peer_frames_sent", "With messages: how many share a frame, which grows under load."),
    ("consensus_peer_messages_received", "Traffic from the peer."),
    (
        "consensus_peer_messages_dropped",
        "Alert `ConsensusPeerQueueFull`; `disconnected` goes with a broken stream.",
    ),
    ("consensus_peer_handshakes_refused", "Alert `ConsensusHandshakesRefused`; the reason is what differs."),
    ("consensus_peer_messages_malformed", "Alert `ConsensusMessagesMalformed`."),
    (
        "consensus_clients_refused",
        "Alert `ConsensusClientLimited`; the label is the bound's key in the configuration.",
    ),
    (
        "consensus_clients_known",
        "Clients with an account: those that are connected and the last ones that were.",
    ),
    ("consensus_clients_connections", "Near `limits.client_connections_max`: more are closed as they come."),
    (
        "consensus_clients_deliver_cut",
        "Alert `ConsensusReadersCut`: readers that are slower than the chain, or gone.",
    ),
    ("consensus_ledger_height", "The chain's height here; its rate is blocks a second."),
    (
        "consensus_ledger_transactions",
        "Its rate is throughput; divided by the rate of the height: transactions in a block.",
    ),
    (
        "consensus_ordering_submissions",
        "Alert `ConsensusSubmissionsFail`; `duplicate` are submissions sent again.",
    ),
    ("consensus_ordering_submit_duration_seconds", "Alert `ConsensusSubmitSlow`: what clients feel."),
    ("consensus_ordering_frames_inflight", "Alert `ConsensusNoProgress`: clients that wait."),
    (
        "consensus_ordering_queued_transactions",
        "More than 0 for long: the pipeline is full, clients will be refused at `limits.pool_transactions_max`.",
    ),
    (
        "consensus_ordering_pipeline_transactions",
        "At `limits.pool_transactions_max`: more is offered than the chain orders.",
    ),
    ("consensus_ordering_forwarded_transactions", "High on followers: the leader is slow, or far."),
    ("consensus_ordering_deliver_streams", "Readers now."),
    (
        "consensus_ordering_deliver_streams_opened",
        "Rises much faster than readers come: they break off and begin again.",
    ),
    (
        "consensus_ordering_blocks_delivered",
        "What readers get; by the number of readers it is as fast as the height, or they lag.",
    ),
    (
        "consensus_controller_calls",
        "Alert `CitaControllerSilent` (`none`); what the codes mean is in [cita-cloud.md](cita-cloud.md).",
    ),
    ("consensus_controller_ping_duration_seconds", "The controller's answer to the simplest call."),
    ("consensus_controller_get_proposal_duration_seconds", "Part of each block's interval on the leader."),
    ("consensus_controller_check_proposal_duration_seconds", "Part of each block's interval on all nodes."),
    (
        "consensus_controller_commit_block_duration_seconds",
        "Execution; slower than the interval: `CitaControllerBehind` will fire.",
    ),
    ("consensus_controller_height", "Alerts `CitaNoBlocks`, `CitaControllerBehind`."),
    ("consensus_controller_agreed_height", "Alert `CitaControllerBehind`."),
    ("consensus_controller_blocks_agreed", "Rate of blocks."),
    ("consensus_controller_blocks_voided", "Alert `CitaBlockVoided`."),
    ("consensus_controller_hand_overs", "Alert `CitaHandOvers`."),
    (
        "consensus_exchange_refused",
        "Alert `CitaForeignMessages`; `duplicate` and `part` are the network's doing and harmless.",
    ),
    (
        "consensus_exchange_unsent",
        "`stranger` and `seatless` come with changes of the validators; lasting: the roster is old.",
    ),
    ("consensus_exchange_letters_received", "Traffic beside Raft: candidates, verdicts, questions."),
    ("consensus_exchange_outages", "Times that the way to a peer broke."),
    ("consensus_exchange_parts_sent", "Messages too large for one piece."),
    ("consensus_exchange_parts_received", "The same from others; far fewer than they send: pieces get lost."),
    ("consensus_exchange_registered", "Alert `CitaNotRegistered`."),
    ("consensus_exchange_registrations", "Rises often: the network service restarts."),
    ("controller_to_Reconfigure", "As before."),
    ("controller_to_CheckBlock", "As before."),
    ("network_to_ProcessNetworkMsg", "As before; far below a millisecond, for nothing waits here."),
    ("consensus_security_refused", "Alert `ConsensusTurnedAway`."),
    ("consensus_security_reloads", "`refused`: alert `ConsensusCertificateFilesRefused` says more."),
    (
        "consensus_security_certificate_days_left",
        "Alerts `ConsensusCertificateEndsSoon`, `ConsensusCertificateEnds`.",
    ),
    ("consensus_security_alarm", "Alerts `ConsensusCertificateFilesRefused`, `ConsensusExpiredAccepted`."),
    ("consensus_tracing_spans_exported", "Whether traces arrive at all."),
    (
        "consensus_tracing_spans_dropped",
        "`queue-full` or `export-failed`: the collector is slow or away; nothing else suffers.",
    ),
    (
        "consensus_tracing_traces_not_begun",
        "Rises while the collector is away or too slow for the ratio; whole traces are left out, not parts of them.",
    ),
    ("consensus_log_lines", "Rising `error`: somebody must look; rising `warn`: somebody should."),
    ("consensus_log_lost_lines", "Alert `CitaLogLinesLost`."),
    (
        "consensus_runtime_busy_seconds",
        "Its rate by `consensus_runtime_workers`: how busy they are; near 1 the node needs more processors.",
    ),
    ("consensus_runtime_workers", "As configured by `node.worker_threads`."),
    ("consensus_runtime_tasks", "Grows with connections and streams; without end: a fault, report it."),
    ("consensus_runtime_queued_tasks", "Hundreds for long: the workers do not keep up."),
    ("consensus_build", "Alert `ConsensusVersionsDiffer`; joins a version to other series."),
    (
        "consensus_configuration",
        "Changes with the file: what ran with which configuration. Nodes have different ones.",
    ),
    (
        "consensus_process_memory_bound_bytes",
        "Alert `ConsensusMemoryAboveBound`; what it is made of: `consensus-server config check`.",
    ),
    ("consensus_process_start_time_seconds", "Alert `ConsensusRestarts`."),
    ("process_cpu_seconds", "Processor time; a node under load needs it for TLS, hashing and encoding."),
    ("process_resident_memory_bytes", "Against the bounds in [sizing](sizing.md)."),
    ("process_virtual_memory_bytes", "For completeness; what counts is resident memory."),
    ("process_open_fds", "Alert `ConsensusFilesRunOut`."),
    ("process_max_fds", "Alert `ConsensusFilesRunOut`."),
    ("process_threads", "Constant; grows: a fault, report it."),
    (
        "process_start_time_seconds",
        "The same as `consensus_process_start_time_seconds`, by the name that others use.",
    ),
];

/// What to do with a series.
pub(super) fn of(name: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(known, _)| *known == name).map(|(_, advice)| *advice)
}

/// All that something is said of.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ADVICE.iter().map(|(name, _)| *name)
}
