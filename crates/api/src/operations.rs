//! Long operations: the runs of workflows, as their users see them.

use insula_domain::OperationId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationStatus {
    /// Waiting for a worker.
    Pending,
    /// Going forward.
    Running,
    /// Done.
    Succeeded,
    /// Going back.
    Undoing,
    /// Gone back: nothing of it is left.
    Undone,
    /// Neither forward nor back without an operator.
    Stuck,
}

impl OperationStatus {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Undone | Self::Stuck)
    }

    /// The word as it stands in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
        }
    }
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not begun.
    Pending,
    /// Going forward.
    Running,
    /// Done.
    Done,
    /// Going back.
    Undoing,
    /// Gone back.
    Undone,
    /// Given up.
    Failed,
}

/// A step of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// What it does, in a word.
    pub name: String,
    /// Where it is.
    pub status: StepStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When it began.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// What went wrong in its last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OperationError>,
}

/// Why an operation did not succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationError {
    /// The stable code.
    pub code: String,
    /// What went wrong.
    pub detail: String,
}

/// A long operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Which one.
    pub id: OperationId,
    /// What it does, for example `tenant.create`.
    pub kind: String,
    /// What it does it to.
    pub subject: String,
    /// Where it is.
    pub status: OperationStatus,
    /// Its steps in order.
    pub steps: Vec<Step>,
    /// Why it did not succeed, or what stopped it last.
    pub error: Option<OperationError>,
    /// What it gave back, once it has succeeded: of a rollout, the placements that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<serde_json::Value>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}
