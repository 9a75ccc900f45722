//! Deleting a tenant: it is suspended first, its data is kept for a retention
//! time, and then the purge removes everything. Until the purge has begun the
//! tenant can be resumed.

use std::time::Duration;

use insula_catalog::{Author, Change, TenantRecord};
use insula_domain::{MoveStatus, OperationId, TenantStatus};
use insula_problem::{Code, Problem};
use insula_workflow::{NewRun, StartError};
use serde_json::json;

use super::find::find;
use crate::Control;
use crate::moves::steer;
use crate::workflows::purge::purge_kind;
use crate::workflows::suspend::{TenantInput, suspend_kind};

/// The longest retention time: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Deletes a tenant. With a retention time of zero the operation is the purge
/// itself; otherwise it is the suspension, and the purge follows by itself.
///
/// # Errors
/// `tenant_status_conflict` where it cannot be deleted now, `tenant_has_children`
/// where other tenants are under it.
pub async fn delete(
    control: &Control,
    author: Author,
    slug_or_id: &str,
    retention: Option<Duration>,
) -> Result<OperationId, Problem> {
    let retention = retention.unwrap_or(control.settings.delete_retention);
    if retention > LONGEST {
        return Err(Problem::new(Code::InvalidRequest, "The retention time is ten years at the most."));
    }
    let mut client = control.catalog.client().await?;
    let id = find(&client, slug_or_id).await?.id;
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(author).await?;
    let tenant = change.lock_tenant(id).await?.ok_or_else(|| Problem::internal("a tenant that is gone"))?;
    if change.living_children(id).await? > 0 {
        return Err(Problem::new(
            Code::TenantHasChildren,
            format!("Other tenants are under {}. Delete them, or put them elsewhere, first.", tenant.slug),
        ));
    }
    // One that was never made whole, or is already going, has nothing to keep. Where an operation is
    // still at work on it, no other one is started.
    let half_gone = tenant.status == TenantStatus::Deleting && tenant.purge_at.is_none();
    let half_made = tenant.status == TenantStatus::Provisioning || half_gone;
    let retention = if half_made { Duration::ZERO } else { retention };
    if retention.is_zero()
        && let Some(open) = change.open_move(id).await?
    {
        let what = if open.status == MoveStatus::Running { "cancel" } else { "complete" };
        return Err(Problem::new(
            Code::MoveOpen,
            format!("A move of {} has not ended: insula move {what} {}.", tenant.slug, open.id),
        ));
    }
    if tenant.status == TenantStatus::Active {
        change.set_status(id, TenantStatus::Active, TenantStatus::Suspended).await?;
    }
    let status = if tenant.status == TenantStatus::Active { TenantStatus::Suspended } else { tenant.status };
    if !half_gone {
        change.set_status(id, status, TenantStatus::Deleting).await?;
    }
    let purge_at = (!retention.is_zero()).then(|| change.at() + retention);
    change.set_purge_at(id, purge_at).await?;
    let detail = json!({"retention_seconds": retention.as_secs()});
    change.audit("tenant.delete", Some(id), tenant.slug.as_str(), &detail).await?;
    let run = if retention.is_zero() {
        purge_run(&tenant, operation, &change)
    } else {
        suspend_kind().new_run(operation, id.to_string(), &TenantInput { tenant: id }, change.at())
    };
    control.operations.start(&change, run).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

/// Begins the purge of a tenant whose retention time is over. From here on it
/// cannot be resumed.
///
/// # Errors
/// `tenant_busy` where another operation on it is under way; the next look
/// finds it again then.
pub async fn begin_purge(control: &Control, due: &TenantRecord) -> Result<(), Problem> {
    let mut client = control.catalog.client().await?;
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(control.worker()).await?;
    let Some(tenant) = change.lock_tenant(due.id).await? else { return Ok(()) };
    let still_due =
        tenant.status == TenantStatus::Deleting && tenant.purge_at.is_some_and(|at| at <= change.at());
    if !still_due {
        return Ok(());
    }
    if let Some(open) = change.open_move(tenant.id).await? {
        // What is at its source is the tenant's too. The next look finds it done.
        drop(change);
        return steer::complete(control, control.worker(), open.id).await.map(drop);
    }
    change.set_purge_at(tenant.id, None).await?;
    change.audit("tenant.purge", Some(tenant.id), tenant.slug.as_str(), &json!({})).await?;
    control.operations.start(&change, purge_run(&tenant, operation, &change)).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(())
}

fn purge_run(
    tenant: &TenantRecord,
    operation: OperationId,
    change: &Change<'_>,
) -> Result<NewRun, StartError> {
    purge_kind().new_run(operation, tenant.id.to_string(), &TenantInput { tenant: tenant.id }, change.at())
}
