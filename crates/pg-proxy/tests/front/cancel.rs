//! Cancel requests reach the asker's query and nobody else's.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use insula_api::PgClientState;
use insula_pg_proxy::Ask;
use insula_pg_wire::backend::{parse_error, tag};
use insula_pg_wire::startup::{CancelKey, CancelSecret, put_cancel_request};
use insula_route_map::Rows;
use insula_testkit::postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use crate::raw::{Raw, letters};
use crate::sharing::{setting, world_of};
use crate::support::{PATIENCE, Tenant, World, one};
use crate::timeouts::sticky;

const SLEEP: &str = "select pg_sleep(600)";

pub async fn ask(world: &World, key: &CancelKey) {
    let mut raw = Raw::connect(world).await;
    raw.write(|out| put_cancel_request(out, key)).await;
    assert!(raw.rest().await.is_empty(), "a cancel request is answered by closing");
}

pub const ASLEEP: &str = "wait_event = 'PgSleep'";

#[tokio::test]
async fn a_driver_cancels_its_own_query() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(client.batch_execute(SLEEP), async {
        world.until_backends(&tenant, ASLEEP, 1).await;
        cancel.cancel_query(NoTls).await.unwrap();
    });
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    assert_eq!(crate::support::one(&client, "select 'still here'").await, "still here");
}

#[tokio::test]
async fn a_wrong_key_cancels_nothing_and_a_right_one_its_own_query_alone() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut first, key) = Raw::session(&world, &tenant).await;
    let (mut second, second_key) = Raw::session(&world, &tenant).await;
    first.query(SLEEP).await;
    second.query(SLEEP).await;
    world.until_backends(&tenant, ASLEEP, 2).await;

    // Neither guessed keys nor the server's own process numbers lead anywhere.
    let admin = world.database.connect().await;
    let role = insula_domain::RoleName::of_tenant(tenant.id);
    let pids = admin.query("select pid from pg_stat_activity where usename = $1", &[&role.as_str()]).await;
    for row in pids.unwrap() {
        let process_id = u32::try_from(row.get::<_, i32>(0)).unwrap();
        ask(&world, &CancelKey { process_id, secret: key.secret.clone() }).await;
    }
    let mut near = key.secret.as_bytes().to_vec();
    near[3] ^= 1;
    for secret in [CancelSecret::new(&near).unwrap(), second_key.secret.clone()] {
        ask(&world, &CancelKey { secret, ..key.clone() }).await;
    }
    ask(&world, &CancelKey { process_id: 0, secret: [0; 4].into() }).await;
    world.until_backends(&tenant, ASLEEP, 2).await;

    ask(&world, &key).await;
    let messages = first.until_ready().await;
    let error = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE).expect("an error");
    assert_eq!(parse_error(&error.body).unwrap().0, "57014");
    world.until_backends(&tenant, ASLEEP, 1).await;
    ask(&world, &second_key).await;
    second.until_ready().await;

    // The key of a session that is over leads nowhere.
    drop(first);
    world.until_backends(&tenant, crate::support::IN_USE, 0).await;
    ask(&world, &key).await;
}

/// Holds up whoever uses a table or a view of the test's database.
pub async fn holds_up(world: &World, relation: &str) -> Client {
    let admin = world.database.connect().await;
    let lock = format!("begin; lock table {relation} in access exclusive mode");
    admin.batch_execute(&lock).await.unwrap();
    admin
}

/// Needed to set this setting where its value was not looked up before.
const CONFIGURATIONS: &str = "pg_catalog.pg_ts_config";
const GERMAN: &str = "set default_text_search_config = 'pg_catalog.german'";

/// Needed to ask what is set.
pub const SETTINGS: &str = "pg_catalog.pg_settings";

pub const HELD_UP: &str = "wait_event_type = 'Lock'";

/// The SQLSTATE of the only error among what comes up to the next `ReadyForQuery`.
async fn failure(raw: &mut Raw) -> String {
    let messages = timeout(PATIENCE, raw.until_ready()).await.expect("it is cancelled");
    let error = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE).expect("an error");
    parse_error(&error.body).unwrap().0
}

async fn answers(raw: &mut Raw) {
    raw.query("select 'still here'").await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
}

