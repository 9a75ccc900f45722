//! Moves as the API shows them.

use insula_api::{Move, OperationError, Step};
use insula_catalog::MoveRecord;
use insula_domain::{OperationId, TenantId};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;

use super::way_back;
use crate::Control;

/// Moves, the newest first, older than `before`; of one tenant where it is given.
///
/// # Errors
/// Where the catalog is away.
pub async fn list(
    control: &Control,
    tenant: Option<TenantId>,
    before: Option<OperationId>,
    limit: usize,
) -> Result<Vec<Move>, Problem> {
    let records = {
        let client = control.catalog.client().await?;
        client.moves(tenant, before, i64::try_from(limit).unwrap_or(i64::MAX)).await?
    };
    let mut shown = Vec::with_capacity(records.len());
    for record in records {
        shown.push(with_steps(control, record).await?);
    }
    Ok(shown)
}

/// One move.
///
/// # Errors
/// `move_not_found` where there is none.
pub async fn show(control: &Control, id: OperationId) -> Result<Move, Problem> {
    let record = control.catalog.client().await?.tenant_move(id).await?.ok_or_else(|| not_found(id))?;
    with_steps(control, record).await
}

/// The problem that a move is not there.
pub(super) fn not_found(id: OperationId) -> Problem {
    Problem::new(Code::MoveNotFound, format!("There is no move {id}."))
}

async fn with_steps(control: &Control, record: MoveRecord) -> Result<Move, Problem> {
    // An operation that ended long ago is forgotten; the move is not.
    let steps = match control.operations.show(record.operation).await {
        Ok(operation) => operation.steps,
        Err(problem) if problem.code() == Code::OperationNotFound => Vec::new(),
        Err(problem) => return Err(problem),
    };
    Ok(shown(record, steps, control.clock.now()))
}

fn shown(record: MoveRecord, steps: Vec<Step>, now: OffsetDateTime) -> Move {
    let way_back = way_back::of(&record, now);
    let progress = record.progress;
    Move {
        id: record.id,
        tenant: record.slug,
        tenant_id: record.tenant,
        from: record.source,
        to: record.target,
        status: record.status,
        phase: progress.phase,
        operation: record.operation,
        steps,
        rows: progress.rows,
        bytes: progress.bytes,
        #[allow(clippy::cast_precision_loss, reason = "a pause has far fewer than 2^52 microseconds")]
        pause_ms: progress.pause_us.map(|pause| pause as f64 / 1_000.0),
        checksum: progress.checksum.clone(),
        progress,
        error: record.error.map(|(code, detail)| OperationError { code, detail }),
        way_back,
        manifest: record.manifest,
        created_at: record.created_at,
        committed_at: record.committed_at,
        window_ends_at: record.window_ends_at,
        ended_at: record.ended_at,
    }
}
