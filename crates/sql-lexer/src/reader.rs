//! Has the beginning of every statement judged.

use std::fmt;

use crate::follow::Follow;
use crate::token::{Head, Token};
use crate::walk::Walk;

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
pub struct Reader<J: Copy + PartialEq, F: Fn(&Head) -> Option<J>> {
    walk: Walk<Judge<F>>,
}

impl<J: Copy + PartialEq, F: Fn(&Head) -> Option<J>> fmt::Debug for Reader<J, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<J: Copy + PartialEq, F: Fn(&Head) -> Option<J>> Reader<J, F> {
    /// A reader of a text that has not begun. `judge` gives the objection to a
    /// statement, if there is one.
    pub fn new(judge: F) -> Self {
        Self { walk: Walk::new(Judge(judge)) }
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
        Self { walk: Walk::by_default(Judge(judge)) }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.walk.feed(piece);
    }

    /// The end of the text.
    pub fn finish(self) -> Outcome<J> {
        match self.walk.finish() {
            None => Outcome::Unclear,
            Some((_, courses)) => {
                courses.into_iter().find_map(|course| course.found).map_or(Outcome::Clear, Outcome::Found)
            }
        }
    }
}

/// Judges the beginnings of statements.
struct Judge<F>(F);

/// The beginning of the statement under way, and the first objection.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Judged<J> {
    head: Head,
    found: Option<J>,
}

impl<F> Judge<F> {
    fn judge<J>(&self, course: &mut Judged<J>)
    where
        F: Fn(&Head) -> Option<J>,
    {
        if course.found.is_none() {
            course.found = (self.0)(&course.head);
        }
    }
}

impl<J: Copy + PartialEq, F: Fn(&Head) -> Option<J>> Follow for Judge<F> {
    type Course = Judged<J>;

    fn begin(&self) -> Judged<J> {
        Judged { head: Head::new(), found: None }
    }

    fn token(&mut self, course: &mut Judged<J>, token: &Token, _: usize) {
        if !course.head.is_full() {
            course.head.push(*token);
            if course.head.is_full() {
                self.judge(course);
            }
        }
    }

    fn end_statement(&mut self, course: &mut Judged<J>, _: usize) {
        if !course.head.is_full() && !course.head.tokens().is_empty() {
            self.judge(course);
        }
        course.head = Head::new();
    }
}
