//! `[http]` and `[pg]`: where the process listens, and how much it takes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use insula_domain::PoolMode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::length::HumanDuration;
use crate::list::{self, OneOrMany};

/// A certificate and its key, as files in PEM. They are read again when they
/// change, and on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, followed by those between it and the authority.
    pub cert_file: PathBuf,
    /// The private key of the certificate.
    pub key_file: PathBuf,
}

/// `[http]`: the HTTP listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Addresses to listen on; several in a list, or in one text with commas.
    #[serde(deserialize_with = "list::addresses")]
    #[schemars(with = "OneOrMany")]
    pub listen: Vec<SocketAddr>,
    /// The URL under which the outside reaches this listener, without a path.
    pub public_url: String,
    /// HTTPS instead of HTTP, where it is given.
    pub tls: Option<Tls>,
    /// The largest body of a request that is read, in bytes.
    pub max_body_bytes: u64,
    /// Requests under way at once; further ones are refused with `overloaded`.
    pub max_in_flight: u32,
    /// Connections open at once; further ones wait.
    pub max_connections: u32,
    /// How long the head of a request may take to arrive.
    pub header_timeout: HumanDuration,
    /// How long a whole request may take, from its head to the end of its answer.
    pub request_timeout: HumanDuration,
    /// How many wrong credentials an address may present a minute, and how many
    /// may be presented for one operator; further ones are refused with
    /// `too_many_attempts`. `0` is no limit.
    pub failed_logins_per_minute: u32,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: loopback(7400),
            public_url: "http://localhost:7400".to_owned(),
            tls: None,
            max_body_bytes: 4 << 20,
            max_in_flight: 512,
            max_connections: 1_024,
            header_timeout: HumanDuration::from_secs(10),
            request_timeout: HumanDuration::from_secs(30),
            failed_logins_per_minute: 30,
        }
    }
}

/// `[pg]`: the PostgreSQL front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pg {
    /// Addresses to listen on; several in a list, or in one text with commas.
    #[serde(deserialize_with = "list::addresses")]
    #[schemars(with = "OneOrMany")]
    pub listen: Vec<SocketAddr>,
    /// Host and port that `insula tenant url` writes into URLs; the first
    /// address of `listen` where it is not given.
    pub public_address: Option<String>,
    /// TLS for clients that ask for it, where it is given.
    pub tls: Option<Tls>,
    /// Whether clients that do not ask for TLS are refused.
    pub require_tls: bool,
    /// The domain below which tenants have host names, as in
    /// `acme.db.example.com` with `db.example.com`. A client that connects to
    /// such a name with TLS must have a login that reaches that tenant. Where it
    /// is not given, host names mean nothing.
    pub tenant_domain: Option<String>,
    /// Sessions open at once, of all tenants together; a tenant's own limit is
    /// in its plan.
    pub max_sessions: u32,
    /// How long a client may take from connecting to being authenticated.
    pub startup_timeout: HumanDuration,
    /// How long the connection to a tenant's cluster may take to open.
    pub connect_timeout: HumanDuration,
    /// How long sessions keep a connection to the database whose login does not
    /// say: for a transaction, or as long as they last.
    #[schemars(with = "String", extend("enum" = ["transaction", "session"]))]
    pub pool_mode: PoolMode,
    /// Connections to one cluster where the cluster has no bound of its own.
    pub max_backends_per_cluster: u32,
    /// Connections to one cluster for one tenant; three quarters of the
    /// cluster's where it is not given.
    pub max_backends_per_tenant: Option<u32>,
    /// Connections to one cluster that work at the same time while several
    /// tenants are at work there; 0 is no bound. Where it is not given, four
    /// times the processors for a cluster on this machine, and a quarter of its connections
    /// for any other. A tenant that is alone there has no such bound.
    pub max_active_per_cluster: Option<u32>,
    /// How long a session waits for a connection before it is refused.
    pub backend_wait: HumanDuration,
    /// How long a connection that nobody uses is kept.
    pub backend_idle: HumanDuration,
}

impl Default for Pg {
    fn default() -> Self {
        Self {
            listen: loopback(7432),
            public_address: None,
            tls: None,
            require_tls: false,
            tenant_domain: None,
            max_sessions: 2_000,
            startup_timeout: HumanDuration::from_secs(10),
            connect_timeout: HumanDuration::from_secs(5),
            pool_mode: PoolMode::Transaction,
            max_backends_per_cluster: 100,
            max_backends_per_tenant: None,
            max_active_per_cluster: None,
            backend_wait: HumanDuration::from_secs(15),
            backend_idle: HumanDuration::from_secs(60),
        }
    }
}

pub(super) fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}
