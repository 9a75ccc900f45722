//! Which value is seen, and where it comes from; writes with conditions, and
//! what is refused.

use insula_config_proto::v1;
use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::watch_event::Reason;

use crate::support::{Bearer, Watch, World, code, get, put, remove, tenant, text, texts};

const KEY: &str = "tenant_config_theme";

#[tokio::test]
async fn the_closest_value_is_seen_and_explained() {
    let world = World::new().await;
    let (mut parent, mut child) = (world.admin(1).await, world.admin(3).await);
    world.provide("platform", KEY, Some("1")).await;
    world.provide("region/eu-west-1", KEY, Some("2")).await;
    world.provide("tier/free", KEY, Some("3")).await;
    let sees = async |client: &mut super::support::Client| {
        text(&client.get(get(KEY)).await.unwrap().into_inner().entry.unwrap())
    };
    assert_eq!(sees(&mut child).await, format!("{KEY}=3"));
    parent.put(put(KEY, "4")).await.unwrap();
    assert_eq!(sees(&mut child).await, format!("{KEY}=4"));
    child.put(put(KEY, "5")).await.unwrap();
    assert_eq!(sees(&mut child).await, format!("{KEY}=5"));
    assert_eq!(sees(&mut parent).await, format!("{KEY}=4"), "what is below is not for those above");
    let asked = v1::ExplainRequest { key: KEY.to_owned(), scope: String::new() };
    let explained = child.explain(asked.clone()).await.unwrap().into_inner();
    let layers: Vec<String> =
        explained.layers.iter().map(|layer| layer.entry.as_ref().map(text).unwrap_or_default()).collect();
    assert_eq!(layers, ["5", "4", "3", "2", "1"].map(|value| format!("{KEY}={value}")));
    assert_eq!(explained.effective, 0);
    assert!(explained.layers[1].passed_over.ends_with("is closer"), "{explained:?}");
    child.remove(remove(KEY)).await.unwrap();
    let explained = child.explain(asked).await.unwrap().into_inner();
    assert_eq!((explained.effective, explained.layers[0].passed_over.as_str()), (1, "it was removed here"));
    let own = v1::GetRequest { own: true, ..get(KEY) };
    assert_eq!(code(child.get(own).await), "config_key_not_found");
    let listed = child.list(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.entries.iter().map(text).collect::<Vec<_>>(), [format!("{KEY}=4")]);
}

