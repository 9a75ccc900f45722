//! Where versions of the app schema failed. The catalog knows what failed and
//! where, in names; what PostgreSQL said, with values of rows, stays in the
//! store of the cluster's region. The catalog's row is written first and
//! removed last, so that nothing is kept in a region that nobody knows of.

use std::collections::BTreeMap;

use insula_api::SchemaFailure;
use insula_catalog::{Author, CatalogClient, NewSchemaFailure, SchemaFailureRecord};
use insula_domain::{AppTables, ClusterName, RegionName, SchemaVersion};
use insula_problem::{Code, Problem};
use insula_region_store::RowFailure;
use insula_tenant_cluster::schema::RowsDoNotFit;
use serde_json::json;

use super::SUBJECT;
use crate::Control;

/// Notes that a version could not be brought to tables.
///
/// # Errors
/// Where the catalog is away. A region store that is away costs the words of
/// PostgreSQL, which the next try says again.
pub async fn note(
    control: &Control,
    client: &mut CatalogClient,
    tables: &AppTables,
    cluster: &ClusterName,
    problem: &Problem,
) -> Result<(), Problem> {
    let Some(behind) = RowsDoNotFit::behind(problem) else { return Ok(()) };
    let Some(version) = behind.version() else { return Ok(()) };
    let region = region_of(client, cluster).await?;
    let failure = NewSchemaFailure {
        tables: tables.clone(),
        cluster: cluster.clone(),
        version,
        code: problem.code().to_string(),
        detail: problem.detail().to_owned(),
    };
    let change = client.change(control.worker()).await?;
    change.set_schema_failure(&failure).await?;
    let detail = json!({"version": version, "code": failure.code});
    change.audit("schema.failed", tables.tenant(), &tables.to_string(), &detail).await?;
    let at = change.at();
    change.commit().await?;
    let tenant = tables.tenant().or(behind.tenant());
    let said = RowFailure { tables, version, tenant, at, said: behind.said() };
    let kept = match control.regions.of(&region) {
        Ok(store) => store.keep_row_failure(said).await,
        Err(problem) => Err(problem),
    };
    if let Err(problem) = kept {
        tracing::warn!(%tables, cause = problem.chain(), "what PostgreSQL said of the failure is not kept");
    }
    Ok(())
}

/// Forgets the failure of tables that have the version now. It comes before
/// the version is noted, so that a crash between the two is made good.
///
/// # Errors
/// Where the catalog or the region store is away.
pub async fn mended(
    control: &Control,
    client: &mut CatalogClient,
    tables: &AppTables,
    cluster: &ClusterName,
    reached: SchemaVersion,
) -> Result<(), Problem> {
    if !client.has_schema_failure(tables, reached).await? {
        return Ok(());
    }
    let region = region_of(client, cluster).await?;
    control.regions.of(&region)?.forget_row_failure(tables, reached).await?;
    let change = client.change(control.worker()).await?;
    change.forget_schema_failure(tables, reached).await?;
    let detail = json!({"version": reached});
    change.audit("schema.mended", tables.tenant(), &tables.to_string(), &detail).await?;
    change.commit().await
}

async fn region_of(client: &CatalogClient, cluster: &ClusterName) -> Result<RegionName, Problem> {
    let record = client.cluster(cluster).await?;
    let missing = || Problem::new(Code::UnknownCluster, format!("There is no cluster {cluster}."));
    Ok(record.ok_or_else(missing)?.region)
}

/// The failures with what PostgreSQL said, in the order of their keys. As that
/// holds values of tenants, each showing is in the audit.
///
/// # Errors
/// Where the catalog is away.
pub async fn list(
    control: &Control,
    author: Author,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<SchemaFailure>, Problem> {
    let mut client = control.catalog.client().await?;
    let records = client.schema_failures(after, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
    let change = client.change(author).await?;
    change.audit("schema.failures.show", None, SUBJECT, &json!({"failures": records.len()})).await?;
    change.commit().await?;
    let mut said = said(control, &records).await;
    let shown = |record: SchemaFailureRecord| SchemaFailure {
        row: said.remove(&record.tables),
        placement: record.tables,
        tenant: record.tenant,
        cluster: record.cluster.to_string(),
        version: record.version,
        code: record.code,
        detail: record.detail,
        at: record.at,
    };
    Ok(records.into_iter().map(shown).collect())
}

/// What was said, by key. A region whose store is away keeps its own.
async fn said(control: &Control, records: &[SchemaFailureRecord]) -> BTreeMap<String, String> {
    let mut regions: BTreeMap<&RegionName, Vec<String>> = BTreeMap::new();
    for record in records {
        regions.entry(&record.region).or_default().push(record.tables.clone());
    }
    let mut said = BTreeMap::new();
    for (region, tables) in regions {
        let asked = match control.regions.of(region) {
            Ok(store) => store.row_failures(&tables).await,
            Err(problem) => Err(problem),
        };
        match asked {
            Ok(found) => said.extend(found),
            Err(problem) => {
                tracing::warn!(%region, cause = problem.chain(), "what PostgreSQL said cannot be read");
            }
        }
    }
    said
}
