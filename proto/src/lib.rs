//! Every wire and record schema of the consensus service, and no logic but how much of it is decoded.
//!
//! The schemas are in `protos/`; this crate only includes what the build script makes of them. All
//! `bytes` fields are [`bytes::Bytes`], so that decoding a frame shares its buffer instead of copying.
//!
//! * [`records`] (always): what is on disk.
//! * [`raft`] (always): the mirror of the Raft message schema.
//! * `ordering`, `peer`, `admin` (feature `services`): the gRPC services.
//! * `cita` (feature `services`): what CITA-Cloud's services say to each other, wire-compatible, and what the
//!   consensus services of one of its chains exchange and keep ([`cita::exchange`]).
//! * [`codec`] (feature `services`): what all services are decoded with.

#[cfg(feature = "services")]
pub mod codec;

pub use generated::consensus::raft::v1 as raft;
pub use generated::consensus::records::v1 as records;

#[cfg(feature = "services")]
pub use generated::consensus::{admin::v1 as admin, ordering::v1 as ordering, peer::v1 as peer};

/// CITA-Cloud's services, and the exchange between the consensus services of one of its chains.
#[cfg(feature = "services")]
pub mod cita {
    pub use super::generated::consensus::cita::v1 as exchange;
    pub use super::generated::consensus::{consensus_service_client, consensus_service_server};
    pub use super::generated::{common, controller, network};
}

/// The encoded descriptors of all schemas, for server reflection.
#[cfg(feature = "services")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The generated code finds its neighbours by package path, so the modules are nested like the packages.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations)]
mod generated {
    #[cfg(feature = "services")]
    pub mod common {
        include!(concat!(env!("OUT_DIR"), "/common.rs"));
    }
    #[cfg(feature = "services")]
    pub mod controller {
        include!(concat!(env!("OUT_DIR"), "/controller.rs"));
    }
    #[cfg(feature = "services")]
    pub mod network {
        include!(concat!(env!("OUT_DIR"), "/network.rs"));
    }
    pub mod consensus {
        #[cfg(feature = "services")]
        include!(concat!(env!("OUT_DIR"), "/consensus.rs"));
        #[cfg(feature = "services")]
        pub mod cita {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/consensus.cita.v1.rs"));
            }
        }
        pub mod records {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/consensus.records.v1.rs"));
            }
        }
        pub mod raft {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/consensus.raft.v1.rs"));
            }
        }
        #[cfg(feature = "services")]
        pub mod ordering {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/consensus.ordering.v1.rs"));
            }
        }
        #[cfg(feature = "services")]
        pub mod peer {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/consensus.peer.v1.rs"));
            }
        }
        #[cfg(feature = "services")]
        pub mod admin {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/consensus.admin.v1.rs"));
            }
        }
    }
}
