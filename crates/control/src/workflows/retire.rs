//! `tenant.move.complete`: the source of a move goes, and with it the way back.
//! There is no return from the first step on.

use insula_domain::MoveStatus;
use insula_workflow::{Kind, Retry, Step, StepError, Workflow};
use serde_json::{Value, json};

use super::move_back::{count_at, remove_end, set_status};
use super::moving::{LONG, MoveInput, OfMove, hand};
use super::retried;
use crate::Control;
use crate::moves::remove;

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, MoveInput> {
    Workflow::new("tenant.move.complete", 1)
        .step(Step::without_undo("streams", "nothing goes back any more", streams).retry(Retry::ENDLESS))
        .point_of_no_return()
        .step(
            Step::without_undo("count", "the manifest of what goes", count)
                .timeout(LONG)
                .retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo("remove", "rows in batches, schema, database or server", remove_source)
                .timeout(LONG)
                .retry(Retry::ENDLESS),
        )
        .step(Step::without_undo("end", "the move is history", end).retry(Retry::ENDLESS))
}

/// What is needed to start runs.
#[must_use]
pub fn kind() -> Kind<MoveInput> {
    workflow().kind()
}

async fn streams(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.moving.end_stream().await;
    control.moves.forget(hand.record.id);
    remove::streams_at(control, &hand.record, &hand.record.target).await.map_err(retried)
}

async fn remove_source(run: OfMove) -> Result<Value, StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    control.moves.forget(hand.record.id);
    let (source, target) = (&hand.record.source, &hand.record.target);
    remove_end(&run, &hand, source, target).await
}

async fn count(run: OfMove) -> Result<Value, StepError> {
    let hand = hand(&run).await?;
    count_at(&run, &hand, &hand.record.source).await
}

async fn end(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    control.moves.forget(hand.record.id);
    let (counted, removed): (Value, Value) = (run.output("count")?, run.output("remove")?);
    let manifest = json!({"counted": counted, "removed": removed});
    set_status(control, &hand, MoveStatus::Completed, &run, "tenant.move.completed", Some(&manifest)).await
}
