//! What ships under `deploy/` is parsed, and what has to agree in it agrees. That the configurations are
//! valid, and that the metrics exist which the alerts are about, is tested beside the server.

mod compose;
mod image;
mod kubernetes;
mod prometheus;
mod systemd;
mod yaml;
