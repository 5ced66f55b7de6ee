//! Stories of whole CITA-Cloud chains in one process: real consensus state on disk, real seats, and
//! controllers that follow a script.

mod cluster;
mod controllers;
mod stories;
