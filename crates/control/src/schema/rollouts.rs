//! Rollouts, as operators see and steer them.

use insula_api::{Rollout, RolloutCounts, RolloutPlacement};
use insula_catalog::{Author, CatalogClient, RolloutPlacementRecord, RolloutRecord};
use insula_domain::{OperationId, RolloutPlacementStatus, RolloutStatus, Slug};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::SUBJECT;
use crate::Control;
use crate::workflows::rollout::{RolloutInput, rollout_kind};

/// Rollouts, the newest first, older than `before`.
///
/// # Errors
/// Where the catalog is away.
pub async fn list(
    control: &Control,
    before: Option<OperationId>,
    limit: usize,
) -> Result<Vec<Rollout>, Problem> {
    let client = control.catalog.client().await?;
    let mut shown = Vec::new();
    for record in client.rollouts(before, i64::try_from(limit).unwrap_or(i64::MAX)).await? {
        shown.push(show_record(&client, record).await?);
    }
    Ok(shown)
}

/// One rollout.
///
/// # Errors
/// `rollout_not_found` where there is none.
pub async fn show(control: &Control, id: OperationId) -> Result<Rollout, Problem> {
    let client = control.catalog.client().await?;
    let record = client.rollout(id).await?.ok_or_else(|| not_found(id))?;
    show_record(&client, record).await
}

async fn show_record(client: &CatalogClient, record: RolloutRecord) -> Result<Rollout, Problem> {
    let counts = client.rollout_counts(record.id).await?;
    let count = |status| counts.get(&status).copied().unwrap_or(0);
    let mut canaries: Vec<Slug> = Vec::new();
    for id in record.canaries {
        canaries.extend(client.tenant(id).await?.map(|tenant| tenant.slug));
    }
    Ok(Rollout {
        id: record.id,
        version: record.version,
        status: record.status,
        wave_size: record.wave_size,
        canaries,
        placements: RolloutCounts {
            waiting: count(RolloutPlacementStatus::Waiting),
            running: count(RolloutPlacementStatus::Running),
            done: count(RolloutPlacementStatus::Done),
            failed: count(RolloutPlacementStatus::Failed),
        },
        operation: record.operation,
        created_at: record.created_at,
        ended_at: record.ended_at,
    })
}

/// The placements of a rollout, in the order of their keys.
///
/// # Errors
/// `rollout_not_found` where there is none.
pub async fn placements(
    control: &Control,
    id: OperationId,
    status: Option<RolloutPlacementStatus>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<RolloutPlacement>, Problem> {
    let client = control.catalog.client().await?;
    client.rollout(id).await?.ok_or_else(|| not_found(id))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let records = client.rollout_placements(id, status, after, limit).await?;
    let shown = |record: RolloutPlacementRecord| RolloutPlacement {
        placement: record.tables,
        tenant: record.tenant,
        cluster: record.cluster,
        wave: record.wave,
        status: record.status,
        code: record.code,
        detail: record.detail,
        started_at: record.started_at,
        ended_at: record.ended_at,
    };
    Ok(records.into_iter().map(shown).collect())
}

/// Asks a rollout to pause. What is being brought is brought to its end.
///
/// # Errors
/// `rollout_status_conflict` where it is not under way.
pub async fn pause(control: &Control, author: Author, id: OperationId) -> Result<Rollout, Problem> {
    let mut client = control.catalog.client().await?;
    let change = client.change(author).await?;
    let record = change.lock_rollout(id).await?.ok_or_else(|| not_found(id))?;
    match record.status {
        RolloutStatus::Pausing | RolloutStatus::Paused => {}
        RolloutStatus::Rolling => {
            change.set_rollout_status(id, RolloutStatus::Pausing, record.operation).await?;
            change.audit("schema.pause", None, SUBJECT, &json!({"version": record.version})).await?;
            change.commit().await?;
        }
        status => return Err(conflict(id, status, "pause")),
    }
    show(control, id).await
}

/// Goes on with a rollout that is paused; the operation that does it.
///
/// # Errors
/// `rollout_status_conflict` where it is not paused.
pub async fn resume(control: &Control, author: Author, id: OperationId) -> Result<OperationId, Problem> {
    go_on(control, author, id, "resume", &[RolloutStatus::Paused]).await
}

/// Tries again what has failed, and whatever is left; the operation that does
/// it.
///
/// # Errors
/// `rollout_status_conflict` where it has not failed and is not paused.
pub async fn retry(control: &Control, author: Author, id: OperationId) -> Result<OperationId, Problem> {
    go_on(control, author, id, "retry", &[RolloutStatus::Paused, RolloutStatus::Failed]).await
}

async fn go_on(
    control: &Control,
    author: Author,
    id: OperationId,
    verb: &'static str,
    from: &[RolloutStatus],
) -> Result<OperationId, Problem> {
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let mut client = control.catalog.client().await?;
    let change = client.change(author).await?;
    let record = change.lock_rollout(id).await?.ok_or_else(|| not_found(id))?;
    if !from.contains(&record.status) {
        return Err(conflict(id, record.status, verb));
    }
    if is_unpublished(&change, &record).await? {
        let detail = format!("Version {} of rollout {id} is not published: apply it again.", record.version);
        return Err(Problem::new(Code::RolloutStatusConflict, detail));
    }
    let input = RolloutInput { rollout: id, to: record.version };
    control
        .operations
        .start(&change, rollout_kind().new_run(operation, SUBJECT, &input, change.at()))
        .await?;
    change.set_rollout_status(id, RolloutStatus::Rolling, operation).await?;
    let again = if verb == "retry" { change.retry_rollout_placements(id).await? } else { 0 };
    let detail = json!({"version": record.version, "failed": again});
    change.audit(&format!("schema.{verb}"), None, SUBJECT, &detail).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

/// Whether the rollout's version was never published, as its rehearsal failed.
async fn is_unpublished(
    change: &insula_catalog::Change<'_>,
    record: &RolloutRecord,
) -> Result<bool, Problem> {
    Ok(change.hold_newest_schema_version().await? < record.version)
}

fn not_found(id: OperationId) -> Problem {
    Problem::new(Code::RolloutNotFound, format!("There is no rollout {id}."))
}

fn conflict(id: OperationId, status: RolloutStatus, verb: &str) -> Problem {
    Problem::new(Code::RolloutStatusConflict, format!("Rollout {id} is {status}; {verb} does not fit that."))
}
