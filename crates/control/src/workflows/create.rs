//! `tenant.create`: from a reserved placement to a tenant that is served.

use std::time::Duration;

use insula_catalog::{LoginRecord, TenantRecord};
use insula_domain::{Isolation, LoginId, Placement, SchemaVersion, TenantId, TenantStatus};
use insula_problem::Problem;
use insula_region_store::Leaving;
use insula_route_map::Snapshot;
use insula_tenant_cluster::schema::{self, HeldPool};
use insula_workflow::{Kind, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::retried;
use crate::schema::fleet;
use crate::{Control, dedicated, logins, own_objects, placements};

/// How long the cluster may take to say the version of its shared tables.
const POOL_ANSWERS: Duration = Duration::from_secs(5);

/// What the run is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateInput {
    /// The tenant, which the catalog has in the status `provisioning`.
    pub tenant: TenantId,
    /// The id of its default login.
    pub login: LoginId,
}

type Create = Run<Control, CreateInput>;

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, CreateInput> {
    Workflow::new("tenant.create", 1)
        .step(Step::new(
            "reserve",
            "the slug and the place are taken; without a tenant they are free again",
            reserve,
            release,
        ))
        .step(
            Step::new(
                "cluster",
                "a tenant with a server of its own needs the server first",
                cluster,
                remove_cluster,
            )
            .timeout(Duration::from_secs(180)),
        )
        .step(Step::new(
            "roles",
            "PostgreSQL must know the tenant before it can give it rights",
            roles,
            drop_roles,
        ))
        .step(Step::new("space", "the schema or the database that the tables go into", space, drop_space))
        .step(Step::new("tables", "the app schema, and the rights to use it", tables, keep))
        .step(Step::new(
            "home",
            "the region keeps what is not rows: users, configuration, usage",
            home,
            close_home,
        ))
        .step(Step::without_undo("open", "the commit: from here on the tenant is served", open))
        .point_of_no_return()
}

/// What is needed to start runs.
#[must_use]
pub fn kind() -> Kind<CreateInput> {
    workflow().kind()
}

async fn record(run: &Create) -> Result<TenantRecord, StepError> {
    let client = run.deps().catalog.client().await.map_err(retried)?;
    let tenant = client.tenant(run.input().tenant).await.map_err(retried)?;
    tenant.ok_or_else(|| StepError::fail(Problem::internal("the tenant of a run is gone")))
}

async fn placement(run: &Create) -> Result<Option<Placement>, StepError> {
    Ok(record(run).await?.placement)
}

async fn placed(run: &Create) -> Result<Placement, StepError> {
    placement(run).await?.ok_or_else(|| StepError::fail(Problem::internal("the tenant has no placement")))
}

/// The call that accepted the tenant has reserved everything.
async fn reserve(_: Create) -> Result<(), StepError> {
    Ok(())
}

async fn release(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    if tenant.status == TenantStatus::Deleted {
        return Ok(());
    }
    let mut client = run.deps().catalog.client().await.map_err(retried)?;
    let change = client.change(run.deps().worker()).await.map_err(retried)?;
    change.bury_tenant(tenant.id).await.map_err(retried)?;
    change
        .audit("tenant.create.undone", Some(tenant.id), tenant.slug.as_str(), &json!({"operation": run.id()}))
        .await
        .map_err(retried)?;
    change.commit().await.map_err(retried)
}

async fn cluster(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    if tenant.isolation != Some(Isolation::Cluster) || tenant.placement.is_some() {
        return Ok(());
    }
    dedicated::provision(run.deps(), &tenant).await.map_err(retried)
}

async fn remove_cluster(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    if tenant.isolation != Some(Isolation::Cluster) {
        return Ok(());
    }
    dedicated::remove(run.deps(), &tenant).await.map_err(retried)
}

async fn roles(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    placements::create_roles(run.deps(), &tenant).await.map_err(retried)
}

async fn drop_roles(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    placements::drop_roles(run.deps(), &tenant).await.map_err(retried)
}

async fn space(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    placements::create_space(run.deps(), &tenant).await.map_err(retried)
}

async fn drop_space(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    placements::drop_space(run.deps(), &tenant).await.map_err(retried)
}

