//! Exact counts with limits: how many sessions a tenant, a login or a cluster
//! has. A place is taken or refused in one step, and given back by dropping it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts by key.
#[derive(Debug)]
pub(crate) struct Counter<K> {
    taken: Mutex<HashMap<K, u32>>,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq> {
    counter: Arc<Counter<K>>,
    key: K,
}

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self { taken: Mutex::default() }
    }
}

impl<K: Hash + Eq + Clone> Counter<K> {
    /// A place for the key; the limit as error where all are taken.
    pub fn take(self: &Arc<Self>, key: &K, limit: Option<u32>) -> Result<Place<K>, u32> {
        let limit = limit.unwrap_or(u32::MAX);
        let mut taken = self.lock();
        let count = taken.get(key).copied().unwrap_or(0);
        if count >= limit {
            return Err(limit);
        }
        taken.insert(key.clone(), count + 1);
        drop(taken);
        Ok(Place { counter: Arc::clone(self), key: key.clone() })
    }
}

impl<K: Hash + Eq + Clone> Counter<K> {
    /// How many places are taken, by key.
    pub fn all(&self) -> HashMap<K, u32> {
        self.lock().clone()
    }
}

impl<K> Counter<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        // Nothing in here can be left half-changed by a panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.counter.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact_and_places_come_back() {
        let counter = Arc::new(Counter::default());
        let first = counter.take(&"a", Some(2)).unwrap();
        let second = counter.take(&"a", Some(2)).unwrap();
        assert_eq!(counter.take(&"a", Some(2)).unwrap_err(), 2);
        assert!(counter.take(&"b", Some(1)).is_ok(), "another key has places of its own");
        assert!(counter.take(&"a", None).is_ok(), "without a limit there is always one");
        drop(first);
        let third = counter.take(&"a", Some(2)).unwrap();
        drop((second, third));
        assert!(counter.lock().is_empty(), "nothing is kept for keys without sessions");
        assert_eq!(counter.take(&"a", Some(0)).unwrap_err(), 0);
    }

    #[test]
    fn many_at_once_never_pass_the_limit() {
        let counter = Arc::new(Counter::default());
        let taken: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| counter.take(&1, Some(7)).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 7);
    }
}
