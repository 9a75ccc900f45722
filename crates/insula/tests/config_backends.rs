//! Backends of the configuration with a whole `insula serve` and real etcd: a
//! tag goes there and back by the command line, across a kill, and what others
//! write and tell is heard.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests

mod common;

use std::time::{Duration, Instant};

use common::{Said, World};
use insula_testkit::etcdctl;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "param_config_shop/timeout";

fn until(what: &str, world: &World, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}\n{}", world.log());
        std::thread::sleep(Duration::from_millis(50)); // between two looks
    }
}

fn put(world: &World, json: &str) -> Said {
    world.run(&["config", "put", KEY, json, "--tenant", "acme"])
}

fn value(world: &World) -> String {
    world.run(&["config", "get", KEY, "--tenant", "acme", "--raw"]).out.trim().to_owned()
}

/// Where a tag is, as the command line says.
fn place(world: &World, tag: &str) -> Value {
    let places = world.run(&["config", "tags", "where", "-o", "json"]).json();
    let found = places["items"].as_array().unwrap().iter().find(|place| place["tag"] == tag).cloned();
    found.unwrap_or_else(|| panic!("{places}"))
}

fn moved(world: &World, to: &str) {
    let said = world.run(&["config", "tags", "move", "param_config_", "--to", to, "-o", "json"]);
    assert!(said.ok, "{}\n{}", said.err, world.log());
    let place = place(world, "param_config_");
    assert_eq!((place["backend"].as_str(), place["state"].as_str()), (Some(to), Some("ready")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_kept_in_etcd_and_comes_back() {
    let mut world = World::start().await;
    world.apply_shop();
    let tenant = world.create("acme", "free", "us-east-1")["subject"].clone();
    let unknown = world.run(&["config", "tags", "move", "param_config_", "--to", "etcd"]);
    unknown.failed_with("invalid_request");
    assert!(unknown.err.contains("there are postgres"), "{}", unknown.err);
    world.kill_9();

    let endpoint = insula_testkit::etcd_url();
    let backends = format!("[{{ name = 'etcd', kind = 'etcd', endpoints = '{endpoint}', root = '/whole' }}]");
    let environment =
        [("INSULA_CONFIG__BACKENDS", backends.as_str()), ("INSULA_CONFIG__RECONCILE_EVERY", "200ms")];
    world.serve(&environment);
    world.wait_ready();
    assert!(put(&world, "1").ok, "{}", world.log());
    assert!(world.run(&["config", "put", KEY, "0"]).ok, "the provider's");
    moved(&world, "etcd");
    let names = etcdctl(&["get", "--prefix", "--keys-only", "/whole/values/"]);
    let name =
        names.lines().find(|name| name.contains("/tenant/")).unwrap_or_else(|| panic!("{tenant}: {names}"));
    assert!(names.contains("/whole/values/platform/param_config_shop/timeout"), "{names}");
    assert!(put(&world, "2").ok, "{}", world.log());
    assert_eq!(etcdctl(&["get", "--print-value-only", name]), "2");

    // What others write is seen by itself, and at once where it is told of.
    etcdctl(&["put", name, "30"]);
    until("it is taken over", &world, || value(&world) == "30");
    etcdctl(&["put", name, "31"]);
    let event = format!("{{\"source\": \"aws.ssm\", \"detail\": {{\"name\": \"{name}\"}}}}");
    let token = Some(world.token());
    let (status, said) = world.http("POST", "/v1/config/events", token, Some(&event)).unwrap();
    assert_eq!((status, value(&world).as_str()), (200, "31"), "{said}");
    let (status, said) = world.http("POST", "/v1/config/events", token, Some("[3]")).unwrap();
    assert!(status == 400 && said.contains("invalid_request"), "{said}");
    let history = world.run(&["config", "history", KEY, "--tenant", "acme"]).out;
    assert!(history.contains("external"), "{history}");
    world.run(&["config", "tags", "move", "param_config_", "--to", "etcd"]).failed_with("invalid_request");
    world.run(&["config", "tags", "move", "nothing_", "--to", "etcd"]).failed_with("config_tag_unknown");

    // The process ends while the tag goes back; another one ends that.
    let begun = world.run(&["config", "tags", "move", "param_config_", "--to", "postgres", "--no-wait"]);
    assert!(begun.ok, "{}", begun.err);
    world.kill_9();
    world.serve(&environment);
    world.wait_ready();
    until("the tag is back", &world, || place(&world, "param_config_")["backend"] == "postgres");
    assert_eq!(value(&world), "31");
    assert!(put(&world, "4").ok, "{}", world.log());
    assert_eq!((value(&world).as_str(), etcdctl(&["get", "--print-value-only", name]).as_str()), ("4", "31"));
    moved(&world, "etcd");
    assert_eq!(etcdctl(&["get", "--print-value-only", name]), "4");
}

#[cfg(not(feature = "aws"))]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_built_in_is_said() {
    let mut world = World::start().await;
    world.kill_9();
    let backends = "[{ name = 'aws', kind = 'dynamodb', region = 'eu-west-1', table = 't', access_key_id = 'a', \
                    secret_access_key = 'b' }]";
    world.serve(&[("INSULA_CONFIG__BACKENDS", backends)]);
    assert!(world.ended(PATIENCE));
    assert!(world.log().contains("--features aws"), "{}", world.log());
}
