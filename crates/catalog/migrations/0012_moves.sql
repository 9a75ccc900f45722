-- Moves of tenants from one placement to another.
create table moves (
    -- The id is that of its first operation.
    id            uuid primary key,
    tenant_id     uuid not null references tenants,
    status        text not null check (status in ('running', 'moved', 'rolling_back', 'completing', 'completed',
                      'rolled_back', 'failed', 'cancelled')),
    -- The run that is at work on it, or was last.
    operation     uuid not null,
    -- Tier, region, cluster, isolation model, database, schema and epoch of each end.
    source        jsonb not null,
    target        jsonb not null,
    terms         jsonb not null,
    -- How far it is; written as it goes, and never decided by.
    progress      jsonb not null default '{}',
    -- Grows with each try at the cutover: one with an older number does not commit.
    try           int not null default 0,
    -- An operator wants it to end before the cutover.
    cancel        boolean not null default false,
    error_code    text,
    error_detail  text,
    -- What was removed at the end.
    manifest      jsonb,
    created_at    timestamptz not null,
    committed_at  timestamptz,
    -- Until when it can be taken back.
    window_ends_at timestamptz,
    ended_at      timestamptz,
    -- Who keeps the source current while it can be taken back, and until when it has that to do.
    keeper        text,
    keeper_until  timestamptz
);
-- A tenant moves once at a time.
create unique index moves_open on moves (tenant_id) where status in ('running', 'moved', 'rolling_back', 'completing');
create index moves_tenant on moves (tenant_id, id);
create index moves_moved on moves (window_ends_at) where status = 'moved';
