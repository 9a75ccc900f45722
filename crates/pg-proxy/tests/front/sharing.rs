//! Sessions that share backends: nothing of one is found by another, each finds
//! again what it has left, and who cannot be without its backend keeps it.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use insula_domain::{PoolMode, TenantStatus};
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::Message;
use insula_pg_wire::backend::{error_fields, parse_error, parse_parameter_status, tag};
use insula_pg_wire::frontend::{self, BindNames, Named, Parse};
use tokio_postgres::Client;

use crate::raw::{Raw, letters};
use crate::support::{IN_USE, PATIENCE, Tenant, World, connect, one, pair, refused, words};

/// A front with so many backends in all.
async fn world_of(backends: u32) -> World {
    World::start_with(config_of(backends), None).await
}

fn config_of(backends: u32) -> PgProxyConfig {
    PgProxyConfig {
        backends_per_cluster_max: backends,
        backends_per_tenant_max: Some(backends),
        ..PgProxyConfig::default()
    }
}

async fn pid(client: &Client) -> String {
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
async fn setting(client: &Client, name: &str) -> String {
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

/// PostgreSQL makes values of literals when a statement is prepared, by what is
/// set then.
#[tokio::test]
async fn a_statement_is_not_shared_by_who_reads_it_otherwise() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b, c) =
        (world.connect(&tenant).await, world.connect(&tenant).await, world.connect(&tenant).await);
    let at = |zone: &str| {
        format!(
            "select extract(epoch from timestamptz '2026-01-01 00:00')::int8 - extract(epoch from timestamptz '2026-01-01 00:00 {zone}')::int8"
        )
    };
    let ask = async |client: &Client, zone: &str| {
        let statement = client.prepare(&at(zone)).await.unwrap();
        let off: i64 = client.query_one(&statement, &[]).await.unwrap().get(0);
        (statement, off)
    };
    a.batch_execute("set timezone = 'America/New_York'").await.unwrap();
    b.batch_execute("set timezone = 'Asia/Tokyo'").await.unwrap();
    c.batch_execute("set timezone = 'UTC'").await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&a, "UTC").await.1, 5 * 3600);
        assert_eq!(ask(&b, "UTC").await.1, -9 * 3600);
        assert_eq!(ask(&c, "UTC").await.1, 0);
    }
    // Set within the transaction, and then for what was prepared before.
    c.batch_execute("begin; set timezone = 'Asia/Tokyo'").await.unwrap();
    assert_eq!(ask(&c, "+00").await.1, -9 * 3600);
    c.batch_execute("rollback").await.unwrap();
    let (kept, off) = ask(&c, "+00").await;
    assert_eq!(off, 0);
    c.batch_execute("set timezone = 'Asia/Tokyo'").await.unwrap();
    let _: i64 = c.query_one(&kept, &[]).await.unwrap().get(0);
    assert_eq!(ask(&a, "+00").await.1, 5 * 3600);
    let d = world.connect(&tenant).await;
    d.batch_execute("set timezone = 'UTC'").await.unwrap();
    assert_eq!(ask(&d, "+00").await.1, 0, "nobody reads it otherwise for others");
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

#[tokio::test]
async fn prepared_statements_stay_with_their_session() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b) = (world.connect(&tenant).await, world.connect(&tenant).await);
    // Both drivers give the same names to different statements.
    let (ones, twos) = (a.prepare("select 1").await.unwrap(), b.prepare("select 2").await.unwrap());
    let (common, also) =
        (a.prepare("select $1::int * 10").await.unwrap(), b.prepare("select $1::int * 10").await.unwrap());
    for factor in 0..5 {
        assert_eq!(a.query_one(&ones, &[]).await.unwrap().get::<_, i32>(0), 1);
        assert_eq!(b.query_one(&twos, &[]).await.unwrap().get::<_, i32>(0), 2);
        assert_eq!(a.query_one(&common, &[&factor]).await.unwrap().get::<_, i32>(0), factor * 10);
        assert_eq!(b.query_one(&also, &[&factor]).await.unwrap().get::<_, i32>(0), factor * 10);
    }
    drop((ones, common));
    pid(&a).await;
    assert_eq!(b.query_one(&also, &[&7]).await.unwrap().get::<_, i32>(0), 70);
}

