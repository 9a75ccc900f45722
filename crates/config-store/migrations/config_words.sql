-- What finds and bounds what clients say, as a later migration of region stores.

-- What was said of versions that there are not would count once there are.
delete from config_client_runs r where r.version < 0 or r.version > coalesce(
    (select n.version from config_values n where n.scope = r.set_in and n.key = r.key), 0);

-- Who runs with a version, and who refuses it, tenant by tenant.
drop index config_client_runs_key;
create index config_client_runs_said on config_client_runs (key, set_in, version, scope);
create index config_client_runs_refused on config_client_runs (key, set_in, version, scope)
    where rejection is not null;
