//! The definition of a workflow: a list of do and undo pairs, each with a why.
//!
//! Every do and every undo may be run again after it was run, wholly or half:
//! it must come to the same end. An undo runs also for a do that failed or of
//! which only a part was done. What a step gives back is kept in the log, so
//! it never holds a secret.

use std::collections::HashSet;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use insula_domain::OperationId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;

use crate::error::{InvalidWorkflow, StartError, StepError};
use crate::log::{NewRun, WorkflowKey};
use crate::plan::{Retry, Shape, StepShape};
use crate::run::{Run, RunContext};
use crate::state::RunState;

/// The most that a run may be asked for, in bytes of JSON.
const MAX_INPUT_BYTES: usize = 256 * 1024;

/// How long an attempt at a step may take, unless the step says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) type StepFuture = Pin<Box<dyn Future<Output = Result<Value, StepError>> + Send>>;
type Effect<D, I> = Box<dyn Fn(Run<D, I>) -> StepFuture + Send + Sync>;

/// A step: a do, an undo and a why. `D` is what the steps work with, `I` what
/// the run was asked for.
pub struct Step<D, I> {
    name: &'static str,
    why: &'static str,
    run: Effect<D, I>,
    undo: Option<Effect<D, I>>,
    timeout: Duration,
    retry: Option<Retry>,
    undo_retry: Retry,
}

impl<D, I> Step<D, I>
where
    D: Send + Sync + 'static,
    I: Send + Sync + 'static,
{
    /// A step with an effect and with what takes it back.
    pub fn new<T, RunFuture, UndoFuture>(
        name: &'static str,
        why: &'static str,
        run: impl Fn(Run<D, I>) -> RunFuture + Send + Sync + 'static,
        undo: impl Fn(Run<D, I>) -> UndoFuture + Send + Sync + 'static,
    ) -> Self
    where
        T: Serialize,
        RunFuture: Future<Output = Result<T, StepError>> + Send + 'static,
        UndoFuture: Future<Output = Result<(), StepError>> + Send + 'static,
    {
        Self { undo: Some(effect(undo)), ..Self::without_undo(name, why, run) }
    }

    /// A step with nothing to take back: it only reads, or it is the one that
    /// commits, or it comes after the point of no return.
    pub fn without_undo<T, RunFuture>(
        name: &'static str,
        why: &'static str,
        run: impl Fn(Run<D, I>) -> RunFuture + Send + Sync + 'static,
    ) -> Self
    where
        T: Serialize,
        RunFuture: Future<Output = Result<T, StepError>> + Send + 'static,
    {
        Self {
            name,
            why,
            run: effect(run),
            undo: None,
            timeout: DEFAULT_TIMEOUT,
            retry: None,
            undo_retry: Retry::PATIENT,
        }
    }

    /// How long an attempt may take, do or undo; after that it is given up
    /// where it stands, and tried again.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How the do is retried. Without it: [`Retry::BRISK`] up to the point of
    /// no return, [`Retry::PATIENT`] after it.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// How the undo is retried. Without it: [`Retry::PATIENT`].
    #[must_use]
    pub fn undo_retry(mut self, retry: Retry) -> Self {
        self.undo_retry = retry;
        self
    }
}

