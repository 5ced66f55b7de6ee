//! Stories of whole CITA-Cloud chains in one process: real consensus state on disk, real seats, and
//! controllers that follow a script.

mod cluster;
#[path = "../collector/mod.rs"]
mod collector;
mod controllers;
mod stories;
mod tracing;
