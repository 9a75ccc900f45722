//! Every way to ask for what is another tenant's, with one tenant's key: over
//! gRPC, over HTTP, as flags, and with the client. For each is said what came of
//! it that must not.

use std::io::Read;
use std::time::Duration;

use insula_config::Client;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use crate::MARK;
use crate::calls::{NAME, call, calls};
use crate::common;
use crate::flags;

/// A tenant of whom there is nothing.
const NOBODY: &str = "nobody-here";

/// How long a client may take to be let in.
const LET_IN_WITHIN: Duration = Duration::from_secs(20);

/// Where the service is.
#[derive(Clone)]
pub struct Doors {
    pub http: u16,
    pub grpc: u16,
}

impl Doors {
    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.grpc_url()).unwrap().connect_lazy()
    }
}

/// Who asks, and for whose.
pub struct Case<'a> {
    /// The key of the one who asks.
    pub key: &'a str,
    /// The other tenant's slug and id.
    pub others: [&'a str; 2],
}

/// A way, and what came of it that must not.
pub struct Way {
    pub name: String,
    pub leak: Option<String>,
}

/// All ways.
pub async fn ways(doors: &Doors, case: &Case<'_>) -> Vec<Way> {
    let mut ways = over_grpc(doors, case).await;
    let (same, of) = (doors.clone(), (case.key.to_owned(), case.others.map(str::to_owned)));
    ways.extend(tokio::task::spawn_blocking(move || over_http(&same, &of.0, &of.1)).await.unwrap());
    ways.extend(with_the_client(doors, case).await);
    ways.extend(flags::ways(doors, case).await);
    ways
}

/// An answer to one who asks for another's: it has to be the same as to one who
/// asks for nobody's, and a refusal.
fn judged(name: String, other: Result<String, String>, nobody: Result<String, String>) -> Way {
    let leak = match (other, nobody) {
        (Ok(answer), _) => Some(format!("it is answered: {answer}")),
        (Err(refused), _) if refused.contains(MARK) => Some(format!("it is in the refusal: {refused}")),
        (Err(refused), Err(nobodys)) if refused == nobodys => None,
        (Err(refused), nobody) => Some(format!("{refused} is not {nobody:?}")),
    };
    Way { name, leak }
}

/// A text without the name that was asked for.
fn without(text: &str, name: &str) -> String {
    text.replace(name, "…")
}

async fn over_grpc(doors: &Doors, case: &Case<'_>) -> Vec<Way> {
    let channel = doors.channel();
    let mut ways = Vec::new();
    for method in calls() {
        let asked = async |name: &str| {
            let answer = call(&method, &channel, case.key, &format!("tenant/{name}")).await;
            answer.map_err(|status| {
                let code = status.metadata().get("insula-code").map(|code| code.to_str().unwrap().to_owned());
                format!("{:?} {code:?} {}", status.code(), without(status.message(), name))
            })
        };
        for other in case.others {
            let name = format!("gRPC {method} tenant/{other}");
            ways.push(judged(name, asked(other).await, asked(NOBODY).await));
        }
    }
    ways
}

/// What is sent with a request: a write that would do something.
fn body(method: &str, path: &str) -> Option<Value> {
    let rest = path.rsplit("/config").next().unwrap_or_default();
    match (method, rest) {
        ("get" | "delete", _) => None,
        ("put", "/{key}") => Some(json!("mine")),
        ("post", "") => Some(json!({"writes": [{"key": NAME, "act": "put", "value": "mine"}]})),
        ("post", "/{key}/rollback") | ("put", "/{key}/labels/{label}") => Some(json!({"version": 1})),
        ("post", "/{key}/rollout") => Some(json!({"value": "mine", "steps": [50.0, 100.0]})),
        ("post", "/{key}/rollout/{act}") => Some(json!({"cause": "mine"})),
        ("post", "-tags/{tag}/move") => Some(json!({"to": "nowhere"})),
        ("post", "/events") => Some(json!([])),
        ("post", "-clients/{client}") => {
            Some(json!({"revision": 1, "states": [{"key": NAME, "version": 1, "rejection": "mine"}]}))
        }
        _ => panic!("{method} {path} is not held against another tenant here: add it"),
    }
}

