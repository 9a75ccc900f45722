//! Prepared statements of sessions that share backends: each has its own, and
//! what PostgreSQL says of them is what their client hears.

use bytes::BytesMut;
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::Message;
use insula_pg_wire::backend::{error_fields, parse_error, tag};
use insula_pg_wire::frontend::{self, BindNames, Named, Parse};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::raw::{Raw, letters};
use crate::sharing::{pid, setting, world_of};
use crate::support::{PATIENCE, World, words};

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

/// Also where that holds for a transaction alone.
#[tokio::test]
async fn a_statement_that_was_read_under_settings_of_a_transaction_is_not_shared() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (a, b) = (world.connect(&tenant).await, world.connect(&tenant).await);
    for client in [&a, &b] {
        client.batch_execute("set timezone = 'UTC'").await.unwrap();
    }
    for (setting, zone) in [
        ("set local timezone = 'Asia/Tokyo'", "UTC"),
        ("set local time zone 'Asia/Tokyo'", "Z"),
        ("select set_config('timezone', 'Asia/Tokyo', true)", "GMT"),
    ] {
        let text = format!(
            "select extract(epoch from timestamptz '2026-01-01 00:00')::int8 \
             - extract(epoch from timestamptz '2026-01-01 00:00 {zone}')::int8"
        );
        let ask = async |client: &Client| -> i64 {
            let statement = client.prepare(&text).await.unwrap();
            client.query_one(&statement, &[]).await.unwrap().get(0)
        };
        a.batch_execute(&format!("begin; {setting}")).await.unwrap();
        assert_eq!(ask(&a).await, -9 * 3600, "{setting}");
        a.batch_execute("commit").await.unwrap();
        assert_eq!(ask(&b).await, 0, "{setting}");
        assert_eq!(ask(&a).await, 0, "{setting}");
    }
}

#[tokio::test]
async fn a_tenant_has_a_bound_for_its_prepared_statements() {
    let config = PgProxyConfig { statement_bytes_per_tenant_max: 1_500, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let (one, other) = (world.connect(&acme).await, world.connect(&acme).await);
    let text = |number: usize| format!("select {number}::int /* {} */", "x".repeat(500));
    let first = one.prepare(&text(1)).await.unwrap();
    let second = other.prepare(&text(2)).await.unwrap();
    let third = other.prepare(&text(3)).await.map(drop).unwrap_err();
    let (sqlstate, message, hint) = words(&third);
    assert_eq!((sqlstate.as_str(), hint.as_str()), ("54000", "insula: statement_refused"));
    assert_eq!(message, "one more prepared statement is not allowed here");
    assert!(third.as_db_error().unwrap().detail().unwrap().contains("Close those"));
    // What they have works, and so does what is not kept.
    assert_eq!(one.query_one(&first, &[]).await.unwrap().get::<_, i32>(0), 1);
    assert_eq!(other.query_one(&second, &[]).await.unwrap().get::<_, i32>(0), 2);
    other.batch_execute(&text(3)).await.unwrap();
    // The bound is the tenant's own, and what is closed or has left does not count.
    let theirs = world.connect(&globex).await;
    theirs.prepare(&text(3)).await.unwrap();
    drop(second);
    let second = other.prepare(&text(3)).await.unwrap();
    assert_eq!(other.query_one(&second, &[]).await.unwrap().get::<_, i32>(0), 3);
    drop((first, one));
    let came = async { while other.prepare(&text(4)).await.is_err() {} };
    timeout(PATIENCE, came).await.expect("what a session had is free when it has left");
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
pub struct Extended<'a> {
    pub name: &'a [u8],
    pub text: Option<&'a [u8]>,
}

pub async fn extended(raw: &mut Raw, steps: &[Extended<'_>]) -> Vec<Message> {
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

pub fn sqlstate(messages: &[Message]) -> String {
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

pub async fn pid_of(raw: &mut Raw) -> Vec<u8> {
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
