//! Moves as the API shows them.

use insula_api::{Move, Operation, OperationError};
use insula_catalog::MoveRecord;
use insula_domain::{Comparison, MovePhase, MoveStatus, OperationId, TenantId};
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
    let operation = match control.operations.show(record.operation).await {
        Ok(operation) => Some(operation),
        Err(problem) if problem.code() == Code::OperationNotFound => None,
        Err(problem) => return Err(problem),
    };
    Ok(shown(record, operation, control.clock.now()))
}

fn shown(record: MoveRecord, operation: Option<Operation>, now: OffsetDateTime) -> Move {
    let (way_back, comparison) = (way_back::of(&record, now), comparison(&record));
    let mut progress = record.progress;
    let (operation_status, steps) = operation.map(|found| (found.status, found.steps)).unzip();
    if record.status == MoveStatus::RolledBack {
        progress.phase = MovePhase::Done;
    }
    // The last pace of what has ended is none.
    progress.pace = progress.pace.filter(|_| record.status == MoveStatus::Running);
    #[allow(clippy::cast_precision_loss, reason = "a pause has far fewer than 2^52 microseconds")]
    let milliseconds = |microseconds: Option<u64>| microseconds.map(|of| of as f64 / 1_000.0);
    Move {
        id: record.id,
        tenant: record.slug,
        tenant_id: record.tenant,
        from: record.source,
        to: record.target,
        status: record.status,
        phase: progress.phase,
        operation: record.operation,
        operation_status,
        steps: steps.unwrap_or_default(),
        rows: progress.rows,
        bytes: progress.bytes,
        pause_ms: milliseconds(progress.pause_us),
        narrowed_ms: milliseconds(progress.narrowed_us),
        checksum: progress.checksum.clone(),
        comparison,
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

/// How it stands with the checksums. The checksum is noted before the rows are
/// looked for in which the ends differ.
fn comparison(record: &MoveRecord) -> Comparison {
    let progress = &record.progress;
    let has_diverged = record.error.as_ref().is_some_and(|(code, _)| code == Code::MoveDiverged.as_str());
    let is_at_it = progress.phase == MovePhase::Verify;
    match (record.status, &progress.checksum) {
        // Behind the cutover it is the way back that has diverged.
        (MoveStatus::Failed | MoveStatus::Cancelled, _) if has_diverged => Comparison::Different,
        (MoveStatus::Running, _) if is_at_it => Comparison::UnderWay,
        (_, Some(_)) if !is_at_it => Comparison::Equal,
        _ => Comparison::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::way_back::tests::moved;

    #[test]
    fn ends_are_called_equal_only_behind_their_comparison() {
        let at = |status, phase, checksum: Option<&str>, error: Option<Code>| {
            let mut record = moved();
            record.status = status;
            (record.progress.phase, record.progress.checksum) = (phase, checksum.map(str::to_owned));
            record.error = error.map(|code| (code.as_str().to_owned(), "why".to_owned()));
            comparison(&record)
        };
        use MovePhase::{Copy, Cutover, Done, Verify};
        use MoveStatus::{Failed, Moved, Running};
        for (found, expected) in [
            (at(Running, Copy, None, None), Comparison::NotYet),
            (at(Running, Verify, None, None), Comparison::UnderWay),
            (at(Running, Verify, Some("a"), None), Comparison::UnderWay),
            (at(Running, Cutover, Some("a"), None), Comparison::Equal),
            (at(Failed, Verify, Some("a"), Some(Code::MoveDiverged)), Comparison::Different),
            (at(Failed, Verify, None, Some(Code::PlacementUnavailable)), Comparison::NotYet),
            (at(Failed, Cutover, Some("a"), Some(Code::SchemaBehind)), Comparison::Equal),
            (at(Moved, Done, Some("a"), Some(Code::MoveDiverged)), Comparison::Equal),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_move_that_has_ended_has_no_pace() {
        let mut record = moved();
        record.progress.narrowed_us = Some(1_500);
        record.progress.pace = Some(insula_domain::MovePace {
            rows_per_second: 7,
            bytes_per_second: None,
            seconds_left: Some(1),
            estimated_from: insula_domain::EstimatedFrom::RowsCopied,
        });
        let running = MoveRecord { status: MoveStatus::Running, ..record.clone() };
        assert!(shown(running, None, record.created_at).progress.pace.is_some());
        let found = shown(record.clone(), None, record.created_at);
        assert_eq!((found.progress.pace, found.narrowed_ms), (None, Some(1.5)));
        record.progress.phase = MovePhase::Cutover;
        let now = record.created_at;
        let back = MoveRecord { status: MoveStatus::RolledBack, ..record };
        assert_eq!(shown(back, None, now).phase, MovePhase::Done, "its cutover is over, too");
    }
}
