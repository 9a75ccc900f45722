//! Following a move: each time it has changed its state is told, with a mark by
//! which somebody who comes back is not told the same again. Nothing is kept for
//! anybody: a state says all that has become of the move up to then.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use insula_api::{Move, OperationStatus};
use insula_domain::{MovePhase, MoveStatus, OperationId};
use insula_problem::{Code, Problem};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::show::show;
use crate::Control;

/// How many may follow moves at a time in a process: each looks into the catalog.
static PLACES: Semaphore = Semaphore::const_new(64);

/// Between two looks at a move that is at work, and at one that is not.
const LOOK: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(1);

/// After how long without a change it is said that nothing has.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a follower is told.
#[derive(Debug)]
pub enum Told {
    /// The move as it is now, under its mark.
    Changed(String, Box<Move>),
    /// It is as it was.
    Alive,
}

/// Somebody who follows a move.
#[derive(Debug)]
pub struct Following {
    control: Arc<Control>,
    id: OperationId,
    seen: Option<String>,
    has_ended: bool,
    _place: SemaphorePermit<'static>,
}

impl Following {
    /// Follows a move, of which the state under a mark may be known. None where it
    /// has ended and that was its last state.
    ///
    /// # Errors
    /// `move_not_found` where there is none; `overloaded` where as many as may
    /// follow moves already.
    pub async fn begin(
        control: Arc<Control>,
        id: OperationId,
        seen: Option<String>,
    ) -> Result<Option<Self>, Problem> {
        let place = PLACES.try_acquire().map_err(|_| {
            let detail = "As many as may follow moves already. Try again shortly.";
            Problem::new(Code::Overloaded, detail).retry_after(5)
        })?;
        let found = show(&control, id).await?;
        if has_ended(&found) && seen.as_ref() == Some(&mark(&found)) {
            return Ok(None);
        }
        Ok(Some(Self { control, id, seen, has_ended: false, _place: place }))
    }

    /// What comes next; none behind the last state of a move that has ended, and
    /// when the process stops.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn next(&mut self) -> Result<Option<Told>, Problem> {
        let silent_until = Instant::now() + HEARTBEAT;
        while !self.has_ended {
            let found = show(&self.control, self.id).await?;
            self.has_ended = has_ended(&found);
            let mark = mark(&found);
            if self.seen.as_ref() != Some(&mark) {
                self.seen = Some(mark.clone());
                return Ok(Some(Told::Changed(mark, Box::new(found))));
            }
            if Instant::now() >= silent_until {
                return Ok(Some(Told::Alive));
            }
            let pause = if is_at_work(&found) { LOOK } else { SELDOM };
            tokio::select! {
                () = self.control.stops.cancelled() => return Ok(None),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(None)
    }
}

/// Whether the move is at work: neither at its end, nor where somebody has to
/// decide how it goes on.
#[must_use]
pub fn is_at_work(found: &Move) -> bool {
    match found.status {
        MoveStatus::Running | MoveStatus::RollingBack | MoveStatus::Completing => true,
        // Its operation has not ended yet.
        MoveStatus::Moved => found.phase != MovePhase::Done,
        _ => false,
    }
}

/// Whether nothing more comes.
fn has_ended(found: &Move) -> bool {
    let is_over = |status| matches!(status, OperationStatus::Succeeded | OperationStatus::Undone);
    !found.status.is_open() && found.operation_status.is_none_or(is_over)
}

/// The same for the same state, in any process of one version of the program.
fn mark(found: &Move) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(found).unwrap_or_default().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
