//! Streams end with the key that opened them, and with their tenant; others go on.

use std::io::Read;
use std::time::Duration;

use insula_config::{Client, Standing};
use insula_config_proto::flagd::evaluation::v1::EventStreamRequest;
use insula_config_proto::flagd::evaluation::v1::service_client::ServiceClient;
use insula_config_proto::flagd::sync::v1::SyncFlagsRequest;
use insula_config_proto::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use insula_config_proto::v1::WatchRequest;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::common::config::{Key, put, signed};
use crate::common::{World, ask};
use crate::{MARK, NAME, PATIENCE};

/// Two tenants: two keys of the one, and a key of the other.
async fn house() -> (World, [Key; 3]) {
    let world = World::start().await;
    world.apply_shop();
    for slug in ["acme", "globex"] {
        world.create(slug, "free", "us-east-1");
    }
    let keys = ["acme", "acme", "globex"].map(|slug| world.key(slug));
    (world, keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_key_and_hears_nothing_of_others() {
    let (world, [revoked, kept, globex]) = house().await;
    let stub = world.stub();
    put(&stub, &kept.secret, NAME, "1".to_owned(), "").await.unwrap();
    let open = async |secret: &str| {
        let client = Client::builder(world.grpc_url(), secret).start().await.unwrap();
        client.ready(PATIENCE).await.unwrap();
        client
    };
    let (ends, goes_on, other) =
        (open(&revoked.secret).await, open(&kept.secret).await, open(&globex.secret).await);
    put(&stub, &globex.secret, NAME, format!("\"{MARK}\""), "").await.unwrap();
    put(&stub, &kept.secret, NAME, "2".to_owned(), "").await.unwrap();
    let has = async |client: &Client, version: i64| {
        let arrived = async {
            while client.value(NAME).is_none_or(|value| value.version != version) {
                sleep(Duration::from_millis(10)).await; // between two looks
            }
        };
        timeout(PATIENCE, arrived).await.expect("the value comes");
    };
    for client in [&ends, &goes_on] {
        has(client, 2).await;
        assert_eq!(client.get::<u32>(NAME), Ok(2), "its own, not the other's");
    }
    has(&other, 1).await;
    assert_eq!(other.get::<String>(NAME).as_deref(), Ok(MARK));

    let gone = world.run(&["key", "revoke", &revoked.id]);
    assert!(gone.ok, "{}", gone.err);
    let refused = async {
        loop {
            if let Standing::Refused(why) = ends.freshness().standing {
                return why;
            }
            sleep(Duration::from_millis(10)).await; // between two looks
        }
    };
    let why = timeout(PATIENCE, refused).await.expect("the stream ends with its key");
    assert!(why.starts_with("unauthenticated: "), "with its stable code: {why}");
    put(&stub, &kept.secret, NAME, "3".to_owned(), "").await.unwrap();
    has(&goes_on, 3).await;
    assert_eq!(ends.get::<u32>(NAME), Ok(2), "the last good value stays, and nothing new comes");
    assert!(!ends.freshness().connected && goes_on.freshness().connected);
}

/// The status with which a stream ends.
async fn end_of<T>(mut stream: Streaming<T>) -> Status {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends without a word"),
                Err(status) => return status,
            }
        }
    };
    timeout(PATIENCE, ended).await.expect("the stream ends")
}

/// What a watch over HTTP says until it ends.
fn events(world: &World, key: &str) -> std::thread::JoinHandle<String> {
    let head = format!("Authorization: Bearer {key}\r\nAccept: text/event-stream\r\n");
    let mut stream = ask(world.http_port, ("GET", "/v1/config"), &head, None).unwrap();
    std::thread::spawn(move || {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_ends_with_its_key_and_with_its_tenant() {
    let (world, [revoked, kept, globex]) = house().await;
    let stub = world.stub();
    let watch = async |key: &str| {
        let opened = stub.clone().watch(signed(key, WatchRequest::default())).await;
        opened.unwrap().into_inner()
    };
    let channel = tonic::transport::Endpoint::from_shared(world.grpc_url()).unwrap().connect_lazy();
    let sync = async |key: &str| {
        let mut client = FlagSyncServiceClient::new(channel.clone());
        client.sync_flags(signed(key, SyncFlagsRequest::default())).await.unwrap().into_inner()
    };
    let told = async |key: &str| {
        let mut client = ServiceClient::new(channel.clone());
        client.event_stream(signed(key, EventStreamRequest {})).await.unwrap().into_inner()
    };
    for (who, other, end) in [("key", &kept, Code::Unauthenticated), ("tenant", &globex, Code::NotFound)] {
        let key = if who == "key" { &revoked.secret } else { &kept.secret };
        let (ends, flags, changes) = (watch(key).await, sync(key).await, told(key).await);
        let over_http = events(&world, key);
        let mut goes_on = watch(&other.secret).await;
        goes_on.message().await.unwrap().unwrap();
        let gone = match who {
            "key" => world.run(&["key", "revoke", &revoked.id]),
            _ => world.run(&["tenant", "delete", "acme"]),
        };
        assert!(gone.ok, "{}", gone.err);
        for status in [end_of(ends).await, end_of(flags).await, end_of(changes).await] {
            assert!([end, Code::Unauthenticated].contains(&status.code()), "{who}: {status}");
        }
        let said = tokio::task::spawn_blocking(|| over_http.join().unwrap());
        let said = timeout(PATIENCE, said).await.expect("it ends").unwrap();
        assert!(said.contains("event: snapshot") && said.contains("event: end"), "{who}: {said}");
        // Canary: those of others go on.
        put(&stub, &other.secret, NAME, "1".to_owned(), "").await.unwrap();
        let next = timeout(PATIENCE, goes_on.message()).await.expect("it goes on");
        assert!(next.unwrap().is_some(), "{who}");
    }
}
