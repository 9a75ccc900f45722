//! The tables of an app schema as a move sees them: what of them is stored,
//! what tells their rows apart, and how much there is of one tenant.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use insula_domain::SchemaName;
use insula_problem::{Code, Problem};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Place, identifier, identifiers};
use crate::db;

/// So many rows are counted; above it the number is the planner's.
const COUNTED: i64 = 10_000;

/// What a change to a row carries of the row as it was (`ALTER TABLE … REPLICA
/// IDENTITY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The columns of [`MovedTable::key`].
    Key,
    /// The whole row.
    Full,
    /// Nothing: rows can only be added while the table is published.
    Nothing,
}

/// A column, as it is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedColumn {
    /// Its name.
    pub name: String,
    /// Its type as PostgreSQL prints it, without the app schema's name.
    pub type_name: String,
    /// Whether it is `GENERATED ALWAYS AS IDENTITY`: an `INSERT` has to override
    /// it, and an `UPDATE` cannot set it.
    pub always_identity: bool,
}

/// A table of the app schema, as it is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedTable {
    /// Its name, in the placement's schema.
    pub name: String,
    /// The columns that are stored, without the tenant's.
    pub columns: Vec<MovedColumn>,
    /// The columns that tell rows apart, without the tenant's; empty where
    /// nothing does.
    pub key: Vec<String>,
    /// What its changes carry.
    pub identity: ReplicaIdentity,
    /// Whether `COPY … (FORMAT binary)` is right for all columns. It writes oids
    /// of types in arrays and composite values, and those of types that a
    /// database has made itself are others in another one.
    pub binary: bool,
    /// Whether its rows are in the write-ahead log.
    pub logged: bool,
    /// How many rows of the tenant there are, about.
    pub rows: i64,
    /// What they take on disk, with indexes, in bytes, about.
    pub bytes: i64,
}

impl MovedTable {
    /// Its name for SQL, with the schema's.
    #[must_use]
    pub fn qualified(&self, schema: &SchemaName) -> String {
        format!("{schema}.{}", identifier(&self.name))
    }

    /// What to read from to have its rows and no others: a table that is
    /// inherited from would bring those of its heirs.
    #[must_use]
    pub fn source(&self, schema: &SchemaName) -> String {
        format!("only {}", self.qualified(schema))
    }

    /// The columns of its key, in their order there.
    pub(super) fn key_columns(&self) -> impl Iterator<Item = &MovedColumn> {
        self.key.iter().filter_map(|name| self.columns.iter().find(|column| column.name == *name))
    }

    /// Its columns for SQL, with commas between.
    #[must_use]
    pub fn column_list(&self) -> String {
        identifiers(self.columns.iter().map(|column| column.name.as_str()))
    }
}

/// The tables of the placement's schema with the tenant's share of them, in the
/// order of their names: those that hold rows. Of a partitioned one these are
/// its partitions, each a table like others: only so does the stream tell that
/// one of them alone was truncated (`CREATE PUBLICATION`, on
/// `publish_via_partition_root`). The connection is one of [`Place::connect`].
///
/// # Errors
/// Where the cluster is away.
pub async fn tables(client: &Client, place: &Place) -> Result<Vec<MovedTable>, Problem> {
    let schema = &place.placement.schema;
    let rows = client.query(TABLES, &[&schema.as_str(), &place.is_pool_form()]).await.map_err(db)?;
    let found = rows.iter().map(|row| {
        let (names, types): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let always: Vec<bool> = row.get(5);
        let columns = names
            .into_iter()
            .zip(types)
            .zip(always)
            .map(|((name, type_name), always_identity)| MovedColumn { name, type_name, always_identity });
        let key: Vec<String> = row.get(6);
        let identity = match row.get::<_, &str>(2) {
            "f" => ReplicaIdentity::Full,
            "d" | "i" if !key.is_empty() => ReplicaIdentity::Key,
            _ => ReplicaIdentity::Nothing,
        };
        let table = MovedTable {
            name: row.get(0),
            columns: columns.collect(),
            key,
            identity,
            binary: row.get(7),
            logged: row.get(1),
            rows: 0,
            bytes: row.get(8),
        };
        (table, row.get::<_, f64>(9))
    });
    try_join_all(found.map(|(table, in_all)| estimated(client, place, table, in_all))).await
}

