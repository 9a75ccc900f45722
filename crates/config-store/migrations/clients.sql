-- What clients of tenants say of what they have received: in region stores.
create table config_clients (
    scope     text collate "C" not null,
    client_id text collate "C" not null,
    -- Up to where it has taken over what it has received.
    revision  bigint not null,
    at        timestamptz not null,
    primary key (scope, client_id)
);
create index config_clients_at on config_clients (at);

-- With which version of a key a client runs, or why it does not.
create table config_client_runs (
    scope     text collate "C" not null,
    client_id text collate "C" not null,
    key       text collate "C" not null,
    -- Where the version is set.
    set_in    text collate "C" not null,
    version   bigint not null,
    rejection text,
    at        timestamptz not null,
    primary key (scope, client_id, key),
    foreign key (scope, client_id) references config_clients on delete cascade
);
create index config_client_runs_key on config_client_runs (key, set_in, version);
