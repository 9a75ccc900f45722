//! The rows of a move: copied from a snapshot, followed, compared, and the way
//! back for what is written at the target later.

use std::sync::Arc;
use std::time::Duration;

use insula_domain::{MovePhase, MoveProgress, OperationId};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{
    self as cluster, CompareOptions, Comparison, CopyOptions, CopyProgress, MovedTable, Place, Seat, Stream,
    StreamSpec, Throttle,
};
use insula_tenant_move::Moving;
use insula_workflow::StepError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::away::{UNDO, is_at_hand};
use super::{Hand, OfMove, PATIENCE, at_length, differences, furnish, hand, tables_at, throttle};
use crate::Control;
use crate::moves::ends::place;
use crate::moves::seats::Seats;
use crate::moves::{measure, remove};
use crate::workflows::retried;

/// For how long a slot is tried to be made until it is said who is in its way.
const SLOT_WITHIN: Duration = Duration::from_secs(120);

/// How long others' transactions may keep a slot from being made, as a cutover.
const OTHERS_WITHIN: Duration = Duration::from_secs(3600);

/// How many tables, or parts of one, are copied and compared at a time.
const AT_ONCE: usize = 4;

/// How far behind the target may be when a cutover is tried: a marker comes
/// through within this.
const CURRENT_WITHIN: Duration = Duration::from_millis(250);

/// Waits for transactions that are in the way of a slot, of whatever tenant: the
/// move says which, and is not lost for them.
struct Others<'a> {
    moving: &'a Moving,
    begun: tokio::time::Instant,
}

impl<'a> Others<'a> {
    fn of(hand: &'a Hand) -> Self {
        Self { moving: &hand.moving, begun: tokio::time::Instant::now() }
    }

    /// Whether it is to be tried once more.
    fn outlast(&self, problem: Problem) -> Result<(), Problem> {
        if problem.code() != Code::MoveBlocked || self.begun.elapsed() > OTHERS_WITHIN {
            return Err(problem);
        }
        self.moving.tell(|told| told.held_up_by = Some(problem.detail().to_owned()));
        Ok(())
    }

    fn are_gone(&self) {
        self.moving.tell(|told| told.held_up_by = None);
    }
}

/// The snapshot ends with the process: an attempt that was broken off begins anew.
pub(super) async fn copy(run: OfMove) -> Result<u64, StepError> {
    let control = run.deps();
    let begun = tokio::time::Instant::now();
    let hand = hand(&run).await?;
    hand.phase(MovePhase::Copy);
    let (source, target) = (hand.source(control).await?, hand.target(control).await?);
    hand.moving.end_stream().await;
    let seats = Seats::take(&run, &source, &target).await?;
    cluster::remove_stream(seats.source(), seats.target(), hand.forward()).await.map_err(retried)?;
    if run.attempt() > 1 {
        let seat = seats.target_seat();
        remove::space(seat, &hand.tenant, &hand.record.target).await.map_err(retried)?;
        Box::pin(furnish(control, &hand, &target, seat)).await.map_err(retried)?;
    }
    let (stop, progress) = (CancellationToken::new(), Arc::new(CopyProgress::default()));
    let (pause, paused) = watch::channel(false);
    let work = async {
        let tables = tables_alike(&source, &target).await?;
        cluster::publish(seats.source(), hand.forward(), &tables).await?;
        // The origin first: whoever makes it ends all that goes by the stream's name.
        cluster::create_origin(seats.target(), hand.forward()).await?;
        let others = Others::of(&hand);
        let exported = loop {
            match cluster::create_slot(seats.source(), hand.forward(), SLOT_WITHIN).await {
                Ok(exported) => break exported,
                Err(problem) => others.outlast(problem)?,
            }
        };
        others.are_gone();
        drop(seats);
        let bytes_per_second = hand.record.terms.copy_bytes_per_second;
        let how = CopyOptions {
            parallel: AT_ONCE,
            throttle: Throttle { bytes_per_second, pause: Some(paused) },
            ..CopyOptions::default()
        };
        // Making a slot may have taken long, and the target may be where the tenant is by now, if another worker has
        // the run: the seat first, from which all of the copy is made, and then the question whose the run is.
        let mut seat = Seat::take_at(&target).await?;
        let ours = run.heartbeat().await;
        ours.map_err(|_| {
            Problem::new(Code::Unavailable, "It is not known whether another worker has the move.")
        })?;
        tracing::debug!(after = ?begun.elapsed(), "a copy begins");
        let (from, to) = ((&source, &*exported.snapshot), (&target, &mut seat));
        let copying = cluster::copy(from, to, &tables, how, &progress, &stop);
        tokio::select! {
            copied = tell_copy(&hand.moving, &progress, copying) => copied,
            never = throttle::heed([&source, &target], &tables, &pause) => match never {},
        }
    };
    let copied = at_length(&run, &hand.moving, &stop, work).await?;
    measure::copied(copied.rows, copied.bytes);
    Ok(copied.rows)
}

