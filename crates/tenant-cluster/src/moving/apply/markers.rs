//! Markers: words written into the source's log, of which somebody waits to
//! hear that everything before them is applied. Only words that are waited for
//! are kept, so that nobody can fill the memory with others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The prefix of our messages in the log.
pub(super) const PREFIX: &str = "insula";

/// Who waits for what.
#[derive(Debug, Clone, Default)]
pub(super) struct Markers(Arc<Mutex<HashMap<String, watch::Sender<bool>>>>);

impl Markers {
    /// Begins to wait for a marker.
    pub fn expect(&self, id: &str) -> watch::Receiver<bool> {
        self.book().entry(id.to_owned()).or_insert_with(|| watch::channel(false).0).subscribe()
    }

    /// Whether somebody waits for it.
    pub fn is_expected(&self, id: &str) -> bool {
        self.book().contains_key(id)
    }

    /// Tells whoever waits.
    pub fn announce(&self, id: &str) {
        if let Some(waiting) = self.book().get(id) {
            waiting.send_replace(true);
        }
    }

    /// Ends the wait of one; the word is forgotten with the last.
    pub fn forget(&self, id: &str) {
        let mut book = self.book();
        if book.get(id).is_some_and(|waiting| waiting.receiver_count() <= 1) {
            book.remove(id);
        }
    }

    fn book(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_waited_for_is_kept() {
        let markers = Markers::default();
        markers.announce("a");
        assert!(!markers.is_expected("a"));
        let (one, other) = (markers.expect("a"), markers.expect("a"));
        assert!(markers.is_expected("a") && !*one.borrow());
        markers.announce("a");
        assert!(*one.borrow() && *other.borrow());
        markers.forget("a");
        drop(one);
        assert!(markers.is_expected("a"), "another waits");
        markers.forget("a");
        assert!(!markers.is_expected("a"));
    }
}
