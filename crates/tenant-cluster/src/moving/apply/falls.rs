//! How often an applier has fallen back to transactions that come whole, because
//! it could not apply those that came while they ran, and for how long that is
//! remembered.

use std::sync::Arc;
use std::time::Duration;

use insula_domain::Clock;
use time::OffsetDateTime;

/// After so many falls large transactions come whole until they are forgotten; after
/// each before, only until all is applied that was in the log.
const FALLS_MAX: u32 = 3;

/// When there was none for so long, falls are forgotten. Each has the source send again
/// what it has decoded of all transactions that run, and a stream may last for weeks.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The falls that are remembered.
#[derive(Debug)]
pub(super) struct Falls {
    clock: Arc<dyn Clock>,
    count: u32,
    last: Option<OffsetDateTime>,
}

impl Falls {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, count: 0, last: None }
    }

    /// Notes one.
    pub fn note(&mut self) {
        self.count = if self.is_last_forgotten() { 1 } else { self.count.saturating_add(1) };
        self.last = Some(self.clock.now());
    }

    /// Whether there were so many that nothing is to come while it runs.
    pub fn are_many(&self) -> bool {
        self.count >= FALLS_MAX && !self.is_last_forgotten()
    }

    /// A clock that is put back forgets as well, instead of remembering for longer.
    fn is_last_forgotten(&self) -> bool {
        let now = self.clock.now();
        self.last.is_none_or(|last| now < last || now - last >= FORGOTTEN_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use insula_testkit::ManualClock;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn the_last_of_many_falls_is_remembered_for_a_while() {
        let clock = ManualClock::default();
        let mut falls = Falls::new(Arc::new(clock.clone()));
        for expected in [false, false, true, true] {
            clock.advance(FORGOTTEN_AFTER - MOMENT);
            falls.note();
            assert_eq!(falls.are_many(), expected, "{falls:?}");
        }
        clock.advance(FORGOTTEN_AFTER - MOMENT);
        assert!(falls.are_many());
        clock.advance(MOMENT);
        assert!(!falls.are_many());
        // It begins from the first again.
        for expected in [false, false, true] {
            falls.note();
            assert_eq!(falls.are_many(), expected, "{falls:?}");
        }
    }

    #[test]
    fn falls_that_are_far_from_each_other_are_never_many() {
        let clock = ManualClock::default();
        let mut falls = Falls::new(Arc::new(clock.clone()));
        for _ in 0..10 {
            falls.note();
            assert!(!falls.are_many(), "{falls:?}");
            clock.advance(FORGOTTEN_AFTER);
        }
    }

    #[test]
    fn a_clock_that_is_put_back_does_not_keep_them() {
        let clock = ManualClock::default();
        let mut falls = Falls::new(Arc::new(clock.clone()));
        (0..FALLS_MAX).for_each(|_| falls.note());
        assert!(falls.are_many());
        clock.set(clock.now() - 365 * 24 * FORGOTTEN_AFTER);
        assert!(!falls.are_many());
    }
}
