//! Why a stream of changes has ended.

use insula_problem::{Code, Problem};
use thiserror::Error;

use super::super::pgoutput::DecodeError;
use super::super::wire::{ServerError, WireFault};

/// The SQLSTATE of a server whose disk is full.
const DISK_FULL: &str = "53100";

/// The SQLSTATEs of one who waits for a lock, for long or for ever, and the class
/// of those who find no more room: several sessions take more than one.
const OF_SEVERAL: [&str; 3] = ["55P03", "40P01", "53"];

/// Why a stream of changes has ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamFault {
    /// The target is not what the source was: a row that was changed is not
    /// there, or one that was added is there already.
    #[error("the target differs from the source: {change} of {table} where {key}: {found}")]
    Diverged {
        /// The table.
        table: String,
        /// What was done to it: `insert`, `update` or `delete`.
        change: String,
        /// The key's columns and values, or digests of those that may be a person's.
        key: String,
        /// What was found instead.
        found: String,
    },
    /// The app schema is no longer what it was when the move began.
    #[error("the table {table} has changed: {detail}")]
    SchemaChanged {
        /// The table.
        table: String,
        /// What is different.
        detail: String,
    },
    /// The slot is gone, or the server has given up the log that it needs.
    #[error("the slot of the stream is lost: {0}")]
    SlotLost(String),
    /// Another applier of the same stream has begun.
    #[error("another applier of the stream has begun")]
    Superseded,
    /// A server was away for longer than the stream's patience.
    #[error("a server is away: {0}")]
    Away(String),
    /// A server refuses what the stream needs, or says what is not understood.
    #[error("the stream cannot go on: {0}")]
    Refused(String),
    /// The stream was stopped.
    #[error("the stream was stopped")]
    Stopped,
}

impl StreamFault {
    /// Whether another try may succeed by itself.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// Whether it may come of applying transactions that are not committed at the
    /// source, so that it is to be seen whether it is there when they come whole.
    pub(super) fn may_be_of_chunks(&self) -> bool {
        match self {
            Self::Diverged { .. } | Self::SchemaChanged { .. } | Self::Refused(_) => true,
            Self::Away(said) => OF_SEVERAL.iter().any(|state| said.starts_with(state)),
            Self::SlotLost(_) | Self::Superseded | Self::Stopped => false,
        }
    }

    /// What an error of the target's server means for the stream. Locks that
    /// others hold, deadlocks and servers that go away pass.
    pub(super) fn of_target(error: &ServerError, change: &str, table: &str, key: &str) -> Self {
        let is_of = |classes: &[&str]| classes.iter().any(|class| error.sqlstate.starts_with(class));
        let said = format!("{} {}", error.sqlstate, error.message);
        if is_of(&["08", "53", "57", "58", "40", "55P03"]) {
            return Self::Away(said);
        }
        if is_of(&["22", "23"]) {
            let (table, change, key) = (table.to_owned(), change.to_owned(), key.to_owned());
            return Self::Diverged { table, change, key, found: said };
        }
        if is_of(&["42"]) && !table.is_empty() {
            return Self::SchemaChanged { table: table.to_owned(), detail: said };
        }
        Self::Refused(said)
    }
}

impl From<WireFault> for StreamFault {
    fn from(fault: WireFault) -> Self {
        if fault.is_away() { Self::Away(fault.to_string()) } else { Self::Refused(fault.to_string()) }
    }
}

impl From<DecodeError> for StreamFault {
    fn from(error: DecodeError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<StreamFault> for Problem {
    fn from(fault: StreamFault) -> Self {
        let text = fault.to_string();
        match fault {
            StreamFault::Diverged { .. } => Self::new(Code::MoveDiverged, capitalised(&text)),
            StreamFault::SchemaChanged { .. } => Self::new(Code::SchemaChanged, capitalised(&text)),
            // Without its log nobody can go on from there.
            StreamFault::SlotLost(_) => Self::new(Code::MoveBlocked, capitalised(&text)),
            StreamFault::Away(said) if said.starts_with(DISK_FULL) => {
                let detail = format!("The disk of the server that changes are applied at is full: {said}.");
                Self::new(Code::NoCapacity, detail)
            }
            StreamFault::Away(_) => {
                Self::new(Code::PlacementUnavailable, "The tenant cluster cannot be reached right now.")
                    .retry_after(2)
                    .caused_by(text)
            }
            _ => Self::internal(text),
        }
    }
}

/// As a sentence.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_server_that_is_away() {
        let error = |sqlstate: &str| ServerError {
            sqlstate: sqlstate.to_owned(),
            message: "could not extend file".to_owned(),
            table: String::new(),
        };
        for (sqlstate, code) in [("53100", Code::NoCapacity), ("53300", Code::PlacementUnavailable)] {
            let fault = StreamFault::of_target(&error(sqlstate), "insert", "orders", "id 1");
            assert!(fault.is_away(), "{fault}");
            assert_eq!(Problem::from(fault).code(), code);
        }
    }
}
