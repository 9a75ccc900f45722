//! From a driver's error to a [`Problem`]: what is away is told from what is
//! wrong, since the one is a 503 that heals and the other is ours to mend.

use std::error::Error as _;

use deadpool_postgres::PoolError;
use insula_problem::{Code, Problem};
use tokio_postgres::error::SqlState;

use crate::said::Discreet;

/// Which store an error came from; it decides the code when the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The global catalog.
    Catalog,
    /// A region store.
    Region,
    /// A tenant cluster.
    Cluster,
}

impl Store {
    fn away(self) -> Problem {
        match self {
            Self::Catalog => Problem::new(
                Code::CatalogUnavailable,
                "The catalog cannot be reached right now. Tenants that are known go on working; \
                 changes have to wait.",
            ),
            Self::Region => {
                Problem::new(Code::Unavailable, "The region's store cannot be reached right now.")
            }
            Self::Cluster => {
                Problem::new(Code::PlacementUnavailable, "The tenant cluster cannot be reached right now.")
            }
        }
        .retry_after(2)
    }
}

/// Whether the error says that the server is away or overloaded, rather than
/// that the statement is wrong: no connection, class 08, 53, 57P, 58. An error
/// without a code that is none of the socket's is a mistake on this side.
#[must_use]
pub fn is_unavailable(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()),
        Some(code) => {
            let code = code.code();
            code.starts_with("08")
                || code.starts_with("53")
                || code.starts_with("57P")
                || code.starts_with("58")
                || code == SqlState::READ_ONLY_SQL_TRANSACTION.code()
        }
    }
}

/// The problem that an error of a store's driver is; what it tells of it holds no
/// value of a row.
#[must_use]
pub fn sql_problem(store: Store, error: tokio_postgres::Error) -> Problem {
    let is_away = is_unavailable(&error);
    let error = Discreet::from(error);
    if is_away { store.away().caused_by(error) } else { Problem::internal(error) }
}

/// The problem that a pool's refusal to give a connection is.
#[must_use]
pub fn pool_problem(store: Store, error: PoolError) -> Problem {
    match error {
        PoolError::Backend(error) => sql_problem(store, error),
        PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
            Problem::new(Code::Overloaded, "All connections to the store are in use. Try again shortly.")
                .retry_after(1)
                .caused_by(error)
        }
        other => store.away().caused_by(other),
    }
}
