//! Reads a text in all ways that may be the server's.

use crate::reading::{Reading, Step};
use crate::token::Head;

/// Ways of reading at once. Honest texts have one or two, and for some bytes
/// four.
const READINGS_MAX: usize = 16;

/// What came of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<J> {
    /// However it is read, no statement was objected to.
    Clear,
    /// The first statement that was objected to, in one of the readings.
    Found(J),
    /// It is written so that it cannot be said how a server would read it.
    Unclear,
}

/// Reads one text, in pieces of any size, and has the beginning of every
/// statement judged. The pieces' bounds change nothing, but for how soon a text
/// with too many readings is given up.
#[derive(Debug, Clone)]
pub struct Reader<J, F> {
    readings: Vec<Reading<J>>,
    judge: F,
    /// The last byte of the pieces before.
    last: u8,
    unclear: bool,
}

impl<J: Copy + PartialEq, F: Fn(&Head) -> Option<J>> Reader<J, F> {
    /// A reader of a text that has not begun. `judge` gives the objection to a
    /// statement, if there is one.
    pub fn new(judge: F) -> Self {
        Self { readings: vec![Reading::new()], judge, last: b' ', unclear: false }
    }

    /// Reads the whole of a text.
    pub fn read(judge: F, text: &[u8]) -> Outcome<J> {
        let mut reader = Self::new(judge);
        reader.feed(text);
        reader.finish()
    }

    /// A reader that reads as a server does with its default settings alone.
    #[cfg(test)]
    pub(crate) fn by_default(judge: F) -> Self {
        Self { readings: vec![Reading::by_default()], ..Self::new(judge) }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        if self.unclear {
            return;
        }
        let mut under_way: Vec<(usize, Reading<J>)> =
            self.readings.drain(..).map(|reading| (0, reading)).collect();
        while let Some(index) = most_behind(&under_way, piece.len()) {
            let (at, reading) = &mut under_way[index];
            let before = if *at == 0 { self.last } else { piece[*at - 1] };
            let step = reading.step(piece, *at, before, &self.judge);
            let (next, fork) = match step {
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
    }

    /// The end of the text.
    pub fn finish(self) -> Outcome<J> {
        if self.unclear {
            return Outcome::Unclear;
        }
        let judge = &self.judge;
        let found = self.readings.into_iter().find_map(|reading| reading.finish(judge));
        found.map_or(Outcome::Clear, Outcome::Found)
    }
}

/// The reading that is the furthest from the end of the piece: those that are
/// ahead wait for it, so that they can meet again.
fn most_behind<J>(under_way: &[(usize, Reading<J>)], end: usize) -> Option<usize> {
    if let [(at, _)] = under_way {
        return (*at < end).then_some(0);
    }
    let (index, (at, _)) = under_way.iter().enumerate().min_by_key(|(_, (at, _))| *at)?;
    (*at < end).then_some(index)
}

/// Makes one of those that have met.
fn merge<J: PartialEq>(under_way: &mut Vec<(usize, Reading<J>)>) {
    let mut index = 1;
    while index < under_way.len() {
        if under_way[..index].contains(&under_way[index]) {
            under_way.swap_remove(index);
        } else {
            index += 1;
        }
    }
}
