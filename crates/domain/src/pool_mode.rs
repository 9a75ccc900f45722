//! How long a session of the PostgreSQL front keeps a connection to the
//! database.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// How long a session keeps a connection to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// As long as a transaction lasts.
    #[default]
    Transaction,
    /// As long as it lasts itself.
    Session,
}

impl PoolMode {
    /// Its name in the API, the catalog and the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for PoolMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no pool mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not a pool mode: there are transaction and session")]
pub struct UnknownPoolMode;

impl FromStr for PoolMode {
    type Err = UnknownPoolMode;

    fn from_str(text: &str) -> Result<Self, UnknownPoolMode> {
        [Self::Transaction, Self::Session]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or(UnknownPoolMode)
    }
}
