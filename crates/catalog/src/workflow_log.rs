//! The step log of the workflows, in the catalog. A run is one row; each write
//! of it is one statement, holds for the worker with the newest token alone,
//! and tells whoever listens.

use std::error::Error as StdError;

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool};
use insula_domain::OperationId;
use insula_sql_store::is_unavailable;
use insula_workflow::{
    FencingToken, Hold, Lease, LeaseRequest, LeasedRun, LogError, NewRun, NotStuck, Operation, RunError,
    RunFacts, RunState, RunStatus, StartError, Started, StepLog, StepState, WorkflowKey, Write,
};
use serde_json::Value;
use thiserror::Error;
use time::OffsetDateTime;
use tokio_postgres::types::{FromSql, Json, ToSql};
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

/// Notified, without a payload, when a run is there for any worker to take.
pub const WORKFLOW_CHANNEL: &str = "insula_workflow";
/// Notified, with the operation's id as the payload, when an operation changes.
pub const OPERATIONS_CHANNEL: &str = "insula_operations";

const START: &str = "
    with started as (
        insert into workflow_runs
            (id, workflow, version, subject, exclusive, input, status, undoing, steps, available_at, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
        on conflict do nothing
        returning id)
    select pg_notify('insula_operations', id::text), pg_notify('insula_workflow', '') from started";

const IN_THE_WAY: &str = "
    select id, workflow, subject, input from workflow_runs
    where id = $1 or (subject = $2 and exclusive and ended_at is null)
    order by (id = $1) desc limit 1";

const LEASE: &str = "
    with due as (
        select id from workflow_runs
        where available_at <= $1 and (workflow, version) in (select * from unnest($2::text[], $3::int[]))
        order by available_at limit $4
        for update skip locked)
    update workflow_runs as run set owner = $5, token = token + 1, available_at = $6
    from due where run.id = due.id
    returning run.id, workflow, version, subject, input, revision, token, status, undoing, steps, error";

const NEXT_DUE: &str = "
    select available_at from workflow_runs
    where available_at is not null and (workflow, version) in (select * from unnest($1::text[], $2::int[]))
    order by available_at limit 1";

const RENEW: &str = "
    update workflow_runs set available_at = $3 where id = $1 and token = $2 and owner is not null";

// The same revision again is the same write, sent again because its answer was lost.
const SAVE: &str = "
    with saved as (
        update workflow_runs set status = $4, undoing = $5, steps = $6, error = $7, revision = $3::bigint,
            owner = case when $8 then owner end, available_at = $9, ended_at = $10
        where id = $1 and token = $2 and revision between $3::bigint - 1 and $3
        returning id)
    select pg_notify('insula_operations', id::text), case when $11 then pg_notify('insula_workflow', '') end
    from saved";

const STUCK: &str = "select status, undoing, steps, error from workflow_runs where id = $1 for update";

const RESUME: &str = "
    with resumed as (
        update workflow_runs set status = $2, steps = $3, available_at = $4, token = token + 1
        where id = $1
        returning id)
    select pg_notify('insula_operations', id::text), pg_notify('insula_workflow', '') from resumed";

const OPERATION: &str = "
    select id, workflow, subject, status, undoing, steps, error, created_at, ended_at
    from workflow_runs where id = $1";

const LIST: &str = "
    select id, workflow, subject, status, undoing, steps, error, created_at, ended_at
    from workflow_runs
    where ($1::text is null or subject = $1) and ($2::text is null or workflow = $2)
        and (cardinality($3::text[]) = 0 or status = any($3)) and ($4::uuid is null or id < $4)
    order by id desc limit $5";

const FORGET: &str = "
    delete from workflow_runs where id in (select id from workflow_runs where ended_at < $1 limit $2)";

/// How often a start looks again whether something is in its way.
const START_TRIES: usize = 3;

/// The step log in the catalog.
#[derive(Debug, Clone)]
pub struct WorkflowLog {
    pool: Pool,
}

/// Which operations to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationFilter {
    /// What they are about.
    pub subject: Option<String>,
    /// What they do: the name of their workflow.
    pub kind: Option<String>,
    /// Where they stand: one of these.
    pub statuses: Vec<RunStatus>,
}

