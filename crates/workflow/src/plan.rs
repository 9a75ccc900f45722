//! The decisions of the engine, without I/O: what comes next for a run, what a
//! failure means for it, and how long to wait before another try.

use std::time::Duration;

use crate::error::FailureKind;
use crate::state::{RunState, RunStatus};

/// How often a step is tried, and how far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often at most, the first time included.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Retry {
    /// For a do that can still be taken back: about half a minute in all, so
    /// that a PostgreSQL server may restart or fail over meanwhile.
    pub const BRISK: Self =
        Self { attempts: 10, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(10) };
    /// For an undo, and for a do after the point of no return: about a quarter
    /// of an hour in all, because what comes after it is an operator.
    pub const PATIENT: Self =
        Self { attempts: 22, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(60) };

    /// For what must come to its end by itself, however long something is away:
    /// there is no other end that an operator could give it.
    pub const ENDLESS: Self = Self { attempts: u32::MAX, ..Self::PATIENT };

    /// How long to wait after so many failures. `jitter` is a random number:
    /// it takes away up to half, so that runs that failed together do not come
    /// back together.
    #[must_use]
    pub fn wait(&self, failures: u32, jitter: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.first_wait.saturating_mul(1 << doublings).min(self.longest_wait);
        let half = full / 2;
        half + half.mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }
}

/// What the planner knows of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepShape {
    /// The step's name.
    pub name: &'static str,
    /// Whether it can be taken back by running something.
    pub has_undo: bool,
    /// How its do is retried.
    pub retry: Retry,
    /// How its undo is retried.
    pub undo_retry: Retry,
}

/// What the planner knows of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The steps, in their order.
    pub steps: Vec<StepShape>,
    /// The step that commits: once it is done there is only forward.
    pub point_of_no_return: Option<usize>,
}

impl Shape {
    /// Whether the run was started with these steps.
    #[must_use]
    pub fn fits(&self, run: &RunState) -> bool {
        self.steps.iter().map(|step| step.name).eq(run.steps.iter().map(|step| step.name.as_str()))
    }

    /// How the step is retried, the way the run is going.
    pub(crate) fn retry(&self, run: &RunState, step: usize) -> &Retry {
        let shape = &self.steps[step];
        if run.undoing { &shape.undo_retry } else { &shape.retry }
    }
}

/// What comes next for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run the step's do.
    Do(usize),
    /// Run the step's undo.
    Undo(usize),
    /// Call the step undone: it has nothing to run.
    PassOver(usize),
    /// Call the step failed: all its attempts were used up, the last ones
    /// without an answer, because their workers died.
    GiveUp(usize),
    /// Call the run succeeded.
    Succeed,
    /// Call the run undone.
    CloseUndone,
    /// Nothing: the run has ended or is stuck.
    Rest,
}

/// A planner: [`next`], or in a test something that is wrong on purpose.
pub(crate) type Planner = fn(&Shape, &RunState) -> Action;

/// What comes next for the run. Forward: the first step that is not done.
/// Back: the last step that has begun and is not undone, so that the undos run
/// in reverse order and take in the step that failed, which may be half done.
#[must_use]
pub fn next(shape: &Shape, run: &RunState) -> Action {
    if matches!(run.status, RunStatus::Succeeded | RunStatus::Undone | RunStatus::Stuck) {
        return Action::Rest;
    }
    match run.current() {
        None if run.undoing => Action::CloseUndone,
        None => Action::Succeed,
        Some(step) if run.undoing && !shape.steps[step].has_undo => Action::PassOver(step),
        Some(step) if run.steps[step].tries >= shape.retry(run, step).attempts => Action::GiveUp(step),
        Some(step) if run.undoing => Action::Undo(step),
        Some(step) => Action::Do(step),
    }
}

/// What a failure means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same again, after a wait.
    TryAgain,
    /// Take back what was done.
    TurnRound,
    /// Leave it to an operator.
    Stick,
}

/// What a failure of the step means for the run.
///
/// Before the point of no return a permanent failure, or one transient failure
/// too many, turns the run round. The committing step itself turns it round
/// only by a permanent failure, with which it says that nothing is committed;
/// when its attempts are used up nobody knows, so the run is stuck. After the
/// point, and on the way back, every failure is tried again, and then stuck.
/// A fault in the program is not tried again, and undone only where nothing
/// can be committed.
#[must_use]
pub fn judge(shape: &Shape, run: &RunState, step: usize, kind: FailureKind) -> Verdict {
    let used_up = run.steps[step].tries >= shape.retry(run, step).attempts;
    let turns_round = match shape.point_of_no_return {
        _ if run.undoing => false,
        Some(point) if step > point => false,
        Some(point) if step == point => kind == FailureKind::Permanent,
        _ => used_up || matches!(kind, FailureKind::Permanent | FailureKind::Broken),
    };
    if turns_round {
        Verdict::TurnRound
    } else if used_up || kind == FailureKind::Broken {
        Verdict::Stick
    } else {
        Verdict::TryAgain
    }
}