/// The tables of the source, which are those of the target.
async fn tables_alike(source: &Place, target: &Place) -> Result<Vec<MovedTable>, Problem> {
    let (here, there) = tokio::try_join!(tables_at(source), tables_at(target))?;
    cluster::are_alike(&here, &there)?;
    Ok(here)
}

/// Passes a copy's progress on to the move's.
async fn tell_copy<T>(moving: &Moving, copied: &CopyProgress, work: impl Future<Output = T>) -> T {
    let told = |progress: &mut MoveProgress| {
        progress.rows = copied.rows();
        progress.bytes = copied.bytes();
        progress.tables_done = u32::try_from(copied.tables()).unwrap_or(u32::MAX);
    };
    tell_again(moving, told, work).await
}

/// Passes a comparison's progress on to the move's.
async fn tell_compared<T>(moving: &Moving, compared: &Comparison, work: impl Future<Output = T>) -> T {
    tell_again(moving, |progress| progress.rows_verified = compared.progress().rows(), work).await
}

async fn tell_again<T>(
    moving: &Moving,
    told: impl Fn(&mut MoveProgress),
    work: impl Future<Output = T>,
) -> T {
    let tell = || moving.tell(&told);
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                tell();
                return done;
            }
            _ = looks.tick() => tell(),
        }
    }
}

pub(super) async fn end_stream(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.moving.end_stream().await;
    if hand.record.target.cluster.is_none() {
        return Ok(());
    }
    let source = hand.source(control).await?;
    cluster::drop_slot(&source.access, hand.forward()).await.map_err(retried)?;
    cluster::unpublish(&source, hand.forward()).await.map_err(retried)?;
    if !is_at_hand(&run, &hand, &hand.record.target, UNDO).await? {
        return Ok(());
    }
    let target = hand.target(control).await?;
    cluster::drop_origin(&target.access, hand.forward()).await.map_err(retried)
}

/// The stream to the target, running in this process.
pub(super) async fn stream(control: &Control, hand: &Hand) -> Result<Arc<Stream>, Problem> {
    let source = place(control, &hand.record, &hand.record.source).await?;
    let target = place(control, &hand.record, &hand.record.target).await?;
    let tables = tables_at(&source).await?;
    let spec = StreamSpec {
        source,
        target,
        name: hand.forward(),
        tables,
        skip_origins: vec![hand.back()],
        chunks_above_kb: cluster::CHUNKS_ABOVE_KB,
        patience: PATIENCE,
        clock: control.clock.clone(),
    };
    hand.moving.stream(|| spec).await
}

/// Until a marker comes through quickly.
pub(super) async fn follow(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.phase(MovePhase::Follow);
    let stop = CancellationToken::new();
    let work = async {
        let stream = stream(control, &hand).await?;
        let source = place(control, &hand.record, &hand.record.source).await?;
        let client = source.connect().await?;
        let mut progress = stream.progress();
        loop {
            let begun = tokio::time::Instant::now();
            let id = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref()).to_string();
            let marker = stream.marker(&id);
            cluster::write_marker(&client, &id).await?;
            let reached = marker.reached();
            tokio::pin!(reached);
            loop {
                tokio::select! {
                    done = &mut reached => {
                        done.map_err(Problem::from)?;
                        break;
                    }
                    changed = progress.changed() => {
                        if changed.is_ok() {
                            let now = progress.borrow_and_update().clone();
                            hand.moving.tell(|told| {
                                told.rows_applied = now.rows;
                                told.lag_bytes = now.lag_bytes();
                            });
                        }
                    }
                }
            }
            if begun.elapsed() <= CURRENT_WITHIN {
                return Ok(());
            }
        }
    };
    at_length(&run, &hand.moving, &stop, work).await
}

