//! A real PostgreSQL as the judge: whatever a session holds after a statement
//! must have been announced.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use insula_session_sql::{Effects, Pin, effects};
use insula_testkit::TestDatabase;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Custom settings that the statements use.
const CUSTOM: &[&str] = &["app.a", "app.b", "local.x", "session.y", "app.c.d"];

/// What is asked in a session, and what its answers mean. Each gives rows of
/// one column. Those settings of the transaction that SET TRANSACTION changes
/// stay in the list when it is over, with the next one's values.
const QUESTIONS: &[(Holds, &str)] = &[
    (
        Holds::Settings,
        "select name || '=' || setting from pg_settings \
         where source = 'session' and name not in ('role', 'session_authorization', 'seed', \
         'transaction_isolation', 'transaction_read_only', 'transaction_deferrable')",
    ),
    (
        Holds::Pinned(Pin::AdvisoryLock),
        "select mode from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ),
    (Holds::Pinned(Pin::SqlPrepare), "select name from pg_prepared_statements where from_sql"),
    (Holds::Pinned(Pin::HeldCursor), "select name from pg_cursors where is_holdable"),
    (Holds::Pinned(Pin::Listen), "select pg_listening_channels()"),
    (
        Holds::Pinned(Pin::TemporaryObject),
        "select relname from pg_class where relnamespace = pg_my_temp_schema()",
    ),
    (
        Holds::Pinned(Pin::TemporaryObject),
        "select proname from pg_proc where pronamespace = pg_my_temp_schema()",
    ),
];

/// What a session holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Settings,
    Custom(String),
    Pinned(Pin),
    Definitions,
}

async fn column(client: &Client, query: &str) -> Vec<String> {
    let answers = client.simple_query(query).await.unwrap();
    let value = |answer: &SimpleQueryMessage| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    answers.iter().filter_map(value).collect()
}

const ROLE: &str = "select session_user || '/' || current_user";

async fn tables(client: &Client) -> Vec<String> {
    column(client, "select oid::text from pg_class where relnamespace = 'public'::regnamespace order by oid")
        .await
}