fn effect<D, I, T, F>(function: impl Fn(Run<D, I>) -> F + Send + Sync + 'static) -> Effect<D, I>
where
    T: Serialize,
    F: Future<Output = Result<T, StepError>> + Send + 'static,
{
    Box::new(move |run| {
        let future = function(run);
        Box::pin(async move { serde_json::to_value(future.await?).map_err(StepError::broken) })
    })
}

/// A workflow: a name, a version, and steps in the order in which they run.
///
/// The version changes with the list of steps or the meaning of the input;
/// runs of the old version go on with the old definition, for as long as a
/// worker knows it.
pub struct Workflow<D, I> {
    name: &'static str,
    version: i32,
    exclusive: bool,
    steps: Vec<Step<D, I>>,
    points: Vec<usize>,
}

impl<D, I> Workflow<D, I> {
    /// A workflow without steps.
    #[must_use]
    pub fn new(name: &'static str, version: i32) -> Self {
        Self { name, version, exclusive: true, steps: Vec::new(), points: Vec::new() }
    }

    /// Adds a step at the end.
    #[must_use]
    pub fn step(mut self, step: Step<D, I>) -> Self {
        self.steps.push(step);
        self
    }

    /// The step above commits: once it is done the run only goes forward. It
    /// must be atomic, able to tell whether it has happened, and refuse an
    /// older fencing token; only so can it fail and thereby say that nothing is
    /// committed and nothing will be.
    #[must_use]
    pub fn point_of_no_return(mut self) -> Self {
        self.points.push(self.steps.len());
        self
    }

    /// Several runs on one subject may be under way at a time.
    #[must_use]
    pub fn shares_its_subject(mut self) -> Self {
        self.exclusive = false;
        self
    }

    /// What is needed to start runs of the workflow.
    #[must_use]
    pub fn kind(&self) -> Kind<I> {
        Kind {
            workflow: WorkflowKey { name: self.name.to_owned(), version: self.version },
            exclusive: self.exclusive,
            steps: self.steps.iter().map(|step| step.name).collect(),
            input: PhantomData,
        }
    }

    fn commit_step(&self) -> Option<usize> {
        self.points.first().and_then(|steps_above| steps_above.checked_sub(1))
    }

    /// The first rule that the definition breaks.
    fn broken_rule(&self) -> Option<String> {
        let mut names = HashSet::new();
        if let Some(name) = [self.name].into_iter().chain(self.names()).find(|name| !is_word(name)) {
            return Some(format!("{name:?} is not 1 to 60 lower-case letters, digits, dots and underscores"));
        }
        if let Some(name) = self.names().find(|name| !names.insert(*name)) {
            return Some(format!("two steps are named {name}"));
        }
        match self.points.as_slice() {
            _ if self.steps.is_empty() => Some("it has no steps".to_owned()),
            [] => None,
            [0] => Some("the point of no return stands above all steps".to_owned()),
            [point] => {
                let mut forward = self.steps[point - 1..].iter();
                forward.find(|step| step.undo.is_some()).map(|step| {
                    format!("{} has an undo, but it is not before the point of no return", step.name)
                })
            }
            _ => Some("it has more than one point of no return".to_owned()),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| step.name)
    }

    fn shape(&self) -> Shape {
        let commit = self.commit_step();
        let step = |(index, step): (usize, &Step<D, I>)| StepShape {
            name: step.name,
            has_undo: step.undo.is_some(),
            retry: step.retry.unwrap_or(match commit {
                Some(commit) if index > commit => Retry::PATIENT,
                _ => Retry::BRISK,
            }),
            undo_retry: step.undo_retry,
        };
        Shape { steps: self.steps.iter().enumerate().map(step).collect(), point_of_no_return: commit }
    }

    /// The workflow as people read it.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let commit = self.commit_step();
        let step = |(index, step): (usize, &Step<D, I>)| OutlineStep {
            name: step.name,
            why: step.why,
            undo: step.undo.is_some(),
            commits: commit == Some(index),
        };
        Outline {
            workflow: self.name,
            version: self.version,
            steps: self.steps.iter().enumerate().map(step).collect(),
        }
    }
}

/// A word as it may stand in a crash point and in an operation.
fn is_word(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'.';
    (1..=60).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether a value can be kept: not too large, and without the character that
/// PostgreSQL's jsonb cannot hold (PostgreSQL documentation §8.14).
pub(crate) fn check_json(value: &Value, max_bytes: usize) -> Result<(), String> {
    let text = value.to_string();
    if text.len() > max_bytes {
        return Err(format!("is more than {max_bytes} bytes of JSON"));
    }
    if text.contains("\\u0000") {
        return Err("holds the character U+0000".to_owned());
    }
    Ok(())
}

/// What is needed to start runs of a workflow: its name, its version, its
/// steps, and the type of its input.
pub struct Kind<I> {
    workflow: WorkflowKey,
    exclusive: bool,
    steps: Vec<&'static str>,
    input: PhantomData<fn(&I)>,
}

impl<I: Serialize> Kind<I> {
    /// A run to be written into the log.
    ///
    /// # Errors
    /// Where the input cannot be kept: it is no JSON, more than 256 KiB of it,
    /// or holds the character U+0000.
    pub fn new_run(
        &self,
        id: OperationId,
        subject: impl Into<String>,
        input: &I,
        now: OffsetDateTime,
    ) -> Result<NewRun, StartError> {
        let input = serde_json::to_value(input).map_err(|error| StartError::Input(error.to_string()))?;
        check_json(&input, MAX_INPUT_BYTES).map_err(|fault| StartError::Input(format!("it {fault}")))?;
        Ok(NewRun {
            id,
            workflow: self.workflow.clone(),
            subject: subject.into(),
            exclusive: self.exclusive,
            input,
            state: RunState::new(self.steps.iter().copied()),
            created_at: now,
        })
    }
}

impl<I> Clone for Kind<I> {
    fn clone(&self) -> Self {
        Self {
            workflow: self.workflow.clone(),
            exclusive: self.exclusive,
            steps: self.steps.clone(),
            input: PhantomData,
        }
    }
}

impl<I> std::fmt::Debug for Kind<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kind").field("workflow", &self.workflow).field("steps", &self.steps).finish()
    }
}

/// A workflow as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The workflow's name.
    pub workflow: &'static str,
    /// Its version.
    pub version: i32,
    /// Its steps, in their order.
    pub steps: Vec<OutlineStep>,
}

