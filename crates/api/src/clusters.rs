//! Regions and clusters.

use insula_domain::{ClusterName, RegionGroup, RegionName, SchemaVersion, TenantId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// The region groups that enclose it.
    pub groups: Vec<RegionGroup>,
}

/// How many tenants of each shared model a cluster may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterCapacity {
    /// Tenants in the shared tables.
    pub pool: u32,
    /// Schemas.
    pub schema: u32,
    /// Databases.
    pub database: u32,
}

/// A PostgreSQL server that is registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Where it stands.
    pub region: RegionName,
    /// Host name, address, or the absolute path of the folder of its Unix socket.
    pub host: String,
    /// The port, which a socket has in its name.
    pub port: u16,
    /// Whether connections to it are encrypted.
    pub tls: bool,
    /// For example `15.18`.
    pub server_version: String,
    /// Set where it belongs to one tenant.
    pub tenant_id: Option<TenantId>,
    /// `active`, `draining` where it takes no new tenants, or `unreachable`
    /// where it is ours to start and does not start.
    pub status: String,
    /// How many tenants it may have.
    pub capacity: ClusterCapacity,
    /// How many tenants it has.
    pub tenants: u32,
    /// The app schema version of its shared tables.
    pub schema_version: SchemaVersion,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A server to be registered.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddCluster {
    /// Its name.
    #[schema(example = "us-east-1-b")]
    pub name: String,
    /// Where it stands.
    #[schema(example = "us-east-1")]
    pub region: String,
    /// How to reach it as a superuser. A host that is an absolute path, percent-encoded, is the folder of a Unix
    /// socket on the machine of all processes of Insula.
    #[schema(example = "postgres://insula:secret@10.0.0.5:5432/postgres")]
    pub url: String,
    /// How many tenants it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<ClusterCapacity>,
}

impl std::fmt::Debug for AddCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddCluster")
            .field("name", &self.name)
            .field("region", &self.region)
            .field("url", &"[redacted]")
            .field("capacity", &self.capacity)
            .finish()
    }
}
