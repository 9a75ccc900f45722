//! Clients whose clock is wrong, in processes of their own.
#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use insula_config::Client;
use insula_domain::{Clock, SystemClock};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::time::{sleep, timeout};

use crate::common::config::put;
use crate::{PATIENCE, house};

/// What the process that is run with another clock is told.
const ELSEWHEN: &str = "INSULA_TEST_ELSEWHEN";

/// A client in a process whose clock is wrong: it says what it has, and whether it
/// knows that to be current, on its standard output.
#[allow(clippy::print_stdout)] // for the one that has begun it
async fn elsewhen(told: &str) {
    let (url, key) = told.split_once(' ').unwrap();
    println!("clock {}", SystemClock.now().unix_timestamp());
    let builder = Client::builder(url, key).prefix("tenant_config_").retry_max(Duration::from_secs(1));
    let client = builder.start().await.unwrap();
    let mut said = String::new();
    loop {
        let fresh = client.freshness();
        let value =
            client.get::<u64>("tenant_config_clock").map_or_else(|_| "-".to_owned(), |n| n.to_string());
        let is_young = fresh.age.is_some_and(|age| age < PATIENCE);
        let now = format!("has {value} {}", if fresh.connected && is_young { "fresh" } else { "away" });
        if now != said {
            println!("{now}");
            said = now;
        }
        sleep(Duration::from_millis(5)).await; // between two looks
    }
}

/// The lines of a process whose clock is off by so much.
fn with_a_clock(offset: &str, told: &str) -> (tokio::process::Child, Lines<BufReader<ChildStdout>>) {
    let library = glob("/usr/lib", "faketime/libfaketimeMT.so.1").expect("faketime is installed: make deps");
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "clocks::a_clients_clock_that_is_wrong_matters_to_nothing", "--nocapture"])
        .env(ELSEWHEN, told)
        .envs([("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")])
        .env("LD_PRELOAD", library)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// A file in one of a folder's folders.
fn glob(folder: &str, name: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    folders.map(|folder| folder.path().join(name)).find(|file| file.exists())
}

/// A client's clock is an hour ahead or behind: it has what was written, knows
/// when it is current, and when it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_clock_that_is_wrong_matters_to_nothing() {
    if let Ok(told) = std::env::var(ELSEWHEN) {
        return elsewhen(&told).await;
    }
    let (mut world, keys) = house().await;
    let write = async |number: u64| {
        let said = put(&world.stub(), &keys[0].secret, "tenant_config_clock", number.to_string(), "").await;
        said.unwrap();
    };
    write(1).await;
    let told = format!("{} {}", world.grpc_url(), keys[0].secret);
    let mut clients = Vec::new();
    for (offset, seconds) in [("+1h", 3_600), ("-1h", -3_600)] {
        let (child, mut lines) = with_a_clock(offset, &told);
        let clock = said(&mut lines, |line| line.starts_with("clock ")).await;
        let clock: i64 = clock.trim_start_matches("clock ").parse().unwrap();
        let off = clock - SystemClock.now().unix_timestamp();
        assert!((seconds - 60..=seconds + 60).contains(&off), "canary: it is off by {off} s");
        said(&mut lines, |line| line == "has 1 fresh").await;
        clients.push((child, lines));
    }
    write(2).await;
    for (_, lines) in &mut clients {
        said(lines, |line| line == "has 2 fresh").await;
    }
    world.kill_9();
    for (_, lines) in &mut clients {
        said(lines, |line| line == "has 2 away").await;
    }
    world.serve(&[]);
    world.wait_ready();
    let stub = world.stub();
    put(&stub, &keys[0].secret, "tenant_config_clock", "3".to_owned(), "").await.unwrap();
    for (_, lines) in &mut clients {
        said(lines, |line| line == "has 3 fresh").await;
    }
}

/// The next line of a process that is such a one.
async fn said(lines: &mut Lines<BufReader<ChildStdout>>, is_it: impl Fn(&str) -> bool) -> String {
    let found = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it goes on");
            if is_it(&line) {
                return line;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("it says so")
}
