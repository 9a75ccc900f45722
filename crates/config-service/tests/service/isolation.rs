//! A tenant's credential against another tenant's configuration, and credentials
//! that end.

use std::sync::Arc;

use insula_access::{Holder, Pass};
use insula_config_proto::v1;
use insula_config_proto::v1::watch_event::Event;
use insula_config_service::{Caller, WatchAsked};
use tonic::Code;

use crate::support::{Watch, World, code, get, put, remove, tenant, texts};

const KEY: &str = "tenant_config_theme";

#[tokio::test]
async fn a_tenants_key_reaches_nothing_of_another() {
    let world = World::new().await;
    let (mut acme, mut globex) = (world.admin(1).await, world.admin(2).await);
    globex.put(put(KEY, "\"theirs\"")).await.unwrap();
    let (mut watch, snapshot) = Watch::all(&mut acme).await;
    assert!(snapshot.entries.is_empty());
    assert_eq!(code(acme.get(get(KEY)).await), "config_key_not_found");
    for scope in [
        format!("tenant/{}", tenant(2)),
        "tenant/globex".to_owned(),
        "tenant/nobody".to_owned(),
        "platform".to_owned(),
        "tier/free".to_owned(),
        "region/eu-west-1".to_owned(),
    ] {
        let of = |key: &str| (key.to_owned(), scope.clone());
        let (key, at) = of(KEY);
        let answers = [
            code(acme.get(v1::GetRequest { key, scope: at, ..Default::default() }).await),
            code(acme.put(v1::PutRequest { scope: scope.clone(), ..put(KEY, "1") }).await),
            code(acme.remove(v1::RemoveRequest { scope: scope.clone(), ..remove(KEY) }).await),
            code(acme.list(v1::ListRequest { scope: scope.clone(), ..Default::default() }).await),
            code(
                acme.history(v1::HistoryRequest {
                    key: KEY.into(),
                    scope: scope.clone(),
                    ..Default::default()
                })
                .await,
            ),
            code(acme.explain(v1::ExplainRequest { key: KEY.into(), scope: scope.clone() }).await),
            code(acme.watch(v1::WatchRequest { scope: scope.clone(), ..Default::default() }).await),
            code(
                acme.fetch(v1::FetchRequest { key: KEY.into(), scope: scope.clone(), ..Default::default() })
                    .await,
            ),
            code(
                acme.label(v1::LabelRequest {
                    key: KEY.into(),
                    scope: scope.clone(),
                    label: "a".into(),
                    version: 1,
                })
                .await,
            ),
            code(
                acme.acknowledge(v1::AcknowledgeRequest {
                    scope: scope.clone(),
                    client_id: "a".into(),
                    ..Default::default()
                })
                .await,
            ),
            code(
                acme.transact(v1::TransactRequest {
                    ops: vec![v1::transact_request::Op {
                        op: Some(v1::transact_request::op::Op::Put(v1::PutRequest {
                            scope: scope.clone(),
                            ..put(KEY, "1")
                        })),
                    }],
                    ..Default::default()
                })
                .await,
            ),
        ];
        assert!(answers.iter().all(|code| code == "tenant_not_found"), "{scope}: {answers:?}");
    }
    globex.put(put(KEY, "\"again\"")).await.unwrap();
    acme.put(put(KEY, "\"mine\"")).await.unwrap();
    assert_eq!(watch.delta().await, [format!("{KEY}=\"mine\"")], "and of the other's nothing before");
    // Canary: its own scope may be named, and an operator names any.
    let own = v1::GetRequest { key: KEY.into(), scope: "tenant/acme".into(), ..Default::default() };
    assert!(acme.get(own).await.is_ok());
    let mut operator = world.operator().await;
    let theirs = v1::GetRequest { key: KEY.into(), scope: "tenant/globex".into(), ..Default::default() };
    assert!(operator.get(theirs).await.is_ok());
    assert_eq!(code(operator.get(get(KEY)).await), "invalid_request");
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams_and_nobody_elses() {
    let world = World::new().await;
    let (id, mut mine) = world.key(1, "tenant_user", None).await;
    let mut other = world.admin(1).await;
    let (mut ends, _) = Watch::all(&mut mine).await;
    let (mut goes_on, _) = Watch::all(&mut other).await;
    world.revoke(id).await;
    let status = ends.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert_eq!(code(mine.get(get(KEY)).await), "unauthenticated");
    other.put(put(KEY, "1")).await.unwrap();
    assert!(matches!(goes_on.news().await, Event::Delta(_)), "canary: the other one goes on");
}

#[tokio::test]
async fn a_key_that_reads_does_not_write_and_a_path_bounds_it() {
    let world = World::new().await;
    let mut admin = world.admin(1).await;
    admin.put(put("tenant_config_a", "1")).await.unwrap();
    admin.put(put("tenant_config_b", "1")).await.unwrap();
    let (_, mut user) = world.key(1, "tenant_user", None).await;
    assert_eq!(code(user.put(put(KEY, "1")).await), "forbidden");
    assert!(user.get(get("tenant_config_a")).await.is_ok());
    assert_eq!(code(admin.put(put("insula_tags", "{}")).await), "forbidden");
    let (_, mut bound) = world.key(1, "tenant_admin", Some("/config/tenant_config_a")).await;
    assert!(bound.get(get("tenant_config_a")).await.is_ok());
    assert_eq!(code(bound.get(get("tenant_config_b")).await), "forbidden");
    let listed = bound.list(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.entries.len(), 1);
    let (mut watch, snapshot) = Watch::all(&mut bound).await;
    assert_eq!(texts(&snapshot), ["tenant_config_a=1"]);
    admin.put(put("tenant_config_b", "2")).await.unwrap();
    admin.put(put("tenant_config_a", "2")).await.unwrap();
    assert_eq!(watch.delta().await, ["tenant_config_a=2"]);
    let (_, mut elsewhere) = world.key(1, "tenant_admin", Some("/orders")).await;
    assert_eq!(code(elsewhere.watch(v1::WatchRequest::default()).await), "forbidden");
}

/// What a child is told in any way, which are all the ways that there are.
async fn told_to_child(child: &mut crate::support::Client, before: v1::WatchRequest) -> String {
    let mut told = Vec::new();
    for limit in [1, 2, 100] {
        let mut cursor = String::new();
        loop {
            let asked = v1::ListRequest { limit, cursor, ..Default::default() };
            let page = child.list(asked).await.unwrap().into_inner();
            told.push(format!("{:?} {}", page.entries, page.next_cursor));
            cursor = page.next_cursor;
            if cursor.is_empty() {
                break;
            }
        }
    }
    for key in ["secret_config_stripe", "secret_config_gone"] {
        for answer in [
            child.get(get(key)).await.map(|answer| format!("{answer:?}")),
            child
                .history(v1::HistoryRequest { key: key.into(), ..Default::default() })
                .await
                .map(|answer| format!("{:?}", answer.into_inner().versions)),
            child
                .explain(v1::ExplainRequest { key: key.into(), ..Default::default() })
                .await
                .map(|answer| format!("{:?}", answer.into_inner().layers)),
        ] {
            // What was asked for by its name may be named.
            told.push(answer.unwrap_or_else(|status| status.message().to_owned()).replace(key, "…"));
        }
    }
    for request in [v1::WatchRequest::default(), before] {
        let mut watch = Watch::begin(child, request).await;
        told.push(format!("{:?}", watch.news().await));
    }
    told.join("\n")
}

#[tokio::test]
async fn a_child_learns_nothing_of_what_its_parent_keeps_to_itself() {
    let world = World::new().await;
    let (mut parent, mut child) = (world.admin(1).await, world.admin(3).await);
    parent.put(put("tenant_config_a", "1")).await.unwrap();
    let (_, first) = Watch::all(&mut child).await;
    let before =
        v1::WatchRequest { from_revision: first.revision, view: first.view.clone(), ..Default::default() };
    for number in 0..3 {
        parent.put(put(&format!("secret_config_stripe{number}"), "\"hush\"")).await.unwrap();
    }
    parent.put(put("secret_config_stripe", "\"hush\"")).await.unwrap();
    parent.put(put("secret_config_gone", "\"hush\"")).await.unwrap();
    parent.remove(remove("secret_config_gone")).await.unwrap();
    parent.put(put("tenant_config_z", "\"shared\"")).await.unwrap();
    let told = told_to_child(&mut child, before).await;
    for hidden in ["stripe", "gone", "hush"] {
        assert!(!told.contains(hidden), "{hidden}: {told}");
    }
    // Canary: what is inherited is seen in each way, and the parent sees its own.
    assert!(told.matches("tenant_config_z").count() >= 5, "{told}");
    let listed = parent.list(v1::ListRequest { limit: 2, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((listed.entries.len(), listed.next_cursor.as_str()), (1, "after:secret_config_stripe"));
}

#[tokio::test]
async fn a_child_whose_parent_is_on_its_way_is_not_told_what_is_further_away() {
    let world = World::new().await;
    let (mut parent, mut child) = (world.admin(1).await, world.admin(3).await);
    world.provide("tier/free", KEY, Some("\"tier\"")).await;
    parent.put(put(KEY, "\"parent\"")).await.unwrap();
    assert!(child.get(get(KEY)).await.is_ok());
    let client = world.region.connect().await;
    let closed = format!("update config_homes set state = 'closed' where scope = 'tenant/{}'", tenant(1));
    client.batch_execute(&closed).await.unwrap();
    assert_eq!(code(child.get(get(KEY)).await), "config_moving");
    assert_eq!(code(child.list(v1::ListRequest::default()).await), "config_moving");
    let explained = v1::ExplainRequest { key: KEY.into(), ..Default::default() };
    assert_eq!(code(child.explain(explained).await), "config_moving");
    // Canary: what is its own alone is read.
    assert_eq!(code(child.get(get("secret_config_own")).await), "config_key_not_found");
}

#[tokio::test]
async fn a_path_ends_where_a_name_does() {
    let world = World::new().await;
    let mut admin = world.admin(1).await;
    let keys =
        ["tenant_config_shop", "tenant_config_shop/a", "tenant_config_shop2", "tenant_config_shopping/a"];
    for key in keys {
        admin.put(put(key, "1")).await.unwrap();
    }
    let (_, mut bound) = world.key(1, "tenant_admin", Some("/config/tenant_config_shop")).await;
    for (key, is_reached) in keys.into_iter().zip([true, true, false, false]) {
        assert_eq!(bound.get(get(key)).await.is_ok(), is_reached, "{key}");
        assert_eq!(bound.put(put(key, "2")).await.is_ok(), is_reached, "{key}");
    }
    let prefixes = vec!["tenant_config_sho".to_owned()];
    for limit in [1, 100] {
        let asked = v1::ListRequest { prefix: prefixes[0].clone(), limit, ..Default::default() };
        let listed = bound.list(asked).await.unwrap().into_inner();
        let names: Vec<&str> = listed.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(names, &keys[..names.len()]);
        assert!(["", "after:tenant_config_shop"].contains(&listed.next_cursor.as_str()), "{listed:?}");
    }
    let mut watch = Watch::begin(&mut bound, v1::WatchRequest { prefixes, ..Default::default() }).await;
    assert_eq!(texts(&watch.snapshot().await), ["tenant_config_shop=2", "tenant_config_shop/a=2"]);
    admin.put(put("tenant_config_shop2", "3")).await.unwrap();
    admin.put(put("tenant_config_shop/a", "3")).await.unwrap();
    assert_eq!(watch.delta().await, ["tenant_config_shop/a=3"]);
}

#[tokio::test]
async fn a_password_opens_nothing_that_lasts() {
    let world = World::new().await;
    let watch = async |caller| {
        let asked = WatchAsked { scope: "tenant/acme".to_owned(), ..WatchAsked::default() };
        world.service.watch(caller, asked).await.map_err(|problem| problem.code())
    };
    let holder = Holder::Operator { email: "ada@example.com".to_owned() };
    let by_password = Caller::new(Arc::new(Pass::unending(holder)));
    assert_eq!(watch(by_password).await.unwrap_err(), insula_problem::Code::Forbidden);
    // Canary: by a token it is opened.
    let mut operator = world.operator().await;
    let asked = v1::WatchRequest { scope: "tenant/acme".to_owned(), ..Default::default() };
    assert!(operator.watch(asked).await.is_ok());
}

#[tokio::test]
async fn without_a_credential_there_is_no_answer() {
    let world = World::new().await;
    for credential in ["", "isk_x", "iop_x"] {
        let mut client = world.client(credential);
        assert_eq!(code(client.get(get(KEY)).await), "unauthenticated");
        assert_eq!(code(client.watch(v1::WatchRequest::default()).await), "unauthenticated");
    }
}
