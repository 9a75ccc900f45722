//! How long from "create this tenant" to its first row, for the four isolation
//! models with the shop's schema, and how long `insula up` takes on an empty
//! folder. Durable servers, the release binary, the API and the front as a
//! client has them. `make bench` prints a table for docs/BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader

mod common;

use std::time::{Duration, Instant};

use common::{Api, Up};
use serde_json::json;

const RUNS: usize = 20;

/// Creates a tenant and writes its first row; how long that took, and how
/// long until it was there.
async fn create_to_first_row(api: &Api, slug: &str, tier: &str) -> (Duration, Duration) {
    let begun = Instant::now();
    let body = json!({"slug": slug, "tier": tier, "region": "us-east-1"});
    let operation = api.call(reqwest::Method::POST, "/v1/tenants", Some(body)).await;
    api.finish(operation).await;
    let created = begun.elapsed();
    let url = api.call(reqwest::Method::POST, &format!("/v1/tenants/{slug}/url"), None).await;
    let (client, connection) =
        tokio_postgres::connect(url["url"].as_str().unwrap(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client
        .simple_query("insert into customers (email, name) values ('ada@example.com', 'Ada') returning id")
        .await
        .unwrap();
    assert!(!rows.is_empty());
    let first_row = begun.elapsed();
    drop(client);
    connection.await.unwrap().unwrap();
    (first_row, created)
}

async fn delete(api: &Api, slug: &str) {
    let operation = api.call(reqwest::Method::DELETE, &format!("/v1/tenants/{slug}"), None).await;
    api.finish(operation).await;
}

fn milliseconds(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    [times[0], times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64() * 1_000.0)
}

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let temporary = insula_testkit::passable_folder();
    let folder = temporary.path().join("insula");
    let mut up = Up::start(&folder, 27_400, "shop");
    println!("insula up, empty folder, shop demo: ready in {:.2} s", up.took.as_secs_f64());
    let api = Api::of(&up);
    println!(
        "\n| model | to first row, median ms | min | max | of which create, median ms |\n| --- | --- | --- | --- | --- |"
    );
    for (tier, model) in
        [("free", "pool"), ("standard", "schema"), ("business", "database"), ("enterprise", "cluster")]
    {
        let (mut rows, mut creates) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            let slug = format!("{model}-{run}");
            let (row, create) = create_to_first_row(&api, &slug, tier).await;
            rows.push(row);
            creates.push(create);
            delete(&api, &slug).await;
        }
        let [least, median, most] = milliseconds(rows);
        let create = milliseconds(creates)[1];
        println!("| {model} | {median:.0} | {least:.0} | {most:.0} | {create:.0} |");
    }
    println!("\nstopped in {:.2} s", up.stop().as_secs_f64());
    let mut again = Up::start(&folder, 27_400, "shop");
    println!("insula up, folder of before: ready in {:.2} s", again.took.as_secs_f64());
    again.stop();
}
