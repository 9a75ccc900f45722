//! What is kept up between a move's cutover and its end: the stream back to the
//! source, so that the move can be taken back without a loss, and the end of
//! the time for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use insula_catalog::MoveRecord;
use insula_domain::{MoveStatus, OperationId, SchemaVersion};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{StreamFault, StreamName, Way, drop_slot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::ends::place;
use super::{steer, way_back};
use crate::Control;
use crate::workflows::move_back::stream_back;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(2);

/// For how long a move is this keeper's when it has looked.
const KEPT: Duration = Duration::from_secs(15);

/// The most streams that one process keeps; each has a connection at either end.
/// Who does not get one is `waiting`, until another move ends.
const STREAMS_MAX: i64 = 64;

/// How long one look at a move may take: its servers may be away, and say nothing.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// Keeps the sources of moves current until it is told to stop. Whose the moves
/// are is settled with the catalog alone; what is done at servers is done side by
/// side, so that one which is away keeps up nothing else.
pub async fn run(control: Arc<Control>, keeper: String, stop: CancellationToken) {
    let (mut known, mut at_work) = (BTreeSet::new(), AtWork::default());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {}
        }
        if let Err(problem) = look_once(&control, &keeper, &mut known, &mut at_work).await {
            tracing::warn!(cause = problem.chain(), "moves are not looked after right now");
        }
    }
    drop(at_work);
    for id in known {
        control.moves.forget(id);
    }
}

async fn look_once(
    control: &Arc<Control>,
    keeper: &str,
    known: &mut BTreeSet<OperationId>,
    at_work: &mut AtWork,
) -> Result<(), Problem> {
    // The leases first: nothing else may keep them from being renewed.
    let mine = moved(control, keeper).await?;
    let (open, newest) = {
        let client = control.catalog.client().await?;
        (client.open_moves().await?, client.newest_schema_version().await?)
    };
    known.extend(mine.iter().map(|record| record.id));
    for id in gone(known, &mine, &open) {
        known.remove(&id);
        control.moves.forget(id);
    }
    let ended = look_over(control, open, newest, at_work).await;
    for record in mine.into_iter().filter(|record| !ended.contains(&record.id)) {
        let control = Arc::clone(control);
        at_work.begin(record.id, async move { keep(&control, &record).await });
    }
    Ok(())
}

/// Which of the moves that this process has kept are not its any more: others
/// keep them, their way back is closed, or they have ended. One that is not
/// moved any more has an operation at work, which may be here, with its stream.
fn gone(known: &BTreeSet<OperationId>, mine: &[MoveRecord], open: &[MoveRecord]) -> Vec<OperationId> {
    let stays = |id: &&OperationId| {
        let is_mine = mine.iter().any(|record| record.id == **id);
        let is_at_work = open.iter().any(|record| record.id == **id && record.status != MoveStatus::Moved);
        !is_mine && !is_at_work
    };
    known.iter().filter(stays).copied().collect()
}

/// What is being done about moves, for each move one thing at a time.
#[derive(Debug, Default)]
struct AtWork(BTreeMap<OperationId, AbortOnDropHandle<()>>);

impl AtWork {
    /// Begins, unless something is still being done about the move. It ends in any
    /// case, and at the latest with this.
    fn begin(&mut self, id: OperationId, work: impl Future<Output = ()> + Send + 'static) {
        self.0.retain(|_, task| !task.is_finished());
        self.0.entry(id).or_insert_with(|| {
            let bounded = async move {
                if timeout(LOOK_WITHIN, work).await.is_err() {
                    tracing::warn!(tenant_move = %id, "the servers of a move do not answer its keeper");
                }
            };
            AbortOnDropHandle::new(tokio::spawn(bounded))
        });
    }

    /// Breaks off what is being done.
    fn end(&mut self, id: OperationId) {
        self.0.remove(&id);
    }
}

/// Completes the moves whose time for a way back is over, and closes the way of
/// those that a version of the app schema has overtaken, whoever keeps them:
/// there may be more of them than streams. Which those are.
async fn look_over(
    control: &Arc<Control>,
    open: Vec<MoveRecord>,
    newest: SchemaVersion,
    at_work: &mut AtWork,
) -> BTreeSet<OperationId> {
    let (now, mut ended) = (control.clock.now(), BTreeSet::new());
    for record in open.into_iter().filter(|record| record.status == MoveStatus::Moved) {
        if record.window_ends_at.is_some_and(|end| end <= now) {
            complete(control, &record).await;
            ended.insert(record.id);
        } else if way_back::closed(&record).is_some() {
            control.moves.forget(record.id);
        } else if let Some(problem) = way_back::closed_by_version(&record, newest) {
            note(control, &record, &problem).await;
            ended.insert(record.id);
            let control = Arc::clone(control);
            at_work.end(record.id);
            at_work.begin(record.id, async move { end_stream_back(&control, &record).await });
        }
    }
    ended
}

async fn moved(control: &Control, keeper: &str) -> Result<Vec<MoveRecord>, Problem> {
    let now = control.clock.now();
    let lost = way_back::CLOSED_BY.map(Code::as_str);
    control.catalog.client().await?.keep_moved(keeper, now, now + KEPT, &lost, STREAMS_MAX).await
}

