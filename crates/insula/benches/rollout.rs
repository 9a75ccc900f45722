//! How long a version takes to reach a fleet of 1,000 tenants (900 in a pool,
//! 80 with schemas, 20 with databases): one added column and one backfill; next
//! to a loop of psql over the same placements in the same run; and how long a
//! rollout takes that has nothing to do. Durable servers, the release binary.
//! `make bench` prints a table for docs/BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{Api, Up};
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

const FLEET: [(&str, usize); 3] = [("free", 900), ("standard", 80), ("business", 20)];
const ROWS: usize = 20;

const FIRST: &str = "create table customers (id bigint generated always as identity primary key, email text not null unique, name text not null);
     create table orders (id bigint generated always as identity primary key, customer_id bigint not null references customers, cents bigint not null);
     create index orders_customer on orders (customer_id);";

fn version(column: &str) -> String {
    format!("alter table customers add column {column} text; update customers set {column} = lower(email);")
}

async fn apply(api: &Api, files: &[(&str, String)]) -> Duration {
    let files: Vec<Value> = files.iter().map(|(name, sql)| json!({"name": name, "sql": sql})).collect();
    let begun = Instant::now();
    let operation = api.call(Method::POST, "/v1/schema/rollouts", Some(json!({"files": files}))).await;
    let operation = api.finish(operation).await;
    assert_eq!(operation["output"], json!([]), "placements failed");
    begun.elapsed()
}

async fn create(api: &Api, slug: String, tier: &str) {
    let body = json!({"slug": slug, "tier": tier, "region": "us-east-1"});
    let operation = api.call(Method::POST, "/v1/tenants", Some(body)).await;
    api.finish(operation).await;
    let url = api.call(Method::POST, &format!("/v1/tenants/{slug}/url"), None).await;
    let (client, connection) =
        tokio_postgres::connect(url["url"].as_str().unwrap(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = format!(
        "insert into customers (email, name) select 'C' || n || '@example.com', 'C' from generate_series(1, {ROWS}) n"
    );
    client.batch_execute(&rows).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

/// One psql after the other, each for one placement.
fn loop_of_psql(server: &str, placements: &[(String, String)], column: &str) -> Duration {
    let begun = Instant::now();
    for (database, schema) in placements {
        let sql = format!("set search_path = {schema}; begin; {} commit", version(column));
        let url = server.rsplit_once('/').unwrap().0;
        let said = Command::new("psql")
            .args([&format!("{url}/{database}"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &sql])
            .output()
            .unwrap();
        assert!(said.status.success(), "{database} {schema}: {}", String::from_utf8_lossy(&said.stderr));
    }
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let temporary = insula_testkit::passable_folder();
    let mut up = Up::start(&temporary.path().join("insula"), 27_600, "none");
    let api = Api::of(&up);
    let mut files = vec![("0001_customers.sql", FIRST.to_owned())];
    apply(&api, &files).await;

    let begun = Instant::now();
    for (tier, count) in FLEET {
        stream::iter(0..count)
            .for_each_concurrent(4, |number| create(&api, format!("{tier}-{number}"), tier))
            .await;
    }
    println!("1,000 tenants created, {ROWS} rows written for each: {:.1} s", begun.elapsed().as_secs_f64());

    files.push(("0002_folded.sql", version("folded")));
    let rollout = apply(&api, &files).await;
    let nothing = apply(&api, &files).await;

    let tenants = api.call(Method::GET, "/v1/tenants?limit=1000", None).await;
    let mut placements: Vec<(String, String)> = tenants["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tenant| {
            assert_eq!(tenant["schema_version"], 2, "{tenant}");
            ["database", "schema"].map(|field| tenant["placement"][field].as_str().unwrap().to_owned()).into()
        })
        .collect();
    placements.sort();
    placements.dedup();
    let clusters = up.ready["clusters"].as_array().unwrap();
    let server = clusters.iter().find(|cluster| cluster["region"] == "us-east-1").unwrap();
    let server = server["superuser_url"].as_str().unwrap();
    let psql = loop_of_psql(server, &placements, "folded_again");

    println!("\n| {} placements of 1,000 tenants | s |\n| --- | --- |", placements.len());
    for (what, took) in [
        ("`insula schema apply`: one column, one backfill, audit", rollout),
        ("a loop of psql over the same placements", psql),
        ("`insula schema apply` with nothing to do", nothing),
    ] {
        println!("| {what} | {:.2} |", took.as_secs_f64());
    }
    up.stop();
}
