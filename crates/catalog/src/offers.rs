//! Plans and tiers: what the provider sells.

use insula_domain::{Plan, PlanName, Tier, TierName, UserPoolKind};
use insula_problem::Problem;
use tokio_postgres::Row;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, unsigned};

fn plan_of(row: &Row) -> Result<Plan, Problem> {
    let small = |column: &str| -> Result<Option<u32>, Problem> {
        let value: Option<i32> = row.try_get(column).map_err(db)?;
        value.map(|value| unsigned(column, value)).transpose()
    };
    let large = |column: &str| -> Result<Option<u64>, Problem> {
        let value: Option<i64> = row.try_get(column).map_err(db)?;
        value.map(|value| unsigned(column, value)).transpose()
    };
    Ok(Plan {
        name: parsed(row, "name")?,
        requests_per_second: small("requests_per_second")?,
        burst: small("burst")?,
        daily_quota: large("daily_quota")?,
        requests_in_flight: small("requests_in_flight")?,
        database_connections: small("database_connections")?,
        database_weight: small("database_weight")?.unwrap_or(1),
        database_backends: small("database_backends")?,
        database_backends_warm: small("database_backends_warm")?,
        statement_timeout_ms: small("statement_timeout_ms")?,
        idle_in_transaction_timeout_ms: small("idle_in_transaction_timeout_ms")?,
        storage_bytes: large("storage_bytes")?,
    })
}

fn tier_of(row: &Row) -> Result<Tier, Problem> {
    let user_pool: &str = row.try_get("user_pool").map_err(db)?;
    Ok(Tier {
        name: parsed(row, "name")?,
        isolation: parsed(row, "isolation")?,
        user_pool: if user_pool == "shared" { UserPoolKind::Shared } else { UserPoolKind::Dedicated },
        plan: parsed(row, "plan")?,
        own_objects: row.try_get("own_objects").map_err(db)?,
    })
}

fn signed32(value: Option<u32>) -> Option<i32> {
    value.map(|value| i32::try_from(value).unwrap_or(i32::MAX))
}

fn signed64(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

impl CatalogClient {
    /// All plans by name.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn plans(&self) -> Result<Vec<Plan>, Problem> {
        let rows = self.raw().query("select * from plans order by name", &[]).await.map_err(db)?;
        rows.iter().map(plan_of).collect()
    }

    /// One plan.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn plan(&self, name: &PlanName) -> Result<Option<Plan>, Problem> {
        let row = self
            .raw()
            .query_opt("select * from plans where name = $1", &[&name.as_str()])
            .await
            .map_err(db)?;
        row.as_ref().map(plan_of).transpose()
    }

    /// All tiers, the smallest first.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tiers(&self) -> Result<Vec<Tier>, Problem> {
        let rows = self.raw().query("select * from tiers order by position, name", &[]).await.map_err(db)?;
        rows.iter().map(tier_of).collect()
    }

    /// One tier.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tier(&self, name: &TierName) -> Result<Option<Tier>, Problem> {
        let row = self
            .raw()
            .query_opt("select * from tiers where name = $1", &[&name.as_str()])
            .await
            .map_err(db)?;
        row.as_ref().map(tier_of).transpose()
    }
}

impl Change<'_> {
    /// Adds a plan or changes its limits; `true` where it is new.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn put_plan(&self, plan: &Plan) -> Result<bool, Problem> {
        let row = self
            .raw()
            .query_one(
                "insert into plans (name, requests_per_second, burst, daily_quota, requests_in_flight,
                                    database_connections, storage_bytes, database_weight,
                                    database_backends, database_backends_warm, statement_timeout_ms,
                                    idle_in_transaction_timeout_ms)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 on conflict (name) do update set
                     requests_per_second = excluded.requests_per_second, burst = excluded.burst,
                     daily_quota = excluded.daily_quota, requests_in_flight = excluded.requests_in_flight,
                     database_connections = excluded.database_connections,
                     storage_bytes = excluded.storage_bytes, database_weight = excluded.database_weight,
                     database_backends = excluded.database_backends,
                     database_backends_warm = excluded.database_backends_warm,
                     statement_timeout_ms = excluded.statement_timeout_ms,
                     idle_in_transaction_timeout_ms = excluded.idle_in_transaction_timeout_ms,
                     revision = plans.revision + 1
                 returning revision = 1",
                &[
                    &plan.name.as_str(),
                    &signed32(plan.requests_per_second),
                    &signed32(plan.burst),
                    &signed64(plan.daily_quota),
                    &signed32(plan.requests_in_flight),
                    &signed32(plan.database_connections),
                    &signed64(plan.storage_bytes),
                    &signed32(Some(plan.database_weight)),
                    &signed32(plan.database_backends),
                    &signed32(plan.database_backends_warm),
                    &signed32(plan.statement_timeout_ms),
                    &signed32(plan.idle_in_transaction_timeout_ms),
                ],
            )
            .await
            .map_err(db)?;
        Ok(row.get(0))
    }

    /// The tier by its name, its row locked until the end of the transaction.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn lock_tier(&self, name: &TierName) -> Result<Option<Tier>, Problem> {
        let row = self
            .raw()
            .query_opt("select * from tiers where name = $1 for update", &[&name.as_str()])
            .await
            .map_err(db)?;
        row.as_ref().map(tier_of).transpose()
    }

    /// Adds a tier or changes it; `true` where it is new. Tenants that are on
    /// the tier keep their placement; limits follow the plan at once.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn put_tier(&self, tier: &Tier) -> Result<bool, Problem> {
        let row = self
            .raw()
            .query_one(
                "insert into tiers (name, isolation, user_pool, plan, own_objects, position)
                 values ($1, $2, $3, $4, $5, (select coalesce(max(position), 0) + 1 from tiers))
                 on conflict (name) do update set isolation = excluded.isolation,
                     user_pool = excluded.user_pool, plan = excluded.plan,
                     own_objects = excluded.own_objects, revision = tiers.revision + 1
                 returning revision = 1",
                &[
                    &tier.name.as_str(),
                    &tier.isolation.as_str(),
                    &tier.user_pool.as_str(),
                    &tier.plan.as_str(),
                    &tier.own_objects,
                ],
            )
            .await
            .map_err(db)?;
        Ok(row.get(0))
    }
}
