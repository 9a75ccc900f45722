//! Transactions that come in chunks while they run: each is applied in a session
//! of its own at the target, in one transaction, so that little is left to do
//! when it is committed.
//!
//! All that a change builds on was committed at the source before it was made,
//! so that it has come before its chunk: it is committed at the target before
//! the chunk is applied. What is committed later changes no row of a transaction
//! that is open, because that row is locked. So sessions do not wait for each
//! other, but for what fails in the end: PostgreSQL writes a row into its log
//! before it finds in an index that the key is there, or waits for who has it.
//! Such a row may come in a chunk. Therefore, no error of a life with chunks is
//! the last word on it; the source sends all again, whole.
//!
//! Commits at the target are one behind the other, in the order of the source's,
//! and each has the stream's one origin: the stream's own session leaves it to the
//! one that commits. How far the stream is remains one place, and a session of
//! an applier that was replaced can commit nothing, since it does not get the
//! origin. Its rows have no origin before their commit, and need none: a stream
//! that leaves them out takes no chunks while it may come by such a transaction.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::{pending, select_all};
use tokio::time::timeout;

use super::super::Lsn;
use super::super::pgoutput::{Change, ChunksCommit, Part};
use super::fault::StreamFault;
use super::link::Link;
use super::measure;
use super::rows::{Relations, apply};
use super::run::Runner;
use super::source::has_none_left_out;
use super::target::Target;

/// Transactions that are applied at once while they run, at most.
const SESSIONS_MAX: usize = 4;

/// What may be rolled back by itself within one of them, at most.
const SAVEPOINTS_MAX: usize = 1_000;

/// How long the opening of a session may take, and a question to the source:
/// nothing else goes on meanwhile.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// What has come of transactions that are not committed.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    open: HashMap<u32, Open>,
    /// Sessions in which no transaction is open.
    idle: Vec<Target>,
    /// Whether one of them is being committed.
    is_ending: bool,
}

/// A transaction that is not committed.
#[derive(Debug, Default)]
struct Open {
    /// Where its rows are; none before the first.
    session: Option<Target>,
    is_skipped: bool,
    /// The tables of its chunks; of others' once it is committed.
    relations: Relations,
    /// What has begun within it, and how many rows there were.
    savepoints: Vec<(u32, u64)>,
    markers: Vec<String>,
}

impl Chunked {
    /// All sessions.
    pub fn sessions(&mut self) -> impl Iterator<Item = &mut Target> {
        self.open.values_mut().filter_map(|open| open.session.as_mut()).chain(&mut self.idle)
    }

    /// Whether rows of transactions are at the target that are not committed.
    pub fn is_at_work(&self) -> bool {
        self.is_ending || self.open.values().any(|open| open.session.is_some())
    }

    /// What waits for its answer: statements, and bytes of values in them.
    pub fn waiting(&self) -> (usize, usize) {
        let sessions = self.open.values().filter_map(|open| open.session.as_ref());
        sessions
            .map(Target::waiting)
            .fold((0, 0), |(statements, bytes), (more, more_bytes)| (statements + more, bytes + more_bytes))
    }

    /// Takes the next message of one of the sessions. May be dropped and asked
    /// again without a loss.
    pub async fn answer(&mut self) -> Result<(), StreamFault> {
        let answers: Vec<_> = self.sessions().map(|session| Box::pin(session.answer())).collect();
        if answers.is_empty() { pending().await } else { select_all(answers).await.0 }
    }

    /// Ends all sessions; what is open in them is rolled back.
    pub async fn end(mut self) {
        let open = self.open.into_values().filter_map(|open| open.session);
        for session in open.chain(self.idle.drain(..)) {
            session.end().await;
        }
    }

    fn count(&self) -> usize {
        self.idle.len() + self.open.values().filter(|open| open.session.is_some()).count()
    }
}

impl Open {
    /// Sees to it that a change can be rolled back with what it belongs to: the
    /// transactions inside another one follow each other, or are inside each
    /// other, so that all behind the first change of one that is rolled back
    /// belongs to it.
    fn enter(&mut self, part: Part) -> Result<(), Whole> {
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        if part.inner == part.xid || self.savepoints.iter().any(|(inner, _)| *inner == part.inner) {
            return Ok(());
        }
        if self.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(Whole("too much may be rolled back by itself"));
        }
        self.savepoints.push((part.inner, session.rows));
        session.savepoint(part.inner);
        Ok(())
    }

    /// Rolls back what has begun within the transaction. What has changed nothing,
    /// or was rolled back with what it was in, is not known here.
    fn roll_back(&mut self, inner: u32) {
        let Some(session) = self.session.as_mut() else { return };
        if let Some(index) = self.savepoints.iter().position(|(begun, _)| *begun == inner) {
            session.roll_back_to(inner, self.savepoints[index].1);
            self.savepoints.truncate(index);
        }
    }
}

fn silent() -> StreamFault {
    StreamFault::Away("a server does not answer".to_owned())
}