#[tokio::test]
async fn a_cancel_that_comes_while_settings_are_put_in_place_reaches_the_statement_behind() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    raw.query(GERMAN).await;
    raw.until_ready().await;
    let pid = world.connect(&tenant).await.query_one("select pg_backend_pid()", &[]).await.unwrap();
    let admin = holds_up(&world, CONFIGURATIONS).await;
    // The next backend has not looked it up.
    admin.execute("select pg_terminate_backend($1, 20000)", &[&pid.get::<_, i32>(0)]).await.unwrap();
    raw.query(SLEEP).await;
    world.until_backends(&tenant, HELD_UP, 1).await;
    ask(&world, &key).await;
    ask(&world, &key).await;
    admin.batch_execute("rollback").await.unwrap();
    assert_eq!(failure(&mut raw).await, "57014");
    answers(&mut raw).await;
    let client = world.connect(&tenant).await;
    assert_ne!(setting(&client, "default_text_search_config").await, "pg_catalog.german");
}

#[tokio::test]
async fn a_cancel_that_comes_while_the_front_asks_what_is_set_comes_to_nothing() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    let admin = holds_up(&world, SETTINGS).await;
    raw.query("set work_mem = '5MB'").await;
    raw.until_ready().await;
    world.until_backends(&tenant, HELD_UP, 1).await;
    ask(&world, &key).await;
    admin.batch_execute("rollback").await.unwrap();
    answers(&mut raw).await;
    is_shared(&world, &tenant).await;
    raw.query("select current_setting('work_mem')").await;
    assert!(raw.until_ready().await[1].body.ends_with(b"5MB"));
}

/// Another session gets the only backend.
async fn is_shared(world: &World, tenant: &Tenant) {
    assert_eq!(one(&world.connect(tenant).await, "select 'served'").await, "served");
}

#[tokio::test]
async fn a_cancel_of_what_waits_behind_the_fronts_question_reaches_it() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    let admin = holds_up(&world, SETTINGS).await;
    raw.query("set work_mem = '5MB'").await;
    raw.until_ready().await;
    world.until_backends(&tenant, HELD_UP, 1).await;
    raw.query(SLEEP).await;
    ask(&world, &key).await;
    admin.batch_execute("rollback").await.unwrap();
    assert_eq!(failure(&mut raw).await, "57014");
    is_shared(&world, &tenant).await;
}

#[tokio::test]
async fn a_cancel_reaches_what_waits_for_a_backend() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    has_waited(&world, &tenant, &mut raw, &key, SLEEP).await;
    assert_eq!(failure(&mut raw).await, "57014");
    answers(&mut raw).await;
}

/// A statement that was to be cancelled while it waited gets the only backend.
async fn has_waited(world: &World, tenant: &Tenant, raw: &mut Raw, key: &CancelKey, statement: &str) {
    let busy = world.connect(tenant).await;
    busy.batch_execute("begin").await.unwrap();
    raw.query(statement).await;
    let ask_for = Ask { tenant: Some(tenant.id), limit: 100 };
    let waits = async {
        while world.proxy.clients(&ask_for).items.iter().all(|one| one.state != PgClientState::Waiting) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("it waits");
    ask(world, key).await;
    busy.batch_execute("commit").await.unwrap();
}

/// A network before a server that holds up statements with `pg_sleep` in them,
/// and nothing else.
struct Holdup {
    is_held: watch::Sender<bool>,
    /// Cancels that have come to the server.
    cancels: watch::Receiver<usize>,
    address: SocketAddr,
}

impl Holdup {
    async fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_held, held) = watch::channel(true);
        let (counter, cancels) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (held, counter) = (held.clone(), counter.clone());
                tokio::spawn(async move { holdup(near, server, held, counter).await });
            }
        });
        Self { is_held, cancels, address }
    }

    /// Waits for so many cancels, which have found nothing to cancel.
    async fn have_come(&mut self, count: usize) {
        let come = self.cancels.wait_for(|cancels| *cancels >= count);
        timeout(PATIENCE, come).await.expect("they come").unwrap();
    }
}

async fn holdup(
    near: TcpStream,
    server: SocketAddr,
    mut held: watch::Receiver<bool>,
    counter: watch::Sender<usize>,
) -> io::Result<()> {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = TcpStream::connect(server).await?.into_split();
    let back = tokio::spawn(async move { copy(&mut from_far, &mut to_near).await });
    let mut said = BytesMut::new();
    let mut is_cancel = false;
    while from_near.read_buf(&mut said).await? > 0 {
        // Behind its length, as PostgreSQL's protocol has it; the secret is longer
        // from 18 on.
        is_cancel |= said.get(4..8) == Some(&[4, 210, 22, 46]);
        if said.windows(8).any(|found| found == b"pg_sleep") {
            let _ = held.wait_for(|held| !held).await;
        }
        to_far.write_all(&said.split()).await?;
        if is_cancel {
            back.await??;
            counter.send_modify(|cancels| *cancels += 1);
            return Ok(());
        }
    }
    to_far.shutdown().await
}

