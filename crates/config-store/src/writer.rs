//! The writer: one task for each process and store. What waits is written in one
//! database transaction; each is decided for itself on the state under the lock,
//! so that one that is refused does not hinder the others.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use insula_config_model::{ConfigValue, Made, Scope, Transaction, Version, WRITES_MAX, WriteOp, Written};
use insula_problem::{Code, Problem};
use insula_sql_store::Store;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use crate::ConfigStore;
use crate::decide::{Answered, Change, Decided, State, What, token_place};
use crate::line::{Line, Pace};
use crate::log::{LogRow, decided_rows};
use crate::notice::Notices;
use crate::quick::{self, Quick};
use crate::rows;
use crate::state::{self, Ask, Ready, Remembered};

/// How many transactions may wait.
const WAITING_MAX: usize = 1_024;
/// How many bytes of them.
const WAITING_BYTES_MAX: usize = 128 << 20;
/// How many writes are done at once.
const BATCH_WRITES: usize = 200;
/// How many bytes are written at once, where there are several transactions.
const BATCH_BYTES: usize = 8 << 20;
/// How long one batch may take.
const BATCH_WITHIN: Duration = Duration::from_secs(10);
/// How long a caller waits, those before it included.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Batches that may wait to be heard of; whoever is slower reads the log.
const COMMITTED_MAX: usize = 256;
const NOTE_BYTES_MAX: usize = 500;
const TOKEN_BYTES_MAX: usize = 200;

type Answer = oneshot::Sender<Result<Outcome, Problem>>;

struct Waiting {
    job: Job,
    bytes: usize,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

/// A transaction, and what is asked of it.
struct Job {
    transaction: Transaction,
    asked: Asked,
}

/// What is asked of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// That it is done.
    Written,
    /// Whether it was done or begun under its token before.
    Looked,
    /// What it would come to.
    Planned,
}

enum Outcome {
    Written(Vec<Written>),
    Planned(Plan),
}

/// What a write comes to whose value a backend outside keeps, decided on what
/// the store has.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// It was done under its token.
    Done(Vec<Written>),
    /// It was begun under its token as this version, and may be done.
    Begun(Version),
    /// No version is made: a label changes at the most.
    Nothing,
    /// A version is made.
    Next(Next),
}

/// The version that a write makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The newest version before it; 0 where there is none.
    pub expected: Version,
    /// Its own number and value, a secret as it is kept.
    pub made: Made,
}

/// Hears what a writer commits, at once and in order, before its authors are
/// answered. Other processes write too: where changes do not begin behind the last
/// revision that is known, the log is to be read.
pub trait Hears: Send + Sync + std::fmt::Debug {
    /// These are committed. The writer waits until this returns.
    fn committed(&self, rows: &[LogRow]);
}

/// Writes. Clones are the same writer, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Writer {
    store: Store,
    queue: mpsc::Sender<Waiting>,
    /// For the bytes of what waits, until it is answered.
    room: Arc<Semaphore>,
    committed: broadcast::Sender<Arc<Vec<LogRow>>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiting({} writes)", self.job.transaction.writes.len())
    }
}

impl ConfigStore {
    /// Starts a writer. One for each process is enough, and the fastest.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer_with(None)
    }

    /// Starts a writer that has somebody hear what it commits.
    #[must_use]
    pub fn writer_heard(&self, by: Arc<dyn Hears>) -> Writer {
        self.writer_with(Some(by))
    }

    fn writer_with(&self, heard: Option<Arc<dyn Hears>>) -> Writer {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let (committed, _) = broadcast::channel(COMMITTED_MAX);
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        let writer = Writer { store: self.store, queue, room, committed: committed.clone() };
        let notices = self.notices();
        tokio::spawn(Work { store: self.clone(), line: None, heard, committed, notices }.run(waiting));
        writer
    }
}

impl Writer {
    /// Does all of the writes, or none. Values are as their authors gave them:
    /// secrets in clear, large values by a reference to what was put before.
    /// What was not answered, or by `unavailable`, may have been done: under a
    /// token it can be asked for again.
    ///
    /// # Errors
    /// `config_version_conflict`, `config_version_not_found`,
    /// `config_key_not_found`, `config_label_invalid`, `config_moving`,
    /// `config_quota_exceeded`,
    /// `idempotency_key_invalid`, `idempotency_key_reused`; `overloaded` where too many wait already, and
    /// `unavailable` where the store is away.
    pub async fn write(&self, transaction: Transaction) -> Result<Vec<Written>, Problem> {
        match self.asked(Job { transaction, asked: Asked::Written }).await? {
            Outcome::Written(written) => Ok(written),
            Outcome::Planned(_) => Err(Problem::internal("a write was planned, and not done")),
        }
    }

