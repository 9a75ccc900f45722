//! What counts before a stored answer does, what becomes of secrets, and how
//! much may wait or be kept ready.

use std::time::Instant;

use http::uri::PathAndQuery;
use insula_config_proto::flagd::evaluation::{v1 as first, v2 as second};
use insula_config_proto::flagd::sync::v1 as sync;
use insula_config_proto::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use insula_config_proto::v1;
use insula_config_proto::v1::rollouts_client::RolloutsClient;
use insula_config_proto::v1::watch_event::{Event, Reason};
use insula_config_proto::{Kind, Struct, Value};
use insula_config_service::{Bounds, WatchAsked};
use insula_problem::Code;
use prost_types::Timestamp;
use tonic::Request;
use tonic_prost::ProstCodec;

use crate::rollouts::operator;
use crate::support::{Bearer, Client, PATIENCE, Watch, World, code, get, put, text};
use crate::watches::{event, watcher_of};

const KEY: &str = "tenant_config_theme";

#[tokio::test]
async fn a_repeated_request_is_answered_to_those_alone_who_may_make_it() {
    let world = World::new().await;
    let (id, mut writer) = world.key(1, "config_writer", None).await;
    let request = v1::PutRequest { token: "once".to_owned(), ..put(KEY, "1") };
    let first = writer.put(request.clone()).await.unwrap().into_inner();
    assert_eq!(writer.put(request.clone()).await.unwrap().into_inner(), first, "canary: it is repeated");
    let (_, mut reader) = world.key(1, "reader", None).await;
    assert_eq!(code(reader.put(request.clone()).await), "forbidden");
    let (_, mut elsewhere) = world.key(1, "tenant_admin", Some("/config/param_config_")).await;
    assert_eq!(code(elsewhere.put(request.clone()).await), "forbidden");
    let mut globex = world.admin(2).await;
    let theirs = v1::PutRequest { scope: "tenant/acme".to_owned(), ..request.clone() };
    assert_eq!(code(globex.put(theirs).await), "tenant_not_found");
    let own = globex.put(request.clone()).await.unwrap().into_inner();
    assert!(own.revision > first.revision, "the token of another tenant is another one");
    assert_eq!(code(world.client("isk_x").put(request.clone()).await), "unauthenticated");
    world.reroute(1, |route| route.status = insula_domain::TenantStatus::Suspended);
    assert_eq!(code(writer.put(request.clone()).await), "tenant_suspended");
    world.reroute(1, |route| route.status = insula_domain::TenantStatus::Active);
    world.revoke(id).await;
    let begun = Instant::now();
    while writer.put(request.clone()).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a revoked key is answered");
    }
    assert_eq!(code(writer.put(request).await), "unauthenticated");
}

