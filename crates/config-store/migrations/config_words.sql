-- What finds and bounds what clients say, as a later migration of region stores.

-- Who runs with a version, and who refuses it, tenant by tenant.
drop index config_client_runs_key;
create index config_client_runs_said on config_client_runs (key, set_in, version, scope);
create index config_client_runs_refused on config_client_runs (key, set_in, version, scope)
    where rejection is not null;
