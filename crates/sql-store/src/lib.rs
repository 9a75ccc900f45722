//! What the SQL crates share: connections and pools with TLS and time-outs,
//! migrations under a lock, and the way from a driver's error to a
//! [`insula_problem::Problem`], which tells no values of rows.

mod conditions;
mod connect;
mod database;
mod error;
mod listen;
mod migrate;
mod pool;
mod said;

pub use connect::{ConnectError, Connector, Dial, UrlParts, connect};
pub use database::{EnsureDatabaseError, ensure_database};
pub use error::{Store, is_unavailable, pool_problem, sql_problem};
pub use listen::{Listener, Notice};
pub use migrate::{MigrateError, Migration, applied_version, migrate};
pub use pool::{PoolSize, get, pool};
pub use said::{Discreet, Report};

pub use deadpool_postgres::{Object, Pool};
