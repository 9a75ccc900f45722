//! The removal of one tenant's rows from shared tables, in bounded batches, so
//! that neither the log nor the locks grow with the tenant.

use insula_domain::TenantId;
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::db;

/// Rows that one transaction removes.
const BATCH: i64 = 10_000;

/// Removes all rows of a tenant from the shared tables; how many there were.
/// Foreign keys are not followed: every row that refers to one of the tenant's
/// is the tenant's own, by the pool form, and goes as well.
///
/// # Errors
/// Where the cluster is away.
pub async fn purge_pool_rows(client: &mut Client, tenant: TenantId) -> Result<u64, Problem> {
    // First: a version that is applied meanwhile writes no rows for it any more.
    client
        .execute("delete from insula.pool_tenants where tenant_id = $1", &[&tenant.as_uuid()])
        .await
        .map_err(db)?;
    let mut removed = 0;
    for table in pool_tables(client).await? {
        // Each table by its own name from the catalog, quoted by PostgreSQL.
        let statement = format!(
            "delete from {table} where ctid = any(array(
                 select ctid from {table} where tenant_id = $1 limit {BATCH}))"
        );
        loop {
            let transaction = client.transaction().await.map_err(db)?;
            transaction.batch_execute("set local session_replication_role = replica").await.map_err(db)?;
            let batch = transaction.execute(&statement, &[&tenant.as_uuid()]).await.map_err(db)?;
            transaction.commit().await.map_err(db)?;
            removed += batch;
            if batch < BATCH.unsigned_abs() {
                break;
            }
        }
    }
    Ok(removed)
}

/// The shared tables in which rows are, as quoted names. Of a partitioned table
/// these are its partitions: a `ctid` names one row of one of them, and in the
/// partitioned table a row of each.
pub(crate) async fn pool_tables(client: &Client) -> Result<Vec<String>, Problem> {
    let rows = client
        .query(
            "select format('%I.%I', n.nspname, c.relname) from pg_class c
             join pg_namespace n on n.oid = c.relnamespace
             join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
             where n.nspname = 'app' and c.relkind = 'r' order by 1",
            &[],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
