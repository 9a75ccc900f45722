//! Making a server ready for tenants: the databases that they share, with the
//! rights of PUBLIC taken away, and the template from which databases are
//! cloned. Everything here can be repeated.

use insula_app_schema::{EXTENSION_SCHEMA, POOL_SCHEMA, PlainMigration};
use insula_domain::{DatabaseName, SchemaVersion};
use insula_problem::{Code, Problem};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::access::{ClusterAccess, MAINTENANCE};
use crate::neighbours::hide_neighbours;
use crate::roles::create_group;
use crate::schema;
use crate::scratch::drop_abandoned;
use crate::spaces::{database_exists, drop_database, ensure_closed_database, limit_temporary_files};
use crate::{db, literal};

/// Held while a template database is made.
const LOCK: &str = "select pg_advisory_lock(hashtextextended('insula template', 0))";
/// How long to wait for another that makes one.
const LOCK_TIMEOUT: &str = "30s";

/// Makes a server ready that tenants share: pool, schemas, an empty template.
///
/// # Errors
/// Where the cluster is away or the rights do not suffice.
pub async fn prepare_shared(access: &ClusterAccess) -> Result<(), Problem> {
    let maintenance = access.maintenance().await?;
    close_maintenance(&maintenance).await?;
    drop_abandoned(&*access.own(&DatabaseName::from_stored(MAINTENANCE.to_owned())).await?).await?;
    create_group(&maintenance).await?;
    schema::create_group_roles(&maintenance).await?;
    let (pool, schemas) = (DatabaseName::pool(), DatabaseName::schemas());
    for database in [&pool, &schemas] {
        ensure_closed_database(&maintenance, database).await?;
        limit_temporary_files(&maintenance, database).await?;
    }
    maintenance
        .batch_execute(&format!(
            "grant connect on database {pool} to {}, {};
             alter database {pool} set search_path = {}, {};",
            schema::POOL_READ_WRITE,
            schema::POOL_READ_ONLY,
            POOL_SCHEMA,
            EXTENSION_SCHEMA
        ))
        .await
        .map_err(db)?;
    let client = access.shared(&pool).await?;
    schema::install_support(&client).await?;
    schema::install_pool(&client).await?;
    schema::harden_database(&client).await?;
    let client = access.shared(&schemas).await?;
    schema::harden_database(&client).await?;
    publish_template(access, SchemaVersion(0), &[]).await
}

/// Makes a server ready that one tenant has: the database of the application.
///
/// # Errors
/// Where the cluster is away or the rights do not suffice.
pub async fn prepare_dedicated(access: &ClusterAccess) -> Result<(), Problem> {
    let maintenance = access.maintenance().await?;
    close_maintenance(&maintenance).await?;
    create_group(&maintenance).await?;
    ensure_closed_database(&maintenance, &DatabaseName::of_cluster()).await
}

/// No tenant has anything to do in the databases that come with a server.
async fn close_maintenance(maintenance: &Client) -> Result<(), Problem> {
    maintenance
        .batch_execute(
            "revoke all on database postgres from public; revoke all on database template1 from public;",
        )
        .await
        .map_err(db)
}

/// Makes the template database of a version: the migrations up to it, in the
/// plain form. It is built under another name and renamed when it is whole, so
/// that a half-made one is never cloned.
///
/// # Errors
/// Where the cluster is away, another is at it for too long, or a migration fails.
pub async fn publish_template(
    access: &ClusterAccess,
    version: SchemaVersion,
    migrations: &[PlainMigration],
) -> Result<(), Problem> {
    let template = DatabaseName::template(version);
    if database_exists(&*access.maintenance().await?, &template).await? {
        return Ok(());
    }
    // One at a time, or one would rename what another has just begun. The lock
    // is of the session, so the session is one that ends with this call.
    let maintenance = access.own(&DatabaseName::from_stored(MAINTENANCE.to_owned())).await?;
    let locked = maintenance.batch_execute(&format!("set lock_timeout = '{LOCK_TIMEOUT}'; {LOCK}")).await;
    locked.map_err(|error| match error.code() {
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
            Problem::new(Code::Unavailable, "The template database is being made. Try again shortly.")
                .retry_after(5)
                .caused_by(error)
        }
        _ => db(error),
    })?;
    if database_exists(&maintenance, &template).await? {
        return Ok(());
    }
    let draft = DatabaseName::from_stored(format!("{template}_draft"));
    drop_database(&maintenance, &draft).await?;
    maintenance
        .batch_execute(&format!(
            "create database {draft} template template0 encoding 'UTF8' strategy wal_log"
        ))
        .await
        .map_err(db)?;
    {
        let mut client = access.own(&draft).await?;
        hide_neighbours(&client).await?;
        let schema = insula_domain::SchemaName::of_silo();
        for migration in migrations {
            let applied = schema::apply_plain(&mut client, &schema, migration).await;
            applied.map_err(schema::RowsDoNotFit::in_full)?;
        }
    }
    end_sessions(&maintenance, &draft).await?;
    maintenance
        .batch_execute(&format!(
            "begin; alter database {draft} rename to {template};
             revoke all on database {template} from public;
             alter database {template} with allow_connections false is_template true; commit;"
        ))
        .await
        .map_err(db)
}

/// Waits until nobody is in a database, ending who still is.
async fn end_sessions(maintenance: &Client, database: &DatabaseName) -> Result<(), Problem> {
    maintenance
        .execute(
            &format!(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = {}",
                literal(database.as_str())
            ),
            &[],
        )
        .await
        .map_err(db)?;
    Ok(())
}
