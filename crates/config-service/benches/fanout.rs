//! How long a change takes from its author to all who watch it, and what an
//! idle watcher costs in memory. The watchers are in a process of their own:
//! this program, started again. `cargo bench -p insula-config-service --bench fanout`
//! prints a table with a line for each number of watchers.
//!
//! `INSULA_BENCH_WRITES` is how many writes a line has (200), `INSULA_BENCH_WATCHERS`
//! how many watchers there are at the most (1,000): lines with more are left out.

// This is for people who measure, and fails as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used, dead_code)]

#[path = "../tests/service/support.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use insula_config_proto::v1;
use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::watch_event::Event;
use insula_domain::{Clock, SystemClock};
use tonic::transport::Endpoint;

use support::{Bearer, World};

const KEY: &str = "tenant_config_measured";

/// A number from the environment.
fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number in the environment"))
}

fn now() -> i128 {
    SystemClock.now().unix_timestamp_nanos()
}

/// Kilobytes of this process that are in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "watchers") {
        Some(at) => watchers(&arguments[at + 1..]).await,
        None => measure().await,
    }
}

/// Connects watchers, then says how long each change took to come.
async fn watchers(arguments: &[String]) {
    let [address, count, streams, credentials] = arguments else { panic!("{arguments:?}") };
    let (count, streams): (usize, usize) = (count.parse().unwrap(), streams.parse().unwrap());
    let credentials: Vec<String> =
        std::fs::read_to_string(credentials).unwrap().lines().map(str::to_owned).collect();
    let (took, mut taken) = tokio::sync::mpsc::unbounded_channel::<i128>();
    let mut channel = None;
    for number in 0..count {
        if number % streams == 0 {
            channel = Some(Endpoint::new(address.clone()).unwrap().connect().await.unwrap());
        }
        let bearer = Bearer(credentials[number % credentials.len()].clone());
        let mut client = ConfigClient::with_interceptor(channel.clone().unwrap(), bearer);
        let mut events = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
        let first = events.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Snapshot(_))));
        let took = took.clone();
        tokio::spawn(async move {
            while let Ok(Some(event)) = events.message().await {
                let at = now();
                let Some(Event::Delta(delta)) = event.event else { continue };
                for entry in delta.entries {
                    let Some(v1::entry::Value::Json(json)) = entry.value else { continue };
                    let began: i128 = std::str::from_utf8(&json).unwrap().parse().unwrap();
                    if took.send(at - began).is_err() {
                        return;
                    }
                }
            }
        });
    }
    println!("ready");
    let mut all = Vec::new();
    let lines = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        line.trim().parse::<usize>().unwrap()
    });
    tokio::pin!(lines);
    let mut wanted = usize::MAX;
    while all.len() < wanted {
        tokio::select! {
            one = taken.recv() => all.push(one.unwrap()),
            count = &mut lines, if wanted == usize::MAX => wanted = count.unwrap(),
        }
    }
    all.sort_unstable();
    let at = |share: usize| all[(all.len() - 1) * share / 100];
    println!("{} {} {} {}", all.len(), at(50), at(99), all[all.len() - 1]);
}

struct Crowd {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Crowd {
    fn start(address: &str, count: usize, streams: usize, credentials: &std::path::Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["watchers", address, &count.to_string(), &streams.to_string()])
            .arg(credentials)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut crowd = Self { process, input, output };
        assert_eq!(crowd.line(), "ready");
        crowd
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

async fn measure() {
    let (writes, most) = (number("INSULA_BENCH_WRITES", 200), number("INSULA_BENCH_WATCHERS", 1_000));
    println!("| watchers | of | on a connection | p50, ms | p99, ms | max | receipts | kB per watcher |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let lines =
        [(1, 1, 1), (100, 1, 100), (1_000, 1, 100), (100, 100, 100), (1_000, 1_000, 100), (1_000, 1_000, 1)];
    for (count, tenants, streams) in lines.into_iter().filter(|(count, ..)| *count <= most) {
        let world = World::with_tenants(tenants).await;
        let folder = insula_testkit::passable_folder();
        let file = folder.path().join("credentials");
        let mut credentials = String::new();
        for number in 0..tenants {
            credentials.push_str(&world.credential(1_000 + number as u128, "tenant_admin").await);
            credentials.push('\n');
        }
        std::fs::write(&file, &credentials).unwrap();
        let before = resident();
        let (address, path) = (world.address.clone(), file.clone());
        let mut crowd =
            tokio::task::spawn_blocking(move || Crowd::start(&address, count, streams, &path)).await.unwrap();
        let each = resident().saturating_sub(before) as f64 / count as f64;
        let first = credentials.lines().next().unwrap();
        let mut author = world.client(first);
        for _ in 0..writes {
            if tenants == 1 {
                let json = now().to_string();
                let value = Some(v1::put_request::Value::Json(json.into_bytes().into()));
                let request = v1::PutRequest { key: KEY.to_owned(), value, ..Default::default() };
                author.put(request).await.unwrap();
            } else {
                // One value of the platform, seen by all.
                world.provide("platform", KEY, Some(Box::leak(now().to_string().into_boxed_str()))).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await; // the next one, not its effect
        }
        writeln!(crowd.input, "{}", count * writes).unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let line = crowd.line();
            crowd.process.kill().unwrap();
            crowd.process.wait().unwrap();
            line
        })
        .await
        .unwrap();
        let said: Vec<f64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let milliseconds = |at: usize| said[at] / 1e6;
        let of = if tenants == 1 { "one tenant" } else { "a tenant each" };
        let figures = [1, 2, 3].map(|at| format!("{:.2}", milliseconds(at))).join(" | ");
        println!(
            "| {count} | {of} | {streams} | {figures} | {} of {} | {each:.1} |",
            said[0],
            count * writes
        );
    }
}
