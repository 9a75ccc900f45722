//! What objects of a tenant's own open, where its tier allows them; elsewhere
//! the same statements are refused. Everything is taken back.

use crate::attempt::Want::{GoesOn, Nothing, Refused, Unseen};
use crate::attempt::{Attempt, sql};

pub(super) const ATTEMPTS: &[Attempt] = &[
    sql(
        "own-view-over-victim",
        "Read the victim's table by a view of one's own.",
        Unseen,
        &["begin", "create view {mine}.v as select * from {schema}.{table}", "select * from {mine}.v"],
    ),
    sql(
        "own-definer",
        "Read the victim's table by a function of one's own.",
        Unseen,
        &[
            "begin",
            "create function {mine}.steal() returns setof text language sql security definer as 'select {column} from {schema}.{table}'",
            "select * from {mine}.steal()",
        ],
    ),
    sql(
        "own-role-in-function",
        "Become the victim in a function of one's own.",
        Unseen,
        &[
            "begin",
            "create function {mine}.steal() returns setof text language plpgsql as $$ begin execute 'set role {role}'; return query select {column}::text from {table}; end $$",
            "select * from {mine}.steal()",
        ],
    ),
    sql(
        "own-leaky-operator",
        "Compare the victim's values by an operator of one's own.",
        Unseen,
        &[
            "begin",
            "create function {mine}.eq(text, text) returns bool language plpgsql cost 0.0000001 as $$ begin raise notice '% %', $1, $2; return true; end $$",
            "create operator {mine}.= (leftarg = text, rightarg = text, function = {mine}.eq)",
            "set local search_path = {mine}, {schema}, pg_catalog",
            "select 1 from {schema}.{table} where {column} = 'x'",
        ],
    ),
    sql("own-read-theirs", "Read what the victim made itself.", Nothing, &["select * from {their_table}"]),
    sql(
        "own-create-in-theirs",
        "Make a table among the victim's own.",
        Refused,
        &["begin", "create table {theirs}.insula_attack (a int)"],
    ),
    sql(
        "own-drop-theirs",
        "Drop what the victim made itself.",
        Refused,
        &["begin", "drop table {their_table}"],
    ),
    sql(
        "own-drop-their-schema",
        "Drop the schema of what the victim made itself.",
        Refused,
        &["begin", "drop schema {theirs} cascade"],
    ),
    sql(
        "own-lock-theirs",
        "Lock what the victim made itself.",
        GoesOn,
        &[
            "begin",
            "create function {mine}.l() returns void language plpgsql as $$ begin lock table {their_table}; end $$",
            "select from (select {mine}.l()) x",
        ],
    ),
    sql(
        "own-rename-into-theirs",
        "Move a table among the victim's own.",
        Refused,
        &[
            "begin",
            "create table {mine}.insula_attack (a int)",
            "alter table {mine}.insula_attack set schema {theirs}",
        ],
    ),
    sql(
        "own-give-to-victim",
        "Make the victim the owner of a function.",
        Refused,
        &[
            "begin",
            "create function {mine}.f() returns int language sql return 1",
            "alter function {mine}.f() owner to {role}",
        ],
    ),
    sql(
        "own-foreign-key",
        "Refer to the victim's rows from a table of one's own.",
        Refused,
        &["begin", "create table {mine}.insula_attack (a bigint references {schema}.{table})"],
    ),
    sql(
        "own-trigger-on-app",
        "Run with the application's rows.",
        Refused,
        &[
            "begin",
            "create function {mine}.t() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger t before insert on {table} for each row execute function {mine}.t()",
        ],
    ),
    sql(
        "own-event-trigger",
        "Run with everybody's definitions by a function of one's own.",
        Refused,
        &[
            "begin",
            "create function {mine}.e() returns event_trigger language plpgsql as 'begin end'",
            "create event trigger e on ddl_command_start execute function {mine}.e()",
        ],
    ),
    sql(
        "own-extension",
        "Add an extension to a schema of one's own.",
        Refused,
        &["begin", "create extension dblink schema {mine}"],
    ),
    sql(
        "own-aggregate",
        "Aggregate the victim's values by a function of one's own.",
        Unseen,
        &[
            "begin",
            "create aggregate {mine}.all_of(text) (sfunc = textcat, stype = text, initcond = '')",
            "select {mine}.all_of({column}) from {schema}.{table}",
        ],
    ),
    sql(
        "own-c-function",
        "Add a function that runs in the server.",
        Refused,
        &["begin", "create function {mine}.x(text) returns int language c as 'libc.so.6', 'system'"],
    ),
    sql(
        "own-internal-function",
        "Name a function of the server's that is closed.",
        Refused,
        &["begin", "create function {mine}.x(text) returns text language internal as 'pg_read_file_all'"],
    ),
];
