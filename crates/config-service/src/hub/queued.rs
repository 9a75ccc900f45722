//! How many bytes wait for watchers in all topics of a hub together: what was
//! told counts until the last who has still to take it has it, or has left.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::state::Told;

/// What an entry of something told takes beside its bytes.
const EACH: usize = 200;

/// The bytes that wait.
#[derive(Debug, Default)]
pub struct Queued(Arc<AtomicUsize>);

impl Queued {
    /// How many there are.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Something that waits from now on.
    pub fn count(&self, told: Arc<Told>) -> Arc<Waiting> {
        // The entries share their bytes with the values of the hub only as long
        // as those are the newest.
        let single = told.single.iter().filter_map(|one| one.item.as_ref());
        let of_entries: usize = single.map(|item| item.part.len() + EACH).sum();
        let bytes = told.parts.len() + of_entries;
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Waiting { told, bytes, all: self.0.clone() })
    }
}

/// Something told that waits for those who have still to take it.
#[derive(Debug)]
pub struct Waiting {
    told: Arc<Told>,
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Deref for Waiting {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.told
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_was_told_counts_once_and_until_nobody_has_it() {
        let queued = Queued::default();
        let told = Arc::new(Told {
            revision: 1,
            parts: Bytes::from_static(b"12345"),
            is_long: false,
            single: Vec::new(),
        });
        let first = queued.count(told.clone());
        let same = first.clone();
        let second = queued.count(told);
        assert_eq!((queued.bytes(), first.revision), (10, 1));
        drop(second);
        drop(first);
        assert_eq!(queued.bytes(), 5, "somebody has still to take it");
        drop(same);
        assert_eq!(queued.bytes(), 0);
    }
}
