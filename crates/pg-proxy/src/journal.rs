//! The log of clients that are turned away: a line each, with who they said
//! they are and why, and nothing of what they sent to prove it. So many lines
//! at once and so many a second at the most, since anybody can ask for one; how
//! many were left out is told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use insula_domain::TenantId;
use insula_route_map::Snapshot;

use crate::refusal::{Refusal, printable};

/// Lines that may come at once.
const BURST: u32 = 100;

/// One line more may come after so long: 86,400 a day, about 30 MB.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How often it is told how many were left out.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Who asks to be let in, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Asker {
    /// The user name, which anybody may give.
    pub login: Option<Box<[u8]>>,
    /// Of what it has proved.
    pub tenant: Option<TenantId>,
}

/// Which lines are written.
#[derive(Debug)]
pub(crate) struct Journal(Mutex<Quota>);

#[derive(Debug)]
struct Quota {
    lines: u32,
    filled: Instant,
    left_out: u64,
    told: Instant,
}

impl Journal {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Quota::new(now)))
    }

    /// Whether a line may be written; it is counted else.
    pub fn admits_line(&self) -> bool {
        self.quota().admits(Instant::now())
    }

    /// A client is turned away.
    pub fn refused(&self, asker: &Asker, refusal: &Refusal, snapshot: &Snapshot) {
        if !self.admits_line() {
            return;
        }
        let code = refusal.code;
        let Some(login) = &asker.login else {
            return tracing::info!(%code, %refusal, "a client was turned away");
        };
        // A known name says whose it would be, though nothing is proved.
        let named = || snapshot.login(std::str::from_utf8(login).ok()?).map(|login| login.tenant);
        let tenant = asker.tenant.or_else(named).and_then(|tenant| snapshot.route(tenant));
        let tenant = tenant.map(|route| route.slug.as_str());
        let (user, reason) = (printable(login), refusal.reason());
        tracing::info!(user, tenant, %code, reason, %refusal, "a login was refused");
    }

    /// Tells how many were left out, now and then, or because there will be no
    /// other time.
    pub fn tell(&self, now: Instant, is_over: bool) {
        let left_out = self.quota().take_left_out(now, is_over);
        if left_out > 0 {
            tracing::warn!(
                left_out,
                "so many refused clients are not in the log: there were too many at once"
            );
        }
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        // Nothing in here can be left half-changed by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quota {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, filled: now, left_out: 0, told: now }
    }

    fn admits(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        let fresh = u32::try_from(passed.as_nanos() / LINE_EVERY.as_nanos()).unwrap_or(u32::MAX);
        if fresh > 0 {
            self.filled = if fresh >= BURST { now } else { self.filled + LINE_EVERY * fresh };
            self.lines = self.lines.saturating_add(fresh).min(BURST);
        }
        if self.lines == 0 {
            self.left_out += 1;
            return false;
        }
        self.lines -= 1;
        true
    }

    fn take_left_out(&mut self, now: Instant, is_over: bool) -> u64 {
        if self.left_out == 0 || !is_over && now.saturating_duration_since(self.told) < TELL_EVERY {
            return 0;
        }
        self.told = now;
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_what_is_cut_is_told() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut quota = Quota::new(began);
        let written = (0..1_000).filter(|_| quota.admits(began)).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(quota.take_left_out(at(59), false), 0, "not all the time");
        assert_eq!(quota.take_left_out(at(60), false), 900);
        assert_eq!(quota.take_left_out(at(60), true), 0, "once");

        // A whole day of it: a second has one line, whenever in it they come.
        let mut quota = Quota::new(began);
        let tries = (0..86_400 * 4).map(|quarter| began + Duration::from_millis(quarter * 250));
        let written = tries.filter(|now| quota.admits(*now)).count();
        assert_eq!(written, BURST as usize + 86_399);
        assert_eq!(quota.take_left_out(began, true), 86_400 * 4 - written as u64);
    }

    #[test]
    fn who_comes_now_and_then_is_always_in_the_log() {
        let began = Instant::now();
        let mut quota = Quota::new(began);
        for second in 0..10_000 {
            assert!(quota.admits(began + Duration::from_secs(second)));
        }
        let later = began + Duration::from_secs(20_000);
        assert_eq!((0..1_000).filter(|_| quota.admits(later)).count(), BURST as usize);
    }
}
