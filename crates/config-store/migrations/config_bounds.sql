-- What bounds the tables of the configuration, as the next migration of each
-- region store and of the catalog.

-- A place that a tenant leaves: what is kept there goes, unless it is awaited again.
alter table config_homes drop constraint config_homes_state_check;
alter table config_homes add constraint config_homes_state_check
    check (state in ('arriving', 'open', 'closed', 'leaving'));
-- How far those have come along with an arriving tenant, by the numbers of where
-- it comes from; -1 while what is left of an earlier stay is not removed yet.
alter table config_homes add column reads_until bigint not null default 0;
alter table config_homes add column requests_until bigint not null default 0;

-- Numbered under the clock, and so in the order of the commits.
alter table config_requests add column id bigint generated always as identity;
create index config_requests_scope on config_requests (scope, id);
create index config_reads_scope on config_reads (scope, id);

-- To which large value a version refers.
alter table config_versions add column sha256 text collate "C" generated always as (
    case when kind = 3 then substring(encode(value, 'escape') from '"sha256":"([0-9a-f]{64})"') end) stored;
drop index config_versions_large;
create index config_versions_large on config_versions (scope, sha256) where kind = 3;

-- What each scope has, kept with what is written.
create table config_usage (
    scope text collate "C" primary key,
    -- Keys that are set, and the bytes of their newest values.
    keys  bigint not null,
    bytes bigint not null,
    -- The bytes of all versions, each with its key and 128 for itself.
    kept  bigint not null
) with (fillfactor = 50);
insert into config_usage (scope, keys, bytes, kept)
select v.scope, count(*) filter (where n.version = v.version and v.kind <> 0),
    coalesce(sum(octet_length(v.value)) filter (where n.version = v.version), 0),
    sum(coalesce(octet_length(v.value), 0) + octet_length(v.key) + 128)
from config_versions v left join config_values n on n.scope = v.scope and n.key = v.key
group by v.scope;
