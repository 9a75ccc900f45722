//! How many may be in at once: exactly as many as the plan says, however many
//! come at the same moment, and the places come back.

use futures_util::future::join_all;
use insula_api::PgClientState;
use insula_domain::PoolMode;
use insula_pg_proxy::{Ask, PgProxyConfig};
use insula_route_map::Rows;

use crate::raw::Raw;
use crate::support::{PATIENCE, World, connect, one, pair, refused, words};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_and_exactly_the_limit_gets_in() {
    let world = World::start().await;
    let other = world.tenant("other").await;
    for slug in ["acme", "globex", "initech"] {
        let mut tenant = world.tenant(slug).await;
        world.change(&mut tenant, |route| route.max_connections = Some(7));
        let config = world.config(&tenant);
        let attempts = join_all((0..50).map(|_| connect(&config))).await;
        let (inside, outside): (Vec<_>, Vec<_>) = attempts.into_iter().partition(Result::is_ok);
        assert_eq!(inside.len(), 7, "{slug}");
        for refused in outside {
            let (sqlstate, message, hint) = words(&refused.map(drop).unwrap_err());
            assert_eq!((sqlstate, hint), pair("53300", "too_many_connections"));
            assert!(message.contains(slug) && message.contains('7'), "{message}");
        }
        assert!(connect(&world.config(&other)).await.is_ok(), "another tenant is not touched");
        drop(inside);
        until_let_in(&world, &tenant).await;
    }
}

/// Tries until there is a place.
async fn until_let_in(world: &World, tenant: &crate::support::Tenant) {
    let config = world.config(tenant);
    let admitted = async { while connect(&config).await.is_err() {} };
    tokio::time::timeout(crate::support::PATIENCE, admitted).await.expect("a place comes back");
}

#[tokio::test]
async fn a_client_that_vanishes_keeps_its_place_until_its_query_is_ended() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    world.change(&mut tenant, |route| route.max_connections = Some(1));
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.query("select pg_sleep(600)").await;
    world.until_backends(&tenant, "wait_event = 'PgSleep'", 1).await;
    drop(raw);
    // Without a cancel the backend would sleep on for ten minutes.
    world.until_backends(&tenant, "true", 0).await;
    until_let_in(&world, &tenant).await;
}

#[tokio::test]
async fn logins_and_clusters_have_limits_of_their_own() {
    let config = PgProxyConfig {
        pool_mode: PoolMode::Session,
        backends_per_tenant_max: Some(10),
        ..PgProxyConfig::default()
    };
    let world = World::start_with(config.clone(), None).await;
    let mut tenant = world.tenant("acme").await;
    world.change_login(&mut tenant, |login| login.max_sessions = Some(1));
    let _inside = world.connect(&tenant).await;
    assert_eq!(refused(&world.config(&tenant)).await, pair("53300", "too_many_connections"));
    world.change_login(&mut tenant, |login| login.max_sessions = None);
    let mut endpoint = (**world.routes.snapshot().endpoint(&"c".parse().unwrap()).unwrap()).clone();
    endpoint.max_connections = Some(2);
    endpoint.revision = world.next_revision();
    world.push(Rows { endpoints: vec![endpoint], ..Rows::default() });
    let _second = world.connect(&tenant).await;
    // From here on: a backend that is being opened is waited for as well.
    let backend_wait_max = std::time::Duration::from_millis(100);
    world.proxy.set_config(PgProxyConfig { backend_wait_max, ..config });
    assert_eq!(refused(&world.config(&tenant)).await, pair("53300", "overloaded"));
}

#[tokio::test]
async fn the_front_itself_is_bounded_and_says_so() {
    let config = PgProxyConfig { sessions_max: 2, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let tenant = world.tenant("acme").await;
    let _inside = [world.connect(&tenant).await, world.connect(&tenant).await];
    assert_eq!(refused(&world.config(&tenant)).await, pair("53300", "overloaded"));

    let config = PgProxyConfig { authenticating_max: 1, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let tenant = world.tenant("acme").await;
    let mut slow = Raw::connect(&world).await;
    slow.start(&[("user", "acme")]).await;
    slow.next().await.expect("it is asked for its proof");
    assert_eq!(refused(&world.config(&tenant)).await, pair("53300", "overloaded"));
    drop(slow);
    until_let_in(&world, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_nobody_out() {
    let startup_timeout = std::time::Duration::from_secs(600);
    let config = PgProxyConfig { authenticating_max: 20, startup_timeout, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let tenant = world.tenant("acme").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Raw::connect(&world).await);
    }
    let _inside =
        tokio::time::timeout(PATIENCE, world.connect(&tenant)).await.expect("nobody waits for a time-out");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_no_room_is_always_told() {
    let config = PgProxyConfig { authenticating_max: 4, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let tenant = world.tenant("acme").await;
    // The places that one address can have, one after the other: a silent one
    // would make room for the next. None of them goes on.
    let mut asking = Vec::new();
    for _ in 0..3 {
        let mut slow = Raw::connect(&world).await;
        slow.start(&[("user", "acme")]).await;
        slow.next().await.expect("it is asked for its proof");
        asking.push(slow);
    }
    for _ in 0..100 {
        asking.push(Raw::connect(&world).await);
    }
    for _ in 0..20 {
        assert_eq!(refused(&world.config(&tenant)).await, pair("53300", "overloaded"));
    }
}

/// Waits until so many clients are in, of which so many wait for a backend.
async fn until_waiting(world: &World, clients: usize, waiting: usize) {
    let seen = async {
        loop {
            let items = world.proxy.clients(&Ask { tenant: None, limit: 100 }).items;
            let now = items.iter().filter(|one| one.state == PgClientState::Waiting).count();
            if (items.len(), now) == (clients, waiting) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("they come and go as wanted");
}

#[tokio::test]
async fn who_leaves_while_it_waits_for_a_backend_is_gone_and_nothing_of_it_is_done() {
    let config = PgProxyConfig {
        backends_per_cluster_max: 1,
        backends_per_tenant_max: Some(1),
        backend_wait_max: std::time::Duration::from_secs(600),
        ..PgProxyConfig::default()
    };
    let world = World::start_with(config, None).await;
    let tenant = world.tenant("acme").await;
    let holder = world.connect(&tenant).await;
    holder.batch_execute("create table t (x int)").await.unwrap();
    let [mut gone, mut polite, mut patient] = [
        Raw::session(&world, &tenant).await.0,
        Raw::session(&world, &tenant).await.0,
        Raw::session(&world, &tenant).await.0,
    ];
    holder.batch_execute("begin").await.unwrap();
    for (raw, number) in [(&mut gone, 1), (&mut polite, 2), (&mut patient, 3)] {
        raw.query(&format!("insert into t values ({number})")).await;
    }
    until_waiting(&world, 4, 3).await;
    drop(gone);
    until_waiting(&world, 3, 2).await;
    polite.send(b"X\0\0\0\x04").await;
    assert!(polite.rest().await.is_empty());
    until_waiting(&world, 2, 1).await;

    // One that is on its way in waits for its first one.
    let mut entering = Raw::connect(&world).await;
    entering.start(&[("user", "acme"), ("database", "app")]).await;
    let secret = tenant.secret.clone();
    let enters = tokio::spawn(async move { entering.come_in(&secret).await });
    until_waiting(&world, 3, 2).await;
    enters.abort();
    until_waiting(&world, 2, 1).await;

    // The canary: who stays is served.
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(crate::raw::letters(&patient.until_ready().await), "CZ");
    assert_eq!(one(&holder, "select string_agg(x::text, ',') from t").await, "3");
}
