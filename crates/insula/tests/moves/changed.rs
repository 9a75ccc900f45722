//! What changes in the middle of a move beside it: tables, by hand and by a version
//! that is applied, and rows of the target. Each ends the move, and the tenant stays
//! where it is.

use std::time::{Duration, Instant};

use insula_testkit::TestServer;
use serde_json::Value;
use tokio_postgres::Client;

use crate::common::World;
use crate::place::{banker, is_settled, left_over, moved, moving, ordered, until, world};

/// A transaction that is in the way of a move's slot as long as it is open.
async fn in_the_way(server: &TestServer) -> Client {
    let client = server.connect("postgres").await;
    client.batch_execute("begin; create table in_the_way ()").await.unwrap();
    client
}

/// A move that waits for a transaction that is in its way, and has looked at the
/// tables before.
async fn waiting(world: &World) -> String {
    let said = moving(world, "acme", &["--tier", "business", "--no-wait"]);
    assert!(said.ok, "{}", said.err);
    let begun = Instant::now();
    while !left_over(&world.us).await.iter().any(|left| left.starts_with("publication")) {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", world.log());
    }
    said.json()["id"].as_str().unwrap().to_owned()
}

/// The tenant's tables, for an administrator.
async fn by_hand(world: &World) -> Client {
    let placement = world.tenant("acme")["placement"].clone();
    let client = world.us.connect(placement["database"].as_str().unwrap()).await;
    let path = format!("set search_path = {}", placement["schema"].as_str().unwrap());
    client.batch_execute(&path).await.unwrap();
    client
}

/// Waits for the end of a move that fails.
fn fails_with(world: &World, id: &str, code: &str) {
    until(world, id, |found| !["running", "moved"].contains(&found["status"].as_str().unwrap()));
    let found = world.run(&["move", "show", id, "-o", "json"]).json();
    assert_eq!((&found["status"], &found["error"]["code"]), (&"failed".into(), &code.into()), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_changed_by_hand_end_a_move() {
    let world = world().await;
    banker(&world, "acme", "standard").await;
    let hand = by_hand(&world).await;

    // Before there is a stream: nothing in it tells of the change.
    let blocker = in_the_way(&world.us).await;
    let id = waiting(&world).await;
    hand.batch_execute("alter table accounts add column more int").await.unwrap();
    blocker.batch_execute("rollback").await.unwrap();
    fails_with(&world, &id, "schema_changed");
    hand.batch_execute("alter table accounts drop column more").await.unwrap();
    is_settled(&world, "acme", "schema", "us-east-1").await;

    // Behind a snapshot from which it is copied: the copy may go on for a while.
    let slow = ["--tier", "business", "--copy-rate", "10kB", "--no-wait"];
    let id = moving(&world, "acme", &slow).json()["id"].as_str().unwrap().to_owned();
    until(&world, &id, |found| found["rows"].as_u64().unwrap() > 0);
    let changes = "alter table accounts add column more int; update accounts set more = 1 where id = 1";
    hand.batch_execute(changes).await.unwrap();
    fails_with(&world, &id, "schema_changed");
    hand.batch_execute("alter table accounts drop column more").await.unwrap();
    is_settled(&world, "acme", "schema", "us-east-1").await;

    // Canary: without it, it comes through.
    let found = moved(&world, "acme", &["--tier", "business"]);
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "database", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_differ_are_counted_and_listed_by_key() {
    let world = world().await;
    banker(&world, "acme", "standard").await;
    let slow = ["--tier", "business", "--copy-rate", "10kB", "--no-wait"];
    let id = moving(&world, "acme", &slow).json()["id"].as_str().unwrap().to_owned();
    until(&world, &id, |found| found["rows"].as_u64().unwrap() > 0);
    // The comparison waits for it, with the stream standing still.
    let blocker = in_the_way(&world.us).await;
    until(&world, &id, |found| found["phase"] == "verify");
    let to = world.run(&["move", "show", &id, "-o", "json"]).json()["to"].clone();
    let target = world.us.connect(to["database"].as_str().unwrap()).await;
    let planted = format!(
        "set search_path = {}; set session_replication_role = replica;
         update accounts set balance = balance + 1 where id = 3; delete from accounts where id = 7;
         insert into accounts values (1000, 1, 'planted')",
        to["schema"].as_str().unwrap()
    );
    target.batch_execute(&planted).await.unwrap();
    drop(target);
    blocker.batch_execute("rollback").await.unwrap();
    fails_with(&world, &id, "move_diverged");
    let found = world.run(&["move", "show", &id, "-o", "json"]).json();
    let row = |key: &str, what: &str| serde_json::json!({"table": "accounts", "key": key, "what": what});
    let first =
        [row("id=1000", "only_at_target"), row("id=3", "other_values"), row("id=7", "missing_at_target")];
    let differences = serde_json::json!({"rows": 3, "first": first});
    assert_eq!(found["manifest"]["differences"], differences, "{found}");
    let told = found["error"]["detail"].as_str().unwrap();
    assert!(told.contains("3 rows") && told.contains("accounts id=3 (with other values)"), "{told}");
    is_settled(&world, "acme", "schema", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_applied_in_the_middle_of_a_move_comes_first() {
    let world = world().await;
    banker(&world, "acme", "standard").await;
    let blocker = in_the_way(&world.us).await;
    let id = waiting(&world).await;
    let folder = world.folder.join("schema");
    std::fs::write(folder.join("0002_more.sql"), "alter table accounts add column more int;").unwrap();
    let said = world.run(&["schema", "apply", &folder.display().to_string(), "--no-wait"]);
    assert!(said.ok, "{}", said.err);
    let catalog = world.catalog.connect("insula_catalog").await;
    let published = "select count(*) from schema_versions where version = 2 and published_at is not null";
    let begun = Instant::now();
    while catalog.query_one(published, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", world.log());
        std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
    }
    blocker.batch_execute("rollback").await.unwrap();
    fails_with(&world, &id, "schema_behind");
    // The tenant has waited for the end of the move alone, and has it now.
    let begun = Instant::now();
    let rollout = loop {
        let shown: Value = world.run(&["schema", "rollout", "show", "-o", "json"]).json();
        if !shown["rollout"]["ended_at"].is_null() {
            break shown;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{shown}\n{}", world.log());
        std::thread::sleep(Duration::from_millis(50)); // between two looks, not for an effect
    };
    assert_eq!(rollout["rollout"]["status"], "done", "{rollout}");
    by_hand(&world).await.batch_execute("update accounts set more = 7 where id = 1").await.unwrap();
    let found = moved(&world, "acme", &["--tier", "business"]);
    ordered(&world, "complete", &found, "completed");
    let row = world.connect("acme").await.query_one("select more from accounts where id = 1", &[]).await;
    assert_eq!(row.unwrap().get::<_, i32>(0), 7);
    is_settled(&world, "acme", "database", "us-east-1").await;
}
