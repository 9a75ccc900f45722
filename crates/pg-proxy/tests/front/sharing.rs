//! Sessions that share backends: nothing of one is found by another, each finds
//! again what it has left, and who cannot be without its backend keeps it.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use insula_domain::{PoolMode, TenantStatus};
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::Message;
use insula_pg_wire::backend::{parse_parameter_status, tag};
use insula_pg_wire::frontend::{self};
use tokio_postgres::Client;

use crate::prepared::{Extended, extended, pid_of, sqlstate};
use crate::raw::{Raw, letters};
use crate::support::{IN_USE, PATIENCE, World, connect, one, pair, refused, words};

/// A front with so many backends in all.
pub async fn world_of(backends: u32) -> World {
    World::start_with(config_of(backends), None).await
}

pub fn config_of(backends: u32) -> PgProxyConfig {
    PgProxyConfig {
        backends_per_cluster_max: backends,
        backends_per_tenant_max: Some(backends),
        ..PgProxyConfig::default()
    }
}

pub async fn pid(client: &Client) -> String {
    one(client, "select pg_backend_pid()::text").await
}

#[tokio::test]
async fn sessions_take_turns_on_one_backend() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let clients = join_all((0..20).map(|_| world.connect(&tenant))).await;
    let first = pid(&clients[0]).await;
    for client in &clients {
        assert_eq!(pid(client).await, first);
    }
    assert_eq!(world.backends(&tenant, "true").await, 1);
    clients[0].batch_execute("create table t (x int)").await.unwrap();
    let all = clients.iter().map(|client| client.batch_execute("begin; insert into t values (1); commit"));
    join_all(all).await.into_iter().for_each(|done| done.unwrap());
    assert_eq!(one(&clients[3], "select count(*)::text from t").await, "20");
    // Without sharing there would be one for each: the canary.
    let keeping = World::start_in_session_mode().await;
    let tenant = keeping.tenant("acme").await;
    let _clients = join_all((0..5).map(|_| keeping.connect(&tenant))).await;
    assert_eq!(keeping.backends(&tenant, "true").await, 5);
}

/// The value of a setting; empty where it is not set.
pub async fn setting(client: &Client, name: &str) -> String {
    one(client, &format!("select coalesce(current_setting('{name}', true), '')")).await
}

#[tokio::test]
async fn settings_stay_with_their_session() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b) = (world.connect(&tenant).await, world.connect(&tenant).await);
    let usual = setting(&b, "timezone").await;
    a.batch_execute("set timezone = 'Europe/Zurich'").await.unwrap();
    a.batch_execute("set app.actor = 'it''s \\ ä'").await.unwrap();
    assert_eq!(
        (setting(&b, "timezone").await, setting(&b, "app.actor").await),
        (usual.clone(), String::new())
    );
    assert_eq!(setting(&a, "timezone").await, "Europe/Zurich");
    assert_eq!(setting(&a, "app.actor").await, "it's \\ ä");
    // What was rolled back, or was for a transaction alone, was not set.
    for text in [
        "begin; set timezone = 'Asia/Tokyo'; rollback",
        "begin; set local timezone = 'Asia/Tokyo'; commit",
        "begin; savepoint s; set timezone = 'Asia/Tokyo'; rollback to s; commit",
        "select set_config('timezone', 'Asia/Tokyo', true)",
    ] {
        a.batch_execute(text).await.unwrap();
        pid(&b).await;
        assert_eq!(setting(&a, "timezone").await, "Europe/Zurich", "{text}");
    }
    // What was set by a function is found as well.
    a.batch_execute("select set_config('app.actor', 'x', false); do $$ begin set work_mem = '5MB'; end $$")
        .await
        .unwrap();
    assert_eq!(
        (setting(&b, "app.actor").await, setting(&b, "work_mem").await),
        (String::new(), "4MB".into())
    );
    assert_eq!((setting(&a, "app.actor").await, setting(&a, "work_mem").await), ("x".into(), "5MB".into()));
    a.batch_execute("reset all").await.unwrap();
    pid(&b).await;
    assert_eq!((setting(&a, "timezone").await, setting(&a, "app.actor").await), (usual, String::new()));
}