/// Finds where the tables of both ends of a move are not the same: then somebody
/// has changed those of one, beside all versions of the app schema.
///
/// # Errors
/// `schema_changed`, with the table.
pub fn are_alike(source: &[MovedTable], target: &[MovedTable]) -> Result<(), Problem> {
    let columns = |tables: &[MovedTable]| -> BTreeMap<String, BTreeMap<String, String>> {
        let of = |table: &MovedTable| {
            table.columns.iter().map(|column| (column.name.clone(), column.type_name.clone())).collect()
        };
        tables.iter().map(|table| (table.name.clone(), of(table))).collect()
    };
    let (here, there) = (columns(source), columns(target));
    let Some(table) = here.keys().chain(there.keys()).find(|name| here.get(*name) != there.get(*name)) else {
        return Ok(());
    };
    let detail = format!(
        "The table {table} is not the same at both ends of the move any more: its columns were changed."
    );
    Err(Problem::new(Code::SchemaChanged, detail))
}

/// The table with the tenant's share of it.
async fn estimated(
    client: &Client,
    place: &Place,
    mut table: MovedTable,
    in_all: f64,
) -> Result<MovedTable, Problem> {
    let (source, filter) = (table.source(&place.placement.schema), place.filter());
    let count = format!("select count(*) from (select from {source}{filter} limit {COUNTED}) counted");
    let counted = number(client, &count).await?;
    table.rows = counted;
    if counted == COUNTED {
        let guess = plan_rows(client, &format!("explain select from {source}{filter}")).await?;
        table.rows = guess.max(COUNTED);
    }
    if place.is_pool_form() {
        table.bytes = share(table.bytes, table.rows, in_all);
    }
    Ok(table)
}

/// The part of so many bytes that some rows of all have.
fn share(bytes: i64, rows: i64, in_all: f64) -> i64 {
    (bytes as f64 * (rows as f64 / in_all.max(rows as f64).max(1.0))) as i64
}

/// The one number that a query gives.
async fn number(client: &Client, query: &str) -> Result<i64, Problem> {
    let text = first_text(client, query).await?;
    text.parse().map_err(|error: std::num::ParseIntError| Problem::internal(error))
}

/// How many rows the planner expects of an explained statement: the first
/// line ends with `(cost=… rows=N width=W)`.
async fn plan_rows(client: &Client, explain: &str) -> Result<i64, Problem> {
    let line = first_text(client, explain).await?;
    Ok(rows_of(&line).unwrap_or(0))
}

fn rows_of(line: &str) -> Option<i64> {
    line.rsplit_once("rows=")?.1.split_once(' ')?.0.parse().ok()
}

async fn first_text(client: &Client, query: &str) -> Result<String, Problem> {
    let messages = client.simple_query(query).await.map_err(db)?;
    let text = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    text.ok_or_else(|| Problem::internal("a question about a table has no answer"))
}

