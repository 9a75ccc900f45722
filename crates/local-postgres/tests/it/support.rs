//! What the tests of this crate share: folders that PostgreSQL's user can
//! enter, servers without durability, queries, and bounded waiting.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula_local_postgres::{Installation, Server, ServerSpec};
use insula_testkit::unused_port;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

pub const PASSWORD: &str = "p@ss w/:rd?";

const LIMIT: Duration = Duration::from_secs(30);

pub fn installation() -> Installation {
    let named = std::env::var_os("INSULA_PG_BIN").map(PathBuf::from);
    Installation::find(named.as_deref()).unwrap()
}

/// A folder that everybody may pass through.
pub fn folder() -> TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o711)).tempdir().unwrap()
}

/// A server for tests: in `pg` of the folder, not durable, not started again.
pub fn spec(folder: &Path) -> ServerSpec {
    let mut spec = ServerSpec::new("test", folder.join("pg"), unused_port(), PASSWORD);
    spec.durable = false;
    spec.restart_when_dead = false;
    spec
}

pub async fn start(spec: &ServerSpec) -> Server {
    Server::start(&installation(), spec.clone()).await.unwrap()
}

/// The first column of the first row.
pub async fn query(url: &str, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let answer = client.simple_query(sql).await;
    drop(client);
    connection.await.unwrap()?;
    let first = answer?.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(first.unwrap_or_default())
}

pub async fn ask(server: &Server, sql: &str) -> String {
    query(&server.superuser_url("postgres"), sql).await.unwrap()
}

pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Whether a process runs; one that only waits to be reaped does not.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Waits for something, and gives up loudly.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Repeats a query until it succeeds, and gives up loudly.
pub async fn until_ok<Answer>(what: &str, ask: impl Fn() -> Answer)
where
    Answer: Future<Output = Result<String, tokio_postgres::Error>>,
{
    let deadline = Instant::now() + LIMIT;
    while ask().await.is_err() {
        assert!(Instant::now() < deadline, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The entries of a folder by name.
pub fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
