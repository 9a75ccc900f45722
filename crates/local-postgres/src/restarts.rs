//! When a server that died is started again, and when it is given up. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const MOST_DEATHS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The deaths of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Deaths(VecDeque<Instant>);

/// What to do after a death.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start it again after the pause.
    StartAfter(Duration),
    /// It dies again and again; a person has to look.
    GiveUp,
}

impl Deaths {
    /// Counts a death and says what to do: start again, at once for the
    /// second time and later each time, until there were five in a minute.
    pub(crate) fn after(&mut self, now: Instant) -> Next {
        while self.0.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        if self.0.len() >= MOST_DEATHS {
            return Next::GiveUp;
        }
        let doublings = u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX);
        Next::StartAfter(FIRST_PAUSE.saturating_mul(4_u32.saturating_pow(doublings)).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_fifth_death_in_a_minute_is_the_last() {
        let start = Instant::now();
        let mut deaths = Deaths::default();
        let nexts: Vec<Next> =
            (0..5).map(|second| deaths.after(start + Duration::from_secs(second))).collect();
        let pause = |ms| Next::StartAfter(Duration::from_millis(ms));
        assert_eq!(nexts, [pause(100), pause(400), pause(1600), pause(5000), Next::GiveUp]);
    }

    #[test]
    fn deaths_far_apart_are_forgotten() {
        let start = Instant::now();
        let mut deaths = Deaths::default();
        for minute in 0..100 {
            let next = deaths.after(start + WINDOW * minute);
            assert_eq!(next, Next::StartAfter(FIRST_PAUSE), "minute {minute}");
        }
    }
}
