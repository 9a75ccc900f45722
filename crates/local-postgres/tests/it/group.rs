//! Several servers of one process.

use insula_local_postgres::{ServerSpec, ServerStatus, Servers, StartError};
use insula_testkit::unused_port;
use nix::sys::signal::Signal;

use crate::support::{PASSWORD, folder, installation, query, runs, send, spec};

fn named(folder: &std::path::Path, name: &str) -> ServerSpec {
    let mut named = spec(folder);
    named.name = name.to_owned();
    named.data_dir = folder.join(name);
    named
}

#[tokio::test]
async fn servers_start_together_and_stop_together() {
    let root = folder();
    let servers = Servers::new(installation());
    let specs: Vec<ServerSpec> = ["a", "b"].map(|name| named(root.path(), name)).into();
    servers.start_all(specs.clone()).await.unwrap();
    let pids: Vec<u32> = servers.statuses().into_values().map(|status| pid(&status)).collect();
    assert_eq!(pids.len(), 2);
    for name in ["a", "b"] {
        let url = servers.superuser_url(name, "postgres").await.unwrap();
        assert_eq!(query(&url, "show cluster_name").await.unwrap(), name);
    }
    assert_eq!(servers.superuser_url("c", "postgres").await, None);

    let mut again = specs[0].clone();
    again.port = unused_port();
    assert_eq!(servers.start(again).await.unwrap().port, specs[0].port, "what runs stays as it is");
    servers.stop("b").await;
    assert!(runs(pids[0]) && !runs(pids[1]));

    servers.stop_all().await;
    assert!(!runs(pids[0]));
    let late = servers.start(named(root.path(), "c")).await.unwrap_err();
    assert!(matches!(late, StartError::Stopped { .. }), "{late}");
}

#[tokio::test]
async fn a_server_that_was_given_up_gets_a_new_try_when_it_is_asked_for_again() {
    let root = folder();
    let servers = Servers::new(installation());
    let spec = named(root.path(), "a");
    servers.start(spec.clone()).await.unwrap();
    let first = pid(&servers.statuses()["a"]);
    send(first, Signal::SIGKILL);
    crate::support::until("it is seen dead", || {
        matches!(servers.statuses().get("a"), Some(ServerStatus::Dead { .. }))
    })
    .await;
    servers.start(spec).await.unwrap();
    assert_ne!(pid(&servers.statuses()["a"]), first);
    servers.stop_all().await;
}

#[tokio::test]
async fn one_that_cannot_start_does_not_take_the_others_with_it() {
    let root = folder();
    let servers = Servers::new(installation());
    let good = named(root.path(), "good");
    let mut bad = named(root.path(), "bad");
    bad.superuser_password = String::new().into();
    let error = servers.start_all(vec![bad, good.clone()]).await.unwrap_err();
    assert!(matches!(error, StartError::InvalidSpec { .. }) && !error.to_string().contains(PASSWORD));
    assert_eq!(servers.statuses().into_keys().collect::<Vec<_>>(), ["good"]);
    servers.stop_all().await;
}

fn pid(status: &ServerStatus) -> u32 {
    match status {
        ServerStatus::Running { pid } => *pid,
        other => panic!("{other:?}"),
    }
}
