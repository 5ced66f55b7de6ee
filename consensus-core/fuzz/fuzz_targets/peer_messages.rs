#![no_main]
#![allow(dead_code, reason = "each target uses a part of what the targets share")]

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| { targets::peer_messages::peer_messages(bytes); });