async fn tables(run: Create) -> Result<SchemaVersion, StepError> {
    let tenant = record(&run).await?;
    let placement = placed(&run).await?;
    let version = fleet::bring_new(run.deps(), &tenant, &placement).await.map_err(retried)?;
    own_objects::settle(run.deps(), tenant.id).await.map_err(retried)?;
    Ok(version)
}

/// The tables go with the space; rows in shared tables with the space too.
async fn keep(_: Create) -> Result<(), StepError> {
    Ok(())
}

async fn home(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    let store = run.deps().regions.of(&tenant.region).map_err(retried)?;
    store.open_home(tenant.id, run.deps().clock.now()).await.map_err(retried)
}

async fn close_home(run: Create) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    let store = run.deps().regions.of(&tenant.region).map_err(retried)?;
    store.leave_home(tenant.id, Leaving::Gone).await.map_err(retried)
}

/// The commit. Silos are opened at the newest version: one that was published
/// since the tables were made is brought first, and none can be published
/// between that look and the commit. In a pool it is the version of the shared
/// tables, which are held meanwhile: whoever brings them further comes after
/// the commit, and then finds the tenant open.
async fn open(run: Create) -> Result<TenantId, StepError> {
    let control = run.deps();
    let tenant = record(&run).await?;
    if tenant.status == TenantStatus::Active {
        return Ok(tenant.id);
    }
    let placement = placed(&run).await?;
    let login =
        logins::default_login(control, run.input().login, tenant.id, &tenant.slug).map_err(retried)?;
    if placement.isolation == Isolation::Pool {
        let mut shared = fleet::shared_tables(control, &placement).await.map_err(retried)?;
        let pool = schema::hold_pool(&mut shared).await.map_err(retried)?;
        commit(control, &tenant, &placement, &login, Brought::Pool(&pool)).await?;
    } else {
        let mut version: SchemaVersion = run.output("tables")?;
        if version < newest(&run).await? {
            version = fleet::bring_tenant(control, &tenant, &placement).await.map_err(retried)?;
        }
        commit(control, &tenant, &placement, &login, Brought::Silo(version)).await?;
    }
    let is_active = |snapshot: &Snapshot| {
        snapshot.route(tenant.id).is_some_and(|route| route.status == TenantStatus::Active)
            && snapshot.login_by_id(login.id).is_some()
    };
    control.front_knows(is_active).await;
    Ok(tenant.id)
}

/// What the tables of a tenant that is being opened have.
enum Brought<'a> {
    /// This version.
    Silo(SchemaVersion),
    /// That of the shared tables, which are held.
    Pool(&'a HeldPool<'a>),
}

impl Brought<'_> {
    /// The version, where a tenant may be opened at it.
    async fn version(self, placement: &Placement, newest: SchemaVersion) -> Result<SchemaVersion, StepError> {
        match self {
            Self::Silo(version) if version == newest => Ok(version),
            Self::Silo(_) => {
                Err(StepError::retry(Problem::internal("a schema version was published meanwhile")))
            }
            // Bounded, as publishing a version waits for it.
            Self::Pool(pool) => {
                let asked = tokio::time::timeout(POOL_ANSWERS, pool.version_of(&placement.role)).await;
                asked.map_err(|elapsed| StepError::retry(Problem::internal(elapsed)))?.map_err(retried)
            }
        }
    }
}

/// One transaction: login, version, status.
async fn commit(
    control: &Control,
    tenant: &TenantRecord,
    placement: &Placement,
    login: &LoginRecord,
    brought: Brought<'_>,
) -> Result<(), StepError> {
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let newest = change.hold_newest_schema_version().await.map_err(retried)?;
    let version = brought.version(placement, newest).await?;
    change.add_login(login).await.map_err(retried)?;
    change.set_tenant_schema_version(tenant.id, version).await.map_err(retried)?;
    change.set_status(tenant.id, TenantStatus::Provisioning, TenantStatus::Active).await.map_err(retried)?;
    let detail =
        json!({"isolation": placement.isolation, "cluster": placement.cluster, "schema_version": version});
    change.audit("tenant.open", Some(tenant.id), tenant.slug.as_str(), &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}

async fn newest(run: &Create) -> Result<SchemaVersion, StepError> {
    let client = run.deps().catalog.client().await.map_err(retried)?;
    client.newest_schema_version().await.map_err(retried)
}
