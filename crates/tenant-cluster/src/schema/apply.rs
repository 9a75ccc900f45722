//! Applying one version of the app schema: in one transaction, together with
//! the note that it is applied. A version that is applied already is left
//! alone, so that every call can be repeated.

use insula_app_schema::{
    AppliedVersion, EXTENSION_SCHEMA, POOL_SCHEMA, PlainMigration, PoolMigration, PoolStatement, Runs,
};
use insula_domain::{RoleName, SchemaName};
use insula_problem::Problem;
use tokio_postgres::Client;
use uuid::Uuid;

use super::batch::{self, Failure};
use super::copy_targets;
use super::failure::Place;
use super::owner::{let_make, let_make_no_more, make_owner, owner_of};
use super::plain_text::PlainText;
use super::planted::refuse_planted;
use super::support::{POOL_OWNER, POOL_READ_WRITE, POOL_TEMPLATE};
use super::version::{Todo, applied_version, note, todo};
use crate::db;

/// How long a version waits for a lock. While it waits, whoever comes after it
/// waits too, so it gives up soon and is tried again.
const LOCK_TIMEOUT: &str = "1s";
/// How long a single statement of a version may take.
const STATEMENT_TIMEOUT: &str = "30min";
/// The most text that goes to the server in one message, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// From this on the data of further tenants goes in another message, in bytes.
const DATA_BYTES: usize = 1 << 16;

/// One version at a time is applied to a database's schema; whoever brings a
/// tenant into a pool holds the same lock shared.
pub(super) fn lock(schema: &SchemaName, shared: bool) -> String {
    let kind = if shared { "_shared" } else { "" };
    format!("select pg_advisory_xact_lock{kind}(hashtextextended('insula app schema {schema}', 0))")
}

/// What changes the meaning of a text: the same on every server, whatever it,
/// the database or the role has set.
pub(super) const MEANING: [(&str, &str); 4] = [
    ("standard_conforming_strings", "on"),
    ("datestyle", "'ISO, MDY'"),
    ("intervalstyle", "postgres"),
    ("timezone", "'UTC'"),
];

/// The settings of a version's transaction. Send them before its text: how a
/// text is cut into words is decided when it comes.
pub(super) fn limits() -> Vec<String> {
    let meaning = MEANING.iter().map(|(name, value)| format!("set local {name} = {value}"));
    let limits = [
        format!("set local lock_timeout = '{LOCK_TIMEOUT}'"),
        format!("set local statement_timeout = '{STATEMENT_TIMEOUT}'"),
        // A warning says what it likes too, and the driver would log it.
        "set local client_min_messages = error".to_owned(),
    ];
    limits.into_iter().chain(meaning).collect()
}

/// Applies a version, as its developer wrote it, to a schema that one tenant
/// has. What it makes belongs to [`owner_of`] the schema.
///
/// # Errors
/// `migration_failed` with file, line and statement; `migration_changed` where
/// the version is applied with another text; `unavailable` where others hold
/// the tables for too long, or the cluster is away.
pub async fn apply_plain(
    client: &mut Client,
    schema: &SchemaName,
    migration: &PlainMigration,
) -> Result<(), Problem> {
    if todo(applied_version(client, schema).await?.as_ref(), &migration.applied())? == Todo::Nothing {
        return Ok(());
    }
    let transaction = client.transaction().await.map_err(db)?;
    let mut begin = limits();
    begin.push(lock(schema, false));
    let place = || Place::of(&migration.migration().file_name(), &migration.applied());
    let begun = transaction.batch_execute(&begin.join(";\n")).await;
    begun.map_err(|error| Failure { done: 0, error }.into_problem(&place()))?;
    if todo(applied_version(transaction.client(), schema).await?.as_ref(), &migration.applied())?
        == Todo::Apply
    {
        refuse_planted(transaction.client(), schema).await?;
        let mut statements: Vec<String> = make_owner(schema).into();
        statements.push(let_make(schema));
        statements.extend(extensions(schema, migration));
        statements.push(format!("set local search_path = {}", search_path(schema)));
        statements.push(format!("set local role {}", owner_of(schema)));
        let after = format!(
            "set local role none;\n{};\n{}",
            let_make_no_more(schema),
            note(schema, &migration.applied())
        );
        let text = PlainText::new(&statements, migration, &after);
        batch::run(transaction.client(), &text.sql).await.map_err(|failure| text.problem(failure))?;
    }
    transaction.commit().await.map_err(|error| at_end(error, place()))
}