/// A world with one backend, behind such a network.
async fn held_up_world() -> (World, Tenant, Holdup) {
    let world = world_of(1).await;
    let server: tokio_postgres::Config = postgres().await.url("postgres").parse().unwrap();
    let holdup = Holdup::new(([127, 0, 0, 1], server.get_ports()[0]).into()).await;
    let endpoint = world.endpoint("127.0.0.1", holdup.address.port(), false);
    world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
    let tenant = world.tenant("acme").await;
    (world, tenant, holdup)
}

#[tokio::test]
async fn a_cancel_that_comes_before_the_statement_for_which_it_has_waited_comes_again() {
    let (world, tenant, mut holdup) = held_up_world().await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    has_waited(&world, &tenant, &mut raw, &key, SLEEP).await;
    holdup.have_come(1).await;
    // The canary: that one is lost, and the statement would go on.
    holdup.is_held.send_replace(false);
    assert_eq!(failure(&mut raw).await, "57014");
    holdup.have_come(2).await;
    answers(&mut raw).await;
}

#[tokio::test]
async fn a_cancel_that_has_waited_comes_no_more_than_seven_times() {
    let (world, tenant, mut holdup) = held_up_world().await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    has_waited(&world, &tenant, &mut raw, &key, "select pg_sleep(0)").await;
    holdup.have_come(7).await;
    holdup.is_held.send_replace(false);
    assert_eq!(letters(&raw.until_ready().await), "TDCZ", "all were lost");
    answers(&mut raw).await;
    assert_eq!(*holdup.cancels.borrow(), 7);
}

#[tokio::test]
async fn a_cancel_that_comes_again_reaches_neither_the_front_nor_what_comes_next() {
    let (world, tenant, mut holdup) = held_up_world().await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    let admin = holds_up(&world, SETTINGS).await;
    has_waited(&world, &tenant, &mut raw, &key, "set work_mem = '5MB' /* no pg_sleep */").await;
    holdup.have_come(1).await;
    holdup.is_held.send_replace(false);
    assert_eq!(letters(&raw.until_ready().await), "CZ");
    // The front asks what is set now.
    world.until_backends(&tenant, HELD_UP, 1).await;
    admin.batch_execute("rollback").await.unwrap();
    // All of them would have come meanwhile.
    raw.query("select pg_sleep(1.5)").await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    raw.query("select current_setting('work_mem')").await;
    assert!(raw.until_ready().await[1].body.ends_with(b"5MB"));
    is_shared(&world, &tenant).await;
}

#[tokio::test]
async fn a_cancel_that_comes_too_late_and_finds_the_fronts_question_changes_nothing() {
    let world = world_of(1).await;
    let server: tokio_postgres::Config = postgres().await.url("postgres").parse().unwrap();
    let (network, is_stuck) = watch::channel(false);
    let near = sticky(([127, 0, 0, 1], server.get_ports()[0]).into(), is_stuck).await;
    let endpoint = world.endpoint("127.0.0.1", near.port(), false);
    world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
    let tenant = world.tenant("acme").await;
    let (mut raw, key) = Raw::session(&world, &tenant).await;
    let held = world.database.connect().await;
    held.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    raw.query("set work_mem = '5MB'; select pg_advisory_xact_lock(1)").await;
    world.until_backends(&tenant, HELD_UP, 1).await;
    let admin = holds_up(&world, SETTINGS).await;

    network.send_replace(true);
    let connections = network.receiver_count();
    let late = async {
        ask(&world, &key).await;
        // The question was cancelled, and is there again.
        world.until_backends(&tenant, HELD_UP, 1).await;
    };
    let before = async {
        while network.receiver_count() == connections {
            tokio::task::yield_now().await;
        }
        held.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
        raw.until_ready().await;
        world.until_backends(&tenant, "wait_event_type = 'Lock' and query like '%pg_settings%'", 1).await;
        network.send_replace(false);
    };
    tokio::join!(late, before);
    admin.batch_execute("rollback").await.unwrap();
    is_shared(&world, &tenant).await;
    answers(&mut raw).await;
}
