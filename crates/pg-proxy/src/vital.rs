//! What can be seen of a session from outside: what it does, and since when. The
//! session writes it, without a lock and without asking for the time: one clock
//! counts for all, and looks after those that take longer than their plan allows.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use insula_domain::{DatabaseTerms, PoolMode, TenantId};
use tokio::sync::Notify;

use crate::refusal::printable;

/// How exact the clock is, and how often it looks.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It has asked nothing, and has no transaction.
    Idle,
    /// It waits for a backend.
    Waiting,
    /// A statement of it is under way.
    Active,
    /// It has a transaction, and has asked nothing.
    InTransaction,
}

/// Which of its limits a session has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    Statement(Duration),
    IdleInTransaction(Duration),
}

/// Whose session it is.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// As which tenant it runs.
    pub tenant: TenantId,
    /// The name of its login, as it may be shown.
    pub login: Box<str>,
    pub address: SocketAddr,
    pub is_encrypted: bool,
    pub pool_mode: PoolMode,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Vital {
    pub caller: Caller,
    /// The tick in which it was let in.
    pub began: u32,
    application_name: Mutex<Box<str>>,
    pinned: OnceLock<&'static str>,
    transactions: AtomicU64,
    /// What it does, and the tick since which it does that.
    doing: AtomicU64,
    /// The limits of its plan in milliseconds; 0 is none.
    statement_ms: AtomicU32,
    idle_in_transaction_ms: AtomicU32,
    /// Told when it has reached a limit.
    pub overdue: Notify,
}

/// All sessions, and the clock by which they are measured.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    tick: AtomicU32,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    next: u64,
    by_number: HashMap<u64, Arc<Vital>>,
}

/// A session's entry, as long as it lives.
#[derive(Debug)]
pub(crate) struct Entry {
    vitals: Arc<Vitals>,
    number: u64,
    pub vital: Arc<Vital>,
}

impl Vital {
    fn new(terms: &DatabaseTerms, caller: Caller, began: u32) -> Self {
        let vital = Self {
            caller,
            began,
            application_name: Mutex::default(),
            pinned: OnceLock::new(),
            transactions: AtomicU64::new(0),
            doing: AtomicU64::new(0),
            statement_ms: AtomicU32::new(0),
            idle_in_transaction_ms: AtomicU32::new(0),
            overdue: Notify::new(),
        };
        vital.limit(terms);
        vital
    }

    /// The limits that hold from here on.
    pub fn limit(&self, terms: &DatabaseTerms) {
        let ms = |limit: Option<Duration>| {
            limit.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1))
        };
        self.statement_ms.store(ms(terms.statement_timeout), Ordering::Relaxed);
        self.idle_in_transaction_ms.store(ms(terms.idle_in_transaction_timeout), Ordering::Relaxed);
    }

    /// The client calls itself so from here on.
    pub fn is_called(&self, name: &[u8]) {
        let mut known = lock(&self.application_name);
        if known.as_bytes() != name {
            *known = printable(name).into();
        }
    }

    pub fn application_name(&self) -> String {
        lock(&self.application_name).clone().into()
    }

    /// The session keeps its backend, for this reason.
    pub fn is_pinned(&self, reason: &'static str) {
        // It has one reason, the first.
        let _ = self.pinned.set(reason);
    }

    pub fn pinned(&self) -> Option<&'static str> {
        self.pinned.get().copied()
    }

    /// So many transactions have ended. Only the session itself says so.
    pub fn did(&self, transactions: u32) {
        let sum = self.transactions().wrapping_add(transactions.into());
        self.transactions.store(sum, Ordering::Relaxed);
    }

    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// The session does this from here on.
    pub fn does(&self, doing: Doing, tick: u32) {
        self.doing.store(u64::from(tick) << 8 | doing as u64, Ordering::Relaxed);
    }

    /// What it does, and since which tick.
    pub fn look(&self) -> (Doing, u32) {
        let packed = self.doing.load(Ordering::Relaxed);
        let doing = match packed & 0xff {
            1 => Doing::Waiting,
            2 => Doing::Active,
            3 => Doing::InTransaction,
            _ => Doing::Idle,
        };
        (doing, u32::try_from(packed >> 8).unwrap_or(u32::MAX))
    }

    /// The limit that it has reached by this tick, if any; never too early.
    pub fn overdue(&self, tick: u32) -> Option<Overdue> {
        let (doing, since) = self.look();
        let limit = match doing {
            Doing::Active => self.statement_ms.load(Ordering::Relaxed),
            Doing::InTransaction => self.idle_in_transaction_ms.load(Ordering::Relaxed),
            Doing::Idle | Doing::Waiting => 0,
        };
        // The tick in which it began may have been almost over.
        if limit == 0 || u64::from(tick.saturating_sub(since)) <= ticks(limit) {
            return None;
        }
        let limit = Duration::from_millis(limit.into());
        Some(if doing == Doing::Active {
            Overdue::Statement(limit)
        } else {
            Overdue::IdleInTransaction(limit)
        })
    }
}

