//! A tenant's own server that does not start is that tenant's trouble: the
//! rest runs, all are told, and it comes back by itself.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::World;
use serde_json::Value;

/// The data folder and the port of the only server.
fn server(world: &World) -> (PathBuf, u16) {
    let file = std::fs::read_dir(world.folder.join("clusters"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "json"))
        .unwrap();
    let known: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    (file.with_extension(""), u16::try_from(known["port"].as_u64().unwrap()).unwrap())
}

/// The status of the cluster that belongs to a tenant.
fn status(world: &World) -> String {
    let clusters = world.run(&["cluster", "list", "-o", "json"]).json();
    let own = clusters["items"].as_array().unwrap().iter().find(|cluster| !cluster["tenant_id"].is_null());
    own.unwrap()["status"].as_str().unwrap().to_owned()
}

async fn is_told_and_comes_back(world: &World, url: &str, why: &str, repair: impl FnOnce()) {
    assert_eq!(status(world), "unreachable");
    let said = world.run(&["doctor", "-o", "json"]);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("unreachable") && said.out.contains(why), "{}", said.out);
    assert!(world.log().contains("does not start"), "{}", world.log());
    let refused = tokio_postgres::connect(url, tokio_postgres::NoTls).await.err().unwrap();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "57P03", "{refused:?}");
    assert!(refused.hint().unwrap().contains("placement_unavailable"), "{refused:?}");
    // The others are served, and new ones are taken.
    world.connect("acme").await.query("select * from products", &[]).await.unwrap();

    repair();
    let begun = Instant::now();
    while status(world) != "active" {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not tried again: {}", world.log());
    }
    world.doctor_is_content();
    world.connect("umbrella").await.query("select * from products", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_start_stops_nobody_else() {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    world.create("umbrella", "enterprise", "eu-west-1");
    // The checks below can fail: before anything is broken they do.
    assert_eq!(status(&world), "active");
    world.doctor_is_content();
    let url = world.url("umbrella");
    let (folder, port) = server(&world);

    world.kill_9();
    let (whole, aside) = (folder.join("PG_VERSION"), folder.join("aside"));
    std::fs::rename(&whole, &aside).unwrap();
    world.serve(&[]);
    world.wait_ready();
    is_told_and_comes_back(&world, &url, "PG_VERSION", || std::fs::rename(&aside, &whole).unwrap()).await;

    world.kill_9();
    let taken = taken(port);
    world.serve(&[]);
    world.wait_ready();
    is_told_and_comes_back(&world, &url, &port.to_string(), || drop(taken)).await;
}

/// The port, as soon as the server that had it is gone with its parent.
fn taken(port: u16) -> std::net::TcpListener {
    let begun = Instant::now();
    loop {
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
    }
}
