//! Requests that are sent again under their idempotency key: the first answer,
//! and nothing made twice.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;
use serde_json::{Value, json};

/// Sends it and gives back the status and the body.
fn post(world: &World, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
    let key = key.map_or_else(String::new, |key| format!("Idempotency-Key: {key}\r\n"));
    let head = format!("Authorization: Bearer {}\r\n{key}", world.token());
    let answer = world.http_with("POST", path, &head, Some(&body.to_string())).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (answer[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_creating_call_can_be_sent_again() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let cluster = json!({"name": "eu-west-1-a", "region": "eu-west-1", "url": world.eu.url("postgres")});
    let calls = [
        ("/v1/tenants", json!({"slug": "globex", "tier": "free", "region": "us-east-1"}), 202),
        ("/v1/tenants/acme/logins", json!({"name": "reports"}), 201),
        ("/v1/tenants/acme/keys", json!({"role": "tenant_user"}), 201),
        ("/v1/tenants/acme/token", json!({"seconds": 60}), 201),
        ("/v1/clusters", cluster, 201),
        (
            "/v1/schema/rollouts",
            json!({"files": [{"name": "0001_a.sql", "sql": "create table a (id int primary key);"}]}),
            202,
        ),
    ];
    for (path, body, status) in &calls {
        let first = post(&world, path, Some("k"), body);
        assert_eq!(first.0, *status, "{path}: {}", first.1);
        let again = post(&world, path, Some("k"), body);
        if *status == 202 {
            // The operation as it is now, which may have gone on.
            assert_eq!((again.0, &again.1["id"]), (202, &first.1["id"]), "{path}");
        } else {
            assert_eq!(again, first, "{path}");
        }
    }
    // Another content under the key is another request; the same one under another path has its own answer.
    let other = post(&world, "/v1/tenants/acme/keys", Some("k"), &json!({"role": "tenant_admin"}));
    assert_eq!((other.0, &other.1["code"]), (409, &json!("idempotency_key_reused")));
    let keys = world.run(&["key", "list", "acme", "-o", "json"]).json();
    assert_eq!(keys["items"].as_array().unwrap().len(), 1);
    // The check can fail: without a key each call makes one.
    let role = json!({"role": "tenant_user"});
    let (one, two) = (
        post(&world, "/v1/tenants/acme/keys", None, &role),
        post(&world, "/v1/tenants/acme/keys", None, &role),
    );
    assert_ne!(one.1["secret"], two.1["secret"]);

    // What is kept holds no secret, and neither a hash of one that could be guessed at.
    let catalog = world.catalog.connect("insula_catalog").await;
    let rows = catalog
        .simple_query(
            "select encode(sealed_body, 'escape') from idempotent_answers where sealed_body is not null",
        )
        .await
        .unwrap();
    let text = format!("{rows:?}");
    assert!(text.len() > 200, "{text}");
    for word in ["secret", "postgres://", "isk_"] {
        assert!(!text.contains(word), "{text}");
    }
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_nothing_and_lifts_no_bound() {
    let world = World::start().await;
    let keyed = |head: &str, body: &str| {
        let answer = world.http_with("POST", "/v1/tenants", head, Some(body)).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        (head[9..12].to_owned(), body["code"].as_str().unwrap_or_default().to_owned())
    };
    let bearer = format!("Authorization: Bearer {}\r\n", world.token());
    let small = json!({"slug": "acme", "tier": "none", "region": "us-east-1"}).to_string();
    let huge = json!({"slug": "a".repeat(5 << 20)}).to_string();
    let long = "k".repeat(256);
    for (head, body, status, code) in [
        ("Idempotency-Key: k\r\n".to_owned(), &small, "401", "unauthenticated"),
        (format!("{bearer}Idempotency-Key: k\r\n"), &huge, "413", "request_too_large"),
        (format!("{bearer}Idempotency-Key: {long}\r\n"), &small, "400", "idempotency_key_invalid"),
        (format!("{bearer}Idempotency-Key: a b\r\n"), &small, "400", "idempotency_key_invalid"),
        (
            format!("{bearer}Idempotency-Key: k\r\nIdempotency-Key: l\r\n"),
            &small,
            "400",
            "idempotency_key_invalid",
        ),
        // A refusal is not kept.
        (format!("{bearer}Idempotency-Key: k\r\n"), &small, "400", "unknown_tier"),
    ] {
        assert_eq!(keyed(&head, body), (status.to_owned(), code.to_owned()));
    }
    assert_eq!(keyed(&format!("{bearer}Idempotency-Key: k\r\n"), &small.replace("none", "free")).0, "202");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_looked_up_before_anything_else() {
    let world = World::start().await;
    world.create("holding", "free", "us-east-1");
    let put = world.run(&["tier", "set", "short-lived", "--isolation", "pool", "--plan", "free"]);
    assert!(put.ok, "{}", put.err);
    let acme = json!({"slug": "acme", "tier": "short-lived", "region": "us-east-1", "parent": "holding"});
    let first = post(&world, "/v1/tenants", Some("k"), &acme);
    assert_eq!(first.0, 202, "{}", first.1);
    world.run(&["operation", "show", first.1["id"].as_str().unwrap(), "--watch"]);
    world.doctor_is_content();
    // Everything that it names goes away.
    let catalog = world.catalog.connect("insula_catalog").await;
    catalog
        .batch_execute(
            "update tenants set tier = 'free' where slug = 'acme'; delete from tiers where name = 'short-lived'",
        )
        .await
        .unwrap();
    let again = post(&world, "/v1/tenants", Some("k"), &acme);
    assert_eq!((again.0, &again.1["id"]), (202, &first.1["id"]), "{}", again.1);
    // The check can fail: under another key the tier is missed.
    assert_eq!(post(&world, "/v1/tenants", Some("l"), &acme).1["code"], "unknown_tier");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_make_one_and_all_get_its_answer() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let calls = [
        ("/v1/tenants/acme/logins", json!({"name": "reports"}), "secret"),
        ("/v1/tenants/acme/keys", json!({"role": "tenant_user"}), "secret"),
        ("/v1/tenants", json!({"slug": "globex", "tier": "free", "region": "us-east-1"}), "id"),
    ];
    for (path, body, member) in &calls {
        let at_once = |key: Option<&'static str>| -> Vec<(u16, Value)> {
            std::thread::scope(|scope| {
                let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| post(&world, path, key, body))).collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            })
        };
        let answers = at_once(Some("k"));
        assert!(answers.iter().all(|answer| answer.0 < 300), "{path}: {answers:?}");
        assert!(answers.iter().all(|answer| answer.1[member] == answers[0].1[member]), "{path}: {answers:?}");
        // The check can fail: without a key they are others, or refused.
        let without = at_once(None);
        assert!(without.iter().any(|answer| answer.1[member] != answers[0].1[member]), "{path}");
    }
}