/// Why an operation could not be resumed.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// There is no such operation.
    #[error("there is no such operation")]
    NotFound,
    /// It is not stuck.
    #[error(transparent)]
    NotStuck(#[from] NotStuck),
    /// The step log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl WorkflowLog {
    /// The step log in the catalog of the pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Starts a run in the caller's own transaction: it is there when the
    /// transaction commits, and workers are told. Nothing is left behind in
    /// the transaction where it cannot be started, so the caller may go on.
    ///
    /// # Errors
    /// [`StartError::Busy`] where another exclusive run on the subject has not
    /// ended.
    pub async fn start(&self, transaction: &Transaction<'_>, run: NewRun) -> Result<Started, StartError> {
        let (id, state) = (run.id.as_uuid(), &run.state);
        let (name, steps) = (&run.workflow.name, Json(&state.steps));
        for _ in 0..START_TRIES {
            let values: [&(dyn ToSql + Sync); 10] = [
                &id,
                name,
                &run.workflow.version,
                &run.subject,
                &run.exclusive,
                &run.input,
                &state.status.as_str(),
                &state.undoing,
                &steps,
                &run.created_at,
            ];
            if !transaction.query(START, &values).await.map_err(failed)?.is_empty() {
                return Ok(Started::New);
            }
            let in_the_way = transaction.query_opt(IN_THE_WAY, &[&id, &run.subject]).await.map_err(failed)?;
            let Some(row) = in_the_way else {
                continue; // It has ended since.
            };
            let other: Uuid = get(&row, "id")?;
            if other != id {
                return Err(StartError::Busy { subject: run.subject, operation: other.into() });
            }
            let same = get::<String>(&row, "workflow")? == *name
                && get::<String>(&row, "subject")? == run.subject
                && get::<Value>(&row, "input")? == run.input;
            return if same { Ok(Started::Already) } else { Err(StartError::IdTaken) };
        }
        Err(LogError::Unavailable("runs on the subject come and go too quickly".into()).into())
    }

    /// Sets a stuck operation going again, in the caller's own transaction.
    ///
    /// # Errors
    /// Where there is no such operation, or it is not stuck.
    pub async fn resume(
        &self,
        transaction: &Transaction<'_>,
        id: OperationId,
        now: OffsetDateTime,
    ) -> Result<(), ResumeError> {
        let row = transaction.query_opt(STUCK, &[&id.as_uuid()]).await.map_err(failed)?;
        let mut state = state(&row.ok_or(ResumeError::NotFound)?)?;
        state.resume()?;
        let (status, steps) = (state.status.as_str(), Json(&state.steps));
        transaction.query(RESUME, &[&id.as_uuid(), &status, &steps, &now]).await.map_err(failed)?;
        Ok(())
    }

    /// The operation.
    ///
    /// # Errors
    /// Where the catalog cannot be reached.
    pub async fn operation(&self, id: OperationId) -> Result<Option<Operation>, LogError> {
        let rows = self.query(OPERATION, &[&id.as_uuid()]).await?;
        rows.first().map(operation).transpose()
    }

    /// Operations, the newest first: at most `limit`, older than `before`.
    ///
    /// # Errors
    /// Where the catalog cannot be reached.
    pub async fn list(
        &self,
        filter: &OperationFilter,
        before: Option<OperationId>,
        limit: u32,
    ) -> Result<Vec<Operation>, LogError> {
        let statuses: Vec<_> = filter.statuses.iter().map(|status| status.as_str()).collect();
        let before = before.map(OperationId::as_uuid);
        let limit = i64::from(limit);
        let rows = self.query(LIST, &[&filter.subject, &filter.kind, &statuses, &before, &limit]).await?;
        rows.iter().map(operation).collect()
    }

    /// Forgets operations that ended before the time, at most `limit` of them;
    /// gives back how many.
    ///
    /// # Errors
    /// Where the catalog cannot be reached.
    pub async fn forget_ended(&self, before: OffsetDateTime, limit: u32) -> Result<u64, LogError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(FORGET).await.map_err(failed)?;
        client.execute(&statement, &[&before, &i64::from(limit)]).await.map_err(failed)
    }

    async fn client(&self) -> Result<Object, LogError> {
        insula_sql_store::get(&self.pool).await.map_err(|error| LogError::Unavailable(error.into()))
    }

    async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, LogError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await.map_err(failed)?;
        client.query(&statement, values).await.map_err(failed)
    }
}