/// `Parse`, `Bind`, `Execute` of a statement without parameters.
struct Extended<'a> {
    name: &'a [u8],
    text: Option<&'a [u8]>,
}

async fn extended(raw: &mut Raw, steps: &[Extended<'_>]) -> Vec<Message> {
    raw.write(|out| {
        for step in steps {
            if let Some(query) = step.text {
                Parse { name: step.name, query, parameter_types: b"\0\0" }.put(out).unwrap();
            }
            let bind = BindNames { portal: b"", statement: step.name, rest: b"\0\0\0\0\0\0" };
            bind.put(0, out).unwrap();
            out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
        }
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    raw.until_ready().await
}

fn sqlstate(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE);
    error.map(|message| parse_error(&message.body).unwrap().0).unwrap_or_default()
}

#[tokio::test]
async fn the_protocol_of_prepared_statements_is_the_servers() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut a, _) = Raw::session(&world, &tenant).await;
    let (mut b, _) = Raw::session(&world, &tenant).await;
    let step = |name, text| Extended { name, text };
    // Known on the backend or not, the answers are the same.
    for raw in [&mut a, &mut b] {
        let messages = extended(raw, &[step(b"s", Some(b"select 1")), step(b"s", None)]).await;
        assert_eq!(letters(&messages), "12DC2DCZ");
    }
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"s", Some(b"select 2"))]).await), "42P05");
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"t", None)]).await), "26000");
    assert_eq!(sqlstate(&extended(&mut b, &[step(b"", None)]).await), "26000", "not another one's");
    // A failed one was never prepared, nor one behind an error.
    let broken = [step(b"x", Some(b"selec")), step(b"y", Some(b"select 3"))];
    assert_eq!(sqlstate(&extended(&mut a, &broken).await), "42601");
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"x", None)]).await), "26000");
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"y", None)]).await), "26000");
    assert_eq!(letters(&extended(&mut a, &[step(b"y", Some(b"select 3"))]).await), "12DCZ");
    // Behind an error nothing is closed, and nothing has another text.
    let parse = |name, query| Parse { name, query, parameter_types: b"\0\0" };
    let close = |name, out: &mut BytesMut| Named::Statement(name).put(frontend::tag::CLOSE, out);
    a.write(|out| {
        parse(b"x", b"selec").put(out).unwrap();
        close(b"s", out);
        parse(b"s", b"select 8").put(out).unwrap();
        parse(b"w", b"select 9").put(out).unwrap();
        close(b"w", out);
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    assert_eq!(letters(&a.until_ready().await), "EZ");
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"w", None)]).await), "26000");
    let again = extended(&mut a, &[step(b"s", None)]).await;
    assert_eq!((letters(&again).as_str(), &again[1].body[6..]), ("2DCZ", &b"1"[..]));
    // The unnamed one outlives a Sync, and a visit of others.
    assert_eq!(letters(&extended(&mut a, &[step(b"", Some(b"select 4"))]).await), "12DCZ");
    assert_eq!(letters(&extended(&mut b, &[step(b"", Some(b"select 5"))]).await), "12DCZ");
    let again = extended(&mut a, &[step(b"", None)]).await;
    assert_eq!((letters(&again).as_str(), &again[1].body[6..]), ("2DCZ", &b"4"[..]));
    a.query("select 6").await;
    a.until_ready().await;
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"", None)]).await), "26000", "a Query takes it away");
    // Described before it is bound, by one who comes to another's backend.
    pid_of(&mut b).await;
    a.write(|out| {
        Named::Statement(b"s").put(frontend::tag::DESCRIBE, out);
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    assert_eq!(letters(&a.until_ready().await), "tTZ");
    // Closed by one, it is still there for the other.
    a.write(|out| {
        Named::Statement(b"s").put(frontend::tag::CLOSE, out);
        Named::Statement(b"never").put(frontend::tag::CLOSE, out);
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    assert_eq!(letters(&a.until_ready().await), "33Z");
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"s", None)]).await), "26000");
    assert_eq!(letters(&extended(&mut b, &[step(b"s", None)]).await), "2DCZ");
    // Dropped by SQL: one by its name, and all.
    b.query("deallocate s").await;
    assert_eq!(letters(&b.until_ready().await), "CZ");
    assert_eq!(sqlstate(&extended(&mut b, &[step(b"s", None)]).await), "26000");
    assert_eq!(letters(&extended(&mut a, &[step(b"z", Some(b"select 7"))]).await), "12DCZ");
    b.query("deallocate all").await;
    assert_eq!(letters(&b.until_ready().await), "CZ");
    assert_eq!(letters(&extended(&mut a, &[step(b"z", None)]).await), "2DCZ");
    a.query("discard all").await;
    assert_eq!(letters(&a.until_ready().await), "CZ");
    assert_eq!(sqlstate(&extended(&mut a, &[step(b"z", None)]).await), "26000");
    assert_eq!(letters(&extended(&mut a, &[step(b"z", Some(b"select 7"))]).await), "12DCZ");
}