    /// What a transaction of one write would come to. Under a token it is kept
    /// that it was begun.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn plan(&self, transaction: Transaction) -> Result<Plan, Problem> {
        self.planned(transaction, Asked::Planned).await
    }

    /// Whether a transaction of one write was done or begun under its token.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn begun(&self, transaction: Transaction) -> Result<Plan, Problem> {
        self.planned(transaction, Asked::Looked).await
    }

    async fn planned(&self, transaction: Transaction, asked: Asked) -> Result<Plan, Problem> {
        if transaction.writes.len() != 1 {
            return Err(Problem::internal("several writes were planned at once"));
        }
        match self.asked(Job { transaction, asked }).await? {
            Outcome::Planned(plan) => Ok(plan),
            Outcome::Written(_) => Err(Problem::internal("a write was done, and not planned")),
        }
    }

    async fn asked(&self, job: Job) -> Result<Outcome, Problem> {
        let bytes = self.check(&job.transaction)?;
        let (answer, answered) = oneshot::channel();
        let full = || {
            Problem::new(
                Code::Overloaded,
                "Too many changes of configuration wait already. Try again shortly.",
            )
            .retry_after(1)
        };
        let permits = u32::try_from(bytes.min(WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(permits).map_err(|_| full())?;
        self.queue.try_send(Waiting { job, bytes, answer, room }).map_err(|_| full())?;
        match tokio::time::timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(unknown()),
        }
    }

    /// The changes that this writer commits, batch by batch, as soon as they
    /// are. Other processes write too, and whoever lags is told so: where a
    /// batch does not begin behind the last revision that is known, the log is
    /// to be read.
    #[must_use]
    pub fn committed(&self) -> broadcast::Receiver<Arc<Vec<LogRow>>> {
        self.committed.subscribe()
    }

    fn check(&self, transaction: &Transaction) -> Result<usize, Problem> {
        let invalid = |text: String| Err(Problem::new(Code::InvalidRequest, text));
        let writes = &transaction.writes;
        if writes.is_empty() || writes.len() > WRITES_MAX {
            return invalid(format!("There are 1 to {WRITES_MAX} writes at once, not {}.", writes.len()));
        }
        let is_text = |text: &str, max: usize| text.len() <= max && !text.contains('\0');
        if transaction
            .token
            .as_ref()
            .is_some_and(|token| token.is_empty() || !is_text(token, TOKEN_BYTES_MAX))
        {
            let detail = format!("A token has 1 to {TOKEN_BYTES_MAX} bytes.");
            return Err(Problem::new(Code::IdempotencyKeyInvalid, detail));
        }
        if !is_text(&transaction.author, NOTE_BYTES_MAX)
            || writes.iter().any(|w| !is_text(&w.note, NOTE_BYTES_MAX))
        {
            return invalid(format!("A note has {NOTE_BYTES_MAX} bytes at the most."));
        }
        let is_ours = |scope: &Scope| scope.tenant().is_none() == (self.store == Store::Catalog);
        if !writes.iter().all(|write| is_ours(&write.scope)) {
            return Err(Problem::internal("a write of configuration came to a store of other scopes"));
        }
        let size = |op: &WriteOp| match op {
            WriteOp::Put(ConfigValue::Json(bytes)) => bytes.len(),
            WriteOp::Put(ConfigValue::Secret(bytes)) => bytes.len(),
            _ => 0,
        };
        Ok(writes.iter().map(|write| size(&write.op)).sum())
    }
}

fn unknown() -> Problem {
    let detail = "The store of the configuration did not answer. The change may have been made.";
    Problem::new(Code::Unavailable, detail).retry_after(2)
}

/// A batch did not come through.
struct Fault {
    problem: Problem,
    /// Nothing was committed.
    is_clean: bool,
}

type Outcomes = Vec<Result<Outcome, Problem>>;

struct Work {
    store: ConfigStore,
    line: Option<Line>,
    heard: Option<Arc<dyn Hears>>,
    committed: broadcast::Sender<Arc<Vec<LogRow>>>,
    notices: Notices,
}