/// Whole ticks that are no less than so many milliseconds.
fn ticks(milliseconds: u32) -> u64 {
    u128::from(milliseconds).div_ceil(TICK.as_millis()).try_into().unwrap_or(u64::MAX)
}

impl Vitals {
    /// Ticks since the front began.
    pub fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// So much time has passed since the front began: tells the sessions that
    /// have reached a limit.
    pub fn advance(&self, passed: Duration) {
        let tick = u32::try_from(passed.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
        self.tick.store(tick, Ordering::Relaxed);
        for vital in self.lock().by_number.values() {
            if vital.overdue(tick).is_some() {
                vital.overdue.notify_one();
            }
        }
    }

    /// A session begins, in which these limits hold. It waits for its first
    /// backend.
    pub fn enter(self: &Arc<Self>, terms: &DatabaseTerms, caller: Caller) -> Entry {
        let tick = self.tick();
        let vital = Arc::new(Vital::new(terms, caller, tick));
        vital.does(Doing::Waiting, tick);
        let mut sessions = self.lock();
        let number = sessions.next;
        sessions.next += 1;
        sessions.by_number.insert(number, Arc::clone(&vital));
        drop(sessions);
        Entry { vitals: Arc::clone(self), number, vital }
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.lock().by_number.len()
    }

    /// Every session that there is.
    pub fn all(&self) -> Vec<Arc<Vital>> {
        self.lock().by_number.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.vitals.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(statement: u64, idle: u64) -> DatabaseTerms {
        let limit = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        DatabaseTerms {
            statement_timeout: limit(statement),
            idle_in_transaction_timeout: limit(idle),
            ..DatabaseTerms::default()
        }
    }

    fn caller() -> Caller {
        Caller {
            tenant: TenantId::from(uuid::Uuid::from_u128(1)),
            login: "acme".into(),
            address: ([127, 0, 0, 1], 1).into(),
            is_encrypted: false,
            pool_mode: PoolMode::Transaction,
        }
    }

    #[test]
    fn a_limit_is_reached_never_early_and_at_most_two_ticks_late() {
        for ms in [1_u32, 99, 100, 101, 250, 10_000] {
            let vital = Vital::new(&terms(ms.into(), 0), caller(), 0);
            vital.does(Doing::Active, 7);
            let first = (7..).find(|tick| vital.overdue(*tick).is_some()).unwrap();
            // It began somewhere within the seventh tick.
            let (least, most) = ((first - 8) * 100, (first - 7) * 100);
            assert!(least >= ms && most <= ms + 200, "{ms}: {least} to {most}");
        }
    }

    #[test]
    fn each_state_has_its_own_limit_or_none() {
        let vital = Vital::new(&terms(100, 5_000), caller(), 0);
        let reached = |doing| {
            vital.does(doing, 0);
            (1..100).find_map(|tick| vital.overdue(tick))
        };
        assert_eq!(reached(Doing::Active), Some(Overdue::Statement(Duration::from_millis(100))));
        let idle = Overdue::IdleInTransaction(Duration::from_secs(5));
        assert_eq!(reached(Doing::InTransaction), Some(idle));
        assert_eq!((reached(Doing::Idle), reached(Doing::Waiting)), (None, None));
        vital.limit(&terms(0, 0));
        vital.does(Doing::Active, 0);
        assert_eq!(vital.overdue(u32::MAX), None);
    }

    #[tokio::test]
    async fn who_has_reached_a_limit_is_told_and_who_has_left_is_forgotten() {
        let vitals = Arc::new(Vitals::default());
        let (late, other) = (vitals.enter(&terms(100, 0), caller()), vitals.enter(&terms(100, 0), caller()));
        late.vital.does(Doing::Active, vitals.tick());
        vitals.advance(Duration::from_millis(199));
        assert_eq!(late.vital.overdue(vitals.tick()), None);
        vitals.advance(Duration::from_millis(200));
        late.vital.overdue.notified().await;
        assert_eq!(other.vital.overdue(vitals.tick()), None);
        drop((late, other));
        assert!(vitals.lock().by_number.is_empty());
    }

    #[test]
    fn what_a_client_calls_itself_is_shown_so_that_it_cannot_do_harm() {
        let vital = Vital::new(&terms(0, 0), caller(), 0);
        vital.is_called(b"psql\x1b[31m\n");
        assert_eq!(vital.application_name(), "psql?[31m?");
        vital.is_called(b"");
        assert_eq!(vital.application_name(), "");
        vital.is_pinned("listen");
        vital.is_pinned("unclear");
        assert_eq!(vital.pinned(), Some("listen"));
    }
}
