//! Taking indexes, keys and foreign keys from the tables that a copy fills, and
//! making them again as they were: filling a bare table and sorting once is
//! faster than keeping an index in order row by row. Only where one tenant has
//! the tables; partitioned ones keep theirs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;
use insula_problem::Problem;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::copy::Seated;
use super::copy::does_not_fit;
use super::progress::{CopyProgress, until_stopped};
use super::{MovedTable, Place};
use crate::db;

/// What the sorting of indexes may take in memory over all connections, in MB.
const MEMORY_MB: usize = 256;

/// What has been taken away, as the statements that make it again.
#[derive(Debug, Default)]
pub(super) struct Stripped {
    /// By table: its indexes and keys, in an order in which they can be made.
    tables: BTreeMap<String, Vec<String>>,
    /// Foreign keys, not yet checked.
    foreign: Vec<String>,
    /// By table: what checks its foreign keys.
    checks: BTreeMap<String, Vec<String>>,
}

/// Empties the tables of a placement that is not shared and takes from them
/// what can be made again.
///
/// # Errors
/// Where the cluster is away, or somebody uses the tables.
pub(super) async fn strip(
    client: &mut Client,
    place: &Place,
    tables: &[MovedTable],
) -> Result<Stripped, Problem> {
    let schema = place.placement.schema.as_str();
    let transaction = client.transaction().await.map_err(db)?;
    let mut stripped = Stripped::default();
    let mut drops = vec![truncate(place, tables)];
    for row in transaction.query(FOREIGN_KEYS, &[&schema]).await.map_err(db)? {
        drops.push(row.get(1));
        stripped.foreign.push(row.get(2));
        let check: Option<String> = row.get(3);
        stripped.checks.entry(row.get(0)).or_default().extend(check);
    }
    for row in transaction.query(INDEXES, &[&schema]).await.map_err(db)? {
        drops.push(row.get(1));
        stripped.tables.entry(row.get(0)).or_default().extend(row.get::<_, Vec<String>>(2));
    }
    transaction.batch_execute(&drops.join(";\n")).await.map_err(db)?;
    transaction.commit().await.map_err(db)?;
    Ok(stripped)
}

/// The statement that empties tables which one tenant has.
fn truncate(place: &Place, tables: &[MovedTable]) -> String {
    if tables.is_empty() {
        return String::new();
    }
    let names: Vec<_> = tables.iter().map(|table| table.source(&place.placement.schema)).collect();
    // A partitioned table that refers to one of them is none of them itself.
    format!("truncate {} cascade", names.join(", "))
}

/// Makes again what was taken away, several tables at a time.
///
/// # Errors
/// Where the rows do not fit, the cluster is away, or it is to stop.
pub(super) async fn restore(
    target: &Seated<'_>,
    stripped: Stripped,
    parallel: usize,
    progress: &CopyProgress,
    stop: &CancellationToken,
) -> Result<(), Problem> {
    run(target, stripped.tables.into_values().collect(), parallel, progress, stop).await?;
    // One after the other: each locks two tables.
    run(target, vec![stripped.foreign], 1, progress, stop).await?;
    run(target, stripped.checks.into_values().collect(), parallel, progress, stop).await
}

/// Runs lists of statements, each list in its order, several at a time.
pub(super) async fn run(
    target: &Seated<'_>,
    lists: Vec<Vec<String>>,
    parallel: usize,
    progress: &CopyProgress,
    stop: &CancellationToken,
) -> Result<(), Problem> {
    let parallel = parallel.clamp(1, lists.len().max(1));
    let lists = Mutex::new(VecDeque::from(lists));
    let next = || lists.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let worker = || async {
        let Some(mut list) = next() else { return Ok(()) };
        let client = target.connect().await?;
        let memory = format!("set maintenance_work_mem = '{}MB'", (MEMORY_MB / parallel).max(64));
        client.batch_execute(&memory).await.map_err(db)?;
        loop {
            for statement in list {
                until_stopped(stop, async { client.batch_execute(&statement).await.map_err(does_not_fit) })
                    .await?;
                progress.add_index();
            }
            let Some(another) = next() else { return Ok(()) };
            list = another;
        }
    };
    try_join_all((0..parallel).map(|_| worker())).await.map(|_| ())
}

