//! Moves of a living tenant between all four models, under 16 clients: for each
//! way how long the clients waited longer than they usually do, in the whole of the
//! move, at its commit and in each of its steps, and how long the front says that
//! transactions waited. Then how fast a million rows are copied,
//! next to pg_dump piped into psql, to pgcopydb, and to a binary COPY of the
//! tenant's rows piped from one psql into another and then the key, with the same
//! rows in the same run. Durable servers, the release binary. `make bench` prints tables for
//! docs/BENCHMARKS.md; it fails where a client was told an error, or a row is
//! lost, there twice, or another one.
//!
//! `INSULA_BENCH_ROUNDS` is how often each way is taken (3), `INSULA_BENCH_ROWS`
//! how many rows are copied (1,000,000), `INSULA_BENCH_THINK_MS` how long clients
//! think between two transactions (0).

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader
#![allow(clippy::disallowed_methods)] // what is measured is real time

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Api, Up, connect, milliseconds, number};
use insula_testkit::{BANK, Bank, Books, Hours, Opening, faults, pauses, typical_gap};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PORTS: u16 = 28_200;
const TELLERS: i64 = 16;

/// A walk from pool to pool that takes each of the twelve ways once.
const WALK: [&str; 12] = [
    "schema", "pool", "database", "pool", "cluster", "schema", "database", "schema", "cluster", "database",
    "cluster", "pool",
];

/// What the tenant has that moves under load.
const WORKING: Opening = Opening { accounts: 100, history: 100_000 };

/// How long clients work before the first move, and between two of them.
const QUIET: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(120);

fn tier_of(model: &str) -> &'static str {
    match model {
        "pool" => "free",
        "schema" => "standard",
        "database" => "business",
        _ => "enterprise",
    }
}

struct House {
    up: Up,
    api: Api,
}

impl House {
    async fn start(folder: &Path) -> Self {
        let up = Up::start(folder, PORTS, "none");
        let api = Api::of(&up);
        let house = Self { up, api };
        // Every plan lets all clients in.
        for model in ["pool", "schema", "database", "cluster"] {
            let plan = format!("/v1/plans/{}", tier_of(model));
            house.api.call(Method::PUT, &plan, Some(json!({"database_connections": null}))).await;
        }
        let files = json!({"files": [{"name": "0001_bank.sql", "sql": BANK}]});
        house.post("/v1/schema/rollouts", Some(files)).await;
        house
    }

    /// Sends what begins an operation, and waits for its end.
    async fn post(&self, path: &str, body: Option<Value>) -> Value {
        let operation = self.api.call(Method::POST, path, body).await;
        self.api.finish(operation).await
    }

    async fn open(&self, slug: &str, model: &str, opening: Opening) -> String {
        self.post("/v1/tenants", Some(json!({"slug": slug, "tier": tier_of(model), "region": "us-east-1"})))
            .await;
        let url = self.api.call(Method::POST, &format!("/v1/tenants/{slug}/url"), None).await;
        let url = url["url"].as_str().unwrap().to_owned();
        opening.write(&connect(&url).await).await.unwrap();
        url
    }

    /// Moves a tenant; the move, and its operation.
    async fn moves(&self, slug: &str, model: &str) -> (Value, Value) {
        let body = json!({"tier": tier_of(model), "hold_ms": 1000});
        let operation = self.post(&format!("/v1/tenants/{slug}/moves"), Some(body)).await;
        let id = operation["id"].as_str().unwrap();
        let found = self.api.call(Method::GET, &format!("/v1/moves/{id}"), None).await;
        assert_eq!(found["status"], "moved", "{found}");
        (found, operation)
    }

    async fn completes(&self, found: &Value) {
        self.post(&format!("/v1/moves/{}/complete", found["id"].as_str().unwrap()), None).await;
    }

    /// Where a tenant's rows are, as the superuser's URL, and its schema there with a
    /// dot, and its id.
    async fn place_of(&self, slug: &str) -> (String, (String, String)) {
        let tenant = self.api.call(Method::GET, &format!("/v1/tenants/{slug}"), None).await;
        let placement = &tenant["placement"];
        let clusters = self.up.ready["clusters"].as_array().unwrap();
        let server = clusters.iter().find(|known| known["name"] == placement["cluster"]).unwrap();
        let server = server["superuser_url"].as_str().unwrap().rsplit_once('/').unwrap().0;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let schema = format!("{}.", text(&placement["schema"]));
        (format!("{server}/{}", text(&placement["database"])), (schema, text(&tenant["id"])))
    }

    async fn is_well(&self) {
        let doctor = self.api.call(Method::POST, "/v1/doctor", None).await;
        assert_eq!(doctor["findings"], json!([]));
    }
}

/// What was seen of a way.
#[derive(Default)]
struct Way {
    pauses: Vec<Duration>,
    at_the_commit: Vec<Duration>,
    by_the_front: Vec<f64>,
    tries: u64,
    took: Vec<Duration>,
}

