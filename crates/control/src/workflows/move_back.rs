//! `tenant.move.rollback`: the cutover of a move the other way. What was
//! written at the target since is at the source before the tenant is.

use std::sync::Arc;
use std::time::Duration;

use insula_catalog::MoveRecord;
use insula_domain::{Isolation, MoveEnd, MovePhase, MoveStatus, TenantStatus};
use insula_problem::Problem;
use insula_tenant_cluster::moving::{
    CHUNKS_ABOVE_KB, Stream, StreamName, StreamSpec, Way, admit_roles, write_marker,
};
use insula_tenant_move::{Moving, Task};
use insula_workflow::{Kind, Retry, Step, StepError, Workflow};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::moving::away::{AFTER, is_at_hand};
use super::moving::{
    Hand, LONG, MoveInput, OfMove, PATIENCE, at_length, bring_configuration, hand, known, switch, tables_at,
    widen,
};
use super::retried;
use crate::moves::ends::place;
use crate::moves::{measure, remove, way_back};
use crate::{Control, own_objects, placements};

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, MoveInput> {
    Workflow::new("tenant.move.rollback", 1)
        .step(Step::new("follow", "the source has all that the target has", follow, stay).timeout(LONG))
        .step(
            Step::without_undo("cutover", "the commit: served from where it was before", cutover)
                .timeout(LONG)
                .retry(Retry::ENDLESS),
        )
        .point_of_no_return()
        .step(
            Step::without_undo(
                "configuration",
                "what the tenant has configured comes back with what was written since",
                configuration,
            )
            .timeout(LONG)
            .retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo("count", "the manifest of what goes", count)
                .timeout(LONG)
                .retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo("remove", "what the move has made goes", remove_target)
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

/// The stream from the target back to the source, running in this process.
///
/// # Errors
/// Where a server is away, or the stream was given up.
pub async fn stream_back(
    control: &Control,
    record: &MoveRecord,
    moving: &Moving,
) -> Result<Arc<Stream>, Problem> {
    let source = place(control, record, &record.source).await?;
    let target = place(control, record, &record.target).await?;
    let tables = tables_at(&target).await?;
    let id = record.id.as_uuid();
    let spec = StreamSpec {
        source: target,
        target: source,
        name: StreamName::new(Way::Back, id),
        tables,
        skip_origins: vec![StreamName::new(Way::Forward, id)],
        chunks_above_kb: CHUNKS_ABOVE_KB,
        patience: PATIENCE,
        clock: control.clock.clone(),
    };
    moving.stream(|| spec).await
}

async fn follow(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.moving.tell(|progress| progress.phase = MovePhase::Follow);
    same_version(control, &hand).await?;
    let work = async {
        prepare_source(control, &hand).await?;
        let stream = stream_back(control, &hand.record, &hand.moving).await?;
        let client = place(control, &hand.record, &hand.record.target).await?.connect().await?;
        let id = format!("{}/back/{}", hand.record.id, run.attempt());
        let marker = stream.marker(&id);
        write_marker(&client, &id).await?;
        marker.reached().await.map_err(Problem::from)
    };
    at_length(&run, &hand.moving, &CancellationToken::new(), work).await
}

/// A version may have come since the rollback was asked for.
async fn same_version(control: &Control, hand: &Hand) -> Result<(), StepError> {
    let client = control.catalog.client().await.map_err(retried)?;
    let newest = client.newest_schema_version().await.map_err(retried)?;
    way_back::closed_by_version(&hand.record, newest).map_or(Ok(()), |problem| Err(StepError::fail(problem)))
}

/// The roles at the source as they are to be now: the tenant may have been
/// suspended since, or its passwords made anew.
async fn prepare_source(control: &Control, hand: &Hand) -> Result<(), Problem> {
    let source = place(control, &hand.record, &hand.record.source).await?;
    let roles = placements::tenant_roles(control, &hand.tenant)?;
    let may_log_in = hand.tenant.status == TenantStatus::Active;
    admit_roles(&*source.access.maintenance().await?, &roles, &source.placement, may_log_in).await
}

/// The tenant stays at the target, and the move as it was.
async fn stay(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.moving.end_stream().await;
    control.moves.forget(hand.record.id);
    set_status(control, &hand, MoveStatus::Moved, &run, "tenant.move.rollback.undone", None).await
}

async fn cutover(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.moving.tell(|progress| progress.phase = MovePhase::Cutover);
    let there = &hand.record.target;
    let to = MoveEnd { epoch: there.epoch.next(), ..hand.record.source.clone() };
    if hand.tenant.placement.as_ref().is_some_and(|placement| placement.epoch >= to.epoch) {
        return Ok(());
    }
    let task = Task {
        workflow: "tenant.move.rollback",
        id: hand.record.id,
        tenant: hand.tenant.id,
        slug: hand.tenant.slug.to_string(),
        source: hand.target(control).await?,
        epoch: there.epoch,
        target: hand.source(control).await?,
        to,
        version: hand.record.schema_version,
        hold: Duration::from_millis(hand.record.terms.hold_ms.into()),
        long_transactions: hand.record.terms.long_transactions,
        status: MoveStatus::RollingBack,
        window: None,
    };
    switch(&run, &hand, task, Way::Back).await
}

async fn configuration(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let record = hand(&run).await?.record;
    widen(control, record.tenant).await.map_err(retried)?;
    let back = MoveEnd { epoch: record.target.epoch.next(), ..record.source.clone() };
    bring_configuration(control, record.tenant, &record.target, &back).await.map_err(retried)
}

async fn remove_target(run: OfMove) -> Result<Value, StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    known(control, &hand.record, hand.record.target.epoch.next()).await;
    hand.moving.end_stream().await;
    control.moves.forget(hand.record.id);
    let (target, source) = (&hand.record.target, &hand.record.source);
    remove::streams_at(control, &hand.record, source).await.map_err(retried)?;
    let removed = remove_end(&run, &hand, target, source).await?;
    own_objects::settle(control, hand.tenant.id).await.map_err(retried)?;
    Ok(removed)
}

async fn count(run: OfMove) -> Result<Value, StepError> {
    let hand = hand(&run).await?;
    count_at(&run, &hand, &hand.record.target).await
}

/// What is removed, where its server is there to be asked.
pub(super) async fn count_at(run: &OfMove, hand: &Hand, end: &MoveEnd) -> Result<Value, StepError> {
    if !is_at_hand(run, hand, end, AFTER).await? {
        return Ok(json!({}));
    }
    remove::manifest(run.deps(), &hand.record, end).await.map_err(retried)
}

/// Removes the end that the tenant has left, with its streams.
pub(super) async fn remove_end(
    run: &OfMove,
    hand: &Hand,
    end: &MoveEnd,
    other: &MoveEnd,
) -> Result<Value, StepError> {
    let (control, record) = (run.deps(), &hand.record);
    if is_at_hand(run, hand, end, AFTER).await? {
        remove::streams_at(control, record, end).await.map_err(retried)?;
    } else if end.isolation != Isolation::Cluster {
        return Ok(json!({}));
    }
    remove::end(run, &hand.tenant, record, end, other).await
}

async fn end(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    let (counted, removed): (Value, Value) = (run.output("count")?, run.output("remove")?);
    let manifest = json!({"counted": counted, "removed": removed});
    set_status(control, &hand, MoveStatus::RolledBack, &run, "tenant.move.rolled_back", Some(&manifest)).await
}

/// Sets the status of a move, with what was removed, in one change.
pub(super) async fn set_status(
    control: &Control,
    hand: &Hand,
    status: MoveStatus,
    run: &OfMove,
    action: &str,
    manifest: Option<&Value>,
) -> Result<(), StepError> {
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.set_move_status(hand.record.id, status, run.id()).await.map_err(retried)?;
    if let Some(manifest) = manifest {
        change.set_move_manifest(hand.record.id, manifest).await.map_err(retried)?;
    }
    let detail = json!({"move": hand.record.id, "status": status, "removed": manifest});
    change.audit(action, Some(hand.tenant.id), hand.tenant.slug.as_str(), &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)?;
    measure::is(status);
    Ok(())
}
