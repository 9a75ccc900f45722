//! The doctor's report on the live system.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of finding it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Something is there that nothing knows of.
    Orphan,
    /// Something that should be there is not.
    Missing,
    /// Something is there and is not as it should be.
    Difference,
    /// An operation needs an operator.
    Stuck,
    /// An operation is tried again and again and does not get through.
    Failing,
    /// Something could not be looked at.
    Unreachable,
}

impl FindingKind {
    /// The word as it stands in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "orphan",
            Self::Missing => "missing",
            Self::Difference => "difference",
            Self::Stuck => "stuck",
            Self::Failing => "failing",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What kind of finding it is.
    pub kind: FindingKind,
    /// Where: a cluster, a region store, the catalog.
    pub place: String,
    /// Which thing.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Something that works and that an operator may want to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Note {
    /// Where: a cluster.
    pub place: String,
    /// Which thing.
    pub object: String,
    /// What is to be known about it.
    pub detail: String,
}

/// What the doctor looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    /// How many tenants were compared.
    pub tenants: u32,
    /// How many clusters were read.
    pub clusters: u32,
    /// How many single checks were made.
    pub checks: u32,
    /// What is not as it should be; empty is well.
    pub findings: Vec<Finding>,
    /// What is to be known beside; it may be well all the same.
    #[serde(default)]
    pub notes: Vec<Note>,
}
