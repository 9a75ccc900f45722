//! A bounded pool of connections to one database.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::NoTls;

use crate::connect::Connector;

/// How many connections a pool opens at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize(pub usize);

/// A pool to the database of the connector. Nothing is opened until the first
/// use; waiting for a free connection and opening one take at most 5 s each.
#[must_use]
pub fn pool(connector: &Connector, size: PoolSize) -> Pool {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match &connector.tls {
        None => Manager::from_config(connector.config.clone(), NoTls, config),
        Some(tls) => Manager::from_config(connector.config.clone(), tls.clone(), config),
    };
    let wait = Some(Duration::from_secs(5));
    // The builder fails only for time-outs without a runtime, and one is given.
    Pool::builder(manager)
        .max_size(size.0.max(1))
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts { wait, create: wait, recycle: wait })
        .build()
        .unwrap_or_else(|error| unreachable!("a pool with a runtime: {error}"))
}
