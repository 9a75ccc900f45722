//! Where `COPY … FROM` of a pool's tenants goes. PostgreSQL refuses it on a
//! table with row-level security, but takes it on a view that has an `INSTEAD
//! OF INSERT` trigger (manual, `COPY`). So every shared table has such a view
//! under its own name in a schema beside it, without the tenant's column, and a
//! trigger that inserts the row as whoever copies: row-level security, keys and
//! the table's own triggers do what they do for any `INSERT`. The front sends
//! the statement there.
//!
//! The views hold on to the tables' columns, so they are gone while a version
//! is applied, within its transaction.

use super::support::{POOL_OWNER, POOL_READ_WRITE};

/// The schema of the views.
pub const COPY_SCHEMA: &str = "insula_copy";

/// Takes the views away.
pub(super) const DROP: &str = "select insula.drop_copy_targets()";

/// Makes the views for the tables that there are.
pub(super) const MAKE: &str = "select insula.make_copy_targets()";

/// Every view with its trigger and its function.
const DROP_BODY: &str = "declare target record; begin
  for target in
    select c.relname from pg_catalog.pg_class c where c.relnamespace = 'insula_copy'::pg_catalog.regnamespace
  loop
    execute pg_catalog.format('drop view insula_copy.%I', target.relname);
    execute pg_catalog.format('drop function insula_copy.%I()', target.relname);
  end loop;
end";

/// A view has a column for each that a row can be given, and its default,
/// since the rows of `COPY` are made up from the view's. As `COPY` does, it
/// writes the values that it is given into an identity column, too; where none
/// is given the table makes one, to which nobody needs a right.
const MAKE_BODY: &str = "declare target record; begin
  for target in
    select c.oid::pg_catalog.regclass as name, c.relname,
           pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) as columns,
           pg_catalog.string_agg('new.' || pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) as given,
           pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum)
             filter (where a.attidentity = '') as other_columns,
           pg_catalog.string_agg('new.' || pg_catalog.quote_ident(a.attname), ', ' order by a.attnum)
             filter (where a.attidentity = '') as other_given,
           max(pg_catalog.quote_ident(a.attname)) filter (where a.attidentity <> '') as identity,
           pg_catalog.string_agg(pg_catalog.format('alter %I set default %s', a.attname,
               pg_catalog.pg_get_expr(d.adbin, d.adrelid)), ', ') filter (where d.adbin is not null) as defaults
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and a.attgenerated = '' and a.attname <> 'tenant_id'
    left join pg_catalog.pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = 'app'::pg_catalog.regnamespace and c.relkind in ('r', 'p')
    group by c.oid, c.relname
  loop
    execute pg_catalog.format('create view insula_copy.%I with (security_invoker) as select %s from %s',
      target.relname, target.columns, target.name);
    if target.defaults is not null then
      execute pg_catalog.format('alter view insula_copy.%I %s', target.relname, target.defaults);
    end if;
    execute pg_catalog.format(
      'create function insula_copy.%I() returns trigger language plpgsql as %L', target.relname,
      'begin '
      || case
        when target.identity is null then ''
        when target.other_columns is null then pg_catalog.format(
          'if new.%s is null then insert into %s default values; return new; end if; ',
          target.identity, target.name)
        else pg_catalog.format(
          'if new.%s is null then insert into %s (%s) values (%s); return new; end if; ',
          target.identity, target.name, target.other_columns, target.other_given)
      end
      || pg_catalog.format('insert into %s (%s) overriding system value values (%s); return new; end',
        target.name, target.columns, target.given));
    execute pg_catalog.format('create trigger copy instead of insert on insula_copy.%1$I
      for each row execute function insula_copy.%1$I()', target.relname);
    execute pg_catalog.format('revoke all on function insula_copy.%I() from public', target.relname);
    execute pg_catalog.format('grant insert on insula_copy.%I to insula_pool_rw', target.relname);
  end loop;
end";

/// The statements that make the schema and the two functions; they can be
/// repeated.
pub(super) fn install() -> String {
    let function = |name: &str, body: &str| {
        format!(
            "create or replace function insula.{name}() returns void language plpgsql
                 set search_path = pg_catalog, pg_temp as $insula${body}$insula$;
             revoke all on function insula.{name}() from public;"
        )
    };
    format!(
        "create schema if not exists {COPY_SCHEMA} authorization {POOL_OWNER};
         revoke all on schema {COPY_SCHEMA} from public;
         grant usage on schema {COPY_SCHEMA} to {POOL_READ_WRITE};
         {} {}",
        function("drop_copy_targets", DROP_BODY),
        function("make_copy_targets", MAKE_BODY)
    )
}
