//! What a version asks of the rows that are in a pool: which tenants' rows do
//! not fit, and the constraints that hold for new rows at once and for those
//! that were there once they are validated. Everything can be repeated.

use insula_app_schema::{Find, PoolMigration, RowCondition};
use insula_domain::{SchemaName, TenantId};
use insula_problem::{Code, Problem};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::apply::{limits, search_path};
use super::batch::Failure;
use super::failure::{Place, RowsDoNotFit};
use crate::db;

/// Rows of one tenant that do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offender {
    /// Whose rows they are.
    pub tenant: TenantId,
    /// How many; none where only the first was met.
    pub rows: Option<i64>,
    /// One of them, by its key or values: data of the tenant, which stays in
    /// its region.
    pub example: Option<String>,
}

/// Something that a version asks, and whose rows do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What it asks.
    pub condition: RowCondition,
    /// Whose rows do not fit, in the order of their ids.
    pub offenders: Vec<Offender>,
}

impl Violation {
    /// What is asked and of whom, with one row of each by its key.
    fn in_full(&self, file: &str) -> String {
        let of_each = self.offenders.iter().map(|each| {
            let rows = each.rows.map_or(String::new(), |rows| format!(" {rows} rows"));
            let example = each.example.as_ref().map_or(String::new(), |example| format!(", as {example}"));
            format!("{}{rows}{example}", each.tenant)
        });
        let of_each = of_each.collect::<Vec<_>>().join("; ");
        format!(
            "{file}:{}: {} of {}: {of_each}",
            self.condition.line, self.condition.what, self.condition.table
        )
    }

    /// What is asked and of whom, without any value of a row.
    #[must_use]
    pub fn in_names(&self, file: &str) -> String {
        let tenants: Vec<String> =
            self.offenders.iter().take(20).map(|each| each.tenant.to_string()).collect();
        let more = if self.offenders.len() > tenants.len() { ", …" } else { "" };
        format!(
            "{file}:{}: rows of {} of the tables' tenants do not fit {} of {}: {}{more}",
            self.condition.line,
            self.offenders.len(),
            self.condition.what,
            self.condition.table,
            tenants.join(", ")
        )
    }
}

/// Finds the tenants whose rows do not fit what a version asks, as the tables
/// are now. To be called when a version has failed on rows, so that whoever
/// repairs them knows whose they are. What the version itself would make, such
/// as a column, cannot be asked about and is left out.
///
/// # Errors
/// Where the cluster is away.
pub async fn find_offenders(
    client: &mut Client,
    migration: &PoolMigration,
) -> Result<Vec<Violation>, Problem> {
    let mut found = Vec::new();
    for condition in &migration.conditions {
        let transaction = begin(client).await?;
        let offenders = match offenders_of(&transaction, condition).await {
            Ok(offenders) => offenders,
            Err(error) if error.as_db_error().is_some() => Vec::new(),
            Err(error) => return Err(db(error)),
        };
        transaction.rollback().await.map_err(db)?;
        if !offenders.is_empty() {
            found.push(Violation { condition: condition.clone(), offenders });
        }
    }
    Ok(found)
}

/// Validates the constraints that a version has added, for the rows that were
/// there. Those that rows do not fit stay as they are: they hold for every new
/// row, and are validated by the next call after a repair.
///
/// # Errors
/// `unavailable` where others hold the tables for too long, or the cluster is
/// away.
pub async fn validate_pool(
    client: &mut Client,
    migration: &PoolMigration,
) -> Result<Vec<Violation>, Problem> {
    let mut violations = Vec::new();
    for condition in &migration.conditions {
        let Some(name) = &condition.validate else { continue };
        if !is_open(client, &condition.table, name).await? {
            continue;
        }
        let transaction = begin(client).await?;
        let sql = format!("alter table {} validate constraint {}", quoted(&condition.table), quoted(name));
        match transaction.batch_execute(&sql).await {
            Ok(()) => transaction.commit().await.map_err(db)?,
            Err(error) if is_about_rows(&error) => {
                transaction.rollback().await.map_err(db)?;
                let transaction = begin(client).await?;
                let offenders = offenders_of(&transaction, condition).await.map_err(db)?;
                violations.push(Violation { condition: condition.clone(), offenders });
            }
            Err(error) => {
                let mut place = Place::of(&migration.file, &migration.applied);
                place.text.push_str(&format!(":{}", condition.line));
                place.statement = &sql;
                return Err(Failure { done: 0, error }.into_problem(&place));
            }
        }
    }
    Ok(violations)
}

