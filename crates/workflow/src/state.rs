//! What is known of a run: the status of the run and of each of its steps, and
//! how they change when an attempt begins, succeeds or fails. Pure values; the
//! step log keeps them as they are.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use time::OffsetDateTime;

use crate::error::StepError;
use crate::plan::{Shape, Verdict, judge};

/// The longest text of an error that is kept, in characters.
const MAX_DETAIL_CHARS: usize = 2_000;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// No worker has begun it.
    Pending,
    /// It goes forward.
    Running,
    /// It failed and takes back what it did.
    Undoing,
    /// It is done.
    Succeeded,
    /// It failed, and what it did is taken back.
    Undone,
    /// It can go neither forward nor back by itself; an operator may resume it.
    Stuck,
}

/// The text is not a status.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a status of an operation")]
pub struct UnknownStatus(String);

impl RunStatus {
    /// Every status there is.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Undoing, Self::Succeeded, Self::Undone, Self::Stuck];

    /// The status as the outside sees it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Succeeded => "succeeded",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
        }
    }

    /// Whether nothing will ever change any more.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Undone)
    }
}

impl FromStr for RunStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownStatus(text.chars().take(40).collect()))
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// It has not begun, so there is nothing of it to undo.
    Pending,
    /// It has begun and may be half done.
    Running,
    /// It is done.
    Done,
    /// Its undo has begun and may be half done.
    Undoing,
    /// It is taken back, or there was nothing to take back.
    Undone,
}

/// An error as it is kept and shown: never the internal cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// The stable code of the problem.
    pub code: String,
    /// A sentence for the reader.
    pub detail: String,
}

impl RunError {
    /// An error to keep; a long detail is cut, and U+0000 left out, which
    /// PostgreSQL cannot hold.
    #[must_use]
    pub fn new(code: impl Into<String>, detail: &str) -> Self {
        let detail = detail.chars().filter(|character| *character != '\0').take(MAX_DETAIL_CHARS);
        Self { code: code.into(), detail: detail.collect() }
    }
}

/// What is known of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// The step's name.
    pub name: String,
    /// Where it stands.
    pub status: StepStatus,
    /// How often its do or its undo has begun.
    pub attempts: u32,
    /// How often it has begun since the run last turned round or was resumed:
    /// what the bound on attempts counts.
    pub tries: u32,
    /// When its do first began.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub started_at: Option<OffsetDateTime>,
    /// When it was done or undone.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<OffsetDateTime>,
    /// What its do gave back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// What went wrong in its last attempt, unless it was then done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
}

/// Which of the two halves of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The effect.
    Do,
    /// The taking back of the effect.
    Undo,
}

/// What is known of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// Where the run stands.
    pub status: RunStatus,
    /// Whether it has turned round. Kept apart from the status, because a
    /// stuck run must know which way to go on.
    pub undoing: bool,
    /// Its steps, in their order.
    pub steps: Vec<StepState>,
    /// Why it turned round.
    pub error: Option<RunError>,
}

/// The run is not stuck, so there is nothing to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the operation is not stuck, it is {}", .0.as_str())]
pub struct NotStuck(pub RunStatus);

impl RunState {
    /// A run that nobody has begun.
    #[must_use]
    pub fn new<'a>(steps: impl IntoIterator<Item = &'a str>) -> Self {
        let step = |name: &str| StepState {
            name: name.to_owned(),
            status: StepStatus::Pending,
            attempts: 0,
            tries: 0,
            started_at: None,
            ended_at: None,
            output: None,
            error: None,
        };
        Self {
            status: RunStatus::Pending,
            undoing: false,
            steps: steps.into_iter().map(step).collect(),
            error: None,
        }
    }

    /// The step at which the run stands: the first that is not done, or, on
    /// the way back, the last that is not undone.
    #[must_use]
    pub fn current(&self) -> Option<usize> {
        if self.undoing {
            self.steps
                .iter()
                .rposition(|step| !matches!(step.status, StepStatus::Pending | StepStatus::Undone))
        } else {
            self.steps.iter().position(|step| step.status != StepStatus::Done)
        }
    }

    /// An attempt at the step begins.
    pub(crate) fn begin(&mut self, step: usize, direction: Direction, now: OffsetDateTime) {
        if !self.undoing {
            self.status = RunStatus::Running;
        }
        let step = &mut self.steps[step];
        step.attempts = step.attempts.saturating_add(1);
        step.tries = step.tries.saturating_add(1);
        step.started_at.get_or_insert(now);
        step.ended_at = None;
        step.status = match direction {
            Direction::Do => StepStatus::Running,
            Direction::Undo => StepStatus::Undoing,
        };
    }

    /// The attempt was broken off by a worker that stops: it does not count.
    pub(crate) fn give_back(&mut self, step: usize) {
        let step = &mut self.steps[step];
        step.tries = step.tries.saturating_sub(1);
    }

    /// The step's do has succeeded.
    pub(crate) fn done(&mut self, step: usize, output: Value, now: OffsetDateTime) {
        let step = &mut self.steps[step];
        step.status = StepStatus::Done;
        step.ended_at = Some(now);
        step.output = Some(output).filter(|output| !output.is_null());
        step.error = None;
    }

    /// The step is taken back, or there was nothing to take back.
    pub(crate) fn undone(&mut self, step: usize, now: OffsetDateTime) {
        let step = &mut self.steps[step];
        step.status = StepStatus::Undone;
        step.ended_at = Some(now);
    }

    /// The attempt at the step has failed: the run tries again, turns round
    /// or is stuck, as [`judge`] says.
    pub(crate) fn failed(&mut self, shape: &Shape, step: usize, error: &StepError) -> Verdict {
        let verdict = judge(shape, self, step, error.kind());
        let kept = RunError::new(error.problem().code().as_str(), error.problem().detail());
        self.steps[step].error = Some(kept.clone());
        match verdict {
            Verdict::TryAgain => {}
            Verdict::TurnRound => {
                self.status = RunStatus::Undoing;
                self.undoing = true;
                self.error = Some(kept);
                self.steps.iter_mut().for_each(|step| step.tries = 0);
            }
            Verdict::Stick => self.status = RunStatus::Stuck,
        }
        verdict
    }

    /// The run cannot go on, for a reason that lies outside its steps.
    pub(crate) fn stick(&mut self, error: RunError) {
        self.status = RunStatus::Stuck;
        match self.current() {
            Some(step) => self.steps[step].error = Some(error),
            None => self.error = Some(error),
        }
    }

    /// Sets a stuck run going again, the way it was going, with all its
    /// attempts before it.
    ///
    /// # Errors
    /// Where the run is not stuck.
    pub fn resume(&mut self) -> Result<(), NotStuck> {
        if self.status != RunStatus::Stuck {
            return Err(NotStuck(self.status));
        }
        self.status = if self.undoing { RunStatus::Undoing } else { RunStatus::Running };
        self.steps.iter_mut().for_each(|step| step.tries = 0);
        Ok(())
    }

    /// Why the run is stuck, or else why it turned round.
    #[must_use]
    pub fn reason(&self) -> Option<&RunError> {
        let stuck_at = self.current().filter(|_| self.status == RunStatus::Stuck);
        stuck_at.and_then(|step| self.steps[step].error.as_ref()).or(self.error.as_ref())
    }
}