async fn pid_of(raw: &mut Raw) -> Vec<u8> {
    raw.query("select pg_backend_pid()").await;
    raw.until_ready().await.remove(1).body.to_vec()
}

#[tokio::test]
async fn statements_that_do_not_fit_their_tables_any_more_are_made_anew() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b) = (world.connect(&tenant).await, world.connect(&tenant).await);
    a.batch_execute("create table t (x int); insert into t values (1)").await.unwrap();
    let query = "select * from t";
    assert_eq!(a.query_one(query, &[]).await.unwrap().len(), 1);
    // By someone of whom the front does not know.
    let admin = world.database.connect().await;
    let schema = tenant.route.placement.as_ref().unwrap().schema.clone();
    admin.batch_execute(&format!("alter table {schema}.t add y int")).await.unwrap();
    let stale = a.query_one(query, &[]).await;
    if let Err(error) = stale {
        assert_eq!(words(&error).0, "0A000");
    }
    for client in [&b, &a, &b] {
        assert_eq!(client.query_one(query, &[]).await.unwrap().len(), 2);
    }
}

/// A `Describe` of a statement and a `Sync`; what comes.
async fn described(raw: &mut Raw, name: &[u8]) -> Vec<Message> {
    raw.write(|out| {
        Named::Statement(name).put(frontend::tag::DESCRIBE, out);
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    raw.until_ready().await
}

/// A statement that runs and whose portal is described.
async fn portal_described(raw: &mut Raw) -> Vec<Message> {
    raw.write(|out| {
        BindNames { portal: b"", statement: b"s", rest: b"\0\0\0\0\0\0" }.put(0, out).unwrap();
        Named::Portal(b"").put(frontend::tag::DESCRIBE, out);
        out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
    })
    .await;
    raw.until_ready().await
}

#[tokio::test]
async fn who_was_told_what_a_statement_gives_is_told_when_it_gives_something_else() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let plain = world.connect(&tenant).await;
    plain.batch_execute("create table t (x int); insert into t values (1)").await.unwrap();
    let step = |name, text| Extended { name, text };
    let mut sessions = Vec::new();
    for name in ["a", "b", "by its portal", "not at all"] {
        let (mut raw, _) = Raw::session(&world, &tenant).await;
        assert_eq!(letters(&extended(&mut raw, &[step(b"s", Some(b"select x from t"))]).await), "12DCZ");
        match name {
            "by its portal" => assert_eq!(letters(&portal_described(&mut raw).await), "2TDCZ"),
            // Who must be content with any.
            "not at all" => {}
            _ => assert_eq!(letters(&described(&mut raw, b"s").await), "tTZ"),
        }
        sessions.push(raw);
    }
    // By someone of whom the front does not know.
    let admin = world.database.connect().await;
    let schema = tenant.route.placement.as_ref().unwrap().schema.clone();
    admin.batch_execute(&format!("alter table {schema}.t alter x type bigint")).await.unwrap();
    // Whether PostgreSQL says so or the front: also behind what fits, and again.
    for raw in &mut sessions[..3] {
        for _ in 0..2 {
            let said = extended(raw, &[step(b"", Some(b"select 1")), step(b"s", None)]).await;
            assert_eq!((letters(&said).as_str(), sqlstate(&said).as_str()), ("12DCEZ", "0A000"));
            let error = said.iter().find(|message| message.tag == tag::ERROR_RESPONSE).unwrap();
            let fields = error_fields(&error.body).unwrap();
            assert!(fields.contains(&(b'R', b"RevalidateCachedQuery")), "{fields:?}");
        }
        // Behind an error it is as little looked at as the rest.
        let said = extended(raw, &[step(b"broken", Some(b"selec")), step(b"s", None)]).await;
        assert_eq!((letters(&said).as_str(), sqlstate(&said).as_str()), ("EZ", "42601"));
        // Prepared and described again it is another statement.
        assert_eq!(letters(&extended(raw, &[step(b"s2", Some(b"select x from t"))]).await), "12DCZ");
        assert_eq!(letters(&described(raw, b"s2").await), "tTZ");
        assert_eq!(letters(&extended(raw, &[step(b"s2", None)]).await), "2DCZ");
    }
    for raw in &mut sessions[2..] {
        // Who asks each time is told each time.
        assert_eq!(letters(&portal_described(raw).await), "2TDCZ");
    }
    assert_eq!(letters(&extended(&mut sessions[3], &[step(b"s", None)]).await), "2DCZ");
}

#[tokio::test]
async fn what_waits_for_a_description_goes_on_whole() {
    const BYTES: u32 = 100_000;
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(|out| {
        Parse { name: b"s", query: b"select length($1)::text", parameter_types: b"\0\0" }.put(out).unwrap();
    })
    .await;
    assert_eq!(letters(&described(&mut raw, b"s").await), "1tTZ");
    let bind = [b"\0\0\0\x01", &BYTES.to_be_bytes()[..], &vec![b'x'; BYTES as usize], b"\0\0"].concat();
    let plain = world.connect(&tenant).await;
    for _ in 0..3 {
        // All statements of the backend are made anew after this.
        plain.batch_execute("create table if not exists t (x int); drop table t").await.unwrap();
        raw.write(|out| {
            for _ in 0..3 {
                BindNames { portal: b"", statement: b"s", rest: &bind }.put(0, out).unwrap();
                out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
            }
            out.extend_from_slice(b"S\0\0\0\x04");
        })
        .await;
        let messages = raw.until_ready().await;
        assert_eq!(letters(&messages), "2DC2DC2DCZ");
        assert!(
            messages.iter().filter(|row| row.tag == tag::DATA_ROW).all(|row| row.body.ends_with(b"100000"))
        );
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
    assert!(join_all((0..10).map(|_| pid(&other))).await.contains(&own));
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

/// A DEALLOCATE of what the backend does not have, and could not read any more.
#[tokio::test]
async fn a_statement_whose_table_is_gone_can_be_taken_leave_of() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let a = world.connect(&tenant).await;
    a.batch_execute("create table t (x int)").await.unwrap();
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    let step = |name, text| Extended { name, text };
    for name in [&b"s"[..], b"u"] {
        assert_eq!(letters(&extended(&mut raw, &[step(name, Some(b"select * from t"))]).await), "12CZ");
    }
    a.batch_execute("drop table t").await.unwrap();
    let _ = a.batch_execute("select pg_terminate_backend(pg_backend_pid())").await;
    for text in ["begin; selec", "begin", "selec", "deallocate s", "rollback"] {
        raw.query(text).await;
        raw.until_ready().await;
    }
    for expected in ["CZ", "EZ"] {
        raw.query("deallocate s").await;
        assert_eq!(letters(&raw.until_ready().await), expected);
    }
    raw.query("deallocate u").await;
    assert_eq!(letters(&raw.until_ready().await), "CZ");
}

/// The name that the backend has for the statement that was prepared last.
async fn name_on_backend(client: &Client) -> String {
    let sql = "select name from pg_prepared_statements where name like 'insula%' order by prepare_time desc limit 1";
    let rows = client.simple_query(sql).await.unwrap();
    let name = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    name.unwrap()
}

#[tokio::test]
async fn nobody_reaches_what_others_have_prepared_by_its_name_on_the_backend() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let a = world.connect(&tenant).await;
    let answer = a.prepare("select 41 + 1").await.unwrap();
    let name = name_on_backend(&a).await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(|out| {
        Named::Statement(name.as_bytes()).put(frontend::tag::CLOSE, out);
        out.extend_from_slice(b"S\0\0\0\x04");
    })
    .await;
    assert_eq!(letters(&raw.until_ready().await), "3Z");
    assert_eq!(a.query_one(&answer, &[]).await.unwrap().get::<_, i32>(0), 42);
    raw.query(&format!("deallocate {name}")).await;
    assert_eq!(letters(&raw.until_ready().await), "CZ");
    drop(raw);
    assert_eq!(a.query_one(&answer, &[]).await.unwrap().get::<_, i32>(0), 42);
    // By a portal whose name is too long to be looked at.
    let _never_run = a.prepare("set work_mem = '7MB'").await.unwrap();
    let name = name_on_backend(&a).await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    let portal = [b'p'; 5_000];
    raw.write(|out| {
        let bind = BindNames { portal: &portal, statement: name.as_bytes(), rest: b"\0\0\0\0\0\0" };
        bind.put(0, out).unwrap();
        let length = u32::try_from(4 + portal.len() + 1 + 4).unwrap();
        out.extend_from_slice(b"E");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&portal);
        out.extend_from_slice(b"\0\0\0\0\0S\0\0\0\x04");
    })
    .await;
    let _ = raw.until_ready().await;
    drop(raw);
    assert_eq!(setting(&a, "work_mem").await, "4MB");
}

