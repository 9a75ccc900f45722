//! How a step says that it failed, how the step log does, and what makes a
//! definition of a workflow invalid.

use std::error::Error as StdError;

use insula_domain::OperationId;
use insula_problem::{Code, Problem};
use thiserror::Error;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Another try may succeed.
    Transient,
    /// No further try will succeed.
    Permanent,
    /// A fault in the program, found before or after the effect: no further
    /// try will succeed, and it says nothing about the effect.
    Broken,
    /// The step broke off because the worker stops; it was not a failure.
    Stopped,
}

/// How a step failed. The code and the detail of its problem are kept and
/// shown with the operation; the causes of the problem go to the log alone.
#[derive(Debug, Error)]
#[error("{problem}")]
pub struct StepError {
    kind: FailureKind,
    #[source]
    problem: Problem,
}

impl StepError {
    /// Another try may succeed: the engine waits and tries again.
    #[must_use]
    pub fn retry(problem: Problem) -> Self {
        Self { kind: FailureKind::Transient, problem }
    }

    /// No further try will succeed: the run turns round. From the step that
    /// commits it also says that nothing is committed, by no attempt of it.
    #[must_use]
    pub fn fail(problem: Problem) -> Self {
        Self { kind: FailureKind::Permanent, problem }
    }

    /// What the log keeps does not fit the program.
    pub(crate) fn broken(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind: FailureKind::Broken, problem: Problem::internal(cause) }
    }

    /// The step broke off because its worker stops or has lost the run.
    /// Another worker begins it anew.
    #[must_use]
    pub fn stopped() -> Self {
        Self { kind: FailureKind::Stopped, problem: Problem::new(Code::Unavailable, "The worker stops.") }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

/// Why the step log could not do what it was asked.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another worker has the run now: whoever gets this must stop at once.
    #[error("another worker has the run")]
    LeaseLost,
    /// The log cannot be reached; what was asked may or may not be done.
    #[error("the step log cannot be reached")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// The log refused what it was asked, or holds what cannot be read: a
    /// fault in the program.
    #[error("the step log failed")]
    Failed(#[source] Box<dyn StdError + Send + Sync>),
}

/// Why a run could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another run on the same subject has not ended.
    #[error("operation {operation} on {subject} has not ended")]
    Busy {
        /// What both runs are about.
        subject: String,
        /// The run that is under way.
        operation: OperationId,
    },
    /// The id belongs to a run of something else.
    #[error("the id is taken by another operation")]
    IdTaken,
    /// The input cannot be kept.
    #[error("the input cannot be kept: {0}")]
    Input(String),
    /// The step log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What makes a definition of a workflow invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("workflow {workflow} version {version}: {rule}")]
pub struct InvalidWorkflow {
    /// The workflow's name.
    pub workflow: &'static str,
    /// Its version.
    pub version: i32,
    /// The rule that it breaks.
    pub rule: String,
}
