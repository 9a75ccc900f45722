//! The fence: PostgreSQL itself keeps a tenant out, whatever a proxy believes.

use std::collections::BTreeSet;
use std::time::Duration;

use insula_domain::{RoleName, SchemaName, TenantId};
use insula_problem::Problem;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::db;

/// How long sessions that are being let in are waited for. From the check of a
/// role's right to log in to the session being listed it takes PostgreSQL less
/// than a millisecond; one that is in the way for longer waits for its client's
/// password, and its right is checked after that.
const BEING_LET_IN: Duration = Duration::from_secs(2);

/// The pause from one look to the next.
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the tenant's roles the right to log in and ends the sessions that
/// they have; the number of sessions ended. After it returns, no session of
/// the tenant is left on the cluster.
///
/// # Errors
/// Where the cluster is away, or a session does not end within 10 s.
pub async fn fence(maintenance: &Client, tenant: TenantId) -> Result<i64, Problem> {
    set_login(maintenance, tenant, "nologin").await?;
    let ended = end_sessions(maintenance, tenant).await?;
    // A session that was past the check of the right when it was taken away is
    // listed a moment later. Whoever begins from here on finds the right gone.
    let mut waiting = being_let_in(maintenance).await?;
    let until = Instant::now() + BEING_LET_IN;
    while !waiting.is_empty() && Instant::now() < until {
        sleep(PAUSE).await;
        let still = being_let_in(maintenance).await?;
        waiting.retain(|session| still.contains(session));
    }
    Ok(ended + end_sessions(maintenance, tenant).await?)
}

/// The sessions that PostgreSQL is still letting in: they have a transaction of
/// their own (`InitPostgres` in `src/backend/utils/init/postinit.c`), and are
/// not listed yet; from version 18 on they are listed as `starting`.
async fn being_let_in(maintenance: &Client) -> Result<BTreeSet<(i32, String)>, Problem> {
    let rows = maintenance
        .query(
            "select l.pid, l.virtualtransaction from pg_locks l
             where l.locktype = 'virtualxid' and l.pid is not null and not exists (
                 select from pg_stat_activity a where a.pid = l.pid and a.state is distinct from 'starting')",
            &[],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Ends sessions of tenants that hold locks on the tables of a schema in the
/// database of the connection and have been idle in their transaction for a
/// while: whom they serve has forgotten them, and everybody else waits. How
/// many that were.
///
/// # Errors
/// Where the cluster is away.
pub async fn end_idle_holders(client: &Client, schema: &SchemaName, idle: Duration) -> Result<i64, Problem> {
    let ended = client
        .query_one(
            "select count(pg_terminate_backend(a.pid)) from pg_stat_activity a
             where a.datname = current_database() and a.usename ~ '^tenant_[0-9a-f]{32}(_ro)?$'
               and a.state in ('idle in transaction', 'idle in transaction (aborted)')
               and a.state_change < now() - make_interval(secs => $2)
               and exists (select from pg_locks l join pg_class c on c.oid = l.relation
                           where l.pid = a.pid and l.granted and c.relnamespace = to_regnamespace($1))",
            &[&schema.as_str(), &idle.as_secs_f64()],
        )
        .await
        .map_err(db)?;
    Ok(ended.get(0))
}

async fn end_sessions(maintenance: &Client, tenant: TenantId) -> Result<i64, Problem> {
    let roles = names(tenant);
    // The second argument waits for the session to be gone, at most so many milliseconds.
    let row = maintenance
        .query_one(
            "select count(*), coalesce(bool_and(pg_terminate_backend(pid, 10000)), true)
             from pg_stat_activity where usename = any($1::text[]::name[])",
            &[&roles],
        )
        .await
        .map_err(db)?;
    let left: i64 = maintenance
        .query_one("select count(*) from pg_stat_activity where usename = any($1::text[]::name[])", &[&roles])
        .await
        .map_err(db)?
        .get(0);
    if left > 0 {
        return Err(Problem::internal(format!("{left} sessions of a fenced tenant did not end")));
    }
    Ok(row.get(0))
}

/// Gives the tenant's roles the right to log in again.
///
/// # Errors
/// Where the cluster is away.
pub async fn unfence(maintenance: &Client, tenant: TenantId) -> Result<(), Problem> {
    set_login(maintenance, tenant, "login").await
}

async fn set_login(maintenance: &Client, tenant: TenantId, login: &str) -> Result<(), Problem> {
    for role in names(tenant) {
        let there = maintenance.query_opt("select 1 from pg_roles where rolname = $1", &[&role]).await;
        if there.map_err(db)?.is_some() {
            maintenance.batch_execute(&format!("alter role {role} {login}")).await.map_err(db)?;
        }
    }
    Ok(())
}

fn names(tenant: TenantId) -> Vec<String> {
    [RoleName::of_tenant(tenant), RoleName::read_only_of_tenant(tenant)].map(|name| name.to_string()).into()
}
