//! What an operator is shown: every client, backend and tenant as it is, and
//! no more than was asked for.

use insula_api::{PgBackend, PgBackendState, PgClient, PgClientState, PgTenant};
use insula_domain::PoolMode;
use insula_pg_proxy::{Ask, PgProxyConfig};

use tokio_postgres::SimpleQueryMessage;

use crate::support::{PATIENCE, Tenant, World, connect};

const ALL: Ask = Ask { tenant: None, limit: 1_000 };

fn of(tenant: &Tenant) -> Ask {
    Ask { tenant: Some(tenant.id), ..ALL }
}

/// Waits until the view is as wanted: a session notes what it does when it has
/// nothing more to do, which is after its client has the answer.
async fn until<T>(look: impl Fn() -> Vec<T>, wanted: impl Fn(&[T]) -> bool) -> Vec<T> {
    let seen = async {
        loop {
            let items = look();
            if wanted(&items) {
                return items;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the view comes to be as wanted")
}

fn clients(world: &World, ask: Ask) -> impl Fn() -> Vec<PgClient> {
    move || world.proxy.clients(&ask).items
}

fn backends(world: &World, ask: Ask) -> impl Fn() -> Vec<PgBackend> {
    move || world.proxy.backends(&ask).items
}

fn tenants(world: &World, ask: Ask) -> impl Fn() -> Vec<PgTenant> {
    move || world.proxy.tenants(&ask).items
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_is_shown_with_what_it_does() {
    let config = PgProxyConfig { backends_per_cluster_max: 2, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let named = connect(world.config(&acme).application_name("ledger")).await.unwrap();
    named.batch_execute("select 1").await.unwrap();
    named.batch_execute("select 1/0").await.unwrap_err();
    let has_failed = |one: &PgClient| one.transactions == 2 && one.state == PgClientState::Idle;
    let idle = until(clients(&world, ALL), |all| all.iter().any(has_failed)).await;
    let [one] = &idle[..] else { panic!("{idle:?}") };
    assert_eq!(one.tenant.as_ref(), Some(&acme.route.slug));
    assert_eq!((&*one.login, &*one.application_name), ("acme", "ledger"));
    assert_eq!((one.state, one.pool_mode, one.tls), (PgClientState::Idle, PoolMode::Transaction, false));
    assert!(one.address.starts_with("127.0.0.1:") && one.pinned.is_none());
    assert!(one.connected_at <= one.since);

    // The name changes, and the session keeps its backend for what it leaves in it.
    named.batch_execute("set application_name = 'night'; create temp table t (); begin").await.unwrap();
    let in_transaction = |all: &[PgClient]| all.iter().any(|one| one.state == PgClientState::InTransaction);
    let shown = until(clients(&world, ALL), in_transaction).await;
    assert_eq!(shown[0].application_name, "night");
    assert_eq!(shown[0].pinned.as_deref(), Some("temporary_object"));

    // One at work takes the other backend, so that the next one waits.
    let (working, waiting) = (world.connect(&acme).await, world.config(&globex));
    let enough = working.cancel_token();
    let work = tokio::spawn(async move { working.batch_execute("select pg_sleep(600)").await });
    until(clients(&world, ALL), |all| all[0].state == PgClientState::Active).await;
    world.until_backends(&acme, "wait_event = 'PgSleep'", 1).await;
    let wait = tokio::spawn(async move { connect(&waiting).await.map(drop) });
    let all = until(clients(&world, ALL), |all| all.len() == 3).await;
    let states: Vec<_> = all.iter().map(|client| client.state).collect();
    use PgClientState::{Active, InTransaction, Waiting};
    assert_eq!(states, [Waiting, Active, InTransaction], "those that wait first");
    let most_urgent = world.proxy.clients(&Ask { limit: 1, ..ALL });
    assert_eq!((most_urgent.items.len(), most_urgent.total), (1, 3));
    assert_eq!(most_urgent.items[0].tenant.as_ref(), Some(&globex.route.slug));
    assert_eq!(world.proxy.clients(&of(&acme)).total, 2);
    let waits = until(tenants(&world, ALL), |all| all[0].waiting == 1).await;
    assert_eq!(waits[0].tenant.as_ref(), Some(&globex.route.slug), "whose clients wait first");

    wait.abort();
    enough.cancel_query(tokio_postgres::NoTls).await.unwrap();
    work.await.unwrap().unwrap_err();
    drop(named);
    until(clients(&world, ALL), <[PgClient]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_shown_from_their_opening_to_their_end() {
    let world = World::start().await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let client = world.connect(&acme).await;
    let said = client.simple_query("select pg_backend_pid()").await.unwrap();
    let process = said.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let idle = |all: &[PgBackend]| all.iter().all(|one| one.state == PgBackendState::Idle);
    let shown = until(backends(&world, ALL), idle).await;
    let [backend] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!(Some(&*backend.process_id.to_string()), process);
    assert_eq!((backend.cluster.as_str(), backend.tenant.as_ref()), ("c", Some(&acme.route.slug)));
    assert_eq!(backend.role.tenant(), Some(acme.id));
    assert!(backend.opened_at <= backend.used_at);
    let before = backend.transactions;
    assert_eq!(before, 1);
    client.batch_execute("begin").await.unwrap();
    let used = until(backends(&world, of(&acme)), |all| all[0].state == PgBackendState::InUse).await;
    assert_eq!(used[0].transactions, before);
    client.batch_execute("commit").await.unwrap();
    until(backends(&world, ALL), |all| idle(all) && all[0].transactions == before + 1).await;

    // A pinned one counts its transactions while it is kept.
    client.batch_execute("listen x").await.unwrap();
    client.batch_execute("select 1").await.unwrap();
    let kept = |all: &[PgBackend]| all[0].transactions == before + 3;
    assert_eq!(until(backends(&world, ALL), kept).await[0].state, PgBackendState::InUse);
    assert_eq!(world.proxy.backends(&of(&globex)).total, 0);
    drop(client);
    until(backends(&world, ALL), <[PgBackend]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_shown_with_what_they_have_had() {
    let config = PgProxyConfig { backends_per_cluster_max: 8, ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let (mut acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    world.change(&mut acme, |route| {
        route.terms.weight = 7;
        route.terms.backends = Some(3);
    });
    let (quiet, client) = (world.connect(&globex).await, world.connect(&acme).await);
    for _ in 0..5 {
        client.simple_query("select repeat('x', 1000)").await.unwrap();
    }
    client.simple_query("select 1/0").await.unwrap_err();
    client.simple_query("listen x").await.unwrap();
    let shown = until(tenants(&world, ALL), |all| all[0].transactions == 7 && !all[0].pins.is_empty()).await;
    let [first, second] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!(first.tenant.as_ref(), Some(&acme.route.slug), "who had most transactions first");
    assert_eq!((first.clients, first.waiting, first.backends, first.backends_idle), (1, 0, 1, 0));
    assert_eq!((first.weight, first.backends_max), (7, Some(3)));
    assert_eq!((first.errors, first.pins["listen"]), (1, 1));
    assert!(first.bytes_to_clients > 5_000 && first.bytes_from_clients > 100);
    // The first backend was waited for while it was opened.
    assert_eq!(first.waits.count, 1);
    assert!(first.waits.longest_ms <= first.waits.total_ms);
    assert_eq!((second.transactions, second.weight, second.backends_max), (0, 1, Some(6)));
    assert_eq!(world.proxy.tenants(&of(&globex)).items[0], *second);
    drop(quiet);
    // What was counted stays when everybody has left, as long as there is the tenant.
    drop(client);
    let left = until(tenants(&world, of(&acme)), |all| all[0].clients == 0 && all[0].backends == 0).await;
    assert_eq!(left[0].transactions, 7);
}
