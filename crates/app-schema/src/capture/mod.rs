//! Capture: from what was recorded on the blueprint to the text of the next
//! version. The blueprint says, in order, which statement of which message has
//! changed what; here the statements are found again in the messages' text, so
//! that each is written once and as its developer wrote it.
//!
//! Constants are captured as rows, decisions as statements: what an
//! `INSERT … VALUES` has made in the blueprint is the same for every tenant,
//! ids included, whereas an `UPDATE` must decide over each tenant's own rows.

mod align;
mod draft;
mod message;
mod normalise;
mod parameters;
mod rows;
mod settings;
#[cfg(test)]
mod tests;
mod undone;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use crate::refusal::Refusal;

/// The most rows of one statement, and of one capture.
pub const MAX_ROWS: usize = 10_000;

/// Schemas in which migration tools keep their own books, and nothing else.
const TOOL_SCHEMAS: [&str; 2] = ["drizzle", "atlas_schema_revisions"];

/// Something that the blueprint's recorder has noted.
#[derive(Debug, Clone)]
pub struct Firing {
    /// Its place in the order of everything.
    pub seq: i64,
    /// The client's message that it was part of.
    pub message: Arc<str>,
    /// The text of that message.
    pub text: Arc<str>,
    /// PostgreSQL's tag of the command, as in `CREATE TABLE`.
    pub tag: String,
    /// Where it was run from, as PostgreSQL describes it, the innermost first;
    /// empty where the client itself sent it.
    pub context: String,
    /// What its session had set that changes what a text means, and that a
    /// version has otherwise, as in `TimeZone = Europe/Paris`; mostly empty.
    pub settings: String,
    /// What was changed.
    pub what: What,
}

/// What was changed.
#[derive(Debug, Clone)]
pub enum What {
    /// Definitions were made or changed.
    Defined(Vec<Touched>),
    /// Definitions were dropped.
    Dropped(Vec<Touched>),
    /// Rows of one table were changed by one statement.
    Rows(ChangedRows),
}

impl What {
    /// Reads what the recorder has written.
    ///
    /// # Errors
    /// Where the kind is not known or the detail has another shape.
    pub fn read(kind: &str, detail: &str) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            "ddl" => Self::Defined(serde_json::from_str(detail)?),
            "drop" => Self::Dropped(serde_json::from_str(detail)?),
            _ => Self::Rows(serde_json::from_str(detail)?),
        })
    }
}

/// An object that a definition is about.
#[derive(Debug, Clone, Deserialize)]
pub struct Touched {
    /// The schema that it is in; none for what is in none.
    pub schema: Option<String>,
    /// Its name, as PostgreSQL writes it.
    pub identity: Option<String>,
}

/// Rows that one statement has changed in one table.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ChangedRows {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// How many rows there were.
    pub count: u64,
    /// The columns whose values were kept, where they were.
    pub columns: Option<Vec<String>>,
    /// The columns of the primary key.
    pub key: Option<Vec<String>>,
    /// Whether an id is always generated, unless the statement overrides it.
    pub always: Option<bool>,
    /// The rows before, each value as a literal.
    pub old: Option<Vec<Vec<String>>>,
    /// The rows after.
    pub new: Option<Vec<Vec<String>>>,
    /// Where the sequences stood then from which the table draws.
    pub sequences: Option<BTreeMap<String, Option<i64>>>,
}

/// A sequence that stands elsewhere than at the last capture.
#[derive(Debug, Clone)]
pub struct MovedSequence {
    /// Its name.
    pub name: String,
    /// The tables that draw from it.
    pub tables: Vec<String>,
    /// The last value that was drawn.
    pub last_value: i64,
}

/// What is to be captured.
#[derive(Debug, Clone)]
pub struct Recording<'a> {
    /// Everything that was recorded, in its order.
    pub firings: &'a [Firing],
    /// Sequences that have moved.
    pub sequences: &'a [MovedSequence],
    /// Tables whose rows are left out.
    pub without_data: &'a BTreeSet<String>,
    /// The role as which tools work.
    pub role: &'a str,
    /// The file that it will be.
    pub file: &'a str,
    /// A comment for its head, on one line.
    pub header: &'a str,
}

/// Something that was changed or left out on the way, for the developer to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The statement, on one line and shortened.
    pub statement: String,
    /// What was done with it.
    pub note: String,
}

/// The text of a version, as it was recorded.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The text. Where it holds refused statements, a comment before each says so.
    pub sql: String,
    /// How many statements are in it.
    pub statements: usize,
    /// What was changed or left out.
    pub notes: Vec<Note>,
    /// What cannot be captured, with its place in the text.
    pub refusals: Vec<Refusal>,
}

impl Recording<'_> {
    /// Makes the text of a version.
    #[must_use]
    pub fn draft(&self) -> Draft {
        draft::draft(self)
    }
}
