//! `tenant.move.clear`: what a move has left at a server that was away goes,
//! now that the server is back. Where it goes away again, this ends undone and
//! is begun anew later.

use insula_workflow::{Kind, Step, StepError, Workflow};
use serde_json::{Value, json};

use super::moving::{LONG, MoveInput, OfMove, hand};
use super::retried;
use crate::Control;
use crate::moves::left;

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, MoveInput> {
    Workflow::new("tenant.move.clear", 1)
        .step(Step::without_undo("count", "the manifest of what goes", count).timeout(LONG))
        .step(
            Step::without_undo(
                "remove",
                "rows, schema or database, roles, and what streams have made",
                remove,
            )
            .timeout(LONG),
        )
}

/// What is needed to start runs.
#[must_use]
pub fn kind() -> Kind<MoveInput> {
    workflow().kind()
}

async fn count(run: OfMove) -> Result<Value, StepError> {
    let hand = hand(&run).await?;
    run.deps().moves.forget(hand.record.id);
    let Some(left) = left::of(&hand.record) else { return Ok(json!({})) };
    left::count(run.deps(), &hand.record, &left).await.map_err(retried)
}

async fn remove(run: OfMove) -> Result<Value, StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    control.moves.forget(hand.record.id);
    let Some(left) = left::of(&hand.record) else { return Ok(Value::Null) };
    let removed = left::remove(&run, &hand.tenant, &hand.record, &left).await?;
    let counted: Value = run.output("count")?;
    let removed = json!({"counted": counted, "removed": removed});
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.clear_move_left(hand.record.id, &removed).await.map_err(retried)?;
    let detail = json!({"move": hand.record.id, "removed": removed});
    change
        .audit("tenant.move.cleared", Some(hand.tenant.id), hand.tenant.slug.as_str(), &detail)
        .await
        .map_err(retried)?;
    change.commit().await.map_err(retried)?;
    Ok(removed)
}
