//! Which minor version of the protocol is spoken, with clients and with servers,
//! and the cancel keys of each. Source: PostgreSQL 18's documentation, chapter
//! "Frontend/Backend Protocol".

use std::path::Path;

use insula_pg_wire::backend::tag;
use insula_pg_wire::startup::{CancelKey, CancelSecret, StartupPacket, read_packet};
use insula_route_map::Rows;
use insula_testkit::postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Config;

use crate::cancel::{ASLEEP, ask};
use crate::raw::{Raw, letters};
use crate::support::{PATIENCE, Tenant, World};

/// A session begun so: what the front answers first where it negotiates, and
/// the session's key.
async fn begin(
    world: &World,
    tenant: &Tenant,
    minor_version: u16,
    options: &[(&str, &str)],
) -> (Raw, Option<Vec<u8>>, CancelKey) {
    let mut raw = Raw::connect(world).await;
    let parameters = [&[("user", tenant.login.name.as_str()), ("database", "app")], options].concat();
    raw.start_of(minor_version, &parameters).await;
    let mut negotiated = None;
    if raw.next_tag().await == tag::NEGOTIATE_PROTOCOL_VERSION {
        negotiated = Some(raw.next().await.unwrap().body.to_vec());
    }
    let key = raw.come_in(&tenant.secret).await;
    (raw, negotiated, key)
}

/// The minor version and the options that are asked for; what is answered where
/// it is something else; the bytes of the key's secret.
type Case = (u16, &'static [(&'static str, &'static str)], Option<&'static [u8]>, usize);

const SHINY: &[(&str, &str)] = &[("_pq_.shiny", "1")];
const TWO: &[(&str, &str)] = &[("_pq_.shiny", "1"), ("application_name", "x"), ("_pq_.new", "")];

#[tokio::test]
async fn the_newest_version_that_both_speak_is_spoken() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let cases: [Case; 8] = [
        (0, &[], None, 4),
        (2, &[], None, 32),
        (1, &[], Some(b"\0\x03\0\0\0\0\0\0"), 4),
        (3, &[], Some(b"\0\x03\0\x02\0\0\0\0"), 32),
        (9999, SHINY, Some(b"\0\x03\0\x02\0\0\0\x01_pq_.shiny\0"), 32),
        (0, SHINY, Some(b"\0\x03\0\0\0\0\0\x01_pq_.shiny\0"), 4),
        (2, SHINY, Some(b"\0\x03\0\x02\0\0\0\x01_pq_.shiny\0"), 32),
        (2, TWO, Some(b"\0\x03\0\x02\0\0\0\x02_pq_.shiny\0_pq_.new\0"), 32),
    ];
    for (minor_version, options, answer, secret_bytes) in cases {
        let (mut raw, negotiated, key) = begin(&world, &tenant, minor_version, options).await;
        assert_eq!(negotiated.as_deref(), answer, "3.{minor_version} {options:?}");
        assert_eq!(key.secret.as_bytes().len(), secret_bytes, "3.{minor_version} {options:?}");
        raw.query("select 1").await;
        assert_eq!(letters(&raw.until_ready().await), "TDCZ", "3.{minor_version} {options:?}");
    }
}

#[tokio::test]
async fn a_long_key_cancels_its_own_query_and_no_part_of_it_does() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _, key) = begin(&world, &tenant, 2, &[]).await;
    let (other, _, _) = begin(&world, &tenant, 0, &[]).await;
    raw.query("select pg_sleep(600)").await;
    world.until_backends(&tenant, ASLEEP, 1).await;
    let secret = key.secret.as_bytes();
    let mut changed = secret.to_vec();
    changed[31] ^= 1;
    let longest = [secret, &[0; 224]].concat();
    let wrong = [&secret[..4], &secret[..31], &changed, &[secret, &[0]].concat(), &[0; 32], &longest];
    for secret in wrong {
        let secret = CancelSecret::new(secret).unwrap();
        ask(&world, &CancelKey { secret, ..key.clone() }).await;
    }
    world.until_backends(&tenant, ASLEEP, 1).await;
    // The canary: the whole key does.
    ask(&world, &key).await;
    assert_eq!(letters(&raw.until_ready().await), "TEZ");
    drop(other);
}

/// libpq of PostgreSQL 18 as psycopg brings it; its newer interface of cancels
/// sends keys of any length.
const LIBPQ: &str = "
import sys, threading, psycopg
assert psycopg.pq.version() >= 180000, psycopg.pq.version()
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print(connection.pgconn.full_protocol_version)
    print(connection.execute('show insula.tenant').fetchone()[0])
    done = threading.Event()
    def cancel():
        # One that comes before the query does nothing, and another one follows.
        while not done.wait(0.1):
            connection.cancel_safe(timeout=5)
    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        connection.execute('select pg_sleep(600)')
    except psycopg.errors.QueryCanceled:
        print('cancelled')
    done.set()
    thread.join()
";

#[tokio::test]
async fn libpq_of_postgresql_18_speaks_each_version() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(python.exists(), "{} is not there: make deps sets it up", python.display());
    for (versions, spoken) in [
        ("", "30000"),
        ("?max_protocol_version=3.0", "30000"),
        ("?max_protocol_version=3.2", "30002"),
        ("?max_protocol_version=latest", "30002"),
        ("?min_protocol_version=3.2&max_protocol_version=latest", "30002"),
    ] {
        let url = format!("{}{versions}", world.url(&tenant));
        let run = Command::new(&python).args(["-c", LIBPQ, &url]).kill_on_drop(true).output();
        let output = timeout(PATIENCE, run).await.expect("it ends").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, format!("{spoken}\nacme\ncancelled\n"), "{versions}: {err}");
    }
}

/// What the front has sent to a server at the beginning of a connection.
async fn overhear(server: (&'static str, u16)) -> (u16, mpsc::UnboundedReceiver<StartupPacket>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut bytes = bytes::BytesMut::new();
                let packet = loop {
                    if near.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        return;
                    }
                    if let Some(packet) = read_packet(&mut bytes.clone()).unwrap() {
                        break packet;
                    }
                };
                let _ = sender.send(packet);
                let mut far = TcpStream::connect(server).await.unwrap();
                far.write_all(&bytes).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, heard)
}

#[tokio::test]
async fn servers_are_asked_for_the_newest_and_get_keys_as_they_gave_them() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let server: Config = postgres().await.url("postgres").parse().unwrap();
    let (port, mut heard) = overhear(("127.0.0.1", server.get_ports()[0])).await;
    world.push(Rows { endpoints: vec![world.endpoint("127.0.0.1", port, false)], ..Rows::default() });
    let (mut raw, _, key) = begin(&world, &tenant, 2, &[]).await;
    raw.query("select pg_sleep(600)").await;
    world.until_backends(&tenant, ASLEEP, 1).await;
    ask(&world, &key).await;
    assert_eq!(letters(&raw.until_ready().await), "TEZ");

    let Some(StartupPacket::Session(start)) = heard.recv().await else { panic!("no session was begun") };
    assert_eq!(start.minor_version, 2);
    let cancel = loop {
        if let StartupPacket::Cancel(cancel) = heard.recv().await.expect("a cancel") {
            break cancel;
        }
    };
    // Servers before 18 speak 3.0 alone, and say so.
    let expected = if insula_testkit::installation().version().major() >= 18 { 32 } else { 4 };
    assert_eq!(cancel.secret.as_bytes().len(), expected);
}
