//! Where a tenant's data is, and which statement of it is the newest.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::TenantId;
use crate::isolation::Isolation;
use crate::names::{DatabaseName, RoleName, SchemaName};
use crate::text::ClusterName;

/// A number per tenant that grows by one at every change of placement. What
/// presents an older one is stale and is refused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = i64)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The epoch of a tenant's first placement.
    pub const FIRST: Self = Self(1);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a tenant's data is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// The PostgreSQL server.
    pub cluster: ClusterName,
    /// How the tenant's rows are kept apart there.
    pub isolation: Isolation,
    /// The database on the server.
    pub database: DatabaseName,
    /// The schema in the database.
    pub schema: SchemaName,
    /// The role as which the tenant's sessions run.
    pub role: RoleName,
    /// Which statement of the placement this is.
    pub epoch: Epoch,
}

impl Placement {
    /// The placement of a tenant on a cluster: everything but the cluster
    /// follows from the tenant's id and the isolation model.
    #[must_use]
    pub fn new(tenant: TenantId, isolation: Isolation, cluster: ClusterName, epoch: Epoch) -> Self {
        let (database, schema) = Self::names(tenant, isolation);
        Self { cluster, isolation, database, schema, role: RoleName::of_tenant(tenant), epoch }
    }

    /// The database and the schema of a tenant in a model, on whatever cluster.
    #[must_use]
    pub fn names(tenant: TenantId, isolation: Isolation) -> (DatabaseName, SchemaName) {
        match isolation {
            Isolation::Pool => (DatabaseName::pool(), SchemaName::pool()),
            Isolation::Schema => (DatabaseName::schemas(), SchemaName::of_tenant(tenant)),
            Isolation::Database => (DatabaseName::of_tenant(tenant), SchemaName::of_silo()),
            Isolation::Cluster => (DatabaseName::of_cluster(), SchemaName::of_silo()),
        }
    }
}
