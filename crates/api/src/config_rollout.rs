//! Staged rollouts of values of the configuration.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::config::{ConfigLarge, document};

const fn ten_minutes() -> u32 {
    600
}

/// What is rolled out, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartConfigRollout {
    /// The new document.
    #[serde(default, deserialize_with = "document", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Box<RawValue>>,
    /// Or the new large value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<ConfigLarge>,
    /// Or the value of this older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// Or the value of the version with this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Or no value any more.
    #[serde(default)]
    pub remove: bool,
    /// Growing shares of the tenants in percent; the last one is 100.
    pub steps: Vec<f64>,
    /// How long each step is looked at before the next one, in seconds.
    #[serde(default = "ten_minutes")]
    pub bake_seconds: u32,
    /// Slugs or ids of those who see it from the first step on; 100 at the most.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// So many tenants' clients may refuse the version; one more, and it is
    /// taken back.
    #[serde(default)]
    pub rejections: u32,
    /// So many tenants' clients have to run with the version before a step is
    /// over. In a tenant's scope each client of that tenant counts.
    #[serde(default)]
    pub confirmations: u32,
    /// Only where the newest version is this one; 0 is where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<i64>,
    /// What is said of it.
    #[serde(default)]
    pub note: String,
}

/// What is said of what is done to a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SteerConfigRollout {
    /// Why.
    #[serde(default)]
    pub cause: String,
}

/// A staged rollout of a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigRollout {
    /// Of which key.
    pub key: String,
    /// Where it is set.
    pub scope: String,
    /// The version that is rolled out; whom it does not reach sees the one before.
    pub version: i64,
    /// `running`, `paused`, `completed`, `rolled_back`, `aborted` or `superseded`.
    pub state: String,
    /// The step, from 1 on.
    pub step: usize,
    /// The shares of the tenants, in percent.
    pub steps: Vec<f64>,
    /// The share that this step reaches, in percent.
    pub percent: f64,
    /// The ids of those who see it from the first step on.
    pub tenants: Vec<String>,
    /// How long each step is looked at, in seconds.
    pub bake_seconds: u32,
    /// How long this step has been looked at, in seconds.
    pub baked_seconds: u64,
    /// So many tenants' clients may refuse it.
    pub rejections: u32,
    /// So many tenants' clients have to run with it.
    pub confirmations: u32,
    /// Tenants of whose clients some run with it; in a tenant's scope that
    /// tenant's clients. 200, or as many as the plan asks for, are counted, where
    /// there are more.
    pub confirmed: u64,
    /// Tenants of whose clients some refuse it, counted likewise.
    pub rejecting: u64,
    /// What one of them says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<String>,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub began: OffsetDateTime,
    /// When it was changed last.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// By whom.
    pub author: String,
    /// Why it stays, or has ended.
    #[serde(default)]
    pub cause: String,
}

/// That a scope's newest version is being rolled out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigStage {
    /// The version.
    pub version: i64,
    /// The share of the tenants that see it, in percent.
    pub percent: f64,
    /// Whether it is what is seen here; else it is the version before.
    pub reached: bool,
}

/// How many clients run with a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigVersionRuns {
    /// Where the version is set.
    pub scope: String,
    /// The version; 0 is none.
    pub version: i64,
    /// Clients that run with it.
    pub running: i64,
    /// Clients that refuse it, and run with what they had.
    pub refusing: i64,
}

/// A client, and what it said last of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigClientRun {
    /// The id of its tenant.
    pub tenant: String,
    /// Who it is among the tenant's clients.
    pub client_id: String,
    /// Where the version is set.
    pub scope: String,
    /// The version; 0 is none.
    pub version: i64,
    /// Why it does not run with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<String>,
    /// Up to which change it has taken over what it has received.
    pub revision: i64,
    /// When it said so.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Which clients run with which version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigClients {
    /// By version.
    pub versions: Vec<ConfigVersionRuns>,
    /// Those that refuse what they have received first; as many as were asked for.
    pub clients: Vec<ConfigClientRun>,
}
