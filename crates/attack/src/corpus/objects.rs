//! Definitions: names that are found before others, functions that run as
//! somebody else, and changes of what belongs to the application.

use crate::attempt::Want::{Itself, Nothing, Refused, Unseen};
use crate::attempt::{Attempt, sql};

pub(super) const NAMES: &[Attempt] = &[
    sql(
        "path-of-victim",
        "Find the victim's tables first.",
        Unseen,
        &["set search_path = {schema}, app, public", "select * from {table}"],
    ),
    sql(
        "path-by-schema",
        "Find the victim's tables by SET SCHEMA.",
        Unseen,
        &["set schema '{schema}'", "select * from {table}"],
    ),
    sql(
        "path-empty",
        "Read without a search path.",
        Unseen,
        &["set search_path = ''", "select * from {table}", "select * from app.{table}"],
    ),
    sql(
        "shadow-tenant-function",
        "Replace the function that says who the tenant is.",
        Refused,
        &[
            "begin",
            "create or replace function insula.current_tenant() returns uuid language sql return '{id}'::uuid",
        ],
    ),
    sql(
        "shadow-tenant-function-temporary",
        "Put another tenant function before it.",
        Unseen,
        &[
            "create function pg_temp.current_tenant() returns uuid language sql return '{id}'::uuid",
            "set search_path = pg_temp, app, insula",
            "select * from {table}",
        ],
    ),
    sql(
        "shadow-operator",
        "Put another operator before the policy's.",
        Unseen,
        &[
            "begin",
            "create function {mine}.yes(uuid, uuid) returns bool language sql return true",
            "create operator {mine}.= (leftarg = uuid, rightarg = uuid, function = {mine}.yes)",
            "set local search_path = {mine}, pg_catalog, app, public",
            "select * from {table}",
        ],
    ),
    sql(
        "shadow-catalog",
        "Put a schema before PostgreSQL's own.",
        Unseen,
        &[
            "begin",
            "create function {mine}.now() returns timestamptz language sql return null",
            "set local search_path = {mine}, pg_catalog, app, public",
            "select * from {table}",
        ],
    ),
    sql(
        "shadow-type",
        "Put another type before the policy's.",
        Unseen,
        &[
            "create domain pg_temp.uuid as text",
            "set search_path = pg_temp, app, public",
            "select * from {table}",
        ],
    ),
    sql(
        "shadow-table",
        "Put a temporary table in the way of the application's.",
        Unseen,
        &["create temporary table {table} (like {table})", "select * from {table}"],
    ),
    sql(
        "temporary-of-others",
        "Read others' temporary schemas.",
        Unseen,
        &[
            "select * from pg_temp_3.{table}",
            "select * from pg_temp_4.{table}",
            "create table pg_temp_5.x (a int)",
        ],
    ),
    sql(
        "create-in-app",
        "Make a table beside the application's.",
        Refused,
        &["begin", "create table {schema}.insula_attack (a int)"],
    ),
    sql(
        "create-in-pool",
        "Make a table in the pool's schema.",
        Refused,
        &["begin", "create table app.insula_attack (a int)"],
    ),
    sql(
        "create-in-insula",
        "Make a table in Insula's schema.",
        Refused,
        &["begin", "create table insula.insula_attack (a int)"],
    ),
    sql(
        "create-in-catalog",
        "Make a function in PostgreSQL's schema.",
        Refused,
        &["begin", "create function pg_catalog.insula_attack() returns int language sql return 1"],
    ),
    sql("create-schema", "Make a schema.", Refused, &["begin", "create schema insula_attack"]),
    sql(
        "create-database",
        "Make a database from the victim's.",
        Refused,
        &["create database insula_attack template {database}"],
    ),
];

