//! What moves have left on a server: slots, publications and origins by their
//! names, how much of the log they keep from being removed, and how much room
//! there is for more.

use std::collections::{BTreeMap, BTreeSet};

use insula_domain::DatabaseName;
use insula_problem::Problem;
use tokio_postgres::Client;

use super::stream_name::origins_at;
use super::{Lsn, StreamName};
use crate::access::ClusterAccess;
use crate::db;

/// A slot of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSlot {
    /// Whose it is.
    pub stream: StreamName,
    /// The slot's own name.
    pub name: String,
    /// The database whose changes it brings.
    pub database: String,
    /// Whether it ends with the session that has made it.
    pub temporary: bool,
    /// The process that reads it.
    pub active_pid: Option<i32>,
    /// Up to where its reader has everything.
    pub confirmed: Option<Lsn>,
    /// Bytes of the server's log that are kept for it; none while it is being made.
    pub retained_bytes: Option<i64>,
    /// Whether the server has given it up because of its limit
    /// (`max_slot_wal_keep_size`).
    pub is_lost: bool,
}

/// What streams have on a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicationObjects {
    /// Slots.
    pub slots: Vec<StreamSlot>,
    /// Publications, each with its database: of the databases that tenants
    /// share and of those of the slots.
    pub publications: Vec<(String, StreamName)>,
    /// Origins, each with how far it says to be.
    pub origins: Vec<(StreamName, Option<Lsn>)>,
}

/// How much room a server has for streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationRoom {
    /// Its `wal_level`; streams need `logical`.
    pub wal_level: String,
    /// Slots that are free.
    pub free_slots: i64,
    /// Origins that are free.
    pub free_origins: i64,
    /// Origins that a stream needs at its target.
    pub origins_each: u8,
    /// The setting that limits origins.
    pub origins_setting: &'static str,
    /// Processes that send the log and are free (`max_wal_senders`).
    pub free_senders: i64,
    /// How much of its log it keeps for a slot, in bytes, before it gives the slot up
    /// (`max_slot_wal_keep_size`); none is no limit.
    pub slot_log_bytes_max: Option<i64>,
}

/// What streams have on a server.
///
/// # Errors
/// Where the cluster is away.
pub async fn replication_objects(access: &ClusterAccess) -> Result<ReplicationObjects, Problem> {
    let maintenance = access.maintenance().await?;
    let slots = slots(&maintenance).await?;
    let origins = origins(&maintenance).await?;
    let mut databases: BTreeSet<String> = slots.iter().map(|slot| slot.database.clone()).collect();
    for shared in [DatabaseName::pool(), DatabaseName::schemas(), DatabaseName::of_cluster()] {
        databases.insert(shared.to_string());
    }
    let mut publications = Vec::new();
    for database in databases {
        let there = maintenance.query_opt("select 1 from pg_database where datname = $1", &[&database]).await;
        if there.map_err(db)?.is_none() {
            continue;
        }
        let rows = access
            .named(&database)
            .await?
            .query("select pubname::text from pg_publication where pubname like 'insula\\_%' order by 1", &[])
            .await
            .map_err(db)?;
        let named = rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok());
        publications.extend(named.map(|name| (database.clone(), name)));
    }
    Ok(ReplicationObjects { slots, publications, origins })
}

/// The streams' own origins, and of those that have lost it the witnesses.
async fn origins(maintenance: &Client) -> Result<Vec<(StreamName, Option<Lsn>)>, Problem> {
    let rows = maintenance
        .query(
            "select o.roname, nullif(s.remote_lsn, '0/0')
             from pg_replication_origin o left join pg_replication_origin_status s on s.local_id = o.roident
             where o.roname like 'insula\\_%' order by 1",
            &[],
        )
        .await
        .map_err(db)?;
    let mut found = BTreeMap::new();
    for row in rows {
        let origin: &str = row.get(0);
        let Ok(name) = origin.parse::<StreamName>() else { continue };
        // Only a stream's own says how far it is.
        let applied = if origin == name.to_string() { row.get(1) } else { None };
        let entry = found.entry(name).or_insert(applied);
        *entry = entry.or(applied);
    }
    Ok(found.into_iter().collect())
}

async fn slots(maintenance: &Client) -> Result<Vec<StreamSlot>, Problem> {
    let rows = maintenance
        .query(
            "select slot_name::text, coalesce(database::text, ''), temporary, active_pid, confirmed_flush_lsn,
                    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, wal_status is not distinct from 'lost'
             from pg_replication_slots where slot_name like 'insula\\_%' order by 1",
            &[],
        )
        .await
        .map_err(db)?;
    let read = rows.iter().filter_map(|row| {
        let name: String = row.get(0);
        Some(StreamSlot {
            stream: name.parse().ok()?,
            name,
            database: row.get(1),
            temporary: row.get(2),
            active_pid: row.get(3),
            confirmed: row.get(4),
            retained_bytes: row.get(5),
            is_lost: row.get(6),
        })
    });
    Ok(read.collect())
}

/// Removes a publication of a stream from a database.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_publication(
    access: &ClusterAccess,
    database: &str,
    name: StreamName,
) -> Result<(), Problem> {
    let client = access.named(database).await?;
    client.batch_execute(&format!("drop publication if exists {name}")).await.map_err(db)
}

/// How much room a server has for streams.
///
/// # Errors
/// Where the cluster is away.
pub async fn replication_room(access: &ClusterAccess) -> Result<ReplicationRoom, Problem> {
    let maintenance = access.maintenance().await?;
    let row = maintenance
        .query_one(
            "select current_setting('wal_level'),
                    current_setting('max_replication_slots')::int8 - (select count(*) from pg_replication_slots),
                    coalesce(current_setting('max_active_replication_origins', true),
                             current_setting('max_replication_slots'))::int8
                        - (select count(*) from pg_replication_origin_status),
                    current_setting('max_wal_senders')::int8
                        - (select count(*) from pg_stat_activity where backend_type = 'walsender'),
                    (select nullif(setting::int8, -1) * 1024 * 1024 from pg_settings
                     where name = 'max_slot_wal_keep_size'),
                    current_setting('server_version_num')::int,
                    current_setting('max_active_replication_origins', true) is not null",
            &[],
        )
        .await
        .map_err(db)?;
    Ok(ReplicationRoom {
        wal_level: row.get(0),
        free_slots: row.get(1),
        free_origins: row.get(2),
        free_senders: row.get(3),
        slot_log_bytes_max: row.get(4),
        origins_each: origins_at(row.get(5)),
        // From version 18 on they have a limit of their own.
        origins_setting: if row.get(6) { "max_active_replication_origins" } else { "max_replication_slots" },
    })
}
