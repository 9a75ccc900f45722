//! Making the blueprint's database, and removing it.

use insula_domain::DatabaseName;
use insula_problem::Problem;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{RECORDER, ROLE, database};
use crate::access::ClusterAccess;
use crate::spaces::{database_exists, drop_database};
use crate::{db, literal};

const RECORDER_SQL: &str = include_str!("recorder.sql");

/// The most sessions of tools at once.
const CONNECTIONS: u16 = 20;

/// Makes the blueprint, empty; where it is there, its role gets the password
/// and its recorder is brought to this program's. `verifier` is the SCRAM
/// verifier of the password.
///
/// # Errors
/// Where the cluster is away or the rights do not suffice.
pub async fn create(access: &ClusterAccess, verifier: &str) -> Result<(), Problem> {
    let maintenance = access.maintenance().await?;
    make_roles(&maintenance, verifier).await?;
    make_database(&maintenance, &database()).await?;
    let admin = access.own(&database()).await?;
    open_public(&admin).await?;
    admin
        .batch_execute(&format!(
            "begin;
             set local search_path = pg_catalog;
             set local client_min_messages = warning;
             set local session_replication_role = local;
             {RECORDER_SQL};
             commit"
        ))
        .await
        .map_err(db)
}

/// Gives the blueprint's role another password.
///
/// # Errors
/// Where the cluster is away.
pub async fn set_password(access: &ClusterAccess, verifier: &str) -> Result<(), Problem> {
    let maintenance = access.maintenance().await?;
    make_roles(&maintenance, verifier).await
}

async fn make_roles(maintenance: &Client, verifier: &str) -> Result<(), Problem> {
    let attributes = "nosuperuser nocreatedb nocreaterole noreplication nobypassrls";
    let make = |role: &str, login: &str| {
        format!(
            "do $$ begin create role {role} {login}; exception when duplicate_object or unique_violation then null; \
             end $$;\nalter role {role} {login} {attributes};\n"
        )
    };
    maintenance
        .batch_execute(&format!(
            "begin;\n{}{}
             alter role {ROLE} reset all;
             alter role {ROLE} connection limit {CONNECTIONS} password {};
             grant {ROLE} to {RECORDER};
             commit",
            make(ROLE, "login"),
            make(RECORDER, "nologin"),
            literal(verifier)
        ))
        .await
        .map_err(db)
}

/// Makes a database that belongs to the blueprint's role.
pub(super) async fn make_database(maintenance: &Client, name: &DatabaseName) -> Result<(), Problem> {
    if !database_exists(maintenance, name).await? {
        let make = format!(
            "create database {name} owner {ROLE} template template0 encoding 'UTF8' strategy wal_log"
        );
        match maintenance.batch_execute(&make).await {
            // Somebody else made it in between.
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => {}
            other => other.map_err(db)?,
        }
    }
    maintenance
        .batch_execute(&format!(
            "revoke all on database {name} from public;
             alter database {name} set search_path = public, pg_temp;
             alter database {name} set lc_messages = 'C';"
        ))
        .await
        .map_err(db)
}

/// Gives the schema `public` to the blueprint's role.
pub(super) async fn open_public(admin: &Client) -> Result<(), Problem> {
    admin
        .batch_execute(&format!(
            "begin; set local session_replication_role = local;
             create schema if not exists public; alter schema public owner to {ROLE};
             revoke all on schema public from public; commit"
        ))
        .await
        .map_err(db)
}

/// Removes the blueprint with all that is in it.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_blueprint(access: &ClusterAccess) -> Result<(), Problem> {
    let maintenance = access.maintenance().await?;
    drop_database(&maintenance, &database()).await
}
