//! `tenant.purge`: everything of a deleted tenant goes. There is no way back
//! from the first step on, so nothing has an undo, and what fails is tried
//! again until it is done, in the end once a minute. The doctor names a purge
//! that keeps failing, and why.

use std::time::Duration;

use insula_domain::{AppTables, Isolation, TenantStatus};
use insula_region_store::Leaving;
use insula_workflow::{Kind, Retry, Run, Step, StepError, Workflow};
use serde_json::json;

use super::retried;
use super::suspend::{TenantInput, fence_step, record};
use crate::{Control, dedicated, placements};

type Purge = Run<Control, TenantInput>;

/// Removing rows in batches may take long.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, TenantInput> {
    Workflow::new("tenant.purge", 1)
        .step(
            Step::without_undo("fence", "nobody may write what is being removed", fence_step)
                .retry(Retry::ENDLESS),
        )
        .point_of_no_return()
        .step(
            Step::without_undo("rows", "the tenant's rows, schema or database", rows)
                .retry(Retry::ENDLESS)
                .timeout(LONG),
        )
        .step(
            Step::without_undo("roles", "the tenant's roles, when nothing depends on them any more", roles)
                .retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo("cluster", "the server that was the tenant's alone", cluster)
                .retry(Retry::ENDLESS),
        )
        .step(Step::without_undo("home", "what the region kept of the tenant", home).retry(Retry::ENDLESS))
        .step(
            Step::without_undo("bury", "the tombstone: the slug is free, the id never is", bury)
                .retry(Retry::ENDLESS),
        )
}

/// What is needed to start runs.
#[must_use]
pub fn purge_kind() -> Kind<TenantInput> {
    workflow().kind()
}

async fn rows(run: Purge) -> Result<u64, StepError> {
    let tenant = record(&run).await?;
    placements::remove_rows(run.deps(), &tenant).await.map_err(retried)
}

async fn roles(run: Purge) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    placements::drop_roles(run.deps(), &tenant).await.map_err(retried)
}

async fn cluster(run: Purge) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    if tenant.isolation != Some(Isolation::Cluster) {
        return Ok(());
    }
    dedicated::remove(run.deps(), &tenant).await.map_err(retried)
}

async fn home(run: Purge) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    let store = run.deps().regions.of(&tenant.region).map_err(retried)?;
    if tenant.isolation == Some(Isolation::Pool)
        && let Some(placement) = &tenant.placement
    {
        let pool = AppTables::Pool(placement.cluster.clone());
        store.forget_anybodys_failure(&pool).await.map_err(retried)?;
    }
    store.leave_home(tenant.id, Leaving::Gone).await.map_err(retried)
}

async fn bury(run: Purge) -> Result<(), StepError> {
    let control = run.deps();
    let tenant = record(&run).await?;
    if tenant.status == TenantStatus::Deleted {
        return Ok(());
    }
    let removed: u64 = run.output("rows")?;
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.bury_tenant(tenant.id).await.map_err(retried)?;
    let detail = json!({"isolation": tenant.isolation, "pool_rows_removed": removed});
    change.audit("tenant.purged", Some(tenant.id), tenant.slug.as_str(), &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}
