//! What the events of a stream mean to what is here, decided without a socket
//! or a clock. An event that does not follow from the one before is a fault, and
//! after a fault a whole snapshot is asked for: nothing is guessed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_config_proto::v1;
use thiserror::Error;
use v1::watch_event::{Delta, Event, Heartbeat, Snapshot};

use crate::rules::{Proposal, Rules};
use crate::shared::Origin;
use crate::value::Value;
use crate::view::{Rejection, View};

/// How long a snapshot that goes back in time is refused. A server that lags
/// behind the one before catches up; one that was restored from a backup does
/// not, and is the truth then.
pub(crate) const BACKWARDS_PATIENCE: Duration = Duration::from_secs(60);

/// What a server must not send.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    #[error("a change came before the snapshot")]
    NoSnapshot,
    #[error("a change came between the parts of a snapshot")]
    InSnapshot,
    #[error("the parts of a snapshot are of several revisions")]
    SeveralSnapshots,
    #[error("a change was lost: the server is at {since}, and {have} has come")]
    Missed { since: i64, have: i64 },
    #[error("the snapshot is of revision {offered}, which is before {have}")]
    Backwards { offered: i64, have: i64 },
    #[error("the values take more than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Malformed(&'static str),
}

/// What the client does with a version: runs with it, or says why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub key: Arc<str>,
    pub version: i64,
    /// The scope in which it is set; empty where there is nothing any more.
    pub set_in: Box<str>,
    pub rejection: Option<Arc<str>>,
}

/// What came of an event.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing is known that was not before.
    Nothing,
    /// What is here is current.
    Current,
    /// There is something else here now, which is current.
    Changed(Arc<View>, Vec<Report>),
}

/// The parts of a snapshot that have come.
#[derive(Debug)]
struct Parts {
    revision: i64,
    values: HashMap<Arc<str>, Arc<Value>>,
    bytes: usize,
}

/// Follows a server, over any number of streams.
#[derive(Debug)]
pub(crate) struct Follower {
    view: Arc<View>,
    revision: i64,
    rules: Rules,
    memory_bytes_max: usize,
    parts: Option<Parts>,
    needs_snapshot: bool,
    has_broken_off: bool,
    backwards_since: Option<Instant>,
    client_id: String,
    /// What the last snapshot said of what the tenant is seen by.
    mark: String,
}

/// The longest mark that is kept, in bytes.
const MARK_BYTES_MAX: usize = 1_000;

impl Follower {
    /// Begins with what the file had, or with nothing.
    pub(crate) fn new(view: Arc<View>, rules: Rules, memory_bytes_max: usize, client_id: String) -> Self {
        Self {
            view,
            revision: 0,
            rules,
            memory_bytes_max,
            parts: None,
            needs_snapshot: true,
            has_broken_off: false,
            backwards_since: None,
            client_id,
            mark: String::new(),
        }
    }

    /// Up to where all is here.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Who the client is to the server; empty until the server has said so.
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The mark of the view that a stream goes on with.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// A stream is about to begin; from which revision.
    pub(crate) fn begin(&mut self) -> i64 {
        self.parts = None;
        if self.needs_snapshot { 0 } else { self.revision }
    }

    /// Something has come that could not be read: a whole snapshot is asked for.
    pub(crate) fn lose(&mut self) {
        self.needs_snapshot = true;
        self.parts = None;
    }

    /// A stream has ended so that something may have come that cannot be read. Where
    /// the next one does the same before anything else, it is not a server or proxy
    /// that went away: it would come again.
    pub(crate) fn broke_off(&mut self) {
        if std::mem::replace(&mut self.has_broken_off, true) {
            self.lose();
        }
    }

    /// Takes an event.
    pub(crate) fn take(&mut self, event: v1::WatchEvent, now: Instant) -> Result<Step, Fault> {
        let step = match event.event {
            Some(Event::Snapshot(part)) => self.snapshot(&part, now),
            Some(Event::Delta(delta)) => self.delta(&delta),
            Some(Event::Heartbeat(heartbeat)) => self.heartbeat(&heartbeat),
            None => Err(Fault::Malformed("an event is none")),
        };
        match &step {
            Ok(_) => self.has_broken_off = false,
            Err(_) => self.lose(),
        }
        step
    }

    fn snapshot(&mut self, part: &Snapshot, now: Instant) -> Result<Step, Fault> {
        self.named(&part.client_id);
        if part.revision < self.revision && !self.may_go_back(now) {
            return Err(Fault::Backwards { offered: part.revision, have: self.revision });
        }
        let mut parts = self.parts.take().unwrap_or_else(|| Parts {
            revision: part.revision,
            values: HashMap::new(),
            bytes: 0,
        });
        if parts.revision != part.revision {
            return Err(Fault::SeveralSnapshots);
        }
        for entry in &part.entries {
            let Some(value) = Value::read(entry).map_err(Fault::Malformed)? else { continue };
            parts.bytes += value.memory_bytes();
            if parts.bytes > self.memory_bytes_max {
                return Err(Fault::TooLarge(self.memory_bytes_max));
            }
            parts.values.insert(Arc::clone(&value.key), Arc::new(value));
        }
        if part.more {
            self.parts = Some(parts);
            return Ok(Step::Nothing);
        }
        let step = self.replace(parts)?;
        self.needs_snapshot = false;
        part.view.get(..part.view.len().min(MARK_BYTES_MAX)).unwrap_or_default().clone_into(&mut self.mark);
        self.backwards_since = None;
        Ok(step)
    }