/// Applies a version as the role of the session, which owns the database's only
/// schema, after further statements in the same transaction. For the blueprint,
/// where what runs along with a version must not run as an administrator.
///
/// # Errors
/// As [`apply_plain`].
pub(crate) async fn apply_as_owner(
    client: &mut Client,
    first: &[String],
    migration: &PlainMigration,
) -> Result<(), Problem> {
    let transaction = client.transaction().await.map_err(db)?;
    transaction.batch_execute(&limits().join(";\n")).await.map_err(db)?;
    let mut statements: Vec<String> = first.to_vec();
    statements.extend(extensions(&SchemaName::of_silo(), migration));
    statements.push(format!("set local search_path = {}", search_path(&SchemaName::of_silo())));
    let text = PlainText::new(&statements, migration, "");
    let (file, applied) = (migration.migration().file_name(), migration.applied());
    batch::run(transaction.client(), &text.sql).await.map_err(|failure| text.problem(failure))?;
    let place = Place::of(&file, &applied);
    transaction.commit().await.map_err(|error| at_end(error, place))
}

/// Deferred constraints are checked when the transaction ends.
fn at_end(error: tokio_postgres::Error, mut place: Place<'_>) -> Problem {
    place.text.push_str(", at its end");
    Failure { done: 0, error }.into_problem(&place)
}

/// Statements that make the extensions of a version.
fn extensions(schema: &SchemaName, migration: &PlainMigration) -> impl Iterator<Item = String> {
    let place = extension_schema(schema).to_owned();
    migration
        .extensions()
        .iter()
        .map(move |name| format!("create extension if not exists \"{name}\" schema {place}"))
}

/// Extensions are where every placement in the database finds them.
fn extension_schema(schema: &SchemaName) -> &str {
    if *schema == SchemaName::of_silo() { schema.as_str() } else { EXTENSION_SCHEMA }
}

/// The schema, the extensions, and last what is temporary, which else is first.
pub(super) fn search_path(schema: &SchemaName) -> String {
    if schema.as_str() == EXTENSION_SCHEMA {
        return format!("{schema}, pg_temp");
    }
    format!("{schema}, {EXTENSION_SCHEMA}, pg_temp")
}

/// Applies a version to the shared tables: definitions once, and data for the
/// pool's template and for each tenant that is in the pool, as that tenant.
///
/// # Errors
/// As [`apply_plain`].
pub async fn apply_pool(client: &mut Client, migration: &PoolMigration) -> Result<(), Problem> {
    let schema = SchemaName::pool();
    if todo(applied_version(client, &schema).await?.as_ref(), &migration.applied)? == Todo::Nothing {
        return Ok(());
    }
    let transaction = client.transaction().await.map_err(db)?;
    let mut begin = limits();
    begin.push(lock(&schema, false));
    begin.push(format!("set local search_path = {}", search_path(&schema)));
    let begun = transaction.batch_execute(&begin.join(";\n")).await;
    let place = || Place::of(&migration.file, &migration.applied);
    begun.map_err(|error| Failure { done: 0, error }.into_problem(&place()))?;
    if todo(applied_version(transaction.client(), &schema).await?.as_ref(), &migration.applied)?
        == Todo::Apply
    {
        transaction.batch_execute(copy_targets::DROP).await.map_err(db)?;
        let roles = if migration.has_data() { pool_roles(transaction.client()).await? } else { Vec::new() };
        for part in parts(&migration.statements, &roles, &migration.applied) {
            part.run(transaction.client(), migration).await?;
        }
        transaction.batch_execute(&keep_identities()).await.map_err(db)?;
    }
    transaction.commit().await.map_err(|error| at_end(error, place()))
}

