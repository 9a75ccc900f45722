//! The connections of an applier, and what is under way on them.

use tokio::time::Interval;

use super::super::Lsn;
use super::super::pgoutput::ChunksCommit;
use super::chunks::Chunked;
use super::layout::Layout;
use super::rows::Relations;
use super::source::Source;
use super::target::Target;

/// Statements without an answer, at most, in all sessions together.
const WAITING_MAX: usize = 4_096;

/// Bytes of values in statements without an answer, at most, but for one row.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// The connections, and what is under way on them.
#[derive(Debug)]
pub(super) struct Link {
    pub source: Source,
    /// Where the source began to send.
    pub from: Lsn,
    /// Until all before this is applied, no transaction comes in chunks.
    pub whole_until: Option<Lsn>,
    /// The stream's own session, for what comes whole.
    pub target: Target,
    /// What comes in chunks.
    pub chunked: Chunked,
    pub layout: Layout,
    /// The tables of what comes whole.
    pub relations: Relations,
    /// The source's transaction that is being received whole.
    pub under_way: Option<Transaction>,
    /// What must not begin yet.
    pub gated: Option<Gated>,
    /// What the open transaction of the stream's own session will have applied.
    pub pending: Pending,
    /// Up to here everything has come, at a moment when nothing was under way.
    pub complete: Lsn,
    pub ticks: Interval,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    /// Where the record of its commit begins.
    pub final_lsn: Lsn,
    pub is_skipped: bool,
}

/// What waits for the gate.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gated {
    /// The beginning of one that comes whole.
    Whole(Transaction),
    /// The commit of one that has come in chunks.
    Commit(ChunksCommit),
}

impl Gated {
    /// Where the record of the commit begins.
    pub fn final_lsn(&self) -> Lsn {
        match self {
            Self::Whole(transaction) => transaction.final_lsn,
            Self::Commit(commit) => commit.final_lsn,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The end of the last transaction, and when it was committed.
    pub end: Option<(Lsn, i64)>,
    pub transactions: u64,
    pub markers: Vec<String>,
}

impl Link {
    pub fn may_take(&self) -> bool {
        let (statements, bytes) = self.target.waiting();
        let (more, more_bytes) = self.chunked.waiting();
        self.gated.is_none() && statements + more < WAITING_MAX && bytes + more_bytes < WAITING_BYTES_MAX
    }

    /// Whether nothing is committed in part. What has come of transactions that
    /// are not committed at the source is seen by nobody at the target either.
    pub fn is_between(&self) -> bool {
        self.under_way.is_none() && !self.target.is_open()
    }

    /// Has all sessions answer what they have.
    pub fn ask(&mut self) {
        self.target.ask();
        self.chunked.sessions().for_each(Target::ask);
    }
}
