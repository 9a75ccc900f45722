//! A bounded pool of connections to one database.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio_postgres::NoTls;

use crate::connect::Connector;

/// How many connections a pool opens at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize(pub usize);

/// How long a server may take to show on a connection that it is still there.
/// One that is stopped or cut off takes packets and answers none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is asked before it is used again. In a transaction that
/// somebody left behind failed it is an error, and the connection is given up;
/// one that was left open is ended. An empty query would tell neither.
const CHECK: &str = "begin; rollback";

/// How long getting a connection may take in all. A pool may hold many that
/// have to be tried.
const GET_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that has just answered, within 3 s.
///
/// # Errors
/// Where the server is away, or answers on none, or all are in use.
pub async fn get(pool: &Pool) -> Result<Object, PoolError> {
    // In a box: it may have to connect, in what is deep down already.
    let got = tokio::time::timeout(GET_TIMEOUT, Box::pin(pool.get())).await;
    got.unwrap_or_else(|_| {
        let full = pool.status().available == 0 && pool.status().size >= pool.status().max_size;
        Err(PoolError::Timeout(if full { TimeoutType::Wait } else { TimeoutType::Recycle }))
    })
}

/// A pool to the database of the connector, to be used through [`get`]. Nothing
/// is opened until the first use.
#[must_use]
pub fn pool(connector: &Connector, size: PoolSize) -> Pool {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Custom(CHECK.to_owned()) };
    let manager = match &connector.tls {
        None => Manager::from_config(connector.config.clone(), NoTls, config),
        Some(tls) => Manager::from_config(connector.config.clone(), tls.clone(), config),
    };
    let wait = Some(GET_TIMEOUT);
    // The builder fails only for time-outs without a runtime, and one is given.
    Pool::builder(manager)
        .max_size(size.0.max(1))
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts { wait, create: wait, recycle: Some(ANSWER_TIMEOUT) })
        .build()
        .unwrap_or_else(|error| unreachable!("a pool with a runtime: {error}"))
}
