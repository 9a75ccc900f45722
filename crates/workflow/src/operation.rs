//! A run as its users see it: the operation of the HTTP API.

use insula_domain::OperationId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::state::{RunError, RunState, RunStatus, StepStatus};

/// A long operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does: the name of its workflow, for example `tenant.create`.
    pub kind: String,
    /// What it is about, for example a tenant's id.
    pub subject: String,
    /// Where it stands.
    pub status: RunStatus,
    /// Its steps, in their order.
    pub steps: Vec<OperationStep>,
    /// Why it is stuck, or why it was undone.
    pub error: Option<RunError>,
    /// What it gave back: the output of its last step, once it has succeeded.
    pub output: Option<Value>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it succeeded or was undone.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// A step of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationStep {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: StepStatus,
    /// When it first began.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it was done or undone.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// How often it has begun, its undo included.
    pub attempts: u32,
    /// What went wrong in its last attempt.
    pub error: Option<RunError>,
}

/// What the log knows of a run beside its state.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// The run's id.
    pub id: OperationId,
    /// The name of its workflow.
    pub workflow: String,
    /// What it is about.
    pub subject: String,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
    /// When it ended.
    pub ended_at: Option<OffsetDateTime>,
}

impl Operation {
    /// The run as its users see it.
    #[must_use]
    pub fn of(facts: RunFacts, state: RunState) -> Self {
        let error = state.reason().cloned();
        let succeeded = state.status == RunStatus::Succeeded;
        let output = state.steps.last().filter(|_| succeeded).and_then(|step| step.output.clone());
        let steps = state.steps.into_iter().map(|step| OperationStep {
            name: step.name,
            status: step.status,
            started_at: step.started_at,
            ended_at: step.ended_at,
            attempts: step.attempts,
            error: step.error,
        });
        Self {
            id: facts.id,
            kind: facts.workflow,
            subject: facts.subject,
            status: state.status,
            steps: steps.collect(),
            error,
            output,
            created_at: facts.created_at,
            ended_at: facts.ended_at,
        }
    }
}
