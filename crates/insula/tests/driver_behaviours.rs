//! What drivers do besides sending statements, each by a program of its own:
//! on a connection of its own to PostgreSQL, and behind the front as a tenant of
//! a pool and with a database of its own, with sessions that share backends and
//! with sessions that keep theirs. Each program prints a line for each thing;
//! what it is to print stands in the file beside it (`*.said`), and PostgreSQL
//! itself is measured by it too.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;
#[path = "drivers/with_sqlx.rs"]
mod with_sqlx;
#[path = "drivers/with_tokio_postgres.rs"]
mod with_tokio_postgres;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::World;
use common::programs::{file, node, of_postgres, python, run};
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// No program takes longer, also where many of them run on two processors.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many programs run at the same time. They wait for much of theirs.
const AT_ONCE: usize = 8;

/// Where Debian's package has PostgreSQL's JDBC driver.
const JDBC: &str = "/usr/share/java/postgresql.jar";

/// How a program gets to PostgreSQL.
struct Way {
    /// As it stands before lines that are for some ways alone.
    name: &'static str,
    url: String,
}

/// The names of all of them.
const WAYS: [&str; 4] = ["direct", "pool", "database", "session"];

const PROGRAMS: [&str; 10] = [
    "psql",
    "pgbench",
    "psycopg",
    "asyncpg",
    "sqlalchemy",
    "pg",
    "postgresjs",
    "jdbc",
    "tokio_postgres",
    "sqlx",
];

fn driver(name: &str) -> PathBuf {
    file("drivers").join(name)
}

