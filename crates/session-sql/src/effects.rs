//! What a text leaves behind, and how it is found out.

use std::ops::Range;

use insula_sql_lexer::Walk;

use crate::course::{Follower, Found};
use crate::quick::leaves_nothing;
use crate::text;

/// What a text leaves behind in its session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Why the session cannot leave its backend after it: the first reason of
    /// those that there may be.
    pub pin: Option<Pin>,
    /// Session settings may be other ones after it: `SET` but for `SET LOCAL`,
    /// `SET TRANSACTION` and `SET CONSTRAINTS`; `RESET`, `DISCARD ALL`,
    /// `set_config` unless its third argument is the word `true`, and `DO`.
    pub changes_settings: bool,
    /// One may be led back to what the session began with: `RESET`, `DISCARD ALL`,
    /// `DO`, `set_config`, which takes a null for that, and `SET` with the word
    /// `DEFAULT`, and of `TIME ZONE` and `NAMES`. False is certain of what the text
    /// does itself.
    pub resets_settings: bool,
    /// Custom settings (those with a dot) that it names, in small letters and
    /// each once: `pg_settings` does not list them, they must be asked for by
    /// name. At most [`Effects::CUSTOM_SETTINGS_MAX`] of at most
    /// [`Effects::CUSTOM_SETTING_BYTES_MAX`] bytes, of ASCII letters, figures,
    /// `_`, `$` and dots; more and others pin with [`Pin::UnknownSetting`].
    pub custom_settings: Vec<String>,
    /// `DISCARD ALL` or `DEALLOCATE ALL`: prepared statements are gone after it,
    /// if it succeeds.
    pub drops_prepared: bool,
    /// The text is `DEALLOCATE` of one name and nothing else. Among other
    /// statements it pins with [`Pin::Unclear`].
    pub deallocates: Option<Deallocated>,
    /// `currval` or `lastval`, which read what `nextval` left in the session.
    pub reads_sequences: bool,
    /// Definitions may be other ones after it, for which prepared statements
    /// may have to be made anew: `CREATE`, `ALTER`, `DROP`, `IMPORT FOREIGN
    /// SCHEMA`, `SELECT INTO`, and `DO`.
    pub changes_definitions: bool,
    /// Up to the end of the transaction texts may be read otherwise than by the
    /// session's settings: `SET LOCAL` of one of [`READ_BY`](crate::READ_BY), and
    /// `set_config` of one with `true`.
    pub reads_otherwise: bool,
}

impl Effects {
    /// Custom settings that are kept of one text.
    pub const CUSTOM_SETTINGS_MAX: usize = 16;

    /// Bytes of a custom setting's name that is kept.
    pub const CUSTOM_SETTING_BYTES_MAX: usize = 128;

    /// Those of a text that cannot be read: it may do anything.
    pub(crate) fn unclear() -> Self {
        Self {
            pin: Some(Pin::Unclear),
            changes_settings: true,
            resets_settings: true,
            drops_prepared: true,
            reads_sequences: true,
            changes_definitions: true,
            reads_otherwise: true,
            ..Self::default()
        }
    }
}

/// Why a session cannot leave its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    /// A temporary table, view or sequence, or any use of the schema `pg_temp`.
    TemporaryObject,
    /// An advisory lock that is the session's, not the transaction's.
    AdvisoryLock,
    /// A cursor that outlives its transaction.
    HeldCursor,
    /// The session listens.
    Listen,
    /// A library was loaded.
    Load,
    /// A statement was prepared in SQL, whose name only this backend knows.
    SqlPrepare,
    /// The session acts as another role.
    Role,
    /// A setting was changed whose name cannot be seen, or kept.
    UnknownSetting,
    /// Random numbers follow from a seed.
    Seed,
    /// A connection of the extension dblink.
    Dblink,
    /// It cannot be said what the text does.
    Unclear,
}

impl Pin {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::TemporaryObject,
        Self::AdvisoryLock,
        Self::HeldCursor,
        Self::Listen,
        Self::Load,
        Self::SqlPrepare,
        Self::Role,
        Self::UnknownSetting,
        Self::Seed,
        Self::Dblink,
        Self::Unclear,
    ];

    /// Its name, which stays the same, for the label of a metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TemporaryObject => "temporary_object",
            Self::AdvisoryLock => "advisory_lock",
            Self::HeldCursor => "held_cursor",
            Self::Listen => "listen",
            Self::Load => "load",
            Self::SqlPrepare => "sql_prepare",
            Self::Role => "role",
            Self::UnknownSetting => "unknown_setting",
            Self::Seed => "seed",
            Self::Dblink => "dblink",
            Self::Unclear => "unclear",
        }
    }
}

/// The prepared statement of a `DEALLOCATE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deallocated {
    /// Its name as PostgreSQL looks for it: without its quotes, or in small
    /// letters.
    pub name: Vec<u8>,
    /// Where it stands in the text, with its quotes. Another name can be put
    /// there.
    pub range: Range<usize>,
}

/// What a whole text leaves behind in its session. The text is that of a
/// `Query` or a `Parse`, without the zero at its end.
#[must_use]
pub fn effects(text: &[u8]) -> Effects {
    if leaves_nothing(text) {
        return Effects::default();
    }
    read(text)
}

/// The same for any text, by reading it.
pub(crate) fn read(text: &[u8]) -> Effects {
    let mut walk = Walk::new(Follower::of(text));
    walk.feed(text);
    let Some((follower, courses)) = walk.finish() else { return Effects::unclear() };
    let mut found = Found::default();
    let mut ranges = Vec::new();
    for course in courses {
        found.add(course.found());
        ranges.push(course.deallocated());
    }
    let mut effects = found.into_effects(follower.into_custom_settings());
    if let Some(range) = ranges.iter().copied().find_map(|range| range) {
        let is_alone = ranges.iter().all(|other| *other == Some(range));
        effects.deallocates = range.filter(|_| is_alone).and_then(|range| deallocated(text, range));
        if effects.deallocates.is_none() {
            effects.pin = effects.pin.or(Some(Pin::Unclear));
        }
    }
    effects
}

fn deallocated(text: &[u8], (start, end): (usize, usize)) -> Option<Deallocated> {
    let name = text::identifier(text.get(start..end)?)?;
    Some(Deallocated { name, range: start..end })
}
