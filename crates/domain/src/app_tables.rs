//! What a version of the app schema is brought to as a whole.

use std::fmt;

use crate::ids::TenantId;
use crate::text::ClusterName;

/// Tables that have one version of the app schema together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppTables {
    /// The shared tables of a cluster, with the rows of all tenants in them.
    Pool(ClusterName),
    /// The tables that a tenant has for itself.
    Silo(TenantId),
}

impl AppTables {
    /// The tenant whose alone they are.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Pool(_) => None,
            Self::Silo(tenant) => Some(*tenant),
        }
    }
}

/// The key under which the stores know them: `pool/us-east-1-a`, `silo/<id>`.
impl fmt::Display for AppTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(cluster) => write!(f, "pool/{cluster}"),
            Self::Silo(tenant) => write!(f, "silo/{tenant}"),
        }
    }
}
