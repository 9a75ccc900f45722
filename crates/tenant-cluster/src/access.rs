//! Connections to a cluster as its administrator. The databases that many
//! tenants share have a small pool each, since opening a connection costs
//! PostgreSQL a process; a tenant's own database is connected to as needed.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use insula_domain::{ClusterName, DatabaseName};
use insula_problem::{Code, Problem};
use insula_sql_store::{Connector, Dial, Object, Pool, PoolSize, Store, pool, pool_problem};
use tokio_postgres::Client;

use crate::moving::Seat;

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

/// Where the connections come from over which something is removed from a
/// server: from its pools, where nobody else can mean it, or from a seat, which
/// ends them as soon as somebody else has it.
#[derive(Clone, Copy, Debug)]
pub enum Through<'a> {
    /// Its pools.
    Pools(&'a ClusterAccess),
    /// A seat on it.
    Seat(&'a Seat),
}

impl<'a> From<&'a ClusterAccess> for Through<'a> {
    fn from(access: &'a ClusterAccess) -> Self {
        Self::Pools(access)
    }
}

impl<'a> From<&'a Seat> for Through<'a> {
    fn from(seat: &'a Seat) -> Self {
        Self::Seat(seat)
    }
}

/// A connection to a server's maintenance database.
#[derive(Debug)]
pub enum Maintenance<'a> {
    /// From its pool.
    Pooled(Box<Connection>),
    /// That of a seat.
    Seat(&'a Client),
}

impl Deref for Maintenance<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Self::Pooled(connection) => connection,
            Self::Seat(client) => client,
        }
    }
}

impl<'a> Through<'a> {
    /// The database in which roles and databases are made.
    ///
    /// # Errors
    /// `placement_unavailable` where the cluster is away.
    pub async fn maintenance(self) -> Result<Maintenance<'a>, Problem> {
        match self {
            Self::Pools(access) => Ok(Maintenance::Pooled(Box::new(access.maintenance().await?))),
            Self::Seat(seat) => Ok(Maintenance::Seat(seat)),
        }
    }

    /// A database that tenants share.
    ///
    /// # Errors
    /// `placement_unavailable` where the cluster is away; where the seat was taken.
    pub async fn shared(self, database: &DatabaseName) -> Result<Connection, Problem> {
        match self {
            Self::Pools(access) => access.shared(database).await,
            Self::Seat(seat) => seat.beside(database).await,
        }
    }

    /// Any database.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub async fn own(self, database: &DatabaseName) -> Result<Connection, Problem> {
        match self {
            Self::Pools(access) => access.own(database).await,
            Self::Seat(seat) => seat.beside(database).await,
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
        self.named(database.as_str()).await
    }

    /// A connection to a database that the server itself has named.
    pub(crate) async fn named(&self, database: &str) -> Result<Connection, Problem> {
        self.open(&self.connector.with_database(database)).await
    }

    /// The same, with a name of its own among the server's sessions.
    pub(crate) async fn called(&self, name: &str, database: &DatabaseName) -> Result<Connection, Problem> {
        self.open(&self.connector.with_database(database.as_str()).named(name)).await
    }

    /// The hosts, or folders of sockets, by which it is reached.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.connector.dial().hosts.into_iter().map(|(host, _)| host).collect()
    }

    /// What a connection to a database needs that the driver does not make.
    pub(crate) fn dial(&self, database: &DatabaseName) -> Dial {
        self.connector.with_database(database.as_str()).dial()
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
