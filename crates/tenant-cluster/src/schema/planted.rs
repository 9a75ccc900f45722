//! Code of a tenant's own within the app schema that it has for itself. Some of
//! an app schema's code runs as the owner of its tables under the tenant's
//! search path, so that a tenant can get to be the owner of its own tables. It
//! must not get any further: a version is applied in an administrator's
//! session, and a trigger or default that calls what the tenant made would run
//! there.

use insula_domain::SchemaName;
use insula_problem::{Code, Problem};
use tokio_postgres::Client;

use super::audit::{Finding, findings};

/// What of the app schema calls, or is of a type, that is neither its own nor
/// an extension's.
///
/// # Errors
/// Where the cluster is away.
pub(super) async fn planted(client: &Client, schema: &SchemaName) -> Result<Vec<Finding>, Problem> {
    findings(client, PLANTED, &[&schema.as_str()]).await
}

/// Refuses to go on where there is such code.
///
/// # Errors
/// `schema_audit_failed` with what there is.
pub(super) async fn refuse_planted(client: &Client, schema: &SchemaName) -> Result<(), Problem> {
    let found = planted(client, schema).await?;
    let Some(first) = found.first() else { return Ok(()) };
    let more =
        if found.len() > 1 { format!(" {} more are like it.", found.len() - 1) } else { String::new() };
    Err(Problem::new(
        Code::SchemaAuditFailed,
        format!(
            "No version is applied here: {}: {}{more} insula schema audit lists all.",
            first.object, first.detail
        ),
    ))
}

/// `$1` is the schema. What can be called or be a type of a column is looked
/// for in the schemas of tenants' own objects and of temporary ones; nobody
/// else can make any.
const PLANTED: &str = "
with theirs as (
    select oid from pg_namespace
    where nspname = case $1 when 'public' then 'own' else $1 || '_own' end or nspname ~ '^pg_temp_'
),
called (classid, objid) as (
    select 'pg_proc'::regclass::oid, oid from pg_proc where pronamespace in (select oid from theirs)
    union all
    select 'pg_operator'::regclass::oid, oid from pg_operator where oprnamespace in (select oid from theirs)
    union all
    select 'pg_type'::regclass::oid, oid from pg_type where typnamespace in (select oid from theirs)
    union all
    select 'pg_class'::regclass::oid, oid from pg_class where relnamespace in (select oid from theirs)
)
select distinct pg_describe_object(d.classid, d.objid, d.objsubid),
       format('It is not the app schema''s: it depends on %s.', pg_describe_object(d.refclassid, d.refobjid, 0))
from called u
join pg_depend d on d.refclassid = u.classid and d.refobjid = u.objid
cross join lateral (
    select c.relnamespace as oid from pg_class c
    where c.oid = case d.classid
        when 'pg_class'::regclass then d.objid
        when 'pg_trigger'::regclass then (select tgrelid from pg_trigger where oid = d.objid)
        when 'pg_attrdef'::regclass then (select adrelid from pg_attrdef where oid = d.objid)
        when 'pg_constraint'::regclass then (select conrelid from pg_constraint where oid = d.objid)
        when 'pg_rewrite'::regclass then (select ev_class from pg_rewrite where oid = d.objid)
        when 'pg_policy'::regclass then (select polrelid from pg_policy where oid = d.objid) end
    union all
    select p.pronamespace from pg_proc p where d.classid = 'pg_proc'::regclass and p.oid = d.objid
    union all
    select t.typnamespace from pg_type t
    where t.oid = case d.classid
        when 'pg_type'::regclass then d.objid
        when 'pg_constraint'::regclass then (select contypid from pg_constraint where oid = d.objid) end
    union all
    select t.typnamespace from pg_cast k join pg_type t on t.oid in (k.castsource, k.casttarget)
    where d.classid = 'pg_cast'::regclass and k.oid = d.objid
    union all
    select o.oprnamespace from pg_operator o where d.classid = 'pg_operator'::regclass and o.oid = d.objid
) its
join pg_namespace n on n.oid = its.oid
where n.nspname = $1
order by 1, 2";
