//! `tenant.move`: a living tenant from one placement to another. Everything up
//! to the cutover can be taken back, and the tenant does not notice it; the
//! cutover is the commit.

pub(in crate::workflows) mod away;
mod differences;
mod rows;
mod switch;
mod throttle;
mod vigil;

use std::sync::Arc;
use std::time::Duration;

use insula_catalog::{MoveRecord, TenantRecord};
use insula_domain::{
    Epoch, Isolation, MoveEnd, MovePhase, MoveStatus, OperationId, SchemaVersion, TenantId, TenantStatus,
};
use insula_problem::{Code, Problem};
use insula_route_map::Snapshot;
use insula_tenant_cluster::moving::{self as cluster, MovedTable, Place, Seat, StreamName, Way};
use insula_tenant_move::Moving;
use insula_workflow::{Kind, Retry, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::retried;
use crate::moves::ends::{as_if_at, place};
use crate::moves::seats::seat;
use crate::moves::{left, measure, preflight, remove};
use crate::schema::fleet;
use crate::{Control, dedicated, own_objects, placements};
use rows::{copy, end_reverse, end_stream, follow, reverse, verify};
use switch::cutover;

pub(super) use switch::{switch, widen};

/// What runs about a move are asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MoveInput {
    /// Who moves.
    pub tenant: TenantId,
    /// The move.
    pub tenant_move: OperationId,
}

pub(crate) type OfMove = Run<Control, MoveInput>;

/// Copying and comparing may take as long as a tenant is large.
pub(super) const LONG: Duration = Duration::from_secs(24 * 3600);

/// A server of the tenant's own has to be started.
const TARGET_WITHIN: Duration = Duration::from_secs(300);

/// For how long a server may be away before a stream ends with an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a long step looks whether it is to end.
const LOOK: Duration = Duration::from_millis(500);

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, MoveInput> {
    Workflow::new("tenant.move", 1)
        .step(Step::new(
            "preflight",
            "what would stop the move is found before anything is made",
            preflight_step,
            close,
        ))
        .step(
            Step::new("target", "the place to go to, closed to the tenant", target, remove_target)
                .timeout(TARGET_WITHIN),
        )
        .step(Step::new(
            "home",
            "what the region keeps of the tenant has its place there too: users, configuration, usage",
            home,
            close_home,
        ))
        .step(
            Step::new(
                "copy",
                "all rows as they were at one moment, while the tenant works",
                copy,
                end_stream,
            )
            .timeout(LONG)
            .undo_retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo("follow", "what was written since, until both ends are equal", follow)
                .timeout(LONG),
        )
        .step(Step::without_undo("verify", "a difference is found here, or nowhere", verify).timeout(LONG))
        .step(
            Step::new(
                "reverse",
                "the way back begins before the first write at the target",
                reverse,
                end_reverse,
            )
            .undo_retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo(
                "cutover",
                "the commit: held, switched over, and served from the target",
                cutover,
            )
            .timeout(LONG)
            .retry(Retry::ENDLESS),
        )
        .point_of_no_return()
        .step(
            Step::without_undo(
                "configuration",
                "what the tenant has configured, and who was shown its secrets, goes along: open in one region at a time",
                configuration,
            )
            .timeout(LONG)
            .retry(Retry::ENDLESS),
        )
        .step(
            Step::without_undo("settle", "the fronts know, and nothing of the copy is left", settle)
                .retry(Retry::ENDLESS),
        )
}

/// What is needed to start runs.
#[must_use]
pub fn move_kind() -> Kind<MoveInput> {
    workflow().kind()
}

/// The move, the tenant, and what of the move is under way in this process.
pub(super) struct Hand {
    pub record: MoveRecord,
    pub tenant: TenantRecord,
    pub moving: Arc<Moving>,
}

pub(super) async fn hand(run: &OfMove) -> Result<Hand, StepError> {
    let control = run.deps();
    let client = control.catalog.client().await.map_err(retried)?;
    let record = client.tenant_move(run.input().tenant_move).await.map_err(retried)?;
    let record = record.ok_or_else(|| StepError::fail(Problem::internal("the move of a run is gone")))?;
    let tenant = client.tenant(run.input().tenant).await.map_err(retried)?;
    let tenant = tenant.ok_or_else(|| StepError::fail(Problem::internal("the tenant of a run is gone")))?;
    let moving = control.moves.of(&record);
    moving.is_told_by(run.id(), run.token());
    Ok(Hand { record, tenant, moving })
}

impl Hand {
    pub(super) async fn source(&self, control: &Control) -> Result<Place, StepError> {
        place(control, &self.record, &self.record.source).await.map_err(retried)
    }

    pub(super) async fn target(&self, control: &Control) -> Result<Place, StepError> {
        place(control, &self.record, &self.record.target).await.map_err(retried)
    }

    fn forward(&self) -> StreamName {
        StreamName::new(Way::Forward, self.record.id.as_uuid())
    }

