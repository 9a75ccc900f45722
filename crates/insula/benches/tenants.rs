//! Ten thousand tenants in one pool, two thousand connections, a hundred
//! backends: what the front answers when each connection is another tenant's,
//! next to the same connections being one tenant's, in the same run; how long
//! a tenant waits for its first answer that nobody has asked for; and what all of it takes
//! of memory. Durable servers, the release binary. `make bench` prints tables
//! for docs/BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader
#![allow(clippy::disallowed_methods)] // what is measured is real time

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Api, Up, connect, milliseconds, number};
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::json;
use tokio_postgres::Client;

const PORTS: u16 = 27_800;
const ROWS: u64 = 20;

const SCHEMA: &str = "create table customers (id bigint primary key, email text not null unique, name text not null);
     create table orders (id bigint generated always as identity primary key, customer_id bigint not null references customers, cents bigint not null);";

/// What a connection does again and again.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// One row by its key.
    Read,
    /// A transaction of four statements, each waiting for the one before.
    Order,
}

impl Work {
    async fn run(self, client: &Client, customer: u64) -> Result<(), tokio_postgres::Error> {
        let read = format!("select name from customers where id = {customer}");
        match self {
            Self::Read => client.simple_query(&read).await.map(drop),
            Self::Order => {
                client.simple_query("begin").await?;
                client.simple_query(&read).await?;
                let order = format!("insert into orders (customer_id, cents) values ({customer}, 999)");
                client.simple_query(&order).await?;
                client.simple_query("commit").await.map(drop)
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
    refused: usize,
}

/// All connections at it, each thinking for so long between two transactions.
async fn load(clients: &[Arc<Client>], work: Work, thinks: Duration, lasts: Duration) -> (f64, Seen) {
    let over = Arc::new(AtomicBool::new(false));
    let warm_up = lasts / 2;
    let measured_from = Instant::now() + warm_up;
    let each = clients.iter().enumerate().map(|(index, client)| {
        let (client, over) = (Arc::clone(client), Arc::clone(&over));
        tokio::spawn(async move {
            let mut seen = Seen::default();
            // They do not begin all at once.
            tokio::time::sleep(thinks.mul_f64((index % 100) as f64 / 100.0)).await;
            for turn in index as u64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                let done = work.run(&client, turn % ROWS + 1).await;
                if Instant::now() >= measured_from {
                    match done {
                        Ok(()) => seen.times.push(begun.elapsed()),
                        Err(_) => seen.refused += 1,
                    }
                }
                // Who is refused is sent away, and does not come back here.
                if client.is_closed() {
                    break;
                }
                tokio::time::sleep(thinks).await;
            }
            seen
        })
    });
    let running: Vec<_> = each.collect();
    tokio::time::sleep(warm_up + lasts).await;
    over.store(true, Ordering::Relaxed);
    let took = measured_from.elapsed();
    let mut all = Seen::default();
    for one in running {
        let one = one.await.unwrap();
        all.times.extend(one.times);
        all.refused += one.refused;
    }
    all.times.sort_unstable();
    (all.times.len() as f64 / took.as_secs_f64(), all)
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Fleet {
    up: Up,
    api: Api,
}

impl Fleet {
    async fn make(&self, tenants: usize) -> Vec<String> {
        let files = json!({"files": [{"name": "0001_shop.sql", "sql": SCHEMA}]});
        let rollout = self.api.call(Method::POST, "/v1/schema/rollouts", Some(files)).await;
        self.api.finish(rollout).await;
        let plan = json!({"database_connections": null});
        self.api.call(Method::PUT, "/v1/plans/free", Some(plan)).await;
        stream::iter(0..tenants)
            .map(async |number| {
                let body = json!({"slug": format!("t-{number}"), "tier": "free", "region": "us-east-1"});
                let operation = self.api.call(Method::POST, "/v1/tenants", Some(body)).await;
                self.api.finish(operation).await;
            })
            .buffer_unordered(8)
            .collect::<Vec<()>>()
            .await;
        let clusters = self.up.ready["clusters"].as_array().unwrap();
        let server = clusters.iter().find(|cluster| cluster["region"] == "us-east-1").unwrap();
        let server = server["superuser_url"].as_str().unwrap().rsplit_once('/').unwrap().0.to_owned();
        let admin = connect(&format!("{server}/insula_pool")).await;
        let rows = format!(
            "insert into app.customers (id, email, name, tenant_id)
             select n, 'c' || n || '@example.com', 'C', (pg_catalog.substr(rolname, 8))::uuid
             from pg_catalog.pg_roles, generate_series(1, {ROWS}) n where rolname ~ '^tenant_[0-9a-f]{{32}}$'"
        );
        admin.batch_execute(&rows).await.unwrap();
        for sql in ["vacuum analyze", "checkpoint"] {
            admin.batch_execute(sql).await.unwrap();
        }
        (0..tenants).map(|number| format!("t-{number}")).collect()
    }

    async fn url(&self, slug: &str) -> String {
        let url = self.api.call(Method::POST, &format!("/v1/tenants/{slug}/url"), None).await;
        url["url"].as_str().unwrap().to_owned()
    }

    /// So many connections, each to the next of these URLs.
    async fn connect(&self, urls: &[String], count: usize) -> Vec<Arc<Client>> {
        stream::iter(urls.iter().cycle().take(count))
            .map(async |url| Arc::new(connect(url).await))
            .buffer_unordered(8)
            .collect()
            .await
    }

    fn pid(&self) -> u32 {
        self.up.pid()
    }
}

/// The number of backends that the front has opened so far.
async fn opened(fleet: &Fleet) -> f64 {
    let metrics = fleet.api.text("/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("insula_pg_backend_open_seconds_count"));
    line.and_then(|line| line.rsplit(' ').next()).map_or(f64::NAN, |count| count.parse().unwrap())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let (tenants, connections) =
        (number("INSULA_BENCH_TENANTS", 10_000), number("INSULA_BENCH_CONNECTIONS", 2_000));
    let lasts = Duration::from_secs(number("INSULA_BENCH_SECONDS", 20) as u64);
    let temporary = insula_testkit::passable_folder();
    let up = Up::start(&temporary.path().join("insula"), PORTS, "none");
    let api = Api::of(&up);
    let fleet = Fleet { up, api };
    let begun = Instant::now();
    let slugs = fleet.make(tenants).await;
    println!("{tenants} tenants in one pool, made in {:.0} s", begun.elapsed().as_secs_f64());
    println!("process with the front: {} kB resident", resident_kb(fleet.pid()));

    cold(&fleet, &slugs).await;

    // One connection each of as many tenants, spread over all.
    let step = (tenants / connections).max(1);
    let urls: Vec<String> = stream::iter(slugs.iter().step_by(step).take(connections))
        .map(async |slug| fleet.url(slug).await)
        .buffered(8)
        .collect()
        .await;
    println!(
        "\n| {connections} connections | work | thinks, ms | transactions/s | p50, ms | p99, ms | most, ms | refused | backends opened/s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut rates = Vec::new();
    for (of, urls) in [("one tenant", &urls[..1]), ("a tenant each", &urls[..])] {
        let before = resident_kb(fleet.pid());
        let clients = fleet.connect(urls, connections).await;
        for (work, thinks) in [(Work::Read, 0), (Work::Order, 0), (Work::Read, 10_000)] {
            let (at, opened_before) = (Instant::now(), opened(&fleet).await);
            let (rate, seen) = load(&clients, work, Duration::from_millis(thinks), lasts).await;
            let opened = (opened(&fleet).await - opened_before) / at.elapsed().as_secs_f64();
            println!(
                "| {of} | {work:?} | {thinks} | {rate:.0} | {:.1} | {:.1} | {:.1} | {} | {opened:.0} |",
                milliseconds(&seen.times, 0.5),
                milliseconds(&seen.times, 0.99),
                milliseconds(&seen.times, 1.0),
                seen.refused,
            );
            rates.push(rate);
        }
        let resident = resident_kb(fleet.pid());
        println!("process with the front: {before} kB before the connections, {resident} kB with them");
    }
    println!(
        "\na tenant each in parts of one tenant: read {:.2}, order {:.2}",
        rates[3] / rates[0],
        rates[4] / rates[1]
    );
}

/// The first answers of tenants that have no backend.
async fn cold(fleet: &Fleet, slugs: &[String]) {
    let (mut connected, mut answered, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for slug in slugs.iter().step_by((slugs.len() / 300).max(1)) {
        let url = fleet.url(slug).await;
        let begun = Instant::now();
        let client = connect(&url).await;
        connected.push(begun.elapsed());
        Work::Read.run(&client, 1).await.unwrap();
        answered.push(begun.elapsed());
        let begun = Instant::now();
        Work::Read.run(&client, 1).await.unwrap();
        warm.push(begun.elapsed());
    }
    println!(
        "\n| of {} tenants without a backend, one after the other | p50, ms | p99, ms |\n| --- | --- | --- |",
        connected.len()
    );
    for (what, mut times) in [
        ("connected and authenticated", connected),
        ("and has its first answer", answered),
        ("the second answer", warm),
    ] {
        times.sort_unstable();
        println!("| {what} | {:.1} | {:.1} |", milliseconds(&times, 0.5), milliseconds(&times, 0.99));
    }
}
