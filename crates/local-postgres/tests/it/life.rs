//! A server's ordinary life: made, started, watched, restarted, stopped.

use std::fs;
use std::os::unix::fs::MetadataExt;

use insula_local_postgres::{Server, ServerStatus, TcpAccess, remove, socket_folder};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid, getpgid, getpgrp};

use crate::support::{PASSWORD, ask, entries, folder, installation, query, runs, send, spec, start};

#[tokio::test]
async fn a_server_is_made_reached_and_stopped() {
    let root = folder();
    let mut spec = spec(root.path());
    spec.durable = true;
    spec.name = "catalog".to_owned();
    spec.settings.insert("work_mem".to_owned(), "7MB".to_owned());
    let server = start(&spec).await;
    assert_eq!(entries(root.path()), ["pg", "pg.lock"], "neither the password nor a half folder stays");
    for (setting, value) in [
        ("server_encoding", "UTF8"),
        ("data_checksums", "on"),
        ("wal_level", "logical"),
        ("max_replication_slots", "64"),
        ("max_connections", "200"),
        ("password_encryption", "scram-sha-256"),
        ("fsync", "on"),
        ("work_mem", "7MB"),
        ("cluster_name", "catalog"),
        ("jit", "off"),
    ] {
        assert_eq!(ask(&server, &format!("show {setting}")).await, value, "{setting}");
    }
    assert_eq!(ask(&server, "select 'B' < 'a' and upper('é') = 'É'").await, "t");
    assert_eq!(ask(&server, "select current_user").await, "insula");
    assert!(server.superuser_url("a/b").ends_with("/a%2Fb"));
    assert!(!format!("{server:?}").contains("p@ss"));

    let pid = server.pid().unwrap();
    assert!(runs(pid));
    server.stop().await;
    assert!(!runs(pid));
    assert!(!spec.data_dir.join("postmaster.pid").exists(), "it was stopped in order");

    let server = start(&spec).await;
    assert_ne!(server.pid(), Some(pid), "an existing folder is started as it is");
    server.stop().await;
    remove(&spec.data_dir).await.unwrap();
    assert_eq!(entries(root.path()), Vec::<String>::new());
    remove(&spec.data_dir).await.expect("what is gone can be removed again");
}

#[tokio::test]
async fn only_the_right_password_opens_the_door() {
    let root = folder();
    let server = start(&spec(root.path())).await;
    let url = server.superuser_url("postgres");
    query(&url, "select 1").await.expect("canary: the right one does");
    let wrong = query(&url.replace("p%40ss", "other"), "select 1").await.unwrap_err();
    assert_eq!(wrong.code().map(tokio_postgres::error::SqlState::code), Some("28P01"));
    let none =
        format!("host={} user=insula dbname=postgres port={}", server.data_dir().display(), server.port());
    assert!(query(&none, "select 1").await.is_err(), "the Unix socket asks for it too");
    let with = format!("{none} password='{PASSWORD}'");
    assert_eq!(query(&with, "select 1").await.unwrap(), "1");
    server.stop().await;
}

