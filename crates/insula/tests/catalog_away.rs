//! Static stability: with the catalog's server away, tenants that are known go
//! on; changes are refused with their code; when it is back, all goes on by
//! itself.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::{Duration, Instant};

use common::World;

#[tokio::test(flavor = "multi_thread")]
async fn known_tenants_go_on_and_changes_wait() {
    let mut world = World::start().await;
    world.apply_shop();
    for (slug, tier) in [("acme", "free"), ("globex", "standard")] {
        world.create(slug, tier, "us-east-1");
    }
    let open = world.connect("acme").await;
    let urls = [world.url("acme"), world.url("globex")];

    world.catalog.kill_9().await;
    // The session that was open, and new ones of known tenants.
    open.query("select * from products", &[]).await.unwrap();
    for url in &urls {
        let client = insula_testkit::connect(url).await;
        client.query("select * from products", &[]).await.unwrap();
    }
    let create = ["tenant", "create", "late", "--tier", "free", "--region", "us-east-1"];
    world.run(&create).failed_with("catalog_unavailable");
    let body = r#"{"slug":"late","tier":"free","region":"us-east-1"}"#;
    let (status, body) = world.http("POST", "/v1/tenants", Some(world.token()), Some(body)).unwrap();
    assert_eq!(status, 503);
    assert!(body.contains("catalog_unavailable"), "{body}");
    // Alive, and not ready for what it is for.
    assert_eq!(world.http("GET", "/healthz", None, None).unwrap().0, 200);
    assert_eq!(world.http("GET", "/readyz", None, None).unwrap().0, 503);

    world.catalog.start_again().await;
    let begun = Instant::now();
    while !world.run(&create).ok {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not go on: {}", world.log());
    }
    let client = world.connect("late").await;
    client.query("select * from products", &[]).await.unwrap();
    open.query("select * from products", &[]).await.unwrap();
    // The push works again too: a suspension reaches the front.
    assert!(world.run(&["tenant", "suspend", "acme"]).ok);
    assert!(open.simple_query("select 1").await.is_err());
    world.doctor_is_content();
}

/// A server that is stopped takes connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_hangs_is_as_one_that_is_away() {
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let url = world.url("acme");
    let open = world.connect("acme").await;

    let stopped = signalled(&world, "STOP");
    assert!(stopped > 2, "the server and its sessions");
    let begun = Instant::now();
    assert_eq!(world.http("GET", "/readyz", None, None).unwrap().0, 503);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for _ in 0..3 {
        let begun = Instant::now();
        let create = ["tenant", "create", "late", "--tier", "free", "--region", "us-east-1"];
        world.run(&create).failed_with("catalog_unavailable");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
    open.query("select * from products", &[]).await.unwrap();
    insula_testkit::connect(&url).await.query("select * from products", &[]).await.unwrap();

    signalled(&world, "CONT");
    let begun = Instant::now();
    while world.http("GET", "/readyz", None, None).unwrap().0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not go on: {}", world.log());
    }
    world.create("late", "free", "us-east-1");
    world.doctor_is_content();
}

/// Sends a signal to the catalog's server and all its sessions; how many got it.
fn signalled(world: &World, signal: &str) -> usize {
    let parent = world.catalog.pid().unwrap().to_string();
    let children = std::process::Command::new("ps").args(["-o", "pid=", "--ppid", &parent]).output().unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let all: Vec<_> = children.split_whitespace().chain([parent.as_str()]).collect();
    let sent = std::process::Command::new("kill").arg(format!("-{signal}")).args(&all).status().unwrap();
    assert!(sent.success());
    all.len()
}
