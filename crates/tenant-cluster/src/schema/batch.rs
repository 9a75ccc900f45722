//! Many statements in one round trip, and the way back from an error to the
//! statement that it belongs to. The server runs the statements of one query
//! message in order and answers each; so the number of answers before an error
//! is the number of the statement that failed.

use futures_util::TryStreamExt;
use insula_problem::{Code, Problem};
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::failure::{Place, migration_failed};
use crate::db;

/// Where an error happened.
#[derive(Debug)]
pub(super) struct Failure {
    /// How many statements of the batch had been done.
    pub(super) done: usize,
    pub(super) error: tokio_postgres::Error,
}

/// Runs the statements of a text, in one query message.
pub(super) async fn run(client: &Client, sql: &str) -> Result<(), Failure> {
    let mut done = 0;
    let fail = |done, error| Failure { done, error };
    let stream = client.simple_query_raw(sql).await.map_err(|error| fail(0, error))?;
    let mut stream = std::pin::pin!(stream);
    loop {
        match stream.try_next().await {
            Ok(Some(SimpleQueryMessage::CommandComplete(_))) => done += 1,
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(fail(done, error)),
        }
    }
}

impl Failure {
    /// The position of the error in the text, in characters from 1.
    pub(super) fn position(&self) -> Option<usize> {
        match self.error.as_db_error()?.position()? {
            ErrorPosition::Original(position) => usize::try_from(*position).ok(),
            ErrorPosition::Internal { .. } => None,
        }
    }

    /// The problem of a statement that failed. Its words hold no value of any
    /// row; what else PostgreSQL said is behind it, as a [`RowsDoNotFit`].
    ///
    /// [`RowsDoNotFit`]: super::failure::RowsDoNotFit
    pub(super) fn into_problem(self, place: &Place<'_>) -> Problem {
        let Some(error) = self.error.as_db_error() else { return db(self.error) };
        if is_passing(error) {
            let detail = format!("{} has to wait for others that use the tables.", place.text);
            return Problem::new(Code::Unavailable, detail).retry_after(5);
        }
        if insula_sql_store::is_unavailable(&self.error) {
            let detail = format!("{} has to wait for the cluster ({}).", place.text, error.code().code());
            return Problem::new(Code::PlacementUnavailable, detail).retry_after(2);
        }
        migration_failed(error, place)
    }
}

/// Whether the same statement may well succeed later.
fn is_passing(error: &DbError) -> bool {
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE]
        .contains(error.code())
}
