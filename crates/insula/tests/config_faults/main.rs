//! Watchers and writers while the configuration service is killed, its store is
//! restarted, notifications are lost and a watcher does not read: whatever was
//! acknowledged is there, every watcher ends with it, and none believes meanwhile
//! that what it has is current when it is not.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // fails as tests do

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod deaf;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::World;
use common::config::{Key, Stub, put, signed};
use futures_util::{StreamExt, stream};
use insula_config::{Client, Origin};
use insula_config_model::{ConfigValue, Room, Scope, Transaction, Write, WriteOp};
use insula_config_proto::v1::watch_event::{Event, Reason};
use insula_config_proto::v1::{HistoryRequest, WatchRequest, entry};
use insula_config_store::{Ambient, ConfigStore};
use insula_credentials::MasterKeys;
use insula_domain::{OsEntropy, SystemClock};
use insula_sql_store::{Connector, Store};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PATIENCE: Duration = Duration::from_secs(60);
const SLUGS: [&str; 3] = ["acme", "globex", "initech"];

/// What is written to a watcher that does not read: bytes, and how often.
const FILLING: usize = 250_000;
const FILLINGS: usize = 400;
/// What may be held meanwhile.
const HELD_KIB_MAX: usize = 64 << 10;

/// How often a key is written at the most: the versions that are kept.
const WRITES_PER_KEY: usize = 90;

async fn house() -> (World, Vec<Key>) {
    let world = World::start().await;
    world.apply_shop();
    for slug in SLUGS {
        world.create(slug, "free", "us-east-1");
    }
    let keys = SLUGS.map(|slug| world.key(slug)).to_vec();
    (world, keys)
}

/// What a writer was told: the numbers under each key, and the last revision.
#[derive(Default)]
struct Account {
    acknowledged: BTreeMap<(usize, String), BTreeSet<u64>>,
    revisions: BTreeMap<usize, i64>,
    refused: usize,
}

/// Writes growing numbers for all tenants in turn until it is told to stop. What
/// is not acknowledged is written again under the same token.
fn writer(stub: Stub, keys: Vec<Key>, pace: Duration, over: Arc<AtomicBool>) -> JoinHandle<Account> {
    tokio::spawn(async move {
        let (mut account, mut number) = (Account::default(), 0_u64);
        let mut ticks = tokio::time::interval(pace);
        while !over.load(Ordering::Relaxed) {
            ticks.tick().await;
            number += 1;
            let tenant = usize::try_from(number).unwrap() % keys.len();
            let part = usize::try_from(number).unwrap() / keys.len() / WRITES_PER_KEY;
            let name = format!("tenant_config_fault/{part}");
            let written = loop {
                let said =
                    put(&stub, &keys[tenant].secret, &name, number.to_string(), &number.to_string()).await;
                match said {
                    Ok(written) => break written,
                    Err(_) => account.refused += 1,
                }
                sleep(Duration::from_millis(20)).await; // between two tries
            };
            account.acknowledged.entry((tenant, name)).or_default().insert(number);
            account.revisions.insert(tenant, written.revision);
        }
        account
    })
}

/// A client that sees to it that what it is told never goes back.
struct Watcher {
    tenant: usize,
    client: Client,
    steady: JoinHandle<()>,
}

async fn watchers(world: &World, keys: &[Key], count: usize) -> Vec<Watcher> {
    let (url, keys) = (world.grpc_url(), keys.to_vec());
    stream::iter(0..count)
        .map(|number| {
            let tenant = number % keys.len();
            let builder = Client::builder(&url, &keys[tenant].secret)
                .prefix("tenant_config_")
                .retry_max(Duration::from_secs(1));
            async move {
                let client = builder.start().await.unwrap();
                assert_eq!(client.ready(PATIENCE).await, Ok(Origin::Server));
                let steady = tokio::spawn(never_goes_back(client.clone()));
                Watcher { tenant, client, steady }
            }
        })
        .buffer_unordered(32)
        .collect()
        .await
}

async fn never_goes_back(client: Client) {
    let (mut changes, mut last) = (client.changes(""), BTreeMap::<String, u64>::new());
    let mut revision = 0;
    while let Some(change) = changes.next().await {
        assert!(change.view.revision() >= revision, "{} behind {revision}", change.view.revision());
        revision = change.view.revision();
        for key in &change.changed {
            let number: u64 = change.view.get(key).unwrap();
            let before = last.insert(key.to_string(), number);
            assert!(before <= Some(number), "{key}: {number} behind {before:?}");
        }
        assert!(change.removed.is_empty(), "{:?}", change.removed);
    }
}