#[tokio::test]
async fn versions_are_kept_and_rolled_back_to() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    for json in ["1", "2", "3"] {
        acme.put(put(KEY, json)).await.unwrap();
    }
    let stale = v1::PutRequest { if_version: Some(2), ..put(KEY, "4") };
    assert_eq!(code(acme.put(stale).await), "config_version_conflict");
    let fresh = v1::PutRequest { if_version: Some(3), ..put(KEY, "4") };
    assert_eq!(acme.put(fresh).await.unwrap().into_inner().version, 4);
    let label = |version| v1::LabelRequest {
        key: KEY.to_owned(),
        label: "stable".to_owned(),
        version,
        ..Default::default()
    };
    acme.label(label(2)).await.unwrap();
    assert_eq!(code(acme.label(label(9)).await), "config_version_not_found");
    let back = v1::RollbackRequest {
        key: KEY.to_owned(),
        to: Some(v1::rollback_request::To::Label("stable".to_owned())),
        ..Default::default()
    };
    assert_eq!(acme.rollback(back.clone()).await.unwrap().into_inner().version, 5);
    let versions = async |acme: &mut super::support::Client, before| {
        let asked = v1::HistoryRequest { key: KEY.to_owned(), limit: 3, before, ..Default::default() };
        let page = acme.history(asked).await.unwrap().into_inner();
        (page.versions.iter().map(|entry| (entry.version, text(entry))).collect::<Vec<_>>(), page.next_before)
    };
    let of = |version: i64, value: &str| (version, format!("{KEY}={value}"));
    assert_eq!(versions(&mut acme, 0).await, (vec![of(5, "2"), of(4, "4"), of(3, "3")], 3));
    assert_eq!(versions(&mut acme, 3).await, (vec![of(2, "2"), of(1, "1")], 0));
    let labelled =
        v1::GetRequest { which: Some(v1::get_request::Which::Label("previous".to_owned())), ..get(KEY) };
    let entry = acme.get(labelled).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(entry.version, 4);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_code() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let long: &'static str = Box::leak(format!("\"{}\"", "x".repeat(300 << 10)).into_boxed_str());
    for (request, wanted) in [
        (put("other_a", "1"), "config_tag_unknown"),
        (put("tenant_config_a b", "1"), "config_key_invalid"),
        (put(&format!("tenant_config_{}", "k".repeat(2_000)), "1"), "config_key_invalid"),
        (put(KEY, "{"), "config_value_invalid"),
        (put(KEY, long), "config_value_too_large"),
        (v1::PutRequest { value: None, ..put(KEY, "1") }, "invalid_request"),
        (put("blob_config_a", "1"), "config_value_invalid"),
    ] {
        assert_eq!(code(acme.put(request).await), wanted);
    }
    let ops = |number: usize| {
        let op = |at: usize| v1::transact_request::Op {
            op: Some(v1::transact_request::op::Op::Put(put(&format!("tenant_config_{at}"), "1"))),
        };
        v1::TransactRequest { ops: (0..number).map(op).collect(), ..Default::default() }
    };
    let many = acme.transact(ops(10_000)).await.unwrap_err();
    assert!(many.message().contains("1 to 100 writes at once, not 10000"), "{many:?}");
    assert_eq!(code(acme.transact(ops(101)).await), "invalid_request");
    assert_eq!(code(acme.transact(ops(0)).await), "invalid_request");
    assert_eq!(acme.transact(ops(100)).await.unwrap().into_inner().written.len(), 100);
    let mut operator = world.operator().await;
    let tags = |json| v1::PutRequest { scope: "platform".to_owned(), ..put("insula_tags", json) };
    assert_eq!(code(operator.put(tags("[]")).await), "config_tags_invalid");
    let elsewhere = v1::PutRequest { scope: "tier/free".to_owned(), ..tags("{}") };
    assert_eq!(code(operator.put(elsewhere).await), "config_tags_invalid");
    for (scope, key, wanted) in [
        ("tier/nope", KEY, "unknown_tier"),
        ("region/nope-1", KEY, "unknown_region"),
        ("platform", "insula_limit", "config_key_invalid"),
        ("tenant/acme", "insula_", "config_key_invalid"),
        ("tenant/acme", "insula_schema", "config_key_invalid"),
        // Canary: what is there.
        ("tier/business", KEY, ""),
        ("region/eu-west-1", KEY, ""),
        ("region/us-east-1", KEY, ""),
        ("platform", "insula_limits", ""),
        ("tenant/acme", "insula_schema/tenant_config_b", ""),
    ] {
        let said = operator.put(v1::PutRequest { scope: scope.to_owned(), ..put(key, "{}") }).await;
        let said = if wanted.is_empty() {
            said.map_or_else(|it| it.to_string(), |_| String::new())
        } else {
            code(said)
        };
        assert_eq!(said, wanted, "{scope} {key}");
    }
    // What was set for a tier that is gone can be removed.
    let client = world.catalog.connector().connect().await.unwrap();
    client.batch_execute("delete from tiers").await.unwrap();
    let gone = v1::RemoveRequest { scope: "tier/business".to_owned(), ..remove(KEY) };
    assert!(operator.remove(gone).await.is_ok());
    for cursor in ["zzz", KEY] {
        let made_up = v1::ListRequest { cursor: cursor.to_owned(), ..Default::default() };
        assert_eq!(code(acme.list(made_up).await), "invalid_cursor");
    }
    world.reroute(1, |route| route.status = insula_domain::TenantStatus::Suspended);
    assert_eq!(code(acme.put(put(KEY, "1")).await), "tenant_suspended");
    assert!(acme.get(get("tenant_config_1")).await.is_ok(), "it is read");
}

#[tokio::test]
async fn secrets_stay_sealed_for_those_who_did_not_ask() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put("secret_config_smtp", "\"hunter2\"")).await.unwrap();
    let entry = acme.get(get("secret_config_smtp")).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(text(&entry), "secret_config_smtp!");
    assert!(entry.secret);
    let listed = acme.list(v1::ListRequest::default()).await.unwrap().into_inner();
    assert!(!format!("{listed:?}").contains("hunter2"));
    let (_, mut user) = world.key(1, "tenant_user", None).await;
    let revealed = v1::GetRequest { reveal: true, ..get("secret_config_smtp") };
    assert_eq!(code(user.get(revealed.clone()).await), "forbidden");
    let entry = acme.get(revealed).await.unwrap().into_inner().entry.unwrap();
    assert_eq!((text(&entry), entry.secret), ("secret_config_smtp=\"hunter2\"".to_owned(), true));
    let request = |reveal| v1::WatchRequest { reveal, ..Default::default() };
    assert_eq!(code(user.watch(request(true)).await), "forbidden");
    let mut opened = Watch::begin(&mut acme, request(true)).await;
    let mut sealed = Watch::begin(&mut acme, request(false)).await;
    assert_eq!(texts(&opened.snapshot().await), ["secret_config_smtp=\"hunter2\""]);
    assert_eq!(texts(&sealed.snapshot().await), ["secret_config_smtp!"]);
    acme.put(put("secret_config_smtp", "\"other\"")).await.unwrap();
    assert_eq!(opened.delta().await, ["secret_config_smtp=\"other\""]);
    assert_eq!(sealed.delta().await, ["secret_config_smtp!"]);
    let client = world.region.connect().await;
    let readers = client.query_one("select count(*) from config_reads where reader like 'key:%'", &[]).await;
    assert_eq!(readers.unwrap().get::<_, i64>(0), 3, "who was shown it is written down");
}

