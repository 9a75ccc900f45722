//! What is there before the app schema: the roles of a pool, the function that
//! tells whose session it is, and the schema of the shared tables. Everything
//! here can be repeated.

use insula_app_schema::POOL_SCHEMA;
use insula_domain::TenantId;
use insula_problem::Problem;
use tokio_postgres::Client;
use uuid::Uuid;

use super::copy_targets;
use super::owner::make_role;
use crate::db;

/// The role through which a pool's tenants read and write rows.
pub const POOL_READ_WRITE: &str = "insula_pool_rw";
/// The role through which a pool's tenants read rows.
pub const POOL_READ_ONLY: &str = "insula_pool_ro";
/// The role that owns the shared tables. It cannot log in, and row-level
/// security holds for it too.
pub const POOL_OWNER: &str = "insula_pool_owner";
/// The role as which a pool's template runs the data statements of a version.
pub const POOL_TEMPLATE: &str = "insula_pool_template";
/// The id under which a pool keeps the rows that a new tenant begins with: what
/// the data statements of all versions have left. No tenant has it, as ids of
/// tenants are never nil.
#[must_use]
pub fn pool_template_tenant() -> TenantId {
    TenantId::from(Uuid::nil())
}

/// The body of `insula.current_tenant()`.
///
/// One expression, since PL/pgSQL then needs no executor of its own, and in
/// PL/pgSQL, since the planner would otherwise copy the expression into every
/// query and plan it again each time (decision 0004 has the figures). Every
/// name is qualified: it may run under any search path.
pub(super) const CURRENT_TENANT_BODY: &str = "begin return case
  when pg_catalog.starts_with(current_user, 'tenant_') then pg_catalog.substr(current_user, 8, 32)::pg_catalog.uuid
  when pg_catalog.starts_with(session_user, 'tenant_') then pg_catalog.substr(session_user, 8, 32)::pg_catalog.uuid
  when current_user operator(pg_catalog.=) 'insula_pool_template'
    or session_user operator(pg_catalog.=) 'insula_pool_template'
  then '00000000-0000-0000-0000-000000000000'::pg_catalog.uuid
end; end";

/// Copies the template's rows for a tenant and enrols it. Triggers and foreign
/// keys do not fire: the rows are what they have left.
///
/// A tenant that is enrolled under a role with another oid was either made anew
/// under its old name, and then has no rows, or the whole server was restored
/// from a dump, and then it keeps those that it has.
const ENROL_BODY: &str = "declare shared record; has_rows boolean; was_there boolean; begin
  was_there := exists (select from insula.pool_tenants t where t.tenant_id = tenant);
  for shared in
    select c.oid::pg_catalog.regclass as name from pg_catalog.pg_class c
    where was_there and c.relnamespace = 'app'::pg_catalog.regnamespace and c.relkind = 'r'
  loop
    execute pg_catalog.format('select exists (select from %s where tenant_id = $1)', shared.name)
      into has_rows using tenant;
    if has_rows then
      update insula.pool_tenants t set role_oid = role where t.tenant_id = tenant;
      return;
    end if;
  end loop;
  perform pg_catalog.set_config('session_replication_role', 'replica', true);
  for shared in
    select c.oid::pg_catalog.regclass as name, string_agg(pg_catalog.quote_ident(a.attname), ', ') as columns
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and a.attgenerated = '' and a.attname <> 'tenant_id'
    where c.relnamespace = 'app'::pg_catalog.regnamespace and c.relkind = 'r'
    group by c.oid
  loop
    execute pg_catalog.format(
      'insert into %1$s (%2$s, tenant_id) overriding system value select %2$s, $1 from %1$s where tenant_id = $2',
      shared.name, shared.columns) using tenant, template;
  end loop;
  perform pg_catalog.set_config('session_replication_role', 'origin', true);
  insert into insula.pool_tenants (tenant_id, role_oid, version) values (tenant, role, at)
    on conflict (tenant_id) do update set role_oid = excluded.role_oid, version = excluded.version;
end";

/// Makes the roles of pools. They belong to the server, not to a database.
///
/// # Errors
/// Where the cluster is away.
pub async fn create_group_roles(client: &Client) -> Result<(), Problem> {
    let roles = [POOL_READ_WRITE, POOL_READ_ONLY, POOL_OWNER, POOL_TEMPLATE].map(make_role).join(";\n");
    let member = format!(
        "do $$ begin
             if not pg_catalog.pg_has_role('{POOL_TEMPLATE}', '{POOL_READ_WRITE}', 'member') then
                 grant {POOL_READ_WRITE} to {POOL_TEMPLATE};
             end if;
         exception when unique_violation then null; end $$"
    );
    client.batch_execute(&format!("{roles};\n{member}")).await.map_err(db)
}

/// Makes `insula.current_tenant()` in the database of the connection.
///
/// # Errors
/// Where the cluster is away.
pub async fn install_support(client: &Client) -> Result<(), Problem> {
    client
        .batch_execute(&format!(
            "begin;
             create schema if not exists insula;
             revoke all on schema insula from public;
             grant usage on schema insula to public;
             create or replace function insula.current_tenant() returns uuid
                 language plpgsql stable parallel safe as $insula${CURRENT_TENANT_BODY}$insula$;
             revoke all on function insula.current_tenant() from public;
             grant execute on function insula.current_tenant() to public;
             commit"
        ))
        .await
        .map_err(db)
}

/// Makes the empty schema of the shared tables in the database of the
/// connection; the roles and [`install_support`] come first.
///
/// The right to a language is the right to write in it, a DO block among that,
/// and not to run what is written. Only the owner of the tables has it: a block
/// could lock a table for all tenants, where the front does not see it.
///
/// # Errors
/// Where the cluster is away.
pub async fn install_pool(client: &Client) -> Result<(), Problem> {
    let default = format!("alter default privileges for role {POOL_OWNER} in schema {POOL_SCHEMA} grant");
    client
        .batch_execute(&format!(
            "begin;
             create schema if not exists {POOL_SCHEMA} authorization {POOL_OWNER};
             revoke all on schema {POOL_SCHEMA} from public;
             grant usage on schema {POOL_SCHEMA} to {POOL_READ_WRITE}, {POOL_READ_ONLY};
             {default} select, insert, update, delete on tables to {POOL_READ_WRITE};
             {default} select on tables to {POOL_READ_ONLY};
             {default} usage on sequences to {POOL_READ_WRITE};
             create table if not exists insula.pool_tenants (
                 tenant_id uuid primary key,
                 role_oid oid not null,
                 version integer not null
             );
             revoke all on table insula.pool_tenants from public;
             create or replace function insula.enrol(tenant uuid, template uuid, role oid, at integer)
                 returns void language plpgsql set search_path = pg_catalog, pg_temp as $insula${ENROL_BODY}$insula$;
             revoke all on function insula.enrol(uuid, uuid, oid, integer) from public;
             {}
             do $$ declare trusted name; begin
                 for trusted in select lanname from pg_catalog.pg_language where lanpltrusted loop
                     execute pg_catalog.format('revoke all on language %I from public', trusted);
                     execute pg_catalog.format('grant usage on language %I to {POOL_OWNER}', trusted);
                 end loop;
             end $$;
             commit",
            copy_targets::install()
        ))
        .await
        .map_err(db)
}