/// How the versions of a key are kept: 1 in clear, 2 sealed.
async fn kinds(world: &World, key: &str) -> Vec<i16> {
    let client = world.region.connect().await;
    let kinds = "select kind from config_versions where key = $1 order by version";
    client.query(kinds, &[&key]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_was_in_clear_is_sealed_when_it_is_set_again() {
    let world = World::new().await;
    let (mut acme, mut operator) = (world.admin(1).await, world.operator().await);
    let key = "tenant_config_db";
    for json in ["\"hunter1\"", "\"hunter2\""] {
        acme.put(put(key, json)).await.unwrap();
    }
    let label =
        v1::LabelRequest { key: key.to_owned(), label: "old".to_owned(), version: 1, scope: String::new() };
    acme.label(label).await.unwrap();
    let (mut watch, _) = Watch::all(&mut acme).await;
    let tags = r#"{"tenant_config_": {"kind": "key-value", "max_bytes": 1000},
        "tenant_config_db": {"kind": "secret", "max_bytes": 1000}}"#;
    operator.put(v1::PutRequest { scope: "platform".to_owned(), ..put("insula_tags", tags) }).await.unwrap();
    assert_eq!(watch.snapshot().await.reason(), Reason::Moved);
    acme.put(put(key, "\"new\"")).await.unwrap();
    let back = |to| v1::RollbackRequest { key: key.to_owned(), to: Some(to), ..Default::default() };
    use v1::rollback_request::To;
    for (to, version) in [(To::Version(2), 4), (To::Label("old".to_owned()), 5)] {
        assert_eq!(acme.rollback(back(to)).await.unwrap().into_inner().version, version);
    }
    assert_eq!(kinds(&world, key).await, [1, 1, 2, 2, 2]);
    for _ in 3..=5 {
        assert_eq!(watch.delta().await, [format!("{key}!")], "it is told of sealed");
    }
    let shown = v1::GetRequest { reveal: true, ..get(key) };
    let entry = acme.get(shown).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(text(&entry), format!("{key}=\"hunter1\""));
    // Canary: under a tag that is none of secrets it stays in clear.
    acme.put(put(KEY, "1")).await.unwrap();
    acme.put(put(KEY, "2")).await.unwrap();
    let plain = v1::RollbackRequest { key: KEY.to_owned(), ..back(To::Version(1)) };
    acme.rollback(plain).await.unwrap();
    assert_eq!(kinds(&world, KEY).await, [1, 1, 1]);
}

#[tokio::test]
async fn who_was_shown_a_secret_is_shown_to_operators() {
    let world = World::new().await;
    let (mut acme, mut provider) = (world.admin(1).await, world.operator().await);
    let reveal =
        |key: &str, scope: &str| v1::GetRequest { reveal: true, scope: scope.to_owned(), ..get(key) };
    acme.put(put("secret_config_a", "1")).await.unwrap();
    acme.put(put("secret_config_b", "1")).await.unwrap();
    let own = v1::PutRequest { scope: "platform".to_owned(), ..put("secret_config_p", "1") };
    let (mut watch, _) = Watch::all(&mut acme).await;
    provider.put(own).await.unwrap();
    assert_eq!(watch.delta().await, ["secret_config_p!"], "it is in the region");
    for (key, scope) in [("secret_config_a", ""), ("secret_config_b", ""), ("secret_config_p", "")] {
        acme.get(reveal(key, scope)).await.unwrap();
    }
    provider.get(reveal("secret_config_a", "tenant/acme")).await.unwrap();
    provider.get(reveal("secret_config_p", "platform")).await.unwrap();
    let reads = async |scope: &str, key: Option<&str>, limit| {
        let found = world.service.reads(&operator(), (scope, key), limit).await.unwrap();
        let shown = |read: &insula_config_store::SecretRead| {
            let kind = read.reader.split(':').next().unwrap().to_owned();
            (read.key.to_string(), kind)
        };
        found.iter().map(shown).collect::<Vec<_>>()
    };
    let of = |key: &str, kind: &str| (format!("secret_config_{key}"), kind.to_owned());
    assert_eq!(reads("tenant/acme", None, 9).await, [of("a", "operator"), of("b", "key"), of("a", "key")]);
    assert_eq!(reads("tenant/acme", None, 2).await, [of("a", "operator"), of("b", "key")]);
    assert_eq!(reads("tenant/acme", Some("secret_config_a"), 9).await, [of("a", "operator"), of("a", "key")]);
    // One is in the catalog, one in the region.
    assert_eq!(reads("platform", None, 9).await, [of("p", "operator"), of("p", "key")]);
    assert_eq!(reads("tenant/globex", None, 9).await, []);
    for scope in ["", "tenant/acme", "tenant/globex"] {
        let refused = world.service.reads(&watcher_of(1), (scope, None), 9).await.unwrap_err();
        assert_eq!(refused.code(), Code::Forbidden);
    }
}

fn long(bytes: usize) -> &'static str {
    Box::leak(format!("\"{}\"", "x".repeat(bytes)).into_boxed_str())
}

/// The most bytes that wait while a watcher does not take what it is told, and
/// why it is sent a snapshot when it reads again.
async fn waiting(queued_bytes: usize) -> (usize, Vec<Reason>) {
    let world = World::with(Bounds { queued_bytes, ..Bounds::default() }).await;
    let mut acme = world.admin(1).await;
    acme.put(put(KEY, "0")).await.unwrap();
    let mut slow = world.service.watch(watcher_of(1), WatchAsked::default()).await.unwrap();
    let hub = &world.service.region(&"eu-west-1".parse().unwrap()).unwrap().hub;
    let mut most = 0;
    for _ in 0..20 {
        let written = acme.put(put(KEY, long(50_000))).await.unwrap().into_inner();
        hub.reached(written.revision, PATIENCE).await.unwrap();
        most = most.max(hub.queued_bytes());
    }
    acme.put(put(KEY, "\"last\"")).await.unwrap();
    let (mut reasons, mut is_last) = (Vec::new(), false);
    while !is_last {
        let frame = tokio::time::timeout(PATIENCE, slow.next()).await.expect("the newest comes");
        let entries = match event(&frame.unwrap().unwrap()) {
            Event::Snapshot(snapshot) => {
                reasons.push(snapshot.reason());
                snapshot.entries
            }
            Event::Delta(delta) => delta.entries,
            Event::Heartbeat(_) => Vec::new(),
        };
        is_last = entries.iter().any(|entry| text(entry).ends_with("=\"last\""));
    }
    drop(slow);
    assert_eq!(hub.queued_bytes(), 0, "nobody is left");
    (most, reasons)
}

