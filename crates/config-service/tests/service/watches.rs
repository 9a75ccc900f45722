//! What a watcher hears: a snapshot, each change, and a new snapshot wherever it
//! could have missed something.

use insula_access::Pass;
use insula_config_model::{ConfigValue, Room, Scope, Transaction, Write, WriteOp};
use insula_config_proto::v1;
use insula_config_proto::v1::watch_event::{Event, Reason};
use insula_config_service::{Caller, Frame, WatchAsked};
use insula_domain::TenantStatus;
use std::sync::Arc;
use tonic::Code;

use crate::support::{PATIENCE, Watch, World, put, remove, tenant, text, texts};

const KEY: &str = "tenant_config_theme";

#[tokio::test]
async fn a_watcher_hears_what_changes_for_it_and_a_removal_shows_what_is_further_away() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    world.provide("platform", KEY, Some("\"platform\"")).await;
    let (mut watch, snapshot) = Watch::all(&mut acme).await;
    assert_eq!(texts(&snapshot), ["tenant_config_theme=\"platform\""]);
    assert_eq!(snapshot.reason(), Reason::Asked);
    assert!(!snapshot.client_id.is_empty());
    let written = acme.put(put(KEY, " \"own\" ")).await.unwrap().into_inner();
    let Event::Delta(delta) = watch.news().await else { panic!("a delta") };
    assert_eq!(delta.entries.iter().map(text).collect::<Vec<_>>(), ["tenant_config_theme=\"own\""]);
    assert_eq!((delta.revision, delta.entries[0].version), (written.revision, written.version));
    assert!(delta.since <= snapshot.revision && delta.entries[0].author.starts_with("key:"));
    // Something closer is set: this is not for it.
    world.provide("tier/free", KEY, Some("\"tier\"")).await;
    acme.remove(remove(KEY)).await.unwrap();
    assert_eq!(watch.delta().await, ["tenant_config_theme=\"tier\""]);
    world.provide("tier/free", KEY, None).await;
    assert_eq!(watch.delta().await, ["tenant_config_theme=\"platform\""]);
    world.provide("platform", KEY, None).await;
    assert_eq!(watch.delta().await, [KEY]);
}

#[tokio::test]
async fn a_watcher_hears_of_its_prefixes_alone() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put("param_config_a", "1")).await.unwrap();
    acme.put(put("tenant_config_a", "1")).await.unwrap();
    // By the other spelling of the tag.
    let prefixes = vec!["paramconfig_".to_owned(), "tenant_config_b".to_owned()];
    let mut watch = Watch::begin(&mut acme, v1::WatchRequest { prefixes, ..Default::default() }).await;
    assert_eq!(texts(&watch.snapshot().await), ["param_config_a=1"]);
    for (key, json) in [("tenant_config_a", "2"), ("tenant_config_b", "3"), ("param_config_a", "4")] {
        acme.put(put(key, json)).await.unwrap();
    }
    assert_eq!(watch.delta().await, ["tenant_config_b=3"]);
    assert_eq!(watch.delta().await, ["param_config_a=4"]);
}

#[tokio::test]
async fn who_comes_back_gets_what_was_missed_and_a_snapshot_where_that_is_unknown() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put("tenant_config_a", "1")).await.unwrap();
    acme.put(put("tenant_config_b", "1")).await.unwrap();
    let (_, snapshot) = Watch::all(&mut acme).await;
    let back = v1::WatchRequest {
        from_revision: snapshot.revision,
        view: snapshot.view.clone(),
        client_id: "one".to_owned(),
        ..Default::default()
    };
    acme.put(put("tenant_config_a", "2")).await.unwrap();
    acme.remove(remove("tenant_config_b")).await.unwrap();
    world.admin(2).await.put(put("tenant_config_c", "1")).await.unwrap();
    let mut watch = Watch::begin(&mut acme, back.clone()).await;
    assert_eq!(watch.delta().await, ["tenant_config_a=2", "tenant_config_b"]);
    acme.put(put("tenant_config_a", "3")).await.unwrap();
    assert_eq!(watch.delta().await, ["tenant_config_a=3"], "and it goes on");

    let reason = async |request: v1::WatchRequest| {
        let mut watch = Watch::begin(&mut acme.clone(), request).await;
        watch.snapshot().await.reason()
    };
    let other_view = v1::WatchRequest { view: "other".to_owned(), ..back.clone() };
    assert_eq!(reason(other_view).await, Reason::Moved);
    let unheard = v1::WatchRequest { from_revision: 1 << 40, ..back.clone() };
    assert_eq!(reason(unheard).await, Reason::Compacted);
    let client = world.region.connect().await;
    client.execute("update config_clock set compacted = revision", &[]).await.unwrap();
    assert_eq!(reason(back).await, Reason::Compacted);
}

