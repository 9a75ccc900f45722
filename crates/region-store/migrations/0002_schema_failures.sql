-- What PostgreSQL said where a version of the app schema did not fit the rows
-- that are there: their values too, so it stays in the region. A row here has
-- one of the same key in the catalog, which is written first and removed last.
create table schema_failures (
    -- As in the catalog: `pool/<cluster>` or `silo/<tenant id>`.
    tables    text not null,
    version   int not null,
    -- Whose row it is. Null: of somebody in the pool.
    tenant_id uuid,
    at        timestamptz not null,
    said      text not null check (length(said) <= 8000),
    primary key (tables)
);
create index schema_failures_tenant on schema_failures (tenant_id);
