//! The moves that are under way in this process: their streams, which live
//! longer than a step of a workflow, and what is told of their progress.
//!
//! Nothing here has to survive: a process that takes a move over begins its
//! stream anew from where the target says that it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_catalog::{Catalog, MoveRecord, ToldBy};
use insula_domain::{MoveProgress, OperationId};
use insula_problem::Problem;
use insula_tenant_cluster::moving::{Stream, StreamSpec};
use insula_workflow::FencingToken;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::pace::Pacer;

/// How often progress is written.
const TELL: Duration = Duration::from_millis(250);

/// The moves under way in this process.
#[derive(Debug, Default)]
pub struct UnderWay {
    moves: Mutex<HashMap<OperationId, Arc<Moving>>>,
}

impl UnderWay {
    /// The move, from here on under way in this process.
    #[must_use]
    pub fn of(&self, record: &MoveRecord) -> Arc<Moving> {
        let mut moves = lock(&self.moves);
        let moving = moves.entry(record.id).or_insert_with(|| Arc::new(Moving::new(record)));
        Arc::clone(moving)
    }

    /// The move is not under way any more; its stream ends, unless somebody
    /// still has it.
    pub fn forget(&self, id: OperationId) {
        lock(&self.moves).remove(&id);
    }
}

/// A move under way.
#[derive(Debug)]
pub struct Moving {
    id: OperationId,
    told_by: Mutex<ToldBy>,
    begun: Instant,
    progress: Mutex<Told>,
    stream: tokio::sync::Mutex<Option<Arc<Stream>>>,
}

#[derive(Debug)]
struct Told {
    now: MoveProgress,
    written: MoveProgress,
    pacer: Pacer,
}

impl Moving {
    fn new(record: &MoveRecord) -> Self {
        let (now, written) = (record.progress.clone(), record.progress.clone());
        Self {
            id: record.id,
            told_by: Mutex::new(ToldBy::Keeper),
            begun: Instant::now(),
            progress: Mutex::new(Told { now, written, pacer: Pacer::default() }),
            stream: tokio::sync::Mutex::new(None),
        }
    }

    /// From here on a run says how far the move is, and no keeper.
    pub fn is_told_by(&self, run: OperationId, token: FencingToken) {
        *lock(&self.told_by) = ToldBy::Run(run, token);
    }

    /// Notes how far the move is.
    pub fn tell(&self, change: impl FnOnce(&mut MoveProgress)) {
        change(&mut lock(&self.progress).now);
    }

    /// Works on something and writes meanwhile how far it is, and once more at
    /// its end. That it cannot be written stops nothing.
    pub async fn telling<T>(&self, catalog: &Catalog, work: impl Future<Output = T>) -> T {
        let mut looks = interval(TELL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.write(catalog).await;
                    return done;
                }
                _ = looks.tick() => self.write(catalog).await,
            }
        }
    }

    async fn write(&self, catalog: &Catalog) {
        let now = {
            let mut told = lock(&self.progress);
            let Told { now, pacer, .. } = &mut *told;
            now.pace = pacer.look(self.begun.elapsed(), now);
            if told.now == told.written {
                return;
            }
            told.now.clone()
        };
        let told_by = *lock(&self.told_by);
        let written = async { catalog.client().await?.set_move_progress(self.id, told_by, &now).await };
        match written.await {
            Ok(()) => lock(&self.progress).written = now,
            Err(problem) => {
                tracing::debug!(problem = problem.chain(), "how far a move is could not be written");
            }
        }
    }

    /// The stream of the move, which is begun where none runs.
    ///
    /// # Errors
    /// Where it cannot be begun.
    pub async fn stream(&self, spec: impl FnOnce() -> StreamSpec) -> Result<Arc<Stream>, Problem> {
        let mut stream = self.stream.lock().await;
        if let Some(running) = stream.as_ref().filter(|stream| is_running(stream)) {
            return Ok(Arc::clone(running));
        }
        // The one before is ended first, where it has not ended by itself.
        *stream = None;
        let begun = Arc::new(Stream::start(spec()).await?);
        *stream = Some(Arc::clone(&begun));
        Ok(begun)
    }

    /// Ends the stream.
    pub async fn end_stream(&self) {
        let Some(stream) = self.stream.lock().await.take() else { return };
        // Whoever else has it ends it by letting go of it.
        if let Some(stream) = Arc::into_inner(stream)
            && let Err(fault) = stream.stop().await
        {
            tracing::debug!(%fault, "a stream had ended before");
        }
    }
}

fn is_running(stream: &Stream) -> bool {
    stream.progress().borrow().fault.is_none()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