/// Both ends at one place of the source's log, in snapshots: the tenant works
/// on, and the stream goes on as soon as both are taken. A worker that goes on for
/// another one has snapshots of its own, and takes over what it finds unchanged in
/// them.
pub(super) async fn verify(run: OfMove) -> Result<u64, StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.phase(MovePhase::Verify);
    let (source, target) = (hand.source(control).await?, hand.target(control).await?);
    let (stop, comparison) = (CancellationToken::new(), differences::comparison(control, &hand).await?);
    let work = async {
        let stream = stream(control, &hand).await?;
        let tables = tables_alike(&source, &target).await?;
        let others = Others::of(&hand);
        let (hold, of_source) = loop {
            // Changes are applied again between two tries.
            let hold = stream.hold().await.map_err(Problem::from)?;
            match cluster::temporary_slot(&source, hand.forward(), SLOT_WITHIN).await {
                Ok(of_source) => break (hold, of_source),
                Err(problem) => others.outlast(problem)?,
            }
        };
        others.are_gone();
        hold.at(of_source.consistent_point).await.map_err(Problem::from)?;
        let of_target = cluster::export_snapshot(&target).await?;
        drop(hold);
        let (one, other) = ((&source, Some(&*of_source.snapshot)), (&target, Some(of_target.snapshot())));
        let (pause, paused) = watch::channel(false);
        let how = CompareOptions { pause: Some(paused), ..CompareOptions::default() };
        let comparing = cluster::verify(one, other, &tables, how, &comparison, &stop);
        tokio::select! {
            compared = tell_compared(&hand.moving, &comparison, comparing) => compared,
            never = differences::record(control, &hand, &comparison) => match never {},
            never = throttle::heed([&source, &target], &tables, &pause) => match never {},
        }
    };
    let verified = at_length(&run, &hand.moving, &stop, work).await?;
    hand.moving.tell(|told| {
        told.rows_verified = verified.rows;
        told.checksum = Some(verified.checksum.clone());
    });
    if verified.rows_differing > 0 {
        differences::note(control, &hand, &verified).await.map_err(retried)?;
        return Err(StepError::fail(differences::problem(&verified)));
    }
    tracing::debug!(rows = verified.rows, before = verified.rows_before, "both ends are equal");
    Ok(verified.rows)
}

/// Before the hold: making a slot waits for transactions of others.
pub(super) async fn reverse(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    hand.phase(MovePhase::Reverse);
    let (source, target) = (hand.source(control).await?, hand.target(control).await?);
    let seats = Seats::take(&run, &source, &target).await?;
    let work = async {
        cluster::remove_stream(seats.target(), seats.source(), hand.back()).await?;
        let tables = tables_at(&target).await?;
        cluster::publish(seats.target(), hand.back(), &tables).await?;
        cluster::create_origin(seats.source(), hand.back()).await?;
        let others = Others::of(&hand);
        // Otherwise the slot would wait for large transactions that are being applied there.
        let forward = stream(control, &hand).await?;
        let in_whole = forward.in_whole();
        while let Err(problem) = cluster::create_slot(seats.target(), hand.back(), SLOT_WITHIN).await {
            others.outlast(problem)?;
        }
        others.are_gone();
        drop(in_whole);
        Ok(())
    };
    at_length(&run, &hand.moving, &CancellationToken::new(), work).await
}

pub(super) async fn end_reverse(run: OfMove) -> Result<(), StepError> {
    let control = run.deps();
    let hand = hand(&run).await?;
    let source = hand.source(control).await?;
    // The stream has never run: nothing was applied by its origin.
    cluster::drop_origin(&source.access, hand.back()).await.map_err(retried)?;
    if !is_at_hand(&run, &hand, &hand.record.target, UNDO).await? {
        return Ok(());
    }
    let target = hand.target(control).await?;
    cluster::drop_slot(&target.access, hand.back()).await.map_err(retried)?;
    cluster::unpublish(&target, hand.back()).await.map_err(retried)
}
