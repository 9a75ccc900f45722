//! Feature flags through flagd's services: whose they are, that a change comes,
//! and that the unmodified provider for Node agrees with what is evaluated here.

use std::path::Path;
use std::process::Stdio;

use insula_config_proto::Struct;
use insula_config_proto::flagd::evaluation::v1::service_client::ServiceClient;
use insula_config_proto::flagd::evaluation::{v1 as first, v2 as second};
use insula_config_proto::flagd::sync::v1 as sync;
use insula_config_proto::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic::{Code, Request};

use crate::support::{Bearer, PATIENCE, World, code, put};

fn leaked(json: &Value) -> &'static str {
    Box::leak(json.to_string().into_boxed_str())
}

fn banner(default: &str) -> Value {
    json!({
        "state": "ENABLED",
        "variants": {"red": "#ff0000", "blue": "#0000ff", "plain": "none"},
        "defaultVariant": default,
        "targeting": {"if": [
            {"$ref": "staff"}, "red",
            {"sem_ver": [{"var": "version"}, ">=", "2.0.0"]}, {"fractional": [["red", 1], ["blue", 3]]},
            null
        ]},
        "metadata": {"owner": "web"}
    })
}

/// The flags of both tenants, of which some are the provider's.
async fn write_flags(world: &World) {
    world
        .provide(
            "platform",
            "tenant_config_flag_rule/staff",
            Some(r#"{"ends_with":[{"var":"email"},"@insula.test"]}"#),
        )
        .await;
    let limit = json!({"state": "ENABLED", "variants": {"low": 10, "high": 99.5}, "defaultVariant": "low"});
    world.provide("tier/free", "tenant_config_flag/limit", Some(leaked(&limit))).await;
    let layout = json!({"state": "ENABLED", "variants": {"wide": {"columns": 3}}, "defaultVariant": "wide"});
    world.provide("platform", "tenant_config_flag/layout", Some(leaked(&layout))).await;
    let off = json!({"state": "DISABLED", "variants": {"on": true}, "defaultVariant": "on"});
    world.provide("platform", "tenant_config_flag/off", Some(leaked(&off))).await;
    let (mut acme, mut globex) = (world.admin(1).await, world.admin(2).await);
    acme.put(put("tenant_config_flag/banner", leaked(&banner("blue")))).await.unwrap();
    globex.put(put("tenant_config_flag/banner", leaked(&banner("plain")))).await.unwrap();
    let mut limit = limit;
    limit["defaultVariant"] = "high".into();
    globex.put(put("tenant_config_flag/limit", leaked(&limit))).await.unwrap();
}

fn questions() -> Value {
    let mut questions = vec![
        json!({"flag": "banner", "type": "string", "context": {"targetingKey": "x"}}),
        json!({"flag": "banner", "type": "string", "context": {"email": "ada@insula.test"}}),
        json!({"flag": "limit", "type": "number", "context": {}}),
        json!({"flag": "layout", "type": "object", "context": {}}),
        json!({"flag": "off", "type": "boolean", "context": {}}),
        json!({"flag": "nowhere", "type": "boolean", "context": {}}),
        // One with a rule: what has none is cached by its name, whatever the type.
        json!({"flag": "banner", "type": "boolean", "context": {}}),
    ];
    // Shares by who asks: the hash here is the provider's.
    questions.extend((0..40).map(|number| {
        let key = format!("user-{number}");
        json!({"flag": "banner", "type": "string", "context": {"targetingKey": key, "version": "2.1.0"}})
    }));
    Value::Array(questions)
}

struct Sdk {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sdk {
    async fn start(world: &World, keys: [&str; 2]) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let packages = here.join("../../.npm/node_modules");
        assert!(
            packages.join("@openfeature").exists(),
            "{} has no OpenFeature: make deps sets it up",
            packages.display()
        );
        let mut child = Command::new("node")
            .arg(here.join("tests/service/flags.cjs"))
            .arg(world.address.trim_start_matches("http://"))
            .args(keys)
            .env("NODE_PATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let asked = format!("{}\n", questions());
        child.stdin.as_mut().unwrap().write_all(asked.as_bytes()).await.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn answers(&mut self) -> Value {
        let line =
            tokio::time::timeout(2 * PATIENCE, self.lines.next_line()).await.expect("it answers in time");
        serde_json::from_str(&line.unwrap().expect("it has not failed")).unwrap()
    }
}

fn values(answers: &Value) -> Vec<&Value> {
    answers.as_array().unwrap().iter().map(|answer| &answer["value"]).collect()
}

/// Both ways to evaluate say the same; reasons differ where a client has cached.
fn agree(answers: &Value, tenant: &str) {
    let (own, asked) = (&answers[format!("{tenant} in-process")], &answers[format!("{tenant} rpc")]);
    for (own, asked) in own.as_array().unwrap().iter().zip(asked.as_array().unwrap()) {
        assert_eq!((&own["value"], &own["variant"]), (&asked["value"], &asked["variant"]), "{own} {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unmodified_provider_sees_each_tenants_flags_and_their_changes() {
    let world = World::new().await;
    write_flags(&world).await;
    let (acme, globex) = (world.credential(1, "reader").await, world.credential(2, "reader").await);
    let mut sdk = Sdk::start(&world, [&acme, &globex]).await;
    let before = sdk.answers().await;
    for (tenant, unmatched, limit) in [("acme", "#0000ff", json!(10)), ("globex", "none", json!(99.5))] {
        agree(&before, tenant);
        let answers = &before[format!("{tenant} in-process")];
        let seen = values(answers);
        let expected =
            [json!(unmatched), json!("#ff0000"), limit, json!({"columns": 3}), json!(false), json!(false)];
        assert_eq!(seen[..6], expected.iter().collect::<Vec<_>>()[..], "{tenant}");
        assert_eq!(answers[5]["errorCode"], "FLAG_NOT_FOUND");
        assert_eq!(answers[6]["errorCode"], "TYPE_MISMATCH");
        // The selector is a credential, and is not among what is said of flags.
        assert_eq!(answers[3]["scope"], "platform");
        for key in [&acme, &globex] {
            assert!(!before.to_string().contains(key.as_str()));
        }
        let shares: std::collections::BTreeSet<String> = seen[7..].iter().map(ToString::to_string).collect();
        assert_eq!(shares.len(), 2, "both shares are met: {shares:?}");
    }
    let mut client = world.admin(1).await;
    client.put(put("tenant_config_flag/banner", leaked(&banner("plain")))).await.unwrap();
    let after = sdk.answers().await;
    agree(&after, "acme");
    for mode in ["in-process", "rpc"] {
        assert_eq!(after[format!("acme {mode}")][0]["value"], "none", "{mode} has heard of the change");
        let globex = format!("globex {mode}");
        assert_eq!(values(&after[&globex]), values(&before[&globex]), "the other tenant's are as they were");
    }
    assert!(sdk.child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tenants_key_there_are_no_flags() {
    let world = World::new().await;
    write_flags(&world).await;
    let key = world.credential(1, "reader").await;
    let operator = world.operator_token().await;
    let revoked = world.key(1, "reader", None).await;
    world.revoke(revoked.0).await;
    for credential in ["isk_x", operator.as_str(), ""] {
        let mut v1 = ServiceClient::with_interceptor(world.channel(), Bearer(credential.to_owned()));
        let ask = first::ResolveStringRequest { flag_key: "banner".into(), context: None };
        assert_eq!(v1.resolve_string(ask).await.unwrap_err().code(), Code::Unauthenticated);
        let all = first::ResolveAllRequest::default();
        assert_eq!(v1.resolve_all(all).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(
            v1.event_stream(first::EventStreamRequest {}).await.unwrap_err().code(),
            Code::Unauthenticated
        );
        let channel = world.channel();
        let mut v2 =
            second::service_client::ServiceClient::with_interceptor(channel, Bearer(credential.to_owned()));
        let ask = second::ResolveStringRequest { flag_key: "banner".into(), context: None };
        assert_eq!(v2.resolve_string(ask).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(
            v2.event_stream(second::EventStreamRequest {}).await.unwrap_err().code(),
            Code::Unauthenticated
        );
        let mut flags =
            FlagSyncServiceClient::with_interceptor(world.channel(), Bearer(credential.to_owned()));
        let refused = flags.sync_flags(sync::SyncFlagsRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let refused = flags.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let refused = flags.get_metadata(sync::GetMetadataRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    // The check can fail: with the key there are flags, and of its tenant alone.
    let mut v1 = ServiceClient::with_interceptor(world.channel(), Bearer(key.clone()));
    let all = v1
        .resolve_all(first::ResolveAllRequest { context: Some(Struct::default()) })
        .await
        .unwrap()
        .into_inner();
    let names: std::collections::BTreeSet<&str> = all.flags.keys().map(String::as_str).collect();
    assert_eq!(names, ["banner", "layout", "limit"].into());
    assert_eq!(all.flags["banner"].variant, "blue");
    // A key in the context, or as another name, says nothing.
    let mut request = Request::new(first::ResolveStringRequest { flag_key: "banner".into(), context: None });
    request.metadata_mut().insert("flagd-selector", "isk_other".parse().unwrap());
    assert_eq!(v1.resolve_string(request).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let refused = acme.put(put("tenant_config_flag/a", r#"{"state":"ON","variants":{"a":1}}"#)).await;
    let pointer = refused.as_ref().unwrap_err().metadata().get("insula-pointer").cloned();
    assert_eq!(
        (code(refused).as_str(), pointer.unwrap().to_str().unwrap()),
        ("config_schema_violation", "/value/state")
    );
    let refused = acme.put(put("tenant_config_flag_rule/a", r#"{"nope":1}"#)).await;
    assert_eq!(code(refused), "config_schema_violation");
    let mut operator = world.operator().await;
    let mut schema = put("insula_schema/tenant_config_theme/*", r#"{"type":"texture"}"#);
    schema.scope = "tenant/acme".to_owned();
    assert_eq!(code(operator.put(schema.clone()).await), "config_schema_violation");
    let text = r#"{"type":"object","properties":{"size":{"type":"integer","minimum":1}}}"#;
    schema.value = put("k", text).value;
    operator.put(schema).await.unwrap();
    acme.put(put("tenant_config_theme/a", r#"{"size":3}"#)).await.unwrap();
    acme.put(put("tenant_config_themes", r#"{"size":0}"#)).await.unwrap();
    let refused = acme.put(put("tenant_config_theme/a", r#"{"size":0}"#)).await;
    let pointer = refused.as_ref().unwrap_err().metadata().get("insula-pointer").cloned();
    assert_eq!(
        (code(refused).as_str(), pointer.unwrap().to_str().unwrap()),
        ("config_schema_violation", "/value/size")
    );
    // It is the tenant's schema, and no other's.
    world.admin(2).await.put(put("tenant_config_theme/a", r#"{"size":0}"#)).await.unwrap();
}

#[tokio::test]
async fn a_key_with_a_path_is_sent_what_can_be_evaluated_with_what_it_reaches() {
    let world = World::new().await;
    write_flags(&world).await;
    let key = world.credential_for(1, "reader", "/config/tenant_config_flag/").await;
    let mut client = FlagSyncServiceClient::with_interceptor(world.channel(), Bearer(key.clone()));
    let sent = client.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    let sent: Value = serde_json::from_str(&sent.flag_configuration).unwrap();
    let names: Vec<&String> = sent["flags"].as_object().unwrap().keys().collect();
    // The rule that the banner refers to is not in its reach, and would be missed.
    assert_eq!(names, ["layout", "limit", "off"], "{sent}");
    assert_eq!(sent["$evaluators"], json!({}));
    // Evaluated here, the rule counts without being shown.
    let mut asked = ServiceClient::with_interceptor(world.channel(), Bearer(key));
    let context = Some(Struct { fields: Default::default() });
    let question = first::ResolveStringRequest { flag_key: "banner".to_owned(), context };
    assert_eq!(asked.resolve_string(question).await.unwrap().into_inner().value, "#0000ff");
}

#[tokio::test]
async fn all_flags_at_once_are_paid_for_together() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let rule = json!({"map": [(0..400).collect::<Vec<_>>(), {"map": [(0..20).collect::<Vec<_>>(), {"+": [{"var": ""}, 1]}]}]});
    let costly = json!({
        "state": "ENABLED", "variants": {"on": true}, "defaultVariant": "on",
        "targeting": {"if": [rule, "on", null]}
    });
    let costly = leaked(&costly);
    let key = world.credential(1, "reader").await;
    let mut asked = ServiceClient::with_interceptor(world.channel(), Bearer(key));
    for number in 0..50 {
        acme.put(put(&format!("tenant_config_flag/f{number}"), costly)).await.unwrap();
    }
    let outcome = asked.resolve_all(first::ResolveAllRequest::default()).await;
    let status = outcome.expect_err("so many cost too much");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    // Canary: one of them is answered.
    let one = first::ResolveBooleanRequest { flag_key: "f0".to_owned(), context: None };
    let answer = asked.resolve_boolean(one).await;
    assert!(answer.is_ok_and(|answer| answer.into_inner().value));
}
