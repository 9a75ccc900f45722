//! The limits that a tenant has bought.

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
    /// Bytes of tables and indexes.
    pub storage_bytes: Option<u64>,
}

impl Plan {
    /// Whether one more session of the PostgreSQL front fits beside those open.
    #[must_use]
    pub fn admits_connection(&self, open: u32) -> bool {
        self.database_connections.is_none_or(|limit| open < limit)
    }
}