    pub(super) fn back(&self) -> StreamName {
        StreamName::new(Way::Back, self.record.id.as_uuid())
    }

    fn phase(&self, phase: MovePhase) {
        self.moving.tell(|progress| progress.phase = phase);
    }
}

/// The tables at a place, in the order of their names.
pub(crate) async fn tables_at(place: &Place) -> Result<Vec<MovedTable>, Problem> {
    let client = place.connect().await?;
    cluster::tables(&client, place).await
}

/// Works on something long, tells how far it is, and breaks off where the
/// worker stops, an operator wants the move to end, or a server says nothing
/// any more.
pub(super) async fn at_length<T>(
    run: &OfMove,
    moving: &Moving,
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Problem>> + Send,
) -> Result<T, StepError> {
    // A server that is away may end every attempt before the first look.
    if is_cancelled(run).await {
        return Err(StepError::fail(cancelled()));
    }
    let catalog = &run.deps().catalog;
    let work = moving.telling(catalog, work);
    let away = vigil::until_away(run);
    tokio::pin!(work, away);
    loop {
        tokio::select! {
            done = &mut work => return done.map_err(retried),
            problem = &mut away => {
                stop.cancel();
                return Err(retried(problem));
            }
            () = run.stopping().cancelled() => {
                stop.cancel();
                return Err(StepError::stopped());
            }
            () = tokio::time::sleep(LOOK) => {
                if is_cancelled(run).await {
                    stop.cancel();
                    return Err(StepError::fail(cancelled()));
                }
            }
        }
    }
}

/// Whether an operator wants the move to end. With the catalog away nobody
/// has said so.
async fn is_cancelled(run: &OfMove) -> bool {
    let asked = async {
        let client = run.deps().catalog.client().await?;
        client.tenant_move(run.input().tenant_move).await
    };
    matches!(asked.await, Ok(Some(record)) if record.cancel)
}

fn cancelled() -> Problem {
    Problem::new(Code::MoveStatusConflict, "The move was cancelled.")
}

async fn preflight_step(run: OfMove) -> Result<(), StepError> {
    let hand = hand(&run).await?;
    let control = run.deps();
    hand.phase(MovePhase::Preflight);
    let look =
        preflight::check(control, &hand.tenant, (&hand.record.target).into()).await.map_err(retried)?;
    hand.moving.tell(|progress| {
        progress.tables = u32::try_from(look.tables).unwrap_or(u32::MAX);
        progress.rows_total = u64::try_from(look.rows).unwrap_or(0);
        progress.bytes_total = u64::try_from(look.bytes).unwrap_or(0);
    });
    Ok(())
}

/// The end of a move that did not come to its cutover.
async fn close(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.moving.end_stream().await;
    control.moves.forget(hand.record.id);
    if !hand.record.status.is_open() {
        return Ok(());
    }
    // Who had it cancelled may have said why.
    let known = hand.record.error.is_some();
    let why = control.operations.show(run.id()).await.map_err(retried)?.error.filter(|_| !known);
    let status = if hand.record.cancel { MoveStatus::Cancelled } else { MoveStatus::Failed };
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.set_move_status(hand.record.id, status, run.id()).await.map_err(retried)?;
    if let Some(why) = &why {
        change.set_move_error(hand.record.id, &why.code, &why.detail).await.map_err(retried)?;
    }
    let detail = json!({"move": hand.record.id, "status": status, "code": why.map(|why| why.code)});
    change
        .audit("tenant.move.undone", Some(hand.tenant.id), hand.tenant.slug.as_str(), &detail)
        .await
        .map_err(retried)?;
    change.commit().await.map_err(retried)?;
    measure::is(status);
    Ok(())
}

/// Everything is there as for a new tenant, which may not come in. Rows that the
/// data statements of the versions have left in a silo go when the copy begins.
async fn target(run: OfMove) -> Result<SchemaVersion, StepError> {
    let control = run.deps();
    let mut here = hand(&run).await?;
    here.phase(MovePhase::Target);
    if here.record.target.isolation == Isolation::Cluster && here.record.target.cluster.is_none() {
        dedicated::provision_target(control, &here.tenant, &here.record).await.map_err(retried)?;
        here = hand(&run).await?;
    }
    let version = Box::pin(make_target(&run, &here)).await?;
    let newest = control.catalog.client().await.map_err(retried)?.newest_schema_version().await;
    let newest = newest.map_err(retried)?;
    // Of a version that came in between, the target has had the data statements
    // before it has the rows.
    if version != newest || newest != here.record.schema_version {
        let detail = format!(
            "The target has version {version} of the app schema, the newest is {newest}, and the move was begun with {}.",
            here.record.schema_version
        );
        return Err(StepError::fail(Problem::new(Code::SchemaBehind, detail)));
    }
    Ok(version)
}

