//! What there is to move and what would stop or slow a move, each thing in a
//! sentence that says what can be done about it. Nothing is changed.

use std::time::Duration;

use insula_domain::{Isolation, RoleName};
use insula_problem::Problem;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::{MovedTable, Place, ReplicaIdentity, sequences, tables};
use crate::db;

/// From this age on a transaction is worth a word.
const LONG: Duration = Duration::from_secs(5);

/// What is in the way, or will be felt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Obstacle {
    /// A word that stays the same, as `no_identity`.
    pub kind: String,
    /// What it is about, as `table orders`.
    pub object: String,
    /// What is the matter and what to do, in a sentence or two.
    pub detail: String,
    /// Whether the move cannot begin with it.
    pub blocks: bool,
}

/// What there is to move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Tables with rows of their own: of a partitioned one its partitions.
    pub tables: usize,
    /// Sequences.
    pub sequences: usize,
    /// Rows, about.
    pub rows: i64,
    /// What they take on disk, with indexes, in bytes, about.
    pub bytes: i64,
    /// What is in the way, what blocks first.
    pub obstacles: Vec<Obstacle>,
}

impl Inventory {
    /// How long a copy takes that moves so many bytes of tables and indexes a
    /// second, about.
    #[must_use]
    pub fn takes(&self, bytes_per_second: u64) -> Duration {
        Duration::from_secs(self.bytes.unsigned_abs().div_ceil(bytes_per_second.max(1)))
    }
}

/// Looks at the source of a move to a placement of some kind.
///
/// # Errors
/// Where the cluster is away.
pub async fn survey(source: &Place, target: Isolation) -> Result<Inventory, Problem> {
    let client = source.connect().await?;
    let tables = tables(&client, source).await?;
    let sequences = sequences(&client, source).await?;
    let mut obstacles: Vec<_> = tables.iter().filter_map(of_table).collect();
    if target.is_pool_form() {
        let cyclic = sequences.iter().filter(|sequence| sequence.cycles);
        obstacles.extend(cyclic.map(|sequence| {
            Obstacle {
                kind: "cyclic_sequence".to_owned(),
                object: format!("sequence {}", sequence.name),
                detail: "It begins again at its end, and in shared tables all tenants draw from it. \
                     Make it NO CYCLE in a version of the app schema."
                    .to_owned(),
                blocks: true,
            }
        }));
    }
    obstacles.extend(found(&client, source, OBJECTS).await?);
    obstacles.extend(found(&client, source, SESSIONS).await?);
    obstacles.sort_by(|a, b| b.blocks.cmp(&a.blocks).then_with(|| a.cmp(b)));
    Ok(Inventory {
        tables: tables.len(),
        sequences: sequences.len(),
        rows: tables.iter().map(|table| table.rows).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        obstacles,
    })
}

fn of_table(table: &MovedTable) -> Option<Obstacle> {
    let obstacle = |kind: &str, detail: &str, blocks| {
        let object = format!("table {}", table.name);
        Some(Obstacle { kind: kind.to_owned(), object, detail: detail.to_owned(), blocks })
    };
    if !table.logged {
        let detail = "It is unlogged, so changes to it cannot be followed. Set it LOGGED.";
        return obstacle("unlogged", detail, true);
    }
    match table.identity {
        ReplicaIdentity::Nothing => {
            let detail = "Nothing tells its rows apart, so changes to them cannot be followed. \
                          Give it a primary key that is not deferrable.";
            obstacle("no_identity", detail, true)
        }
        ReplicaIdentity::Full if table.key.is_empty() => {
            let detail =
                "It has no key, and a row that is there twice cannot be followed. Give it a primary key.";
            obstacle("no_identity", detail, true)
        }
        ReplicaIdentity::Full => {
            let detail = "Each change to it carries the whole row (REPLICA IDENTITY FULL), which makes the \
                          move slower. The default would do.";
            obstacle("full_identity", detail, false)
        }
        ReplicaIdentity::Key => None,
    }
}

/// Runs a query of obstacles for the placement's schema, database and roles.
async fn found(client: &Client, place: &Place, query: &str) -> Result<Vec<Obstacle>, Problem> {
    let roles = [RoleName::of_tenant(place.tenant), RoleName::read_only_of_tenant(place.tenant)]
        .map(|role| role.to_string());
    let rows = client
        .query(query, &[&place.placement.schema.as_str(), &&roles[..], &LONG.as_secs_f64()])
        .await
        .map_err(db)?;
    let obstacle = |row: &tokio_postgres::Row| Obstacle {
        kind: row.get(0),
        object: row.get(1),
        detail: row.get(2),
        blocks: row.get(3),
    };
    Ok(rows.iter().map(obstacle).collect())
}

/// Objects of a schema (`$1`) and of a tenant's roles (`$2`).
const OBJECTS: &str = "
select 'foreign_table', 'table ' || c.relname,
       'It is a foreign table: its rows are elsewhere and stay there. The target''s has to reach them, too.', false
from pg_class c where c.relnamespace = to_regnamespace($1) and c.relkind = 'f'
union all
select 'materialized_view', 'materialized view ' || c.relname,
       'Its rows are not moved. It is to be refreshed at the target.', false
from pg_class c where c.relnamespace = to_regnamespace($1) and c.relkind = 'm'
union all
select 'trigger_fires_always', format('trigger %s on %s', t.tgname, c.relname),
       'It fires for rows that are copied and followed, too, and would do its work twice. Have it ENABLEd plainly.', true
from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = to_regnamespace($1) and not t.tgisinternal and t.tgenabled in ('A', 'R')
union all
select 'large_objects', 'large objects', format('The tenant has %s large objects, which cannot be moved. Keep them in bytea columns.', count(*)), true
from pg_largeobject_metadata o join pg_roles r on r.oid = o.lomowner
where r.rolname = any($2::text[]::name[]) having count(*) > 0
union all
select 'prepared_transaction', 'transaction ' || gid, 'It is prepared and waits for its second half. Commit it or roll it back.', true
from pg_prepared_xacts where database = current_database() and owner = any($2::text[]::name[]) and $3::float8 is not null
order by 1, 2";

/// Transactions that are under way for long: those of the tenant hold the
/// cutover up, and each that writes on the server, the beginning.
const SESSIONS: &str = "
select 'long_transaction', 'session ' || a.pid,
       format('%s has a transaction open for %s s. %s', case when own.mine then 'The tenant' else 'Somebody on the server' end,
              floor(extract(epoch from now() - a.xact_start)),
              case when own.mine then 'The cutover waits for such ones.' else 'The move cannot begin before it ends.' end), false
from pg_stat_activity a
cross join lateral (select coalesce(a.datname = current_database() and a.usename = any($2::text[]::name[]), false)) own (mine)
where a.backend_type = 'client backend' and a.pid <> pg_backend_pid() and $1::text is not null
  and a.xact_start < now() - make_interval(secs => $3) and (own.mine or a.backend_xid is not null)
order by a.xact_start limit 20";
