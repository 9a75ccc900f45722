//! Steering a move: completing it, rolling it back, cancelling it.

use std::time::Duration;

use insula_catalog::{Author, MoveRecord};
use insula_domain::{MoveStatus, OperationId};
use insula_problem::{Code, Problem};
use insula_workflow::{Kind, NewRun, StartError};
use serde_json::json;

use super::show::not_found;
use super::way_back;
use crate::Control;
use crate::repeats::answer_operation;
use crate::workflows::moving::MoveInput;
use crate::workflows::{move_back, retire};

/// How long the end of the operation that has moved the tenant is waited for.
const SETTLED: Duration = Duration::from_secs(10);

/// Ends the time in which a move can be taken back, and removes the source.
///
/// # Errors
/// `move_status_conflict` where the tenant is not at the target, or the move
/// has ended.
pub async fn complete(control: &Control, author: Author, id: OperationId) -> Result<OperationId, Problem> {
    turn(control, author, id, MoveStatus::Completing, "tenant.move.complete", &retire::kind()).await
}

/// Brings the tenant back to where it was, with all that was written since.
///
/// # Errors
/// `move_status_conflict` where the tenant is not at the target, or the move
/// has ended; where the source will not be current again, why.
pub async fn rollback(control: &Control, author: Author, id: OperationId) -> Result<OperationId, Problem> {
    turn(control, author, id, MoveStatus::RollingBack, "tenant.move.rollback", &move_back::kind()).await
}

/// Ends a move before its cutover; it is undone by its own operation.
///
/// # Errors
/// `move_status_conflict` where the cutover is done, or the move has ended.
pub async fn cancel(control: &Control, author: Author, id: OperationId) -> Result<OperationId, Problem> {
    let mut client = control.catalog.client().await?;
    let change = client.change(author).await?;
    let record = change.lock_move(id).await?.ok_or_else(|| not_found(id))?;
    if record.status != MoveStatus::Running {
        return Err(conflict(&record, "cancelled"));
    }
    change.cancel_move(id).await?;
    let subject = subject(&record);
    change.audit("tenant.move.cancel", Some(record.tenant), &subject, &json!({"move": id})).await?;
    answer_operation(&change, record.operation).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(record.operation)
}

async fn turn(
    control: &Control,
    author: Author,
    id: OperationId,
    to: MoveStatus,
    action: &str,
    kind: &Kind<MoveInput>,
) -> Result<OperationId, Problem> {
    let mut client = control.catalog.client().await?;
    let seen = client.tenant_move(id).await?.ok_or_else(|| not_found(id))?;
    if seen.status == MoveStatus::Moved {
        settled(control, &seen).await?;
    }
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(author).await?;
    let record = change.lock_move(id).await?.ok_or_else(|| not_found(id))?;
    if record.status != MoveStatus::Moved {
        let done = if to == MoveStatus::Completing { "completed" } else { "rolled back" };
        return Err(conflict(&record, done));
    }
    if to == MoveStatus::RollingBack {
        let newest = change.hold_newest_schema_version().await?;
        if let Some(problem) =
            way_back::closed_by_version(&record, newest).or_else(|| way_back::closed(&record))
        {
            return Err(problem);
        }
    }
    change.set_move_status(id, to, operation).await?;
    change.audit(action, Some(record.tenant), &subject(&record), &json!({"move": id})).await?;
    let input = MoveInput { tenant: record.tenant, tenant_move: id };
    let run: Result<NewRun, StartError> =
        kind.new_run(operation, record.tenant.to_string(), &input, change.at());
    control.operations.start(&change, run).await?;
    answer_operation(&change, operation).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

/// Waits for the operation that has moved the tenant: it tidies up for some
/// moments after the move is called `moved`.
async fn settled(control: &Control, record: &MoveRecord) -> Result<(), Problem> {
    match control.operations.wait(record.operation, SETTLED, None).await {
        Ok(_) => Ok(()),
        Err(problem) if problem.code() == Code::OperationNotFound => Ok(()),
        Err(problem) => Err(problem),
    }
}

fn subject(record: &MoveRecord) -> String {
    record.slug.as_ref().map_or_else(|| record.tenant.to_string(), ToString::to_string)
}

fn conflict(record: &MoveRecord, done: &str) -> Problem {
    Problem::new(
        Code::MoveStatusConflict,
        format!("The move {} is {} and cannot be {done}.", record.id, record.status),
    )
}
