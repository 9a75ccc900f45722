//! Tiers: what the provider sells, a named bundle of isolation model, kind of
//! user pool and plan.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::isolation::Isolation;
use crate::plan::Plan;
use crate::text::{PlanName, TierName};

/// Whether a tenant's users are in a directory shared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserPoolKind {
    /// One directory of a region for many tenants.
    Shared,
    /// A directory of the tenant's own.
    Dedicated,
}

impl UserPoolKind {
    /// The word as it stands in the API and the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// A named bundle that the provider sells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tier {
    /// The tier's name.
    pub name: TierName,
    /// How far the tenant's rows are from those of others.
    pub isolation: Isolation,
    /// Where the tenant's users are kept.
    pub user_pool: UserPoolKind,
    /// The tenant's limits.
    pub plan: PlanName,
    /// Whether the tenant may make objects of its own, in a schema of its own.
    /// Never where tenants share tables.
    #[serde(default)]
    pub own_objects: bool,
}

#[allow(clippy::expect_used)] // literals, covered by the test below
fn word<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a literal name is valid")
}

/// The tiers that a new Insula has.
#[must_use]
pub fn default_tiers() -> Vec<Tier> {
    [
        ("free", Isolation::Pool, UserPoolKind::Shared),
        ("standard", Isolation::Schema, UserPoolKind::Shared),
        ("business", Isolation::Database, UserPoolKind::Dedicated),
        ("enterprise", Isolation::Cluster, UserPoolKind::Dedicated),
    ]
    .into_iter()
    .map(|(name, isolation, user_pool)| Tier {
        name: word(name),
        isolation,
        user_pool,
        plan: word(name),
        own_objects: false,
    })
    .collect()
}

/// The plans that a new Insula has, one a default tier.
#[must_use]
pub fn default_plans() -> Vec<Plan> {
    const GIB: u64 = 1 << 30;
    const MINUTE_MS: u32 = 60_000;
    [
        ("free", 10, 20, Some(50_000), 8, 10, Some(GIB)),
        ("standard", 50, 100, Some(1_000_000), 32, 20, Some(20 * GIB)),
        ("business", 200, 400, None, 128, 50, Some(200 * GIB)),
        ("enterprise", 1_000, 2_000, None, 512, 100, None),
    ]
    .into_iter()
    .zip([
        (1, None, Some(MINUTE_MS), Some(MINUTE_MS)),
        (2, Some(1), Some(10 * MINUTE_MS), Some(10 * MINUTE_MS)),
        (4, Some(2), None, Some(60 * MINUTE_MS)),
        (8, Some(4), None, None),
    ])
    .map(|((name, rate, burst, daily_quota, in_flight, connections, storage_bytes), database)| Plan {
        name: word(name),
        requests_per_second: Some(rate),
        burst: Some(burst),
        daily_quota,
        requests_in_flight: Some(in_flight),
        database_connections: Some(connections),
        database_weight: database.0,
        database_backends: None,
        database_backends_warm: database.1,
        statement_timeout_ms: database.2,
        idle_in_transaction_timeout_ms: database.3,
        storage_bytes,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_tier_has_its_plan_and_all_models_are_sold() {
        let plans: Vec<_> = default_plans().into_iter().map(|plan| plan.name).collect();
        let tiers = default_tiers();
        assert!(tiers.iter().all(|tier| plans.contains(&tier.plan)));
        let models: Vec<_> = tiers.iter().map(|tier| tier.isolation).collect();
        assert_eq!(models, Isolation::ALL);
    }
}
