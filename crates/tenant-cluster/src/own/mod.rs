//! A tenant's own objects: a schema beside the app schema's, in which the
//! tenant makes what it likes where its tier lets it, and in which nobody else
//! has any right.

mod inventory;
mod judge;

use insula_domain::{DatabaseName, Isolation, RoleName, SchemaName, TenantId};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::db;
use crate::roles::search_path;

pub use inventory::{Inventory, own_objects};
pub use judge::{audit_own, dependents, explain};

/// How many relations are dropped in one transaction: PostgreSQL has a lock for
/// each, in a table of fixed size.
const DROPPED_AT_ONCE: i64 = 200;

/// Whose own objects, and where.
#[derive(Debug, Clone)]
pub struct OwnSpace {
    /// The tenant.
    pub tenant: TenantId,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// The database in which it has its tables.
    pub database: DatabaseName,
    /// The schema of the app's tables.
    pub app: SchemaName,
    /// The schema of its own objects.
    pub own: SchemaName,
}

/// Makes the schema for a tenant's own objects where it may have one, or takes
/// the right to make more; what is there stays, and so does the right to use
/// it. Doing so again changes nothing. The connection is one to the database
/// in which the tenant has its tables.
///
/// # Errors
/// Where the cluster is away.
pub async fn settle_own(client: &Client, space: &OwnSpace, allowed: bool) -> Result<(), Problem> {
    let OwnSpace { database, app, own, .. } = space;
    if !allowed && !is_there(client, own).await? {
        return Ok(());
    }
    let read_write = RoleName::of_tenant(space.tenant);
    let read_only = RoleName::read_only_of_tenant(space.tenant);
    let default = format!("alter default privileges for role {read_write} in schema {own} grant select on");
    let create = if allowed {
        format!("grant create on schema {own} to {read_write}")
    } else {
        format!("revoke create on schema {own} from {read_write}")
    };
    let path = search_path(space.isolation, app, Some(own));
    let statements = [
        "begin".to_owned(),
        format!("create schema if not exists {own}"),
        format!("revoke all on schema {own} from public"),
        format!("grant usage on schema {own} to {read_write}, {read_only}"),
        create,
        format!("{default} tables to {read_only}"),
        format!("{default} sequences to {read_only}"),
        format!("alter role {read_write} in database {database} set search_path = {path}"),
        format!("alter role {read_only} in database {database} set search_path = {path}"),
        "commit".to_owned(),
    ];
    client.batch_execute(&statements.join(";\n")).await.map_err(db)
}

/// Whether a schema is there.
pub(crate) async fn is_there(client: &Client, schema: &SchemaName) -> Result<bool, Problem> {
    let there = client.query_opt("select from pg_namespace where nspname = $1", &[&schema.as_str()]).await;
    Ok(there.map_err(db)?.is_some())
}

/// Removes a schema with all that is in it, whoever it belongs to, and however
/// much it is: relations go in bounded numbers first.
///
/// # Errors
/// Where the cluster is away.
pub(crate) async fn drop_with_content(client: &Client, schema: &SchemaName) -> Result<(), Problem> {
    loop {
        // Partitions before what they are partitions of.
        let rows = client
            .query(
                "select format('drop %s if exists %s cascade',
                               case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
                                              when 'f' then 'foreign table' else 'table' end,
                               c.oid::regclass)
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname = $1 and c.relkind in ('r', 'p', 'v', 'm', 'f')
                 order by c.relkind = 'p', c.oid limit $2",
                &[&schema.as_str(), &DROPPED_AT_ONCE],
            )
            .await
            .map_err(db)?;
        if rows.is_empty() {
            break;
        }
        let statements: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        client.batch_execute(&statements.join(";\n")).await.map_err(db)?;
    }
    client.batch_execute(&format!("drop schema if exists {schema} cascade")).await.map_err(db)
}
