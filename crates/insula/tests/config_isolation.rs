//! One tenant's key against another tenant's configuration, through every call
//! of the interface: it is answered as if the other tenant were not there, nothing
//! of the other's is ever in an answer, and nothing of the other's changes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // fails as tests do

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::World;
use common::config::{Stub, put, signed};
use insula_config::{Client, Standing};
use insula_config_proto::v1::*;
use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};

const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "tenant_config_theme";

/// The other tenant's value, by which it is known wherever it shows up.
const MARK: &str = "globex-alone-knows-this";

fn calls() -> BTreeSet<String> {
    let described = prost_types::FileDescriptorSet::decode(insula_config_proto::DESCRIPTORS).unwrap();
    let service = described
        .file
        .iter()
        .flat_map(|file| &file.service)
        .find(|service| service.name() == "Config")
        .unwrap();
    service.method.iter().map(|method| method.name().to_owned()).collect()
}

fn shown<T: std::fmt::Debug>(response: Result<Response<T>, Status>) -> Result<String, Status> {
    response.map(|response| format!("{:?}", response.into_inner()))
}

/// One call for a scope; what it answers as text, of streams the first message.
async fn call(method: &str, stub: &Stub, key: &str, scope: &str) -> Result<String, Status> {
    let (mut stub, scope, name) = (stub.clone(), scope.to_owned(), NAME.to_owned());
    let json = || Some(put_request::Value::Json("\"mine\"".into()));
    let put = PutRequest { key: name.clone(), scope: scope.clone(), value: json(), ..PutRequest::default() };
    match method {
        "Get" => shown(stub.get(signed(key, GetRequest { key: name, scope, ..GetRequest::default() })).await),
        "List" => shown(stub.list(signed(key, ListRequest { scope, ..ListRequest::default() })).await),
        "Put" => shown(stub.put(signed(key, put)).await),
        "Remove" => shown(
            stub.remove(signed(key, RemoveRequest { key: name, scope, ..RemoveRequest::default() })).await,
        ),
        "Transact" => {
            let op = transact_request::Op { op: Some(transact_request::op::Op::Put(put)) };
            shown(stub.transact(signed(key, TransactRequest { ops: vec![op], token: String::new() })).await)
        }
        "History" => shown(
            stub.history(signed(key, HistoryRequest { key: name, scope, ..HistoryRequest::default() })).await,
        ),
        "Rollback" => {
            let to = Some(rollback_request::To::Version(1));
            let message = RollbackRequest { key: name, scope, to, ..RollbackRequest::default() };
            shown(stub.rollback(signed(key, message)).await)
        }
        "Label" => {
            let message = LabelRequest { key: name, scope, label: "stable".to_owned(), version: 1 };
            shown(stub.label(signed(key, message)).await)
        }
        "Explain" => shown(stub.explain(signed(key, ExplainRequest { key: name, scope })).await),
        "Watch" => {
            let mut events = stub
                .watch(signed(key, WatchRequest { scope, ..WatchRequest::default() }))
                .await?
                .into_inner();
            events.message().await.map(|event| format!("{event:?}"))
        }
        "Acknowledge" => {
            let states = vec![acknowledge_request::State { key: name, version: 1, ..Default::default() }];
            let message = AcknowledgeRequest { client_id: "intruder".to_owned(), revision: 1, states, scope };
            shown(stub.acknowledge(signed(key, message)).await)
        }
        "Fetch" => {
            let message = FetchRequest { key: name, scope, sha256: String::new() };
            let mut chunks = stub.fetch(signed(key, message)).await?.into_inner();
            chunks.message().await.map(|chunk| format!("{chunk:?}"))
        }
        other => panic!("the call {other} is not held against another tenant here: add it"),
    }
}

