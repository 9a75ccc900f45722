//! A tenant of the crash tests: what is written to it while it moves, and what
//! must be there afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::common::World;

/// A client that writes numbers and remembers those that were acknowledged. It
/// connects again where its front has died.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<i64>>,
}

impl Writer {
    pub fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut acknowledged, mut next) = (Vec::new(), 1_000_000_i64);
            while !stopped.load(Ordering::SeqCst) {
                let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await
                else {
                    tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
                    continue;
                };
                let connection = tokio::spawn(connection);
                while !stopped.load(Ordering::SeqCst) {
                    let write = format!(
                        "insert into customers (id, email, name) values ({next}, '{next}@example.com', 'n')"
                    );
                    next += 1;
                    match client.batch_execute(&write).await {
                        Ok(()) => acknowledged.push(next - 1),
                        Err(_) => break,
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await; // the pace of a client
                }
                connection.abort();
            }
            acknowledged
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> Vec<i64> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

/// A tenant with so many rows, whose data may be in any region.
pub async fn tenant(world: &World, slug: &str, tier: &str, count: i64) -> Value {
    let created = ["tenant", "create", slug, "--tier", tier, "--region", "us-east-1"];
    let created = world.run(&[&created[..], &["--residency", "global", "-o", "json"]].concat());
    assert!(created.ok, "{}\n{}", created.err, world.log());
    let rows = format!(
        "insert into customers (id, email, name) select i, i || '@example.com', 'n' from generate_series(1, {count}) i"
    );
    world.connect(slug).await.batch_execute(&rows).await.unwrap();
    created.json()
}

/// The ids that a tenant has, each as often as it has it.
pub async fn ids(world: &World, slug: &str) -> Vec<i64> {
    let client = world.connect(slug).await;
    let rows = client.query("select id from customers order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Every acknowledged write is there, and no row twice. One that was not
/// acknowledged may be there.
pub async fn check_rows(world: &World, slug: &str, acknowledged: &[i64], point: &str) {
    let there = ids(world, slug).await;
    let distinct: BTreeSet<_> = there.iter().copied().collect();
    assert_eq!(distinct.len(), there.len(), "{point}: rows are there twice");
    let lost: Vec<_> = acknowledged.iter().filter(|id| !distinct.contains(id)).collect();
    assert!(lost.is_empty(), "{point}: acknowledged writes are lost: {lost:?}");
}