/// What a program says, and then what it complains of.
async fn said(command: Command) -> String {
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let end = if output.status.success() { String::new() } else { format!("{}\n", output.status) };
    let lines = format!("{out}{err}{end}");
    lines.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

fn of_python(script: &str, url: &str) -> Command {
    let mut command = python("python");
    command.arg(driver(script)).arg(url).stdin(Stdio::null());
    command
}

fn of_node(script: &str, url: &str) -> Command {
    let mut command = node();
    command.arg(driver(script)).arg(url).stdin(Stdio::null());
    command
}

fn psql(url: &str) -> Command {
    let mut command = of_postgres("psql");
    // What it is to read else stands beside the script.
    command.current_dir(driver("")).args(["-X", url]).stdin(File::open(driver("behaviour.psql")).unwrap());
    command
}

/// Whether Java is at hand. It must be where `make deps` installs it.
fn has_java() -> bool {
    let is_there = Path::new(JDBC).exists();
    let is_debian = Path::new("/usr/bin/apt-get").exists();
    assert!(is_there || !is_debian, "{JDBC} is not there: make deps sets it up");
    is_there
}

/// Compiles the program for Java.
fn compile(folder: &Path) {
    run(Command::new("javac").args(["-cp", JDBC, "-d"]).arg(folder).arg(driver("WithJdbc.java")));
}

fn java(folder: &Path, url: &str) -> Command {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
    let database = config.get_dbname().unwrap();
    let jdbc = format!("jdbc:postgresql://127.0.0.1:{}/{database}", config.get_ports()[0]);
    let mut command = Command::new("java");
    // For a short program the compiler's best is not worth its time.
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
    command.arg(format!("{JDBC}:{}", folder.display())).arg("WithJdbc");
    command.args([&jdbc, config.get_user().unwrap(), &password]).stdin(Stdio::null());
    command
}

/// pgbench in all its protocols, and what it has left in the tables.
async fn pgbench(url: &str) -> String {
    let client = insula_testkit::connect(url).await;
    client.batch_execute("insert into counters values ('pgbench', 0)").await.unwrap();
    let mut lines = String::new();
    for (number, run) in
        ["simple load", "extended load", "prepared load", "prepared pipeline"].iter().enumerate()
    {
        let (mode, script) = run.split_once(' ').unwrap();
        let mut command = of_postgres("pgbench");
        command.args(["-n", "-c", "8", "-j", "2", "-t", "40", "-M", mode, "-D", &format!("run={number}")]);
        command.arg("-f").arg(driver(&format!("{script}.pgbench"))).arg(url).stdin(Stdio::null());
        let said = said(command).await;
        let wanted =
            ["number of transactions actually processed: 320/320", "number of failed transactions: 0 "];
        let all_done = wanted.iter().all(|line| said.contains(line));
        let count = format!("select count(*) from things where key like '%-run-{number}'");
        let count: i64 = client.query_one(&count, &[]).await.unwrap().get(0);
        lines.push_str(&format!("{run}: {}, {count} rows\n", if all_done { "all done" } else { &said }));
    }
    let sums = "select (select n from counters where key = 'pgbench') =
                       (select sum(n) from things where key like '%-run-%')";
    let same: bool = client.query_one(sums, &[]).await.unwrap().get(0);
    lines + &format!("what was counted and what was written are the same: {same}\n")
}

/// What a program is to say. Lines that begin with names of ways and `| ` are
/// for these alone.
fn expected(name: &str, way: &str) -> String {
    let text = std::fs::read_to_string(driver(&format!("{name}.said"))).unwrap();
    let mut expected = String::new();
    for line in text.lines() {
        let line = match line.split_once("| ") {
            Some((ways, line)) if ways.split(' ').all(|name| WAYS.contains(&name)) => {
                if !ways.split(' ').any(|name| name == way) {
                    continue;
                }
                line
            }
            _ => line,
        };
        expected.push_str(line);
        expected.push('\n');
    }
    expected
}

async fn behaves(name: &str, url: &str, compiled: &Path) -> String {
    match name {
        "psql" => said(psql(url)).await,
        "pgbench" => pgbench(url).await,
        "psycopg" => said(of_python("with_psycopg.py", url)).await,
        "asyncpg" => said(of_python("with_asyncpg.py", url)).await,
        "sqlalchemy" => said(of_python("with_sqlalchemy.py", url)).await,
        "pg" => said(of_node("with_pg.cjs", url)).await,
        "postgresjs" => said(of_node("with_postgresjs.cjs", url)).await,
        "jdbc" => said(java(compiled, url)).await,
        "tokio_postgres" => with_tokio_postgres::behaves(url).await,
        "sqlx" => with_sqlx::behaves(url).await,
        _ => panic!("there is no {name}"),
    }
}

/// What was said otherwise than wanted.
fn differences(of: &str, said: &str, wanted: &str) -> String {
    let (said, wanted): (Vec<_>, Vec<_>) = (said.lines().collect(), wanted.lines().collect());
    let line = |lines: &[&str], at: usize| lines.get(at).map_or("nothing", |line| line).to_owned();
    (0..said.len().max(wanted.len()))
        .map(|at| (line(&said, at), line(&wanted, at)))
        .filter(|(said, wanted)| said != wanted)
        .map(|(said, wanted)| format!("{of}:\n    said {said}\n    wanted {wanted}\n"))
        .collect()
}

/// A database of the server's, as a program without Insula has it.
async fn direct(world: &World) -> String {
    let admin = world.us.connect("postgres").await;
    admin.batch_execute("create role plain login password 'plain'").await.unwrap();
    admin.batch_execute("create database plain owner plain").await.unwrap();
    // Tenants of the server have no way in.
    admin.batch_execute("revoke connect on database plain from public").await.unwrap();
    let url = world.us.url_as("plain", "plain", "plain");
    let tables = std::fs::read_to_string(driver("things/0001_things.sql")).unwrap();
    insula_testkit::connect(&url).await.batch_execute(&tables).await.unwrap();
    url
}

async fn ways(world: &World) -> Vec<Way> {
    // All programs at once have more connections than the plans allow.
    for tier in world.run(&["tier", "list", "-o", "json"]).json()["items"].as_array().unwrap() {
        let said =
            world.run(&["plan", "set", tier["plan"].as_str().unwrap(), "--database-connections", "none"]);
        assert!(said.ok, "{}", said.err);
    }
    let applied = world.run(&["schema", "apply", &driver("things").display().to_string()]);
    assert!(applied.ok, "{}\n{}", applied.err, world.log());
    for (slug, tier) in [("acme", "free"), ("initech", "business"), ("hooli", "business")] {
        world.create(slug, tier, "us-east-1");
    }
    let login = ["login", "create", "hooli", "worker", "--pool-mode", "session", "-o", "json"];
    let session = world.run(&login).json()["url"].as_str().unwrap().to_owned();
    let urls = [direct(world).await, world.url("acme"), world.url("initech"), session];
    WAYS.into_iter().zip(urls).map(|(name, url)| Way { name, url }).collect()
}

/// A program that has prepared what is about to change.
struct Begun {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Begun {
    async fn new(command: Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
        Self { child, lines }
    }

    /// What it says to the change.
    async fn goes_on(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"\n").await.unwrap();
        let mut said = String::new();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            said.push_str(&format!("{line}\n"));
        }
        said
    }
}

