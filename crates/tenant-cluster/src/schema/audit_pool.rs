//! The audit of shared tables. PostgreSQL's own catalogs prove the pool form:
//! whatever a defect in the rewriting, a hand or another program has left there
//! shows here.

use insula_app_schema::{PINNED_SEARCH_PATH, PoolMigration, PoolShape};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::db;

use super::audit::{Finding, findings};
use super::audit_keys::KEYS;
use super::channels::PG_NOTIFY_BODY;
use super::support::{CURRENT_TENANT_BODY, POOL_OWNER, POOL_READ_ONLY, POOL_READ_WRITE, POOL_TEMPLATE};

/// Proves the form of the shared tables in the database of the connection;
/// empty where nothing is wrong. The migrations are those that are applied,
/// and say what there must be and nothing else.
///
/// # Errors
/// Where the cluster is away.
pub async fn audit_pool(client: &Client, migrations: &[PoolMigration]) -> Result<Vec<Finding>, Problem> {
    // PostgreSQL prints names as short as the search path allows.
    client.batch_execute("set search_path = pg_catalog").await.map_err(db)?;
    let found = find(client, migrations).await;
    client.batch_execute("reset search_path").await.map_err(db)?;
    found
}

async fn find(client: &Client, migrations: &[PoolMigration]) -> Result<Vec<Finding>, Problem> {
    let path = format!("search_path={}", PINNED_SEARCH_PATH.join(", "));
    let shape = migrations.last().map(|migration| migration.shape.clone()).unwrap_or_default();
    let mut found = findings(client, TABLES, &[]).await?;
    found.extend(findings(client, POLICIES, &[]).await?);
    found.extend(findings(client, KEYS, &[]).await?);
    found.extend(findings(client, OTHER_RELATIONS, &[]).await?);
    found.extend(findings(client, FUNCTIONS, &[&path]).await?);
    found.extend(findings(client, FOREIGN_OBJECTS, &[]).await?);
    found.extend(findings(client, OWNERS, &[&POOL_OWNER]).await?);
    found.extend(findings(client, RIGHTS, &[&POOL_OWNER, &POOL_READ_WRITE, &POOL_READ_ONLY]).await?);
    found.extend(findings(client, LANGUAGES, &[&POOL_OWNER]).await?);
    found.extend(
        findings(client, ROLES, &[&POOL_OWNER, &POOL_READ_WRITE, &POOL_READ_ONLY, &POOL_TEMPLATE]).await?,
    );
    found.extend(findings(client, SUPPORT, &[&CURRENT_TENANT_BODY, &PG_NOTIFY_BODY]).await?);
    found.extend(findings(client, COPY_TARGETS, &[&POOL_READ_WRITE]).await?);
    found.extend(shape_findings(client, &shape).await?);
    Ok(found)
}

/// Tables: the tenant's column as it must be, row-level security on and forced.
const TABLES: &str = "
select 'table ' || c.relname, w.wrong
from pg_class c
left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
cross join lateral (values
    (a.attnum is null, 'It has no column tenant_id.'),
    (a.atttypid <> 'uuid'::regtype, 'Its column tenant_id is no uuid.'),
    (not a.attnotnull, 'Its column tenant_id may be null.'),
    (a.attnum is not null and (a.attgenerated <> '' or pg_get_expr(d.adbin, d.adrelid)
         is distinct from 'insula.current_tenant()'), 'Its column tenant_id has another default.'),
    (not c.relrowsecurity, 'Row-level security is off.'),
    (not c.relforcerowsecurity, 'Row-level security is not forced.'),
    (c.relpersistence <> 'p', 'It is not logged.'),
    (exists (select from pg_inherits i
             where (i.inhrelid = c.oid and not c.relispartition) or (i.inhparent = c.oid and c.relkind <> 'p')),
     'It inherits or is inherited from.'),
    (exists (select from pg_inherits i join pg_class other on other.oid in (i.inhrelid, i.inhparent)
             where c.oid in (i.inhrelid, i.inhparent) and other.relnamespace <> c.relnamespace),
     'It is a partition of, or has one in, another schema.')
) as w (is_wrong, wrong)
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p') and w.is_wrong
order by 1, 2";

