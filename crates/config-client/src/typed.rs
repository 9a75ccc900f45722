//! A value that is parsed once per version, and then costs its readers a
//! comparison of two numbers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;

use crate::read::{self, ReadError};
use crate::shared::Shared;
use crate::value::Value;

/// A key with the type that the application reads it as.
#[derive(Debug)]
pub struct Typed<T> {
    shared: Arc<Shared>,
    key: Arc<str>,
    parsed: ArcSwap<Parsed<T>>,
}

#[derive(Debug)]
struct Parsed<T> {
    generation: u64,
    of: Option<Arc<Value>>,
    value: Result<Arc<T>, ReadError>,
}

impl<T: DeserializeOwned> Typed<T> {
    pub(crate) fn new(shared: Arc<Shared>, key: &str) -> Self {
        let view = shared.view.load_full();
        let parsed = ArcSwap::from_pointee(Parsed::of(key, view.generation, view.value(key)));
        Self { shared, key: key.into(), parsed }
    }

    /// The value that is there now.
    ///
    /// # Errors
    /// As [`crate::View::get`].
    pub fn get(&self) -> Result<Arc<T>, ReadError> {
        let view = self.shared.view.load();
        let parsed = self.parsed.load();
        if parsed.generation == view.generation {
            return parsed.value.clone();
        }
        let current = view.value(&self.key);
        let is_same = match (&parsed.of, current) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let next = if is_same {
            Parsed { generation: view.generation, of: current.cloned(), value: parsed.value.clone() }
        } else {
            Parsed::of(&self.key, view.generation, current)
        };
        let value = next.value.clone();
        // Two readers may do this at once; whichever is last, the next reader
        // compares again.
        self.parsed.store(Arc::new(next));
        value
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl<T: DeserializeOwned> Parsed<T> {
    fn of(key: &str, generation: u64, value: Option<&Arc<Value>>) -> Self {
        let missing = || ReadError::Missing { key: key.to_owned() };
        let parsed = value.ok_or_else(missing).and_then(|value| read::parse(value).map(Arc::new));
        Self { generation, of: value.cloned(), value: parsed }
    }
}