/// An identity column takes its numbers whoever inserts, so that nobody needs a
/// right on its sequence; with one a tenant could use up the numbers of all.
fn keep_identities() -> String {
    format!(
        "do $$ declare owned regclass; begin
             for owned in
                 select c.oid from pg_catalog.pg_class c
                 join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
                   and d.refclassid = 'pg_catalog.pg_class'::regclass and d.deptype = 'i'
                 where c.relkind = 'S' and c.relnamespace = '{POOL_SCHEMA}'::regnamespace
             loop
                 execute pg_catalog.format('revoke all on sequence %s from {POOL_READ_WRITE}', owned);
             end loop;
         end $$"
    )
}

/// The roles as which the data of a version is run: the template's and those
/// of the tenants in the pool. Tenants whose role is gone are forgotten.
async fn pool_roles(client: &Client) -> Result<Vec<RoleName>, Problem> {
    client
        .batch_execute(
            "delete from insula.pool_tenants t where not exists (
                 select from pg_roles r where r.rolname = 'tenant_' || replace(t.tenant_id::text, '-', ''))",
        )
        .await
        .map_err(db)?;
    let rows = client
        .query("select tenant_id from insula.pool_tenants order by tenant_id", &[])
        .await
        .map_err(db)?;
    let tenants = rows.iter().map(|row| RoleName::of_tenant(row.get::<_, Uuid>(0).into()));
    Ok(std::iter::once(RoleName::from_stored(POOL_TEMPLATE.to_owned())).chain(tenants).collect())
}

/// Statements that go to the server in one message.
#[derive(Debug, Default)]
struct Part<'a> {
    sql: String,
    /// For each statement of the text the one of the migration that it is, or
    /// prepares.
    origins: Vec<Option<Origin<'a>>>,
}

/// A statement of a migration, and as whom it is run where it is data.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    statement: &'a PoolStatement,
    role: Option<&'a RoleName>,
}

impl<'a> Part<'a> {
    fn push(&mut self, sql: &str, origin: Option<Origin<'a>>) {
        self.sql.push_str(sql);
        self.sql.push_str("\n;\n");
        self.origins.push(origin);
    }

    async fn run(&self, client: &Client, migration: &PoolMigration) -> Result<(), Problem> {
        batch::run(client, &self.sql).await.map_err(|failure| {
            let origin = self.origins.get(failure.done).copied().flatten();
            let statement = origin.map_or_else(String::new, |origin| excerpt(&origin.statement.sql));
            let mut place = Place::of(&migration.file, &migration.applied);
            place.statement = &statement;
            if let Some(origin) = origin {
                place.text.push_str(&format!(":{}", origin.statement.line));
            }
            if let Some(role) = origin.and_then(|origin| origin.role) {
                place.text.push_str(&format!(", for {role}"));
                place.tenant = role.tenant();
            }
            failure.into_problem(&place)
        })
    }
}

fn excerpt(sql: &str) -> String {
    let folded = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    folded.chars().take(200).collect()
}

/// Divides a version into parts: runs of statements under one role, and the
/// data of several tenants, one after the other.
fn parts<'a>(
    statements: &'a [PoolStatement],
    roles: &'a [RoleName],
    applied: &AppliedVersion,
) -> Vec<Part<'a>> {
    let mut parts = vec![Part::default()];
    for run in statements.chunk_by(|a, b| a.runs == b.runs) {
        match run.first().map(|statement| statement.runs) {
            Some(Runs::Tenant) => {
                data(&mut parts, run, roles);
                parts.push(Part::default());
            }
            Some(Runs::Owner) => definitions(&mut parts, run, POOL_OWNER),
            Some(Runs::Admin) => definitions(&mut parts, run, "none"),
            None => {}
        }
    }
    let mut last = Part::default();
    last.push("set local role none", None);
    last.push(&note(&SchemaName::pool(), applied), None);
    last.push(&format!("update insula.pool_tenants set version = {}", applied.version), None);
    last.push(copy_targets::MAKE, None);
    parts.push(last);
    parts.retain(|part| !part.origins.is_empty());
    parts
}

fn definitions<'a>(parts: &mut Vec<Part<'a>>, run: &'a [PoolStatement], role: &str) {
    let set_role = format!("set local role {role}");
    let mut part = parts.pop().unwrap_or_default();
    part.push(&set_role, None);
    for statement in run {
        if part.sql.len() + statement.sql.len() > BATCH_BYTES {
            parts.push(std::mem::take(&mut part));
        }
        part.push(&statement.sql, Some(Origin { statement, role: None }));
    }
    parts.push(part);
}

