//! What a stream of changes needs on servers: at its source a publication and
//! a slot, at its target an origin, which keeps how far it was applied. Each
//! step may be run again after it was interrupted. Where an earlier worker may
//! wake that is in the midst of one, it is taken beside seats: that worker would
//! make anew what the one that has the move works with.

use std::time::Duration;

use insula_problem::{Code, Problem};
use insula_sql_store::Discreet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::stream_name::origins_at;
use super::wire::{Wire, WireFault, wire_problem};
use super::{At, Lsn, MovedTable, Place, ReplicaIdentity, StreamName, Way};
use crate::access::Through;
use crate::db;
use crate::spaces::database_exists;

/// How long a session of ours is waited for to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// The pause from one look to the next.
const PAUSE: Duration = Duration::from_millis(10);

/// A slot that has just been made. While this is there, the snapshot can be
/// imported (`SET TRANSACTION SNAPSHOT`) in the same database: it shows exactly
/// the transactions whose changes the slot does not bring.
#[derive(Debug)]
pub struct Exported {
    /// The snapshot's name.
    pub snapshot: String,
    /// Where in the log the slot begins.
    pub consistent_point: Lsn,
    // The snapshot, and a temporary slot, end with the connection.
    _wire: Wire,
}

/// Publishes the tenant's rows of some tables, and nothing else, under the
/// stream's name. What was published so before is no longer.
///
/// # Errors
/// `move_blocked` where rows of a table cannot be told apart: once it were
/// published, PostgreSQL would refuse everybody's updates of it. Where the
/// cluster is away or refuses.
pub async fn publish(at: impl Into<At<'_>>, name: StreamName, tables: &[MovedTable]) -> Result<(), Problem> {
    let at = at.into();
    let has_no_key = |table: &&MovedTable| table.key.is_empty() || table.identity == ReplicaIdentity::Nothing;
    if let Some(table) = tables.iter().find(has_no_key) {
        let detail = format!("Changes of the table {} cannot be told apart: it has no key.", table.name);
        return Err(Problem::new(Code::MoveBlocked, detail));
    }
    let client = at.connect().await?;
    let listed: Vec<String> = tables.iter().map(|table| published(at.place, table)).collect();
    let of = if listed.is_empty() { String::new() } else { format!(" for table {}", listed.join(", ")) };
    client
        .batch_execute(&format!(
            "begin; drop publication if exists {name}; create publication {name}{of}; commit"
        ))
        .await
        .map_err(db)
}

fn published(place: &Place, table: &MovedTable) -> String {
    let filter = if place.is_pool_form() {
        format!(" where (tenant_id = '{}')", place.tenant.as_uuid())
    } else {
        String::new()
    };
    format!("{}{filter}", table.source(&place.placement.schema))
}

/// Makes the stream's slot anew, with a snapshot of where it begins. PostgreSQL
/// waits for all transactions on the server that write at this moment.
///
/// # Errors
/// `move_blocked` where that takes longer than `within`; then no slot is left.
/// `cluster_unsuitable` where the server has no slot free. Where the cluster is away.
pub async fn create_slot(
    at: impl Into<At<'_>>,
    name: StreamName,
    within: Duration,
) -> Result<Exported, Problem> {
    let at = at.into();
    drop_slot(at.through, name).await?;
    make(at, &name.to_string(), "", within).await
}

/// Makes a slot that ends with what is returned, to have a snapshot of which it
/// is known where in the log it is.
///
/// # Errors
/// As [`create_slot`].
pub async fn temporary_slot(place: &Place, name: StreamName, within: Duration) -> Result<Exported, Problem> {
    let maintenance = place.access.maintenance().await?;
    remove_slot(&maintenance, &name.looking()).await?;
    make(place.into(), &name.looking(), " TEMPORARY", within).await
}

