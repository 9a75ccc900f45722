//! The cutover of a move, either way: tried until it comes through.

use std::time::Duration;

use insula_domain::{MovePhase, MoveStatus, TenantId};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{Way, raise_sequences, sequences, sessions_at};
use insula_tenant_move::cutover::{Outcome, cut_over, take_back};
use insula_tenant_move::{Live, Moving, Pause, Task};
use insula_workflow::StepError;
use tokio::time::timeout;

use super::rows::stream;
use super::{Hand, OfMove, cancelled, hand};
use crate::Control;
use crate::moves::measure;
use crate::workflows::move_back::stream_back;
use crate::workflows::{rest, retried};

/// For how long a cutover is tried that something always holds up: then the move
/// is undone, rather than holding the tenant every few seconds for ever.
const TRIED_WITHIN: Duration = Duration::from_secs(3600);

/// At which attempt at the cutover without servers that answer the move is
/// undone: half a minute after the first, as before the cutover
/// ([`Retry::BRISK`](insula_workflow::Retry::BRISK)).
const TRIED_AWAY: u32 = 10;

/// The pause between two looks at how many backends the tenant has, how many
/// looks in a row must find no fewer, and how long is looked at all.
const NARROW_PAUSE: Duration = Duration::from_millis(20);
const NARROW_ALIKE: u32 = 3;
const NARROWED_WITHIN: Duration = Duration::from_millis(500);

/// When all of that is given up, where the catalog or the server says nothing.
const NARROW_TRIED: Duration = Duration::from_secs(2);

/// How long raising sequences that are shared may take: a lock is waited for half
/// as long, and a server that says nothing is away.
const RAISED_WITHIN: Duration = Duration::from_secs(60);

/// How many numbers of a sequence the tenant may draw until it is held, without
/// a shared sequence having to be raised again.
const NUMBERS_AHEAD: u32 = 10_000;

/// Tries until it comes through; between two tries the tenant is served where
/// it is.
pub(super) async fn cutover(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    if hand.record.status != MoveStatus::Running {
        return Ok(());
    }
    hand.phase(MovePhase::Cutover);
    let task = Task {
        workflow: "tenant.move",
        id: hand.record.id,
        tenant: hand.tenant.id,
        slug: hand.tenant.slug.to_string(),
        source: hand.source(control).await?,
        epoch: hand.record.source.epoch,
        target: hand.target(control).await?,
        to: hand.record.target.clone(),
        version: hand.record.schema_version,
        hold: Duration::from_millis(hand.record.terms.hold_ms.into()),
        long_transactions: hand.record.terms.long_transactions,
        status: MoveStatus::Moved,
        window: Some(Duration::from_secs(hand.record.terms.rollback_window_s.into())),
    };
    switch(&run, &hand, task, Way::Forward).await
}

/// Tries a cutover until it comes through.
pub(in crate::workflows) async fn switch(
    run: &OfMove,
    hand: &Hand,
    task: Task,
    way: Way,
) -> Result<(), StepError> {
    let control = run.deps();
    let moving = &hand.moving;
    let (hold, status) = (task.hold, task.status);
    let (begun, mut tries) = (tokio::time::Instant::now(), 0);
    let forsakes = is_known_to_nobody(control, &task, way).await.map_err(retried)?;
    loop {
        if run.stopping().is_cancelled() {
            return Err(StepError::stopped());
        }
        run.heartbeat().await?;
        let stream = match way {
            Way::Forward => stream(control, hand).await,
            Way::Back => stream_back(control, &hand.record, moving).await,
        };
        let ready = match stream {
            Ok(stream) => raise_shared(&task).await.map(|()| stream),
            Err(problem) => Err(problem),
        };
        let stream = match ready {
            Ok(stream) => stream,
            Err(problem) => return Box::pin(not_ready(run, moving, task, forsakes, problem)).await,
        };
        let live = Live::new(control.move_tools(), task.clone(), Some(stream)).forsaking_target(forsakes);
        let narrowed = tokio::time::Instant::now();
        moving.telling(&control.catalog, narrow(control, &task)).await;
        let outcome = moving.telling(&control.catalog, Box::pin(cut_over(&live, hold))).await;
        if !matches!(outcome, Ok(Outcome::Committed)) {
            widen(control, task.tenant).await.map_err(retried)?;
            moving.tell(|progress| progress.narrowed_us = Some(measure::was_narrowed(narrowed.elapsed())));
        }
        tries += 1;
        moving.tell(|progress| progress.cutovers = tries);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(problem) => return Box::pin(not_ready(run, moving, task, forsakes, problem)).await,
        };
        match outcome {
            Outcome::Committed => {
                measure::is(status);
                let pause = live.pause().await;
                let widened = widen(control, task.tenant).await;
                told_pause(control, moving, pause, narrowed.elapsed()).await;
                return widened.map_err(retried);
            }
            Outcome::Cancelled => return Err(StepError::fail(cancelled())),
            Outcome::TakenBack(problem) if is_final(&problem) || begun.elapsed() > TRIED_WITHIN => {
                return Err(StepError::fail(problem));
            }
            Outcome::TakenBack(problem) => {
                measure::taken_back();
                let why = problem.detail().to_owned();
                moving.tell(|progress| progress.held_up_by = Some(why));
                moving.telling(&control.catalog, rest(run.stopping(), tries)).await;
            }
        }
    }
}

