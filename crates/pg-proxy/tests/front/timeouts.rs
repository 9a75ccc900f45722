//! The limits of a plan on time: no client lifts them, and they change while
//! sessions are open.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use insula_domain::PoolMode;
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::backend::{parse_error, tag};
use insula_pg_wire::frontend;
use insula_route_map::Rows;
use insula_testkit::postgres;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use tokio_postgres::error::Severity;

use crate::support::{IN_USE, PATIENCE, Tenant, World, one, pair, words};

const SHORT: Duration = Duration::from_millis(300);

/// What six sleeps of half a second are longer than together, and none of them
/// alone, however busy the machine is.
const SUM: Duration = Duration::from_secs(2);

/// Asleep for longer than any test.
const ASLEEP: &str = "wait_event = 'PgSleep'";

/// `Terminate`
const GOODBYE: &[u8] = b"X\0\0\0\x04";

async fn with_statements_of(world: &World, slug: &str, limit: Option<Duration>) -> Tenant {
    let mut tenant = world.tenant(slug).await;
    world.change(&mut tenant, |route| route.terms.statement_timeout = limit);
    tenant
}

async fn with_idle_of(world: &World, limit: Duration) -> Tenant {
    let mut tenant = world.tenant("acme").await;
    world.change(&mut tenant, |route| route.terms.idle_in_transaction_timeout = Some(limit));
    tenant
}

/// What a client would try to be let run for longer.
const LIFTS: [&str; 5] = [
    "set statement_timeout = 0; select pg_sleep(600)",
    "begin; set local statement_timeout = 0; select pg_sleep(600)",
    "do $$ begin set statement_timeout = 0; perform pg_sleep(600); end $$",
    "select set_config('statement_timeout', '0', false), pg_sleep(600)",
    "select patient()",
];

#[tokio::test]
async fn no_client_lifts_the_limit_of_its_plan() {
    let world = World::start().await;
    let mut tenant = with_statements_of(&world, "acme", None).await;
    let limit = |tenant: &mut Tenant, limit| {
        world.change(tenant, |route| route.terms.statement_timeout = limit);
    };
    let setup = world.connect(&tenant).await;
    let patient = "create function patient() returns void language plpgsql set statement_timeout = 0 as
                   $$ begin perform set_config('statement_timeout', '0', false); perform pg_sleep(600); end $$";
    setup.batch_execute(patient).await.unwrap();
    for lift in LIFTS {
        let client = world.connect(&tenant).await;
        // Only for what sleeps: on a busy machine anything may take so long.
        limit(&mut tenant, Some(SHORT));
        let began = Instant::now();
        let error = timeout(PATIENCE, client.batch_execute(lift)).await.expect(lift).unwrap_err();
        assert!(began.elapsed() >= SHORT, "{lift}: too early");
        let (sqlstate, message, hint) = words(&error);
        assert_eq!((sqlstate, hint), pair("57014", "statement_timeout"), "{lift}: {message}");
        let error = error.as_db_error().unwrap();
        assert_eq!(error.parsed_severity(), Some(Severity::Error), "{lift}");
        assert!(error.detail().unwrap().contains("300 ms"), "{lift}");
        // The session goes on.
        limit(&mut tenant, None);
        client.batch_execute("rollback").await.unwrap();
        assert_eq!(one(&client, "select 'here'").await, "here", "{lift}");
    }
    // By the extended protocol too, and where it is asked for at the start.
    limit(&mut tenant, Some(SHORT));
    let mut config = world.config(&tenant);
    config.options("-c statement_timeout=0");
    let client = crate::support::connect(&config).await.unwrap();
    let error = client.query("select pg_sleep(600)", &[]).await.unwrap_err();
    assert_eq!(words(&error).2, "insula: statement_timeout");
    world.until_backends(&tenant, ASLEEP, 0).await;
}

#[tokio::test]
async fn without_a_limit_or_below_it_nothing_is_cancelled() {
    // The canary: the same statement is cancelled by the limit alone.
    let world = World::start().await;
    let limited = with_statements_of(&world, "acme", Some(Duration::from_secs(5))).await;
    let free = with_statements_of(&world, "globex", None).await;
    for tenant in [limited, free] {
        let client = world.connect(&tenant).await;
        client.batch_execute("select pg_sleep(0.7)").await.unwrap();
        // What is short together with others is not long.
        client.batch_execute(&"select pg_sleep(0.2); ".repeat(3)).await.unwrap();
        // One that the client has set itself is the server's own.
        client.batch_execute("set statement_timeout = 50").await.unwrap();
        let (sqlstate, _, hint) = words(&client.batch_execute("select pg_sleep(600)").await.unwrap_err());
        assert_eq!((sqlstate.as_str(), hint.as_str()), ("57014", ""));
    }
}

