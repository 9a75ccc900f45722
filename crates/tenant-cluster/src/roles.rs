//! The roles of tenants: every session of a tenant runs as its own role, in
//! every model, so that PostgreSQL itself knows whose session it is.

use insula_app_schema::EXTENSION_SCHEMA;
use insula_domain::{DatabaseName, Isolation, RoleName, SchemaName, TenantId};
use insula_problem::Problem;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::access::Through;
use crate::schema::{POOL_READ_ONLY, POOL_READ_WRITE, make_role};
use crate::{db, literal};

/// The group that all roles of tenants are members of, so that `pg_hba.conf` can
/// name them. It has no right, and none should be given to it.
pub const TENANTS: &str = "insula_tenants";

/// How often a role is dropped that others grant rights to meanwhile.
const DROP_TRIES: u32 = 5;

/// Held while roles are made.
pub(crate) const LOCK: &str = "select pg_advisory_xact_lock(hashtextextended('insula roles', 0))";

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
/// none, because they are older than the group. Who goes meanwhile need not be
/// one, and whom somebody else has just made one is one.
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
                     begin
                         execute pg_catalog.format('grant {TENANTS} to %I', tenant);
                     exception when undefined_object or unique_violation then
                         null;
                     end;
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
    // Rights on a shared database are kept in one row, which two at once cannot change.
    let mut statements = format!("begin;\n{LOCK};\n");
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
            let path = search_path(isolation, schema, None);
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

/// Where a role finds the app's tables, what extensions bring, and last the
/// tenant's own objects, which so never come in the way of the others.
pub(crate) fn search_path(isolation: Isolation, schema: &SchemaName, own: Option<&SchemaName>) -> String {
    let own = own.map_or_else(String::new, |own| format!(", {own}"));
    match isolation {
        Isolation::Schema => format!("{schema}, {EXTENSION_SCHEMA}{own}"),
        _ => format!("{schema}{own}"),
    }
}

/// What is set for a tenant's role, as a survey shows it; `own` is the schema
/// of its own objects, where it has one. The tenant can set more for its own
/// role, until it is suspended.
#[must_use]
pub fn role_settings(
    isolation: Isolation,
    database: &DatabaseName,
    schema: &SchemaName,
    own: Option<&SchemaName>,
) -> Vec<String> {
    if isolation == Isolation::Schema || own.is_some() {
        return vec![format!("{database}: search_path={}", search_path(isolation, schema, own))];
    }
    Vec::new()
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

/// Removes the tenant's roles; see [`drop_role`].
///
/// # Errors
/// As there.
pub async fn drop_roles(through: impl Into<Through<'_>>, tenant: TenantId) -> Result<(), Problem> {
    let through = through.into();
    for name in [RoleName::of_tenant(tenant), RoleName::read_only_of_tenant(tenant)] {
        drop_role(through, &name).await?;
    }
    Ok(())
}

/// Removes a role with all that it owns and all that was granted to it, by
/// whomever and in whichever database of the server: another tenant may have
/// granted it rights on objects of its own. Doing so again changes nothing.
///
/// # Errors
/// Where the cluster is away, or others give the role rights all the time.
pub async fn drop_role(through: impl Into<Through<'_>>, name: &RoleName) -> Result<(), Problem> {
    let through = through.into();
    let maintenance = through.maintenance().await?;
    let mut tries = 1;
    loop {
        for database in databases_with(&maintenance, name).await? {
            let client = through.own(&database).await?;
            let drop = format!("set lock_timeout = '10s'; drop owned by {name} cascade");
            client.batch_execute(&drop).await.map_err(db)?;
        }
        let dropped = maintenance.batch_execute(&format!("drop role if exists {name}")).await;
        match dropped {
            Ok(()) => return Ok(()),
            // Somebody may have granted it something since.
            Err(error)
                if tries < DROP_TRIES && error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) =>
            {
                tries += 1;
            }
            Err(error) => return Err(db(error)),
        }
    }
}

/// The databases in which something depends on a role.
async fn databases_with(maintenance: &Client, name: &RoleName) -> Result<Vec<DatabaseName>, Problem> {
    let rows = maintenance
        .query(
            "select distinct coalesce(d.datname, current_database())::text
             from pg_shdepend s
             join pg_roles r on r.oid = s.refobjid and s.refclassid = 'pg_authid'::regclass
             left join pg_database d on d.oid = s.dbid
             where r.rolname = $1 and coalesce(d.datallowconn, true)
             order by 1",
            &[&name.as_str()],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| DatabaseName::from_stored(row.get(0))).collect())
}
