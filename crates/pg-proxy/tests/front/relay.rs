//! The whole protocol goes through, and only to whom it belongs.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::BufMut;
use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use insula_domain::Isolation;
use insula_pg_wire::backend::tag;
use insula_pg_wire::frontend::{self, Parse};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage};

use crate::raw::{Raw, letters};
use crate::support::{PATIENCE, Tenant, World, connect, one, psql_program, words};

/// Runs psql as the tenant; gives what it printed.
async fn psql(world: &World, tenant: &Tenant, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(psql_program())
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", &world.url(tenant)])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let done = tokio::time::timeout(crate::support::PATIENCE, child.wait_with_output()).await;
    let output = done.expect("psql ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "psql failed: {err}");
    format!("{out}{err}")
}

#[tokio::test]
async fn psql_copies_in_and_out() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let rows: String = (0..20_000).map(|number| format!("{number}\tname {number}\n")).collect();
    let script =
        format!("create table items (id int primary key, name text);\n\\copy items from stdin\n{rows}\\.\n");
    psql(&world, &tenant, &[], &script).await;
    assert_eq!(psql(&world, &tenant, &["-c", "select count(*) from items"], "").await, "20000\n");
    let out = psql(&world, &tenant, &["-c", "\\copy (select * from items order by id) to stdout"], "").await;
    assert_eq!(out, rows);
    // A COPY that fails leaves the session usable.
    let script = "\\set ON_ERROR_STOP 0\ncopy items from stdin;\n1\tagain\n\\.\nselect 'goes on';\n";
    let out = psql(&world, &tenant, &[], script).await;
    assert!(out.contains("goes on") && out.contains("items_pkey"), "{out}");
}

#[tokio::test]
async fn the_extended_protocol_copies_too() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    client.batch_execute("create table items (id int, name text)").await.unwrap();
    let sink = client.copy_in::<_, bytes::Bytes>("copy items from stdin").await.unwrap();
    pin_mut!(sink);
    for chunk in 0..10 {
        let lines: String = (0..100).map(|line| format!("{}\tx\n", chunk * 100 + line)).collect();
        sink.send(lines.into()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 1000);
    let out = client.copy_out("copy items to stdout").await.unwrap();
    let parts: Vec<bytes::Bytes> = out.try_collect().await.unwrap();
    assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), 5890);
    assert_eq!(one(&client, "select count(*)::text from items").await, "1000");
}

#[tokio::test]
async fn large_rows_go_through_and_a_slow_reader_stops_the_server() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.query("select repeat('x', 10 * 1024 * 1024) from generate_series(1, 5)").await;
    // Nobody reads: the server has to wait, because the front does not hoard.
    // It could send all of this in a fraction of the second in which it is
    // watched here.
    world.until_backends(&tenant, "wait_event = 'ClientWrite'", 1).await;
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(1) {
        assert_eq!(world.backends(&tenant, "state = 'active'").await, 1, "the server was not stopped");
    }
    let messages = raw.until_ready().await;
    assert_eq!(letters(&messages), "TDDDDDCZ");
    let bytes: usize =
        messages.iter().filter(|message| message.tag == tag::DATA_ROW).map(|row| row.body.len()).sum();
    assert_eq!(bytes, 5 * (10 * 1024 * 1024 + 6));
    // And upwards: one statement of 20 MB.
    let client = world.connect(&tenant).await;
    let text = "y".repeat(20 * 1024 * 1024);
    let row = client.query_one("select length($1)", &[&text]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 20 * 1024 * 1024);
}

#[tokio::test]
async fn pipelined_statements_are_answered_in_order() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    let queries = (0..200_i32).map(|number| {
        let client = &client;
        async move { client.query_one("select $1::int4 * 2", &[&number]).await.unwrap().get::<_, i32>(0) }
    });
    assert_eq!(join_all(queries).await, (0..200).map(|number| number * 2).collect::<Vec<_>>());

    // As one write: five whole exchanges, one of which fails.
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(|out| {
        for query in ["select 1", "select 2", "select 1/0", "show insula.tenant", "select 3"] {
            Parse { name: b"", query: query.as_bytes(), parameter_types: b"\0\0" }.put(out).unwrap();
            out.extend_from_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0");
            out.extend_from_slice(b"D\0\0\0\x06P\0");
            out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
            out.extend_from_slice(b"S\0\0\0\x04");
        }
    })
    .await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(letters(&raw.until_ready().await));
    }
    assert_eq!(answers, ["12TDCZ", "12TDCZ", "1EZ", "12TDCZ", "12TDCZ"]);
}