async fn make(at: At<'_>, slot: &str, kind: &str, within: Duration) -> Result<Exported, Problem> {
    let mut wire = match at.through {
        Through::Pools(_) => replication(at.place, slot).await.map_err(wire_problem)?,
        Through::Seat(seat) => {
            let wire = replication(at.place, &seat.beside_name()).await.map_err(wire_problem)?;
            seat.vouch().await?;
            wire
        }
    };
    let pid = wire.pid();
    let command = format!("CREATE_REPLICATION_SLOT {slot}{kind} LOGICAL pgoutput (SNAPSHOT 'export')");
    let made = timeout(within, wire.simple(&command)).await;
    let Ok(made) = made else {
        return Err(give_up(at, slot, pid).await?);
    };
    let rows = made.map_err(|fault| match fault.sqlstate() {
        Some("53400") => Problem::new(
            Code::ClusterUnsuitable,
            "All replication slots of the cluster are in use. More are allowed by its setting max_replication_slots.",
        )
        .caused_by(fault),
        _ => wire_problem(fault),
    })?;
    let row = rows.into_iter().next().unwrap_or_default();
    let [Some(_), Some(point), Some(snapshot), ..] = row.as_slice() else {
        return Err(Problem::internal("a new replication slot has no snapshot"));
    };
    let consistent_point =
        point.parse().map_err(|_| Problem::internal("a new replication slot has no position"))?;
    Ok(Exported { snapshot: snapshot.clone(), consistent_point, _wire: wire })
}

/// A replication connection to the placement's database, whose values are
/// written as those of all connections of a move.
pub(super) async fn replication(place: &Place, name: &str) -> Result<Wire, WireFault> {
    let dial = place.access.dial(&place.placement.database);
    let parameters = [("replication", "database"), ("client_encoding", "UTF8"), ("application_name", name)];
    let mut wire = Wire::open(&dial, &parameters).await?;
    wire.simple(&place.settings()).await?;
    // A slot is made behind all transactions that write: how long they are waited for
    // says who makes it.
    wire.simple("set lock_timeout = 0").await?;
    Ok(wire)
}

/// Ends the making of a slot, and says who was in its way. A slot that is half
/// made goes with its session.
async fn give_up(at: At<'_>, slot: &str, pid: i32) -> Result<Problem, Problem> {
    let maintenance = at.through.maintenance().await?;
    let rows = maintenance
        .query(
            "select a.pid, coalesce(a.datname::text, ''), coalesce(a.usename::text, ''),
                    extract(epoch from clock_timestamp() - a.xact_start)::float8
             from pg_stat_activity a
             where a.pid = any(pg_blocking_pids($1)) or (a.backend_xid is not null and a.pid <> $1)
             order by a.pid = any(pg_blocking_pids($1)) desc, a.xact_start limit 1",
            &[&pid],
        )
        .await
        .map_err(db)?;
    remove_slot(&maintenance, slot).await?;
    end_processes(&maintenance, &[pid]).await?;
    remove_slot(&maintenance, slot).await?;
    let who = rows.first().map_or_else(String::new, |row| {
        let (pid, database, user, age): (i32, String, String, Option<f64>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        format!(
            " In the way is process {pid} of {user} in the database {database}, open for {:.0} s.",
            age.unwrap_or_default()
        )
    });
    Ok(Problem::new(
        Code::MoveBlocked,
        format!("A transaction on the cluster {} has been open for too long.{who}", at.place.access.name()),
    )
    .retry_after(5))
}

/// Removes the stream's slot, whoever uses it.
///
/// # Errors
/// Where the cluster is away, or the slot's user does not end.
pub async fn drop_slot(through: impl Into<Through<'_>>, name: StreamName) -> Result<(), Problem> {
    let maintenance = through.into().maintenance().await?;
    remove_slot(&maintenance, &name.looking()).await?;
    remove_slot(&maintenance, &name.to_string()).await
}

async fn remove_slot(maintenance: &Client, slot: &str) -> Result<(), Problem> {
    let users = "select active_pid from pg_replication_slots where slot_name = $1 and active_pid is not null";
    // A temporary one has gone with its session.
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
    drop_from_users(maintenance, [slot, slot], users, drop).await
}

/// Drops what has a name, and ends those who use it until nobody does: both are
/// asked for by a text, the users first.
async fn drop_from_users(
    maintenance: &Client,
    [used, name]: [&str; 2],
    users: &str,
    drop: &str,
) -> Result<(), Problem> {
    let until = Instant::now() + END_WITHIN;
    loop {
        let found = maintenance.query(users, &[&used]).await.map_err(db)?;
        let pids: Vec<i32> = found.iter().map(|row| row.get(0)).collect();
        end_processes(maintenance, &pids).await?;
        match maintenance.execute(drop, &[&name]).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < until => {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(db(error)),
        }
    }
}

/// Ends sessions and waits until they are gone.
async fn end_processes(maintenance: &Client, pids: &[i32]) -> Result<(), Problem> {
    let wait = i64::try_from(END_WITHIN.as_millis()).unwrap_or(i64::MAX);
    maintenance
        .execute("select pg_terminate_backend(p, $2) from unnest($1::int[]) p", &[&pids, &wait])
        .await
        .map(drop)
        .map_err(db)
}

/// Removes the stream's publication. After the slot, since a slot whose
/// publication is missing can no longer be read. It may have gone with its
/// database.
///
/// # Errors
/// Where the cluster is away.
pub async fn unpublish(at: impl Into<At<'_>>, name: StreamName) -> Result<(), Problem> {
    let at = at.into();
    if !database_exists(&*at.through.maintenance().await?, &at.place.placement.database).await? {
        return Ok(());
    }
    let client = at.connect().await?;
    client.batch_execute(&format!("drop publication if exists {name}")).await.map_err(db)
}

/// Makes the stream's origin at its target anew: nothing is applied yet.
///
/// # Errors
/// `cluster_unsuitable` where the server has no room for another one. Where the
/// cluster is away, or the origin's user does not end.
pub async fn create_origin(target: impl Into<At<'_>>, name: StreamName) -> Result<(), Problem> {
    let through = target.into().through;
    drop_origin(through, name).await?;
    let maintenance = through.maintenance().await?;
    let asked = maintenance.query_one("select current_setting('server_version_num')::int", &[]).await;
    let all = name.origins();
    let origins = &all[..usize::from(origins_at(asked.map_err(db)?.get(0)))];
    let create = "select pg_replication_origin_create(name) from unnest($1::text[]) name";
    maintenance.execute(create, &[&origins]).await.map_err(db)?;
    // Room for where they are is taken when they are moved, and is to be there before anything is copied.
    let reserve = "select pg_replication_origin_advance(name, '0/0') from unnest($1::text[]) name";
    let Err(error) = maintenance.execute(reserve, &[&origins]).await else { return Ok(()) };
    drop_origin(through, name).await?;
    Err(match error.code() {
        Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) => Problem::new(
            Code::ClusterUnsuitable,
            "All replication origins of the cluster are in use. More are allowed by its setting \
             max_replication_slots, or max_active_replication_origins from PostgreSQL 18 on.",
        )
        .caused_by(Discreet::from(error)),
        _ => db(error),
    })
}

