-- What records the blueprint: a log that only the recorder's functions write,
-- in the transaction of whoever changes something, so that what is rolled back
-- was never there. May be run again over what is there already.
--
-- The functions run as insula_recorder, which may add to the log and no more,
-- and they turn values into text by their types' output functions alone: a cast
-- can be the blueprint's own, and would run as the recorder.

drop event trigger if exists insula_capture_ddl;
drop event trigger if exists insula_capture_drop;

create schema if not exists insula_capture;
revoke all on schema insula_capture from public;
grant usage on schema insula_capture to insula_recorder;

create table if not exists insula_capture.texts (
    xid  xid8 not null,
    hash text not null,
    text text not null,
    primary key (xid, hash)
);

create table if not exists insula_capture.log (
    seq       bigint generated always as identity primary key,
    xid       xid8 not null default pg_current_xact_id(),
    pid       int not null default pg_backend_pid(),
    -- When the client's message came: one for all statements of one text.
    at        timestamptz not null default statement_timestamp(),
    text_hash text not null,
    -- ddl, drop, or rows.
    kind      text not null,
    tag       text not null,
    -- Where the statement was run from, the innermost first; empty where the client sent it.
    context   text not null,
    detail    jsonb not null,
    -- The version that it was captured in.
    version   int
);
-- What the session had set that a version has otherwise, and that changes what a text means.
alter table insula_capture.log add column if not exists settings text not null default '';
create index if not exists log_uncaptured on insula_capture.log (seq) where version is null;

-- Backends that are in the recorder's own statements now.
create table if not exists insula_capture.inside (pid int primary key);

-- Versions of the app schema that the blueprint has, made there or brought there.
create table if not exists insula_capture.versions (
    version  int primary key,
    name     text not null,
    sha256   text not null,
    sql      text not null,
    -- captured or applied.
    origin   text not null,
    -- The transaction that applied it.
    xid      xid8,
    at       timestamptz not null default now()
);

-- Where the sequences stood when a version was captured or applied.
create table if not exists insula_capture.sequences (
    version    int not null,
    sequence   oid not null,
    last_value bigint,
    primary key (version, sequence)
);

-- Leave to apply a version without recording it, once, for who knows the token.
create table if not exists insula_capture.tickets (
    token   text primary key,
    version int not null,
    name    text not null,
    sha256  text not null,
    sql     text not null
);

revoke all on all tables in schema insula_capture from public, insula_recorder;
grant insert on insula_capture.texts, insula_capture.log to insula_recorder;
grant select (xid, hash) on insula_capture.texts to insula_recorder;
grant select, insert, delete on insula_capture.inside to insula_recorder;
grant select, insert on insula_capture.versions to insula_recorder;
grant select, delete on insula_capture.tickets to insula_recorder;

-- Whether nothing is recorded now: Insula itself is at work, or brings a version.
-- The setting is one that only an administrator can set.
create or replace function insula_capture.is_quiet() returns boolean
    language sql as $$
    select pg_catalog.current_setting('session_replication_role') operator(pg_catalog.=) 'local'
        or exists (select from insula_capture.inside i
                   where i.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid())
        or exists (select from insula_capture.versions v
                   where v.xid operator(pg_catalog.=) pg_catalog.pg_current_xact_id())
$$;

create or replace function insula_capture.write(the_kind text, the_tag text, the_context text, the_detail jsonb)
    returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare the_text text := current_query(); the_hash text := encode(sha256(convert_to(the_text, 'UTF8')), 'hex');
