-- The global catalog: what every region must know to route, and no personal data.

-- Every change of a row that routes are made of takes the next number, while
-- it holds the row's lock: of two versions of a row, the greater is the newer.
create sequence catalog_revision as bigint;

create table region_groups (
    name text primary key
);

create table regions (
    name       text primary key,
    created_at timestamptz not null
);

-- A region belongs to at least one group; `global` usually has them all.
create table region_group_members (
    region       text not null references regions,
    region_group text not null references region_groups,
    primary key (region, region_group)
);

create table plans (
    name                 text primary key,
    requests_per_second  int check (requests_per_second > 0),
    burst                int check (burst >= 0),
    daily_quota          bigint check (daily_quota >= 0),
    requests_in_flight   int check (requests_in_flight > 0),
    database_connections int check (database_connections > 0),
    storage_bytes        bigint check (storage_bytes >= 0),
    revision             bigint not null default 1
);

create table tiers (
    name      text primary key,
    isolation text not null check (isolation in ('pool', 'schema', 'database', 'cluster')),
    user_pool text not null check (user_pool in ('shared', 'dedicated')),
    plan      text not null references plans,
    position  int not null,
    revision  bigint not null default 1
);

create table clusters (
    name               text primary key,
    region             text not null references regions,
    host               text not null,
    port               int not null check (port between 1 and 65535),
    tls                boolean not null,
    admin_user         text not null,
    -- AES-256-GCM, under a key derived from the master key of this generation.
    admin_secret       bytea not null,
    key_generation     int not null,
    system_identifier  text not null,
    server_version     int not null,
    -- Set where the whole server belongs to one tenant.
    tenant_id          uuid,
    -- Set where Insula started the server itself: what its provisioner needs to find it again.
    provisioned        text,
    status             text not null check (status in ('active', 'draining')),
    capacity_pool      int not null check (capacity_pool >= 0),
    capacity_schema    int not null check (capacity_schema >= 0),
    capacity_database  int not null check (capacity_database >= 0),
    -- The app schema version of the shared tables and of the template database.
    schema_version     int not null default 0,
    created_at         timestamptz not null,
    revision           bigint not null default nextval('catalog_revision'),
    changed_xid        bigint not null default (pg_current_xact_id()::text::bigint),
    -- A name of localhost can be reused by another server; its identifier cannot.
    unique (system_identifier)
);

create table tenants (
    id              uuid primary key,
    slug            text not null,
    name            text not null,
    parent          uuid references tenants,
    tier            text not null references tiers,
    region          text not null references regions,
    residency       text not null references region_groups,
    status          text not null check (status in ('provisioning', 'active', 'suspended', 'deleting', 'deleted')),
    schema_version  int not null default 0,
    -- The generation of the master key from which the passwords of its roles are derived.
    key_generation  int not null,
    created_at      timestamptz not null,
    -- Set while the tenant is being deleted: its data is kept until then.
    purge_at        timestamptz,
    deleted_at      timestamptz,
    revision        bigint not null default nextval('catalog_revision'),
    -- The transaction of the last change. Readers follow it by snapshot, so that
    -- a transaction that commits late is never passed over.
    changed_xid     bigint not null default (pg_current_xact_id()::text::bigint),
    check (parent <> id)
);
-- A slug is free again once its tenant is gone.
create unique index tenants_slug on tenants (slug) where status <> 'deleted';
create index tenants_parent on tenants (parent) where parent is not null;
create index tenants_changed on tenants (changed_xid);
create index tenants_purge on tenants (purge_at) where status = 'deleting';

alter table clusters add foreign key (tenant_id) references tenants;

-- One row a tenant: there cannot be two writable placements.
create table placements (
    tenant_id  uuid primary key references tenants,
    cluster    text references clusters,
    isolation  text not null check (isolation in ('pool', 'schema', 'database', 'cluster')),
    database   text not null,
    schema     text not null,
    role       text not null,
    epoch      bigint not null,
    -- Only a cluster of its own is not there from the start.
    check (cluster is not null or isolation = 'cluster')
);
create index placements_cluster on placements (cluster, isolation);