/// 600 changes of a tenant, each of another key.
async fn many_changes(client: &mut crate::support::Client) {
    use v1::transact_request::{Op, op};
    for part in 0..6 {
        let of = |number| put(&format!("tenant_config_many/{part}.{number}"), "1");
        let ops = (0..100).map(|number| Op { op: Some(op::Op::Put(of(number))) }).collect();
        client.transact(v1::TransactRequest { ops, ..Default::default() }).await.unwrap();
    }
}

fn back(snapshot: &v1::watch_event::Snapshot) -> v1::WatchRequest {
    let (from_revision, view) = (snapshot.revision, snapshot.view.clone());
    v1::WatchRequest { from_revision, view, client_id: "one".to_owned(), ..Default::default() }
}

#[tokio::test]
async fn who_comes_back_is_told_of_its_own_however_much_others_have_written() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put(KEY, "0")).await.unwrap();
    let (_, snapshot) = Watch::all(&mut acme).await;
    acme.put(put(KEY, "1")).await.unwrap();
    many_changes(&mut world.admin(2).await).await;
    let mut watch = Watch::begin(&mut acme, back(&snapshot)).await;
    assert_eq!(watch.delta().await, [format!("{KEY}=1")]);
    many_changes(&mut acme).await;
    let mut watch = Watch::begin(&mut acme, back(&snapshot)).await;
    assert_eq!(watch.snapshot().await.reason(), Reason::Compacted, "canary: its own are too many");
}

#[tokio::test]
async fn who_comes_back_hears_nothing_of_what_its_parent_keeps_to_itself() {
    let world = World::new().await;
    let (mut parent, mut child) = (world.admin(1).await, world.admin(3).await);
    parent.put(put(KEY, "0")).await.unwrap();
    let (_, snapshot) = Watch::all(&mut child).await;
    parent.put(put("secret_config_stripe", "\"s\"")).await.unwrap();
    parent.put(put(KEY, "1")).await.unwrap();
    let mut watch = Watch::begin(&mut child, back(&snapshot)).await;
    assert_eq!(watch.delta().await, [format!("{KEY}=1")], "and what is inherited comes");
}

pub fn watcher_of(number: u128) -> Caller {
    let holder = insula_access::Holder::Key {
        id: uuid::Uuid::from_u128(1).into(),
        tenant: tenant(number),
        role: "tenant_admin".to_owned(),
        path: None,
    };
    Caller::new(Arc::new(Pass::unending(holder)))
}

pub fn event(frame: &Frame) -> Event {
    let mut bytes = Vec::new();
    frame.put(&mut bytes);
    <v1::WatchEvent as prost::Message>::decode(bytes.as_slice()).unwrap().event.unwrap()
}

