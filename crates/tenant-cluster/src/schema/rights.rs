//! The rights of a tenant in the schema or database that it has for itself: on
//! all rows, and on no definition.

use insula_domain::{RoleName, SchemaName};
use insula_problem::Problem;
use tokio_postgres::Client;

use super::owner::{make_owner, owner_of};
use crate::db;

/// Gives a role its rights on what is in a schema and on what later versions
/// of the app schema will make there. May be repeated, and may come before or
/// after the first version.
///
/// # Errors
/// Where the cluster is away.
pub async fn grant_rights(
    client: &Client,
    schema: &SchemaName,
    role: &RoleName,
    read_only: bool,
) -> Result<(), Problem> {
    let (tables, sequences) = if read_only {
        ("select", "select")
    } else {
        ("select, insert, update, delete, truncate", "select, usage, update")
    };
    let owner = owner_of(schema);
    let default = format!("alter default privileges for role {owner} in schema {schema} grant");
    let mut statements = vec!["begin".to_owned()];
    statements.extend(make_owner(schema));
    statements.extend([
        format!("grant usage on schema {schema} to {role}"),
        format!("grant {tables} on all tables in schema {schema} to {role}"),
        format!("grant {sequences} on all sequences in schema {schema} to {role}"),
        format!("{default} {tables} on tables to {role}"),
        format!("{default} {sequences} on sequences to {role}"),
        "commit".to_owned(),
    ]);
    client.batch_execute(&statements.join(";\n")).await.map_err(db)
}
