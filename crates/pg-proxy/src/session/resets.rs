//! Whether what a session began with may have been reset on a backend that it
//! keeps. PostgreSQL resets a setting to what the startup packet says, and
//! backends are opened without one of the session's.

use std::collections::HashSet;

use bytes::Bytes;

/// Prepared statements that may reset something and are kept apart; with more
/// any may.
const NAMED_MAX: usize = 100;

/// What may have been reset.
#[derive(Debug, Default)]
pub(super) struct Resets {
    is_due: bool,
    /// The unnamed statement may do so when it runs.
    by_unnamed: bool,
    by_named: HashSet<Bytes>,
    by_any: bool,
}

impl Resets {
    /// A statement runs that may have done so.
    pub fn runs(&mut self, may_reset: bool) {
        self.is_due |= may_reset;
    }

    /// One is prepared by this name.
    pub fn prepares(&mut self, name: &[u8], may_reset: bool) {
        self.is_due |= may_reset;
        if name.is_empty() {
            self.by_unnamed = may_reset;
        } else if !may_reset {
            self.by_named.remove(name);
        } else if self.by_named.len() < NAMED_MAX {
            self.by_named.insert(Bytes::copy_from_slice(name));
        } else {
            self.by_any = true;
        }
    }

    /// Whether it matters which statement is bound.
    pub fn minds_names(&self) -> bool {
        self.by_unnamed || self.by_any || !self.by_named.is_empty()
    }

    /// The one of this name is about to run.
    pub fn binds(&mut self, name: &[u8]) {
        let may_reset = if name.is_empty() { self.by_unnamed } else { self.by_named.contains(name) };
        self.is_due |= may_reset || self.by_any;
    }

    /// Whether anything may have been reset since this was asked last.
    pub fn take(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_prepared_counts_when_it_runs() {
        let mut resets = Resets::default();
        resets.prepares(b"", true);
        resets.prepares(b"s", true);
        assert!(resets.take() && !resets.take());
        for name in [&b""[..], b"s"] {
            resets.binds(name);
            assert!(resets.take());
        }
        resets.binds(b"other");
        assert!(!resets.take());
        resets.prepares(b"", false);
        resets.prepares(b"s", false);
        resets.binds(b"");
        resets.binds(b"s");
        assert!(!resets.take() && !resets.minds_names());
        for number in 0..=NAMED_MAX {
            resets.prepares(format!("s{number}").as_bytes(), true);
        }
        assert!(resets.take() && resets.by_named.len() == NAMED_MAX);
        resets.binds(b"other");
        assert!(resets.take(), "of so many it is not known which");
    }
}
