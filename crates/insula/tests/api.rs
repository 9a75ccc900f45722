//! The API as a whole: every endpoint refuses who has no credential, the
//! description is true, and problems look like problems.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_refuses_without_a_token_and_with_a_wrong_one() {
    let world = World::start().await;
    let (status, description) = world.http("GET", "/openapi.json", None, None).unwrap();
    assert_eq!(status, 200);
    let description: Value = serde_json::from_str(&description).unwrap();
    let mut tried = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{tenant}", "acme").replace(['{', '}'], "");
            let method = method.to_uppercase();
            let forged = format!("iop_{}_{}", "0".repeat(32), "A".repeat(43));
            // A tenant's own credential opens nothing here either.
            for token in [None, Some(forged.as_str()), Some("isk_x"), Some("")] {
                let (status, body) = world.http(&method, &path, token, Some("{}")).unwrap();
                assert_eq!(status, 401, "{method} {path}: {body}");
                assert!(body.contains("\"unauthenticated\""), "{body}");
            }
            tried += 1;
        }
    }
    assert!(tried > 25, "only {tried} endpoints");
    // The check can fail: with the token the answers are others.
    assert_eq!(world.http("GET", "/v1/tenants", Some(world.token()), None).unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_problems_everywhere() {
    let world = World::start().await;
    let token = Some(world.token());
    let cases = [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("PUT", "/v1/tenants", None, 405, "method_not_allowed"),
        ("POST", "/v1/tenants", Some("{"), 400, "invalid_request"),
        (
            "POST",
            "/v1/tenants",
            Some(r#"{"slug":"a","tier":"free","region":"us-east-1","x":1}"#),
            400,
            "invalid_request",
        ),
        ("GET", "/v1/tenants?cursor=zz", None, 400, "invalid_cursor"),
        ("GET", "/v1/operations/x", None, 404, "operation_not_found"),
        ("GET", "/v1/tenants/%00", None, 404, "tenant_not_found"),
        ("DELETE", "/v1/keys/nothing", None, 404, "key_not_found"),
    ];
    for (method, path, body, status, code) in cases {
        let (seen, text) = world.http(method, path, token, body).unwrap();
        assert_eq!(seen, status, "{method} {path}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["code"], code, "{method} {path}");
        assert_eq!(problem["status"], status);
        assert!(problem["request_id"].is_string());
        let page = problem["type"].as_str().unwrap();
        assert_eq!(world.http("GET", page, None, None).unwrap().0, 200, "{page}");
    }
    let huge = format!(r#"{{"slug":"{}"}}"#, "a".repeat(5 << 20));
    let (status, text) = world.http("POST", "/v1/tenants", token, Some(&huge)).unwrap();
    assert_eq!(status, 413, "{text}");
    let metrics = world.http("GET", "/metrics", None, None).unwrap().1;
    assert!(metrics.contains("insula_http_requests_total"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_shown_once_and_never_logged() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let url = world.url("acme");
    assert_eq!(url, world.url("acme"), "the default login's URL can be printed again");
    let login = world.run(&["login", "create", "acme", "reporting", "--read-only", "-o", "json"]).json();
    let secret = login["secret"].as_str().unwrap().to_owned();
    let key = world.run(&["key", "create", "acme", "--role", "tenant_admin", "-o", "json"]).json();
    world.run(&["login", "create", "acme", "reporting"]).failed_with("login_taken");
    let client = insula_testkit::connect(login["url"].as_str().unwrap()).await;
    client.query("select 1", &[]).await.unwrap();
    let listed = world.run(&["login", "list", "acme", "-o", "json"]);
    assert!(!listed.out.contains(&secret));
    let audit = world.run(&["audit", "list", "acme", "-o", "json"]);
    for action in ["tenant.create", "tenant.open", "login.show", "login.create", "key.create"] {
        assert!(audit.out.contains(action), "{action}: {}", audit.out);
    }
    assert!(world.run(&["login", "revoke", "acme", "reporting"]).ok);
    // The push reaches the front within two seconds, and then the session is over.
    let begun = std::time::Instant::now();
    while client.simple_query("select 1").await.is_ok() {
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(2),
            "the session of a revoked login goes on"
        );
    }
    let log = std::fs::read_to_string(world.folder.join("insula.log")).unwrap();
    let password = url.split(':').nth(2).and_then(|rest| rest.split('@').next()).unwrap();
    for secret in [secret.as_str(), key["secret"].as_str().unwrap(), world.token(), password] {
        for text in [&log, &audit.out] {
            assert!(!text.contains(secret));
        }
    }
}
