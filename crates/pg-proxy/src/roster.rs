//! The backends that there are, to be shown: each is in here from when it is
//! open to its end, and says itself what becomes of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use insula_domain::{ClusterName, RoleName, TenantId};

/// All backends, and the clock by which they are measured.
#[derive(Debug)]
pub(crate) struct Roster {
    began: Instant,
    backends: Mutex<Backends>,
}

#[derive(Debug, Default)]
struct Backends {
    next: u64,
    by_number: BTreeMap<u64, Arc<Seen>>,
}

/// What is to be seen of a backend.
#[derive(Debug)]
pub(crate) struct Seen {
    pub who: Who,
    opened_ms: u64,
    used_ms: AtomicU64,
    in_use: AtomicBool,
    transactions: AtomicU64,
}

/// Which backend.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub cluster: ClusterName,
    pub tenant: TenantId,
    pub role: RoleName,
    pub process_id: u32,
}

/// A backend's entry, as long as it lives.
#[derive(Debug)]
pub(crate) struct Badge {
    roster: Arc<Roster>,
    number: u64,
    seen: Arc<Seen>,
}

impl Roster {
    /// One whose clock begins here.
    pub fn new(began: Instant) -> Self {
        Self { began, backends: Mutex::default() }
    }

    /// A backend was opened.
    pub fn enter(self: &Arc<Self>, who: Who, now: Instant) -> Badge {
        let opened_ms = self.milliseconds(now);
        let seen = Arc::new(Seen {
            who,
            opened_ms,
            used_ms: opened_ms.into(),
            in_use: false.into(),
            transactions: 0.into(),
        });
        let mut backends = self.lock();
        let number = backends.next;
        backends.next += 1;
        backends.by_number.insert(number, Arc::clone(&seen));
        drop(backends);
        Badge { roster: Arc::clone(self), number, seen }
    }

    /// Every backend that there is.
    pub fn all(&self) -> Vec<Arc<Seen>> {
        self.lock().by_number.values().cloned().collect()
    }

    /// How long ago something was, by this clock.
    pub fn ago(&self, at_ms: u64, now: Instant) -> Duration {
        Duration::from_millis(self.milliseconds(now).saturating_sub(at_ms))
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Backends> {
        // Nothing in here can be left half-changed by a panic.
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    pub fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    pub fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }
}

impl Badge {
    /// A session has it from here on, or none any more.
    pub fn is_used(&self, in_use: bool, now: Instant) {
        self.seen.used_ms.store(self.roster.milliseconds(now), Ordering::Relaxed);
        self.seen.in_use.store(in_use, Ordering::Relaxed);
    }

    /// So many transactions have ended on it. Only the session that has it says
    /// so.
    pub fn transactions(&self, count: u32) {
        let sum = self.seen.transactions().wrapping_add(count.into());
        self.seen.transactions.store(sum, Ordering::Relaxed);
    }
}

impl Drop for Badge {
    fn drop(&mut self) {
        self.roster.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_backend_is_seen_as_long_as_it_lives() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let roster = Arc::new(Roster::new(began));
        let tenant = TenantId::from(Uuid::from_u128(1));
        let who =
            Who { cluster: "c".parse().unwrap(), tenant, role: RoleName::of_tenant(tenant), process_id: 7 };
        let badge = roster.enter(who.clone(), at(2));
        let other = roster.enter(Who { process_id: 8, ..who }, at(3));
        badge.is_used(true, at(5));
        badge.transactions(2);
        badge.transactions(1);
        let all = roster.all();
        assert_eq!(all.iter().map(|seen| seen.who.process_id).collect::<Vec<_>>(), [7, 8]);
        assert!(all[0].is_in_use() && !all[1].is_in_use());
        assert_eq!(all[0].transactions(), 3);
        assert_eq!(roster.ago(all[0].opened_ms(), at(6)), Duration::from_secs(4));
        assert_eq!(roster.ago(all[0].used_ms(), at(6)), Duration::from_secs(1));
        assert_eq!(roster.ago(all[0].used_ms(), at(1)), Duration::ZERO, "a look from before");
        drop(badge);
        assert_eq!(roster.all()[0].who.process_id, 8);
        drop(other);
        assert!(roster.all().is_empty());
    }
}