    fn may_go_back(&mut self, now: Instant) -> bool {
        let since = *self.backwards_since.get_or_insert(now);
        now.saturating_duration_since(since) >= BACKWARDS_PATIENCE
    }

    fn replace(&mut self, parts: Parts) -> Result<Step, Fault> {
        let mut draft = Draft::of(&self.view, &self.rules);
        let gone = self.view.values.keys().chain(self.view.rejections.keys());
        let gone: Vec<_> = gone.filter(|key| !parts.values.contains_key(*key)).cloned().collect();
        for key in gone {
            draft.propose(&key, None);
        }
        for (key, value) in parts.values {
            draft.propose(&key, Some(value));
        }
        self.publish(draft.done(), parts.revision)
    }

    fn delta(&mut self, delta: &Delta) -> Result<Step, Fault> {
        self.follows(delta.since)?;
        if delta.revision <= self.revision {
            // It has been here already.
            return Ok(Step::Nothing);
        }
        let mut draft = Draft::of(&self.view, &self.rules);
        for entry in &delta.entries {
            match Value::read(entry).map_err(Fault::Malformed)? {
                Some(value) => draft.propose(&Arc::clone(&value.key), Some(Arc::new(value))),
                None => draft.propose(&entry.key.as_str().into(), None),
            }
        }
        for key in &delta.removed {
            draft.propose(&key.as_str().into(), None);
        }
        self.publish(draft.done(), delta.revision)
    }

    fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<Step, Fault> {
        self.named(&heartbeat.client_id);
        if self.needs_snapshot || self.parts.is_some() {
            return Ok(Step::Nothing);
        }
        self.follows(heartbeat.since)?;
        if heartbeat.revision < self.revision {
            // It is behind the one that was heard before, and knows nothing of now.
            return Ok(Step::Nothing);
        }
        self.revision = heartbeat.revision;
        Ok(Step::Current)
    }

    /// Whether what comes follows what is here.
    fn follows(&self, since: i64) -> Result<(), Fault> {
        if self.parts.is_some() {
            return Err(Fault::InSnapshot);
        }
        if self.needs_snapshot {
            return Err(Fault::NoSnapshot);
        }
        if since > self.revision {
            return Err(Fault::Missed { since, have: self.revision });
        }
        Ok(())
    }

    fn named(&mut self, client_id: &str) {
        if !client_id.is_empty() && client_id.len() <= 100 {
            client_id.clone_into(&mut self.client_id);
        }
    }

    fn publish(&mut self, draft: Done, revision: i64) -> Result<Step, Fault> {
        let is_first = self.view.origin != Origin::Server;
        if !draft.is_different && !is_first {
            self.revision = revision;
            return Ok(Step::Current);
        }
        let mut view = draft.view;
        if view.memory_bytes() > self.memory_bytes_max {
            return Err(Fault::TooLarge(self.memory_bytes_max));
        }
        view.generation = self.view.generation + 1;
        view.revision = revision;
        view.origin = Origin::Server;
        self.revision = revision;
        self.view = Arc::new(view);
        Ok(Step::Changed(Arc::clone(&self.view), draft.reports))
    }
}

/// The next view, while it is made.
struct Draft<'a> {
    rules: &'a Rules,
    done: Done,
}

struct Done {
    view: View,
    is_different: bool,
    reports: Vec<Report>,
}

impl<'a> Draft<'a> {
    fn of(view: &View, rules: &'a Rules) -> Self {
        Self { rules, done: Done { view: view.clone(), is_different: false, reports: Vec::new() } }
    }

    fn done(self) -> Done {
        self.done
    }

    fn propose(&mut self, key: &Arc<str>, new: Option<Arc<Value>>) {
        let Done { view, is_different, reports } = &mut self.done;
        let old = view.values.get(key).cloned();
        let version = new.as_ref().map_or(0, |new| new.version);
        let set_in = new.as_ref().map(|new| new.scope.clone()).unwrap_or_default();
        let is_same = match (&old, &new) {
            (Some(old), Some(new)) => old.is_same_as(new),
            (None, None) => true,
            _ => false,
        };
        let proposal = Proposal { key, new: new.as_deref(), old: old.as_deref() };
        let rejection = if is_same { None } else { self.rules.refuse(&proposal) };
        reports.push(Report { key: Arc::clone(key), version, set_in, rejection: rejection.clone() });
        if let Some(reason) = rejection {
            let rejection = Rejection { version, reason };
            *is_different |= view.rejections.get(key) != Some(&rejection);
            view.rejections.insert(Arc::clone(key), rejection);
            return;
        }
        *is_different |= view.rejections.remove(key).is_some() || !is_same;
        match new {
            Some(new) if !is_same => drop(view.values.insert(Arc::clone(key), new)),
            None => drop(view.values.remove(key)),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
