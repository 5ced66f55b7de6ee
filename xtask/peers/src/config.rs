//! The parts of a node's `config.toml` that the stand-ins read, in the original format.
//!
//! Every service reads its own sections of one file and ignores the rest. Addresses are in files of their
//! own; paths are relative to the node's directory.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;

/// Bytes of a validator's address.
pub const ADDRESS_BYTES: usize = 20;

/// What a controller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Where it serves.
    pub controller_port: u16,
    /// Where consensus serves.
    pub consensus_port: u16,
    /// Where the network serves.
    pub network_port: u16,
    /// Its address as a validator: the proposer of its blocks.
    pub address: Bytes,
    /// What holds until a block changes it.
    pub block_interval: u32,
    /// What holds until a block changes it.
    pub validators: Vec<Bytes>,
    /// Distinguishes chains; goes into the first block.
    pub chain_id: Bytes,
    /// Of the first block, in milliseconds since 1970.
    pub genesis_ms: u64,
}

/// What a network service is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Where it serves its modules.
    pub grpc_port: u16,
    /// Where it hears its peers.
    pub port: u16,
    /// Distinguishes chains.
    pub chain: u64,
    /// Origin of everything but consensus.
    pub node: u64,
    /// Origin of consensus.
    pub validator: u64,
    /// Who handles messages here.
    pub modules: Vec<Module>,
    /// The ports of the others.
    pub peers: Vec<u16>,
}

/// A service of this node that handles messages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Module {
    /// Name, as messages carry it.
    pub module_name: String,
    /// Host on which it serves.
    pub hostname: String,
    /// Port on which it serves.
    pub port: u16,
}

#[derive(Deserialize)]
struct ControllerFile {
    controller: ControllerSection,
    system_config: SystemSection,
    #[serde(default)]
    genesis_block: GenesisSection,
}

#[derive(Deserialize)]
struct ControllerSection {
    controller_port: u16,
    consensus_port: u16,
    network_port: u16,
    validator_address: String,
}

#[derive(Deserialize)]
struct SystemSection {
    block_interval: u32,
    validators: Vec<String>,
    chain_id: String,
}

#[derive(Default, Deserialize)]
struct GenesisSection {
    #[serde(default)]
    timestamp: u64,
}

#[derive(Deserialize)]
struct NetworkFile {
    network_zenoh: NetworkSection,
}

#[derive(Deserialize)]
struct NetworkSection {
    grpc_port: u16,
    port: u16,
    chain_id: String,
    node_address: String,
    validator_address: String,
    #[serde(default)]
    modules: Vec<Module>,
    #[serde(default)]
    peers: Vec<PeerSection>,
}

#[derive(Deserialize)]
struct PeerSection {
    port: u16,
}

impl ControllerConfig {
    /// Reads `[controller]`, `[system_config]` and `[genesis_block]`. Paths in `file` are relative to
    /// `directory`.
    ///
    /// # Errors
    /// When the file or an address file cannot be read or does not have its form.
    pub fn read(file: &Path, directory: &Path) -> Result<Self> {
        let parsed: ControllerFile = parse(file)?;
        let ControllerSection { controller_port, consensus_port, network_port, validator_address } =
            parsed.controller;
        let validators = parsed.system_config.validators.iter().map(|text| address(text));
        Ok(Self {
            controller_port,
            consensus_port,
            network_port,
            address: address_file(directory, &validator_address)?,
            block_interval: parsed.system_config.block_interval,
            validators: validators.collect::<Result<_>>().context("system_config.validators")?,
            chain_id: hex_bytes(&parsed.system_config.chain_id).context("system_config.chain_id")?,
            genesis_ms: parsed.genesis_block.timestamp,
        })
    }
}

impl NetworkConfig {
    /// Reads `[network_zenoh]`. Paths in `file` are relative to `directory`.
    ///
    /// # Errors
    /// When the file or an address file cannot be read or does not have its form.
    pub fn read(file: &Path, directory: &Path) -> Result<Self> {
        let section = parse::<NetworkFile>(file)?.network_zenoh;
        let chain_id = hex_bytes(&section.chain_id).context("network_zenoh.chain_id")?;
        Ok(Self {
            grpc_port: section.grpc_port,
            port: section.port,
            chain: origin(&chain_id),
            node: origin(&address_file(directory, &section.node_address)?),
            validator: origin(&address_file(directory, &section.validator_address)?),
            modules: section.modules,
            peers: section.peers.into_iter().map(|peer| peer.port).collect(),
        })
    }
}

/// Where messages to an address go: its first 8 bytes, big-endian.
pub fn origin(address: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let count = address.len().min(8);
    bytes[..count].copy_from_slice(&address[..count]);
    u64::from_be_bytes(bytes)
}

/// An address as configurations and scripts write it: 40 hexadecimal digits, with or without 0x.
///
/// # Errors
/// When it is something else.
pub fn address(text: &str) -> Result<Bytes> {
    let bytes = hex_bytes(text)?;
    ensure!(bytes.len() == ADDRESS_BYTES, "address {text:?} has {} bytes, not {ADDRESS_BYTES}", bytes.len());
    Ok(bytes)
}

fn hex_bytes(text: &str) -> Result<Bytes> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let bytes = hex::decode(digits).with_context(|| format!("{text:?} is not hexadecimal"))?;
    Ok(Bytes::from(bytes))
}

fn address_file(directory: &Path, name: &str) -> Result<Bytes> {
    let path = directory.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    address(&text).with_context(|| path.display().to_string())
}

fn parse<T: for<'de> Deserialize<'de>>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    toml::from_str(&text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[network_zenoh]
chain_id = "63586a3c0255f337c77a777ff54f0040b8c388da04f23ecee6bfd4953a6512b4"
domain = "test-chain-node1"
grpc_port = 50100
node_address = "node_address"
port = 40001
protocol = "quic"
validator_address = "validator_address"
[[network_zenoh.modules]]
hostname = "localhost"
module_name = "consensus"
port = 50101
[[network_zenoh.peers]]
domain = "test-chain-node0"
port = 40000
protocol = "quic"
[consensus_raft]
controller_port = 50104
[genesis_block]
prevhash = "0x00"
timestamp = 1795163004217
[system_config]
block_interval = 3
chain_id = "63586a3c0255f337c77a777ff54f0040b8c388da04f23ecee6bfd4953a6512b4"
validators = ["c1bcd410636e5ece8699d44ec1b47996d7895ebe"]
[controller]
consensus_port = 50101
controller_port = 50104
network_port = 50100
node_address = "node_address"
validator_address = "validator_address"
"#;

    #[test]
    fn both_services_find_their_sections_in_one_original_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, FILE).unwrap();
        for name in ["node_address", "validator_address"] {
            std::fs::write(directory.path().join(name), "c1bcd410636e5ece8699d44ec1b47996d7895ebe").unwrap();
        }
        let controller = ControllerConfig::read(&file, directory.path()).unwrap();
        assert_eq!(controller.validators.first(), Some(&controller.address));
        assert_eq!((controller.consensus_port, controller.block_interval), (50101, 3));
        let network = NetworkConfig::read(&file, directory.path()).unwrap();
        assert_eq!(network.validator, 0xc1bc_d410_636e_5ece);
        assert_eq!(network.chain, 0x6358_6a3c_0255_f337);
        assert_eq!(network.peers, [40000]);
    }

    #[test]
    fn an_address_of_another_length_is_refused_with_its_length() {
        let error = address("0xc1bc").unwrap_err();
        assert_eq!(error.to_string(), "address \"0xc1bc\" has 2 bytes, not 20");
    }
}
