//! What the map knows of a tenant, of a database login and of a cluster. Each
//! carries the revision of the catalog at which it was written.

use std::fmt;

use insula_domain::{
    ClusterName, DatabaseName, DatabaseTerms, Isolation, LoginId, LoginName, Placement, PoolMode, RegionName,
    Slug, TenantId, TenantStatus, TierName,
};

use crate::hold::Hold;

/// A tenant as far as routing needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The tenant.
    pub tenant: TenantId,
    /// Its slug, by which child paths find it.
    pub slug: Slug,
    /// Its parent in the tree of tenants.
    pub parent: Option<TenantId>,
    /// Its tier.
    pub tier: TierName,
    /// Where its home is.
    pub region: RegionName,
    /// Whether it may be served.
    pub status: TenantStatus,
    /// Where its data is; `None` until it has been provisioned.
    pub placement: Option<Placement>,
    /// The generation of the master key from which the passwords of its roles
    /// are derived.
    pub role_key_generation: u32,
    /// How many sessions it may have at once; `None` is "no limit".
    pub max_connections: Option<u32>,
    /// What it has of the front beside.
    pub terms: DatabaseTerms,
    /// Its transactions are to wait, because it is being moved.
    pub hold: Option<Hold>,
    /// It is to do with few backends, because it is about to be held.
    pub is_narrowed: bool,
    /// Where it is about to go, while it is narrowed. It may never come to it.
    pub goes_to: Option<NextPlace>,
    /// The revision of the catalog that wrote this.
    pub revision: i64,
}

/// Where a tenant is about to be served from, as the same roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextPlace {
    /// The cluster.
    pub cluster: ClusterName,
    /// The database.
    pub database: DatabaseName,
    /// The isolation model.
    pub isolation: Isolation,
}

impl NextPlace {
    /// Whether a placement is there.
    #[must_use]
    pub fn is_at(&self, placement: &Placement) -> bool {
        self.cluster == placement.cluster && self.database == placement.database
    }
}

/// How a cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEndpoint {
    /// The cluster.
    pub name: ClusterName,
    /// A host name, an IP address, or the absolute path of a socket's folder.
    pub host: String,
    /// The port, which a socket has in its name.
    pub port: u16,
    /// Whether backends are opened with TLS.
    pub tls: bool,
    /// `system_identifier` of `pg_control_system()`, where it is known.
    pub system_identifier: Option<String>,
    /// How many backends the front may have there; `None` is "no limit".
    pub max_connections: Option<u32>,
    /// The revision of the catalog that wrote this.
    pub revision: i64,
}

/// A database login.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginRoute {
    /// The login.
    pub id: LoginId,
    /// The user name that the client gives.
    pub name: LoginName,
    /// The tenant whose login it is.
    pub tenant: TenantId,
    /// What the secret is checked against, in PostgreSQL's text form.
    pub verifier: String,
    /// Whether its sessions may only read.
    pub read_only: bool,
    /// Whether it reaches the tenants below its own.
    pub descendants: bool,
    /// How many sessions it may have at once; `None` is "no limit of its own".
    pub max_sessions: Option<u32>,
    /// How long its sessions keep a backend; `None` is as the front is set.
    pub pool_mode: Option<PoolMode>,
    /// The revision of the catalog that wrote this.
    pub revision: i64,
}

impl fmt::Debug for LoginRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRoute")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .field("read_only", &self.read_only)
            .field("descendants", &self.descendants)
            .field("max_sessions", &self.max_sessions)
            .field("pool_mode", &self.pool_mode)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
