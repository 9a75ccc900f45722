//! Who owns the tables of an app schema. PostgreSQL runs part of an app
//! schema's code as the owner of its tables, with the search path of whoever
//! made the change (triggers in a foreign key's cascade, for one). So the owner
//! is never an administrator, never the tenant, and never the same role for
//! two tenants whose tables are in one database.

use insula_domain::{RoleName, SchemaName};

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

/// Statements that make the owner and let it use the schema. They can be
/// repeated.
pub(super) fn make_owner(schema: &SchemaName) -> [String; 2] {
    let owner = owner_of(schema);
    [make_role(owner.as_str()), format!("grant usage on schema {schema} to {owner}")]
}

/// Lets the owner make things in the schema: only while a version is applied.
/// Code that runs as the owner at other times, with a tenant's search path,
/// leaves nothing behind there.
pub(super) fn let_make(schema: &SchemaName) -> String {
    format!("grant create on schema {schema} to {}", owner_of(schema))
}

/// Takes the right of [`let_make`] again.
pub(super) fn let_make_no_more(schema: &SchemaName) -> String {
    format!("revoke create on schema {schema} from {}", owner_of(schema))
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
