//! Connections of the store's own, on which questions of many callers are asked
//! without waiting for one another's answers, with their statements prepared.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_problem::{Code, Problem};
use insula_sql_store::{Connector, Store, sql_problem};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

/// How long an answer may take on a line. The server gives up a little earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Somebody waits.
    Brisk,
    /// What is copied, counted and removed beside the calls.
    Patient,
}

impl Pace {
    fn within(self) -> Duration {
        match self {
            Self::Brisk => Duration::from_secs(8),
            Self::Patient => Duration::from_secs(65),
        }
    }
}

const PATIENT: &str = "set statement_timeout = '60s'";

/// Every question is answered by an index. Plans are made once, perhaps while
/// the tables are still empty, and must not be those of an empty table.
const SETUP: &str = "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
    set plan_cache_mode = force_generic_plan; set jit = off; set synchronous_commit = on;
    set lock_timeout = '5s'; set statement_timeout = '7s'; set idle_in_transaction_session_timeout = '5s'";

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    store: Store,
    pace: Pace,
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    broken: AtomicBool,
    /// Whether its session knows how usual writes are done.
    pub is_quick: bool,
}

impl Line {
    pub async fn open(store: Store, connector: &Connector, pace: Pace) -> Result<Self, Problem> {
        let away = |error| {
            Problem::new(Code::Unavailable, "The store of the configuration cannot be reached right now.")
                .retry_after(2)
                .caused_by(error)
        };
        let client = connector.connect().await.map_err(away)?;
        let is_patient = pace == Pace::Patient;
        for setup in [Some(SETUP), is_patient.then_some(PATIENT)].into_iter().flatten() {
            client.batch_execute(setup).await.map_err(|error| sql_problem(store, error))?;
        }
        let (statements, broken) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { store, pace, client, statements, broken, is_quick: false })
    }

    /// For a transaction, by whoever has the line alone.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.client.is_closed()
    }

    pub fn problem(&self, error: tokio_postgres::Error) -> Problem {
        problem(self.store, error)
    }

    pub async fn statement(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(statements.entry(sql).or_insert(statement).clone())
    }

    pub async fn query(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Problem> {
        let asked = async { self.client.query(&self.statement(sql).await?, parameters).await };
        match tokio::time::timeout(self.pace.within(), asked).await {
            Ok(answer) => answer.map_err(|error| self.problem(error)),
            Err(late) => {
                self.broken.store(true, Ordering::Relaxed);
                let told = "The store of the configuration does not answer right now.";
                Err(Problem::new(Code::Unavailable, told).retry_after(2).caused_by(late))
            }
        }
    }
}

/// Whoever has waited too long for a lock, or for an answer, finds the store as
/// good as away: nothing is wrong with what was asked.
fn problem(store: Store, error: tokio_postgres::Error) -> Problem {
    let waited = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    if error.code().is_some_and(|code| waited.contains(code)) {
        let told = "The store of the configuration is busy right now.";
        return Problem::new(Code::Unavailable, told).retry_after(2).caused_by(error);
    }
    sql_problem(store, error)
}

/// Several of one kind, opened when they are needed.
#[derive(Debug)]
pub(crate) struct Lines {
    store: Store,
    connector: Connector,
    pace: Pace,
    lines: Vec<tokio::sync::Mutex<Option<Arc<Line>>>>,
    next: AtomicUsize,
}

impl Lines {
    pub fn new(store: Store, connector: Connector, pace: Pace, count: usize) -> Self {
        let lines = (0..count).map(|_| tokio::sync::Mutex::default()).collect();
        Self { store, connector, pace, lines, next: AtomicUsize::new(0) }
    }

    pub async fn query(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Problem> {
        self.line().await?.query(sql, parameters).await
    }

    async fn line(&self) -> Result<Arc<Line>, Problem> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.lines.len();
        let mut slot = self.lines[number].lock().await;
        if let Some(line) = slot.as_ref().filter(|line| !line.is_broken()) {
            return Ok(Arc::clone(line));
        }
        let line = Arc::new(Line::open(self.store, &self.connector, self.pace).await?);
        *slot = Some(Arc::clone(&line));
        Ok(line)
    }
}
