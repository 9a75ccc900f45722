//! The life of a tenant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// Where a tenant is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// Being created: known, not yet usable.
    Provisioning,
    /// In use.
    Active,
    /// Kept whole, but nobody gets in.
    Suspended,
    /// Being removed, or waiting for the end of its retention time, until which it can be resumed.
    Deleting,
    /// Gone; the row stays as a tombstone, so that the id is never used again.
    Deleted,
}

impl TenantStatus {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 5] =
        [Self::Provisioning, Self::Active, Self::Suspended, Self::Deleting, Self::Deleted];

    /// The word as it stands in the API and the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// Whether a tenant may go from this status to `next`.
    ///
    /// # Errors
    /// [`StatusChangeRefused`] for a step that no life has.
    pub fn change_to(self, next: Self) -> Result<Self, StatusChangeRefused> {
        use TenantStatus::{Active, Deleted, Deleting, Provisioning, Suspended};
        match (self, next) {
            (Provisioning, Active | Deleting | Deleted)
            | (Active, Suspended)
            | (Suspended, Active | Deleting)
            | (Deleting, Active | Deleted) => Ok(next),
            (from, to) => Err(StatusChangeRefused { from, to }),
        }
    }
}

impl fmt::Display for TenantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TenantStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("unknown tenant status {text:?}"))
    }
}

/// A tenant cannot go from the one status to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a tenant that is {from} cannot become {to}")]
pub struct StatusChangeRefused {
    /// The status that the tenant has.
    pub from: TenantStatus,
    /// The status that was asked for.
    pub to: TenantStatus,
}

#[cfg(test)]
mod tests {
    use super::TenantStatus::{Active, Deleted, Deleting, Provisioning, Suspended};
    use super::*;

    #[test]
    fn only_these_eight_steps_exist() {
        let allowed = [
            (Provisioning, Active),
            (Provisioning, Deleting),
            (Provisioning, Deleted),
            (Active, Suspended),
            (Suspended, Active),
            (Suspended, Deleting),
            (Deleting, Active),
            (Deleting, Deleted),
        ];
        for from in TenantStatus::ALL {
            for to in TenantStatus::ALL {
                assert_eq!(from.change_to(to).is_ok(), allowed.contains(&(from, to)), "{from} to {to}");
            }
        }
    }

    #[test]
    fn the_words_read_back() {
        for status in TenantStatus::ALL {
            assert_eq!(status.as_str().parse::<TenantStatus>(), Ok(status));
        }
        assert!("gone".parse::<TenantStatus>().is_err());
    }
}
