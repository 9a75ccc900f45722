//! What a tenant has configured goes along to another region, and back, while
//! it is written and watched: nothing that was acknowledged is lost, and no
//! watcher has to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use insula_config::{Client, Origin};
use insula_config_model::{ConfigKey, ConfigValue, Room, Scope, Transaction, Write, WriteOp};
use insula_config_proto::v1::watch_event::Event;
use insula_config_proto::v1::{GetRequest, WatchRequest, entry};
use insula_config_store::{Ambient, ConfigStore, HomeState, Writer};
use insula_credentials::MasterKeys;
use insula_domain::{OsEntropy, SystemClock, TenantId};
use insula_problem::Code;
use insula_sql_store::{Connector, Store};
use tokio::time::{sleep, timeout};

use crate::common::World;
use crate::common::config::{Stub, put, signed};
use crate::place::{banker, is_settled, moved, ordered, tier_of, world};

const PATIENCE: Duration = Duration::from_secs(60);

/// The configuration of both regions, as a service reaches it.
fn stores(world: &World) -> [ConfigStore; 2] {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    [&world.us, &world.eu].map(|server| {
        let ambient =
            Ambient { keys: Arc::clone(&keys), clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) };
        let connector = Connector::new(&server.url("insula_region"), None).unwrap();
        ConfigStore::new(Store::Region, connector, ambient)
    })
}

fn key() -> ConfigKey {
    "tenant_config_count".parse().unwrap()
}

/// Counts, each on condition of the one before, wherever it is taken.
async fn count(writers: [Writer; 2], scope: Scope, stop: Arc<AtomicBool>) -> (i64, Vec<i64>) {
    let (mut at, mut done, mut revisions) = (0, 0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let op = WriteOp::Put(ConfigValue::Json((done + 1).to_string().into()));
        let (scope, note) = (scope.clone(), String::new());
        let if_version = Some(done);
        let write = Write {
            scope,
            key: key(),
            op,
            if_version,
            note,
            history: 3,
            is_secret: false,
            room: Room::Usual,
            made: None,
        };
        let token = Some(format!("count {done}"));
        let transaction = Transaction {
            writes: vec![write],
            token,
            author: "test".to_owned(),
            tags: None,
            schemas: Vec::new(),
        };
        match writers[at].write(transaction).await {
            Ok(written) => {
                revisions.push(written[0].revision);
                done = written[0].version;
            }
            Err(problem) => {
                assert_eq!(problem.code(), Code::ConfigMoving, "{}", problem.chain());
                at = 1 - at;
                tokio::task::yield_now().await;
            }
        }
    }
    (done, revisions)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_along_to_another_region_and_back() {
    let world = world().await;
    banker(&world, "acme", tier_of("schema")).await;
    assert!(world.run(&["tenant", "set", "acme", "--residency", "global"]).ok);
    let tenant: TenantId = world.tenant("acme")["id"].as_str().unwrap().parse().unwrap();
    let [us, eu] = stores(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let counting = tokio::spawn(count([us.writer(), eu.writer()], Scope::Tenant(tenant), Arc::clone(&stop)));

    let found = moved(&world, "acme", &["--region", "eu-west-1"]);
    assert_eq!(eu.home(tenant).await.unwrap().unwrap().state, HomeState::Open);
    assert_eq!(us.home(tenant).await.unwrap().unwrap().state, HomeState::Closed);
    ordered(&world, "rollback", &found, "rolled_back");
    assert_eq!(us.home(tenant).await.unwrap().unwrap().state, HomeState::Open);
    assert_eq!(eu.home(tenant).await.unwrap(), None, "what the move has made is gone");
    is_settled(&world, "acme", "schema", "us-east-1").await;
    let found = moved(&world, "acme", &["--region", "eu-west-1"]);
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "schema", "eu-west-1").await;

    stop.store(true, Ordering::SeqCst);
    let (done, revisions) = counting.await.unwrap();
    assert!(done > 0 && revisions.windows(2).all(|two| two[0] < two[1]));
    let newest = eu.newest(&[Scope::Tenant(tenant)], &key()).await.unwrap();
    let stored = newest.layers[0].stored.clone().unwrap();
    assert_eq!(stored.value, Some(ConfigValue::Json(done.to_string().into())));
    assert_eq!(us.home(tenant).await.unwrap(), None);
    assert_eq!(us.strays().await.unwrap(), Vec::new());

    assert!(world.run(&["tenant", "delete", "acme"]).ok);
    world.doctor_is_content();
    assert_eq!(eu.home(tenant).await.unwrap(), None, "with the tenant goes what it has configured");
    assert_eq!(eu.strays().await.unwrap(), Vec::new());
}

/// Counts under the tenant's key by way of the service, as its application
/// would; how far it came.
async fn count_by_the_service(stub: Stub, key: String, stop: Arc<AtomicBool>) -> i64 {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        // What was not answered may have been done: it is asked for again.
        let begun = Instant::now();
        while let Err(status) =
            put(&stub, &key, "tenant_config_count", number.to_string(), &number.to_string()).await
        {
            assert!(begun.elapsed() < PATIENCE, "{number} cannot be written: {status}");
            sleep(Duration::from_millis(10)).await; // between two tries
        }
    }
    number
}