/// Policies: exactly the one of the pool form on each table.
const POLICIES: &str = "
select format('policy %s.%s', c.relname, p.polname), 'It is not the policy of a shared table.'
from pg_class c join pg_policy p on p.polrelid = c.oid
where c.relnamespace = 'app'::regnamespace
  and (p.polname <> 'insula_tenant' or not p.polpermissive or p.polcmd <> '*' or p.polroles <> '{0}'
       or pg_get_expr(p.polqual, c.oid) is distinct from '(tenant_id = insula.current_tenant())'
       or regexp_replace(pg_get_expr(p.polwithcheck, c.oid), '\\s+', ' ', 'g')
          is distinct from '(tenant_id = ( SELECT insula.current_tenant() AS current_tenant))')
union all
select 'table ' || c.relname, 'It has no policy that keeps tenants apart.'
from pg_class c
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p')
  and not exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'insula_tenant')
order by 1, 2";

/// Views that do not read as whoever asks, and relations of other kinds.
const OTHER_RELATIONS: &str = "
select 'view ' || c.relname, 'It reads with the rights of its owner.'
from pg_class c
where c.relnamespace = 'app'::regnamespace and c.relkind = 'v'
  and not exists (select from unnest(c.reloptions) o where lower(o) in ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes'))
union all
select 'relation ' || c.relname,
       case c.relkind when 'm' then 'A materialized view has no row-level security.'
                      when 'f' then 'A foreign table has no row-level security.'
                      else 'It is of a kind that is not part of the pool form.' end
from pg_class c where c.relnamespace = 'app'::regnamespace and c.relkind not in ('r', 'p', 'v', 'i', 'I', 'S', 'c', 't')
union all
select format('rule %s.%s', c.relname, r.rulename), 'A rule rewrites statements with the rights of its owner.'
from pg_rewrite r join pg_class c on c.oid = r.ev_class
where c.relnamespace = 'app'::regnamespace and not (r.rulename = '_RETURN' and c.relkind in ('v', 'm'))
order by 1, 2";

/// Functions; `$1` is the setting of those that may run as the tables' owner.
const FUNCTIONS: &str = "
with own as (
    select p.*, p.oid::regprocedure::text as signature,
           p.prorettype = 'trigger'::regtype or exists (
               select from pg_depend d
               where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid
                 and d.classid in ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_class'::regclass,
                                   'pg_trigger'::regclass, 'pg_type'::regclass)) as runs_as_owner
    from pg_proc p where p.pronamespace = 'app'::regnamespace
)
select 'function ' || own.signature, w.wrong
from own
join pg_language l on l.oid = own.prolang
cross join lateral (values
    (own.prosecdef, 'It runs with the rights of its owner (SECURITY DEFINER).'),
    (own.proleakproof, 'It is LEAKPROOF and so sees rows before row-level security does.'),
    (own.prokind not in ('f', 'p', 'w'), 'Aggregates are not part of the pool form.'),
    (l.lanname not in ('sql', 'plpgsql'), format('It is written in %s.', l.lanname)),
    (own.runs_as_owner and not coalesce($1::text = any (own.proconfig), false),
     'It may run as the owner of the tables, and its search path is not fixed.')
) as w (is_wrong, wrong)
where w.is_wrong
order by 1, 2";

