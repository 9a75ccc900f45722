-- Configuration: values, their versions and labels, and the log of changes. In
-- each region store (what tenants and the region have, and a copy of what the
-- provider has) and in the catalog (what the provider has).

-- The order of changes: whoever writes locks this row, so that revisions are
-- committed in their order, and a reader behind its last one misses none.
create table config_clock (
    only_one  boolean primary key default true check (only_one),
    revision  bigint not null default 0,
    -- The log is whole behind this revision.
    compacted bigint not null default 0,
    -- Region stores: the change of the catalog up to which its values are here.
    imported  bigint not null default 0,
    check (compacted <= revision)
) with (fillfactor = 10);
insert into config_clock default values;

create table config_versions (
    scope    text collate "C" not null,
    key      text collate "C" not null,
    version  bigint not null check (version > 0),
    revision bigint not null,
    -- 0 a removal, 1 JSON, 2 a sealed secret, 3 a large value by reference.
    kind     smallint not null check (kind between 0 and 3),
    value    bytea check ((value is null) = (kind = 0)),
    -- With which generation of the master key a secret is sealed.
    key_generation int check ((key_generation is null) = (kind <> 2)),
    author   text not null,
    at       timestamptz not null,
    note     text not null,
    primary key (scope, key, version)
);
create index config_versions_sealed on config_versions (key_generation) where kind = 2;
create index config_versions_large on config_versions (scope) where kind = 3;

-- The newest version of each key, and how many its tag has kept.
create table config_values (
    scope    text collate "C" not null,
    key      text collate "C" not null,
    version  bigint not null,
    history  int not null,
    primary key (scope, key)
) with (fillfactor = 80);

create table config_labels (
    scope    text collate "C" not null,
    key      text collate "C" not null,
    label    text collate "C" not null,
    version  bigint not null,
    primary key (scope, key, label)
);

create table config_log (
    revision bigint primary key,
    scope    text collate "C" not null,
    -- Empty where the change is of the scope as a whole.
    key      text collate "C" not null,
    -- 1 a version, 2 a label, 3 the scope came here, 4 the scope went away.
    kind     smallint not null check (kind between 1 and 4),
    -- Of a label: where it is now; null where it was taken away.
    version  bigint,
    label    text collate "C",
    at       timestamptz not null
);
create index config_log_at on config_log (at);

-- Writes that were done under a token, so that they are done once.
create table config_requests (
    scope    text collate "C" not null,
    token    text collate "C" not null,
    -- Keyed with a generation of the master key: a request may hold a secret.
    hash     bytea not null,
    key_generation int not null,
    answer   jsonb not null,
    at       timestamptz not null,
    primary key (scope, token)
);
create index config_requests_at on config_requests (at);

-- Large values, by what they contain, each scope for itself.
create table config_blobs (
    scope    text collate "C" not null,
    sha256   text collate "C" not null,
    bytes    bigint not null,
    at       timestamptz not null,
    primary key (scope, sha256)
);
create table config_blob_chunks (
    scope    text collate "C" not null,
    sha256   text collate "C" not null,
    number   int not null,
    bytes    bytea not null,
    primary key (scope, sha256, number),
    foreign key (scope, sha256) references config_blobs on delete cascade
);
alter table config_blob_chunks alter column bytes set storage external;

-- Who was shown which secret.
create table config_reads (
    id       bigint generated always as identity primary key,
    at       timestamptz not null,
    scope    text collate "C" not null,
    key      text collate "C" not null,
    version  bigint not null,
    reader   text not null
);
create index config_reads_key on config_reads (scope, key, at);
create index config_reads_at on config_reads (at);

-- Tenants whose configuration is, comes or was here. One without a row, or with
-- another state than open, is neither read nor written here.
create table config_homes (
    scope    text collate "C" primary key,
    state    text not null check (state in ('arriving', 'open', 'closed')),
    -- The first revision here: what is asked for from before it is another store's.
    since    bigint not null,
    -- The epoch of the placement with which it came: one that is late and would
    -- bring it somewhere else with an older one is refused.
    epoch    bigint not null default 0,
    at       timestamptz not null
);

-- Tenants that were at home before there was configuration.
do $$ begin
    if to_regclass('homes') is not null then
        insert into config_homes (scope, state, since, at)
        select 'tenant/' || tenant_id, 'open', 0, opened_at from homes;
    end if;
end $$;
