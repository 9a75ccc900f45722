//! Carrying one run as far as it goes: ask the planner, run the step, write
//! what came of it, again and again. The end of a step and the begin of the
//! next one are one write.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use insula_domain::{Clock, Entropy};
use insula_problem::{Code, Problem};
use serde_json::Value;
use std::time::Instant;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::crash::{CrashPoint, CrashPoints, Moment};
use crate::definition::{Definition, check_json};
use crate::error::{FailureKind, LogError, StepError};
use crate::lease::LeaseKeeper;
use crate::log::{Hold, LeasedRun, StepLog, Write};
use crate::measure;
use crate::plan::{Action, Planner, Shape, Verdict};
use crate::registry::Registry;
use crate::run::RunContext;
use crate::state::{Direction, RunError, RunState, RunStatus};

/// The most that a step may give back, in bytes of JSON.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;
/// The wait of a run whose step broke off though its worker goes on.
const BROKEN_OFF_WAIT: Duration = Duration::from_secs(1);
/// The waits between tries to write to a log that cannot be reached.
const FIRST_WRITE_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WRITE_WAIT: Duration = Duration::from_secs(1);

/// Why a run was left where it stands, for another worker to take.
#[derive(Debug, Error)]
pub(crate) enum Abandoned {
    #[error("another worker has the run")]
    LeaseLost,
    #[error("the log could not be written")]
    LogFailed(#[source] LogError),
}

/// What all runs of a worker are carried with.
pub(crate) struct Driver {
    pub log: Arc<dyn StepLog>,
    pub registry: Registry,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub crash_points: Arc<dyn CrashPoints>,
    pub planner: Planner,
    pub lease_length: Duration,
    pub log_timeout: Duration,
}

impl Driver {
    /// Carries the run on until it ends, is stuck, waits for another try, or
    /// the worker stops.
    pub(crate) async fn drive(
        &self,
        leased: LeasedRun,
        stopping: &CancellationToken,
    ) -> Result<RunStatus, Abandoned> {
        let definition = self.registry.find(&leased.workflow);
        let mut run = RunInHand::new(self, leased, stopping);
        match definition {
            Some(definition) if definition.shape.fits(&run.state) => run.go(&definition).await,
            _ => run.stick().await,
        }
    }

    fn jitter(&self) -> u32 {
        let mut bytes = [0; 4];
        self.entropy.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// One half of a step, begun.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    step: usize,
    direction: Direction,
}

/// What is to be done with the run after the next write.
enum Next {
    Attempt(Attempt),
    ReleaseAt(OffsetDateTime),
    Rest,
}

/// A run under our lease.
struct RunInHand<'a> {
    driver: &'a Driver,
    stopping: &'a CancellationToken,
    keeper: Arc<LeaseKeeper>,
    subject: Arc<str>,
    input: Arc<Value>,
    revision: i64,
    state: RunState,
}

impl<'a> RunInHand<'a> {
    fn new(driver: &'a Driver, leased: LeasedRun, stopping: &'a CancellationToken) -> Self {
        let (log, clock) = (Arc::clone(&driver.log), Arc::clone(&driver.clock));
        let keeper = LeaseKeeper::new(log, clock, leased.lease, driver.lease_length, driver.log_timeout);
        Self {
            driver,
            stopping,
            keeper: Arc::new(keeper),
            subject: leased.subject.into(),
            input: Arc::new(leased.input),
            revision: leased.revision,
            state: leased.state,
        }
    }

    async fn go(&mut self, definition: &Definition) -> Result<RunStatus, Abandoned> {
        let mut next = self.settle(&definition.shape);
        self.save(&next).await?;
        while let Next::Attempt(attempt) = next {
            self.reach(definition, attempt, Moment::Before);
            let begun = Instant::now();
            let result = self.attempt(definition, attempt).await?;
            measure::step(
                &definition.key.name,
                definition.shape.steps[attempt.step].name,
                attempt.direction,
                begun,
            );
            self.reach(definition, attempt, Moment::Inside);
            let wait = self.record(&definition.shape, attempt, result);
            next = wait.map_or_else(|| self.settle(&definition.shape), Next::ReleaseAt);
            self.save(&next).await?;
            self.reach(definition, attempt, Moment::After);
        }
        Ok(self.state.status)
    }

    /// The log and the program do not agree on what the steps are.
    async fn stick(&mut self) -> Result<RunStatus, Abandoned> {
        let detail = "The program knows other steps of this workflow than the operation was started with.";
        self.state.stick(RunError::new(Code::Internal.as_str(), detail));
        self.save(&Next::Rest).await?;
        Ok(self.state.status)
    }

    /// Follows the planner as far as nothing has to be run, and begins the
    /// next attempt, unless the worker stops.
    fn settle(&mut self, shape: &Shape) -> Next {
        loop {
            let now = self.driver.clock.now();
            let attempt = match (self.driver.planner)(shape, &self.state) {
                Action::Do(step) => Attempt { step, direction: Direction::Do },
                Action::Undo(step) => Attempt { step, direction: Direction::Undo },
                Action::Rest => return Next::Rest,
                Action::PassOver(step) => {
                    self.state.undone(step, now);
                    continue;
                }
                Action::GiveUp(step) => {
                    self.give_up(shape, step);
                    continue;
                }
                Action::Succeed => {
                    self.state.status = RunStatus::Succeeded;
                    continue;
                }
                Action::CloseUndone => {
                    self.state.status = RunStatus::Undone;
                    continue;
                }
            };
            if self.stopping.is_cancelled() {
                return Next::ReleaseAt(now);
            }
            self.state.begin(attempt.step, attempt.direction, now);
            return Next::Attempt(attempt);
        }
    }