/// Brings the second version to all, and a number that the first had no room for.
async fn change(world: &World, ways: &[Way]) {
    let versions = world.folder.join("versions");
    std::fs::create_dir(&versions).unwrap();
    for version in ["things/0001_things.sql", "changed/0002_wider.sql"] {
        let version = driver(version);
        std::fs::copy(&version, versions.join(version.file_name().unwrap())).unwrap();
    }
    let applied = world.run(&["schema", "apply", &versions.display().to_string()]);
    assert!(applied.ok, "{}\n{}", applied.err, world.log());
    let wider = std::fs::read_to_string(driver("changed/0002_wider.sql")).unwrap();
    insula_testkit::connect(&ways[0].url).await.batch_execute(&wider).await.unwrap();
    for Way { url, .. } in ways {
        let update = "update things set n = 8589934593 where key = 'changing'";
        insula_testkit::connect(url).await.batch_execute(update).await.unwrap();
    }
}

/// Waits until no tenant's backend does anything.
async fn nothing_goes_on(world: &World) {
    let busy = "select count(*) from pg_stat_activity where usename like 'tenant\\_%' and state <> 'idle'";
    let admin = world.us.connect("postgres").await;
    let quiet = async { while admin.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0 {} };
    timeout(Duration::from_secs(10), quiet).await.unwrap_or_else(|_| panic!("{}", world.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_behave_as_on_a_connection_of_their_own() {
    let has_java = has_java();
    let classes = tempfile::tempdir().unwrap();
    let compiled = classes.path().to_owned();
    let compiling = tokio::task::spawn_blocking(move || {
        if has_java {
            compile(&compiled)
        }
    });
    let world = World::start().await;
    let ways = ways(&world).await;
    compiling.await.unwrap();
    let turns = Semaphore::new(AT_ONCE);
    let mut runs = Vec::new();
    for name in PROGRAMS.into_iter().filter(|name| has_java || *name != "jdbc") {
        for Way { name: way, url } in &ways {
            let (turns, compiled) = (&turns, classes.path());
            runs.push(async move {
                let _turn = turns.acquire().await.unwrap();
                let said = timeout(PATIENCE, behaves(name, url, compiled)).await;
                (name, *way, said.unwrap_or_else(|_| "does not end\n".to_owned()))
            });
        }
    }
    let mut wrong = String::new();
    for (name, way, said) in join_all(runs).await {
        wrong.push_str(&differences(&format!("{name}, {way}"), &said, &expected(name, way)));
    }
    assert!(wrong.is_empty(), "{wrong}");
    // What they have given up does not go on behind their backs.
    nothing_goes_on(&world).await;
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_read_nothing_wrong_from_a_table_that_has_changed() {
    let has_java = has_java();
    let classes = tempfile::tempdir().unwrap();
    if has_java {
        compile(classes.path());
    }
    let world = World::start().await;
    let ways = ways(&world).await;
    let mut begun = Vec::new();
    for Way { name, url } in &ways {
        let insert = "insert into things (key, n) values ('changing', 1)";
        insula_testkit::connect(url).await.batch_execute(insert).await.unwrap();
        let mut commands = vec![of_python("changed.py", url), of_node("changed.cjs", url)];
        if has_java {
            let mut java = java(classes.path(), url);
            java.arg("changed");
            commands.push(java);
        }
        let programs = timeout(PATIENCE, join_all(commands.into_iter().map(Begun::new)));
        let prepared = (with_tokio_postgres::Prepared::new(url).await, with_sqlx::Prepared::new(url).await);
        begun.push((name, programs.await.unwrap(), prepared));
    }
    change(&world, &ways).await;
    let mut wrong = String::new();
    for (way, programs, prepared) in begun {
        let mut said = Vec::new();
        for program in programs {
            said.push(timeout(PATIENCE, program.goes_on()).await.unwrap());
        }
        said.insert(2, timeout(PATIENCE, prepared.0.changed()).await.unwrap());
        said.push(timeout(PATIENCE, prepared.1.changed()).await.unwrap());
        let mut wanted = expected("changed", way);
        if !has_java {
            wanted = wanted
                .lines()
                .filter(|line| !line.starts_with("jdbc"))
                .map(|line| format!("{line}\n"))
                .collect();
        }
        wrong.push_str(&differences(way, &said.concat(), &wanted));
    }
    assert!(wrong.is_empty(), "{wrong}");
    world.doctor_is_content();
}