/// Every watcher ends with what was acknowledged last, and says that it is fresh.
async fn all_have(account: &Account, watchers: Vec<Watcher>) {
    let begun = Instant::now();
    for watcher in watchers {
        let newest = account.acknowledged.iter().filter(|((tenant, _), _)| *tenant == watcher.tenant);
        let newest: Vec<_> = newest.map(|((_, key), numbers)| (key, *numbers.last().unwrap())).collect();
        loop {
            let has = |(key, number): &(&String, u64)| watcher.client.get::<u64>(key) == Ok(*number);
            let fresh = watcher.client.freshness();
            if newest.iter().all(has)
                && fresh.connected
                && fresh.revision >= account.revisions[&watcher.tenant]
            {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{newest:?} {fresh:?}");
            sleep(Duration::from_millis(20)).await; // between two looks
        }
        assert!(!watcher.steady.is_finished(), "{:?}", watcher.steady.await);
        watcher.client.close().await;
    }
}

/// What was acknowledged is among the versions, each once and in its order.
async fn all_is_there(stub: &Stub, keys: &[Key], account: &Account) {
    for ((tenant, key), acknowledged) in &account.acknowledged {
        let message = HistoryRequest { key: key.clone(), limit: 100, ..HistoryRequest::default() };
        let history =
            stub.clone().history(signed(&keys[*tenant].secret, message)).await.unwrap().into_inner();
        let mut kept: Vec<u64> = history
            .versions
            .iter()
            .map(|entry| match &entry.value {
                Some(entry::Value::Json(json)) => std::str::from_utf8(json).unwrap().parse().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        kept.reverse();
        // Once each, though some were asked for several times.
        assert_eq!(kept, acknowledged.iter().copied().collect::<Vec<_>>(), "tenant {tenant}, {key}");
    }
}

/// The service and then its store are killed under watchers and writes.
async fn killed_under(count: usize, pace: Duration, calm: Duration) {
    let (mut world, keys) = house().await;
    let watching = watchers(&world, &keys, count).await;
    let over = Arc::new(AtomicBool::new(false));
    let writing = writer(world.stub(), keys.clone(), pace, Arc::clone(&over));
    sleep(calm).await; // work goes on meanwhile
    world.kill_9();
    let killed = Instant::now();
    // Nobody who has lost the service says that it is fresh.
    for watcher in &watching {
        while watcher.client.freshness().connected {
            assert!(killed.elapsed() < Duration::from_secs(5), "silently stale");
            sleep(Duration::from_millis(5)).await; // between two looks
        }
        let age = watcher.client.freshness().age.unwrap();
        assert!(age < killed.elapsed() + PATIENCE && watcher.client.view().origin() == Origin::Server);
    }
    world.serve(&[]);
    world.wait_ready();
    sleep(calm).await; // work goes on meanwhile
    world.us.kill_9().await;
    world.us.start_again().await;
    sleep(calm).await; // work goes on meanwhile
    over.store(true, Ordering::Relaxed);
    let account = writing.await.unwrap();
    assert!(account.refused > 0, "nothing was broken");
    all_have(&account, watching).await;
    all_is_there(&world.stub(), &keys, &account).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nobody_stays_behind() {
    killed_under(60, Duration::from_millis(10), Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute of work for the whole machine (make test-config)"]
async fn a_thousand_watchers_come_back() {
    killed_under(1_000, Duration::from_millis(10), Duration::from_secs(8)).await;
}

/// Notifications are swallowed: the log itself is looked at. A watcher that does
/// not read is told so when it reads again, and holds up nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_notifications_and_slow_watchers() {
    let (world, keys) = house().await;
    let watching = watchers(&world, &keys, 6).await;
    let stub = world.stub();
    // One that asks and does not read.
    let slow = WatchRequest { prefixes: vec!["tenant_config_".to_owned()], ..WatchRequest::default() };
    let mut slow = stub.clone().watch(signed(&keys[0].secret, slow)).await.unwrap().into_inner();
    let before = world.memory_kib();
    let filling = format!("\"{}\"", "x".repeat(FILLING));
    for number in 0..FILLINGS {
        put(&stub, &keys[0].secret, "tenant_config_large", filling.replacen('x', &number.to_string(), 1), "")
            .await
            .unwrap();
    }
    let held = world.memory_kib().saturating_sub(before);
    // Whoever kept for it what it does not read would hold all of it.
    const { assert!(FILLING * FILLINGS > (HELD_KIB_MAX << 10) * 5 / 4) };
    assert!(held < HELD_KIB_MAX as u64, "{held} KiB for a watcher that does not read");
    put(&stub, &keys[0].secret, "tenant_config_large", "\"last\"".to_owned(), "").await.unwrap();
    for watcher in watching.iter().filter(|watcher| watcher.tenant == 0) {
        until(&watcher.client, "tenant_config_large", "\"last\"").await;
    }
    let (mut has, mut overflowed) = (String::new(), false);
    let reading = async {
        while has != "\"last\"" {
            let entries = match slow.message().await.unwrap().unwrap().event {
                Some(Event::Snapshot(snapshot)) => {
                    overflowed |= snapshot.reason() == Reason::Overflow;
                    snapshot.entries
                }
                Some(Event::Delta(delta)) => delta.entries,
                _ => Vec::new(),
            };
            for entry in entries {
                if let Some(entry::Value::Json(json)) = entry.value {
                    has = String::from_utf8(json.to_vec()).unwrap();
                }
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the slow one ends with the right value");
    assert!(overflowed, "it was told that it had missed something");

    // A change that another process makes, of which no notification comes.
    let store = world.us.connect("insula_region").await;
    assert!(notifications_come(&world).await, "canary: else it would not be heard that there are none");
    let quiet = "set allow_system_table_mods = on;
         create or replace function pg_catalog.pg_notify(text, text) returns void language sql as 'select null::void'";
    store.batch_execute(quiet).await.unwrap();
    assert!(!notifications_come(&world).await, "notifications are swallowed");
    let scope = "select scope from config_values where key = 'tenant_config_large'";
    let scope: String = store.query_one(scope, &[]).await.unwrap().get(0);
    write_elsewhere(&world, scope.parse().unwrap(), "tenant_config_quiet", "1").await;
    for watcher in watching.iter().filter(|watcher| watcher.tenant == 0) {
        until(&watcher.client, "tenant_config_quiet", "1").await;
    }
}

/// Writes as another process of the service does, which has a writer of its own.
async fn write_elsewhere(world: &World, scope: Scope, key: &str, json: &'static str) {
    let ambient = Ambient {
        keys: Arc::new(MasterKeys::generate(&OsEntropy)),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
    };
    let connector = Connector::new(&world.us.url("insula_region"), None).unwrap();
    let writer = ConfigStore::new(Store::Region, connector, ambient).writer();
    let op = WriteOp::Put(ConfigValue::Json(json.as_bytes().into()));
    let key = key.parse().unwrap();
    let (if_version, note) = (None, String::new());
    let write = Write {
        scope,
        key,
        op,
        if_version,
        note,
        history: 10,
        is_secret: false,
        room: Room::Usual,
        made: None,
    };
    let transaction = Transaction {
        writes: vec![write],
        token: None,
        author: "elsewhere".to_owned(),
        tags: None,
        schemas: Vec::new(),
    };
    writer.write(transaction).await.unwrap();
}

/// Whether a notification that is sent in the region's store is heard there.
async fn notifications_come(world: &World) -> bool {
    let url = world.us.url("insula_region");
    let (client, mut connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, tokio_postgres::AsyncMessage::Notification(_)) {
                let _ = heard.send(());
            }
        }
    });
    client.batch_execute("listen probe; select pg_notify('probe', 'x')").await.unwrap();
    // What is heard comes before the answer to this.
    client.batch_execute("select 1").await.unwrap();
    hears.try_recv().is_ok()
}

async fn until(client: &Client, key: &str, json: &str) {
    let arrived = async {
        loop {
            let now = client.value(key).map(|value| format!("{:?}", value.content));
            if now.as_deref() == Some(&format!("Json({json})")) {
                return;
            }
            sleep(Duration::from_millis(10)).await; // between two looks
        }
    };
    timeout(PATIENCE, arrived).await.expect("the value comes");
}

/// Waits until `/readyz` answers as it is wanted.
async fn until_said(world: &World, what: &str, is_so: impl Fn(u16, &str) -> bool) {
    let begun = Instant::now();
    loop {
        let said = world.http("GET", "/readyz", None, None);
        if said.as_ref().is_some_and(|(status, body)| is_so(*status, body)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}; {said:?}\n{}", world.log());
        sleep(Duration::from_millis(100)).await; // between two looks
    }
}

/// Waits until the health of gRPC is this.
async fn until_health(world: &World, wanted: ServingStatus) {
    let channel = tonic::transport::Channel::from_shared(world.grpc_url()).unwrap().connect_lazy();
    let (mut health, begun) = (HealthClient::new(channel), Instant::now());
    loop {
        let asked = HealthCheckRequest { service: "insula.config.v1.Config".to_owned() };
        let said = health.check(asked).await.map(|said| said.into_inner().status());
        if said.as_ref().is_ok_and(|said| *said == wanted) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never {wanted:?}: {said:?}\n{}", world.log());
        sleep(Duration::from_millis(100)).await; // between two looks
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_do_not_answer_are_named_and_so_is_their_return() {
    let mut world = World::start().await;
    world.kill_9();
    world.serve(&[("INSULA_CONFIG__FOLLOWED_WITHIN", "6s")]);
    world.wait_ready();
    until_health(&world, ServingStatus::Serving).await;

    // With one region away the others are served, and it is named.
    world.us.freeze();
    until_said(&world, "us-east-1 is named", |status, body| status == 200 && body.contains("us-east-1 for "))
        .await;
    world.eu.freeze();
    let all = |status, body: &str| {
        status == 503 && body.contains("us-east-1 for ") && body.contains("eu-west-1 for ")
    };
    until_said(&world, "both are named", all).await;
    until_health(&world, ServingStatus::NotServing).await;

    world.us.thaw();
    world.eu.thaw();
    until_said(&world, "all is well", |status, body| status == 200 && !body.contains("were not read")).await;
    until_health(&world, ServingStatus::Serving).await;
}
