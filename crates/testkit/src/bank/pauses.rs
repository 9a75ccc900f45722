//! How long tellers wait: the time between the ends of two consecutive
//! statements, and what of it is longer than usual.

use std::ops::Range;
use std::time::Duration;

use super::Told;

/// The time from the end of a statement to the end of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When the later one ended, from the opening of the bank on.
    pub until: Duration,
    /// How long it was.
    pub length: Duration,
}

impl Gap {
    fn meets(&self, span: &Range<Duration>) -> bool {
        self.until >= span.start && self.until.saturating_sub(self.length) < span.end
    }
}

/// The longest gap of a teller that has a part in this span.
#[must_use]
pub fn longest_gap(told: &Told, span: &Range<Duration>) -> Duration {
    let lengths = told.gaps.iter().filter(|gap| gap.meets(span)).map(|gap| gap.length);
    lengths.max().unwrap_or_default()
}

/// The gap in the middle of a teller's in this span, by length.
#[must_use]
pub fn typical_gap(told: &Told, span: &Range<Duration>) -> Duration {
    let within = told.gaps.iter().filter(|gap| gap.meets(span) && !gap.length.is_zero());
    let mut lengths: Vec<_> = within.map(|gap| gap.length).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().unwrap_or_default()
}

/// For each teller by how much its longest gap in a span is above what is
/// typical for it while all is quiet; in ascending order.
#[must_use]
pub fn pauses(told: &[Told], quiet: &Range<Duration>, span: &Range<Duration>) -> Vec<Duration> {
    let pause = |told: &Told| longest_gap(told, span).saturating_sub(typical_gap(told, quiet));
    let mut pauses: Vec<_> = told.iter().map(pause).collect();
    pauses.sort_unstable();
    pauses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(gaps: &[(u64, u64)]) -> Told {
        let gap = |&(until, length)| Gap {
            until: Duration::from_millis(until),
            length: Duration::from_millis(length),
        };
        Told { gaps: gaps.iter().map(gap).collect(), ..Told::default() }
    }

    fn span(from: u64, to: u64) -> Range<Duration> {
        Duration::from_millis(from)..Duration::from_millis(to)
    }

    #[test]
    fn a_pause_is_what_is_longer_than_usual() {
        let one = told(&[(2, 2), (4, 2), (7, 3), (57, 50), (59, 2)]);
        let other = told(&[(10, 10), (20, 10), (30, 10), (45, 15), (55, 10)]);
        let milliseconds = |of: &[Told]| -> Vec<u128> {
            let pauses = pauses(of, &span(0, 7), &span(40, 60));
            pauses.iter().map(Duration::as_millis).collect()
        };
        assert_eq!(milliseconds(&[one, other]), [5, 48]);
    }

    #[test]
    fn a_gap_around_the_span_counts_and_one_beside_it_does_not() {
        let told = told(&[(100, 100), (110, 10), (300, 190), (301, 1)]);
        assert_eq!(longest_gap(&told, &span(150, 160)), Duration::from_millis(190));
        assert_eq!(longest_gap(&told, &span(100, 105)), Duration::from_millis(100));
        assert_eq!(longest_gap(&told, &span(301, 400)), Duration::from_millis(1));
        assert_eq!(longest_gap(&told, &span(400, 500)), Duration::ZERO);
    }
}
