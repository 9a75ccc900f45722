//! Connections to a cluster as its administrator. The databases that many
//! tenants share have a small pool each, since opening a connection costs
//! PostgreSQL a process; a tenant's own database is connected to as needed.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use insula_domain::{ClusterName, DatabaseName};
use insula_problem::{Code, Problem};
use insula_sql_store::{Connector, Object, Pool, PoolSize, Store, pool, pool_problem};
use tokio_postgres::Client;

/// Connections kept for each shared database.
const POOL_SIZE: PoolSize = PoolSize(4);

/// The database in which roles and databases are made.
pub(crate) const MAINTENANCE: &str = "postgres";

/// The way to a cluster as its administrator.
#[derive(Clone, Debug)]
pub struct ClusterAccess {
    name: ClusterName,
    connector: Connector,
    pools: Arc<Mutex<HashMap<String, Pool>>>,
}

/// A connection: from a pool, or of its own.
#[derive(Debug)]
pub enum Connection {
    /// Goes back to its pool.
    Pooled(Object),
    /// Ends.
    Own(Client),
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Self::Pooled(object) => object,
            Self::Own(client) => client,
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        match self {
            Self::Pooled(object) => object,
            Self::Own(client) => client,
        }
    }
}

impl ClusterAccess {
    /// Nothing is opened yet. The connector's database does not matter.
    #[must_use]
    pub fn new(name: ClusterName, connector: Connector) -> Self {
        Self { name, connector, pools: Arc::default() }
    }

    /// Which cluster.
    #[must_use]
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// A connection to the database in which roles and databases are made.
    ///
    /// # Errors
    /// `placement_unavailable` where the cluster is away.
    pub async fn maintenance(&self) -> Result<Connection, Problem> {
        self.pooled(MAINTENANCE).await
    }

    /// A connection to a database that tenants share.
    ///
    /// # Errors
    /// `placement_unavailable` where the cluster is away.
    pub async fn shared(&self, database: &DatabaseName) -> Result<Connection, Problem> {
        self.pooled(database.as_str()).await
    }

    /// A connection to a database that one tenant has, or a template.
    ///
    /// # Errors
    /// `placement_unavailable` where the cluster is away.
    pub async fn own(&self, database: &DatabaseName) -> Result<Connection, Problem> {
        self.open(&self.connector.with_database(database.as_str())).await
    }

    /// A connection that is not the administrator's.
    ///
    /// # Errors
    /// `placement_unavailable` where the cluster is away or refuses the role.
    pub(crate) async fn as_role(
        &self,
        role: &str,
        password: &str,
        database: &DatabaseName,
    ) -> Result<Connection, Problem> {
        self.open(&self.connector.with_role(role, password, database.as_str())).await
    }

    async fn open(&self, connector: &Connector) -> Result<Connection, Problem> {
        let client = connector.connect().await.map_err(|error| {
            Problem::new(
                Code::PlacementUnavailable,
                format!("The cluster {} cannot be reached right now.", self.name),
            )
            .retry_after(2)
            .caused_by(error)
        })?;
        Ok(Connection::Own(client))
    }

    async fn pooled(&self, database: &str) -> Result<Connection, Problem> {
        let pool = self
            .pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(database.to_owned())
            .or_insert_with(|| pool(&self.connector.with_database(database), POOL_SIZE))
            .clone();
        let object =
            insula_sql_store::get(&pool).await.map_err(|error| pool_problem(Store::Cluster, error))?;
        Ok(Connection::Pooled(object))
    }
}
