//! Bringing a tenant into a pool: it begins with the rows that the data
//! statements of all versions have left for the pool's template.
//!
//! They are not run again for it. A statement of version 1 was written for the
//! tables of version 1, and those of today may have other columns.

use insula_domain::{RoleName, SchemaName, SchemaVersion, TenantId};
use insula_problem::Problem;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::apply::{limits, lock};
use super::batch::Failure;
use super::failure::Place;
use super::support::pool_template_tenant;
use super::version::applied_version;
use crate::db;

/// The shared tables, held at the version that they have: none is applied to
/// them as long as this lives. Dropped, it lets go of them.
pub struct HeldPool<'c> {
    transaction: Transaction<'c>,
    version: SchemaVersion,
}

/// Holds the shared tables in the database of the connection.
///
/// # Errors
/// `unavailable` where a version is being applied for longer than a few
/// seconds, or the cluster is away.
pub async fn hold_pool(client: &mut Client) -> Result<HeldPool<'_>, Problem> {
    let transaction = client.transaction().await.map_err(db)?;
    let mut begin = limits();
    begin.push(lock(&SchemaName::pool(), true));
    let begun = transaction.batch_execute(&begin.join(";\n")).await;
    begun.map_err(|error| Failure { done: 0, error }.into_problem(&Place::elsewhere()))?;
    let applied = applied_version(transaction.client(), &SchemaName::pool()).await?;
    let version = applied.map_or(SchemaVersion(0), |applied| applied.version);
    Ok(HeldPool { transaction, version })
}

impl HeldPool<'_> {
    /// The version that a tenant of the pool has: that of the shared tables.
    /// It is asked for anew, so that an answer says that they are still held.
    ///
    /// # Errors
    /// Where the tenant was never brought in, or the cluster is away.
    pub async fn version_of(&self, role: &RoleName) -> Result<SchemaVersion, Problem> {
        match enrolled_version(self.transaction.client(), role).await? {
            Some(enrolled) if enrolled == self.version => Ok(enrolled),
            Some(enrolled) => {
                let differs = format!(
                    "a tenant of the pool is at version {enrolled}, and the pool at {}",
                    self.version
                );
                Err(Problem::internal(differs))
            }
            None => Err(Problem::internal("the tenant is not in the pool")),
        }
    }

    async fn enrol(&self, role: &RoleName) -> Result<(), Problem> {
        let tenant =
            role.tenant().ok_or_else(|| Problem::internal("only tenants are brought into a pool"))?;
        let enrolled = self
            .transaction
            .execute(
                "select insula.enrol($1, $2, oid, $4) from pg_roles where rolname = $3",
                &[&tenant.as_uuid(), &pool_template_tenant().as_uuid(), &role.as_str(), &self.version.0],
            )
            .await;
        // A role that is not there shows when the tenant is then not in the pool.
        enrolled.map(|_| ()).map_err(|error| Failure { done: 0, error }.into_problem(&Place::elsewhere()))
    }
}

/// Makes sure that a tenant of the pool has what the data statements of the
/// versions have left, up to the one that the shared tables have; which one
/// that is. A tenant that is new gets the template's rows, and one that was
/// there when a version was applied has had its data since.
///
/// # Errors
/// Where the role is not there, a version is being applied for longer than a
/// few seconds, or the cluster is away.
pub async fn apply_pool_data(client: &mut Client, role: &RoleName) -> Result<SchemaVersion, Problem> {
    let pool = hold_pool(client).await?;
    if enrolled_version(pool.transaction.client(), role).await?.is_none() {
        pool.enrol(role).await?;
    }
    let version = pool.version_of(role).await?;
    pool.transaction.commit().await.map_err(db)?;
    Ok(version)
}

/// Brings a tenant into the pool that comes with rows of its own: it gets none
/// of the template's. Which version the pool has.
///
/// # Errors
/// Where the role is not there, a version is being applied for longer than a
/// few seconds, or the cluster is away.
pub async fn enrol_without_rows(client: &mut Client, role: &RoleName) -> Result<SchemaVersion, Problem> {
    let tenant = role.tenant().ok_or_else(|| Problem::internal("only tenants are brought into a pool"))?;
    let pool = hold_pool(client).await?;
    pool.transaction
        .execute(
            "insert into insula.pool_tenants (tenant_id, role_oid, version)
             select $1, oid, $3 from pg_roles where rolname = $2
             on conflict (tenant_id) do update set role_oid = excluded.role_oid, version = excluded.version",
            &[&tenant.as_uuid(), &role.as_str(), &pool.version.0],
        )
        .await
        .map_err(db)?;
    let version = pool.version_of(role).await?;
    pool.transaction.commit().await.map_err(db)?;
    Ok(version)
}

/// Tries whether a tenant could begin with the template's rows, and leaves
/// nothing of it: a row that was there before a constraint which is not
/// validated stays, and cannot be written again.
///
/// # Errors
/// `migration_failed` where it could not; or where the cluster is away.
pub async fn try_new_tenant(client: &mut Client) -> Result<(), Problem> {
    let pool = hold_pool(client).await?;
    let tried = pool
        .transaction
        .execute(
            "select insula.enrol(gen_random_uuid(), $1, 0::oid, $2)",
            &[&pool_template_tenant().as_uuid(), &pool.version.0],
        )
        .await;
    tried.map(|_| ()).map_err(|error| Failure { done: 0, error }.into_problem(&Place::new_tenant()))
}

/// The version up to which each tenant of the pool has the data.
///
/// # Errors
/// Where the cluster is away.
pub async fn pool_versions(client: &Client) -> Result<Vec<(TenantId, SchemaVersion)>, Problem> {
    let rows = client
        .query(
            "select t.tenant_id, t.version from insula.pool_tenants t
             join pg_roles r on r.oid = t.role_oid order by t.tenant_id",
            &[],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| (row.get::<_, Uuid>(0).into(), SchemaVersion(row.get(1)))).collect())
}

/// The version up to which a tenant of the pool has the data; none where it
/// was never brought in, or its role is another one by now.
async fn enrolled_version(client: &Client, role: &RoleName) -> Result<Option<SchemaVersion>, Problem> {
    let Some(tenant) = role.tenant() else { return Ok(None) };
    let row = client
        .query_opt(
            "select t.version from insula.pool_tenants t
             join pg_roles r on r.oid = t.role_oid and r.rolname = $2 where t.tenant_id = $1",
            &[&tenant.as_uuid(), &role.as_str()],
        )
        .await
        .map_err(db)?;
    Ok(row.map(|row| SchemaVersion(row.get(0))))
}
