//! The messages and services of the configuration service's gRPC interface.
//! `proto/` is what they are made of, and what clients in other languages use.

/// Insula's own interface.
pub mod v1 {
    tonic::include_proto!("insula.config.v1");
}

/// Flags, as flagd offers them to OpenFeature's SDKs.
pub mod flagd {
    /// Evaluated at the server.
    pub mod evaluation {
        /// The first version, in which every answer has a value.
        pub mod v1 {
            tonic::include_proto!("flagd.evaluation.v1");
        }
        /// The second version, in which an answer can be without one.
        pub mod v2 {
            tonic::include_proto!("flagd.evaluation.v2");
        }
    }
    /// Their definitions.
    pub mod sync {
        /// The first version.
        pub mod v1 {
            tonic::include_proto!("flagd.sync.v1");
        }
    }
}

pub use prost_types::{ListValue, Struct, Value, value::Kind};

/// The description of every message and service, for gRPC's reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
