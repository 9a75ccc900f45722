//! A value as a backend has it.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::key::ConfigKey;
use crate::scope::Scope;
use crate::value::ConfigValue;
use crate::write::Label;

/// The number of a change in a region's log: it only grows, for a tenant also
/// when its home becomes another region.
pub type Revision = i64;

/// The number of a version of one key in one scope: 1, 2, 3 …, also across removals.
pub type Version = i64;

/// One version of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Where it is set.
    pub scope: Scope,
    /// Its key.
    pub key: ConfigKey,
    /// Its number.
    pub version: Version,
    /// The change that made it.
    pub revision: Revision,
    /// What it is; none where this version is a removal.
    pub value: Option<ConfigValue>,
    /// The labels that are on this version.
    pub labels: BTreeSet<Label>,
    /// Who wrote it, for example `key:<id>` or `operator:ada@example.com`.
    pub author: String,
    /// When.
    pub at: OffsetDateTime,
    /// What its author says of it.
    pub note: String,
}
