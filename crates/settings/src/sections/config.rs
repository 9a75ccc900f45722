//! `[config]`: where the configuration service listens, and how much it takes.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config_backend::ConfigBackend;
use super::network::{Tls, loopback};
use crate::length::HumanDuration;
use crate::list::{self, OneOrMany};

/// `[config]`: the configuration service over gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on; several in a list, or in one text with commas.
    #[serde(deserialize_with = "list::addresses")]
    #[schemars(with = "OneOrMany")]
    pub listen: Vec<SocketAddr>,
    /// TLS, where it is given.
    pub tls: Option<Tls>,
    /// Connections open at once; further ones wait.
    pub max_connections: u32,
    /// Calls and watches at once on one connection; further ones wait.
    pub max_streams_per_connection: u32,
    /// How long a new connection may take until its first bytes, or its TLS
    /// handshake, are there.
    pub handshake_timeout: HumanDuration,
    /// Watchers at once; further ones are refused with `overloaded`.
    pub max_watchers: u32,
    /// Watchers of one tenant at once.
    pub max_watchers_per_tenant: u32,
    /// Calls under way at once, watches aside; further ones are refused with
    /// `overloaded`.
    pub max_in_flight: u32,
    /// How long a call may take, watches aside.
    pub call_timeout: HumanDuration,
    /// The largest message that is read, in bytes.
    pub max_message_bytes: u32,
    /// How often a watcher hears that nothing has changed.
    pub heartbeat: HumanDuration,
    /// About how many bytes of memory the values that are watched may take, for
    /// each region; further tenants are not watched then.
    pub values_bytes: u64,
    /// How long the changes of a region may go unread before `/readyz` and the
    /// health of gRPC say so. Where its store answers they are read every 5 s.
    pub followed_within: HumanDuration,
    /// How often backends outside of the stores are compared with what the
    /// stores have.
    pub reconcile_every: HumanDuration,
    /// What keeps values outside of the stores.
    pub backends: Vec<ConfigBackend>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: loopback(7401),
            tls: None,
            max_connections: 12_000,
            max_streams_per_connection: 1_000,
            handshake_timeout: HumanDuration::from_secs(10),
            max_watchers: 20_000,
            max_watchers_per_tenant: 5_000,
            max_in_flight: 512,
            call_timeout: HumanDuration::from_secs(20),
            max_message_bytes: 20 << 20,
            heartbeat: HumanDuration::from_secs(10),
            values_bytes: 512 << 20,
            followed_within: HumanDuration::from_secs(30),
            reconcile_every: HumanDuration::from_secs(30),
            backends: Vec::new(),
        }
    }
}
