//! The runs of workflows: starting them in the transaction of a write, waking
//! the workers, and waiting for their end without asking again and again.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use insula_api::{Operation, OperationError, OperationStatus, Step, StepStatus};
use insula_catalog::workflow_log::{OperationFilter, ResumeError, WorkflowLog};
use insula_catalog::{Author, Change};
use insula_domain::{OperationId, TenantId};
use insula_problem::{Code, Problem};
use insula_workflow::{NewRun, OperationStep, RunError, RunStatus, StartError, Waker};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::Control;
use crate::workflows::own_objects::is_tier;

/// How often a waiting call looks, whatever was notified.
const LOOK: Duration = Duration::from_millis(500);

/// The runs of workflows.
#[derive(Debug)]
pub struct Operations {
    log: WorkflowLog,
    waker: OnceLock<Waker>,
    /// Ticks when some run has changed.
    changed: watch::Receiver<u64>,
}

impl Operations {
    /// `changed` ticks when some run has changed.
    #[must_use]
    pub fn new(log: WorkflowLog, changed: watch::Receiver<u64>) -> Self {
        Self { log, waker: OnceLock::new(), changed }
    }

    /// What wakes the worker of this process. The worker is made of workflows,
    /// which are made of this, so it comes last; a second one is not taken.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    /// Starts a run in the transaction of a change.
    ///
    /// # Errors
    /// `tenant_busy` where another run on the subject has not ended.
    pub async fn start(&self, change: &Change<'_>, run: Result<NewRun, StartError>) -> Result<(), Problem> {
        let started = match run {
            Ok(run) => self.log.start(change.transaction(), run).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(_) => Ok(()),
            Err(StartError::Busy { subject, operation }) => Err(Problem::new(
                match subject.as_str() {
                    crate::schema::SUBJECT => Code::SchemaBusy,
                    tier if is_tier(tier) => Code::TierBusy,
                    _ => Code::TenantBusy,
                },
                format!("Operation {operation} is under way. Try again when it has ended."),
            )
            .retry_after(1)),
            Err(error) => Err(Problem::internal(error)),
        }
    }

    /// Wakes the workers, after the commit.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// One operation.
    ///
    /// # Errors
    /// `operation_not_found` where there is none.
    pub async fn show(&self, id: OperationId) -> Result<Operation, Problem> {
        let found = self.log.operation(id).await.map_err(log_problem)?;
        found
            .map(shown)
            .ok_or_else(|| Problem::new(Code::OperationNotFound, format!("There is no operation {id}.")))
    }

    /// One operation, when it has ended or the time is over; before that, when
    /// it has gone on since `seen` steps were begun or ended.
    ///
    /// # Errors
    /// As [`Operations::show`].
    pub async fn wait(
        &self,
        id: OperationId,
        longest: Duration,
        seen: Option<usize>,
    ) -> Result<Operation, Problem> {
        let deadline = tokio::time::Instant::now() + longest;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            let operation = self.show(id).await?;
            let gone_on = seen.is_some_and(|seen| progress(&operation) != seen);
            if operation.status.is_final() || gone_on || tokio::time::Instant::now() >= deadline {
                return Ok(operation);
            }
            let until = deadline.min(tokio::time::Instant::now() + LOOK);
            // An ended sender (the process stops) leaves the timer alone.
            tokio::select! {
                Ok(()) = changed.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

impl Operations {
    /// Operations, the newest first, older than `before`.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn list(&self, before: Option<OperationId>, limit: usize) -> Result<Vec<Operation>, Problem> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let found = self.log.list(&OperationFilter::default(), before, limit).await.map_err(log_problem)?;
        Ok(found.into_iter().map(shown).collect())
    }

    /// All operations that have not ended, stuck ones among them.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn not_ended(&self) -> Result<Vec<insula_workflow::Operation>, Problem> {
        let statuses = RunStatus::ALL.into_iter().filter(|status| !status.is_ended()).collect();
        let filter = OperationFilter { statuses, ..OperationFilter::default() };
        self.log.list(&filter, None, u32::MAX).await.map_err(log_problem)
    }

    /// Forgets operations that ended before the time, at most `limit` of them;
    /// gives back how many.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn forget_ended(&self, before: OffsetDateTime, limit: u32) -> Result<u64, Problem> {
        self.log.forget_ended(before, limit).await.map_err(log_problem)
    }

