//! The limits that a tenant has bought.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::text::PlanName;

/// A plan: the limits of a tenant. `None` is "no limit".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The plan's name.
    pub name: PlanName,
    /// Sustained HTTP requests in a second.
    pub requests_per_second: Option<u32>,
    /// HTTP requests that may come at once above the sustained rate.
    pub burst: Option<u32>,
    /// HTTP requests in a day (UTC).
    pub daily_quota: Option<u64>,
    /// HTTP requests under way at once.
    pub requests_in_flight: Option<u32>,
    /// Sessions of the PostgreSQL front at once.
    pub database_connections: Option<u32>,
    /// Share of a cluster's backends among the tenants that want them.
    #[serde(default = "weight_one")]
    pub database_weight: u32,
    /// Backends on a cluster at once; `None` is as the front is set.
    #[serde(default)]
    pub database_backends: Option<u32>,
    /// Backends that are kept open while the tenant is in use.
    #[serde(default)]
    pub database_backends_warm: Option<u32>,
    /// Milliseconds that a statement may take.
    #[serde(default)]
    pub statement_timeout_ms: Option<u32>,
    /// Milliseconds that a transaction may stand open with nothing asked.
    #[serde(default)]
    pub idle_in_transaction_timeout_ms: Option<u32>,
    /// Bytes of tables and indexes.
    pub storage_bytes: Option<u64>,
}

const fn weight_one() -> u32 {
    1
}

/// What a tenant has of the PostgreSQL front by its plan, beside the number of
/// its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseTerms {
    /// Share of a cluster's backends among the tenants that want them; 1 or more.
    pub weight: u32,
    /// Backends on a cluster at once; `None` is as the front is set.
    pub backends: Option<u32>,
    /// Backends that are kept open while the tenant is in use.
    pub backends_warm: u32,
    /// How long a statement may take; `None` is "no limit".
    pub statement_timeout: Option<Duration>,
    /// How long a transaction may stand open with nothing asked; `None` is "no
    /// limit".
    pub idle_in_transaction_timeout: Option<Duration>,
}

impl Default for DatabaseTerms {
    /// Those of a plan that says nothing of them.
    fn default() -> Self {
        Self {
            weight: weight_one(),
            backends: None,
            backends_warm: 0,
            statement_timeout: None,
            idle_in_transaction_timeout: None,
        }
    }
}

impl Plan {
    /// Whether one more session of the PostgreSQL front fits beside those open.
    #[must_use]
    pub fn admits_connection(&self, open: u32) -> bool {
        self.database_connections.is_none_or(|limit| open < limit)
    }
}
