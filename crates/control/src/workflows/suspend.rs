//! `tenant.suspend` and `tenant.resume`: the fence inside PostgreSQL, up and down.

use insula_catalog::TenantRecord;
use insula_domain::{TenantId, TenantStatus};
use insula_problem::Problem;
use insula_route_map::Snapshot;
use insula_workflow::{Kind, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::retried;
use crate::{Control, placements};

/// What runs about one tenant are asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantInput {
    /// The tenant.
    pub tenant: TenantId,
}

type OfTenant = Run<Control, TenantInput>;

/// `tenant.suspend`
#[must_use]
pub fn suspend_workflow() -> Workflow<Control, TenantInput> {
    Workflow::new("tenant.suspend", 1)
        .step(Step::without_undo(
            "fence",
            "PostgreSQL itself keeps the tenant out, whatever a front believes",
            fence_step,
        ))
        .point_of_no_return()
}

/// `tenant.resume`
#[must_use]
pub fn resume_workflow() -> Workflow<Control, TenantInput> {
    Workflow::new("tenant.resume", 1)
        .step(Step::new(
            "unfence",
            "PostgreSQL lets the tenant in again; no front does yet",
            unfence,
            refence,
        ))
        .step(Step::without_undo("open", "the commit: the fronts are told", open))
        .point_of_no_return()
}

/// What is needed to start runs of `tenant.suspend`.
#[must_use]
pub fn suspend_kind() -> Kind<TenantInput> {
    suspend_workflow().kind()
}

/// What is needed to start runs of `tenant.resume`.
#[must_use]
pub fn resume_kind() -> Kind<TenantInput> {
    resume_workflow().kind()
}

/// The tenant that a run is about.
pub async fn record(run: &OfTenant) -> Result<TenantRecord, StepError> {
    let client = run.deps().catalog.client().await.map_err(retried)?;
    let tenant = client.tenant(run.input().tenant).await.map_err(retried)?;
    tenant.ok_or_else(|| StepError::fail(Problem::internal("the tenant of a run is gone")))
}

/// How many sessions were ended.
pub async fn fence_step(run: OfTenant) -> Result<i64, StepError> {
    let tenant = record(&run).await?;
    placements::fence(run.deps(), &tenant).await.map_err(retried)
}

async fn unfence(run: OfTenant) -> Result<(), StepError> {
    let tenant = record(&run).await?;
    placements::unfence(run.deps(), &tenant).await.map_err(retried)
}

async fn refence(run: OfTenant) -> Result<(), StepError> {
    fence_step(run).await.map(|_| ())
}

async fn open(run: OfTenant) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let tenant = change.lock_tenant(run.input().tenant).await.map_err(retried)?;
    let tenant = tenant.ok_or_else(|| StepError::fail(Problem::internal("the tenant of a run is gone")))?;
    if tenant.status == TenantStatus::Active {
        return Ok(());
    }
    change.set_status(tenant.id, tenant.status, TenantStatus::Active).await.map_err(retried)?;
    change.set_purge_at(tenant.id, None).await.map_err(retried)?;
    change.audit("tenant.open", Some(tenant.id), tenant.slug.as_str(), &json!({})).await.map_err(retried)?;
    change.commit().await.map_err(retried)?;
    let is_active = |snapshot: &Snapshot| {
        snapshot.route(tenant.id).is_some_and(|route| route.status == TenantStatus::Active)
    };
    control.front_knows(is_active).await;
    Ok(())
}
