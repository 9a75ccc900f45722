//! The map itself: the current snapshot behind an atomic pointer, one feeder at
//! a time, and those who wait for changes.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use insula_domain::TenantId;
use tokio::sync::watch;

use crate::followers::{Follower, Followers};
use crate::merge::{Applied, Update, merge};
use crate::snapshot::Snapshot;

/// The pushed map from tenant to placement.
#[derive(Debug)]
pub struct RouteMap {
    snapshot: ArcSwap<Snapshot>,
    /// Updates are merged one after the other; readers never wait for this.
    feeding: Mutex<()>,
    followers: Arc<Followers>,
    revision: watch::Sender<i64>,
    ready: watch::Sender<bool>,
}

impl Default for RouteMap {
    fn default() -> Self {
        Self::new()
    }
}

impl RouteMap {
    /// An empty map, which is not ready before the first [`Update::Whole`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            feeding: Mutex::new(()),
            followers: Arc::default(),
            revision: watch::Sender::new(0),
            ready: watch::Sender::new(false),
        }
    }

    /// The state now. Lock-free; hold it for one decision, not for a session.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Takes an update in and wakes who follows what changed.
    pub fn apply(&self, update: Update) -> Applied {
        let feeding = self.feeding.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = matches!(update, Update::Whole { .. });
        let (after, applied) = merge(&self.snapshot.load(), update);
        let revision = after.revision();
        self.snapshot.store(Arc::new(after));
        drop(feeding);
        self.followers.wake(&applied.tenants);
        if !applied.tenants.is_empty() || applied.endpoints > 0 {
            self.revision.send_modify(|known| *known = revision.max(*known));
        }
        if whole {
            self.ready.send_replace(true);
        }
        applied
    }

    /// Follows tenants. To miss nothing, follow first and look at the snapshot
    /// afterwards.
    #[must_use]
    pub fn follow(&self, tenants: impl IntoIterator<Item = TenantId>) -> Follower {
        self.followers.follow(tenants)
    }

    /// Follows everything: the newest revision, marked as changed at every
    /// update that changed something.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Whether the first whole state has come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until the first whole state has come.
    pub async fn ready(&self) {
        // The sender lives as long as the map, so this cannot fail.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }
}

#[cfg(test)]
mod tests;
