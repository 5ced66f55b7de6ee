//! The stand-ins in one process, seen from where consensus stands.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod controller;
mod network;
mod setting;
