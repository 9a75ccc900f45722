//! What is left when the process that started a server is killed. The victims
//! are this test program itself, run again with a task in its environment.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use insula_local_postgres::ServerSpec;
use insula_testkit::unused_port;
use nix::sys::signal::Signal;

use crate::support::{ask, entries, folder, query, runs, send, spec, start, until};

const TASK: &str = "INSULA_TEST_VICTIM";

/// Not a test: the process that the tests here kill.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn victim() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (root, port, kind) = split(&task);
    let mut spec = spec(Path::new(root));
    spec.port = port;
    spec.durable = kind == "durable";
    spec.remove_when_orphaned = (kind == "throwaway").then(|| root.into());
    let server = start(&spec).await;
    println!("\nstarted {} {}", server.pid().unwrap(), server.superuser_url("postgres"));
    // Lives until it is killed; ends when the test that started it is gone.
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

fn split(task: &str) -> (&str, u16, &str) {
    let mut parts = task.rsplitn(3, '|');
    let (kind, port, root) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    (root, port.parse().unwrap(), kind)
}

struct Victim {
    process: Child,
    postmaster: u32,
    url: String,
}

fn spawn(root: &Path, port: u16, kind: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["parent::victim", "--exact", "--ignored", "--nocapture"])
        .env(TASK, format!("{}|{port}|{kind}", root.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn victim_with_server(root: &Path, port: u16, kind: &str) -> Victim {
    let mut process = spawn(root, port, kind);
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let started =
        lines.into_iter().find_map(|line| line.strip_prefix("started ").map(str::to_owned)).unwrap();
    let (pid, url) = started.split_once(' ').unwrap();
    Victim { process, postmaster: pid.parse().unwrap(), url: url.to_owned() }
}

fn kill(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

/// Every running process whose command line holds both texts.
fn processes_with(first: &str, second: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(first) && line.contains(second) && runs(*pid)
    })
    .collect()
}

fn watchdogs(root: &Path) -> Vec<u32> {
    processes_with("insula-watchdog", root.to_str().unwrap())
}

#[tokio::test]
async fn a_server_ends_when_its_parent_is_killed_and_keeps_its_rows() {
    let root = folder();
    let victim = victim_with_server(root.path(), unused_port(), "durable");
    query(&victim.url, "create table t as select 42 as n").await.unwrap();
    assert!(runs(victim.postmaster), "canary: it runs while its parent lives");
    assert_eq!(watchdogs(root.path()).len(), 1);
    kill(victim.process);
    until("the server is gone", || !runs(victim.postmaster)).await;
    until("the watchdog is gone", || watchdogs(root.path()).is_empty()).await;
    assert!(!root.path().join("pg/postmaster.pid").exists(), "it was stopped in order");

    let server = start(&spec(root.path())).await;
    assert_eq!(ask(&server, "select n from t").await, "42");
    server.stop().await;
}

#[tokio::test]
async fn a_new_start_right_after_the_kill_waits_for_the_old_server_to_end() {
    let root = folder();
    let port = unused_port();
    let victim = victim_with_server(root.path(), port, "durable");
    kill(victim.process);
    let server = start(&ServerSpec { port, ..spec(root.path()) }).await;
    assert!(!runs(victim.postmaster));
    assert_eq!(ask(&server, "select 1").await, "1");
    until("the watchdog is gone", || watchdogs(root.path()).is_empty() || watchdogs(root.path()).len() == 1)
        .await;
    assert_eq!(ask(&server, "select 1").await, "1", "the old watchdog leaves the new server alone");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_outlived_parent_and_watchdog_is_stopped_by_the_next_start() {
    let root = folder();
    let victim = victim_with_server(root.path(), unused_port(), "durable");
    query(&victim.url, "create table t as select 42 as n").await.unwrap();
    watchdogs(root.path()).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    until("the watchdog is gone", || watchdogs(root.path()).is_empty()).await;
    kill(victim.process);
    assert_eq!(
        query(&victim.url, "select 1").await.unwrap(),
        "1",
        "canary: without the watchdog it lives on"
    );

    let server = start(&spec(root.path())).await;
    assert!(!runs(victim.postmaster));
    assert_eq!(ask(&server, "select n from t").await, "42");
    server.stop().await;
}

/// A busy backend does not see that its postmaster died; while it lives, a
/// second server in the folder would destroy it.
#[tokio::test]
async fn backends_that_outlived_their_postmaster_are_ended_before_a_start() {
    let root = folder();
    let victim = victim_with_server(root.path(), unused_port(), "durable");
    let busy = "do $$ begin loop perform 1; end loop; end $$";
    let url = victim.url.clone();
    let session = tokio::spawn(async move { query(&url, busy).await });
    let backend =
        "select coalesce(max(pid), 0) from pg_stat_activity where query like 'do %' and state = 'active'";
    let mut pid = 0;
    while pid == 0 {
        pid = query(&victim.url, backend).await.unwrap().parse().unwrap();
    }
    watchdogs(root.path()).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    send(victim.postmaster, Signal::SIGKILL);
    until("the postmaster is gone", || !runs(victim.postmaster)).await;
    kill(victim.process);
    assert!(runs(pid), "canary: the busy backend lives on");

    let server = start(&spec(root.path())).await;
    assert!(!runs(pid));
    assert_eq!(ask(&server, "select 1").await, "1");
    assert!(session.await.unwrap().is_err());
    server.stop().await;
}

#[tokio::test]
async fn a_throwaway_folder_goes_with_its_server() {
    let root = folder();
    let inner = root.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(&inner, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let victim = victim_with_server(&inner, unused_port(), "throwaway");
    assert!(inner.exists(), "canary: it is there while the parent lives");
    kill(victim.process);
    until("the folder is gone", || !inner.exists()).await;
    assert!(!runs(victim.postmaster));
    until("the watchdog is gone", || watchdogs(&inner).is_empty()).await;
}

#[tokio::test]
async fn a_parent_that_is_killed_during_initdb_leaves_a_folder_that_can_be_made() {
    let root = folder();
    let victim = spawn(root.path(), unused_port(), "durable");
    let half = root.path().join(format!("pg.new-{}", victim.id()));
    until("initdb is at work", || half.join("PG_VERSION").exists()).await;
    kill(victim);
    assert!(!root.path().join("pg").exists(), "canary: it was killed in the middle");
    let server = start(&spec(root.path())).await;
    assert_eq!(ask(&server, "select 1").await, "1");
    server.stop().await;
    until("the abandoned initdb is gone", || {
        processes_with("postgres", half.to_str().unwrap()).is_empty()
            && processes_with("initdb", half.to_str().unwrap()).is_empty()
    })
    .await;
    // It may have put something back while it ended; the next making of a
    // folder would remove that.
    assert!(
        entries(root.path())
            .iter()
            .all(|name| ["pg", "pg.lock"].contains(&name.as_str()) || half.ends_with(name))
    );
}
