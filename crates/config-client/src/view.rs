//! All that the client has at one moment. A view does not change: readers keep
//! the one that they have, and get another one for the next moment.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::read::{self, ReadError};
use crate::shared::Origin;
use crate::value::{OVERHEAD_BYTES, Value};

/// A value that the application did not want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which version; 0 where the key was removed.
    pub version: i64,
    /// Why not, in 500 bytes at the most.
    pub reason: Arc<str>,
}

/// What the tenant sees at one moment, all of it from the same revision, the
/// rejected values excepted.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub(crate) generation: u64,
    pub(crate) revision: i64,
    pub(crate) origin: Origin,
    pub(crate) values: HashMap<Arc<str>, Arc<Value>>,
    pub(crate) rejections: HashMap<Arc<str>, Rejection>,
}

impl View {
    /// The change up to which it was true when it was taken over.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// A value as it is.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Arc<Value>> {
        self.values.get(key)
    }

    /// A value as a type of the application's.
    ///
    /// # Errors
    /// Where there is none, or it does not fit; the error names the key.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, ReadError> {
        let value = self.values.get(key).ok_or_else(|| ReadError::Missing { key: key.to_owned() })?;
        read::parse(value)
    }

    /// As [`View::get`], where there may be none.
    ///
    /// # Errors
    /// Where there is one that does not fit.
    pub fn find<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ReadError> {
        self.values.get(key).map(|value| read::parse(value)).transpose()
    }

    /// The values under a prefix, in the order of their keys.
    #[must_use]
    pub fn under(&self, prefix: &str) -> Vec<Arc<Value>> {
        let mut found: Vec<_> =
            self.values.values().filter(|value| value.key.starts_with(prefix)).cloned().collect();
        found.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        found
    }

    /// What was rejected, by key: for each the version before is still in use, if
    /// there is one.
    pub fn rejections(&self) -> impl Iterator<Item = (&str, &Rejection)> {
        self.rejections.iter().map(|(key, rejection)| (&**key, rejection))
    }

    /// What it takes in memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let rejections = self.rejections.iter();
        self.values.values().map(|value| value.memory_bytes()).sum::<usize>()
            + rejections.map(|(key, why)| key.len() + why.reason.len() + OVERHEAD_BYTES).sum::<usize>()
    }
}
