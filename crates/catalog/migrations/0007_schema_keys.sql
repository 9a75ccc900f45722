-- The primary keys of each version's tables, as their developer wrote them: an
-- object of arrays of columns by table, empty for a table without one and for a
-- view. Fronts need them for pools. Null where the version was taken before.
alter table schema_versions add column keys jsonb;

create trigger routes after insert or update on schema_versions
    for each statement execute function routes_changed();