#[tokio::test]
async fn large_values_are_fetched_and_the_providers_come_from_the_catalog() {
    let world = World::new().await;
    let (mut acme, mut operator) = (world.admin(1).await, world.operator().await);
    let bytes: bytes::Bytes =
        (0..700_000_u32).map(|number| number.to_le_bytes()[0]).collect::<Vec<_>>().into();
    let large = v1::LargeValue { bytes: bytes.clone(), media_type: "image/png".to_owned() };
    let value = Some(v1::put_request::Value::Large(large));
    let request = v1::PutRequest { key: "blob_config_logo".to_owned(), value, ..Default::default() };
    acme.put(request.clone()).await.unwrap();
    let fetched = async |client: &mut super::support::Client| {
        let asked = v1::FetchRequest { key: "blob_config_logo".to_owned(), ..Default::default() };
        let mut chunks = client.fetch(asked).await?.into_inner();
        let mut all = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            all.extend_from_slice(&chunk.bytes);
        }
        Ok::<_, tonic::Status>(all)
    };
    assert!(fetched(&mut acme).await.unwrap() == bytes);
    let mut globex = world.admin(2).await;
    assert_eq!(code(fetched(&mut globex).await), "config_key_not_found");
    let (mut watch, _) = Watch::all(&mut globex).await;
    let platform = v1::PutRequest { scope: "platform".to_owned(), ..request };
    operator.put(platform).await.unwrap();
    assert_eq!(watch.delta().await, ["blob_config_logo@700000"], "copied from the catalog");
    assert!(fetched(&mut globex).await.unwrap() == bytes);
}

#[tokio::test]
async fn another_table_of_tags_holds_at_once() {
    let world = World::new().await;
    let (mut acme, mut operator) = (world.admin(1).await, world.operator().await);
    assert_eq!(code(acme.put(put("mine_a", "1")).await), "config_tag_unknown");
    let (mut watch, _) = Watch::all(&mut acme).await;
    let tags = r#"{"mine_": {"kind": "key-value", "max_bytes": 100}}"#;
    operator.put(v1::PutRequest { scope: "platform".to_owned(), ..put("insula_tags", tags) }).await.unwrap();
    assert_eq!(watch.snapshot().await.reason(), v1::watch_event::Reason::Moved);
    acme.put(put("mine_a", "1")).await.unwrap();
    assert_eq!(watch.delta().await, ["mine_a=1"]);
    assert_eq!(code(acme.put(put(KEY, "1")).await), "config_tag_unknown", "canary");
}

