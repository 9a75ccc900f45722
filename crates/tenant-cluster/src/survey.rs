//! What is really on a cluster, for the comparison with the catalog: roles with
//! their attributes, databases, schemas, and the tenants that have rows in
//! shared tables.

use std::collections::BTreeSet;

use insula_domain::{DatabaseName, RoleName, TenantId};
use insula_problem::Problem;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::db;
use crate::purge::pool_tables;
use crate::schema::pool_template_tenant;
use crate::scratch;

/// A role that is named like a tenant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedRole {
    /// Its name.
    pub name: RoleName,
    /// Whether it may log in.
    pub login: bool,
    /// What it may do that no tenant may, for example `superuser`.
    pub excess: Vec<String>,
    /// The roles that it is a member of.
    pub member_of: Vec<String>,
    /// The databases that it may connect to.
    pub connects_to: BTreeSet<DatabaseName>,
    /// What is set for it, for all databases (`name=value`) or for one (`database: name=value`).
    pub settings: Vec<String>,
    /// The SCRAM verifier of its password.
    pub verifier: Option<String>,
}

/// What is on a cluster as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// Roles named like tenants'.
    pub roles: Vec<SurveyedRole>,
    /// Databases named like tenants' or templates.
    pub databases: BTreeSet<DatabaseName>,
    /// Scratch databases that nobody uses any more.
    pub abandoned: Vec<DatabaseName>,
    /// Tenants whose schema has a role that owns it.
    pub schema_owners: BTreeSet<TenantId>,
    /// The part of the server's queue of notifications that is in use, from 0 to 1.
    pub notification_queue: f64,
}

/// Looks at roles and databases.
///
/// # Errors
/// Where the cluster is away.
pub async fn survey(maintenance: &Client) -> Result<Survey, Problem> {
    let roles = maintenance
        .query(
            "select r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
                    r.rolbypassrls, a.rolpassword,
                    array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
                          where m.member = r.oid order by 1),
                    array(select d.datname::text from pg_database d
                          where d.datallowconn and d.datname !~ $1
                            and has_database_privilege(r.oid, d.oid, 'connect') order by 1),
                    array(select coalesce(d.datname || ': ', '') || c.setting
                          from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase,
                               unnest(s.setconfig) as c (setting)
                          where s.setrole = r.oid order by 1)
             from pg_roles r join pg_authid a on a.oid = r.oid
             where r.rolname ~ '^tenant_[0-9a-f]{32}(_ro)?$' order by 1",
            &[&scratch::NAMES],
        )
        .await
        .map_err(db)?;
    let attributes = ["superuser", "createrole", "createdb", "replication", "bypassrls"];
    let roles = roles
        .into_iter()
        .map(|row| SurveyedRole {
            name: RoleName::from_stored(row.get(0)),
            login: row.get(1),
            excess: (2..7)
                .zip(attributes)
                .filter(|(column, _)| row.get::<_, bool>(*column))
                .map(|(_, attribute)| attribute.to_owned())
                .collect(),
            verifier: row.get(7),
            member_of: row.get(8),
            settings: row.get(10),
            connects_to: row.get::<_, Vec<String>>(9).into_iter().map(DatabaseName::from_stored).collect(),
        })
        .collect();
    let databases = maintenance
        .query(
            "select datname::text from pg_database
             where datname ~ '^t_[0-9a-f]{32}$' or datname ~ '^insula_' or datname = 'app'",
            &[],
        )
        .await
        .map_err(db)?;
    let databases = databases.into_iter().map(|row| DatabaseName::from_stored(row.get(0))).collect();
    let owners = maintenance
        .query(
            "select substr(rolname::text, 3, 32) from pg_roles where rolname ~ '^t_[0-9a-f]{32}_owner$'",
            &[],
        )
        .await
        .map_err(db)?;
    let schema_owners = owners
        .iter()
        .map(|row| row.get::<_, String>(0).parse().map_err(|error: uuid::Error| Problem::internal(error)))
        .collect::<Result<_, _>>()?;
    let abandoned = scratch::abandoned(maintenance).await?;
    let queue = maintenance.query_one("select pg_notification_queue_usage()", &[]).await.map_err(db)?;
    Ok(Survey { roles, databases, abandoned, schema_owners, notification_queue: queue.get(0) })
}

/// Sequences of shared tables whose numbers have four bytes or fewer, and that
/// have given out more than half of them: each with the last one and the greatest.
///
/// # Errors
/// Where the cluster is away.
pub async fn survey_short_sequences(client: &Client) -> Result<Vec<(String, i64, i64)>, Problem> {
    let rows = client
        .query(
            "select format('%I.%I', schemaname, sequencename), last_value, max_value from pg_sequences
             where schemaname = 'app' and data_type <> 'bigint'::regtype and last_value > max_value / 2
             order by 1",
            &[],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// The tenants that have a schema in the database of schemas, and those that
/// have one for objects of their own there.
///
/// # Errors
/// Where the cluster is away.
pub async fn survey_schemas(client: &Client) -> Result<(BTreeSet<TenantId>, BTreeSet<TenantId>), Problem> {
    let schemas = tenants_of_schemas(client, "^t_[0-9a-f]{32}$").await?;
    Ok((schemas, tenants_of_schemas(client, "^t_[0-9a-f]{32}_own$").await?))
}

async fn tenants_of_schemas(client: &Client, pattern: &str) -> Result<BTreeSet<TenantId>, Problem> {
    let query = "select substr(nspname::text, 3, 32) from pg_namespace where nspname ~ $1";
    let rows = client.query(query, &[&pattern]).await.map_err(db)?;
    rows.iter()
        .map(|row| row.get::<_, String>(0).parse().map_err(|error: uuid::Error| Problem::internal(error)))
        .collect()
}

/// The tenants that have rows in the shared tables, or are enrolled there.
///
/// # Errors
/// Where the cluster is away.
pub async fn survey_pool_tenants(client: &Client) -> Result<BTreeSet<TenantId>, Problem> {
    let enrolled = client.query("select tenant_id from insula.pool_tenants", &[]).await.map_err(db)?;
    let mut tenants: BTreeSet<_> = enrolled.iter().map(|row| TenantId::from(row.get::<_, Uuid>(0))).collect();
    for table in pool_tables(client).await? {
        // Jumps from tenant to tenant along the primary key instead of reading every row.
        let statement = format!(
            "with recursive seen (id) as (
                 (select tenant_id from {table} order by tenant_id limit 1)
                 union all
                 select (select tenant_id from {table} where tenant_id > seen.id order by tenant_id limit 1)
                 from seen where seen.id is not null
             ) select id from seen where id is not null"
        );
        let rows = client.query(&statement, &[]).await.map_err(db)?;
        tenants.extend(rows.iter().map(|row| TenantId::from(row.get::<_, Uuid>(0))));
    }
    // The pool's template is nobody: new tenants begin with a copy of its rows.
    tenants.remove(&pool_template_tenant());
    Ok(tenants)
}
