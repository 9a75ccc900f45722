//! What a test's process leaves behind. The processes are this program itself,
//! run again with a task in its environment.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use insula_testkit::{SHARED_URL, TestDatabase, TestServer, postgres};

const TASK: &str = "INSULA_TEST_TASK";

/// Not a test: a process that uses the kit, says what it has, and ends when
/// its standard input does.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn task() {
    if std::env::var_os(TASK).is_none() {
        return;
    }
    let _half = std::env::var(SHARED_URL).ok().map(|url| half_a_login(&url));
    let database = TestDatabase::create("task").await;
    let client = postgres().await.connect("postgres").await;
    let folder: String =
        client.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
    println!("\nhas {} {folder}", database.name());
    let _ = std::io::stdin().read(&mut [0]);
}

/// A session that has been asked for its password, and says nothing.
fn half_a_login(url: &str) -> TcpStream {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let named = format!("user\0{}\0database\0postgres\0\0", config.get_user().unwrap());
    let mut stream = TcpStream::connect(("127.0.0.1", config.get_ports()[0])).unwrap();
    let mut packet = u32::try_from(8 + named.len()).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&196_608_u32.to_be_bytes()); // protocol 3.0
    packet.extend_from_slice(named.as_bytes());
    stream.write_all(&packet).unwrap();
    let mut asked = [0];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(asked, *b"R");
    stream
}

struct Task {
    process: Child,
    // Kept open: the test harness prints to it when it ends.
    _output: BufReader<ChildStdout>,
    database: String,
    folder: String,
}

fn run_task(shared_url: Option<&str>) -> Task {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["leavings::task", "--exact", "--ignored", "--nocapture"]).env(TASK, "1");
    match shared_url {
        Some(url) => command.env(SHARED_URL, url),
        None => command.env_remove(SHARED_URL),
    };
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let has = output
        .by_ref()
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("has ").map(str::to_owned))
        .unwrap();
    let (database, folder) = has.split_once(' ').unwrap();
    Task { process, _output: output, database: database.to_owned(), folder: folder.to_owned() }
}

fn postmaster(task: &Task) -> u32 {
    let text = fs::read_to_string(Path::new(&task.folder).join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn nothing_is_left(task: &Task, postmaster: u32) {
    let root = Path::new(&task.folder).parent().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while runs(postmaster) || root.exists() {
        assert!(Instant::now() < deadline, "{postmaster} or {} is still there", root.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn no_server_survives_a_test_that_ends() {
    let mut task = run_task(None);
    let pid = postmaster(&task);
    assert!(runs(pid), "canary: it runs while the test does");
    drop(task.process.stdin.take());
    assert!(task.process.wait().unwrap().success());
    nothing_is_left(&task, pid).await;
}

#[tokio::test]
async fn no_server_survives_a_test_that_is_killed() {
    let mut task = run_task(None);
    let pid = postmaster(&task);
    assert!(runs(pid) && Path::new(&task.folder).exists(), "canary: they are there while the test is");
    task.process.kill().unwrap();
    task.process.wait().unwrap();
    nothing_is_left(&task, pid).await;
}

#[tokio::test]
async fn a_database_on_a_shared_server_goes_when_its_test_ends() {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    let mut task = run_task(Some(&server.url("postgres")));
    let there = "select count(*) from pg_database where datname = $1";
    let count = async || admin.query_one(there, &[&task.database]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count().await, 1, "canary: it is there while the test runs");
    let told = Instant::now();
    drop(task.process.stdin.take());
    assert!(task.process.wait().unwrap().success());
    // Its half a login holds up the end of its database for as long as it is there.
    assert!(told.elapsed() < Duration::from_secs(5), "it waited for itself: {:?}", told.elapsed());
    while count().await > 0 {
        assert!(told.elapsed() < Duration::from_secs(30), "the database is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
