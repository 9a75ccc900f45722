//! A clock that stands until a test moves it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_domain::Clock;
use time::OffsetDateTime;
use time::macros::datetime;

/// A clock that stands until it is moved. Its clones are the same clock, so a
/// test can hand one away and move the other.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<OffsetDateTime>>);

impl ManualClock {
    /// A clock that shows this time.
    #[must_use]
    pub fn new(now: OffsetDateTime) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Puts it to another time, earlier or later.
    pub fn set(&self, now: OffsetDateTime) {
        *self.lock() = now;
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OffsetDateTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    /// Noon (UTC) of the first day of 2026.
    fn default() -> Self {
        Self::new(datetime!(2026-01-01 12:00 UTC))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_until_it_is_moved() {
        let clock = ManualClock::default();
        let handed_away = clock.clone();
        assert_eq!(handed_away.now(), datetime!(2026-01-01 12:00 UTC));
        clock.advance(Duration::from_secs(90));
        assert_eq!(handed_away.now(), datetime!(2026-01-01 12:01:30 UTC));
        clock.set(datetime!(2020-02-29 0:00 UTC));
        assert_eq!(handed_away.now(), datetime!(2020-02-29 0:00 UTC));
    }
}
