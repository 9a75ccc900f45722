-- A version's way over the fleet. Its workflow runs carry it out, one after
-- another where it is paused or tried again.
create table rollouts (
    id         uuid primary key,
    version    int not null check (version > 0),
    wave_size  int not null check (wave_size > 0),
    canaries   uuid[] not null,
    status     text not null
        check (status in ('rolling', 'pausing', 'paused', 'failed', 'done', 'superseded')),
    -- The run that carries it out, or did last.
    operation  uuid not null,
    created_at timestamptz not null,
    ended_at   timestamptz
);

-- What a rollout brings as a whole: the shared tables of a cluster, or a tenant's own.
create table rollout_placements (
    rollout    uuid not null references rollouts on delete cascade,
    -- `pool/<cluster>` or `silo/<tenant id>`, as in schema_failures.
    tables     text not null,
    -- Null: the shared tables of the cluster.
    tenant_id  uuid,
    cluster    text not null,
    wave       int not null,
    status     text not null check (status in ('waiting', 'running', 'done', 'failed')),
    -- What failed there, in names; values of rows are in the region's store.
    code       text,
    detail     text,
    started_at timestamptz,
    ended_at   timestamptz,
    primary key (rollout, tables)
);
create index rollout_placements_status on rollout_placements (rollout, status, wave);