#[tokio::test]
async fn settings_of_the_start_come_along() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let mut clients = Vec::new();
    for name in ["first", "second"] {
        let mut config = world.config(&tenant);
        config.application_name(name).options("-c statement_timeout=7s");
        clients.push((name, connect(&config).await.unwrap()));
    }
    let plain = world.connect(&tenant).await;
    for _ in 0..2 {
        for (name, client) in &clients {
            assert_eq!(setting(client, "application_name").await, *name);
            assert_eq!(setting(client, "statement_timeout").await, "7s");
        }
        assert_eq!(setting(&plain, "statement_timeout").await, "0");
    }
    // They are what a session is reset to.
    let (name, client) = &clients[0];
    for text in ["reset all", "discard all", "set statement_timeout = '3s'; reset statement_timeout"] {
        client.batch_execute("set work_mem = '5MB'; set application_name = 'other'").await.unwrap();
        client.batch_execute(text).await.unwrap();
        assert_eq!(setting(client, "statement_timeout").await, "7s", "{text}");
        let (named, reset) = if text.starts_with("set") { ("other", "5MB") } else { (*name, "4MB") };
        assert_eq!(
            (setting(client, "application_name").await.as_str(), setting(client, "work_mem").await.as_str()),
            (named, reset),
            "{text}"
        );
        assert_eq!(setting(&plain, "statement_timeout").await, "0");
    }
    let mut config = world.config(&tenant);
    config.options("-c work_mem=nonsense");
    let (sqlstate, message, _) = words(&connect(&config).await.map(drop).unwrap_err());
    assert_eq!(sqlstate, "22023", "{message}");
    assert_eq!(world.backends(&tenant, IN_USE).await, 0);
    assert_eq!(setting(&plain, "work_mem").await, "4MB");
}

#[tokio::test]
async fn who_ends_a_copy_that_there_is_not_keeps_no_backend() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    // As Postgres.js ends the COPY before it once more.
    raw.write(|out| {
        frontend::put_query(out, b"select 1").unwrap();
        out.extend_from_slice(b"f\0\0\0\x06x\0");
    })
    .await;
    raw.until_ready().await;
    assert_eq!(one(&world.connect(&tenant).await, "select 'served'").await, "served");
}

/// The values that a client is told of a setting, in their order.
fn told(messages: &[Message], name: &str) -> Vec<String> {
    let statuses = messages.iter().filter(|message| message.tag == tag::PARAMETER_STATUS);
    let pairs = statuses.map(|message| parse_parameter_status(&message.body).unwrap());
    let values = pairs.filter(|(status, _)| *status == name.as_bytes());
    values.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn clients_are_told_of_their_own_settings_alone() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut a, _) = Raw::session(&world, &tenant).await;
    let (mut b, _) = Raw::session(&world, &tenant).await;
    a.query("set timezone = 'Asia/Tokyo'").await;
    assert_eq!(told(&a.until_ready().await, "TimeZone"), ["Asia/Tokyo"]);
    for raw in [&mut b, &mut a] {
        raw.query("select 1").await;
        assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    }
}

/// What leaves something in its session that cannot be carried to another
/// backend.
const PINNING: [&str; 8] = [
    "create temp table mine (x int)",
    "select pg_advisory_lock(7)",
    "declare c cursor with hold for select 1",
    "listen x",
    "prepare p as select 1",
    "select 1 into temp mine",
    "select setseed(0.5)",
    "do $$ begin perform pg_advisory_lock(8); end $$",
];

#[tokio::test]
async fn who_cannot_be_without_its_backend_keeps_it() {
    let world = world_of(2).await;
    let tenant = world.tenant("acme").await;
    let other = world.connect(&tenant).await;
    for text in PINNING {
        let client = world.connect(&tenant).await;
        client.batch_execute(text).await.unwrap();
        let own = pid(&client).await;
        let others = join_all((0..10).map(|_| pid(&other))).await;
        assert!(!others.contains(&own), "{text}");
        assert_eq!(pid(&client).await, own, "{text}");
        drop(client);
        // It ends with its session: nobody finds what is in it.
        let gone = format!("pid = {own}");
        world.until_backends(&tenant, &gone, 0).await;
    }
    // The canary: without such a statement the backends are shared.
    let client = world.connect(&tenant).await;
    let own = pid(&client).await;
    // One of the two is busy, so whoever comes third gets the other one.
    other.batch_execute("begin").await.unwrap();
    let third = world.connect(&tenant).await;
    assert!([pid(&other).await, pid(&third).await].contains(&own));
}