#[tokio::test]
async fn each_statement_counts_for_itself() {
    let world = World::start().await;
    let tenant = with_statements_of(&world, "acme", Some(SUM)).await;
    let client = world.connect(&tenant).await;
    client.batch_execute("begin").await.unwrap();
    for _ in 0..6 {
        client.query("select pg_sleep(0.5)", &[]).await.unwrap();
    }
    client.batch_execute("commit").await.unwrap();
    // What is sent at once is one, of which the server says nothing before it is done.
    let error = client.batch_execute(&"select pg_sleep(0.5); ".repeat(6)).await.unwrap_err();
    assert_eq!(words(&error).2, "insula: statement_timeout");
}

#[tokio::test]
async fn copying_counts_too() {
    let world = World::start().await;
    let mut tenant = with_statements_of(&world, "acme", Some(SHORT)).await;
    let (mut raw, _) = crate::raw::Raw::session(&world, &tenant).await;
    raw.query("copy (select pg_sleep(600)) to stdout").await;
    let messages = raw.until_ready().await;
    let error = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE).expect("an error");
    assert_eq!(parse_error(&error.body).unwrap().0, "57014");
    world.change(&mut tenant, |route| route.terms.statement_timeout = None);
    raw.query("create table t (x int)").await;
    assert_eq!(crate::raw::letters(&raw.until_ready().await), "CZ");
    world.change(&mut tenant, |route| route.terms.statement_timeout = Some(SHORT));
    // The server does not mind a cancel while it waits for data: the session ends.
    raw.query("copy t from stdin").await;
    let last = timeout(PATIENCE, raw.rest()).await.unwrap();
    assert!(String::from_utf8_lossy(&last).contains("insula: statement_timeout"));
    world.until_backends(&tenant, IN_USE, 0).await;
}

#[tokio::test]
async fn a_cancel_of_the_client_is_still_its_own() {
    let world = World::start().await;
    let tenant = with_statements_of(&world, "acme", Some(PATIENCE)).await;
    let client = world.connect(&tenant).await;
    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(client.batch_execute("select pg_sleep(600)"), async {
        world.until_backends(&tenant, ASLEEP, 1).await;
        cancel.cancel_query(NoTls).await.unwrap();
    });
    let (sqlstate, _, hint) = words(&slept.unwrap_err());
    assert_eq!((sqlstate.as_str(), hint.as_str()), ("57014", ""));
}

#[tokio::test]
async fn who_catches_cancels_is_ended_and_so_is_its_backend() {
    let world = World::start().await;
    let tenant = with_statements_of(&world, "acme", Some(SHORT)).await;
    let client = world.connect(&tenant).await;
    let stubborn = "do $$ begin loop begin perform pg_sleep(600);
                    exception when query_canceled then null; end; end loop; end $$";
    let error = timeout(PATIENCE, client.batch_execute(stubborn)).await.unwrap().unwrap_err();
    let (sqlstate, message, hint) = words(&error);
    assert_eq!((sqlstate, hint), pair("57014", "statement_timeout"), "{message}");
    assert_eq!(error.as_db_error().unwrap().parsed_severity(), Some(Severity::Fatal));
    world.until_backends(&tenant, ASLEEP, 0).await;
}

#[tokio::test]
async fn who_has_said_goodbye_has_no_more_time_than_others() {
    for text in [
        "select pg_sleep(600)",
        // It catches its cancels.
        "do $$ begin loop begin perform pg_sleep(600);
         exception when query_canceled then null; end; end loop; end $$",
    ] {
        let world = World::start().await;
        // Long enough to be seen asleep.
        let tenant = with_statements_of(&world, "acme", Some(Duration::from_secs(3))).await;
        let (mut raw, _) = crate::raw::Raw::session(&world, &tenant).await;
        raw.query(text).await;
        raw.send(GOODBYE).await;
        world.until_backends(&tenant, ASLEEP, 1).await;
        drop(raw);
        world.until_backends(&tenant, ASLEEP, 0).await;
    }
    // The canary: it goes on where there is no limit, or a longer one for each statement.
    let world = World::start().await;
    let limits = [("acme", None), ("globex", Some(SUM))];
    for (slug, limit) in limits {
        let tenant = with_statements_of(&world, slug, limit).await;
        let client = world.connect(&tenant).await;
        client.batch_execute("create table t (x text)").await.unwrap();
        let (mut raw, _) = crate::raw::Raw::session(&world, &tenant).await;
        for _ in 0..6 {
            raw.query("select pg_sleep(0.5)").await;
        }
        raw.query("insert into t select 'done'").await;
        raw.send(GOODBYE).await;
        drop(raw);
        let done = async { while one(&client, "select count(*)::text from t").await != "1" {} };
        timeout(PATIENCE, done).await.expect("what was asked before is done");
    }
}