impl Work {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut held: Option<Waiting> = None;
        loop {
            let first = match held.take() {
                Some(held) => held,
                None => match queue.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let (mut writes, mut bytes) = (first.job.transaction.writes.len(), first.bytes);
            let mut batch = vec![first];
            while let Ok(next) = queue.try_recv() {
                writes += next.job.transaction.writes.len();
                bytes += next.bytes;
                if writes > BATCH_WRITES || bytes > BATCH_BYTES {
                    held = Some(next);
                    break;
                }
                batch.push(next);
            }
            // Nobody waits for these any more.
            batch.retain(|waiting| !waiting.answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            // A mistake of ours in one batch must not be the end of all writing.
            // Its connection is gone with it, and its callers are told by that.
            if AssertUnwindSafe(self.batch(batch)).catch_unwind().await.is_err() {
                self.line = None;
                tracing::error!("writing a batch of configuration has panicked");
            }
        }
    }

    async fn batch(&mut self, batch: Vec<Waiting>) {
        let (mut jobs, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
        for Waiting { job, answer, room, .. } in batch {
            jobs.push(job);
            answers.push(answer);
            rooms.push(room);
        }
        let outcomes = match self.tried(&jobs).await {
            Ok(outcomes) => outcomes,
            // Something is wrong with one of them: the others need not suffer.
            Err(fault) if fault.is_clean && fault.problem.code() == Code::Internal && jobs.len() > 1 => {
                self.one_by_one(&jobs, &answers).await
            }
            Err(fault) => {
                tracing::warn!(error = %fault.problem.chain(), "changes of configuration were not written");
                let (code, detail) = (fault.problem.code(), fault.problem.detail().to_owned());
                let failed = || Problem::new(code, detail.clone()).retry_after(2);
                jobs.iter().map(|_| Err(if fault.is_clean { failed() } else { unknown() })).collect()
            }
        };
        drop((jobs, rooms));
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever has gone does not want to know.
            let _ = answer.send(outcome);
        }
    }

    /// Each for itself. What nobody waits for any more is left: its author may
    /// have written something newer since. With the store away it ends.
    async fn one_by_one(&mut self, jobs: &[Job], answers: &[Answer]) -> Outcomes {
        let (mut outcomes, mut away) = (Outcomes::new(), None);
        for (job, answer) in jobs.iter().zip(answers) {
            if answer.is_closed() {
                outcomes.push(Err(unknown()));
                continue;
            }
            if let Some((code, detail)) = &away {
                outcomes.push(Err(Problem::new(*code, String::clone(detail)).retry_after(2)));
                continue;
            }
            match self.tried(std::slice::from_ref(job)).await {
                Ok(done) => outcomes.extend(done),
                Err(fault) => {
                    tracing::warn!(error = %fault.problem.chain(), "a change of configuration was not written");
                    if fault.problem.code() != Code::Internal {
                        away = Some((fault.problem.code(), fault.problem.detail().to_owned()));
                    }
                    outcomes.push(Err(if fault.is_clean { fault.problem } else { unknown() }));
                }
            }
        }
        outcomes
    }

    /// Tries it, and once more where the connection had ended before anything was done.
    async fn tried(&mut self, jobs: &[Job]) -> Result<Outcomes, Fault> {
        let is_kept = self.line.as_ref().is_some_and(|line| !line.is_broken());
        match self.once(jobs).await {
            Err(fault) if fault.is_clean && is_kept && fault.problem.code() == Code::Unavailable => {
                self.once(jobs).await
            }
            other => other,
        }
    }

    async fn once(&mut self, jobs: &[Job]) -> Result<Outcomes, Fault> {
        let line = self.line.take().filter(|line| !line.is_broken());
        let work = async {
            let line = match line {
                Some(line) => line,
                None => {
                    let fault = |problem| Fault { problem, is_clean: true };
                    let opened = Line::open(self.store.store, &self.store.connector, Pace::Brisk).await;
                    quick::teach(opened.map_err(fault)?).await.map_err(fault)?
                }
            };
            // Dropped where this fails: what was begun ends with the connection.
            let outcomes = self.on(&line, jobs).await?;
            Ok((line, outcomes))
        };
        let late = |_| Err(Fault { problem: unknown(), is_clean: false });
        let (line, outcomes) = tokio::time::timeout(BATCH_WITHIN, work).await.unwrap_or_else(late)?;
        self.line = Some(line);
        Ok(outcomes)
    }

    async fn on(&self, line: &Line, jobs: &[Job]) -> Result<Outcomes, Fault> {
        let clean = |problem| Fault { problem, is_clean: true };
        if let Some(outcomes) = self.quickly(line, jobs).await? {
            return Ok(outcomes);
        }
        let ambient = &self.store.ambient;
        let ask = Ask::of(jobs.iter().map(|job| &job.transaction));
        let found = state::begin(line, &ask, ambient, &self.store.quota).await.map_err(clean)?;
        let (mut state, mut answered) = (found.state, found.answered);
        let at = ambient.clock.now();
        let mut outcomes: Outcomes = Vec::new();
        let (mut ready, mut remembered) = (Vec::new(), Vec::new());
        for Job { transaction, asked } in jobs {
            let token = token_place(transaction);
            if let Some(before) = token.as_ref().and_then(|token| answered.get(token))
                && (!before.is_begun() || *asked == Asked::Looked)
            {
                let written = ambient.repeated(transaction, before);
                outcomes.push(written.map(|written| asked.again(before, written)));
                continue;
            }
            let remember = |answer: Vec<Written>| -> Result<Option<Remembered>, Problem> {
                let Some(request) = token.clone() else { return Ok(None) };
                let hash = ambient.hash(transaction, ambient.keys.current_generation())?;
                Ok(Some(Remembered { request, done: Answered { hash, answer } }))
            };
            let outcome = match asked {
                Asked::Looked => Ok(Outcome::Planned(Plan::Nothing)),
                Asked::Written => match state.decide(transaction) {
                    Ok(Decided { written, changes }) => {
                        for change in changes {
                            ready.push(self.ready(change, &transaction.author, at).map_err(clean)?);
                        }
                        remembered.extend(remember(written.clone()).map_err(clean)?);
                        Ok(Outcome::Written(written))
                    }
                    Err(problem) => Err(problem),
                },
                Asked::Planned => {
                    let planned = state.plan(transaction).and_then(|decided| self.planned(&state, decided));
                    if let Ok(Plan::Next(next)) = &planned {
                        let begun = Written { version: next.made.version, revision: 0 };
                        remembered.extend(remember(vec![begun]).map_err(clean)?);
                    }
                    planned.map(Outcome::Planned)
                }
            };
            if let Some(last) =
                remembered.last().filter(|last: &&Remembered| Some(&last.request) == token.as_ref())
            {
                answered.insert(last.request.clone(), last.done.clone());
            }
            outcomes.push(outcome);
        }
        // Of what was begun and then done in one batch, what was done counts.
        let last: BTreeMap<_, _> = remembered.into_iter().map(|one| (one.request.clone(), one)).collect();
        let remembered: Vec<Remembered> = last.into_values().collect();
        let rows = decided_rows(&ready, at);
        let committed = state::commit(line, &ready, &remembered, at).await;
        committed.map_err(|problem| Fault { is_clean: problem.code() == Code::Internal, problem })?;
        self.tell(rows);
        Ok(outcomes)
    }

    /// Writes them where nothing about them needs a decision; none where that is
    /// not so, and nothing was written.
    async fn quickly(&self, line: &Line, jobs: &[Job]) -> Result<Option<Outcomes>, Fault> {
        let written = line.is_quick && jobs.iter().all(|job| job.asked == Asked::Written);
        let transactions = || jobs.iter().map(|job| &job.transaction);
        let Some(quick) = written.then(|| Quick::of(transactions())).flatten() else { return Ok(None) };
        let at = self.store.ambient.clock.now();
        let put = quick::put(line, &quick, &self.store.quota, at).await;
        let put = put.map_err(|(problem, is_clean)| Fault { problem, is_clean })?;
        let Some(put) = put else { return Ok(None) };
        self.tell(quick::rows(transactions(), &put, at));
        let outcome = |(version, revision)| Ok(Outcome::Written(vec![Written { version, revision }]));
        Ok(Some(put.into_iter().map(outcome).collect()))
    }

    /// Tells of what is committed now.
    fn tell(&self, rows: Vec<LogRow>) {
        let Some(last) = rows.last().map(|row| row.revision) else { return };
        if let Some(heard) = &self.heard {
            heard.committed(&rows);
        }
        // Nobody may be listening.
        let _ = self.committed.send(Arc::new(rows));
        // Behind that: whoever has them by now does not read the log for them.
        self.notices.committed(last);
    }

    fn planned(&self, state: &State, decided: Decided) -> Result<Plan, Problem> {
        let Some(Change { place, what: What::Version { version, value, .. }, .. }) =
            decided.changes.into_iter().next()
        else {
            return Ok(Plan::Nothing);
        };
        let newest = state.keys.get(&place).and_then(|key| key.newest);
        let sealed = value.map(|value| self.store.ambient.seal(&place, version, value));
        let made =
            Made { version, value: sealed.transpose().map_err(Problem::internal)?, at: None, behind: None };
        Ok(Plan::Next(Next { expected: newest.map_or(0, |newest| newest.version), made }))
    }

    fn ready(&self, mut change: Change, author: &str, now: OffsetDateTime) -> Result<Ready, Problem> {
        let (mut kept, mut at) = (None, now);
        if let What::Version { version, value, made_at, .. } = &mut change.what {
            at = made_at.unwrap_or(now);
            let sealed = value.take().map(|value| self.store.ambient.seal(&change.place, *version, value));
            *value = sealed.transpose().map_err(Problem::internal)?;
            kept = Some(rows::kept(value.as_ref())?);
        }
        Ok(Ready { change, kept, author: author.to_owned(), at })
    }
}

impl Asked {
    /// What is answered where the request was done or begun under its token before.
    fn again(self, before: &Answered, written: Vec<Written>) -> Outcome {
        match self {
            Self::Written => Outcome::Written(written),
            Self::Looked if before.is_begun() => {
                Outcome::Planned(Plan::Begun(written.first().map_or(0, |first| first.version)))
            }
            Self::Looked | Self::Planned => Outcome::Planned(Plan::Done(written)),
        }
    }
}
