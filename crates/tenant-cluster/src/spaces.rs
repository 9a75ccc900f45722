//! The places of tenants that do not share tables: a schema in a shared
//! database, or a database. Each function can be repeated and then changes
//! nothing, since a step that was interrupted is run again.

use insula_domain::{DatabaseName, RoleName, SchemaName, SchemaVersion, TenantId};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::access::Through;
use crate::db;
use crate::own::drop_with_content;
use crate::roles::drop_role;
use crate::schema::owner_of;

/// What the temporary files of one session may take.
const TEMPORARY_FILES: &str = "5GB";

fn roles_of(tenant: TenantId) -> [RoleName; 2] {
    [RoleName::of_tenant(tenant), RoleName::read_only_of_tenant(tenant)]
}

/// Makes the tenant's schema in the shared database of schemas. It belongs to
/// the administrator: the tenant gets the use of what is in it and no more.
///
/// # Errors
/// Where the cluster is away.
pub async fn create_schema(client: &Client, schema: &SchemaName, tenant: TenantId) -> Result<(), Problem> {
    let [read_write, read_only] = roles_of(tenant);
    client
        .batch_execute(&format!(
            "begin; create schema if not exists {schema}; revoke all on schema {schema} from public;
             grant usage on schema {schema} to {read_write}, {read_only}; commit;"
        ))
        .await
        .map_err(db)
}

/// Removes the tenant's schemas, the app's and that of its own objects, all
/// that is in them, and the role that owned the app's.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_schemas(
    through: impl Into<Through<'_>>,
    database: &DatabaseName,
    app: &SchemaName,
    own: Option<&SchemaName>,
) -> Result<(), Problem> {
    let through = through.into();
    {
        let client = through.shared(database).await?;
        for schema in own.into_iter().chain([app]) {
            drop_with_content(&client, schema).await?;
        }
    }
    drop_role(through, &owner_of(app)).await
}

/// Makes the tenant's database as a clone of the template of a version. It
/// goes through the log rather than by copying files, which would force a
/// checkpoint (`CREATE DATABASE … STRATEGY`).
///
/// # Errors
/// Where the cluster is away or the template is not there.
pub async fn create_database(
    maintenance: &Client,
    database: &DatabaseName,
    version: SchemaVersion,
) -> Result<(), Problem> {
    if database_exists(maintenance, database).await? {
        return Ok(());
    }
    let template = DatabaseName::template(version);
    maintenance
        .batch_execute(&format!("create database {database} template {template} strategy wal_log"))
        .await
        .map_err(db)
}

/// Lets the tenant's roles, and nobody else but the administrator, into its database.
///
/// # Errors
/// Where the cluster is away.
pub async fn open_database(
    maintenance: &Client,
    database: &DatabaseName,
    tenant: TenantId,
) -> Result<(), Problem> {
    let [read_write, read_only] = roles_of(tenant);
    maintenance
        .batch_execute(&format!(
            "begin; revoke all on database {database} from public;
             grant connect, temporary on database {database} to {read_write};
             grant connect, temporary on database {database} to {read_only}; commit;"
        ))
        .await
        .map_err(db)?;
    limit_temporary_files(maintenance, database).await
}

/// Bounds the temporary files of each session in a database, on a server that
/// has no bound of its own: one tenant would fill the disk of all. Only a
/// superuser may set another limit.
///
/// # Errors
/// Where the cluster is away.
pub(crate) async fn limit_temporary_files(
    maintenance: &Client,
    database: &DatabaseName,
) -> Result<(), Problem> {
    maintenance
        .batch_execute(&format!(
            "do $$ begin
                 if current_setting('temp_file_limit') = '-1' then
                     alter database {database} set temp_file_limit = '{TEMPORARY_FILES}';
                 end if;
             end $$"
        ))
        .await
        .map_err(db)
}

/// Makes an empty database, where it is not there, and closes it to everybody
/// who gets no right to connect. Nobody gets in before it is closed.
pub(crate) async fn ensure_closed_database(
    maintenance: &Client,
    database: &DatabaseName,
) -> Result<(), Problem> {
    if !database_exists(maintenance, database).await? {
        let create =
            format!("create database {database} template template0 encoding 'UTF8' allow_connections false");
        maintenance.batch_execute(&create).await.map_err(db)?;
    }
    maintenance
        .batch_execute(&format!(
            "begin; revoke all on database {database} from public;
             alter database {database} with allow_connections true; commit;"
        ))
        .await
        .map_err(db)
}

/// Removes a database with the sessions that are in it.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_database(maintenance: &Client, database: &DatabaseName) -> Result<(), Problem> {
    maintenance.batch_execute(&format!("drop database if exists {database} with (force)")).await.map_err(db)
}

/// Whether a database is there.
///
/// # Errors
/// Where the cluster is away.
pub async fn database_exists(client: &Client, database: &DatabaseName) -> Result<bool, Problem> {
    let row = client
        .query_opt("select 1 from pg_database where datname = $1", &[&database.as_str()])
        .await
        .map_err(db)?;
    Ok(row.is_some())
}

/// Whether a schema is in the database of the connection.
///
/// # Errors
/// Where the cluster is away.
pub async fn schema_exists(client: &Client, schema: &SchemaName) -> Result<bool, Problem> {
    let row = client
        .query_opt("select 1 from pg_namespace where nspname = $1", &[&schema.as_str()])
        .await
        .map_err(db)?;
    Ok(row.is_some())
}
