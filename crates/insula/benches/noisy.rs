//! A noisy neighbour: how long one tenant's transactions take while another
//! one of the same pool asks for a hundred times its share without pause, beside
//! the same without the other. Durable servers, the release binary, everything
//! on one machine. `make bench` prints a table for docs/BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader
#![allow(clippy::disallowed_methods)] // what is measured is real time

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Api, Up, connect, milliseconds, number};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const PORTS: u16 = 27_900;
const ROWS: u64 = 2_000;

/// Connections of the two tenants: the one's think between transactions, the
/// other's do not.
const MODEST: usize = 4;
const GREEDY: usize = 400;
const THINKS: Duration = Duration::from_millis(50);

/// How often each case has its turn.
const ROUNDS: u32 = 5;

const SCHEMA: &str = "create table orders (id bigint primary key, cents bigint not null);";

/// Reads all of the tenant's rows, and changes one.
async fn transaction(client: &Client, row: u64) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "begin; select sum(cents) from orders; update orders set cents = cents + 1 where id = {row}; commit"
    );
    client.simple_query(&sql).await.map(drop)
}

/// A tenant's connections at work until they are told to stop.
struct Load {
    over: Arc<AtomicBool>,
    running: Vec<JoinHandle<(Vec<Duration>, usize)>>,
    begun: Instant,
}

impl Load {
    fn start(clients: &[Arc<Client>], thinks: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let each = |(index, client): (usize, &Arc<Client>)| {
            let (client, over) = (Arc::clone(client), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut times, mut refused) = (Vec::new(), 0);
                while !over.load(Ordering::Relaxed) && !client.is_closed() {
                    let begun = Instant::now();
                    match transaction(&client, index as u64 + 1).await {
                        Ok(()) => times.push(begun.elapsed()),
                        Err(_) => refused += 1,
                    }
                    tokio::time::sleep(thinks).await;
                }
                (times, refused)
            })
        };
        let running = clients.iter().enumerate().map(each).collect();
        Self { over, running, begun: Instant::now() }
    }

    /// What the transactions took, how many were refused, and how many
    /// there were a second.
    async fn stop(self) -> (Vec<Duration>, usize, f64) {
        self.over.store(true, Ordering::Relaxed);
        let lasted = self.begun.elapsed().as_secs_f64();
        let (mut times, mut refused) = (Vec::new(), 0);
        for one in self.running {
            let (of_one, of_one_refused) = one.await.unwrap();
            times.extend(of_one);
            refused += of_one_refused;
        }
        let rate = times.len() as f64 / lasted;
        (times, refused, rate)
    }
}

/// What was seen of one case, in all its turns.
#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
    refused: usize,
    rate: f64,
    others_rate: f64,
}

async fn tenant(api: &Api, slug: &str, tier: &str) -> String {
    let body = json!({"slug": slug, "tier": tier, "region": "us-east-1"});
    let operation = api.call(Method::POST, "/v1/tenants", Some(body)).await;
    api.finish(operation).await;
    let url = api.call(Method::POST, &format!("/v1/tenants/{slug}/url"), None).await;
    url["url"].as_str().unwrap().to_owned()
}

async fn plan(api: &Api, name: &str, backends: Option<u32>) {
    let plan: Value = json!({"database_connections": null, "database_backends": backends});
    api.call(Method::PUT, &format!("/v1/plans/{name}"), Some(plan)).await;
}

async fn clients(url: &str, count: usize) -> Vec<Arc<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Arc::new(connect(url).await));
    }
    clients
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let lasts = Duration::from_secs(number("INSULA_BENCH_SECONDS", 20) as u64);
    let temporary = insula_testkit::passable_folder();
    let up = Up::start(&temporary.path().join("insula"), PORTS, "none");
    let api = Api::of(&up);
    let files = json!({"files": [{"name": "0001_shop.sql", "sql": SCHEMA}]});
    let rollout = api.call(Method::POST, "/v1/schema/rollouts", Some(files)).await;
    api.finish(rollout).await;
    for name in ["modest", "greedy"] {
        plan(&api, name, None).await;
        let tier = json!({"isolation": "pool", "user_pool": "shared", "plan": name});
        api.call(Method::PUT, &format!("/v1/tiers/{name}"), Some(tier)).await;
    }
    let (modest, greedy) = (tenant(&api, "modest", "modest").await, tenant(&api, "greedy", "greedy").await);
    let (modest, greedy) = (clients(&modest, MODEST).await, clients(&greedy, GREEDY).await);
    for clients in [&modest, &greedy] {
        let rows = format!("insert into orders select n, n from generate_series(1, {ROWS}) n");
        clients[0].batch_execute(&rows).await.unwrap();
    }
    println!(
        "{MODEST} connections of one tenant, which think for {} ms; {GREEDY} of another, which do not\n\n\
         | the other one | transactions/s | p50, ms | p99, ms | of the quiet p99 | refused | the other's transactions/s |\n\
         | --- | --- | --- | --- | --- | --- | --- |",
        THINKS.as_millis()
    );
    let cases: [(&str, Option<Option<u32>>); 4] = [
        ("is quiet", None),
        ("may have 2 backends by its plan", Some(Some(2))),
        ("may have 1 backend by its plan", Some(Some(1))),
        ("has no bound but the cluster's", Some(None)),
    ];
    let mut seen = cases.map(|_| Seen::default());
    for _ in 0..ROUNDS {
        for ((_, noise), seen) in cases.into_iter().zip(&mut seen) {
            if let Some(backends) = noise {
                plan(&api, "greedy", backends).await;
            }
            let loud = noise.map(|_| Load::start(&greedy, Duration::ZERO));
            // Backends that are too many by a new plan go meanwhile.
            tokio::time::sleep(lasts / ROUNDS / 2).await;
            let measured = Load::start(&modest, THINKS);
            tokio::time::sleep(lasts / ROUNDS).await;
            let (times, refused, rate) = measured.stop().await;
            seen.times.extend(times);
            seen.refused += refused;
            seen.rate += rate / f64::from(ROUNDS);
            if let Some(loud) = loud {
                seen.others_rate += loud.stop().await.2 / f64::from(ROUNDS);
            }
        }
    }
    let mut quiet = None;
    for ((what, _), mut seen) in cases.into_iter().zip(seen) {
        seen.times.sort_unstable();
        let (p50, p99) = (milliseconds(&seen.times, 0.5), milliseconds(&seen.times, 0.99));
        let of_quiet = p99 / *quiet.get_or_insert(p99);
        let Seen { rate, refused, others_rate, .. } = seen;
        println!(
            "| {what} | {rate:.0} | {p50:.1} | {p99:.1} | {of_quiet:.2} | {refused} | {others_rate:.0} |"
        );
    }
}