/// The data of the tenants: each as the tenant in every respect, and with
/// everything that was put off until the end done before another role comes. A
/// round trip for each would cost more than the statements do.
fn data<'a>(parts: &mut Vec<Part<'a>>, run: &'a [PoolStatement], roles: &'a [RoleName]) {
    let mut part = Part::default();
    for role in roles {
        if part.sql.len() > DATA_BYTES {
            parts.push(std::mem::take(&mut part));
        }
        part.push("set local role none", None);
        part.push(&format!("set local session authorization {role}"), None);
        let origin = |statement| Origin { statement, role: Some(role) };
        for statement in run {
            part.push(&statement.sql, Some(origin(statement)));
        }
        let last = run.last().map(origin);
        part.push("set constraints all immediate", last);
        part.push("set constraints all deferred", last);
        part.push("set local session authorization default", None);
    }
    parts.push(part);
}

#[cfg(test)]
mod tests {
    use insula_domain::SchemaVersion;

    use super::*;

    fn statement(sql: &str, runs: Runs) -> PoolStatement {
        PoolStatement { sql: sql.to_owned(), line: 1, runs }
    }

    #[test]
    fn data_between_definitions_is_run_for_every_role_there() {
        let statements = [
            statement("a", Runs::Owner),
            statement("b", Runs::Admin),
            statement("c", Runs::Tenant),
            statement("d", Runs::Tenant),
            statement("e", Runs::Owner),
        ];
        let roles = ["x", "y"].map(|name| RoleName::from_stored(name.to_owned()));
        let applied = AppliedVersion { version: SchemaVersion(1), sha256: "s".to_owned() };
        let parts = parts(&statements, &roles, &applied);
        let texts: Vec<_> = parts.iter().map(|part| part.sql.replace("\n;\n", "; ")).collect();
        let data = |role: &str| {
            format!(
                "set local role none; set local session authorization {role}; c; d; set constraints all immediate; \
                 set constraints all deferred; set local session authorization default; "
            )
        };
        assert_eq!(texts[0], "set local role insula_pool_owner; a; set local role none; b; ");
        assert_eq!(texts[1], data("x") + &data("y"));
        assert_eq!(texts[2], "set local role insula_pool_owner; e; ");
        assert!(
            texts[3].starts_with(
                "set local role none; comment on schema app is 'app schema version 1, sha256 s'"
            )
        );
        let of = |at: usize| parts[1].origins[at].map(|origin| (origin.role, &*origin.statement.sql));
        assert_eq!([of(1), of(3), of(6)], [None, Some((Some(&roles[0]), "d")), None]);
        assert_eq!(
            [of(8), of(9), of(11)],
            [None, Some((Some(&roles[1]), "c")), Some((Some(&roles[1]), "d"))]
        );
        assert_eq!(parts[1].origins.len(), 14);
    }

    #[test]
    fn the_data_of_many_tenants_is_divided_between_tenants() {
        let statements = [statement("c", Runs::Tenant)];
        let roles = Vec::from_iter((0..1000).map(|n| RoleName::from_stored(format!("tenant_{n:032}"))));
        let applied = AppliedVersion { version: SchemaVersion(1), sha256: "s".to_owned() };
        let parts = parts(&statements, &roles, &applied);
        let data = &parts[..parts.len() - 1];
        assert!(
            data.len() > 2 && data.iter().all(|part| part.sql.len() < DATA_BYTES + 1000),
            "{}",
            data.len()
        );
        for part in data {
            assert!(part.sql.starts_with("set local role none"));
            assert!(part.sql.ends_with("set local session authorization default\n;\n"));
        }
        assert_eq!(data.iter().map(|part| part.origins.len()).sum::<usize>(), 6 * 1000);
    }

    #[test]
    fn what_is_temporary_is_found_last() {
        assert_eq!(search_path(&SchemaName::of_silo()), "public, pg_temp");
        assert_eq!(search_path(&SchemaName::pool()), "app, public, pg_temp");
    }
}
