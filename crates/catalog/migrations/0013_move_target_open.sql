-- Whether a try at the cutover may have let the tenant into the target: only
-- then is the target needed to take the try back.
alter table moves add target_open boolean not null default false;
