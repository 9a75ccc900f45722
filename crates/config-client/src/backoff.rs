//! How long to wait before the next try: a random part of a time that doubles,
//! so that clients that lost the same server do not come back at once.

use std::time::Duration;

/// The bounds of the waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    /// The most before the first try.
    pub first: Duration,
    /// The most before any.
    pub max: Duration,
}

/// However the dice fall, a server that refuses at once is not asked more often.
const LEAST: Duration = Duration::from_millis(10);

impl Backoff {
    /// Before the next try, after so many that failed; `random` is any number.
    pub(crate) fn delay(&self, failed: u32, random: u64) -> Duration {
        let ceiling = self.first.saturating_mul(1_u32 << failed.min(20)).min(self.max);
        let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
        ceiling.mul_f64(share).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_end_and_is_spread_over_all_of_it() {
        let backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(15) };
        let longest: Vec<u128> =
            [0, 1, 2, 6, 7, 40, u32::MAX].map(|failed| backoff.delay(failed, u64::MAX).as_millis()).to_vec();
        assert_eq!(longest, [200, 400, 800, 12_800, 15_000, 15_000, 15_000]);
        assert_eq!(backoff.delay(3, 0), LEAST);
        assert_eq!(backoff.delay(0, 1 << 63), Duration::from_millis(100));
    }
}
