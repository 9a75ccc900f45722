//! Bringing the versions of the app schema to placements: the shared tables
//! and the template of a cluster, and the tenants one by one. Everything here
//! can be repeated; what is there already is left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_app_schema::{AppSchema, PlainMigration, PoolForm, PoolMigration, Refusals, check_all};
use insula_catalog::{ClusterRecord, SchemaVersionRecord, TenantRecord};
use insula_domain::{
    ClusterName, DatabaseName, Isolation, Placement, RoleName, SchemaName, SchemaVersion, TenantId,
};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::{self as cluster, ClusterAccess, Connection, Scratch, schema};

use super::known::{KnownForms, expected};
use crate::{Control, own_objects};

/// The versions in both forms.
#[derive(Debug)]
pub struct Forms {
    /// As their developer wrote them.
    pub plain: Vec<PlainMigration>,
    /// As they are in shared tables.
    pub pool: Vec<PoolMigration>,
}

impl Forms {
    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> SchemaVersion {
        self.plain.last().map_or(SchemaVersion(0), PlainMigration::version)
    }

    /// Reads versions that were taken.
    ///
    /// # Errors
    /// Where they cannot be read any more: a defect of ours, since they could
    /// when they were taken.
    pub fn read(records: &[SchemaVersionRecord]) -> Result<Self, Problem> {
        if records.is_empty() {
            return Ok(Self { plain: Vec::new(), pool: Vec::new() });
        }
        let files =
            records.iter().map(|record| (record.name.clone(), record.sql.clone().into_bytes())).collect();
        let app = AppSchema::from_files(files).map_err(Problem::internal)?;
        let plain = check_all(app.migrations()).map_err(Problem::internal)?;
        let pool = pool_form(&plain).map_err(Problem::internal)?;
        Ok(Self { plain, pool })
    }
}

/// The versions as they are in shared tables.
///
/// # Errors
/// Everything that cannot be proved safe there.
pub fn pool_form(plain: &[PlainMigration]) -> Result<Vec<PoolMigration>, Refusals> {
    let mut model = PoolForm::new();
    plain.iter().map(|migration| model.rewrite(migration)).collect()
}

/// The published versions, read once for each newest one: a published version
/// never changes.
#[derive(Debug, Default)]
pub struct Versions {
    read: Mutex<Option<Arc<Forms>>>,
    /// What they make on each cluster.
    pub known: KnownForms,
}

/// The published versions.
///
/// # Errors
/// Where the catalog is away.
pub async fn forms(control: &Control) -> Result<Arc<Forms>, Problem> {
    let client = control.catalog.client().await?;
    let newest = client.newest_schema_version().await?;
    let known = control.versions.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(known) = known.filter(|known| known.newest() == newest) {
        return Ok(known);
    }
    let read = Arc::new(Forms::read(&client.schema_versions(false).await?)?);
    *control.versions.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read.clone());
    Ok(read)
}

/// Brings the shared tables and the template of a cluster to the newest
/// version; which one that is. The template comes first: it has no tenant's
/// rows, so that silos are made at the newest version wherever the pool is.
///
/// # Errors
/// Where the cluster is away, or a version fails on it.
pub async fn bring_shared(access: &ClusterAccess, forms: &Forms) -> Result<SchemaVersion, Problem> {
    cluster::publish_template(access, forms.newest(), &forms.plain).await?;
    let mut client = access.shared(&DatabaseName::pool()).await?;
    for migration in &forms.pool {
        schema::apply_pool(&mut client, migration).await?;
    }
    Ok(forms.newest())
}

/// Brings a new tenant to the version that its placement can have, with the
/// rights to use it; which one that is. In a pool it is the version of the
/// shared tables, which may wait for other tenants' rows; elsewhere the newest.
///
/// # Errors
/// Where the cluster is away, or a version fails there.
pub async fn bring_new(
    control: &Control,
    tenant: &TenantRecord,
    placement: &Placement,
) -> Result<SchemaVersion, Problem> {
    if placement.isolation == Isolation::Pool {
        let mut client = shared_tables(control, placement).await?;
        return schema::apply_pool_data(&mut client, &placement.role).await;
    }
    bring_silo(control, tenant, placement).await
}

/// Brings a tenant's placement to the newest version; which one it has then.
/// In a pool nothing is left to do: what brought the shared tables there has
/// brought their tenants.
///
/// # Errors
/// Where the cluster is away, or a version fails there.
pub async fn bring_tenant(
    control: &Control,
    tenant: &TenantRecord,
    placement: &Placement,
) -> Result<SchemaVersion, Problem> {
    if placement.isolation == Isolation::Pool {
        let mut client = shared_tables(control, placement).await?;
        return schema::hold_pool(&mut client).await?.version_of(&placement.role).await;
    }
    bring_silo(control, tenant, placement).await
}

