//! How far a comparison is, to be looked at while it runs, and what it has found
//! equal, for the worker that goes on where another one has died. What is recorded
//! holds no value of a row.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::super::CopyProgress;
use super::ends::Sum;

/// What was found equal, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Compared(BTreeMap<String, Equal>);

impl Compared {
    /// How many rows were.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.0.values().map(|equal| equal.rows).sum()
    }
}

/// The first rows of a table in the order of its key, or all of them, that were
/// equal at both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Equal {
    /// How many.
    pub(super) rows: u64,
    /// Their checksum.
    sum: String,
    /// A digest of the last one's key; none where they are all.
    pub(super) up_to: Option<String>,
    /// At the source and at the target, before which transaction all had ended.
    pub(super) since: [u64; 2],
}

impl Equal {
    pub(super) fn new(sum: Sum, up_to: Option<&[String]>, since: [u64; 2]) -> Self {
        Self { rows: sum.rows, sum: sum.digits(), up_to: up_to.map(digest), since }
    }

    /// None where it was not written by [`Self::new`].
    pub(super) fn sum(&self) -> Option<Sum> {
        let sum = u128::from_str_radix(&self.sum, 16).ok()?;
        Some(Sum { rows: self.rows, sum: sum.cast_signed() })
    }
}

/// By which a key is known again that is told to nobody.
pub(super) fn digest(key: &[String]) -> String {
    let mut digest = Md5::new();
    for value in key {
        digest.update(value.len().to_be_bytes());
        digest.update(value);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A comparison, as others see it while it runs.
#[derive(Debug, Default)]
pub struct Comparison {
    progress: CopyProgress,
    equal: Mutex<Compared>,
}

impl Comparison {
    /// One that goes on from what was recorded before.
    #[must_use]
    pub fn going_on(from: Compared) -> Self {
        Self { progress: CopyProgress::default(), equal: Mutex::new(from) }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> &CopyProgress {
        &self.progress
    }

    /// What was found equal up to now.
    #[must_use]
    pub fn compared(&self) -> Compared {
        self.equal().clone()
    }

    /// What is recorded of a table.
    pub(super) fn of(&self, table: &str) -> Option<Equal> {
        self.equal().0.get(table).cloned()
    }

    /// Records something else of a table, or nothing any more.
    pub(super) fn note(&self, table: &str, equal: Option<Equal>) {
        let mut all = self.equal();
        match equal {
            Some(equal) => all.0.insert(table.to_owned(), equal),
            None => all.0.remove(table),
        };
    }

    fn equal(&self) -> MutexGuard<'_, Compared> {
        self.equal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_below_zero_is_read_as_it_was_written() {
        for sum in [Sum { rows: 7, sum: -42 }, Sum { rows: 0, sum: i128::MAX }] {
            assert_eq!(Equal::new(sum, None, [1, 2]).sum(), Some(sum));
        }
    }

    #[test]
    fn keys_have_the_same_digest_only_where_they_are_the_same() {
        let key = |values: &[&str]| digest(&values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>());
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab", ""]));
        assert_ne!(key(&["a"]), key(&["b"]));
    }
}
