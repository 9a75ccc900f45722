//! How sessions end before their clients leave: suspension, moves, removed
//! logins, and the stop of the front.

use std::time::Duration;

use insula_domain::{Epoch, TenantStatus};
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::backend::{parse_error, tag};
use tokio::time::timeout;

use crate::raw::{Raw, letters};
use crate::support::{IN_USE, PATIENCE, Tenant, World, pair, refused};

/// The SQLSTATE and the hint with which the front ends the session.
async fn ended(raw: &mut Raw) -> (String, String) {
    let message = raw.next().await.expect("a last message comes");
    assert_eq!(message.tag, tag::ERROR_RESPONSE, "{message:?}");
    assert!(raw.next().await.is_none());
    let body = String::from_utf8(message.body.to_vec()).unwrap();
    let hint = body.split('\0').find_map(|field| field.strip_prefix('H')).unwrap().to_owned();
    (parse_error(&message.body).unwrap().0, hint)
}

async fn in_transaction(world: &World, tenant: &Tenant) -> Raw {
    let (mut raw, _) = Raw::session(world, tenant).await;
    raw.query("begin").await;
    assert_eq!(letters(&raw.until_ready().await), "CZ");
    raw
}

#[tokio::test]
async fn suspending_a_tenant_ends_all_its_sessions_and_no_others() {
    let world = World::start().await;
    let (mut tenant, other) = (world.tenant("acme").await, world.tenant("globex").await);
    let (mut idle, _) = Raw::session(&world, &tenant).await;
    let mut open = in_transaction(&world, &tenant).await;
    let (mut busy, _) = Raw::session(&world, &tenant).await;
    busy.query("select pg_sleep(600)").await;
    let (mut gone, _) = Raw::session(&world, &tenant).await;
    gone.query("select pg_sleep(600)").await;
    gone.send(b"X\0\0\0\x04").await;
    drop(gone);
    let (mut foreign, _) = Raw::session(&world, &other).await;
    world.until_backends(&tenant, IN_USE, 3).await;

    world.change(&mut tenant, |route| route.status = TenantStatus::Suspended);
    for raw in [&mut idle, &mut open, &mut busy] {
        assert_eq!(ended(raw).await, pair("57P01", "tenant_suspended"));
    }
    // The running query does not run on behind the front's back.
    world.until_backends(&tenant, "true", 0).await;
    assert_eq!(refused(&world.config(&tenant)).await, pair("28000", "tenant_suspended"));
    foreign.query("select 1").await;
    assert_eq!(letters(&foreign.until_ready().await), "TDCZ");
    world.change(&mut tenant, |route| route.status = TenantStatus::Active);
    Raw::session(&world, &tenant).await;
}

#[tokio::test]
async fn a_move_takes_idle_sessions_along_and_lets_transactions_finish() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let (mut idle, _) = Raw::session(&world, &tenant).await;
    let mut open = in_transaction(&world, &tenant).await;
    let (mut copying, _) = Raw::session(&world, &tenant).await;
    copying.query("create table items (id int)").await;
    copying.until_ready().await;
    copying.query("copy items from stdin").await;
    assert_eq!(copying.next().await.unwrap().tag, tag::COPY_IN_RESPONSE);

    world.change(&mut tenant, |route| route.placement.as_mut().unwrap().epoch = Epoch(2));
    let told = async |raw: &mut Raw| {
        raw.query("show insula.epoch").await;
        raw.until_ready().await[1].body[6..].to_vec()
    };
    assert_eq!(told(&mut idle).await, b"2");
    assert_eq!(told(&mut open).await, b"1");
    open.query("select 1").await;
    assert_eq!(letters(&open.until_ready().await), "TDCZ", "the transaction goes on");
    copying.send(b"d\0\0\0\x061\n").await;
    copying.send(b"c\0\0\0\x04").await;
    assert_eq!(letters(&copying.until_ready().await), "CZ", "so does the copy");
    open.query("commit").await;
    assert_eq!(letters(&open.until_ready().await), "CZ");
    for raw in [&mut open, &mut copying] {
        assert_eq!(told(raw).await, b"2");
    }
    // A new session is of the new epoch.
    let client = world.connect(&tenant).await;
    assert_eq!(crate::support::one(&client, "show insula.epoch").await, "2");
}

#[tokio::test]
async fn a_removed_login_ends_its_sessions_and_changes_of_no_consequence_do_not() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    world.change(&mut tenant, |route| route.max_connections = Some(1));
    world.change_login(&mut tenant, |login| login.max_sessions = Some(1));
    raw.query("select 1").await;
    assert_eq!(letters(&raw.until_ready().await), "TDCZ");
    world.remove_login(&tenant);
    assert_eq!(ended(&mut raw).await, pair("57P01", "login_refused"));
    assert_eq!(refused(&world.config(&tenant)).await, pair("28P01", "login_refused"));
}

#[tokio::test]
async fn a_stop_waits_for_transactions_and_turns_new_clients_away() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut idle, _) = Raw::session(&world, &tenant).await;
    let mut open = in_transaction(&world, &tenant).await;
    let mut asked = Raw::connect(&world).await;
    asked.start(&[("user", "acme"), ("database", "app")]).await;
    asked.next().await.expect("it is asked for its proof");

    world.shutdown.cancel();
    assert_eq!(ended(&mut idle).await, pair("57P01", "unavailable"));
    assert_eq!(ended(&mut asked).await, pair("57P03", "unavailable"));
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "unavailable"));
    assert!(!world.served.is_finished());
    open.query("commit").await;
    assert_eq!(letters(&open.until_ready().await), "CZ");
    assert_eq!(ended(&mut open).await, pair("57P01", "unavailable"));
    let World { served, .. } = world;
    timeout(PATIENCE, served).await.expect("the front ends").unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let config = PgProxyConfig { drain_timeout: Duration::from_millis(50), ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let tenant = world.tenant("acme").await;
    let mut open = in_transaction(&world, &tenant).await;
    let (mut busy, _) = Raw::session(&world, &tenant).await;
    busy.query("select pg_sleep(600)").await;
    world.shutdown.cancel();
    for raw in [&mut open, &mut busy] {
        assert_eq!(ended(raw).await, pair("57P01", "unavailable"));
    }
    let World { served, .. } = world;
    timeout(PATIENCE, served).await.expect("the front ends").unwrap();
}