#[tokio::test]
async fn whoever_was_answered_knows_that_watchers_were_told() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let hub = &world.service.region(&"eu-west-1".parse().unwrap()).unwrap().hub;
    for number in 0..40 {
        let token = if number % 2 == 0 { String::new() } else { number.to_string() };
        let written = acme.put(v1::PutRequest { token, ..put(KEY, "1") }).await.unwrap().into_inner();
        assert!(hub.known().unwrap().0 >= written.revision, "{number}");
    }
    // What another process has written is between them, and is read from the log.
    let between = world.provide("tier/free", "tenant_config_elsewhere", Some("1")).await;
    let written = acme.put(put(KEY, "2")).await.unwrap().into_inner();
    assert_eq!(written.revision, between.revision + 1);
    hub.reached(written.revision, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn who_does_not_keep_up_gets_a_new_snapshot() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let mut slow = world.service.watch(watcher_of(1), WatchAsked::default()).await.unwrap();
    let mut quick = world.service.watch(watcher_of(1), WatchAsked::default()).await.unwrap();
    for watcher in [&mut slow, &mut quick] {
        let first = event(&watcher.next().await.unwrap().unwrap());
        assert!(matches!(first, Event::Snapshot(_)), "{first:?}");
    }
    for _ in 0..100 {
        acme.put(put(KEY, "1")).await.unwrap();
        let next = event(&quick.next().await.unwrap().unwrap());
        assert!(matches!(next, Event::Delta(_)), "canary: who reads gets each change: {next:?}");
    }
    acme.put(put(KEY, "2")).await.unwrap();
    let Event::Delta(_) = event(&quick.next().await.unwrap().unwrap()) else { panic!("a delta") };
    let Event::Snapshot(snapshot) = event(&slow.next().await.unwrap().unwrap()) else { panic!("a snapshot") };
    assert_eq!((snapshot.reason(), texts(&snapshot)), (Reason::Overflow, vec![format!("{KEY}=2")]));
}

#[tokio::test]
async fn what_is_written_at_once_is_told_of_in_the_order_of_its_revisions() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put(KEY, "0")).await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(Watch::all(&mut acme).await);
    }
    let writing = (0..8).map(|_| {
        let mut acme = acme.clone();
        tokio::spawn(async move {
            let mut last = 0;
            for _ in 0..25 {
                last = acme.put(put(KEY, "1")).await.unwrap().into_inner().revision;
            }
            last
        })
    });
    let writing: Vec<_> = writing.collect();
    let mut newest = 0;
    for writes in writing {
        newest = newest.max(writes.await.unwrap());
    }
    for (mut watch, begun) in watches {
        let mut last = begun.revision;
        while last < newest {
            match watch.news().await {
                Event::Delta(delta) => {
                    assert_eq!(delta.since, last, "nothing is left out");
                    assert!(
                        delta.revision > last && delta.entries[0].revision == delta.revision,
                        "{delta:?}"
                    );
                    last = delta.revision;
                }
                // One who was too slow begins anew.
                Event::Snapshot(snapshot) => {
                    assert!(snapshot.revision > last, "{snapshot:?} behind {last}");
                    last = snapshot.revision;
                }
                Event::Heartbeat(_) => {}
            }
        }
        assert_eq!(last, newest);
    }
}

#[tokio::test]
async fn a_notification_that_is_lost_costs_seconds() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put(KEY, "1")).await.unwrap();
    let (mut watch, _) = Watch::all(&mut acme).await;
    // Another process writes, and nothing is notified.
    let client = world.region.connect().await;
    let scope = format!("tenant/{}", tenant(1));
    client
        .batch_execute(&format!(
            "begin;
             update config_clock set revision = revision + 1;
             insert into config_versions (scope, key, version, revision, kind, value, author, at, note)
             select '{scope}', '{KEY}', 2, revision, 1, '2', 'other', now(), '' from config_clock;
             update config_values set version = 2 where scope = '{scope}' and key = '{KEY}';
             insert into config_log (revision, scope, key, kind, version, at)
             select revision, '{scope}', '{KEY}', 1, 2, now() from config_clock;
             commit;"
        ))
        .await
        .unwrap();
    assert_eq!(watch.delta().await, [format!("{KEY}=2")]);
}

#[tokio::test]
async fn another_tier_is_another_view_and_a_tenant_that_goes_ends_the_stream() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    world.provide("tier/free", KEY, Some("1")).await;
    world.provide("tier/business", KEY, Some("2")).await;
    let (mut watch, before) = Watch::all(&mut acme).await;
    assert_eq!(texts(&before), [format!("{KEY}=1")]);
    world.reroute(1, |route| route.tier = "business".parse().unwrap());
    let after = watch.snapshot().await;
    assert_eq!((after.reason(), texts(&after)), (Reason::Moved, vec![format!("{KEY}=2")]));
    assert_ne!(after.view, before.view);
    world.provide("tier/free", KEY, Some("3")).await;
    world.provide("tier/business", KEY, Some("4")).await;
    assert_eq!(watch.delta().await, [format!("{KEY}=4")], "of the new tier alone");
    world.reroute(1, |route| route.status = TenantStatus::Deleting);
    let status = watch.end().await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[tokio::test]