/// What a stream has said so far.
#[derive(Default)]
struct Heard {
    revision: i64,
    /// Of the last snapshot or delta.
    since: i64,
    number: i64,
    snapshots: usize,
}

impl Heard {
    /// Takes an event, which follows from those before it.
    fn take(&mut self, event: Event) {
        let (revision, entries) = match event {
            Event::Snapshot(snapshot) => {
                assert!(!snapshot.more, "it is small");
                self.snapshots += 1;
                self.since = snapshot.revision;
                (snapshot.revision, snapshot.entries)
            }
            Event::Delta(delta) => {
                assert_eq!(delta.since, self.since, "nothing is missed in between");
                assert!(delta.removed.is_empty(), "{delta:?}");
                self.since = delta.revision;
                (delta.revision, delta.entries)
            }
            Event::Heartbeat(heartbeat) => (heartbeat.revision, Vec::new()),
        };
        assert!(revision >= self.revision, "{revision} is told of behind {}", self.revision);
        self.revision = revision;
        for entry in entries {
            let Some(entry::Value::Json(json)) = &entry.value else { panic!("{entry:?}") };
            let number: i64 = std::str::from_utf8(json).unwrap().parse().unwrap();
            assert!(number >= self.number, "{number} is told of behind {}", self.number);
            assert_eq!(entry.version, number, "each number was written once");
            self.number = number;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_goes_along_on_the_stream_that_it_has() {
    let world = world().await;
    banker(&world, "acme", tier_of("schema")).await;
    assert!(world.run(&["tenant", "set", "acme", "--residency", "global"]).ok);
    let (stub, key) = (world.stub(), world.key("acme").secret);
    put(&stub, &key, "tenant_config_count", "1".to_owned(), "1").await.unwrap();
    let asked = signed(&key, WatchRequest::default());
    let mut stream = stub.clone().watch(asked).await.unwrap().into_inner();
    let client = Client::builder(world.grpc_url(), &key).start().await.unwrap();
    assert_eq!(client.ready(PATIENCE).await, Ok(Origin::Server));
    let stop = Arc::new(AtomicBool::new(false));
    let counting = tokio::spawn(count_by_the_service(stub.clone(), key.clone(), Arc::clone(&stop)));
    let (last, mut lasts) = tokio::sync::watch::channel(None);
    let following = tokio::spawn(async move {
        let mut heard = Heard::default();
        while Some(heard.number) != *lasts.borrow_and_update() {
            tokio::select! {
                event = stream.message() => {
                    heard.take(event.expect("the stream goes on").unwrap().event.unwrap());
                }
                _ = lasts.changed() => {}
            }
        }
        heard
    });

    let found = moved(&world, "acme", &["--region", "eu-west-1"]);
    ordered(&world, "rollback", &found, "rolled_back");
    let found = moved(&world, "acme", &["--region", "eu-west-1"]);
    ordered(&world, "complete", &found, "completed");

    stop.store(true, Ordering::SeqCst);
    let done = counting.await.unwrap();
    last.send_replace(Some(done));
    let heard = timeout(PATIENCE, following).await.expect("the last value comes").unwrap();
    // It was told of a new place three times.
    assert!(heard.snapshots >= 4, "{} snapshots", heard.snapshots);
    let begun = Instant::now();
    while client.get::<i64>("tenant_config_count") != Ok(done) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", client.freshness());
        sleep(Duration::from_millis(10)).await; // between two looks
    }
    assert!(client.freshness().connected, "{:?}", client.freshness());
    let asked = GetRequest { key: "tenant_config_count".to_owned(), ..GetRequest::default() };
    let entry = stub.clone().get(signed(&key, asked)).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(entry.version, done);
}
