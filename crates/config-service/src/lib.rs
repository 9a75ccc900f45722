//! The configuration service: who may read and write which value, which of the
//! values that are set a tenant sees, and who is told when that changes.
//! [`Service`] has what can be asked; gRPC and HTTP are thin over it.

mod acknowledged;
mod backends;
mod caller;
mod confidence;
mod directory;
mod fitting;
pub mod flagd;
mod followed;
pub mod grpc;
pub mod http;
mod hub;
mod keeping;
mod known_schemas;
mod large;
pub mod measure;
mod reading;
mod rollouts;
mod sending;
mod service;
mod tags;
mod upkeep;
mod validate;
mod watching;
mod wire;
mod writing;

pub use acknowledged::Clients;
pub use backends::{Backends, TagPlace};
pub use caller::Caller;
pub use directory::{Directory, Named};
pub use fitting::Fitting;
pub use hub::{Hub, Item};
pub use keeping::Acknowledged;
pub use reading::{Asked, Listed, Which, page};
pub use rollouts::{NewRollout, Progress, Steer};
pub use service::{Parts, RegionParts, Service};
pub use tags::Tagged;
pub use validate::{HeldAgainst, Proposed, Schemas, Validator};
pub use watching::{WatchAsked, Watcher};
pub use wire::{Frame, entry};
pub use writing::{NewOp, NewWrite, To};

use std::time::Duration;

/// What is bounded, and how.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Watchers at once.
    pub watchers: usize,
    /// Watchers of one tenant at once.
    pub watchers_per_tenant: usize,
    /// Bytes that the values of watched scopes may take in memory, of each region.
    pub values_bytes: usize,
    /// Bytes of changes that may wait for watchers that do not take them, of
    /// each region; beyond, those take a new snapshot.
    pub queued_bytes: usize,
    /// Bytes that may be on their way to watchers, of all tenants; one tenant may
    /// have an eighth of it.
    pub sending_bytes: usize,
    /// Values of one scope.
    pub values_per_scope: u32,
    /// How often a watcher hears that nothing has changed.
    pub heartbeat: Duration,
    /// Connections of one tenant, where the port is the service's own.
    pub connections_per_tenant: usize,
    /// Calls under way at once, watches aside.
    pub in_flight: usize,
    /// How long a call may take, watches aside.
    pub call_timeout: Duration,
    /// The longest message that is read, in bytes.
    pub message_bytes: usize,
    /// How often backends outside are compared with the log.
    pub reconcile: Duration,
    /// How long the changes of a region may go unread before that is said; they
    /// are read every five seconds where its store answers.
    pub followed_within: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            watchers: 20_000,
            watchers_per_tenant: 5_000,
            values_bytes: 512 << 20,
            queued_bytes: 64 << 20,
            sending_bytes: 256 << 20,
            values_per_scope: 20_000,
            heartbeat: Duration::from_secs(10),
            connections_per_tenant: 6_000,
            in_flight: 512,
            call_timeout: Duration::from_secs(20),
            message_bytes: 20 << 20,
            reconcile: Duration::from_secs(30),
            followed_within: Duration::from_secs(30),
        }
    }
}