/// What is said, without the names that were asked for.
fn said(status: &Status, scope: &str) -> (Code, Option<String>, String) {
    let code = status.metadata().get("insula-code").map(|code| code.to_str().unwrap().to_owned());
    let name = scope.split_once('/').map_or(scope, |(_, name)| name);
    (status.code(), code, status.message().replace(scope, "…").replace(name, "…"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_key_reaches_nothing_of_another_tenant() {
    let world = World::start().await;
    world.apply_shop();
    let ids: Vec<String> = ["acme", "globex"]
        .iter()
        .map(|slug| world.create(slug, "free", "us-east-1"))
        .map(|tenant| tenant["id"].as_str().unwrap().to_owned())
        .collect();
    let (acme, globex) = (world.key("acme"), world.key("globex"));
    let stub = world.stub();
    put(&stub, &globex.secret, NAME, format!("{{\"of\":\"{MARK}\"}}"), "").await.unwrap();
    let before = call("History", &stub, &globex.secret, "").await.unwrap();

    for method in calls() {
        let nobody = call(&method, &stub, &acme.secret, "tenant/nobody-here").await.unwrap_err();
        for scope in ["tenant/globex".to_owned(), format!("tenant/{}", ids[1])] {
            let status = call(&method, &stub, &acme.secret, &scope).await.unwrap_err();
            assert_eq!(said(&status, &scope), said(&nobody, "tenant/nobody-here"), "{method} {scope}");
            assert_eq!(status.code(), Code::NotFound, "{method} {scope}: {status}");
        }
        for scope in ["platform", "tier/free", "region/us-east-1"] {
            let status = call(&method, &stub, &acme.secret, scope).await.unwrap_err();
            let refused = [Code::NotFound, Code::PermissionDenied, Code::InvalidArgument];
            assert!(refused.contains(&status.code()), "{method} {scope}: {status}");
        }
        // For itself it may do all of it, and sees nothing of the other's.
        if let Ok(answer) = call(&method, &stub, &acme.secret, "").await {
            assert!(!answer.contains(MARK), "{method}: {answer}");
        }
    }
    assert_eq!(call("History", &stub, &globex.secret, "").await.unwrap(), before, "nothing has changed");
    // Canary: the mark is there for those who may see it.
    for (key, scope) in [(&globex.secret, ""), (&globex.secret, "tenant/globex")] {
        for method in ["Get", "List", "History", "Explain", "Watch"] {
            let answer = call(method, &stub, key, scope).await.unwrap();
            assert!(answer.contains(MARK), "{method} {scope}: {answer}");
        }
    }

    // Keys that are none; who guesses many has to wait.
    for method in calls() {
        for key in ["isk_0190163d8694739baea5966c26f8ad91_x", "isk_", "nothing", &globex.secret[..40]] {
            let status = call(&method, &stub, key, "").await.unwrap_err();
            let refused = [Code::Unauthenticated, Code::ResourceExhausted];
            assert!(refused.contains(&status.code()), "{method} {key}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_key_and_hears_nothing_of_others() {
    let world = World::start().await;
    world.apply_shop();
    for slug in ["acme", "globex"] {
        world.create(slug, "free", "us-east-1");
    }
    let (revoked, kept, globex) = (world.key("acme"), world.key("acme"), world.key("globex"));
    let stub = world.stub();
    put(&stub, &kept.secret, NAME, "1".to_owned(), "").await.unwrap();
    let open = async |secret: &str| {
        let client = Client::builder(world.grpc_url(), secret).start().await.unwrap();
        client.ready(PATIENCE).await.unwrap();
        client
    };
    let (ends, goes_on, other) =
        (open(&revoked.secret).await, open(&kept.secret).await, open(&globex.secret).await);
    put(&stub, &globex.secret, NAME, format!("\"{MARK}\""), "").await.unwrap();
    put(&stub, &kept.secret, NAME, "2".to_owned(), "").await.unwrap();
    let has = async |client: &Client, version: i64| {
        let arrived = async {
            while client.value(NAME).is_none_or(|value| value.version != version) {
                sleep(Duration::from_millis(10)).await; // between two looks
            }
        };
        timeout(PATIENCE, arrived).await.expect("the value comes");
    };
    for client in [&ends, &goes_on] {
        has(client, 2).await;
        assert_eq!(client.get::<u32>(NAME), Ok(2), "its own, not the other's");
    }
    has(&other, 1).await;
    assert_eq!(other.get::<String>(NAME).as_deref(), Ok(MARK));

    let gone = world.run(&["key", "revoke", &revoked.id]);
    assert!(gone.ok, "{}", gone.err);
    let refused = async {
        while !matches!(ends.freshness().standing, Standing::Refused(_)) {
            sleep(Duration::from_millis(10)).await; // between two looks
        }
    };
    timeout(PATIENCE, refused).await.expect("the stream ends with its key");
    put(&stub, &kept.secret, NAME, "3".to_owned(), "").await.unwrap();
    has(&goes_on, 3).await;
    assert_eq!(ends.get::<u32>(NAME), Ok(2), "the last good value stays, and nothing new comes");
    assert!(!ends.freshness().connected && goes_on.freshness().connected);
}
