//! What a tenant's own database shows of the others on its server. PostgreSQL's
//! views of sessions and locks are of the whole server: how others' sessions
//! call themselves, from where they come, and which advisory locks they have.
//! Applications read these views, so they are not closed, but show the tenant's
//! own sessions and its database's locks.

use insula_problem::Problem;
use tokio_postgres::Client;

use crate::db;

/// The functions behind the views are taken from PUBLIC, and the views are made
/// anew on functions that have the same signatures and leave the others out.
/// Made from what the server itself says of them, so that it holds for every
/// version of PostgreSQL. May be repeated.
const HIDE: &str = r"begin;
set local allow_system_table_mods = on;
set local client_min_messages = warning;
set local search_path = pg_catalog;
create schema if not exists insula;
revoke all on schema insula from public;
do $hide$
declare
    own constant text := '(select d.oid from pg_database d where d.datname = current_database())';
    source record;
    view record;
begin
    for source in
        select p.oid::regprocedure as function, p.proname as name, pg_get_function_arguments(p.oid) as arguments, w.body
        from (values
            ('pg_stat_get_activity(integer)',
             'select s.* from pg_stat_get_activity($1) s where s.datid = ' || own
             || ' and pg_has_role(session_user, s.usesysid, ''usage'')'),
            ('pg_lock_status()',
             'select l.* from pg_lock_status() l where l.pid in '
             || '(select s.pid from pg_stat_get_activity(null) s where s.datid = ' || own || ')')
        ) w (function, body)
        join pg_proc p on p.oid = w.function::regprocedure
    loop
        execute format(
            'create or replace function insula.%I(%s) returns setof record language sql volatile parallel restricted
             security definer set search_path = pg_catalog, pg_temp as %L',
            source.name, source.arguments, source.body);
        execute format('grant execute on function insula.%I to public', source.name);
        execute format('revoke all on function %s from public', source.function);
        for view in
            select c.oid::regclass as name,
                   regexp_replace(d.text, '([ (,])(' || source.name || '\()', '\1insula.\2', 'g') as definition
            from pg_class c cross join pg_get_viewdef(c.oid) as d (text)
            where c.relkind = 'v' and c.relnamespace = 'pg_catalog'::regnamespace
              and d.text ~ ('[ (,]' || source.name || '\(')
        loop
            execute format('create or replace view %s as %s', view.name, view.definition);
        end loop;
    end loop;
end $hide$;
commit";

/// Has the views of sessions and locks in the database of the connection show
/// its own alone. For databases on servers that tenants share.
///
/// # Errors
/// Where the cluster is away.
pub(crate) async fn hide_neighbours(client: &Client) -> Result<(), Problem> {
    client.batch_execute(HIDE).await.map_err(db)
}
