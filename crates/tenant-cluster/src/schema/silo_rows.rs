//! Rows that a version does not fit in tables which one tenant has. PostgreSQL
//! tells the key that is there twice or leads nowhere, and the value that has no
//! place in a new type; of a check and of `NOT NULL` it tells no row.

use insula_app_schema::PoolMigration;
use insula_domain::SchemaName;
use insula_problem::Problem;
use tokio_postgres::Client;

use super::apply::{limits, search_path};
use super::failure::RowsDoNotFit;
use super::owner::owner_of;
use crate::db;

/// `not_null_violation` and `check_violation`.
const TOLD_WITHOUT_A_ROW: [&str; 2] = ["23502", "23514"];

/// A version that failed on rows of a schema, with their number and the key of
/// one of them behind it. What the version itself would make, such as a column,
/// cannot be asked about.
pub async fn with_rows(
    client: &mut Client,
    schema: &SchemaName,
    migration: &PoolMigration,
    problem: Problem,
) -> Problem {
    let Some(behind) = RowsDoNotFit::behind(&problem) else { return problem };
    if !behind.sqlstate().is_some_and(|state| TOLD_WITHOUT_A_ROW.contains(&state)) {
        return problem;
    }
    let found = match rows(client, schema, migration).await {
        Ok(found) => found,
        Err(unread) => {
            tracing::warn!(cause = unread.chain(), "the rows that a version does not fit could not be read");
            return problem;
        }
    };
    if found.is_empty() {
        return problem;
    }
    let behind = behind.adding(&found.join(". "));
    problem.caused_by(behind)
}

/// Which rows do not fit, as the tables' owner sees them: with the rights that
/// the version itself had.
async fn rows(
    client: &mut Client,
    schema: &SchemaName,
    migration: &PoolMigration,
) -> Result<Vec<String>, Problem> {
    let mut found = Vec::new();
    for condition in &migration.conditions {
        let Some(query) = &condition.in_silo else { continue };
        let transaction = client.transaction().await.map_err(db)?;
        let mut begin = limits();
        begin.push(format!("set local search_path = {}", search_path(schema)));
        begin.push(format!("set local role {}", owner_of(schema)));
        transaction.batch_execute(&begin.join(";\n")).await.map_err(db)?;
        match transaction.query_one(query, &[]).await {
            Ok(row) if row.get::<_, i64>(0) > 0 => {
                let (rows, example): (i64, Option<String>) = (row.get(0), row.get(1));
                let example = example.map_or(String::new(), |example| format!(", as {example}"));
                let place = format!("{}:{}", migration.file, condition.line);
                found.push(format!(
                    "{place}: {} of {}: {rows} rows{example}",
                    condition.what, condition.table
                ));
            }
            Ok(_) => {}
            Err(error) if error.as_db_error().is_some() => {}
            Err(error) => return Err(db(error)),
        }
        transaction.rollback().await.map_err(db)?;
    }
    Ok(found)
}
