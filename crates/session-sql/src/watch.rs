//! Reads a text that is too long to be held as it passes. Names in quotes are
//! looked for in its bytes, between any two quotes that follow each other.

use insula_sql_lexer::Walk;
use memchr::memchr;

use crate::course::{Follower, Found};
use crate::effects::{Effects, Pin};
use crate::names::Known;

/// Bytes of a name between quotes that are kept: no known one is longer.
const NAME_BYTES_MAX: usize = 32;

/// Reads a text in pieces of any size, with bounded memory. It pins where
/// [`effects`](crate::effects()) would name a custom setting or a statement that
/// is deallocated, for `DO`, and for known names in quotes also where they stand
/// in a string.
#[derive(Debug)]
pub struct Watch {
    walk: Walk<Follower<'static>>,
    quoted: Quoted,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// Of a text that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self { walk: Walk::new(Follower::of_passing()), quoted: Quoted::default() }
    }

    /// The next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.walk.feed(piece);
        self.quoted.feed(piece);
    }

    /// The end of the text.
    #[must_use]
    pub fn finish(self) -> Effects {
        let Some((follower, courses)) = self.walk.finish() else { return Effects::unclear() };
        let mut found = self.quoted.found;
        for course in courses {
            found.add(course.found());
            if course.deallocated().is_some() {
                found.pin(Pin::Unclear);
            }
        }
        // A name in quotes is not seen.
        found.resets |= found.settings;
        found.into_effects(follower.into_custom_settings())
    }
}

/// What stands between quotes.
#[derive(Debug, Default)]
struct Quoted {
    name: Vec<u8>,
    is_too_long: bool,
    found: Found,
}

impl Quoted {
    fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(end) = memchr(b'"', rest) {
            self.push(&rest[..end]);
            self.end();
            rest = &rest[end + 1..];
        }
        self.push(rest);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.is_too_long |= self.name.len() + bytes.len() > NAME_BYTES_MAX;
        if !self.is_too_long {
            self.name.extend_from_slice(bytes);
        }
    }

    fn end(&mut self) {
        let known = if self.is_too_long { None } else { Known::of(&self.name) };
        match known {
            None => {}
            Some(Known::AdvisoryLock) => self.found.pin(Pin::AdvisoryLock),
            Some(Known::Dblink) => self.found.pin(Pin::Dblink),
            Some(Known::SetSeed) => self.found.pin(Pin::Seed),
            Some(Known::TemporarySchema) => self.found.pin(Pin::TemporaryObject),
            Some(Known::ReadsSequence) => self.found.sequences = true,
            Some(Known::SetConfig) => {
                self.found.pin(Pin::UnknownSetting);
                self.found.sets_anything();
            }
            Some(Known::RunsText) => {
                self.found.pin(Pin::Unclear);
                self.found.sets_anything();
                self.found.sequences = true;
            }
        }
        self.name.clear();
        self.is_too_long = false;
    }
}
