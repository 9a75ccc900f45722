//! Who is to be woken when a tenant changes. A session follows the few tenants
//! that it depends on, so that a change wakes the sessions of that tenant and
//! no others, however many tenants and sessions there are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_domain::TenantId;
use tokio::sync::Notify;

type Wakers = HashMap<TenantId, HashMap<u64, Arc<Notify>>>;

#[derive(Debug, Default)]
pub(crate) struct Followers {
    registered: Mutex<Registered>,
}

#[derive(Debug, Default)]
struct Registered {
    next: u64,
    wakers: Wakers,
}

impl Followers {
    pub(crate) fn follow(self: &Arc<Self>, tenants: impl IntoIterator<Item = TenantId>) -> Follower {
        let tenants: HashSet<_> = tenants.into_iter().collect();
        let waker = Arc::new(Notify::new());
        let mut registered = self.lock();
        let number = registered.next;
        registered.next += 1;
        for tenant in &tenants {
            registered.wakers.entry(*tenant).or_default().insert(number, Arc::clone(&waker));
        }
        drop(registered);
        Follower { followers: Arc::clone(self), number, tenants, waker }
    }

    pub(crate) fn wake(&self, changed: &HashSet<TenantId>) {
        let registered = self.lock();
        for tenant in changed {
            for waker in registered.wakers.get(tenant).into_iter().flat_map(HashMap::values) {
                waker.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        // Nothing in here can be left half-changed by a panic.
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn followed_tenants(&self) -> usize {
        self.lock().wakers.len()
    }
}

/// Follows some tenants until it is dropped.
#[derive(Debug)]
pub struct Follower {
    followers: Arc<Followers>,
    number: u64,
    tenants: HashSet<TenantId>,
    waker: Arc<Notify>,
}

impl Follower {
    /// Waits until one of the tenants, or a login of one of them, has changed
    /// since the follower was made or since this returned the last time. It may
    /// return for a change that was already seen. Safe to be cancelled.
    pub async fn changed(&self) {
        self.waker.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut registered = self.followers.lock();
        for tenant in &self.tenants {
            if let Some(wakers) = registered.wakers.get_mut(tenant) {
                wakers.remove(&self.number);
                if wakers.is_empty() {
                    registered.wakers.remove(tenant);
                }
            }
        }
    }
}