/// Has the fronts do with few backends of the tenant, and waits until those that
/// are too many are gone. Each that is there when the tenant is held has to end
/// at the source, and another one to be opened at the target, while its clients
/// wait; on a machine with few processors that is most of their pause. That some
/// are left, kept by their sessions, stops nothing, nor that it does not come to it:
/// the pause is longer then.
async fn narrow(control: &Control, task: &Task) {
    let narrowing = async {
        control.catalog.client().await?.narrow(task.tenant, task.epoch, task.id).await?;
        let maintenance = task.source.access.maintenance().await?;
        let begun = tokio::time::Instant::now();
        let (mut before, mut alike) = (u32::MAX, 0);
        while alike < NARROW_ALIKE && begun.elapsed() < NARROWED_WITHIN {
            tokio::time::sleep(NARROW_PAUSE).await;
            let now = sessions_at(&maintenance, &task.source).await?;
            alike = if now < before { 0 } else { alike + 1 };
            before = before.min(now);
        }
        measure::narrowed(begun.elapsed());
        let (took_ms, tenant_move) = (begun.elapsed().as_secs_f64() * 1_000.0, task.id);
        tracing::debug!(%tenant_move, act = "narrow", took_ms, backends = before, "an act of a cutover");
        Ok::<_, Problem>(())
    };
    match timeout(NARROW_TRIED, narrowing).await {
        Ok(Ok(())) => {}
        Ok(Err(problem)) => tracing::warn!(cause = problem.chain(), "a tenant is held that is not narrowed"),
        Err(_) => tracing::warn!("a tenant is held of which it is not known that it is narrowed"),
    }
}

/// Lets the tenant have what its plan says again.
pub(in crate::workflows) async fn widen(control: &Control, tenant: TenantId) -> Result<(), Problem> {
    control.catalog.client().await?.widen(tenant).await
}

/// Sequences that the target shares with others are raised before anybody is
/// held: another tenant's open transaction may keep one from being raised.
async fn raise_shared(task: &Task) -> Result<(), Problem> {
    if !task.target.is_pool_form() {
        return Ok(());
    }
    let raising = async {
        let (source, target) = (task.source.connect().await?, task.target.connect().await?);
        let numbers = sequences(&source, &task.source).await?;
        raise_sequences(&target, &task.target, &numbers, NUMBERS_AHEAD).await.map(drop)
    };
    let silent =
        || Problem::new(Code::ClusterUnreachable, "Raising sequences that are shared takes too long.");
    timeout(RAISED_WITHIN, raising).await.unwrap_or_else(|_| Err(silent()))
}

/// Whether what stood in the way of a try will stand in that of the next ones.
fn is_final(problem: &Problem) -> bool {
    matches!(
        problem.code(),
        Code::SchemaBehind | Code::SchemaChanged | Code::MoveDiverged | Code::MoveBlocked
    )
}

/// No try can be made: one of a worker that died is taken back, so that the
/// tenant is served meanwhile, and if this is the end. It is where a server has
/// been away for too long.
async fn not_ready(
    run: &OfMove,
    moving: &Moving,
    task: Task,
    forsakes: bool,
    problem: Problem,
) -> Result<(), StepError> {
    let control = run.deps();
    let tenant = task.tenant;
    let is_end = run.attempt() >= TRIED_AWAY;
    let live = Live::new(control.move_tools(), task, None).forsaking_target(forsakes);
    let why = problem.detail().to_owned();
    moving.telling(&control.catalog, async { moving.tell(|told| told.held_up_by = Some(why)) }).await;
    let outcome = take_back(&live, problem).await.map_err(retried)?;
    // Who died within a try has left the tenant narrowed.
    widen(control, tenant).await.map_err(retried)?;
    match outcome {
        Outcome::Committed => Ok(()),
        Outcome::Cancelled => Err(StepError::fail(cancelled())),
        Outcome::TakenBack(problem) if is_end => Err(StepError::fail(problem)),
        Outcome::TakenBack(problem) => Err(retried(problem)),
    }
}

/// Whether no front, however long it has heard of nothing, can have a way to the
/// target: the tenant has never been served from that cluster. Then it is no
/// danger where a target that cannot be reached any more was opened to it.
async fn is_known_to_nobody(control: &Control, task: &Task, way: Way) -> Result<bool, Problem> {
    let cluster = task.target.access.name();
    if way == Way::Back || cluster == task.source.access.name() {
        return Ok(false);
    }
    let client = control.catalog.client().await?;
    client.was_served_from(task.tenant, cluster, task.id).await.map(|was| !was)
}

/// What the fronts have measured, which they may not have said, and how long the
/// tenant had to do with few backends.
async fn told_pause(
    control: &Control,
    moving: &Moving,
    measured: Result<Option<Pause>, Problem>,
    narrowed: Duration,
) {
    moving
        .telling(&control.catalog, async {
            moving.tell(|progress| {
                progress.held_up_by = None;
                progress.narrowed_us = Some(measure::was_narrowed(narrowed));
                if let Ok(Some(pause)) = measured {
                    measure::paused(pause.longest);
                    progress.pause_us = u64::try_from(pause.longest.as_micros()).ok();
                    progress.clients_waited = Some(pause.clients);
                }
            });
        })
        .await;
}