    fn give_up(&mut self, shape: &Shape, step: usize) {
        let detail = "The attempts at the step are used up; the worker of the last one died.";
        let error = StepError::retry(Problem::new(Code::Unavailable, detail));
        let verdict = self.state.failed(shape, step, &error);
        self.report(shape, step, &error, verdict);
    }

    /// Runs the step's half; ends early only when the lease is lost.
    async fn attempt(
        &self,
        definition: &Definition,
        attempt: Attempt,
    ) -> Result<Result<Value, StepError>, Abandoned> {
        let step = &definition.steps[attempt.step];
        let effect = match attempt.direction {
            Direction::Do => Some(&step.run),
            Direction::Undo => step.undo.as_ref(),
        };
        let Some(effect) = effect else { return Ok(Ok(Value::Null)) };
        let context = self.context(attempt);
        let running = AssertUnwindSafe(async { effect(context).await }).catch_unwind();
        tokio::select! {
            biased;
            result = timeout(step.timeout, running) => Ok(match result {
                Ok(Ok(result)) => result.and_then(kept),
                Ok(Err(panic)) => Err(panicked(panic.as_ref())),
                Err(_) => Err(took_too_long(step.timeout)),
            }),
            lost = self.keeper.keep() => Err(abandoned(lost)),
        }
    }

    fn context(&self, attempt: Attempt) -> RunContext {
        RunContext {
            subject: Arc::clone(&self.subject),
            input: Arc::clone(&self.input),
            steps: self.state.steps.clone().into(),
            attempt: self.state.steps[attempt.step].tries,
            keeper: Arc::clone(&self.keeper),
            stopping: self.stopping.clone(),
        }
    }

    /// Takes in what came of the attempt; gives back when to try again, if the
    /// run has to wait.
    fn record(
        &mut self,
        shape: &Shape,
        attempt: Attempt,
        result: Result<Value, StepError>,
    ) -> Option<OffsetDateTime> {
        let now = self.driver.clock.now();
        let error = match (result, attempt.direction) {
            (Ok(output), Direction::Do) => {
                self.state.done(attempt.step, output, now);
                return None;
            }
            (Ok(_), Direction::Undo) => {
                self.state.undone(attempt.step, now);
                return None;
            }
            (Err(error), _) => error,
        };
        if error.kind() == FailureKind::Stopped {
            self.state.give_back(attempt.step);
            return Some(if self.stopping.is_cancelled() { now } else { now + BROKEN_OFF_WAIT });
        }
        let verdict = self.state.failed(shape, attempt.step, &error);
        self.report(shape, attempt.step, &error, verdict);
        let failures = self.state.steps[attempt.step].tries;
        let retry = shape.retry(&self.state, attempt.step);
        (verdict == Verdict::TryAgain).then(|| now + retry.wait(failures, self.driver.jitter()))
    }

    fn report(&self, shape: &Shape, step: usize, error: &StepError, verdict: Verdict) {
        let (run, step) = (self.keeper.lease().run, shape.steps[step].name);
        let error = error.problem().chain();
        if verdict == Verdict::Stick {
            tracing::error!(%run, step, error, "the operation is stuck");
        } else {
            tracing::warn!(%run, step, error, ?verdict, "a step failed");
        }
    }

    /// Writes the state. Where the log cannot be reached it tries again for as
    /// long as the lease lasts; the revision makes sure that a write which was
    /// only slow cannot come after a newer one.
    async fn save(&mut self, next: &Next) -> Result<(), Abandoned> {
        self.revision += 1;
        let hold = match next {
            Next::Attempt(_) => Hold::Until(self.keeper.new_end()),
            Next::ReleaseAt(at) => Hold::ReleaseAt(*at),
            Next::Rest => Hold::Rest,
        };
        let now = self.driver.clock.now();
        let write = Write { state: &self.state, revision: self.revision, hold, now };
        let mut wait = FIRST_WRITE_WAIT;
        loop {
            let written = self.driver.log.save(self.keeper.lease(), write);
            let error = match timeout(self.driver.log_timeout, written).await {
                Ok(Ok(())) => break,
                Ok(Err(LogError::Unavailable(cause))) => LogError::Unavailable(cause),
                Ok(Err(error)) => return Err(abandoned(error)),
                Err(elapsed) => LogError::Unavailable(elapsed.into()),
            };
            if self.driver.clock.now() + wait >= self.keeper.until() {
                return Err(abandoned(error));
            }
            tracing::warn!(run = %self.keeper.lease().run, ?error, "the state could not be written yet");
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WRITE_WAIT);
        }
        if let Hold::Until(until) = hold {
            self.keeper.lasts_until(until);
        }
        Ok(())
    }

    fn reach(&self, definition: &Definition, attempt: Attempt, moment: Moment) {
        let workflow = definition.outline.workflow;
        let step = definition.outline.steps[attempt.step].name;
        let point = CrashPoint { workflow, step, direction: attempt.direction, moment };
        self.driver.crash_points.reached(&point);
    }
}

fn abandoned(error: LogError) -> Abandoned {
    match error {
        LogError::LeaseLost => Abandoned::LeaseLost,
        error => Abandoned::LogFailed(error),
    }
}

fn kept(output: Value) -> Result<Value, StepError> {
    match check_json(&output, MAX_OUTPUT_BYTES) {
        Ok(()) => Ok(output),
        Err(fault) => Err(StepError::broken(format!("what the step gave back {fault}"))),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> StepError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    StepError::retry(Problem::internal(format!("the step panicked: {text}")))
}

fn took_too_long(limit: Duration) -> StepError {
    let detail = format!("The step took longer than {} seconds.", limit.as_secs_f32());
    StepError::retry(Problem::new(Code::Unavailable, detail))
}
