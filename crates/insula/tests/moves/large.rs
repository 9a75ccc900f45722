//! Large transactions that are open while their tenant moves: what is applied of them
//! before their commit is in nobody's way.

use std::time::{Duration, Instant};

use insula_testkit::TestServer;
use tokio_postgres::Client;

use crate::common::World;
use crate::place::{banker, is_settled, moving, ordered, until, world};

/// Accounts from a number on, with so much in them that together they are one and a half
/// times what is applied behind its commit.
fn large(first: u32) -> String {
    format!(
        "insert into accounts select n, 1,
           (select string_agg(md5(n || '/' || part), '') from generate_series(1, 50) as part)
         from generate_series({first}, {first} + 7999) as n"
    )
}

/// What a metric says.
fn told(world: &World, metric: &str) -> Option<String> {
    let metrics = world.http("GET", "/metrics", None, None).unwrap().1;
    metrics.lines().find_map(|line| line.strip_prefix(metric)).map(|value| value.trim().to_owned())
}

/// What is open at the server of a target of transactions that run, and has been for a while.
async fn open_at(server: &Client) -> i64 {
    let open = "select count(*) from pg_stat_activity
                where application_name like 'insula\\_move\\_%' and backend_type = 'client backend'
                  and backend_xid is not null and xact_start < clock_timestamp() - interval '300 milliseconds'";
    server.query_one(open, &[]).await.unwrap().get(0)
}

async fn until_open_at(server: &Client, world: &World) {
    let begun = Instant::now();
    while open_at(server).await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing is applied\n{}", world.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks, not for an effect
    }
}

/// Nobody makes what a stream notes its progress by at this server, as long as it is open.
async fn without_new_origins(server: &TestServer) -> Client {
    let client = server.connect("postgres").await;
    client.batch_execute("begin; lock table pg_replication_origin in share mode").await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_is_made_while_a_large_transaction_is_open() {
    let world = world().await;
    banker(&world, "acme", "standard").await;
    assert!(world.run(&["tenant", "set", "acme", "--residency", "global"]).ok);
    // The step that makes the way back comes no further than to its first act at the source.
    let lock = without_new_origins(&world.us).await;
    let terms = ["--region", "eu-west-1", "--hold", "100ms", "--no-wait"];
    let begun = moving(&world, "acme", &terms).json();
    let id = begun["id"].as_str().unwrap();
    until(&world, id, |found| found["phase"] == "reverse");
    let mut open = world.connect("acme").await;
    let transaction = open.transaction().await.unwrap();
    assert_eq!(transaction.execute(&large(1_001), &[]).await.unwrap(), 8_000);
    let target = world.eu.connect("postgres").await;
    until_open_at(&target, &world).await;
    transaction.commit().await.unwrap();
    let waiting = Instant::now();
    while told(&world, "insula_move_streamed_total ").as_deref() != Some("1") {
        assert!(waiting.elapsed() < Duration::from_secs(120), "{}", world.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks, not for an effect
    }
    assert_eq!(open_at(&target).await, 0);
    let transaction = open.transaction().await.unwrap();
    assert_eq!(transaction.execute(&large(10_001), &[]).await.unwrap(), 8_000);
    until_open_at(&target, &world).await;
    // A slot of the way back waits for whatever is open at the target, and does not wait for this.
    lock.batch_execute("rollback").await.unwrap();
    until(&world, id, |found| found["phase"] == "cutover");
    let seen = "select count(*) from accounts";
    transaction.commit().await.unwrap();
    until(&world, id, |found| found["status"] == "moved" && found["operation_status"] == "succeeded");
    assert_eq!(open.query_one(seen, &[]).await.unwrap().get::<_, i64>(0), 16_020);
    ordered(&world, "complete", &begun, "completed");
    is_settled(&world, "acme", "schema", "eu-west-1").await;
}
