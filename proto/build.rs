//! Compiles the schemas with protox, so that nobody needs protoc.

use std::path::PathBuf;

const PROTOS: [&str; 11] = [
    "raft.proto",
    "records.proto",
    "ordering.proto",
    "peer.proto",
    "admin.proto",
    "cita_records.proto",
    "cita_exchange.proto",
    "cita/common.proto",
    "cita/consensus.proto",
    "cita/controller.proto",
    "cita/network.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(PROTOS, ["protos"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    if std::env::var_os("CARGO_FEATURE_SERVICES").is_some() {
        tonic_prost_build::configure()
            .bytes(".")
            .codec_path("crate::codec::Codec")
            .compile_fds(descriptors)?;
    } else {
        prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    }
    Ok(())
}