#[async_trait]
impl StepLog for WorkflowLog {
    async fn lease(&self, request: LeaseRequest<'_>) -> Result<Vec<LeasedRun>, LogError> {
        let (names, versions) = columns(request.workflows);
        let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
        let values: [&(dyn ToSql + Sync); 6] =
            [&request.now, &names, &versions, &limit, &request.owner, &request.until];
        let rows = self.query(LEASE, &values).await?;
        rows.iter().map(|row| leased(row, request.until)).collect()
    }

    async fn next_due(&self, workflows: &[WorkflowKey]) -> Result<Option<OffsetDateTime>, LogError> {
        let (names, versions) = columns(workflows);
        let rows = self.query(NEXT_DUE, &[&names, &versions]).await?;
        rows.first().map(|row| get(row, "available_at")).transpose()
    }

    async fn renew(&self, lease: &Lease, until: OffsetDateTime) -> Result<(), LogError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(RENEW).await.map_err(failed)?;
        let values: [&(dyn ToSql + Sync); 3] = [&lease.run.as_uuid(), &lease.token.as_i64(), &until];
        match client.execute(&statement, &values).await.map_err(failed)? {
            0 => Err(LogError::LeaseLost),
            _ => Ok(()),
        }
    }

    async fn save(&self, lease: &Lease, write: Write<'_>) -> Result<(), LogError> {
        let state = write.state;
        let (held, available_at) = match write.hold {
            Hold::Until(at) => (true, Some(at)),
            Hold::ReleaseAt(at) => (false, Some(at)),
            Hold::Rest => (false, None),
        };
        let due_at_once = !held && available_at.is_some_and(|at| at <= write.now);
        let values: [&(dyn ToSql + Sync); 11] = [
            &lease.run.as_uuid(),
            &lease.token.as_i64(),
            &write.revision,
            &state.status.as_str(),
            &state.undoing,
            &Json(&state.steps),
            &state.error.as_ref().map(Json),
            &held,
            &available_at,
            &state.status.is_ended().then_some(write.now),
            &due_at_once,
        ];
        if self.query(SAVE, &values).await?.is_empty() { Err(LogError::LeaseLost) } else { Ok(()) }
    }
}

/// The workflows as two arrays, which PostgreSQL puts side by side again.
fn columns(workflows: &[WorkflowKey]) -> (Vec<&str>, Vec<i32>) {
    workflows.iter().map(|workflow| (workflow.name.as_str(), workflow.version)).unzip()
}

fn leased(row: &Row, until: OffsetDateTime) -> Result<LeasedRun, LogError> {
    let token = FencingToken::from(get::<i64>(row, "token")?);
    Ok(LeasedRun {
        lease: Lease { run: get::<Uuid>(row, "id")?.into(), token, until },
        workflow: WorkflowKey { name: get(row, "workflow")?, version: get(row, "version")? },
        subject: get(row, "subject")?,
        input: get(row, "input")?,
        revision: get(row, "revision")?,
        state: state(row)?,
    })
}

fn state(row: &Row) -> Result<RunState, LogError> {
    let status: String = get(row, "status")?;
    Ok(RunState {
        status: status.parse().map_err(broken)?,
        undoing: get(row, "undoing")?,
        steps: get::<Json<Vec<StepState>>>(row, "steps")?.0,
        error: get::<Option<Json<RunError>>>(row, "error")?.map(|error| error.0),
    })
}

fn operation(row: &Row) -> Result<Operation, LogError> {
    let facts = RunFacts {
        id: get::<Uuid>(row, "id")?.into(),
        workflow: get(row, "workflow")?,
        subject: get(row, "subject")?,
        created_at: get(row, "created_at")?,
        ended_at: get(row, "ended_at")?,
    };
    Ok(Operation::of(facts, state(row)?))
}

fn get<'r, T: FromSql<'r>>(row: &'r Row, column: &str) -> Result<T, LogError> {
    row.try_get(column).map_err(broken)
}

fn broken(error: impl Into<Box<dyn StdError + Send + Sync>>) -> LogError {
    LogError::Failed(error.into())
}

fn failed(error: tokio_postgres::Error) -> LogError {
    if is_unavailable(&error) { LogError::Unavailable(error.into()) } else { LogError::Failed(error.into()) }
}