#[tokio::test]
async fn what_sequences_gave_to_others_is_never_read() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b) = (world.connect(&tenant).await, world.connect(&tenant).await);
    a.batch_execute("create table t (id serial, x int)").await.unwrap();
    a.batch_execute("insert into t (x) values (1), (2)").await.unwrap();
    for query in ["select lastval()::text", "select currval('t_id_seq')::text"] {
        let client = world.connect(&tenant).await;
        let (sqlstate, ..) = words(&client.query_one(query, &[]).await.unwrap_err());
        assert_eq!(sqlstate, "55000", "{query}");
    }
    let (sqlstate, ..) = words(&b.batch_execute("select lastval()").await.unwrap_err());
    assert_eq!(sqlstate, "55000");
    // Who reads them keeps its backend from there on, and reads its own.
    assert_eq!(one(&b, "insert into t (x) values (3) returning id::text").await, "3");
    assert_eq!(one(&b, "select lastval()::text").await, "3");
    drop(b);
    // In one transaction it always worked.
    let last = a.simple_query("begin; insert into t (x) values (4); select lastval(); commit").await.unwrap();
    let rows = last.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(rows.collect::<Vec<_>>(), ["4"]);
}

/// Also where other settings come first, or a driver sends all at once.
#[tokio::test]
async fn what_sequences_gave_is_not_read_behind_other_settings_or_within_a_pipeline() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let a = world.connect(&tenant).await;
    a.batch_execute("create table t (id serial, x int)").await.unwrap();
    a.batch_execute("insert into t (x) values (1)").await.unwrap();
    let mut config = world.config(&tenant);
    config.application_name("other");
    let b = connect(&config).await.unwrap();
    a.batch_execute("insert into t (x) values (1)").await.unwrap();
    assert_eq!(words(&b.batch_execute("select lastval()").await.unwrap_err()).0, "55000");
    drop(b);
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    a.batch_execute("insert into t (x) values (1)").await.unwrap();
    let messages = extended(&mut raw, &[Extended { name: b"last", text: Some(b"select lastval()") }]).await;
    assert_eq!(sqlstate(&messages), "55000");
}

#[tokio::test]
async fn who_waits_too_long_is_told_and_nobody_else_is_held_up() {
    let world = world_of(2).await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let mut acmes = join_all((0..4).map(|_| world.connect(&acme))).await;
    for client in &acmes[..2] {
        client.batch_execute("begin").await.unwrap();
    }
    // For those alone who are to be told: a busy machine may take as long for the others.
    world.proxy.set_config(PgProxyConfig { backend_wait_max: Duration::from_millis(500), ..config_of(2) });
    let (sqlstate, message, hint) = words(&acmes[2].batch_execute("select 1").await.unwrap_err());
    assert_eq!((sqlstate, hint), pair("53300", "overloaded"));
    assert!(message.contains("acme"), "{message}");
    assert_eq!(refused(&world.config(&globex)).await, pair("53300", "overloaded"));
    world.proxy.set_config(config_of(2));
    let waiting = acmes[3].batch_execute("select 1");
    let freed = async {
        acmes[0].batch_execute("commit").await.unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, freed);
    waited.unwrap();
    // A place that is free goes to another tenant, whose backend it was not.
    assert_eq!(one(&world.connect(&globex).await, "select 'in'").await, "in");
    acmes.truncate(1);
}

#[tokio::test]
async fn a_backend_that_died_meanwhile_is_not_given_out() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    let admin = world.database.connect().await;
    for _ in 0..3 {
        let own = pid_of(&mut raw).await;
        let pid = String::from_utf8(own[6..].to_vec()).unwrap();
        admin.execute("select pg_terminate_backend($1::text::int, 20000)", &[&pid]).await.unwrap();
        assert_ne!(pid_of(&mut raw).await, own);
    }
}

