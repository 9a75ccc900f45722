//! The API as a whole: every endpoint refuses who has no credential, the
//! description is true, and problems look like problems.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_refuses_without_a_token_and_with_a_wrong_one() {
    let mut world = World::start().await;
    world.kill_9();
    world.serve(&[("INSULA_HTTP__FAILED_LOGINS_PER_MINUTE", "0")]);
    world.wait_ready();
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
    // The push reaches the front long before everything is read again, every 30 s, and then the session is over.
    let begun = std::time::Instant::now();
    while client.simple_query("select 1").await.is_ok() {
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(20),
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

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_throttled_and_right_ones_are_not() {
    let mut world = World::start().await;
    let guess = |world: &World, number: usize| {
        let forged = format!("iop_{number:032x}_{}", "A".repeat(43));
        world.http_with("GET", "/v1/tenants", &format!("Authorization: Bearer {forged}\r\n"), None).unwrap()
    };
    assert_eq!(world.http("GET", "/v1/tenants", Some(world.token()), None).unwrap().0, 200);
    let answers: Vec<_> = (0..60).map(|number| guess(&world, number)).collect();
    let wrong = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 401")).count();
    // The quota, and what comes back of it while this goes on.
    assert!((30..50).contains(&wrong), "{wrong} were looked at");
    let refused = answers.last().unwrap().to_lowercase();
    for part in [
        "http/1.1 429",
        "retry-after: ",
        "ratelimit-policy: \"failed-logins\";q=30;w=60",
        "ratelimit: \"failed-logins\";r=0;t=",
        "\"too_many_attempts\"",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(world.http("GET", "/docs/problems/too_many_attempts", None, None).unwrap().0, 200);
    // A request without a credential, and whoever has come in from here before, is not slowed.
    assert_eq!(world.http("GET", "/v1/tenants", None, None).unwrap().0, 401);
    assert_eq!(world.http("GET", "/v1/tenants", Some(world.token()), None).unwrap().0, 200);
    // Nor is a caller from another address, and passwords are counted like tokens.
    let other = requests_from([127, 0, 0, 2], world.http_port);
    let basic = "Authorization: Basic YWRhQGV4YW1wbGUuY29tOndyb25n\r\n";
    assert!(other(basic).starts_with("HTTP/1.1 401"));
    let token = format!("Authorization: Bearer {}\r\n", world.token());
    assert!(other(&token).starts_with("HTTP/1.1 200"));

    // The check can fail: without the limit every one is looked at.
    world.kill_9();
    world.serve(&[("INSULA_HTTP__FAILED_LOGINS_PER_MINUTE", "0")]);
    world.wait_ready();
    assert!((0..60).all(|number| guess(&world, number).starts_with("HTTP/1.1 401")));
}

/// Requests from another address of this machine.
fn requests_from(from: [u8; 4], port: u16) -> impl Fn(&str) -> String {
    move |head| {
        use std::io::{Read, Write};
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        let mut stream = std::net::TcpStream::from(socket);
        let request = format!("GET /v1/tenants HTTP/1.1\r\nHost: l\r\nConnection: close\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}