#[tokio::test]
async fn a_plan_that_changes_holds_for_open_sessions() {
    let world = World::start().await;
    let mut tenant = with_statements_of(&world, "acme", None).await;
    let client = world.connect(&tenant).await;
    client.batch_execute("select pg_sleep(0.5)").await.unwrap();
    let (slept, ()) = tokio::join!(client.batch_execute("select pg_sleep(600)"), async {
        world.until_backends(&tenant.clone(), ASLEEP, 1).await;
        world.change(&mut tenant, |route| route.terms.statement_timeout = Some(SHORT));
    });
    assert_eq!(words(&slept.unwrap_err()).2, "insula: statement_timeout");
    world.change(&mut tenant, |route| route.terms.statement_timeout = None);
    client.batch_execute("select pg_sleep(0.9)").await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_nobody_goes_on_with_is_ended() {
    for pool_mode in [PoolMode::Transaction, PoolMode::Session] {
        let config = PgProxyConfig { pool_mode, ..PgProxyConfig::default() };
        let world = World::start_with(config, None).await;
        let tenant = with_idle_of(&world, Duration::from_secs(1)).await;
        let client = world.connect(&tenant).await;
        client.batch_execute("create table t (x int)").await.unwrap();
        // One right behind the other: what waits for the test is idle. At work it is not.
        let (begun, entered, slept) = tokio::join!(
            client.batch_execute("begin; set idle_in_transaction_session_timeout = 0"),
            client.batch_execute("insert into t values (1)"),
            client.batch_execute("select pg_sleep(2)"),
        );
        begun.and(entered).and(slept).unwrap();
        world.until_backends(&tenant, "state like 'idle in transaction%'", 0).await;
        let other = world.connect(&tenant).await;
        assert_eq!(one(&other, "select count(*)::text from t").await, "0", "it was rolled back");
        assert!(client.batch_execute("select 1").await.is_err());
    }
}

#[tokio::test]
async fn who_is_ended_is_told_why() {
    let world = World::start().await;
    let tenant = with_idle_of(&world, SHORT).await;
    let (mut raw, _) = crate::raw::Raw::session(&world, &tenant).await;
    // Both at once: in between it would be idle.
    raw.write(|out| {
        for text in [&b"begin"[..], b"selec"] {
            frontend::put_query(out, text).unwrap();
        }
    })
    .await;
    for _ in 0..2 {
        raw.until_ready().await;
    }
    let last = timeout(PATIENCE, raw.rest()).await.expect("a failed transaction is one too");
    let text = String::from_utf8_lossy(&last).into_owned();
    assert!(text.contains("25P03") && text.contains("insula: idle_in_transaction_timeout"), "{text}");
}

#[tokio::test]
async fn outside_a_transaction_a_session_may_be_idle() {
    let world = World::start().await;
    let tenant = with_idle_of(&world, SHORT).await;
    let client = world.connect(&tenant).await;
    client.batch_execute("listen x").await.unwrap();
    let other = world.connect(&tenant).await;
    tokio::join!(async { other.batch_execute("select pg_sleep(1)").await.unwrap() }, async {
        client.batch_execute("select 1").await.unwrap()
    });
    assert_eq!(one(&client, "select 'here'").await, "here");
}

/// A network before a server, in which new connections get stuck while it is
/// told to: what is said on them comes later.
pub async fn sticky(server: SocketAddr, is_stuck: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut is_stuck = is_stuck.clone();
            tokio::spawn(async move {
                if is_stuck.wait_for(|is_stuck| !is_stuck).await.is_ok() {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_cancel_that_may_come_too_late_finds_nobody_else() {
    let config = PgProxyConfig {
        backends_per_cluster_max: 1,
        backends_per_tenant_max: Some(1),
        ..PgProxyConfig::default()
    };
    let world = World::start_with(config.clone(), None).await;
    let server: tokio_postgres::Config = postgres().await.url("postgres").parse().unwrap();
    let (network, is_stuck) = watch::channel(false);
    let near = sticky(([127, 0, 0, 1], server.get_ports()[0]).into(), is_stuck).await;
    let endpoint = world.endpoint("127.0.0.1", near.port(), false);
    world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
    let mut tenant = with_statements_of(&world, "acme", None).await;
    let (late, other) = (world.connect(&tenant).await, world.connect(&tenant).await);
    let pid = "select pg_backend_pid()::text";
    let first = one(&late, pid).await;
    assert_eq!(one(&other, pid).await, first, "the canary: they share it");

    network.send_replace(true);
    world.proxy.set_config(PgProxyConfig { connect_timeout: SHORT, ..config.clone() });
    world.change(&mut tenant, |route| route.terms.statement_timeout = Some(SHORT));
    // It ends by itself, after its cancel was given up.
    late.batch_execute("select pg_sleep(1.5)").await.unwrap();
    world.change(&mut tenant, |route| route.terms.statement_timeout = None);
    world.proxy.set_config(config);
    network.send_replace(false);
    assert_ne!(one(&other, pid).await, first);
}