#[tokio::test]
async fn messages_cut_anywhere_are_the_same_messages() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.stream.set_nodelay(true).unwrap();
    let mut out = bytes::BytesMut::new();
    frontend::put_query(&mut out, b"show insula.tenant").unwrap();
    frontend::put_query(&mut out, b"select 1").unwrap();
    out.put_slice(b"");
    for byte in out {
        raw.send(&[byte]).await;
    }
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
}

#[tokio::test]
async fn a_query_may_follow_the_proof_without_waiting() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut raw = Raw::connect(&world).await;
    raw.start(&[("user", "acme"), ("database", "app")]).await;
    let mut behind = bytes::BytesMut::new();
    frontend::put_query(&mut behind, b"show insula.tenant").unwrap();
    frontend::put_query(&mut behind, b"select 1").unwrap();
    raw.scram_and(&tenant.secret, &behind[..behind.len() - 3]).await;
    raw.until_ready().await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    raw.send(&behind[behind.len() - 3..]).await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
}

#[tokio::test]
async fn notices_notifications_and_errors_come_through() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (client, mut connection) = world.config(&tenant).connect(NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            let _ = sender.send(message);
        }
    });
    client.batch_execute("do $$ begin raise notice 'look here'; end $$").await.unwrap();
    let Some(AsyncMessage::Notice(notice)) = heard.recv().await else { panic!("no notice") };
    assert_eq!(notice.message(), "look here");
    client.batch_execute("listen news; notify news, 'today'").await.unwrap();
    let Some(AsyncMessage::Notification(news)) = heard.recv().await else { panic!("no notification") };
    assert_eq!((news.channel(), news.payload()), ("news", "today"));
    let error = client.batch_execute("select 1/0").await.unwrap_err();
    assert_eq!(words(&error).0, "22012");
    // What ends the session on the server's side reaches the client in its words.
    let own = "select pg_terminate_backend(pg_backend_pid())";
    let error = client.batch_execute(own).await.unwrap_err();
    assert_eq!(words(&error).0, "57P01");
}

#[tokio::test]
async fn notifications_are_passed_on_only_where_the_database_is_the_tenants_own() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    for (epoch, isolation, expected) in [
        (2, Isolation::Database, "CZCAZ"),
        (3, Isolation::Cluster, "CZCAZ"),
        (4, Isolation::Schema, "CZCZ"),
        (5, Isolation::Pool, "CZCZ"),
    ] {
        world.change(&mut tenant, |route| {
            let placement = route.placement.as_mut().unwrap();
            // As with every move.
            (placement.isolation, placement.epoch) = (isolation, insula_domain::Epoch(epoch));
        });
        let (mut raw, _) = Raw::session(&world, &tenant).await;
        // In a block, in which no channel gets its tenant's name.
        raw.query("do $$ begin execute 'listen news'; end $$").await;
        let mut messages = raw.until_ready().await;
        raw.query("do $$ begin notify news, 'today'; end $$").await;
        messages.extend(raw.until_ready().await);
        assert_eq!(letters(&messages), expected, "{isolation}");
    }
}

