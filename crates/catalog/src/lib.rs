//! The global catalog: what every region must know to route. This crate has
//! the only SQL on it. A write goes through a [`Change`], which is a
//! transaction that knows its author and does not commit without an audit row.

mod api_keys;
mod audit;
mod blueprint;
mod change;
mod clusters;
mod geography;
mod holds;
mod idempotency;
mod logins;
mod moves;
mod offers;
mod operators;
mod rollouts;
mod routes;
mod rows;
mod schema_failures;
mod schema_versions;
mod tenants;
pub mod workflow_log;

use insula_problem::Problem;
use insula_sql_store::{
    Connector, MigrateError, Migration, Pool, PoolSize, Store, migrate, pool_problem, sql_problem,
};

pub use api_keys::ApiKeyRecord;
pub use audit::AuditEntry;
pub use blueprint::{BlueprintDrift, BlueprintRecord};
pub use change::{Author, CatalogClient, Change};
pub use clusters::{Capacity, ClusterRecord, ClusterStatus, SealedSecret};
pub use geography::Region;
pub use holds::{Acknowledged, HoldOf, HoldWatch, ReleasedHold, report_holds};
pub use idempotency::{Answer, GivenAnswer, RepeatableRequest};
pub use logins::LoginRecord;
pub use moves::{Cutover, CutoverTry, MoveRecord, ToldBy};
pub use operators::OperatorToken;
pub use rollouts::{RolloutPlacementRecord, RolloutRecord};
pub use routes::follow_routes;
pub use schema_failures::{NewSchemaFailure, SchemaFailureRecord};
pub use schema_versions::{SchemaVersionRecord, TableKeys};
pub use tenants::{NewTenant, TenantFilter, TenantRecord};

/// Says that a key or a token was revoked. Only a wake-up.
pub const ACCESS_CHANNEL: &str = "insula_access";

/// The catalog's own schema, oldest first.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "catalog", sql: include_str!("../migrations/0001_catalog.sql") },
    Migration { version: 2, name: "workflow", sql: include_str!("../migrations/0002_workflow.sql") },
    Migration {
        version: 3,
        name: "idempotent_answers",
        sql: include_str!("../migrations/0003_idempotent_answers.sql"),
    },
    Migration {
        version: 4,
        name: "schema_failures",
        sql: include_str!("../migrations/0004_schema_failures.sql"),
    },
    Migration { version: 5, name: "rollouts", sql: include_str!("../migrations/0005_rollouts.sql") },
    Migration { version: 6, name: "blueprint", sql: include_str!("../migrations/0006_blueprint.sql") },
    Migration { version: 7, name: "schema_keys", sql: include_str!("../migrations/0007_schema_keys.sql") },
    Migration { version: 8, name: "own_objects", sql: include_str!("../migrations/0008_own_objects.sql") },
    Migration { version: 9, name: "pool_mode", sql: include_str!("../migrations/0009_pool_mode.sql") },
    Migration {
        version: 10,
        name: "database_terms",
        sql: include_str!("../migrations/0010_database_terms.sql"),
    },
    Migration { version: 11, name: "holds", sql: include_str!("../migrations/0011_holds.sql") },
    Migration { version: 12, name: "moves", sql: include_str!("../migrations/0012_moves.sql") },
    Migration {
        version: 13,
        name: "move_target_open",
        sql: include_str!("../migrations/0013_move_target_open.sql"),
    },
    Migration { version: 15, name: "config", sql: insula_config_store::TABLES },
    Migration { version: 16, name: "config_rollouts", sql: insula_config_store::ROLLOUTS },
    Migration { version: 18, name: "config_bounds", sql: insula_config_store::BOUNDS },
    Migration { version: 19, name: "narrowed", sql: include_str!("../migrations/0019_narrowed.sql") },
    Migration { version: 22, name: "compared", sql: include_str!("../migrations/0022_compared.sql") },
];

/// The way to the catalog: a bounded pool of connections.
#[derive(Clone, Debug)]
pub struct Catalog {
    pool: Pool,
    connector: Connector,
}

impl Catalog {
    /// Makes the pool; nothing is opened yet.
    #[must_use]
    pub fn new(connector: Connector, size: PoolSize) -> Self {
        Self { pool: insula_sql_store::pool(&connector, size), connector }
    }

    /// Brings the catalog to this program's version, under a lock.
    ///
    /// # Errors
    /// As [`migrate`], or where the catalog cannot be reached.
    pub async fn migrate(&self) -> Result<i32, CatalogStartError> {
        let mut client = self.connector.connect().await?;
        Ok(migrate(&mut client, "catalog", MIGRATIONS).await?)
    }

    /// A connection for reading, or to begin a [`Change`] on.
    ///
    /// # Errors
    /// `catalog_unavailable` where the server is away, `overloaded` where all
    /// connections are in use.
    pub async fn client(&self) -> Result<CatalogClient, Problem> {
        let object =
            insula_sql_store::get(&self.pool).await.map_err(|error| pool_problem(Store::Catalog, error))?;
        Ok(CatalogClient::new(object))
    }

    /// The pool, for the step log of the workflows.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// The way to open a connection outside the pool, to listen on.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }
}

/// The catalog could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum CatalogStartError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] insula_sql_store::ConnectError),
    /// The migrations failed.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// The problem that an error of the catalog's driver is.
pub(crate) fn db(error: tokio_postgres::Error) -> Problem {
    sql_problem(Store::Catalog, error)
}