/// Paths and methods of the API: those that are operators' alone and name no scope,
/// or all others.
fn routes(operators: bool) -> Vec<(String, String)> {
    let described = serde_json::to_value(insula_config_service::http::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap() {
            let parameters = described["parameters"].as_array().into_iter().flatten();
            let names_scope = path.contains("{tenant}")
                || parameters.into_iter().any(|parameter| parameter["name"] == "scope");
            let is_operators = described["security"] == json!([{"operator": []}]) && !names_scope;
            if is_operators == operators {
                routes.push((path.clone(), method.clone()));
            }
        }
    }
    routes
}

/// What is answered by routes that are operators' alone and name no scope, each
/// with its name.
pub fn of_operators(doors: &Doors, key: &str) -> Vec<(String, Result<String, String>)> {
    let asked = |(path, method): (String, String)| {
        let body = body(&method, &path).map(|body| body.to_string());
        let named = path.replace("{tag}", "tenant_config");
        let answer = http(doors.http, (&method.to_uppercase(), &named), key, "", body.as_deref());
        (format!("{method} {path}"), answer)
    };
    routes(true).into_iter().map(asked).collect()
}

fn over_http(doors: &Doors, key: &str, others: &[String; 2]) -> Vec<Way> {
    let mut ways = Vec::new();
    // A write of a transaction that names another's scope.
    let among = |name: &str| {
        let scope = format!("tenant/{name}");
        let write = json!({"key": NAME, "scope": scope, "act": "put", "value": "mine"});
        let body = json!({"writes": [write]}).to_string();
        http(doors.http, ("POST", "/v1/config"), key, "", Some(&body)).map_err(|said| without(&said, name))
    };
    for other in others {
        ways.push(judged(format!("HTTP post of a write with a scope {other}"), among(other), among(NOBODY)));
    }
    for (path, method) in routes(false) {
        let body = body(&method, &path).map(|body| body.to_string());
        let asked = |name: &str, head: &str| {
            let named = path.replace("{tenant}", name).replace("{key}", NAME);
            let mut named =
                named.replace("{label}", "stable").replace("{act}", "abort").replace("{client}", "mine");
            if !path.contains("{tenant}") {
                named = format!("{named}?scope=tenant/{name}");
            }
            http(doors.http, (&method.to_uppercase(), &named), key, head, body.as_deref())
                .map_err(|said| without(&said, name))
        };
        let streams = (method == "get" && path.ends_with("/config"))
            .then_some(("HTTP watch", "Accept: text/event-stream\r\n"));
        for (kind, head) in [Some(("HTTP", "")), streams].into_iter().flatten() {
            for other in others {
                let name = format!("{kind} {method} {path} {other}");
                ways.push(judged(name, asked(other, head), asked(NOBODY, head)));
            }
        }
    }
    ways
}

/// An answer; of a refusal what it says, and of a stream its beginning.
fn http(port: u16, asked: (&str, &str), key: &str, head: &str, body: Option<&str>) -> Result<String, String> {
    let head = format!("Authorization: Bearer {key}\r\n{head}");
    let mut stream = common::ask(port, asked, &head, body).unwrap();
    let (mut answer, mut bytes) = (Vec::new(), [0; 4_096]);
    while let Ok(count) = stream.read(&mut bytes)
        && count > 0
    {
        answer.extend_from_slice(&bytes[..count]);
        // A watch goes on: its first event is enough.
        if String::from_utf8_lossy(&answer).contains("event: snapshot") {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 2") {
        return Ok(body.to_owned());
    }
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    Err(format!("{} {} {}", &head[..12], problem["code"], problem["detail"]))
}

/// The client crate: for another's scope, and for its own.
async fn with_the_client(doors: &Doors, case: &Case<'_>) -> Vec<Way> {
    let mut ways = Vec::new();
    for other in case.others {
        let builder = Client::builder(doors.grpc_url(), case.key).scope(format!("tenant/{other}"));
        let client = builder.start().await.unwrap();
        let ready = client.ready(LET_IN_WITHIN).await;
        let seen = client.value(NAME).map(|value| format!("{:?}", value.content));
        let leak = match (ready, seen) {
            (Err(_), None) => None,
            found => Some(format!("it has values: {found:?}")),
        };
        ways.push(Way { name: format!("client tenant/{other}"), leak });
        client.close().await;
    }
    ways
}