#[tokio::test]
async fn where_a_database_is_shared_channels_are_the_tenants_own() {
    let world = World::start().await;
    let (mut one, mut other) = (world.tenant("acme").await, world.tenant("globex").await);
    for isolation in [Isolation::Schema, Isolation::Pool] {
        for tenant in [&mut one, &mut other] {
            world.change(tenant, |route| route.placement.as_mut().unwrap().isolation = isolation);
        }
        let (mut speaks, _) = Raw::session(&world, &one).await;
        let (mut hears, _) = Raw::session(&world, &one).await;
        let (mut foreign, _) = Raw::session(&world, &other).await;
        for raw in [&mut hears, &mut foreign] {
            raw.query("begin; listen \"The News\"; commit").await;
            assert_eq!(letters(&raw.until_ready().await), "CCCZ", "{isolation}");
        }
        speaks.query("notify \"The News\", 'today'; notify the_news, 'never'").await;
        assert_eq!(letters(&speaks.until_ready().await), "CCZ");
        hears.query("select 1").await;
        let messages = hears.until_ready().await;
        let told = messages.iter().find(|message| message.tag == b'A').unwrap();
        assert!(told.body.ends_with(b"The News\0today\0"), "{told:?}");
        assert_eq!(messages.iter().filter(|message| message.tag == b'A').count(), 1);
        foreign.query("select 1").await;
        assert_eq!(letters(&foreign.until_ready().await), "TDCZ", "{isolation}");
        // A place in an error is one in the client's own text.
        hears.query("listen a; select nothing").await;
        let messages = hears.until_ready().await;
        let error = messages.iter().find(|message| message.tag == b'E').unwrap();
        assert!(error.body.windows(4).any(|part| part == b"P18\0"), "{error:?}");
        // Other rules hold as before, and what cannot be given a name is refused.
        let long = format!("listen a; select '{}'", "x".repeat(70_000));
        for (text, code) in [("listen a; grant a to b", &b"C42501\0"[..]), ("notify U&\"a\"", b"C42501\0")] {
            hears.query(text).await;
            let messages = hears.until_ready().await;
            let error = messages.iter().find(|message| message.tag == b'E').unwrap();
            assert!(error.body.windows(code.len()).any(|part| part == code), "{text}: {error:?}");
        }
        speaks.query(&long).await;
        if isolation == Isolation::Pool {
            assert_eq!(letters(&speaks.until_ready().await), "CTDCZ");
        } else {
            assert_eq!(speaks.refusal().await.0, "42501");
        }
    }
}

#[tokio::test]
async fn the_front_answers_show_in_every_state_of_the_protocol() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    world.change(&mut tenant, |route| {
        route.placement.as_mut().unwrap().epoch = insula_domain::Epoch(42);
    });
    let client = world.connect(&tenant).await;
    // The simple protocol.
    let answer = client.simple_query("SHOW insula.tenant;").await.unwrap();
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((row.columns()[0].name().to_owned(), row.get(0).unwrap().to_owned()))
        }
        _ => None,
    });
    assert_eq!(row.unwrap(), ("insula.tenant".to_owned(), "acme".to_owned()));
    // The extended one, with a description before and repeated execution.
    let statement = client.prepare("show insula.epoch").await.unwrap();
    assert_eq!(statement.columns()[0].name(), "insula.epoch");
    for _ in 0..2 {
        assert_eq!(client.query_one(&statement, &[]).await.unwrap().get::<_, &str>(0), "42");
    }
    let placement: serde_json::Value =
        serde_json::from_str(&one(&client, "show insula.placement").await).unwrap();
    assert_eq!(placement["epoch"], 42);
    assert_eq!(placement["cluster"], "c");
    assert_eq!(placement["isolation"], "database");
    // Quoting and paths of the session change nothing, and nothing can be set.
    client
        .batch_execute(
            "set standard_conforming_strings = off; set search_path = pg_temp; set insula.tenant = 'globex'",
        )
        .await
        .unwrap();
    assert_eq!(one(&client, "show insula.tenant").await, "acme");
    // A failed transaction refuses it, as it does every statement.
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("select 1/0").await.unwrap_err();
    let error = client.simple_query("show insula.tenant").await.unwrap_err();
    assert_eq!(words(&error).0, "25P02");
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(psql(&world, &tenant, &["-c", "show insula.tenant"], "").await, "acme\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_side_by_side_see_their_own_rows_alone() {
    let world = World::start().await;
    let mut tenants = Vec::new();
    for slug in ["acme", "globex", "initech"] {
        let tenant = world.tenant(slug).await;
        let client = world.connect(&tenant).await;
        client
            .batch_execute(&format!("create table own (name text); insert into own values ('{slug}')"))
            .await
            .unwrap();
        tenants.push(tenant);
    }
    let sessions = (0..30).map(|number| {
        let (world, tenants, tenant) = (&world, &tenants, &tenants[number % 3]);
        async move {
            let client = connect(&world.config(tenant)).await.unwrap();
            for _ in 0..20 {
                let seen = one(&client, "select string_agg(name, ',') from own").await;
                assert_eq!(seen, tenant.route.slug.as_str());
                assert_eq!(one(&client, "show insula.tenant").await, seen);
                let role = one(&client, "select session_user::text").await;
                assert_eq!(role, insula_domain::RoleName::of_tenant(tenant.id).as_str());
            }
            // The canary: naming another tenant's table is what PostgreSQL refuses.
            let other = tenants.iter().find(|other| other.id != tenant.id).unwrap();
            let schema = &other.route.placement.as_ref().unwrap().schema;
            let error = client.simple_query(&format!("select * from {schema}.own")).await.unwrap_err();
            assert_eq!(words(&error).0, "42501");
        }
    });
    join_all(sessions).await;
}

