//! What is written: values, removals, labels and rollbacks, alone or several at
//! once, on condition of a version, once by a token.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

use crate::key::ConfigKey;
use crate::scope::Scope;
use crate::stored::{Revision, Version};
use crate::value::ConfigValue;

/// The most writes at once.
pub const WRITES_MAX: usize = 100;

/// What the keys of schemas begin with. Behind it stands the key whose values a
/// schema is for, or the beginning of keys with a `*` behind it.
pub const SCHEMA_KEYS: &str = "insula_schema/";

/// The label that is always on the newest version.
pub const LABEL_CURRENT: &str = "current";

/// The label that is always on the version before the newest.
pub const LABEL_PREVIOUS: &str = "previous";

/// The text is no label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{shown:?} is no label: it has 1 to 100 letters, digits, dots, dashes and underscores, no digit first, and is not current or previous, which move by themselves"
)]
pub struct InvalidLabel {
    shown: String,
}

/// A name that is put on a version and can be moved to another. The rule is
/// that of Parameter Store, so that every backend can keep it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let lower = text.to_ascii_lowercase();
        let valid = (1..=100).contains(&text.len())
            && !text.starts_with(|first: char| first.is_ascii_digit())
            && !["aws", "ssm"].iter().any(|taken| lower.starts_with(taken))
            && ![LABEL_CURRENT, LABEL_PREVIOUS].contains(&lower.as_str())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidLabel { shown: text.chars().take(60).collect() })
        }
    }
}

impl TryFrom<String> for Label {
    type Error = InvalidLabel;

    fn try_from(text: String) -> Result<Self, InvalidLabel> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an author says of a write, 500 bytes at the most.
pub type Note = String;

/// Under which a write is done once, however often it is asked for, 200 bytes at the most.
pub type RequestToken = String;

/// What is done to a key.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteOp {
    /// A new version with this value.
    Put(ConfigValue),
    /// A new version that says that there is none.
    Remove,
    /// A new version with the value of this one.
    Rollback(Version),
    /// A new version with the value of the one that has this label by then,
    /// [`LABEL_CURRENT`] and [`LABEL_PREVIOUS`] among them.
    RollbackTo(String),
    /// Puts a label on this version, or takes it away everywhere.
    Label(Label, Option<Version>),
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Where.
    pub scope: Scope,
    /// To which key.
    pub key: ConfigKey,
    /// What.
    pub op: WriteOp,
    /// Only where the newest version is this one; 0 is where there is none, or
    /// it is a removal.
    pub if_version: Option<Version>,
    /// What is said of it.
    pub note: Note,
    /// How many versions of the key are kept, beside those that have a label:
    /// as its tag says.
    pub history: u32,
    /// Whether its tag is one of secrets: what was kept in clear under an
    /// earlier table of tags is sealed when it is set again.
    pub is_secret: bool,
    /// What becomes of it where its scope has little room.
    pub room: Room,
    /// Where a backend outside the store has it already: as which version. It
    /// is taken over as it is, whatever the condition says.
    pub made: Option<Made>,
}

/// What becomes of a write where its scope has little room left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Room {
    /// Earlier versions of the key go before it is refused.
    #[default]
    Usual,
    /// The version before stays beside it; where both do not fit it is refused.
    BesideBefore,
    /// It is never refused: a value that was there comes back.
    Always,
}

/// A version that a backend outside the store has made.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Its number.
    pub version: Version,
    /// What it is, a secret as it is kept or in clear; none where it is a removal.
    pub value: Option<ConfigValue>,
    /// When it was made; now, where that is not known.
    pub at: Option<OffsetDateTime>,
    /// Only where the newest version is this one; where it is not given, what is
    /// there already was taken over before.
    pub behind: Option<Version>,
}

/// Writes that are done all or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// In their order; [`WRITES_MAX`] at the most.
    pub writes: Vec<Write>,
    /// Under which they are done once.
    pub token: Option<RequestToken>,
    /// Who writes.
    pub author: String,
    /// By which version of the table of tags it was decided where the values
    /// are kept: a store that has a newer one refuses it.
    pub tags: Option<Version>,
    /// Which schemas the values were held against, by the newest change of those
    /// of each scope that counts; 0 where it has none. A store in which a scope
    /// has others refuses it.
    pub schemas: Vec<(Scope, Revision)>,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The version that was made, or that has the label now.
    pub version: Version,
    /// The change in the log; that of the version where nothing was to be done.
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_words_that_every_backend_takes() {
        for label in ["stable", "release-1.2", "A_b"] {
            assert_eq!(label.parse::<Label>().unwrap().as_str(), label);
        }
        for label in ["", "1st", "current", "Previous", "awsome", "a b", "ü", &"l".repeat(101)] {
            assert!(label.parse::<Label>().is_err(), "{label}");
        }
    }
}