create table logins (
    id                uuid primary key,
    tenant_id         uuid not null references tenants,
    name              text not null,
    verifier          text not null,
    read_only         boolean not null,
    descendants       boolean not null,
    is_default        boolean not null,
    key_generation    int not null,
    secret_generation int not null,
    created_at        timestamptz not null,
    revoked_at        timestamptz,
    revision          bigint not null default nextval('catalog_revision'),
    changed_xid       bigint not null default (pg_current_xact_id()::text::bigint)
);
create unique index logins_name on logins (name) where revoked_at is null;
create index logins_tenant on logins (tenant_id);
create index logins_changed on logins (changed_xid);

create table api_keys (
    id          uuid primary key,
    tenant_id   uuid not null references tenants,
    role        text not null,
    scope       text,
    secret_hash bytea not null,
    created_at  timestamptz not null,
    revoked_at  timestamptz
);
create index api_keys_tenant on api_keys (tenant_id);

create table operators (
    email      text primary key,
    -- A SCRAM verifier, as for logins.
    verifier   text not null,
    created_at timestamptz not null
);

create table operator_tokens (
    id          uuid primary key,
    email       text not null,
    secret_hash bytea not null,
    created_at  timestamptz not null,
    revoked_at  timestamptz
);

create table schema_versions (
    version    int primary key check (version > 0),
    name       text not null,
    sha256     text not null,
    sql        text not null,
    created_at timestamptz not null,
    -- Before it is published a version is a draft: it is rehearsed, and no tenant gets it.
    published_at timestamptz,
    -- Set once every placement that was to have it has it.
    rolled_out_at timestamptz
);

create table idempotency_keys (
    actor        text not null,
    key          text not null,
    request_hash bytea not null,
    tenant_id    uuid,
    operation_id uuid,
    created_at   timestamptz not null,
    primary key (actor, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);

create table audit (
    id         bigint generated always as identity primary key,
    at         timestamptz not null,
    actor      text not null,
    action     text not null,
    tenant_id  uuid,
    subject    text not null,
    detail     jsonb not null,
    request_id text
);
create index audit_tenant on audit (tenant_id, id);

create function touch() returns trigger language plpgsql as $$
begin
    new.changed_xid := pg_current_xact_id()::text::bigint;
    new.revision := nextval('catalog_revision');
    return new;
end $$;

create trigger touch before update on tenants for each row execute function touch();
create trigger touch before update on logins for each row execute function touch();
create trigger touch before update on clusters for each row execute function touch();

-- A change of what a tenant's route is made of is a change of the tenant.
create function touch_tenant_of_placement() returns trigger language plpgsql as $$
begin
    update tenants set revision = revision where id = new.tenant_id;
    return null;
end $$;

create trigger route after update on placements
    for each row execute function touch_tenant_of_placement();

create function touch_tenants_of_plan() returns trigger language plpgsql as $$
begin
    update tenants set revision = revision
    where status <> 'deleted' and tier in (select name from tiers where plan = new.name);
    return null;
end $$;

create trigger route after update on plans for each row execute function touch_tenants_of_plan();

create function touch_tenants_of_tier() returns trigger language plpgsql as $$
begin
    update tenants set revision = revision where status <> 'deleted' and tier = new.name;
    return null;
end $$;

create trigger route after update on tiers for each row execute function touch_tenants_of_tier();

-- Only a wake-up: who follows reads the rows by transaction, so that a
-- notification that is lost costs time and not correctness.
create function routes_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('insula_routes', '');
    return null;
end $$;

create trigger routes after insert or update on tenants
    for each statement execute function routes_changed();
create trigger routes after insert or update on logins
    for each statement execute function routes_changed();
create trigger routes after insert or update on clusters
    for each statement execute function routes_changed();