/// Applies a version to the shared tables, and validates what it has added.
///
/// # Errors
/// As [`super::apply::apply_pool`]; `migration_failed` also where rows of some
/// tenants do not fit a constraint. The version is applied then, and the next
/// call after a repair only validates.
pub async fn apply_pool(client: &mut Client, migration: &PoolMigration) -> Result<(), Problem> {
    if migration.is_concurrent() {
        return super::concurrent::apply_pool(client, migration).await;
    }
    if let Err(problem) = super::apply::apply_pool(client, migration).await {
        return Err(with_offenders(client, migration, problem).await);
    }
    let violations = validate_pool(client, migration).await?;
    if violations.is_empty() { Ok(()) } else { Err(explain(migration, &violations, None)) }
}

/// A version that rows did not fit, with the tenants that have such rows.
async fn with_offenders(client: &mut Client, migration: &PoolMigration, problem: Problem) -> Problem {
    if RowsDoNotFit::behind(&problem).is_none() {
        return problem;
    }
    match find_offenders(client, migration).await {
        Ok(violations) if !violations.is_empty() => explain(migration, &violations, Some(&problem)),
        _ => problem,
    }
}

/// The problem of rows that do not fit: for everybody by the names of their
/// tenants, and behind it by their keys.
fn explain(migration: &PoolMigration, violations: &[Violation], failed: Option<&Problem>) -> Problem {
    let behind = failed.and_then(RowsDoNotFit::behind);
    let mut told: Vec<String> = failed.map(|problem| problem.detail().to_owned()).into_iter().collect();
    let mut said: Vec<String> = behind.map(|behind| behind.said().to_owned()).into_iter().collect();
    for violation in violations {
        told.push(violation.in_names(&migration.file));
        said.push(violation.in_full(&migration.file));
    }
    let first = violations.first().map(|violation| &violation.condition);
    let place = format!("{}:{}", migration.file, first.map_or(1, |condition| condition.line));
    let what = first.map_or("", |condition| condition.what.as_str());
    let tenant = behind.and_then(RowsDoNotFit::tenant);
    let behind = RowsDoNotFit::new(said.join("\n"), tenant, Some(migration.version()));
    Problem::new(Code::MigrationFailed, told.join(". ")).at(place, what).caused_by(behind)
}

/// A transaction that sees all rows of the shared tables.
async fn begin(client: &mut Client) -> Result<Transaction<'_>, Problem> {
    let transaction = client.transaction().await.map_err(db)?;
    let mut begin = limits();
    begin.push(format!("set local search_path = {}", search_path(&SchemaName::pool())));
    transaction.batch_execute(&begin.join(";\n")).await.map_err(db)?;
    Ok(transaction)
}

async fn is_open(client: &Client, table: &str, name: &str) -> Result<bool, Problem> {
    let query = "select from pg_constraint x join pg_class c on c.oid = x.conrelid
                 where c.relnamespace = 'app'::regnamespace and c.relname = $1 and x.conname = $2 and not x.convalidated";
    Ok(client.query_opt(query, &[&table, &name]).await.map_err(db)?.is_some())
}

async fn offenders_of(
    transaction: &Transaction<'_>,
    condition: &RowCondition,
) -> Result<Vec<Offender>, tokio_postgres::Error> {
    let mut offenders = match &condition.find {
        Find::Query(query) => {
            let rows = transaction.query(query, &[]).await?;
            let offender = |row: &tokio_postgres::Row| Offender {
                tenant: row.get::<_, Uuid>(0).into(),
                rows: row.get(1),
                example: row.get(2),
            };
            rows.iter().map(offender).collect::<Vec<_>>()
        }
        Find::Probe(query) => probe(transaction, &condition.table, query).await?,
    };
    offenders.sort_by_key(|offender| offender.tenant);
    Ok(offenders)
}

/// Runs a query for each tenant that has rows; it fails where they do not fit.
async fn probe(
    transaction: &Transaction<'_>,
    table: &str,
    query: &str,
) -> Result<Vec<Offender>, tokio_postgres::Error> {
    let tenants = format!("select distinct tenant_id from {}", quoted(table));
    let probe = transaction.prepare(query).await?;
    let mut offenders = Vec::new();
    for row in transaction.query(&tenants, &[]).await? {
        let tenant: Uuid = row.get(0);
        transaction.batch_execute("savepoint probe").await?;
        match transaction.query(&probe, &[&tenant]).await {
            Ok(_) => {}
            Err(error) if is_about_rows(&error) => {
                offenders.push(Offender { tenant: tenant.into(), rows: None, example: None });
            }
            Err(error) => return Err(error),
        }
        transaction.batch_execute("rollback to savepoint probe").await?;
    }
    Ok(offenders)
}

/// Whether an error is one of data or of constraints (classes 22 and 23).
fn is_about_rows(error: &tokio_postgres::Error) -> bool {
    let is_class = |state: &SqlState| state.code().starts_with("22") || state.code().starts_with("23");
    error.code().is_some_and(is_class)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