async fn keep(control: &Control, record: &MoveRecord) {
    let moving = control.moves.of(record);
    match stream_back(control, record, &moving).await {
        Ok(stream) => {
            let (lag, away) = {
                let seen = stream.progress();
                let now = seen.borrow();
                (now.lag_bytes(), now.away.clone())
            };
            moving.telling(&control.catalog, async { moving.tell(|told| told.lag_bytes = lag) }).await;
            match away {
                Some(why) => note(control, record, &StreamFault::Away(why).into()).await,
                None if record.error.is_some() => forget_error(control, record).await,
                None => {}
            }
        }
        Err(problem) => stale(control, record, &problem).await,
    }
}

async fn complete(control: &Control, record: &MoveRecord) {
    match steer::complete(control, control.worker(), record.id).await {
        Ok(operation) => tracing::info!(tenant_move = %record.id, %operation, "a move is completed"),
        Err(problem) if problem.code() == Code::TenantBusy => {}
        Err(problem) => {
            tracing::warn!(tenant_move = %record.id, cause = problem.chain(), "a move cannot be completed yet");
        }
    }
}

/// The source is not current. Where it will not be again, the target's server
/// keeps its log no longer for it.
async fn stale(control: &Control, record: &MoveRecord, problem: &Problem) {
    note(control, record, problem).await;
    if way_back::CLOSED_BY.contains(&problem.code()) {
        end_stream_back(control, record).await;
    }
}

/// Nobody brings the source up to date any more, and no log is kept for it.
async fn end_stream_back(control: &Control, record: &MoveRecord) {
    control.moves.forget(record.id);
    let dropped = async {
        let target = place(control, record, &record.target).await?;
        drop_slot(&target.access, StreamName::new(Way::Back, record.id.as_uuid())).await
    };
    if let Err(problem) = dropped.await {
        tracing::warn!(tenant_move = %record.id, cause = problem.chain(), "its slot goes when the move ends");
    }
}

/// The source is current again.
async fn forget_error(control: &Control, record: &MoveRecord) {
    let forgotten = async {
        let mut client = control.catalog.client().await?;
        let change = client.change(control.worker()).await?;
        change.clear_move_error(record.id).await?;
        let detail = serde_json::json!({"move": record.id});
        change.audit("tenant.move.current", Some(record.tenant), &record.tenant.to_string(), &detail).await?;
        change.commit().await
    };
    if let Err(problem) = forgotten.await {
        tracing::warn!(cause = problem.chain(), "that a source is current again could not be noted");
    }
}

/// Said where operators look.
async fn note(control: &Control, record: &MoveRecord, problem: &Problem) {
    tracing::warn!(tenant_move = %record.id, cause = problem.chain(), "the source of a move is not kept current");
    let code = problem.code().as_str();
    if record.error.as_ref().is_some_and(|(known, _)| known == code) {
        return;
    }
    let noted = async {
        let mut client = control.catalog.client().await?;
        let change = client.change(control.worker()).await?;
        // The servers may have taken long to say so, and the move has gone on.
        let now = change.lock_move(record.id).await?;
        if now.is_none_or(|now| now.status != MoveStatus::Moved) {
            return Ok(());
        }
        change.set_move_error(record.id, code, problem.detail()).await?;
        let detail = serde_json::json!({"move": record.id, "code": code});
        change.audit("tenant.move.stale", Some(record.tenant), &record.tenant.to_string(), &detail).await?;
        change.commit().await
    };
    if let Err(problem) = noted.await {
        tracing::warn!(cause = problem.chain(), "and that could not be noted");
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;
    use uuid::Uuid;

    use super::way_back::tests::moved;
    use super::*;

    fn id(number: u128) -> OperationId {
        OperationId::from(Uuid::from_u128(number))
    }

    fn record(number: u128, status: MoveStatus) -> MoveRecord {
        MoveRecord { id: id(number), status, ..moved() }
    }

    #[test]
    fn what_is_not_kept_here_any_more_is_forgotten_and_what_is_at_work_is_not() {
        let known = (1..=5).map(id).collect();
        let mine = [record(1, MoveStatus::Moved)];
        let open = [
            record(1, MoveStatus::Moved),
            record(2, MoveStatus::RollingBack),
            record(3, MoveStatus::Completing),
            record(4, MoveStatus::Moved),
        ];
        // Another process has 4, and 5 has ended.
        assert_eq!(gone(&known, &mine, &open), [id(4), id(5)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_keeps_no_other_move_up_and_does_not_for_ever() {
        let (said, mut heard) = mpsc::unbounded_channel();
        let say = |number: u32| {
            let said = said.clone();
            async move { said.send(number).unwrap() }
        };
        let mut at_work = AtWork::default();
        at_work.begin(id(1), pending());
        at_work.begin(id(2), say(2));
        assert_eq!(heard.recv().await, Some(2));
        at_work.begin(id(1), say(1));
        at_work.begin(id(3), say(3));
        assert_eq!(heard.recv().await, Some(3), "one thing at a time is done about a move");
        tokio::time::sleep(LOOK_WITHIN * 2).await;
        at_work.begin(id(1), say(4));
        assert_eq!(heard.recv().await, Some(4));
        at_work.begin(id(1), pending());
        at_work.end(id(1));
        at_work.begin(id(1), say(5));
        assert_eq!(heard.recv().await, Some(5));
    }
}
