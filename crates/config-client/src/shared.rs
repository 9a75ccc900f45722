//! What the readers and the task that follows the server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::dial::Stub;
use crate::view::View;

/// Where values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// There are none yet.
    #[default]
    Nothing,
    /// The file of an earlier run; the server has not been heard yet.
    Disk,
    /// The server.
    Server,
}

/// How the client stands with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not got through yet.
    Connecting,
    /// It follows.
    Following,
    /// It does not get through, and goes on trying; why, in words.
    Away(Arc<str>),
    /// The server does not let it in, and it goes on trying, slowly; why, in words.
    Refused(Arc<str>),
}

/// How fresh the values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// Where they come from.
    pub origin: Origin,
    /// Whether the client hears the server now.
    pub connected: bool,
    /// How long ago the server last said that they are current; none where it
    /// has not yet. By the monotonic clock.
    pub age: Option<Duration>,
    /// The change up to which they were current then.
    pub revision: i64,
    /// How the client stands with the server.
    pub standing: Standing,
    /// What is wrong with the file of the last good values, in words.
    pub file_trouble: Option<Arc<str>>,
}

impl Freshness {
    /// Whether the server has said within this time that the values are current.
    #[must_use]
    pub fn is_within(&self, age: Duration) -> bool {
        self.age.is_some_and(|now| now <= age)
    }
}

/// The state that is read from everywhere.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) stub: ArcSwapOption<Stub>,
    pub(crate) file_trouble: ArcSwapOption<String>,
    revision: AtomicI64,
    born: Instant,
    /// Nanoseconds from birth to the last word, and one; 0 is none.
    last_word: AtomicU64,
}

impl Shared {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self {
            revision: AtomicI64::new(view.revision),
            view: ArcSwap::new(view),
            standing: watch::Sender::new(Standing::Connecting),
            stub: ArcSwapOption::empty(),
            file_trouble: ArcSwapOption::empty(),
            born: Instant::now(),
            last_word: AtomicU64::new(0),
        }
    }

    /// The server has said that what is here is current up to this revision.
    pub(crate) fn heard(&self, revision: i64, now: Instant) {
        let since =
            u64::try_from(now.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX - 1);
        self.revision.store(revision, Ordering::Relaxed);
        self.last_word.store(since.saturating_add(1), Ordering::Relaxed);
        self.standing.send_if_modified(|standing| {
            let is_new = *standing != Standing::Following;
            *standing = Standing::Following;
            is_new
        });
    }

    pub(crate) fn freshness(&self, now: Instant) -> Freshness {
        let standing = self.standing.borrow().clone();
        let heard = self.last_word.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos);
        Freshness {
            origin: self.view.load().origin,
            connected: standing == Standing::Following,
            age: heard.map(|heard| now.saturating_duration_since(self.born).saturating_sub(heard)),
            revision: self.revision.load(Ordering::Relaxed),
            standing,
            file_trouble: self.file_trouble.load().as_ref().map(|trouble| trouble.as_str().into()),
        }
    }
}