/// Removes the stream's origin, whoever applies under it. Only once no slot on
/// the same server is read any more that is to leave out what was applied
/// under it: of what an origin that is gone has applied, nobody can tell.
///
/// # Errors
/// Where the cluster is away, or the origin's user does not end.
pub async fn drop_origin(through: impl Into<Through<'_>>, name: StreamName) -> Result<(), Problem> {
    let maintenance = through.into().maintenance().await?;
    let users = "select pid from pg_stat_activity where application_name = $1
                 and backend_type = 'client backend' and usename = current_user and pid <> pg_backend_pid()";
    let drop = "select pg_replication_origin_drop(roname) from pg_replication_origin where roname = $1";
    // Its own first: while an applier has that, the witnesses are needed.
    for origin in name.origins() {
        drop_from_users(&maintenance, [&name.to_string(), &origin], users, drop).await?;
    }
    Ok(())
}

/// Takes everything away that a move's streams have on the server of one of its
/// ends, whichever way they go.
///
/// # Errors
/// Where the cluster is away, or a user of a stream does not end.
pub async fn remove_streams_at(at: impl Into<At<'_>>, move_id: Uuid) -> Result<(), Problem> {
    let at = at.into();
    let names = [Way::Back, Way::Forward].map(|way| StreamName::new(way, move_id));
    for name in names {
        drop_slot(at.through, name).await?;
    }
    for name in names {
        unpublish(at, name).await?;
        drop_origin(at.through, name).await?;
    }
    Ok(())
}

/// Takes everything away that a stream has at its source and its target.
///
/// # Errors
/// Where a cluster is away, or a user of the stream does not end.
pub async fn remove_stream<'a>(
    source: impl Into<At<'a>>,
    target: impl Into<At<'a>>,
    name: StreamName,
) -> Result<(), Problem> {
    let source = source.into();
    drop_slot(source.through, name).await?;
    unpublish(source, name).await?;
    drop_origin(target.into().through, name).await
}