async fn whoever_comes_just_when_a_tier_changes_sees_all_that_the_tenant_has() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put(KEY, "1")).await.unwrap();
    world.provide("tier/free", "tenant_config_tier", Some("1")).await;
    world.provide("tier/business", "tenant_config_tier", Some("2")).await;
    // Somebody else is of the new tier already: what that has is there.
    world.reroute(2, |route| route.tier = "business".parse().unwrap());
    let _other = world.service.watch(watcher_of(2), WatchAsked::default()).await.unwrap();
    let (mut before, snapshot) = Watch::all(&mut acme).await;
    let all = |tier: u8| vec![format!("{KEY}=1"), format!("tenant_config_tier={tier}")];
    assert_eq!(texts(&snapshot), all(1));
    world.reroute(1, |route| route.tier = "business".parse().unwrap());
    // Before the hub has looked by itself.
    let mut at_once = world.service.watch(watcher_of(1), WatchAsked::default()).await.unwrap();
    let Event::Snapshot(first) = event(&at_once.next().await.unwrap().unwrap()) else { panic!("a snapshot") };
    assert_eq!(texts(&first), all(2));
    let after = before.snapshot().await;
    assert_eq!((after.reason(), texts(&after)), (Reason::Moved, all(2)));
    acme.put(put(KEY, "3")).await.unwrap();
    assert_eq!(before.delta().await, [format!("{KEY}=3")], "and both go on");
    let Event::Delta(delta) = event(&at_once.next().await.unwrap().unwrap()) else { panic!("a delta") };
    assert_eq!(delta.entries.iter().map(text).collect::<Vec<_>>(), [format!("{KEY}=3")]);
}

#[tokio::test]
async fn a_snapshot_is_never_older_than_what_it_was_read_from() {
    let world = World::new().await;
    // As the arrival of a tenant raises it, and nobody was told yet.
    let client = world.region.connect().await;
    let raised = "update config_clock set revision = revision + 1000 returning revision";
    let raised: i64 = client.query_one(raised, &[]).await.unwrap().get(0);
    let mut watcher = world.service.watch(watcher_of(2), WatchAsked::default()).await.unwrap();
    let Event::Snapshot(first) = event(&watcher.next().await.unwrap().unwrap()) else { panic!("a snapshot") };
    assert!(first.revision >= raised, "{} where the store is at {raised}", first.revision);
}

/// The store is set back to an older state, as from a backup.
async fn set_back(world: &World, revision: i64) {
    let client = world.region.connect().await;
    client
        .batch_execute(&format!(
            "begin;
             delete from config_log where revision > {revision};
             delete from config_versions where revision > {revision};
             delete from config_values n where not exists (
                select from config_versions v where v.scope = n.scope and v.key = n.key);
             update config_values n set version = (
                select max(version) from config_versions v where v.scope = n.scope and v.key = n.key);
             update config_clock set revision = {revision};
             commit;"
        ))
        .await
        .unwrap();
}

/// A new snapshot comes, and with what comes behind it that is all that there is.
async fn ends_with(watch: &mut Watch, all: &[String]) {
    let mut has = std::collections::BTreeMap::new();
    while has.values().ne(all) {
        match watch.news().await {
            Event::Snapshot(snapshot) => {
                assert_eq!((snapshot.reason(), snapshot.more), (Reason::Compacted, false));
                has = snapshot.entries.iter().map(|entry| (entry.key.clone(), text(entry))).collect();
            }
            Event::Delta(delta) => {
                has.extend(delta.entries.iter().map(|entry| (entry.key.clone(), text(entry))));
                delta.removed.iter().for_each(|key| drop(has.remove(key)));
            }
            Event::Heartbeat(_) => {}
        }
    }
}

