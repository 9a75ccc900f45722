//! What is counted of each tenant, from the beginning of the process on. Who
//! counts needs no lock, but for a session that is pinned.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_domain::TenantId;

/// One tenant's.
#[derive(Debug, Default)]
pub(crate) struct Account {
    transactions: AtomicU64,
    errors: AtomicU64,
    bytes_from_clients: AtomicU64,
    bytes_to_clients: AtomicU64,
    waits: AtomicU64,
    waited_us: AtomicU64,
    longest_wait_us: AtomicU64,
    /// Of prepared statements that its sessions remember now.
    statement_bytes: AtomicU64,
    pins: Mutex<BTreeMap<&'static str, u64>>,
}

/// What an account says at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub transactions: u64,
    pub errors: u64,
    pub bytes_from_clients: u64,
    pub bytes_to_clients: u64,
    pub waits: u64,
    pub waited_us: u64,
    pub pins: u64,
}

impl Counts {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What was counted since these.
    pub fn since(self, before: Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn with(self, other: Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            transactions: both(self.transactions, other.transactions),
            errors: both(self.errors, other.errors),
            bytes_from_clients: both(self.bytes_from_clients, other.bytes_from_clients),
            bytes_to_clients: both(self.bytes_to_clients, other.bytes_to_clients),
            waits: both(self.waits, other.waits),
            waited_us: both(self.waited_us, other.waited_us),
            pins: both(self.pins, other.pins),
        }
    }
}

impl Account {
    pub fn transactions(&self, count: u32) {
        self.transactions.fetch_add(count.into(), Ordering::Relaxed);
    }

    /// Errors that clients were sent.
    pub fn errors(&self, count: u32) {
        self.errors.fetch_add(count.into(), Ordering::Relaxed);
    }

    pub fn bytes_from_clients(&self, count: usize) {
        self.bytes_from_clients.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn bytes_to_clients(&self, count: usize) {
        self.bytes_to_clients.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// A session has waited for a backend, whatever came of it.
    pub fn waited(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.waited_us.fetch_add(time, Ordering::Relaxed);
        self.longest_wait_us.fetch_max(time, Ordering::Relaxed);
    }

    /// A session keeps its backend from here on, for one of the front's own
    /// reasons.
    pub fn pinned(&self, reason: &'static str) {
        *lock(&self.pins).entry(reason).or_default() += 1;
    }

    /// A session remembers so many bytes more of prepared statements.
    pub fn remembers(&self, bytes: usize) {
        self.statement_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// And so many fewer.
    pub fn forgets(&self, bytes: usize) {
        self.statement_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// What all its sessions remember of them.
    pub fn statement_bytes(&self) -> u64 {
        self.statement_bytes.load(Ordering::Relaxed)
    }

    pub fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            transactions: load(&self.transactions),
            errors: load(&self.errors),
            bytes_from_clients: load(&self.bytes_from_clients),
            bytes_to_clients: load(&self.bytes_to_clients),
            waits: load(&self.waits),
            waited_us: load(&self.waited_us),
            pins: lock(&self.pins).values().sum(),
        }
    }

    pub fn longest_wait(&self) -> Duration {
        Duration::from_micros(self.longest_wait_us.load(Ordering::Relaxed))
    }

    pub fn pins(&self) -> BTreeMap<String, u64> {
        lock(&self.pins).iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }
}

/// All tenants that have been here.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_tenant: Mutex<HashMap<TenantId, Arc<Account>>>,
}

impl Accounts {
    /// The tenant's account, which begins here where it has none.
    pub fn of(&self, tenant: TenantId) -> Arc<Account> {
        Arc::clone(lock(&self.by_tenant).entry(tenant).or_default())
    }

    pub fn all(&self) -> HashMap<TenantId, Arc<Account>> {
        lock(&self.by_tenant).clone()
    }

    /// Forgets tenants that are gone, and of which nobody is here any more.
    pub fn forget(&self, is_gone: impl Fn(TenantId) -> bool) {
        lock(&self.by_tenant).retain(|tenant, account| Arc::strong_count(account) > 1 || !is_gone(*tenant));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_account_adds_up() {
        let account = Account::default();
        account.transactions(2);
        account.transactions(1);
        account.waited(Duration::from_millis(5));
        account.waited(Duration::from_millis(3));
        account.pinned("listen");
        account.pinned("listen");
        account.pinned("unclear");
        let counts = account.counts();
        assert_eq!((counts.transactions, counts.waits, counts.waited_us, counts.pins), (3, 2, 8_000, 3));
        assert_eq!(account.longest_wait(), Duration::from_millis(5));
        assert_eq!(account.pins(), [("listen".to_owned(), 2), ("unclear".to_owned(), 1)].into());
    }

    #[test]
    fn only_who_is_gone_and_has_nobody_here_is_forgotten() {
        let (accounts, tenant) = (Accounts::default(), |number| TenantId::from(Uuid::from_u128(number)));
        accounts.of(tenant(1)).transactions(1);
        accounts.of(tenant(2)).transactions(1);
        let still_here = accounts.of(tenant(3));
        accounts.forget(|id| id != tenant(1));
        let mut left: Vec<_> = accounts.all().into_keys().collect();
        left.sort_unstable();
        assert_eq!(left, [tenant(1), tenant(3)]);
        drop(still_here);
        accounts.forget(|_| true);
        assert!(accounts.all().is_empty());
    }
}