#[tokio::test]
async fn who_leaves_within_a_transaction_leaves_nothing() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    client.batch_execute("create table t (x int)").await.unwrap();
    let leaving = world.connect(&tenant).await;
    leaving.batch_execute("begin; insert into t values (1)").await.unwrap();
    drop(leaving);
    assert_eq!(one(&client, "select count(*)::text from t").await, "0");
    // Also in the middle of a COPY.
    let leaving = world.connect(&tenant).await;
    let mut sink = Box::pin(leaving.copy_in::<_, bytes::Bytes>("copy t from stdin").await.unwrap());
    sink.send(bytes::Bytes::from_static(b"1\n2\n")).await.unwrap();
    drop((sink, leaving));
    assert_eq!(one(&client, "select count(*)::text from t").await, "0");
}

#[tokio::test]
async fn copies_go_both_ways() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b) = (world.connect(&tenant).await, world.connect(&tenant).await);
    a.batch_execute("create table t (x int)").await.unwrap();
    for client in [&a, &b] {
        let sink = client.copy_in::<_, bytes::Bytes>("copy t from stdin").await.unwrap();
        pin_mut!(sink);
        for _ in 0..100 {
            sink.send(bytes::Bytes::from_static(b"1\n2\n3\n")).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 300);
        pid(&a).await;
    }
    for client in [&a, &b] {
        let rows = client.copy_out("copy t to stdout").await.unwrap();
        let bytes: Vec<bytes::Bytes> = rows.try_collect().await.unwrap();
        assert_eq!(bytes.concat().len(), 600 * 2);
    }
}

#[tokio::test]
async fn a_cancel_reaches_its_own_session_or_nobody() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (late, busy) = (world.connect(&tenant).await, world.connect(&tenant).await);
    assert_eq!(pid(&late).await, pid(&busy).await, "they share a backend");
    let token = late.cancel_token();
    for _ in 0..20 {
        let sleep = busy.batch_execute("select pg_sleep(0.02)");
        let (slept, cancelled) = tokio::join!(sleep, token.cancel_query(tokio_postgres::NoTls));
        slept.unwrap();
        cancelled.unwrap();
    }
    // The canary: its own query it does reach.
    let own = busy.cancel_token();
    let sleep = busy.batch_execute("select pg_sleep(600)");
    let cancel = async {
        world.until_backends(&tenant, "wait_event = 'PgSleep'", 1).await;
        own.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(sleep, cancel) }).await.unwrap();
    assert_eq!(words(&slept.unwrap_err()).0, "57014");
}

#[tokio::test]
async fn backends_of_a_tenant_that_is_suspended_go_too() {
    let world = world_of(5).await;
    let mut tenant = world.tenant("acme").await;
    let clients = join_all((0..3).map(|_| world.connect(&tenant))).await;
    for (text, backends) in [("begin", 3), ("commit", 3)] {
        let all = clients.iter().map(|client| client.batch_execute(text));
        join_all(all).await.into_iter().for_each(|done| done.unwrap());
        assert_eq!(world.backends(&tenant, "true").await, backends);
    }
    world.change(&mut tenant, |route| route.status = TenantStatus::Suspended);
    world.until_backends(&tenant, "true", 0).await;
}

#[tokio::test]
async fn a_login_says_how_long_its_sessions_keep_a_backend() {
    let world = world_of(5).await;
    let mut tenant = world.tenant("acme").await;
    let sharing = join_all((0..3).map(|_| world.connect(&tenant))).await;
    let pids = join_all(sharing.iter().map(pid)).await;
    assert!(world.backends(&tenant, "true").await <= 3, "{pids:?}");
    world.change_login(&mut tenant, |login| login.pool_mode = Some(PoolMode::Session));
    let keeping = join_all((0..2).map(|_| world.connect(&tenant))).await;
    let own = join_all(keeping.iter().map(pid)).await;
    keeping[0].batch_execute("create temp table mine as select 1 as x").await.unwrap();
    for _ in 0..3 {
        assert_eq!(join_all(keeping.iter().map(pid)).await, own);
        assert!(!own.contains(&pid(&sharing[0]).await));
    }
    assert_eq!(one(&keeping[0], "select x::text from mine").await, "1");
    assert!(keeping[1].batch_execute("select x from mine").await.is_err());
}
