//! A description of everything in a schema, read from PostgreSQL's catalogs,
//! in which the schema's own name does not show. Two placements at the same
//! version have the same.

use std::collections::BTreeMap;

use insula_domain::SchemaName;
use insula_problem::Problem;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::apply::search_path;
use super::audit::Finding;
use crate::db;

/// Everything in a schema: what it is called, and how it is defined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaFingerprint {
    /// Definitions by kind and name, as in `column orders.id`.
    pub objects: BTreeMap<String, String>,
}

impl SchemaFingerprint {
    /// What is different in another one, object by object.
    #[must_use]
    pub fn differences(&self, found: &Self) -> Vec<Finding> {
        let missing_or_changed = self.objects.iter().filter_map(|(object, expected)| {
            let detail = match found.objects.get(object) {
                None => format!("It is missing. Expected: {expected}"),
                Some(definition) if definition != expected => {
                    format!("Expected: {expected}. Found: {definition}")
                }
                Some(_) => return None,
            };
            Some(Finding { object: object.clone(), detail })
        });
        let unexpected = found.objects.iter().filter(|(object, _)| !self.objects.contains_key(*object));
        let unexpected = unexpected.map(|(object, definition)| Finding {
            object: object.clone(),
            detail: format!("It is not part of the app schema. Found: {definition}"),
        });
        missing_or_changed.chain(unexpected).collect()
    }
}

/// Reads a schema. What extensions bring is left out, and so are owners and
/// rights, and the triggers that record the blueprint. Whoever may make functions
/// in the schema can have them run by it: read the blueprint as its own role.
///
/// # Errors
/// Where the cluster is away.
pub async fn fingerprint(client: &Client, schema: &SchemaName) -> Result<SchemaFingerprint, Problem> {
    // Names are printed as short as the search path allows.
    client.batch_execute(&format!("set search_path = {}", search_path(schema))).await.map_err(db)?;
    let read = client.query(OBJECTS, &[&schema.as_str()]).await;
    client.batch_execute("reset search_path").await.map_err(db)?;
    let path = search_path(schema);
    let silo = search_path(&SchemaName::of_silo());
    let neutral = |text: String| text.replace(&path, &silo).replace(&format!("{schema}."), "");
    let rows = read.map_err(db)?;
    let objects = rows.iter().map(|row| (neutral(row.get(0)), neutral(row.get(1))));
    Ok(SchemaFingerprint { objects: objects.collect() })
}

