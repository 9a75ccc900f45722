//! A region store: one in each region, with what belongs to the tenants whose
//! home is there. This crate has the only SQL on it. Today it knows which
//! tenants are at home, and what PostgreSQL said of rows that a version of the
//! app schema did not fit; their users, usage and audit join them. Their
//! configuration is in it too, which has a crate of its own.

mod schema_failures;

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_domain::{RegionName, TenantId};
use insula_problem::{Code, Problem};
use insula_sql_store::{
    ConnectError, Connector, MigrateError, Migration, Object, Pool, PoolSize, Store, migrate, pool_problem,
    sql_problem,
};
use time::OffsetDateTime;
use uuid::Uuid;

pub use insula_config_store::Leaving;
pub use schema_failures::RowFailure;

/// The region store's own schema, oldest first.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "region_store", sql: include_str!("../migrations/0001_region_store.sql") },
    Migration {
        version: 2,
        name: "schema_failures",
        sql: include_str!("../migrations/0002_schema_failures.sql"),
    },
    Migration { version: 3, name: "config", sql: insula_config_store::TABLES },
    Migration { version: 5, name: "config_rollouts", sql: insula_config_store::ROLLOUTS_AND_CLIENTS },
    Migration { version: 6, name: "config_bounds", sql: insula_config_store::BOUNDS },
    Migration { version: 7, name: "config_words", sql: insula_config_store::WORDS },
];

/// The way to the store of one region.
#[derive(Clone, Debug)]
pub struct RegionStore {
    region: RegionName,
    connector: Connector,
    pool: Pool,
}

/// A region store could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum RegionStoreStartError {
    /// No connection.
    #[error("the store of region {region}")]
    Connect {
        /// Which region.
        region: RegionName,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// The migrations failed.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A statement failed.
    #[error("the store of region {region} does not answer")]
    Sql {
        /// Which region.
        region: RegionName,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The database is another region's store.
    #[error("the database given as the store of region {wanted} is the store of region {found}")]
    WrongRegion {
        /// What the settings say.
        wanted: RegionName,
        /// What the store says.
        found: String,
    },
}

impl RegionStore {
    /// Makes the pool; nothing is opened yet.
    #[must_use]
    pub fn new(region: RegionName, connector: Connector, size: PoolSize) -> Self {
        let pool = insula_sql_store::pool(&connector, size);
        Self { region, connector, pool }
    }

    /// Brings the store to this program's version, under a lock, and marks it
    /// as this region's.
    ///
    /// # Errors
    /// Where the store is away, newer, or another region's.
    pub async fn migrate(&self) -> Result<i32, RegionStoreStartError> {
        let mut client = self
            .connector
            .connect()
            .await
            .map_err(|source| RegionStoreStartError::Connect { region: self.region.clone(), source })?;
        let version = migrate(&mut client, "region store", MIGRATIONS).await?;
        let sql = |source| RegionStoreStartError::Sql { region: self.region.clone(), source };
        client
            .execute(
                "insert into store_region (region) values ($1) on conflict do nothing",
                &[&self.region.as_str()],
            )
            .await
            .map_err(sql)?;
        let found: String =
            client.query_one("select region from store_region", &[]).await.map_err(sql)?.get(0);
        if found == self.region.as_str() {
            return Ok(version);
        }
        Err(RegionStoreStartError::WrongRegion { wanted: self.region.clone(), found })
    }

    /// Opens a tenant's home; opening it again changes nothing.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn open_home(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), Problem> {
        let object = self.object().await?;
        let sql = "insert into homes (tenant_id, opened_at) values ($1, $2) on conflict do nothing";
        object.execute(sql, &[&tenant.as_uuid(), &at]).await.map_err(db)?;
        insula_config_store::open_home(&object, tenant, at).await.map_err(db)
    }

    /// Has a place for a tenant that is to come here by a move. Its configuration
    /// is neither read nor written here before it has come.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn expect_home(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), Problem> {
        let object = self.object().await?;
        let sql = "insert into homes (tenant_id, opened_at) values ($1, $2) on conflict do nothing";
        object.execute(sql, &[&tenant.as_uuid(), &at]).await.map_err(db)?;
        insula_config_store::expect_home(&object, tenant, at).await.map_err(db)
    }

    /// Removes all that the region keeps of a tenant; again changes nothing.
    ///
    /// # Errors
    /// Where it is a move's end that is removed and the tenant's configuration
    /// is open here, or is what a later move has made of it; where the store is
    /// away.
    pub async fn leave_home(&self, tenant: TenantId, leaving: Leaving) -> Result<(), Problem> {
        let mut object = self.object().await?;
        let transaction = object.transaction().await.map_err(db)?;
        if !insula_config_store::begin_leaving(&transaction, tenant, leaving).await.map_err(db)? {
            return Err(Problem::internal("the configuration of a tenant is not what would be removed"));
        }
        // The home first: what else is kept of a tenant is only taken while it has one.
        for statement in
            ["delete from homes where tenant_id = $1", "delete from schema_failures where tenant_id = $1"]
        {
            transaction.execute(statement, &[&tenant.as_uuid()]).await.map_err(db)?;
        }
        transaction.commit().await.map_err(db)?;
        insula_config_store::remove_left(&object, tenant).await.map_err(db)
    }

    /// The way to open a connection outside the pool.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The tenants that are at home here.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn homes(&self) -> Result<Vec<TenantId>, Problem> {
        let rows =
            self.object().await?.query("select tenant_id from homes order by 1", &[]).await.map_err(db)?;
        Ok(rows.iter().map(|row| row.get::<_, Uuid>(0).into()).collect())
    }

    async fn object(&self) -> Result<Object, Problem> {
        insula_sql_store::get(&self.pool).await.map_err(|error| pool_problem(Store::Region, error))
    }
}

fn db(error: tokio_postgres::Error) -> Problem {
    sql_problem(Store::Region, error)
}

/// The stores of all regions.
#[derive(Clone, Debug, Default)]
pub struct RegionStores {
    stores: Arc<BTreeMap<RegionName, RegionStore>>,
}

impl RegionStores {
    /// All of them, by region.
    #[must_use]
    pub fn new(stores: impl IntoIterator<Item = RegionStore>) -> Self {
        Self { stores: Arc::new(stores.into_iter().map(|store| (store.region.clone(), store)).collect()) }
    }

    /// The store of a region.
    ///
    /// # Errors
    /// `unavailable` where this process was not given the region's store.
    pub fn of(&self, region: &RegionName) -> Result<&RegionStore, Problem> {
        self.stores.get(region).ok_or_else(|| {
            Problem::new(
                Code::Unavailable,
                format!("This process has no store for region {region} in its settings."),
            )
        })
    }

    /// The regions and their stores.
    pub fn iter(&self) -> impl Iterator<Item = (&RegionName, &RegionStore)> {
        self.stores.iter()
    }
}
