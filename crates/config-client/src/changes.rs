//! Being told of changes. Who is slow is told of the newest state, and not of
//! every one on the way there; the last one is never left out.

use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::watch;

use crate::view::View;

/// What is different from the time before.
#[derive(Debug, Clone)]
pub struct Change {
    /// All that holds now.
    pub view: Arc<View>,
    /// The keys that are new or have another value, in their order.
    pub changed: Vec<Arc<str>>,
    /// The keys that are not there any more, in their order.
    pub removed: Vec<Arc<str>>,
}

/// Tells of changes under a prefix.
#[derive(Debug)]
pub struct Changes {
    views: watch::Receiver<Arc<View>>,
    seen: Arc<View>,
    prefix: String,
}

impl Changes {
    pub(crate) fn new(mut views: watch::Receiver<Arc<View>>, prefix: &str) -> Self {
        let seen = Arc::clone(&views.borrow_and_update());
        Self { views, seen, prefix: prefix.to_owned() }
    }

    /// What holds already, and [`Changes::next`] does not tell of.
    #[must_use]
    pub fn seen(&self) -> &Arc<View> {
        &self.seen
    }

    /// Waits for the next change; none when the client is closed. May be given up
    /// and asked again without missing anything.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            self.views.changed().await.ok()?;
            let view = Arc::clone(&self.views.borrow_and_update());
            let (changed, removed) = difference(&self.seen, &view, &self.prefix);
            self.seen = Arc::clone(&view);
            if !changed.is_empty() || !removed.is_empty() {
                return Some(Change { view, changed, removed });
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Change> + Send {
        futures_util::stream::unfold(self, |mut changes| async move {
            changes.next().await.map(|change| (change, changes))
        })
    }
}

fn difference(old: &View, new: &View, prefix: &str) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let is_same = |key: &Arc<str>| match (old.values.get(key), new.values.get(key)) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    };
    let of_prefix = |key: &&Arc<str>| key.starts_with(prefix);
    let mut changed: Vec<_> =
        new.values.keys().filter(of_prefix).filter(|key| !is_same(key)).cloned().collect();
    let mut removed: Vec<_> =
        old.values.keys().filter(of_prefix).filter(|key| !new.values.contains_key(*key)).cloned().collect();
    changed.sort_unstable();
    removed.sort_unstable();
    (changed, removed)
}
