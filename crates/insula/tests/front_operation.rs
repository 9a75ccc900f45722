//! The front as its operator meets it: what it shows, what it logs and counts,
//! settings that are read again, and a restart under load.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::{Duration, Instant};

use common::World;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_what_the_front_is_at() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    world.create("globex", "standard", "us-east-1");
    let (acme, globex) = (world.connect("acme").await, world.connect("globex").await);
    acme.batch_execute("begin").await.unwrap();
    globex.batch_execute("select 1").await.unwrap();

    let show = |arguments: &[&str]| world.run(&[&["pg", "show"], arguments].concat());
    let clients = show(&["clients", "-o", "json"]).json();
    assert_eq!(clients["total"], 2);
    let of_acme = show(&["clients", "--tenant", "acme", "-o", "json"]).json();
    let [client] = &of_acme["items"].as_array().unwrap()[..] else { panic!("{of_acme}") };
    assert_eq!((&client["tenant"], &client["login"]), (&Value::from("acme"), &Value::from("acme")));
    assert_eq!((&client["pool_mode"], &client["tls"]), (&Value::from("transaction"), &Value::from(false)));

    // Tab-separated where it is no terminal, with one line more than there are.
    let table = show(&["backends"]);
    assert!(table.ok, "{}", table.err);
    let lines: Vec<Vec<&str>> = table.out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0][..5], ["cluster", "tenant", "role", "pid", "state"]);
    assert!(lines.len() > 1 && lines[1..].iter().all(|line| line.len() == lines[0].len()));
    assert!(lines.iter().any(|line| line[..2] == ["us-east-1-a", "acme"] && line[4] == "in_use"));

    let one = show(&["tenants", "--limit", "1"]);
    assert_eq!(one.out.lines().count(), 2);
    assert!(one.err.contains("1 of 2 tenants"), "{}", one.err);
    let tenants = show(&["tenants", "-o", "json"]);
    let secret = world.url("acme").split([':', '@']).nth(2).unwrap().to_owned();
    assert!(secret.len() > 20 && !tenants.out.contains(&secret), "no secret");
    let tenants = tenants.json();
    let globex = tenants["items"].as_array().unwrap().iter().find(|one| one["tenant"] == "globex").unwrap();
    assert_eq!(globex["clients"], 1);

    show(&["clients", "--tenant", "nobody"]).failed_with("tenant_not_found");
    show(&["clients", "--tenant", "no'body"]).failed_with("tenant_not_found");
    for wrong in ["0", "1001", "x"] {
        assert_eq!(show(&["clients", "--limit", wrong]).code, Some(2), "{wrong}");
    }
    assert_eq!(show(&["nothing"]).code, Some(2));
    let query = world.http("GET", "/v1/pg/clients?limit=x", Some(world.token()), None).unwrap();
    assert!(query.0 == 400 && query.1.contains("invalid_request"), "{query:?}");
}

/// The most backends that acme may have, as the front has it now.
fn most(world: &World) -> Value {
    let shown = world.run(&["pg", "show", "tenants", "--tenant", "acme", "-o", "json"]).json();
    shown["items"][0]["backends_max"].clone()
}

fn whole_log(world: &World) -> String {
    std::fs::read_to_string(world.folder.join("insula.log")).unwrap()
}

/// Looks until it is so.
fn until(world: &World, what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {}", world.log());
        std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_broken_ones_change_nothing() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let file = world.folder.join("insula.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let put = |text: &str| {
        let beside = world.folder.join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &file).unwrap();
        world.signal("HUP");
    };
    let session = world.connect("acme").await;
    assert_eq!(most(&world), 75);
    let reads = |count: usize| {
        until(&world, "it is read", || {
            whole_log(&world).matches("the settings were read again").count() == count
        });
    };
    let changed = before
        .replace("[http]\n", "[http]\nmax_in_flight = 99\n")
        .replace("[pg]\n", "[pg]\nmax_backends_per_cluster = 10\nbackend_wait = \"1s\"\n")
        + "[log]\nfilter = \"info,insula_pg_proxy=debug\"\n[metrics]\ntop_tenants = 0\n";
    let metrics = || world.http("GET", "/metrics", None, None).unwrap().1;
    assert!(metrics().contains("insula_pg_tenant_sessions{tenant=\"acme\"} 1"));
    put(&changed);
    reads(1);
    until(&world, "the bound is taken over", || most(&world) == 9);
    let log = whole_log(&world);
    let taken = "log.filter, metrics.top_tenants, pg.backend_wait, pg.max_backends_per_cluster";
    assert!(log.contains(taken), "{log}");
    let left = log.lines().find(|line| line.contains("hold from a restart on")).unwrap();
    assert!(left.contains("\"http.max_in_flight\""), "{left}");
    assert!(!metrics().contains("tenant=\"acme\""));
    assert!(!log.contains("a client was let in"), "it is a line of the level debug");
    world.connect("acme").await.batch_execute("select 1").await.unwrap();
    until(&world, "the level is taken over", || whole_log(&world).contains("a client was let in"));

    for broken in [
        changed.replace("max_backends_per_cluster = 10", "max_backends_per_cluster = \"many\""),
        changed.replace("max_backends_per_cluster = 10", "max_backends_per_cluster = 0"),
        changed.replace("info,insula_pg_proxy=debug", "insula=loud"),
        changed.replace("[catalog]\nurl = \"", "[catalog]\nurl = \"\"\"s3cret"),
    ] {
        let told = || whole_log(&world).matches("those before them stay").count();
        let before = told();
        put(&broken.replace("= 10", "= 20"));
        until(&world, "it is told", || told() == before + 1);
        assert_eq!(most(&world), 9);
    }
    let log = whole_log(&world);
    assert!(log.contains("pg.max_backends_per_cluster") && log.contains("insula=loud"), "{log}");
    assert!(!log.contains("s3cret"));

    // The session has seen nothing of it all; and what is mended is taken again.
    session.batch_execute("select 1").await.unwrap();
    put(&changed.replace("= 10\n", "= 20\n"));
    reads(2);
    until(&world, "the mended one is taken over", || most(&world) == 15);
}
