//! The configuration service of a whole `insula serve`: a tenant's key from the
//! command line, values over gRPC, and a stop that sends watchers elsewhere.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests

mod common;

use std::time::Duration;

use common::World;
use insula_config_proto::v1;
use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::watch_event::Event;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

fn with<T>(credential: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    request
}

async fn next(events: &mut Streaming<v1::WatchEvent>) -> Result<Event, tonic::Status> {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.message()).await.expect("something is heard")?;
        match event.expect("it goes on").event.unwrap() {
            Event::Heartbeat(_) => {}
            news => return Ok(news),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_reads_writes_and_watches_until_the_process_stops() {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let key = |role: &str| {
        let created = world.run(&["key", "create", "acme", "--role", role, "-o", "json"]).json();
        created["secret"].as_str().unwrap().to_owned()
    };
    let (admin, user) = (key("tenant_admin"), key("tenant_user"));
    let address = format!("http://127.0.0.1:{}", world.grpc_port);
    let mut client = ConfigClient::new(Endpoint::new(address).unwrap().connect().await.unwrap());

    let watch = v1::WatchRequest::default();
    let mut events = client.watch(with(&user, watch)).await.unwrap().into_inner();
    let Event::Snapshot(snapshot) = next(&mut events).await.unwrap() else { panic!("a snapshot") };
    assert!(snapshot.entries.is_empty());
    let put = |json: &'static str| v1::PutRequest {
        key: "tenant_config_theme".to_owned(),
        value: Some(v1::put_request::Value::Json(json.as_bytes().into())),
        ..Default::default()
    };
    let written = client.put(with(&admin, put("{\"colour\": \"red\"}"))).await.unwrap().into_inner();
    let Event::Delta(delta) = next(&mut events).await.unwrap() else { panic!("a delta") };
    assert_eq!((delta.revision, delta.entries.len()), (written.revision, 1));
    let json = v1::entry::Value::Json(b"{\"colour\":\"red\"}".as_slice().into());
    assert_eq!(delta.entries[0].value, Some(json));
    let get = v1::GetRequest { key: "tenant_config_theme".to_owned(), ..Default::default() };
    let entry = client.get(with(&user, get.clone())).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(entry.version, 1);
    let refused = client.put(with(&user, put("1"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // An operator's value of the platform comes through the catalog.
    let mut platform = put("1");
    (platform.key, platform.scope) = ("tenant_config_other".to_owned(), "platform".to_owned());
    client.put(with(world.token(), platform)).await.unwrap();
    let Event::Delta(delta) = next(&mut events).await.unwrap() else { panic!("a delta") };
    assert_eq!(delta.entries[0].scope, "platform");

    assert!(world.run(&["tenant", "suspend", "acme"]).ok);
    let suspended = async {
        loop {
            match client.clone().put(with(&admin, put("2"))).await {
                Err(status) => break status,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, suspended).await.unwrap();
    assert_eq!(status.metadata().get("insula-code").unwrap(), "tenant_suspended");
    assert!(client.get(with(&user, get)).await.is_ok(), "it is read");

    world.signal("TERM");
    let end = loop {
        if let Err(status) = next(&mut events).await {
            break status;
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(world.ended(PATIENCE), "it stops in order");
}
