//! Tiers and plans; reading them gives the domain's own types.

use insula_domain::{Isolation, OperationId, Tier, UserPoolKind};
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
    /// Whether its tenants may make objects of their own. Where it is not given
    /// it stays as it is, and is no for a new tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_objects: Option<bool>,
}

/// A tier as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TierAfterPut {
    /// The tier.
    #[serde(flatten)]
    pub tier: Tier,
    /// The operation that gives its tenants the right to objects of their own,
    /// or takes it, where that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub operation: Option<OperationId>,
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
    /// Share of a cluster's backends among the tenants that want them, from 1 to 1000; 1 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_weight: Option<u32>,
    /// Backends on a cluster at once; as the front is set where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_backends: Option<u32>,
    /// Backends that are kept open while the tenant is in use; none where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_backends_warm: Option<u32>,
    /// Milliseconds that a statement may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_timeout_ms: Option<u32>,
    /// Milliseconds that a transaction may stand open with nothing asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_in_transaction_timeout_ms: Option<u32>,
    /// Bytes of tables and indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
}
