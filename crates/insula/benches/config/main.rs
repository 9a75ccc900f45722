//! Configuration, pushed: from a write to its receipt by 1, 100 and 1,000
//! watchers, each of another tenant or all of one, next to a real etcd in the same
//! run with the same client over as many connections; reads; and 10,000 watchers
//! at once, whose every update is counted. Durable servers, the release binary.
//! `make bench` prints tables for docs/BENCHMARKS.md; it fails where an update is
//! missing or comes twice.
//!
//! `INSULA_BENCH_WRITES` is how many writes a line has (300), `INSULA_BENCH_HELD`
//! how many watchers are held at once (10,000), `INSULA_BENCH_TENANTS` how many
//! tenants there are (1,000): lines with more watchers are left out.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader

#[path = "../common/mod.rs"]
mod common;
mod etcd;
mod side;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use common::{milliseconds, number};
use futures_util::{StreamExt, stream};
use side::Side;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const PORTS: u16 = 28_500;
const CONNECTIONS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// From one write to the next.
const PACE: Duration = Duration::from_millis(20);

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// When each write began. A write's number is its place.
type Begun = Arc<Vec<OnceLock<Instant>>>;

/// A watcher that waits for so many writes, and says how long each took. It goes
/// on watching until what it gives back is dropped.
fn listen(mut told: side::Told, expected: usize, begun: &Begun) -> JoinHandle<(Vec<Duration>, side::Told)> {
    let begun = Arc::clone(begun);
    tokio::spawn(async move {
        let (mut times, mut last) = (Vec::with_capacity(expected), None);
        while times.len() < expected {
            for (revision, number) in told.next().await {
                let now = Instant::now();
                assert!(last < Some((revision, number)), "{:?} came behind {last:?}", (revision, number));
                last = Some((revision, number));
                times.push(now - *begun[number].get().expect("what was written has begun"));
            }
        }
        (times, told)
    })
}

/// What came of writes to watchers.
struct Receipts {
    /// How long each write took to each watcher, in order.
    times: Vec<Duration>,
    /// What the server has in memory with all watchers there.
    resident_kb: u64,
}

/// Watchers of tenants in turn, and writes to the tenants in turn.
async fn receipts(side: &Side, watchers: usize, tenants: usize, writes: usize, pace: Duration) -> Receipts {
    let begun: Begun = Arc::new((0..writes).map(|_| OnceLock::new()).collect());
    // Of two writes of a key that are under way at once either may be the first: the
    // next one is asked for when the one before is answered, and has begun before.
    let turns: Vec<Mutex<()>> = (0..tenants).map(|_| Mutex::default()).collect();
    let turns = &turns;
    let watching: Vec<_> = stream::iter(0..watchers)
        .map(async |watcher| side.watch(watcher % tenants).await)
        .buffered(16)
        .collect()
        .await;
    let of_tenant = |tenant: usize| (0..writes).filter(|number| number % tenants == tenant).count();
    let listening: Vec<_> = watching
        .into_iter()
        .enumerate()
        .map(|(watcher, told)| listen(told, of_tenant(watcher % tenants), &begun))
        .collect();
    let writing = stream::unfold((0, tokio::time::interval(pace)), |(number, mut ticks)| {
        let begun = begun.clone();
        async move {
            if number == writes {
                return None;
            }
            ticks.tick().await;
            begun[number].set(Instant::now()).unwrap();
            let put = async move {
                let _turn = turns[number % tenants].lock().await;
                side.put(number % tenants, number).await;
            };
            Some((put, (number + 1, ticks)))
        }
    });
    writing.buffer_unordered(64).for_each(async |()| {}).await;
    let (mut times, mut watching) = (Vec::new(), Vec::new());
    for listener in listening {
        let of_one = tokio::time::timeout(PATIENCE, listener).await.expect("every update comes").unwrap();
        times.extend(of_one.0);
        watching.push(of_one.1);
    }
    times.sort_unstable();
    Receipts { times, resident_kb: resident_kb(side.pid()) }
}

/// Writes and receipts of both sides, one after the other.
async fn pushes(sides: &[Side], most: usize, writes: usize) {
    println!(
        "\n| watchers | of | through | p50, ms | p99, ms | max | receipts |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    let lines = [(1, 1), (100, 100), (100, 1), (1_000, 1_000), (1_000, 1)];
    for (watchers, tenants) in lines.into_iter().filter(|(watchers, _)| *watchers <= most) {
        for side in sides {
            receipts(side, watchers, tenants, 20, PACE).await;
            // A write to a thousand is not so soon followed by the next.
            let pace = if watchers / tenants >= 1_000 { PACE * 5 } else { PACE };
            let times = receipts(side, watchers, tenants, writes, pace).await.times;
            let figures =
                [0.5, 0.99, 1.0].map(|part| format!("{:.2}", milliseconds(&times, part))).join(" | ");
            let of = if tenants == 1 { "one tenant" } else { "a tenant each" };
            println!("| {watchers} | {of} | {} | {figures} | {} |", side.name(), times.len());
        }
    }
}

/// Reads of the service.
async fn reads(sides: &[Side], tenants: usize) {
    const READS: usize = 20_000;
    println!("\n| reads, 32 at once | reads/s | p50, ms | p99, ms |\n| --- | --- | --- | --- |");
    for side in sides {
        let tenants = tenants.min(100);
        for tenant in 0..tenants {
            side.put(tenant, tenant).await;
        }
        let read = async |number: usize| {
            let begun = Instant::now();
            assert_eq!(side.get(number % tenants).await, number % tenants);
            begun.elapsed()
        };
        let begun = Instant::now();
        let mut times: Vec<_> = stream::iter(0..READS).map(read).buffer_unordered(32).collect().await;
        let rate = READS as f64 / begun.elapsed().as_secs_f64();
        times.sort_unstable();
        println!(
            "| {} | {rate:.0} | {:.2} | {:.2} |",
            side.name(),
            milliseconds(&times, 0.5),
            milliseconds(&times, 0.99)
        );
    }
}

/// So many watchers at once, ten of each tenant. This comes first: what a process
/// has had in memory it does not give back.
async fn held(sides: &[Side], most: usize, watchers: usize) {
    println!(
        "\n| {watchers} watchers held | updates told | p50, ms | p99, ms | kB per watcher |\n| --- | --- | --- | --- | --- |"
    );
    for side in sides {
        let tenants = (watchers / 10).clamp(1, most);
        for tenant in 0..tenants {
            side.put(tenant, tenant).await;
        }
        let before = resident_kb(side.pid());
        let told = receipts(side, watchers, tenants, 2 * tenants, Duration::from_millis(5)).await;
        let more = told.resident_kb.saturating_sub(before) as f64 / watchers as f64;
        let times = told.times;
        println!(
            "| {} | {} of {} | {:.2} | {:.2} | {more:.1} |",
            side.name(),
            times.len(),
            2 * watchers,
            milliseconds(&times, 0.5),
            milliseconds(&times, 0.99),
        );
    }
}

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let temporary = insula_testkit::passable_folder();
    let tenants = number("INSULA_BENCH_TENANTS", 1_000);
    let mut sides = [
        Side::insula(temporary.path(), PORTS, tenants, CONNECTIONS).await,
        Side::etcd(temporary.path(), CONNECTIONS).await,
    ];
    held(&sides, tenants, number("INSULA_BENCH_HELD", 10_000)).await;
    pushes(&sides, tenants, number("INSULA_BENCH_WRITES", 300)).await;
    reads(&sides, tenants).await;
    if let Side::Insula { up, .. } = &mut sides[0] {
        up.stop();
    }
}