#[tokio::test]
async fn what_waits_for_those_who_do_not_read_is_bounded_in_bytes() {
    let (most, reasons) = waiting(400_000).await;
    assert!(most <= 400_000, "{most} bytes wait");
    assert_eq!(reasons, [Reason::Asked, Reason::Overflow]);
    // Canary: it is the bound that has them dropped.
    let (most, reasons) = waiting(usize::MAX).await;
    assert!(most > 1_000_000, "{most} bytes wait");
    assert_eq!(reasons, [Reason::Asked]);
}

#[tokio::test]
async fn flags_are_bounded_in_bytes() {
    let world = World::new().await;
    let mut acme: Client = world.admin(1).await;
    let key = world.credential(1, "reader").await;
    let mut flags = FlagSyncServiceClient::with_interceptor(world.channel(), Bearer(key));
    let flag = format!(
        r#"{{"state":"ENABLED","variants":{{"on":"{}"}},"defaultVariant":"on"}}"#,
        "x".repeat(250_000)
    );
    let flag: &'static str = Box::leak(flag.into_boxed_str());
    for number in 0..8 {
        acme.put(put(&format!("tenant_config_flag/f{number}"), flag)).await.unwrap();
    }
    let sent = flags.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    assert!(sent.flag_configuration.len() > 2_000_000, "canary: so many are sent");
    let mut stream = flags.sync_flags(sync::SyncFlagsRequest::default()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().flag_configuration;
    assert!(first == sent.flag_configuration, "both are told the same");
    acme.put(put("tenant_config_flag/f8", flag)).await.unwrap();
    // The stream is told of the change; what comes behind it is as new.
    let told = stream.message().await.map(|told| told.map(|told| told.flag_configuration.len()));
    assert_eq!(code(told), "config_quota_exceeded");
    let fetched = flags.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await;
    let fetched = fetched.map(|sent| sent.into_inner().flag_configuration.len());
    assert_eq!(code(fetched), "config_quota_exceeded");
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_by_its_code_by_every_service() {
    let world = World::with(Bounds { message_bytes: 1 << 20, ..Bounds::default() }).await;
    let (mut acme, credential) = (world.admin(1).await, world.credential(1, "tenant_admin").await);
    assert_eq!(
        code(acme.put(put(KEY, long(900 << 10))).await),
        "config_value_too_large",
        "canary: it is read"
    );
    let text = "x".repeat(5 << 20);
    let context = || {
        let kind = Some(Kind::StringValue(text.clone()));
        Some(Struct { fields: [("plan".to_owned(), Value { kind })].into() })
    };
    let bearer = Bearer(credential);
    let mut rollouts = RolloutsClient::with_interceptor(world.channel(), bearer.clone());
    let mut earlier = first::service_client::ServiceClient::with_interceptor(world.channel(), bearer.clone());
    let mut later = second::service_client::ServiceClient::with_interceptor(world.channel(), bearer.clone());
    let mut flags = FlagSyncServiceClient::with_interceptor(world.channel(), bearer);
    let refused = [
        code(acme.put(put(KEY, long(5 << 20))).await),
        code(acme.watch(v1::WatchRequest { prefixes: vec![text.clone()], ..Default::default() }).await),
        code(rollouts.show(v1::ShowRolloutRequest { key: text.clone(), ..Default::default() }).await),
        code(earlier.resolve_all(first::ResolveAllRequest { context: context() }).await),
        code(later.resolve_all(second::ResolveAllRequest { context: context() }).await),
        code(
            flags
                .fetch_all_flags(sync::FetchAllFlagsRequest { selector: text.clone(), ..Default::default() })
                .await,
        ),
    ];
    assert_eq!(refused, ["request_too_large"; 6]);
    acme.put(put(KEY, "1")).await.expect("the connection goes on");
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_its_senders_mistake() {
    let world = World::new().await;
    let bearer = format!("Bearer {}", world.credential(1, "tenant_admin").await);
    for path in [
        "/insula.config.v1.Config/Put",
        "/insula.config.v1.Config/Watch",
        "/flagd.evaluation.v1.Service/ResolveAll",
    ] {
        // Its first field is a number, where each of these has a text or a message.
        let mut request = Request::new(Timestamp { seconds: 1, nanos: 1 });
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        let mut grpc = tonic::client::Grpc::new(world.channel());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<Timestamp, Timestamp>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
        assert_eq!(code(answer), "invalid_request", "{path}");
    }
}
