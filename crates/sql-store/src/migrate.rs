//! Migrations of a store: numbered SQL texts, each applied once in a
//! transaction of its own, all under one advisory lock, so that any number of
//! processes may start at once. A store that a newer Insula has written is
//! refused and left as it is.

use thiserror::Error;
use tokio_postgres::Client;

/// One step of a store's own schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1, 2, 3 …
    pub version: i32,
    /// What it brings, in a word or two.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

/// A store could not be brought to this program's version.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// A newer Insula has written the store.
    #[error(
        "the {store} is at version {found}, and this Insula knows versions up to {known}: it was written by a \
         newer Insula; start that one, or restore a backup of the store"
    )]
    TooNew {
        /// Which store.
        store: &'static str,
        /// Its version.
        found: i32,
        /// The newest version that this program knows.
        known: i32,
    },
    /// A statement failed.
    #[error("the {store} could not be brought to version {version}")]
    Failed {
        /// Which store.
        store: &'static str,
        /// The version whose statements failed; 0 for the bookkeeping before the first.
        version: i32,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// One lock for all stores: two stores may share a database server, not a database.
const LOCK: i64 = 0x1A5_0001;

/// Nobody but its owner has anything to do in a store: on a server that tenants
/// share, their roles could connect to it otherwise.
const CLOSE: &str = "do $$ begin
    execute format('revoke all on database %I from public', current_database());
end $$";

const BOOKKEEPING: &str = "create table if not exists insula_store_version (
    version int primary key, name text not null, applied_at timestamptz not null default now())";

/// Brings a store to the newest version and returns that version.
///
/// # Errors
/// [`MigrateError`]; a version whose statements failed has left nothing behind.
pub async fn migrate(
    client: &mut Client,
    store: &'static str,
    migrations: &[Migration],
) -> Result<i32, MigrateError> {
    let failed = |version| move |source| MigrateError::Failed { store, version, source };
    client.execute("select pg_advisory_lock($1)", &[&LOCK]).await.map_err(failed(0))?;
    let done = migrate_locked(client, store, migrations).await;
    // Ends with the session if this fails.
    let released = client.execute("select pg_advisory_unlock($1)", &[&LOCK]).await.map_err(failed(0));
    let version = done?;
    released?;
    Ok(version)
}

async fn migrate_locked(
    client: &mut Client,
    store: &'static str,
    migrations: &[Migration],
) -> Result<i32, MigrateError> {
    let failed = |version| move |source| MigrateError::Failed { store, version, source };
    client.batch_execute(CLOSE).await.map_err(failed(0))?;
    client.batch_execute(BOOKKEEPING).await.map_err(failed(0))?;
    let found = applied_version(client).await.map_err(failed(0))?;
    let known = migrations.last().map_or(0, |migration| migration.version);
    if found > known {
        return Err(MigrateError::TooNew { store, found, known });
    }
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        let failed = failed(migration.version);
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.batch_execute(migration.sql).await.map_err(failed)?;
        transaction
            .execute(
                "insert into insula_store_version (version, name) values ($1, $2)",
                &[&migration.version, &migration.name],
            )
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        tracing::info!(store, version = migration.version, name = migration.name, "store migrated");
    }
    Ok(known)
}

/// The version that a store is at.
///
/// # Errors
/// Where the store has no bookkeeping or cannot be read.
pub async fn applied_version(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let row = client.query_one("select coalesce(max(version), 0) from insula_store_version", &[]).await?;
    Ok(row.get(0))
}