/// Why transactions are to come whole.
struct Whole(&'static str);

impl Runner {
    /// Takes what comes in a chunk.
    pub(super) async fn take_part(
        &mut self,
        link: &mut Link,
        part: Part,
        change: Change,
    ) -> Result<(), StreamFault> {
        match change {
            Change::Relation(message) => {
                let relation = link.layout.relation(&message);
                link.chunked.open.entry(part.xid).or_default().relations.insert(message.id, relation);
            }
            Change::Origin(name) => {
                let is_skipped = self.is_skipped(&name);
                link.chunked.open.entry(part.xid).or_default().is_skipped = is_skipped;
            }
            Change::Logical { transactional: true, prefix, content } => {
                let marker = self.marker(&prefix, &content);
                if let Some(marker) = marker {
                    link.chunked.open.entry(part.xid).or_default().markers.push(marker);
                }
            }
            Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. } | Change::Truncate(_) => {
                self.row_of_part(link, part, change).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn row_of_part(&mut self, link: &mut Link, part: Part, change: Change) -> Result<(), StreamFault> {
        if link.chunked.open.get(&part.xid).is_some_and(|open| open.is_skipped) {
            return Ok(());
        }
        // What it builds on is among this, if it is not at the target yet.
        if link.target.is_open() {
            self.commit(link).await?;
        }
        if link.chunked.open.get(&part.xid).is_none_or(|open| open.session.is_none()) {
            let session = self.session(link).await?;
            link.chunked.open.entry(part.xid).or_default().session = Some(session);
        }
        let open = link.chunked.open.entry(part.xid).or_default();
        open.enter(part).map_err(|why| self.come_whole(&why))?;
        match &mut open.session {
            Some(session) => apply(session, &open.relations, change),
            None => Ok(()),
        }
    }

    /// A session for a transaction of which the first row has come.
    async fn session(&mut self, link: &mut Link) -> Result<Target, StreamFault> {
        if let Some(session) = link.chunked.idle.pop() {
            return Ok(session);
        }
        if link.chunked.count() >= SESSIONS_MAX {
            return Err(self.come_whole(&Whole("too many large transactions run at once")));
        }
        let (place, tables) = (&self.spec.target, self.tables.clone());
        let opening = async {
            let session = Target::open_beside(place, self.spec.name, tables, &mut self.at_target).await?;
            link.target.is_among_others().await?;
            Ok(session)
        };
        match timeout(OPENED_WITHIN, opening).await.unwrap_or_else(|_| Err(silent())) {
            Ok(session) => Ok(session),
            Err(StreamFault::Superseded) => Err(StreamFault::Superseded),
            Err(fault) => {
                tracing::debug!(%fault, stream = %self.spec.name, "no session for a large transaction");
                Err(self.come_whole(&Whole("the target has no session for a large transaction")))
            }
        }
    }

    /// Whether nothing of what the source may have sent is to be left out, as far
    /// as it can be known now.
    async fn has_none_left_out(&self, from: Lsn) -> bool {
        let asking = has_none_left_out(&self.spec.source, &self.spec.skip_origins, from);
        match timeout(OPENED_WITHIN, asking).await.unwrap_or_else(|_| Err(silent())) {
            Ok(has_none) => has_none,
            Err(fault) => {
                tracing::debug!(%fault, stream = %self.spec.name, "it is not known what is to be left out");
                false
            }
        }
    }

    /// Notes that the source is to send all again, whole.
    fn come_whole(&mut self, why: &Whole) -> StreamFault {
        self.falls_back = Some(why.0);
        StreamFault::Away(why.0.to_owned())
    }

    /// A transaction was rolled back, or something inside it.
    pub(super) async fn chunks_abort(
        &mut self,
        link: &mut Link,
        xid: u32,
        inner: u32,
    ) -> Result<(), StreamFault> {
        if inner != xid {
            let Some(open) = link.chunked.open.get_mut(&xid) else { return Ok(()) };
            open.roll_back(inner);
            // Who has waited at the source for this comes next, and would wait at the target for what was not sent.
            let Some(session) = &mut open.session else { return Ok(()) };
            session.ask();
            return self.answered(&mut link.source, &mut link.ticks, session).await;
        }
        let Some(mut session) = link.chunked.open.remove(&xid).and_then(|open| open.session) else {
            return Ok(());
        };
        session.roll_back();
        match self.answered(&mut link.source, &mut link.ticks, &mut session).await {
            Ok(()) => link.chunked.idle.push(session),
            // All that was to be done in it is not wanted any more, and ends with it. That a whole server is away is
            // noticed by the other connections to it.
            Err(fault) => {
                tracing::debug!(%fault, stream = %self.spec.name, "the session of what is rolled back has failed");
            }
        }
        Ok(())
    }

    /// Commits at the target what has come in chunks, behind all that was
    /// committed at the source before.
    pub(super) async fn chunks_commit(
        &mut self,
        link: &mut Link,
        commit: ChunksCommit,
    ) -> Result<(), StreamFault> {
        let open = link.chunked.open.remove(&commit.xid).unwrap_or_default();
        link.relations.extend(open.relations);
        let end = (commit.end_lsn, commit.committed);
        let Some(mut session) = open.session else {
            // There was nothing of ours in it.
            link.pending.markers.extend(open.markers);
            return self.ended(link, commit.final_lsn, end).await;
        };
        link.chunked.is_ending = true;
        if link.target.is_open() {
            self.commit(link).await?;
        }
        if !self.has_none_left_out(link.from).await {
            return Err(self.come_whole(&Whole("some of the transactions may be to be left out")));
        }
        let rows = session.rows;
        session.ask();
        self.answered(&mut link.source, &mut link.ticks, &mut session).await?;
        link.target.leave_origin();
        self.answered(&mut link.source, &mut link.ticks, &mut link.target).await?;
        session.commit_beside(commit.end_lsn, commit.committed);
        self.answered(&mut link.source, &mut link.ticks, &mut session).await?;
        link.target.take_origin();
        self.answered(&mut link.source, &mut link.ticks, &mut link.target).await?;
        link.chunked.is_ending = false;
        link.chunked.idle.push(session);
        self.noted(commit.final_lsn);
        link.pending.end = Some(end);
        link.pending.transactions += 1;
        link.pending.markers.extend(open.markers);
        self.progress.send_if_modified(|progress| {
            progress.streamed += 1;
            false
        });
        measure::streamed();
        self.committed(link, rows).await
    }
}