#[tokio::test]
async fn a_store_that_was_set_back_is_read_again() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let kept = acme.put(put(KEY, "1")).await.unwrap().into_inner().revision;
    let (mut watch, _) = Watch::all(&mut acme).await;
    for number in 0..3 {
        acme.put(put(&format!("tenant_config_lost/{number}"), "1")).await.unwrap();
        watch.delta().await;
    }
    set_back(&world, kept).await;
    acme.put(put(KEY, "2")).await.unwrap();
    // What is not there any more is gone.
    ends_with(&mut watch, &[format!("{KEY}=2")]).await;
    // Another process writes so much that the revision is a new one.
    for number in 0..3 {
        acme.put(put(&format!("tenant_config_lost/{number}"), "1")).await.unwrap();
        watch.delta().await;
    }
    set_back(&world, kept).await;
    let write = |number| Write {
        scope: Scope::Platform,
        key: format!("tenant_config_new/{number}").parse().unwrap(),
        op: WriteOp::Put(ConfigValue::Json("1".into())),
        if_version: None,
        note: String::new(),
        history: 10,
        is_secret: false,
        room: Room::Usual,
        made: None,
    };
    let writes = (0..9).map(write).collect();
    let transaction =
        Transaction { writes, token: None, author: "other".to_owned(), tags: None, schemas: Vec::new() };
    world.provider.write(transaction).await.unwrap();
    let mut all: Vec<String> = (0..9).map(|number| format!("tenant_config_new/{number}=1")).collect();
    all.push(format!("{KEY}=1"));
    ends_with(&mut watch, &all).await;
}

#[tokio::test]
async fn a_long_snapshot_comes_in_parts() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let long: &'static str = Box::leak(format!("\"{}\"", "x".repeat(50 << 10)).into_boxed_str());
    for number in 0..6 {
        acme.put(put(&format!("tenant_config_{number}"), long)).await.unwrap();
    }
    let mut watch = Watch::begin(&mut acme, v1::WatchRequest::default()).await;
    let Event::Snapshot(first) = watch.news().await else { panic!("a snapshot") };
    assert!(first.more && first.entries.len() < 6);
    let rest = watch.snapshot().await;
    assert_eq!(first.entries.len() + rest.entries.len(), 6);
}

#[tokio::test]
async fn watchers_hear_that_nothing_has_changed() {
    let heartbeat = std::time::Duration::from_millis(100);
    let bounds = insula_config_service::Bounds { heartbeat, ..Default::default() };
    let world = World::with(bounds).await;
    let mut acme = world.admin(1).await;
    let (mut watch, snapshot) = Watch::all(&mut acme).await;
    let Event::Heartbeat(first) = watch.event().await.unwrap() else { panic!("a heartbeat") };
    assert!(first.revision >= snapshot.revision && first.client_id == snapshot.client_id, "{first:?}");
    let written = world.admin(2).await.put(put(KEY, "1")).await.unwrap().into_inner();
    let news = async {
        loop {
            let Event::Heartbeat(next) = watch.event().await.unwrap() else { panic!("a heartbeat") };
            if next.revision >= written.revision {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, news).await.expect("it goes on with the region's changes");
}

#[tokio::test]
async fn a_tenants_watchers_are_limited_by_what_is_configured_for_it() {
    let world = World::new().await;
    let limit = |scope: &str, json: &'static str| v1::PutRequest {
        scope: scope.to_owned(),
        ..put("insula_limits", json)
    };
    let mut operator = world.operator().await;
    for json in ["{\"watchers\":-1}", "{\"watcher\":1}", "3"] {
        let refused = operator.put(limit("tenant/acme", json)).await;
        assert_eq!(crate::support::code(refused), "config_value_invalid", "{json}");
    }
    world.provide("tier/free", "insula_limits", Some("{\"watchers\":1}")).await;
    let (mut acme, mut globex) = (world.admin(1).await, world.admin(2).await);
    let own = acme.put(put("insula_limits", "{}")).await;
    assert_eq!(crate::support::code(own), "forbidden", "a tenant does not set its own");
    let (first, _) = Watch::all(&mut acme).await;
    let refused = acme.watch(v1::WatchRequest::default()).await;
    assert_eq!(crate::support::code(refused), "quota_exceeded");
    // Another tenant's count for themselves, and what is closer counts.
    let _others = Watch::all(&mut globex).await;
    operator.put(limit("tenant/acme", "{\"watchers\":2}")).await.unwrap();
    let _second = Watch::all(&mut acme).await;
    drop(first);
}
