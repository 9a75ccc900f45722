-- The blueprint: where it is kept, and how it differed from the versions when
-- it was last compared.
create table blueprint (
    the_one        boolean primary key default true check (the_one),
    cluster        text not null references clusters,
    -- The generation of the master key from which its role's password is derived.
    key_generation int not null,
    drift          jsonb not null default '[]',
    created_at     timestamptz not null
);