/// Each row: what it is, and how it is defined. `$1` is the schema. An object
/// counts as an extension's where `pg_depend` says so.
const OBJECTS: &str = "
with
own_class as (
    select c.* from pg_class c
    where c.relnamespace = to_regnamespace($1)
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
),
own_proc as (
    select p.* from pg_proc p
    where p.pronamespace = to_regnamespace($1)
      and not exists (select from pg_depend d
                      where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
),
own_type as (
    select t.* from pg_type t
    where t.typnamespace = to_regnamespace($1) and t.typtype in ('e', 'd', 'r')
      and not exists (select from pg_depend d
                      where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
)
select 'table ' || c.relname,
       concat_ws(' ', case c.relkind when 'r' then 'ordinary' when 'p' then 'partitioned ' || pg_get_partkeydef(c.oid)
                                     when 'f' then 'foreign' else 'composite type' end,
                 c.relpersistence, 'row security', c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
                 'replica identity', c.relreplident, pg_get_expr(c.relpartbound, c.oid),
                 (select string_agg(i.inhparent::regclass::text, ', ' order by i.inhseqno)
                  from pg_inherits i where i.inhrelid = c.oid))
from own_class c where c.relkind in ('r', 'p', 'f', 'c')
union all
select 'view ' || c.relname, concat_ws(' ', c.relkind, c.reloptions, pg_get_viewdef(c.oid))
from own_class c where c.relkind in ('v', 'm')
union all
select format('column %s.%s', c.relname, a.attname),
       concat_ws(' ', a.attnum - (select count(*) from pg_attribute dropped
                                  where dropped.attrelid = c.oid and dropped.attisdropped
                                    and dropped.attnum < a.attnum),
                 format_type(a.atttypid, a.atttypmod),
                 case when a.attnotnull then 'not null' end,
                 case when a.attcollation <> t.typcollation
                      then 'collate ' || (select quote_ident(collname) from pg_collation where oid = a.attcollation) end,
                 case when a.attidentity <> '' then 'identity ' || a.attidentity::text end,
                 case when a.attgenerated <> '' then 'generated ' || a.attgenerated::text else 'default' end
                     || ' ' || pg_get_expr(d.adbin, d.adrelid))
from own_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relkind in ('r', 'p', 'f', 'c', 'v', 'm')
union all
select format('constraint %s.%s', coalesce(c.relname, t.typname), x.conname),
       concat_ws(' ', pg_get_constraintdef(x.oid), case when not x.convalidated then 'not valid' end)
from pg_constraint x
left join own_class c on c.oid = x.conrelid
left join own_type t on t.oid = x.contypid
where x.contype in ('p', 'u', 'f', 'c', 'x') and (c.oid is not null or t.oid is not null)
  -- a foreign key to a partitioned table has one more for each partition there
  and not exists (select from pg_constraint above where above.oid = x.conparentid and above.conrelid = x.conrelid)
union all
select 'index ' || c.relname, pg_get_indexdef(c.oid) || case when not i.indisvalid then ' invalid' else '' end
from own_class c join pg_index i on i.indexrelid = c.oid where c.relkind in ('i', 'I')
union all
select 'sequence ' || c.relname,
       concat_ws(' ', format_type(s.seqtypid, null), 'from', s.seqstart, 'by', s.seqincrement, 'between', s.seqmin,
                 'and', s.seqmax, 'cache', s.seqcache, case when s.seqcycle then 'cycle' end,
                 (select format('owned by %s.%s', d.refobjid::regclass, a.attname)
                  from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
                    and d.refclassid = 'pg_class'::regclass limit 1))
from own_class c join pg_sequence s on s.seqrelid = c.oid
union all
select format('function %s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
       case when p.prokind = 'a' then 'aggregate' else pg_get_functiondef(p.oid) end
from own_proc p
union all
select format('trigger %s.%s', c.relname, t.tgname), pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
from own_class c
join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal
join pg_proc p on p.oid = t.tgfoid and p.pronamespace is distinct from to_regnamespace('insula_capture')
union all
select 'type ' || t.typname,
       case t.typtype
           when 'e' then 'enum ' || (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder)
                                     from pg_enum e where e.enumtypid = t.oid)
           when 'r' then 'range of ' || (select format_type(r.rngsubtype, null) from pg_range r where r.rngtypid = t.oid)
           else concat_ws(' ', 'domain', format_type(t.typbasetype, t.typtypmod),
                          case when t.typnotnull then 'not null' end, 'default ' || t.typdefault)
       end
from own_type t
union all
select format('policy %s.%s', c.relname, p.polname),
       concat_ws(' ', p.polcmd, case when p.polpermissive then 'permissive' else 'restrictive' end,
                 'using', pg_get_expr(p.polqual, c.oid), 'check', pg_get_expr(p.polwithcheck, c.oid))
from own_class c join pg_policy p on p.polrelid = c.oid
union all
select format('rule %s.%s', c.relname, r.rulename), pg_get_ruledef(r.oid)
from own_class c join pg_rewrite r on r.ev_class = c.oid where r.rulename <> '_RETURN'
union all
select 'statistics ' || s.stxname, pg_get_statisticsobjdef(s.oid)
from pg_statistic_ext s where s.stxnamespace = to_regnamespace($1)
union all
select 'collation ' || l.collname,
       (to_jsonb(l) - array['oid', 'collname', 'collnamespace', 'collowner', 'collversion'])::text
from pg_collation l where l.collnamespace = to_regnamespace($1)
union all
select 'operator ' || o.oid::regoperator::text, 'operator'
from pg_operator o where o.oprnamespace = to_regnamespace($1)
  and not exists (select from pg_depend d
                  where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_listed_object_by_object() {
        let of = |objects: &[(&str, &str)]| SchemaFingerprint {
            objects: objects.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        };
        let expected = of(&[("table a", "x"), ("table b", "x"), ("table c", "x")]);
        let found = of(&[("table a", "x"), ("table b", "y"), ("table d", "x")]);
        let objects: Vec<_> =
            expected.differences(&found).into_iter().map(|finding| finding.object).collect();
        assert_eq!(objects, ["table b", "table c", "table d"]);
        assert!(expected.differences(&expected).is_empty());
    }
}
