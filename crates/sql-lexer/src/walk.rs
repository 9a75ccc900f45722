//! Reads a text in all ways that may be the server's.

use std::fmt;

use crate::follow::Follow;
use crate::reading::{Ears, Reading, Step};

/// Ways of reading at once. Honest texts have one or two, and for some bytes
/// four.
const READINGS_MAX: usize = 16;

/// Reads one text, in pieces of any size, and tells a follower of every token.
/// The pieces' bounds change nothing, but for how soon a text with too many
/// readings is given up.
#[derive(Clone)]
pub struct Walk<F: Follow> {
    readings: Vec<Reading<F::Course>>,
    follower: F,
    /// The last byte of the pieces before.
    last: u8,
    /// Bytes of the pieces before.
    before: usize,
    unclear: bool,
}

impl<F: Follow + fmt::Debug> fmt::Debug for Walk<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("follower", &self.follower)
            .field("readings", &self.readings.len())
            .field("before", &self.before)
            .field("unclear", &self.unclear)
            .finish_non_exhaustive()
    }
}

impl<F: Follow> Walk<F> {
    /// A walk through a text that has not begun.
    pub fn new(follower: F) -> Self {
        let readings = vec![Reading::new(follower.begin())];
        Self { readings, follower, last: b' ', before: 0, unclear: false }
    }

    /// A walk that reads as a server does with its default settings alone.
    #[cfg(test)]
    pub(crate) fn by_default(follower: F) -> Self {
        let readings = vec![Reading::by_default(follower.begin())];
        Self { readings, ..Self::new(follower) }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        if self.unclear {
            return;
        }
        let mut ears = Ears { follower: &mut self.follower, before: self.before };
        let mut under_way: Vec<(usize, Reading<F::Course>)> =
            self.readings.drain(..).map(|reading| (0, reading)).collect();
        while let Some(index) = most_behind(&under_way, piece.len()) {
            let (at, reading) = &mut under_way[index];
            let before = if *at == 0 { self.last } else { piece[*at - 1] };
            let (next, fork) = match reading.step(piece, *at, before, &mut ears) {
                Step::On(next) => (next, None),
                Step::Fork(next, other_at, other) => (next, Some((other_at, *other))),
                Step::Unclear => {
                    self.unclear = true;
                    return;
                }
            };
            *at = next;
            under_way.extend(fork);
            if under_way.len() > 1 {
                merge(&mut under_way);
                if under_way.len() > READINGS_MAX {
                    self.unclear = true;
                    return;
                }
            }
        }
        self.readings = under_way.into_iter().map(|(_, reading)| reading).collect();
        self.last = *last;
        self.before += piece.len();
    }

    /// The end of the text: the follower, and the courses of all readings but
    /// those that end within a quotation, which a server refuses. `None` where
    /// the text is written so that it cannot be said how a server would read
    /// it.
    pub fn finish(mut self) -> Option<(F, Vec<F::Course>)> {
        if self.unclear {
            return None;
        }
        let mut ears = Ears { follower: &mut self.follower, before: self.before };
        let courses = self.readings.into_iter().filter_map(|reading| reading.finish(&mut ears)).collect();
        Some((self.follower, courses))
    }
}

/// The reading that is the furthest from the end of the piece: those that are
/// ahead wait for it, so that they can meet again.
fn most_behind<C>(under_way: &[(usize, Reading<C>)], end: usize) -> Option<usize> {
    if let [(at, _)] = under_way {
        return (*at < end).then_some(0);
    }
    let (index, (at, _)) = under_way.iter().enumerate().min_by_key(|(_, (at, _))| *at)?;
    (*at < end).then_some(index)
}

/// Makes one of those that have met.
fn merge<C: PartialEq>(under_way: &mut Vec<(usize, Reading<C>)>) {
    let mut index = 1;
    while index < under_way.len() {
        if under_way[..index].contains(&under_way[index]) {
            under_way.swap_remove(index);
        } else {
            index += 1;
        }
    }
}
