//! What a tenant made itself: kinds, names, and about how much it is. It is
//! read from the catalogs; nothing of the tenant's is run for it.

use insula_domain::{OwnObject, SchemaName};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::db;

/// How many objects are listed at the most.
const LISTED_MAX: usize = 1_000;

/// A tenant's own objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The objects, by kind and name; of a great many the first.
    pub objects: Vec<OwnObject>,
    /// How many more there are.
    pub more: u32,
}

/// Lists what is in a schema for a tenant's own objects, the whole of it.
///
/// # Errors
/// Where the cluster is away.
pub async fn own_objects(client: &Client, own: &SchemaName) -> Result<Inventory, Problem> {
    let rows = client.query(OBJECTS, &[&own.as_str()]).await.map_err(db)?;
    let prefix = format!("{own}.");
    let mut objects: Vec<OwnObject> = rows
        .iter()
        .map(|row| {
            let identity: String = row.get(1);
            OwnObject {
                kind: row.get(0),
                name: identity.strip_prefix(&prefix).map_or(identity.clone(), str::to_owned),
                rows: row.get(2),
                bytes: row.get(3),
            }
        })
        .collect();
    objects.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    let more = u32::try_from(objects.len().saturating_sub(LISTED_MAX)).unwrap_or(u32::MAX);
    objects.truncate(LISTED_MAX);
    Ok(Inventory { objects, more })
}

/// Each row: kind, identity, rows, bytes. `$1` is the schema. Every object in a
/// schema depends on it, whatever its kind; indexes depend on their table, and
/// those of a constraint are not told apart from it. Default rights are no
/// objects, and a sequence that belongs to a column is none of its own.
const OBJECTS: &str = "
select o.type, o.identity,
       case when c.relkind in ('r', 'm') and c.reltuples >= 0 then c.reltuples::bigint end,
       case when c.relkind in ('r', 'm') then pg_catalog.pg_total_relation_size(c.oid) end
from pg_catalog.pg_depend d
join pg_catalog.pg_namespace n on n.oid = d.refobjid
left join pg_catalog.pg_class c on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and c.oid = d.objid
cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, 0) o
where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and n.nspname = $1 and d.deptype = 'n'
  and d.classid <> 'pg_catalog.pg_default_acl'::pg_catalog.regclass
  and not exists (select from pg_catalog.pg_depend owned
                  where owned.classid = d.classid and owned.objid = d.objid and c.relkind = 'S'
                    and owned.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    and owned.deptype in ('a', 'i'))
union all
select 'index', i.indexrelid::pg_catalog.regclass::text, null, pg_catalog.pg_relation_size(i.indexrelid)
from pg_catalog.pg_class t
join pg_catalog.pg_namespace n on n.oid = t.relnamespace and n.nspname = $1
join pg_catalog.pg_index i on i.indrelid = t.oid
join pg_catalog.pg_class x on x.oid = i.indexrelid and x.relkind = 'i'
where not exists (select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid)";