/// Foreign keys between tables of a schema (`$1`) that have no partitions: the
/// table, and the statements that drop, make and check one. Those that have
/// never been checked stay so.
const FOREIGN_KEYS: &str = "
select k.conrelid::regclass::text,
       format('alter table %s drop constraint %I', k.conrelid::regclass, k.conname),
       format('alter table %s add constraint %I %s%s', k.conrelid::regclass, k.conname,
              pg_get_constraintdef(k.oid), case when k.convalidated then ' not valid' else '' end)
       || coalesce(format('; comment on constraint %I on %s is ', k.conname, k.conrelid::regclass)
                   || quote_literal(obj_description(k.oid, 'pg_constraint')), ''),
       case when k.convalidated then
           format('alter table %s validate constraint %I', k.conrelid::regclass, k.conname) end
from pg_constraint k
join pg_class c on c.oid = k.conrelid join pg_class r on r.oid = k.confrelid
where k.contype = 'f' and c.relnamespace = to_regnamespace($1) and r.relnamespace = c.relnamespace
  and c.relkind = 'r' and not c.relispartition and r.relkind = 'r' and not r.relispartition
  and k.conparentid = 0
order by c.relname, k.conname";

/// Indexes and keys of such tables on which nothing else depends: the table,
/// the statement that drops one, and those that make it again. A foreign key
/// that [`FOREIGN_KEYS`] takes away is gone by then, in the same transaction.
const INDEXES: &str = "
select i.indrelid::regclass::text,
       coalesce('alter table ' || i.indrelid::regclass || ' drop constraint ' || quote_ident(k.conname),
                'drop index ' || i.indexrelid::regclass),
       array_remove(array[
           coalesce('alter table ' || i.indrelid::regclass || ' add constraint ' || quote_ident(k.conname) || ' '
                        || pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)),
           'comment on constraint ' || quote_ident(k.conname) || ' on ' || i.indrelid::regclass || ' is '
               || quote_literal(obj_description(k.oid, 'pg_constraint')),
           'comment on index ' || i.indexrelid::regclass || ' is '
               || quote_literal(obj_description(i.indexrelid, 'pg_class')),
           case when i.indisclustered then
               format('alter table %s cluster on %I', i.indrelid::regclass, x.relname) end,
           case when i.indisreplident then
               format('alter table %s replica identity using index %I', i.indrelid::regclass, x.relname) end
       ] || array(select format('alter index %s alter column %s set statistics %s', i.indexrelid::regclass,
                                a.attnum, a.attstattarget)
                  from pg_attribute a where a.attrelid = i.indexrelid and a.attstattarget >= 0), null)
from pg_index i
join pg_class c on c.oid = i.indrelid join pg_class x on x.oid = i.indexrelid
left join pg_constraint k on k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')
where c.relnamespace = to_regnamespace($1) and c.relkind = 'r' and not c.relispartition and i.indisvalid
  and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  and not exists (
      select from pg_depend d
      left join pg_constraint f on d.classid = 'pg_constraint'::regclass and f.oid = d.objid and f.contype = 'f'
      left join pg_class referring on referring.oid = f.conrelid
      where d.deptype = 'n'
        and ((d.refclassid = 'pg_class'::regclass and d.refobjid = i.indexrelid)
             or (d.refclassid = 'pg_constraint'::regclass and d.refobjid = k.oid))
        and (f.oid is null or referring.relkind <> 'r' or referring.relispartition
             or referring.relnamespace <> c.relnamespace or f.conparentid <> 0))
order by c.relname, k.contype is distinct from 'p', x.relname";
