//! What is to be put where in a text, and where a place of the changed text is
//! in the one before.

use std::borrow::Cow;

/// One change: the bytes from `start` to before `end` give way to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) insert: Cow<'static, str>,
}

/// The changes of a text, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits(Vec<Edit>);

impl Edits {
    pub(crate) fn extend(&mut self, edits: impl IntoIterator<Item = Edit>) {
        self.0.extend(edits);
    }

    /// These changes and others of the same text, in other places of it.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self.0.sort_by_key(|edit| edit.start);
        self
    }

    /// The changes as they follow one another, if there are any.
    pub(crate) fn in_order(mut self) -> Option<Self> {
        self.0.sort_by_key(|edit| edit.start);
        (!self.0.is_empty()).then_some(self)
    }

    /// The pieces of the changed text.
    pub fn pieces<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
        let kept_from = std::iter::once(0).chain(self.0.iter().map(|edit| edit.end));
        let kept_to = self.0.iter().map(|edit| edit.start).chain([text.len()]);
        let inserted = self.0.iter().map(|edit| edit.insert.as_bytes()).chain([&b""[..]]);
        let kept = kept_from.zip(kept_to).map(|(from, to)| text.get(from..to).unwrap_or_default());
        kept.zip(inserted).flat_map(|(kept, inserted)| [kept, inserted])
    }

    /// The changed text.
    #[must_use]
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        self.pieces(text).flatten().copied().collect()
    }

    /// Where the characters of the changed text come from; `None` where their
    /// number is not known. A character of a text with `is_utf8` begins with
    /// each byte that continues none; in others it must be a byte.
    #[must_use]
    pub fn shifts(&self, text: &[u8], is_utf8: bool) -> Option<Shifts> {
        if !is_utf8 && !text.is_ascii() {
            return None;
        }
        let mut counted = 0;
        let mut shifts = Vec::with_capacity(self.0.len());
        let mut at = 0;
        for edit in &self.0 {
            counted += characters(text.get(at..edit.start)?);
            let removed = characters(text.get(edit.start..edit.end)?);
            shifts.push(Shift { at: counted, removed, inserted: characters(edit.insert.as_bytes()) });
            (counted, at) = (counted + removed, edit.end);
        }
        Some(Shifts(shifts))
    }
}

fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte & 0xc0) != 0x80).count()
}

/// One change in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shift {
    at: usize,
    removed: usize,
    inserted: usize,
}

/// Where the characters of a changed text come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shifts(Vec<Shift>);

impl Shifts {
    /// The place in the text before of a character of the changed one, both
    /// counted from 1. Of what was put in, the place at which it was.
    #[must_use]
    pub fn original(&self, position: usize) -> usize {
        let place = position.saturating_sub(1);
        let (mut inserted, mut removed) = (0, 0);
        for shift in &self.0 {
            let begins = shift.at + inserted - removed;
            if place < begins {
                break;
            }
            if place < begins + shift.inserted {
                return shift.at + 1;
            }
            inserted += shift.inserted;
            removed += shift.removed;
        }
        place + removed - inserted + 1
    }
}
