//! A node's directory as cloud-config writes it: one `config.toml` for all services, and address files.
//!
//! The text has every section and key of the original, so that what reads it meets what an operator's file
//! has, with the parts that belong to services that are not started.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::chain::Ports;

/// What one chain has in common.
#[derive(Clone, Debug)]
pub(crate) struct Genesis {
    /// 64 hexadecimal digits.
    pub(crate) chain_id: String,
    /// Seconds.
    pub(crate) block_interval: u32,
    /// Addresses in hexadecimal, of the first validators.
    pub(crate) validators: Vec<String>,
    /// Milliseconds since 1970.
    pub(crate) timestamp_ms: u64,
}

/// Writes a node's directory. `extra` is added to the section of consensus.
pub(crate) fn write(
    directory: &Path,
    genesis: &Genesis,
    node: usize,
    address: &str,
    ports: &[Ports],
    extra: &str,
) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let text = text(genesis, node, ports, extra);
    for (name, content) in
        [("config.toml", text.as_str()), ("node_address", address), ("validator_address", address)]
    {
        let path = directory.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn text(genesis: &Genesis, node: usize, ports: &[Ports], extra: &str) -> String {
    let own = &ports[node];
    let mut text = network(genesis, node, ports);
    let _ = write!(
        text,
        "[consensus_raft]\ncontroller_port = {}\nenable_metrics = true\ngrpc_listen_port = {}\n\
         log_level = \"info\"\nmetrics_port = {}\nnetwork_port = {}\nnode_addr = \"node_address\"\n{extra}\n",
        own.controller, own.consensus, own.metrics, own.network
    );
    let _ = write!(
        text,
        "[executor_evm]\ndomain = \"test-chain-node{node}\"\nenable_metrics = true\n\
         executor_port = {}\nmetrics_port = {}\n\n{}\
         [storage_opendal]\ndomain = \"test-chain-node{node}\"\nenable_metrics = true\n\
         metrics_port = {}\nstorage_port = {}\n\n\
         [storage_opendal.cloud_storage]\naccess_key_id = \"\"\nbucket = \"\"\nendpoint = \"\"\nregion = \"\"\n\
         root = \"\"\nsecret_access_key = \"\"\nservice_type = \"\"\n\n\
         [storage_opendal.exporter]\nbase_path = \"\"\nchain_name = \"test-chain\"\n\n{}",
        own.others[0],
        own.others[1],
        log_config("executor_evm", "executor"),
        own.others[2],
        own.others[3],
        log_config("storage_opendal", "storage"),
    );
    let Genesis { chain_id, block_interval, validators, timestamp_ms } = genesis;
    let _ = write!(
        text,
        "[genesis_block]\nprevhash = \"0x{:064x}\"\ntimestamp = {timestamp_ms}\n\n\
         [system_config]\nadmin = \"80b90c2ecbc26ab6a53066554c194388f62cec39\"\n\
         block_interval = {block_interval}\nblock_limit = 100\nchain_id = \"{chain_id}\"\n\
         quota_limit = 1073741824\nvalidators = [\n",
        0
    );
    for validator in validators {
        let _ = writeln!(text, "    \"{validator}\",");
    }
    let _ = write!(
        text,
        "]\nversion = 0\n\n[controller]\nconsensus_port = {}\ncontroller_port = {}\n\
         domain = \"test-chain-node{node}\"\nenable_metrics = true\nexecutor_port = {}\nis_danger = false\n\
         metrics_port = {}\nnetwork_port = {}\nnode_address = \"node_address\"\nstorage_port = {}\n\
         tx_persistence = false\nvalidator_address = \"validator_address\"\n\n{}",
        own.consensus,
        own.controller,
        own.others[0],
        own.others[4],
        own.network,
        own.others[3],
        log_config("controller", "controller"),
    );
    text
}

fn network(genesis: &Genesis, node: usize, ports: &[Ports]) -> String {
    let own = &ports[node];
    let certificate = |kind: &str| format!("\"\"\"\n-----BEGIN {kind}-----\n-----END {kind}-----\n\"\"\"");
    let mut text = format!(
        "[network_zenoh]\nca_cert = {ca}\ncert = {ca}\nchain_id = \"{chain_id}\"\n\
         domain = \"test-chain-node{node}\"\nenable_metrics = true\ngrpc_port = {grpc}\n\
         metrics_port = {metrics}\nnode_address = \"node_address\"\nport = {port}\npriv_key = {key}\n\
         protocol = \"quic\"\nvalidator_address = \"validator_address\"\n\n{log}",
        ca = certificate("CERTIFICATE"),
        key = certificate("PRIVATE KEY"),
        chain_id = genesis.chain_id,
        grpc = own.network,
        metrics = own.others[5],
        port = own.peer,
        log = log_config("network_zenoh", "network"),
    );
    for (name, port) in [("consensus", own.consensus), ("controller", own.controller)] {
        let _ = write!(
            text,
            "[[network_zenoh.modules]]\nhostname = \"localhost\"\nmodule_name = \"{name}\"\nport = {port}\n\n"
        );
    }
    for (other, ports) in ports.iter().enumerate().filter(|(other, _)| *other != node) {
        let _ = write!(
            text,
            "[[network_zenoh.peers]]\ndomain = \"test-chain-node{other}\"\nport = {}\nprotocol = \"quic\"\n\n",
            ports.peer
        );
    }
    text
}

fn log_config(section: &str, service: &str) -> String {
    format!(
        "[{section}.log_config]\nfilter = \"info\"\nmax_level = \"info\"\nservice_name = \"{service}\"\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_file_has_all_sections_and_its_own_ports_in_them() {
        let ports = (0..3).map(|node| Ports::from_free(&(100 * node..100 * node + 13).collect::<Vec<_>>()));
        let ports = ports.collect::<Vec<_>>();
        let genesis = Genesis {
            chain_id: "63".repeat(32),
            block_interval: 3,
            validators: vec!["c1".repeat(20)],
            timestamp_ms: 1,
        };
        let text = text(&genesis, 1, &ports, "");
        for section in [
            "[network_zenoh]",
            "[consensus_raft]",
            "[executor_evm]",
            "[storage_opendal]",
            "[genesis_block]",
            "[system_config]",
            "[controller]",
        ] {
            assert!(text.contains(section), "{section} is missing in\n{text}");
        }
        assert_eq!(text.matches("[[network_zenoh.peers]]").count(), 2);
        assert_eq!(text.matches(&format!("controller_port = {}\n", ports[1].controller)).count(), 2);
        assert_eq!(text.matches(&format!("port = {}\n", ports[0].peer)).count(), 1);
        assert!(text.contains("prevhash = \"0x00000000"));
    }
}
