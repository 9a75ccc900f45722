//! Small things that a move does to its ends: a marker in the log, a snapshot
//! of the target, a look at standbys, and settings that stayed behind.

use std::time::Duration;

use insula_domain::{Isolation, RoleName};
use insula_problem::{Code, Problem};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{Place, Seat};
use crate::access::{ClusterAccess, Connection, MAINTENANCE};
use crate::{db, literal};

/// How long a server may take to answer the shortest question.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Writes a marker into the log of the source, behind everything that was
/// committed before (`pg_logical_emit_message`).
///
/// # Errors
/// Where the cluster is away.
pub async fn write_marker(source: &Client, id: &str) -> Result<(), Problem> {
    // In one journey: the tenant waits meanwhile.
    let write = format!("select pg_logical_emit_message(true, 'insula', {})", literal(id));
    source.batch_execute(&write).await.map_err(db)
}

/// Whether a server can be reached right now: a connection that is made anew
/// answers, whatever those say that are kept.
///
/// # Errors
/// Where it cannot, why.
pub async fn is_there(access: &ClusterAccess) -> Result<(), Problem> {
    let client = access.named(MAINTENANCE).await?;
    let answer = timeout(ANSWER_WITHIN, client.query_one("select 1", &[])).await;
    let silent = || Problem::new(Code::PlacementUnavailable, "The tenant cluster does not answer.");
    answer.map_err(|_| silent())?.map(drop).map_err(db)
}

/// A snapshot that others can read in, as long as this is there.
#[derive(Debug)]
pub struct Shown {
    snapshot: String,
    _transaction: Connection,
}

impl Shown {
    /// The snapshot's name, for `SET TRANSACTION SNAPSHOT`.
    #[must_use]
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }
}

/// Takes a snapshot of a place as it is now.
///
/// # Errors
/// Where the cluster is away.
pub async fn export_snapshot(place: &Place) -> Result<Shown, Problem> {
    let client = place.connect().await?;
    client.batch_execute("begin isolation level repeatable read read only").await.map_err(db)?;
    let row = client.query_one("select pg_export_snapshot()", &[]).await.map_err(db)?;
    Ok(Shown { snapshot: row.get(0), _transaction: client })
}

/// Bytes of its log that a server's slowest standby has not replayed yet; 0 where
/// it has none that is connected.
///
/// # Errors
/// Where the cluster is away.
pub async fn standby_lag(access: &ClusterAccess) -> Result<i64, Problem> {
    let maintenance = access.maintenance().await?;
    let row = maintenance
        .query_one(
            "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)), 0)::int8
             from pg_stat_replication r
             where not exists (select from pg_replication_slots s
                               where s.active_pid = r.pid and s.slot_type = 'logical')",
            &[],
        )
        .await
        .map_err(db)?;
    Ok(row.get(0))
}

/// Takes away what was set for the tenant's roles in the database of a
/// placement that is gone, on a server on which it has another.
///
/// # Errors
/// Where the cluster is away, or the seat has been taken.
pub async fn forget_settings(seat: &Seat, place: &Place) -> Result<(), Problem> {
    if place.placement.isolation != Isolation::Schema {
        return Ok(());
    }
    let database = &place.placement.database;
    for role in [RoleName::of_tenant(place.tenant), RoleName::read_only_of_tenant(place.tenant)] {
        let reset = format!("alter role {role} in database {database} reset all");
        seat.batch_execute(&reset).await.map_err(db)?;
    }
    Ok(())
}