begin
    insert into insula_capture.texts (xid, hash, text) values (pg_current_xact_id(), the_hash, the_text)
        on conflict do nothing;
    insert into insula_capture.log (text_hash, kind, tag, context, detail, settings)
        values (the_hash, the_kind, the_tag, the_context, the_detail, (
            select coalesce(string_agg(s.name || ' = ' || current_setting(s.name), ', '), '')
            from (values ('DateStyle', 'ISO, MDY'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'),
                         ('standard_conforming_strings', 'on')) as s (name, of_versions)
            where regexp_replace(current_setting(s.name), '^(Etc/)?(UTC|UCT|GMT|Zulu|Universal|Greenwich)$', 'UTC', 'i')
                  <> s.of_versions));
end $$;

-- What is left of a context without the recorder's own frame, the first line.
create or replace function insula_capture.outside(the_context text) returns text
    language sql immutable as $$
    select case when pg_catalog.strpos(the_context, pg_catalog.chr(10)) operator(pg_catalog.=) 0 then ''
        else pg_catalog.substr(the_context, pg_catalog.strpos(the_context, pg_catalog.chr(10)) operator(pg_catalog.+) 1) end
$$;

-- Gives every table of the blueprint the triggers that record its rows.
create or replace function insula_capture.attend() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare lacking record;
begin
    for lacking in
        select c.oid::regclass as relation, w.name, w.event, w.tables,
               (select t.tgname from pg_trigger t
                where t.tgrelid = c.oid and t.tgfoid = 'insula_capture.on_rows()'::regprocedure
                  and t.tgtype & w.bit > 0) as there
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        cross join (values
            ('insula_capture_insert', 'insert', 4, 'referencing new table as new_rows'),
            ('insula_capture_update', 'update', 16, 'referencing old table as old_rows new table as new_rows'),
            ('insula_capture_delete', 'delete', 8, 'referencing old table as old_rows'),
            ('insula_capture_truncate', 'truncate', 32, '')) as w (name, event, bit, tables)
        where c.relkind in ('r', 'p') and c.relpersistence <> 't'
          and n.nspname <> 'information_schema' and n.nspname <> 'insula_capture' and not starts_with(n.nspname, 'pg_')
          and pg_has_role('insula_recorder', c.relowner, 'usage')
          and not exists (select from pg_trigger t
                          where t.tgrelid = c.oid and t.tgfoid = 'insula_capture.on_rows()'::regprocedure
                            and t.tgtype & w.bit > 0 and t.tgenabled = 'A')
        order by c.oid, w.name
    loop
        if lacking.there is null then
            execute format('create trigger %I after %s on %s %s for each statement execute function insula_capture.on_rows()',
                lacking.name, lacking.event, lacking.relation, lacking.tables);
            execute format('alter table %s enable always trigger %I', lacking.relation, lacking.name);
        else
            execute format('alter table %s enable always trigger %I', lacking.relation, lacking.there);
        end if;
    end loop;
end $$;

-- Begins a transaction that brings a version: its changes are not recorded.
create or replace function insula_capture.adopt(the_token text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare ticket record;
begin
    delete from insula_capture.tickets t where t.token = encode(sha256(convert_to(the_token, 'UTF8')), 'hex')
        returning t.version, t.name, t.sha256, t.sql into strict ticket;
    insert into insula_capture.versions (version, name, sha256, sql, origin, xid)
        values (ticket.version, ticket.name, ticket.sha256, ticket.sql, 'applied', pg_current_xact_id());
end $$;

create or replace function insula_capture.on_ddl() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare the_context text; objects jsonb; is_extensions boolean;
begin
    if exists (select from insula_capture.inside i where i.pid = pg_backend_pid()) then return; end if;
    get diagnostics the_context = pg_context;
    select coalesce(jsonb_agg(jsonb_build_object(
               'type', c.object_type, 'schema', c.schema_name, 'identity', c.object_identity)), '[]'),
           bool_and(c.in_extension)
    into objects, is_extensions from pg_event_trigger_ddl_commands() c;
    -- The statements of an extension's own script come with it.
    if is_extensions then return; end if;
    if not insula_capture.is_quiet() then
        perform insula_capture.write('ddl', tg_tag, insula_capture.outside(the_context), objects);
    end if;
    insert into insula_capture.inside (pid) values (pg_backend_pid());
    perform insula_capture.attend();
    delete from insula_capture.inside i where i.pid = pg_backend_pid();
end $$;

create or replace function insula_capture.on_drop() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare the_context text; objects jsonb;
begin
    if insula_capture.is_quiet() then return; end if;
    get diagnostics the_context = pg_context;
    if exists (select from pg_event_trigger_dropped_objects() d
               where d.original and d.object_type = 'trigger' and starts_with(d.address_names[3], 'insula_capture_'))
    then
        raise exception 'this trigger records the blueprint and cannot be dropped' using errcode = '42501';
    end if;
    select coalesce(jsonb_agg(jsonb_build_object(
               'type', d.object_type, 'schema', d.schema_name, 'identity', d.object_identity)), '[]')
    into objects from pg_event_trigger_dropped_objects() d where d.original;
    perform insula_capture.write('drop', tg_tag, insula_capture.outside(the_context), objects);
end $$;

-- Sets how values are written, for the rest of the transaction; returns how they were.
create or replace function insula_capture.set_style(style text[]) returns text[]
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    names constant text[] := '{datestyle,intervalstyle,timezone,extra_float_digits,bytea_output,xmloption}';
    before text[] := '{}';
begin
    for i in 1 .. cardinality(names) loop
        before := before || current_setting(names[i]);
        perform set_config(names[i], style[i], true);
    end loop;
    return before;
end $$;

-- One firing for each statement and table. The rows are kept where they may be
-- needed: those of INSERT and COPY, and all that were changed with parameters.
create or replace function insula_capture.on_rows() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp as $$
declare
    style text[]; the_context text; is_kept boolean; changed bigint := 0;
    names text[]; expressions text; keys text[]; has_always boolean; before jsonb; after jsonb; sequences jsonb;
    kept constant text := 'select jsonb_agg(to_jsonb(array[%s]::text[])) from (select * from %I limit 10001) r';
begin
    if insula_capture.is_quiet() then return null; end if;
    get diagnostics the_context = pg_context;
    the_context := insula_capture.outside(the_context);
    is_kept := the_context = '' and (tg_op = 'INSERT' or
        tg_op in ('UPDATE', 'DELETE') and current_query() ~* E'(\\$[0-9]|\\mexecute\\M)');
    if tg_op <> 'TRUNCATE' then
        execute 'select count(*) from ' || case tg_op when 'INSERT' then 'new_rows' else 'old_rows' end into changed;
    end if;
    if is_kept and changed > 0 then
        select array_agg(a.attname order by a.attnum),
               string_agg(format(case
                   when a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
                       then 'coalesce(nullif(format(''%%s'', r.%1$I), ''''), ''NULL'')'
                   when a.atttypid = 'bool'::regtype
                       then '(case r.%1$I when true then ''true'' when false then ''false'' else ''NULL'' end)'
                   else 'format(''%%L'', r.%1$I)' end, a.attname), ', ' order by a.attnum),
               bool_or(a.attidentity = 'a')
        into names, expressions, has_always
        from pg_attribute a
        where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
        select array_agg(a.attname order by a.attnum) into keys
        from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = tg_relid and i.indisprimary;
        -- Where the sequences stand from which the table draws.
        select jsonb_object_agg(s.relname, pg_sequence_last_value(s.oid)) into sequences
        from pg_class s
        where s.relkind = 'S' and pg_has_role('insula_recorder', s.relowner, 'usage') and s.oid in (
            select d.objid from pg_depend d
            where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = tg_relid
              and d.deptype in ('a', 'i')
            union all
            select d.refobjid from pg_attrdef e join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = e.oid
            where e.adrelid = tg_relid and d.refclassid = 'pg_class'::regclass);
        style := insula_capture.set_style('{"ISO, YMD",postgres,UTC,3,hex,content}');
        if tg_op <> 'INSERT' then
            execute format(kept, expressions, 'old_rows') into before;
        end if;
        if tg_op <> 'DELETE' then
            execute format(kept, expressions, 'new_rows') into after;
        end if;
        perform insula_capture.set_style(style);
    end if;
    perform insula_capture.write('rows', tg_op, the_context, jsonb_build_object(
        'schema', tg_table_schema, 'table', tg_table_name, 'count', changed, 'columns', names, 'key', keys,
        'always', has_always, 'old', before, 'new', after, 'sequences', sequences));
    return null;
end $$;

revoke all on all functions in schema insula_capture from public;
grant usage on schema insula_capture to insula_blueprint;
grant execute on function insula_capture.adopt(text) to insula_blueprint;
grant execute on all functions in schema insula_capture to insula_recorder;
alter function insula_capture.adopt(text) owner to insula_recorder;
alter function insula_capture.on_ddl() owner to insula_recorder;
alter function insula_capture.on_drop() owner to insula_recorder;
alter function insula_capture.on_rows() owner to insula_recorder;

create event trigger insula_capture_ddl on ddl_command_end execute function insula_capture.on_ddl();
alter event trigger insula_capture_ddl enable always;
create event trigger insula_capture_drop on sql_drop execute function insula_capture.on_drop();
alter event trigger insula_capture_drop enable always;
