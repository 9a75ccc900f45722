//! The step log: where runs are kept, and from where workers lease them. Every
//! write of a run carries the fencing token of its lease, so that a worker
//! which lost the run, without knowing it, changes nothing.

use std::fmt;

use async_trait::async_trait;
use insula_domain::OperationId;
use serde_json::Value;
use time::OffsetDateTime;

use crate::error::LogError;
use crate::state::RunState;

/// A number that grows each time a run changes hands. Effects outside the log
/// can refuse whoever shows a smaller one than they have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(i64);

impl FencingToken {
    /// The token as the log keeps it.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0
    }
}

impl From<i64> for FencingToken {
    fn from(token: i64) -> Self {
        Self(token)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which workflow, in which version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkflowKey {
    /// The workflow's name.
    pub name: String,
    /// Its version.
    pub version: i32,
}

/// A run to be written into the log. Made by
/// [`Kind::new_run`](crate::Kind::new_run).
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// The run's id. Starting it a second time with the same id, workflow,
    /// subject and input changes nothing.
    pub id: OperationId,
    /// What it runs.
    pub workflow: WorkflowKey,
    /// What it is about, for example a tenant's id.
    pub subject: String,
    /// Whether no other exclusive run on the subject may be under way.
    pub exclusive: bool,
    /// What it was asked for.
    pub input: Value,
    /// Its steps, none of them begun.
    pub state: RunState,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
}

/// Whether starting a run changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The run is new.
    New,
    /// The same run was started before.
    Already,
}

/// The right to work on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run: OperationId,
    /// The token of this lease.
    pub token: FencingToken,
    /// From when on another worker may take the run, unless it is renewed.
    pub until: OffsetDateTime,
}

/// A run in the hands of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct LeasedRun {
    /// The right to work on it.
    pub lease: Lease,
    /// What it runs.
    pub workflow: WorkflowKey,
    /// What it is about.
    pub subject: String,
    /// What it was asked for.
    pub input: Value,
    /// How often its state has been written.
    pub revision: i64,
    /// What is known of it.
    pub state: RunState,
}

/// Which runs a worker asks for.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRequest<'a> {
    /// Who asks, for people to read.
    pub owner: &'a str,
    /// What it can run.
    pub workflows: &'a [WorkflowKey],
    /// The time now.
    pub now: OffsetDateTime,
    /// From when on others may take the runs.
    pub until: OffsetDateTime,
    /// How many runs at most.
    pub limit: usize,
}

/// What becomes of the lease with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is kept, until the given time.
    Until(OffsetDateTime),
    /// It is given up; any worker may take the run from the given time on.
    ReleaseAt(OffsetDateTime),
    /// It is given up, and no worker may take the run: it has ended or is stuck.
    Rest,
}

/// A new state of a run.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The new state.
    pub state: &'a RunState,
    /// Its number: one more than the last one's. Writing the same number again
    /// is allowed, because an answer may have been lost; an older number than
    /// the log's is refused, because a write may have been slow on its way.
    pub revision: i64,
    /// What becomes of the lease.
    pub hold: Hold,
    /// The time now.
    pub now: OffsetDateTime,
}

/// Where runs are kept.
#[async_trait]
pub trait StepLog: fmt::Debug + Send + Sync {
    /// Takes runs that are due and in nobody's hands, the longest due first.
    ///
    /// # Errors
    /// Where the log cannot be reached or read.
    async fn lease(&self, request: LeaseRequest<'_>) -> Result<Vec<LeasedRun>, LogError>;

    /// When the next run of these workflows will be due, or the next lease of
    /// another worker will run out.
    ///
    /// # Errors
    /// Where the log cannot be reached.
    async fn next_due(&self, workflows: &[WorkflowKey]) -> Result<Option<OffsetDateTime>, LogError>;

    /// Makes the lease last until the given time.
    ///
    /// # Errors
    /// [`LogError::LeaseLost`] where another worker has the run.
    async fn renew(&self, lease: &Lease, until: OffsetDateTime) -> Result<(), LogError>;

    /// Writes a new state of the run, in one commit.
    ///
    /// # Errors
    /// [`LogError::LeaseLost`] where another worker has the run.
    async fn save(&self, lease: &Lease, write: Write<'_>) -> Result<(), LogError>;
}
