//! What goes wrong with a start, and whether the error says what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use insula_local_postgres::{Server, ServerStatus, StartError};
use insula_testkit::unused_port;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::support::{ask, entries, folder, installation, runs, send, spec, start, until};

async fn refused(spec: &insula_local_postgres::ServerSpec) -> StartError {
    Server::start(&installation(), spec.clone()).await.unwrap_err()
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_holder() {
    let root = folder();
    let mut spec = spec(root.path());
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    spec.port = holder.local_addr().unwrap().port();
    let error = refused(&spec).await;
    assert!(matches!(error, StartError::PortTaken { .. }));
    let text = error.to_string();
    assert!(text.contains(&format!("port {}", spec.port)), "{text}");
    if cfg!(target_os = "linux") {
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    }
    assert_eq!(entries(root.path()), ["pg.lock"], "nothing was made");
    drop(holder);
    start(&spec).await.stop().await;
}

#[tokio::test]
async fn a_stale_pid_file_is_survived() {
    let root = folder();
    let spec = spec(root.path());
    let server = start(&spec).await;
    ask(&server, "create table t as select 42 as n").await;
    let mut changes = server.watch();
    send(server.pid().unwrap(), Signal::SIGKILL);
    changes.wait_for(|status| matches!(status, ServerStatus::Dead { .. })).await.unwrap();
    server.stop().await;
    assert!(spec.data_dir.join("postmaster.pid").exists(), "canary: it is stale");
    let server = start(&spec).await;
    assert_eq!(ask(&server, "select n from t").await, "42");
    server.stop().await;
}

/// After a restart of the machine the pid of the file may be another server's.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stale_pid_file_that_names_another_process_of_the_same_user_is_survived() {
    let root = folder();
    let spec = spec(root.path());
    start(&spec).await.stop().await;
    let owner = fs::metadata(&spec.data_dir).unwrap();
    let as_owner = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        if geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    };
    let mut bystander = as_owner(Path::new("sleep")).arg("600").spawn().unwrap();
    let pid_file = spec.data_dir.join("postmaster.pid");
    let text = format!("{}\n{}\n1\n{}\n", bystander.id(), spec.data_dir.display(), spec.port);
    fs::write(&pid_file, &text).unwrap();
    std::os::unix::fs::chown(&pid_file, Some(owner.uid()), Some(owner.gid())).unwrap();

    let mut alone = as_owner(&installation().program("postgres"));
    let alone = alone.arg("-D").arg(&spec.data_dir).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(said.contains("postmaster.pid\" already exists"), "canary: PostgreSQL alone refuses: {said}");

    let server = start(&spec).await;
    assert_eq!(ask(&server, "select 1").await, "1");
    assert!(runs(bystander.id()), "the other process was left alone");
    server.stop().await;
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn what_an_unfinished_initdb_left_is_removed_and_the_folder_made_again() {
    let root = folder();
    let spec = spec(root.path());
    fs::create_dir_all(root.path().join("pg.new-99/base/1")).unwrap();
    fs::write(root.path().join("pg.new-99/PG_VERSION"), "15\n").unwrap();
    fs::write(root.path().join("pg.pwfile-99"), "old secret\n").unwrap();
    fs::create_dir(&spec.data_dir).unwrap();
    let server = start(&spec).await;
    assert_eq!(ask(&server, "select 1").await, "1");
    assert_eq!(entries(root.path()), ["pg", "pg.lock"]);
    server.stop().await;
}

#[tokio::test]
async fn a_folder_with_something_else_in_it_is_left_as_it_is() {
    let root = folder();
    let spec = spec(root.path());
    fs::create_dir(&spec.data_dir).unwrap();
    fs::write(spec.data_dir.join("thesis.txt"), "years of work").unwrap();
    let error = refused(&spec).await;
    assert!(matches!(error, StartError::NotADataFolder { missing: "PG_VERSION", .. }), "{error}");
    fs::write(spec.data_dir.join("PG_VERSION"), "15\n").unwrap();
    let error = refused(&spec).await;
    assert!(matches!(error, StartError::NotADataFolder { missing: "global/pg_control", .. }), "{error}");
    assert_eq!(fs::read_to_string(spec.data_dir.join("thesis.txt")).unwrap(), "years of work");
}

