//! A step log in memory that can lose, delay and doubt its answers, and can be
//! broken on purpose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use insula_domain::OperationId;
use time::OffsetDateTime;

use crate::error::{LogError, StartError};
use crate::log::{
    FencingToken, Hold, Lease, LeaseRequest, LeasedRun, NewRun, Started, StepLog, WorkflowKey, Write,
};
use crate::operation::{Operation, RunFacts};
use crate::state::RunState;
use crate::tests::support::{Seeded, pause};

/// What the log does not check, to see that it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    TokenUnchecked,
    RevisionUnchecked,
}

#[derive(Debug, Clone)]
struct Row {
    run: NewRun,
    state: RunState,
    revision: i64,
    token: i64,
    held: bool,
    available_at: Option<OffsetDateTime>,
    ended_at: Option<OffsetDateTime>,
}

/// A write that is on its way.
#[derive(Debug)]
struct Late {
    lease: Lease,
    state: RunState,
    revision: i64,
    hold: Hold,
    now: OffsetDateTime,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<OperationId, Row>,
    late: Vec<Late>,
    refused: u64,
    saves: u64,
}

#[derive(Debug)]
pub struct MemoryLog {
    inner: Mutex<Inner>,
    broken: Broken,
    /// Whose numbers decide over faults; none, no faults.
    faults: Mutex<Option<Arc<Seeded>>>,
}

impl MemoryLog {
    pub fn new() -> Self {
        Self::with(Broken::Nothing, None)
    }

    pub fn with(broken: Broken, faults: Option<Arc<Seeded>>) -> Self {
        Self { inner: Mutex::default(), broken, faults: Mutex::new(faults) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draws(&self, percent: u64) -> bool {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.as_ref().is_some_and(|seeded| seeded.percent(percent))
    }

    pub fn no_more_faults(&self) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn start(&self, run: NewRun) -> Result<Started, StartError> {
        let mut inner = self.inner();
        if let Some(row) = inner.rows.get(&run.id) {
            let same = row.run.workflow == run.workflow && row.run.input == run.input;
            return if same { Ok(Started::Already) } else { Err(StartError::IdTaken) };
        }
        let busy = |row: &&Row| row.run.exclusive && row.run.subject == run.subject && row.ended_at.is_none();
        if let Some(row) = inner.rows.values().find(busy).filter(|_| run.exclusive) {
            return Err(StartError::Busy { subject: run.subject, operation: row.run.id });
        }
        let row = Row {
            state: run.state.clone(),
            revision: 0,
            token: 0,
            held: false,
            available_at: Some(run.created_at),
            ended_at: None,
            run,
        };
        inner.rows.insert(row.run.id, row);
        Ok(Started::New)
    }

    pub fn resume(&self, id: OperationId, now: OffsetDateTime) -> bool {
        let mut inner = self.inner();
        let Some(row) = inner.rows.get_mut(&id) else { return false };
        if row.state.resume().is_err() {
            return false;
        }
        row.token += 1;
        row.available_at = Some(now);
        true
    }

    pub fn operation(&self, id: OperationId) -> Option<Operation> {
        let inner = self.inner();
        let row = inner.rows.get(&id)?;
        let facts = RunFacts {
            id,
            workflow: row.run.workflow.name.clone(),
            subject: row.run.subject.clone(),
            created_at: row.run.created_at,
            ended_at: row.ended_at,
        };
        Some(Operation::of(facts, row.state.clone()))
    }

    pub fn token(&self, id: OperationId) -> i64 {
        self.inner().rows.get(&id).map_or(0, |row| row.token)
    }

    /// How many writes were refused because their token or revision was old.
    pub fn refused(&self) -> u64 {
        self.inner().refused
    }

    /// How many writes of a state there were.
    pub fn saves(&self) -> u64 {
        self.inner().saves
    }

    /// Lets one write that is on its way arrive.
    pub fn deliver_late(&self, draw: u64) {
        let mut inner = self.inner();
        if inner.late.is_empty() {
            return;
        }
        let index = usize::try_from(draw).unwrap_or(0) % inner.late.len();
        let late = inner.late.swap_remove(index);
        // Nobody waits for the answer any more.
        let _ = apply(&mut inner, self.broken, &late);
    }
}

fn apply(inner: &mut Inner, broken: Broken, write: &Late) -> Result<(), LogError> {
    let fits = inner.rows.get(&write.lease.run).is_some_and(|row| {
        let token = broken == Broken::TokenUnchecked || row.token == write.lease.token.as_i64();
        let near = row.revision == write.revision || row.revision == write.revision - 1;
        token && (near || broken != Broken::Nothing)
    });
    let row = inner.rows.get_mut(&write.lease.run).filter(|_| fits);
    let Some(row) = row else {
        inner.refused += 1;
        return Err(LogError::LeaseLost);
    };
    row.state = write.state.clone();
    row.revision = write.revision;
    row.held = matches!(write.hold, Hold::Until(_));
    row.available_at = match write.hold {
        Hold::Until(at) | Hold::ReleaseAt(at) => Some(at),
        Hold::Rest => None,
    };
    row.ended_at = write.state.status.is_ended().then_some(write.now);
    inner.saves += 1;
    Ok(())
}

fn unavailable() -> LogError {
    LogError::Unavailable("a fault on purpose".into())
}

#[async_trait]
impl StepLog for MemoryLog {
    async fn lease(&self, request: LeaseRequest<'_>) -> Result<Vec<LeasedRun>, LogError> {
        pause().await;
        let mut inner = self.inner();
        let due = |row: &&mut Row| {
            row.available_at.is_some_and(|at| at <= request.now)
                && request.workflows.contains(&row.run.workflow)
        };
        let take = |row: &mut Row| {
            row.token += 1;
            row.held = true;
            row.available_at = Some(request.until);
            let token = FencingToken::from(row.token);
            LeasedRun {
                lease: Lease { run: row.run.id, token, until: request.until },
                workflow: row.run.workflow.clone(),
                subject: row.run.subject.clone(),
                input: row.run.input.clone(),
                revision: row.revision,
                state: row.state.clone(),
            }
        };
        let leased = inner.rows.values_mut().filter(due).take(request.limit).map(take).collect();
        Ok(leased)
    }

    async fn next_due(&self, workflows: &[WorkflowKey]) -> Result<Option<OffsetDateTime>, LogError> {
        let inner = self.inner();
        let known = inner.rows.values().filter(|row| workflows.contains(&row.run.workflow));
        Ok(known.filter_map(|row| row.available_at).min())
    }

    async fn renew(&self, lease: &Lease, until: OffsetDateTime) -> Result<(), LogError> {
        pause().await;
        if self.draws(10) {
            return Err(unavailable());
        }
        let mut inner = self.inner();
        let row = inner.rows.get_mut(&lease.run).ok_or(LogError::LeaseLost)?;
        if !row.held || row.token != lease.token.as_i64() {
            return Err(LogError::LeaseLost);
        }
        row.available_at = Some(until);
        Ok(())
    }

    async fn save(&self, lease: &Lease, write: Write<'_>) -> Result<(), LogError> {
        pause().await;
        let late = Late {
            lease: lease.clone(),
            state: write.state.clone(),
            revision: write.revision,
            hold: write.hold,
            now: write.now,
        };
        if self.draws(4) {
            return Err(unavailable());
        }
        if self.draws(8) {
            self.inner().late.push(late);
            return Err(unavailable());
        }
        let applied = apply(&mut self.inner(), self.broken, &late);
        pause().await;
        if self.draws(4) {
            return Err(unavailable());
        }
        applied
    }
}
