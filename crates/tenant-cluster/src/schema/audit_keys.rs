//! The audit of keys in shared tables: the tenant's column comes first in every
//! primary key, unique constraint, unique index and foreign key, on both sides.

/// Keys that could reach from one tenant's rows to another's.
pub(super) const KEYS: &str = "
with shared as (
    select c.oid, c.relname, a.attnum as tenant
    from pg_class c
    left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
    where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p')
)
select 'index ' || i.indexrelid::regclass::text,
       case when i.indisexclusion then 'It is an exclusion constraint, which holds between tenants.'
            else 'It is unique, and the tenant''s column is not the first of it.' end
from pg_index i join shared s on s.oid = i.indrelid
where i.indisexclusion or (i.indisunique and i.indkey[0] is distinct from s.tenant)
union all
select format('foreign key %s.%s', s.relname, x.conname),
       case when r.oid is null then 'It points at a table outside of the shared ones.'
            when x.conkey[1] is distinct from s.tenant then 'The tenant''s column is not the first of it.'
            when x.confkey[1] is distinct from r.tenant then 'It does not point at the tenant''s column first.'
            when not coalesce(x.confdelsetcols <@ x.conkey, true) then 'It sets a column that is not one of its own.'
            else 'A change of the other row would change the tenant''s column.' end
from pg_constraint x
join shared s on s.oid = x.conrelid
left join shared r on r.oid = x.confrelid
where x.contype = 'f'
  and (r.oid is null or x.conkey[1] is distinct from s.tenant or x.confkey[1] is distinct from r.tenant
       or (x.confdeltype in ('n', 'd')
           and (x.confdelsetcols is null or cardinality(x.confdelsetcols) = 0 or s.tenant = any (x.confdelsetcols)))
       or not coalesce(x.confdelsetcols <@ x.conkey, true)
       or x.confupdtype in ('n', 'd'))
union all
select distinct format('foreign key %s.%s', s.relname, x.conname), 'A trigger that holds it is switched off.'
from pg_trigger t
join pg_constraint x on x.oid = t.tgconstraint
join shared s on s.oid = t.tgrelid
where t.tgisinternal and t.tgenabled <> 'O'
order by 1, 2";
