//! The world outside the log, in which steps have their effects, and which
//! notices what must never happen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_problem::{Code, Problem};

use crate::definition::{Step, Workflow};
use crate::error::StepError;
use crate::plan::Retry;
use crate::run::Run;
use crate::tests::support::{Seeded, pause};

/// The names that steps of simulated workflows have.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// What a simulated workflow looks like.
#[derive(Debug, Clone)]
pub struct Plan {
    pub steps: usize,
    pub commit: Option<usize>,
}

impl Plan {
    pub fn draw(seeded: &Seeded) -> Self {
        let steps = 1 + usize::try_from(seeded.below(NAMES.len() as u64)).unwrap_or(0);
        let commit = usize::try_from(seeded.below(2 * steps as u64)).unwrap_or(0);
        Self { steps, commit: Some(commit).filter(|commit| *commit < steps) }
    }
}

#[derive(Debug)]
struct Inner {
    present: Vec<bool>,
    fence: i64,
    violations: Vec<String>,
}

#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    seeded: Arc<Seeded>,
    /// Whether effects refuse an older token, as they should.
    fenced: bool,
    calm: AtomicBool,
    inner: Mutex<Inner>,
}

impl World {
    pub fn new(plan: Plan, seeded: Arc<Seeded>, fenced: bool) -> Self {
        let inner = Inner { present: vec![false; plan.steps], fence: 0, violations: Vec::new() };
        Self { plan, seeded, fenced, calm: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every step succeeds.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    pub fn present(&self) -> Vec<bool> {
        self.inner().present.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// In so many of a hundred cases, as long as the world is not calm.
    fn goes_wrong(&self, percent: u64) -> bool {
        !self.calm.load(Ordering::SeqCst) && self.seeded.percent(percent)
    }

    /// What every effect outside does first: refuse whoever is out of date.
    fn admit(&self, inner: &mut Inner, token: i64) -> Result<(), StepError> {
        if self.fenced && token < inner.fence {
            return Err(StepError::retry(Problem::new(Code::Unavailable, "an older token")));
        }
        inner.fence = inner.fence.max(token);
        Ok(())
    }

    fn put(&self, step: usize, token: i64) -> Result<(), StepError> {
        let mut inner = self.inner();
        self.admit(&mut inner, token)?;
        if !inner.present[..step].iter().all(|present| *present) {
            inner.violations.push(format!("do of {} before an earlier step", NAMES[step]));
        }
        inner.present[step] = true;
        Ok(())
    }

    fn take_back(&self, step: usize, token: i64) -> Result<(), StepError> {
        let mut inner = self.inner();
        self.admit(&mut inner, token)?;
        if self.plan.commit.is_some_and(|commit| inner.present[commit]) {
            inner.violations.push(format!("undo of {} after the point of no return", NAMES[step]));
        }
        if inner.present[step + 1..].iter().any(|present| *present) {
            inner.violations.push(format!("undo of {} before that of a later step", NAMES[step]));
        }
        inner.present[step] = false;
        Ok(())
    }

    /// Whether the step may say that it will never succeed: the committing one
    /// only where nothing is committed and no older attempt can do it.
    fn may_fail(&self, step: usize, token: i64) -> Result<bool, StepError> {
        let mut inner = self.inner();
        self.admit(&mut inner, token)?;
        Ok(self.plan.commit != Some(step) || !inner.present[step])
    }
}

fn refusal(kind: fn(Problem) -> StepError) -> StepError {
    kind(Problem::new(Code::Unavailable, "a failure on purpose"))
}

async fn effect(run: Run<World, ()>, step: usize) -> Result<(), StepError> {
    let (world, token) = (run.deps(), run.token().as_i64());
    pause().await;
    if world.goes_wrong(5) {
        run.heartbeat().await?;
    }
    if world.goes_wrong(12) {
        return Err(refusal(StepError::retry));
    }
    if world.goes_wrong(6) && world.may_fail(step, token)? {
        return Err(refusal(StepError::fail));
    }
    world.put(step, token)?;
    pause().await;
    if world.goes_wrong(3) {
        // A panic of which the panic hook learns nothing, so that it is not printed.
        std::panic::resume_unwind(Box::new("a panic on purpose"));
    }
    if world.goes_wrong(8) {
        return Err(refusal(StepError::retry));
    }
    if world.plan.commit != Some(step) && world.goes_wrong(5) {
        return Err(refusal(StepError::fail));
    }
    Ok(())
}

async fn undo(run: Run<World, ()>, step: usize) -> Result<(), StepError> {
    let (world, token) = (run.deps(), run.token().as_i64());
    pause().await;
    if world.goes_wrong(20) {
        return Err(refusal(if world.goes_wrong(50) { StepError::fail } else { StepError::retry }));
    }
    world.take_back(step, token)?;
    pause().await;
    if world.goes_wrong(20) {
        return Err(refusal(StepError::retry));
    }
    Ok(())
}

/// The workflow of the plan, whose steps work on a [`World`].
pub fn workflow(plan: &Plan) -> Workflow<World, ()> {
    let few = Retry { attempts: 4, ..Retry::BRISK };
    let mut workflow = Workflow::new("simulated", 1);
    for (index, name) in NAMES.into_iter().enumerate().take(plan.steps) {
        let run = move |run| effect(run, index);
        let step = match plan.commit {
            Some(commit) if index >= commit => Step::without_undo(name, "simulated", run),
            _ => Step::new(name, "simulated", run, move |run| undo(run, index)),
        };
        workflow = workflow.step(step.retry(few).undo_retry(few));
        if plan.commit == Some(index) {
            workflow = workflow.point_of_no_return();
        }
    }
    workflow
}
