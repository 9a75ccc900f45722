//! Making the database of a store, on a server that Insula itself has started.

use thiserror::Error;
use tokio_postgres::error::SqlState;

use crate::connect::{ConnectError, Connector};

/// The database could not be made.
#[derive(Debug, Error)]
pub enum EnsureDatabaseError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("the database {name} could not be made")]
    Sql {
        /// Which one.
        name: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Makes the database where it is not there. The name is a literal of ours,
/// of lower-case letters and underscores.
///
/// # Errors
/// Where the server refuses.
pub async fn ensure_database(server: &Connector, name: &'static str) -> Result<(), EnsureDatabaseError> {
    let client = server.connect().await?;
    let failed = |source| EnsureDatabaseError::Sql { name, source };
    let there = client.query_opt("select 1 from pg_database where datname = $1", &[&name]).await;
    if there.map_err(failed)?.is_some() {
        return Ok(());
    }
    match client.batch_execute(&format!("create database {name} template template0 encoding 'UTF8'")).await {
        // Somebody else made it in between.
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => Ok(()),
        other => other.map_err(failed),
    }
}
