//! Statements of programs that were written for one tenant, unchanged, in a pool
//! and in a silo: the same keys, the same answers, and each sees its own.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use bytes::Bytes;
use common::World;
use common::programs::{file, psql, python, run};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Two tenants of a pool, and one with a database of its own.
const TENANTS: [(&str, &str); 3] = [("acme", "free"), ("globex", "free"), ("initech", "business")];

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_statements_say_the_same_in_a_pool_and_in_a_silo() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier) in TENANTS {
        world.create(slug, tier, "us-east-1");
    }
    for (slug, _) in TENANTS {
        let said = run(python("python").arg(file("drivers/one_tenant.py")).args([&world.url(slug), slug]));
        let said: Value = serde_json::from_str(&said).unwrap();
        let ada = format!("Ada of {slug}");
        assert_eq!(said["names"], json!([ada, format!("{ada}+"), format!("{ada}++")]), "{slug}");
        assert_eq!(
            said["customers"],
            json!([["ada@example.com", format!("{ada}+++")], ["grace@example.com", "Grace+"]]),
            "{slug}"
        );
        let order = |number| json!([number, "open", true]);
        assert_eq!(said["orders"], json!([order("binary"), order("csv"), order("text")]), "{slug}");
        assert!(["23503", "23505"].contains(&said["failed"].as_str().unwrap()), "{slug}: {said}");
        assert_eq!(said["by_orm"], json!([["ada@example.com", 1], ["grace@example.com", 0]]), "{slug}");
        assert_eq!(said["currency"], "USD", "{slug}");
        assert_eq!(
            said["by_django"],
            json!([[1, "ada@example.com", 1], [2, "grace@example.com", 0]]),
            "{slug}"
        );
        assert_eq!(said["lines"], json!([1, 4]), "{slug}");
        psql_copies(&world, slug);
    }
    world.doctor_is_content();
}

fn psql_copies(world: &World, slug: &str) {
    let rows = world.folder.join("customers.csv");
    std::fs::write(&rows, "500,linus@example.com,Linus\n").unwrap();
    let copy = format!("\\copy customers (id, email, name) from '{}' csv", rows.display());
    run(psql(&world.url(slug)).args(["-c", &copy]));
}

/// Rows with a kilobyte in each.
async fn copy_in(client: &Client, rows: usize) -> u64 {
    let sink = client.copy_in("copy customers (email, name) from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let name = "x".repeat(1000);
    for first in (0..rows).step_by(1000) {
        let lines: String =
            (first..first + 1000).map(|row| format!("row{row}@example.com\t{name}\n")).collect();
        sink.send(Bytes::from(lines)).await.unwrap();
    }
    sink.finish().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_and_copies_have_bounds() {
    const MEGABYTES: usize = 200;
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let client = world.connect("acme").await;
    let before = world.memory_kib();
    assert_eq!(copy_in(&client, MEGABYTES * 1000).await, 200_000);
    let grown = world.memory_kib().saturating_sub(before);
    println!("{MEGABYTES} MB: from {before} KiB by {grown} KiB");
    assert!(grown < 30 * 1024, "{grown} KiB more");
    let count: i64 = client.query_one("select count(*) from customers", &[]).await.unwrap().get(0);
    assert_eq!(count, 200_000);
    // A text that is held is there as it comes in and as it goes out.
    let before = world.memory_kib();
    let name = "x".repeat(15 << 20);
    let upsert = format!(
        "insert into customers (email, name) values ('long@example.com', '{name}') on conflict (lower(email)) do nothing"
    );
    client.batch_execute(&upsert).await.unwrap();
    let grown = world.memory_kib().saturating_sub(before);
    println!("15 MiB: from {before} KiB by {grown} KiB");
    assert!(grown < 64 * 1024, "{grown} KiB more");
}