pub(super) const DEFINITIONS: &[Attempt] = &[
    sql(
        "definer-function",
        "Read by a function that runs as its owner.",
        Unseen,
        &[
            "create function pg_temp.steal() returns setof text language sql security definer as 'select {column} from {schema}.{table}'",
            "select * from pg_temp.steal()",
        ],
    ),
    sql(
        "definer-owned-by-victim",
        "Hand a function over to the victim.",
        Refused,
        &[
            "create function pg_temp.steal() returns name language sql security definer return current_user",
            "alter function pg_temp.steal() owner to {role}",
        ],
    ),
    sql(
        "definer-known",
        "Run the definer functions that are there.",
        Itself,
        &["select from (select insula.enrol('{id}', '{id}', 0::oid, 0)) x", "select current_user"],
    ),
    sql(
        "enrol",
        "Enrol the victim in the attacker's pool.",
        Refused,
        &["begin", "select insula.enrol('{id}', '{id}', 0::oid, 0)"],
    ),
    sql("pool-tenants", "Read who is in the pool.", Nothing, &["select * from insula.pool_tenants"]),
    sql(
        "pool-tenants-write",
        "Write who is in the pool.",
        Nothing,
        &["begin", "update insula.pool_tenants set tenant = '{id}'"],
    ),
    sql(
        "view-temporary",
        "Read by a view.",
        Unseen,
        &["create temporary view v as select * from {table}", "select * from v"],
    ),
    sql(
        "view-without-barrier",
        "Read by a view with a leaky condition.",
        Unseen,
        &[
            "create temporary view v with (security_barrier = false) as select * from {schema}.{table}",
            "select * from v where {column} is not null",
        ],
    ),
    sql(
        "materialized-view",
        "Keep what a view would read.",
        Unseen,
        &[
            "begin",
            "create materialized view {mine}.mv as select * from {schema}.{table}",
            "select * from {mine}.mv",
        ],
    ),
    sql(
        "create-table-as",
        "Keep what a query reads.",
        Unseen,
        &[
            "begin",
            "create temporary table kept on commit drop as select * from {schema}.{table}",
            "select * from kept",
        ],
    ),
    sql(
        "policy-for-all",
        "Add a policy that lets all through.",
        Refused,
        &["begin", "create policy mine on {table} using (true)"],
    ),
    sql("policy-dropped", "Drop the policy.", Refused, &["begin", "drop policy insula_tenant on {table}"]),
    sql(
        "policy-altered",
        "Change the policy.",
        Refused,
        &["begin", "alter policy insula_tenant on {table} using (true)"],
    ),
    sql(
        "row-security-disabled",
        "Switch row security off for the table.",
        Refused,
        &["begin", "alter table {table} disable row level security"],
    ),
    sql(
        "row-security-not-forced",
        "Let the owner past row security.",
        Refused,
        &["begin", "alter table {table} no force row level security"],
    ),
    sql(
        "table-owner",
        "Take the table over.",
        Refused,
        &["begin", "alter table {table} owner to {own_role}"],
    ),
    sql("table-dropped", "Drop the table.", Refused, &["begin", "drop table {schema}.{table} cascade"]),
    sql(
        "column-default",
        "Change what the tenant column is by default.",
        Refused,
        &["begin", "alter table {table} alter column tenant_id set default '{id}'"],
    ),
    sql(
        "column-added",
        "Add a column.",
        Refused,
        &["begin", "alter table {table} add column insula_attack int"],
    ),
    sql(
        "table-attached",
        "Attach a table of the attacker's.",
        Refused,
        &["begin", "alter table {table} inherit {table}"],
    ),
    sql(
        "inherit-table",
        "Make a table that inherits from the shared one.",
        Refused,
        &["create temporary table heir () inherits ({table})"],
    ),
    sql(
        "table-moved",
        "Move the table to another schema.",
        Refused,
        &["begin", "alter table {table} set schema pg_temp"],
    ),
    sql(
        "trigger",
        "Add a trigger that runs with others' rows.",
        Refused,
        &[
            "begin",
            "create trigger t before insert on {table} for each row execute function suppress_redundant_updates_trigger()",
        ],
    ),
    sql(
        "rule",
        "Add a rule that runs with others' statements.",
        Refused,
        &["begin", "create rule r as on insert to {table} do also select 1"],
    ),
    sql(
        "index-function",
        "Add an index whose function runs with others' rows.",
        Refused,
        &["begin", "create index on {table} (lower({column}))"],
    ),
    sql(
        "statistics-object",
        "Gather statistics over others' rows.",
        Refused,
        &["begin", "create statistics {mine}.s on {key}, {column} from {table}"],
    ),
    sql(
        "grant-all",
        "Give rights on the table to everybody.",
        Refused,
        &["begin", "grant all on {table} to public"],
    ),
    sql(
        "default-privileges",
        "Give rights on what others will make.",
        Refused,
        &["begin", "alter default privileges for role {role} grant all on tables to {own_role}"],
    ),
    sql("drop-schema", "Drop the victim's schema.", Refused, &["begin", "drop schema {schema} cascade"]),
    sql(
        "drop-copy-schema",
        "Drop the views that COPY uses.",
        Refused,
        &["begin", "drop schema insula_copy cascade"],
    ),
    sql(
        "alter-database",
        "Change the settings of the victim's database.",
        Refused,
        &["begin", "alter database {database} set search_path = pg_temp"],
    ),
    sql("drop-database", "Drop the victim's database.", Refused, &["drop database {database}"]),
    sql(
        "rename-database",
        "Rename the victim's database.",
        Refused,
        &["alter database {database} rename to insula_attack"],
    ),
    sql(
        "cast",
        "Replace a cast that the application uses.",
        Refused,
        &[
            "begin",
            "create function {mine}.c(text) returns int language sql immutable return 1",
            "create cast (text as int) with function {mine}.c(text) as implicit",
        ],
    ),
    sql(
        "event-trigger",
        "Run with everybody's definitions.",
        Refused,
        &[
            "begin",
            "create event trigger e on ddl_command_start execute function pg_catalog.suppress_redundant_updates_trigger()",
        ],
    ),
    sql(
        "security-label",
        "Label the victim's role.",
        Refused,
        &["begin", "security label on role {role} is 'x'"],
    ),
    sql(
        "comment-on-database",
        "Write on the victim's database.",
        Refused,
        &["begin", "comment on database {database} is 'x'"],
    ),
];