#[tokio::test]
async fn secrets_in_statements_do_not_reach_the_log() {
    let root = folder();
    let server = start(&spec(root.path())).await;
    let url = server.superuser_url("postgres");
    query(&url, "alter role nobody_knows password 'hidden-secret'").await.unwrap_err();
    query(&url, "create table t (mail text unique); insert into t values ('a@b'), ('a@b')")
        .await
        .unwrap_err();
    let log = fs::read_to_string(server.data_dir().join("server.log")).unwrap();
    assert!(
        log.contains("nobody_knows") && log.contains("duplicate key"),
        "canary: the errors are there: {log}"
    );
    assert!(!log.contains("hidden-secret") && !log.contains("a@b") && !log.contains(PASSWORD), "{log}");
    assert_eq!(fs::metadata(server.data_dir().join("server.log")).unwrap().mode() & 0o077, 0);
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_is_nobodys_but_its_own() {
    let root = folder();
    let server = start(&spec(root.path())).await;
    let pid = server.pid().unwrap();
    let group = getpgid(Some(Pid::from_raw(i32::try_from(pid).unwrap()))).unwrap();
    assert_ne!(group, getpgrp(), "Ctrl-C at the terminal does not reach it");
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.contains("LC_ALL=C"), "canary: the environment can be read");
    assert!(!environment.contains("CARGO"), "ours is not handed on: {environment}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    if geteuid().is_root() {
        assert_eq!(line("Groups:"), "", "root's groups are given up");
        assert!(line("Uid:").split_whitespace().all(|id| id != "0"));
        assert!(line("Gid:").split_whitespace().all(|id| id != "0"));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_with_its_rows() {
    let root = folder();
    let mut spec = spec(root.path());
    spec.restart_when_dead = true;
    let server = start(&spec).await;
    ask(&server, "create table t as select 42 as n").await;
    let first = server.pid().unwrap();
    let mut changes = server.watch();
    send(first, Signal::SIGKILL);
    let again = |status: &ServerStatus| matches!(status, ServerStatus::Running { pid } if *pid != first);
    changes.wait_for(again).await.unwrap();
    assert_eq!(ask(&server, "select n from t").await, "42");
    let pid = server.pid().unwrap();
    server.stop().await;
    assert!(!runs(pid));
    assert_eq!(*changes.borrow(), ServerStatus::Stopped);
}

#[tokio::test]
async fn a_server_that_dies_again_and_again_is_given_up() {
    let root = folder();
    let mut spec = spec(root.path());
    spec.restart_when_dead = true;
    let server = start(&spec).await;
    // It cannot start any more.
    fs::write(server.data_dir().join("postgresql.conf"), "no_such_setting = on\n").unwrap();
    let mut changes = server.watch();
    send(server.pid().unwrap(), Signal::SIGKILL);
    let dead = changes.wait_for(|status| matches!(status, ServerStatus::Dead { .. })).await.unwrap().clone();
    assert!(format!("{dead:?}").contains("no_such_setting"), "{dead:?}");
    assert_eq!(server.pid(), None);
    server.stop().await;
}

#[tokio::test]
async fn a_dropped_server_is_stopped_outside_of_a_runtime_too() {
    let root = folder();
    let server = start(&spec(root.path())).await;
    let pid = server.pid().unwrap();
    assert!(runs(pid), "canary");
    std::thread::spawn(move || drop(server)).join().unwrap();
    assert!(!runs(pid));
}

#[test]
fn a_server_does_not_depend_on_the_runtime_that_started_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let root = folder();
    let spec = spec(root.path());
    let server = runtime().block_on(Server::start(&installation(), spec)).unwrap();
    assert_eq!(runtime().block_on(ask(&server, "select 1")), "1");
    runtime().block_on(server.stop());
}

/// A role of its own, as a tenant's that has set its own password.
async fn make_role(server: &Server) {
    ask(server, "create role somebody login").await;
    ask(server, "alter role somebody password 'mine'").await;
}

#[tokio::test]
async fn over_tcp_only_the_superuser_comes_in_and_by_the_socket_everybody() {
    let root = folder();
    let mut spec = spec(root.path());
    let server = start(&spec).await;
    make_role(&server).await;
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("postgres://somebody:mine@{host}:{}/postgres", spec.port);
        let refused = query(&url, "select 1").await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "28000");
        assert!(refused.message().contains("pg_hba.conf rejects"), "{}", refused.message());
    }
    let socket = socket_folder(&spec.data_dir).unwrap();
    assert_eq!(server.socket_folder(), socket);
    assert!(socket.join(format!(".s.PGSQL.{}", spec.port)).exists());
    let by_socket =
        format!("host={} port={} user=somebody password=mine dbname=postgres", socket.display(), spec.port);
    assert_eq!(query(&by_socket, "select current_user").await.unwrap(), "somebody");
    assert!(query(&by_socket.replace("mine", "other"), "select 1").await.is_err(), "with the password alone");
    server.stop().await;

    // The canary: it is the file that keeps them out.
    spec.tcp = TcpAccess::Everybody;
    let server = start(&spec).await;
    let url = format!("postgres://somebody:mine@127.0.0.1:{}/postgres", spec.port);
    assert_eq!(query(&url, "select current_user").await.unwrap(), "somebody");
    server.stop().await;
}

#[tokio::test]
async fn an_older_folder_and_one_that_a_superuser_opened_are_closed_at_the_next_start() {
    let root = folder();
    let spec = spec(root.path());
    let server = start(&spec).await;
    make_role(&server).await;
    let own = root.path().join("own_hba.conf");
    fs::write(&own, "host all all all trust\n").unwrap();
    ask(&server, &format!("alter system set hba_file = '{}'", own.display())).await;
    server.stop().await;
    fs::write(spec.data_dir.join("pg_hba.conf"), "host all all all trust\n").unwrap();

    let server = start(&spec).await;
    let url = format!("postgres://somebody:mine@127.0.0.1:{}/postgres", spec.port);
    let refused = query(&url, "select 1").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "28000");
    // One that was changed while the server ran is written again as well.
    fs::write(spec.data_dir.join("pg_hba.conf"), "host all all all trust\n").unwrap();
    ask(&server, "select pg_reload_conf()").await;
    crate::support::until_ok("canary: the changed file opens the door", || query(&url, "select 1")).await;
    server.stop().await;
    let server = start(&spec).await;
    assert!(query(&url, "select 1").await.is_err());
    server.stop().await;
}
