//! Bringing a tenant into a pool: it begins with the rows that the data
//! statements of all versions have left for the pool's template.
//!
//! They are not run again for it. A statement of version 1 was written for the
//! tables of version 1, and those of today may have other columns.

use insula_app_schema::PoolMigration;
use insula_domain::{RoleName, SchemaName, SchemaVersion};
use insula_problem::Problem;
use tokio_postgres::Client;

use super::apply::{limits, lock};
use super::batch::Failure;
use super::support::pool_template_tenant;
use super::version::applied_version;
use crate::db;

/// Makes sure that a tenant of the pool has what the data statements up to a
/// version have left, running them or not: a tenant that is new gets the
/// template's rows, and one that was there when the version was applied has had
/// them since.
///
/// # Errors
/// Where the version is not applied to the pool, the role is not there, or the
/// cluster is away.
pub async fn apply_pool_data(
    client: &mut Client,
    role: &RoleName,
    migration: &PoolMigration,
) -> Result<(), Problem> {
    let wanted = migration.version();
    if enrolled_version(client, role).await? >= Some(wanted) {
        return Ok(());
    }
    let tenant = role.tenant().ok_or_else(|| Problem::internal("only tenants are brought into a pool"))?;
    let transaction = client.transaction().await.map_err(db)?;
    let mut begin: Vec<String> = limits().into();
    begin.push(lock(&SchemaName::pool(), true));
    let begun = transaction.batch_execute(&begin.join(";\n")).await;
    begun.map_err(|error| Failure { done: 0, error }.into_problem("the app schema", ""))?;
    if let Some(enrolled) = enrolled_version(transaction.client(), role).await? {
        let missed = format!("a tenant of the pool is at version {enrolled}, and the pool is not");
        return if enrolled >= wanted { Ok(()) } else { Err(Problem::internal(missed)) };
    }
    let applied = applied_version(transaction.client(), &SchemaName::pool()).await?;
    let applied = applied.map_or(SchemaVersion(0), |applied| applied.version);
    if applied < wanted {
        return Err(Problem::internal(format!("version {wanted} is not applied to the pool yet")));
    }
    transaction
        .execute(
            "select insula.enrol($1, $2, (select oid from pg_roles where rolname = $3), $4)",
            &[&tenant.as_uuid(), &pool_template_tenant().as_uuid(), &role.as_str(), &applied.0],
        )
        .await
        .map_err(db)?;
    transaction.commit().await.map_err(db)
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