/// A step as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineStep {
    /// The step's name.
    pub name: &'static str,
    /// Why the workflow has it.
    pub why: &'static str,
    /// Whether it can be taken back.
    pub undo: bool,
    /// Whether the point of no return stands after it.
    pub commits: bool,
}

pub(crate) type ErasedEffect = Box<dyn Fn(RunContext) -> StepFuture + Send + Sync>;

/// A step whose types are known to nobody but itself.
pub(crate) struct ErasedStep {
    pub run: ErasedEffect,
    pub undo: Option<ErasedEffect>,
    pub timeout: Duration,
}

/// A workflow together with what its steps work with.
pub(crate) struct Definition {
    pub key: WorkflowKey,
    pub shape: Shape,
    pub outline: Outline,
    pub steps: Vec<ErasedStep>,
}

impl Definition {
    pub(crate) fn new<D, I>(workflow: Workflow<D, I>, deps: &Arc<D>) -> Result<Self, InvalidWorkflow>
    where
        D: Send + Sync + 'static,
        I: DeserializeOwned + Send + Sync + 'static,
    {
        if let Some(rule) = workflow.broken_rule() {
            return Err(InvalidWorkflow { workflow: workflow.name, version: workflow.version, rule });
        }
        let step = |step: Step<D, I>| ErasedStep {
            run: erase(step.run, deps),
            undo: step.undo.map(|undo| erase(undo, deps)),
            timeout: step.timeout,
        };
        Ok(Self {
            key: WorkflowKey { name: workflow.name.to_owned(), version: workflow.version },
            shape: workflow.shape(),
            outline: workflow.outline(),
            steps: workflow.steps.into_iter().map(step).collect(),
        })
    }
}

fn erase<D, I>(effect: Effect<D, I>, deps: &Arc<D>) -> ErasedEffect
where
    D: Send + Sync + 'static,
    I: DeserializeOwned + Send + Sync + 'static,
{
    let deps = Arc::clone(deps);
    Box::new(move |context| match Run::new(Arc::clone(&deps), context) {
        Ok(run) => effect(run),
        Err(error) => Box::pin(ready(Err(error))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ok(_: Run<(), ()>) -> Result<(), StepError> {
        Ok(())
    }

    fn undoable(name: &'static str) -> Step<(), ()> {
        Step::new(name, "because", ok, ok)
    }

    fn forward(name: &'static str) -> Step<(), ()> {
        Step::without_undo(name, "because", ok)
    }

    fn rule(workflow: Workflow<(), ()>) -> Option<String> {
        Definition::new(workflow, &Arc::new(())).err().map(|error| error.rule)
    }

    #[test]
    fn a_definition_keeps_its_rules() {
        let new = || Workflow::new("tenant.create", 1);
        assert_eq!(rule(new().step(undoable("a")).step(forward("b")).point_of_no_return()), None);
        assert_eq!(rule(new()).as_deref(), Some("it has no steps"));
        assert!(rule(new().step(undoable("a")).step(undoable("a"))).unwrap().contains("two steps"));
        assert!(rule(new().step(undoable("A b"))).unwrap().contains("lower-case"));
        assert!(rule(new().point_of_no_return().step(forward("a"))).unwrap().contains("above all"));
        assert!(rule(new().step(undoable("a")).point_of_no_return()).unwrap().contains("has an undo"));
        let late = new().step(forward("a")).point_of_no_return().step(undoable("b"));
        assert!(rule(late).unwrap().contains("b has an undo"));
        let twice = new().step(forward("a")).point_of_no_return().step(forward("b")).point_of_no_return();
        assert!(rule(twice).unwrap().contains("more than one"));
    }

    #[test]
    fn after_the_point_of_no_return_the_engine_is_patient() {
        let workflow = Workflow::new("w", 1)
            .step(undoable("reserve"))
            .step(forward("commit"))
            .point_of_no_return()
            .step(forward("publish"));
        let shape = workflow.shape();
        assert_eq!(shape.point_of_no_return, Some(1));
        let retries: Vec<_> = shape.steps.iter().map(|step| step.retry).collect();
        assert_eq!(retries, [Retry::BRISK, Retry::BRISK, Retry::PATIENT]);
        assert!(workflow.outline().steps[1].commits);
    }

    #[test]
    fn an_input_is_bounded() {
        let kind: Kind<String> = Workflow::<(), String>::new("w", 1).kind();
        let id = OperationId::from(uuid::Uuid::nil());
        let run = |bytes: usize| kind.new_run(id, "s", &"x".repeat(bytes), OffsetDateTime::UNIX_EPOCH);
        assert!(run(200 * 1024).is_ok());
        assert!(matches!(run(300 * 1024), Err(StartError::Input(_))));
        let with_nul = kind.new_run(id, "s", &"a\0b".to_owned(), OffsetDateTime::UNIX_EPOCH);
        assert!(matches!(with_nul, Err(StartError::Input(_))));
    }
}
