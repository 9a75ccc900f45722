//! Configuration as its users meet it: the command line, HTTP with a tenant's
//! own key, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::World;
use serde_json::{Value, json};

/// A tenant, once the configuration service has heard of it.
fn create(world: &World, slug: &str, tier: &str, region: &str) {
    world.create(slug, tier, region);
    let began = std::time::Instant::now();
    while !world.run(&["config", "list", "--tenant", slug]).ok {
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{slug} is not heard of");
    }
}

fn key(world: &World, slug: &str, role: &str) -> String {
    let made = world.run(&["key", "create", slug, "--role", role, "-o", "json"]).json();
    made["secret"].as_str().unwrap().to_owned()
}

/// An answer's status and body.
fn ask(world: &World, method: &str, path: &str, token: &str, body: Option<&str>) -> (u16, Value) {
    let (status, text) = world.http(method, path, Some(token), body).unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_set_shown_and_rolled_back_from_the_command_line() {
    let world = World::start().await;
    create(&world, "acme", "free", "us-east-1");
    let theme = "tenant_config_theme/größe.日本";
    let at = ["--tenant", "acme"];
    let run = |arguments: &[&str]| world.run(&[&["config"], arguments, &at].concat());
    for (number, colour) in [(1, "teal"), (2, "plum")] {
        let value = json!({"colour": colour}).to_string();
        let put = run(&["put", theme, &value, "--if-version", &(number - 1).to_string(), "-o", "json"]);
        assert_eq!(put.json()["version"], number, "{}", put.err);
    }
    run(&["put", theme, "1", "--if-version", "1"]).failed_with("config_version_conflict");
    let shown = run(&["get", theme, "--raw"]);
    assert_eq!(shown.out, "{\"colour\":\"plum\"}\n", "{}", shown.err);
    assert_eq!(run(&["get", theme, "--version", "1", "--raw"]).out, "{\"colour\":\"teal\"}\n");
    assert!(run(&["label", theme, "stable", "1"]).ok);
    assert_eq!(run(&["rollback", theme, "--label", "stable", "-o", "json"]).json()["version"], 3);
    // A rollback can be rolled back.
    assert_eq!(run(&["rollback", theme, "-o", "json"]).json()["version"], 4);
    let shown = run(&["get", theme, "--raw"]);
    assert_eq!(shown.out, "{\"colour\":\"plum\"}\n", "{}", shown.err);
    let history = run(&["history", theme, "-o", "json"]).json();
    let versions: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|item| item["version"].clone()).collect();
    assert_eq!(json!(versions), json!([4, 3, 2, 1]));
    run(&["rollback", theme, "--label", "nowhere"]).failed_with("config_version_not_found");
    run(&["rollback", theme, "--to", "99"]).failed_with("config_version_not_found");
    run(&["label", theme, "x", "99"]).failed_with("config_version_not_found");
    run(&["put", "unknown_tag", "1"]).failed_with("config_tag_unknown");
    run(&["put", theme, "teal"]).failed_with("config_value_invalid");
    run(&["put", &format!("tenant_config_{}", "k".repeat(2_000)), "1"]).failed_with("config_key_invalid");
    run(&["get", "tenant_config_nothing"]).failed_with("config_key_not_found");
    let word = run(&["put", "tenant_config_greeting", "Ciao!"]);
    word.failed_with("config_value_invalid");
    assert!(word.err.contains("--string"), "{}", word.err);
    assert!(run(&["put", "tenant_config_greeting", "Ciao!", "--string"]).ok);
    assert_eq!(run(&["get", "tenant_config_greeting", "--raw"]).out, "\"Ciao!\"\n");
    let listed = run(&["list", "tenant_config_"]).out;
    assert!(listed.starts_with("key\tvalue\tscope") && listed.lines().count() == 3, "{listed}");
    assert!(run(&["explain", theme]).out.contains("tenant/"), "it says where");

    // Several at once: all, or none.
    let file = world.folder.join("writes.json");
    let writes = json!({"writes": [
        {"key": "tenant_config_a", "act": "put", "value": null},
        {"key": theme, "act": "remove", "if_version": 3},
    ]});
    std::fs::write(&file, writes.to_string()).unwrap();
    run(&["transact", file.to_str().unwrap()]).failed_with("config_version_conflict");
    run(&["get", "tenant_config_a"]).failed_with("config_key_not_found");
    std::fs::write(&file, writes.to_string().replace(":3", ":4")).unwrap();
    let once = ["transact", file.to_str().unwrap(), "--idempotency-key", "k1", "-o", "json"];
    let first = run(&once).json();
    assert_eq!(first, run(&once).json(), "under a key it is done once");
    assert_eq!(run(&["get", "tenant_config_a", "--raw"]).out, "null\n");
    run(&["get", theme]).failed_with("config_key_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_opens_its_own_configuration_and_no_other() {
    let world = World::start().await;
    create(&world, "acme", "free", "us-east-1");
    create(&world, "globex", "standard", "eu-west-1");
    let (acme, globex) = (key(&world, "acme", "tenant_admin"), key(&world, "globex", "tenant_admin"));
    let path = "/v1/tenants/acme/config/tenant_config_a%2Fb";
    assert_eq!(ask(&world, "PUT", path, &acme, Some("{\"n\":1.50}")).0, 200);
    let (status, text) = world.http("GET", path, Some(&acme), None).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("\"value\":{\"n\":1.50}"), "digits stay: {text}");
    // Another tenant's is like one that there is not, whatever is asked.
    for (method, rest, body) in [
        ("GET", "", None),
        ("GET", "/tenant_config_a%2Fb", None),
        ("GET", "/tenant_config_a%2Fb/history", None),
        ("GET", "/tenant_config_a%2Fb/explain", None),
        ("GET", "/blob_config_a/content", None),
        ("PUT", "/tenant_config_a%2Fb", Some("1")),
        ("DELETE", "/tenant_config_a%2Fb", None),
        ("POST", "/tenant_config_a%2Fb/rollback", Some("{}")),
        ("PUT", "/tenant_config_a%2Fb/labels/x", Some("{\"version\":1}")),
        ("DELETE", "/tenant_config_a%2Fb/labels/x", None),
        ("POST", "", Some("{\"writes\":[{\"key\":\"tenant_config_a/b\",\"act\":\"remove\"}]}")),
    ] {
        for tenant in ["acme", "nobody"] {
            let (status, problem) =
                ask(&world, method, &format!("/v1/tenants/{tenant}/config{rest}"), &globex, body);
            assert_eq!(
                (status, &problem["code"]),
                (404, &json!("tenant_not_found")),
                "{method} {tenant} {rest}"
            );
        }
    }
    for scope in ["platform", "tier/free", "region/us-east-1", "tenant/acme"] {
        let (status, _) =
            ask(&world, "PUT", &format!("/v1/config/tenant_config_a?scope={scope}"), &globex, Some("1"));
        assert_eq!(status, 404, "{scope}");
    }
    // The check can fail: its own it reaches, with the scope or without.
    assert_eq!(ask(&world, "PUT", "/v1/config/tenant_config_a", &globex, Some("7")).0, 200);
    let (status, own) = ask(&world, "GET", "/v1/tenants/globex/config/tenant_config_a", &globex, None);
    assert_eq!((status, &own["value"]), (200, &json!(7)));
    // A key that only reads does not write, and a tenant writes nothing of Insula's own.
    let reader = key(&world, "acme", "reader");
    assert_eq!(ask(&world, "GET", path, &reader, None).0, 200);
    assert_eq!(ask(&world, "PUT", path, &reader, Some("2")).1["code"], "forbidden");
    assert_eq!(ask(&world, "PUT", "/v1/config/insula_schema%2Fx", &acme, Some("{}")).1["code"], "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_providers_is_refused_to_a_tenant_and_an_event_is_one() {
    let world = World::start().await;
    create(&world, "acme", "free", "us-east-1");
    let acme = key(&world, "acme", "tenant_admin");
    let tags = world.to_run(&["config", "tags"]).env("INSULA_TOKEN", &acme).output().unwrap();
    let said = String::from_utf8(tags.stderr).unwrap();
    assert!(said.starts_with("insula: forbidden: "), "{said}");
    assert!(world.run(&["config", "tags"]).out.contains("secret_config_"), "canary: operators see them");
    for event in ["zzz", "5", ".1f", "-1.1f"] {
        let watch = format!("--after={event}");
        let said = world.run(&["config", "watch", "--tenant", "acme", &watch]);
        assert_eq!(said.code, Some(2), "{event}: {}", said.err);
        assert!(said.err.contains("expected an event"), "{event}: {}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_has_changed() {
    let world = World::start().await;
    create(&world, "acme", "free", "us-east-1");
    let put =
        |value: &str| assert!(world.run(&["config", "put", "tenant_config_a", value, "--tenant", "acme"]).ok);
    put("1");
    let mut watch = Command::new(env!("CARGO_BIN_EXE_insula"))
        .args(["config", "watch", "tenant_config_", "--tenant", "acme", "--changes", "2"])
        .env("INSULA_URL", format!("http://127.0.0.1:{}", world.http_port))
        .env("INSULA_TOKEN", world.token())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(watch.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("watching 1 values"), "{said}");
    let long = format!("\"{}2\"", "x".repeat(200));
    put(&long);
    assert!(world.run(&["config", "remove", "tenant_config_a", "--tenant", "acme"]).ok);
    let output = watch.wait_with_output().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    let told: Vec<Vec<&str>> = told.lines().map(|line| line.split('\t').skip(1).take(3).collect()).collect();
    assert_eq!(told, [["tenant_config_a", "1", &long], ["tenant_config_a", &long, "-"]]);
}