/// Tables of a schema (`$1`), in the pool form or not (`$2`). Those that an
/// extension brings come with the extension.
///
/// `part` has each type of a column with all types that its values are made
/// of; `inside` are those whose oid stands in the values (`array_send` and
/// `record_send` in PostgreSQL's sources). Up to 10,000 oids are the same in
/// every database (manual, "System Catalog Initial Data"). Names of objects
/// (`regclass` and its like) are oids, too.
const TABLES: &str = "
with recursive app as (
    select c.* from pg_class c
    where c.relnamespace = to_regnamespace($1) and c.relkind = 'r'
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
), col as (
    select a.* from app join pg_attribute a on a.attrelid = app.oid
    where a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and not ($2 and a.attname = 'tenant_id')
), part (root, type, inside) as (
    select distinct atttypid, atttypid, false from col
    union
    select p.root, x.type, x.inside from part p join pg_type t on t.oid = p.type
    cross join lateral (
        select t.typelem, true where t.typsubscript = 'array_subscript_handler'::regproc
        union all select t.typbasetype, false where t.typtype = 'd'
        union all select a.atttypid, true from pg_attribute a
                  where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        union all select r.rngsubtype, false from pg_range r where r.rngtypid = t.oid
        union all select r.rngtypid, false from pg_range r where r.rngmultitypid = t.oid
    ) x (type, inside)
), unfit as (
    select distinct p.root from part p join pg_type t on t.oid = p.type
    where (p.inside and t.oid >= 10000) or t.typsend = 0
       or (t.typname like 'reg%' and t.typnamespace = 'pg_catalog'::regnamespace)
)
select app.relname::text, app.relpersistence = 'p', app.relreplident::text,
       coalesce(stored.names, '{}'), coalesce(stored.types, '{}'), coalesce(stored.always, '{}'),
       coalesce(key.names, '{}'), coalesce(stored.binary, true),
       pg_total_relation_size(app.oid), greatest(app.reltuples, 0)::float8
from app
left join lateral (
    select array_agg(col.attname::text order by col.attnum) as names,
           array_agg(format_type(col.atttypid, col.atttypmod) order by col.attnum) as types,
           array_agg(col.attidentity = 'a' order by col.attnum) as always,
           bool_and(unfit.root is null) as binary
    from col left join unfit on unfit.root = col.atttypid where col.attrelid = app.oid
) stored on true
left join lateral (
    select array_agg(a.attname::text order by k.position) as names
    from pg_index i
    cross join unnest(i.indkey::int2[]) with ordinality k (number, position)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = app.oid and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null
      and k.position <= i.indnkeyatts and not ($2 and a.attname = 'tenant_id')
      and case app.relreplident when 'i' then i.indisreplident else i.indisprimary end
) key on true
order by 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planners_number_is_read_from_its_line() {
        let line = "Seq Scan on \"a rows=7 b\"  (cost=0.00..18334.00 rows=1000000 width=0)";
        assert_eq!(rows_of(line), Some(1_000_000));
        assert_eq!(rows_of("nothing"), None);
    }

    #[test]
    fn tables_are_alike_whatever_the_order_of_their_columns() {
        let table = |name: &str, columns: &[(&str, &str)]| MovedTable {
            name: name.to_owned(),
            columns: columns
                .iter()
                .map(|(name, type_name)| MovedColumn {
                    name: (*name).to_owned(),
                    type_name: (*type_name).to_owned(),
                    always_identity: false,
                })
                .collect(),
            key: Vec::new(),
            identity: ReplicaIdentity::Key,
            binary: true,
            logged: true,
            rows: 0,
            bytes: 0,
        };
        let one = [table("a", &[("id", "integer"), ("b", "text")]), table("c", &[])];
        assert!(are_alike(&one, &[table("a", &[("b", "text"), ("id", "integer")]), table("c", &[])]).is_ok());
        for other in [
            vec![table("a", &[("id", "integer")]), table("c", &[])],
            vec![table("a", &[("id", "bigint"), ("b", "text")]), table("c", &[])],
            vec![table("a", &[("id", "integer"), ("b", "text")])],
        ] {
            for (here, there) in [(&one[..], &other[..]), (&other[..], &one[..])] {
                assert_eq!(are_alike(here, there).unwrap_err().code(), Code::SchemaChanged);
            }
        }
    }

    #[test]
    fn a_tenants_share_is_at_most_the_whole() {
        assert_eq!(share(1000, 10, 100.0), 100);
        assert_eq!(share(1000, 10, 0.0), 1000);
        assert_eq!(share(1000, 0, 0.0), 0);
    }
}