/// The tenant's place, closed, with what it has configured up to now: so that
/// little is left to be copied when it has moved.
async fn home(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let here = hand(&run).await?;
    if here.record.target.region == here.record.source.region {
        return Ok(());
    }
    let store = control.regions.of(&here.record.target.region).map_err(retried)?;
    store.expect_home(here.tenant.id, control.clock.now()).await.map_err(retried)?;
    let source = control.configuration(&here.record.source.region).map_err(retried)?;
    let target = control.configuration(&here.record.target.region).map_err(retried)?;
    target.copy_ahead(&source, here.tenant.id, here.record.target.epoch).await.map_err(retried)
}

/// From the commit until this has been done, some milliseconds, the tenant's
/// configuration is neither read nor written at the target.
async fn configuration(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let record = hand(&run).await?.record;
    // Who died behind the commit has left the tenant narrowed, and what follows may
    // wait for another region.
    widen(control, record.tenant).await.map_err(retried)?;
    bring_configuration(control, record.tenant, &record.source, &record.target).await.map_err(retried)
}

/// Brings what a tenant has configured from one end of a move to the other,
/// where those are in different regions.
pub(super) async fn bring_configuration(
    control: &Control,
    tenant: TenantId,
    from: &MoveEnd,
    to: &MoveEnd,
) -> Result<(), Problem> {
    if from.region == to.region {
        return Ok(());
    }
    let (source, target) = (control.configuration(&from.region)?, control.configuration(&to.region)?);
    target.receive(&source, tenant, to.epoch).await
}

async fn close_home(run: OfMove) -> Result<(), StepError> {
    let here = hand(&run).await?;
    let (target, source) = (&here.record.target, &here.record.source);
    if left::of(&here.record).is_some() {
        return Ok(());
    }
    run.heartbeat().await?;
    match remove::home(run.deps(), &here.record, target, source).await {
        Ok(()) => Ok(()),
        // Nothing would be noted as left.
        Err(problem) if target.isolation == Isolation::Cluster => Err(retried(problem)),
        Err(problem) => away::leave(&run, &here, target, problem, away::UNDO).await,
    }
}

/// From the seat, since what is opened and closed there by a worker that wakes
/// late may be where the tenant is by now.
async fn make_target(run: &OfMove, hand: &Hand) -> Result<SchemaVersion, StepError> {
    let control = run.deps();
    let target = hand.target(control).await?;
    let seat = seat(run, &target).await?;
    // In boxes, here and below: the futures are too large for a thread's stack.
    Box::pin(furnish(control, hand, &target, &seat)).await.map_err(retried)
}

async fn furnish(
    control: &Control,
    hand: &Hand,
    target: &Place,
    seat: &Seat,
) -> Result<SchemaVersion, Problem> {
    let there = as_if_at(&hand.tenant, &hand.record.target);
    let roles = placements::tenant_roles(control, &hand.tenant)?;
    let may_log_in = hand.tenant.status == TenantStatus::Active;
    cluster::admit_roles(seat, &roles, &target.placement, may_log_in).await?;
    Box::pin(placements::create_space_through(control, seat, &there)).await?;
    cluster::close(seat, target).await?;
    if target.is_pool_form() {
        let mut client = Box::pin(fleet::shared_tables(control, &target.placement)).await?;
        return insula_tenant_cluster::schema::enrol_without_rows(&mut client, &target.placement.role).await;
    }
    Box::pin(fleet::bring_new(control, &there, &target.placement)).await
}

async fn remove_target(run: OfMove) -> Result<(), StepError> {
    let hand = hand(&run).await?;
    let (target, source) = (&hand.record.target, &hand.record.source);
    // A server of the tenant's own need not run to be removed.
    if target.isolation != Isolation::Cluster && !away::is_at_hand(&run, &hand, target, away::UNDO).await? {
        return Ok(());
    }
    remove::end(&run, &hand.tenant, &hand.record, target, source).await.map(drop)
}

async fn settle(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    known(control, &hand.record, hand.record.target.epoch).await;
    hand.moving.end_stream().await;
    control.moves.forget(hand.record.id);
    // The origin stays until the way back is closed: by it the stream back
    // knows what has come from there.
    if away::is_there_after(&run, &hand, &hand.record.source).await? {
        let source = hand.source(control).await?;
        cluster::drop_slot(&source.access, hand.forward()).await.map_err(retried)?;
        cluster::unpublish(&source, hand.forward()).await.map_err(retried)?;
    }
    own_objects::settle(control, hand.tenant.id).await.map_err(retried)?;
    hand.moving.telling(&control.catalog, async { hand.phase(MovePhase::Done) }).await;
    Ok(())
}

/// Waits until the front of this process knows where the tenant is.
pub(super) async fn known(control: &Control, record: &MoveRecord, epoch: Epoch) {
    let knows = |snapshot: &Snapshot| {
        let route = snapshot.route(record.tenant);
        route.and_then(|route| route.placement.as_ref()).is_some_and(|placement| placement.epoch >= epoch)
    };
    control.front_knows(knows).await;
}