/// Takes every way so often, under load.
async fn pauses_of_all_ways(house: &House, rounds: usize, thinks: Duration) {
    let url = house.open("acme", "pool", WORKING).await;
    let hours = Hours { config: url.parse().unwrap(), tellers: TELLERS, thinks, opening: WORKING };
    let bank = Bank::opens(&hours);
    let opened = OffsetDateTime::now_utc() - bank.open_for();
    let mut ways: BTreeMap<(usize, &str, &str), Way> = BTreeMap::new();
    let (mut quiet_gaps, mut steps) = (Vec::new(), Vec::<(String, Vec<Duration>)>::new());
    for _ in 0..rounds {
        let from = std::iter::once("pool").chain(WALK);
        for (order, (from, to)) in from.zip(WALK).enumerate() {
            let quiet = bank.open_for();
            tokio::time::sleep(QUIET).await; // the clients work meanwhile
            let begun = bank.open_for();
            let (found, operation) = house.moves("acme", to).await;
            let ended = bank.open_for();
            // Those who wait still have ended what they wait for.
            bank.until_each_has_done(5, PATIENCE).await;
            let told = bank.told();
            let way = ways.entry((order, from, to)).or_default();
            way.pauses.extend(pauses(&told, &(quiet..begun), &(begun..ended)));
            let committed = moment(&found, "committed_at") - opened;
            let commit = Duration::try_from(committed).unwrap();
            let steps_taken = operation["steps"].as_array().unwrap().iter();
            for step in steps_taken.filter(|step| step["ended_at"].is_string()) {
                let [from, to] = ["started_at", "ended_at"]
                    .map(|field| Duration::try_from(moment(step, field) - opened).unwrap());
                let name = step["name"].as_str().unwrap();
                let index = steps.iter().position(|(known, _)| known == name).unwrap_or(steps.len());
                if index == steps.len() {
                    steps.push((name.to_owned(), Vec::new()));
                }
                steps[index].1.extend(pauses(&told, &(quiet..begun), &(from..to)));
            }
            way.at_the_commit.extend(pauses(&told, &(quiet..begun), &(commit..commit)));
            way.by_the_front.extend(found["pause_ms"].as_f64());
            way.tries += found["progress"]["cutovers"].as_u64().unwrap_or_default();
            way.took.push(ended - begun);
            quiet_gaps.extend(told.iter().map(|told| typical_gap(told, &(quiet..begun))));
            house.completes(&found).await;
        }
    }
    let told = bank.closes().await;
    let books = Books::read(&connect(&url).await).await.unwrap();
    let faults: Vec<_> = faults(WORKING, &told, &books).iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    house.is_well().await;
    quiet_gaps.sort_unstable();
    let transactions: usize = told.iter().map(|told| told.acknowledged.len()).sum();
    println!(
        "\n{TELLERS} clients, {} rows, {rounds} moves each way, no error; {transactions} transactions were \
         acknowledged and are there. While all is quiet half of the statements end within {:.1} ms of the one before.\n",
        WORKING.history + WORKING.accounts,
        milliseconds(&quiet_gaps, 0.5)
    );
    println!(
        "| way | pause p50, ms | p99 | max | at the commit p50 | p99 | by the front, max | tries | move, median s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let (mut all, mut all_at_the_commit) = (Vec::new(), Vec::new());
    let shown = |pauses: &mut Vec<Duration>, parts: &[f64]| {
        pauses.sort_unstable();
        let figures: Vec<_> =
            parts.iter().map(|part| format!("{:.0}", milliseconds(pauses, *part))).collect();
        figures.join(" | ")
    };
    for ((_, from, to), mut way) in ways {
        way.took.sort_unstable();
        all.extend(way.pauses.clone());
        all_at_the_commit.extend(way.at_the_commit.clone());
        let by_the_front = way.by_the_front.iter().copied().fold(0.0, f64::max);
        let figures = shown(&mut way.pauses, &[0.5, 0.99, 1.0]);
        let at_the_commit = shown(&mut way.at_the_commit, &[0.5, 0.99]);
        let took = milliseconds(&way.took, 0.5) / 1_000.0;
        println!(
            "| {from} → {to} | {figures} | {at_the_commit} | {by_the_front:.0} | {} | {took:.1} |",
            way.tries
        );
    }
    let (figures, at_the_commit) =
        (shown(&mut all, &[0.5, 0.99, 1.0]), shown(&mut all_at_the_commit, &[0.5, 0.99]));
    println!("| all | {figures} | {at_the_commit} | | | |");
    println!("\n| in the step | pause p50, ms | p99 | max |\n| --- | --- | --- | --- |");
    for (name, mut pauses) in steps {
        println!("| {name} | {} |", shown(&mut pauses, &[0.5, 0.99, 1.0]));
    }
}

/// How long the copy of a move took, from the times of its step.
fn copying(operation: &Value) -> Duration {
    let steps = operation["steps"].as_array().unwrap();
    let copy = steps.iter().find(|step| step["name"] == "copy").expect("a move has a step that copies");
    (moment(copy, "ended_at") - moment(copy, "started_at")).try_into().unwrap()
}

/// A time that something has.
fn moment(of: &Value, field: &str) -> OffsetDateTime {
    OffsetDateTime::parse(of[field].as_str().unwrap(), &Rfc3339).unwrap()
}

/// A bank's tables, copied by hand from a schema into an empty database.
fn pipes(source: &str, target: &str, schema: &str, filter: &str) -> String {
    let tables = [
        ("accounts", "id bigint not null, balance bigint not null, about text not null"),
        (
            "journal",
            "id bigint not null, client bigint not null, number bigint not null, debit bigint not null, \
             credit bigint not null, amount bigint not null",
        ),
    ];
    let psql = "psql -X -q -v ON_ERROR_STOP=1";
    let mut lines = Vec::new();
    for (table, columns) in tables {
        let names: Vec<&str> = columns.split(", ").filter_map(|column| column.split(' ').next()).collect();
        let names = names.join(", ");
        lines.extend([
            format!("{psql} '{target}' -c 'create table {table} ({columns})'"),
            format!(
                "{psql} '{source}' -c \"copy (select {names} from {schema}{table}{filter}) to stdout (format binary)\" \
                 | {psql} '{target}' -c 'copy {table} ({names}) from stdin (format binary)'"
            ),
            format!("{psql} '{target}' -c 'alter table {table} add primary key (id)'"),
        ]);
    }
    lines.join(" && ")
}

/// A shell's command line with the database's programs in its path; how long it
/// takes.
fn shell(line: &str, folder: &Path) -> Duration {
    let programs = insula_testkit::installation().bin_dir().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let begun = Instant::now();
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .env("PATH", path)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    took
}

/// Copies the same rows by a move and by the tools.
async fn speed_of_copies(house: &House, rows: i64, folder: &Path) {
    let opening = Opening { accounts: 100, history: rows };
    for number in 1..4 {
        house.open(&format!("neighbour-{number}"), "pool", opening).await;
    }
    house.open("pooled", "pool", opening).await;
    house.open("based", "database", opening).await;
    let (source, own) = house.place_of("based").await;
    let (pool, shared) = house.place_of("pooled").await;
    let server = source.rsplit_once('/').unwrap().0.to_owned();
    let admin = connect(&format!("{server}/postgres")).await;

    println!("\n| {rows} rows | copy, s | rows/s | in all, s |\n| --- | --- | --- | --- |");
    let tell = |what: &str, copied: Duration, all: Duration| {
        let rate = rows as f64 / copied.as_secs_f64();
        println!("| {what} | {:.2} | {rate:.0} | {:.2} |", copied.as_secs_f64(), all.as_secs_f64());
    };
    let of_one = |target: &str| pipes(&source, target, &own.0, "");
    let of_four =
        |target: &str| pipes(&pool, target, &shared.0, &format!(" where tenant_id = '{}'", shared.1));
    for (what, name) in [
        ("pg_dump \\| psql", "bench_dump"),
        ("pgcopydb", "bench_pgcopydb"),
        ("binary COPY, psql \\| psql, and then the keys", "bench_pipe"),
        ("the same of one tenant of four in a pool", "bench_filtered"),
    ] {
        admin.batch_execute(&format!("create database {name} template template0")).await.unwrap();
        let target = format!("{server}/{name}");
        let line = match name {
            "bench_dump" => {
                format!("pg_dump '{source}' | psql -X -q -v ON_ERROR_STOP=1 '{target}' >/dev/null")
            }
            "bench_pipe" => of_one(&target),
            "bench_filtered" => of_four(&target),
            _ => format!(
                "pgcopydb clone --table-jobs 2 --index-jobs 2 --dir '{}' --source '{source}' --target '{target}'",
                folder.join("pgcopydb").display()
            ),
        };
        let took = shell(&line, folder);
        let copied = connect(&target).await.query_one("select count(*) from journal", &[]).await.unwrap();
        assert_eq!(copied.get::<_, i64>(0), rows, "{what}");
        tell(what, took, took);
        admin.batch_execute(&format!("drop database {name}")).await.unwrap();
    }
    for (what, slug, to) in [
        ("a move, database → schema", "based", "schema"),
        ("a move, pool → database, one tenant of four", "pooled", "database"),
    ] {
        let begun = Instant::now();
        let (found, operation) = house.moves(slug, to).await;
        let took = begun.elapsed();
        assert!(found["rows"].as_i64() >= Some(rows), "{found}");
        tell(what, copying(&operation), took);
        house.completes(&found).await;
    }
    house.is_well().await;
}

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let temporary = insula_testkit::passable_folder();
    let mut house = House::start(&temporary.path().join("insula")).await;
    let thinks = Duration::from_millis(number("INSULA_BENCH_THINK_MS", 0) as u64);
    pauses_of_all_ways(&house, number("INSULA_BENCH_ROUNDS", 3), thinks).await;
    let rows = i64::try_from(number("INSULA_BENCH_ROWS", 1_000_000)).unwrap();
    speed_of_copies(&house, rows, temporary.path()).await;
    house.up.stop();
}
