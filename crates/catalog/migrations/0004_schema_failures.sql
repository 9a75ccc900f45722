-- Which tables a version of the app schema could not be brought to, and why.
-- Names and codes only: the row that does not fit is a tenant's, and what was
-- said about it is in the store of the cluster's region.
create table schema_failures (
    -- `pool/<cluster>` or `silo/<tenant id>`.
    tables    text primary key,
    -- Null: the shared tables of the cluster.
    tenant_id uuid references tenants,
    cluster   text not null references clusters on delete cascade,
    -- The version that failed.
    version   int not null check (version > 0),
    code      text not null,
    detail    text not null,
    at        timestamptz not null
);