/// What may be in the database beside the shared tables: Insula's own schema,
/// extensions, and nothing that runs by itself.
const FOREIGN_OBJECTS: &str = "
select 'schema ' || n.nspname, 'It is not part of a pool.'
from pg_namespace n
where n.nspname not in ('app', 'insula', 'insula_copy', 'public', 'information_schema') and n.nspname !~ '^pg_'
union all
select 'relation ' || c.oid::regclass::text, 'It is not part of a pool.'
from pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind not in ('i', 't')
  and not exists (select from pg_depend d
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
union all
select 'function ' || p.oid::regprocedure::text, 'It is not part of a pool.'
from pg_proc p
where p.pronamespace = 'public'::regnamespace
  and not exists (select from pg_depend d
                  where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
union all
select 'operator ' || o.oid::regoperator::text, 'It is not part of a pool.'
from pg_operator o
where o.oprnamespace in ('app'::regnamespace, 'public'::regnamespace)
  and not exists (select from pg_depend d
                  where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e')
union all
select format('cast %s to %s', t.castsource::regtype, t.casttarget::regtype), 'It is not part of a pool.'
from pg_cast t
where t.oid >= 16384
  and not exists (select from pg_depend d
                  where d.classid = 'pg_cast'::regclass and d.objid = t.oid and d.deptype = 'e')
union all
select 'event trigger ' || e.evtname, 'It is not part of a pool.' from pg_event_trigger e
union all
select 'extension ' || e.extname, 'It is in the schema of the shared tables.'
from pg_extension e where e.extnamespace = 'app'::regnamespace
order by 1, 2";

/// Owners: `$1` of everything in the pool's schema, an administrator of ours.
const OWNERS: &str = "
select 'schema ' || n.nspname, format('It belongs to %s.', n.nspowner::regrole)
from pg_namespace n join pg_roles r on r.oid = n.nspowner
where (n.nspname = 'app' and r.rolname <> $1::text) or (n.nspname = 'insula' and not r.rolsuper)
union all
select 'relation ' || c.relname, format('It belongs to %s instead of %s.', r.rolname, $1::text)
from pg_class c join pg_roles r on r.oid = c.relowner
where c.relnamespace = 'app'::regnamespace and c.relkind not in ('i', 'I', 't') and r.rolname <> $1::text
union all
select 'function ' || p.oid::regprocedure::text, format('It belongs to %s instead of %s.', r.rolname, $1::text)
from pg_proc p join pg_roles r on r.oid = p.proowner
where p.pronamespace = 'app'::regnamespace and r.rolname <> $1::text
order by 1, 2";

/// Rights: rows for those who read and write (`$2`) and read (`$3`), nothing
/// else, and nothing for anybody else but the owner (`$1`).
const RIGHTS: &str = "
with granted as (
    select 'schema ' || n.nspname as object, 'n'::\"char\" as kind, a.*
    from pg_namespace n cross join aclexplode(n.nspacl) a
    where n.nspname in ('app', 'insula', 'public') and a.grantee <> n.nspowner
    union all
    select 'relation ' || c.relname, c.relkind, a.*
    from pg_class c cross join aclexplode(c.relacl) a
    where c.relnamespace in ('app'::regnamespace, 'insula'::regnamespace) and a.grantee <> c.relowner
    union all
    select format('column %s.%s', c.relname, t.attname), 'a', a.*
    from pg_class c join pg_attribute t on t.attrelid = c.oid cross join aclexplode(t.attacl) a
    where c.relnamespace in ('app'::regnamespace, 'insula'::regnamespace)
    union all
    select 'function ' || p.oid::regprocedure::text, 'F', a.*
    from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace in ('app'::regnamespace, 'insula'::regnamespace) and a.grantee <> p.proowner
)
select g.object, format('%s has the right %s on it.', coalesce(r.rolname, 'PUBLIC'), g.privilege_type)
from granted g left join pg_roles r on r.oid = g.grantee
where g.is_grantable or not case
    when g.object = 'schema app' then g.privilege_type = 'USAGE' and coalesce(r.rolname in ($2::text, $3::text), false)
    when g.kind = 'n' then g.privilege_type = 'USAGE'
    when g.object like 'function insula.%' then
        g.object in ('function insula.current_tenant()', 'function insula.pg_notify(text,text)') and g.grantee = 0
    when g.kind = 'F' then g.privilege_type = 'EXECUTE'
    when g.kind in ('r', 'p', 'v') then
        coalesce((r.rolname = $2::text and g.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
                 or (r.rolname = $3::text and g.privilege_type = 'SELECT'), false)
        and g.object <> 'relation pool_tenants'
    when g.kind = 'S' then coalesce(r.rolname = $2::text, false) and g.privilege_type = 'USAGE'
    else false
end
union all
select 'table ' || c.relname, 'The tenants of the pool do not have their rights on it.'
from pg_class c
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'v')
  and not (has_table_privilege($2::text, c.oid, 'SELECT') and has_table_privilege($2::text, c.oid, 'INSERT')
           and has_table_privilege($2::text, c.oid, 'UPDATE') and has_table_privilege($2::text, c.oid, 'DELETE')
           and has_table_privilege($3::text, c.oid, 'SELECT'))
union all
select 'schema app', format('%s owns it, and a grant of its rights by default is missing.', $1::text)
where not exists (select from pg_default_acl d
                  where d.defaclnamespace = 'app'::regnamespace and d.defaclrole = to_regrole($1::text))
order by 1, 2";

/// Languages: nobody but the owner (`$1`) writes in one, a DO block neither.
const LANGUAGES: &str = "
select 'language ' || l.lanname, format('%s has the right %s on it.', coalesce(r.rolname, 'PUBLIC'), a.privilege_type)
from pg_language l
cross join aclexplode(coalesce(l.lanacl, acldefault('l', l.lanowner))) a
left join pg_roles r on r.oid = a.grantee
where l.lanpltrusted and a.grantee <> l.lanowner and (r.rolname is distinct from $1::text or a.is_grantable)
order by 1, 2";

/// Roles: those of the pool are above nothing, and nobody is the owner.
const ROLES: &str = "
select 'role ' || r.rolname, 'It must not log in, nor be above row-level security.'
from pg_roles r
where r.rolname in ($1::text, $2::text, $3::text, $4::text)
  and (r.rolcanlogin or r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication)
union all
select 'role ' || g.rolname, format('%s is a member of it.', r.rolname)
from pg_auth_members m
join pg_roles g on g.oid = m.roleid
join pg_roles r on r.oid = m.member
where not r.rolsuper
  and (g.rolname in ($1::text, $4::text)
       or (g.rolname in ($2::text, $3::text) and r.rolname <> $4::text and (m.admin_option or r.rolname !~ '^tenant_[0-9a-f]{32}(_ro)?$')))
union all
select 'role ' || r.rolname, format('It is a member of %s.', g.rolname)
from pg_auth_members m
join pg_roles g on g.oid = m.roleid
join pg_roles r on r.oid = m.member
where r.rolname in ($1::text, $2::text, $3::text)
order by 1, 2";

/// The function by which PostgreSQL knows whose session it is, and the one that
/// notifies in the tenant's channels: `$1` and `$2` are their bodies.
const SUPPORT: &str = "
select 'function insula.current_tenant()', 'It is not the one that Insula has made.'
where not exists (
    select from pg_proc p join pg_roles r on r.oid = p.proowner join pg_language l on l.oid = p.prolang
    where p.oid = to_regprocedure('insula.current_tenant()') and p.prosrc = $1::text and r.rolsuper
      and l.lanname = 'plpgsql' and not p.prosecdef and not p.proleakproof and p.provolatile = 's'
      and p.proconfig is null)
union all
select 'function insula.pg_notify(text,text)', 'It is not the one that Insula has made.'
from pg_proc p join pg_roles r on r.oid = p.proowner join pg_language l on l.oid = p.prolang
where p.oid = to_regprocedure('insula.pg_notify(text, text)')
  and not (p.prosrc = $2::text and r.rolsuper and l.lanname = 'plpgsql' and p.prosecdef and not p.proleakproof
           and p.proconfig = array['search_path=pg_catalog, pg_temp'])";

/// The views that `COPY` of tenants goes through: one for each table, which
/// inserts with the rights of whoever copies; `$1` may insert, and that is all.
const COPY_TARGETS: &str = "
with target as (
    select c.relname, v.oid as view, p.oid as function, v.reloptions, v.relkind, p.prosecdef, p.proleakproof, p.prosrc,
           l.lanname,
           array(select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 and a.attgenerated = '' and a.attname <> 'tenant_id' order by a.attname) as columns
    from pg_class c
    left join pg_class v on v.relnamespace = to_regnamespace('insula_copy') and v.relname = c.relname
    left join pg_proc p on p.pronamespace = to_regnamespace('insula_copy') and p.proname = c.relname
    left join pg_language l on l.oid = p.prolang
    where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p')
)
select 'copy target ' || t.relname, w.wrong
from target t
cross join lateral (values
    (t.view is null or t.function is null, 'It is missing.'),
    (t.relkind <> 'v' or t.prosecdef or t.proleakproof or t.lanname <> 'plpgsql'
     or not coalesce(t.reloptions @> '{security_invoker=true}', false)
     or t.prosrc !~ '^begin (if new\\..* is null then insert into .*; end if; )?insert into app\\..*; return new; end$'
     or strpos(t.prosrc, format('insert into app.%I (', t.relname)) = 0, 'It is not the one that Insula has made.'),
    (t.columns is distinct from array(select a.attname from pg_attribute a where a.attrelid = t.view and a.attnum > 0
                                      and not a.attisdropped order by a.attname), 'It has other columns than the table.'),
    ((select array_agg((g.tgfoid, g.tgenabled, g.tgtype)::text) from pg_trigger g where g.tgrelid = t.view)
     is distinct from array[(t.function, 'O', 69)::text], 'Its trigger is not the one that Insula has made.')
) as w (is_wrong, wrong)
where w.is_wrong
union all
select 'copy target ' || x.name, 'It belongs to no table.'
from (select relname as name from pg_class where relnamespace = to_regnamespace('insula_copy')
      union select proname from pg_proc where pronamespace = to_regnamespace('insula_copy')) x
where not exists (select from target t where t.relname = x.name)
union all
select g.object, format('%s has the right %s on it.', coalesce(r.rolname, 'PUBLIC'), g.privilege_type)
from (
    select 'schema insula_copy' as object, 'USAGE' as allowed, a.*
    from pg_namespace n cross join aclexplode(n.nspacl) a
    where n.nspname = 'insula_copy' and a.grantee <> n.nspowner
    union all
    select 'copy target ' || c.relname, 'INSERT', a.*
    from pg_class c cross join aclexplode(c.relacl) a
    where c.relnamespace = to_regnamespace('insula_copy') and a.grantee <> c.relowner
    union all
    select 'copy target ' || p.proname, null, a.*
    from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace = to_regnamespace('insula_copy') and a.grantee <> p.proowner
) g left join pg_roles r on r.oid = g.grantee
where g.is_grantable or not coalesce(r.rolname = $1::text and g.privilege_type = g.allowed, false)
order by 1, 2";

/// What there is by name.
const NAMES: &str = "
select case c.relkind when 'v' then 'view' when 'c' then 'type' else 'table' end, c.relname::text
from pg_class c where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'v', 'c')
union all
select 'function', p.proname::text from pg_proc p where p.pronamespace = 'app'::regnamespace
union all
select 'type', t.typname::text
from pg_type t where t.typnamespace = 'app'::regnamespace and t.typtype in ('e', 'd', 'r')
  and not exists (select from pg_depend d
                  where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'i')";

/// Compares by name what there is with what the app schema makes.
async fn shape_findings(client: &Client, shape: &PoolShape) -> Result<Vec<Finding>, Problem> {
    let rows = client.query(NAMES, &[]).await.map_err(db)?;
    let there: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let known = |kind: &str, name: &String| match kind {
        "table" => shape.tables.contains(name),
        "view" => shape.views.contains(name),
        "function" => shape.functions.contains(name),
        _ => shape.types.contains(name),
    };
    let unexpected = there.iter().filter(|(kind, name)| !known(kind, name)).map(|(kind, name)| Finding {
        object: format!("{kind} {name}"),
        detail: "It is not part of the app schema.".to_owned(),
    });
    let is_there = |table: &String| there.iter().any(|(kind, name)| kind == "table" && name == table);
    let missing = shape
        .tables
        .iter()
        .filter(|table| !is_there(table))
        .map(|table| Finding { object: format!("table {table}"), detail: "It is missing.".to_owned() });
    Ok(unexpected.chain(missing).collect())
}
