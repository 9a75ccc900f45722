-- The step log of the workflows: one row a run, written as a whole at each
-- boundary of its steps.

create table workflow_runs (
    id           uuid primary key,
    workflow     text not null,
    version      int not null,
    -- What the run is about, for example a tenant's id.
    subject      text not null,
    exclusive    boolean not null,
    input        jsonb not null,
    status       text not null
        check (status in ('pending', 'running', 'undoing', 'succeeded', 'undone', 'stuck')),
    undoing      boolean not null,
    steps        jsonb not null,
    error        jsonb,
    -- Grows with each write of the state: a write that was slow on its way is refused.
    revision     bigint not null default 0,
    -- Grows each time the run changes hands: whoever shows an older one is refused.
    token        bigint not null default 0,
    -- In whose hands the run is, for people to read.
    owner        text,
    -- From when on any worker may take the run: when it is due, or its lease ends.
    -- Null where it has ended or is stuck.
    available_at timestamptz,
    created_at   timestamptz not null,
    ended_at     timestamptz,
    check ((ended_at is not null) = (status in ('succeeded', 'undone'))),
    check ((available_at is null) = (status in ('succeeded', 'undone', 'stuck')))
) with (fillfactor = 50);

-- Of exclusive runs on a subject at most one is under way.
create unique index workflow_runs_under_way on workflow_runs (subject) where exclusive and ended_at is null;

create index workflow_runs_available on workflow_runs (available_at) where available_at is not null;

create index workflow_runs_subject on workflow_runs (subject, id);

create index workflow_runs_ended on workflow_runs (ended_at) where ended_at is not null;
