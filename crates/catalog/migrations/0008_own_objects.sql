-- Whether the tenants of a tier may make objects of their own, in a schema of
-- their own. Nobody makes any where tenants share tables.
alter table tiers
    add own_objects boolean not null default false,
    add check (not own_objects or isolation <> 'pool');
