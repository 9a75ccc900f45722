//! The roles of tenants: every session of a tenant runs as its own role, in
//! every model, so that PostgreSQL itself knows whose session it is.

use insula_app_schema::EXTENSION_SCHEMA;
use insula_domain::{DatabaseName, Isolation, RoleName, SchemaName, TenantId};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::access::ClusterAccess;
use crate::schema::{POOL_READ_ONLY, POOL_READ_WRITE, make_role};
use crate::{db, literal};

/// The group that all roles of tenants are members of, so that `pg_hba.conf` can
/// name them. It has no right, and none should be given to it.
pub const TENANTS: &str = "insula_tenants";

/// A role to be made.
#[derive(Debug, Clone)]
pub struct NewRole {
    /// Its name.
    pub name: RoleName,
    /// The SCRAM verifier of its password: the password itself never travels.
    pub verifier: String,
}

/// The two roles of a tenant on a cluster.
#[derive(Debug, Clone)]
pub struct TenantRoles {
    /// Reads and writes.
    pub read_write: NewRole,
    /// Reads.
    pub read_only: NewRole,
}

impl TenantRoles {
    fn both(&self) -> [&NewRole; 2] {
        [&self.read_write, &self.read_only]
    }
}

/// Makes the group of all tenants' roles.
pub(crate) async fn create_group(client: &Client) -> Result<(), Problem> {
    client.batch_execute(&make_role(TENANTS)).await.map_err(db)
}

/// Makes the group of all tenants' roles, and members of it of those that are
/// none, because they are older than the group.
///
/// # Errors
/// Where the cluster is away.
pub async fn enroll_tenants(client: &Client) -> Result<(), Problem> {
    create_group(client).await?;
    client
        .batch_execute(&format!(
            "do $$ declare tenant text; begin
                 for tenant in
                     select r.rolname from pg_catalog.pg_roles r
                     where r.rolname ~ '^tenant_[0-9a-f]{{32}}(_ro)?$' and not exists (
                         select from pg_catalog.pg_auth_members m
                         where m.member = r.oid and m.roleid = '{TENANTS}'::pg_catalog.regrole)
                 loop
                     execute pg_catalog.format('grant {TENANTS} to %I', tenant);
                 end loop;
             end $$"
        ))
        .await
        .map_err(db)
}

/// Makes the tenant's roles, or brings those that are there to the same state.
/// In a pool they get their rights through the pool's group roles; elsewhere
/// the rights come with the tenant's own schema or database.
///
/// # Errors
/// Where the cluster is away.
pub async fn create_roles(
    client: &Client,
    roles: &TenantRoles,
    isolation: Isolation,
    database: &DatabaseName,
    schema: &SchemaName,
) -> Result<(), Problem> {
    create_group(client).await?;
    let mut statements = String::from("begin;\n");
    for role in roles.both() {
        let name = &role.name;
        let there = client.query_opt("select 1 from pg_roles where rolname = $1", &[&name.as_str()]).await;
        let verb = if there.map_err(db)?.is_some() { "alter" } else { "create" };
        statements.push_str(&format!(
            "{verb} role {name} login nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit \
             password {};\n",
            literal(&role.verifier)
        ));
        // What the tenant has set for its own role does not outlive a suspension.
        statements.push_str(&format!("alter role {name} reset all;\n"));
        for set_in in databases_with_settings(client, name).await? {
            statements.push_str(&format!("alter role {name} in database {set_in} reset all;\n"));
        }
        if isolation == Isolation::Schema {
            let path = search_path(schema);
            statements
                .push_str(&format!("alter role {name} in database {database} set search_path = {path};\n"));
        }
    }
    statements
        .push_str(&format!("grant {TENANTS} to {}, {};\n", roles.read_write.name, roles.read_only.name));
    if isolation == Isolation::Pool {
        statements.push_str(&format!("grant {POOL_READ_WRITE} to {};\n", roles.read_write.name));
        statements.push_str(&format!("grant {POOL_READ_ONLY} to {};\n", roles.read_only.name));
    }
    if isolation == Isolation::Schema {
        statements.push_str(&format!(
            "grant connect on database {database} to {}, {};\n",
            roles.read_write.name, roles.read_only.name
        ));
    }
    statements.push_str("commit;");
    client.batch_execute(&statements).await.map_err(db)
}

/// The databases, as quoted names, in which something is set for a role: it may
/// set for itself in any, also in one that it cannot connect to.
async fn databases_with_settings(client: &Client, role: &RoleName) -> Result<Vec<String>, Problem> {
    let rows = client
        .query(
            "select quote_ident(d.datname) from pg_db_role_setting s
             join pg_roles r on r.oid = s.setrole join pg_database d on d.oid = s.setdatabase
             where r.rolname = $1",
            &[&role.as_str()],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Where a role with a schema of its own finds its tables.
fn search_path(schema: &SchemaName) -> String {
    format!("{schema}, {EXTENSION_SCHEMA}")
}

/// What is set for a tenant's role, as a survey shows it. The tenant can set
/// more for its own role, until it is suspended.
#[must_use]
pub fn role_settings(isolation: Isolation, database: &DatabaseName, schema: &SchemaName) -> Vec<String> {
    match isolation {
        Isolation::Schema => vec![format!("{database}: search_path={}", search_path(schema))],
        _ => Vec::new(),
    }
}

/// Gives the tenant's roles other passwords.
///
/// # Errors
/// Where the cluster is away.
pub async fn set_passwords(client: &Client, roles: &TenantRoles) -> Result<(), Problem> {
    let [read_write, read_only] =
        roles.both().map(|role| format!("alter role {} password {};", role.name, literal(&role.verifier)));
    client.batch_execute(&format!("begin; {read_write} {read_only} commit;")).await.map_err(db)
}

/// Removes the tenant's roles with all that they own and all that is granted to
/// them, in whatever database: other tenants can grant them rights on what is
/// their own, and would hold them up for ever. Removing them again changes
/// nothing.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_roles(access: &ClusterAccess, tenant: TenantId) -> Result<(), Problem> {
    let maintenance = access.maintenance().await?;
    for name in [RoleName::of_tenant(tenant), RoleName::read_only_of_tenant(tenant)] {
        let there =
            maintenance.query_opt("select 1 from pg_roles where rolname = $1", &[&name.as_str()]).await;
        if there.map_err(db)?.is_none() {
            continue;
        }
        let drop_owned = format!("drop owned by {name} cascade");
        for row in maintenance.query(DATABASES_OF_ROLE, &[&name.as_str()]).await.map_err(db)? {
            let database = DatabaseName::from_stored(row.get(0));
            access.own(&database).await?.batch_execute(&drop_owned).await.map_err(db)?;
        }
        // Here too, for the rights on whole databases.
        maintenance.batch_execute(&format!("{drop_owned}; drop role if exists {name}")).await.map_err(db)?;
    }
    Ok(())
}

/// The databases in which a role owns something or has a right.
const DATABASES_OF_ROLE: &str = "
    select distinct d.datname::text from pg_shdepend s
    join pg_database d on d.oid = s.dbid and d.datallowconn
    where s.refclassid = 'pg_authid'::regclass
      and s.refobjid = (select oid from pg_roles where rolname = $1)";
