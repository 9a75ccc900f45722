//! Connections to the gRPC port on which nobody says who he is: they end, and
//! keep nobody out. And the port with TLS.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // fails as tests do

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::World;
use common::config::{put, signed};
use insula_config::{Client, Origin, Standing};
use insula_config_proto::v1::WatchRequest;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "tenant_config_theme";

/// Insula with these settings, and a tenant's key.
async fn house(settings: &[(&str, &str)]) -> (World, String) {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let key = world.key("acme").secret;
    world.kill_9();
    world.serve(settings);
    world.wait_ready();
    (world, key)
}

/// One who begins as HTTP/2 has it and says nothing more.
fn stranger(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", world.grpc_port)).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&settings).unwrap();
    stream
}

/// Whether the other end has ended it by then.
fn has_ended(stream: &mut TcpStream, within: Duration) -> bool {
    let begun = Instant::now();
    let mut bytes = [0; 1_024];
    while let Some(left) = within.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(_) => return true,
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_say_who_he_is_has_to_go() {
    let (world, key) = house(&[("INSULA_CONFIG__HANDSHAKE_TIMEOUT", "1500ms")]).await;
    let stub = world.stub();
    let mut watch = stub.clone().watch(signed(&key, WatchRequest::default())).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let begun = Instant::now();
    let mut silent = TcpStream::connect(("127.0.0.1", world.grpc_port)).unwrap();
    let mut half = TcpStream::connect(("127.0.0.1", world.grpc_port)).unwrap();
    half.write_all(b"PRI").unwrap();
    for stream in [&mut silent, &mut half, &mut stranger(&world)] {
        assert!(has_ended(stream, PATIENCE), "a stranger stays");
    }
    assert!(begun.elapsed() > Duration::from_millis(4_400), "canary: there is a time for it");
    // Who is known stays, and goes on with the connection.
    put(&stub, &key, NAME, "1".to_owned(), "").await.unwrap();
    let told = tokio::time::timeout(PATIENCE, watch.message()).await.expect("the stream goes on");
    assert!(told.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_keep_nobody_out() {
    let settings = [("INSULA_CONFIG__MAX_CONNECTIONS", "8"), ("INSULA_CONFIG__HANDSHAKE_TIMEOUT", "600s")];
    let (world, key) = house(&settings).await;
    let mut strangers: Vec<_> = (0..30).map(|_| stranger(&world)).collect();
    let stub = world.stub();
    for number in 0..3 {
        put(&stub, &key, NAME, number.to_string(), "").await.expect("there is a place");
    }
    assert!(has_ended(&mut strangers[0], PATIENCE), "the oldest has gone");
    // Canary: one of the last is still there, for its time is long.
    assert!(!has_ended(&mut strangers[29], Duration::from_millis(300)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_connections_leave_room_for_others() {
    let (world, key) = house(&[("INSULA_CONFIG__MAX_CONNECTIONS", "8")]).await;
    world.create("globex", "free", "us-east-1");
    let other = world.key("globex").secret;
    let mut connected = Vec::new();
    for number in 0..4 {
        let stub = world.stub();
        put(&stub, &key, NAME, number.to_string(), "").await.unwrap();
        connected.push(stub);
    }
    let fifth = world.stub();
    let refused = put(&fifth, &key, NAME, "5".to_owned(), "").await.unwrap_err();
    assert!(refused.message().contains("as many connections as may be"), "{refused}");
    // Another tenant has its place, and so has who goes on with a connection.
    let begun = Instant::now();
    let theirs = world.stub();
    while let Err(status) = put(&theirs, &other, NAME, "1".to_owned(), "").await {
        assert!(begun.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await; // until the tenant is known
    }
    put(&connected[0], &key, NAME, "6".to_owned(), "").await.unwrap();
    connected.truncate(1);
    let begun = Instant::now();
    while let Err(status) = put(&fifth, &key, NAME, "7".to_owned(), "").await {
        assert!(begun.elapsed() < PATIENCE, "those that have ended are not counted: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await; // until their end was seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_has_tls_and_the_client_knows_its_certificate() {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let key = world.key("acme").secret;
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [certificate, private] = ["config.crt", "config.key"].map(|name| world.folder.join(name));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&private, pair.signing_key.serialize_pem()).unwrap();
    world.kill_9();
    world.serve(&[
        ("INSULA_CONFIG__TLS__CERT_FILE", certificate.to_str().unwrap()),
        ("INSULA_CONFIG__TLS__KEY_FILE", private.to_str().unwrap()),
    ]);
    world.wait_ready();
    let url = format!("https://localhost:{}", world.grpc_port);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pair.cert.pem()));
    let channel = Endpoint::from_shared(url.clone()).unwrap().tls_config(tls).unwrap().connect_lazy();
    let stub = insula_config_proto::v1::config_client::ConfigClient::new(channel);
    put(&stub, &key, NAME, "1".to_owned(), "").await.unwrap();
    let client = Client::builder(&url, &key).ca_certificate(pair.cert.pem()).start().await.unwrap();
    assert_eq!(client.ready(PATIENCE).await, Ok(Origin::Server));
    assert_eq!(client.get::<u32>(NAME), Ok(1));
    put(&stub, &key, NAME, "2".to_owned(), "").await.unwrap();
    let begun = Instant::now();
    while client.get::<u32>(NAME) != Ok(2) {
        assert!(begun.elapsed() < PATIENCE, "the change comes");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
    }
    // Another certificate is not believed, and nothing goes there in clear.
    let fooled = Client::builder(&url, &key).ca_certificate(other.cert.pem()).start().await.unwrap();
    let begun = Instant::now();
    while !matches!(fooled.freshness().standing, Standing::Away(_)) {
        assert!(begun.elapsed() < PATIENCE, "it says that it is away");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
    }
    assert!(fooled.value(NAME).is_none());
    let plain = format!("http://localhost:{}", world.grpc_port);
    let plain = Client::builder(&plain, &key).start().await.unwrap();
    assert!(plain.ready(Duration::from_millis(500)).await.is_err(), "without TLS there is no answer");
}
