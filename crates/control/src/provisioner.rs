//! Who starts a PostgreSQL server for a tenant that has one of its own: a local
//! process today, an inventory of ready servers or a webhook later.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use insula_credentials::Secret;
use insula_domain::{ClusterName, RegionName};
use insula_problem::Problem;

/// A server that was started.
#[derive(Debug)]
pub struct ProvisionedCluster {
    /// Host name, address, or the absolute path of a socket's folder.
    pub host: String,
    /// The port, which a socket has in its name.
    pub port: u16,
    /// A superuser.
    pub admin_user: String,
    /// That superuser's password.
    pub admin_password: Secret,
}

/// Starts and removes servers. Each call can be repeated and then changes nothing.
#[async_trait]
pub trait ClusterProvisioner: Debug + Send + Sync {
    /// What kind it is, for the catalog: who started a server must remove it.
    fn kind(&self) -> &'static str;

    /// Starts a server in the region, or finds the one that it started under this name.
    async fn provision(&self, name: &ClusterName, region: &RegionName)
    -> Result<ProvisionedCluster, Problem>;

    /// Host and port at which it starts the server of this name; `None` where
    /// it has started none, or another process knows better.
    async fn address(&self, name: &ClusterName) -> Result<Option<(String, u16)>, Problem>;

    /// Stops a server and removes its data.
    async fn remove(&self, name: &ClusterName) -> Result<(), Problem>;

    /// The servers that it has to start and that do not start, and why.
    fn down(&self) -> BTreeMap<ClusterName, String>;

    /// The servers that it has started and not removed.
    async fn list(&self) -> Result<Vec<ClusterName>, Problem>;
}
