//! What an audit finds, and the audit of a placement that one tenant has.

use insula_domain::SchemaName;
use insula_problem::Problem;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::fingerprint::{SchemaFingerprint, fingerprint};
use super::owner::owner_of;
use super::planted::planted;
use crate::db;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about, as in `table orders`.
    pub object: String,
    /// What is wrong, in a sentence.
    pub detail: String,
}

/// Runs a query whose rows are findings: what it is about, and what is wrong.
pub(super) async fn findings(
    client: &Client,
    query: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<Finding>, Problem> {
    let rows = client.query(query, parameters).await.map_err(db)?;
    Ok(rows.iter().map(|row| Finding { object: row.get(0), detail: row.get(1) }).collect())
}

/// Compares a schema that one tenant has with what the app schema makes, and
/// looks who owns it and who may do what there.
///
/// # Errors
/// Where the cluster is away.
pub async fn audit_silo(
    client: &Client,
    schema: &SchemaName,
    expected: &SchemaFingerprint,
) -> Result<Vec<Finding>, Problem> {
    let mut found = expected.differences(&fingerprint(client, schema).await?);
    let owner = owner_of(schema);
    found.extend(findings(client, OWNERS, &[&schema.as_str(), &owner.as_str()]).await?);
    found.extend(planted(client, schema).await?);
    Ok(found)
}

/// Owners and rights in a schema (`$1`) whose things `$2` owns: a tenant's role
/// has rights on rows, and none to change definitions or to make any. Roles are
/// looked up one by one: a server has thousands, and no join begins with them.
const OWNERS: &str = "
select 'relation ' || c.relname, format('It belongs to %s instead of %s.', c.relowner::regrole, $2::text)
from pg_class c
where c.relnamespace = to_regnamespace($1::text) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  and c.relowner::regrole::text <> quote_ident($2::text)
  and not exists (select from pg_depend d
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
union all
select 'function ' || p.proname, format('It belongs to %s instead of %s.', p.proowner::regrole, $2::text)
from pg_proc p
where p.pronamespace = to_regnamespace($1::text) and p.proowner::regrole::text <> quote_ident($2::text)
  and not exists (select from pg_depend d
                  where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
union all
select 'role ' || r.rolname, 'It owns the tables and must not log in, nor be above row-level security.'
from pg_roles r where r.rolname = $2::text and (r.rolcanlogin or r.rolsuper or r.rolbypassrls or r.rolcreaterole)
union all
select 'role ' || $2::text, format('%s is a member of it and so may change definitions.', m.member::regrole)
from pg_auth_members m
join pg_roles g on g.oid = m.roleid and g.rolname = $2::text
join pg_roles r on r.oid = m.member
where not r.rolsuper
union all
select 'schema ' || n.nspname, format('%s may make things in it.', coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC'))
from pg_namespace n
cross join aclexplode(n.nspacl) a
where n.nspname = $1::text and a.privilege_type = 'CREATE' and a.grantee <> n.nspowner
  and coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') <> quote_ident($2::text)
union all
select 'relation ' || c.relname, format('%s has the right %s on it.', pg_get_userbyid(a.grantee), a.privilege_type)
from pg_class c cross join aclexplode(c.relacl) a
where c.relnamespace = to_regnamespace($1::text) and pg_get_userbyid(a.grantee) ~ '^tenant_[0-9a-f]{32}(_ro)?$'
  and a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'USAGE')
order by 1, 2";
