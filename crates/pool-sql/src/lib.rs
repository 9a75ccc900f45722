//! Makes statements that were written for one tenant fit tables that tenants
//! share, where every key has the tenant's column: it says what to put where in
//! a text, and nothing where the text fits already or is not understood, so that
//! PostgreSQL answers it as it stands. Pure, and total: no bytes make it panic.
//! Where no more than a database is shared, it gives names to channels.
//!
//! It is no guard. What a tenant may do is PostgreSQL's to say (row-level
//! security and rights), and a text that was changed is as good or bad for other
//! tenants as the text before.

mod channels;
mod conflict;
mod copy;
mod edits;
mod group;
mod lexemes;
#[cfg(test)]
mod tests;

pub use channels::{ChannelVerb, channel_edits};
pub use edits::{Edit, Edits, Shifts};

use std::collections::BTreeMap;

use conflict::Conflict;
use copy::Copy;
use lexemes::Lexemes;

/// The column by which shared tables tell tenants apart.
const TENANT_COLUMN: &str = "tenant_id";
/// The schema of the shared tables.
const TABLES: &str = "app";
/// The schema of the views through which `COPY FROM` goes.
const COPY_VIEWS: &str = "insula_copy";

/// Longer texts are not read for `GROUP BY`.
const GROUPED_BYTES_MAX: usize = 64 * 1024;

/// The columns of the primary keys of the app schema's tables, as their
/// developer wrote them, by the tables' names.
pub type Keys = BTreeMap<String, Vec<String>>;

/// How the server will read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A backslash in a plain string is a backslash
    /// (`standard_conforming_strings`).
    pub conforming: bool,
}

/// What there is to change in a text, whose encoding must be one in which no
/// ASCII byte is a part of another character. `None` where there is nothing.
#[must_use]
pub fn edits(text: &[u8], settings: Settings, keys: &Keys) -> Option<Edits> {
    let mut edits = Edits::default();
    if may_have_group(text) && !keys.is_empty() {
        edits.extend(group::edits(text, settings, keys));
    }
    if !may_have_others(text) {
        return edits.in_order();
    }
    let mut conflict = Conflict::default();
    let mut lexemes = Lexemes::new(text, settings);
    let mut begins_statement = true;
    while let Some(lexeme) = lexemes.next() {
        if begins_statement && lexeme.is_word(text, "copy") {
            edits.extend(Copy { text, rest: lexemes.clone() }.edit());
        }
        edits.extend(conflict.take(text, lexeme));
        begins_statement = lexeme.is_symbol(b';');
    }
    // A text with an open quotation is refused by the server.
    if lexemes.is_broken() { None } else { edits.in_order() }
}

/// Whether a text is to be read for `GROUP BY`, with what is known of keys.
#[must_use]
pub fn may_have_group(text: &[u8]) -> bool {
    text.len() <= GROUPED_BYTES_MAX && has(text, [b'p', b'P'], 4, b"group")
}

/// Whether the text has one of the other words in it, somewhere: a look that
/// costs less than reading it.
fn may_have_others(text: &[u8]) -> bool {
    has(text, [b'f', b'F'], 3, b"conflict") || has(text, [b'y', b'Y'], 3, b"copy")
}

/// Whether a word, of which one letter is looked for, stands in a text.
fn has(text: &[u8], letter: [u8; 2], at: usize, word: &[u8]) -> bool {
    memchr::memchr2_iter(letter[0], letter[1], text).any(|place| {
        let Some(start) = place.checked_sub(at) else { return false };
        text.get(start..start + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word))
    })
}
