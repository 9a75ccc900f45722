//! The four isolation models: how far a tenant's rows are from another's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// How a tenant's rows are kept apart from those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Shared tables, kept apart by row-level security.
    Pool,
    /// A schema of its own in a shared database.
    Schema,
    /// A database of its own on a shared server.
    Database,
    /// A PostgreSQL server of its own.
    Cluster,
}

impl Isolation {
    /// All four, from the closest to the furthest apart.
    pub const ALL: [Self; 4] = [Self::Pool, Self::Schema, Self::Database, Self::Cluster];

    /// The word as it stands in the API, the catalog and the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Schema => "schema",
            Self::Database => "database",
            Self::Cluster => "cluster",
        }
    }

    /// Whether the app schema is there in its pool form (tenant column,
    /// row-level security) rather than as its developer wrote it.
    #[must_use]
    pub const fn is_pool_form(self) -> bool {
        matches!(self, Self::Pool)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names none of the four isolation models.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown isolation model {0:?}: it is one of pool, schema, database, cluster")]
pub struct UnknownIsolation(pub String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|model| model.as_str() == text)
            .ok_or_else(|| UnknownIsolation(text.chars().take(40).collect()))
    }
}
