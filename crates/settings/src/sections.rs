//! The sections of `insula.toml`, one struct each. Every field says what it
//! is for, in which unit, and has a default where there is a sensible one.

mod config;
mod config_backend;
mod data;
mod network;
mod process;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use config::Config;
pub use config_backend::{ConfigBackend, ConfigBackendKind};
pub use data::{Catalog, Keys, LocalProvisioner, Provisioner, ProvisionerKind, Region, Tenants, Workflow};
pub use network::{Http, Pg, Tls};
pub use process::{Log, LogFormat, Metrics, Operator, Otel, Server};

/// The boot settings of Insula (`insula.toml`). A variable of the environment
/// wins over the file: `INSULA_HTTP__LISTEN` is `listen` in `[http]`. Relative
/// paths start at the folder in which the process was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the process does.
    pub server: Server,
    /// The HTTP listener: admin API, health, metrics.
    pub http: Http,
    /// The PostgreSQL front.
    pub pg: Pg,
    /// The configuration service over gRPC.
    pub config: Config,
    /// The global catalog: a PostgreSQL database that all processes share.
    pub catalog: Catalog,
    /// The regions, each with its store.
    pub regions: Vec<Region>,
    /// The master keys, from which other secrets are derived.
    pub keys: Keys,
    /// The operators' way in.
    pub operator: Operator,
    /// The log on standard error.
    pub log: Log,
    /// Traces to an OpenTelemetry collector.
    pub otel: Otel,
    /// Metrics in the Prometheus format.
    pub metrics: Metrics,
    /// The life of tenants.
    pub tenants: Tenants,
    /// The durable workflows.
    pub workflow: Workflow,
    /// What starts PostgreSQL servers for tenants that have one of their own.
    pub provisioner: Provisioner,
}
