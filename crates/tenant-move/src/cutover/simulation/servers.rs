//! The two ends of the simulated move: PostgreSQL servers with an entry,
//! sessions, a log of writes and a sequence, and the stream between them.

use std::collections::{BTreeMap, BTreeSet};

use super::chance::Chance;

/// Which end of the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Target,
}

impl End {
    pub fn other(self) -> Self {
        if self == Self::Source { Self::Target } else { Self::Source }
    }
}

/// A thing in a server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    Write(u64),
    Marker,
}

/// A session of the tenant at a server.
#[derive(Debug, Default)]
pub struct Session {
    /// Whether others can see it: one that has passed the check of its right
    /// to come in is seen only a moment later.
    pub listed: bool,
    /// Its front is gone; the server has not noticed yet.
    pub orphan: bool,
    /// The write whose commit is on its way from a front that is gone.
    pub committing: Option<u64>,
}

/// A server with one placement of the tenant.
#[derive(Debug)]
pub struct Server {
    pub up: bool,
    /// Whether PostgreSQL lets the tenant in.
    pub entry: bool,
    /// The connection that may change the entry.
    pub seat: Option<u64>,
    pub sessions: BTreeMap<u64, Session>,
    pub log: Vec<Record>,
    /// The next value of the sequence.
    pub next_value: u64,
}

impl Server {
    pub fn new(entry: bool) -> Self {
        Self { up: true, entry, seat: None, sessions: BTreeMap::new(), log: Vec::new(), next_value: 1 }
    }

    /// Whether a write could be made here, now or by somebody who is in already.
    pub fn can_be_written_to(&self) -> bool {
        self.entry || !self.sessions.is_empty()
    }

    /// Ends the sessions that can be seen; how many are coming in still.
    pub fn end_sessions(&mut self) -> usize {
        self.sessions.retain(|_, session| !session.listed);
        self.sessions.len()
    }

    /// What was committed stays, the rest is gone.
    pub fn crash(&mut self) {
        self.up = false;
        self.seat = None;
        self.sessions.clear();
    }

    /// A session comes in, or one without a front ends. The write that it
    /// commits on the way, if so.
    pub fn housekeeping(&mut self, chance: &mut Chance) -> Option<u64> {
        if !self.up || self.sessions.is_empty() {
            return None;
        }
        let chosen = chance.index(self.sessions.len());
        let (&id, session) = self.sessions.iter_mut().nth(chosen)?;
        if !session.listed {
            session.listed = true;
            return None;
        }
        if session.orphan {
            let committed = session.committing.filter(|_| chance.percent(50));
            self.sessions.remove(&id);
            return committed;
        }
        None
    }

    pub fn writes(&self) -> impl Iterator<Item = u64> {
        self.log.iter().filter_map(|record| match record {
            Record::Write(number) => Some(*number),
            Record::Marker => None,
        })
    }

    /// The writes, unless one is there twice.
    pub fn distinct_writes(&self) -> Result<BTreeSet<u64>, u64> {
        let mut seen = BTreeSet::new();
        self.writes().try_for_each(|number| if seen.insert(number) { Ok(()) } else { Err(number) })?;
        Ok(seen)
    }
}

/// The stream from the source to the target. What is applied and how far it is
/// are one transaction.
#[derive(Debug, Default)]
pub struct Stream {
    pub received: usize,
    pub applied: usize,
    /// The tenant is at the target: the stream has ended.
    pub ended: bool,
}

impl Stream {
    pub fn step(&mut self, source: &Server, target: &mut Server, chance: &mut Chance) {
        if self.ended {
            return;
        }
        if source.up && chance.percent(50) {
            self.received = source.log.len().min(self.received + chance.index(4));
        } else if target.up && self.applied < self.received {
            let until = self.received.min(self.applied + 1 + chance.index(3));
            let news = source.log[self.applied..until].iter().copied();
            target.log.extend(news.filter(|record| matches!(record, Record::Write(_))));
            self.applied = until;
        }
    }

    /// What was received and not applied is received again.
    pub fn restart(&mut self) {
        self.received = self.applied;
    }
}
