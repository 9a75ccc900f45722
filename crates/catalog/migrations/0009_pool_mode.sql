-- How long sessions of a login keep a backend of the PostgreSQL front; null is
-- as the front is set.

alter table logins add pool_mode text check (pool_mode in ('transaction', 'session'));