/// What a fresh session holds after the text, and what its random numbers then
/// begin with.
async fn held(database: &TestDatabase, text: &str) -> (BTreeSet<Holds>, String) {
    let client = database.connect().await;
    let (before, role) = (tables(&client).await, column(&client, ROLE).await);
    let mut held = BTreeSet::new();
    client.simple_query(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    for (holds, question) in QUESTIONS {
        if !column(&client, question).await.is_empty() {
            held.insert(holds.clone());
        }
    }
    if column(&client, ROLE).await != role {
        held.insert(Holds::Pinned(Pin::Role));
    }
    let random = column(&client, "select random()::text").await.remove(0);
    for name in CUSTOM {
        let value = column(&client, &format!("select nullif(current_setting('{name}', true), '')")).await;
        if !value.is_empty() {
            held.insert(Holds::Custom((*name).to_owned()));
        }
    }
    client.simple_query("reset session authorization; reset role").await.unwrap();
    if tables(&client).await != before {
        held.insert(Holds::Definitions);
    }
    (held, random)
}

/// What is held and was not announced.
fn unannounced(held: &BTreeSet<Holds>, effects: &Effects) -> Vec<Holds> {
    let is_announced = |holds: &Holds| match holds {
        Holds::Settings => effects.changes_settings,
        Holds::Custom(name) => {
            effects.changes_settings && (effects.custom_settings.contains(name) || effects.pin.is_some())
        }
        Holds::Pinned(_) => effects.pin.is_some(),
        Holds::Definitions => effects.changes_definitions,
    };
    held.iter().filter(|holds| !is_announced(holds)).cloned().collect()
}

/// Statements after which a session holds something.
const HOLDING: &[&str] = &[
    "create temp table x (a int)",
    "create local temporary table x as select 1",
    "create temp sequence s",
    "create or replace temporary view v as select 1",
    "create or replace temp recursive view v (a) as select 1",
    "select 1 as a into temp x",
    "select 1 as a into local temporary table x",
    "with a as (select 1 as insert) select insert into temp x from a",
    "explain analyze create temp table x as select 1",
    "create table pg_temp.x (a int)",
    "create table \"pg_temp\" . x (a int)",
    "create function pg_temp.f() returns int language sql as 'select 1'",
    "set search_path = 'pg_temp'; create table x (a int)",
    "begin; set local schema 'pg_temp'; create table x (a int); commit",
    "begin; select set_config('search_path', 'PG_TEMP', true); create table x (a int); commit",
    "do $$ begin create temp table x (a int); end $$",
    "do $$ begin execute 'create te' || 'mp table x (a int)'; end $$",
    "select pg_advisory_lock(1001)",
    "select \"pg_advisory_lock_shared\"(1002)",
    "select pg_catalog.pg_try_advisory_lock/**/(1003)",
    "select PG_TRY_ADVISORY_LOCK_SHARED(1004)",
    "do 'begin perform pg_advisory_lock(1005); end'",
    "do E'begin perform pg_\\x61dvisory_lock(1006); end'",
    "select U&\"pg_!0061dvisory_lock\" uescape '!' (1007)",
    "select query_to_xml('select pg_' || 'advisory_lock(1008)', true, true, '')",
    "declare c cursor with hold for select 1",
    "declare \"for\" no scroll cursor with /* hold */ hold for select 1",
    "begin; declare c binary cursor with hold for select 1; commit",
    "listen a",
    "begin; listen \"B\"; commit",
    "prepare a as select 1",
    "prepare transaction as select 1",
    "set role pg_monitor",
    "set session role = 'pg_monitor'",
    "set \"ROLE\" to pg_monitor",
    "set session authorization pg_monitor",
    "set session session authorization 'pg_monitor'",
    "set session_authorization = pg_monitor",
    "select set_config('role', 'pg_monitor', false)",
    "do $$ begin set role pg_monitor; end $$",
    "set statement_timeout = '1h'",
    "set session statement_timeout to '1h'",
    "set time zone 'Asia/Tokyo'",
    "set names 'latin1'",
    "set session characteristics as transaction isolation level serializable",
    "set xml option document",
    "select set_config('statement_timeout', '1h', 'false')",
    "select set_config('statement_timeout', '1h', not true)",
    "select 'a\\'; set statement_timeout = '1h'; select ''",
    "do $$ begin perform set_config('statement_timeout', '1h', false); end $$",
    "set app.a = '1'",
    "set App . \"B\" to '1'; set app.a = 2",
    "set \"app.a\" = '1'",
    "set local.x = 1",
    "set session session.y = 1",
    "set app.c.d = 1",
    "select set_config('app.a', '1', false), set_config(E'app.b', '1', false)",
    "select set_config('app.' || 'a', '1', false)",
    "select set_config('app.a', set_config('app.b', '1', false), false)",
    "do $$ begin set app.a = '1'; perform set_config('app.b', '2', false); end $$",
    "create table t1 (a int)",
    "select 1 as a into t2",
    "explain analyze create table t3 as select 1 as a",
    "do $$ begin create table t4 (a int); end $$",
    "begin; create view t5 as select 1; commit",
];

/// Statements after which it holds nothing, and of which nothing is announced.
const PLAIN: &[&str] = &[
    "select 1",
    "insert into temp values (1)",
    "insert into temp values ('2'), ('3') on conflict do nothing",
    "with a as (select 5) insert into hold select * from a",
    "update hold set role = 1, listen = 2",
    "select 'create temp table x', $$listen x$$, $a$;set role x;$a$",
    "begin; set local app.a = '1'; select set_config('app.b', '2', true); set local role pg_monitor; commit",
    "begin; set transaction isolation level serializable; set constraints all deferred; commit",
    "begin; select pg_advisory_xact_lock(1009), pg_try_advisory_xact_lock_shared(1010); commit",
    "begin; declare c cursor without hold for select 1; commit",
    "begin; declare c cursor for with hold as (select 1) select * from hold; commit",
    "truncate hold",
    "comment on table hold is 'create temp table x'",
    "notify x",
    "discard temp; discard plans; discard sequences",
];

async fn database() -> TestDatabase {
    let database = TestDatabase::create("session_sql").await;
    let tables = "create table temp (a text); create table hold (role int, listen int)";
    database.connect().await.batch_execute(tables).await.unwrap();
    database
}

#[tokio::test]
async fn whatever_the_server_holds_was_announced() {
    let database = database().await;
    for text in HOLDING {
        let (held, _) = held(&database, text).await;
        assert!(!held.is_empty(), "{text}: the server holds nothing");
        let effects = effects(text.as_bytes());
        assert_eq!(unannounced(&held, &effects), [], "{text}: {effects:?}");
        // Each would be noticed if nothing were announced.
        assert_eq!(unannounced(&held, &Effects::default()).len(), held.len(), "{text}");
    }
}

#[tokio::test]
async fn plain_statements_leave_nothing_on_the_server_either() {
    let database = database().await;
    for text in PLAIN {
        assert_eq!(held(&database, text).await.0, BTreeSet::new(), "{text}");
        assert_eq!(effects(text.as_bytes()), Effects::default(), "{text}");
    }
}

/// A seed shows in that two sessions have the same random numbers.
#[tokio::test]
async fn seeds_are_announced() {
    let database = database().await;
    for (text, is_seed) in [
        ("select setseed(0.5)", true),
        ("set seed = 0.5", true),
        ("begin; set local seed to 0.5; commit", true),
        ("select set_config('SEED', '0.5', true)", true),
        ("do $$ begin perform setseed(0.5); end $$", true),
        ("select 'setseed(0.5)'", false),
    ] {
        let ((_, one), (_, other)) = (held(&database, text).await, held(&database, text).await);
        assert_eq!(one == other, is_seed, "{text}");
        assert_eq!(effects(text.as_bytes()).pin.is_some(), is_seed, "{text}");
    }
}

/// The name that is found is the one that the server looks for, and another one
/// can be put in its place.
#[tokio::test]
async fn deallocated_names_are_those_that_the_server_looks_for() {
    let database = database().await;
    let client = database.connect().await;
    for (text, prepared) in [
        ("deallocate Ab", "ab"),
        ("DEALLOCATE PREPARE \"A \"\"b\"", "A \"b"),
        ("deallocate /* all */ prepare;", "prepare"),
        ("deallocate prepare prepare", "prepare"),
        ("deallocate \"all\"", "all"),
        ("deallocate \"größe\"", "größe"),
        ("deallocate größe", "größe"),
    ] {
        let found = effects(text.as_bytes()).deallocates.unwrap();
        assert_eq!(found.name, prepared.as_bytes(), "{text}");
        let quoted = format!("\"{}\"", prepared.replace('"', "\"\""));
        client.simple_query(&format!("prepare {quoted} as select 1")).await.unwrap();
        client.simple_query(text).await.unwrap();
        client.simple_query("prepare other as select 1").await.unwrap();
        let renamed = [&text[..found.range.start], "\"other\"", &text[found.range.end..]].concat();
        client.simple_query(&renamed).await.unwrap();
        assert_eq!(column(&client, "select name from pg_prepared_statements where from_sql").await, [""; 0]);
    }
}

/// What is set in a session before statements that may reset it.
const SET: &str = "set timezone = 'Asia/Tokyo'; set client_encoding = 'latin1'; set work_mem = '5MB'; \
                   set session characteristics as transaction read only; set datestyle = 'German'";

/// How much of it stays.
const STAYS: &str = "select name from pg_settings where source = 'session' and name in \
                     ('TimeZone', 'client_encoding', 'work_mem', 'default_transaction_read_only', 'DateStyle')";

/// Statements that reset something of it.
const RESETTING: &[&str] = &[
    "reset timezone",
    "reset all",
    "discard all",
    "RESET TIME ZONE",
    "set timezone to default",
    "set \"TimeZone\" = DEFAULT",
    "set session work_mem to/**/default",
    "set time zone default",
    "SET TIME ZONE LOCAL",
    "set session time zone local",
    "set names",
    "set names default",
    "select 1; set names;",
    "select set_config('timezone', null, false)",
    "select pg_catalog.\"set_config\"('work_mem', nullif(1, 1)::text, false)",
    "do $$ begin reset timezone; end $$",
    "do $$ begin execute 're' || 'set timezone'; end $$",
    "select query_to_xml('select set_' || 'config(''timezone'', null, false)', true, true, '')",
    "begin; reset work_mem; commit",
];

/// Statements that set something and reset nothing.
const SETTING: &[&str] = &[
    "set timezone = 'UTC'",
    "set session work_mem to '6MB'",
    "set app.\"default\" = 'x'",
    "set client_encoding = 'utf8'",
    "set xml option content",
    "set session characteristics as transaction read write",
    "set datestyle = 'ISO'; begin; set work_mem = '6MB'; rollback",
];

#[tokio::test]
async fn what_resets_settings_is_announced_and_what_only_sets_them_is_not() {
    let database = database().await;
    for (texts, resets) in [(RESETTING, true), (SETTING, false)] {
        for text in texts {
            let client = database.connect().await;
            client.batch_execute(SET).await.unwrap();
            assert_eq!(column(&client, STAYS).await.len(), 5);
            let done = client.simple_query(text).await;
            done.unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(column(&client, STAYS).await.len() < 5, resets, "{text}");
            assert_eq!(effects(text.as_bytes()).resets_settings, resets, "{text}");
        }
    }
}