#[tokio::test]
async fn who_waits_too_long_is_told_and_nobody_else_is_held_up() {
    let config = PgProxyConfig { backend_wait_max: Duration::from_millis(500), ..config_of(2) };
    let world = World::start_with(config, None).await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let mut acmes = join_all((0..4).map(|_| world.connect(&acme))).await;
    for client in &acmes[..2] {
        client.batch_execute("begin").await.unwrap();
    }
    let (sqlstate, message, hint) = words(&acmes[2].batch_execute("select 1").await.unwrap_err());
    assert_eq!((sqlstate, hint), pair("53300", "overloaded"));
    assert!(message.contains("acme"), "{message}");
    assert_eq!(refused(&world.config(&globex)).await, pair("53300", "overloaded"));
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
    let all = clients.iter().map(|client| client.batch_execute("select pg_sleep(0.05)"));
    join_all(all).await.into_iter().for_each(|done| done.unwrap());
    assert!(world.backends(&tenant, "true").await > 1);
    world.change(&mut tenant, |route| route.status = TenantStatus::Suspended);
    world.until_backends(&tenant, "true", 0).await;
}

/// A tenant, and how many transactions its clients come to within a time.
async fn transactions(clients: &[Client], query: &str, time: Duration) -> Vec<Duration> {
    let until = tokio::time::Instant::now() + time;
    let each = clients.iter().map(|client| async move {
        let mut took = Vec::new();
        while tokio::time::Instant::now() < until {
            let began = std::time::Instant::now();
            client.batch_execute(query).await.unwrap();
            took.push(began.elapsed());
        }
        took
    });
    join_all(each).await.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_tenant_does_not_starve_another() {
    let world = world_of(4).await;
    let (greedy, modest): (Tenant, Tenant) = (world.tenant("greedy").await, world.tenant("modest").await);
    let many = join_all((0..60).map(|_| world.connect(&greedy))).await;
    let one = [world.connect(&modest).await];
    let time = Duration::from_secs(2);
    let query = "select pg_sleep(0.01)";
    let (greedy, modest) = tokio::join!(transactions(&many, query, time), transactions(&one, query, time));
    // In a queue of all sessions it would have one in sixty-one.
    let share = modest.len() * 61 / (greedy.len() + modest.len());
    assert!(share >= 3, "{} of {}", modest.len(), greedy.len() + modest.len());
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