#[tokio::test]
async fn what_clients_run_with_is_kept_and_shown_to_their_own_tenant() {
    let mut world = World::new().await;
    let (mut acme, mut globex) = (world.admin(1).await, world.admin(2).await);
    let state = |version, rejection: &str, set_in: &str| v1::acknowledge_request::State {
        key: KEY.to_owned(),
        version,
        rejection: rejection.to_owned(),
        set_in: set_in.to_owned(),
    };
    let says = |client_id: &str, revision, states| v1::AcknowledgeRequest {
        client_id: client_id.to_owned(),
        revision,
        states,
        scope: String::new(),
    };
    for (scope, json) in [("platform", "1"), ("platform", "2"), ("tier/free", "1")] {
        world.provide(scope, KEY, Some(json)).await;
    }
    acme.acknowledge(says("a", 3, vec![state(1, "", "platform")])).await.unwrap();
    acme.acknowledge(says("a", 5, vec![state(2, "too bright", "platform")])).await.unwrap();
    acme.acknowledge(says("a", 4, vec![])).await.unwrap();
    acme.acknowledge(says("b", 9, vec![state(1, "", "tier/free")])).await.unwrap();
    globex.acknowledge(says("a", 7, vec![state(2, "", "platform")])).await.unwrap();
    let many: Vec<_> = (0..501).map(|_| state(1, "", "platform")).collect();
    for refused in [
        says("", 5, vec![]),
        says("a\n", 5, vec![]),
        says(&"a".repeat(101), 5, vec![]),
        says("a", 5, many),
        says("a", 5, vec![state(1, &"r".repeat(501), "platform")]),
        says("a", 5, vec![state(1, "", "tier/gold")]),
        says("a", 5, vec![state(1, "", &format!("tenant/{}", tenant(2)))]),
        says("a", 5, vec![state(1, "", "nowhere")]),
    ] {
        assert_eq!(code(acme.acknowledge(refused).await), "invalid_request");
    }
    for _ in ["as it was kept", "by the next process"] {
        let caller = crate::watches::watcher_of(1);
        let found = world.service.clients(&caller, ("", KEY), 10).await.unwrap();
        let told: Vec<_> = found
            .clients
            .iter()
            .map(|one| (one.client_id.as_str(), one.revision, one.run.version, one.run.rejection.as_deref()))
            .collect();
        assert_eq!(told, [("a", 5, 2, Some("too bright")), ("b", 9, 1, None)]);
        assert!(found.clients.iter().all(|one| one.tenant == tenant(1)), "nobody else's");
        let counts: Vec<_> =
            found.versions.iter().map(|runs| (runs.version, runs.running, runs.refusing)).collect();
        assert_eq!(counts, [(2, 0, 1), (1, 1, 0)]);
        let others = world.service.clients(&caller, ("tenant/globex", KEY), 10).await.unwrap_err();
        assert_eq!(others.code(), insula_problem::Code::TenantNotFound);
        // Canary: there are others.
        let all = world.service.clients(&crate::rollouts::operator(), ("platform", KEY), 10).await.unwrap();
        assert_eq!((all.clients.len(), all.versions[0].running), (3, 1));
        world.restart().await;
    }
}

/// As many values and versions as two answers have no room for, each as long as
/// its tag allows, with long names and notes.
#[tokio::test]
async fn pages_fit_into_what_clients_take_where_nobody_told_them_otherwise() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let credential = world.credential(1, "tenant_admin").await;
    let mut acme = world.client(&credential);
    let (mut watch, _) = Watch::all(&mut acme).await;
    let tags = r#"{"tenant_config_": {"kind": "key-value", "max_bytes": 1048576, "history": 99}}"#;
    operator.put(v1::PutRequest { scope: "platform".to_owned(), ..put("insula_tags", tags) }).await.unwrap();
    assert_eq!(watch.snapshot().await.reason(), Reason::Moved, "the tags are known");
    drop(watch);
    let mut stock = ConfigClient::with_interceptor(world.channel(), Bearer(credential));
    let named = |number: usize| format!("tenant_config_{}{number:02}", "k".repeat(480));
    let json: &'static str = Box::leak(format!("\"{}\"", "x".repeat(1_048_574)).into_boxed_str());
    for number in 0..9 {
        let note = "n".repeat(500);
        acme.put(v1::PutRequest { note: note.clone(), ..put(&named(number), json) }).await.unwrap();
        acme.put(v1::PutRequest { note, ..put(KEY, json) }).await.unwrap();
    }
    let asked = v1::ListRequest { limit: 1_000, ..Default::default() };
    let (mut listed, mut next) = (Vec::new(), asked.clone());
    loop {
        let page = stock.list(next.clone()).await.unwrap().into_inner();
        assert!(page.entries.len() >= 2, "a page has what it has room for");
        listed.extend(page.entries.into_iter().map(|entry| entry.key));
        if page.next_cursor.is_empty() {
            break;
        }
        next.cursor = page.next_cursor;
    }
    let keys: Vec<String> = (0..9).map(named).chain([KEY.to_owned()]).collect();
    assert_eq!(listed, keys);
    let (mut versions, mut before) = (Vec::new(), 0);
    loop {
        let asked = v1::HistoryRequest { key: KEY.to_owned(), limit: 1_000, before, ..Default::default() };
        let page = stock.history(asked).await.unwrap().into_inner();
        versions.extend(page.versions.into_iter().map(|entry| entry.version));
        before = page.next_before;
        if before == 0 {
            break;
        }
    }
    assert_eq!(versions, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let back = v1::RollbackRequest {
        key: KEY.to_owned(),
        to: Some(v1::rollback_request::To::Label("previous".to_owned())),
        ..Default::default()
    };
    assert_eq!(stock.rollback(back).await.unwrap().into_inner().version, 10, "two versions are found");
    // Canary: to one who takes less a page does not arrive.
    let mut small = stock.max_decoding_message_size(1 << 20);
    assert_eq!(small.list(asked).await.unwrap_err().code(), tonic::Code::OutOfRange);
}
