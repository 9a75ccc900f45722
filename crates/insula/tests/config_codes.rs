//! The same question over gRPC, HTTP and the command line: the same answer, and
//! where it is refused the same code.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests

mod common;

use std::collections::BTreeMap;

use common::World;
use common::config::{Stub, signed};
use insula_config_proto::v1;
use serde_json::{Value, json};
use tonic::{Response, Status};

const KEY: &str = "tenant_config_theme";

/// What one door answers: `ok`, or the code of the refusal.
type Said = String;

/// A tenant, asked for over each door, with its own key.
struct Doors {
    world: World,
    stub: Stub,
    key: String,
}

fn of_status<T>(answer: Result<Response<T>, Status>) -> Said {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(status) => match status.metadata().get("insula-code") {
            Some(code) => code.to_str().unwrap().to_owned(),
            None => format!("{status:?}"),
        },
    }
}

fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_~".contains(byte);
    let of = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(of).collect()
}

impl Doors {
    async fn open() -> Self {
        let world = World::start().await;
        world.apply_shop();
        world.create("acme", "free", "us-east-1");
        let key = world.key("acme").secret;
        let stub = world.stub();
        let schema = r#"{"type":"object","required":["colour"]}"#;
        let put = ["config", "put", "insula_schema/tenant_config_fit*", schema, "--scope", "platform"];
        assert!(world.run(&put).ok);
        let doors = Self { world, stub, key };
        // The schema is the provider's, and comes to the region in its time.
        let began = std::time::Instant::now();
        while doors.grpc_put("tenant_config_fit", "1", None).await != "config_schema_violation" {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "the schema does not count");
        }
        // What was put before it counted is gone again.
        drop(doors.remove("tenant_config_fit").await);
        doors
    }

    fn http(&self, method: &str, path: &str, head: &str, body: Option<&str>) -> Said {
        let head = format!("Authorization: Bearer {}\r\n{head}", self.key);
        let answer = self.world.http_with(method, &format!("/v1/tenants/acme{path}"), &head, body).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 2") {
            return "ok".to_owned();
        }
        let problem: Value = serde_json::from_str(body).unwrap_or_default();
        problem["code"].as_str().unwrap_or(head).to_owned()
    }

    fn typed(&self, arguments: &[&str]) -> Said {
        let arguments = [&["config"], arguments, &["-o", "json"]].concat();
        let said =
            common::Said::of(self.world.to_run(&arguments).env("INSULA_TOKEN", &self.key).output().unwrap());
        let code = |line: &str| Some(line.strip_prefix("insula: ")?.split_once(": ")?.0.to_owned());
        if said.ok { "ok".to_owned() } else { said.err.lines().find_map(code).unwrap_or(said.err) }
    }

    async fn grpc_put(&self, key: &str, json: &str, if_version: Option<i64>) -> Said {
        let value = Some(v1::put_request::Value::Json(json.to_owned().into()));
        let request = v1::PutRequest { key: key.to_owned(), value, if_version, ..Default::default() };
        of_status(self.stub.clone().put(signed(&self.key, request)).await)
    }

    /// A value is put.
    async fn put(&self, key: &str, json: &str, if_version: Option<i64>) -> [Said; 3] {
        let condition = match if_version {
            None => String::new(),
            Some(0) => "If-None-Match: *\r\n".to_owned(),
            Some(version) => format!("If-Match: \"{version}\"\r\n"),
        };
        let file = self.world.folder.join("value.json");
        std::fs::write(&file, json).unwrap();
        let (file, version) = (file.to_str().unwrap(), if_version.map(|version| version.to_string()));
        let mut arguments = vec!["put", key, "--file", file];
        arguments.extend(version.iter().flat_map(|version| ["--if-version", version]));
        [
            self.grpc_put(key, json, if_version).await,
            self.http("PUT", &format!("/config/{}", encoded(key)), &condition, Some(json)),
            self.typed(&arguments),
        ]
    }

    async fn get(&self, key: &str, version: Option<i64>) -> [Said; 3] {
        let which = version.map(v1::get_request::Which::Version);
        let request = v1::GetRequest { key: key.to_owned(), which, ..Default::default() };
        let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
        let version = version.map(|version| version.to_string());
        let mut arguments = vec!["get", key];
        arguments.extend(version.iter().flat_map(|version| ["--version", version]));
        [
            of_status(self.stub.clone().get(signed(&self.key, request)).await),
            self.http("GET", &format!("/config/{}{query}", encoded(key)), "", None),
            self.typed(&arguments),
        ]
    }

    async fn remove(&self, key: &str) -> [Said; 3] {
        let request = v1::RemoveRequest { key: key.to_owned(), ..Default::default() };
        [
            of_status(self.stub.clone().remove(signed(&self.key, request)).await),
            self.http("DELETE", &format!("/config/{}", encoded(key)), "", None),
            self.typed(&["remove", key]),
        ]
    }

    async fn label(&self, label: &str, version: i64) -> [Said; 3] {
        let (key, named) = (KEY.to_owned(), label.to_owned());
        let request = v1::LabelRequest { key, label: named, version, scope: String::new() };
        let body = json!({"version": version}).to_string();
        [
            of_status(self.stub.clone().label(signed(&self.key, request)).await),
            self.http("PUT", &format!("/config/{KEY}/labels/{}", encoded(label)), "", Some(&body)),
            self.typed(&["label", KEY, label, &version.to_string()]),
        ]
    }

    async fn rollback(&self, version: Option<i64>) -> [Said; 3] {
        use v1::rollback_request::To;
        let to = version.map_or_else(|| To::Label("previous".to_owned()), To::Version);
        let request = v1::RollbackRequest { key: KEY.to_owned(), to: Some(to), ..Default::default() };
        let body = version.map_or_else(|| json!({}), |version| json!({"version": version})).to_string();
        let version = version.map(|version| version.to_string());
        let mut arguments = vec!["rollback", KEY];
        arguments.extend(version.iter().flat_map(|version| ["--to", version]));
        [
            of_status(self.stub.clone().rollback(signed(&self.key, request)).await),
            self.http("POST", &format!("/config/{KEY}/rollback"), "", Some(&body)),
            self.typed(&arguments),
        ]
    }

    /// Several writes at once, as HTTP and the file of a command have them; the
    /// same over gRPC, each a removal of a key on a condition.
    async fn transact(&self, removals: &[(&str, Option<i64>)], token: &str) -> [Said; 3] {
        use v1::transact_request::{Op, op};
        let remove = |(key, if_version): &(&str, Option<i64>)| {
            let (key, if_version) = ((*key).to_owned(), *if_version);
            Op { op: Some(op::Op::Remove(v1::RemoveRequest { key, if_version, ..Default::default() })) }
        };
        let ops = removals.iter().map(remove).collect();
        let request = v1::TransactRequest { ops, token: token.to_owned() };
        let writes: Vec<Value> = removals
            .iter()
            .map(|(key, if_version)| json!({"key": key, "act": "remove", "if_version": if_version}))
            .collect();
        let body = json!({ "writes": writes }).to_string();
        let file = self.world.folder.join("writes.json");
        std::fs::write(&file, &body).unwrap();
        [
            of_status(self.stub.clone().transact(signed(&self.key, request)).await),
            self.http("POST", "/config", &format!("Idempotency-Key: {token}\r\n"), Some(&body)),
            self.typed(&["transact", file.to_str().unwrap(), "--idempotency-key", token]),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_one_code_whichever_way_it_is_asked() {
    let doors = Doors::open().await;
    let mut said: BTreeMap<&str, ([Said; 3], &str)> = BTreeMap::new();
    for version in 0..2 {
        assert_eq!(doors.grpc_put(KEY, "\"teal\"", Some(version)).await, "ok", "canary: it can be written");
    }
    let long = format!("tenant_config_{}", "k".repeat(2_000));
    let large = format!("\"{}\"", "x".repeat(300 << 10));
    // Longer than `config.max_message_bytes`, which is 20 MiB.
    let huge = format!("\"{}\"", "x".repeat(21 << 20));
    let mut case = |what, found, wanted| drop(said.insert(what, (found, wanted)));
    case("a tag that there is not", doors.put("other_a", "1", None).await, "config_tag_unknown");
    case("a value over the limit", doors.put(KEY, &large, None).await, "config_value_too_large");
    case("more than is read", doors.put(KEY, &huge, None).await, "request_too_large");
    case("a value that is no JSON", doors.put(KEY, "{", None).await, "config_value_invalid");
    case("JSON for large values", doors.put("blob_config_a", "1", None).await, "config_value_invalid");
    case("against the schema", doors.put("tenant_config_fit", "{}", None).await, "config_schema_violation");
    case("another version", doors.put(KEY, "1", Some(77)).await, "config_version_conflict");
    case("a version where none was to be", doors.put(KEY, "1", Some(0)).await, "config_version_conflict");
    case("Insula's own", doors.put("insula_limits", "{}", None).await, "forbidden");
    case("2,000 characters", doors.put(&long, "1", None).await, "config_key_invalid");
    case("white space", doors.put("tenant_config_a b", "1", None).await, "config_key_invalid");
    case("nothing between slashes", doors.get("tenant_config_a//b", None).await, "config_key_invalid");
    case("a way up", doors.get("tenant_config_a/../b", None).await, "config_key_invalid");
    case("a key that is not there", doors.get("tenant_config_no", None).await, "config_key_not_found");
    case("a version that is not there", doors.get(KEY, Some(99)).await, "config_version_not_found");
    case("a removal of nothing", doors.remove("tenant_config_no").await, "config_key_not_found");
    case("a label on no version", doors.label("stable", 99).await, "config_version_not_found");
    case("a label that is none", doors.label("no label", 1).await, "config_label_invalid");
    case("a label of Insula's", doors.label("current", 1).await, "config_label_invalid");
    case("back to no version", doors.rollback(Some(99)).await, "config_version_not_found");
    let (twice, none) = ([(KEY, Some(1)), ("tenant_config_no", None)], "t".repeat(201));
    case("one of several", doors.transact(&twice, "k1").await, "config_version_conflict");
    case("no writes", doors.transact(&[], "k2").await, "invalid_request");
    case("a long token", doors.transact(&twice, &none).await, "idempotency_key_invalid");
    let other: Vec<_> =
        said.iter().filter(|(_, (found, wanted))| found.iter().any(|code| code != wanted)).collect();
    assert!(other.is_empty(), "{other:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_refused_is_done_whichever_way_it_is_asked() {
    let doors = Doors::open().await;
    let ok = ["ok", "ok", "ok"];
    let longest = format!("tenant_config_{}", "k".repeat(498));
    for key in
        ["tenant_config_a/b.c", "param_config_größe/日本/x.y..z", "tenant_config_a&b+c#d?e%2F", &longest]
    {
        assert_eq!(doors.put(key, "{\"a\":1}", None).await, ok, "{key}");
        assert_eq!(doors.get(key, Some(3)).await, ok, "{key}: each has made a version");
        assert_eq!(doors.remove(key).await[0], "ok", "{key}");
    }
    for colour in ["\"teal\"", "\"plum\""] {
        assert_eq!(doors.put(KEY, colour, None).await, ok);
    }
    assert_eq!(doors.label("stable", 1).await, ok);
    // Each goes back to what the one before went back from.
    assert_eq!(doors.rollback(None).await, ok);
    assert_eq!(doors.rollback(Some(7)).await, ok, "a rollback is rolled back to");
    let newest = doors.world.run(&["config", "get", KEY, "--tenant", "acme", "-o", "json"]).json();
    assert_eq!(newest["version"], 12);
    // Page by page, behind keys with whatever keys may have in them.
    use v1::transact_request::{Op, op};
    let put = |number| {
        let value = Some(v1::put_request::Value::Json("1".into()));
        let key = format!("tenant_config_p&q+r/{number:04}");
        Op { op: Some(op::Op::Put(v1::PutRequest { key, value, ..Default::default() })) }
    };
    for hundred in 0..11 {
        let ops = (hundred * 100..(hundred + 1) * 100).map(put).collect();
        let request = v1::TransactRequest { ops, token: String::new() };
        assert_eq!(of_status(doors.stub.clone().transact(signed(&doors.key, request)).await), "ok");
    }
    let listed = |more: &[&str]| {
        let list = ["config", "list", "tenant_config_p&", "--tenant", "acme", "-o", "json"];
        let listed = doors.world.run(&[&list[..], more].concat()).json();
        listed["items"].as_array().unwrap().len()
    };
    assert_eq!((listed(&[]), listed(&["--limit", "1050"]), listed(&["--limit", "2"])), (1_100, 1_050, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_behind_an_event_and_a_client_says_what_it_runs_with() {
    let doors = Doors::open().await;
    let (world, at) = (&doors.world, ["--tenant", "acme", "-o", "json"]);
    let run = |arguments: &[&str]| {
        let said = world.run(&[&["config"], arguments, &at].concat());
        assert!(said.ok, "{arguments:?}: {}", said.err);
        said
    };
    run(&["put", KEY, "1"]);
    let begun = world.to_run(&["config", "watch", "--tenant", "acme", "--changes", "1", "-o", "json"]);
    let mut watch =
        { begun }.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut note = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(watch.stderr.take().unwrap()), &mut note)
        .unwrap();
    assert!(note.starts_with("watching 1 values"), "{note}");
    run(&["put", KEY, "2"]);
    let first: Value = serde_json::from_slice(&watch.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!((&first["old"], &first["new"]), (&json!("1"), &json!("2")));
    run(&["put", KEY, "3"]);
    run(&["put", "param_config_a", "1"]);
    run(&["put", "blob_config_b", "1", "--media-type", "text/plain"]);
    // What was missed, of two prefixes of three.
    let event = first["event"].as_str().unwrap();
    let later = ["watch", "tenant_config_", "param_config_", "--after", event, "--changes", "2"];
    let later = run(&later).out;
    let told: Vec<Value> = later.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut keys: Vec<_> = told.iter().map(|change| change["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["param_config_a", KEY]);
    // A client says what it runs with.
    run(&["acknowledge", "worker-7", KEY, "3", "--revision", "9"]);
    run(&["acknowledge", "worker-8", KEY, "3", "--rejection", "no such colour"]);
    let clients = run(&["clients", KEY]).json();
    assert_eq!(
        (&clients["versions"][0]["running"], &clients["versions"][0]["refusing"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(clients["clients"][0]["rejection"], "no such colour");
    // A large value, alone and among several writes.
    let file = world.folder.join("fetched");
    run(&["fetch", "blob_config_b", "--file", file.to_str().unwrap()]);
    assert_eq!(std::fs::read(&file).unwrap(), b"1");
    let writes = json!({"writes": [
        {"key": "blob_config_b", "act": "put", "large": {"base64": "aGVsbG8=", "media_type": "text/plain"}},
        {"key": KEY, "act": "put", "value": 4},
    ]});
    let writes_file = world.folder.join("large.json");
    std::fs::write(&writes_file, writes.to_string()).unwrap();
    run(&["transact", writes_file.to_str().unwrap()]);
    let fetched = world.run(&["config", "fetch", "blob_config_b", "--tenant", "acme"]);
    assert_eq!(fetched.out, "hello");
    // Several scopes at once, where the path names none.
    let writes = json!({"writes": [
        {"key": "tenant_config_x", "scope": "tier/free", "act": "put", "value": 1},
        {"key": "tenant_config_x", "scope": "platform", "act": "put", "value": 2},
    ]});
    std::fs::write(&writes_file, writes.to_string()).unwrap();
    let transact = ["config", "transact", writes_file.to_str().unwrap()];
    assert!(world.run(&transact).ok);
    assert_eq!(world.run(&["config", "get", "tenant_config_x", "--scope", "tier/free", "--raw"]).out, "1\n");
    world.run(&[&transact[..], &["--tenant", "acme"]].concat()).failed_with("invalid_request");
}

/// All that is said where a value is refused, over each door.
async fn refusals(doors: &Doors, key: &str, json: &str) -> [String; 3] {
    let value = Some(v1::put_request::Value::Json(json.to_owned().into()));
    let request = v1::PutRequest { key: key.to_owned(), value, ..Default::default() };
    let status = doors.stub.clone().put(signed(&doors.key, request)).await.unwrap_err();
    let head = format!("Authorization: Bearer {}\r\n", doors.key);
    let path = format!("/v1/tenants/acme/config/{key}");
    let answer = doors.world.http_with("PUT", &path, &head, Some(json)).unwrap();
    let file = doors.world.folder.join("refused.json");
    std::fs::write(&file, json).unwrap();
    let put = ["config", "put", key, "--file", file.to_str().unwrap(), "--tenant", "acme"];
    let typed = doors.world.run(&put);
    typed.failed_with("config_schema_violation");
    [format!("{status:?}"), answer, typed.err]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_secret_contains_is_told_neither_in_a_refusal_nor_in_the_log() {
    let doors = Doors::open().await;
    let schema =
        r#"{"properties":{"db":{"additionalProperties":{"type":"string"}}},"additionalProperties":false}"#;
    for key in ["secret_config_db", "tenant_config_db"] {
        let key = format!("insula_schema/{key}");
        assert!(doors.world.run(&["config", "put", &key, schema, "--tenant", "acme"]).ok, "{key}");
    }
    for hidden in [r#"{"HIDDEN777":"HIDDEN777"}"#, r#"{"db":{"HIDDEN777":777}}"#] {
        for said in refusals(&doors, "secret_config_db", hidden).await {
            assert!(said.contains("config_schema_violation") && !said.contains("HIDDEN"), "{said}");
        }
    }
    // Canary: of a value that is no secret it is told, and written down.
    for said in refusals(&doors, "tenant_config_db", r#"{"SHOWN888":1}"#).await {
        assert!(said.contains("SHOWN888"), "{said}");
    }
    let log = || std::fs::read_to_string(doors.world.folder.join("insula.log")).unwrap();
    let began = std::time::Instant::now();
    while !log().contains("SHOWN888") {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{}", doors.world.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await; // between two looks
    }
    let log = log();
    assert!(!log.lines().any(|line| line.contains("HIDDEN")), "{log}");
}
