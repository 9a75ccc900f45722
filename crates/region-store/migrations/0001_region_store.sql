-- A region store: what belongs to the tenants whose home is this region.

-- Which region this store is for. A store is never served under another name:
-- a wrong URL in the settings would break residency.
create table store_region (
    only_one boolean primary key default true check (only_one),
    region   text not null
);

create table homes (
    tenant_id uuid primary key,
    opened_at timestamptz not null
);
