//! Who owns the tables of an app schema. PostgreSQL runs part of an app
//! schema's code as the owner of its tables, with the search path of whoever
//! made the change (triggers in a foreign key's cascade, for one). So the owner
//! is never an administrator, never the tenant, and never the same role for
//! two tenants whose tables are in one database.

use insula_domain::{RoleName, SchemaName};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::db;

/// The owner of the tables in a database that one tenant has.
pub const SILO_OWNER: &str = "insula_silo_owner";

/// The owner of the tables in a schema.
#[must_use]
pub fn owner_of(schema: &SchemaName) -> RoleName {
    if *schema == SchemaName::of_silo() {
        return RoleName::from_stored(SILO_OWNER.to_owned());
    }
    RoleName::from_stored(format!("{schema}_owner"))
}

/// Statements that make the owner and let it make things in the schema. They
/// can be repeated.
pub(super) fn make_owner(schema: &SchemaName) -> [String; 2] {
    let owner = owner_of(schema);
    [make_role(owner.as_str()), format!("grant usage, create on schema {schema} to {owner}")]
}

/// A statement that makes a role which cannot log in, unless it is there.
pub(crate) fn make_role(name: &str) -> String {
    format!(
        "do $$ begin
             if not exists (select from pg_catalog.pg_roles where rolname = '{name}') then
                 create role {name} nologin nosuperuser nocreatedb nocreaterole noreplication nobypassrls;
             end if;
         exception when duplicate_object or unique_violation then null; end $$"
    )
}

/// Removes the owner of a tenant's schema, with what is left of its things in
/// this database. To be called once the schema is gone; may be repeated. The
/// owner that all databases of single tenants share stays.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_owner(client: &Client, schema: &SchemaName) -> Result<(), Problem> {
    let owner = owner_of(schema);
    if owner.as_str() == SILO_OWNER {
        return Ok(());
    }
    let there =
        client.query_opt("select from pg_roles where rolname = $1", &[&owner.as_str()]).await.map_err(db)?;
    if there.is_none() {
        return Ok(());
    }
    client
        .batch_execute(&format!("begin; drop owned by {owner} cascade; drop role {owner}; commit"))
        .await
        .map_err(db)
}
