//! Tiers and plans; reading them gives the domain's own types.

use insula_domain::{Isolation, UserPoolKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A tier as it shall be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutTier {
    /// How far the rows of its tenants are from those of others.
    pub isolation: Isolation,
    /// Where the users of its tenants are kept.
    pub user_pool: UserPoolKind,
    /// The plan of its tenants.
    pub plan: String,
}

/// A plan as it shall be; a limit that is not given is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPlan {
    /// Sustained HTTP requests in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// HTTP requests that may come at once above the sustained rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// HTTP requests in a day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_quota: Option<u64>,
    /// HTTP requests under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_in_flight: Option<u32>,
    /// Sessions of the PostgreSQL front at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_connections: Option<u32>,
    /// Bytes of tables and indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
}