    /// The tenants that an operation is at work on: they are between two states.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn subjects_under_way(&self) -> Result<BTreeSet<TenantId>, Problem> {
        Ok(self.not_ended().await?.iter().filter_map(|run| run.subject.parse().ok()).collect())
    }

    /// Sets a stuck operation going again.
    ///
    /// # Errors
    /// `operation_not_stuck` where it is not stuck.
    pub async fn resume(
        &self,
        control: &Control,
        author: Author,
        id: OperationId,
    ) -> Result<Operation, Problem> {
        let mut client = control.catalog.client().await?;
        let change = client.change(author).await?;
        self.log.resume(change.transaction(), id, change.at()).await.map_err(|error| match error {
            ResumeError::NotFound => {
                Problem::new(Code::OperationNotFound, format!("There is no operation {id}."))
            }
            ResumeError::NotStuck(_) => {
                Problem::new(Code::OperationNotStuck, format!("The operation {id} is not stuck."))
            }
            ResumeError::Log(error) => log_problem(error),
        })?;
        change.audit("operation.resume", None, &id.to_string(), &json!({})).await?;
        change.commit().await?;
        self.wake();
        self.show(id).await
    }
}

/// How far an operation has gone: grows with every step begun or ended.
#[must_use]
pub fn progress(operation: &Operation) -> usize {
    operation
        .steps
        .iter()
        .map(|step| {
            step.attempts as usize * 2
                + usize::from(step.ended_at.is_some())
                + usize::from(step.started_at.is_some())
        })
        .sum()
}

/// The problem that an error of the step log is.
pub fn log_problem(error: insula_workflow::LogError) -> Problem {
    match error {
        insula_workflow::LogError::Unavailable(cause) => {
            Problem::new(Code::CatalogUnavailable, "The catalog cannot be reached right now.")
                .retry_after(2)
                .caused_by(cause)
        }
        other => Problem::internal(other),
    }
}

/// The operation as the API shows it.
#[must_use]
pub fn shown(operation: insula_workflow::Operation) -> Operation {
    let error = operation.error.clone().or_else(|| trouble(&operation)?.error.clone());
    Operation {
        id: operation.id,
        kind: operation.kind,
        subject: operation.subject,
        status: match operation.status {
            RunStatus::Pending => OperationStatus::Pending,
            RunStatus::Running => OperationStatus::Running,
            RunStatus::Succeeded => OperationStatus::Succeeded,
            RunStatus::Undoing => OperationStatus::Undoing,
            RunStatus::Undone => OperationStatus::Undone,
            RunStatus::Stuck => OperationStatus::Stuck,
        },
        steps: operation
            .steps
            .into_iter()
            .map(|step| Step {
                name: step.name,
                status: match step.status {
                    insula_workflow::StepStatus::Pending => StepStatus::Pending,
                    insula_workflow::StepStatus::Running => StepStatus::Running,
                    insula_workflow::StepStatus::Done => StepStatus::Done,
                    insula_workflow::StepStatus::Undoing => StepStatus::Undoing,
                    insula_workflow::StepStatus::Undone => StepStatus::Undone,
                },
                attempts: step.attempts,
                started_at: step.started_at,
                ended_at: step.ended_at,
                error: step.error.map(told),
            })
            .collect(),
        error: error.map(told),
        output: operation.output.filter(|output| !output.is_null()),
        created_at: operation.created_at,
        ended_at: operation.ended_at,
    }
}

/// The step at which an operation is, where its last attempt failed.
#[must_use]
pub fn trouble(operation: &insula_workflow::Operation) -> Option<&OperationStep> {
    use insula_workflow::StepStatus::{Done, Undone};
    let at_work = |step: &&OperationStep| !matches!(step.status, Done | Undone) && step.error.is_some();
    operation.steps.iter().find(at_work)
}

fn told(error: RunError) -> OperationError {
    OperationError { code: error.code, detail: error.detail }
}
