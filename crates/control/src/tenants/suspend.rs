//! Suspending and resuming. A suspension holds from the commit on: the fronts
//! are told, and the workflow fences the tenant inside PostgreSQL. A tenant is
//! resumed the other way round: PostgreSQL first, the fronts last.

use insula_catalog::{Author, TenantRecord};
use insula_domain::{OperationId, TenantStatus};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::find::find;
use crate::Control;
use crate::repeats::answer_operation;
use crate::workflows::suspend::{TenantInput, resume_kind, suspend_kind};

/// Suspends an active tenant.
///
/// # Errors
/// `tenant_status_conflict` where it is not active, `tenant_busy` where another
/// operation on it is under way.
pub async fn suspend(control: &Control, author: Author, slug_or_id: &str) -> Result<OperationId, Problem> {
    let mut client = control.catalog.client().await?;
    let id = find(&client, slug_or_id).await?.id;
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(author).await?;
    let tenant = change.lock_tenant(id).await?.ok_or_else(|| Problem::internal("a tenant that is gone"))?;
    change.set_status(id, tenant.status, TenantStatus::Suspended).await?;
    change.audit("tenant.suspend", Some(id), tenant.slug.as_str(), &json!({})).await?;
    let run = suspend_kind().new_run(operation, id.to_string(), &TenantInput { tenant: id }, change.at());
    control.operations.start(&change, run).await?;
    answer_operation(&change, operation).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

/// Resumes a suspended tenant, or one that is being deleted and whose retention
/// time is not over.
///
/// # Errors
/// `tenant_status_conflict` where it is neither.
pub async fn resume(control: &Control, author: Author, slug_or_id: &str) -> Result<OperationId, Problem> {
    let mut client = control.catalog.client().await?;
    let id = find(&client, slug_or_id).await?.id;
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(author).await?;
    let tenant = change.lock_tenant(id).await?.ok_or_else(|| Problem::internal("a tenant that is gone"))?;
    check_resumable(&tenant)?;
    change.audit("tenant.resume", Some(id), tenant.slug.as_str(), &json!({"from": tenant.status})).await?;
    let run = resume_kind().new_run(operation, id.to_string(), &TenantInput { tenant: id }, change.at());
    control.operations.start(&change, run).await?;
    answer_operation(&change, operation).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

fn check_resumable(tenant: &TenantRecord) -> Result<(), Problem> {
    let resumable = match tenant.status {
        TenantStatus::Suspended => true,
        // Without a time the purge has begun.
        TenantStatus::Deleting => tenant.purge_at.is_some(),
        _ => false,
    };
    if resumable {
        return Ok(());
    }
    Err(Problem::new(
        Code::TenantStatusConflict,
        format!("The tenant {} is {} and cannot be resumed.", tenant.slug, tenant.status),
    ))
}