#[tokio::test]
async fn what_was_asked_before_leaving_is_still_done() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    client.batch_execute("create table done (x int)").await.unwrap();
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(|out| {
        frontend::put_query(out, b"select pg_sleep(0.2); insert into done values (1)").unwrap();
        frontend::put_terminate(out);
    })
    .await;
    drop(raw);
    let done = async { while one(&client, "select count(*)::text from done").await != "1" {} };
    timeout(PATIENCE, done).await.expect("it is done");
}

#[tokio::test]
async fn leaving_is_answered_by_closing() {
    let world = World::start_in_session_mode().await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(frontend::put_terminate).await;
    assert!(raw.rest().await.is_empty(), "nothing is said to who has said goodbye");
    // Nor is anything added to the last word of a server that ends a session.
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.query("select pg_backend_pid()::text").await;
    let pid = raw.until_ready().await.remove(1).body;
    let pid = String::from_utf8(pid[6..].to_vec()).unwrap();
    let admin = world.database.connect().await;
    admin.execute("select pg_terminate_backend($1::text::int)", &[&pid]).await.unwrap();
    assert_eq!(raw.refusal().await.0, "57P01", "the server's own last word");
}

#[tokio::test]
async fn who_leaves_with_questions_open_is_let_go_and_leaves_nothing_behind() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for question in ["select 1", "select pg_sleep(0.2)", "set application_name = 'left'", "begin"] {
        let (mut raw, _) = Raw::session(&world, &tenant).await;
        raw.write(|out| {
            frontend::put_query(out, question.as_bytes()).unwrap();
            frontend::put_terminate(out);
        })
        .await;
        raw.rest().await;
        // The next one does not get a backend that has been told to end.
        let (mut next, _) = Raw::session(&world, &tenant).await;
        next.query("select 1").await;
        next.until_ready().await;
    }
}

#[tokio::test]
async fn a_broken_header_ends_the_session_and_its_backend() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.send(&[b'Q', 0, 0, 0, 3]).await;
    assert_eq!(raw.refusal().await.0, "08P01");
    world.until_backends(&tenant, "true", 0).await;
}

#[tokio::test]
async fn a_part_of_a_header_keeps_nothing_busy() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut other, _) = Raw::session(&world, &tenant).await;
    let mut query = bytes::BytesMut::new();
    frontend::put_query(&mut query, b"select 1").unwrap();
    for length in 1..5 {
        let (mut raw, _) = Raw::session(&world, &tenant).await;
        raw.send(&query[..length]).await;
        // The front goes on with others, and needs no backend for this.
        other.query("select 2").await;
        assert_eq!(letters(&other.until_ready().await), "TDCZ");
        world.until_backends(&tenant, crate::support::IN_USE, 0).await;
        raw.send(&query[length..]).await;
        assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    }
}
