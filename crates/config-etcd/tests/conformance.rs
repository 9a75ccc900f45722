//! The backend on real etcd: what every backend does, and what others write.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use std::sync::Arc;

use insula_config_etcd::{EtcdBackend, EtcdSettings};
use insula_config_model::{AUTHOR_EXTERNAL, Backend, BackendFault};
use insula_domain::SystemClock;
use insula_testkit::backend::{Ground, MemoryBackend, conforms, moved_under_writes};
use insula_testkit::{etcd_url, etcdctl, unused_port};

fn settings(root: &str) -> EtcdSettings {
    EtcdSettings { endpoints: vec![etcd_url().to_owned()], root: root.to_owned(), user: None, ca_pem: None }
}

fn backend(root: &str) -> Arc<dyn Backend> {
    Arc::new(EtcdBackend::new("etcd", settings(root), Arc::new(SystemClock)).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_does_what_every_backend_does() {
    conforms(backend("/conformance"), &[]).await;
}

#[tokio::test]
async fn values_are_plain_and_what_others_write_becomes_a_version() {
    let ground = Ground::new(backend("/plain/"));
    let name = format!("/plain/values/{}/param_config_db/größe", ground.scope);
    let newest = async || {
        let stored = ground.newest("param_config_db/größe").await.unwrap();
        (stored.version, stored.author.clone(), insula_testkit::backend::text_of(&stored))
    };
    let external = || AUTHOR_EXTERNAL.to_owned();
    ground.put("param_config_db/größe", 1).await;
    let value = insula_testkit::backend::value_of(1);
    assert_eq!(etcdctl(&["get", "--print-value-only", &name]).trim_end(), value);

    etcdctl(&["put", &name, "{\"by\":\"hand\"}"]);
    assert_eq!(newest().await, (2, external(), Some("{\"by\":\"hand\"}".to_owned())));
    assert_eq!(newest().await.0, 2, "it is one version, however often one looks");
    assert!(matches!(
        ground.try_put("param_config_db/größe", 2, 1).await,
        Err(BackendFault::Conflict { newest: 2, expected: 1 })
    ));

    etcdctl(&["put", &name, "2"]);
    let conflict = ground.try_put("param_config_db/größe", 3, 2).await;
    assert!(matches!(conflict, Err(BackendFault::Conflict { newest: 3, .. })), "{conflict:?}");
    etcdctl(&["del", &name]);
    assert_eq!(newest().await, (4, external(), None), "a removal");
    assert_eq!(ground.list("", None, 10).await, ["param_config_db/größe"]);
    etcdctl(&["put", &name, "3"]);
    assert_eq!(ground.list("", None, 10).await.len(), 1);
    assert_eq!(ground.history("param_config_db/größe", None, 10).await, [5, 4, 3, 2, 1]);
    ground.put("param_config_db/größe", 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_come_and_go_under_writes() {
    moved_under_writes(Arc::new(MemoryBackend::default()), backend("/moved")).await;
    moved_under_writes(backend("/home"), backend("/away")).await;
}

#[tokio::test]
async fn keys_of_others_are_swept_and_names_that_are_none_left_alone() {
    let ground = Ground::new(backend("/swept"));
    etcdctl(&["put", &format!("/swept/values/{}/a/b", ground.scope), "1"]);
    etcdctl(&["put", "/swept/values/platform/x y", "1"]);
    etcdctl(&["put", "/swept/values/nonsense", "1"]);
    let sweep = ground.backend.sweep(None, 100).await.unwrap();
    let seen: Vec<(String, i64)> =
        sweep.held.iter().map(|held| (held.key.to_string(), held.version)).collect();
    assert_eq!(seen, [("a/b".to_owned(), 1)]);
    assert_eq!(sweep.next, None);
}

#[tokio::test]
async fn an_etcd_that_is_away_is_named() {
    let endpoints = vec![format!("http://127.0.0.1:{}", unused_port())];
    let away = EtcdSettings { endpoints, ..settings("/away") };
    let ground = Ground::new(Arc::new(EtcdBackend::new("etcd-eu", away, Arc::new(SystemClock)).unwrap()));
    let fault = ground.try_put("a", 1, 0).await.unwrap_err();
    assert_eq!(fault.to_string(), "the backend etcd-eu cannot be reached");
    assert!(
        EtcdBackend::new(
            "x",
            EtcdSettings { endpoints: vec!["not a url".to_owned()], ..settings("/") },
            Arc::new(SystemClock)
        )
        .is_err()
    );
}
