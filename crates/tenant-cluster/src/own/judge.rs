//! What must hold of a tenant's own schema, and how its objects and the app
//! schema's hang together.

use insula_domain::{RoleName, SchemaName};
use insula_problem::{Code, Problem};
use tokio_postgres::Client;

use super::{OwnSpace, is_there, own_objects};
use crate::db;
use crate::schema::{Finding, RowsDoNotFit};

/// How many of a tenant's objects a failure names.
const NAMED_MAX: usize = 20;

/// `DROP` of what others depend on, and `ALTER … TYPE` of a column of a view.
const DEPENDENTS: [&str; 2] = ["2BP01", "0A000"];

/// Looks at a tenant's own schema: who has which right there, and whether there
/// is anything where there must be nothing.
///
/// # Errors
/// Where the cluster is away.
pub async fn audit_own(client: &Client, space: &OwnSpace, allowed: bool) -> Result<Vec<Finding>, Problem> {
    let object = format!("schema {}", space.own);
    let finding = |detail: String| Finding { object: object.clone(), detail };
    if !is_there(client, &space.own).await? {
        let missing = "It is missing, and the tier lets the tenant make objects of its own. \
                       insula tenant suspend and resume make it.";
        return Ok(if allowed { vec![finding(missing.to_owned())] } else { Vec::new() });
    }
    let mut found = Vec::new();
    let rights = client.query(RIGHTS, &[&space.own.as_str()]).await.map_err(db)?;
    let held: Vec<(String, String)> = rights.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted = wanted(space, allowed);
    for (role, right) in &held {
        if !wanted.contains(&(role.clone(), right.clone())) {
            found.push(finding(format!("{role} has the right {right} on it.")));
        }
    }
    for (role, right) in wanted {
        if !held.contains(&(role.clone(), right.to_owned())) {
            found.push(finding(format!("{role} has no right {right} on it.")));
        }
    }
    if !allowed {
        let inventory = own_objects(client, &space.own).await?;
        let count = inventory.objects.len() + inventory.more as usize;
        if count > 0 {
            found.push(finding(format!(
                "The tier lets the tenant have no objects of its own, and there are {count} from before. \
                 insula schema status --drift lists them."
            )));
        }
    }
    Ok(found)
}

fn wanted(space: &OwnSpace, allowed: bool) -> Vec<(String, String)> {
    let read_write = RoleName::of_tenant(space.tenant).to_string();
    let read_only = RoleName::read_only_of_tenant(space.tenant).to_string();
    let usage = "USAGE".to_owned();
    let mut wanted = vec![(read_write.clone(), usage.clone()), (read_only, usage)];
    if allowed {
        wanted.push((read_write, "CREATE".to_owned()));
    }
    wanted
}

/// The rights on a schema (`$1`) of others than its owner; an owner that is no
/// administrator has one too many.
const RIGHTS: &str = "
select coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC'), a.privilege_type::text
from pg_namespace n cross join aclexplode(n.nspacl) a
where n.nspname = $1 and a.grantee <> n.nspowner
union all
select r.rolname::text, 'OWNERSHIP' from pg_namespace n join pg_roles r on r.oid = n.nspowner
where n.nspname = $1 and not r.rolsuper";

/// A tenant's own objects that depend on something of the app schema, each with
/// what it depends on.
///
/// # Errors
/// Where the cluster is away.
pub async fn dependents(
    client: &Client,
    app: &SchemaName,
    own: &SchemaName,
) -> Result<Vec<(String, String)>, Problem> {
    let rows = client.query(DEPENDS, &[&app.as_str(), &own.as_str()]).await.map_err(db)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What in `$2` depends on what in `$1`, a schema each.
const DEPENDS: &str = "
with used (classid, objid) as (
    select 'pg_class'::regclass::oid, c.oid from pg_class c
    join pg_namespace n on n.oid = c.relnamespace and n.nspname = $1
    union all
    select 'pg_proc'::regclass::oid, p.oid from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace and n.nspname = $1
    union all
    select 'pg_type'::regclass::oid, t.oid from pg_type t
    join pg_namespace n on n.oid = t.typnamespace and n.nspname = $1
),
found as (
    select d.classid, d.objid, relation.oid as relation, d.refclassid, d.refobjid, d.refobjsubid
    from used u
    join pg_depend d on d.refclassid = u.classid and d.refobjid = u.objid
    left join lateral (
        select r.ev_class as oid from pg_rewrite r where d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
        union all
        select a.adrelid from pg_attrdef a where d.classid = 'pg_attrdef'::regclass and a.oid = d.objid
        union all
        select k.conrelid from pg_constraint k
        where d.classid = 'pg_constraint'::regclass and k.oid = d.objid and k.conrelid <> 0
        union all
        select g.tgrelid from pg_trigger g where d.classid = 'pg_trigger'::regclass and g.oid = d.objid
        union all
        select y.polrelid from pg_policy y where d.classid = 'pg_policy'::regclass and y.oid = d.objid
    ) relation on true
)
select distinct format('%s %s', o.type, o.identity), pg_describe_object(f.refclassid, f.refobjid, f.refobjsubid)
from found f
cross join lateral pg_identify_object(
    case when f.relation is null then f.classid else 'pg_class'::regclass::oid end,
    coalesce(f.relation, f.objid), 0) o
where o.schema = $2
order by 1, 2";

/// A version's failure in the words of whoever has to do something about it:
/// where it failed because of the tenant's own objects, they are named.
pub async fn explain(client: &Client, space: &OwnSpace, problem: Problem) -> Problem {
    let is_about_dependents = problem.code() == Code::MigrationFailed
        && RowsDoNotFit::behind(&problem)
            .and_then(RowsDoNotFit::sqlstate)
            .is_some_and(|state| DEPENDENTS.contains(&state));
    if !is_about_dependents {
        return problem;
    }
    let dependents = match dependents(client, &space.app, &space.own).await {
        Ok(dependents) => dependents,
        Err(unread) => {
            tracing::warn!(cause = unread.chain(), "a tenant's own objects could not be read");
            return problem;
        }
    };
    if dependents.is_empty() {
        return problem;
    }
    let named: Vec<String> =
        dependents.iter().take(NAMED_MAX).map(|(object, on)| format!("{object} (on {on})")).collect();
    let more = dependents.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    problem.adding(&format!(
        "Objects of the tenant's own depend on the app schema: {}{more}. They are the tenant's to drop or change; \
         then: insula schema rollout retry.",
        named.join(", ")
    ))
}
