//! How long reads of the client's copy take, on one thread and while the values
//! change all the time. `make bench` prints a table for docs/BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)] // a program for its reader

#[path = "../tests/common/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Opened, PATIENCE, Script, delta, entry, snapshot};
use insula_config::Client;

const READS: u32 = 2_000_000;
const KEYS: i64 = 1_000;
const KEY: &str = "tenant_config_bench/500";
const JSON: &str = r#"{"number":7,"colour":"blue","plan":"standard","limits":{"users":250,"projects":40}}"#;

#[derive(serde::Deserialize)]
struct Bench {
    number: u32,
}

/// Nanoseconds of one read.
fn nanoseconds(read: impl Fn() -> u32) -> f64 {
    let begun = Instant::now();
    for _ in 0..READS {
        assert_eq!(black_box(read()), 7);
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
}

/// All ways to read.
fn measure(client: &Client) -> [f64; 3] {
    let typed = client.typed::<Bench>(KEY);
    [
        nanoseconds(|| typed.get().unwrap().number),
        nanoseconds(|| client.get::<Bench>(KEY).unwrap().number),
        nanoseconds(|| client.value(KEY).map_or(0, |_| 7)),
    ]
}

/// Changes another key a thousand times a second.
async fn change(opened: &Opened, over: &AtomicBool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for revision in KEYS + 1.. {
        ticks.tick().await;
        opened.say(delta(0, revision, vec![entry("tenant_config_bench/1", revision, JSON)], &[]));
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let mut script = Script::start().await;
    let client = script.builder().start().await.unwrap();
    let opened = script.opened().await;
    let entries = (0..KEYS).map(|number| entry(&format!("tenant_config_bench/{number}"), 1, JSON));
    opened.say(snapshot(KEYS, entries.collect()));
    client.ready(PATIENCE).await.unwrap();
    let quiet = measure(&client);
    let over = AtomicBool::new(false);
    let (changing, ()) = std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let changing = measure(&client);
            over.store(true, Ordering::Relaxed);
            changing
        });
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(change(&opened, &over)));
        (reader.join().expect("the reads end"), ())
    });
    println!(
        "| one of {KEYS} values of {} bytes is read | ns | while 1,000 values a second change |",
        JSON.len()
    );
    println!("| --- | --- | --- |");
    for (what, (quiet, changing)) in
        ["parsed already", "parsed each time", "as it is"].iter().zip(quiet.iter().zip(changing))
    {
        println!("| {what} | {quiet:.0} | {changing:.0} |");
    }
}
