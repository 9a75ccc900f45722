//! Versions that build and drop indexes `CONCURRENTLY`, which PostgreSQL does
//! in no transaction. They are applied statement by statement; one that was
//! broken off is begun again, and what it left half built is dropped first.

use insula_app_schema::{AppliedVersion, PlainMigration, PoolMigration, concurrent_index};
use insula_domain::{RoleName, SchemaName};
use insula_problem::Problem;
use tokio_postgres::Client;

use super::apply::{MEANING, search_path};
use super::batch::Failure;
use super::failure::Place;
use super::owner::{let_make, let_make_no_more, make_owner, owner_of};
use super::planted::refuse_planted;
use super::support::POOL_OWNER;
use super::version::{Todo, applied_version, note, todo};
use crate::db;

/// A statement and where it stands.
struct Step<'a> {
    sql: &'a str,
    place: String,
}

/// A version for one schema.
struct Steps<'a> {
    schema: &'a SchemaName,
    owner: RoleName,
    applied: AppliedVersion,
    steps: Vec<Step<'a>>,
    /// Run together with the note of the version.
    at_end: String,
}

/// Applies a version, as its developer wrote it, to a schema that one tenant
/// has; see [`super::apply::apply_plain`].
///
/// # Errors
/// As there.
pub async fn apply_plain(
    client: &mut Client,
    schema: &SchemaName,
    migration: &PlainMigration,
) -> Result<(), Problem> {
    let Some(statements) = migration.concurrent_statements() else {
        return super::apply::apply_plain(client, schema, migration).await;
    };
    let file = migration.migration().file_name();
    let step = |(place, sql): (insula_app_schema::StatementPlace, _)| Step {
        sql,
        place: format!("{file}:{}", place.line),
    };
    let steps = Steps {
        schema,
        owner: owner_of(schema),
        applied: migration.applied(),
        steps: statements.into_iter().map(step).collect(),
        at_end: String::new(),
    };
    steps.apply(client).await
}

/// Applies a version to the shared tables.
pub(super) async fn apply_pool(client: &mut Client, migration: &PoolMigration) -> Result<(), Problem> {
    let schema = SchemaName::pool();
    let step =
        |statement: &'_ insula_app_schema::PoolStatement| format!("{}:{}", migration.file, statement.line);
    let steps =
        migration.statements.iter().map(|statement| Step { sql: &statement.sql, place: step(statement) });
    let steps = Steps {
        schema: &schema,
        owner: RoleName::from_stored(POOL_OWNER.to_owned()),
        applied: migration.applied.clone(),
        steps: steps.collect(),
        at_end: format!("; update insula.pool_tenants set version = {}", migration.applied.version),
    };
    steps.apply(client).await
}

impl Steps<'_> {
    async fn apply(&self, client: &Client) -> Result<(), Problem> {
        if self.is_done(client).await? {
            return Ok(());
        }
        let done = self.run(client).await;
        // Whatever happened, the session is as it was.
        let lock = self.lock("unlock");
        let end = if self.is_silo() { let_make_no_more(self.schema) } else { String::new() };
        let reset = format!(
            "reset role; reset search_path; reset lock_timeout; reset statement_timeout; reset client_min_messages; {}; {end}; {lock}",
            MEANING.map(|(name, _)| format!("reset {name}")).join("; ")
        );
        let reset = client.batch_execute(&reset).await.map_err(db);
        done.and(reset)
    }

    /// Whether the schema is one that a tenant has for itself.
    fn is_silo(&self) -> bool {
        self.owner.as_str() != POOL_OWNER
    }

    async fn is_done(&self, client: &Client) -> Result<bool, Problem> {
        let applied = applied_version(client, self.schema).await?;
        Ok(todo(applied.as_ref(), &self.applied)? == Todo::Nothing)
    }

    /// The lock that versions are applied under, held by the session.
    fn lock(&self, word: &str) -> String {
        format!("select pg_advisory_{word}(hashtextextended('insula app schema {}', 0))", self.schema)
    }

    async fn run(&self, client: &Client) -> Result<(), Problem> {
        let first = self.steps.first().map_or("", |step| step.place.as_str());
        if self.is_silo() {
            refuse_planted(client, self.schema).await?;
            let owner = make_owner(self.schema).join("; ");
            client.batch_execute(&format!("{owner}; {}", let_make(self.schema))).await.map_err(db)?;
        }
        let begin = format!(
            "{}; set client_min_messages = error; set lock_timeout = '5s'; {}; set search_path = {}; set lock_timeout = 0; set statement_timeout = '2h'",
            MEANING.map(|(name, value)| format!("set {name} = {value}")).join("; "),
            self.lock("lock"),
            search_path(self.schema)
        );
        let begun = client.batch_execute(&begin).await;
        begun.map_err(|error| self.failed(error, first, ""))?;
        if self.is_done(client).await? {
            return Ok(());
        }
        client.batch_execute(&format!("set role {}", self.owner)).await.map_err(db)?;
        for step in &self.steps {
            self.step(client, step).await?;
        }
        let note = note(self.schema, &self.applied);
        client.batch_execute(&format!("reset role; begin; {note}{}; commit", self.at_end)).await.map_err(db)
    }

    /// A statement, unless it was done before.
    async fn step(&self, client: &Client, step: &Step<'_>) -> Result<(), Problem> {
        let index = concurrent_index(step.sql);
        if let Some(index) = &index {
            let state = self.state_of(client, &index.name).await?;
            match (index.is_built, state) {
                (true, Some(true)) | (false, None) => return Ok(()),
                (true, Some(false)) => self.drop_broken(client, &index.name).await?,
                (true, None) | (false, Some(_)) => {}
            }
        }
        let Err(error) = client.batch_execute(step.sql).await else { return Ok(()) };
        if let Some(index) = index.filter(|index| index.is_built)
            && self.state_of(client, &index.name).await.is_ok_and(|state| state == Some(false))
        {
            self.drop_broken(client, &index.name).await?;
        }
        Err(self.failed(error, &step.place, step.sql))
    }

    fn failed(&self, error: tokio_postgres::Error, place: &str, statement: &str) -> Problem {
        let place = Place { statement, ..Place::of(place, &self.applied) };
        Failure { done: 0, error }.into_problem(&place)
    }

    /// Whether an index is there, and valid.
    async fn state_of(&self, client: &Client, name: &str) -> Result<Option<bool>, Problem> {
        let query = "select i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
                     where c.relnamespace = to_regnamespace($1) and c.relname = $2";
        let row = client.query_opt(query, &[&self.schema.as_str(), &name]).await.map_err(db)?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn drop_broken(&self, client: &Client, name: &str) -> Result<(), Problem> {
        let name = name.replace('"', "\"\"");
        client.batch_execute(&format!("drop index concurrently if exists \"{name}\"")).await.map_err(db)
    }
}
