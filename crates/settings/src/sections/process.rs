//! The process itself: `[server]`, `[operator]`, `[log]`, `[otel]`, `[metrics]`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::length::HumanDuration;
use crate::list::{self, OneOrMany};
use crate::role::Role;
use crate::secret::SecretText;

/// `[server]`: what the process does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The roles of this process: any of `control`, `pg-proxy`, `worker`; in a
    /// list, or in one text with commas.
    #[serde(deserialize_with = "list::roles")]
    #[schemars(with = "OneOrMany")]
    pub roles: BTreeSet<Role>,
    /// The folder for files of the process's own.
    pub data_dir: PathBuf,
    /// How long a stop waits for requests and sessions under way.
    pub shutdown_grace: HumanDuration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            roles: Role::ALL.into(),
            data_dir: PathBuf::from("/var/lib/insula"),
            shutdown_grace: HumanDuration::from_secs(20),
        }
    }
}

/// `[operator]`: the operators' way in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// The token of the first operator. Where it is not given, only tokens that
    /// the catalog knows already open the admin API.
    pub token: SecretText,
    /// A file that holds the token, instead of `token`.
    pub token_file: Option<PathBuf>,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON else.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`: the log on standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks: `auto` (text on a terminal, JSON else), `text`, `json`.
    pub format: LogFormat,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or
    /// several directives with commas, such as `info,insula_pg_proxy=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

/// `[otel]`: traces to an OpenTelemetry collector, by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Otel {
    /// The collector's base URL, for example `http://127.0.0.1:4318`; traces go
    /// to `/v1/traces` under it. Nothing is sent where it is not given.
    pub endpoint: Option<String>,
    /// Certificates in PEM to trust beside the public authorities.
    pub ca_file: Option<PathBuf>,
    /// The name of the service in the traces.
    pub service_name: String,
    /// The share of traces that is sent, from 0 to 1.
    pub sample_ratio: f64,
    /// How long one export may take, and how long a stop waits for the last one.
    pub timeout: HumanDuration,
}

impl Default for Otel {
    fn default() -> Self {
        Self {
            endpoint: None,
            ca_file: None,
            service_name: "insula".to_owned(),
            sample_ratio: 1.0,
            timeout: HumanDuration::from_secs(5),
        }
    }
}

/// `[metrics]`: metrics in the Prometheus format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whether `/metrics` answers.
    pub enabled: bool,
    /// How many tenants have series of their own, those with most transactions;
    /// the others are counted together. 1,000 at the most.
    pub top_tenants: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, top_tenants: 50 }
    }
}