#[tokio::test]
async fn a_folder_of_another_major_version_says_which_programs_it_needs() {
    let root = folder();
    let spec = spec(root.path());
    start(&spec).await.stop().await;
    let version = spec.data_dir.join("PG_VERSION");
    let own = fs::read_to_string(&version).unwrap();
    fs::write(&version, "14\n").unwrap();
    let text = refused(&spec).await.to_string();
    assert!(text.contains("made by PostgreSQL 14") && text.contains("INSULA_PG_BIN"), "{text}");
    fs::write(&version, own).unwrap();
    start(&spec).await.stop().await;
}

#[tokio::test]
async fn a_folder_that_the_user_of_postgresql_cannot_reach_is_named() {
    if !geteuid().is_root() {
        return; // Then PostgreSQL runs as us.
    }
    let root = folder();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let spec = spec(root.path());
    let error = refused(&spec).await;
    let named = root.path().canonicalize().unwrap();
    assert!(matches!(&error, StartError::Unreachable { blocked, .. } if *blocked == named), "{error}");
    assert_eq!(entries(root.path()), ["pg.lock"], "nothing was made");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).unwrap();
    start(&spec).await.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_the_end_of_its_log() {
    let root = folder();
    let mut spec = spec(root.path());
    spec.settings.insert("wal_level".to_owned(), "wishful".to_owned());
    let error = refused(&spec).await;
    assert!(matches!(error, StartError::Ended { .. }));
    let text = error.to_string();
    assert!(text.contains("wal_level") && text.contains("wishful"), "{text}");
    spec.settings.clear();
    start(&spec).await.stop().await;
}

#[tokio::test]
async fn an_initdb_that_fails_shows_why_and_leaves_nothing() {
    let root = folder();
    let spec = spec(root.path());
    // An initdb that fails, with the real postgres beside it.
    let bin = root.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(installation().program("postgres"), bin.join("postgres")).unwrap();
    fs::write(bin.join("initdb"), "#!/bin/sh\necho 'initdb: error: disk on fire' >&2\nexit 3\n").unwrap();
    fs::set_permissions(bin.join("initdb"), fs::Permissions::from_mode(0o755)).unwrap();
    let broken = insula_local_postgres::Installation::find(Some(&bin)).unwrap();
    let error = Server::start(&broken, spec.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::Initdb { .. }));
    assert!(error.to_string().contains("disk on fire"), "{error}");
    assert_eq!(entries(root.path()), ["bin", "pg.lock"]);
}

#[tokio::test]
async fn one_folder_has_one_owner() {
    let root = folder();
    let spec = spec(root.path());
    let server = start(&spec).await;
    let mut second = spec.clone();
    second.port = unused_port();
    let error = refused(&second).await;
    assert!(
        matches!(error, StartError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    let error = insula_local_postgres::remove(&spec.data_dir).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    assert_eq!(ask(&server, "select 1").await, "1", "the first is untouched");
    server.stop().await;
}

#[tokio::test]
async fn long_and_odd_paths_work() {
    let root = folder();
    let mut spec = spec(root.path());
    spec.data_dir = root.path().join("it's a \"long\" way, really").join("x".repeat(120)).join("pg");
    let server = start(&spec).await;
    assert_eq!(ask(&server, "select 1").await, "1");
    let sockets = ask(&server, "show unix_socket_directories").await;
    let sockets = sockets.trim_matches('"').to_owned();
    assert!(sockets.starts_with("/tmp/insula-"), "{sockets}");
    assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o077, 0);
    server.stop().await;
    assert!(!Path::new(&sockets).exists(), "the folder of the socket goes with the server");

    spec.data_dir = root.path().join("it's \"odd\"");
    let server = start(&spec).await;
    assert!(
        server.data_dir().join(format!(".s.PGSQL.{}", server.port())).exists(),
        "the socket is in the folder"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing_running() {
    let root = folder();
    let spec = spec(root.path());
    let installation = installation();
    let start_it = Server::start(&installation, spec.clone());
    assert!(
        tokio::time::timeout(Duration::from_millis(50), start_it).await.is_err(),
        "canary: it was abandoned in the middle"
    );
    // The lock is given back when all is over.
    let lock = fs::File::open(root.path().join("pg.lock")).unwrap();
    until("the lock is free", || lock.try_lock().is_ok()).await;
    assert!(!spec.data_dir.join("postmaster.pid").exists());
    drop(lock);
    start(&spec).await.stop().await;
}
