//! Taking away what PostgreSQL lets everybody do in a database and what would
//! reach from one tenant to another where they share it.

use insula_problem::Problem;
use tokio_postgres::Client;

use super::channels;
use crate::db;

/// Functions, as patterns of LIKE, that work on things which belong to the
/// whole database and know no tenant: large objects, advisory locks,
/// notifications, messages in the log, and the statistics of tables and sessions
/// (the views `pg_stat_…` call them as whoever reads the view).
const SHARED_BY_ALL: [&str; 10] = [
    "lo\\_%",
    "loread",
    "lowrite",
    "pg\\_advisory\\_%",
    "pg\\_try\\_advisory\\_%",
    "pg\\_notify",
    "pg\\_logical\\_emit\\_message",
    "pg\\_export\\_snapshot",
    "pg\\_listening\\_channels",
    "pg\\_stat\\_get\\_%",
];

/// Of these, what lets go of the session's own alone: drivers call it when they
/// put a connection back into their pool (asyncpg).
const KEPT: &str = "grant execute on function pg_catalog.pg_advisory_unlock_all() to public";

/// Takes from PUBLIC what tenants could reach each other through, and gives them
/// notifications of their own. For databases that tenants share. May be repeated.
///
/// # Errors
/// Where the cluster is away.
pub async fn harden_database(client: &Client) -> Result<(), Problem> {
    let patterns = SHARED_BY_ALL.map(|pattern| format!("'{pattern}'")).join(", ");
    client
        .batch_execute(&format!(
            "begin;
             revoke create on schema public from public;
             do $$ declare shared regprocedure; begin
                 for shared in
                     select p.oid from pg_proc p
                     where p.pronamespace = 'pg_catalog'::regnamespace and p.proname like any (array[{patterns}])
                 loop
                     execute format('revoke all on function %s from public', shared);
                 end loop;
             end $$;
             {KEPT};
             {}
             commit",
            channels::install()
        ))
        .await
        .map_err(db)
}
