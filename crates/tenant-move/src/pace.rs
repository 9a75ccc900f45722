//! How fast a move goes on: what was done in the last seconds of what it is at,
//! and how long the rest takes at that pace. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use insula_domain::{EstimatedFrom, MovePace, MovePhase, MoveProgress};

/// How far back is looked.
const WINDOW: Duration = Duration::from_secs(10);

/// From how long on it is a pace.
const SHORTEST: Duration = Duration::from_millis(500);

/// How far a move was at a time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    rows: u64,
    bytes: u64,
    lag_bytes: u64,
}

/// Looks at a move again and again.
#[derive(Debug, Default)]
pub struct Pacer {
    phase: MovePhase,
    samples: VecDeque<Sample>,
}

impl Pacer {
    /// The pace, with how far the move is so long after some moment. None while it
    /// is at nothing that has one, and before enough was seen of it.
    pub fn look(&mut self, at: Duration, progress: &MoveProgress) -> Option<MovePace> {
        let rows = match progress.phase {
            MovePhase::Copy => progress.rows,
            MovePhase::Follow => progress.rows_applied,
            MovePhase::Verify => progress.rows_verified,
            _ => {
                self.samples.clear();
                return None;
            }
        };
        let is_less = self.samples.back().is_some_and(|last| last.rows > rows || last.bytes > progress.bytes);
        // What is begun anew has less than before.
        if self.phase != progress.phase || is_less {
            self.phase = progress.phase;
            self.samples.clear();
        }
        self.samples.push_back(Sample { at, rows, bytes: progress.bytes, lag_bytes: progress.lag_bytes });
        while self.samples.front().is_some_and(|first| at.saturating_sub(first.at) > WINDOW) {
            self.samples.pop_front();
        }
        self.pace(progress)
    }

    fn pace(&self, progress: &MoveProgress) -> Option<MovePace> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let took = last.at.saturating_sub(first.at);
        if took < SHORTEST {
            return None;
        }
        let a_second = |before: u64, now: u64| rate(now.saturating_sub(before), took);
        let rows_per_second = a_second(first.rows, last.rows);
        let left = |todo: u64, pace: u64| todo.div_ceil(pace.max(1));
        let (bytes_per_second, seconds_left, estimated_from) = match progress.phase {
            MovePhase::Copy => {
                let todo = progress.rows_total.saturating_sub(progress.rows);
                let known = (rows_per_second > 0).then(|| left(todo, rows_per_second));
                (Some(a_second(first.bytes, last.bytes)), known, EstimatedFrom::TableStatistics)
            }
            MovePhase::Follow => {
                let nearer = a_second(last.lag_bytes, first.lag_bytes);
                let known = (nearer > 0 || last.lag_bytes == 0).then(|| left(last.lag_bytes, nearer));
                (Some(nearer), known, EstimatedFrom::LogLag)
            }
            _ => {
                let todo = progress.rows.saturating_sub(progress.rows_verified);
                let known = (rows_per_second > 0).then(|| left(todo, rows_per_second));
                (None, known, EstimatedFrom::RowsCopied)
            }
        };
        Some(MovePace { rows_per_second, bytes_per_second, seconds_left, estimated_from })
    }
}

/// So much in a time, in one second.
fn rate(amount: u64, took: Duration) -> u64 {
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    amount.saturating_mul(1_000).checked_div(milliseconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copying(rows: u64) -> MoveProgress {
        MoveProgress {
            phase: MovePhase::Copy,
            rows,
            rows_total: 1_000_000,
            bytes: rows * 100,
            ..MoveProgress::default()
        }
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.look(at(0), &copying(0)), None, "one look is no pace");
        assert_eq!(pacer.look(at(250), &copying(30_000)), None, "nor is a moment");
        let pace = pacer.look(at(5_000), &copying(500_000)).unwrap();
        assert_eq!((pace.rows_per_second, pace.bytes_per_second), (100_000, Some(10_000_000)));
        assert_eq!((pace.seconds_left, pace.estimated_from), (Some(5), EstimatedFrom::TableStatistics));
        for second in 6..=30 {
            pacer.look(at(second * 1_000), &copying(500_000 + (second - 5) * 1_000));
        }
        let pace = pacer.look(at(30_000), &copying(525_000)).unwrap();
        assert_eq!(pace.rows_per_second, 1_000, "what is long ago counts no more");
        assert_eq!(pacer.look(at(31_000), &copying(10)), None, "it was begun anew");
    }

    #[test]
    fn what_stands_still_has_no_end_in_sight() {
        let mut pacer = Pacer::default();
        for second in 0..3 {
            pacer.look(at(second * 1_000), &copying(7));
        }
        let pace = pacer.look(at(3_000), &copying(7)).unwrap();
        assert_eq!((pace.rows_per_second, pace.seconds_left), (0, None));
        // More rows than the statistics have said are no time at all.
        let pace = pacer.look(at(4_000), &copying(2_000_000)).unwrap();
        assert_eq!(pace.seconds_left, Some(0));
    }

    #[test]
    fn following_is_measured_by_the_log_and_comparing_by_what_was_copied() {
        let following = |rows_applied, lag_bytes| MoveProgress {
            phase: MovePhase::Follow,
            rows_applied,
            lag_bytes,
            ..copying(1_000_000)
        };
        let mut pacer = Pacer::default();
        pacer.look(at(0), &following(0, 10_000));
        let pace = pacer.look(at(1_000), &following(50, 8_000)).unwrap();
        let left = (pace.bytes_per_second, pace.seconds_left, pace.estimated_from);
        assert_eq!(left, (Some(2_000), Some(4), EstimatedFrom::LogLag));
        assert_eq!(pace.rows_per_second, 50);
        let pace = pacer.look(at(2_000), &following(90, 12_000)).unwrap();
        assert_eq!((pace.bytes_per_second, pace.seconds_left), (Some(0), None), "it falls behind");

        let comparing =
            |rows_verified| MoveProgress { phase: MovePhase::Verify, rows_verified, ..copying(1_000_000) };
        assert_eq!(pacer.look(at(3_000), &comparing(0)), None, "another phase");
        let pace = pacer.look(at(4_000), &comparing(250_000)).unwrap();
        assert_eq!((pace.bytes_per_second, pace.seconds_left), (None, Some(3)));
        assert_eq!(pace.estimated_from, EstimatedFrom::RowsCopied);
        let done = MoveProgress { phase: MovePhase::Cutover, ..comparing(1_000_000) };
        assert_eq!(pacer.look(at(9_000), &done), None);
    }
}