async fn bring_silo(
    control: &Control,
    tenant: &TenantRecord,
    placement: &Placement,
) -> Result<SchemaVersion, Problem> {
    let access = control.clusters.access(&placement.cluster).await?;
    let forms = forms(control).await?;
    let mut client = match placement.isolation {
        Isolation::Schema => access.shared(&placement.database).await?,
        _ => access.own(&placement.database).await?,
    };
    for (migration, shared) in forms.plain.iter().zip(&forms.pool) {
        if let Err(problem) = schema::apply_plain(&mut client, &placement.schema, migration).await {
            let problem = schema::with_rows(&mut client, &placement.schema, shared, problem).await;
            return Err(in_the_tenants_words(control, tenant, problem).await);
        }
    }
    schema::grant_rights(&client, &placement.schema, &placement.role, false).await?;
    schema::grant_rights(&client, &placement.schema, &RoleName::read_only_of_tenant(tenant.id), true).await?;
    Ok(forms.newest())
}

/// The version that the shared tables of a cluster have.
///
/// # Errors
/// Where the cluster is away.
pub async fn pool_version(access: &ClusterAccess) -> Result<SchemaVersion, Problem> {
    let client = access.shared(&DatabaseName::pool()).await?;
    let applied = schema::applied_version(&client, &SchemaName::pool()).await?;
    Ok(applied.map_or(SchemaVersion(0), |applied| applied.version))
}

/// Ends sessions that hold shared tables and have been idle in their
/// transaction for longer than this; how many.
///
/// # Errors
/// Where the cluster is away.
pub async fn end_idle_holders(
    control: &Control,
    cluster: &ClusterName,
    idle: Duration,
) -> Result<i64, Problem> {
    let access = control.clusters.access(cluster).await?;
    let client = access.shared(&DatabaseName::pool()).await?;
    cluster::end_idle_holders(&client, &SchemaName::pool(), idle).await
}

/// What failed, with the tenant's own objects that it failed for.
async fn in_the_tenants_words(control: &Control, tenant: &TenantRecord, problem: Problem) -> Problem {
    match own_objects::space(control, tenant).await {
        Ok(Some((space, client))) => cluster::explain(&client, &space, problem).await,
        _ => problem,
    }
}

/// The version that each tenant in the shared tables of a cluster has.
///
/// # Errors
/// Where the cluster is away.
pub async fn pool_versions(
    control: &Control,
    cluster: &ClusterName,
) -> Result<Vec<(TenantId, SchemaVersion)>, Problem> {
    let access = control.clusters.access(cluster).await?;
    let client = access.shared(&DatabaseName::pool()).await?;
    schema::pool_versions(&client).await
}

/// A connection to the shared tables of a placement.
///
/// # Errors
/// Where the cluster is away.
pub async fn shared_tables(control: &Control, placement: &Placement) -> Result<Connection, Problem> {
    control.clusters.access(&placement.cluster).await?.shared(&placement.database).await
}

/// Tries versions in both forms where nobody sees it: what only PostgreSQL can
/// tell (a table that is not there, a type that does not fit) is found before
/// anything is published. The shared form is read back and proved as well.
///
/// # Errors
/// `migration_failed` with file and line, `schema_audit_failed`.
pub async fn rehearse(control: &Control, stage: &ClusterRecord, forms: &Forms) -> Result<(), Problem> {
    let access = control.clusters.access_of(stage)?;
    // Each in a database of its own.
    let plain = async { expected(control, stage, forms, forms.newest()).await.map(|_| ()) };
    let (plain, pool) = tokio::join!(plain, rehearse_pool(&access, &forms.pool));
    plain.and(pool)
}

async fn rehearse_pool(access: &ClusterAccess, forms: &[PoolMigration]) -> Result<(), Problem> {
    let scratch = Scratch::empty(access).await?;
    let tried = async {
        let mut client = access.own(scratch.database()).await?;
        schema::install_support(&client).await?;
        schema::install_pool(&client).await?;
        for migration in forms {
            schema::apply_pool(&mut client, migration).await?;
        }
        schema::try_new_tenant(&mut client).await?;
        schema::audit_pool(&client, forms).await
    };
    // Nobody's rows but the developer's own are there.
    let findings = tried.await.map_err(schema::RowsDoNotFit::in_full)?;
    match findings.first() {
        None => Ok(()),
        Some(first) => Err(Problem::new(
            Code::SchemaAuditFailed,
            format!("In shared tables {} would not be safe: {}", first.object, first.detail),
        )),
    }
}
